/* SPDX-License-Identifier: Apache-2.0 */
/* Who holds the rest: what a user has to know when a model does not fit. Never makes an error worse than it
 * is. */
#include "holders.h"

#include <stdio.h>
#include <string.h>

#include "monitor/monitor.h"

#define HOLDERS_NAMED 3

static int holders_of_gpu(const char *uuid, struct usk_holder *holders, size_t *ret_n,
                          struct unstick_error *error)
{
    struct usk_nvml *nvml;
    int r = usk_nvml_open(NULL, &nvml, error);

    if (r < 0)
        return r;
    r = usk_nvml_holders(nvml, uuid, holders, ret_n, error);
    usk_nvml_close(nvml);
    return r;
}

int holders_explain(const struct unstick_device_info *device, struct unstick_error *error)
{
    bool is_gpu = strcmp(device->kind, "host");
    struct usk_holder holders[USK_HOLDERS_MAX];
    struct unstick_error why = { 0 };
    size_t n = 0, length = strlen(error->text), size = sizeof(error->text) - length;
    char names[200], *end = error->text + length;
    int r;

    if (is_gpu)
        r = holders_of_gpu(device->uuid, holders, &n, &why);
    else
        r = usk_system_holders("", holders, &n, &why);
    if (r < 0)
        snprintf(end, size, "; who holds the rest cannot be told: %s", why.text);
    else if (!n)
        snprintf(end, size, "; no other process that can be seen holds any");
    else
        snprintf(end, size, "; %s: %s", is_gpu ? "also on the device" : "largest processes of the machine",
                 usk_holders_format(names, sizeof(names), holders, n, HOLDERS_NAMED));
    return error->status;
}
