/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * WorkloadService.Exec.
 *
 *     EXPECTING ---config---> PREPARING ---driver is done---> RUNNING ---ended---> (finished)
 *
 * Input, sizes and the end of input are taken in every state after EXPECTING; struct process keeps them until there is
 * somebody to give them to. A client that leaves while a task prepares its process is remembered by call == NULL.
 */
#include "service/unary.h"

#include "manifest/manifest.h"
#include "runtime/process.h"

#include <string.h>

enum exec_state { EXEC_EXPECTING, EXEC_PREPARING, EXEC_RUNNING, EXEC_FINISHED };

struct exec {
	struct service_host *host;
	struct rpc_call *call; /* NULL: the client has left */
	enum exec_state state;
	Capsule__V1__WorkloadExecConfig *config;
	struct process *process;
	struct reconciler_hold hold;

	/* The task's. */
	struct driver *driver;
	pid_t pid;
	struct driver_process prepared;
	struct error err;
};

static void exec_free(struct exec *e)
{
	process_free(e->process);
	reconciler_let_go(&e->hold);
	driver_process_release(&e->prepared);
	if (e->config)
		capsule__v1__workload_exec_config__free_unpacked(e->config, NULL);
	error_release(&e->err);
	free(e);
}

/* ---- what the process does ---- */

static void send_output(struct exec *e, enum process_stream stream, const void *data, size_t len)
{
	Capsule__V1__WorkloadExecServerMessage message;
	ProtobufCBinaryData bytes = { .len = len, .data = (uint8_t *)(uintptr_t)data };

	capsule__v1__workload_exec_server_message__init(&message);
	if (stream == PROCESS_STDOUT) {
		message.payload_case = CAPSULE__V1__WORKLOAD_EXEC_SERVER_MESSAGE__PAYLOAD_STDOUT;
		message.stdout = bytes;
	} else {
		message.payload_case = CAPSULE__V1__WORKLOAD_EXEC_SERVER_MESSAGE__PAYLOAD_STDERR;
		message.stderr = bytes;
	}
	(void)rpc_call_send(e->call, &message.base);
}

static bool on_output(enum process_stream stream, const void *data, size_t len, void *arg)
{
	struct exec *e = arg;

	send_output(e, stream, data, len);
	return rpc_call_writable(e->call);
}

static void on_drained(void *arg)
{
	struct exec *e = arg;

	rpc_call_resume(e->call);
}

static void finish(struct exec *e, const struct error *err)
{
	e->state = EXEC_FINISHED;
	process_free(e->process);
	e->process = NULL;
	if (err)
		rpc_call_fail(e->call, err);
	else
		rpc_call_finish(e->call, ERR_OK, NULL);
}

static void on_ended(int exit_code, const char *reason, void *arg)
{
	struct exec *e = arg;
	Capsule__V1__WorkloadExecServerMessage message;
	Capsule__V1__WorkloadExecExit exit = CAPSULE__V1__WORKLOAD_EXEC_EXIT__INIT;
	char text[1280];
	int n;

	if (reason) {
		n = snprintf(text, sizeof text, "capsule: exec: %s%s\n", reason, e->config->tty ? "\r" : "");
		send_output(e, e->config->tty ? PROCESS_STDOUT : PROCESS_STDERR, text, (size_t)n);
	}
	capsule__v1__workload_exec_server_message__init(&message);
	exit.exit_code = exit_code;
	message.payload_case = CAPSULE__V1__WORKLOAD_EXEC_SERVER_MESSAGE__PAYLOAD_EXIT;
	message.exit = &exit;
	(void)rpc_call_send(e->call, &message.base);
	finish(e, NULL);
}

static void fail(struct exec *e, struct error *err)
{
	error_wrap(err, "cannot run %s in workload %s", e->config->command[0], e->config->name);
	finish(e, err);
}

static void on_failed(const struct error *err, void *arg)
{
	_cleanup_error_ struct error copy = ERROR_INIT;

	error_set(&copy, err->code, "%s", error_message(err));
	fail(arg, &copy);
}

/* ---- the start ---- */

static int check_config(const Capsule__V1__WorkloadExecConfig *config, struct error *err)
{
	if (manifest_check_name("workload name", config->name, err) < 0)
		return -1;
	if (!config->n_command || !*config->command[0])
		return error_set(err, ERR_INVALID_ARGUMENT, "the request names no command to run in workload %s",
				 config->name);
	if (*config->working_dir && *config->working_dir != '/')
		return error_set(err, ERR_INVALID_ARGUMENT, "the working directory %s is not an absolute path",
				 config->working_dir);
	for (size_t i = 0; i < config->n_env; i++)
		if (!*config->env[i]->key || strchr(config->env[i]->key, '='))
			return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is no name for an environment variable",
					 config->env[i]->key);
	return 0;
}

