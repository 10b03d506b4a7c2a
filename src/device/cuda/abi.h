/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_ABI_H
#define USK_DEVICE_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

/*
 * What we use of the CUDA driver's binary interface, written down by ourselves: no toolkit is needed to build, and none
 * to run. Types and values are the driver's, names are ours, so that this header and cuda.h can be included together
 * and compared. The test's stand-in for the driver (test/fakecuda) is written against this header too.
 *
 * Only cuGetProcAddress is looked up by name in libcuda.so.1; everything else comes from it, by its plain name and the
 * CUDA version in the table below, which pins the signature for ever.
 */

typedef int usk_cu_device;
typedef uint64_t usk_cu_ptr;    /* CUdeviceptr */
typedef uint64_t usk_cu_handle; /* CUmemGenericAllocationHandle */
typedef struct usk_cu_context_opaque *usk_cu_context;
typedef struct usk_cu_stream_opaque *usk_cu_stream;
typedef struct usk_cu_event_opaque *usk_cu_event;
typedef struct usk_cu_module_opaque *usk_cu_module;
typedef struct usk_cu_function_opaque *usk_cu_function;
typedef void usk_cu_host_fn(void *userdata);

/* CUresult, as an int: a driver may return numbers that no header of today knows. */
typedef int usk_cu_result;

/* clang-format off */
#define USK_CUDA_RESULTS(X)             \
    X(SUCCESS, 0)                       \
    X(INVALID_VALUE, 1)                 \
    X(OUT_OF_MEMORY, 2)                 \
    X(NOT_INITIALIZED, 3)               \
    X(DEINITIALIZED, 4)                 \
    X(STUB_LIBRARY, 34)                 \
    X(DEVICE_UNAVAILABLE, 46)           \
    X(NO_DEVICE, 100)                   \
    X(INVALID_DEVICE, 101)              \
    X(DEVICE_NOT_LICENSED, 102)         \
    X(INVALID_IMAGE, 200)               \
    X(INVALID_CONTEXT, 201)             \
    X(MAP_FAILED, 205)                  \
    X(UNMAP_FAILED, 206)                \
    X(ALREADY_MAPPED, 208)              \
    X(NO_BINARY_FOR_GPU, 209)           \
    X(NOT_MAPPED, 211)                  \
    X(ECC_UNCORRECTABLE, 214)           \
    X(INVALID_PTX, 218)                 \
    X(NVLINK_UNCORRECTABLE, 220)        \
    X(JIT_COMPILER_NOT_FOUND, 221)      \
    X(UNSUPPORTED_PTX_VERSION, 222)     \
    X(JIT_COMPILATION_DISABLED, 223)    \
    X(CONTAINED, 226)                   \
    X(OPERATING_SYSTEM, 304)            \
    X(INVALID_HANDLE, 400)              \
    X(ILLEGAL_STATE, 401)               \
    X(NOT_FOUND, 500)                   \
    X(NOT_READY, 600)                   \
    X(ILLEGAL_ADDRESS, 700)             \
    X(LAUNCH_OUT_OF_RESOURCES, 701)     \
    X(LAUNCH_TIMEOUT, 702)              \
    X(CONTEXT_IS_DESTROYED, 709)        \
    X(ASSERT, 710)                      \
    X(HOST_MEMORY_ALREADY_REGISTERED, 712) \
    X(HOST_MEMORY_NOT_REGISTERED, 713)  \
    X(HARDWARE_STACK_ERROR, 714)        \
    X(ILLEGAL_INSTRUCTION, 715)         \
    X(MISALIGNED_ADDRESS, 716)          \
    X(INVALID_ADDRESS_SPACE, 717)       \
    X(INVALID_PC, 718)                  \
    X(LAUNCH_FAILED, 719)               \
    X(TENSOR_MEMORY_LEAK, 721)          \
    X(NOT_PERMITTED, 800)               \
    X(NOT_SUPPORTED, 801)               \
    X(SYSTEM_NOT_READY, 802)            \
    X(SYSTEM_DRIVER_MISMATCH, 803)      \
    X(COMPAT_NOT_SUPPORTED_ON_DEVICE, 804) \
    X(MPS_CONNECTION_FAILED, 805)       \
    X(MPS_RPC_FAILURE, 806)             \
    X(MPS_SERVER_NOT_READY, 807)        \
    X(MPS_MAX_CLIENTS_REACHED, 808)     \
    X(MPS_MAX_CONNECTIONS_REACHED, 809) \
    X(MPS_CLIENT_TERMINATED, 810)       \
    X(STREAM_CAPTURE_UNSUPPORTED, 900)  \
    X(STREAM_CAPTURE_INVALIDATED, 901)  \
    X(STREAM_CAPTURE_MERGE, 902)        \
    X(STREAM_CAPTURE_UNMATCHED, 903)    \
    X(STREAM_CAPTURE_UNJOINED, 904)     \
    X(STREAM_CAPTURE_ISOLATION, 905)    \
    X(STREAM_CAPTURE_IMPLICIT, 906)     \
    X(CAPTURED_EVENT, 907)              \
    X(STREAM_CAPTURE_WRONG_THREAD, 908) \
    X(TIMEOUT, 909)                     \
    X(EXTERNAL_DEVICE, 911)             \
    X(UNKNOWN, 999)
