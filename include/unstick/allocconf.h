/* SPDX-License-Identifier: Apache-2.0 */
/**
 * The settings of torch's CUDA allocator: PYTORCH_CUDA_ALLOC_CONF, PYTORCH_ALLOC_CONF.
 *
 * A string that one torch takes stops another: a key that is too new ends the program at its first CUDA allocation, and
 * what looks like a typing error may be read as something else. Here such a string is read as a given torch reads it,
 * explained, and written. Everything is pure: no clock, no memory, no environment, no driver; any thread. The caller
 * says what its environment holds and sets what comes out of it.
 */
#ifndef UNSTICK_ALLOCCONF_H
#define UNSTICK_ALLOCCONF_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/export.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A torch version as one number that compares: UNSTICK_TORCH(2, 11) < UNSTICK_TORCH(2, 12). */
#define UNSTICK_TORCH(_major, _minor) ((_major) * 1000u + (_minor))
/** The oldest torch whose rules are known. */
#define UNSTICK_TORCH_OLDEST UNSTICK_TORCH(2u, 1u)
/** The newest torch whose rules are known; newer ones are read by these, with a warning. */
#define UNSTICK_TORCH_NEWEST UNSTICK_TORCH(2u, 14u)

/** Longest string that is read or written, with its NUL. */
#define UNSTICK_ALLOCCONF_TEXT_MAX 1024
/** Most settings in a string. */
#define UNSTICK_ALLOCCONF_ENTRIES_MAX 32
/** Most errors, and most warnings, that are kept; there may be more. */
#define UNSTICK_ALLOCCONF_NOTES_MAX 16

/** What a key's value is. */
enum unstick_allocconf_kind {
    UNSTICK_ALLOCCONF_BOOL = 0,  /**< True or False, in exactly these letters */
    UNSTICK_ALLOCCONF_MIB,       /**< a whole number of MiB */
    UNSTICK_ALLOCCONF_COUNT,     /**< a whole number */
    UNSTICK_ALLOCCONF_FRACTION,  /**< a number from 0 to 1 */
    UNSTICK_ALLOCCONF_DIVISIONS, /**< a whole number, or a list [MiB:divisions,...,>:divisions] */
    UNSTICK_ALLOCCONF_NAME,      /**< one of a few names */
};

/** A key of the allocator's settings. Static; fields may be added at the end. */
struct unstick_allocconf_key {
    const char *name;                 /**< as it is written */
    const char *alias;                /**< a second name that torch takes; NULL: none */
    enum unstick_allocconf_kind kind; /**< what its value is */
    const char *range;                /**< the values that are taken, in words */
    const char *default_value;        /**< what holds without it, in words */
    unsigned int since;               /**< the first torch that takes it, as UNSTICK_TORCH; OLDEST: or earlier */
    const char *effect;               /**< what it does, in one line */
    const char *advice;               /**< what was measured, or when to use it; NULL: nothing to say */
};

/** One setting of a string. */
struct unstick_allocconf_entry {
    const struct unstick_allocconf_key *key; /**< never NULL, static */
    char name[48];                           /**< the key as it was written: its name or its alias */
    char value[256];                         /**< what torch reads, in its plainest form: "128" for "128MB" */
    uint64_t number;      /**< BOOL, MIB, COUNT and divisions that are no list: the value torch works with; else 0 */
    double fraction;      /**< FRACTION: the value; else 0 */
    size_t offset;        /**< where it begins in the string */
    size_t is_overridden; /**< not 0: the same key comes again, and the last one counts */
};

/** An error or a warning. */
struct unstick_allocconf_note {
    size_t offset;  /**< what it is about begins there in the string; SIZE_MAX: the string as a whole */
    char text[240]; /**< one line of ASCII: what is wrong, why, what to do */
};

/** What a string is read against; zero-initialize, set `size`, `text` and `torch`. */
struct unstick_allocconf_input {
    size_t size;             /**< sizeof(struct unstick_allocconf_input) */
    const char *text;        /**< the settings; NULL is read as "" */
    unsigned int torch;      /**< UNSTICK_TORCH(major, minor) */
    int is_caching_disabled; /**< not 0: PYTORCH_NO_CUDA_MEMORY_CACHING is set */
    double memory_fraction;  /**< what the program gives set_per_process_memory_fraction(); 0: it does not call it */
};

