/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/link.h"

#include "base/timeutil.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

/* What is read before other connections have their turn. */
#define READS_AT_ONCE 8

static void link_end(struct rpc_link *link, int errnum)
{
	if (!link->closing)
		link->ended(link, errnum);
}

/* --- time --- */

static void on_timer(uv_timer_t *timer)
{
	struct rpc_link *link = timer->data;

	rpc_conn_expire(link->conn, time_monotonic_ns());
	rpc_link_schedule(link);
}

static void link_arm(struct rpc_link *link)
{
	int64_t deadline = rpc_conn_deadline(link->conn), left;

	if (deadline < 0) {
		uv_timer_stop(&link->timer);
		return;
	}
	left = deadline - time_monotonic_ns();
	/* Rounded up, so that the deadline has passed when the timer fires. */
	uv_update_time(link->timer.loop);
	uv_timer_start(&link->timer, on_timer, left > 0 ? (uint64_t)(left / NSEC_PER_MSEC) + 1 : 0, 0);
}

/* --- writing --- */

static void on_socket(uv_poll_t *poll, int status, int events);

static void link_watch(struct rpc_link *link)
{
	uv_poll_start(&link->poll, UV_READABLE | (link->blocked ? UV_WRITABLE : 0), on_socket);
}

/* A program need not ignore SIGPIPE for us: a device raises none. */
static ssize_t link_send(const struct rpc_link *link, const void *data, size_t len)
{
	return link->device ? write(link->fd, data, len) : send(link->fd, data, len, MSG_NOSIGNAL);
}

/* Runs what is due and writes until there is nothing more or the socket is full. */
static void link_write(struct rpc_link *link)
{
	const uint8_t *data;
	size_t len;
	ssize_t n;

	while ((len = rpc_conn_pending(link->conn, &data)) > 0 && link->fd >= 0 && !link->blocked && !link->closing) {
		n = link_send(link, data, len);
		if (n >= 0) {
			rpc_conn_sent(link->conn, (size_t)n);
		} else if (errno == EAGAIN) {
			link->blocked = true;
			link_watch(link);
		} else if (errno != EINTR) {
			link_end(link, errno);
			return;
		}
	}
}

static void on_flush(uv_idle_t *idle)
{
	struct rpc_link *link = idle->data;

	uv_idle_stop(idle);
	link_write(link);
	if (link->closing)
		return;
	if (rpc_conn_finished(link->conn)) {
		link_end(link, 0);
		return;
	}
	link_arm(link);
	if (link->fd < 0)
		return;
	if (link->idle_unref && rpc_conn_calls(link->conn) == 0)
		uv_unref((uv_handle_t *)&link->poll);
	else
		uv_ref((uv_handle_t *)&link->poll);
}

void rpc_link_schedule(struct rpc_link *link)
{
	if (!link->closing)
		uv_idle_start(&link->flush, on_flush);
}

static void on_wake(struct rpc_conn *conn, void *arg)
{
	rpc_link_schedule(arg);
}

/* --- reading --- */

static void link_read(struct rpc_link *link)
{
	ssize_t n;

	for (unsigned i = 0; i < READS_AT_ONCE; i++) {
		n = read(link->fd, link->read_buffer, LINK_READ_SIZE);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			link_end(link, n < 0 ? errno : ECONNRESET);
			return;
		}
		rpc_link_schedule(link);
		if (rpc_conn_receive(link->conn, link->read_buffer, (size_t)n, NULL) < 0) {
			/* The GOAWAY that says why goes out if the socket takes it. */
			link_write(link);
			link_end(link, EPROTO);
			return;
		}
		if ((size_t)n < LINK_READ_SIZE || link->closing || link->fd < 0)
			return;
	}
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
	struct rpc_link *link = poll->data;

	if (events & UV_WRITABLE) {
		link->blocked = false;
		link_watch(link);
		rpc_link_schedule(link);
	}
	/* An error of the socket has its name from read(). */
	if ((events & UV_READABLE) || status < 0)
		link_read(link);
}

/* --- life --- */

void rpc_link_init(struct rpc_link *link, uv_loop_t *loop)
{
	uv_timer_init(loop, &link->timer);
	uv_idle_init(loop, &link->flush);
	uv_unref((uv_handle_t *)&link->timer);
	link->timer.data = link->flush.data = link;
	link->handles = 2;
	link->fd = -1;
	link->end_code = ERR_UNAVAILABLE;
	link->end_message = "connection lost";
}

struct rpc_conn_options rpc_link_conn_options(struct rpc_link *link)
{
	return (struct rpc_conn_options){ .wake = on_wake, .arg = link, .peer = { .fd = -1 } };
}

static void tune_tcp(int fd)
{
	const struct {
		int level, name, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 30 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 10 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 3 },
	};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(options[i].value));
}

int rpc_link_open(struct rpc_link *link, int fd)
{
	int domain = AF_UNIX, r;
	socklen_t len = sizeof(domain);

	link->device = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 && errno == ENOTSOCK;
	if (domain == AF_INET || domain == AF_INET6)
		tune_tcp(fd);
	r = uv_poll_init(link->timer.loop, &link->poll, fd);
	if (r < 0) {
		close(fd);
		return r;
	}
	link->poll.data = link;
	link->handles++;
	link->fd = fd;
	link_watch(link);
	rpc_link_schedule(link);
	return 0;
}

static void link_closed(uv_handle_t *handle)
{
	struct rpc_link *link = handle->data;

	if (--link->handles > 0)
		return;
	if (link->conn) {
		rpc_conn_fail(link->conn, link->end_code, link->end_message);
		rpc_conn_free(link->conn);
		link->conn = NULL;
	}
	link->closed(link);
}

void rpc_link_disconnect(struct rpc_link *link)
{
	if (link->fd < 0)
		return;
	/* Out of epoll first, then closed. */
	uv_close((uv_handle_t *)&link->poll, link_closed);
	close(link->fd);
	link->fd = -1;
}

void rpc_link_close(struct rpc_link *link)
{
	if (link->closing)
		return;
	link->closing = true;
	rpc_link_disconnect(link);
	uv_close((uv_handle_t *)&link->timer, link_closed);
	uv_close((uv_handle_t *)&link->flush, link_closed);
}
