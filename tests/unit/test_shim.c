/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/fs.h"
#include "base/process.h"
#include "base/timeutil.h"
#include "shim/cgroup.h"
#include "shim/log_writer.h"
#include "shim/protocol.h"

#include "runner.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char dir[64];
static struct log_writer w;

static void setup(void)
{
	snprintf(dir, sizeof dir, "/tmp/capsule-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
	log_writer_close(&w);
	ck_assert_int_eq(fs_remove_tree(AT_FDCWD, dir, NULL), 0);
}

static void open_log(uint64_t max_bytes, unsigned max_files)
{
	struct error err = ERROR_INIT;

	ck_assert_msg(log_writer_open(&w, dir, "payload.log", max_bytes, max_files, &err) == 0, "%s", error_message(&err));
}

static void add(enum log_stream stream, const char *text)
{
	log_writer_add(&w, stream, text, strlen(text));
}

static char *content(const char *name)
{
	char path[128], *text;

	snprintf(path, sizeof path, "%s/%s", dir, name);
	ck_assert_msg(fs_read(AT_FDCWD, path, 8 << 20, &text, NULL, NULL) == 0, "no %s", name);
	return text;
}

static bool is_there(const char *name)
{
	char path[128];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	return access(path, F_OK) == 0;
}

/* Takes the times away, after checking them. */
static char *records(const char *name)
{
	char *text = content(name), *from = text, *to = text, *line;
	int64_t t;

	while ((line = strsep(&from, "\n")) && from) {
		char *space = strchr(line, ' ');

		ck_assert_ptr_nonnull(space);
		*space = '\0';
		ck_assert_int_eq(time_parse_rfc3339(line, &t), 0);
		ck_assert_uint_eq(strlen(line), TIME_RFC3339_MAX - 1);
		memmove(to, space + 1, strlen(space + 1));
		to += strlen(space + 1);
		*to++ = '\n';
	}
	*to = '\0';
	return text;
}

START_TEST(log_lines_and_pieces)
{
	char *text;

	open_log(1 << 20, 3);
	add(LOG_STDOUT, "one\ntwo");
	add(LOG_STDERR, "oops\n");
	add(LOG_STDOUT, "\n\n");
	text = records("payload.log");
	ck_assert_str_eq(text, "stdout F one\nstdout P two\nstderr F oops\nstdout F \nstdout F \n");
	free(text);
}
END_TEST

START_TEST(log_rotates)
{
	struct stat st;
	char path[128], line[64], *text;

	open_log(1000, 3);
	for (int i = 0; i < 200; i++) {
		snprintf(line, sizeof line, "line %d\n", i);
		add(LOG_STDOUT, line);
	}
	ck_assert(is_there("payload.log.1") && is_there("payload.log.2") && !is_there("payload.log.3"));
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, i ? "%s/payload.log.%d" : "%s/payload.log", dir, i);
		ck_assert_int_eq(stat(path, &st), 0);
		ck_assert_int_le(st.st_size, 1000);
	}
	text = records("payload.log");
	ck_assert_ptr_nonnull(strstr(text, "stdout F line 199\n"));
	free(text);
}
END_TEST

START_TEST(log_rotates_with_one_file)
{
	open_log(200, 1);
	for (int i = 0; i < 50; i++)
		add(LOG_STDOUT, "some text\n");
	ck_assert(is_there("payload.log") && !is_there("payload.log.1"));
}
END_TEST

START_TEST(log_goes_on_after_a_crash)
{
	static const char old[] = "2026-01-01T00:00:00.000000000Z stdout F whole\n2026-01-01T00:00:00.00000";
	char path[128], *text;

	snprintf(path, sizeof path, "%s/payload.log", dir);
	ck_assert_int_eq(fs_write_replace(AT_FDCWD, path, old, sizeof old - 1, 0640, NULL), 0);
	open_log(1 << 20, 3);
	add(LOG_STDOUT, "next\n");
	text = records("payload.log");
	ck_assert_str_eq(text, "stdout F whole\nstdout F next\n");
	free(text);
}
END_TEST

