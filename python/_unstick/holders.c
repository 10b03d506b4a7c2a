/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who holds an object: for every object that refers to it, the shortest chain from a root to that reference. What is
 * left of its reference count when all of those are known is held by C or C++.
 *
 * The chains are taken out of the graph as strong references before the walk ends; only then, with the collector back
 * on, they are put into words.
 */
#include "heap.h"

#include <stdlib.h>

struct chain {
    struct heap_root root; /* own references */
    PyObject *objects;     /* a list, from the first object to the target */
    uint32_t target;
    uint32_t n_c; /* kind C: references that nothing explains */
};

struct chains {
    struct chain *items;
    size_t n, limit;
};

static uint32_t chain_length(const struct heap *heap, uint32_t from)
{
    uint32_t n = 0;

    for (; from != HEAP_NONE && !(from & HEAP_IS_ROOT); from = heap->nodes[from].parent)
        n++;
    return n;
}

static struct heap_root chain_root(const struct heap *heap, const struct heap_edge *edge)
{
    uint32_t at = edge->from;

    while (at != HEAP_NONE && !(at & HEAP_IS_ROOT))
        at = heap->nodes[at].parent;
    return at == HEAP_NONE ? (struct heap_root){ .kind = HEAP_ROOT_GARBAGE } : heap->roots[at & ~HEAP_IS_ROOT];
}

static PyObject *chain_objects(const struct heap *heap, const struct heap_edge *edge)
{
    PyObject *list = PyList_New(0);
    uint32_t at = edge->from;
    int r = list ? PyList_Append(list, heap->nodes[edge->target].object) : -1;

    for (; r == 0 && at != HEAP_NONE && !(at & HEAP_IS_ROOT); at = heap->nodes[at].parent)
        r = PyList_Append(list, heap->nodes[at].object);
    if (r == 0)
        r = PyList_Reverse(list);
    if (r < 0)
        Py_CLEAR(list);
    return list;
}

/* Steals objects. */
static void chains_add(struct chains *chains, struct heap_root root, PyObject *objects, uint32_t target, uint32_t n_c)
{
    Py_XINCREF(root.code);
    Py_XINCREF(root.name);
    chains->items[chains->n++] = (struct chain){ root, objects, target, n_c };
}

struct candidate {
    struct heap_edge edge;
    uint32_t length;
};

static int candidate_compare(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;

    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    return a->edge.from < b->edge.from ? -1 : a->edge.from > b->edge.from;
}

/* A frame names what lies in one of its cells; the cell itself, if only C (the frame) holds it, says the same twice. */
static bool edge_is_frames_cell(const struct heap *heap, const struct heap_edge *edge)
{
    uint32_t parent;

    if (edge->from & HEAP_IS_ROOT || !PyCell_Check(heap->nodes[edge->from].object))
        return false;
    parent = heap->nodes[edge->from].parent;
    if (parent == HEAP_NONE || !(parent & HEAP_IS_ROOT) || heap->roots[parent & ~HEAP_IS_ROOT].kind != HEAP_ROOT_C)
        return false;
    for (uint32_t i = 0; i < heap->n_edges; i++) {
        uint32_t from = heap->edges[i].from;

        if (heap->edges[i].target == edge->target && from != HEAP_NONE && from & HEAP_IS_ROOT &&
            heap->roots[from & ~HEAP_IS_ROOT].is_in_cell)
            return true;
    }
    return false;
}

/* Edges that make a chain, each source once, shortest first. The number; -1 without memory. */
static int64_t holders_candidates(const struct heap *heap, struct candidate **ret_candidates)
{
    struct candidate *candidates = malloc((heap->n_edges + 1) * sizeof(*candidates));
    uint32_t n = 0;

    if (!candidates)
        return -1;
    for (uint32_t i = 0; i < heap->n_edges; i++) {
        struct heap_edge edge = heap->edges[i];

        /* Between two tensors on one storage lies no answer. */
        if (edge.from == HEAP_NONE || (edge.from < heap->n_targets && edge.from != edge.target) ||
            edge_is_frames_cell(heap, &edge))
            continue;
        candidates[n++] = (struct candidate){ edge, chain_length(heap, edge.from) };
    }
    qsort(candidates, n, sizeof(*candidates), candidate_compare);
    *ret_candidates = candidates;
    return n;
}

