/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Parts of capsule-vm that need no machine. */
#include "vm/console.h"
#include "vm/monitor.h"

#include "base/fs.h"
#include "base/utf8.h"
#include "runner.h"

#include <check.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

static char dir[64];

static void setup(void)
{
	snprintf(dir, sizeof dir, "/tmp/test-vm-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
	ck_assert_int_eq(fs_remove_tree(AT_FDCWD, dir, NULL), 0);
}

/* ---- the console ---- */

/* What is told of a console on which this was written. */
static const char *last_lines_of(const char *text, size_t len, char out[CONSOLE_LINES_MAX])
{
	struct console c;
	uv_loop_t loop;
	int pipes[2][2];

	ck_assert_int_eq(uv_loop_init(&loop), 0);
	ck_assert_int_eq(console_open(&c, &loop, dir, 1 << 20, 2, NULL), 0);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pipe2(pipes[i], O_CLOEXEC | O_NONBLOCK), 0);
	ck_assert_int_eq(write(pipes[0][1], text, len), (ssize_t)len);
	close(pipes[0][1]);
	close(pipes[1][1]);
	ck_assert_int_eq(console_attach(&c, pipes[0][0], pipes[1][0], NULL), 0);
	console_detach(&c);
	console_last_lines(&c, out);
	console_close(&c);
	uv_close((uv_handle_t *)&c.gather, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert_int_eq(uv_loop_close(&loop), 0);
	return out;
}

START_TEST(the_last_lines_of_a_console)
{
	static const char *const consoles[][2] = {
		{ "", "" },
		{ "one\r\n\r\ntwo\r\nthree\r\nfour\r\n", "two | three | four" },
		{ "\x1b[1mbold\x07\n", "[1mbold" },
		{ "caf\xe9 \xff\xfe\n", "caf? ??" },
		{ "\xc2\x9b" "1m\n", "??1m" },
		{ "größer", "größer" },
		{ "größer \xc3", "größer " },
		/* Lines of other letters only count as lines. */
		{ "раз\nдва\nтри\nчетыре\n", "два | три | четыре" },
	};
	char lines[CONSOLE_LINES_MAX];

	ck_assert_str_eq(last_lines_of(consoles[_i][0], strlen(consoles[_i][0]), lines), consoles[_i][1]);
}
END_TEST

/* Of long lines the end is told, and that may begin within a character. */
START_TEST(the_end_of_a_long_line_is_whole_characters)
{
	char text[3000], lines[CONSOLE_LINES_MAX];

	for (size_t shift = 0; shift < 4; shift++) {
		size_t len = shift;

		memset(text, 'x', shift);
		for (; len + 4 < sizeof text; len += 4)
			memcpy(text + len, "\xf0\x9f\x98\x80", 4);
		for (size_t cut = 0; cut < 4; cut++) {
			last_lines_of(text, len - cut, lines);
			ck_assert(utf8_is_valid(lines, strlen(lines)));
			ck_assert_uint_gt(strlen(lines), CONSOLE_LINES_MAX / 2 - 8);
			ck_assert_uint_eq(strspn(lines, "\xf0\x9f\x98\x80"), strlen(lines));
		}
	}
}
END_TEST

START_TEST(any_console_gives_a_line_of_utf8)
{
	char text[1024], lines[CONSOLE_LINES_MAX];

	srand(1);
	for (int i = 0; i < 500; i++) {
		size_t len = (size_t)rand() % sizeof text;

		for (size_t k = 0; k < len; k++)
			text[k] = rand() % 8 ? (char)(rand() % 256) : " \n\xe2\xc3"[rand() % 4];
		last_lines_of(text, len, lines);
		ck_assert(utf8_is_valid(lines, strlen(lines)));
		for (const char *p = lines; *p; p++)
			ck_assert((unsigned char)*p >= ' ' && *p != 0x7f);
	}
}
END_TEST

/* ---- the disks of Firecracker, which opens them by name as its own user ---- */

static void make_file(const char *path, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	ck_assert_int_eq(fchmod(fd, mode), 0);
	close(fd);
}

static void describe(uid_t uid, const char *payload, const char *disk)
{
	const struct vm_options options = {
		.uid = uid, .n_disks = 2, .disks = { { "payload", payload, true }, { "disk", disk, false } },
	};
	struct monitor monitor = { .ops = &monitor_firecracker, .options = &options };
	_cleanup_error_ struct error err = ERROR_INIT;
	struct jail jail = { .listener_fd = -1 };

	ck_assert_msg(monitor_firecracker.describe(&monitor, &jail, &err) == 0, "%s", error_message(&err));
	ck_assert_uint_eq(jail.n_binds, 2);
	ck_assert(!jail.binds[0].writable && jail.binds[1].writable);
	monitor_firecracker.close(&monitor);
	jail_release(&jail);
}

/* Machines of one image that start together share its payload. */
START_TEST(a_payload_is_readable_for_all_its_machines)
{
	static const mode_t modes[] = { 0444, 0600, 0400 };
	char payload[96], disks[2][96];
	struct stat before, after, st;

	if (geteuid() != 0)
		return;
	snprintf(payload, sizeof payload, "%s/payload", dir);
	make_file(payload, modes[_i]);
	ck_assert_int_eq(stat(payload, &before), 0);
	for (uid_t i = 0; i < 2; i++) {
		snprintf(disks[i], sizeof disks[i], "%s/disk-%u", dir, i);
		make_file(disks[i], 0600);
		describe(0x70000001u + i, payload, disks[i]);
		ck_assert_int_eq(stat(payload, &after), 0);
		ck_assert_uint_eq(after.st_uid, before.st_uid);
		ck_assert_uint_eq(after.st_gid, before.st_gid);
		ck_assert_uint_eq(after.st_mode, before.st_mode | S_IROTH);
	}
	/* Each has a disk of its own, for nobody else. */
	for (uid_t i = 0; i < 2; i++) {
		ck_assert_int_eq(stat(disks[i], &st), 0);
		ck_assert_uint_eq(st.st_uid, 0x70000001u + i);
		ck_assert_uint_eq(st.st_mode & 07777, 0600);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("vm");
	TCase *tc = tcase_create("console"), *f = tcase_create("firecracker");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, the_last_lines_of_a_console, 0, 8);
	tcase_add_test(tc, the_end_of_a_long_line_is_whole_characters);
	tcase_add_test(tc, any_console_gives_a_line_of_utf8);
	suite_add_tcase(suite, tc);
	tcase_add_checked_fixture(f, setup, teardown);
	tcase_add_loop_test(f, a_payload_is_readable_for_all_its_machines, 0, 3);
	suite_add_tcase(suite, f);
	return run_suite(suite);
}
