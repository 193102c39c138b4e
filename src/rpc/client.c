/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/link.h"
#include "rpc/uv.h"

#include <errno.h>
#include <netdb.h>
#include <sys/socket.h>

#define CANDIDATES_MAX 8

/*
 * One after the other, the candidate addresses are tried, each with a non-blocking connect that `poll` watches. The
 * calls need not wait for that: the connection's first bytes are ready when the socket is.
 */
struct rpc_client {
	struct rpc_link link;
	uv_loop_t *loop;
	struct rpc_address address;
	char *target;
	rpc_client_connected_fn connected;
	void *arg;
	int errnum;

	struct sockaddr_storage candidates[CANDIDATES_MAX];
	unsigned n_candidates, candidate;
	uv_getaddrinfo_t resolve;
	bool resolving;
	uv_poll_t *poll;       /* of the attempt under way; allocated, as it is closed while the next one begins */
	int fd;                /* of the attempt under way; -1: none */
	uv_idle_t start;
	bool start_closed, link_closed;

	void (*closed)(void *arg);
	void *closed_arg;
	uint8_t read_buffer[LINK_READ_SIZE];
};

static void connect_next(struct rpc_client *client);

static void client_maybe_free(struct rpc_client *client)
{
	if (!client->link_closed || !client->start_closed || client->resolving)
		return;
	if (client->closed)
		client->closed(client->closed_arg);
	free(client->target);
	free(client);
}

/* --- how it ends --- */

static void client_fail(struct rpc_client *client, const char *what, int errnum)
{
	char text[512];

	snprintf(text, sizeof(text), "%s %s: %s", what, client->target, strerror(errnum));
	rpc_conn_fail(client->link.conn, ERR_UNAVAILABLE, text);
	rpc_link_schedule(&client->link);
}

static void on_link_ended(struct rpc_link *link, int errnum)
{
	struct rpc_client *client = (struct rpc_client *)link;

	if (client->errnum)
		return;
	rpc_link_disconnect(link);
	client->errnum = errnum ? errnum : ECONNRESET;
	client_fail(client, "lost the connection to", client->errnum);
}

static void on_link_closed(struct rpc_link *link)
{
	struct rpc_client *client = (struct rpc_client *)link;

	client->link_closed = true;
	client_maybe_free(client);
}

/* --- connecting --- */

static void on_poll_closed(uv_handle_t *handle)
{
	free(handle);
}

static int end_attempt(struct rpc_client *client)
{
	if (client->poll)
		uv_close((uv_handle_t *)client->poll, on_poll_closed);
	client->poll = NULL;
	return steal_fd(&client->fd);
}

static void connect_done(struct rpc_client *client, int errnum)
{
	int fd = end_attempt(client);

	if (errnum == 0)
		errnum = -rpc_link_open(&client->link, fd);
	else if (fd >= 0)
		close(fd);
	if (errnum && client->candidate < client->n_candidates) {
		connect_next(client);
		return;
	}
	/* The owner hears of it before its calls do, and may close the client then. */
	client->errnum = errnum;
	if (client->connected)
		client->connected(client, errnum, client->arg);
	if (errnum && !client->link.closing)
		client_fail(client, "cannot connect to", errnum);
}

static void on_connectable(uv_poll_t *poll, int status, int events)
{
	struct rpc_client *client = poll->data;
	int errnum = 0;
	socklen_t len = sizeof(errnum);

	/* libuv tells only that there is an error; the socket knows which. */
	if (getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &errnum, &len) < 0)
		errnum = errno;
	if (errnum == 0 && status < 0)
		errnum = -status;
	connect_done(client, errnum);
}

static int watch_attempt(struct rpc_client *client)
{
	int r;

	client->poll = calloc(1, sizeof(*client->poll));
	if (!client->poll)
		return ENOMEM;
	r = uv_poll_init(client->loop, client->poll, client->fd);
	if (r < 0) {
		free(client->poll);
		client->poll = NULL;
		return -r;
	}
	client->poll->data = client;
	return -uv_poll_start(client->poll, UV_WRITABLE, on_connectable);
}

static void connect_next(struct rpc_client *client)
{
	const struct sockaddr *addr = (const struct sockaddr *)&client->candidates[client->candidate++];
	socklen_t len = addr->sa_family == AF_UNIX   ? sizeof(struct sockaddr_un)
			: addr->sa_family == AF_INET ? sizeof(struct sockaddr_in)
						     : sizeof(struct sockaddr_in6);
	int errnum = 0;

	client->fd = socket(addr->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (client->fd < 0) {
		connect_done(client, errno);
		return;
	}
	if (connect(client->fd, addr, len) < 0)
		errnum = errno;
	if (errnum == EINPROGRESS) {
		errnum = watch_attempt(client);
		if (errnum == 0)
			return;
	}
	connect_done(client, errnum);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
	struct rpc_client *client = req->data;

	client->resolving = false;
	for (struct addrinfo *a = list; a && client->n_candidates < CANDIDATES_MAX; a = a->ai_next)
		memcpy(&client->candidates[client->n_candidates++], a->ai_addr, a->ai_addrlen);
	uv_freeaddrinfo(list);
	if (client->link.closing) {
		client_maybe_free(client);
		return;
	}
	if (client->n_candidates > 0)
		connect_next(client);
	else
		connect_done(client, EHOSTUNREACH);
}

static void resolve(struct rpc_client *client)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	char port[8];

	snprintf(port, sizeof(port), "%u", client->address.port);
	client->resolve.data = client;
	if (uv_getaddrinfo(client->loop, &client->resolve, on_resolved, client->address.host, port, &hints) < 0)
		connect_done(client, EHOSTUNREACH);
	else
		client->resolving = true;
}

