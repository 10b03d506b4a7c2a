/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_DEVICE_FAULT_LEDGER_H
#define USK_DEVICE_FAULT_LEDGER_H

#include <pthread.h>

#include "device/device.h"

/* What the code under test holds on the inner device, in the order in which it can be undone. */
enum usk_fault_ledger_kind {
    USK_LEDGER_MAPPING,
    USK_LEDGER_HANDLE,
    USK_LEDGER_RANGE,
    USK_LEDGER_REGISTRATION,
    USK_N_LEDGER_KINDS,
};

struct usk_fault_ledger_entry {
    uint64_t start, bytes;
};

struct usk_fault_ledger {
    pthread_mutex_t lock;
    struct {
        struct usk_fault_ledger_entry *entries;
        size_t n, capacity;
    } kinds[USK_N_LEDGER_KINDS];
};

void usk_fault_ledger_init(struct usk_fault_ledger *ledger);
void usk_fault_ledger_fini(struct usk_fault_ledger *ledger);
/* Thread-safe. Without memory for it an entry is not made, and not undone. */
void usk_fault_ledger_add(struct usk_fault_ledger *ledger, enum usk_fault_ledger_kind kind, uint64_t start,
                          uint64_t bytes);
/* Thread-safe. Takes out every entry that starts in [start, start + bytes). */
void usk_fault_ledger_remove(struct usk_fault_ledger *ledger, enum usk_fault_ledger_kind kind, uint64_t start,
                             uint64_t bytes);
/* Undoes on the device all that is left. */
void usk_fault_ledger_undo(struct usk_fault_ledger *ledger, struct usk_device *dev);

#endif
