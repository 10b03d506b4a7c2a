/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys and the names of quantizations.
 *
 * A key must be taken apart into what it was built from, whatever the model is called. The names that keys carry have
 * no '_', so the last '_' is the border, and an id may contain any number of them. Spellings from elsewhere are brought
 * to one form first (no case, no separators, no prefix that only says whose it is), so that the table below has one
 * line per meaning and not one per habit.
 *
 * The fingerprint sums one hash per setting: order cannot matter, and nothing has to be sorted or kept.
 */
#include <unstick/key.h>

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

/* Longer than any spelling. */
#define SPELLING_MAX 32

static const char *const quantization_names[UNSTICK_QUANTIZATIONS] = {
    [UNSTICK_QUANTIZATION_NONE] = "none",   [UNSTICK_QUANTIZATION_8BIT] = "8-bit",
    [UNSTICK_QUANTIZATION_4BIT] = "4-bit",  [UNSTICK_QUANTIZATION_4BIT_DQ] = "4-bit-dq",
    [UNSTICK_QUANTIZATION_FP8] = "fp8",     [UNSTICK_QUANTIZATION_FP32] = "fp32",
};

static const struct {
    const char *word; /* as spelling_reduce() leaves it */
    enum unstick_quantization quantization;
} spellings[] = {
    { "none", UNSTICK_QUANTIZATION_NONE },
    { "null", UNSTICK_QUANTIZATION_NONE },
    { "full", UNSTICK_QUANTIZATION_NONE },
    { "fullprecision", UNSTICK_QUANTIZATION_NONE },
    { "16bit", UNSTICK_QUANTIZATION_NONE },
    { "bf16", UNSTICK_QUANTIZATION_NONE },
    { "bfloat16", UNSTICK_QUANTIZATION_NONE },
    { "fp16", UNSTICK_QUANTIZATION_NONE },
    { "f16", UNSTICK_QUANTIZATION_NONE },
    { "float16", UNSTICK_QUANTIZATION_NONE },
    { "half", UNSTICK_QUANTIZATION_NONE },
    { "8bit", UNSTICK_QUANTIZATION_8BIT },
    { "int8", UNSTICK_QUANTIZATION_8BIT },
    { "i8", UNSTICK_QUANTIZATION_8BIT },
    { "llmint8", UNSTICK_QUANTIZATION_8BIT },
    { "int8wo", UNSTICK_QUANTIZATION_8BIT },
    { "int8weightonly", UNSTICK_QUANTIZATION_8BIT },
    { "qint8", UNSTICK_QUANTIZATION_8BIT },
    { "4bit", UNSTICK_QUANTIZATION_4BIT },
    { "nf4", UNSTICK_QUANTIZATION_4BIT },
    { "fp4", UNSTICK_QUANTIZATION_4BIT },
    { "4bitdq", UNSTICK_QUANTIZATION_4BIT_DQ },
    { "nf4dq", UNSTICK_QUANTIZATION_4BIT_DQ },
    { "fp4dq", UNSTICK_QUANTIZATION_4BIT_DQ },
    { "4bitdoublequant", UNSTICK_QUANTIZATION_4BIT_DQ },
    { "nf4doublequant", UNSTICK_QUANTIZATION_4BIT_DQ },
    { "fp4doublequant", UNSTICK_QUANTIZATION_4BIT_DQ },
    { "fp8", UNSTICK_QUANTIZATION_FP8 },
    { "f8", UNSTICK_QUANTIZATION_FP8 },
    { "float8", UNSTICK_QUANTIZATION_FP8 },
    { "qfloat8", UNSTICK_QUANTIZATION_FP8 },
    { "fp8e4m3", UNSTICK_QUANTIZATION_FP8 },
    { "fp8e4m3fn", UNSTICK_QUANTIZATION_FP8 },
    { "fp8e5m2", UNSTICK_QUANTIZATION_FP8 },
    { "float8e4m3fn", UNSTICK_QUANTIZATION_FP8 },
    { "float8e5m2", UNSTICK_QUANTIZATION_FP8 },
    { "fp32", UNSTICK_QUANTIZATION_FP32 },
    { "f32", UNSTICK_QUANTIZATION_FP32 },
    { "float32", UNSTICK_QUANTIZATION_FP32 },
    { "float", UNSTICK_QUANTIZATION_FP32 },
    { "32bit", UNSTICK_QUANTIZATION_FP32 },
};

/* What a spelling may begin with and mean the same. */
static const char *const spelling_prefixes[] = { "torch", "bitsandbytes", "bnb", "loadin" };

const char *unstick_quantization_name(enum unstick_quantization quantization)
{
    return (unsigned int)quantization < UNSTICK_QUANTIZATIONS ? quantization_names[quantization] : "unknown";
}

/* Writes the letters and digits of text[0..length) in lower case; false if they are too many for any spelling. */
static bool spelling_reduce(const char *text, size_t length, char word[SPELLING_MAX])
{
    size_t n = 0;

    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c == '-' || c == '_' || c == '.' || c == ' ')
            continue;
        if (n == SPELLING_MAX - 1)
            return false;
        word[n++] = (char)(c < 0x80 ? tolower(c) : '?');
    }
    word[n] = '\0';
    return true;
}

