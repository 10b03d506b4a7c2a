/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a user is told when a request fails: what was asked, what there was, who holds the rest, what was tried and what
 * each try gave, what to do. The figures are those of the decision that refused, so that text and fields cannot
 * disagree.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "base/text.h"
#include "cache/request.h"

static int failure_status(const struct unstick_request *request)
{
    uint64_t max_ms = request->demand.max_wait_ms;
    /* Else it is there with other settings, and in use. */
    bool is_short = request->plan.short_bytes;

    if (request->has_waited && max_ms && max_ms != UNSTICK_CACHE_NO_WAIT)
        return UNSTICK_TIMED_OUT;
    return is_short ? UNSTICK_OUT_OF_DEVICE_MEMORY : UNSTICK_BUSY;
}

int usk_failure_refuse(struct unstick_request *request)
{
    int status = failure_status(request);

    usk_error_set(&request->error, status, 0, "unstick_cache_request", "%s%s", request->plan.reason,
                  usk_request_may_wait(request) || !request->plan.leased_bytes ||
                          request->demand.max_wait_ms == UNSTICK_CACHE_NO_WAIT
                      ? ""
                      : "; its caller holds a lease itself and so does not wait");
    usk_error_shortage(&request->error, request->plan.required_bytes, request->plan.available_bytes);
    return status;
}

static void failure_add_holders(struct usk_text *text, const struct unstick_request *request)
{
    struct unstick_attribution attribution = { .size = sizeof(attribution) };

    if (request->view.reading.sources && unstick_attribute(&request->view.reading, &attribution) == UNSTICK_OK)
        usk_text_add(text, "\nheld: %s", attribution.text);
}

static void failure_add_steps(struct usk_text *text, const struct unstick_request *request)
{
    if (request->has_reclaimed && !request->n_steps)
        usk_text_add(text, "\ntried: nothing, since nothing is left that could give memory back");
    for (size_t i = 0; i < request->n_steps; i++) {
        const struct unstick_reclaim_step *step = &request->steps[i];
        char size[USK_SIZE_TEXT_MAX];
        uint64_t bytes = (uint64_t)(step->freed_bytes < 0 ? -step->freed_bytes : step->freed_bytes);

        usk_text_add(text, "%s%s %s%s", i ? ", " : "\ntried: ", step->name, step->freed_bytes < 0 ? "took " : "gave ",
                     usk_size_format(size, bytes));
    }
}

void usk_failure_explain(struct unstick_request *request)
{
    const char *key = request->entry->key;
    bool is_named = !strncmp(request->error.text, key, strlen(key)); /* a plan's reason begins with it */
    struct usk_text text;

    usk_text_init(&text, request->text, sizeof(request->text));
    usk_text_add(&text, "%s%s%s", is_named ? "" : key, is_named ? "" : ": ", request->error.text);
    if (request->failure != UNSTICK_OUT_OF_DEVICE_MEMORY && request->failure != UNSTICK_TIMED_OUT)
        return;
    failure_add_holders(&text, request);
    failure_add_steps(&text, request);
    for (size_t i = 0; i < request->plan.n_suggestions; i++)
        usk_text_add(&text, "%s%s", i ? "; " : "\nto do: ", request->plan.suggestions[i].text);
}
