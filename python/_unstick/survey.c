/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Survey: the tensors under a module, in the order of their names. What an object is to the walk, its type decides, and
 * the caller says so once for each type; the walk itself runs no Python code but items() of what is no dict, the two
 * questions that only an object can answer, and repr() of the keys in the names that are asked for.
 *
 * A name is put together when somebody is to hear it: a model that leaves is walked to see that all of it lies where it
 * should, and then nobody does. Until then it is a chain of steps, each of which knows the one before.
 *
 * Invariant: everything seen is held until the walk is over. An address says who somebody is only while he lives, and
 * some of what is met was made on the way.
 */
#include "module.h"

#include <stdlib.h>

/* The words of `classify`, in this order. */
static const char *const survey_words[] = { "end", "tensor", "wrapper", "module", "mapping", "sequence", "object",
                                            "slotted", NULL };
enum survey_class {
    SURVEY_END,      /* nothing that belongs to a model lies behind it */
    SURVEY_TENSOR,   /* it, and what its attributes lead to */
    SURVEY_WRAPPER,  /* made of other tensors: `unwrap` says which */
    SURVEY_MODULE,
    SURVEY_MAPPING,
    SURVEY_SEQUENCE, /* or a set */
    SURVEY_OBJECT,
    SURVEY_SLOTTED,  /* an object, some of whose attributes only `slots` finds */
};

/* Names as nn.Module and tensors have them. */
static PyObject *name_modules, *name_parameters, *name_buffers, *name_data_ptr, *name_is_conj, *name_is_neg;
static PyObject *kind_parameter, *kind_buffer, *kind_state;

enum survey_step_kind {
    SURVEY_ROOT,
    SURVEY_ATTRIBUTE, /* .own */
    SURVEY_KEY,       /* [repr(own)] */
    SURVEY_INDEX,     /* [at] */
};

/* The last step of a way from the module to what has the name. */
struct survey_step {
    size_t before; /* the step before, an index */
    enum survey_step_kind kind;
    Py_ssize_t at;
    PyObject *own;  /* NULL: the root, or an index */
    PyObject *text; /* the whole name once somebody has asked, else NULL */
};

struct survey_entry {
    size_t name;      /* the last step of it */
    PyObject *object; /* an own reference */
    PyObject *kind;
};

/* Bytes that somebody has taken care of: what lies in them is not reported. */
struct survey_span {
    uint64_t start, end;
    bool is_hit; /* a tensor lies there */
};

struct survey_stack {
    struct survey_entry *entries;
    size_t n, n_allocated;
};

struct survey {
    PyObject *classify, *unwrap, *slots, *bookkeeping, *found; /* the caller's */
    PyObject *classes;                                         /* type -> index into survey_words */
    PyObject **seen;                                           /* own references, by address; NULL: free */
    size_t n_seen, n_seen_allocated;                           /* a power of two */
    struct survey_stack todo, modules;
    struct survey_step *steps; /* the first one is the root */
    size_t n_steps, n_steps_allocated;
    struct survey_span *spans;
    size_t n_spans;
    PyObject *tensors;
};

static bool survey_start(void)
{
    struct {
        PyObject **ret;
        const char *text;
    } words[] = { { &name_modules, "_modules" },   { &name_parameters, "_parameters" },
                  { &name_buffers, "_buffers" },   { &name_data_ptr, "data_ptr" },
                  { &name_is_conj, "is_conj" },    { &name_is_neg, "is_neg" },
                  { &kind_parameter, "parameter" }, { &kind_buffer, "buffer" },
                  { &kind_state, "state" } };

    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        if (!*words[i].ret)
            *words[i].ret = PyUnicode_InternFromString(words[i].text);
        if (!*words[i].ret)
            return false;
    }
    return true;
}

/* --- what was seen --- */

