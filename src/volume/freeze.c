/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/freeze.h"

#include "base/fs.h"
#include "base/process.h"
#include "volume/still.h"
#include "volume/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define ANSWER_MAX 512
#define THAW_TIMEOUT_MS 10000

/* The first line that it writes; it writes one, or ends. */
static int read_answer(int fd, char answer[ANSWER_MAX])
{
	size_t len = 0;
	ssize_t n;

	while (len < ANSWER_MAX - 1) {
		n = read(fd, answer + len, ANSWER_MAX - 1 - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
		if (memchr(answer, '\n', len))
			break;
	}
	answer[len] = '\0';
	answer[strcspn(answer, "\n")] = '\0';
	return strcmp(answer, STILL_FROZEN) ? -1 : 0;
}

/* "CODE message" */
static int refused(const char *what, char *answer, struct error *err)
{
	char *message = strchr(answer, ' ');

	if (!message)
		return error_set(err, ERR_INTERNAL, "cannot hold %s still: its helper ended without a word", what);
	*message++ = '\0';
	return error_set(err, error_code_by_name(answer), "cannot hold %s still: %s", what, message);
}

int freeze_begin(const char *worker, const char *what, const char *device, struct freeze *ret, struct error *err)
{
	_cleanup_free_ char *seconds = fs_path("%d", FREEZE_SECONDS_MAX);
	const char *const argv[] = { worker, "hold", device, seconds, NULL };
	_cleanup_close_ int their_input = -1, input = -1, output = -1, their_output = -1;
	struct process_fd fds[2];
	const struct process_spawn spawn = { .argv = argv, .fds = fds, .n_fds = 2, .new_session = true };
	struct freeze freeze = { .worker = worker, .device = device, .release = -1 };
	char answer[ANSWER_MAX];
	int to[2], from[2];

	if (!seconds || pipe2(to, O_CLOEXEC) < 0)
		return error_errno(err, errno, "cannot hold %s still", what);
	their_input = to[0];
	input = to[1];
	if (pipe2(from, O_CLOEXEC) < 0)
		return error_errno(err, errno, "cannot hold %s still", what);
	output = from[0];
	their_output = from[1];
	fds[0] = (struct process_fd){ their_input, STDIN_FILENO };
	fds[1] = (struct process_fd){ their_output, STDOUT_FILENO };
	if (process_spawn(&spawn, &freeze.pid, NULL, err) < 0)
		return error_wrap(err, "cannot hold %s still", what);
	close(steal_fd(&their_input));
	close(steal_fd(&their_output));
	freeze.release = steal_fd(&input);
	if (read_answer(output, answer) < 0) {
		(void)freeze_end(&freeze, what, NULL);
		return refused(what, answer, err);
	}
	*ret = freeze;
	return 0;
}

int freeze_end(struct freeze *freeze, const char *what, struct error *err)
{
	pid_t pid = freeze->pid;
	const char *const thaw[] = { freeze->worker, "thaw", freeze->device, NULL };
	int status;

	if (!pid)
		return 0;
	freeze->pid = 0;
	close(steal_fd(&freeze->release));
	status = process_wait(pid);
	if (status == 0)
		return 0;
	if (status != VOLUMER_EXIT_LATE && status != VOLUMER_EXIT_FAILED) {
		(void)process_run_ok(thaw, THAW_TIMEOUT_MS, NULL);
		return error_set(err, ERR_ABORTED, "%s was not held still: its helper was killed; try again", what);
	}
	return freeze_too_late(what, err);
}

int freeze_too_late(const char *what, struct error *err)
{
	return error_set(err, ERR_DEADLINE_EXCEEDED,
			 "%s could be held still for %d seconds only, and copying it took longer; stop the workload that mounts "
			 "it, then try again",
			 what, FREEZE_SECONDS_MAX);
}
