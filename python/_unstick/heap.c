/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The object graph, walked once and forward: breadth first from the roots, so that the parent of a node is on a
 * shortest way to it, and every object is traversed a single time however many references it has.
 *
 * Invariant: from heap_init() to heap_fini() no Python code runs. The GIL is held, the collector is off, and nothing
 * here drops the last reference of anything. So all pointers may be borrowed.
 *
 * What costs time is finding the number of an object from its address. A hash table would miss the cache at every
 * reference; objects that were made together lie and point close together, so a table laid out as the address space is
 * (one slot per 16 bytes, in chunks of 1 MiB that exist where objects do) mostly hits it.
 */
#include "heap.h"

#include <stdlib.h>
#include <sys/mman.h>

#define HEAP_CHUNK_BITS 20
#define HEAP_SLOT_BITS 4
#define HEAP_N_SLOTS (1u << (HEAP_CHUNK_BITS - HEAP_SLOT_BITS))
#define HEAP_PREFETCH 8
/* To begin with: a few MiB of each. */
#define HEAP_FIRST_CHUNKS 16
#define HEAP_FIRST_NODES (1u << 18)
/* From 3.14 on a frame may borrow what its caller holds: a variable is not always a reference. */
#define HEAP_COUNTS_ARE_EXACT (PY_VERSION_HEX < 0x030e0000)

struct heap_chunk {
    uintptr_t key;   /* address >> HEAP_CHUNK_BITS */
    uint32_t number; /* 1 + which part of heap.slots is its own; 0: a free entry */
};

/*
 * Memory for millions of entries, zeroed, in huge pages where there are any: small ones, each zeroed in a fault of its
 * own, took a fifth of the time of a walk. Frees nothing on failure.
 */
