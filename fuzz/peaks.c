/* SPDX-License-Identifier: Apache-2.0 */
/* Learned peaks: what is accepted is written and read again without a change, also after an addition and a merge. */
#include <stdlib.h>
#include <string.h>

#include <unstick/estimate.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int is_true)
{
    if (!is_true)
        abort();
}

/* The text of peaks, for the caller to free. */
static char *text_of(struct unstick_peaks *peaks, size_t *ret_length)
{
    const char *text;
    char *copy;

    require(unstick_peaks_text(peaks, &text, ret_length, NULL) == UNSTICK_OK);
    copy = malloc(*ret_length + 1);
    require(copy != NULL);
    return memcpy(copy, text, *ret_length + 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct unstick_peaks *peaks = NULL, *again = NULL;
    struct unstick_error error = { 0 };
    struct unstick_peak before = { 0 }, after;
    size_t length, length_again;
    char *text, *text_again;
    int was_known;

    if (unstick_peaks_parse((const char *)data, n, &peaks, &error) < 0) {
        require(error.status == UNSTICK_BAD_FORMAT && error.text[0] && !strchr(error.text, '\n') && !peaks);
        return 0;
    }
    text = text_of(peaks, &length);
    require(unstick_peaks_parse(text, length, &again, NULL) == UNSTICK_OK);
    text_again = text_of(again, &length_again);
    require(length == length_again && !memcmp(text, text_again, length));

    was_known = unstick_peaks_find(peaks, "a_8-bit", "", &before) == UNSTICK_OK;
    require(unstick_peaks_add(peaks, "a_8-bit", "", 7, NULL) == UNSTICK_OK);
    require(unstick_peaks_find(peaks, "a_8-bit", NULL, &after) == UNSTICK_OK);
    require(after.last_bytes == 7 && after.bytes == (was_known && before.bytes > 7 ? before.bytes : 7));
    require(unstick_peaks_merge(again, peaks, NULL) == UNSTICK_OK);
    require(unstick_peaks_find(again, "a_8-bit", "", &after) == UNSTICK_OK && after.last_bytes == 7);

    free(text);
    free(text_again);
    unstick_peaks_free(again);
    unstick_peaks_free(peaks);
    return 0;
}
