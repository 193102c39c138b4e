/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "guest/stream.h"

#include "base/fs.h"
#include "guest/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>

#define PORTS "/sys/class/virtio-ports"
#define UEVENT_MAX 8192

static void close_watched(int *fd, uv_poll_t *poll)
{
	if (*fd < 0)
		return;
	uv_poll_stop(poll);
	uv_close((uv_handle_t *)poll, NULL);
	close(steal_fd(fd));
}

static void stream_found(struct stream *s, int fd)
{
	close_watched(&s->uevent_fd, &s->uevents);
	close_watched(&s->port_epoll_fd, &s->port);
	cleanup_closep(&s->port_fd);
	s->port_fd = -1;
	s->found(fd, s->arg);
}

/* ---- virtio-serial ---- */

/* A port hangs up as long as nobody is at its other end. Watched for edges it does not keep the loop busy. */
static void on_port(uv_poll_t *poll, int status, int events)
{
	struct stream *s = poll->data;
	struct epoll_event event;

	if (epoll_wait(s->port_epoll_fd, &event, 1, 0) == 1 && !(event.events & EPOLLHUP))
		stream_found(s, steal_fd(&s->port_fd));
}

static int open_port(struct stream *s, const char *name, struct error *err)
{
	_cleanup_free_ char *path = fs_path("/dev/%s", name);
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET };

	s->port_fd = path ? open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY) : -1;
	if (s->port_fd < 0)
		return error_errno(err, path ? errno : ENOMEM, "cannot open the port " GUEST_PORT_NAME);
	s->port_epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (s->port_epoll_fd < 0 || epoll_ctl(s->port_epoll_fd, EPOLL_CTL_ADD, s->port_fd, &event) < 0 ||
	    uv_poll_init(s->loop, &s->port, s->port_epoll_fd) < 0)
		return error_errno(err, errno, "cannot watch the port " GUEST_PORT_NAME);
	s->port.data = s;
	uv_poll_start(&s->port, UV_READABLE, on_port);
	close_watched(&s->uevent_fd, &s->uevents);
	return 0;
}

static bool is_our_port(int dirfd, const char *entry)
{
	_cleanup_free_ char *path = fs_path("%s/name", entry), *name = NULL;

	if (entry[0] == '.' || !path || fs_read(dirfd, path, 256, &name, NULL, NULL) < 0)
		return false;
	name[strcspn(name, "\n")] = '\0';
	return !strcmp(name, GUEST_PORT_NAME);
}

/* A port that is not there yet is no error: the kernel will tell. */
static int look_for_port(struct stream *s, struct error *err)
{
	_cleanup_closedir_ DIR *dir = opendir(PORTS);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (is_our_port(dirfd(dir), entry->d_name))
			return open_port(s, entry->d_name, err);
	return 0;
}

static void on_uevent(uv_poll_t *poll, int status, int events)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct stream *s = poll->data;
	char text[UEVENT_MAX];

	while (recv(s->uevent_fd, text, sizeof text, 0) > 0)
		;
	if (look_for_port(s, &err) < 0)
		fprintf(stderr, "capsule-guest: %s\n", error_message(&err));
}

static int watch_uevents(struct stream *s, struct error *err)
{
	struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = 1 };

	s->uevent_fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
	if (s->uevent_fd < 0 || bind(s->uevent_fd, (struct sockaddr *)&address, sizeof address) < 0 ||
	    uv_poll_init(s->loop, &s->uevents, s->uevent_fd) < 0)
		return error_errno(err, errno, "cannot listen to the kernel's events");
	s->uevents.data = s;
	uv_poll_start(&s->uevents, UV_READABLE, on_uevent);
	return 0;
}

/* ---- vsock ---- */

/* The connected socket, or -1: there is no vsock device, or its host expects no guest of ours. A monitor answers at once, so
 * this does not block. */
static int connect_to_host(void)
{
	struct sockaddr_vm host = {
		.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = GUEST_VSOCK_PORT,
	};
	_cleanup_close_ int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&host, sizeof host) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return -1;
	return steal_fd(&fd);
}

int stream_open(struct stream *s, uv_loop_t *loop, stream_found_fn found, void *arg, struct error *err)
{
	int fd = connect_to_host();

	if (fd >= 0) {
		found(fd, arg);
		return 0;
	}
	*s = (struct stream){ .loop = loop, .found = found, .arg = arg, .uevent_fd = -1, .port_fd = -1, .port_epoll_fd = -1 };
	/* Listening comes before looking, so that no port is missed. */
	return watch_uevents(s, err) < 0 || look_for_port(s, err) < 0 ? -1 : 0;
}
