/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime_fixture.h"

#include "base/fs.h"
#include "runner.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static char dir[64];

static void setup(void)
{
	snprintf(dir, sizeof dir, "/tmp/capsule-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
	ck_assert_int_eq(fs_remove_tree(AT_FDCWD, dir, NULL), 0);
}

char *in_dir(const char *name)
{
	static char paths[8][160];
	static unsigned next;
	char *path = paths[next++ % 8];

	snprintf(path, 160, "%s/%s", dir, name);
	return path;
}

void write_text(const char *name, const char *text)
{
	char *path = in_dir(name), *slash = strrchr(path, '/');

	*slash = '\0';
	ck_assert_int_eq(fs_mkdir_all(AT_FDCWD, path, 0755, NULL), 0);
	*slash = '/';
	ck_assert_int_eq(fs_write_replace(AT_FDCWD, path, text, strlen(text), 0644, NULL), 0);
}

int run_runtime_tests(const char *name, const TTest *const *tests, size_t n)
{
	Suite *suite = suite_create(name);
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	for (size_t i = 0; i < n; i++)
		tcase_add_test(tc, tests[i]);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
