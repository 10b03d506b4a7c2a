/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Estimates: how much device memory a model will take, from its own files, before anything is loaded.
 *
 * Only headers and configurations are read. Where the files, or the rules of the libraries that load them, decide the
 * figure, it is exact; where they do not, an interval says how far off it can be. Figures that were measured in earlier
 * runs are kept apart, see struct unstick_peaks: this library only reads and writes them as text, the file is the
 * caller's.
 */
#ifndef UNSTICK_ESTIMATE_H
#define UNSTICK_ESTIMATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <unstick/export.h>
#include <unstick/key.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Where a figure comes from, the best first. */
enum unstick_basis {
    UNSTICK_BASIS_FILES = 0,   /**< the tensors as the files have them: they are quantized already */
    UNSTICK_BASIS_RULES = 1,   /**< the class is known: what the libraries convert, and what they keep */
    UNSTICK_BASIS_GENERIC = 2, /**< the class is not known: every two-dimensional weight that is no embedding */
    UNSTICK_BASIS_LEARNED = 3, /**< no files: the highest figure that was measured in earlier runs */
    UNSTICK_BASIS_GUESS = 4,   /**< nothing is known: 8, 12 or 20 GiB */
};

/** What floating-point tensors become while loading, unless they are quantized. */
enum unstick_load_dtype {
    UNSTICK_LOAD_BF16 = 0, /**< 2 bytes an element */
    UNSTICK_LOAD_FP16 = 1, /**< 2 bytes an element; T5's `wo` stays in 4 */
    UNSTICK_LOAD_FP32 = 2, /**< 4 bytes an element */
};

/** One figure. */
struct unstick_figure {
    uint64_t bytes;         /**< the tensors, without any rounding */
    uint64_t low_bytes;     /**< the truth is not below; equal to bytes where the figure is exact */
    uint64_t high_bytes;    /**< the truth is not above; UINT64_MAX for a guess */
    uint64_t aligned_bytes; /**< every tensor rounded up to 512 bytes, as allocators and regions place them */
    uint64_t region_bytes;  /**< that, rounded up to the granularity of devices, 2 MiB */
    enum unstick_basis basis; /**< where it comes from */
};

/** One component of a model. Strings belong to the estimate. */
struct unstick_component_estimate {
    const char *name;       /**< as unstick_component.name */
    const char *class_name; /**< such as "FluxTransformer2DModel"; NULL if nothing says so */
    const char *stored;     /**< how the files hold it: as in keys, or the name of another method, such as "gptq" */
    uint64_t n_params;      /**< elements before quantization */
    uint64_t n_linears;     /**< how many weights a quantization converts */
    bool is_quantized;      /**< false: quantizing a pipeline leaves it as it is (CLIP, VAE) */
    struct unstick_figure figures[UNSTICK_QUANTIZATIONS]; /**< by enum unstick_quantization */
};

/** What a run takes beside the weights; 0 where the configuration does not say enough. */
struct unstick_working_memory {
    uint64_t denoise_bytes; /**< activations of one step of the transformer or U-Net */
    uint64_t decode_bytes;  /**< activations of the VAE's decoder at the size of the image */
    uint64_t bytes;         /**< the larger of the two: they do not run at the same time */
};

/** How to load and run. Zero-initialize, set `size` to sizeof; 0 in a field is its default. */
struct unstick_estimate_options {
    size_t size;                   /**< sizeof(struct unstick_estimate_options) */
    enum unstick_load_dtype dtype; /**< what the weights are loaded as; bf16 */
    uint32_t width;                /**< of the image, in pixels; 1024 */
    uint32_t height;               /**< of the image, in pixels; 1024 */
    uint32_t batch;                /**< images at once; 1 */
};

/** A model's estimate. */
struct unstick_estimate {
    const struct unstick_component_estimate *components; /**< in the order in which a pipeline uses them */
    size_t n_components;                                 /**< length of components */
    uint64_t n_params;                                   /**< the sum over components */
    struct unstick_figure total[UNSTICK_QUANTIZATIONS];  /**< the sums, with the weakest basis among them */
    struct unstick_working_memory working;               /**< beside the weights */
};

/** The name of a basis, such as "rules"; "unknown" for a value that is none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_basis_name(enum unstick_basis basis);

/**
 * Estimates a model. @param path as for unstick_model_open(). @param options may be NULL. @return UNSTICK_OK, or what
 * unstick_model_open() returns, with one line that says which file is wrong and why. Any thread; reads files.
 */
UNSTICK_EXPORT int unstick_estimate_new(const char *path, const struct unstick_estimate_options *options,
                                        struct unstick_estimate **ret_estimate, struct unstick_error *error);

/** Frees an estimate. NULL is allowed; returns NULL. */
UNSTICK_EXPORT struct unstick_estimate *unstick_estimate_free(struct unstick_estimate *estimate);

/**
 * The figure for a FLUX pipeline of which nothing is known: 8, 12 or 20 GiB for 4-bit, 8-bit and none. It is a guess,
 * and marked as one. Pure.
 */
UNSTICK_EXPORT struct unstick_figure unstick_estimate_guess(enum unstick_quantization quantization);

/** Measured peaks of earlier runs, by key. */
struct unstick_peaks;

/** What is known of one key. */
struct unstick_peak {
    char fingerprint[UNSTICK_FINGERPRINT_MAX]; /**< of the settings it was measured with; empty: not recorded */
    uint64_t bytes;                            /**< the highest figure */
    uint64_t last_bytes;                       /**< the latest one */
    uint64_t n_runs;                           /**< how many there were */
};

/**
 * Reads peaks from text. @param text may be NULL if length is 0: then there are none. @return UNSTICK_OK,
 * UNSTICK_BAD_FORMAT (keep the file aside, nothing was read from it), UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_peaks_parse(const char *text, size_t length, struct unstick_peaks **ret_peaks,
                                       struct unstick_error *error);

/** Frees peaks. NULL is allowed; returns NULL. */
UNSTICK_EXPORT struct unstick_peaks *unstick_peaks_free(struct unstick_peaks *peaks);

/**
 * Adds one measurement. A fingerprint other than the recorded one replaces what was known of the key, because the
 * settings have changed. @param fingerprint may be NULL. @return UNSTICK_OK, UNSTICK_INVALID_ARGUMENT (no key, 0 bytes
 * or more than INT64_MAX), UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_peaks_add(struct unstick_peaks *peaks, const char *key, const char *fingerprint,
                                     uint64_t bytes, struct unstick_error *error);

/**
 * Takes over what `others` know: of a key that both have, the higher peak, the later figure of `others` and all runs.
 * @return UNSTICK_OK, UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_peaks_merge(struct unstick_peaks *peaks, const struct unstick_peaks *others,
                                       struct unstick_error *error);

/**
 * Looks a key up. @param fingerprint NULL: whatever it was measured with. @return UNSTICK_OK or UNSTICK_NOT_FOUND.
 */
UNSTICK_EXPORT int unstick_peaks_find(const struct unstick_peaks *peaks, const char *key, const char *fingerprint,
                                      struct unstick_peak *ret_peak);

/**
 * The peaks as text that unstick_peaks_parse() reads, sorted by key. It belongs to `peaks` and lives until the next
 * call with it. @return UNSTICK_OK, UNSTICK_OUT_OF_HOST_MEMORY.
 */
UNSTICK_EXPORT int unstick_peaks_text(struct unstick_peaks *peaks, const char **ret_text, size_t *ret_length,
                                      struct unstick_error *error);

#ifdef __cplusplus
}
#endif

#endif
