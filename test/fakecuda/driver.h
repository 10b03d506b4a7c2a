/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAKECUDA_DRIVER_H
#define FAKECUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

/*
 * The binary interface of the CUDA driver as far as the fake offers it, stated a second time and from the driver's
 * documentation, so that a wrong number or layout in src/device/cuda/abi.h does not agree with itself in the tests.
 * Handles are plain numbers here: the fake never gives one out twice, and a stale one is found out.
 */
#define CUDA_RESULT_MAP(X)                                                                                   \
    X(SUCCESS, 0, "no error")                                                                                \
    X(ERROR_INVALID_VALUE, 1, "invalid argument")                                                            \
    X(ERROR_OUT_OF_MEMORY, 2, "out of memory")                                                               \
    X(ERROR_NOT_INITIALIZED, 3, "initialization error")                                                      \
    X(ERROR_DEINITIALIZED, 4, "driver shutting down")                                                        \
    X(ERROR_NO_DEVICE, 100, "no CUDA-capable device is detected")                                            \
    X(ERROR_INVALID_DEVICE, 101, "invalid device ordinal")                                                   \
    X(ERROR_INVALID_CONTEXT, 201, "invalid device context")                                                  \
    X(ERROR_NO_BINARY_FOR_GPU, 209, "no kernel image is available for execution on the device")              \
    X(ERROR_ECC_UNCORRECTABLE, 214, "uncorrectable ECC error encountered")                                   \
    X(ERROR_INVALID_PTX, 218, "a PTX JIT compilation failed")                                                \
    X(ERROR_UNSUPPORTED_PTX_VERSION, 222, "the provided PTX was compiled with an unsupported toolchain")     \
    X(ERROR_INVALID_HANDLE, 400, "invalid resource handle")                                                  \
    X(ERROR_ILLEGAL_STATE, 401, "the operation cannot be performed in the present state")                    \
    X(ERROR_NOT_FOUND, 500, "named symbol not found")                                                        \
    X(ERROR_NOT_READY, 600, "device not ready")                                                              \
    X(ERROR_ILLEGAL_ADDRESS, 700, "an illegal memory access was encountered")                                \
    X(ERROR_LAUNCH_OUT_OF_RESOURCES, 701, "too many resources requested for launch")                         \
    X(ERROR_CONTEXT_IS_DESTROYED, 709, "context is destroyed")                                               \
    X(ERROR_HOST_MEMORY_ALREADY_REGISTERED, 712, "part or all of the requested memory range is already mapped") \
    X(ERROR_HOST_MEMORY_NOT_REGISTERED, 713, "pointer does not correspond to a registered memory region")    \
    X(ERROR_MISALIGNED_ADDRESS, 716, "misaligned address")                                                   \
    X(ERROR_LAUNCH_FAILED, 719, "unspecified launch failure")                                                \
    X(ERROR_NOT_PERMITTED, 800, "operation not permitted")                                                   \
    X(ERROR_NOT_SUPPORTED, 801, "operation not supported")                                                   \
    X(ERROR_STREAM_CAPTURE_UNSUPPORTED, 900, "operation not permitted when stream is capturing")             \
    X(ERROR_STREAM_CAPTURE_INVALIDATED, 901, "operation failed due to a previous error during capture")      \
    X(ERROR_STREAM_CAPTURE_ISOLATION, 905, "dependency created on uncaptured work in another stream")        \
    X(ERROR_STREAM_CAPTURE_IMPLICIT, 906,                                                                    \
      "operation would make the legacy stream depend on a capturing blocking stream")                        \
    X(ERROR_CAPTURED_EVENT, 907, "operation not permitted on an event last recorded in a capturing stream")  \
    X(ERROR_STREAM_CAPTURE_WRONG_THREAD, 908,                                                                \
      "attempt to terminate a thread-local capture sequence from another thread")                            \
    X(ERROR_UNKNOWN, 999, "unknown error")

