/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What the form of a path says about a copy. */
#include "tree/path.h"

#include "runner.h"

#include <check.h>
#include <stdlib.h>

static const struct {
	const char *path;
	bool directory, contents;
	const char *trimmed, *dir, *name; /* name NULL: it has none */
} PATHS[] = {
	{ "a", false, false, "a", ".", "a" },
	{ "/a", false, false, "/a", "/", "a" },
	{ "a/b", false, false, "a/b", "a", "b" },
	{ "/a/b", false, false, "/a/b", "/a", "b" },
	{ "a//b", false, false, "a//b", "a/", "b" },
	{ "a/", true, false, "a", ".", "a" },
	{ "a///", true, false, "a", ".", "a" },
	{ "/a/b/", true, false, "/a/b", "/a", "b" },
	{ ".a", false, false, ".a", ".", ".a" },
	{ "a.", false, false, "a.", ".", "a." },
	{ "a..", false, false, "a..", ".", "a.." },
	{ "a/...", false, false, "a/...", "a", "..." },
	{ "a/.", true, true, "a", ".", "a" },
	{ "a/./", true, true, "a", ".", "a" },
	{ "a/./.", true, true, "a", ".", "a" },
	{ "/a/.", true, true, "/a", "/", "a" },
	{ "a/..", true, true, "a/..", "a/..", NULL },
	{ "a/../", true, true, "a/..", "a/..", NULL },
	{ "/", true, true, "/", "/", NULL },
	{ "//", true, true, "/", "/", NULL },
	{ "/.", true, true, "/", "/", NULL },
	{ "/..", true, true, "/..", "/..", NULL },
	{ ".", true, true, ".", ".", NULL },
	{ "./", true, true, ".", ".", NULL },
	{ "..", true, true, "..", "..", NULL },
	{ "", true, false, ".", ".", NULL },
};

START_TEST(forms)
{
	char *trimmed = path_trim(PATHS[_i].path), *dir, *name;

	ck_assert_int_eq(path_wants_directory(PATHS[_i].path), PATHS[_i].directory);
	ck_assert_int_eq(path_wants_contents(PATHS[_i].path), PATHS[_i].contents);
	ck_assert_str_eq(trimmed, PATHS[_i].trimmed);
	ck_assert_int_eq(path_split(trimmed, &dir, &name), 0);
	ck_assert_str_eq(dir, PATHS[_i].dir);
	ck_assert_pstr_eq(name, PATHS[_i].name);
	free(trimmed);
	free(dir);
	free(name);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("path");
	TCase *tc = tcase_create("path");

	tcase_add_loop_test(tc, forms, 0, sizeof PATHS / sizeof PATHS[0]);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
