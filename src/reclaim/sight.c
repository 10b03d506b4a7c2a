/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Telling own from others' changes. Free memory that rose is no proof that a step worked: another process may have
 * ended; free memory that fell is no proof that it failed: another may have taken what was freed. So what others hold
 * is compared between the same two readings and kept apart. The list of processes says it directly; where there is none
 * (WSL2, vGPU, containers), torch's reserved memory and our accounts say what this process holds, and the rest of the
 * change is not ours. With neither, nothing is told apart, and that is said.
 */
#include "policy/attribution.h"
#include "reclaim/reclaim.h"

void usk_reclaim_sight_read(struct usk_reclaim_sight *sight, const struct unstick_reading *reading)
{
    *sight = (struct usk_reclaim_sight) {
        .sources = reading->sources,
        .available_bytes = usk_reading_available(reading),
        .free_bytes = reading->free_bytes,
        .room_bytes = usk_reading_room(reading),
        .ours_bytes = usk_reading_ours(reading),
    };
    if (reading->sources & UNSTICK_SOURCE_ACCOUNTS)
        sight->resident_bytes = reading->resident_bytes;
    if (reading->sources & UNSTICK_SOURCE_TORCH) {
        sight->torch_allocated_bytes = reading->torch_allocated_bytes;
        sight->torch_active_bytes = reading->torch_active_bytes;
        sight->torch_reserved_bytes = reading->torch_reserved_bytes;
        sight->torch_cached_bytes = usk_reading_torch_cached(reading);
        sight->torch_pinned_bytes = reading->torch_inactive_split_bytes;
    }
    sight->are_others_known = usk_reading_others(reading, &sight->others_bytes);
}

bool usk_reclaim_sight_compare(const struct usk_reclaim_sight *before, const struct usk_reclaim_sight *after,
                               int64_t *ret_freed_bytes, int64_t *ret_others_bytes)
{
    int64_t change = usk_bytes_difference(after->free_bytes, before->free_bytes);
    bool have_torch = before->sources & after->sources & UNSTICK_SOURCE_TORCH;
    bool have_accounts = before->sources & after->sources & UNSTICK_SOURCE_ACCOUNTS;

    if (before->are_others_known && after->are_others_known) {
        *ret_others_bytes = usk_bytes_difference(before->others_bytes, after->others_bytes);
        *ret_freed_bytes = usk_bytes_sum_signed(change, -*ret_others_bytes);
        return true;
    }
    *ret_freed_bytes = change;
    *ret_others_bytes = 0;
    if (!have_torch)
        return false;
    *ret_freed_bytes = usk_bytes_difference(before->torch_reserved_bytes, after->torch_reserved_bytes);
    if (have_accounts)
        *ret_freed_bytes =
            usk_bytes_sum_signed(*ret_freed_bytes, usk_bytes_difference(before->ours_bytes, after->ours_bytes));
    *ret_others_bytes = usk_bytes_sum_signed(change, *ret_freed_bytes == INT64_MIN ? INT64_MAX : -*ret_freed_bytes);
    return true;
}

bool usk_reclaim_sight_can_yield(const struct usk_reclaim_sight *sight, enum usk_reclaim_default_round round,
                                 unsigned int flags)
{
    /* What is not known is not nothing: without torch's statistics each is worth one try. */
    bool is_known = sight->sources & UNSTICK_SOURCE_TORCH;

    switch (round) {
    case USK_DEFAULT_STANDARD:
        return !is_known || sight->torch_cached_bytes;
    case USK_DEFAULT_SYNCHRONIZED:
        /* Blocks that were freed while a stream still used them stay active until its event has passed. */
        return !is_known || sight->torch_active_bytes > sight->torch_allocated_bytes;
    case USK_DEFAULT_COLLECTED:
        return !is_known || sight->torch_active_bytes;
    case USK_DEFAULT_IPC:
        return flags & UNSTICK_RECLAIM_HAS_IPC;
    case USK_DEFAULT_WORKSPACES:
        return !is_known || sight->torch_active_bytes || sight->torch_pinned_bytes;
    case USK_N_DEFAULT_ROUNDS:
        break;
    }
    return false;
}

bool usk_reclaim_sight_has_same_torch(const struct usk_reclaim_sight *a, const struct usk_reclaim_sight *b)
{
    return a->torch_allocated_bytes == b->torch_allocated_bytes && a->torch_active_bytes == b->torch_active_bytes &&
           a->torch_reserved_bytes == b->torch_reserved_bytes && a->torch_pinned_bytes == b->torch_pinned_bytes;
}
