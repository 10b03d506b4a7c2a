/* SPDX-License-Identifier: Apache-2.0 */
/* Words for the values of an enum of the library, in its order. */
#include "module.h"

#include <string.h>

int py_word(const char *const *words, const char *word, const char *what)
{
    for (int i = 0; words[i]; i++) {
        if (!strcmp(words[i], word))
            return i;
    }
    PyErr_Format(PyExc_ValueError, "%s cannot be %s", what, word);
    return -1;
}
