/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A described world. What the options say is on the device is taken from it: cached models, torch's segments (their
 * live and their free parts lie inside), other programs. What is then left is what the driver would call free. A
 * description that holds more than the device has is refused, rather than planned with.
 *
 * Cached models have a backup in pinned memory, as models have that were evicted before; and as nothing is known of
 * their past but how long they are idle, that is their order.
 */
#include "described.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/context.h>
#include <unstick/device.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/math.h"
#include "base/size.h"
#include "monitor/monitor.h"
#include "workload.h"

const char *const described_policies[] = { "cost", "lru", "clear-everything", NULL };

#define DESCRIBED_NOW_NS (UINT64_C(1) << 62)
#define DESCRIBED_IDLE_MAX_S 1e9

static int described_bad(const char *item, const char *what)
{
    return cli_fail_usage("--cached '%.200s': %s; it takes KEY=BYTES[:leased][:pinned][:idle=SECONDS]", item, what);
}

/* "leased", "pinned" or "idle=2.5" */
static const char *entry_read_flag(struct unstick_snapshot_entry *entry, const char *flag)
{
    double seconds;
    char *end;

    if (!strcmp(flag, "leased")) {
        entry->n_leases = 1;
        return NULL;
    }
    if (!strcmp(flag, "pinned")) {
        entry->is_pinned = true;
        return NULL;
    }
    if (strncmp(flag, "idle=", 5))
        return "there is no such mark";
    errno = 0;
    seconds = strtod(flag + 5, &end);
    if (flag[5] < '0' || flag[5] > '9' || errno || *end || !(seconds <= DESCRIBED_IDLE_MAX_S))
        return "idle is not a number of seconds";
    entry->last_used_ns = DESCRIBED_NOW_NS - (uint64_t)(seconds * 1e9);
    return NULL;
}

/* Takes the item apart; what is wrong with it, or NULL. */
static const char *entry_read(struct unstick_snapshot_entry *entry, struct unstick_snapshot_component *component,
                              char *item, char ret_key[UNSTICK_KEY_MAX], struct unstick_error *error)
{
    char *bytes = strchr(item, '='), *flag;
    enum unstick_quantization quantization;
    const char *wrong = NULL;

    if (!bytes || bytes == item)
        return "it has no key";
    *bytes++ = '\0';
    if (workload_spell(item, ret_key, &quantization, error) < 0)
        return error->text;
    entry->last_used_ns = DESCRIBED_NOW_NS;
    flag = strchr(bytes, ':');
    if (flag)
        *flag++ = '\0';
    if (!usk_size_parse(bytes, &component->bytes))
        return "that is not a size";
    if (component->bytes > UNSTICK_POLICY_BYTES_MAX)
        return "no device has so much";
    while (flag && !wrong) {
        char *next = strchr(flag, ':');

        if (next)
            *next++ = '\0';
        wrong = entry_read_flag(entry, flag);
        flag = next;
    }
    component->name = "model";
    component->resident_bytes = component->bytes;
    component->tier = UNSTICK_TIER_PINNED;
    entry->components = component;
    entry->n_components = 1;
    return wrong;
}

static int described_read_cached(struct described *described, const struct cli_list *cached)
{
    for (size_t i = 0; i < cached->n_items; i++) {
        USK_CLEANUP(usk_freep) char *item = strdup(cached->items[i]);
        char key[UNSTICK_KEY_MAX] = "";
        struct unstick_error error;
        const char *wrong = NULL;

        if (item)
            wrong = entry_read(&described->entries[i], &described->components[i], item, key, &error);
        for (size_t j = 0; !wrong && j < i; j++) {
            if (!strcmp(key, described->keys[j]))
                wrong = "the same key is there twice";
        }
        if (wrong)
            return described_bad(cached->items[i], wrong);
        described->keys[i] = strdup(key);
        if (!item || !described->keys[i])
            return cli_fail_text(UNSTICK_OUT_OF_HOST_MEMORY, "out of host memory for --cached");
        described->entries[i].key = described->keys[i];
        described->snapshot.n_entries++;
    }
    return CLI_EXIT_OK;
}

/* Each was used in a turn of its own, the most idle one in the first. */
static void described_order(struct described *described)
{
    size_t n = described->snapshot.n_entries;

    for (size_t i = 0; i < n; i++) {
        const struct unstick_snapshot_entry *entry = &described->entries[i];
        uint64_t turn = 1;

        for (size_t j = 0; j < n; j++)
            turn += described->entries[j].last_used_ns < entry->last_used_ns + (j < i);
        unstick_reuse_note(&described->entries[i].reuse, turn);
    }
    described->snapshot.turn = n + 1;
}

/*
 * What this command's own context took, seen when it ends: nothing else says it before there is a context to ask
 * through. It stays in use in the description, for whoever asks for a model has a context too; but it is nobody else's.
 */
