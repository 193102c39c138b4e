/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Scope-bound ownership.
 *
 * A variable marked with one of these attributes owns its value until the scope ends; steal_ptr() and steal_fd()
 * hand the value over and leave the variable harmless. Every release function here accepts the "nothing" value
 * (NULL, -1), so a half-built object is released by the same path as a whole one.
 */
#ifndef CAPSULE_BASE_CLEANUP_H
#define CAPSULE_BASE_CLEANUP_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))

/* Defines name##p(T **), the form that the cleanup attribute calls, from a destructor name(T *). */
#define DEFINE_CLEANUP(type, name)                                                                                    \
	static inline void name##p(type *p)                                                                           \
	{                                                                                                             \
		if (*p)                                                                                               \
			name(*p);                                                                                     \
	}

static inline void cleanup_freep(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_closep(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

DEFINE_CLEANUP(FILE *, fclose)
DEFINE_CLEANUP(DIR *, closedir)

#define _cleanup_free_ _cleanup_(cleanup_freep)
#define _cleanup_close_ _cleanup_(cleanup_closep)
#define _cleanup_fclose_ _cleanup_(fclosep)
#define _cleanup_closedir_ _cleanup_(closedirp)

static inline int steal_fd(int *fd)
{
	int r = *fd;

	*fd = -1;
	return r;
}

#define steal_ptr(pp)                                                                                                 \
	({                                                                                                            \
		__typeof__(pp) _pp = (pp);                                                                            \
		__typeof__(*_pp) _p = *_pp;                                                                           \
		*_pp = NULL;                                                                                          \
		_p;                                                                                                   \
	})

#endif
