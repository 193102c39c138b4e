/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* For the tests of manifests: what must be right is parsed, what must be wrong is reported. */
#ifndef CAPSULE_TESTS_MANIFEST_FIXTURE_H
#define CAPSULE_TESTS_MANIFEST_FIXTURE_H

#include "manifest/manifest.h"

#include <check.h>
#include <string.h>

/* The shortest workloads; more lines may follow. */
#define WEB "name: web\nkind: Container\ncontainer:\n  image: nginx\n"
#define VM "name: vm\nkind: MicroVM\nmicroVm:\n  image: alpine\n"
#define N(array) (sizeof(array) / sizeof *(array))

/* Parses what must be right. The caller releases it. */
struct manifest parsed(const char *text, size_t len);

/* The one workload of a text. The caller drops it. */
Capsule__V1__Workload *workload(const char *text);
void drop(Capsule__V1__Workload *w);

/* The report about a text, of any length. The caller frees. */
char *report_on(const char *text, size_t len, const char *file);
void expect_report(const char *text, const char *expected);

/* The message in one line of JSON. The caller frees. */
char *to_json(const void *message);

/* Repeats a text n times behind another. The caller frees. */
char *repeated(const char *head, const char *text, size_t n, const char *tail);

#endif