static bool quantization_find(const char *text, size_t length, enum unstick_quantization *ret_quantization)
{
    char buffer[SPELLING_MAX];
    const char *word = buffer;

    if (!spelling_reduce(text, length, buffer))
        return false;
    for (size_t i = 0; i < sizeof(spelling_prefixes) / sizeof(spelling_prefixes[0]); i++) {
        size_t n = strlen(spelling_prefixes[i]);

        if (!strncmp(word, spelling_prefixes[i], n))
            word += n;
    }
    for (size_t i = 0; i < sizeof(spellings) / sizeof(spellings[0]); i++) {
        if (!strcmp(word, spellings[i].word)) {
            *ret_quantization = spellings[i].quantization;
            return true;
        }
    }
    return false;
}

/* Nothing that would break a line, wherever the text is printed. */
static bool text_is_one_line(const char *text)
{
    for (; *text; text++) {
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return false;
    }
    return true;
}

int unstick_quantization_parse(const char *text, enum unstick_quantization *ret_quantization,
                               struct unstick_error *error)
{
    if (!text || !ret_quantization)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "quantization", "no quantization was given");
    if (quantization_find(text, strlen(text), ret_quantization))
        return UNSTICK_OK;
    return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "quantization",
                         "\"%.40s\" is no quantization that is known: none, 8-bit, 4-bit, 4-bit-dq, fp8 or fp32",
                         text_is_one_line(text) ? text : "?");
}

int unstick_key_build(const char *model_id, enum unstick_quantization quantization, char *key, size_t size,
                      struct unstick_error *error)
{
    size_t length = model_id ? strlen(model_id) : 0, n;

    if (!length || !text_is_one_line(model_id))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "key", "a model's id must be one line of text");
    if ((unsigned int)quantization >= UNSTICK_QUANTIZATIONS)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "key", "%d is no quantization", (int)quantization);
    n = strlen(quantization_names[quantization]);
    if (!key || size < n + 2 || length > size - n - 2)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "key",
                             "the key of \"%.200s\" has %zu bytes, the buffer %zu", model_id, length + n + 2, size);
    memmove(key, model_id, length);
    key[length] = '_';
    memcpy(key + length + 1, quantization_names[quantization], n + 1);
    return UNSTICK_OK;
}

int unstick_key_parse(const char *key, char *model_id, size_t size, enum unstick_quantization *ret_quantization,
                      struct unstick_error *error)
{
    const char *border = key ? strrchr(key, '_') : NULL;
    enum unstick_quantization quantization;
    size_t length;

    if (!border || border == key || !text_is_one_line(key))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "key",
                             "\"%.200s\" is no key: a model's id, '_' and a quantization, such as flux_8-bit",
                             key && text_is_one_line(key) ? key : "?");
    if (!quantization_find(border + 1, strlen(border + 1), &quantization))
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "key",
                             "the key \"%.200s\" does not end in a quantization: none, 8-bit, 4-bit, 4-bit-dq, fp8 or "
                             "fp32",
                             key);
    length = (size_t)(border - key);
    if (!model_id || length >= size || !ret_quantization)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "key",
                             "the id in \"%.200s\" has %zu bytes, the buffer %zu", key, length + 1, size);
    memmove(model_id, key, length);
    model_id[length] = '\0';
    *ret_quantization = quantization;
    return UNSTICK_OK;
}

/* FNV-1a, and the finalizer of splitmix64 behind it, without which a sum of such hashes would cancel differences. */
static uint64_t setting_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static uint64_t setting_hash(const char *setting)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (; *setting; setting++)
        hash = (hash ^ (unsigned char)*setting) * UINT64_C(0x100000001b3);
    return setting_mix(hash);
}

static bool setting_has_key_of(const char *setting, const char *other)
{
    size_t n = (size_t)(strchr(setting, '=') - setting);

    return !strncmp(setting, other, n) && other[n] == '=';
}

int unstick_key_fingerprint(const char *const *settings, size_t n_settings, char fingerprint[UNSTICK_FINGERPRINT_MAX],
                            struct unstick_error *error)
{
    uint64_t sum = n_settings;

    if ((n_settings && !settings) || !fingerprint)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "fingerprint", "no settings were given");
    for (size_t i = 0; i < n_settings; i++) {
        const char *equals = settings[i] ? strchr(settings[i], '=') : NULL;

        if (!equals || equals == settings[i])
            return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "fingerprint",
                                 "setting %zu is not \"key=value\"", i);
        for (size_t j = 0; j < i; j++) {
            if (setting_has_key_of(settings[j], settings[i]))
                return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "fingerprint",
                                     "settings %zu and %zu have the same key", j, i);
        }
        sum += setting_hash(settings[i]);
    }
    snprintf(fingerprint, UNSTICK_FINGERPRINT_MAX, "%016llx", (unsigned long long)setting_mix(sum));
    return UNSTICK_OK;
}