/* clang-format on */

enum usk_cu_result_value {
#define USK_CUDA_RESULT_ENUM(_name, _value) USK_CU_##_name = (_value),
    USK_CUDA_RESULTS(USK_CUDA_RESULT_ENUM)
#undef USK_CUDA_RESULT_ENUM
};

/* CUdevice_attribute */
enum {
    USK_CU_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    USK_CU_ATTRIBUTE_INTEGRATED = 18,
    USK_CU_ATTRIBUTE_COMPUTE_MODE = 20,
    USK_CU_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    USK_CU_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    USK_CU_ATTRIBUTE_HOST_REGISTER_SUPPORTED = 99,
    USK_CU_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED = 102,
    USK_CU_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED = 113,
};

enum {
    USK_CU_MEM_ALLOCATION_TYPE_PINNED = 1,
    USK_CU_MEM_HANDLE_TYPE_NONE = 0,
    USK_CU_MEM_LOCATION_TYPE_DEVICE = 1,
    USK_CU_MEM_ACCESS_FLAGS_PROT_NONE = 0,
    USK_CU_MEM_ACCESS_FLAGS_PROT_READ = 1,
    USK_CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3,
    USK_CU_MEM_ALLOC_GRANULARITY_MINIMUM = 0,
    USK_CU_MEM_ALLOC_GRANULARITY_RECOMMENDED = 1,
    USK_CU_MEMHOSTALLOC_PORTABLE = 1,
    USK_CU_MEMHOSTREGISTER_PORTABLE = 1,
    USK_CU_MEMHOSTREGISTER_READ_ONLY = 8,
    USK_CU_STREAM_NON_BLOCKING = 1,
    USK_CU_EVENT_DISABLE_TIMING = 2,
    USK_CU_STREAM_CAPTURE_STATUS_NONE = 0, /* CUstreamCaptureStatus */
    USK_CU_STREAM_CAPTURE_STATUS_ACTIVE = 1,
    USK_CU_STREAM_CAPTURE_STATUS_INVALIDATED = 2,
    USK_CU_STREAM_CAPTURE_MODE_GLOBAL = 0, /* CUstreamCaptureMode */
    USK_CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1,
    USK_CU_STREAM_CAPTURE_MODE_RELAXED = 2,
    USK_CU_GET_PROC_ADDRESS_DEFAULT = 0,
};

/* The two default streams have handles of their own; NULL is the first. */
#define USK_CU_STREAM_LEGACY ((usk_cu_stream)0x1)
#define USK_CU_STREAM_PER_THREAD ((usk_cu_stream)0x2)

struct usk_cu_uuid {
    unsigned char bytes[16];
};

struct usk_cu_mem_location {
    int type;
    int id;
};