/** A string as torch reads it. The caller sets `size`; it is large (about 20 KiB). */
struct unstick_allocconf {
    size_t size;        /**< sizeof(struct unstick_allocconf), set by the caller */
    unsigned int torch; /**< the version by whose rules it was read */
    size_t n_entries;   /**< in entries */
    size_t n_errors;    /**< in errors; 0: torch takes the string */
    size_t n_warnings;  /**< in warnings */
    struct unstick_allocconf_entry entries[UNSTICK_ALLOCCONF_ENTRIES_MAX]; /**< in the order of the string */
    struct unstick_allocconf_note errors[UNSTICK_ALLOCCONF_NOTES_MAX];     /**< torch stops at the first */
    struct unstick_allocconf_note warnings[UNSTICK_ALLOCCONF_NOTES_MAX];   /**< what is inert, harmful or odd */
};

/**
 * Reads a version as torch.__version__ has it: "2.11.0+cu130", "2.9.1a0+git12", "2.4".
 * @param ret_torch as UNSTICK_TORCH; may be newer than UNSTICK_TORCH_NEWEST.
 * @return UNSTICK_OK; UNSTICK_INVALID_ARGUMENT if it is no version, UNSTICK_UNSUPPORTED if it is older than 2.1.
 */
UNSTICK_EXPORT int unstick_allocconf_torch(const char *version, unsigned int *ret_torch, struct unstick_error *error);

/** The keys that any known torch takes, one by one: NULL behind the last. Static. */
UNSTICK_EXPORT const struct unstick_allocconf_key *unstick_allocconf_key_at(size_t index);

/** The key of this name or alias; NULL if there is none. Static. */
UNSTICK_EXPORT const struct unstick_allocconf_key *unstick_allocconf_key_find(const char *name);

/** The name of a kind, such as "MiB" or "True/False"; "unknown" for a value that is none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_allocconf_kind_name(enum unstick_allocconf_kind kind);

/**
 * Reads a string as the given torch does, and says what is wrong or unwise about it.
 * @param conf size set by the caller; the rest is written, also when torch refuses the string.
 * @return UNSTICK_OK; UNSTICK_BAD_FORMAT if torch refuses it (conf->errors says why); UNSTICK_INVALID_ARGUMENT,
 *         UNSTICK_UNSUPPORTED (a torch older than 2.1): conf is not written.
 */
UNSTICK_EXPORT int unstick_allocconf_parse(const struct unstick_allocconf_input *input,
                                           struct unstick_allocconf *conf);

/**
 * Writes the entries of a string that was read, in the form that every torch reads the same way. Reading it again
 * gives the same entries.
 * @param text size bytes, UNSTICK_ALLOCCONF_TEXT_MAX suffice; written on success only.
 * @return UNSTICK_OK; UNSTICK_BAD_FORMAT if conf has errors; UNSTICK_INVALID_ARGUMENT if text is too small.
 */
UNSTICK_EXPORT int unstick_allocconf_emit(const struct unstick_allocconf *conf, char *text, size_t size,
                                          struct unstick_error *error);

/** The environment variables that set these strings, as they are found; NULL where one is not set. */
struct unstick_allocconf_environment {
    size_t size;         /**< sizeof(struct unstick_allocconf_environment) */
    const char *cuda;    /**< PYTORCH_CUDA_ALLOC_CONF */
    const char *hip;     /**< PYTORCH_HIP_ALLOC_CONF */
    const char *generic; /**< PYTORCH_ALLOC_CONF */
};

/**
 * Which of the variables counts for this torch: up to 2.9 PYTORCH_CUDA_ALLOC_CONF alone, from 2.10 the first that is
 * set of PYTORCH_CUDA_ALLOC_CONF, PYTORCH_HIP_ALLOC_CONF, PYTORCH_ALLOC_CONF.
 * @param ret_value what it holds; not written if none is set. May be NULL.
 * @return its name, static; NULL if none of those that count is set.
 */
