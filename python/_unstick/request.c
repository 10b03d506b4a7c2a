/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Request of the cache. next() says how the action before went and returns the next one as a tuple whose
 * first word names it; None when the request is over. It never blocks for long, so it may be called from an event loop;
 * poll() is where a thread waits. A request that is dropped before its end is canceled, and ends by itself.
 */
#include "cache.h"

#include <poll.h>
#include <string.h>

struct py_request {
    PyObject_HEAD
    struct py_cache *cache;
    struct unstick_request *request; /* NULL: closed */
    struct unstick_request_action action;
};

static const char *const request_bases[] = { "files", "rules", "generic", "learned", "guess", NULL };

/* --- the demand --- */

/* What a demand refers to while it is handed over. */
struct demand {
    struct unstick_cache_demand demand;
    PyObject *components; /* a tuple */
    const char **names;
    struct unstick_alternative *alternatives;
};

static bool demand_names(struct demand *self)
{
    size_t n = (size_t)PyTuple_GET_SIZE(self->components);

    self->names = PyMem_Calloc(n + 1, sizeof(*self->names));
    if (!self->names) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        self->names[i] = PyUnicode_AsUTF8(PyTuple_GET_ITEM(self->components, (Py_ssize_t)i));
        if (!self->names[i])
            return false;
    }
    self->demand.components = self->names;
    self->demand.n_components = n;
    return true;
}

/* Triples (quantization, bytes, basis). */
static bool demand_alternatives(struct demand *self, PyObject *list)
{
    size_t n = (size_t)PyList_GET_SIZE(list);

    self->alternatives = PyMem_Calloc(n + 1, sizeof(*self->alternatives));
    if (!self->alternatives) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        struct unstick_alternative *one = &self->alternatives[i];
        const char *quantization, *basis;
        struct unstick_error error = { 0 };
        int index;

        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, (Py_ssize_t)i), "sO&s", &quantization, py_parse_bytes,
                              &one->required_bytes, &basis))
            return false;
        index = py_word(request_bases, basis, "basis");
        if (index < 0)
            return false;
        if (unstick_quantization_parse(quantization, &one->quantization, &error) < 0) {
            py_error_raise(&error);
            return false;
        }
        one->basis = (enum unstick_basis)index;
    }
    self->demand.alternatives = self->alternatives;
    self->demand.n_alternatives = n;
    return true;
}

static bool demand_fill(struct demand *self, PyObject *args, PyObject *kwargs, const char **ret_key)
{
    static const char *const names[] = { "key", "fingerprint", "quantization", "components", "required_bytes", "basis",
                                         "working_bytes", "allow_low_memory", "max_wait_ms", "holder", "is_preload",
                                         "is_prefetch", "has_verify", "alternatives", "limit_bytes",
                                         "host_limit_bytes", "is_seed", NULL };
    struct unstick_cache_demand *demand = &self->demand;
    const char *quantization = "none", *basis = "guess";
    int is_forced = 0, is_preload = 0, is_prefetch = 0, has_verify = 0, is_seed = 0, index;
    struct unstick_error error = { 0 };
    PyObject *alternatives = NULL;

    demand->size = sizeof(*demand);
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|$zsO!O&sO&pO&O&pppO!O&O&p:request", (char **)names, ret_key,
                                     &demand->fingerprint, &quantization, &PyTuple_Type, &self->components,
                                     py_parse_bytes, &demand->required_bytes, &basis, py_parse_bytes,
                                     &demand->working_bytes, &is_forced, py_parse_bytes, &demand->max_wait_ms,
                                     py_parse_bytes, &demand->holder, &is_preload, &is_prefetch, &has_verify,
                                     &PyList_Type, &alternatives, py_parse_bytes, &demand->limit_bytes,
                                     py_parse_bytes, &demand->host_limit_bytes, &is_seed))
        return false;
    index = py_word(request_bases, basis, "basis");
    if (index < 0)
        return false;
    if (unstick_quantization_parse(quantization, &demand->quantization, &error) < 0) {
        py_error_raise(&error);
        return false;
    }
    demand->basis = (enum unstick_basis)index;
    demand->allow_low_memory = is_forced;
    demand->flags = (is_preload ? UNSTICK_DEMAND_PRELOAD : 0u) | (is_prefetch ? UNSTICK_DEMAND_PREFETCH : 0u) |
                    (has_verify ? UNSTICK_DEMAND_VERIFY : 0u) | (is_seed ? UNSTICK_DEMAND_SEED : 0u);
    if (self->components && !demand_names(self))
        return false;
    return !alternatives || demand_alternatives(self, alternatives);
}

