/* SPDX-License-Identifier: Apache-2.0 */
/* The wrapper that makes devices fail is a device itself as long as it is not told to. */
#include "device/fault/fault.h"
#include "conformance.h"

static int open_fault(int event_fd, struct usk_device **ret_dev, struct unstick_error *error)
{
    struct usk_device *inner;
    int r;

    r = usk_host_open(UINT64_C(64) << 20, event_fd, NULL, &inner, error);
    if (r < 0)
        return r;
    r = usk_fault_open(inner, ret_dev, error);
    if (r < 0)
        usk_device_close(inner);
    return r;
}

int main(int argc, char **argv)
{
    static const struct conformance fault = { "fault over host", open_fault, .refusal = UNSTICK_INVALID_ARGUMENT };

    return conformance_main(&fault, argc, argv);
}
