/* SPDX-License-Identifier: Apache-2.0 */
/* A workload file: what is accepted asks for models that it names, each under its own key, with a path. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char path[] = "/tmp/unstick-fuzz-XXXXXX";
static int fd = -1;

static void remove_file(void)
{
    unlink(path);
}

static void require(int is_true)
{
    if (!is_true)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct workload workload = { 0 };
    struct unstick_error error = { .text = "" };

    if (fd < 0) {
        fd = mkstemp(path);
        require(fd >= 0 && !atexit(remove_file));
    }
    require(ftruncate(fd, 0) == 0 && pwrite(fd, data, n, 0) == (ssize_t)n);
    if (workload_read(path, &workload, &error) < 0) {
        require(error.status < 0 && error.text[0]);
        return 0;
    }
    for (size_t i = 0; i < workload.n_models; i++) {
        const struct workload_model *model = &workload.models[i];

        require(model->key[0] && model->path[0]);
        for (size_t k = 0; k < i; k++)
            require(strcmp(model->key, workload.models[k].key));
    }
    for (size_t i = 0; i < workload.n_requests; i++)
        require(workload.requests[i] < workload.n_models);
    workload_fini(&workload);
    return 0;
}