/* CUmemAllocationProp_v1 */
struct usk_cu_mem_prop {
    int type;
    int requested_handle_types;
    struct usk_cu_mem_location location;
    void *win32_handle_meta_data;
    struct {
        unsigned char compression_type;
        unsigned char gpu_direct_rdma_capable;
        unsigned short usage;
        unsigned char reserved[4];
    } alloc_flags;
};

/* CUmemAccessDesc_v1 */
struct usk_cu_mem_access {
    struct usk_cu_mem_location location;
    int flags;
};

/* CUprocessState; the last two are of CUDA 13, where contents go to storage of the caller's own. */
enum {
    USK_CU_PROCESS_RUNNING = 0,
    USK_CU_PROCESS_LOCKED = 1,
    USK_CU_PROCESS_CHECKPOINTED = 2,
    USK_CU_PROCESS_FAILED = 3,
    USK_CU_PROCESS_CHECKPOINTING = 4,
    USK_CU_PROCESS_RESTORING = 5,
};

/* CUcheckpointLockArgs. What the other calls take has grown with the driver, always to 64 bytes, and may be NULL. */
struct usk_cu_checkpoint_lock_args {
    unsigned int timeout_ms; /* 0: none */
    unsigned int reserved0;
    uint64_t reserved1[7];
};

/* Looked up by name. The second one is of CUDA 12; the first one (11.3) is asked where it is missing. */
typedef usk_cu_result usk_cu_get_proc_address_v1(const char *symbol, void **ret_function, int cuda_version,
                                                 uint64_t flags);
typedef usk_cu_result usk_cu_get_proc_address_v2(const char *symbol, void **ret_function, int cuda_version,
                                                 uint64_t flags, int *ret_status);
#define USK_CUDA_LIBRARY "libcuda.so.1"
#define USK_CUDA_GET_PROC_ADDRESS_V1 "cuGetProcAddress"
#define USK_CUDA_GET_PROC_ADDRESS_V2 "cuGetProcAddress_v2"

#define USK_CUDA_MIN_DRIVER_VERSION 11040 /* driver 470 */
#define USK_CUDA_CHECKPOINT_VERSION 12080 /* driver 570 */

/*
 * X(name, CUDA version, REQUIRED or OPTIONAL, (parameters)): every function that we call; all return usk_cu_result.
 * The version is the one that introduced the signature, so that cuGetProcAddress("cuMemAlloc", 3020) is
 * cuMemAlloc_v2 on every driver. All that is REQUIRED exists in the oldest driver that is supported.
 */