START_TEST(log_survives_a_full_disk)
{
	static char block[LOG_WRITER_READ_MAX];
	char filler[128], expected[128], *text;
	uint64_t lost;
	int fd;

	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	ck_assert_int_eq(mount("test", dir, "tmpfs", 0, "size=64k"), 0);
	snprintf(filler, sizeof filler, "%s/filler", dir);
	fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	memset(block, 'x', sizeof block);
	open_log(1 << 20, 3);
	add(LOG_STDOUT, "first\n");
	while (write(fd, block, 4096) > 0)
		;
	close(fd);
	for (int i = 0; i < 3; i++)
		log_writer_add(&w, LOG_STDOUT, block, sizeof block);
	/* What is in the file is whole records, and what is not is counted. */
	lost = w.lost;
	ck_assert_uint_eq(lost, 3 * sizeof block);
	text = records("payload.log");
	ck_assert_str_eq(text, "stdout F first\n");
	free(text);
	ck_assert_int_eq(unlink(filler), 0);
	add(LOG_STDOUT, "again\n");
	text = records("payload.log");
	snprintf(expected, sizeof expected, "stdout F first\nstderr F capsule: %llu bytes of log lost\nstdout F again\n",
		 (unsigned long long)lost);
	ck_assert_str_eq(text, expected);
	ck_assert_uint_eq(w.lost, 0);
	free(text);
	log_writer_close(&w);
	ck_assert_int_eq(umount(dir), 0);
}
END_TEST

START_TEST(files_of_a_higher_limit_go)
{
	char vacant[128];

	open_log(25, 6);
	for (int i = 0; i < 8; i++)
		add(LOG_STDOUT, "line\n");
	ck_assert(is_there("payload.log.2") && is_there("payload.log.5") && !is_there("payload.log.6"));
	log_writer_close(&w);
	/* One number is vacant where a rotation was cut off. */
	snprintf(vacant, sizeof vacant, "%s/payload.log.4", dir);
	ck_assert_int_eq(unlink(vacant), 0);
	open_log(25, 3);
	ck_assert(is_there("payload.log") && is_there("payload.log.1") && is_there("payload.log.2"));
	ck_assert(!is_there("payload.log.3") && !is_there("payload.log.5"));
	log_writer_close(&w);
	open_log(25, 1);
	ck_assert(is_there("payload.log") && !is_there("payload.log.1") && !is_there("payload.log.2"));
}
END_TEST

START_TEST(protocol_carries_messages)
{
	struct shim_stop stop = { .signal = 15, .grace_ms = 1234 };
	struct shim_message m;
	char junk[8] = { 0 };
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	ck_assert_int_eq(shim_receive(pair[1], &m), -EAGAIN);
	ck_assert_int_eq(shim_send(pair[0], SHIM_STOP, &stop, sizeof stop), 0);
	ck_assert_int_eq(shim_receive(pair[1], &m), 1);
	ck_assert_int_eq(m.type, SHIM_STOP);
	ck_assert_int_eq(m.body.stop.signal, 15);
	ck_assert_int_eq(m.body.stop.grace_ms, 1234);
	/* A shorter body from an older peer: the rest reads as zero. */
	ck_assert_int_eq(shim_send(pair[0], SHIM_STOP, &stop, 8), 0);
	ck_assert_int_eq(shim_receive(pair[1], &m), 1);
	ck_assert_int_eq(m.body.stop.grace_ms, 1234);
	ck_assert_int_eq(m.body.stop.signal, 0);
	ck_assert_int_eq(send(pair[0], junk, 3, 0), 3);
	ck_assert_int_eq(shim_receive(pair[1], &m), -EPROTO);
	junk[4] = 9;
	ck_assert_int_eq(send(pair[0], junk, 8, 0), 8);
	ck_assert_int_eq(shim_receive(pair[1], &m), -EPROTO);
	close(pair[0]);
	ck_assert_int_eq(shim_receive(pair[1], &m), 0);
	ck_assert_int_eq(shim_send(pair[1], SHIM_STOP, &stop, sizeof stop), -EPIPE);
	close(pair[1]);
}
END_TEST