static PyObject **seen_at(PyObject **seen, size_t n_allocated, const PyObject *object)
{
    size_t at = (size_t)((uintptr_t)object * 0x9e3779b97f4a7c15u >> 20) & (n_allocated - 1);

    while (seen[at] && seen[at] != object)
        at = (at + 1) & (n_allocated - 1);
    return &seen[at];
}

static bool seen_grow(struct survey *survey)
{
    size_t n_allocated = survey->n_seen_allocated ? survey->n_seen_allocated * 2 : 16384;
    PyObject **seen = calloc(n_allocated, sizeof(*seen));

    if (!seen) {
        PyErr_NoMemory();
        return false;
    }
    for (size_t i = 0; i < survey->n_seen_allocated; i++) {
        if (survey->seen[i])
            *seen_at(seen, n_allocated, survey->seen[i]) = survey->seen[i];
    }
    free(survey->seen);
    survey->seen = seen;
    survey->n_seen_allocated = n_allocated;
    return true;
}

/* 1: for the first time. */
static int survey_see(struct survey *survey, PyObject *object)
{
    PyObject **at;

    if (survey->n_seen * 2 >= survey->n_seen_allocated && !seen_grow(survey))
        return -1;
    at = seen_at(survey->seen, survey->n_seen_allocated, object);
    if (*at)
        return 0;
    *at = Py_NewRef(object);
    survey->n_seen++;
    return 1;
}

/* Twice the room, to which the items are moved. NULL with an exception set, and then they are where they were. */
static void *items_grow(void *items, size_t *n_allocated, size_t item_bytes)
{
    size_t n = *n_allocated ? *n_allocated * 2 : 1024;

    items = realloc(items, n * item_bytes);
    if (items)
        *n_allocated = n;
    else
        PyErr_NoMemory();
    return items;
}

/* --- names --- */

/* A step further than `before`; -1 with an exception set. `own` may be NULL. */
static int survey_step(struct survey *survey, size_t before, enum survey_step_kind kind, PyObject *own, Py_ssize_t at,
                       size_t *ret_name)
{
    if (survey->n_steps == survey->n_steps_allocated) {
        struct survey_step *steps = items_grow(survey->steps, &survey->n_steps_allocated, sizeof(*steps));

        if (!steps)
            return -1;
        survey->steps = steps;
    }
    *ret_name = survey->n_steps;
    survey->steps[survey->n_steps++] = (struct survey_step){ before, kind, at, Py_XNewRef(own), NULL };
    return 0;
}

/* The text of a name, borrowed; NULL with an exception set. */
static PyObject *survey_text(struct survey *survey, size_t name)
{
    struct survey_step step = survey->steps[name]; /* the array itself may move while repr() runs */
    PyObject *before, *text = NULL;

    if (step.text)
        return step.text;
    if (step.kind == SURVEY_ROOT) {
        text = PyUnicode_FromString("");
    } else if (Py_EnterRecursiveCall(" while putting a name together") == 0) {
        before = survey_text(survey, step.before);
        if (before && step.kind == SURVEY_INDEX)
            text = PyUnicode_FromFormat("%U[%zd]", before, step.at);
        else if (before && step.kind == SURVEY_KEY)
            text = PyUnicode_FromFormat("%U[%R]", before, step.own);
        else if (before && !PyUnicode_GET_LENGTH(before))
            text = PyObject_Str(step.own);
        else if (before)
            text = PyUnicode_FromFormat("%U.%S", before, step.own);
        Py_LeaveRecursiveCall();
    }
    survey->steps[name].text = text;
    return text;
}

/* --- what is still to be looked at --- */

static int stack_push(struct survey_stack *stack, size_t name, PyObject *object, PyObject *kind)
{
    if (stack->n == stack->n_allocated) {
        struct survey_entry *entries = items_grow(stack->entries, &stack->n_allocated, sizeof(*entries));

        if (!entries)
            return -1;
        stack->entries = entries;
    }
    stack->entries[stack->n++] = (struct survey_entry){ name, Py_NewRef(object), kind };
    return 0;
}

