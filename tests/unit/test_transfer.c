/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The daemon's side of a transfer. The worker is this very program: started with the verb "pull" or "push" it plays the
 * part that the reference names, so every way in which a worker can end or misbehave is a real process doing so.
 */
#include "image/transfer.h"

#include "runner.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>

#define SELF "/proc/self/exe"

/* ---- the worker ---- */

static void line(const char *text)
{
	printf("%s\n", text);
	fflush(stdout);
}

static void play_long_line(void)
{
	for (int i = 0; i < 70000; i++)
		putchar('x');
	putchar('\n');
	fflush(stdout);
	pause();
}

/* Reads the archive and brings one image whose name is the number of its bytes. */
static int play_push(void)
{
	static char chunk[1 << 16];
	size_t n, sum = 0;

	while ((n = fread(chunk, 1, sizeof chunk, stdin)) > 0)
		sum += n;
	printf("{\"image\": {\"reference\": \"%zu\", \"digest\": \"sha256:0\"}}\n", sum);
	return 0;
}

static int play(const char *part)
{
	if (strcmp(part, "good") == 0) {
		line("{\"progress\": {\"done\": 1, \"total\": 2, \"status\": \"half\"}}");
		line("{\"image\": {\"reference\": \"a\", \"digest\": \"sha256:0\"}}");
		line("{\"image\": {\"reference\": \"b\", \"digest\": \"sha256:1\"}}");
		return 0;
	}
	if (strcmp(part, "refused") == 0) {
		line("{\"error\": {\"code\": \"NOT_FOUND\", \"message\": \"no such image\"}}");
		return 1;
	}
	if (strcmp(part, "silent") == 0)
		return 0;
	if (strcmp(part, "loud") == 0) {
		for (int i = 0; i < 20000; i++)
			fprintf(stderr, "noise %d\n", i);
		fprintf(stderr, "the last words\n");
		return 3;
	}
	if (strcmp(part, "crash") == 0)
		raise(SIGKILL);
	if (strcmp(part, "garbage") == 0) {
		line("{\"image\": {\"reference\": \"a\", \"digest\": \"sha256:0\"}}");
		line("this is not JSON");
		pause();
	}
	if (strcmp(part, "unknown") == 0) {
		line("{\"surprise\": {}}");
		pause();
	}
	if (strcmp(part, "longline") == 0)
		play_long_line();
	if (strcmp(part, "images") == 0)
		for (int i = 0; i < TRANSFER_IMAGES_MAX + 1; i++)
			printf("{\"image\": {\"reference\": \"r%d\", \"digest\": \"sha256:0\"}}\n", i);
	if (strcmp(part, "hang") == 0) {
		line("{\"progress\": {\"done\": 0, \"total\": 0, \"status\": \"hanging\"}}");
		pause();
	}
	fflush(stdout);
	return 0;
}

static int worker(int argc, char **argv)
{
	if (strcmp(argv[1], "push") == 0)
		return strcmp(argv[3], "deaf") == 0 ? play("refused") : play_push();
	return play(argv[argc - 1]);
}

/* ---- the test ---- */

struct outcome {
	struct transfer *transfer;
	int done, progress, drained;
	int full; /* how often feed() had to wait */
	uint64_t total;
	size_t n;
	char first[64];
	enum error_code code;
	char message[512];
	bool cancel_on_progress;
	size_t to_write; /* push: what is left */
};

static uv_loop_t loop;

static void on_progress(const struct transfer_progress *progress, void *arg)
{
	struct outcome *o = arg;

	o->progress++;
	o->total = progress->total_bytes;
	if (o->cancel_on_progress)
		transfer_cancel(o->transfer);
}

static void on_done(char **references, size_t n, const struct error *err, void *arg)
{
	struct outcome *o = arg;

	o->done++;
	o->n = n;
	if (n)
		snprintf(o->first, sizeof o->first, "%s", references[0]);
	if (err) {
		o->code = err->code;
		snprintf(o->message, sizeof o->message, "%s", error_message(err));
	}
}

static void feed(struct outcome *o)
{
	static char chunk[100000];

	while (o->to_write > 0) {
		size_t len = o->to_write < sizeof chunk ? o->to_write : sizeof chunk;

		o->to_write -= len;
		if (transfer_write(o->transfer, chunk, len) > TRANSFER_QUEUE_HIGH) {
			o->full++;
			return;
		}
	}
	transfer_end(o->transfer);
}

static void on_drained(void *arg)
{
	struct outcome *o = arg;

	o->drained++;
	feed(o);
}

static struct transfer_callbacks callbacks_of(struct outcome *o)
{
	return (struct transfer_callbacks){ .progress = on_progress, .done = on_done, .drained = on_drained, .arg = o };
}

static size_t open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	size_t n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void run_pull(const char *part, struct outcome *o)
{
	struct transfer_options options = { .program = SELF, .root = "/nowhere", .registries_file = "/nowhere/r.json" };
	struct transfer_callbacks callbacks = callbacks_of(o);
	_cleanup_error_ struct error err = ERROR_INIT;

	o->transfer = transfer_pull(&loop, &options, part, &callbacks, &err);
	ck_assert_msg(o->transfer != NULL, "%s", error_message(&err));
	ck_assert_int_eq(o->done, 0);
	ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
}

static void setup(void)
{
	signal(SIGPIPE, SIG_IGN);
	ck_assert_int_eq(uv_loop_init(&loop), 0);
}

/* Nothing is left: no handle in the loop, no child. */
static void teardown(void)
{
	ck_assert_int_eq(uv_loop_close(&loop), 0);
	ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
	ck_assert_int_eq(errno, ECHILD);
}

