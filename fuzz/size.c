/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes as a user types them: whatever is accepted is formatted and read again without a change of magnitude. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char formatted[USK_SIZE_TEXT_MAX], text[64];
    uint64_t bytes, again;

    if (n >= sizeof(text))
        return 0;
    memcpy(text, data, n);
    text[n] = '\0';
    if (!usk_size_parse(text, &bytes))
        return 0;
    /* One digit behind the point: up to 5 % are lost between 1.0 and 1.1 of a unit, and rounding may carry. */
    if (!usk_size_parse(usk_size_format(formatted, bytes), &again)) {
        if (bytes < UINT64_MAX / 20 * 19)
            abort();
    } else if ((again > bytes ? again - bytes : bytes - again) > bytes / 20 + 1) {
        abort();
    }
    return 0;
}