/* clang-format off */
#define USK_CUDA_SYMBOLS(X)                                                                                           \
    X(cuInit, 2000, REQUIRED, (unsigned int flags))                                                                   \
    X(cuDriverGetVersion, 2020, REQUIRED, (int *ret_version))                                                         \
    X(cuGetErrorName, 6000, REQUIRED, (usk_cu_result result, const char **ret_text))                                  \
    X(cuGetErrorString, 6000, REQUIRED, (usk_cu_result result, const char **ret_text))                                \
    X(cuDeviceGetCount, 2000, REQUIRED, (int *ret_n))                                                                 \
    X(cuDeviceGet, 2000, REQUIRED, (usk_cu_device *ret_device, int ordinal))                                          \
    X(cuDeviceGetName, 2000, REQUIRED, (char *name, int size, usk_cu_device device))                                  \
    X(cuDeviceGetUuid, 11040, REQUIRED, (struct usk_cu_uuid *ret_uuid, usk_cu_device device))                         \
    X(cuDeviceTotalMem, 3020, REQUIRED, (size_t *ret_bytes, usk_cu_device device))                                    \
    X(cuDeviceGetAttribute, 2000, REQUIRED, (int *ret_value, int attribute, usk_cu_device device))                    \
    X(cuDeviceGetPCIBusId, 4010, REQUIRED, (char *text, int size, usk_cu_device device))                              \
    X(cuDevicePrimaryCtxRetain, 7000, REQUIRED, (usk_cu_context *ret_context, usk_cu_device device))                  \
    X(cuDevicePrimaryCtxRelease, 11000, REQUIRED, (usk_cu_device device))                                             \
    X(cuCtxPushCurrent, 4000, REQUIRED, (usk_cu_context context))                                                     \
    X(cuCtxPopCurrent, 4000, REQUIRED, (usk_cu_context *ret_context))                                                 \
    X(cuCtxGetCurrent, 4000, REQUIRED, (usk_cu_context *ret_context))                                                 \
    X(cuCtxSynchronize, 2000, REQUIRED, (void))                                                                       \
    X(cuCtxRecordEvent, 12050, OPTIONAL, (usk_cu_context context, usk_cu_event event))                                \
    X(cuThreadExchangeStreamCaptureMode, 10010, REQUIRED, (int *mode))                                                \
    X(cuMemGetInfo, 3020, REQUIRED, (size_t *ret_free_bytes, size_t *ret_total_bytes))                                \
    X(cuMemGetAllocationGranularity, 10020, REQUIRED,                                                                 \
      (size_t *ret_bytes, const struct usk_cu_mem_prop *prop, int option))                                            \
    X(cuMemAddressReserve, 10020, REQUIRED,                                                                           \
      (usk_cu_ptr *ret_address, size_t bytes, size_t align_bytes, usk_cu_ptr hint, uint64_t flags))                   \
    X(cuMemAddressFree, 10020, REQUIRED, (usk_cu_ptr address, size_t bytes))                                          \
    X(cuMemCreate, 10020, REQUIRED,                                                                                   \
      (usk_cu_handle *ret_handle, size_t bytes, const struct usk_cu_mem_prop *prop, uint64_t flags))                  \
    X(cuMemRelease, 10020, REQUIRED, (usk_cu_handle handle))                                                          \
    X(cuMemMap, 10020, REQUIRED,                                                                                      \
      (usk_cu_ptr address, size_t bytes, size_t offset, usk_cu_handle handle, uint64_t flags))                        \
    X(cuMemUnmap, 10020, REQUIRED, (usk_cu_ptr address, size_t bytes))                                                \
    X(cuMemSetAccess, 10020, REQUIRED,                                                                                \
      (usk_cu_ptr address, size_t bytes, const struct usk_cu_mem_access *access, size_t n))                           \
    X(cuMemAlloc, 3020, REQUIRED, (usk_cu_ptr *ret_address, size_t bytes))                                            \
    X(cuMemFree, 3020, REQUIRED, (usk_cu_ptr address))                                                                \
    X(cuMemHostAlloc, 2020, REQUIRED, (void **ret_address, size_t bytes, unsigned int flags))                         \
    X(cuMemFreeHost, 2000, REQUIRED, (void *address))                                                                 \
    X(cuMemHostRegister, 6050, REQUIRED, (void *address, size_t bytes, unsigned int flags))                           \
    X(cuMemHostUnregister, 4000, REQUIRED, (void *address))                                                           \
    X(cuStreamCreate, 2000, REQUIRED, (usk_cu_stream *ret_stream, unsigned int flags))                                \
    X(cuStreamDestroy, 4000, REQUIRED, (usk_cu_stream stream))                                                        \
    X(cuStreamQuery, 2000, REQUIRED, (usk_cu_stream stream))                                                          \
    X(cuStreamSynchronize, 2000, REQUIRED, (usk_cu_stream stream))                                                    \
    X(cuStreamWaitEvent, 3020, REQUIRED, (usk_cu_stream stream, usk_cu_event event, unsigned int flags))              \
    X(cuStreamIsCapturing, 10000, REQUIRED, (usk_cu_stream stream, int *ret_status))                                  \
    X(cuEventCreate, 2000, REQUIRED, (usk_cu_event *ret_event, unsigned int flags))                                   \
    X(cuEventRecord, 2000, REQUIRED, (usk_cu_event event, usk_cu_stream stream))                                      \
    X(cuEventQuery, 2000, REQUIRED, (usk_cu_event event))                                                             \
    X(cuEventSynchronize, 2000, REQUIRED, (usk_cu_event event))                                                       \
    X(cuEventDestroy, 4000, REQUIRED, (usk_cu_event event))                                                           \
    X(cuLaunchHostFunc, 10000, REQUIRED, (usk_cu_stream stream, usk_cu_host_fn *fn, void *userdata))                  \
    X(cuMemcpyHtoDAsync, 3020, REQUIRED,                                                                              \
      (usk_cu_ptr to, const void *from, size_t bytes, usk_cu_stream stream))                                          \
    X(cuMemcpyDtoHAsync, 3020, REQUIRED, (void *to, usk_cu_ptr from, size_t bytes, usk_cu_stream stream))             \
    X(cuMemcpyDtoDAsync, 3020, REQUIRED, (usk_cu_ptr to, usk_cu_ptr from, size_t bytes, usk_cu_stream stream))        \
    X(cuMemsetD8Async, 3020, REQUIRED,                                                                                \
      (usk_cu_ptr address, unsigned char value, size_t n, usk_cu_stream stream))                                      \
    X(cuMemsetD32Async, 3020, REQUIRED,                                                                               \
      (usk_cu_ptr address, unsigned int value, size_t n, usk_cu_stream stream))                                       \
    X(cuModuleLoadData, 2000, REQUIRED, (usk_cu_module *ret_module, const void *image))                               \
    X(cuModuleUnload, 2000, REQUIRED, (usk_cu_module module))                                                         \
    X(cuModuleGetFunction, 2000, REQUIRED,                                                                            \
      (usk_cu_function *ret_function, usk_cu_module module, const char *name))                                        \
    X(cuLaunchKernel, 4000, REQUIRED,                                                                                 \
      (usk_cu_function function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z, unsigned int block_x, \
       unsigned int block_y, unsigned int block_z, unsigned int shared_bytes, usk_cu_stream stream,                   \
       void **parameters, void **extra))                                                                              \
    X(cuCheckpointProcessGetState, 12080, OPTIONAL, (int pid, int *ret_state))                                        \
    X(cuCheckpointProcessLock, 12080, OPTIONAL, (int pid, struct usk_cu_checkpoint_lock_args *args))                  \
    X(cuCheckpointProcessCheckpoint, 12080, OPTIONAL, (int pid, void *args))                                          \
    X(cuCheckpointProcessRestore, 12080, OPTIONAL, (int pid, void *args))                                             \
    X(cuCheckpointProcessUnlock, 12080, OPTIONAL, (int pid, void *args))
