/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and names of quantizations as users and configurations write them. What is taken apart is put together again,
 * to a key that is taken apart the same way; a fingerprint does not depend on the order of settings, one to a line.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/key.h>

#define MAX_SETTINGS 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int is_true)
{
    if (!is_true)
        abort();
}

static void check_key(const char *text, size_t n)
{
    enum unstick_quantization quantization, again;
    struct unstick_error error = { .text = "" };
    char *id = malloc(n + 1), *id_again = malloc(n + 32), *key = malloc(n + 32);

    require(id && id_again && key);
    if (unstick_quantization_parse(text, &quantization, &error) == UNSTICK_OK) {
        require(unstick_quantization_parse(unstick_quantization_name(quantization), &again, NULL) == UNSTICK_OK);
        require(again == quantization);
    } else {
        require(error.text[0] && !strchr(error.text, '\n'));
    }
    if (unstick_key_parse(text, id, n + 1, &quantization, NULL) == UNSTICK_OK) {
        require(unstick_key_build(id, quantization, key, n + 32, NULL) == UNSTICK_OK);
        require(unstick_key_parse(key, id_again, n + 32, &again, NULL) == UNSTICK_OK);
        require(again == quantization && !strcmp(id, id_again));
    }
    /* Any id comes back, or is refused. */
    if (unstick_key_build(text, UNSTICK_QUANTIZATION_4BIT_DQ, key, n + 32, NULL) == UNSTICK_OK) {
        require(unstick_key_parse(key, id, n + 1, &again, NULL) == UNSTICK_OK);
        require(again == UNSTICK_QUANTIZATION_4BIT_DQ && !strcmp(id, text));
    }
    free(id);
    free(id_again);
    free(key);
}

static void check_fingerprint(char *text)
{
    const char *settings[MAX_SETTINGS], *reversed[MAX_SETTINGS];
    char one[UNSTICK_FINGERPRINT_MAX], other[UNSTICK_FINGERPRINT_MAX];
    size_t n = 0;

    for (char *line = strtok(text, "\n"); line && n < MAX_SETTINGS; line = strtok(NULL, "\n"))
        settings[n++] = line;
    for (size_t i = 0; i < n; i++)
        reversed[i] = settings[n - 1 - i];
    if (unstick_key_fingerprint(settings, n, one, NULL) < 0) {
        require(unstick_key_fingerprint(reversed, n, other, NULL) < 0);
        return;
    }
    require(unstick_key_fingerprint(reversed, n, other, NULL) == UNSTICK_OK);
    require(!strcmp(one, other) && strlen(one) == UNSTICK_FINGERPRINT_MAX - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = malloc(n + 1);

    require(text != NULL);
    memcpy(text, data, n);
    text[n] = '\0';
    check_key(text, n);
    check_fingerprint(text);
    free(text);
    return 0;
}
