/* SPDX-License-Identifier: Apache-2.0 */
/** unstick: GPU memory that lets go. This header includes the whole public interface. */
#ifndef UNSTICK_UNSTICK_H
#define UNSTICK_UNSTICK_H

#include <unstick/allocconf.h>
#include <unstick/cache.h>
#include <unstick/context.h>
#include <unstick/device.h>
#include <unstick/estimate.h>
#include <unstick/export.h>
#include <unstick/hibernate.h>
#include <unstick/key.h>
#include <unstick/metrics.h>
#include <unstick/model.h>
#include <unstick/monitor.h>
#include <unstick/policy.h>
#include <unstick/reading.h>
#include <unstick/reclaim.h>
#include <unstick/region.h>
#include <unstick/status.h>
#include <unstick/task.h>
#include <unstick/version.h>

#endif
