/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attribution: who holds what is in use. Each holder's figure comes from one source and from nothing else; what no
 * source explains stays "unexplained". A missing source is named, never guessed: then its bytes are among the
 * unexplained ones, and the text says so. Sources count at different moments, so the sum may exceed what the driver
 * says: the remainder is signed, and a negative one is shown as such instead of being cut to 0.
 */
#include <stdbool.h>
#include <string.h>

#include <unstick/reading.h>
#include <unstick/status.h>

#include "base/math.h"
#include "base/size.h"
#include "base/text.h"
#include "policy/attribution.h"

#define ATTRIBUTION_ALL_SOURCES                                                                              \
    (UNSTICK_SOURCE_DRIVER | UNSTICK_SOURCE_ACCOUNTS | UNSTICK_SOURCE_TORCH | UNSTICK_SOURCE_PROCESSES |     \
     UNSTICK_SOURCE_CONTEXT)
/* Below this nobody is worth naming as the holder of a GPU's memory. */
#define ATTRIBUTION_NOISE_BYTES (UINT64_C(1) << 20)
#define ATTRIBUTION_N_NAMED 2

struct attribution_part {
    enum unstick_holder holder;
    uint64_t bytes;
    const char *what;
};

#define ATTRIBUTION_N_PARTS 7

const char *unstick_holder_name(enum unstick_holder holder)
{
    static const char *const names[] = {
        [UNSTICK_HOLDER_NONE] = "none",
        [UNSTICK_HOLDER_OURS] = "ours",
        [UNSTICK_HOLDER_TORCH_LIVE] = "torch-live",
        [UNSTICK_HOLDER_TORCH_CACHED] = "torch-cached",
        [UNSTICK_HOLDER_TORCH_PINNED] = "torch-pinned",
        [UNSTICK_HOLDER_PROCESSES] = "processes",
        [UNSTICK_HOLDER_CONTEXT] = "context",
        [UNSTICK_HOLDER_UNEXPLAINED] = "unexplained",
    };

    return (unsigned int)holder < sizeof(names) / sizeof(names[0]) ? names[holder] : "unknown";
}

int64_t usk_bytes_difference(uint64_t a, uint64_t b)
{
    if (a >= b)
        return (int64_t)usk_min(a - b, INT64_MAX);
    return -(int64_t)usk_min(b - a, INT64_MAX);
}

uint64_t usk_bytes_sum(uint64_t a, uint64_t b)
{
    uint64_t sum;

    return usk_add(a, b, &sum) ? sum : UINT64_MAX;
}

int64_t usk_bytes_sum_signed(int64_t a, int64_t b)
{
    int64_t sum;

    if (!__builtin_add_overflow(a, b, &sum))
        return sum;
    return a < 0 ? INT64_MIN : INT64_MAX;
}

uint64_t usk_reading_ours(const struct unstick_reading *reading)
{
    if (!(reading->sources & UNSTICK_SOURCE_ACCOUNTS))
        return 0;
    return usk_bytes_sum(usk_bytes_sum(reading->resident_bytes, reading->sentinel_bytes),
                         usk_bytes_sum(reading->spare_bytes, reading->poisoned_bytes));
}

uint64_t usk_reading_torch_cached(const struct unstick_reading *reading)
{
    uint64_t kept = usk_bytes_sum(reading->torch_active_bytes, reading->torch_inactive_split_bytes);

    if (!(reading->sources & UNSTICK_SOURCE_TORCH) || kept >= reading->torch_reserved_bytes)
        return 0;
    return reading->torch_reserved_bytes - kept;
}

bool usk_reading_others(const struct unstick_reading *reading, uint64_t *ret_bytes)
{
    bool is_complete = reading->sources & UNSTICK_SOURCE_PROCESSES;

    *ret_bytes = 0;
    if (!is_complete)
        return false;
    for (size_t i = 0; i < reading->n_processes; i++) {
        is_complete = is_complete && reading->processes[i].bytes;
        *ret_bytes = usk_bytes_sum(*ret_bytes, reading->processes[i].bytes);
    }
    return is_complete;
}

uint64_t usk_reading_room(const struct unstick_reading *reading)
{
    uint64_t ours = usk_reading_ours(reading);

    if (!(reading->sources & UNSTICK_SOURCE_ACCOUNTS) || !reading->limit_bytes)
        return UINT64_MAX;
    return reading->limit_bytes > ours ? reading->limit_bytes - ours : 0;
}