/* What was pushed from `first` on is popped in the order in which it was pushed. */
static void stack_reverse(struct survey_stack *stack, size_t first)
{
    for (size_t low = first, high = stack->n; low + 1 < high; low++) {
        struct survey_entry entry = stack->entries[--high];

        stack->entries[high] = stack->entries[low];
        stack->entries[low] = entry;
    }
}

static void stack_free(struct survey_stack *stack)
{
    while (stack->n)
        Py_DECREF(stack->entries[--stack->n].object);
    free(stack->entries);
}

/* The class of an object's type, or -1. */
static int survey_class(struct survey *survey, PyObject *object)
{
    PyObject *type = (PyObject *)Py_TYPE(object), *known = PyDict_GetItemWithError(survey->classes, type);
    PyObject *word, *number;
    int class = -1;

    if (known)
        return (int)PyLong_AsLong(known);
    word = PyErr_Occurred() ? NULL : PyObject_CallOneArg(survey->classify, type);
    if (word && PyUnicode_Check(word))
        class = py_word(survey_words, PyUnicode_AsUTF8(word), "classify()'s word");
    Py_XDECREF(word);
    number = class < 0 ? NULL : PyLong_FromLong(class);
    if (!number || PyDict_SetItem(survey->classes, type, number) < 0)
        class = -1;
    Py_XDECREF(number);
    return class;
}

/* Whether to leave an object out at once, with no Python code run: most attributes are flags and numbers. */
static bool survey_is_end(struct survey *survey, PyObject *object)
{
    PyObject *known;

    if (object == Py_None || PyBool_Check(object) || PyLong_CheckExact(object) || PyUnicode_CheckExact(object) ||
        PyFloat_CheckExact(object))
        return true;
    known = PyDict_GetItemWithError(survey->classes, (PyObject *)Py_TYPE(object));
    return known && PyLong_AsLong(known) == SURVEY_END;
}

/* What is one step further than `before`. */
static int survey_push(struct survey *survey, size_t before, enum survey_step_kind step, PyObject *own, Py_ssize_t at,
                       PyObject *object, PyObject *kind)
{
    size_t name;

    if (survey_is_end(survey, object))
        return 0;
    if (survey_step(survey, before, step, own, at, &name) < 0)
        return -1;
    return stack_push(&survey->todo, name, object, kind);
}

/* What has a name, less those in `without` (may be NULL). Runs no Python code while it goes through the dict. */
static int survey_push_dict(struct survey *survey, size_t before, PyObject *dict, PyObject *kind, PyObject *without)
{
    PyObject *name, *value;
    Py_ssize_t at = 0;

    while (PyDict_Next(dict, &at, &name, &value)) {
        int is_left_out;

        if (survey_is_end(survey, value) || !PyUnicode_CheckExact(name))
            continue;
        is_left_out = without ? PySet_Contains(without, name) : 0;
        if (is_left_out < 0 ||
            (!is_left_out && survey_push(survey, before, SURVEY_ATTRIBUTE, name, 0, value, kind) < 0))
            return -1;
    }
    return 0;
}

/* The two of a pair, borrowed. */
static int pair_open(PyObject *pair, PyObject **ret_name, PyObject **ret_value)
{
    if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
        PyErr_Format(PyExc_TypeError, "items() has given %R where a pair was expected", pair);
        return -1;
    }
    *ret_name = PyTuple_GET_ITEM(pair, 0);
    *ret_value = PyTuple_GET_ITEM(pair, 1);
    return 0;
}

/* Takes over a list of pairs; NULL if there was an error. */
static int survey_push_pairs(struct survey *survey, size_t before, enum survey_step_kind step, PyObject *pairs,
                             PyObject *kind)
{
    int r = pairs ? 0 : -1;

    for (Py_ssize_t i = 0; r == 0 && i < PyList_GET_SIZE(pairs); i++) {
        PyObject *name, *value;

        r = pair_open(PyList_GET_ITEM(pairs, i), &name, &value);
        if (r == 0)
            r = survey_push(survey, before, step, name, 0, value, kind);
    }
    Py_XDECREF(pairs);
    return r;
}

