/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Logs are read over rotated files, and followed. */
#include "runtime_fixture.h"

#include "base/buf.h"
#include "base/task.h"
#include "base/timeutil.h"
#include "runtime/log_reader.h"
#include "shim/log_writer.h"

#include <fcntl.h>
#include <sys/stat.h>

struct reading {
	uv_loop_t loop;
	struct task_runner *tasks;
	struct log_reader *reader;
	struct buf got;
	bool ended;
	char *error;
	int64_t pause_after; /* pieces; 0: never */
	int64_t pieces;
	const char *until;   /* stop the loop when this text has come */
};

static bool on_data(const void *data, size_t len, void *arg)
{
	struct reading *r = arg;

	ck_assert_int_eq(buf_add(&r->got, data, len), 0);
	r->pieces++;
	if (r->until && strstr(buf_str(&r->got), r->until))
		uv_stop(&r->loop);
	return !(r->pause_after && r->pieces % r->pause_after == 0);
}

static void on_end(const struct error *err, void *arg)
{
	struct reading *r = arg;

	ck_assert(!r->ended);
	r->ended = true;
	r->error = err ? strdup(error_message(err)) : NULL;
	uv_stop(&r->loop);
}

static void reading_init(struct reading *r, const struct log_reader_options *options)
{
	struct log_reader_callbacks callbacks = { on_data, on_end, r };
	struct error err = ERROR_INIT;

	memset(r, 0, sizeof *r);
	buf_init(&r->got, 64 << 20);
	ck_assert_int_eq(uv_loop_init(&r->loop), 0);
	r->tasks = task_runner_new(&r->loop);
	r->reader = log_reader_new(&r->loop, r->tasks, options, &callbacks, &err);
	ck_assert_msg(r->reader != NULL, "%s", error_message(&err));
}

static void reading_release(struct reading *r)
{
	log_reader_free(r->reader);
	uv_run(&r->loop, UV_RUN_DEFAULT);
	task_runner_free(r->tasks);
	uv_run(&r->loop, UV_RUN_DEFAULT);
	ck_assert_int_eq(uv_loop_close(&r->loop), 0);
	buf_release(&r->got);
	free(r->error);
}

static void read_until(struct reading *r, const char *text)
{
	r->until = text;
	if (!strstr(buf_str(&r->got), text))
		uv_run(&r->loop, UV_RUN_DEFAULT);
	ck_assert_msg(strstr(buf_str(&r->got), text) != NULL, "\"%s\" did not come", text);
}

static void assert_log(const struct log_reader_options *options, const char *expected)
{
	struct reading r;

	reading_init(&r, options);
	if (!r.ended)
		uv_run(&r.loop, UV_RUN_DEFAULT);
	ck_assert(r.ended);
	ck_assert_ptr_null(r.error);
	ck_assert_str_eq(buf_str(&r.got), expected);
	reading_release(&r);
}

#define T(s) "2026-01-01T00:00:0" s ".000000000Z "

START_TEST(log_is_read_over_rotated_files)
{
	struct log_reader_options o = { .path = in_dir("log") };

	assert_log(&o, "");
	write_text("log.2", T("1") "stdout F one\n" T("2") "stderr F two\n");
	write_text("log.1", T("3") "stdout P th\n" T("3") "stderr F mid\n" T("4") "stdout F ree\n");
	write_text("log", T("5") "stdout F four\n" T("6") "stdout P prompt> \n" T("7") "stdout F unfini");
	assert_log(&o, "one\ntwo\nthmid\nree\nfour\nprompt> ");
	o.timestamps = true;
	assert_log(&o, T("1") "one\n" T("2") "two\n" T("3") "th" T("3") "mid\nree\n" T("5") "four\n" T("6") "prompt> ");
	o.timestamps = false;
	o.tail_lines = 1;
	assert_log(&o, "prompt> ");
	o.tail_lines = 2;
	assert_log(&o, "four\nprompt> ");
	o.tail_lines = 3;
	assert_log(&o, "ree\nfour\nprompt> ");
	o.tail_lines = 5;
	assert_log(&o, "two\nthmid\nree\nfour\nprompt> ");
	o.tail_lines = 100;
	assert_log(&o, "one\ntwo\nthmid\nree\nfour\nprompt> ");
	o.tail_lines = 0;
	ck_assert_int_eq(time_parse_rfc3339("2026-01-01T00:00:04Z", &o.since_ns), 0);
	assert_log(&o, "ree\nfour\nprompt> ");
	/* In the middle of a rotation a number is vacant. */
	o.since_ns = 0;
	ck_assert_int_eq(unlink(in_dir("log")), 0);
	assert_log(&o, "one\ntwo\nthmid\nree\n");
}
END_TEST