static void prepare(void *arg)
{
	struct exec *e = arg;
	const struct driver_exec request = { .config = e->config, .pid = e->pid };

	(void)e->driver->ops->exec(e->driver, &request, &e->prepared, &e->err);
}

static void prepared(void *arg)
{
	struct exec *e = arg;

	if (!e->call) {
		exec_free(e);
		return;
	}
	e->state = EXEC_RUNNING;
	if (e->err.code == ERR_OK)
		(void)process_start(e->process, &e->prepared, &e->err);
	if (e->err.code != ERR_OK)
		fail(e, &e->err);
}

static int begin(struct exec *e, const Capsule__V1__WorkloadExecConfig *config, struct error *err)
{
	const struct process_events events = { on_output, on_drained, on_ended, on_failed, e };

	if (e->state != EXEC_EXPECTING)
		return error_set(err, ERR_INVALID_ARGUMENT, "the config was sent twice; it comes first, once");
	if (check_config(config, err) < 0)
		return -1;
	e->driver = reconciler_running(e->host->reconciler, config->name, &e->pid, err);
	if (!e->driver)
		return -1;
	reconciler_hold(e->host->reconciler, config->name, &e->hold);
	e->config = (Capsule__V1__WorkloadExecConfig *)message_copy(&config->base);
	e->process = process_new(e->host->loop, &events);
	if (!e->process)
		abort();
	if (config->size)
		process_resize(e->process, config->size->cols, config->size->rows);
	e->state = EXEC_PREPARING;
	task_start(e->host->tasks, prepare, prepared, e);
	return 0;
}

/* ---- the call ---- */

static void exec_open(struct rpc_call *call)
{
	struct exec *e = calloc(1, sizeof *e);

	if (!e)
		abort();
	e->call = call;
	e->host = call_host(call);
	e->prepared = DRIVER_PROCESS_NONE;
	rpc_call_set_data(call, e);
}

static int exec_take(struct exec *e, const Capsule__V1__WorkloadExecClientMessage *message, struct error *err)
{
	if (message->payload_case == CAPSULE__V1__WORKLOAD_EXEC_CLIENT_MESSAGE__PAYLOAD_CONFIG)
		return begin(e, message->config, err);
	if (!e->process)
		return error_set(err, ERR_INVALID_ARGUMENT, "the first message must hold the config");
	switch (message->payload_case) {
	case CAPSULE__V1__WORKLOAD_EXEC_CLIENT_MESSAGE__PAYLOAD_STDIN:
		if (!process_write(e->process, message->stdin.data, message->stdin.len))
			rpc_call_pause(e->call);
		return 0;
	case CAPSULE__V1__WORKLOAD_EXEC_CLIENT_MESSAGE__PAYLOAD_RESIZE:
		process_resize(e->process, message->resize->cols, message->resize->rows);
		return 0;
	default:
		return error_set(err, ERR_INVALID_ARGUMENT, "a message holds neither config nor stdin nor resize");
	}
}

static void exec_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct exec *e = rpc_call_data(call);

	if (exec_take(e, (const void *)message, &err) < 0)
		rpc_call_fail(call, &err);
}

static void exec_half_close(struct rpc_call *call)
{
	struct exec *e = rpc_call_data(call);

	if (e->process)
		process_end_input(e->process);
	else
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "the stream ended without a config");
}

static void exec_writable(struct rpc_call *call)
{
	struct exec *e = rpc_call_data(call);

	if (e->process)
		process_resume(e->process);
}

/* Whoever asked for the process has left, or has its end: the process goes too. */
static void exec_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct exec *e = rpc_call_data(call);

	if (!e)
		return;
	if (e->state != EXEC_PREPARING) {
		exec_free(e);
		return;
	}
	e->call = NULL;
}

int workload_exec_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		{ .path = "/capsule.v1.WorkloadService/Exec",
		  .receives = &capsule__v1__workload_exec_client_message__descriptor,
		  .open = exec_open,
		  .message = exec_message,
		  .half_close = exec_half_close,
		  .writable = exec_writable,
		  .close = exec_close },
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