static int survey_push_sequence(struct survey *survey, size_t before, PyObject *sequence)
{
    PyObject *items = PySequence_Fast(sequence, "not iterable");
    int r = items ? 0 : -1;

    for (Py_ssize_t i = 0; r == 0 && i < PySequence_Fast_GET_SIZE(items); i++)
        r = survey_push(survey, before, SURVEY_INDEX, NULL, i, PySequence_Fast_GET_ITEM(items, i), kind_state);
    Py_XDECREF(items);
    return r;
}

/* --- modules --- */

/* What nn.Module keeps under a name: a dict, but a scripted module has something that only looks like one. */
static PyObject *module_pairs(PyObject *kept)
{
    return PyDict_Check(kept) && !PyDict_GET_SIZE(kept) ? PyList_New(0) : PyMapping_Items(kept);
}

/* A module and those below it, each where it was met first. */
static int survey_add_module(struct survey *survey, size_t name, PyObject *module)
{
    int is_new = survey_see(survey, module), r;
    PyObject *kept, *pairs;

    if (is_new <= 0)
        return is_new;
    if (stack_push(&survey->modules, name, module, NULL) < 0)
        return -1;
    kept = PyObject_GetAttr(module, name_modules);
    pairs = kept ? module_pairs(kept) : NULL;
    Py_XDECREF(kept);
    r = pairs && Py_EnterRecursiveCall(" while looking for modules") == 0 ? 0 : -1;
    if (r < 0) {
        Py_XDECREF(pairs);
        return -1;
    }
    for (Py_ssize_t i = 0; r == 0 && i < PyList_GET_SIZE(pairs); i++) {
        PyObject *own, *part;
        size_t below;

        r = pair_open(PyList_GET_ITEM(pairs, i), &own, &part);
        if (r == 0 && part == Py_None)
            continue;
        if (r == 0)
            r = survey_step(survey, name, SURVEY_ATTRIBUTE, own, 0, &below);
        if (r == 0)
            r = survey_add_module(survey, below, part);
    }
    Py_LeaveRecursiveCall();
    Py_DECREF(pairs);
    return r;
}

static int survey_push_kept(struct survey *survey, size_t name, PyObject *module, PyObject *which, PyObject *kind)
{
    PyObject *kept = PyObject_GetAttr(module, which);
    int r = -1;

    if (kept && PyDict_CheckExact(kept))
        r = survey_push_dict(survey, name, kept, kind, NULL);
    else if (kept)
        r = survey_push_pairs(survey, name, SURVEY_ATTRIBUTE, PyMapping_Items(kept), kind);
    Py_XDECREF(kept);
    return r;
}

/* --- objects --- */

/* 1: a tensor answers "no" to a question. */
static int tensor_denies(PyObject *tensor, PyObject *question)
{
    PyObject *answer = PyObject_CallMethodNoArgs(tensor, question);
    int denies = answer ? answer == Py_False : -1;

    Py_XDECREF(answer);
    return denies;
}

/* The span in which an address lies, or NULL. */
static struct survey_span *survey_span_at(struct survey *survey, uint64_t address)
{
    for (size_t i = 0; i < survey->n_spans; i++) {
        if (address >= survey->spans[i].start && address < survey->spans[i].end)
            return &survey->spans[i];
    }
    return NULL;
}

