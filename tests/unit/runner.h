/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What main() of every unit test program ends with. */
#ifndef CAPSULE_TESTS_UNIT_RUNNER_H
#define CAPSULE_TESTS_UNIT_RUNNER_H

#include <check.h>
#include <stdlib.h>

/* Runs the suite, which it takes, and reports as the environment says (TAP). The program's exit status. */
static inline int run_suite(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	int failed;

	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
