/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/worker.h"

#include "runner.h"

#include <check.h>
#include <signal.h>
#include <string.h>

struct seen {
	struct worker *worker;
	size_t bytes;
	bool pauses; /* after each chunk */
	bool ended;
	int term_signal;
	int64_t exit_status;
	char last_words[64];
};

static void on_output(const char *data, size_t len, void *arg)
{
	struct seen *seen = arg;

	seen->bytes += len;
	if (seen->pauses)
		worker_pause(seen->worker);
}

static void on_ended(const struct worker_end *end, void *arg)
{
	struct seen *seen = arg;

	seen->ended = true;
	seen->term_signal = end->term_signal;
	seen->exit_status = end->exit_status;
	snprintf(seen->last_words, sizeof seen->last_words, "%s", end->last_words);
}

static void start(uv_loop_t *loop, struct seen *seen, const char *script)
{
	const char *const argv[] = { "/bin/sh", "-c", script, NULL };
	const struct worker_options options = { argv, false, -1 };
	const struct worker_callbacks callbacks = { on_output, NULL, on_ended, seen };
	_cleanup_error_ struct error err = ERROR_INIT;

	seen->worker = worker_start(loop, &options, &callbacks, &err);
	ck_assert_msg(seen->worker, "%s", error_message(&err));
}

START_TEST(what_it_says_is_handed_on)
{
	struct seen seen = { 0 };
	uv_loop_t loop;

	uv_loop_init(&loop);
	start(&loop, &seen, "head -c 300000 /dev/zero; echo first >&2; echo last >&2; exit 7");
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert(seen.ended);
	ck_assert_uint_eq(seen.bytes, 300000);
	ck_assert_int_eq(seen.exit_status, 7);
	ck_assert_int_eq(seen.term_signal, 0);
	ck_assert_str_eq(seen.last_words, "last");
	ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

/* More than one chunk waits in its pipe, and whoever takes them pauses after each. */
START_TEST(one_that_is_paused_and_killed_ends)
{
	struct seen seen = { .pauses = true };
	uv_loop_t loop;

	uv_loop_init(&loop);
	start(&loop, &seen, "exec cat /dev/zero");
	while (seen.bytes == 0)
		uv_run(&loop, UV_RUN_ONCE);
	uv_sleep(100); /* its pipe gets full meanwhile */
	worker_kill(seen.worker);
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert(seen.ended);
	ck_assert_int_eq(seen.term_signal, SIGKILL);
	ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

START_TEST(nothing_is_heard_of_one_that_is_abandoned)
{
	struct seen seen = { 0 };
	uv_loop_t loop;

	uv_loop_init(&loop);
	start(&loop, &seen, "exec cat /dev/zero");
	worker_abandon(seen.worker);
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert(!seen.ended);
	ck_assert_uint_eq(seen.bytes, 0);
	ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("worker");
	TCase *tests = tcase_create("worker");

	tcase_add_test(tests, what_it_says_is_handed_on);
	tcase_add_test(tests, one_that_is_paused_and_killed_ends);
	tcase_add_test(tests, nothing_is_heard_of_one_that_is_abandoned);
	suite_add_tcase(suite, tests);
	return run_suite(suite);
}
