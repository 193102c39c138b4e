/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/link.h"
#include "rpc/uv.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define BACKLOG 128
#define ACCEPT_BATCH 16
/* How long accepting rests when the process is out of descriptors or memory. */
#define ACCEPT_PAUSE_MS 200

struct connection {
	struct rpc_link link;
	struct rpc_server *server;
	struct connection *next, **self;
	rpc_server_lost_fn lost; /* NULL: nobody wants to know */
	void *lost_arg;
};

struct listener {
	uv_poll_t poll;
	struct rpc_server *server;
	struct listener *next;
	int fd;
	char *path; /* of a Unix socket that we made: removed at the end */
};

struct rpc_server {
	uv_loop_t *loop;
	uv_timer_t accept_timer;
	struct rpc_services *services;
	struct listener *listeners;
	struct connection *connections;
	size_t n_connections;
	size_t handles;        /* of libuv, that are ours and not closed */
	unsigned max_connections;
	bool draining, closing;
	void (*drained)(void *arg);
	void *drained_arg;
	void (*closed)(void *arg);
	void *closed_arg;
	uint8_t read_buffer[LINK_READ_SIZE];
};

static void accept_pause(struct rpc_server *server);
static void accept_resume(struct rpc_server *server);

/* --- end --- */

static void server_tell_drained(struct rpc_server *server)
{
	void (*drained)(void *arg) = server->drained;

	if (!server->draining || server->n_connections > 0 || !drained)
		return;
	server->drained = NULL;
	drained(server->drained_arg);
}

static void server_maybe_free(struct rpc_server *server)
{
	if (!server->closing || server->n_connections > 0 || server->handles > 0)
		return;
	rpc_services_free(server->services);
	if (server->closed)
		server->closed(server->closed_arg);
	free(server);
}

static void on_timer_closed(uv_handle_t *handle)
{
	struct rpc_server *server = handle->data;

	server->handles--;
	server_maybe_free(server);
}

/* --- connections --- */

static void on_connection_closed(struct rpc_link *link)
{
	struct connection *c = (struct connection *)link;
	struct rpc_server *server = c->server;

	*c->self = c->next;
	if (c->next)
		c->next->self = c->self;
	if (c->lost && !server->closing)
		c->lost(c->lost_arg);
	free(c);
	server->n_connections--;
	accept_resume(server);
	if (!server->closing)
		server_tell_drained(server);
	server_maybe_free(server);
}

static void on_connection_ended(struct rpc_link *link, int errnum)
{
	rpc_link_close(link);
}

static void read_peer(int fd, struct rpc_peer *peer)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);
	struct sockaddr_storage addr;
	socklen_t addr_len = sizeof(addr);

	peer->fd = fd;
	if (getsockname(fd, (struct sockaddr *)&addr, &addr_len) < 0 || addr.ss_family != AF_UNIX)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return;
	peer->local = true;
	peer->pid = cred.pid;
	peer->uid = cred.uid;
	peer->gid = cred.gid;
}

/* Takes over the descriptor, in any case. */
static int serve(struct rpc_server *server, int fd, bool shared, rpc_server_lost_fn lost, void *arg)
{
	struct connection *c = calloc(1, sizeof(*c));
	struct rpc_conn_options options;

	if (!c) {
		close(fd);
		return -ENOMEM;
	}
	c->server = server;
	c->lost = lost;
	c->lost_arg = arg;
	c->link.read_buffer = server->read_buffer;
	c->link.ended = on_connection_ended;
	c->link.closed = on_connection_closed;
	options = rpc_link_conn_options(&c->link);
	options.shared = shared;
	read_peer(fd, &options.peer);
	c->link.conn = rpc_conn_new_server(server->services, &options);
	if (!c->link.conn) {
		close(fd);
		free(c);
		return -ENOMEM;
	}
	rpc_link_init(&c->link, server->loop);
	c->next = server->connections;
	c->self = &server->connections;
	if (c->next)
		c->next->self = &c->next;
	server->connections = c;
	server->n_connections++;
	if (rpc_link_open(&c->link, fd) < 0)
		rpc_link_close(&c->link);
	return 0;
}