/* clang-format on */

/* usk_cu_fn_cuMemCreate and so on: the types of the functions. */
#define USK_CUDA_SYMBOL_TYPE(_name, _version, _need, _parameters)                                            \
    typedef usk_cu_result usk_cu_fn_##_name _parameters;
USK_CUDA_SYMBOLS(USK_CUDA_SYMBOL_TYPE)
#undef USK_CUDA_SYMBOL_TYPE

/*
 * The kernels that are loaded from PTX (hash_ptx.c). The driver finds the first by this name; its parameters, in this
 * order, are exactly these. Grid: x is any number of blocks, which share a piece's leaves; y is the pieces. Block y
 * adds its sums to results[y].
 */
#define USK_CUDA_HASH_KERNEL "usk_hash_pieces"
#define USK_CUDA_HASH_BLOCK 256

enum usk_cuda_hash_parameter {
    USK_CUDA_HASH_ADDRESS,     /* usk_cu_ptr: the first piece */
    USK_CUDA_HASH_PIECE_BYTES, /* uint64_t */
    USK_CUDA_HASH_RESULTS,     /* usk_cu_ptr: of uint64_t, zeroed before */
    USK_CUDA_HASH_N_PARAMETERS,
};

/* Its companion copies sums to where the host reads them. Grid: x is as many blocks as hold n threads. */
#define USK_CUDA_PUBLISH_KERNEL "usk_hash_publish"

enum usk_cuda_publish_parameter {
    USK_CUDA_PUBLISH_RESULTS, /* usk_cu_ptr: of uint64_t, in pinned host memory */
    USK_CUDA_PUBLISH_SUMS,    /* usk_cu_ptr: of uint64_t */
    USK_CUDA_PUBLISH_N,       /* uint64_t */
    USK_CUDA_PUBLISH_N_PARAMETERS,
};

#endif