UNSTICK_EXPORT const char *unstick_allocconf_variable_found(unsigned int torch,
                                                            const struct unstick_allocconf_environment *environment,
                                                            const char **ret_value);

/**
 * The variables to set for this torch, one by one: PYTORCH_CUDA_ALLOC_CONF, and from 2.10 PYTORCH_ALLOC_CONF with the
 * same value. NULL behind the last. Static.
 */
UNSTICK_EXPORT const char *unstick_allocconf_variable_at(unsigned int torch, size_t index);

/** A ready-made string. Static; fields may be added at the end. */
struct unstick_allocconf_profile {
    const char *name;    /**< such as "recommended" */
    const char *alias;   /**< a second name; NULL: none */
    const char *text;    /**< the settings; every known torch takes them */
    const char *intent;  /**< what it is meant for, in one line */
    const char *measured; /**< what it was seen to do, in one line */
};

/** The profiles, one by one: NULL behind the last. Static. */
UNSTICK_EXPORT const struct unstick_allocconf_profile *unstick_allocconf_profile_at(size_t index);

/** The profile of this name or alias; NULL if there is none. Static. */
UNSTICK_EXPORT const struct unstick_allocconf_profile *unstick_allocconf_profile_find(const char *name);

/** What was chosen for a device, and why; the caller sets `size`. */
struct unstick_allocconf_choice {
    size_t size;                                     /**< sizeof(struct unstick_allocconf_choice) */
    const struct unstick_allocconf_profile *profile; /**< static */
    char text[UNSTICK_ALLOCCONF_TEXT_MAX];           /**< the settings to use */
    char reason[448];                                /**< one line: what was seen, what follows */
};

/**
 * Chooses settings by the size of the card.
 * @param device_bytes the card's memory; 0: unknown, or there is none.
 * @return UNSTICK_OK, UNSTICK_INVALID_ARGUMENT, or UNSTICK_UNSUPPORTED for a torch older than 2.1.
 */
UNSTICK_EXPORT int unstick_allocconf_choose(uint64_t device_bytes, unsigned int torch,
                                            struct unstick_allocconf_choice *choice);

/** What became of a string; see unstick_allocconf_compare(). */
enum unstick_allocconf_outcome {
    UNSTICK_ALLOCCONF_IN_FORCE = 0, /**< torch works with these settings */
    UNSTICK_ALLOCCONF_NOT_READ,     /**< torch works with none: it started before, or reads another variable */
    UNSTICK_ALLOCCONF_DIFFERENT,    /**< torch works with others */
    UNSTICK_ALLOCCONF_INERT,        /**< torch read them, and cannot act on them */
};

/** What torch itself says it works with; zero-initialize, set `size`. */
struct unstick_allocconf_readback {
    size_t size;             /**< sizeof(struct unstick_allocconf_readback) */
    const char *text;        /**< torch.cuda.memory._snapshot()["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"] */
    unsigned int torch;      /**< UNSTICK_TORCH(major, minor) */
    int is_caching_disabled; /**< not 0: PYTORCH_NO_CUDA_MEMORY_CACHING is set */
    /** ["expandable_segments"] of the same: 1 if true, -1 if false, 0 if it was not asked for */
    int expandable_segments;
};

/** The answer; the caller sets `size`. */
struct unstick_allocconf_verdict {
    size_t size;                            /**< sizeof(struct unstick_allocconf_verdict) */
    enum unstick_allocconf_outcome outcome; /**< what became of the string */
    char text[448];                         /**< the same in one line: what was wanted, what there is, what to do */
};

/**
 * Says whether the settings that were wanted are those that torch works with. Order, blanks and repetition do not
 * matter; a key that is missing on one side does.
 * @return UNSTICK_OK, whatever the outcome; UNSTICK_BAD_FORMAT if torch would refuse `wanted`;
 *         UNSTICK_INVALID_ARGUMENT, UNSTICK_UNSUPPORTED.
 */
UNSTICK_EXPORT int unstick_allocconf_compare(const char *wanted, const struct unstick_allocconf_readback *readback,
                                             struct unstick_allocconf_verdict *verdict);

#ifdef __cplusplus
}
#endif

#endif
