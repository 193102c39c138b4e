/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* For the tests of what the runtime reads and writes: each has a directory of its own. */
#ifndef CAPSULE_TESTS_RUNTIME_FIXTURE_H
#define CAPSULE_TESTS_RUNTIME_FIXTURE_H

#include <check.h>

/* The path of a name in the directory; good for the next seven calls. */
char *in_dir(const char *name);

/* Writes a file in the directory, whose parents it makes. */
void write_text(const char *name, const char *text);

/* Runs the tests; the program's exit status. */
int run_runtime_tests(const char *name, const TTest *const *tests, size_t n);

#endif
