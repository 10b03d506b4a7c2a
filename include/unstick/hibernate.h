/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Hibernation: another process gives up everything it holds on the GPUs, its CUDA context, its libraries' memory and
 * its graphs included, and gets it back later at the same addresses. It is what is left where no allocator reaches.
 *
 * The driver does it (its checkpoint calls, driver 570 and newer, Linux on x86-64). Contents wait in host memory of the
 * process, which lives on: its threads run until they call CUDA, and then sleep until it is woken. Nothing need be
 * prepared in it. What the driver cannot save is managed memory (UVM) and memory shared with other processes (IPC, and
 * NCCL with it); a process that holds such is refused by the driver, and may be lost by the attempt.
 *
 * Every call here blocks its thread and may be made from any thread. It makes no CUDA context, so it takes no device
 * memory of its own. A process cannot hibernate itself: who would wake it?
 */
#ifndef UNSTICK_HIBERNATE_H
#define UNSTICK_HIBERNATE_H

#include <stddef.h>
#include <stdint.h>

#include <unstick/export.h>
#include <unstick/reading.h>
#include <unstick/status.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What the driver says of a process. */
enum unstick_hibernate_state {
    UNSTICK_HIBERNATE_UNKNOWN = 0,    /**< the driver was not asked, or did not answer */
    UNSTICK_HIBERNATE_RUNNING = 1,    /**< it uses CUDA as always */
    UNSTICK_HIBERNATE_LOCKED = 2,     /**< its calls to CUDA block; its memory is on the device */
    UNSTICK_HIBERNATE_HIBERNATED = 3, /**< its calls to CUDA block; it holds nothing on any GPU */
    UNSTICK_HIBERNATE_FAILED = 4,     /**< what it had on the GPUs is lost: end it */
    UNSTICK_HIBERNATE_MOVING = 5,     /**< somebody saves or restores it right now */
};

/** What a call did. Zero-initialize, set `size` to sizeof. */
struct unstick_hibernation {
    size_t size;                        /**< sizeof(struct unstick_hibernation) */
    int pid;                            /**< the process */
    enum unstick_hibernate_state state; /**< at the end, as far as the driver said */
    unsigned int sources;               /**< enum unstick_source, or-ed: DRIVER for device_, PROCESSES for process_ */
    uint64_t device_before_bytes;       /**< in use on all GPUs of the machine, whoever holds it, before the call */
    uint64_t device_after_bytes;        /**< and after it */
    uint64_t process_before_bytes;      /**< what the process held on them, in the driver's own list, before the call */
    uint64_t process_after_bytes;       /**< and after it; 0: it is not in the list any more */
    uint64_t lock_ns;                   /**< until what it had submitted was done and its calls were blocked */
    uint64_t copy_ns;                   /**< saving, or restoring */
    uint64_t total_ns;                  /**< the whole call */
};

/**
 * Hibernates a process: locks it, saves it, and leaves it locked. It takes host memory for all that it holds on the
 * GPUs; where that is known to be more than there is, the call is refused before anything is touched.
 *
 * @param pid a process of the same user, other than the caller's; not a thread of one.
 * @param timeout_ms how long to wait for the work that it has submitted, and for the driver to answer; 0: no limit. The
 * copy that follows is not limited: it cannot be broken off.
 * @param ret_report NULL, or size set by the caller; also written on failure, as far as things went.
 * @return UNSTICK_OK: hibernated. The process runs on as before after
 *   UNSTICK_NOT_FOUND (no such process, or it ended meanwhile), UNSTICK_INVALID_ARGUMENT,
 *   UNSTICK_NOT_PERMITTED (another user's), UNSTICK_UNSUPPORTED (it uses no CUDA, or the driver cannot here),
 *   UNSTICK_WRONG_STATE (hibernated already, locked by somebody, or failed),
 *   UNSTICK_TIMED_OUT, UNSTICK_OUT_OF_HOST_MEMORY, UNSTICK_NO_DEVICE,
 *   UNSTICK_DRIVER_TOO_OLD (the text names the version that is needed);
 *   after UNSTICK_DRIVER the report's state and the text say whether it does.
 */
UNSTICK_EXPORT int unstick_hibernate(int pid, uint32_t timeout_ms, struct unstick_hibernation *ret_report,
                                     struct unstick_error *error);

/**
 * Wakes a process: restores what was saved, and unlocks it. One that is only locked, since whoever hibernated it
 * was killed half-way, is unlocked. The GPUs must have room for what it held.
 *
 * @param timeout_ms how long to wait for the driver to answer; 0: no limit. The copy is not limited.
 * @return UNSTICK_OK: it runs. UNSTICK_WRONG_STATE: it runs already, or has failed. UNSTICK_OUT_OF_DEVICE_MEMORY: it
 * stays hibernated; make room and wake it again. Else as unstick_hibernate().
 */
UNSTICK_EXPORT int unstick_wake(int pid, uint32_t timeout_ms, struct unstick_hibernation *ret_report,
                                struct unstick_error *error);

/**
 * Asks which state a process is in. Changes nothing. Answers within 10 s, or fails with UNSTICK_TIMED_OUT.
 * @param ret_state written on success. @return as unstick_hibernate(), never UNSTICK_WRONG_STATE.
 */
UNSTICK_EXPORT int unstick_hibernate_state(int pid, enum unstick_hibernate_state *ret_state,
                                           struct unstick_error *error);

/** "running", "locked", "hibernated", "failed", "moving"; "unknown" for a value that is none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_hibernate_state_name(enum unstick_hibernate_state state);

#ifdef __cplusplus
}
#endif

#endif