static int holders_choose(const struct heap *heap, struct chains *chains)
{
    struct candidate *candidates;
    int64_t n = holders_candidates(heap, &candidates);
    int r = n < 0 ? -1 : 0;

    if (n >= 0 && chains->limit > heap->n_targets + (size_t)n)
        chains->limit = heap->n_targets + (size_t)n;
    chains->items = PyMem_Calloc(chains->limit + 1, sizeof(*chains->items));
    if (!chains->items)
        r = -1;
    for (uint32_t i = 0; r == 0 && i < heap->n_targets && chains->n < chains->limit; i++) {
        PyObject *target = heap->nodes[i].object;
        int32_t n_c = heap->nodes[i].surplus;
        PyObject *objects = n_c > 0 ? PyList_New(1) : NULL;

        if (n_c <= 0)
            continue;
        if (objects)
            PyList_SET_ITEM(objects, 0, Py_NewRef(target));
        r = objects ? 0 : -1;
        chains_add(chains, (struct heap_root){ .kind = HEAP_ROOT_C }, objects, i, (uint32_t)n_c);
    }
    for (int64_t i = 0; r == 0 && i < n && chains->n < chains->limit; i++) {
        const struct heap_edge *edge = &candidates[i].edge;
        PyObject *objects;

        if (i > 0 && edge->from == candidates[i - 1].edge.from && edge->target == candidates[i - 1].edge.target)
            continue;
        objects = chain_objects(heap, edge);
        r = objects ? 0 : -1;
        if (objects)
            chains_add(chains, chain_root(heap, edge), objects, edge->target, 0);
    }
    if (n >= 0)
        free(candidates);
    return r;
}

static PyObject *chain_describe(const struct chain *chain)
{
    static const char *const kinds[] = { "module",  "frame", "frame", "thread",  "exception",
                                         "context", "c",     "cycle", "garbage" };
    PyObject *const *objects = PySequence_Fast_ITEMS(chain->objects);
    PyObject *root = label_root(&chain->root, objects[0]), *steps = PyList_New(0), *text = NULL, *row = NULL;

    if (root && steps &&
        label_chain(chain->root.kind, objects, PyList_GET_SIZE(chain->objects), steps) == 0)
        text = label_text(root, steps);
    if (text)
        row = Py_BuildValue("{ss sO sO sO sI sI}", "kind", kinds[chain->root.kind], "root", root, "steps", steps,
                            "text", text, "target", chain->target, "n_c", chain->n_c);
    Py_XDECREF(text);
    Py_XDECREF(steps);
    Py_XDECREF(root);
    return row;
}

static PyObject *holders_describe(const struct chains *chains)
{
    PyObject *rows = PyList_New(0);

    for (size_t i = 0; rows && i < chains->n; i++) {
        PyObject *row = chain_describe(&chains->items[i]);
        int r = row ? PyList_Append(rows, row) : -1;

        Py_XDECREF(row);
        if (r < 0)
            Py_CLEAR(rows);
    }
    return rows;
}

PyObject *py_holders(PyObject *module, PyObject *args)
{
    struct chains chains = { 0 };
    PyObject *targets, *rows = NULL;
    struct heap heap;
    Py_ssize_t limit;
    bool is_walked;
    int r = -1;

    (void)module;
    if (!PyArg_ParseTuple(args, "O!n:holders", &PyList_Type, &targets, &limit))
        return NULL;
    if (limit < 0) {
        PyErr_SetString(PyExc_ValueError, "a limit below 0");
        return NULL;
    }
    chains.limit = (size_t)limit;
    is_walked = heap_init(&heap, targets);
    if (is_walked) {
        heap_add_roots(&heap);
        heap_spread(&heap, heap.n_targets);
        heap_add_rest(&heap);
        is_walked = !heap.is_short;
    }
    if (is_walked)
        r = holders_choose(&heap, &chains);
    heap_fini(&heap);

    if (!is_walked || !chains.items)
        PyErr_NoMemory();
    else if (r == 0)
        rows = holders_describe(&chains);
    for (size_t i = 0; i < chains.n; i++) {
        Py_XDECREF(chains.items[i].root.code);
        Py_XDECREF(chains.items[i].root.name);
        Py_XDECREF(chains.items[i].objects);
    }
    PyMem_Free(chains.items);
    return rows;
}
