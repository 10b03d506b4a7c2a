/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The budget is what keeps a machine alive: pinned memory cannot be swapped, and a process that takes too
 * much of it is not refused but killed. So every byte is reserved before it is mapped and returned after it
 * is unmapped, and the sum of all reservations never passes the limit, not even for a moment: the sum is one
 * atomic that is raised by compare and exchange. The counters per kind tell what the sum is made of; they
 * follow it.
 *
 * The automatic limit is what is available now less a reserve for everybody else: a tenth, at least 1 GiB,
 * but never more than half, so that small machines can work at all. A limit that was asked for is taken at
 * its word, up to what the machine has; the check before each mapping then turns a shortage into an error.
 */
#include "store/budget.h"

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "base/size.h"

#define BUDGET_RESERVE_MIN_BYTES (UINT64_C(1) << 30)

static uint64_t budget_available(const struct usk_os_memory *memory)
{
    uint64_t left = UINT64_MAX;

    if (memory->cgroup_limit_bytes != UINT64_MAX)
        left = memory->cgroup_limit_bytes - usk_min(memory->cgroup_limit_bytes, memory->cgroup_used_bytes);
    return usk_min(memory->available_bytes, left);
}

uint64_t usk_budget_limit(const struct usk_os_memory *memory, uint64_t requested_bytes)
{
    uint64_t available_bytes = budget_available(memory);
    uint64_t reserve_bytes = usk_max(BUDGET_RESERVE_MIN_BYTES, available_bytes / 10);

    if (requested_bytes)
        return usk_min(requested_bytes, usk_min(memory->total_bytes, memory->cgroup_limit_bytes));
    return available_bytes - usk_min(reserve_bytes, available_bytes / 2);
}

int usk_budget_init(struct usk_budget *budget, uint64_t requested_bytes, struct unstick_error *error)
{
    struct usk_os_memory memory;
    int r;

    r = usk_os_memory(&memory, error);
    if (r < 0)
        return r;
    *budget = (struct usk_budget){ .limit_bytes = usk_budget_limit(&memory, requested_bytes) };
    return UNSTICK_OK;
}

atomic_uint_least64_t *usk_budget_counter(struct usk_budget *budget, enum usk_budget_kind kind)
{
    switch (kind) {
    case USK_BUDGET_PINNED:
        return &budget->pinned_bytes;
    case USK_BUDGET_PAGEABLE:
        return &budget->pageable_bytes;
    case USK_BUDGET_RING:
        return &budget->ring_bytes;
    case USK_BUDGET_FILE:
    case USK_N_BUDGET_KINDS:
        break;
    }
    return &budget->file_bytes;
}

static int budget_refuse(const struct usk_budget *budget, uint64_t bytes, uint64_t left_bytes,
                         struct unstick_error *error)
{
    char asked[USK_SIZE_TEXT_MAX], left[USK_SIZE_TEXT_MAX], limit[USK_SIZE_TEXT_MAX];

    usk_error_set(error, UNSTICK_HOST_BUDGET, 0, "host budget",
                  "%s of host memory asked for, %s of the limit of %s left: raise --host-memory / host_bytes, or use "
                  "the file tier",
                  usk_size_format(asked, bytes), usk_size_format(left, left_bytes),
                  usk_size_format(limit, budget->limit_bytes));
    usk_error_shortage(error, bytes, left_bytes);
    return UNSTICK_HOST_BUDGET;
}

int usk_budget_reserve(struct usk_budget *budget, enum usk_budget_kind kind, uint64_t bytes,
                       struct unstick_error *error)
{
    uint64_t reserved = atomic_load(&budget->reserved_bytes);

    if (kind != USK_BUDGET_FILE) {
        do {
            /* reserved is never above the limit, so this does not wrap. */
            if (bytes > budget->limit_bytes - reserved)
                return budget_refuse(budget, bytes, budget->limit_bytes - reserved, error);
        } while (!atomic_compare_exchange_weak(&budget->reserved_bytes, &reserved, reserved + bytes));
    }
    atomic_fetch_add(usk_budget_counter(budget, kind), bytes);
    return UNSTICK_OK;
}

void usk_budget_return(struct usk_budget *budget, enum usk_budget_kind kind, uint64_t bytes)
{
    atomic_fetch_sub(usk_budget_counter(budget, kind), bytes);
    if (kind != USK_BUDGET_FILE)
        atomic_fetch_sub(&budget->reserved_bytes, bytes);
}

void usk_budget_move(struct usk_budget *budget, enum usk_budget_kind from, enum usk_budget_kind to, uint64_t bytes)
{
    /* Down first: a reader may miss the bytes, but never sees more than there are. */
    atomic_fetch_sub(usk_budget_counter(budget, from), bytes);
    atomic_fetch_add(usk_budget_counter(budget, to), bytes);
}

bool usk_budget_will_fit(struct usk_budget *budget, enum usk_budget_kind kind, uint64_t bytes)
{
    /* In this order: what leaves in between counts twice, and the caller asks again; the other way round it would count
     * as staying, and be refused for good. */
    uint64_t leaving = atomic_load(&budget->leaving_bytes) +
                       (kind == USK_BUDGET_RING ? 0 : atomic_load(&budget->ring_bytes));
    uint64_t reserved = atomic_load(&budget->reserved_bytes);

    return bytes <= budget->limit_bytes - (reserved - usk_min(reserved, leaving));
}

int usk_budget_check_machine(uint64_t bytes, struct unstick_error *error)
{
    char asked[USK_SIZE_TEXT_MAX], left[USK_SIZE_TEXT_MAX];
    struct usk_os_memory memory;
    uint64_t available_bytes;
    int r;

    r = usk_os_memory(&memory, error);
    if (r < 0)
        return r;
    available_bytes = budget_available(&memory);
    if (bytes <= available_bytes)
        return UNSTICK_OK;
    usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "host memory",
                  "%s of host memory asked for, the machine has %s left: end other programs, or use the file tier",
                  usk_size_format(asked, bytes), usk_size_format(left, available_bytes));
    usk_error_shortage(error, bytes, available_bytes);
    return UNSTICK_OUT_OF_HOST_MEMORY;
}