/* 1: a tensor begins in a span and reads as it lies there; one that cannot say so does not. */
static int survey_is_spanned(struct survey *survey, PyObject *tensor)
{
    PyObject *number = PyObject_CallMethodNoArgs(tensor, name_data_ptr);
    uint64_t address = number ? PyLong_AsUnsignedLongLong(number) : 0;
    struct survey_span *span = PyErr_Occurred() ? NULL : survey_span_at(survey, address);
    int r = span ? tensor_denies(tensor, name_is_conj) : 0;

    Py_XDECREF(number);
    if (r > 0)
        r = tensor_denies(tensor, name_is_neg);
    if (r > 0)
        span->is_hit = true;
    if (!PyErr_Occurred())
        return r;
    if (!PyErr_ExceptionMatches(PyExc_Exception)) /* an interrupt is for the caller */
        return -1;
    PyErr_Clear();
    return 0;
}

static int survey_note(struct survey *survey, const struct survey_entry *entry)
{
    int is_spanned = survey->n_spans ? survey_is_spanned(survey, entry->object) : 0, r = -1;
    PyObject *found = NULL, *arguments[3];

    if (is_spanned)
        return is_spanned < 0 ? -1 : 0;
    arguments[0] = survey_text(survey, entry->name);
    arguments[1] = entry->kind;
    arguments[2] = entry->object;
    if (arguments[0])
        found = PyObject_Vectorcall(survey->found, arguments, 3, NULL);
    if (found)
        r = PyList_Append(survey->tensors, found);
    Py_XDECREF(found);
    return r;
}

/* An object that has no attributes of its own has none to push. */
static int survey_push_attributes(struct survey *survey, size_t name, PyObject *object, PyObject *without)
{
    PyObject *dict = PyObject_GenericGetDict(object, NULL);
    int r;

    if (!dict) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    r = survey_push_dict(survey, name, dict, kind_state, without);
    Py_DECREF(dict);
    return r;
}

static int survey_open_module(struct survey *survey, size_t name, PyObject *module)
{
    int r = survey_push_kept(survey, name, module, name_parameters, kind_parameter);

    if (r == 0)
        r = survey_push_kept(survey, name, module, name_buffers, kind_buffer);
    return r == 0 ? survey_push_attributes(survey, name, module, survey->bookkeeping) : r;
}

static int survey_open(struct survey *survey, const struct survey_entry *entry)
{
    int class = survey_class(survey, entry->object), is_new, r = 0;

    if (class <= SURVEY_END)
        return class;
    if (class == SURVEY_MODULE) /* one that its owner keeps in a plain list or attribute */
        return survey_add_module(survey, entry->name, entry->object);
    is_new = survey_see(survey, entry->object);
    if (is_new <= 0)
        return is_new;
    switch (class) {
    case SURVEY_TENSOR:
        r = survey_note(survey, entry);
        break;
    case SURVEY_WRAPPER:
        r = survey_push_pairs(survey, entry->name, SURVEY_ATTRIBUTE,
                              PyObject_CallOneArg(survey->unwrap, entry->object), entry->kind);
        break;
    case SURVEY_MAPPING:
        return survey_push_pairs(survey, entry->name, SURVEY_KEY, PyMapping_Items(entry->object), kind_state);
    case SURVEY_SEQUENCE:
        return survey_push_sequence(survey, entry->name, entry->object);
    case SURVEY_SLOTTED:
        r = survey_push_pairs(survey, entry->name, SURVEY_ATTRIBUTE,
                              PyObject_CallOneArg(survey->slots, entry->object), kind_state);
        break;
    default:
        break;
    }
    return r < 0 ? r : survey_push_attributes(survey, entry->name, entry->object, NULL);
}

static int survey_run(struct survey *survey)
{
    for (size_t i = 0; i < survey->modules.n; i++) {
        struct survey_entry module = survey->modules.entries[i]; /* held there; the array itself may move */

        if (survey_open_module(survey, module.name, module.object) < 0)
            return -1;
        stack_reverse(&survey->todo, 0);
        while (survey->todo.n) {
            struct survey_entry entry = survey->todo.entries[--survey->todo.n];
            size_t first = survey->todo.n;
            int r = survey_open(survey, &entry);

            stack_reverse(&survey->todo, first);
            Py_DECREF(entry.object);
            if (r < 0)
                return -1;
        }
    }
    return 0;
}

