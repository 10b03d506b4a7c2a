/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Region: the memory of one component. Its addresses outlive the Python object as long as a tensor lies in it: every
 * piece handed out holds a reference of its own (memory.c). The driver thread starts with the first region, so that
 * tasks end and fences pass while Python does something else.
 */
#include "module.h"

static PyObject *region_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "device", "name", "bytes", "reserve_bytes", NULL };
    struct unstick_region_options options = { .size = sizeof(options) };
    uint64_t bytes, reserve_bytes = 0;
    struct unstick_error error = { 0 };
    struct py_device *device;
    struct py_region *self;
    const char *name;
    int r;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!sO&|$O&:Region", (char **)names, &py_device_type, &device, &name,
                                     py_parse_bytes, &bytes, py_parse_bytes, &reserve_bytes))
        return NULL;
    py_enter(device->context);
    if (!device->dev)
        return py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "Region", "the device is closed");
    self = (struct py_region *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->device = (struct py_device *)Py_NewRef(device);
    self->name = PyUnicode_FromString(name);
    options.reserve_bytes = reserve_bytes;
    Py_BEGIN_ALLOW_THREADS
    r = device->context->has_driver ? UNSTICK_OK : unstick_context_start_driver(device->context->ctx, &error);
    if (r == UNSTICK_OK)
        r = unstick_region_new(device->dev, name, bytes, &options, &self->region, &error);
    Py_END_ALLOW_THREADS
    if (r < 0 || !self->name) {
        Py_DECREF(self);
        return r < 0 ? py_error_raise(&error) : NULL;
    }
    device->context->has_driver = true;
    return (PyObject *)self;
}

static void region_dealloc(PyObject *object)
{
    struct py_region *self = (struct py_region *)object;

    if (self->weakrefs)
        PyObject_ClearWeakRefs(object);
    if (!py_is_exiting()) {
        Py_BEGIN_ALLOW_THREADS
        unstick_region_unref(self->region);
        Py_END_ALLOW_THREADS
    }
    Py_XDECREF(self->name);
    Py_XDECREF(self->device);
    Py_TYPE(object)->tp_free(object);
}

static bool region_read_info(struct py_region *self, struct unstick_region_info *info)
{
    int r;

    py_enter(self->device->context);
    *info = (struct unstick_region_info){ .size = sizeof(*info) };
    r = unstick_region_info(self->region, info);
    if (r < 0)
        py_error_raise_status(r, "unstick_region_info",
                              r == UNSTICK_FORKED ? "this region belongs to the parent process" : "");
    return r == UNSTICK_OK;
}

static PyObject *region_info(PyObject *object, PyObject *unused)
{
    struct unstick_region_info info;

    (void)unused;
    return region_read_info((struct py_region *)object, &info) ? py_info_region(&info) : NULL;
}

static PyObject *region_alloc(PyObject *object, PyObject *argument)
{
    struct py_region *self = (struct py_region *)object;
    struct unstick_region_info info;
    struct unstick_error error = { 0 };
    uint64_t bytes;
    void *address;

    if (!py_parse_bytes(argument, &bytes) || !region_read_info(self, &info))
        return NULL;
    if (unstick_region_alloc(self->region, bytes, &address, &error) < 0)
        return py_error_raise(&error);
    return PyLong_FromUnsignedLongLong((uint64_t)(uintptr_t)address - info.address);
}

static PyObject *region_tensor(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "offset", "nbytes", NULL };
    struct py_region *self = (struct py_region *)object;
    struct unstick_region_info info;
    uint64_t offset, bytes;
    char text[160];

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&O&:tensor", (char **)names, py_parse_bytes, &offset,
                                     py_parse_bytes, &bytes) ||
        !region_read_info(self, &info))
        return NULL;
    if (offset > info.bytes || bytes > info.bytes - offset) {
        PyOS_snprintf(text, sizeof(text), "%llu bytes at offset %llu are not inside the region's %llu bytes",
                      (unsigned long long)bytes, (unsigned long long)offset, (unsigned long long)info.bytes);
        return py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "Region.tensor", text);
    }
    return py_memory_new(self, offset, bytes);
}

static PyObject *region_tensors(PyObject *object, PyObject *unused)
{
    struct py_region *self = (struct py_region *)object;

    (void)unused;
    py_enter(self->device->context);
    return py_memory_list(self);
}

static PyObject *region_read(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "offset", "nbytes", NULL };
    struct py_region *self = (struct py_region *)object;
    struct unstick_error error = { 0 };
    uint64_t offset;
    PyObject *bytes;
    Py_ssize_t n;
    int r;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&n:read", (char **)names, py_parse_bytes, &offset, &n))
        return NULL;
    py_enter(self->device->context);
    if (n < 0)
        return py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "Region.read", "a size below 0");
    bytes = PyBytes_FromStringAndSize(NULL, n);
    if (!bytes)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    r = unstick_region_read(self->region, offset, PyBytes_AS_STRING(bytes), (size_t)n, &error);
    Py_END_ALLOW_THREADS
    if (r < 0) {
        Py_DECREF(bytes);
        return py_error_raise(&error);
    }
    return bytes;
}

static PyObject *region_write(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "offset", "data", NULL };
    struct py_region *self = (struct py_region *)object;
    struct unstick_error error = { 0 };
    uint64_t offset;
    Py_buffer data;
    int r;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O&y*:write", (char **)names, py_parse_bytes, &offset, &data))
        return NULL;
    py_enter(self->device->context);
    Py_BEGIN_ALLOW_THREADS
    r = unstick_region_write(self->region, offset, data.buf, (size_t)data.len, &error);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    if (r < 0)
        return py_error_raise(&error);
    Py_RETURN_NONE;
}

