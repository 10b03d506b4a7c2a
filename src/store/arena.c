/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An arena holds exactly the memory of the pieces that somebody holds a granule of, and of at most two more
 * that were begun ahead of a get. Pieces consist of whole granules, so no copy ever crosses a border between
 * registrations, and belong to one region, so that memory goes back when a region does and no region's rest
 * keeps another's alive.
 *
 * What was begun ahead is a guess that costs budget: it is made only for who asks for one granule after the
 * other, up or down, as an eviction that goes from the last granule to the first does; a single granule that
 * changed takes one piece and no more. It is taken back when the last hold ends, when the task says that it
 * is done (trim), and when anybody is about to be refused for want of budget; a guess never makes others give
 * back.
 *
 * Holds are counted by the baton's holder alone; the blocks beneath have their own lock.
 */
#include <stdlib.h>

#include "base/error.h"
#include "base/math.h"
#include "base/os.h"
#include "store/store_private.h"

/* Registering one piece beside touching the next takes one; the second bridges the time between two gets. */
#define ARENA_AHEAD 2

struct arena_piece {
    struct usk_block block;
    uint32_t n_holds;
};

struct usk_arena {
    struct usk_store *store;
    struct usk_arena *next;
    uint64_t granule_bytes;
    uint32_t n_granules, n_granules_per_piece, n_pieces;
    uint64_t n_holds;
    uint32_t last_index; /* that was got; UINT32_MAX: none */
    bool is_freed;
    struct arena_piece pieces[];
};

int usk_arena_new(struct usk_store *store, uint64_t granule_bytes, uint64_t bytes, enum unstick_tier tier,
                  struct usk_arena **ret_arena, struct unstick_error *error)
{
    uint64_t page_bytes = usk_os_page_bytes(), n_granules, n_granules_per_piece, n_pieces, total_bytes, last_bytes;
    bool wants_pin = tier == UNSTICK_TIER_PINNED && store->dev->caps.can_register;
    struct usk_arena *arena;

    usk_store_reap(store);
    if (tier != UNSTICK_TIER_PINNED && tier != UNSTICK_TIER_PAGEABLE)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "arena", "tier %d is not one of host memory",
                             (int)tier);
    if (!bytes || !usk_align_up(bytes, page_bytes, &total_bytes) || !granule_bytes || granule_bytes % page_bytes ||
        usk_div_up(bytes, granule_bytes) > UINT32_MAX)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "arena",
                             "%llu bytes in granules of %llu bytes cannot be laid out", (unsigned long long)bytes,
                             (unsigned long long)granule_bytes);

    n_granules = usk_div_up(bytes, granule_bytes);
    n_granules_per_piece = usk_min(usk_max(store->piece_bytes / granule_bytes, 1), n_granules);
    n_pieces = usk_div_up(n_granules, n_granules_per_piece);
    arena = calloc(1, sizeof(*arena) + n_pieces * sizeof(arena->pieces[0]));
    if (!arena)
        return usk_error_set(error, UNSTICK_OUT_OF_HOST_MEMORY, 0, "calloc",
                             "no memory for the %llu pieces of an arena", (unsigned long long)n_pieces);
    arena->store = store;
    arena->granule_bytes = granule_bytes;
    arena->n_granules = (uint32_t)n_granules;
    arena->n_granules_per_piece = (uint32_t)n_granules_per_piece;
    arena->n_pieces = (uint32_t)n_pieces;
    arena->last_index = UINT32_MAX;
    last_bytes = total_bytes - (n_pieces - 1) * n_granules_per_piece * granule_bytes;
    for (uint32_t i = 0; i < arena->n_pieces; i++)
        usk_block_init(&arena->pieces[i].block, store,
                       i + 1 < arena->n_pieces ? n_granules_per_piece * granule_bytes : last_bytes,
                       wants_pin ? USK_BUDGET_PINNED : USK_BUDGET_PAGEABLE, wants_pin);
    arena->next = store->arenas;
    store->arenas = arena;
    *ret_arena = arena;
    return UNSTICK_OK;
}

static struct arena_piece *arena_piece(struct usk_arena *arena, uint32_t index)
{
    return &arena->pieces[index / arena->n_granules_per_piece];
}

