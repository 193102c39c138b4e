/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Parts of the rules that stand in files of their own. */
#ifndef CAPSULE_MANIFEST_CHECK_H
#define CAPSULE_MANIFEST_CHECK_H

/* What is wrong with an RFC 1123 label ("may hold ... only"), or NULL. A constant or out. */
#define LABEL_PROBLEM_MAX 512
const char *label_problem(const char *name, char out[LABEL_PROBLEM_MAX]);

/* Rewrites an absolute path in place to its shortest form: "/data//x/./" to "/data/x". ".." stays. What is not absolute
 * is left as it is. */
void path_normalize(char *path);

#endif
