/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The devices and what they say of themselves. They are all alike but for their number, which shows in name and UUID.
 */
#include <stdio.h>
#include <string.h>

#include "fake.h"

struct fake_device *fake_device_find(CUdevice ordinal)
{
    return ordinal >= 0 && (unsigned int)ordinal < fake.settings.n_devices ? &fake.devices[ordinal] : NULL;
}

void fake_device_lose(struct fake_device *device, CUresult code)
{
    device->lost = code;
    for (size_t i = 0; i < fake.contexts.n; i++) {
        struct fake_context *context = fake.contexts.values[i];

        if (context->device == device)
            fake_context_fail(context, code);
    }
}

CUresult cuInit(unsigned int flags)
{
    FAKE_ENTER(cuInit);
    if (flags)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    if (!fake.settings.n_devices)
        return fake_leave(CUDA_ERROR_NO_DEVICE);
    for (int i = 0; i < FAKE_MAX_DEVICES; i++)
        fake.devices[i].ordinal = i;
    if (!fake.next_id)
        fake.next_id = 0x10000;
    fake.is_initialized = true;
    fake_process_start();
    return fake_leave(0);
}

CUresult cuDriverGetVersion(int *version)
{
    FAKE_ENTER(cuDriverGetVersion);
    if (!version)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    *version = fake.settings.driver_version;
    return fake_leave(0);
}

CUresult cuDeviceGetCount(int *count)
{
    FAKE_ENTER(cuDeviceGetCount);
    if (!count)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    *count = (int)fake.settings.n_devices;
    return fake_leave(0);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    FAKE_ENTER(cuDeviceGet);
    if (!device)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    if (!fake_device_find(ordinal))
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    *device = ordinal;
    return fake_leave(0);
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    FAKE_ENTER(cuDeviceGetName);
    if (!fake_device_find(device))
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    if (!name || length <= 0)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    snprintf(name, (size_t)length, "Fake GPU %d", device);
    return fake_leave(0);
}

static void device_uuid(CUuuid *uuid, CUdevice device)
{
    static const unsigned char bytes[16] = {0xfa, 0xce, 0xc0, 0xda, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0};

    memcpy(uuid->bytes, bytes, sizeof(bytes));
    uuid->bytes[15] = (char)device;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    FAKE_ENTER(cuDeviceGetUuid);
    if (!fake_device_find(device))
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    device_uuid(uuid, device);
    return fake_leave(0);
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    FAKE_ENTER(cuDeviceGetUuid_v2);
    if (!fake_device_find(device))
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    device_uuid(uuid, device);
    return fake_leave(0);
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    FAKE_ENTER(cuDeviceTotalMem_v2);
    if (!fake_device_find(device))
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    *bytes = fake.devices[device].total_bytes;
    return fake_leave(0);
}

CUresult cuDeviceGetPCIBusId(char *id, int length, CUdevice device)
{
    FAKE_ENTER(cuDeviceGetPCIBusId);
    if (!fake_device_find(device))
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    if (!id || length < 13)
        return fake_leave(CUDA_ERROR_INVALID_VALUE);
    snprintf(id, (size_t)length, "0000:%02x:00.0", 0xf0 + device);
    return fake_leave(0);
}

static bool device_attribute(int attribute, CUdevice device, int *ret_value)
{
    switch (attribute) {
    case CU_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *ret_value = 1024;
        return true;
    case CU_ATTRIBUTE_WARP_SIZE:
        *ret_value = 32;
        return true;
    case CU_ATTRIBUTE_MULTIPROCESSOR_COUNT:
        *ret_value = 4;
        return true;
    case CU_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
        *ret_value = 2048;
        return true;
    case CU_ATTRIBUTE_ASYNC_ENGINE_COUNT:
        *ret_value = 3;
        return true;
    case CU_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
        *ret_value = 1;
        return true;
    case CU_ATTRIBUTE_PCI_BUS_ID:
        *ret_value = 0xf0 + device;
        return true;
    case CU_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
        *ret_value = (int)fake.settings.compute / 10;
        return true;
    case CU_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
        *ret_value = (int)fake.settings.compute % 10;
        return true;
    case CU_ATTRIBUTE_VMM_SUPPORTED:
        *ret_value = !fake.settings.has_no_vmm;
        return true;
    case CU_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED:
        *ret_value = !fake.settings.has_no_read_only_register;
        return true;
    case CU_ATTRIBUTE_HOST_NUMA_ID:
        *ret_value = -1;
        return fake.settings.driver_version >= 12020;
    default:
        /* What the driver knows and this device has not. */
        *ret_value = 0;
        return attribute > 0 && attribute <= (fake.settings.driver_version < 12000 ? 119 : 147);
    }
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    FAKE_ENTER(cuDeviceGetAttribute);
    if (!fake_device_find(device))
        return fake_leave(CUDA_ERROR_INVALID_DEVICE);
    return fake_leave(value && device_attribute(attribute, device, value) ? 0 : CUDA_ERROR_INVALID_VALUE);
}
