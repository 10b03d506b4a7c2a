/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conserves bytes: an action only moves them from one of torch's states to another or back to the driver, so a machine
 * that adds up wrongly cannot agree with it.
 */
#include "reclaim/test_host.h"

#include "base/math.h"
#include "policy/attribution.h"

#define NS_PER_MS UINT64_C(1000000)

void test_host_init(struct test_host *host)
{
    *host = (struct test_host) {
        .now_ns = UINT64_C(123456789012345),
        .total_bytes = UINT64_C(24) << 30,
        .context_bytes = UINT64_C(512) << 20,
        .sources = UNSTICK_SOURCE_DRIVER | UNSTICK_SOURCE_ACCOUNTS | UNSTICK_SOURCE_TORCH | UNSTICK_SOURCE_PROCESSES |
                   UNSTICK_SOURCE_CONTEXT,
        .report = { .size = sizeof(host->report) },
        .process = { .pid = 4711, .name = "ollama" },
    };
}

void test_host_at(struct test_host *host, uint64_t at_ms, enum test_event_kind kind, int64_t bytes)
{
    host->events[host->n_events++] = (struct test_event) { .at_ms = at_ms, .kind = kind, .bytes = bytes };
}

static uint64_t host_active_bytes(const struct test_host *host)
{
    return host->referenced_bytes + host->cyclic_bytes + host->hooked_bytes + host->streamed_bytes + host->ipc_bytes +
           host->workspace_bytes;
}

static uint64_t host_reserved_bytes(const struct test_host *host)
{
    return host_active_bytes(host) + host->pinned_bytes + host->cached_bytes;
}

uint64_t test_host_free_bytes(const struct test_host *host)
{
    return host->total_bytes - host->context_bytes - host_reserved_bytes(host) - host->resident_bytes -
           host->others_bytes;
}

void test_host_read(struct test_host *host, struct unstick_reading *reading)
{
    host->process.bytes = host->others_bytes;
    *reading = (struct unstick_reading) {
        .size = sizeof(*reading),
        .sources = host->sources,
        .taken_ns = host->now_ns,
        .total_bytes = host->total_bytes,
        .free_bytes = test_host_free_bytes(host),
        .resident_bytes = host->resident_bytes,
        .limit_bytes = host->limit_bytes,
        .torch_allocated_bytes = host_active_bytes(host) - host->streamed_bytes,
        .torch_active_bytes = host_active_bytes(host),
        .torch_reserved_bytes = host_reserved_bytes(host),
        .torch_inactive_split_bytes = host->pinned_bytes,
        .context_bytes = host->context_bytes,
        .processes = &host->process,
        .n_processes = host->others_bytes != 0,
    };
}

static uint64_t take(uint64_t *from, uint64_t bytes)
{
    uint64_t taken = usk_min(*from, bytes);

    *from -= taken;
    return taken;
}

static void host_happen(struct test_host *host, const struct test_event *event, struct unstick_reclaim *machine)
{
    switch (event->kind) {
    case TEST_RELEASE:
        take(&host->referenced_bytes, (uint64_t)event->bytes);
        break;
    case TEST_LET_GO:
        host->cached_bytes += take(&host->referenced_bytes, (uint64_t)event->bytes);
        break;
    case TEST_ORPHAN:
        host->cyclic_bytes += take(&host->referenced_bytes, (uint64_t)event->bytes);
        break;
    case TEST_OTHERS:
        if (event->bytes < 0)
            take(&host->others_bytes, (uint64_t)-event->bytes);
        else
            host->others_bytes += usk_min(test_host_free_bytes(host), (uint64_t)event->bytes);
        break;
    case TEST_LEASES:
        host->report.n_leased = (uint32_t)event->bytes;
        break;
    case TEST_PENDING:
        host->report.pending = (unsigned int)event->bytes;
        break;
    case TEST_CACHE:
        host->report.is_cache_empty = event->bytes;
        break;
    case TEST_CANCEL:
        unstick_reclaim_cancel(machine);
        break;
    case TEST_LOSE:
        host->is_lost = true;
        break;
    }
}

