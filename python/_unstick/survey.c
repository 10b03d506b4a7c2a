/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Survey: the tensors under a module, and the modules, in the order of their names. What an object is to the walk, its
 * type decides, and the caller says so once for each type; the walk itself runs no Python code but repr() of keys,
 * items() of what is no dict, and the two questions that only an object can answer.
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

/* Names as nn.Module has them. */
static PyObject *name_modules, *name_parameters, *name_buffers, *kind_parameter, *kind_buffer, *kind_state;

struct survey_entry {
    PyObject *name, *object; /* own references */
    PyObject *kind;
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
    PyObject *tensors;
};

static bool survey_start(void)
{
    struct {
        PyObject **ret;
        const char *text;
    } words[] = { { &name_modules, "_modules" },     { &name_parameters, "_parameters" },
                  { &name_buffers, "_buffers" },     { &kind_parameter, "parameter" },
                  { &kind_buffer, "buffer" },        { &kind_state, "state" } };

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

/* --- what is still to be looked at --- */

/* Takes over the name, which may be NULL with an exception set. */
static int stack_push(struct survey_stack *stack, PyObject *name, PyObject *object, PyObject *kind)
{
    if (!name)
        return -1;
    if (stack->n == stack->n_allocated) {
        size_t n_allocated = stack->n_allocated ? stack->n_allocated * 2 : 1024;
        struct survey_entry *entries = realloc(stack->entries, n_allocated * sizeof(*entries));

        if (!entries) {
            Py_DECREF(name);
            PyErr_NoMemory();
            return -1;
        }
        stack->entries = entries;
        stack->n_allocated = n_allocated;
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
    while (stack->n) {
        struct survey_entry *entry = &stack->entries[--stack->n];

        Py_DECREF(entry->name);
        Py_DECREF(entry->object);
    }
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

static PyObject *name_join(PyObject *prefix, PyObject *name)
{
    return PyUnicode_GET_LENGTH(prefix) ? PyUnicode_FromFormat("%U.%S", prefix, name) : PyObject_Str(name);
}

/* What has a name, less those in `without` (may be NULL). Runs no Python code while it goes through the dict. */
static int survey_push_dict(struct survey *survey, PyObject *prefix, PyObject *dict, PyObject *kind, PyObject *without)
{
    PyObject *name, *value;
    Py_ssize_t at = 0;

    while (PyDict_Next(dict, &at, &name, &value)) {
        int is_left_out;

        if (survey_is_end(survey, value) || !PyUnicode_CheckExact(name))
            continue;
        is_left_out = without ? PySet_Contains(without, name) : 0;
        if (is_left_out < 0 ||
            (!is_left_out && stack_push(&survey->todo, name_join(prefix, name), value, kind) < 0))
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

/* A list of pairs, which is let go; NULL if there was an error. */
static int survey_push_pairs(struct survey *survey, PyObject *prefix, const char *format, PyObject *pairs,
                             PyObject *kind)
{
    int r = pairs ? 0 : -1;

    for (Py_ssize_t i = 0; r == 0 && i < PyList_GET_SIZE(pairs); i++) {
        PyObject *name, *value;

        r = pair_open(PyList_GET_ITEM(pairs, i), &name, &value);
        if (r == 0 && !survey_is_end(survey, value))
            r = stack_push(&survey->todo, PyUnicode_FromFormat(format, prefix, name), value, kind);
    }
    Py_XDECREF(pairs);
    return r;
}

static int survey_push_sequence(struct survey *survey, PyObject *prefix, PyObject *sequence)
{
    PyObject *items = PySequence_Fast(sequence, "not iterable");
    int r = items ? 0 : -1;

    for (Py_ssize_t i = 0; r == 0 && i < PySequence_Fast_GET_SIZE(items); i++) {
        PyObject *value = PySequence_Fast_GET_ITEM(items, i);

        if (!survey_is_end(survey, value))
            r = stack_push(&survey->todo, PyUnicode_FromFormat("%U[%zd]", prefix, i), value, kind_state);
    }
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
static int survey_add_module(struct survey *survey, PyObject *name, PyObject *module)
{
    int is_new = survey_see(survey, module), r;
    PyObject *kept, *pairs;

    if (is_new <= 0)
        return is_new;
    if (stack_push(&survey->modules, Py_NewRef(name), module, NULL) < 0)
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
        PyObject *own, *part, *below = NULL;

        r = pair_open(PyList_GET_ITEM(pairs, i), &own, &part);
        if (r == 0 && part == Py_None)
            continue;
        below = r == 0 ? name_join(name, own) : NULL;
        r = below ? survey_add_module(survey, below, part) : -1;
        Py_XDECREF(below);
    }
    Py_LeaveRecursiveCall();
    Py_DECREF(pairs);
    return r;
}

static int survey_push_kept(struct survey *survey, PyObject *name, PyObject *module, PyObject *which, PyObject *kind)
{
    const char *format = PyUnicode_GET_LENGTH(name) ? "%U.%S" : "%U%S";
    PyObject *kept = PyObject_GetAttr(module, which);
    int r = -1;

    if (kept && PyDict_CheckExact(kept))
        r = survey_push_dict(survey, name, kept, kind, NULL);
    else if (kept)
        r = survey_push_pairs(survey, name, format, PyMapping_Items(kept), kind);
    Py_XDECREF(kept);
    return r;
}

/* --- objects --- */

static int survey_note(struct survey *survey, const struct survey_entry *entry)
{
    PyObject *arguments[] = { entry->name, entry->kind, entry->object };
    PyObject *found = PyObject_Vectorcall(survey->found, arguments, 3, NULL);
    int r = found ? PyList_Append(survey->tensors, found) : -1;

    Py_XDECREF(found);
    return r;
}

/* An object that has no attributes of its own has none to push. */
static int survey_push_attributes(struct survey *survey, PyObject *name, PyObject *object, PyObject *without)
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

static int survey_open_module(struct survey *survey, PyObject *name, PyObject *module)
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
        r = survey_push_pairs(survey, entry->name, "%U.%S", PyObject_CallOneArg(survey->unwrap, entry->object),
                              entry->kind);
        break;
    case SURVEY_MAPPING:
        return survey_push_pairs(survey, entry->name, "%U[%R]", PyMapping_Items(entry->object), kind_state);
    case SURVEY_SEQUENCE:
        return survey_push_sequence(survey, entry->name, entry->object);
    case SURVEY_SLOTTED:
        r = survey_push_pairs(survey, entry->name, "%U.%S", PyObject_CallOneArg(survey->slots, entry->object),
                              kind_state);
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
            Py_DECREF(entry.name);
            Py_DECREF(entry.object);
            if (r < 0)
                return -1;
        }
    }
    return 0;
}

static PyObject *survey_modules(const struct survey_stack *modules)
{
    PyObject *list = PyList_New((Py_ssize_t)modules->n);

    for (size_t i = 0; list && i < modules->n; i++) {
        PyObject *pair = PyTuple_Pack(2, modules->entries[i].name, modules->entries[i].object);

        if (!pair)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, pair);
    }
    return list;
}

static void survey_fini(struct survey *survey)
{
    stack_free(&survey->todo);
    stack_free(&survey->modules);
    for (size_t i = 0; i < survey->n_seen_allocated; i++)
        Py_XDECREF(survey->seen[i]);
    free(survey->seen);
    Py_XDECREF(survey->classes);
    Py_XDECREF(survey->tensors);
}

PyObject *py_survey(PyObject *self, PyObject *args)
{
    struct survey survey = { 0 };
    PyObject *module, *name, *modules = NULL, *result = NULL;

    (void)self;
    if (!PyArg_ParseTuple(args, "OOOOO!O:survey", &module, &survey.classify, &survey.unwrap, &survey.slots,
                          &PyFrozenSet_Type, &survey.bookkeeping, &survey.found) ||
        !survey_start())
        return NULL;
    name = PyUnicode_FromString("");
    survey.classes = PyDict_New();
    survey.tensors = PyList_New(0);
    if (name && survey.classes && survey.tensors && survey_add_module(&survey, name, module) >= 0 &&
        survey_run(&survey) == 0)
        modules = survey_modules(&survey.modules);
    if (modules)
        result = PyTuple_Pack(2, survey.tensors, modules);
    Py_XDECREF(modules);
    Py_XDECREF(name);
    survey_fini(&survey);
    return result;
}

/* A module and those below it, each once, as nn.Module.modules() has them, as a list. */
PyObject *py_modules(PyObject *self, PyObject *module)
{
    struct survey survey = { 0 };
    PyObject *name = PyUnicode_FromString(""), *list = NULL;

    (void)self;
    if (name && survey_start() && survey_add_module(&survey, name, module) >= 0)
        list = PyList_New((Py_ssize_t)survey.modules.n);
    for (size_t i = 0; list && i < survey.modules.n; i++)
        PyList_SET_ITEM(list, (Py_ssize_t)i, Py_NewRef(survey.modules.entries[i].object));
    Py_XDECREF(name);
    survey_fini(&survey);
    return list;
}
