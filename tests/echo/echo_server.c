/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Serves echo.proto, health and reflection for clients of other makes: echo-server ADDRESS...
 * Prints one line an address, as it can be connected to. SIGTERM: drains and ends.
 */
#include "echo_service.h"
#include "rpc/health.h"
#include "rpc/reflection.h"
#include "rpc/uv.h"

#include <stddef.h>

extern const uint8_t echo_descriptors[];
extern const size_t echo_descriptors_len;

static struct rpc_health *health;
static uv_signal_t term;

static void on_drained(void *arg)
{
	rpc_server_close(arg, NULL, NULL);
}

static void on_term(uv_signal_t *handle, int signum)
{
	uv_close((uv_handle_t *)handle, NULL);
	rpc_health_shutdown(health);
	rpc_server_drain(handle->data, on_drained, handle->data);
}

static int listen_on(struct rpc_server *server, const char *text, struct error *err)
{
	struct rpc_address a;

	if (rpc_address_parse(text, &a, err) < 0)
		return -1;
	if (a.is_unix && rpc_server_listen_unix(server, a.path, 0600, (gid_t)-1, err) < 0)
		return -1;
	if (!a.is_unix && rpc_server_listen_tcp(server, a.host, a.port, &a.port, err) < 0)
		return -1;
	if (a.is_unix)
		printf("unix:%s\n", a.path);
	else
		printf(strchr(a.host, ':') ? "[%s]:%u\n" : "%s:%u\n", a.host, a.port);
	return 0;
}

int main(int argc, char **argv)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	uv_loop_t *loop = uv_default_loop();
	struct rpc_server *server = rpc_server_new(loop, 0);
	struct rpc_reflection *reflection;

	health = rpc_health_new();
	if (!server || !health)
		abort();
	reflection = rpc_reflection_new(rpc_server_services(server), echo_descriptors, echo_descriptors_len);
	if (!reflection || rpc_server_add_methods(server, echo_methods, ECHO_METHODS) < 0 ||
	    rpc_health_register(health, rpc_server_services(server)) < 0 || rpc_health_set(health, "", true) < 0 ||
	    rpc_health_set(health, "echo.v1.Echo", true) < 0)
		abort();
	for (int i = 1; i < argc; i++) {
		if (listen_on(server, argv[i], &err) < 0) {
			fprintf(stderr, "echo-server: %s\n", error_message(&err));
			return 1;
		}
	}
	fflush(stdout);
	uv_signal_init(loop, &term);
	term.data = server;
	uv_signal_start(&term, on_term, SIGTERM);
	uv_run(loop, UV_RUN_DEFAULT);
	rpc_reflection_free(reflection);
	rpc_health_free(health);
	return uv_loop_close(loop) == 0 ? 0 : 1;
}
