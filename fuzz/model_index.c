/* SPDX-License-Identifier: Apache-2.0 */
/* A model_index.json: what is accepted names folders beside it only, each once. */
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
    struct usk_pipeline pipeline = { 0 };
    struct unstick_error error = { 0 };

    if (usk_pipeline_parse((const char *)data, n, "fuzz", &pipeline, &error) < 0) {
        require(error.status == UNSTICK_BAD_FORMAT && error.text[0] && !strchr(error.text, '\n'));
        require(!pipeline.parts);
        return 0;
    }
    require(pipeline.n_parts > 0);
    for (size_t i = 0; i < pipeline.n_parts; i++) {
        const char *name = pipeline.parts[i].name;

        require(name[0] && name[0] != '.' && name[0] != '_' && !strchr(name, '/') && pipeline.parts[i].class_name);
        for (size_t j = 0; j < i; j++)
            require(strcmp(pipeline.parts[j].name, name) != 0);
    }
    usk_pipeline_fini(&pipeline);
    return 0;
}
