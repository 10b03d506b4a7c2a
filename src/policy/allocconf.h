/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_POLICY_ALLOCCONF_H
#define USK_POLICY_ALLOCCONF_H

#include <stdbool.h>

#include <unstick/allocconf.h>

/* What the files of allocconf share. None of them needs memory, a clock or the environment. */

/* Up to 2.9 separators are insisted on and numbers are ints; from 2.10 separators are skipped unread and numbers are 64
 * bits wide. */
#define ALLOCCONF_LENIENT UNSTICK_TORCH(2u, 10u)

/* --- the pieces of a string (allocconf_token.c) --- */

struct usk_allocconf_token {
    uint16_t begin, length; /* in the text below */
    uint16_t offset;        /* where it begins in the string as it was given */
};

struct usk_allocconf_tokens {
    char text[UNSTICK_ALLOCCONF_TEXT_MAX]; /* without what torch drops */
    size_t n;
    struct usk_allocconf_token token[UNSTICK_ALLOCCONF_TEXT_MAX];
};

/* False: the string is too long. */
bool usk_allocconf_tokens_split(struct usk_allocconf_tokens *tokens, const char *text, unsigned int torch);
/* True if there is an i-th token and it reads `text`. */
bool usk_allocconf_token_is(const struct usk_allocconf_tokens *tokens, size_t i, const char *text);

/* --- numbers (allocconf_number.c) --- */

enum usk_allocconf_read {
    USK_ALLOCCONF_READ,
    USK_ALLOCCONF_NO_NUMBER,
    USK_ALLOCCONF_TOO_LARGE,
};

/* As std::stoi reads them (is_wide false) and std::stoull (true): what stands behind the number is not looked at.
 * *ret_length counts the characters that were, with the blanks before them. */
enum usk_allocconf_read usk_allocconf_read_whole(const char *text, size_t length, bool is_wide, uint64_t *ret_value,
                                                 size_t *ret_length);
/* As std::stod, in the C locale whatever the program's is. Infinities and NaN come as values. */
enum usk_allocconf_read usk_allocconf_read_real(const char *text, size_t length, double *ret_value,
                                                size_t *ret_length);

/* --- the walk over a string (allocconf.c) --- */

/* Sizes in MiB beyond this do not fit in bytes: torch takes this instead. */
#define ALLOCCONF_MIB_MAX (UINT64_MAX >> 20)

enum usk_allocconf_walk {
    USK_ALLOCCONF_WALK_ALL,    /* up to 2.9 */
    USK_ALLOCCONF_WALK_COMMON, /* from 2.10: keys of every device */
    USK_ALLOCCONF_WALK_CUDA,   /* from 2.10: keys of CUDA */
};

struct usk_allocconf_reader {
    struct usk_allocconf_tokens tokens;
    struct unstick_allocconf *conf;
    unsigned int torch;
    enum usk_allocconf_walk walk;
    uint64_t large_segment_mb;
    bool has_failed; /* in the setting that is being read */
};

/* Where the i-th token stands; the end of the string if there is none. */
size_t usk_allocconf_offset(const struct usk_allocconf_reader *reader, size_t i);
/* The i-th token for a message, at most *ret_length characters of it. */
const char *usk_allocconf_shown(const struct usk_allocconf_reader *reader, size_t i, int *ret_length);
/* An error about the i-th token, unless there is one. */
void usk_allocconf_fail(struct usk_allocconf_reader *reader, size_t i, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* False, with an error, where torch would read behind the end. */
bool usk_allocconf_has(struct usk_allocconf_reader *reader, size_t i, const char *what);
/* A separator. From 2.10 torch steps over whatever is there. */
bool usk_allocconf_expect(struct usk_allocconf_reader *reader, size_t i, const char *separator);

/* --- values (allocconf_value.c) --- */

/* The value that begins with token i, into the entry; the index of its last token. */
size_t usk_allocconf_value_read(struct usk_allocconf_reader *reader, struct unstick_allocconf_entry *entry, size_t i);
/* A whole number at token i; is_wide: of 64 bits in every version. *ret_length of its characters count. */
bool usk_allocconf_whole(struct usk_allocconf_reader *reader, size_t i, bool is_wide, uint64_t *ret_value,
                         size_t *ret_length);
/* False, with an error, if the key does not take the number at token i. */
bool usk_allocconf_value_check(struct usk_allocconf_reader *reader, const struct unstick_allocconf_key *key, size_t i,
                               uint64_t value);

/* --- notes (allocconf.c) --- */

void usk_allocconf_warn(struct unstick_allocconf *conf, size_t offset, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The last entry with this key, the one that counts; NULL: none. */
const struct unstick_allocconf_entry *usk_allocconf_entry_find(const struct unstick_allocconf *conf, const char *key);

/* --- what is inert or harmful (allocconf_advice.c) --- */

void usk_allocconf_advise(struct unstick_allocconf *conf, const struct unstick_allocconf_input *input);

#endif
