/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory: a piece of a region as something that makes tensors, through DLPack or, on the host, as a buffer.
 *
 * A tensor dies anywhere: on a thread without the GIL, under torch's allocator lock, after the interpreter. So the
 * deleter only counts down, atomically; the piece's reference to the region is dropped by the next call that comes
 * from Python, which finds by one atomic look whether there is anything to do. Pieces are records of their own on one
 * list under the GIL. A record holds the Region object, not only the C region: so whoever has but a weak reference to
 * the Region can move it for as long as a tensor lies in it, and it goes with the last one.
 *
 * Of a region that sheds, granules go before that: all that died since the last look, in one call of the library. One
 * that is in use keeps them until it is not; the list of those holds them meanwhile.
 */
#include "module.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* DLPack's own layout, version 0, which every consumer takes. */
struct dl_tensor {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t n_dims;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
};

struct dl_managed {
    struct dl_tensor tensor;
    void *context;
    void (*deleter)(struct dl_managed *managed);
};

#define MEMORY_DL_UINT 1

struct piece {
    struct py_region *region;
    uint64_t offset, bytes, address;
    int64_t shape;
    atomic_uint n_users; /* the Memory object, capsules, buffers */
    struct piece *next;
};

struct py_memory {
    PyObject_HEAD
    struct piece *piece;
};

static struct piece *pieces;
static atomic_uint n_dead_pieces;

/* A managed tensor has its own memory, which the sweep frees: a deleter under somebody's lock calls no allocator. */
struct managed {
    struct dl_managed dl; /* first */
    struct piece *piece;
    struct managed *next;
    atomic_bool is_dead;
};

static struct managed *manageds;
static atomic_uint n_dead_manageds;

static void piece_drop(struct piece *piece)
{
    if (atomic_fetch_sub(&piece->n_users, 1) == 1)
        atomic_fetch_add(&n_dead_pieces, 1);
}

static void managed_delete(struct dl_managed *dl)
{
    struct managed *managed = (struct managed *)dl;

    piece_drop(managed->piece);
    atomic_store(&managed->is_dead, true);
    atomic_fetch_add(&n_dead_manageds, 1);
}

static void memory_sweep_manageds(void)
{
    for (struct managed **at = &manageds; *at;) {
        struct managed *managed = *at;

        if (atomic_load(&managed->is_dead)) {
            *at = managed->next;
            atomic_fetch_sub(&n_dead_manageds, 1);
            free(managed);
        } else {
            at = &managed->next;
        }
    }
}

/* --- granules whose last tensor has died --- */

static struct py_region *to_shed;

/* Takes over a reference. */
static void shed_later(struct py_region *region)
{
    if (!region->sheds || region->is_shedding) {
        Py_DECREF(region);
        return;
    }
    region->is_shedding = true;
    region->next_to_shed = to_shed;
    to_shed = region;
}

/* The pieces of a region that somebody holds. NULL without an exception: there is no memory for the list. */
static struct unstick_span *shed_spans(const struct py_region *region, size_t *ret_n)
{
    struct unstick_span *spans = calloc(py_memory_n_live(region) + 1, sizeof(*spans));

    *ret_n = 0;
    for (const struct piece *piece = pieces; spans && piece; piece = piece->next) {
        if (piece->region == region && atomic_load(&piece->n_users))
            spans[(*ret_n)++] = (struct unstick_span){ piece->offset, piece->bytes };
    }
    return spans;
}

/* False: not now. */
static bool shed(struct py_region *region)
{
    struct unstick_region_info info = { .size = sizeof(info) };
    struct unstick_span *spans;
    size_t n_spans;
    int r;

    if (unstick_region_info(region->region, &info) < 0 || info.state == UNSTICK_REGION_REVOKED)
        return true;
    if (info.n_leases)
        return false;
    spans = shed_spans(region, &n_spans);
    if (!spans)
        return false;
    Py_BEGIN_ALLOW_THREADS
    r = unstick_region_keep(region->region, spans, n_spans, NULL, NULL);
    Py_END_ALLOW_THREADS
    free(spans);
    /* What the driver did not let go of is counted there; it is not asked again and again. */
    return r != UNSTICK_BUSY;
}

