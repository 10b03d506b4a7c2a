/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pieces of an allocator string. Torch cuts at , : [ ] wherever they stand and drops blanks wherever they stand, so
 * "Tr ue" is True; up to 2.9 a blank is a space, from 2.10 it is what isspace() takes. Every character of the string is
 * in at most one token, so as many tokens as characters suffice.
 */
#include "policy/allocconf.h"

#include <string.h>

static bool token_is_separator(char c)
{
    return c == ',' || c == ':' || c == '[' || c == ']';
}

static bool token_is_dropped(char c, unsigned int torch)
{
    return c == ' ' || (torch >= ALLOCCONF_LENIENT && c >= '\t' && c <= '\r');
}

bool usk_allocconf_tokens_split(struct usk_allocconf_tokens *tokens, const char *text, unsigned int torch)
{
    struct usk_allocconf_token *word = NULL;
    size_t n_kept = 0;

    tokens->n = 0;
    for (size_t i = 0; text[i]; i++) {
        if (i >= UNSTICK_ALLOCCONF_TEXT_MAX - 1)
            return false;
        if (token_is_dropped(text[i], torch))
            continue;
        if (!word || token_is_separator(text[i])) {
            word = &tokens->token[tokens->n++];
            *word = (struct usk_allocconf_token){ .begin = (uint16_t)n_kept, .offset = (uint16_t)i };
        }
        tokens->text[n_kept++] = text[i];
        word->length++;
        if (token_is_separator(text[i]))
            word = NULL;
    }
    tokens->text[n_kept] = 0;
    return true;
}

bool usk_allocconf_token_is(const struct usk_allocconf_tokens *tokens, size_t i, const char *text)
{
    size_t length = strlen(text);

    return i < tokens->n && tokens->token[i].length == length &&
           !memcmp(tokens->text + tokens->token[i].begin, text, length);
}