int rpc_server_adopt(struct rpc_server *server, int fd, rpc_server_lost_fn lost, void *arg, struct error *err)
{
	int r = serve(server, fd, true, lost, arg);

	return r < 0 ? error_errno(err, -r, "cannot serve a connection") : 0;
}

/* --- listeners --- */

static void on_acceptable(uv_poll_t *poll, int status, int events)
{
	struct listener *l = poll->data;
	struct rpc_server *server = l->server;
	int fd;

	for (int i = 0; i < ACCEPT_BATCH; i++) {
		if (server->n_connections >= server->max_connections) {
			accept_pause(server);
			return;
		}
		fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			(void)serve(server, fd, false, NULL, NULL);
			continue;
		}
		if (errno == EINTR || errno == ECONNABORTED)
			continue;
		/* The socket stays readable, so going on at once would only burn the processor. */
		if (errno != EAGAIN)
			accept_pause(server);
		return;
	}
}

static void on_accept_timer(uv_timer_t *timer)
{
	accept_resume(timer->data);
}

static void accept_pause(struct rpc_server *server)
{
	for (struct listener *l = server->listeners; l; l = l->next)
		uv_poll_stop(&l->poll);
	/* At the limit of connections the end of one resumes; out of descriptors nothing might. */
	if (server->n_connections < server->max_connections)
		uv_timer_start(&server->accept_timer, on_accept_timer, ACCEPT_PAUSE_MS, 0);
}

static void accept_resume(struct rpc_server *server)
{
	if (server->draining || server->closing || server->n_connections >= server->max_connections)
		return;
	for (struct listener *l = server->listeners; l; l = l->next)
		if (!uv_is_active((uv_handle_t *)&l->poll))
			uv_poll_start(&l->poll, UV_READABLE, on_acceptable);
}

static void on_listener_closed(uv_handle_t *handle)
{
	struct listener *l = handle->data;
	struct rpc_server *server = l->server;

	free(l->path);
	free(l);
	server->handles--;
	server_maybe_free(server);
}

static void stop_listening(struct rpc_server *server)
{
	struct listener *l;

	uv_timer_stop(&server->accept_timer);
	while ((l = server->listeners)) {
		server->listeners = l->next;
		if (l->path)
			unlink(l->path);
		/* Out of epoll first, then closed. A socket that was handed to us goes on with who else has it. */
		uv_close((uv_handle_t *)&l->poll, on_listener_closed);
		close(l->fd);
	}
}

static int add_listener(struct rpc_server *server, int fd, const char *path, struct error *err)
{
	struct listener *l = calloc(1, sizeof(*l));
	int r;

	if (!l || (path && !(l->path = strdup(path)))) {
		free(l);
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "no memory");
	}
	r = uv_poll_init(server->loop, &l->poll, fd);
	if (r < 0) {
		free(l->path);
		free(l);
		return error_errno(err, -r, "cannot watch a socket");
	}
	l->poll.data = l;
	l->server = server;
	l->fd = fd;
	l->next = server->listeners;
	server->listeners = l;
	server->handles++;
	accept_resume(server);
	return 0;
}

