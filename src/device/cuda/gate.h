/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_CUDA_GATE_H
#define USK_DEVICE_CUDA_GATE_H

#include <stdbool.h>

/* As the contract's begin_burst(), end_burst(), begin_paging() and end_paging(), for the whole process. */
bool usk_cuda_gate_begin_burst(int event_fd);
void usk_cuda_gate_end_burst(void);
void usk_cuda_gate_begin_paging(void);
void usk_cuda_gate_end_paging(void);
/* event_fd is about to be closed: it is not signalled any more. */
void usk_cuda_gate_forget(int event_fd);

/* Around a registration, or the end of one. [any] [blocks] */
void usk_cuda_gate_enter(void);
void usk_cuda_gate_leave(void);

#endif