static struct py_request *request_alloc(struct py_cache *cache)
{
    struct py_request *self = (struct py_request *)py_request_type.tp_alloc(&py_request_type, 0);

    if (self) {
        self->cache = (struct py_cache *)Py_NewRef(cache);
        self->action = (struct unstick_request_action){ .size = sizeof(self->action), .fd = -1 };
    }
    return self;
}

PyObject *py_request_start(struct py_cache *cache, PyObject *args, PyObject *kwargs)
{
    struct unstick_error error = { 0 };
    struct py_request *self = NULL;
    struct demand demand = { 0 };
    const char *key;

    if (demand_fill(&demand, args, kwargs, &key))
        self = request_alloc(cache);
    if (self && unstick_cache_request(cache->cache, key, &demand.demand, &self->request, &error) < 0) {
        Py_CLEAR(self);
        py_error_raise(&error);
    }
    PyMem_Free(demand.names);
    PyMem_Free(demand.alternatives);
    return (PyObject *)self;
}

PyObject *py_request_evict(struct py_cache *cache, PyObject *key)
{
    const char *text = PyUnicode_AsUTF8(key);
    struct py_request *self = text ? request_alloc(cache) : NULL;
    struct unstick_error error = { 0 };

    if (self && unstick_cache_evict(cache->cache, text, &self->request, &error) < 0) {
        Py_CLEAR(self);
        py_error_raise(&error);
    }
    return (PyObject *)self;
}

static void request_dealloc(PyObject *object)
{
    struct py_request *self = (struct py_request *)object;

    if (!py_is_exiting() && self->request) {
        Py_BEGIN_ALLOW_THREADS
        unstick_request_free(self->request);
        Py_END_ALLOW_THREADS
    }
    Py_XDECREF(self->cache);
    Py_TYPE(object)->tp_free(object);
}

/* An entry whose request is still held is in use: it must not hang on whoever keeps an exception's frames. */
static PyObject *request_close(PyObject *object, PyObject *unused)
{
    struct py_request *self = (struct py_request *)object;
    struct unstick_request *request = self->request;

    (void)unused;
    self->request = NULL;
    Py_BEGIN_ALLOW_THREADS
    unstick_request_free(request);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static bool request_is_open(const struct py_request *self)
{
    if (!self->request)
        py_error_raise_status(UNSTICK_INVALID_ARGUMENT, "Request", "the request is closed");
    return self->request;
}

/* --- driving --- */

static PyObject *request_names(const char *const *names, size_t n)
{
    PyObject *list = PyList_New(0);

    for (size_t i = 0; list && i < n; i++)
        list = py_list_add(list, PyUnicode_FromString(names[i]));
    return list;
}

static PyObject *request_action(const struct unstick_request_action *action)
{
    switch (action->kind) {
    case UNSTICK_DO_WAIT:
        return Py_BuildValue("si", "wait", action->timeout_ms);
    case UNSTICK_DO_MEASURE:
        return Py_BuildValue("(s)", "measure");
    case UNSTICK_DO_RECLAIM:
        return Py_BuildValue("ssI", "reclaim", unstick_action_name(action->reclaim.kind), action->reclaim.stats);
    case UNSTICK_DO_LOAD:
        return Py_BuildValue("sNK", "load", request_names(action->components, action->n_components), action->bytes);
    case UNSTICK_DO_NOTHING:
        break;
    }
    Py_RETURN_NONE;
}

static PyObject *request_next(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static const char *const names[] = { "status", "text", "figures", "n_collected", NULL };
    struct py_request *self = (struct py_request *)object;
    struct unstick_reading figures = { .size = sizeof(figures), .sources = UNSTICK_SOURCE_TORCH };
    struct unstick_request_report report = { .size = sizeof(report) };
    struct unstick_error error = { 0 };
    PyObject *tuple = Py_None;
    const char *text = "";
    int r;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|$isOO&:next", (char **)names, &report.status, &text, &tuple,
                                     py_parse_bytes, &report.n_collected))
        return NULL;
    if (tuple != Py_None) {
        if (!PyArg_ParseTuple(tuple, "O&O&O&O&", py_parse_bytes, &figures.torch_allocated_bytes, py_parse_bytes,
                              &figures.torch_reserved_bytes, py_parse_bytes, &figures.torch_active_bytes,
                              py_parse_bytes, &figures.torch_inactive_split_bytes))
            return NULL;
        report.figures = &figures;
    }
    if (*text) {
        error.status = report.status;
        PyOS_snprintf(error.operation, sizeof(error.operation), "load");
        PyOS_snprintf(error.text, sizeof(error.text), "%s", text);
        report.error = &error;
    }
    if (!request_is_open(self))
        return NULL;
    py_enter(self->cache->device->context);
    Py_BEGIN_ALLOW_THREADS
    self->action = (struct unstick_request_action){ .size = sizeof(self->action), .fd = -1 };
    r = unstick_request_next(self->request, &report, 0, &self->action);
    py_stop_if_left_behind();
    Py_END_ALLOW_THREADS
    if (r == UNSTICK_FORKED)
        return py_error_raise_status(r, "unstick_request_next", "this request belongs to the parent process");
    if (r != UNSTICK_PENDING)
        Py_RETURN_NONE;
    return request_action(&self->action);
}

