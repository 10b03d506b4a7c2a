/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cache: the C cache with the names of its figures. A request and a lease hold their cache, so it is closed only when
 * neither is left, and closing it never fails.
 */
#include "cache.h"

#include "module.h"

static const char *const cache_policies[] = { "cost", "lru", "clear-everything", NULL };
static const char *const cache_strategies[] = { "default", "seed", NULL };
static const char *const cache_tiers[] = { "auto", "pinned", "pageable", "file", NULL };

/* For "O&": milliseconds, or None for never. */
static int cache_parse_idle(PyObject *object, void *ret_ms)
{
    if (object != Py_None)
        return py_parse_bytes(object, ret_ms);
    *(uint64_t *)ret_ms = UNSTICK_IDLE_NEVER;
    return 1;
}

static PyObject *cache_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "device", "idle_ms", "policy", "strategy", "tier", "cannot", "has_figures",
                                         "has_backup", "chunk_ms", NULL };
    struct unstick_cache_options options = { .size = sizeof(options), .has_idle = true };
    const char *policy = "cost", *strategy = "default", *tier = "auto";
    int has_figures = 0, has_backup = 1, policy_index, strategy_index, tier_index;
    uint64_t idle_ms = UNSTICK_IDLE_NEVER;
    struct unstick_error error = { 0 };
    struct py_device *device;
    struct py_cache *self;
    int r = UNSTICK_OK;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!|$O&sssIppI:Cache", (char **)names, &py_device_type, &device,
                                     cache_parse_idle, &idle_ms, &policy, &strategy, &tier, &options.cannot,
                                     &has_figures, &has_backup, &options.chunk_ms))
        return NULL;
    policy_index = py_word(cache_policies, policy, "policy");
    strategy_index = policy_index < 0 ? -1 : py_word(cache_strategies, strategy, "strategy");
    tier_index = strategy_index < 0 ? -1 : py_word(cache_tiers, tier, "tier");
    if (tier_index < 0)
        return NULL;
    py_enter(device->context);
    if (!device->dev)
        return py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "Cache", "the device is closed");
    options.policy = (enum unstick_policy_kind)policy_index;
    options.strategy = (enum unstick_reclaim_strategy)strategy_index;
    options.tier = (enum unstick_tier)tier_index;
    options.idle_ms = idle_ms;
    options.flags = (has_figures ? UNSTICK_CACHE_HAS_FIGURES : 0u) | (has_backup ? 0u : UNSTICK_CACHE_NO_BACKUP);
    self = (struct py_cache *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->device = (struct py_device *)Py_NewRef(device);
    Py_BEGIN_ALLOW_THREADS
    if (!device->context->has_driver)
        r = unstick_context_start_driver(device->context->ctx, &error);
    if (r == UNSTICK_OK)
        r = unstick_cache_open(device->dev, &options, &self->cache, &error);
    Py_END_ALLOW_THREADS
    if (r < 0) {
        Py_DECREF(self);
        return py_error_raise(&error);
    }
    device->context->has_driver = true;
    return (PyObject *)self;
}