/* Receives a packet of these bytes that brings the writing end of a pipe, which nobody else has. */
static int receive_pipe(const void *bytes, size_t len, int *ret_pipe_end)
{
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { .header = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	struct iovec part = { (void *)(uintptr_t)bytes, len };
	struct msghdr packet = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control,
	};
	int pair[2], ends[2], fds[SHIM_FDS_MAX], r;
	struct shim_message m;
	size_t n_fds;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	ck_assert_int_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	memcpy(CMSG_DATA(&control.header), &ends[1], sizeof ends[1]);
	ck_assert_int_eq(sendmsg(pair[0], &packet, 0), (int)len);
	close(ends[1]);
	r = shim_receive_fds(pair[1], &m, fds, &n_fds);
	ck_assert_uint_eq(n_fds, 0);
	close(pair[0]);
	close(pair[1]);
	*ret_pipe_end = ends[0];
	return r;
}

START_TEST(malformed_packets_leave_no_descriptors)
{
	char byte, junk[3] = { 0 };
	int end;

	ck_assert_int_eq(receive_pipe(junk, sizeof junk, &end), -EPROTO);
	ck_assert_int_eq(read(end, &byte, 1), 0);
	close(end);
	ck_assert_int_eq(receive_pipe("", 0, &end), 0);
	ck_assert_int_eq(read(end, &byte, 1), 0);
	close(end);
}
END_TEST

/* What comes from a workload, a guest or a tool may be any bytes. */
START_TEST(texts_are_lines_of_utf8)
{
	static const char foreign[] = "gr\xc3\xb6\xc3\x9f" "er\xff\ntwo\x1b\xe2\x98", clean[] = "größer? two?";
	struct shim_result result = { .exit_code = 1 };
	struct shim_exec_failed failed = { .exit_code = 127 };
	struct shim_hold_ended ended = { .code = 13 };
	struct shim_volume_failed volume;
	struct shim_message m;
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
	ck_assert_int_eq(shim_send(pair[0], SHIM_FAILED, foreign, strlen(foreign)), 0);
	ck_assert_int_eq(shim_receive(pair[1], &m), 1);
	ck_assert_str_eq(m.body.text, clean);
	snprintf(result.reason, sizeof result.reason, "%s", foreign);
	ck_assert_int_eq(shim_send(pair[0], SHIM_EXIT, &result, sizeof result), 0);
	ck_assert_int_eq(shim_receive(pair[1], &m), 1);
	ck_assert_str_eq(m.body.result.reason, clean);
	snprintf(failed.text, sizeof failed.text, "%s", foreign);
	ck_assert_int_eq(shim_send(pair[0], SHIM_EXEC_FAILED, &failed, sizeof failed.exit_code + strlen(foreign)), 0);
	ck_assert_int_eq(shim_receive(pair[1], &m), 1);
	ck_assert_str_eq(m.body.exec_failed.text, clean);
	/* One that fills its place has no end of its own. */
	memset(ended.text, 'x', sizeof ended.text);
	ck_assert_int_eq(shim_send(pair[0], SHIM_HOLD_ENDED, &ended, sizeof ended), 0);
	ck_assert_int_eq(shim_receive(pair[1], &m), 1);
	ck_assert_uint_eq(strlen(m.body.hold_ended.text), sizeof ended.text - 1);
	memset(volume.volume, '\xff', sizeof volume.volume);
	ck_assert_int_eq(shim_send(pair[0], SHIM_VOLUME_FAILED, &volume, sizeof volume), 0);
	ck_assert_int_eq(shim_receive(pair[1], &m), 1);
	ck_assert_uint_eq(strspn(m.body.volume_failed.volume, "?"), sizeof volume.volume - 1);
	close(pair[0]);
	close(pair[1]);
}
END_TEST

