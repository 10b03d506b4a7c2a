/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_CONFORMANCE_DRIVER_H
#define TEST_CONFORMANCE_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "device/cuda/abi.h"

/* What the facts about memory (driver.c) and those about streams (driver_streams.c) share. */

#define MIB (UINT64_C(1) << 20)

/* Only this program captures: the library never does. */
typedef struct graph_opaque *graph;
typedef usk_cu_result usk_cu_fn_cuStreamBeginCapture(usk_cu_stream stream, int mode);
typedef usk_cu_result usk_cu_fn_cuStreamEndCapture(usk_cu_stream stream, graph *ret_graph);
typedef usk_cu_result usk_cu_fn_cuGraphDestroy(graph graph);

struct driver_calls {
#define MEMBER(_name, _version, _need, _parameters) usk_cu_fn_##_name *_name;
    USK_CUDA_SYMBOLS(MEMBER)
#undef MEMBER
    usk_cu_fn_cuStreamBeginCapture *cuStreamBeginCapture;
    usk_cu_fn_cuStreamEndCapture *cuStreamEndCapture;
    usk_cu_fn_cuGraphDestroy *cuGraphDestroy;
};

extern struct driver_calls cu;
extern struct usk_cu_mem_prop prop;
extern struct usk_cu_mem_access read_write;
extern uint64_t unit; /* the granularity */

const char *driver_name_of(usk_cu_result result);

/* A line each. The library rests on it: FAILED if it does not hold, or if the result is another one. */
__attribute__((format(printf, 2, 3))) void fact(bool holds, const char *format, ...);
__attribute__((format(printf, 3, 4))) void fact_result(usk_cu_result result, usk_cu_result expected, const char *format,
                                                       ...);
/* Only printed. */
__attribute__((format(printf, 2, 3))) void seen(usk_cu_result result, const char *format, ...);

/* What the facts need and are not themselves: a failure ends the program. */
void must(usk_cu_result result, const char *call);
#define MUST(_call) must((_call), #_call)

usk_cu_ptr driver_reserve(uint64_t bytes);
usk_cu_handle driver_create(uint64_t bytes);
/* Mapped and accessible. */
void driver_map(usk_cu_ptr address, uint64_t bytes, usk_cu_handle handle);
void *driver_map_host(uint64_t bytes, int protection, int flags, int fd);

/* --- driver_streams.c --- */

void check_fences(void);
void check_captures(void);

#endif