static void memory_shed(void)
{
    struct py_region *region = to_shed, *next;

    /* Off the list: without the GIL others look at it, too. */
    to_shed = NULL;
    for (; region; region = next) {
        next = region->next_to_shed;
        region->is_shedding = false;
        /* With the list's reference as the last one all of it goes. */
        if (Py_REFCNT(region) > 1 && !shed(region))
            shed_later((struct py_region *)Py_NewRef(region));
        Py_DECREF(region);
    }
}

void py_memory_sweep(void)
{
    struct piece *dead = NULL;

    if (py_is_exiting())
        return;
    if (atomic_load(&n_dead_manageds))
        memory_sweep_manageds();
    if (!atomic_load(&n_dead_pieces)) {
        if (to_shed)
            memory_shed();
        return;
    }
    for (struct piece **at = &pieces; *at;) {
        struct piece *piece = *at;

        if (atomic_load(&piece->n_users)) {
            at = &piece->next;
            continue;
        }
        *at = piece->next;
        piece->next = dead;
        dead = piece;
        atomic_fetch_sub(&n_dead_pieces, 1);
    }
    /* Off the list: what dropping a device object runs may come back here. */
    while (dead) {
        struct piece *piece = dead;

        dead = piece->next;
        shed_later(piece->region);
        free(piece);
    }
    if (to_shed)
        memory_shed();
}

PyObject *py_memory_new(struct py_region *region, uint64_t offset, uint64_t bytes)
{
    struct unstick_region_info info = { .size = sizeof(info) };
    struct py_memory *self;
    struct piece *piece;
    int r = unstick_region_info(region->region, &info);

    if (r < 0)
        return py_error_raise_status(r, "unstick_region_info", "");
    self = (struct py_memory *)py_memory_type.tp_alloc(&py_memory_type, 0);
    piece = self ? calloc(1, sizeof(*piece)) : NULL;
    if (!piece) {
        Py_XDECREF(self);
        return PyErr_NoMemory();
    }
    piece->region = (struct py_region *)Py_NewRef(region);
    piece->offset = offset;
    piece->bytes = bytes;
    piece->address = info.address + offset;
    piece->shape = (int64_t)bytes;
    atomic_store(&piece->n_users, 1);
    piece->next = pieces;
    pieces = piece;
    self->piece = piece;
    return (PyObject *)self;
}

uint64_t py_memory_n_live(const struct py_region *region)
{
    uint64_t n = 0;

    for (const struct piece *piece = pieces; piece; piece = piece->next)
        n += piece->region == region && atomic_load(&piece->n_users);
    return n;
}

PyObject *py_memory_list(const struct py_region *region)
{
    size_t n_spans;
    /* First, as the list's own objects may have the collector run, and with it whatever sweeps pieces away. */
    struct unstick_span *spans = shed_spans(region, &n_spans);
    PyObject *list = spans ? PyList_New(0) : PyErr_NoMemory();

    for (size_t i = 0; list && i < n_spans; i++)
        list = py_list_add(list, Py_BuildValue("(KK)", spans[i].offset, spans[i].bytes));
    free(spans);
    if (list && PyList_Sort(list) < 0)
        Py_CLEAR(list);
    return list;
}

static void memory_dealloc(PyObject *object)
{
    struct py_memory *self = (struct py_memory *)object;

    if (self->piece)
        piece_drop(self->piece);
    Py_TYPE(object)->tp_free(object);
}

static void memory_capsule_end(PyObject *capsule)
{
    struct dl_managed *dl;

    /* A consumer renames what it took, and calls the deleter itself. */
    if (!PyCapsule_IsValid(capsule, "dltensor"))
        return;
    dl = PyCapsule_GetPointer(capsule, "dltensor");
    dl->deleter(dl);
}

