/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Under faults the code under test gives things up as lost that the inner device would have taken back. That device is
 * well and may outlive the fault device (a GPU's context is the process's), so what is left is undone when the fault
 * device closes: else a loop over all faults would fill the GPU. Only then: until it closes, what was given up is held.
 */
#include "device/fault/ledger.h"

#include <stdlib.h>

void usk_fault_ledger_init(struct usk_fault_ledger *ledger)
{
    *ledger = (struct usk_fault_ledger){ 0 };
    pthread_mutex_init(&ledger->lock, NULL);
}

void usk_fault_ledger_fini(struct usk_fault_ledger *ledger)
{
    for (int kind = 0; kind < USK_N_LEDGER_KINDS; kind++)
        free(ledger->kinds[kind].entries);
    pthread_mutex_destroy(&ledger->lock);
}

void usk_fault_ledger_add(struct usk_fault_ledger *ledger, enum usk_fault_ledger_kind kind, uint64_t start,
                          uint64_t bytes)
{
    pthread_mutex_lock(&ledger->lock);
    if (ledger->kinds[kind].n == ledger->kinds[kind].capacity) {
        size_t capacity = 2 * ledger->kinds[kind].capacity + 32;
        struct usk_fault_ledger_entry *entries =
            realloc(ledger->kinds[kind].entries, capacity * sizeof(entries[0]));

        if (entries) {
            ledger->kinds[kind].entries = entries;
            ledger->kinds[kind].capacity = capacity;
        }
    }
    if (ledger->kinds[kind].n < ledger->kinds[kind].capacity)
        ledger->kinds[kind].entries[ledger->kinds[kind].n++] = (struct usk_fault_ledger_entry){ start, bytes };
    pthread_mutex_unlock(&ledger->lock);
}

void usk_fault_ledger_remove(struct usk_fault_ledger *ledger, enum usk_fault_ledger_kind kind, uint64_t start,
                             uint64_t bytes)
{
    struct usk_fault_ledger_entry *entries;
    size_t n_kept = 0;

    pthread_mutex_lock(&ledger->lock);
    entries = ledger->kinds[kind].entries;
    for (size_t i = 0; i < ledger->kinds[kind].n; i++) {
        if (entries[i].start < start || entries[i].start - start >= bytes)
            entries[n_kept++] = entries[i];
    }
    ledger->kinds[kind].n = n_kept;
    pthread_mutex_unlock(&ledger->lock);
}

static void ledger_undo_one(struct usk_device *dev, enum usk_fault_ledger_kind kind,
                            const struct usk_fault_ledger_entry *entry)
{
    switch (kind) {
    case USK_LEDGER_MAPPING:
        dev->ops->unmap(dev, entry->start, entry->bytes, NULL);
        break;
    case USK_LEDGER_HANDLE:
        dev->ops->release(dev, entry->start, NULL);
        break;
    case USK_LEDGER_RANGE:
        dev->ops->unreserve(dev, entry->start, entry->bytes, NULL);
        break;
    case USK_LEDGER_REGISTRATION:
        dev->ops->unregister_host(dev, (void *)(uintptr_t)entry->start, entry->bytes, NULL);
        break;
    case USK_N_LEDGER_KINDS:
        break;
    }
}

void usk_fault_ledger_undo(struct usk_fault_ledger *ledger, struct usk_device *dev)
{
    for (int kind = 0; kind < USK_N_LEDGER_KINDS; kind++) {
        for (size_t i = 0; i < ledger->kinds[kind].n; i++)
            ledger_undo_one(dev, (enum usk_fault_ledger_kind)kind, &ledger->kinds[kind].entries[i]);
        ledger->kinds[kind].n = 0;
    }
}