START_TEST(log_of_the_daemon_is_plain)
{
	struct log_reader_options o = { .path = in_dir("log"), .plain = true };

	write_text("log.1", "2026-01-01T00:00:01.000Z info  a\n");
	write_text("log", "2026-01-01T00:00:02.000Z warn  b\n2026-01-01T00:00:03.000Z warn  c");
	assert_log(&o, "2026-01-01T00:00:01.000Z info  a\n2026-01-01T00:00:02.000Z warn  b\n2026-01-01T00:00:03.000Z warn  c");
	o.tail_lines = 2;
	assert_log(&o, "2026-01-01T00:00:02.000Z warn  b\n2026-01-01T00:00:03.000Z warn  c");
	o.tail_lines = 0;
	ck_assert_int_eq(time_parse_rfc3339("2026-01-01T00:00:02Z", &o.since_ns), 0);
	assert_log(&o, "2026-01-01T00:00:02.000Z warn  b\n2026-01-01T00:00:03.000Z warn  c");
}
END_TEST

START_TEST(log_tail_over_many_blocks)
{
	struct log_reader_options o = { .path = in_dir("log"), .tail_lines = 7000 };
	struct buf text = BUF_INIT(16 << 20), expected = BUF_INIT(16 << 20);

	for (int i = 0; i < 20000; i++) {
		buf_addf(&text, T("1") "stdout F line %d %0*d\n", i, i % 90, i);
		if (i >= 13000)
			buf_addf(&expected, "line %d %0*d\n", i, i % 90, i);
	}
	write_text("log", buf_str(&text));
	assert_log(&o, buf_str(&expected));
	buf_release(&text);
	buf_release(&expected);
}
END_TEST

START_TEST(follower_misses_nothing_at_rotations)
{
	struct log_reader_options o = { .path = in_dir("w/log"), .follow = true };
	struct buf expected = BUF_INIT(16 << 20);
	static struct log_writer w;
	struct reading r;
	char line[64];

	/* Nothing is there yet, not even the directory. */
	reading_init(&r, &o);
	uv_run(&r.loop, UV_RUN_NOWAIT);
	ck_assert_int_eq(mkdir(in_dir("w"), 0755), 0);
	ck_assert_int_eq(log_writer_open(&w, in_dir("w"), "log", 2000, 5, NULL), 0);
	for (int i = 0; i < 3000; i++) {
		snprintf(line, sizeof line, "line %d of many%s", i, i % 3 ? "\n" : ", ");
		log_writer_add(&w, i % 3 == 2 ? LOG_STDERR : LOG_STDOUT, line, strlen(line));
		buf_adds(&expected, line);
		/* The reader is held to the pace of the writer, or files would be rotated away before they are read. */
		if (i % 50 == 49)
			read_until(&r, line);
	}
	log_writer_add(&w, LOG_STDOUT, "end\n", 4);
	buf_adds(&expected, "end\n");
	read_until(&r, "end\n");
	ck_assert_str_eq(buf_str(&r.got), buf_str(&expected));
	ck_assert(!r.ended);
	log_writer_add(&w, LOG_STDOUT, "last\n", 5);
	log_reader_finish(r.reader);
	r.until = NULL;
	uv_run(&r.loop, UV_RUN_DEFAULT);
	ck_assert(r.ended);
	buf_adds(&expected, "last\n");
	ck_assert_str_eq(buf_str(&r.got), buf_str(&expected));
	log_writer_close(&w);
	reading_release(&r);
	buf_release(&expected);
}
END_TEST