static bool pages_grow(void **array, size_t old_bytes, size_t new_bytes)
{
    void *grown = old_bytes ? mremap(*array, old_bytes, new_bytes, MREMAP_MAYMOVE)
                            : mmap(NULL, new_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (grown == MAP_FAILED)
        return false;
    madvise(grown, new_bytes, MADV_HUGEPAGE);
    *array = grown;
    return true;
}

static struct heap_chunk *chunk_at(struct heap_chunk *chunks, size_t n_allocated, uintptr_t key)
{
    size_t at = (size_t)(key * 0x9e3779b97f4a7c15u >> 20) & (n_allocated - 1);

    while (chunks[at].number && chunks[at].key != key)
        at = (at + 1) & (n_allocated - 1);
    return &chunks[at];
}

static bool heap_grow_chunks(struct heap *heap)
{
    size_t n_allocated = heap->n_chunks_allocated ? heap->n_chunks_allocated * 2 : 1024;
    struct heap_chunk *chunks = calloc(n_allocated, sizeof(*chunks));

    if (!chunks)
        return false;
    for (size_t i = 0; i < heap->n_chunks_allocated; i++) {
        if (heap->chunks[i].number)
            *chunk_at(chunks, n_allocated, heap->chunks[i].key) = heap->chunks[i];
    }
    free(heap->chunks);
    heap->chunks = chunks;
    heap->n_chunks_allocated = n_allocated;
    heap->last_chunk = NULL;
    return true;
}

static size_t slot_of(const struct heap_chunk *chunk, const PyObject *object)
{
    size_t within = ((uintptr_t)object >> HEAP_SLOT_BITS) & (HEAP_N_SLOTS - 1);

    return (size_t)(chunk->number - 1) * HEAP_N_SLOTS + within;
}

uint32_t heap_find(struct heap *heap, const PyObject *object)
{
    uintptr_t key = (uintptr_t)object >> HEAP_CHUNK_BITS;
    const struct heap_chunk *chunk = heap->last_chunk;

    if (!chunk || chunk->key != key) {
        chunk = chunk_at(heap->chunks, heap->n_chunks_allocated, key);
        if (!chunk->number)
            return HEAP_NONE;
        heap->last_chunk = chunk;
    }
    return heap->slots[slot_of(chunk, object)] - 1;
}

static bool heap_grow_slots(struct heap *heap)
{
    size_t n_chunks = heap->n_slot_chunks ? heap->n_slot_chunks * 2 : HEAP_FIRST_CHUNKS;
    void *slots = heap->slots;

    if (!pages_grow(&slots, heap->n_slot_chunks * HEAP_N_SLOTS * sizeof(*heap->slots),
                    n_chunks * HEAP_N_SLOTS * sizeof(*heap->slots)))
        return false;
    heap->slots = slots;
    heap->n_slot_chunks = n_chunks;
    return true;
}

static bool heap_note(struct heap *heap, const PyObject *object, uint32_t index)
{
    uintptr_t key = (uintptr_t)object >> HEAP_CHUNK_BITS;
    struct heap_chunk *chunk;

    if (heap->n_chunks * 2 >= heap->n_chunks_allocated && !heap_grow_chunks(heap))
        return false;
    chunk = chunk_at(heap->chunks, heap->n_chunks_allocated, key);
    if (!chunk->number) {
        if (heap->n_chunks == heap->n_slot_chunks && !heap_grow_slots(heap))
            return false;
        chunk->key = key;
        chunk->number = (uint32_t)++heap->n_chunks;
    }
    heap->slots[slot_of(chunk, object)] = index + 1;
    return true;
}

static bool heap_grow_nodes(struct heap *heap)
{
    uint32_t n_wanted = heap->n_allocated ? heap->n_allocated * 2 : HEAP_FIRST_NODES;
    void *nodes = heap->nodes;

    if (n_wanted >= HEAP_IS_ROOT || !pages_grow(&nodes, heap->n_allocated * sizeof(*heap->nodes),
                                                n_wanted * sizeof(*heap->nodes)))
        return false;
    heap->nodes = nodes;
    heap->n_allocated = n_wanted;
    return true;
}

/* Makes room for one more element of an array. */
static bool heap_make_room(void *array, uint32_t n, uint32_t *n_allocated, size_t element_bytes)
{
    uint32_t n_wanted = *n_allocated ? *n_allocated * 2 : 4096;
    void *grown;

    if (n < *n_allocated)
        return true;
    grown = n_wanted < HEAP_IS_ROOT ? realloc(*(void **)array, n_wanted * element_bytes) : NULL;
    if (!grown)
        return false;
    *(void **)array = grown;
    *n_allocated = n_wanted;
    return true;
}

uint32_t heap_add(struct heap *heap, PyObject *object, uint32_t parent)
{
    if ((heap->n_nodes == heap->n_allocated && !heap_grow_nodes(heap)) || !heap_note(heap, object, heap->n_nodes)) {
        heap->is_short = true;
        return HEAP_NONE;
    }
    heap->nodes[heap->n_nodes] = (struct heap_node){ .object = object, .parent = parent };
    return heap->n_nodes++;
}

uint32_t heap_root_add(struct heap *heap, enum heap_root_kind kind, PyObject *code, PyObject *name,
                       unsigned long thread_id)
{
    if (!heap_make_room(&heap->roots, heap->n_roots, &heap->n_roots_allocated, sizeof(*heap->roots))) {
        heap->is_short = true;
        return HEAP_NONE;
    }
    heap->roots[heap->n_roots] = (struct heap_root){
        .kind = kind,
        .code = Py_XNewRef(code),
        .name = Py_XNewRef(name),
        .thread_id = thread_id,
    };
    return heap->n_roots++ | HEAP_IS_ROOT;
}

/* Whether a root stands for a reference of its own, and not for one that an object on the heap has, too. */
static bool root_is_reference(const struct heap_root *root)
{
    return !root->is_in_cell && root->kind != HEAP_ROOT_MODULE && root->kind != HEAP_ROOT_NAMESPACE;
}

static void heap_add_edge(struct heap *heap, uint32_t from, uint32_t target)
{
    if (!heap_make_room(&heap->edges, heap->n_edges, &heap->n_edges_allocated, sizeof(*heap->edges))) {
        heap->is_short = true;
        return;
    }
    heap->edges[heap->n_edges++] = (struct heap_edge){ from, target };
    if (from != HEAP_NONE && from & HEAP_IS_ROOT && !root_is_reference(&heap->roots[from & ~HEAP_IS_ROOT]))
        return;
    if (--heap->nodes[target].surplus == 0)
        heap->n_open--;
}

/* PyObject_IS_GC() is a call up to 3.11, and asked for every reference to a string or number. */
static bool is_collectable(PyObject *object)
{
    const PyTypeObject *type = Py_TYPE(object);

    return (type->tp_flags & Py_TPFLAGS_HAVE_GC) && (!type->tp_is_gc || type->tp_is_gc(object));
}

/* A target may be something without references that can be visited: a string, or a type that is not on the heap. */
static void object_visit(PyObject *object, visitproc visit, struct heap *heap)
{
    if (is_collectable(object) && Py_TYPE(object)->tp_traverse)
        Py_TYPE(object)->tp_traverse(object, visit, heap);
}

void heap_meet(struct heap *heap, uint32_t from, PyObject *object)
{
    uint32_t index;

    /* The type first: it must be read anyway, and most of what is met are strings and numbers. */
    if (!is_collectable(object) && !heap->has_plain_target)
        return;
    index = heap_find(heap, object);
    if (index != HEAP_NONE) {
        if (index < heap->n_targets)
            heap_add_edge(heap, from, index);
    } else if (is_collectable(object) && object != heap->ignored) {
        /* On no list of the collector or on one: objects that were frozen or left untracked hold others, too. */
        heap_add(heap, object, from);
    }
}

static int heap_visit(PyObject *object, void *userdata)
{
    struct heap *heap = userdata;

    heap_meet(heap, heap->from, object);
    return 0;
}

/* Two steps ahead of the walk: the object, and then what it keeps its references in. */
static void heap_prefetch(const struct heap *heap, uint32_t at)
{
    const PyObject *object;

    if (at + 2 * HEAP_PREFETCH >= heap->n_nodes)
        return;
    __builtin_prefetch(heap->nodes[at + 2 * HEAP_PREFETCH].object);
    object = heap->nodes[at + HEAP_PREFETCH].object;
    if (Py_IS_TYPE(object, &PyDict_Type))
        __builtin_prefetch(((const PyDictObject *)object)->ma_keys);
    else if (Py_IS_TYPE(object, &PyList_Type))
        __builtin_prefetch(((const PyListObject *)object)->ob_item);
}

void heap_spread(struct heap *heap, uint32_t first)
{
    for (uint32_t i = first; i < heap->n_nodes && !heap->is_short; i++) {
        PyObject *object = heap->nodes[i].object;

        if (HEAP_COUNTS_ARE_EXACT && heap->n_targets && !heap->n_open)
            break;
        heap_prefetch(heap, i);
        heap->from = i;
        if (Py_TYPE(object)->tp_traverse)
            Py_TYPE(object)->tp_traverse(object, heap_visit, heap);
    }
    heap->n_reached = heap->n_nodes;
}

/* --- the rest ---------------------------------------------------------------------------------------------------- */

static void rest_add(struct heap *heap, PyObject *object)
{
    if (object != heap->ignored && heap_find(heap, object) == HEAP_NONE)
        heap_add(heap, object, HEAP_NONE);
}

#if PY_VERSION_HEX >= 0x030c0000
static int rest_collect_one(PyObject *object, void *userdata)
{
    rest_add(userdata, object);
    return 1;
}

static void rest_collect(struct heap *heap)
{
    PyUnstable_GC_VisitObjects(rest_collect_one, heap);
}
#else
static void rest_collect(struct heap *heap)
{
    /* Not imported here, which might run Python code: the module was imported with this one. */
    PyObject *gc = PyDict_GetItemString(PyImport_GetModuleDict(), "gc");
    PyObject *list = gc ? PyObject_CallMethod(gc, "get_objects", NULL) : NULL;

    /* The list's own references are gone before any are counted; nothing else held only by it can exist. */
    for (Py_ssize_t i = 0; list && i < PyList_GET_SIZE(list); i++) {
        if (PyList_GET_ITEM(list, i) != list)
            rest_add(heap, PyList_GET_ITEM(list, i));
    }
    if (!list) {
        PyErr_Clear();
        heap->is_short = true;
    }
    Py_XDECREF(list);
}
#endif

static int rest_count(PyObject *object, void *userdata)
{
    struct heap *heap = userdata;
    uint32_t index;

    if (!is_collectable(object) && !heap->has_plain_target)
        return 0;
    index = heap_find(heap, object);
    if (index == HEAP_NONE && is_collectable(object) && object != heap->ignored) {
        index = heap_add(heap, object, HEAP_NONE);
        if (index != HEAP_NONE)
            heap->nodes[index].surplus = (int32_t)Py_REFCNT(object);
    }
    if (index == HEAP_NONE)
        return 0;
    if (index >= heap->n_reached)
        heap->nodes[index].surplus--;
    else if (index < heap->n_targets)
        heap_add_edge(heap, heap->from, index);
    return 0;
}

static int rest_claim(PyObject *object, void *userdata)
{
    struct heap *heap = userdata;
    uint32_t index = heap_find(heap, object);

    if (index != HEAP_NONE && index >= heap->n_reached && heap->nodes[index].parent == HEAP_NONE) {
        heap->nodes[index].parent = heap->from;
        heap->queue[heap->n_queue++] = index;
    }
    return 0;
}

/* What the nodes in the queue reach of the rest. */
static void rest_spread(struct heap *heap)
{
    for (uint32_t at = 0; at < heap->n_queue; at++) {
        heap->from = heap->queue[at];
        object_visit(heap->nodes[heap->from].object, rest_claim, heap);
    }
    heap->n_queue = 0;
}

void heap_add_rest(struct heap *heap)
{
    uint32_t root;

    if (HEAP_COUNTS_ARE_EXACT && heap->n_targets && !heap->n_open)
        return;
    rest_collect(heap);
    for (uint32_t i = heap->n_reached; i < heap->n_nodes; i++)
        heap->nodes[i].surplus = (int32_t)Py_REFCNT(heap->nodes[i].object);
    for (uint32_t i = 0; i < heap->n_nodes && !heap->is_short; i++) {
        /* Of the reached ones only targets were not traversed: what they alone hold is no surplus of C's. */
        if (i == heap->n_targets && i < heap->n_reached)
            i = heap->n_reached;
        if (i >= heap->n_nodes)
            break;
        heap->from = i;
        object_visit(heap->nodes[i].object, rest_count, heap);
    }
    /* Each node is queued at most once a time. */
    heap->queue = heap->is_short ? NULL : malloc((heap->n_nodes + 1) * sizeof(*heap->queue));
    if (!heap->queue) {
        heap->is_short = true;
        return;
    }

    root = heap_root_add(heap, HEAP_ROOT_C, NULL, NULL, 0);
    for (uint32_t i = heap->n_reached; i < heap->n_nodes; i++) {
        if (heap->nodes[i].surplus > 0) {
            heap->nodes[i].parent = root;
            heap->queue[heap->n_queue++] = i;
        }
    }
    rest_spread(heap);

    root = heap_root_add(heap, HEAP_ROOT_SELF, NULL, NULL, 0);
    for (uint32_t i = 0; i < heap->n_targets; i++) {
        heap->nodes[i].parent = root;
        heap->queue[heap->n_queue++] = i;
    }
    rest_spread(heap);
}

/* --- beginning and end ------------------------------------------------------------------------------------------- */

bool heap_init(struct heap *heap, PyObject *targets)
{
    *heap = (struct heap){ .ignored = targets, .was_collecting = PyGC_Disable() };
    if (!heap_grow_chunks(heap))
        heap->is_short = true;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(targets) && !heap->is_short; i++) {
        PyObject *target = PyList_GET_ITEM(targets, i);
        uint32_t index = heap_find(heap, target) == HEAP_NONE ? heap_add(heap, target, HEAP_NONE) : HEAP_NONE;

        if (index == HEAP_NONE)
            continue;
        /* One is the list's. */
        heap->nodes[index].surplus = (int32_t)Py_REFCNT(target) - 1;
        heap->n_open += heap->nodes[index].surplus > 0;
        heap->has_plain_target |= !is_collectable(target);
    }
    heap->n_targets = heap->n_reached = heap->n_nodes;
    return !heap->is_short;
}

void heap_fini(struct heap *heap)
{
    for (uint32_t i = 0; i < heap->n_roots; i++) {
        Py_XDECREF(heap->roots[i].code);
        Py_XDECREF(heap->roots[i].name);
    }
    if (heap->slots)
        munmap(heap->slots, heap->n_slot_chunks * HEAP_N_SLOTS * sizeof(*heap->slots));
    if (heap->nodes)
        munmap(heap->nodes, heap->n_allocated * sizeof(*heap->nodes));
    free(heap->chunks);
    free(heap->roots);
    free(heap->edges);
    free(heap->queue);
    if (heap->was_collecting)
        PyGC_Enable();
}
