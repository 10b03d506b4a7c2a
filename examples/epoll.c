/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The same inside somebody else's event loop: a program that must answer every few milliseconds while a model leaves
 * the device and comes back. The loop waits for the context's descriptor and for its own timer; nothing blocks. At the
 * end it says how many ticks the timer missed, and how long the longest step of unstick was.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <unstick/unstick.h>

#define BYTES (UINT64_C(128) << 20)
#define TICK_NS 1000000

struct loop {
    struct unstick_context *ctx;
    int epoll_fd;
    int timer_fd;
    uint64_t n_ticks;  /* times that the timer got its turn */
    uint64_t n_missed; /* ticks that it should have had meanwhile */
};

static int loop_watch(struct loop *loop, int fd)
{
    struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };

    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static int loop_init(struct loop *loop, struct unstick_context *ctx)
{
    struct itimerspec tick = { .it_interval.tv_nsec = TICK_NS, .it_value.tv_nsec = TICK_NS };

    loop->ctx = ctx;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (loop->epoll_fd < 0 || loop->timer_fd < 0 || timerfd_settime(loop->timer_fd, 0, &tick, NULL) < 0)
        return -1;
    return loop_watch(loop, loop->timer_fd) < 0 ? -1 : loop_watch(loop, unstick_context_fd(ctx));
}

/* One turn: wait for whatever comes first, then let everybody do their bounded bit. */
static void loop_turn(struct loop *loop)
{
    struct epoll_event events[2];
    int n = epoll_wait(loop->epoll_fd, events, 2, unstick_context_timeout_ms(loop->ctx));
    uint64_t n_expired;

    for (int i = 0; i < n; i++) {
        if (events[i].data.fd == loop->timer_fd && read(loop->timer_fd, &n_expired, sizeof(n_expired)) > 0) {
            loop->n_ticks++;
            loop->n_missed += n_expired - 1;
        }
    }
    unstick_context_step(loop->ctx, 0);
}

/* Turns the loop until the task that was submitted with `status` has ended. */
static int loop_finish(struct loop *loop, int status, struct unstick_task **task, const char *what)
{
    struct unstick_task_result result = { .size = sizeof(result) };
    uint64_t n_before = loop->n_ticks;

    if (status < 0)
        return status;
    while ((status = unstick_task_result(*task, &result)) == UNSTICK_PENDING)
        loop_turn(loop);
    if (status < 0)
        fprintf(stderr, "epoll: not %s: %s\n", what, result.error.text);
    else
        printf("%-8s %4" PRIu64 " MiB in %3" PRIu64 " ms, timer ran %" PRIu64 " times\n", what, result.done_bytes >> 20,
               (result.ended_ns - result.started_ns) / 1000000, loop->n_ticks - n_before);
    *task = unstick_task_free(*task);
    return status;
}

int main(int argc, char **argv)
{
    struct unstick_error error = { .text = "" };
    struct unstick_context_info info = { .size = sizeof(info) };
    struct loop loop = { .epoll_fd = -1, .timer_fd = -1 };
    struct unstick_context *ctx = NULL;
    struct unstick_device *dev = NULL;
    struct unstick_region *region = NULL;
    struct unstick_task *task = NULL;
    char text[8] = "";
    int r;

    if ((r = unstick_context_new(NULL, &ctx, &error)) < 0 ||
        (r = unstick_device_open(ctx, argc > 1 ? argv[1] : "host:256MiB", NULL, &dev, &error)) < 0 ||
        (r = unstick_region_new(dev, "weights", BYTES, NULL, &region, &error)) < 0)
        goto out;
    if (loop_init(&loop, ctx) < 0) {
        r = UNSTICK_IO;
        goto out;
    }
    if ((r = loop_finish(&loop, unstick_region_restore(region, NULL, &task, &error), &task, "zeroed")) < 0 ||
        (r = unstick_region_write(region, BYTES / 2, "unstick", 8, &error)) < 0 ||
        (r = loop_finish(&loop, unstick_region_evict(region, NULL, &task, &error), &task, "evicted")) < 0 ||
        (r = loop_finish(&loop, unstick_region_restore(region, NULL, &task, &error), &task, "restored")) < 0)
        goto out;

    r = unstick_region_read(region, BYTES / 2, text, sizeof(text), &error);
    if (r == UNSTICK_OK && memcmp(text, "unstick", sizeof(text)) != 0)
        r = UNSTICK_MISMATCH;
    if (r == UNSTICK_OK && unstick_context_info(ctx, &info) == UNSTICK_OK)
        printf("\"%s\" came back; longest step %" PRIu64 " us, timer missed %" PRIu64 " of %" PRIu64 " ticks\n", text,
               info.longest_step_ns / 1000, loop.n_missed, loop.n_missed + loop.n_ticks);
out:
    if (r < 0)
        fprintf(stderr, "epoll: %s: %s\n", unstick_status_text(r), error.text);
    if (loop.timer_fd >= 0)
        close(loop.timer_fd);
    if (loop.epoll_fd >= 0)
        close(loop.epoll_fd);
    unstick_region_unref(region);
    if (dev)
        unstick_device_close(dev, NULL);
    unstick_context_free(ctx);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
