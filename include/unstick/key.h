/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Keys: what a cached model is called. A key is `{model_id}_{quantization}`, so two quantizations of one model are two
 * entries; a fingerprint of the load settings rides along, so that changed settings invalidate an entry.
 *
 * Everything here is pure: no clock, no memory, no driver; any thread.
 */
#ifndef UNSTICK_KEY_H
#define UNSTICK_KEY_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/export.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** How a model's Linears are held on the device. Two spellings are one value where they take the same memory. */
enum unstick_quantization {
    UNSTICK_QUANTIZATION_NONE = 0,    /**< "none": 16 bits an element (bf16, fp16) */
    UNSTICK_QUANTIZATION_8BIT = 1,    /**< "8-bit": LLM.int8(), with one fp32 scale per output */
    UNSTICK_QUANTIZATION_4BIT = 2,    /**< "4-bit": nf4 or fp4, with one fp32 absmax per 64 weights */
    UNSTICK_QUANTIZATION_4BIT_DQ = 3, /**< "4-bit-dq": the same with double quantization of the absmax */
    UNSTICK_QUANTIZATION_FP8 = 4,     /**< "fp8": 8 bits an element, without scales */
    UNSTICK_QUANTIZATION_FP32 = 5,    /**< "fp32": 32 bits an element */
};

/** How many values enum unstick_quantization has; they begin at 0. */
#define UNSTICK_QUANTIZATIONS 6

/** Room for a key of any published model, with its NUL. A longer one (a path) wants a larger buffer. */
#define UNSTICK_KEY_MAX 512

/** Room for a fingerprint: 16 hexadecimal digits and a NUL. */
#define UNSTICK_FINGERPRINT_MAX 17

/** The name that keys carry, such as "4-bit-dq"; "unknown" for a value that is none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_quantization_name(enum unstick_quantization quantization);

/**
 * Reads a quantization in any spelling of the ecosystem: "nf4", "bnb-4bit", "load_in_8bit", "int8", "torch.bfloat16",
 * "fp8_e4m3fn", ...; case, '-', '_', '.' and blanks do not count. @return UNSTICK_OK, or UNSTICK_INVALID_ARGUMENT for
 * one that is not known; the error lists the names.
 */
UNSTICK_EXPORT int unstick_quantization_parse(const char *text, enum unstick_quantization *ret_quantization,
                                              struct unstick_error *error);

/**
 * Builds a key. @param model_id not empty, of one line; may contain '/', '_' and '.'. @param key the caller's buffer.
 * @param size of it in bytes; UNSTICK_KEY_MAX is enough for published models. @return UNSTICK_OK, or
 * UNSTICK_INVALID_ARGUMENT; then the buffer is untouched.
 */
UNSTICK_EXPORT int unstick_key_build(const char *model_id, enum unstick_quantization quantization, char *key,
                                     size_t size, struct unstick_error *error);

/**
 * Takes a key apart, at its last '_'. What stands behind it may be any spelling without '_' that
 * unstick_quantization_parse() takes. @param model_id the caller's buffer. @param size of it in bytes; the length of
 * the key is enough. @return UNSTICK_OK, or UNSTICK_INVALID_ARGUMENT; then nothing is written.
 */
UNSTICK_EXPORT int unstick_key_parse(const char *key, char *model_id, size_t size,
                                     enum unstick_quantization *ret_quantization, struct unstick_error *error);

/**
 * The fingerprint of load settings: the same for the same settings in any order, on every machine and in every version.
 * It finds changes, not adversaries. @param settings strings "key=value", no key twice. @param n_settings length of
 * settings, may be 0. @param fingerprint the caller's buffer. @return UNSTICK_OK, or UNSTICK_INVALID_ARGUMENT; then the
 * buffer is untouched.
 */
UNSTICK_EXPORT int unstick_key_fingerprint(const char *const *settings, size_t n_settings,
                                           char fingerprint[UNSTICK_FINGERPRINT_MAX], struct unstick_error *error);

#ifdef __cplusplus
}
#endif

#endif
