/* SPDX-License-Identifier: Apache-2.0 */
#ifndef UNSTICK_PYTHON_HEAP_H
#define UNSTICK_PYTHON_HEAP_H

#include "module.h"

/* What keeps an object alive without being on the heap that the garbage collector sees. */
enum heap_root_kind {
    HEAP_ROOT_MODULE,    /* name: the module's */
    HEAP_ROOT_LOCAL,     /* code, name: a running frame's variable */
    HEAP_ROOT_NAMESPACE, /* code: a running frame's globals, or the locals of a class body */
    HEAP_ROOT_THREAD,    /* a thread's dict, or its part of a threading.local */
    HEAP_ROOT_EXCEPTION, /* an exception being handled */
    HEAP_ROOT_CONTEXT,   /* a thread's context variables */
    HEAP_ROOT_C,         /* references that no object explains: held by C, C++ or an evaluation stack */
    HEAP_ROOT_SELF,      /* reachable only through a target */
    HEAP_ROOT_GARBAGE,   /* reachable through nothing: a cycle */
};

struct heap_root {
    enum heap_root_kind kind;
    PyObject *code, *name;   /* own references; NULL where the kind has none */
    unsigned long thread_id; /* 0: the caller's thread */
    bool is_in_cell;         /* the reference itself is a cell's */
};

/* An index into nodes, or with this bit into roots. */
#define HEAP_IS_ROOT 0x80000000u
#define HEAP_NONE UINT32_MAX

struct heap_node {
    PyObject *object; /* borrowed: nothing runs while the heap is walked */
    uint32_t parent;
    int32_t surplus;  /* of targets and the rest: references that were not found yet */
};

/* from is a node, a root, or HEAP_NONE for a variable of this package's own frames. */
struct heap_edge {
    uint32_t from, target;
};

struct heap_chunk;

struct heap {
    struct heap_node *nodes; /* targets first, then in the order in which they were reached */
    uint32_t n_nodes, n_allocated, n_targets;
    uint32_t n_open; /* targets with a surplus */
    bool has_plain_target; /* one that the collector knows nothing of, such as a string */
    uint32_t n_reached; /* nodes below are reachable from a root other than C */
    struct heap_root *roots;
    uint32_t n_roots, n_roots_allocated;
    struct heap_edge *edges; /* to targets */
    uint32_t n_edges, n_edges_allocated;
    const PyObject *ignored; /* the list that names the targets */

    struct heap_chunk *chunks;
    size_t n_chunks, n_chunks_allocated; /* a power of two */
    const struct heap_chunk *last_chunk;
    uint32_t *slots; /* of all chunks: the number of the node at an address, + 1 */
    size_t n_slot_chunks;

    uint32_t from;   /* whose references are being visited */
    uint32_t *queue; /* of rest_spread() */
    uint32_t n_queue;
    bool is_short; /* out of host memory */
    bool was_collecting;
};

/* Starts with the targets; nothing may run Python code until heap_fini(). */
bool heap_init(struct heap *heap, PyObject *targets);
void heap_fini(struct heap *heap);

uint32_t heap_find(struct heap *heap, const PyObject *object);
uint32_t heap_add(struct heap *heap, PyObject *object, uint32_t parent);
uint32_t heap_root_add(struct heap *heap, enum heap_root_kind kind, PyObject *code, PyObject *name,
                       unsigned long thread_id);
/* One reference from `from` to object. */
void heap_meet(struct heap *heap, uint32_t from, PyObject *object);

/* roots.c: what is alive by itself. */
void heap_add_roots(struct heap *heap);
/*
 * Everything reachable from nodes[first...], unless every reference to the targets is found before; n_reached follows.
 */
void heap_spread(struct heap *heap, uint32_t first);
/* The rest of the tracked objects, told apart: held by C, reachable through a target, or by nothing. */
void heap_add_rest(struct heap *heap);

/* frames.c */
typedef void (*frame_variable_fn)(void *userdata, PyObject *name, PyObject *value, bool is_in_cell);
void frame_each_variable(PyFrameObject *frame, frame_variable_fn function, void *userdata);

/* label.c: what the references of a chain are called. Runs when the walk is over; may allocate. */
PyObject *label_root(const struct heap_root *root, PyObject *first);
/* Appends to steps a dict {label, type} per reference that deserves one. */
int label_chain(enum heap_root_kind kind, PyObject *const *objects, Py_ssize_t n, PyObject *steps);
/* root -> label -> label ... */
PyObject *label_text(PyObject *root, PyObject *steps);

/* holders.c, cycles.c */
PyObject *py_holders(PyObject *module, PyObject *args);
PyObject *py_cycles(PyObject *module, PyObject *args);

#endif
