/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_STATE_H
#define CLI_STATE_H

#include <unstick/estimate.h>

/* What runs leave for later ones: $XDG_STATE_HOME/unstick, or ~/.local/state/unstick. */

/* Reads the learned peaks. No file, or no place for one: none are known. UNSTICK_BAD_FORMAT: it was damaged, and
 * has been moved aside under a name that the error tells; the next call finds none. */
int cli_state_read_peaks(struct unstick_peaks **ret_peaks, struct unstick_error *error);

/* Adds one measurement to the file, whatever other processes do to it at the same time. */
int cli_state_add_peak(const char *key, const char *fingerprint, uint64_t bytes, struct unstick_error *error);

#endif
