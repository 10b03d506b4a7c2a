/* SPDX-License-Identifier: Apache-2.0 */
/* The C structs that describe something, as dicts with the same names: what a field means stands in the C headers. */
#include "module.h"

const char *py_info_state_name(int state)
{
    static const char *const names[] = { "empty", "resident", "evicted", "partial", "revoked", "poisoned" };

    return state >= 0 && state < (int)(sizeof(names) / sizeof(*names)) ? names[state] : "unknown";
}

static const char *info_tier_name(enum unstick_tier tier)
{
    switch (tier) {
    case UNSTICK_TIER_AUTO:
        return "auto";
    case UNSTICK_TIER_PINNED:
        return "pinned";
    case UNSTICK_TIER_PAGEABLE:
        return "pageable";
    case UNSTICK_TIER_FILE:
        return "file";
    }
    return "unknown";
}

PyObject *py_info_size(uint64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    double value = (double)bytes;
    size_t unit = 0;
    char text[32];

    for (; value >= 1024 && unit < 4; unit++)
        value /= 1024;
    PyOS_snprintf(text, sizeof(text), unit && value < 100 ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return PyUnicode_FromString(text);
}

PyObject *py_info_context(const struct unstick_context_info *info)
{
    return Py_BuildValue("{sK sK sK sK sK sK sI}", "host_limit_bytes", info->host_limit_bytes, "host_pinned_bytes",
                         info->host_pinned_bytes, "host_pageable_bytes", info->host_pageable_bytes, "host_file_bytes",
                         info->host_file_bytes, "host_ring_bytes", info->host_ring_bytes, "longest_step_ns",
                         info->longest_step_ns, "n_tasks", info->n_tasks);
}

PyObject *py_info_device(const struct unstick_device_info *info)
{
    return Py_BuildValue("{ss ss ss si sK sK sK sK sK sK sK sK sO sO sO}", "kind", info->kind, "name", info->name,
                         "uuid", info->uuid, "index", info->index, "total_bytes", info->total_bytes, "used_bytes",
                         info->used_bytes, "limit_bytes", info->limit_bytes, "granule_bytes", info->granule_bytes,
                         "resident_bytes", info->resident_bytes, "sentinel_bytes", info->sentinel_bytes, "spare_bytes",
                         info->spare_bytes, "poisoned_bytes", info->poisoned_bytes, "can_hash",
                         info->can_hash ? Py_True : Py_False, "can_register_file",
                         info->can_register_file ? Py_True : Py_False, "is_lost", info->is_lost ? Py_True : Py_False);
}

PyObject *py_info_region(const struct unstick_region_info *info)
{
    return Py_BuildValue("{ss sK sK sK sK sK sI sI sI sI sI sI sK sK sK sK sK sI}", "state",
                         py_info_state_name((int)info->state), "address", info->address, "bytes", info->bytes,
                         "reserve_bytes", info->reserve_bytes, "used_bytes", info->used_bytes, "granule_bytes",
                         info->granule_bytes, "n_granules", info->n_granules, "n_resident", info->n_resident,
                         "n_evicted", info->n_evicted, "n_poisoned", info->n_poisoned, "n_bare", info->n_bare, "n_dead",
                         info->n_dead, "resident_bytes", info->resident_bytes, "pinned_bytes", info->pinned_bytes,
                         "pageable_bytes", info->pageable_bytes, "file_bytes", info->file_bytes, "dead_bytes",
                         info->dead_bytes, "n_leases", info->n_leases);
}

PyObject *py_info_task(const struct unstick_task_result *result)
{
    return Py_BuildValue("{si ss sK sK sK sK ss sO sO sO sK sK sK}", "status", result->status, "status_name",
                         unstick_status_name(result->status), "total_bytes", result->total_bytes, "done_bytes",
                         result->done_bytes, "copied_bytes", result->copied_bytes, "missing_bytes",
                         result->missing_bytes, "tier", info_tier_name(result->tier), "has_mixed_tiers",
                         result->has_mixed_tiers ? Py_True : Py_False, "has_verified",
                         result->has_verified ? Py_True : Py_False, "is_hash_missing",
                         result->is_hash_missing ? Py_True : Py_False, "stray_writes", result->stray_writes,
                         "started_ns", result->started_ns, "ended_ns", result->ended_ns);
}
