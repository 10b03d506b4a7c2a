/* SPDX-License-Identifier: Apache-2.0 */
#include "conformance.h"

static int open_host(int event_fd, struct usk_device **ret_dev, struct unstick_error *error)
{
    return usk_host_open(UINT64_C(64) << 20, event_fd, NULL, ret_dev, error);
}

int main(int argc, char **argv)
{
    static const struct conformance host = { "host", open_host, .refusal = UNSTICK_INVALID_ARGUMENT };

    return conformance_main(&host, argc, argv);
}
