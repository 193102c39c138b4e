/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/protocol.h"

#include "base/fs.h"
#include "base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define FILE_MAX (1024 + SHIM_REASON_MAX)

/* Control data for the descriptors of one message, aligned as the kernel wants it. */
union control {
	struct cmsghdr header;
	char bytes[CMSG_SPACE(SHIM_FDS_MAX * sizeof(int))];
};

int shim_send_fds(int fd, enum shim_type type, const void *body, size_t length, const int *fds, size_t n_fds)
{
	struct shim_header header = { SHIM_PROTOCOL_VERSION, (uint16_t)type, (uint32_t)length };
	struct iovec parts[2] = {
		{ &header, sizeof header },
		{ (void *)(uintptr_t)body, length },
	};
	struct msghdr packet = { .msg_iov = parts, .msg_iovlen = 2 };
	union control control = { .header = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };

	if (n_fds > SHIM_FDS_MAX)
		return -EINVAL;
	if (n_fds) {
		control.header.cmsg_len = CMSG_LEN(n_fds * sizeof *fds);
		memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof *fds);
		packet.msg_control = &control;
		packet.msg_controllen = CMSG_SPACE(n_fds * sizeof *fds);
	}
	while (sendmsg(fd, &packet, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

int shim_send(int fd, enum shim_type type, const void *body, size_t length)
{
	return shim_send_fds(fd, type, body, length, NULL, 0);
}

void shim_close_fds(const int *fds, size_t n_fds)
{
	for (size_t i = 0; i < n_fds; i++)
		close(fds[i]);
}

/* The descriptors in a packet's control data; at most SHIM_FDS_MAX fit. */
static size_t take_fds(struct msghdr *packet, int *fds)
{
	struct cmsghdr *c = CMSG_FIRSTHDR(packet);
	size_t n;

	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
		return 0;
	n = (c->cmsg_len - CMSG_LEN(0)) / sizeof *fds;
	memcpy(fds, CMSG_DATA(c), n * sizeof *fds);
	return n;
}

static void take_text(char *text, size_t size)
{
	text[size - 1] = '\0';
	utf8_line(text);
}

/* What a holder tells may come from a workload, a guest or a tool. */
static void take_texts(struct shim_message *m)
{
	switch (m->type) {
	case SHIM_FAILED:
		take_text(m->body.text, sizeof m->body.text);
		break;
	case SHIM_EXIT:
		take_text(m->body.result.reason, sizeof m->body.result.reason);
		break;
	case SHIM_EXEC_FAILED:
		take_text(m->body.exec_failed.text, sizeof m->body.exec_failed.text);
		break;
	case SHIM_HOLD_ENDED:
		take_text(m->body.hold_ended.text, sizeof m->body.hold_ended.text);
		break;
	case SHIM_VOLUME_FAILED:
		take_text(m->body.volume_failed.volume, sizeof m->body.volume_failed.volume);
		break;
	default:
		break;
	}
}

static int receive(int fd, struct shim_message *ret, union control *control, int *fds, size_t *ret_n_fds)
{
	struct shim_header header;
	struct iovec parts[2] = {
		{ &header, sizeof header },
		{ &ret->body, SHIM_BODY_MAX },
	};
	struct msghdr packet = {
		.msg_iov = parts, .msg_iovlen = 2, .msg_control = control, .msg_controllen = control ? sizeof *control : 0,
	};
	ssize_t n;

	memset(&ret->body, 0, sizeof ret->body);
	do {
		n = recvmsg(fd, &packet, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? 0 : -errno;
	/* An empty packet looks like the end, but may bring some. */
	if (control)
		*ret_n_fds = take_fds(&packet, fds);
	if (n == 0)
		return 0;
	if ((size_t)n < sizeof header || packet.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ||
	    header.length != (size_t)n - sizeof header)
		return -EPROTO;
	ret->type = (enum shim_type)header.type;
	ret->length = header.length;
	take_texts(ret);
	return 1;
}

int shim_receive(int fd, struct shim_message *ret)
{
	return receive(fd, ret, NULL, NULL, NULL);
}

int shim_receive_fds(int fd, struct shim_message *ret, int fds[SHIM_FDS_MAX], size_t *ret_n_fds)
{
	union control control;
	int r;

	*ret_n_fds = 0;
	r = receive(fd, ret, &control, fds, ret_n_fds);
	if (r <= 0) {
		shim_close_fds(fds, *ret_n_fds);
		*ret_n_fds = 0;
	}
	return r;
}

int shim_result_write(int dirfd, const struct shim_result *r, struct error *err)
{
	char text[FILE_MAX];
	int n = snprintf(text, sizeof text,
			 "code %" PRId32 "\noom %u\nstopped %u\ngeneration %" PRIu64 "\nstarted %" PRId64
			 "\nfinished %" PRId64 "\n%s%s%send\n",
			 r->exit_code, r->oom_killed, r->stopped, r->generation, r->started_at_ns, r->finished_at_ns,
			 *r->reason ? "reason " : "", r->reason, *r->reason ? "\n" : "");

	return fs_write_replace(dirfd, SHIM_EXIT_FILE, text, (size_t)n, 0600, err);
}

int shim_result_read(int dirfd, struct shim_result *ret)
{
	_cleanup_free_ char *text = NULL;
	struct shim_result r = { 0 };
	unsigned oom, stopped;
	int end = 0;

	if (fs_read(dirfd, SHIM_EXIT_FILE, FILE_MAX, &text, NULL, NULL) < 0)
		return 0;
	/* A later version may add lines before the last one; these stay where they are. */
	if (sscanf(text, "code %" SCNd32 " oom %u stopped %u generation %" SCNu64 " started %" SCNd64 " finished %" SCNd64
			 " %n",
		   &r.exit_code, &oom, &stopped, &r.generation, &r.started_at_ns, &r.finished_at_ns, &end) != 6 ||
	    !strstr(text + end - 1, "\nend\n"))
		return 0;
	/* Its text may be anything, so only a whole line counts. */
	if (!strncmp(text + end, "reason ", 7))
		snprintf(r.reason, sizeof r.reason, "%.*s", (int)strcspn(text + end + 7, "\n"), text + end + 7);
	utf8_line(r.reason);
	r.oom_killed = oom != 0;
	r.stopped = stopped != 0;
	*ret = r;
	return 1;
}

/* Field 22 of /proc/PID/stat. The name in field 2 may hold anything, so count from its closing parenthesis. */
static int start_time(pid_t pid, uint64_t *ret)
{
	_cleanup_free_ char *text = NULL;
	char path[32];
	char *p;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (fs_read(AT_FDCWD, path, 4096, &text, NULL, NULL) < 0)
		return -1;
	p = strrchr(text, ')');
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	return p && sscanf(p, "%" SCNu64, ret) == 1 ? 0 : -1;
}

int shim_note_begun(int dirfd, struct error *err)
{
	_cleanup_close_ int fd = openat(dirfd, SHIM_BEGUN_FILE, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	return fd < 0 ? error_errno(err, errno, "cannot make the file " SHIM_BEGUN_FILE) : 0;
}

int shim_pid_write(int dirfd, struct error *err)
{
	char text[64];
	uint64_t started;
	int n;

	if (start_time(getpid(), &started) < 0)
		return error_set(err, ERR_INTERNAL, "cannot read /proc/%d/stat", (int)getpid());
	n = snprintf(text, sizeof text, "%d %" PRIu64 "\n", (int)getpid(), started);
	return fs_write_replace(dirfd, SHIM_PID_FILE, text, (size_t)n, 0600, err);
}

int shim_pid_open(int dirfd, pid_t *ret_pid)
{
	_cleanup_free_ char *text = NULL;
	uint64_t recorded, now;
	int pid, pidfd;

	if (fs_read(dirfd, SHIM_PID_FILE, FILE_MAX, &text, NULL, NULL) < 0 ||
	    sscanf(text, "%d %" SCNu64, &pid, &recorded) != 2 || pid <= 1)
		return -1;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0)
		return -1;
	/* Read after the pidfd was taken: if the times agree the pidfd is the shim's. */
	if (start_time(pid, &now) < 0 || now != recorded) {
		close(pidfd);
		return -1;
	}
	*ret_pid = pid;
	return pidfd;
}