static int check_stale(const struct sockaddr_un *addr, struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (lstat(addr->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : error_errno(err, errno, "cannot look at %s", addr->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return error_set(err, ERR_ALREADY_EXISTS, "%s exists and is not a socket", addr->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(err, errno, "cannot make a socket");
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno == EAGAIN)
		return error_set(err, ERR_ALREADY_EXISTS, "another program listens on %s", addr->sun_path);
	if (errno != ECONNREFUSED)
		return error_errno(err, errno, "cannot tell whether %s is in use", addr->sun_path);
	if (unlink(addr->sun_path) < 0 && errno != ENOENT)
		return error_errno(err, errno, "cannot replace %s", addr->sun_path);
	return 0;
}

static int listen_unix(struct rpc_server *server, int fd, const struct sockaddr_un *addr, mode_t mode, gid_t group,
		       struct error *err)
{
	/* Nobody can connect before listen(), so the rights are in place in time. */
	if (group != (gid_t)-1 && chown(addr->sun_path, (uid_t)-1, group) < 0)
		return error_errno(err, errno, "cannot set the group of %s", addr->sun_path);
	if (chmod(addr->sun_path, mode) < 0)
		return error_errno(err, errno, "cannot set the mode of %s", addr->sun_path);
	if (listen(fd, BACKLOG) < 0)
		return error_errno(err, errno, "cannot listen on %s", addr->sun_path);
	return add_listener(server, fd, addr->sun_path, err);
}

int rpc_server_listen_unix(struct rpc_server *server, const char *path, mode_t mode, gid_t group, struct error *err)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = -1;

	if (strlen(path) >= sizeof(addr.sun_path))
		return error_set(err, ERR_INVALID_ARGUMENT, "the socket path %s is longer than %zu characters", path,
				 sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	if (check_stale(&addr, err) < 0)
		return -1;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(err, errno, "cannot make a socket");
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return error_errno(err, errno, "cannot listen on %s", path);
	if (listen_unix(server, fd, &addr, mode, group, err) < 0) {
		unlink(path);
		return -1;
	}
	steal_fd(&fd);
	return 0;
}

int rpc_server_listen_tcp(struct rpc_server *server, const char *host, uint16_t port, uint16_t *ret_port,
			  struct error *err)
{
	const char *numeric = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} addr;
	socklen_t len = sizeof(addr);
	_cleanup_close_ int fd = -1;
	int on = 1;

	memset(&addr, 0, sizeof(addr));
	if (uv_ip4_addr(numeric, port, &addr.v4) < 0 && uv_ip6_addr(numeric, port, &addr.v6) < 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "cannot listen on \"%s\": it is not a numeric address",
				 host);
	fd = socket(addr.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_errno(err, errno, "cannot make a socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (addr.any.sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, &addr.any, addr.any.sa_family == AF_INET ? sizeof(addr.v4) : sizeof(addr.v6)) < 0 ||
	    listen(fd, BACKLOG) < 0)
		return error_errno(err, errno, "cannot listen on %s port %u", host, port);
	if (getsockname(fd, &addr.any, &len) < 0)
		return error_errno(err, errno, "cannot listen on %s port %u", host, port);
	if (add_listener(server, fd, NULL, err) < 0)
		return -1;
	steal_fd(&fd);
	if (ret_port)
		*ret_port = ntohs(addr.any.sa_family == AF_INET ? addr.v4.sin_port : addr.v6.sin6_port);
	return 0;
}

/* --- the server as a whole --- */

struct rpc_server *rpc_server_new(uv_loop_t *loop, unsigned max_connections)
{
	struct rpc_server *server = calloc(1, sizeof(*server));

	if (!server)
		return NULL;
	server->loop = loop;
	server->max_connections = max_connections ? max_connections : RPC_SERVER_CONNECTIONS;
	server->services = rpc_services_new();
	if (!server->services) {
		free(server);
		return NULL;
	}
	uv_timer_init(loop, &server->accept_timer);
	server->accept_timer.data = server;
	server->handles = 1;
	return server;
}

int rpc_server_add_methods(struct rpc_server *server, const struct rpc_method *methods, size_t n)
{
	return rpc_services_add(server->services, methods, n);
}

struct rpc_services *rpc_server_services(struct rpc_server *server)
{
	return server->services;
}

size_t rpc_server_connections(const struct rpc_server *server)
{
	return server->n_connections;
}

static void on_drain_timer(uv_timer_t *timer)
{
	server_tell_drained(timer->data);
}

void rpc_server_drain(struct rpc_server *server, void (*drained)(void *arg), void *arg)
{
	if (server->draining || server->closing)
		return;
	server->draining = true;
	server->drained = drained;
	server->drained_arg = arg;
	stop_listening(server);
	for (struct connection *c = server->connections; c; c = c->next)
		if (!c->link.closing)
			rpc_conn_drain(c->link.conn);
	/* Never from inside this function. */
	if (server->n_connections == 0)
		uv_timer_start(&server->accept_timer, on_drain_timer, 0, 0);
}

void rpc_server_close(struct rpc_server *server, void (*closed)(void *arg), void *arg)
{
	if (server->closing)
		return;
	server->closing = true;
	server->closed = closed;
	server->closed_arg = arg;
	stop_listening(server);
	for (struct connection *c = server->connections; c; c = c->next)
		rpc_link_close(&c->link);
	uv_close((uv_handle_t *)&server->accept_timer, on_timer_closed);
}