START_TEST(result_file)
{
	struct shim_result r = { .generation = UINT64_MAX, .started_at_ns = 5, .finished_at_ns = 77, .exit_code = 137,
				 .oom_killed = 1, .stopped = 0, .reason = "QEMU was killed | the end" };
	struct shim_result again;
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char path[128], *text;

	ck_assert_int_eq(shim_result_read(fd, &again), 0);
	ck_assert_int_eq(shim_result_write(fd, &r, NULL), 0);
	ck_assert_int_eq(shim_result_read(fd, &again), 1);
	ck_assert_mem_eq(&r, &again, sizeof r);
	snprintf(r.reason, sizeof r.reason, "a\xff" "b\xc3");
	ck_assert_int_eq(shim_result_write(fd, &r, NULL), 0);
	ck_assert_int_eq(shim_result_read(fd, &again), 1);
	ck_assert_str_eq(again.reason, "a?b");
	/* A later version may say more. */
	snprintf(path, sizeof path, "%s/" SHIM_EXIT_FILE, dir);
	text = content(SHIM_EXIT_FILE);
	strcpy(strstr(text, "\nend\n"), "\nx 1\n");
	ck_assert_int_eq(fs_write_replace(AT_FDCWD, path, text, strlen(text), 0600, NULL), 0);
	ck_assert_int_eq(shim_result_read(fd, &again), 0);
	free(text);
	close(fd);
}
END_TEST

START_TEST(pid_file_knows_its_process)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), pidfd;
	char path[128], text[64];
	pid_t pid;

	ck_assert_int_lt(shim_pid_open(fd, &pid), 0);
	ck_assert_int_eq(shim_pid_write(fd, NULL), 0);
	pidfd = shim_pid_open(fd, &pid);
	ck_assert_int_ge(pidfd, 0);
	ck_assert_int_eq(pid, getpid());
	close(pidfd);
	/* The same pid, but another time: another process. */
	snprintf(path, sizeof path, "%s/" SHIM_PID_FILE, dir);
	snprintf(text, sizeof text, "%d 1\n", (int)getpid());
	ck_assert_int_eq(fs_write_replace(AT_FDCWD, path, text, strlen(text), 0600, NULL), 0);
	ck_assert_int_lt(shim_pid_open(fd, &pid), 0);
	close(fd);
}
END_TEST

static void make_cgroup(const char *path)
{
	static const char *const roots[] = { "pids", "memory", "freezer", "." };
	char full[256];

	for (size_t i = 0; i < sizeof roots / sizeof roots[0]; i++) {
		if (cgroup_mode() == CGROUP_V2 ? i != 3 : i == 3)
			continue;
		snprintf(full, sizeof full, "/sys/fs/cgroup/%s%s", roots[i], path);
		ck_assert_int_eq(fs_mkdir_all(AT_FDCWD, full, 0755, NULL), 0);
	}
}

START_TEST(cgroup_is_emptied_and_removed)
{
	static const char *const sleep_argv[] = { "sleep", "1000", NULL };
	struct process_spawn spawn = { .argv = sleep_argv };
	char path[64], nested[80], procs[256], text[32];
	pid_t pid;
	int fd;

	if (geteuid() != 0 || cgroup_mode() == CGROUP_NONE)
		return;
	snprintf(path, sizeof path, "/capsule-test-%d", (int)getpid());
	snprintf(nested, sizeof nested, "%s/inner", path);
	ck_assert(!cgroup_exists(path));
	ck_assert_int_eq(cgroup_kill(path, 1000, NULL), 0);
	ck_assert_int_eq(cgroup_remove(path, NULL), 0);
	make_cgroup(nested);
	ck_assert(cgroup_exists(path));
	ck_assert_int_eq(process_spawn(&spawn, &pid, NULL, NULL), 0);
	snprintf(procs, sizeof procs, "/sys/fs/cgroup%s%s/cgroup.procs", cgroup_mode() == CGROUP_V2 ? "" : "/pids", nested);
	snprintf(text, sizeof text, "%d", (int)pid);
	fd = open(procs, O_WRONLY | O_CLOEXEC);
	ck_assert_int_eq(fs_write_all(fd, text, strlen(text)), 0);
	close(fd);
	ck_assert(!cgroup_oom_killed(path));
	ck_assert_int_eq(cgroup_kill(path, 10000, NULL), 0);
	ck_assert_int_eq(process_wait(pid), 128 + SIGKILL);
	ck_assert_int_eq(cgroup_remove(path, NULL), 0);
	ck_assert(!cgroup_exists(path));
}
END_TEST