START_TEST(half_a_record_waits_for_the_rest)
{
	struct log_reader_options o = { .path = in_dir("log"), .follow = true };
	struct reading r;
	int fd;

	write_text("log", T("1") "stdout F one\n" T("2") "stdout F tw");
	reading_init(&r, &o);
	read_until(&r, "one\n");
	ck_assert_str_eq(buf_str(&r.got), "one\n");
	fd = open(o.path, O_WRONLY | O_APPEND | O_CLOEXEC);
	ck_assert_int_eq(write(fd, "o\n", 2), 2);
	read_until(&r, "two\n");
	ck_assert_str_eq(buf_str(&r.got), "one\ntwo\n");
	close(fd);
	reading_release(&r);
}
END_TEST

START_TEST(what_a_full_disk_took_back_repeats_nothing)
{
	struct log_reader_options o = { .path = in_dir("log"), .follow = true };
	struct reading r;
	int fd;

	write_text("log", T("1") "stdout F one\n");
	reading_init(&r, &o);
	read_until(&r, "one\n");
	/* Of several records the first ones had room; the writer cuts them off with the rest, and follows with new ones. */
	fd = open(o.path, O_RDWR | O_APPEND | O_CLOEXEC);
	ck_assert_int_gt(write(fd, T("2") "stdout F two\n", sizeof T("2") "stdout F two\n" - 1), 0);
	read_until(&r, "two\n");
	ck_assert_int_eq(ftruncate(fd, sizeof T("1") "stdout F one\n" - 1), 0);
	for (int i = 0; i < 5; i++) {
		usleep(20000);
		uv_run(&r.loop, UV_RUN_NOWAIT);
	}
	ck_assert_int_gt(write(fd, T("3") "stdout F 3\n", sizeof T("3") "stdout F 3\n" - 1), 0);
	read_until(&r, "3\n");
	ck_assert_str_eq(buf_str(&r.got), "one\ntwo\n3\n");
	close(fd);
	reading_release(&r);
}
END_TEST

START_TEST(plain_log_is_begun_anew_in_place)
{
	struct log_reader_options o = { .path = in_dir("log"), .plain = true, .follow = true };
	struct reading r;
	int fd;

	write_text("log", T("1") "info  a long line\n");
	reading_init(&r, &o);
	read_until(&r, "line\n");
	fd = open(o.path, O_RDWR | O_TRUNC | O_CLOEXEC);
	ck_assert_int_gt(write(fd, "new\n", 4), 0);
	read_until(&r, "new\n");
	ck_assert_str_eq(buf_str(&r.got), T("1") "info  a long line\nnew\n");
	close(fd);
	reading_release(&r);
}
END_TEST

START_TEST(paused_reader_holds_still)
{
	struct log_reader_options o = { .path = in_dir("log") };
	struct buf text = BUF_INIT(16 << 20);
	struct reading r;
	int64_t before;

	for (int i = 0; i < 20000; i++)
		buf_addf(&text, T("1") "stdout F line %d\n", i);
	write_text("log", buf_str(&text));
	reading_init(&r, &o);
	r.pause_after = 1;
	do {
		before = r.pieces;
		uv_run(&r.loop, UV_RUN_DEFAULT);
		ck_assert_int_le(r.pieces, before + 1);
		if (!r.ended)
			log_reader_resume(r.reader);
	} while (!r.ended);
	ck_assert_int_gt(r.pieces, 10);
	ck_assert_ptr_nonnull(strstr(buf_str(&r.got), "line 19999\n"));
	reading_release(&r);
	buf_release(&text);
}
END_TEST

START_TEST(reader_may_be_freed_at_any_time)
{
	struct log_reader_options o = { .path = in_dir("log"), .follow = true };
	struct reading r;

	write_text("log", T("1") "stdout F one\n");
	reading_init(&r, &o);
	/* A task is under way. */
	reading_release(&r);
	reading_init(&r, &o);
	read_until(&r, "one\n");
	reading_release(&r);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		log_is_read_over_rotated_files, log_of_the_daemon_is_plain, log_tail_over_many_blocks,
		follower_misses_nothing_at_rotations, half_a_record_waits_for_the_rest,
		what_a_full_disk_took_back_repeats_nothing, plain_log_is_begun_anew_in_place, paused_reader_holds_still,
		reader_may_be_freed_at_any_time,
	};

	return run_runtime_tests("log_reader", tests, sizeof tests / sizeof tests[0]);
}
