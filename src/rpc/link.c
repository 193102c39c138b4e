/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/link.h"

#include "base/timeutil.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static void link_end(struct link *link, int errnum)
{
	if (!link->closing)
		link->ended(link, errnum);
}

/* --- time --- */

static void link_arm(struct link *link);

static void on_timer(uv_timer_t *timer)
{
	struct link *link = timer->data;

	rpc_conn_expire(link->conn, time_monotonic_ns());
	link_schedule(link);
}

static void link_arm(struct link *link)
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

static void link_write(struct link *link);

static void on_written(uv_write_t *req, int status)
{
	struct link *link = req->data;
	const uint8_t *data;

	link->writing = false;
	if (link->closing)
		return;
	if (status < 0) {
		link_end(link, -status);
		return;
	}
	rpc_conn_sent(link->conn, rpc_conn_pending(link->conn, &data));
	link_schedule(link);
}

/* Writes until the socket is full; then libuv waits for room and writes the rest of what was begun. */
static void link_write(struct link *link)
{
	const uint8_t *data;
	uv_buf_t buf;
	size_t len;
	int r;

	while ((len = rpc_conn_pending(link->conn, &data)) > 0 && link->open && !link->writing && !link->closing) {
		buf = uv_buf_init((char *)data, (unsigned)len);
		r = uv_try_write((uv_stream_t *)&link->stream, &buf, 1);
		if (r < 0 && r != UV_EAGAIN) {
			link_end(link, -r);
			return;
		}
		if (r > 0)
			rpc_conn_sent(link->conn, (size_t)r);
		if (r == (int)len)
			continue;
		len = rpc_conn_pending(link->conn, &data);
		buf = uv_buf_init((char *)data, (unsigned)len);
		link->write.data = link;
		r = uv_write(&link->write, (uv_stream_t *)&link->stream, &buf, 1, on_written);
		if (r < 0) {
			link_end(link, -r);
			return;
		}
		link->writing = true;
	}
}

static void on_flush(uv_idle_t *idle)
{
	struct link *link = idle->data;

	uv_idle_stop(idle);
	link_write(link);
	if (link->closing)
		return;
	if (rpc_conn_finished(link->conn)) {
		link_end(link, 0);
		return;
	}
	link_arm(link);
	if (link->idle_unref && link->open && rpc_conn_calls(link->conn) == 0)
		uv_unref((uv_handle_t *)&link->stream);
	else
		uv_ref((uv_handle_t *)&link->stream);
}

void link_schedule(struct link *link)
{
	if (!link->closing)
		uv_idle_start(&link->flush, on_flush);
}

static void on_wake(struct rpc_conn *conn, void *arg)
{
	link_schedule(arg);
}

/* --- reading --- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct link *link = handle->data;

	*buf = uv_buf_init((char *)link->read_buffer, LINK_READ_SIZE);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct link *link = stream->data;

	if (link->closing || n == 0)
		return;
	if (n < 0) {
		link_end(link, n == UV_EOF ? ECONNRESET : (int)-n);
		return;
	}
	if (rpc_conn_receive(link->conn, buf->base, (size_t)n, NULL) < 0) {
		/* The GOAWAY that says why goes out if the socket takes it. */
		link_write(link);
		link_end(link, EPROTO);
		return;
	}
	link_schedule(link);
}

/* --- life --- */

void link_init(struct link *link, uv_loop_t *loop)
{
	uv_pipe_init(loop, &link->stream, 0);
	uv_timer_init(loop, &link->timer);
	uv_idle_init(loop, &link->flush);
	uv_unref((uv_handle_t *)&link->timer);
	link->stream.data = link->timer.data = link->flush.data = link;
	link->handles = 3;
	link->end_code = ERR_UNAVAILABLE;
	link->end_message = "connection lost";
}

struct rpc_conn_options link_conn_options(struct link *link)
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

int link_open(struct link *link, int fd)
{
	int domain = AF_UNIX, r;
	socklen_t len = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0 && domain != AF_UNIX)
		tune_tcp(fd);
	r = uv_pipe_open(&link->stream, fd);
	if (r < 0) {
		close(fd);
		return r;
	}
	r = uv_read_start((uv_stream_t *)&link->stream, on_alloc, on_read);
	if (r < 0)
		return r;
	link->open = true;
	link_schedule(link);
	return 0;
}

static void on_handle_closed(uv_handle_t *handle)
{
	struct link *link = handle->data;

	if (--link->handles > 0)
		return;
	if (link->conn) {
		rpc_conn_fail(link->conn, link->end_code, link->end_message);
		rpc_conn_free(link->conn);
		link->conn = NULL;
	}
	link->closed(link);
}

void link_close(struct link *link)
{
	if (link->closing)
		return;
	link->closing = true;
	uv_close((uv_handle_t *)&link->stream, on_handle_closed);
	uv_close((uv_handle_t *)&link->timer, on_handle_closed);
	uv_close((uv_handle_t *)&link->flush, on_handle_closed);
}