static void described_close(struct described *described, struct unstick_device *dev, struct unstick_context *ctx,
                            const char *uuid)
{
    uint64_t before_bytes, after_bytes;
    struct usk_nvml *nvml = NULL;
    bool is_known = *uuid && usk_nvml_open(NULL, &nvml, NULL) == UNSTICK_OK &&
                    usk_nvml_used(nvml, uuid, &before_bytes, NULL) == UNSTICK_OK;

    if (dev)
        unstick_device_close(dev, NULL);
    unstick_context_free(ctx);
    if (is_known && usk_nvml_used(nvml, uuid, &after_bytes, NULL) == UNSTICK_OK && after_bytes < before_bytes) {
        described->reading.sources |= UNSTICK_SOURCE_CONTEXT;
        described->reading.context_bytes = before_bytes - after_bytes;
    }
    usk_nvml_close(nvml);
}

/* A device that exists: what it has, and what is in use on it. Nothing of ours outlives this. */
static int described_open(struct described *described, const char *spec)
{
    struct unstick_context_options context_options = { .size = sizeof(context_options) };
    struct unstick_device_info info = { .size = sizeof(info) };
    struct unstick_context *ctx = NULL;
    struct unstick_device *dev = NULL;
    struct unstick_error error;
    int r = unstick_context_new(&context_options, &ctx, &error);

    if (r == UNSTICK_OK)
        r = unstick_device_open(ctx, spec, NULL, &dev, &error);
    if (r == UNSTICK_OK)
        r = unstick_device_info(dev, &info, &error);
    if (r == UNSTICK_OK) {
        described->reading.total_bytes = info.total_bytes;
        described->reading.free_bytes = info.total_bytes - usk_min(info.total_bytes, info.used_bytes);
        described->snapshot.granule_bytes = info.granule_bytes;
    }
    described_close(described, dev, ctx, info.uuid);
    return r == UNSTICK_OK ? CLI_EXIT_OK : cli_fail(&error);
}

static int described_read_device(struct described *described, const char *spec)
{
    uint64_t bytes;

    if (strncmp(spec, "host:", 5))
        return described_open(described, spec);
    if (!usk_size_parse(spec + 5, &bytes) || !bytes || bytes > UNSTICK_POLICY_BYTES_MAX)
        return cli_fail_usage("--device '%s': takes host: and a size, such as host:16GiB", spec);
    described->reading.total_bytes = bytes;
    described->reading.free_bytes = bytes;
    return CLI_EXIT_OK;
}

static int described_take(struct described *described, const struct described_options *options)
{
    uint64_t parts = options->torch_active_bytes + options->torch_inactive_split_bytes, torch, taken, cached = 0;
    char there[USK_SIZE_TEXT_MAX], wanted[USK_SIZE_TEXT_MAX];
    struct unstick_reading *reading = &described->reading;

    for (size_t i = 0; i < described->snapshot.n_entries; i++)
        cached += described->components[i].resident_bytes;
    if (options->torch_reserved_bytes && parts > options->torch_reserved_bytes)
        return cli_fail_usage("--torch-reserved holds %s, but what is said to be in it %s",
                              usk_size_format(there, options->torch_reserved_bytes), usk_size_format(wanted, parts));
    torch = usk_max(parts, options->torch_reserved_bytes);
    taken = cached + torch + options->used_by_others_bytes;
    if (taken > reading->free_bytes)
        return cli_fail_usage("the description holds %s, but only %s of %s are free", usk_size_format(wanted, taken),
                              usk_size_format(there, reading->free_bytes), options->device);
    reading->size = sizeof(*reading);
    reading->sources |= UNSTICK_SOURCE_DRIVER | UNSTICK_SOURCE_ACCOUNTS;
    reading->taken_ns = DESCRIBED_NOW_NS;
    reading->free_bytes -= taken;
    reading->resident_bytes = cached;
    reading->limit_bytes = options->device_memory_bytes;
    if (torch) {
        reading->sources |= UNSTICK_SOURCE_TORCH;
        reading->torch_reserved_bytes = torch;
        reading->torch_active_bytes = options->torch_active_bytes;
        reading->torch_allocated_bytes = options->torch_active_bytes;
        reading->torch_inactive_split_bytes = options->torch_inactive_split_bytes;
    }
    return CLI_EXIT_OK;
}

int described_init(struct described *described, const struct described_options *options)
{
    int exit_code;

    *described = (struct described){ 0 };
    described->snapshot = (struct unstick_snapshot){ .size = sizeof(described->snapshot),
                                                     .reading = &described->reading,
                                                     .entries = described->entries,
                                                     .policy = (enum unstick_policy_kind)options->policy };
    exit_code = described_read_cached(described, &options->cached);
    if (!exit_code)
        exit_code = described_read_device(described, options->device);
    if (!exit_code)
        exit_code = described_take(described, options);
    if (options->granule_bytes)
        described->snapshot.granule_bytes = options->granule_bytes;
    described_order(described);
    return exit_code;
}

void described_fini(struct described *described)
{
    for (size_t i = 0; i < CLI_LIST_MAX; i++)
        free(described->keys[i]);
}
