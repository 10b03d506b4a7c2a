/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance.h"

static int open_cuda(int event_fd, struct usk_device **ret_dev, struct unstick_error *error)
{
    return usk_cuda_open("0", event_fd, NULL, ret_dev, error);
}

int main(int argc, char **argv)
{
    /* The driver keeps page tables and, on a shared GPU, other programs: its word on free memory is not exact. */
    static const struct conformance cuda = { "cuda", open_cuda, .slack_bytes = UINT64_C(64) << 20,
                                             .is_permissive = true };

    return conformance_main(&cuda, argc, argv);
}
