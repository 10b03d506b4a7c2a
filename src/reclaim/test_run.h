/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_RECLAIM_TEST_RUN_H
#define USK_RECLAIM_TEST_RUN_H

#include "reclaim/test_host.h"

/* What a test of a run is about: a host, a machine, and the options that the next machine is made with. */
extern struct test_host host;
extern struct unstick_reclaim *machine;
extern struct unstick_reclaim_options options;

/* Makes a machine and runs it to its end; the machine stays until the next run. */
struct unstick_reclaim_result run(void);
int teardown(void **unused);

#endif
