/* SPDX-License-Identifier: Apache-2.0 */
/* The lock, the baton and the fork check: what every other file of this folder stands on. */
#include "region/context.h"

#include "base/error.h"
#include "base/os.h"

bool usk_context_is_forked(const struct unstick_context *ctx)
{
    return usk_os_is_forked(ctx->pid);
}

int usk_context_fail_forked(struct unstick_error *error)
{
    return usk_error_set(error, UNSTICK_FORKED, 0, "fork",
                         "this context belongs to the parent process; make a new one in the child");
}

void usk_context_lock(struct unstick_context *ctx)
{
    pthread_mutex_lock(&ctx->lock);
}

void usk_context_unlock(struct unstick_context *ctx)
{
    pthread_mutex_unlock(&ctx->lock);
}

void usk_baton_take(struct unstick_context *ctx)
{
    usk_context_lock(ctx);
    while (ctx->is_baton_taken)
        pthread_cond_wait(&ctx->baton_is_free, &ctx->lock);
    ctx->is_baton_taken = true;
    usk_context_unlock(ctx);
}

bool usk_baton_try(struct unstick_context *ctx)
{
    bool is_taken;

    usk_context_lock(ctx);
    is_taken = !ctx->is_baton_taken;
    ctx->is_baton_taken = true;
    usk_context_unlock(ctx);
    return is_taken;
}

void usk_baton_give(struct unstick_context *ctx)
{
    usk_context_lock(ctx);
    ctx->is_baton_taken = false;
    pthread_cond_signal(&ctx->baton_is_free);
    usk_context_unlock(ctx);
}

void usk_context_wake(struct unstick_context *ctx)
{
    usk_os_event_signal(ctx->event_fd);
}
