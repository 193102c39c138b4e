/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * gRPC servers and clients on a libuv loop.
 *
 * Threads: everything on the loop's thread; nothing blocks. What a callback queues is written before the loop next
 * waits, so that many small messages share one write.
 * Limits: a server holds at most `max_connections`; further ones wait in the kernel's queue. Peers that vanished from
 * TCP are found by TCP keepalive (a minute of silence).
 * Addresses are those of rpc/address.h: "unix:PATH" or "HOST:PORT".
 */
#ifndef CAPSULE_RPC_UV_H
#define CAPSULE_RPC_UV_H

#include "rpc/address.h"
#include "rpc/conn.h"
#include "rpc/unary.h"

#include <uv.h>

/* --- server --- */

struct rpc_server;

#define RPC_SERVER_CONNECTIONS 256u

/* max_connections: 0 is RPC_SERVER_CONNECTIONS. NULL without memory. */
struct rpc_server *rpc_server_new(uv_loop_t *loop, unsigned max_connections);

/* The tables are the caller's and must live as long as the server. 0, or -1 without memory. */
int rpc_server_add_methods(struct rpc_server *server, const struct rpc_method *methods, size_t n);

/* For rpc_health_register() and rpc_reflection_new(). */
struct rpc_services *rpc_server_services(struct rpc_server *server);

/* Listens on a Unix socket with this mode, owned by this group ((gid_t)-1: as created). A socket file that nobody
 * listens on any more is replaced; one that somebody does is an error (ALREADY_EXISTS). The file is removed when the
 * server stops listening. */
int rpc_server_listen_unix(struct rpc_server *server, const char *path, mode_t mode, gid_t group, struct error *err);

/* Listens on a TCP address: a numeric one or "localhost" (127.0.0.1). Port 0 takes a free one; *ret_port (may be NULL)
 * is the real one. */
int rpc_server_listen_tcp(struct rpc_server *server, const char *host, uint16_t port, uint16_t *ret_port,
			  struct error *err);

/* Serves one shared connection (rpc/conn.h) over any non-blocking descriptor that is a byte stream: a socket, a virtio-serial
 * port. It is the server's in any case. `lost` (may be NULL) is called once, from the loop, when the connection has ended and
 * its calls are closed, unless the server is being closed. */
typedef void (*rpc_server_lost_fn)(void *arg);
int rpc_server_adopt(struct rpc_server *server, int fd, rpc_server_lost_fn lost, void *arg, struct error *err);

/* Stops listening and tells every client to go (GOAWAY). Calls under way go on to their end. `drained` (may be NULL) is
 * called once, from the loop, when the last connection is gone. A call or a client that goes on holds it up as long as
 * it likes: set a time limit, then rpc_server_close(). */
void rpc_server_drain(struct rpc_server *server, void (*drained)(void *arg), void *arg);

/* Breaks every connection and frees the server; `closed` (may be NULL) is called from the loop when it let go of
 * everything. Between the two no method callback but `close` runs. May be called from any callback. */
void rpc_server_close(struct rpc_server *server, void (*closed)(void *arg), void *arg);

size_t rpc_server_connections(const struct rpc_server *server);

/* --- client --- */

struct rpc_client;

/* Called once from the loop: 0, or the positive errno of the connect (ENOENT, ECONNREFUSED, EACCES, ...). */
typedef void (*rpc_client_connected_fn)(struct rpc_client *client, int errnum, void *arg);

/* Starts to connect; connected may be NULL. Calls may be started at once; where the connection fails, or later breaks,
 * every call ends with UNAVAILABLE. A client connects once: to try again, make a new one. NULL with err set where the
 * target is not an address. The loop is kept alive while calls are under way, not by the connection alone. */
struct rpc_client *rpc_client_new(uv_loop_t *loop, const char *target, rpc_client_connected_fn connected, void *arg,
				  struct error *err);

/* A client over a connected, non-blocking stream socket, a shared connection (rpc/conn.h). The socket is the client's in any
 * case. The name is for messages: "lost the connection to NAME". NULL with err set on failure. */
struct rpc_client *rpc_client_adopt(uv_loop_t *loop, int fd, const char *name, struct error *err);

/* Ends every call with CANCELLED, closes and frees; `closed` (may be NULL) is called from the loop when it let go of
 * everything; the calls' `close` comes before it. May be called from any callback. NULL is fine (closed is then not
 * called). */
void rpc_client_close(struct rpc_client *client, void (*closed)(void *arg), void *arg);

/* Why there is no connection: the errno of a connect that failed or of a connection that broke; 0 while there is none
 * of that. */
int rpc_client_errno(const struct rpc_client *client);

/* As rpc_conn_call() and rpc_conn_unary(). */
struct rpc_call *rpc_client_call(struct rpc_client *client, const struct rpc_method *method, int64_t timeout_ms,
				 void *data);
struct rpc_call *rpc_client_unary(struct rpc_client *client, const char *path, const ProtobufCMessage *request,
				  const ProtobufCMessageDescriptor *reply, int64_t timeout_ms, rpc_unary_done_fn done,
				  void *arg);

#endif