START_TEST(shim_refuses_nonsense)
{
	const char *const argv[] = { getenv("CAPSULE_SHIM"), "--frobnicate", NULL };
	const char *const missing[] = { getenv("CAPSULE_SHIM"), "--run", "/x", "web", NULL };
	struct process_run run = { .spawn = { .argv = argv }, .timeout_ms = 10000 };
	struct process_result r = { 0 };

	ck_assert_int_eq(process_run(&run, &r, NULL), 0);
	ck_assert_int_eq(r.exit_code, 2);
	ck_assert_str_eq(r.output, "capsule-shim: bad option --frobnicate\n");
	process_result_release(&r);
	run.spawn.argv = missing;
	ck_assert_int_eq(process_run(&run, &r, NULL), 0);
	ck_assert_int_eq(r.exit_code, 2);
	process_result_release(&r);
}
END_TEST

START_TEST(shim_runs_from_a_read_only_mount_only)
{
	const char *const argv[] = {
		getenv("CAPSULE_SHIM"), "--run", dir, "--state", dir, "--cgroup", "/none", "--runtime", "/bin/false",
		"--runtime-root", dir, "--layer", dir, "web", NULL,
	};
	_cleanup_close_ int daemon = -1, shim = -1;
	struct shim_message m;
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	daemon = pair[0];
	shim = pair[1];
	const struct process_fd fds[] = { { shim, SHIM_FD_CONNECTION } };
	const struct process_run run = { .spawn = { .argv = argv, .fds = fds, .n_fds = 1 }, .timeout_ms = 10000 };
	struct process_result r = { 0 };

	ck_assert_int_eq(process_run(&run, &r, NULL), 0);
	ck_assert_int_eq(r.exit_code, 1);
	process_result_release(&r);
	ck_assert_int_eq(shim_receive(daemon, &m), 1);
	ck_assert_int_eq(m.type, SHIM_FAILED);
	ck_assert_str_eq(m.body.text, "capsule-shim is to be run from a read-only mount");
}
END_TEST

START_TEST(a_process_is_moved_to_where_it_is)
{
	char *before, *after;

	ck_assert_int_eq(fs_read(AT_FDCWD, "/proc/self/cgroup", 64 << 10, &before, NULL, NULL), 0);
	cgroup_hasten_moves();
	ck_assert_int_eq(fs_read(AT_FDCWD, "/proc/self/cgroup", 64 << 10, &after, NULL, NULL), 0);
	ck_assert_str_eq(before, after);
	free(before);
	free(after);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("shim");
	TCase *c = tcase_create("shim");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 60);
	tcase_add_test(c, log_lines_and_pieces);
	tcase_add_test(c, log_rotates);
	tcase_add_test(c, log_rotates_with_one_file);
	tcase_add_test(c, files_of_a_higher_limit_go);
	tcase_add_test(c, log_goes_on_after_a_crash);
	tcase_add_test(c, log_survives_a_full_disk);
	tcase_add_test(c, protocol_carries_messages);
	tcase_add_test(c, malformed_packets_leave_no_descriptors);
	tcase_add_test(c, texts_are_lines_of_utf8);
	tcase_add_test(c, result_file);
	tcase_add_test(c, pid_file_knows_its_process);
	tcase_add_test(c, cgroup_is_emptied_and_removed);
	tcase_add_test(c, shim_refuses_nonsense);
	tcase_add_test(c, shim_runs_from_a_read_only_mount_only);
	tcase_add_test(c, a_process_is_moved_to_where_it_is);
	suite_add_tcase(suite, c);
	return run_suite(suite);
}