static PyObject *region_lease(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "cancel_eviction", NULL };
    int cancels_eviction = 0;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$p:lease", (char **)names, &cancels_eviction))
        return NULL;
    return py_lease_begin((struct py_region *)object, cancels_eviction);
}

#define REGION_VERB(_verb)                                                                                   \
    static PyObject *region_##_verb(PyObject *object, PyObject *args, PyObject *kwargs)                      \
    {                                                                                                        \
        return py_task_start((struct py_region *)object, #_verb, args, kwargs);                              \
    }
REGION_VERB(backup)
REGION_VERB(evict)
REGION_VERB(restore)
REGION_VERB(discard)
REGION_VERB(revoke)
REGION_VERB(release)
#undef REGION_VERB

static PyObject *region_repr(PyObject *object)
{
    struct py_region *self = (struct py_region *)object;
    struct unstick_region_info info = { .size = sizeof(info) };
    uint64_t n_live = py_memory_n_live(self);
    PyObject *resident, *size, *repr = NULL;

    if (unstick_region_info(self->region, &info) < 0)
        return PyUnicode_FromFormat("<unstick.Region %R of another process>", self->name);
    resident = py_info_size(info.resident_bytes);
    size = py_info_size(info.bytes);
    if (resident && size)
        repr = PyUnicode_FromFormat("<unstick.Region %R on %U: %s, %U of %U on the device, %llu tensor%s>", self->name,
                                    self->device->spec, py_info_state_name((int)info.state), resident, size,
                                    (unsigned long long)n_live, n_live == 1 ? "" : "s");
    Py_XDECREF(size);
    Py_XDECREF(resident);
    return repr;
}

static PyObject *region_get_sheds(PyObject *object, void *unused)
{
    (void)unused;
    return PyBool_FromLong(((struct py_region *)object)->sheds);
}

static int region_set_sheds(PyObject *object, PyObject *value, void *unused)
{
    int sheds = value ? PyObject_IsTrue(value) : 0;

    (void)unused;
    if (sheds >= 0)
        ((struct py_region *)object)->sheds = sheds;
    return sheds < 0 ? -1 : 0;
}

static PyObject *region_get_name(PyObject *object, void *unused)
{
    (void)unused;
    return Py_NewRef(((struct py_region *)object)->name);
}

static PyObject *region_get_device(PyObject *object, void *unused)
{
    (void)unused;
    return Py_NewRef(((struct py_region *)object)->device);
}

static PyObject *region_get_state(PyObject *object, void *unused)
{
    struct unstick_region_info info;

    (void)unused;
    if (!region_read_info((struct py_region *)object, &info))
        return NULL;
    return PyUnicode_FromString(py_info_state_name((int)info.state));
}

static PyObject *region_get_address(PyObject *object, void *unused)
{
    struct unstick_region_info info;

    (void)unused;
    if (!region_read_info((struct py_region *)object, &info))
        return NULL;
    return PyLong_FromUnsignedLongLong(info.address);
}

#define REGION_METHOD(_name, _doc)                                                                           \
    { #_name, (PyCFunction)(void (*)(void))region_##_name, METH_VARARGS | METH_KEYWORDS, _doc }

static PyMethodDef region_methods[] = {
    { "info", region_info, METH_NOARGS, "What the region holds, as a dict." },
    { "alloc", region_alloc, METH_O, "Hands out the next bytes, aligned to 512; their offset." },
    REGION_METHOD(tensor, "The bytes [offset, offset + nbytes) as an object that DLPack consumers take (uint8, 1-D)."),
    { "tensors", region_tensors, METH_NOARGS, "(offset, nbytes) of each piece that somebody still holds." },
    REGION_METHOD(read, "Copies contents to host memory from wherever they are."),
    REGION_METHOD(write, "Copies host memory into a resident region."),
    REGION_METHOD(lease, "Takes the resident region into use: while the lease lives no task moves it."),
    REGION_METHOD(backup, "Copies what has no valid backup to the store; the region stays in use."),
    REGION_METHOD(evict, "Takes the memory away and keeps the contents."),
    REGION_METHOD(restore, "Brings the contents back to the same addresses, bit-identical."),
    REGION_METHOD(discard, "Drops contents and backups; the region can be restored as zeros."),
    REGION_METHOD(revoke, "Drops contents, backups and access for good, even while tensors of it are held."),
    REGION_METHOD(release, "Like revoke, without waiting for what runs on the device."),
    { 0 },
};

static PyGetSetDef region_getset[] = {
    { "name", region_get_name, NULL, "The name, for reports.", NULL },
    { "device", region_get_device, NULL, "The device.", NULL },
    { "state", region_get_state, NULL, "empty, resident, evicted, partial, revoked or poisoned.", NULL },
    { "address", region_get_address, NULL, "The first device address.", NULL },
    { "sheds", region_get_sheds, region_set_sheds,
      "Whether granules are given back when their last tensor has died, for good. Not while tensors are still made.",
      NULL },
    { 0 },
};

PyTypeObject py_region_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick.Region",
    .tp_doc = "Region(device, name, bytes, *, reserve_bytes=0)\n--\n\n"
              "The memory of one component on one device: its addresses never change, where its bytes are does.",
    .tp_basicsize = sizeof(struct py_region),
    .tp_weaklistoffset = offsetof(struct py_region, weakrefs),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = region_new,
    .tp_dealloc = region_dealloc,
    .tp_repr = region_repr,
    .tp_methods = region_methods,
    .tp_getset = region_getset,
};