uint64_t usk_reading_available(const struct unstick_reading *reading)
{
    return usk_min(reading->free_bytes, usk_reading_room(reading));
}

/* The other processes that hold most, in words. An array of a few dozen: two passes are nothing. */
static void attribution_name_processes(const struct unstick_reading *reading, struct usk_text *text)
{
    const struct unstick_process *last = NULL;
    char bytes[USK_SIZE_TEXT_MAX];

    for (size_t n = 0; n < ATTRIBUTION_N_NAMED && n < reading->n_processes; n++) {
        const struct unstick_process *next = NULL;

        for (size_t i = 0; i < reading->n_processes; i++) {
            const struct unstick_process *process = &reading->processes[i];
            bool is_after = !last || process->bytes < last->bytes || (process->bytes == last->bytes && process > last);

            if (is_after && (!next || process->bytes > next->bytes))
                next = process;
        }
        if (!next)
            break;
        usk_text_add(text, "%s%.*s (pid %d) %s", n ? ", " : "", (int)sizeof(next->name), next->name, next->pid,
                     next->bytes ? usk_size_format(bytes, next->bytes) : "an unknown amount");
        last = next;
    }
    if (reading->n_processes > ATTRIBUTION_N_NAMED)
        usk_text_add(text, " and %zu more", reading->n_processes - ATTRIBUTION_N_NAMED);
}

static void attribution_name_missing(unsigned int missing, struct usk_text *text)
{
    static const struct {
        enum unstick_source source;
        const char *what;
    } names[] = {
        { UNSTICK_SOURCE_DRIVER, "what the driver says" },
        { UNSTICK_SOURCE_ACCOUNTS, "the library's own accounts" },
        { UNSTICK_SOURCE_TORCH, "torch's statistics" },
        { UNSTICK_SOURCE_PROCESSES, "what other processes hold" },
        { UNSTICK_SOURCE_CONTEXT, "the size of the CUDA context" },
    };
    const char *separator = "; not known: ";

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (missing & names[i].source) {
            usk_text_add(text, "%s%s", separator, names[i].what);
            separator = ", ";
        }
    }
}

/* Largest first; equal ones stay in order. */
static void attribution_sort(struct attribution_part parts[ATTRIBUTION_N_PARTS])
{
    for (size_t i = 1; i < ATTRIBUTION_N_PARTS; i++) {
        struct attribution_part part = parts[i];
        size_t k = i;

        for (; k > 0 && parts[k - 1].bytes < part.bytes; k--)
            parts[k] = parts[k - 1];
        parts[k] = part;
    }
}

static void attribution_say(const struct unstick_reading *reading, const struct unstick_attribution *attribution,
                            const struct attribution_part parts[ATTRIBUTION_N_PARTS], struct usk_text *text)
{
    char bytes[USK_SIZE_TEXT_MAX], total[USK_SIZE_TEXT_MAX];
    const char *separator = ": ";

    if (reading->sources & UNSTICK_SOURCE_DRIVER)
        usk_text_add(text, "%s of %s in use", usk_size_format(bytes, attribution->used_bytes),
                     usk_size_format(total, reading->total_bytes));
    else
        usk_text_add(text, "in use");
    for (size_t i = 0; i < ATTRIBUTION_N_PARTS; i++) {
        bool is_list = parts[i].holder == UNSTICK_HOLDER_PROCESSES && reading->n_processes &&
                       (reading->sources & UNSTICK_SOURCE_PROCESSES);

        if (!parts[i].bytes && !is_list)
            continue;
        usk_text_add(text, "%s%s %s", separator, usk_size_format(bytes, parts[i].bytes), parts[i].what);
        separator = ", ";
        if (is_list) {
            usk_text_add(text, " (");
            attribution_name_processes(reading, text);
            usk_text_add(text, ")");
        }
    }
    if (attribution->unexplained_bytes < 0)
        usk_text_add(text, "; the sources exceed that by %s: they were read at different moments, or one counts twice",
                     usk_size_format(bytes, 0 - (uint64_t)attribution->unexplained_bytes));
    attribution_name_missing(attribution->missing, text);
}

/* What the process list says that this process holds, less what it knows that it holds, is its context and libraries:
 * arithmetic on three sources, not a guess. */
