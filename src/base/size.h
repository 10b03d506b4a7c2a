/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_BASE_SIZE_H
#define USK_BASE_SIZE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Reads a size: a number, with an optional fraction, and a unit: none or B for bytes; KiB, MiB, GiB, TiB (K, M, G, T
 * mean the same); kB, MB, GB, TB for powers of ten. False if it is none, is negative, or does not fit.
 */
bool usk_size_parse(const char *text, uint64_t *ret_bytes);

#define USK_SIZE_TEXT_MAX 24

/* Writes "512 B", "1.5 KiB", "16.9 GiB", ... into text and returns it. */
const char *usk_size_format(char text[USK_SIZE_TEXT_MAX], uint64_t bytes);

#endif