/* What needs no resolver: a Unix socket, a numeric address, this host. */
static void add_candidates(struct rpc_client *client)
{
	const struct rpc_address *a = &client->address;
	struct sockaddr_un *un = (struct sockaddr_un *)client->candidates;
	struct sockaddr_in *v4 = (struct sockaddr_in *)client->candidates;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)client->candidates;

	if (a->is_unix) {
		un->sun_family = AF_UNIX;
		memcpy(un->sun_path, a->path, strlen(a->path) + 1);
		client->n_candidates = 1;
	} else if (strcmp(a->host, "localhost") == 0) {
		uv_ip4_addr("127.0.0.1", a->port, v4);
		uv_ip6_addr("::1", a->port, (struct sockaddr_in6 *)&client->candidates[1]);
		client->n_candidates = 2;
	} else if (uv_ip4_addr(a->host, a->port, v4) == 0 || uv_ip6_addr(a->host, a->port, v6) == 0) {
		client->n_candidates = 1;
	}
}

static void on_start(uv_idle_t *idle)
{
	struct rpc_client *client = idle->data;

	uv_idle_stop(idle);
	if (client->link.closing)
		return;
	if (client->n_candidates > 0)
		connect_next(client);
	else
		resolve(client);
}

static void on_start_closed(uv_handle_t *handle)
{
	struct rpc_client *client = handle->data;

	client->start_closed = true;
	client_maybe_free(client);
}

/* --- the client as a whole --- */

static const char *authority_of(const struct rpc_client *client)
{
	/* A socket's path is not an authority; other gRPC clients say this as well. */
	return client->address.is_unix ? "localhost" : client->target;
}

static struct rpc_client *client_new(uv_loop_t *loop, const char *target, const struct rpc_address *address, bool shared,
				     struct error *err)
{
	_cleanup_free_ struct rpc_client *client = calloc(1, sizeof(*client));
	_cleanup_free_ char *name = strdup(target);
	struct rpc_conn_options options;

	if (!client || !name) {
		error_set(err, ERR_RESOURCE_EXHAUSTED, "no memory");
		return NULL;
	}
	client->address = *address;
	client->loop = loop;
	client->fd = -1;
	client->target = name;
	client->link.read_buffer = client->read_buffer;
	client->link.idle_unref = true;
	client->link.ended = on_link_ended;
	client->link.closed = on_link_closed;
	options = rpc_link_conn_options(&client->link);
	options.shared = shared;
	client->link.conn = rpc_conn_new_client(authority_of(client), &options);
	if (!client->link.conn) {
		error_set(err, ERR_RESOURCE_EXHAUSTED, "no memory");
		return NULL;
	}
	steal_ptr(&name);
	rpc_link_init(&client->link, loop);
	client->link.end_code = ERR_CANCELLED;
	client->link.end_message = "cancelled";
	uv_idle_init(loop, &client->start);
	client->start.data = client;
	return steal_ptr(&client);
}

struct rpc_client *rpc_client_new(uv_loop_t *loop, const char *target, rpc_client_connected_fn connected, void *arg,
				  struct error *err)
{
	struct rpc_client *client;
	struct rpc_address address;

	if (rpc_address_parse(target, &address, err) < 0)
		return NULL;
	client = client_new(loop, target, &address, false, err);
	if (!client)
		return NULL;
	client->connected = connected;
	client->arg = arg;
	add_candidates(client);
	uv_idle_start(&client->start, on_start);
	return client;
}

struct rpc_client *rpc_client_adopt(uv_loop_t *loop, int fd, const char *name, struct error *err)
{
	const struct rpc_address nowhere = { .is_unix = true };
	struct rpc_client *client = client_new(loop, name, &nowhere, true, err);
	int r;

	if (!client) {
		close(fd);
		return NULL;
	}
	r = rpc_link_open(&client->link, fd);
	if (r < 0) {
		rpc_client_close(client, NULL, NULL);
		error_errno(err, -r, "cannot watch the connection to %s", name);
		return NULL;
	}
	return client;
}

void rpc_client_close(struct rpc_client *client, void (*closed)(void *arg), void *arg)
{
	int fd;

	if (!client || client->link.closing)
		return;
	client->closed = closed;
	client->closed_arg = arg;
	fd = end_attempt(client);
	if (fd >= 0)
		close(fd);
	if (client->resolving)
		uv_cancel((uv_req_t *)&client->resolve);
	rpc_link_close(&client->link);
	uv_close((uv_handle_t *)&client->start, on_start_closed);
}

int rpc_client_errno(const struct rpc_client *client)
{
	return client->errnum;
}

struct rpc_call *rpc_client_call(struct rpc_client *client, const struct rpc_method *method, int64_t timeout_ms,
				 void *data)
{
	return rpc_conn_call(client->link.conn, method, timeout_ms, data);
}

struct rpc_call *rpc_client_unary(struct rpc_client *client, const char *path, const ProtobufCMessage *request,
				  const ProtobufCMessageDescriptor *reply, int64_t timeout_ms, rpc_unary_done_fn done,
				  void *arg)
{
	return rpc_conn_unary(client->link.conn, path, request, reply, timeout_ms, done, arg);
}