static void arena_look_ahead(struct usk_arena *arena, uint32_t index)
{
    uint32_t last = arena->last_index, here = index / arena->n_granules_per_piece;

    arena->last_index = index;
    if (last == UINT32_MAX || (index - last != 1 && last - index != 1))
        return;
    for (uint32_t i = 1; i <= ARENA_AHEAD && (index > last ? i < arena->n_pieces - here : i <= here); i++) {
        struct usk_block *block = &arena->pieces[index > last ? here + i : here - i].block;

        /* One that failed is for its own get to try again. */
        if (usk_block_state(block) == USK_BLOCK_EMPTY)
            (void)usk_block_want(block, false, NULL);
    }
}

int usk_arena_get(struct usk_arena *arena, uint32_t index, struct unstick_error *error)
{
    struct arena_piece *piece;
    int r;

    if (index >= arena->n_granules)
        return usk_error_set(error, UNSTICK_INVALID_ARGUMENT, 0, "arena", "granule %u of %u asked for", index,
                             arena->n_granules);
    piece = arena_piece(arena, index);
    r = usk_block_want(&piece->block, true, error);
    if (r < 0)
        return r;
    piece->n_holds++;
    arena->n_holds++;
    arena_look_ahead(arena, index);
    return r;
}

int usk_arena_poll(struct usk_arena *arena, uint32_t index, struct unstick_error *error)
{
    return usk_block_poll(&arena_piece(arena, index)->block, error);
}

void usk_arena_put(struct usk_arena *arena, uint32_t index)
{
    struct arena_piece *piece = arena_piece(arena, index);

    if (!piece->n_holds)
        return;
    arena->n_holds--;
    if (!--piece->n_holds)
        usk_block_drop(&piece->block);
    if (!arena->n_holds)
        usk_arena_trim(arena);
}

void usk_arena_trim(struct usk_arena *arena)
{
    for (uint32_t i = 0; i < arena->n_pieces; i++) {
        if (!arena->pieces[i].n_holds)
            usk_block_drop(&arena->pieces[i].block);
    }
}

void *usk_arena_data(struct usk_arena *arena, uint32_t index)
{
    char *first = arena_piece(arena, index)->block.address;

    return first + index % arena->n_granules_per_piece * arena->granule_bytes;
}

enum unstick_tier usk_arena_tier(struct usk_arena *arena, uint32_t index)
{
    return arena_piece(arena, index)->block.is_pinned ? UNSTICK_TIER_PINNED : UNSTICK_TIER_PAGEABLE;
}

void usk_arena_free(struct usk_arena *arena)
{
    struct usk_store *store;

    if (!arena)
        return;
    store = arena->store;
    arena->is_freed = true;
    for (uint32_t i = 0; i < arena->n_pieces; i++)
        arena->pieces[i].n_holds = 0;
    usk_arena_trim(arena);
    usk_store_reap(store);
}

static bool arena_is_gone(struct usk_arena *arena)
{
    if (!arena->is_freed)
        return false;
    for (uint32_t i = 0; i < arena->n_pieces; i++) {
        struct usk_block *block = &arena->pieces[i].block;

        /* The state first: EMPTY ends a chain, while no job may be queued in the middle of one. */
        if (usk_block_state(block) != USK_BLOCK_EMPTY || !usk_block_is_idle(block))
            return false;
    }
    return true;
}

void usk_arena_reap(struct usk_store *store)
{
    struct usk_arena **link = &store->arenas;

    while (*link) {
        struct usk_arena *arena = *link;

        if (arena_is_gone(arena)) {
            *link = arena->next;
            free(arena);
        } else {
            link = &arena->next;
        }
    }
}

void usk_arena_wait(struct usk_store *store)
{
    for (struct usk_arena *arena = store->arenas; arena; arena = arena->next) {
        for (uint32_t i = 0; i < arena->n_pieces; i++)
            usk_block_wait(&arena->pieces[i].block);
    }
}

void usk_arena_squeeze(struct usk_store *store)
{
    for (struct usk_arena *arena = store->arenas; arena; arena = arena->next)
        usk_arena_trim(arena);
}

void usk_arena_destroy_all(struct usk_store *store)
{
    while (store->arenas) {
        struct usk_arena *arena = store->arenas;

        for (uint32_t i = 0; i < arena->n_pieces; i++)
            usk_block_fini(&arena->pieces[i].block);
        store->arenas = arena->next;
        free(arena);
    }
}

void usk_arena_count(struct usk_store *store, uint64_t bytes[USK_N_BUDGET_KINDS])
{
    for (struct usk_arena *arena = store->arenas; arena; arena = arena->next) {
        for (uint32_t i = 0; i < arena->n_pieces; i++)
            usk_block_count(&arena->pieces[i].block, bytes);
    }
}