/* Lets time pass up to the end of an action, with what happens meanwhile. */
static void host_pass(struct test_host *host, uint64_t start_ns, uint64_t ms, struct unstick_reclaim *machine)
{
    host->now_ns += ms * NS_PER_MS;
    for (size_t i = 0; i < host->n_events; i++) {
        struct test_event *event = &host->events[i];

        if (event->at_ms != UINT64_MAX && start_ns + event->at_ms * NS_PER_MS <= host->now_ns) {
            host_happen(host, event, machine);
            event->at_ms = UINT64_MAX;
        }
    }
}

static void host_act(struct test_host *host, enum unstick_action_kind kind)
{
    switch (kind) {
    case UNSTICK_ACTION_EMPTY_CACHE:
        host->cached_bytes = 0;
        break;
    case UNSTICK_ACTION_COLLECT:
        host->cached_bytes += take(&host->cyclic_bytes, UINT64_MAX);
        break;
    case UNSTICK_ACTION_SYNCHRONIZE:
        host->cached_bytes += take(&host->streamed_bytes, UINT64_MAX);
        break;
    case UNSTICK_ACTION_IPC_COLLECT:
        host->cached_bytes += take(&host->ipc_bytes, UINT64_MAX);
        break;
    case UNSTICK_ACTION_CLEAR_WORKSPACES:
        host->cached_bytes += take(&host->workspace_bytes, UINT64_MAX) + take(&host->pinned_bytes, UINT64_MAX);
        break;
    case UNSTICK_ACTION_DETACH_HOOKS:
        host->cyclic_bytes += take(&host->hooked_bytes, UINT64_MAX);
        break;
    case UNSTICK_ACTION_DONE:
    case UNSTICK_ACTION_MEASURE:
    case UNSTICK_ACTION_SLEEP:
    case UNSTICK_ACTION_RESET_STATS:
        break;
    }
}

static void host_note(struct test_host *host, const struct unstick_reading *reading)
{
    if (!host->n_readings++)
        host->first_free_bytes = reading->free_bytes;
    host->last_free_bytes = reading->free_bytes;
    host->n_enough += usk_reading_available(reading) >= host->target_bytes;
}

bool test_host_run(struct test_host *host, struct unstick_reclaim *machine)
{
    struct unstick_reclaim_action action = { .size = sizeof(action) };
    const struct unstick_reading *handed = NULL;
    struct unstick_reading reading;
    uint64_t start_ns = host->now_ns;
    int r;

    while ((r = unstick_reclaim_next(machine, handed, &host->report, host->now_ns, &action)) == UNSTICK_PENDING) {
        uint64_t ms = host->action_ms;
        bool has_failed = host->fails & UNSTICK_ACTION_BIT(action.kind);

        if (host->n_trace == TEST_TRACE_MAX)
            return false;
        host->trace_ms[host->n_trace] = (host->now_ns - start_ns) / NS_PER_MS;
        host->trace_leased[host->n_trace] = host->report.n_leased;
        host->trace[host->n_trace++] = action;
        if (action.kind == UNSTICK_ACTION_SLEEP) {
            ms = host->is_clock_frozen ? 0 : action.sleep_ms;
            host->slept_ms += action.sleep_ms;
        }
        host->report.n_collected = action.kind == UNSTICK_ACTION_COLLECT ? host->cyclic_bytes >> 20 : 0;
        host->report.status = has_failed ? host->fails_with : UNSTICK_OK;
        if (!has_failed)
            host_act(host, action.kind);
        host_pass(host, start_ns, ms, machine);
        handed = NULL;
        if (action.kind == UNSTICK_ACTION_MEASURE) {
            test_host_read(host, &reading);
            handed = host->is_lost ? NULL : &reading;
            if (host->is_lost)
                host->report.status = UNSTICK_DEVICE_LOST;
            else
                host_note(host, &reading);
        }
    }
    return r == UNSTICK_OK && action.kind == UNSTICK_ACTION_DONE;
}

size_t test_host_count(const struct test_host *host, enum unstick_action_kind kind)
{
    size_t n = 0;

    for (size_t i = 0; i < host->n_trace; i++)
        n += host->trace[i].kind == kind;
    return n;
}
