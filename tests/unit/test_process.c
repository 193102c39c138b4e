/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/process.h"

#include "runner.h"

#include <check.h>
#include <string.h>
#include <unistd.h>

/* It takes its time to end, and says so; `wait` returns when the signal has come. */
static const char script[] = "trap 'sleep 0.3; echo ended >$0; exit' TERM; sleep 2 & wait";
static char witness[] = "/tmp/capsule-process-XXXXXX";

static void set_up(void)
{
	memcpy(witness + sizeof witness - sizeof "XXXXXX", "XXXXXX", sizeof "XXXXXX");
	close(mkstemp(witness));
}

static void tear_down(void)
{
	unlink(witness);
}

static void run(int64_t patience_ms)
{
	const char *const argv[] = { "/bin/sh", "-c", script, witness, NULL };
	const struct process_run command = { .spawn = { .argv = argv }, .timeout_ms = 300, .patience_ms = patience_ms };
	_cleanup_process_result_ struct process_result result = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_int_lt(process_run(&command, &result, &err), 0);
	ck_assert_int_eq(err.code, ERR_DEADLINE_EXCEEDED);
}

static bool ended_in_order(void)
{
	char text[16];
	FILE *f = fopen(witness, "r");
	bool said;

	ck_assert_ptr_nonnull(f);
	said = fgets(text, sizeof text, f) && !strcmp(text, "ended\n");
	fclose(f);
	return said;
}

START_TEST(killed_at_its_deadline)
{
	run(0);
	ck_assert(!ended_in_order());
}
END_TEST

START_TEST(asked_to_end_first)
{
	run(60000);
	ck_assert(ended_in_order());
}
END_TEST

START_TEST(killed_when_it_does_not_heed)
{
	run(50);
	ck_assert(!ended_in_order());
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("process");
	TCase *tc = tcase_create("process");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_add_test(tc, killed_at_its_deadline);
	tcase_add_test(tc, asked_to_end_first);
	tcase_add_test(tc, killed_when_it_does_not_heed);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
