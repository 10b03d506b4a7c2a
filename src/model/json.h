/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_MODEL_JSON_H
#define USK_MODEL_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include <unstick/status.h>

/* A walk through the text of a JSON file that nobody vouches for: objects are entered, values are taken one by one. */
struct usk_json {
    const char *text;     /* need not end in NUL */
    size_t length;        /* of text */
    size_t at;            /* what was read so far */
    const char *path;     /* the file, for messages */
    uint64_t file_offset; /* where text begins in the file, for messages */
};

/* How deep a value may nest. */
#define USK_JSON_DEPTH_MAX 32

/* Enters an object. `what` names it in the message if there is something else. */
int usk_json_enter(struct usk_json *json, const char *what, struct unstick_error *error);

/* The next key of the entered object, or NULL at its end. *n_seen counts them, 0 at first. After a key its value is to
 * be taken or entered. */
int usk_json_next(struct usk_json *json, size_t *n_seen, json_t **ret_key, struct unstick_error *error);

/* Takes a value of at most max_bytes of text; duplicate keys in it are refused. */
int usk_json_take(struct usk_json *json, size_t max_bytes, json_t **ret_value, struct unstick_error *error);

/* The same of a text that is one value: nothing but white space follows. */
int usk_json_take_all(struct usk_json *json, size_t max_bytes, json_t **ret_value, struct unstick_error *error);

/* An object that maps strings to strings. */
struct usk_json_map {
    struct usk_json_pair {
        const char *key;
        const char *value;
    } *pairs;       /* sorted by key, no key twice */
    size_t n_pairs; /* length of pairs */
    char *strings;  /* what they point to */
};

/* Enters and takes such an object as a whole. `what` names it in messages. */
int usk_json_take_map(struct usk_json *json, const char *what, struct usk_json_map *ret_map,
                      struct unstick_error *error);
void usk_json_map_fini(struct usk_json_map *map);

/* Nothing but white space may be left. */
int usk_json_end(struct usk_json *json, struct unstick_error *error);

#define USK_JSON_QUOTE_MAX 104

/* A name from a file, made fit for one line of a message: cut to length, control characters replaced. Returns out. */
const char *usk_json_quote(char out[USK_JSON_QUOTE_MAX], const char *name);

#endif