static bool attribution_can_derive_context(const struct unstick_reading *reading)
{
    const unsigned int needed = UNSTICK_SOURCE_PROCESSES | UNSTICK_SOURCE_TORCH | UNSTICK_SOURCE_ACCOUNTS;

    return (reading->sources & needed) == needed && reading->own_process_bytes;
}

static uint64_t attribution_derive_context(const struct unstick_reading *reading)
{
    uint64_t known = usk_bytes_sum(usk_reading_ours(reading), reading->torch_reserved_bytes);

    return reading->own_process_bytes > known ? reading->own_process_bytes - known : 0;
}

int unstick_attribute(const struct unstick_reading *reading, struct unstick_attribution *attribution)
{
    struct unstick_attribution filled = { .size = sizeof(filled) };
    struct attribution_part parts[ATTRIBUTION_N_PARTS];
    struct usk_text text;
    uint64_t known;
    bool is_complete;

    if (!reading || reading->size < sizeof(*reading) || !attribution || attribution->size < sizeof(*attribution) ||
        ((reading->sources & UNSTICK_SOURCE_PROCESSES) && reading->n_processes && !reading->processes))
        return UNSTICK_INVALID_ARGUMENT;

    filled.size = attribution->size;
    filled.missing = ATTRIBUTION_ALL_SOURCES & ~reading->sources;
    filled.ours_bytes = usk_reading_ours(reading);
    if (reading->sources & UNSTICK_SOURCE_TORCH) {
        filled.torch_live_bytes = reading->torch_active_bytes;
        filled.torch_cached_bytes = usk_reading_torch_cached(reading);
        filled.torch_pinned_bytes = reading->torch_inactive_split_bytes;
    }
    is_complete = usk_reading_others(reading, &filled.others_bytes);
    if (!is_complete)
        filled.missing |= UNSTICK_SOURCE_PROCESSES;
    if (reading->sources & UNSTICK_SOURCE_CONTEXT) {
        filled.context_bytes = reading->context_bytes;
    } else if (attribution_can_derive_context(reading)) {
        filled.context_bytes = attribution_derive_context(reading);
        filled.missing &= ~(unsigned int)UNSTICK_SOURCE_CONTEXT;
    }
    if (reading->sources & UNSTICK_SOURCE_DRIVER) {
        known = usk_bytes_sum(usk_bytes_sum(filled.ours_bytes, filled.torch_live_bytes),
                              usk_bytes_sum(filled.torch_cached_bytes, filled.torch_pinned_bytes));
        known = usk_bytes_sum(known, usk_bytes_sum(filled.others_bytes, filled.context_bytes));
        filled.used_bytes =
            reading->total_bytes > reading->free_bytes ? reading->total_bytes - reading->free_bytes : 0;
        filled.unexplained_bytes = usk_bytes_difference(filled.used_bytes, known);
    }

    parts[0] = (struct attribution_part) { UNSTICK_HOLDER_OURS, filled.ours_bytes, "in regions of this library" };
    parts[1] = (struct attribution_part) { UNSTICK_HOLDER_TORCH_LIVE, filled.torch_live_bytes,
                                           "in torch tensors that are still referenced" };
    parts[2] = (struct attribution_part) { UNSTICK_HOLDER_TORCH_CACHED, filled.torch_cached_bytes,
                                           "cached by torch (empty_cache gives it back)" };
    parts[3] = (struct attribution_part) { UNSTICK_HOLDER_TORCH_PINNED, filled.torch_pinned_bytes,
                                           "free in torch segments that a survivor pins" };
    parts[4] = (struct attribution_part) { UNSTICK_HOLDER_PROCESSES, filled.others_bytes, "by other processes" };
    parts[5] = (struct attribution_part) { UNSTICK_HOLDER_CONTEXT, filled.context_bytes, "by the CUDA context" };
    parts[6] = (struct attribution_part) {
        UNSTICK_HOLDER_UNEXPLAINED, filled.unexplained_bytes > 0 ? (uint64_t)filled.unexplained_bytes : 0, "unexplained"
    };
    attribution_sort(parts);
    filled.largest = parts[0].bytes >= ATTRIBUTION_NOISE_BYTES ? parts[0].holder : UNSTICK_HOLDER_NONE;
    usk_text_init(&text, filled.text, sizeof(filled.text));
    attribution_say(reading, &filled, parts, &text);
    *attribution = filled;
    return UNSTICK_OK;
}