/* Spans as pairs (start, end). */
static int survey_take_spans(struct survey *survey, PyObject *pairs)
{
    Py_ssize_t n = PyList_GET_SIZE(pairs);

    survey->spans = calloc((size_t)n + 1, sizeof(*survey->spans));
    if (!survey->spans) {
        PyErr_NoMemory();
        return -1;
    }
    for (; survey->n_spans < (size_t)n; survey->n_spans++) {
        struct survey_span *span = &survey->spans[survey->n_spans];
        PyObject *start, *end;

        if (pair_open(PyList_GET_ITEM(pairs, (Py_ssize_t)survey->n_spans), &start, &end) < 0)
            return -1;
        span->start = PyLong_AsUnsignedLongLong(start);
        if (!PyErr_Occurred())
            span->end = PyLong_AsUnsignedLongLong(end);
        if (PyErr_Occurred())
            return -1;
    }
    return 0;
}

/* The spans in which something lies, as indices. */
static PyObject *survey_hits(const struct survey *survey)
{
    PyObject *hits = PyList_New(0);

    for (size_t i = 0; hits && i < survey->n_spans; i++) {
        PyObject *index = survey->spans[i].is_hit ? PyLong_FromSize_t(i) : NULL;

        if (survey->spans[i].is_hit && (!index || PyList_Append(hits, index) < 0))
            Py_CLEAR(hits);
        Py_XDECREF(index);
    }
    return hits;
}

static void survey_fini(struct survey *survey)
{
    stack_free(&survey->todo);
    stack_free(&survey->modules);
    for (size_t i = 0; i < survey->n_steps; i++) {
        Py_XDECREF(survey->steps[i].own);
        Py_XDECREF(survey->steps[i].text);
    }
    free(survey->steps);
    free(survey->spans);
    for (size_t i = 0; i < survey->n_seen_allocated; i++)
        Py_XDECREF(survey->seen[i]);
    free(survey->seen);
    Py_XDECREF(survey->classes);
    Py_XDECREF(survey->tensors);
}

/* A module and those below it, each with its name. */
static int survey_add_modules(struct survey *survey, PyObject *module)
{
    size_t root;

    if (!survey_start() || survey_step(survey, 0, SURVEY_ROOT, NULL, 0, &root) < 0)
        return -1;
    return survey_add_module(survey, root, module);
}

PyObject *py_survey(PyObject *self, PyObject *args)
{
    struct survey survey = { 0 };
    PyObject *module, *spans, *hits = NULL, *result = NULL;

    (void)self;
    if (!PyArg_ParseTuple(args, "OOOOO!OO!:survey", &module, &survey.classify, &survey.unwrap, &survey.slots,
                          &PyFrozenSet_Type, &survey.bookkeeping, &survey.found, &PyList_Type, &spans))
        return NULL;
    survey.classes = PyDict_New();
    survey.tensors = PyList_New(0);
    if (survey.classes && survey.tensors && survey_take_spans(&survey, spans) == 0 &&
        survey_add_modules(&survey, module) >= 0 && survey_run(&survey) == 0)
        hits = survey_hits(&survey);
    if (hits)
        result = PyTuple_Pack(2, survey.tensors, hits);
    Py_XDECREF(hits);
    survey_fini(&survey);
    return result;
}

/* A module and those below it, each once, as nn.Module.modules() has them, as a list. */
PyObject *py_modules(PyObject *self, PyObject *module)
{
    struct survey survey = { 0 };
    PyObject *list = NULL;

    (void)self;
    if (survey_add_modules(&survey, module) >= 0)
        list = PyList_New((Py_ssize_t)survey.modules.n);
    for (size_t i = 0; list && i < survey.modules.n; i++)
        PyList_SET_ITEM(list, (Py_ssize_t)i, Py_NewRef(survey.modules.entries[i].object));
    survey_fini(&survey);
    return list;
}