/* Waits as the last action says, without the GIL; returns early when there is something to see. */
static PyObject *request_poll(PyObject *object, PyObject *unused)
{
    struct py_request *self = (struct py_request *)object;
    struct pollfd fd = { .fd = self->action.fd, .events = POLLIN };

    (void)unused;
    if (self->action.kind != UNSTICK_DO_WAIT || self->action.timeout_ms <= 0)
        Py_RETURN_NONE;
    Py_BEGIN_ALLOW_THREADS
    /* The context's own thread may take the word away before it is seen here: only for so long. */
    poll(&fd, 1, fd.fd >= 0 && self->action.timeout_ms > 5 ? 5 : self->action.timeout_ms);
    py_stop_if_left_behind();
    Py_END_ALLOW_THREADS
    if (PyErr_CheckSignals() < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *request_add(PyObject *object, PyObject *args)
{
    struct unstick_cache_component component = { .size = sizeof(component) };
    struct py_request *self = (struct py_request *)object;
    struct unstick_error error = { 0 };
    struct py_region *region;

    if (!PyArg_ParseTuple(args, "sO!:add", &component.name, &py_region_type, &region))
        return NULL;
    component.region = region->region;
    if (!request_is_open(self))
        return NULL;
    if (unstick_request_add(self->request, &component, &error) < 0)
        return py_error_raise(&error);
    Py_RETURN_NONE;
}

/* --- how it went --- */

static PyObject *request_evictions(const struct unstick_request_result *result)
{
    PyObject *list = PyList_New(0);

    for (size_t i = 0; list && i < result->n_evictions; i++) {
        const struct unstick_request_eviction *one = &result->evictions[i];
        PyObject *item = Py_BuildValue("{ss sK sK sK}", "key", one->key, "bytes", one->bytes, "copied_bytes",
                                       one->copied_bytes, "ns", one->ns);

        list = py_list_add(list, item);
    }
    return list;
}

static PyObject *request_steps(const struct unstick_request_result *result)
{
    PyObject *list = PyList_New(0);

    for (size_t i = 0; list && i < result->n_steps; i++) {
        const struct unstick_reclaim_step *one = &result->steps[i];
        PyObject *item = Py_BuildValue("{ss sI sL sL sK ss}", "name", one->name, "round", one->round, "freed_bytes",
                                       (long long)one->freed_bytes, "others_bytes", (long long)one->others_bytes,
                                       "ms", one->ms, "status", unstick_status_name(one->status));

        list = py_list_add(list, item);
    }
    return list;
}

static PyObject *request_suggestions(const struct unstick_request_result *result)
{
    PyObject *list = PyList_New(0);

    for (size_t i = 0; list && i < result->n_suggestions; i++)
        list = py_list_add(list, PyUnicode_FromString(result->suggestions[i].text));
    return list;
}

static bool request_read_result(struct py_request *self, struct unstick_request_result *result)
{
    *result = (struct unstick_request_result){ .size = sizeof(*result) };
    if (!request_is_open(self))
        return false;
    if (unstick_request_result(self->request, result) != UNSTICK_FORKED)
        return true;
    py_error_raise_status(UNSTICK_FORKED, "unstick_request_result", "this request belongs to the parent process");
    return false;
}

static PyObject *request_result(PyObject *object, PyObject *unused)
{
    static const char *const outcomes[] = { "hit", "restore", "load" };
    struct unstick_request_result result;

    (void)unused;
    if (!request_read_result((struct py_request *)object, &result))
        return NULL;
    return Py_BuildValue(
        "{si ss ss sK sK sK sK sK sK sK sK sK sK sK sK sN sN sN ss ss}", "status", result.status, "verdict",
        unstick_verdict_name(result.verdict), "outcome", outcomes[result.outcome], "total_bytes", result.total_bytes,
        "bytes", result.bytes, "load_ns", result.load_ns, "restore_ns", result.restore_ns, "evict_ns",
        result.evict_ns, "reclaim_ns", result.reclaim_ns, "wait_ns", result.wait_ns, "total_ns", result.total_ns,
        "required_bytes", result.required_bytes, "available_bytes", result.available_bytes, "held_by_us_bytes",
        result.held_by_us_bytes, "held_by_others_bytes", result.held_by_others_bytes, "evictions",
        request_evictions(&result), "steps", request_steps(&result), "suggestions", request_suggestions(&result),
        "reason", result.reason ? result.reason : "", "text", result.text ? result.text : "");
}

/* The exception that a failed request is, or None. */
static PyObject *request_error(PyObject *object, PyObject *unused)
{
    struct py_request *self = (struct py_request *)object;
    struct unstick_request_result result;

    (void)unused;
    if (!request_read_result(self, &result))
        return NULL;
    if (result.status >= 0)
        Py_RETURN_NONE;
    result.error.status = result.status;
    return py_error_new(&result.error, result.text && *result.text ? result.text : NULL);
}

static PyObject *request_get_status(PyObject *object, void *unused)
{
    struct unstick_request_result result;

    (void)unused;
    return request_read_result((struct py_request *)object, &result) ? PyLong_FromLong(result.status) : NULL;
}

static PyObject *request_take_lease(PyObject *object, PyObject *unused)
{
    struct py_request *self = (struct py_request *)object;
    struct unstick_cache_lease *lease;

    (void)unused;
    if (!request_is_open(self))
        return NULL;
    lease = unstick_request_take_lease(self->request);
    return lease ? py_cache_lease_new(self->cache, lease) : Py_NewRef(Py_None);
}

static PyMethodDef request_methods[] = {
    { "next", (PyCFunction)(void (*)(void))request_next, METH_VARARGS | METH_KEYWORDS,
      "Says how the action before went and returns the next, or None at the end." },
    { "poll", request_poll, METH_NOARGS, "Waits as the last action says, a few milliseconds at most." },
    { "add", request_add, METH_VARARGS, "add(name, region): registers a component that was loaded." },
    { "close", request_close, METH_NOARGS, "Ends it, early if need be." },
    { "result", request_result, METH_NOARGS, "How far it is, or how it ended, as a dict." },
    { "error", request_error, METH_NOARGS, "The exception that the failure is, or None." },
    { "take_lease", request_take_lease, METH_NOARGS, "The lease of a request that ended well, or None." },
    { 0 },
};

static PyGetSetDef request_getset[] = {
    { "status", request_get_status, NULL, "1 until it ends; then 0, or less for a failure.", NULL },
    { 0 },
};

PyTypeObject py_request_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "unstick._unstick.Request",
    .tp_doc = "The way from a demand to a lease; made by Cache.request() and Cache.evict().",
    .tp_basicsize = sizeof(struct py_request),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = request_dealloc,
    .tp_methods = request_methods,
    .tp_getset = request_getset,
};
