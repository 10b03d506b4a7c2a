/* SPDX-License-Identifier: Apache-2.0 */
/* What is given as a device: it is opened, or refused with a reason. Sizes that would take much are left out. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <unstick/unstick.h>

#include "base/size.h"

#define SPEC_BYTES_MAX (UINT64_C(1) << 40)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int is_true)
{
    if (!is_true)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct unstick_context *ctx;
    struct unstick_context_options options = { .size = sizeof(options), .n_threads = 1 };
    struct unstick_device_info info = { .size = sizeof(info) };
    struct unstick_error error = { .text = "" };
    struct unstick_device *dev;
    char *spec = malloc(n + 1);
    uint64_t bytes;

    require(spec != NULL && (ctx || unstick_context_new(&options, &ctx, NULL) == UNSTICK_OK));
    memcpy(spec, data, n);
    spec[n] = '\0';
    if (!strncmp(spec, "host:", 5) && usk_size_parse(spec + 5, &bytes) && bytes > SPEC_BYTES_MAX && bytes <= INT64_MAX) {
        free(spec);
        return 0;
    }
    if (unstick_device_open(ctx, spec, NULL, &dev, &error) < 0) {
        require(error.status < 0 && error.text[0]);
    } else {
        require(unstick_device_info(dev, &info, NULL) == UNSTICK_OK && info.total_bytes > 0);
        require(unstick_device_close(dev, NULL) == UNSTICK_OK);
    }
    free(spec);
    return 0;
}