static PyObject *memory_dlpack(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct piece *piece = ((struct py_memory *)object)->piece;
    struct managed *managed;
    PyObject *capsule;

    /* stream, max_version, dl_device, copy: memory has no stream, and version 0 is within every maximum. */
    (void)args;
    (void)kwargs;
    py_memory_sweep();
    managed = calloc(1, sizeof(*managed));
    if (!managed)
        return PyErr_NoMemory();
    managed->piece = piece;
    managed->dl = (struct dl_managed){
        .tensor = {
            .data = (void *)(uintptr_t)piece->address,
            .device = { piece->region->device->dl_type, piece->region->device->dl_id },
            .n_dims = 1,
            .dtype = { MEMORY_DL_UINT, 8, 1 },
            .shape = &piece->shape,
        },
        .deleter = managed_delete,
    };
    capsule = PyCapsule_New(&managed->dl, "dltensor", memory_capsule_end);
    if (!capsule) {
        free(managed);
        return NULL;
    }
    atomic_fetch_add(&piece->n_users, 1);
    managed->next = manageds;
    manageds = managed;
    return capsule;
}

static PyObject *memory_dlpack_device(PyObject *object, PyObject *unused)
{
    const struct py_device *device = ((struct py_memory *)object)->piece->region->device;

    (void)unused;
    return Py_BuildValue("(ii)", device->dl_type, device->dl_id);
}

static int memory_get_buffer(PyObject *object, Py_buffer *view, int flags)
{
    struct piece *piece = ((struct py_memory *)object)->piece;
    int r;

    if (!piece->region->device->is_host) {
        PyErr_SetString(PyExc_BufferError, "the memory of a GPU is no buffer; use DLPack");
        view->obj = NULL;
        return -1;
    }
    r = PyBuffer_FillInfo(view, object, (void *)(uintptr_t)piece->address, (Py_ssize_t)piece->bytes, 0, flags);
    return r;
}

static PyObject *memory_repr(PyObject *object)
{
    const struct piece *piece = ((struct py_memory *)object)->piece;
    PyObject *size = py_info_size(piece->bytes), *repr;

    if (!size)
        return NULL;
    repr = PyUnicode_FromFormat("<unstick.Memory: %U at offset %llu of a region on %U>", size,
                                (unsigned long long)piece->offset, piece->region->device->spec);
    Py_DECREF(size);
    return repr;
}

static PyObject *memory_get_offset(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct py_memory *)object)->piece->offset);
}

static PyObject *memory_get_nbytes(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct py_memory *)object)->piece->bytes);
}

static PyObject *memory_get_address(PyObject *object, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(((struct py_memory *)object)->piece->address);
}

static PyMethodDef memory_methods[] = {
    { "__dlpack__", (PyCFunction)(void (*)(void))memory_dlpack, METH_VARARGS | METH_KEYWORDS,
      "A DLPack capsule: uint8, one dimension." },
    { "__dlpack_device__", memory_dlpack_device, METH_NOARGS, "(1, 0) for the host, (2, index) for a GPU." },
    { 0 },
};

static PyGetSetDef memory_getset[] = {
    { "offset", memory_get_offset, NULL, "The first byte, from the start of the region.", NULL },
    { "nbytes", memory_get_nbytes, NULL, "The length.", NULL },
    { "address", memory_get_address, NULL, "The device address.", NULL },
    { 0 },
};

static PyBufferProcs memory_buffer = { .bf_getbuffer = memory_get_buffer };

PyTypeObject py_memory_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick.Memory",
    .tp_doc = "A piece of a region that DLPack consumers take, made by Region.tensor(); on the host also a buffer.",
    .tp_basicsize = sizeof(struct py_memory),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = memory_dealloc,
    .tp_repr = memory_repr,
    .tp_methods = memory_methods,
    .tp_getset = memory_getset,
    .tp_as_buffer = &memory_buffer,
};
