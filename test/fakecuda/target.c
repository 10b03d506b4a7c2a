/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process that uses the fake driver, to be hibernated by others: it holds memory with known contents and obeys lines
 * on its input, with one line of answer each. "check" answers "good" once the contents, read back through the driver,
 * are what they were; it waits where the process is locked. "hold" submits work that does not end before "let go".
 * "set NAME=VALUE" is a setting of the fake.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"
#include "fakecuda.h"

#define TARGET_BYTES (UINT64_C(4) << 20)

static struct fakecuda control;
static CUdeviceptr memory;
static CUstream stream;
static unsigned char *host;

static void target_must(CUresult result, const char *what)
{
    if (result) {
        fprintf(stderr, "%s: %d\n", what, result);
        exit(1);
    }
}

static unsigned char target_byte(uint64_t i)
{
    return (unsigned char)(i * 2654435761u >> 13);
}

static void target_start(void)
{
    CUcontext context;

    if (fakecuda_load(&control))
        exit(2);
    target_must(cuInit(0), "cuInit");
    target_must(cuDevicePrimaryCtxRetain(&context, 0), "cuDevicePrimaryCtxRetain");
    target_must(cuCtxPushCurrent_v2(context), "cuCtxPushCurrent");
    target_must(cuStreamCreate(&stream, 0), "cuStreamCreate");
    target_must(cuMemAlloc_v2(&memory, TARGET_BYTES), "cuMemAlloc");
    target_must(cuMemHostAlloc((void **)&host, TARGET_BYTES, 0), "cuMemHostAlloc");
    for (uint64_t i = 0; i < TARGET_BYTES; i++)
        host[i] = target_byte(i);
    target_must(cuMemcpyHtoDAsync_v2(memory, host, TARGET_BYTES, stream), "cuMemcpyHtoDAsync");
    target_must(cuStreamSynchronize(stream), "cuStreamSynchronize");
}

static const char *target_check(void)
{
    memset(host, 0, TARGET_BYTES);
    target_must(cuMemcpyDtoHAsync_v2(host, memory, TARGET_BYTES, stream), "cuMemcpyDtoHAsync");
    target_must(cuStreamSynchronize(stream), "cuStreamSynchronize");
    for (uint64_t i = 0; i < TARGET_BYTES; i++)
        if (host[i] != target_byte(i))
            return "bad";
    return "good";
}

static const char *target_obey(const char *line)
{
    if (!strcmp(line, "check"))
        return target_check();
    if (!strcmp(line, "hold")) {
        control.hold(NULL, 1);
        target_must(cuMemsetD8Async(memory, target_byte(0), 1, stream), "cuMemsetD8Async");
        return "held";
    }
    if (!strcmp(line, "let go"))
        return control.hold(NULL, 0) ? "not let go" : "let go";
    if (!strncmp(line, "set ", 4))
        return control.set(line + 4) ? "no such setting" : "set";
    return "what?";
}

int main(void)
{
    char line[256];

    target_start();
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = '\0';
        printf("%s\n", target_obey(line));
        fflush(stdout);
    }
    return 0;
}