START_TEST(success)
{
	struct outcome o = { 0 };

	run_pull("good", &o);
	ck_assert_int_eq(o.done, 1);
	ck_assert_int_eq(o.progress, 1);
	ck_assert_uint_eq(o.total, 2);
	ck_assert_uint_eq(o.n, 2);
	ck_assert_str_eq(o.first, "a");
	ck_assert_int_eq(o.code, ERR_OK);
}
END_TEST

static const struct {
	const char *part;
	enum error_code code;
	const char *says;
} failures[] = {
	{ "refused", ERR_NOT_FOUND, "no such image" },
	{ "silent", ERR_INTERNAL, "exit code 0 and without a result" },
	{ "loud", ERR_INTERNAL, "exit code 3 and without a result: the last words" },
	{ "crash", ERR_INTERNAL, "killed by signal 9" },
	{ "garbage", ERR_INTERNAL, "wrote a line that is not understood" },
	{ "unknown", ERR_INTERNAL, "wrote a line that is not understood" },
	{ "longline", ERR_INTERNAL, "wrote a line that is too long" },
	{ "images", ERR_INTERNAL, "brought too many images" },
};

START_TEST(failure)
{
	struct outcome o = { 0 };

	run_pull(failures[_i].part, &o);
	ck_assert_int_eq(o.done, 1);
	ck_assert_uint_eq(o.n, 0);
	ck_assert_int_eq(o.code, failures[_i].code);
	ck_assert_msg(strstr(o.message, failures[_i].says), "\"%s\"", o.message);
}
END_TEST

START_TEST(no_program)
{
	struct transfer_options options = { .program = "/nowhere/capsule-image", .root = "/nowhere" };
	struct outcome o = { 0 };
	struct transfer_callbacks callbacks = callbacks_of(&o);
	_cleanup_error_ struct error err = ERROR_INIT;
	size_t before = open_fds();

	ck_assert_ptr_null(transfer_pull(&loop, &options, "x", &callbacks, &err));
	ck_assert_int_eq(err.code, ERR_NOT_FOUND);
	ck_assert_ptr_nonnull(strstr(error_message(&err), "/nowhere/capsule-image"));
	ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
	ck_assert_int_eq(o.done, 0);
	/* The loop itself keeps what it needs for signals. */
	ck_assert_uint_le(open_fds(), before + 2);
}
END_TEST

START_TEST(cancel_at_once)
{
	struct transfer_options options = { .program = SELF, .root = "/nowhere" };
	struct outcome o = { 0 };
	struct transfer_callbacks callbacks = callbacks_of(&o);

	o.transfer = transfer_pull(&loop, &options, "good", &callbacks, NULL);
	ck_assert_ptr_nonnull(o.transfer);
	transfer_cancel(o.transfer);
	ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
	ck_assert_int_eq(o.done + o.progress + o.drained, 0);
}
END_TEST

START_TEST(cancel_a_hanging_worker)
{
	struct outcome o = { .cancel_on_progress = true };

	run_pull("hang", &o);
	ck_assert_int_eq(o.progress, 1);
	ck_assert_int_eq(o.done, 0);
}
END_TEST

START_TEST(push)
{
	struct transfer_options options = { .program = SELF, .root = "/nowhere" };
	struct outcome o = { .to_write = 20000000 };
	struct transfer_callbacks callbacks = callbacks_of(&o);

	o.transfer = transfer_push(&loop, &options, &callbacks, NULL);
	ck_assert_ptr_nonnull(o.transfer);
	feed(&o);
	ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
	ck_assert_int_eq(o.done, 1);
	ck_assert_str_eq(o.first, "20000000");
	/* A worker may read as fast as it is fed. */
	ck_assert_int_eq(o.drained, o.full);
}
END_TEST

/* A worker that fails before it has read: the rest is dropped and its own words are the result. */
START_TEST(push_refused)
{
	struct transfer_options options = { .program = SELF, .root = "deaf" };
	struct outcome o = { .to_write = 20000000 };
	struct transfer_callbacks callbacks = callbacks_of(&o);

	o.transfer = transfer_push(&loop, &options, &callbacks, NULL);
	ck_assert_ptr_nonnull(o.transfer);
	feed(&o);
	ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
	ck_assert_int_eq(o.done, 1);
	ck_assert_int_eq(o.code, ERR_NOT_FOUND);
}
END_TEST

START_TEST(push_cancelled)
{
	struct transfer_options options = { .program = SELF, .root = "/nowhere" };
	struct outcome o = { .to_write = 5000000 };
	struct transfer_callbacks callbacks = callbacks_of(&o);

	o.transfer = transfer_push(&loop, &options, &callbacks, NULL);
	ck_assert_ptr_nonnull(o.transfer);
	feed(&o);
	transfer_cancel(o.transfer);
	ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
	ck_assert_int_eq(o.done + o.drained, 0);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *suite;
	TCase *tc;

	if (argc > 1)
		return worker(argc, argv);
	suite = suite_create("transfer");
	tc = tcase_create("transfer");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, success);
	tcase_add_loop_test(tc, failure, 0, sizeof failures / sizeof failures[0]);
	tcase_add_test(tc, no_program);
	tcase_add_test(tc, cancel_at_once);
	tcase_add_test(tc, cancel_a_hanging_worker);
	tcase_add_test(tc, push);
	tcase_add_test(tc, push_refused);
	tcase_add_test(tc, push_cancelled);
	tcase_set_timeout(tc, 20);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
