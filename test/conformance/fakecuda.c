/* SPDX-License-Identifier: Apache-2.0 */
/* src/device/cuda on the stand-in for its driver, whose word on free memory is exact. */
#include "conformance.h"

static int open_fakecuda(int event_fd, struct usk_device **ret_dev, struct unstick_error *error)
{
    return usk_cuda_open("0", event_fd, NULL, ret_dev, error);
}

int main(int argc, char **argv)
{
    static const struct conformance fakecuda = { "cuda over the fake driver", open_fakecuda, .refusal = 0 };

    return conformance_main(&fakecuda, argc, argv);
}