static void cache_dealloc(PyObject *object)
{
    struct py_cache *self = (struct py_cache *)object;

    if (!py_is_exiting() && self->cache) {
        Py_BEGIN_ALLOW_THREADS
        unstick_cache_close(self->cache, NULL);
        Py_END_ALLOW_THREADS
    }
    Py_XDECREF(self->device);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *cache_request(PyObject *object, PyObject *args, PyObject *kwargs)
{
    struct py_cache *self = (struct py_cache *)object;

    py_enter(self->device->context);
    return py_request_start(self, args, kwargs);
}

static PyObject *cache_evict(PyObject *object, PyObject *argument)
{
    struct py_cache *self = (struct py_cache *)object;

    py_enter(self->device->context);
    return py_request_evict(self, argument);
}

/* Returns when to come again, in milliseconds; -1: no need. */
static PyObject *cache_step(PyObject *object, PyObject *unused)
{
    struct py_cache *self = (struct py_cache *)object;
    int r, timeout_ms;

    (void)unused;
    py_enter(self->device->context);
    Py_BEGIN_ALLOW_THREADS
    r = unstick_cache_step(self->cache, 0);
    timeout_ms = unstick_cache_timeout_ms(self->cache, 0);
    py_stop_if_left_behind();
    Py_END_ALLOW_THREADS
    if (r < 0)
        return py_error_raise_status(r, "unstick_cache_step", "this cache belongs to the parent process");
    if (r == UNSTICK_PENDING && (timeout_ms < 0 || timeout_ms > 20))
        timeout_ms = 20;
    return PyLong_FromLong(timeout_ms);
}

static PyObject *cache_entry(const struct unstick_cache_entry_info *info)
{
    PyObject *idle_ms = info->idle_ms == UNSTICK_IDLE_NEVER ? Py_NewRef(Py_None)
                                                            : PyLong_FromUnsignedLongLong(info->idle_ms);

    return Py_BuildValue("{ss ss ss sI sI sO sN sK sK sK sK sK sK sK sK sK sK sK sK sK}", "key", info->key,
                         "fingerprint", info->fingerprint, "state", unstick_entry_state_name(info->state), "n_leases",
                         info->n_leases, "n_components", info->n_components, "is_pinned",
                         info->is_pinned ? Py_True : Py_False, "idle_ms", idle_ms, "bytes", info->bytes,
                         "resident_bytes", info->resident_bytes, "pinned_bytes", info->pinned_bytes, "pageable_bytes",
                         info->pageable_bytes, "file_bytes", info->file_bytes, "last_used_ns", info->last_used_ns,
                         "n_hits", info->n_hits, "n_loads", info->n_loads, "n_restores", info->n_restores,
                         "n_evictions", info->n_evictions, "load_ns", info->load_ns, "restore_ns", info->restore_ns,
                         "evict_ns", info->evict_ns);
}

static PyObject *cache_component(const struct unstick_cache_component_info *info)
{
    return Py_BuildValue("{ss sK sK sK sK sK sI sK sK sK sK}", "name", info->name, "bytes", info->bytes,
                         "resident_bytes", info->resident_bytes, "pinned_bytes", info->pinned_bytes, "pageable_bytes",
                         info->pageable_bytes, "file_bytes", info->file_bytes, "n_leases", info->n_leases,
                         "last_used_ns", info->last_used_ns, "load_ns", info->load_ns, "restore_ns", info->restore_ns,
                         "evict_ns", info->evict_ns);
}

/* Room for n infos and some more, as others add meanwhile; the old one is freed. NULL with an exception. */
static void *cache_room(void *old, size_t n, size_t size, size_t *ret_n_max)
{
    void *room;

    PyMem_Free(old);
    room = PyMem_Calloc(n + 8, size);
    if (!room)
        return PyErr_NoMemory();
    *ret_n_max = n + 8;
    return room;
}

static PyObject *cache_entries(PyObject *object, PyObject *unused)
{
    struct py_cache *self = (struct py_cache *)object;
    struct unstick_cache_entry_info *infos = NULL;
    size_t n = 0, n_max = 0;
    PyObject *list;
    int r;

    (void)unused;
    py_enter(self->device->context);
    while ((r = unstick_cache_entries(self->cache, infos, n_max, &n)) == UNSTICK_OK && n > n_max) {
        infos = cache_room(infos, n, sizeof(*infos), &n_max);
        if (!infos)
            return NULL;
    }
    list = r < 0 ? py_error_raise_status(r, "unstick_cache_entries", "this cache belongs to the parent process")
                 : PyList_New(0);
    for (size_t i = 0; list && i < n; i++)
        list = py_list_add(list, cache_entry(&infos[i]));
    PyMem_Free(infos);
    return list;
}

static PyObject *cache_components(PyObject *object, PyObject *args)
{
    struct py_cache *self = (struct py_cache *)object;
    struct unstick_cache_component_info *infos = NULL;
    size_t n = 0, n_max = 0;
    const char *key;
    PyObject *list;
    int r;

    if (!PyArg_ParseTuple(args, "s:components", &key))
        return NULL;
    py_enter(self->device->context);
    while ((r = unstick_cache_components(self->cache, key, infos, n_max, &n)) == UNSTICK_OK && n > n_max) {
        infos = cache_room(infos, n, sizeof(*infos), &n_max);
        if (!infos)
            return NULL;
    }
    list = r < 0 ? py_error_raise_status(r, "unstick_cache_components", key) : PyList_New(0);
    for (size_t i = 0; list && i < n; i++)
        list = py_list_add(list, cache_component(&infos[i]));
    PyMem_Free(infos);
    return list;
}

static PyObject *cache_events(PyObject *object, PyObject *args)
{
    struct py_cache *self = (struct py_cache *)object;
    struct unstick_cache_event *events;
    uint64_t since = 0;
    PyObject *list;
    size_t n = 0;
    int r;

    if (!PyArg_ParseTuple(args, "|O&:events", py_parse_bytes, &since))
        return NULL;
    py_enter(self->device->context);
    events = PyMem_Calloc(UNSTICK_CACHE_EVENTS_MAX, sizeof(*events));
    if (!events)
        return PyErr_NoMemory();
    r = unstick_cache_events(self->cache, since, events, UNSTICK_CACHE_EVENTS_MAX, &n);
    list = r < 0 ? py_error_raise_status(r, "unstick_cache_events", "this cache belongs to the parent process")
                 : PyList_New(0);
    for (size_t i = 0; list && i < n; i++)
        list = py_list_add(list, Py_BuildValue("{sK sK ss ss sK sK sK ss ss ss}", "sequence", events[i].sequence,
                                                "at_ns", events[i].at_ns, "kind",
                                                unstick_cache_event_name(events[i].kind), "status",
                                                unstick_status_name(events[i].status), "bytes", events[i].bytes,
                                                "copied_bytes", events[i].copied_bytes, "ns", events[i].ns, "key",
                                                events[i].key, "component", events[i].component, "detail",
                                                events[i].detail));
    PyMem_Free(events);
    return list;
}

static PyObject *cache_done(int r, const struct unstick_error *error)
{
    return r < 0 ? py_error_raise(error) : Py_NewRef(Py_None);
}

static PyObject *cache_pin(PyObject *object, PyObject *args)
{
    struct py_cache *self = (struct py_cache *)object;
    struct unstick_error error = { 0 };
    const char *key;
    int is_pinned;

    if (!PyArg_ParseTuple(args, "sp:pin", &key, &is_pinned))
        return NULL;
    py_enter(self->device->context);
    return cache_done(unstick_cache_pin(self->cache, key, is_pinned, &error), &error);
}

static PyObject *cache_set_idle(PyObject *object, PyObject *args)
{
    struct py_cache *self = (struct py_cache *)object;
    struct unstick_error error = { 0 };
    uint64_t idle_ms;
    const char *key;

    if (!PyArg_ParseTuple(args, "sO&:set_idle", &key, cache_parse_idle, &idle_ms))
        return NULL;
    py_enter(self->device->context);
    return cache_done(unstick_cache_set_idle(self->cache, key, idle_ms, &error), &error);
}

static PyObject *cache_add(PyObject *object, PyObject *args)
{
    struct unstick_cache_component component = { .size = sizeof(component) };
    struct py_cache *self = (struct py_cache *)object;
    struct unstick_error error = { 0 };
    struct py_region *region;
    const char *key;

    if (!PyArg_ParseTuple(args, "ssO!:add", &key, &component.name, &py_region_type, &region))
        return NULL;
    component.region = region->region;
    py_enter(self->device->context);
    return cache_done(unstick_cache_add(self->cache, key, &component, &error), &error);
}

static PyObject *cache_remove(PyObject *object, PyObject *args)
{
    struct py_cache *self = (struct py_cache *)object;
    struct unstick_error error = { 0 };
    const char *key, *name;
    int r;

    if (!PyArg_ParseTuple(args, "ss:remove", &key, &name))
        return NULL;
    py_enter(self->device->context);
    Py_BEGIN_ALLOW_THREADS
    r = unstick_cache_remove(self->cache, key, name, &error);
    Py_END_ALLOW_THREADS
    return cache_done(r, &error);
}

static PyObject *cache_drop(PyObject *object, PyObject *args)
{
    struct py_cache *self = (struct py_cache *)object;
    struct unstick_error error = { 0 };
    const char *key;
    int r;

    if (!PyArg_ParseTuple(args, "s:drop", &key))
        return NULL;
    py_enter(self->device->context);
    Py_BEGIN_ALLOW_THREADS
    r = unstick_cache_drop(self->cache, key, &error);
    Py_END_ALLOW_THREADS
    return cache_done(r, &error);
}

static PyMethodDef cache_methods[] = {
    { "request", (PyCFunction)(void (*)(void))cache_request, METH_VARARGS | METH_KEYWORDS,
      "Asks for a model; drive what it returns with next()." },
    { "evict", cache_evict, METH_O, "Has an entry leave the device: a request without a lease at its end." },
    { "step", cache_step, METH_NOARGS, "Does what is due without a request; when to come again, in ms, or -1." },
    { "entries", cache_entries, METH_NOARGS, "The entries, as dicts." },
    { "components", cache_components, METH_VARARGS, "The components of an entry, as dicts." },
    { "events", cache_events, METH_VARARGS, "What happened after an event's number, as dicts." },
    { "pin", cache_pin, METH_VARARGS, "pin(key, is_pinned)" },
    { "set_idle", cache_set_idle, METH_VARARGS, "set_idle(key, ms or None)" },
    { "add", cache_add, METH_VARARGS, "add(key, name, region): one more component of an entry." },
    { "remove", cache_remove, METH_VARARGS, "remove(key, name): takes a component out of an entry." },
    { "drop", cache_drop, METH_VARARGS, "Forgets an entry." },
    { 0 },
};

PyTypeObject py_cache_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick._unstick.Cache",
    .tp_doc = "Cache(device, *, idle_ms=None, policy='cost', strategy='default', tier='auto', cannot=0, "
              "has_figures=False, has_backup=True, chunk_ms=0)\n--\n\nThe C cache over a device.",
    .tp_basicsize = sizeof(struct py_cache),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = cache_new,
    .tp_dealloc = cache_dealloc,
    .tp_methods = cache_methods,
};