enum {
#define CUDA_RESULT_ENUM(_name, _value, _text) CUDA_##_name = (_value),
    CUDA_RESULT_MAP(CUDA_RESULT_ENUM)
#undef CUDA_RESULT_ENUM
};

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef uint64_t CUmemGenericAllocationHandle;
typedef struct fake_opaque_context *CUcontext;
typedef struct fake_opaque_stream *CUstream;
typedef struct fake_opaque_event *CUevent;
typedef struct fake_opaque_module *CUmodule;
typedef struct fake_opaque_function *CUfunction;
typedef struct fake_opaque_graph *CUgraph;
typedef void (*CUhostFn)(void *userdata);

typedef struct {
    char bytes[16];
} CUuuid;

enum { CU_MEM_ALLOCATION_TYPE_PINNED = 1, CU_MEM_LOCATION_TYPE_DEVICE = 1 };
enum { CU_MEM_HANDLE_TYPE_NONE = 0, CU_MEM_HANDLE_TYPE_POSIX_FD = 1 };
enum { CU_MEM_ACCESS_NONE = 0, CU_MEM_ACCESS_READ = 1, CU_MEM_ACCESS_READWRITE = 3 };
enum { CU_MEM_GRANULARITY_MINIMUM = 0, CU_MEM_GRANULARITY_RECOMMENDED = 1 };

typedef struct {
    int type;
    int id;
} CUmemLocation;

typedef struct {
    int type;
    int requestedHandleTypes;
    CUmemLocation location;
    void *win32HandleMetaData;
    struct {
        unsigned char compressionType;
        unsigned char gpuDirectRDMACapable;
        unsigned short usage;
        unsigned char reserved[4];
    } allocFlags;
} CUmemAllocationProp;

typedef struct {
    CUmemLocation location;
    int flags;
} CUmemAccessDesc;

_Static_assert(sizeof(CUmemAllocationProp) == 32, "as the driver lays it out");
_Static_assert(sizeof(CUmemAccessDesc) == 12, "as the driver lays it out");

enum {
    CU_MEMHOSTREGISTER_PORTABLE = 1,
    CU_MEMHOSTREGISTER_DEVICEMAP = 2,
    CU_MEMHOSTREGISTER_IOMEMORY = 4,
    CU_MEMHOSTREGISTER_READ_ONLY = 8,
};

enum { CU_STREAM_DEFAULT = 0, CU_STREAM_NON_BLOCKING = 1 };
enum { CU_EVENT_DEFAULT = 0, CU_EVENT_BLOCKING_SYNC = 1, CU_EVENT_DISABLE_TIMING = 2, CU_EVENT_INTERPROCESS = 4 };
enum { CU_CAPTURE_GLOBAL = 0, CU_CAPTURE_THREAD_LOCAL = 1, CU_CAPTURE_RELAXED = 2 };
enum { CU_CAPTURE_STATUS_NONE = 0, CU_CAPTURE_STATUS_ACTIVE = 1, CU_CAPTURE_STATUS_INVALIDATED = 2 };

/* Handles with a meaning of their own. */
#define CU_STREAM_LEGACY ((CUstream)(uintptr_t)1)
#define CU_STREAM_PER_THREAD ((CUstream)(uintptr_t)2)

enum {
    CU_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1,
    CU_ATTRIBUTE_WARP_SIZE = 10,
    CU_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_ATTRIBUTE_INTEGRATED = 18,
    CU_ATTRIBUTE_CAN_MAP_HOST_MEMORY = 19,
    CU_ATTRIBUTE_CONCURRENT_KERNELS = 31,
    CU_ATTRIBUTE_PCI_BUS_ID = 33,
    CU_ATTRIBUTE_PCI_DEVICE_ID = 34,
    CU_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR = 39,
    CU_ATTRIBUTE_ASYNC_ENGINE_COUNT = 40,
    CU_ATTRIBUTE_UNIFIED_ADDRESSING = 41,
    CU_ATTRIBUTE_PCI_DOMAIN_ID = 50,
    CU_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_ATTRIBUTE_HOST_REGISTER_SUPPORTED = 99,
    CU_ATTRIBUTE_VMM_SUPPORTED = 102,
    CU_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED = 113,
    CU_ATTRIBUTE_HOST_NUMA_ID = 134,
};

