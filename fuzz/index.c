/* SPDX-License-Identifier: Apache-2.0 */
/* A *.safetensors.index.json: what is accepted is sorted, has no tensor twice, and names files beside it only. */
#include <stdlib.h>
#include <string.h>

#include "model/index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int is_true)
{
    if (!is_true)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct usk_json_map weights = { 0 };
    struct unstick_error error = { 0 };

    if (usk_index_parse((const char *)data, n, "fuzz", &weights, &error) < 0) {
        require(error.status == UNSTICK_BAD_FORMAT && error.text[0] && !strchr(error.text, '\n'));
        require(!weights.pairs && !weights.strings);
        return 0;
    }
    require(weights.n_pairs > 0);
    for (size_t i = 0; i < weights.n_pairs; i++) {
        const char *file = weights.pairs[i].value;

        require(!i || strcmp(weights.pairs[i - 1].key, weights.pairs[i].key) < 0);
        require(file[0] && file[0] != '.' && !strchr(file, '/') && strstr(file, ".safetensors"));
    }
    usk_json_map_fini(&weights);
    return 0;
}
