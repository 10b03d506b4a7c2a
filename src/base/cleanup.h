/* SPDX-License-Identifier: Apache-2.0 */
#ifndef USK_BASE_CLEANUP_H
#define USK_BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>

/*
 * Cleanup by scope: `USK_CLEANUP(usk_freep) char *name = NULL;`. A function that hands its object out on success
 * disarms it: `*ret = USK_STEAL(object)`.
 */
#define USK_CLEANUP(_fn) __attribute__((cleanup(_fn)))

#define USK_STEAL(_pointer)                                                                                  \
    ({                                                                                                       \
        __typeof__(_pointer) stolen_ = (_pointer);                                                           \
        (_pointer) = NULL;                                                                                   \
        stolen_;                                                                                             \
    })

/* Makes `<fn>p()`, which takes the address of the variable, from a destructor that allows NULL. */
#define USK_DEFINE_CLEANUP(_type, _fn)                                                                       \
    static inline void _fn##p(_type *object)                                                                 \
    {                                                                                                        \
        if (*object)                                                                                         \
            _fn(*object);                                                                                    \
    }

static inline void usk_freep(void *pointer)
{
    free(*(void **)pointer);
}

static inline void usk_closep(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

#endif
