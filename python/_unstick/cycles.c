/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unreachable cycles: what no root reaches and no C reference holds is garbage that waits for the collector. It is
 * told apart into islands, objects that are joined by references in whatever direction, since one collection frees an
 * island as a whole; of each, one real cycle is shown.
 */
#include "heap.h"

#include <stdlib.h>

struct islands {
    struct heap *heap;
    uint32_t *number; /* per node: 1 + its place in members; 0: not garbage */
    uint32_t *members, n;
    uint32_t *joined;  /* per member: union-find */
    uint32_t *n_out;   /* per member: references to members that are not peeled */
    uint32_t *first_in; /* per member: where in `in` those start that refer to it; one more at the end */
    uint32_t *in;
    uint32_t from, next;
};

static uint32_t island_of(uint32_t *joined, uint32_t at)
{
    while (joined[at] != at)
        at = joined[at] = joined[joined[at]];
    return at;
}

/* The member that object is, or HEAP_NONE. */
static uint32_t island_member(const struct islands *islands, const PyObject *object)
{
    uint32_t index = heap_find(islands->heap, object);

    if (index == HEAP_NONE || !islands->number[index])
        return HEAP_NONE;
    return islands->number[index] - 1;
}

static PyObject *island_object(const struct islands *islands, uint32_t member)
{
    return islands->heap->nodes[islands->members[member]].object;
}

static int island_join(PyObject *object, void *userdata)
{
    struct islands *islands = userdata;
    uint32_t to = island_member(islands, object);

    if (to == HEAP_NONE)
        return 0;
    islands->joined[island_of(islands->joined, islands->from)] = island_of(islands->joined, to);
    islands->n_out[islands->from]++;
    islands->first_in[to + 1]++;
    return 0;
}

static int island_note_in(PyObject *object, void *userdata)
{
    struct islands *islands = userdata;
    uint32_t to = island_member(islands, object);

    /* Filled from the back, so that the starts end up where they belong. */
    if (to != HEAP_NONE)
        islands->in[--islands->first_in[to + 1]] = islands->from;
    return 0;
}

static void islands_visit(struct islands *islands, uint32_t member, visitproc visit)
{
    PyObject *object = island_object(islands, member);

    islands->from = member;
    if (Py_TYPE(object)->tp_traverse)
        Py_TYPE(object)->tp_traverse(object, visit, islands);
}

static bool islands_init(struct islands *islands, struct heap *heap)
{
    size_t n_most = heap->n_nodes - heap->n_reached;

    *islands = (struct islands){ .heap = heap };
    islands->number = calloc(heap->n_nodes + 1, sizeof(*islands->number));
    islands->members = malloc((n_most + 1) * sizeof(*islands->members));
    islands->joined = malloc((n_most + 1) * sizeof(*islands->joined));
    islands->n_out = calloc(n_most + 1, sizeof(*islands->n_out));
    islands->first_in = calloc(n_most + 2, sizeof(*islands->first_in));
    if (!islands->number || !islands->members || !islands->joined || !islands->n_out || !islands->first_in)
        return false;
    for (uint32_t i = heap->n_reached; i < heap->n_nodes; i++) {
        if (heap->nodes[i].parent != HEAP_NONE)
            continue;
        islands->joined[islands->n] = islands->n;
        islands->members[islands->n] = i;
        islands->number[i] = ++islands->n;
    }
    for (uint32_t i = 0; i < islands->n; i++)
        islands_visit(islands, i, island_join);
    return true;
}

static void islands_fini(struct islands *islands)
{
    free(islands->number);
    free(islands->members);
    free(islands->joined);
    free(islands->n_out);
    free(islands->first_in);
    free(islands->in);
}

/* --- one real cycle of an island ---------------------------------------------------------------------------------- */

static int cycle_pick(PyObject *object, void *userdata)
{
    struct islands *islands = userdata;
    uint32_t to = island_member(islands, object);

    if (to == HEAP_NONE || !islands->n_out[to])
        return 0;
    islands->next = to;
    return 1;
}

/* Members that lead nowhere are peeled off, until n_out is above 0 only where one can go on for ever. */
static bool islands_peel(struct islands *islands)
{
    uint32_t *queue = malloc((islands->n + 1) * sizeof(*queue)), n = 0;

    for (uint32_t i = 0; i < islands->n; i++)
        islands->first_in[i + 1] += islands->first_in[i];
    islands->in = malloc((islands->first_in[islands->n] + 1) * sizeof(*islands->in));
    if (!queue || !islands->in) {
        free(queue);
        return false;
    }
    islands->first_in[islands->n + 1] = islands->first_in[islands->n];
    for (uint32_t i = 0; i < islands->n; i++)
        islands_visit(islands, i, island_note_in);
    for (uint32_t i = 0; i < islands->n; i++) {
        if (!islands->n_out[i])
            queue[n++] = i;
    }
    /* first_in[i + 1] is now where those of i start; they end where those of i + 1 do. */
    for (uint32_t at = 0; at < n; at++) {
        uint32_t begin = islands->first_in[queue[at] + 1], end = islands->first_in[queue[at] + 2];

        for (uint32_t i = begin; i < end; i++) {
            if (--islands->n_out[islands->in[i]] == 0)
                queue[n++] = islands->in[i];
        }
    }
    free(queue);
    return true;
}

