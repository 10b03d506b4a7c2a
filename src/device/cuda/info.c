/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looking at devices must cost them nothing: a context takes half a gigabyte and makes a device "in use". So only calls
 * that need none are made here.
 *
 * An index counts what CUDA_VISIBLE_DEVICES leaves, in its order, as everywhere in CUDA. A UUID names the same device
 * whatever the order; it is looked for among the visible ones.
 */
#include "device/cuda/info.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

static int info_fail(const struct usk_cuda_driver *driver, usk_cu_result result, const char *operation,
                     struct unstick_error *error)
{
    return usk_error_set(error, result == USK_CU_INVALID_DEVICE ? UNSTICK_NO_DEVICE : UNSTICK_DRIVER, result, operation,
                         "cannot look at the GPUs: %s said %s (%d: %s)", operation,
                         usk_cuda_result_name(driver, result), result, usk_cuda_result_text(driver, result));
}

/* A driver that does not know an attribute does not have what it tells of. */
static int attribute_get(const struct usk_cuda_driver *driver, usk_cu_device device, int attribute)
{
    int value = 0;

    return driver->cuDeviceGetAttribute(&value, attribute, device) == USK_CU_SUCCESS ? value : 0;
}

static void uuid_format(char text[64], const struct usk_cu_uuid *uuid, bool is_mig)
{
    const unsigned char *b = uuid->bytes;

    snprintf(text, 64, "%s-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             is_mig ? "MIG" : "GPU", b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12],
             b[13], b[14], b[15]);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)tolower((unsigned char)c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool usk_cuda_uuid_parse(const char *text, struct usk_cu_uuid *ret_uuid)
{
    struct usk_cu_uuid uuid;

    if (strncmp(text, "GPU-", 4) && strncmp(text, "MIG-", 4))
        return false;
    text += 4;
    for (size_t i = 0; i < sizeof(uuid.bytes); i++) {
        int high, low;

        if ((i == 4 || i == 6 || i == 8 || i == 10) && *text++ != '-')
            return false;
        high = hex_digit(text[0]);
        low = high < 0 ? -1 : hex_digit(text[1]);
        if (low < 0)
            return false;
        uuid.bytes[i] = (unsigned char)(high * 16 + low);
        text += 2;
    }
    if (*text)
        return false;
    *ret_uuid = uuid;
    return true;
}

/* -1 also on machines with one node: the kernel writes that itself. */
static int numa_node_read(const char *pci)
{
    char path[96];
    int node = -1;
    FILE *file;

    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/numa_node", pci);
    file = fopen(path, "re");
    if (!file)
        return -1;
    if (fscanf(file, "%d", &node) != 1)
        node = -1;
    fclose(file);
    return node;
}

int usk_cuda_info_read(const struct usk_cuda_driver *driver, usk_cu_device device,
                       struct usk_cuda_device_info *ret_info, struct unstick_error *error)
{
    struct usk_cuda_device_info info = { .numa_node = -1 };
    struct usk_cu_uuid uuid;
    usk_cu_result result;
    size_t total_bytes;

    result = driver->cuDeviceGetName(info.name, sizeof(info.name), device);
    if (result != USK_CU_SUCCESS)
        return info_fail(driver, result, "cuDeviceGetName", error);
    info.name[sizeof(info.name) - 1] = '\0';
    result = driver->cuDeviceTotalMem(&total_bytes, device);
    if (result != USK_CU_SUCCESS)
        return info_fail(driver, result, "cuDeviceTotalMem", error);
    info.total_bytes = total_bytes;

    /* A slice of a GPU has a UUID of its own; that it is one only its name tells ("NVIDIA A100 ... MIG 1g.5gb"). */
    if (driver->cuDeviceGetUuid(&uuid, device) == USK_CU_SUCCESS)
        uuid_format(info.uuid, &uuid, strstr(info.name, " MIG "));
    if (driver->cuDeviceGetPCIBusId(info.pci, sizeof(info.pci), device) == USK_CU_SUCCESS) {
        for (char *c = info.pci; *c; c++)
            *c = (char)tolower((unsigned char)*c);
        info.numa_node = numa_node_read(info.pci);
    } else {
        info.pci[0] = '\0';
    }
    info.compute_major = attribute_get(driver, device, USK_CU_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    info.compute_minor = attribute_get(driver, device, USK_CU_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    info.n_multiprocessors = attribute_get(driver, device, USK_CU_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    info.compute_mode = attribute_get(driver, device, USK_CU_ATTRIBUTE_COMPUTE_MODE);
    info.is_integrated = attribute_get(driver, device, USK_CU_ATTRIBUTE_INTEGRATED);
    info.can_map = attribute_get(driver, device, USK_CU_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
    info.can_register = attribute_get(driver, device, USK_CU_ATTRIBUTE_HOST_REGISTER_SUPPORTED);
    info.can_register_file =
        info.can_register && attribute_get(driver, device, USK_CU_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED);
    *ret_info = info;
    return UNSTICK_OK;
}

int usk_cuda_info_count(const struct usk_cuda_driver *driver, unsigned int *ret_n, struct unstick_error *error)
{
    usk_cu_result result;
    int n = 0;

    result = driver->cuDeviceGetCount(&n);
    if (result != USK_CU_SUCCESS && result != USK_CU_NO_DEVICE)
        return info_fail(driver, result, "cuDeviceGetCount", error);
    *ret_n = result == USK_CU_SUCCESS && n > 0 ? (unsigned int)n : 0;
    return UNSTICK_OK;
}

static int device_get(const struct usk_cuda_driver *driver, unsigned int ordinal, usk_cu_device *ret_device,
                      struct unstick_error *error)
{
    usk_cu_result result = driver->cuDeviceGet(ret_device, (int)ordinal);

    return result == USK_CU_SUCCESS ? UNSTICK_OK : info_fail(driver, result, "cuDeviceGet", error);
}

static int find_by_uuid(const struct usk_cuda_driver *driver, const char *which, const struct usk_cu_uuid *wanted,
                        unsigned int n, usk_cu_device *ret_device, struct unstick_error *error)
{
    for (unsigned int i = 0; i < n; i++) {
        struct usk_cu_uuid uuid;
        usk_cu_device device;
        usk_cu_result result;
        int r;

        r = device_get(driver, i, &device, error);
        if (r < 0)
            return r;
        result = driver->cuDeviceGetUuid(&uuid, device);
        if (result != USK_CU_SUCCESS)
            return info_fail(driver, result, "cuDeviceGetUuid", error);
        if (!memcmp(&uuid, wanted, sizeof(uuid))) {
            *ret_device = device;
            return UNSTICK_OK;
        }
    }
    return usk_error_set(error, UNSTICK_NO_DEVICE, 0, "usk_cuda_open",
                         "none of the %u visible GPUs is %s; see nvidia-smi -L and CUDA_VISIBLE_DEVICES", n, which);
}

int usk_cuda_info_find(const struct usk_cuda_driver *driver, const char *which, usk_cu_device *ret_device,
                       struct unstick_error *error)
{
    struct usk_cu_uuid uuid;
    unsigned long ordinal;
    unsigned int n = 0;
    char *end;
    int r;

    r = usk_cuda_info_count(driver, &n, error);
    if (r < 0)
        return r;
    if (usk_cuda_uuid_parse(which, &uuid))
        return find_by_uuid(driver, which, &uuid, n, ret_device, error);
    ordinal = isdigit((unsigned char)which[0]) ? strtoul(which, &end, 10) : 0;
    if (!isdigit((unsigned char)which[0]) || *end)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "usk_cuda_open",
                             "\"%s\" names no GPU: give an index such as 0, or a full GPU-... or MIG-... as "
                             "nvidia-smi -L lists them",
                             which);
    if (ordinal >= n)
        return usk_error_set(error, UNSTICK_NO_DEVICE, 0, "usk_cuda_open",
                             "there is no GPU %s: %u visible; see nvidia-smi -L and CUDA_VISIBLE_DEVICES", which, n);
    return device_get(driver, (unsigned int)ordinal, ret_device, error);
}

int usk_cuda_info(struct usk_cuda_info *ret_info, struct unstick_error *error)
{
    const struct usk_cuda_driver *driver;
    unsigned int n = 0;
    int r;

    r = usk_cuda_driver_get(&driver, error);
    if (r == UNSTICK_OK)
        r = usk_cuda_info_count(driver, &n, error);
    if (r < 0)
        return r;
    *ret_info = (struct usk_cuda_info){
        .driver_version = driver->version,
        .n_devices = n,
        .can_record_context = driver->cuCtxRecordEvent,
        .can_checkpoint = driver->cuCheckpointProcessLock,
    };
    return UNSTICK_OK;
}

int usk_cuda_device_info(unsigned int ordinal, struct usk_cuda_device_info *ret_info, struct unstick_error *error)
{
    const struct usk_cuda_driver *driver;
    char which[16];
    usk_cu_device device;
    int r;

    snprintf(which, sizeof(which), "%u", ordinal);
    r = usk_cuda_driver_get(&driver, error);
    if (r == UNSTICK_OK)
        r = usk_cuda_info_find(driver, which, &device, error);
    return r < 0 ? r : usk_cuda_info_read(driver, device, ret_info, error);
}

int usk_cuda_count(unsigned int *ret_n, struct unstick_error *error)
{
    const struct usk_cuda_driver *driver;
    struct unstick_error why;
    int r;

    r = usk_cuda_driver_get(&driver, &why);
    if (r == UNSTICK_NO_DEVICE) {
        *ret_n = 0;
        return UNSTICK_OK;
    }
    if (r < 0) {
        if (error)
            *error = why;
        return r;
    }
    return usk_cuda_info_count(driver, ret_n, error);
}