enum {
    CU_PROCESS_STATE_RUNNING = 0,
    CU_PROCESS_STATE_LOCKED = 1,
    CU_PROCESS_STATE_CHECKPOINTED = 2,
    CU_PROCESS_STATE_FAILED = 3,
};

typedef struct {
    unsigned int timeoutMs;
    unsigned int reserved0;
    uint64_t reserved1[7];
} CUcheckpointLockArgs;

_Static_assert(sizeof(CUcheckpointLockArgs) == 64, "as the driver lays it out");

enum { CU_PROC_SUCCESS = 0, CU_PROC_NOT_FOUND = 1, CU_PROC_VERSION_NOT_SUFFICIENT = 2 };

/*
 * Every function: name, suffix of its symbol, driver version it came with, what it needs (fake.h), arguments.
 * cuGetProcAddress() goes by name and version, dlsym() by name and suffix.
 */
#define CUDA_FUNCTION_MAP(X)                                                                                 \
    X(cuInit, , 2000, 0, (unsigned int flags))                                                               \
    X(cuDriverGetVersion, , 2020, 0, (int *version))                                                         \
    X(cuGetErrorName, , 6000, 0, (CUresult code, const char **text))                                         \
    X(cuGetErrorString, , 6000, 0, (CUresult code, const char **text))                                       \
    X(cuGetProcAddress, , 11030, 0, (const char *name, void **function, int version, uint64_t flags))        \
    X(cuGetProcAddress, _v2, 12000, 0,                                                                       \
      (const char *name, void **function, int version, uint64_t flags, int *status))                         \
    X(cuDeviceGet, , 2000, FAKE_INIT, (CUdevice * device, int ordinal))                                      \
    X(cuDeviceGetCount, , 2000, FAKE_INIT, (int *count))                                                     \
    X(cuDeviceGetName, , 2000, FAKE_INIT, (char *name, int length, CUdevice device))                         \
    X(cuDeviceGetUuid, , 9020, FAKE_INIT, (CUuuid * uuid, CUdevice device))                                  \
    X(cuDeviceGetUuid, _v2, 11040, FAKE_INIT, (CUuuid * uuid, CUdevice device))                              \
    X(cuDeviceTotalMem, _v2, 3020, FAKE_INIT, (size_t *bytes, CUdevice device))                              \
    X(cuDeviceGetAttribute, , 2000, FAKE_INIT, (int *value, int attribute, CUdevice device))                 \
    X(cuDeviceGetPCIBusId, , 4010, FAKE_INIT, (char *id, int length, CUdevice device))                       \
    X(cuDevicePrimaryCtxRetain, , 7000, FAKE_INIT, (CUcontext * context, CUdevice device))                   \
    X(cuDevicePrimaryCtxRelease, _v2, 11000, FAKE_INIT, (CUdevice device))                                   \
    X(cuDevicePrimaryCtxGetState, , 7000, FAKE_INIT, (CUdevice device, unsigned int *flags, int *active))    \
    X(cuCtxCreate, _v2, 3020, FAKE_INIT, (CUcontext * context, unsigned int flags, CUdevice device))         \
    X(cuCtxDestroy, _v2, 4000, FAKE_INIT, (CUcontext context))                                               \
    X(cuCtxPushCurrent, _v2, 4000, FAKE_INIT, (CUcontext context))                                           \
    X(cuCtxPopCurrent, _v2, 4000, FAKE_INIT, (CUcontext * context))                                          \
    X(cuCtxSetCurrent, , 4000, FAKE_INIT, (CUcontext context))                                               \
    X(cuCtxGetCurrent, , 4000, FAKE_INIT, (CUcontext * context))                                             \
    X(cuCtxGetDevice, , 2000, FAKE_CONTEXT | FAKE_NOT_STICKY, (CUdevice * device))                           \
    X(cuCtxSynchronize, , 2000, FAKE_CONTEXT, (void))                                                        \
    X(cuCtxRecordEvent, , 12050, FAKE_INIT, (CUcontext context, CUevent event))                              \
    X(cuMemGetInfo, _v2, 3020, FAKE_CONTEXT, (size_t *free_bytes, size_t *total_bytes))                      \
    X(cuMemGetAllocationGranularity, , 10020, FAKE_VMM,                                                      \
      (size_t *bytes, const CUmemAllocationProp *prop, int option))                                          \
    X(cuMemAddressReserve, , 10020, FAKE_VMM,                                                                \
      (CUdeviceptr * address, size_t bytes, size_t alignment, CUdeviceptr wish, unsigned long long flags))   \
    X(cuMemAddressFree, , 10020, FAKE_VMM, (CUdeviceptr address, size_t bytes))                              \
    X(cuMemCreate, , 10020, FAKE_VMM | FAKE_UNSAFE,                                                          \
      (CUmemGenericAllocationHandle * handle, size_t bytes, const CUmemAllocationProp *prop,                 \
       unsigned long long flags))                                                                            \
    X(cuMemRelease, , 10020, FAKE_VMM | FAKE_UNSAFE, (CUmemGenericAllocationHandle handle))                  \
    X(cuMemRetainAllocationHandle, , 11000, FAKE_VMM, (CUmemGenericAllocationHandle * handle, void *address)) \
    X(cuMemMap, , 10020, FAKE_VMM | FAKE_UNSAFE,                                                             \
      (CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,                \
       unsigned long long flags))                                                                            \
    X(cuMemUnmap, , 10020, FAKE_VMM | FAKE_UNSAFE, (CUdeviceptr address, size_t bytes))                      \
    X(cuMemSetAccess, , 10020, FAKE_VMM | FAKE_UNSAFE,                                                       \
      (CUdeviceptr address, size_t bytes, const CUmemAccessDesc *access, size_t n_access))                   \
    X(cuMemGetAccess, , 10020, FAKE_VMM,                                                                     \
      (unsigned long long *flags, const CUmemLocation *location, CUdeviceptr address))                       \
    X(cuMemAlloc, _v2, 3020, FAKE_CONTEXT | FAKE_UNSAFE, (CUdeviceptr * address, size_t bytes))              \
    X(cuMemFree, _v2, 3020, FAKE_CONTEXT | FAKE_UNSAFE, (CUdeviceptr address))                               \
    X(cuMemHostRegister, _v2, 6050, FAKE_CONTEXT | FAKE_UNSAFE,                                              \
      (void *address, size_t bytes, unsigned int flags))                                                     \
    X(cuMemHostUnregister, , 4000, FAKE_CONTEXT | FAKE_UNSAFE, (void *address))                              \
    X(cuMemHostAlloc, , 2020, FAKE_CONTEXT | FAKE_UNSAFE, (void **address, size_t bytes, unsigned int flags)) \
    X(cuMemFreeHost, , 2000, FAKE_CONTEXT | FAKE_UNSAFE, (void *address))                                    \
    X(cuMemcpyHtoDAsync, _v2, 3020, FAKE_CONTEXT,                                                            \
      (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))                                     \
    X(cuMemcpyDtoHAsync, _v2, 3020, FAKE_CONTEXT,                                                            \
      (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                                           \
    X(cuMemcpyDtoDAsync, _v2, 3020, FAKE_CONTEXT,                                                            \
      (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                                     \
    X(cuMemcpyHtoD, _v2, 3020, FAKE_CONTEXT, (CUdeviceptr to, const void *from, size_t bytes))               \
    X(cuMemcpyDtoH, _v2, 3020, FAKE_CONTEXT, (void *to, CUdeviceptr from, size_t bytes))                     \
    X(cuMemsetD8Async, , 3020, FAKE_CONTEXT,                                                                 \
      (CUdeviceptr to, unsigned char value, size_t n, CUstream stream))                                      \
    X(cuMemsetD32Async, , 3020, FAKE_CONTEXT,                                                                \
      (CUdeviceptr to, unsigned int value, size_t n, CUstream stream))                                       \
    X(cuMemsetD8, _v2, 3020, FAKE_CONTEXT, (CUdeviceptr to, unsigned char value, size_t n))                  \
    X(cuStreamCreate, , 2000, FAKE_CONTEXT, (CUstream * stream, unsigned int flags))                         \
    X(cuStreamDestroy, _v2, 4000, FAKE_CONTEXT, (CUstream stream))                                           \
    X(cuStreamQuery, , 2000, FAKE_CONTEXT | FAKE_UNSAFE, (CUstream stream))                                  \
    X(cuStreamSynchronize, , 2000, FAKE_CONTEXT | FAKE_UNSAFE, (CUstream stream))                            \
    X(cuStreamWaitEvent, , 3020, FAKE_CONTEXT, (CUstream stream, CUevent event, unsigned int flags))         \
    X(cuStreamIsCapturing, , 10000, FAKE_CONTEXT, (CUstream stream, int *status))                            \
    X(cuStreamBeginCapture, _v2, 10010, FAKE_CONTEXT, (CUstream stream, int mode))                           \
    X(cuStreamEndCapture, , 10000, FAKE_CONTEXT, (CUstream stream, CUgraph * graph))                         \
    X(cuGraphDestroy, , 10000, FAKE_INIT, (CUgraph graph))                                                   \
    X(cuThreadExchangeStreamCaptureMode, , 10010, FAKE_INIT, (int *mode))                                    \
    X(cuLaunchHostFunc, , 10000, FAKE_CONTEXT, (CUstream stream, CUhostFn function, void *userdata))         \
    X(cuEventCreate, , 2000, FAKE_CONTEXT, (CUevent * event, unsigned int flags))                            \
    X(cuEventDestroy, _v2, 4000, FAKE_CONTEXT, (CUevent event))                                              \
    X(cuEventRecord, , 2000, FAKE_CONTEXT, (CUevent event, CUstream stream))                                 \
    X(cuEventQuery, , 2000, FAKE_CONTEXT | FAKE_UNSAFE, (CUevent event))                                     \
    X(cuEventSynchronize, , 2000, FAKE_CONTEXT | FAKE_UNSAFE, (CUevent event))                               \
    X(cuModuleLoadData, , 2000, FAKE_CONTEXT | FAKE_UNSAFE, (CUmodule * module, const void *image))          \
    X(cuModuleUnload, , 2000, FAKE_CONTEXT | FAKE_UNSAFE, (CUmodule module))                                 \
    X(cuModuleGetFunction, , 2000, FAKE_CONTEXT, (CUfunction * function, CUmodule module, const char *name)) \
    X(cuLaunchKernel, , 4000, FAKE_CONTEXT,                                                                  \
      (CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z,                   \
       unsigned int block_x, unsigned int block_y, unsigned int block_z, unsigned int shared_bytes,          \
       CUstream stream, void **parameters, void **extra))                                                    \
    X(cuCheckpointProcessGetState, , 12080, 0, (int pid, int *state))                                        \
    X(cuCheckpointProcessLock, , 12080, 0, (int pid, CUcheckpointLockArgs * args))                           \
    X(cuCheckpointProcessCheckpoint, , 12080, 0, (int pid, void *args))                                      \
    X(cuCheckpointProcessRestore, , 12080, FAKE_INIT, (int pid, void *args))                                 \
    X(cuCheckpointProcessUnlock, , 12080, 0, (int pid, void *args))

#define CUDA_FUNCTION_PROTOTYPE(_name, _suffix, _since, _needs, _arguments)                                  \
    __attribute__((visibility("default"))) CUresult _name##_suffix _arguments;
CUDA_FUNCTION_MAP(CUDA_FUNCTION_PROTOTYPE)
#undef CUDA_FUNCTION_PROTOTYPE

#endif