/* From start, in the core, along references until a member comes again; the list closes with its first object. */
static PyObject *islands_cycle(struct islands *islands, uint32_t start)
{
    uint32_t *seen = calloc(islands->n, sizeof(*seen)), n = 0, at = start;
    PyObject *path = PyList_New(0), *cycle = NULL;
    int r = seen && path ? 0 : -1;

    while (r == 0 && !seen[at]) {
        seen[at] = ++n;
        r = PyList_Append(path, island_object(islands, at));
        islands->next = at;
        islands_visit(islands, at, cycle_pick);
        at = islands->next;
    }
    if (r == 0)
        r = PyList_Append(path, island_object(islands, at));
    if (r == 0)
        cycle = PyList_GetSlice(path, (Py_ssize_t)seen[at] - 1, PyList_GET_SIZE(path));
    Py_XDECREF(path);
    free(seen);
    return cycle;
}

/* --- in words ----------------------------------------------------------------------------------------------------- */

/* An island as {cycle: [objects], held: [objects of the type asked for], n_objects}, or NULL. */
static PyObject *islands_take(struct islands *islands, uint32_t island, uint32_t core, PyTypeObject *type)
{
    PyObject *held = PyList_New(0), *cycle = islands_cycle(islands, core), *row = NULL;
    int r = held && cycle ? 0 : -1;
    uint32_t n = 0;

    for (uint32_t i = 0; i < islands->n && r == 0; i++) {
        if (island_of(islands->joined, i) != island)
            continue;
        n++;
        if (PyObject_TypeCheck(island_object(islands, i), type))
            r = PyList_Append(held, island_object(islands, i));
    }
    if (r == 0)
        row = Py_BuildValue("{sO sO sI}", "cycle", cycle, "held", held, "n_objects", n);
    Py_XDECREF(cycle);
    Py_XDECREF(held);
    return row;
}

static PyObject *islands_report(struct islands *islands, PyTypeObject *type)
{
    bool *is_wanted = calloc(islands->n + 1, sizeof(*is_wanted));
    PyObject *rows = is_wanted && islands_peel(islands) ? PyList_New(0) : NULL;

    if (!rows)
        goto out;
    for (uint32_t i = 0; i < islands->n; i++)
        is_wanted[island_of(islands->joined, i)] |= PyObject_TypeCheck(island_object(islands, i), type) != 0;
    for (uint32_t i = 0; i < islands->n && rows; i++) {
        uint32_t island = island_of(islands->joined, i);
        PyObject *row;
        int r;

        if (!islands->n_out[i] || !is_wanted[island])
            continue;
        is_wanted[island] = false;
        row = islands_take(islands, island, i, type);
        r = row ? PyList_Append(rows, row) : -1;
        Py_XDECREF(row);
        if (r < 0)
            Py_CLEAR(rows);
    }
out:
    free(is_wanted);
    return rows;
}

/* Puts the text of its cycle into each row, in the place of the objects. */
static int cycles_describe(PyObject *rows)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(rows); i++) {
        PyObject *row = PyList_GET_ITEM(rows, i), *cycle = PyDict_GetItemString(row, "cycle");
        PyObject *steps = PyList_New(0), *text = NULL, *root = NULL;
        PyObject *const *objects = PySequence_Fast_ITEMS(cycle);
        int r = steps ? label_chain(HEAP_ROOT_GARBAGE, objects, PyList_GET_SIZE(cycle), steps) : -1;

        if (r == 0)
            root = PyUnicode_FromString(Py_TYPE(PyList_GET_ITEM(cycle, 0))->tp_name);
        text = root ? label_text(root, steps) : NULL;
        r = text ? PyDict_SetItemString(row, "text", text) : -1;
        if (r == 0)
            r = PyDict_DelItemString(row, "cycle");
        Py_XDECREF(text);
        Py_XDECREF(root);
        Py_XDECREF(steps);
        if (r < 0)
            return -1;
    }
    return 0;
}

PyObject *py_cycles(PyObject *module, PyObject *args)
{
    PyObject *targets = PyList_New(0), *rows = NULL;
    struct islands islands;
    PyTypeObject *type;
    struct heap heap;

    (void)module;
    if (!targets || !PyArg_ParseTuple(args, "O!:cycles", &PyType_Type, &type)) {
        Py_XDECREF(targets);
        return NULL;
    }
    if (heap_init(&heap, targets)) {
        heap_add_roots(&heap);
        heap_spread(&heap, 0);
        heap_add_rest(&heap);
    }
    if (!heap.is_short) {
        if (islands_init(&islands, &heap))
            rows = islands_report(&islands, type);
        islands_fini(&islands);
    }
    heap_fini(&heap);
    Py_DECREF(targets);
    if (!rows && !PyErr_Occurred())
        PyErr_NoMemory();
    if (rows && cycles_describe(rows) < 0)
        Py_CLEAR(rows);
    return rows;
}
