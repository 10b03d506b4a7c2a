/* SPDX-License-Identifier: Apache-2.0 */
/**
 * Status codes and error details.
 *
 * Every call that can fail returns an `int` status: 0 is done, a positive value is not an error (the work is in
 * progress), a negative value is a failure. The range of a failure says what is lost:
 *
 *   -1 ..   -99   this call only; nothing changed
 *   -100 .. -199  this region; other regions and the device go on
 *   -200 .. -299  the device; every later call on it fails the same way, host backups stay readable
 */
#ifndef UNSTICK_STATUS_H
#define UNSTICK_STATUS_H

#include <stdint.h>

#include <unstick/export.h>

#ifdef __cplusplus
extern "C" {
#endif

/** One line per status: name, value, text. The enum, the texts and the documentation are made from it. */
#define UNSTICK_STATUS_MAP(X)                                                                                \
    X(OK, 0, "done")                                                                                         \
    X(PENDING, 1, "in progress")                                                                             \
    X(INVALID_ARGUMENT, -1, "invalid argument")                                                              \
    X(OUT_OF_HOST_MEMORY, -2, "out of host memory")                                                          \
    X(UNSUPPORTED, -3, "not supported here")                                                                 \
    X(BUSY, -4, "in use")                                                                                    \
    X(CANCELED, -5, "canceled")                                                                              \
    X(NOT_FOUND, -6, "not found")                                                                            \
    X(BAD_FORMAT, -7, "malformed file")                                                                      \
    X(IO, -8, "input or output failed")                                                                      \
    X(NO_DEVICE, -9, "no such device")                                                                       \
    X(FORKED, -10, "used in a forked child")                                                                 \
    X(TIMED_OUT, -11, "timed out")                                                                           \
    X(HOST_BUDGET, -12, "host memory budget exhausted")                                                      \
    X(NO_SPACE, -13, "no space left on the file system")                                                     \
    X(NOT_PERMITTED, -14, "not permitted")                                                                   \
    X(WRONG_STATE, -15, "not possible in this state")                                                        \
    X(OUT_OF_DEVICE_MEMORY, -100, "out of device memory")                                                    \
    X(NOT_RESIDENT, -101, "contents are not on the device")                                                  \
    X(REVOKED, -102, "the region was revoked")                                                               \
    X(BACKUP_CHANGED, -103, "the file that backs the region has changed")                                    \
    X(CONTENTS_CHANGING, -104, "contents were written while they were copied")                               \
    X(MISMATCH, -105, "contents differ from their backup")                                                   \
    X(POISONED, -106, "a granule is in an unknown state")                                                    \
    X(NO_CONTENTS, -107, "the region has no contents")                                                       \
    X(DRIVER, -150, "the driver failed the call")                                                            \
    X(DEVICE_LOST, -200, "the device was lost")                                                              \
    X(DRIVER_TOO_OLD, -201, "the driver is too old")

/** The statuses of UNSTICK_STATUS_MAP. */
enum unstick_status {
#define UNSTICK_STATUS_ENUM(_name, _value, _text) UNSTICK_##_name = (_value),
    UNSTICK_STATUS_MAP(UNSTICK_STATUS_ENUM)
#undef UNSTICK_STATUS_ENUM
};

/**
 * What went wrong, in detail. The caller owns it and may pass NULL wherever one is taken. It is written on failure
 * only.
 */
struct unstick_error {
    int status;               /**< enum unstick_status */
    int native;               /**< errno or the driver's own code; 0 if there is none */
    uint64_t required_bytes;  /**< what was asked for, where the failure is a shortage; else 0 */
    uint64_t available_bytes; /**< what there was, where the failure is a shortage; else 0 */
    char operation[32];       /**< the call that failed, such as "cuMemCreate" */
    char text[448];           /**< one line: what was asked, what was there, what to do */
};

/** The name of a status, such as "OUT_OF_DEVICE_MEMORY"; "UNKNOWN" for a value that is none. Never NULL, static. */
UNSTICK_EXPORT const char *unstick_status_name(int status);

/** One line of English for a status; never NULL, static. */
UNSTICK_EXPORT const char *unstick_status_text(int status);

#ifdef __cplusplus
}
#endif

#endif
