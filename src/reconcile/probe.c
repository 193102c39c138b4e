/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "reconcile/probe.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "manifest/manifest.h"
#include "runtime/process.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>

#define STATUS_LINE_LEN (sizeof "HTTP/1.1 200" - 1)
#define REASON_MAX 256

struct probe {
	struct probe_target target;
	probe_done_fn done;
	void *arg;
	bool over;     /* waits for the loop to let go of it */
	unsigned held; /* handles and a task */

	uv_timer_t deadline;
	int start_failure; /* told by the deadline, which is at once then */

	/* A connection. */
	uv_tcp_t connection;
	uv_connect_t connecting;
	uv_write_t writing;
	struct buf request;
	char reply[STATUS_LINE_LEN];
	size_t reply_len;

	/* A process. */
	struct process *process;
	Capsule__V1__WorkloadExecConfig *config; /* the task may outlive what the target borrows */
	struct driver_process prepared;
	struct error prepare_error;
};

/* ---- the end ---- */

static void let_go(struct probe *p)
{
	if (--p->held > 0)
		return;
	--*p->target.closing;
	buf_release(&p->request);
	driver_process_release(&p->prepared);
	error_release(&p->prepare_error);
	if (p->config)
		capsule__v1__workload_exec_config__free_unpacked(p->config, NULL);
	free(p);
}

static void on_closed(uv_handle_t *handle)
{
	let_go(handle->data);
}

static bool uses_connection(const struct probe *p)
{
	return p->target.check->probe_case != CAPSULE__V1__HEALTH_CHECK__PROBE_EXEC;
}

void probe_cancel(struct probe *p)
{
	if (!p)
		return;
	p->over = true;
	++*p->target.closing;
	process_free(p->process);
	p->process = NULL;
	uv_close((uv_handle_t *)&p->deadline, on_closed);
	if (uses_connection(p))
		uv_close((uv_handle_t *)&p->connection, on_closed);
}

static void finish(struct probe *p, const char *reason)
{
	probe_done_fn done = p->done;
	void *arg = p->arg;

	probe_cancel(p);
	done(reason, arg);
}

static void finish_errno(struct probe *p, const char *what, int uv_error)
{
	char reason[REASON_MAX];

	snprintf(reason, sizeof reason, "%s: %s", what, uv_strerror(uv_error));
	finish(p, reason);
}

static void on_deadline(uv_timer_t *timer)
{
	struct probe *p = timer->data;
	char reason[REASON_MAX];

	if (p->start_failure) {
		finish_errno(p, "cannot connect", p->start_failure);
		return;
	}
	snprintf(reason, sizeof reason, "no answer within %s", p->target.check->timeout);
	finish(p, reason);
}

/* ---- a connection, and a request over it ---- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret)
{
	struct probe *p = handle->data;

	*ret = uv_buf_init(p->reply + p->reply_len, (unsigned)(sizeof p->reply - p->reply_len));
}

/* "HTTP/1.1 200" */
static void judge_reply(struct probe *p)
{
	const char *digits = p->reply + sizeof "HTTP/1.1 " - 1;
	char reason[REASON_MAX];

	if (memcmp(p->reply, "HTTP/1.", 7) != 0 || digits[-1] != ' ' || !isdigit((unsigned char)digits[0]) ||
	    !isdigit((unsigned char)digits[1]) || !isdigit((unsigned char)digits[2])) {
		finish(p, "what answers does not speak HTTP");
	} else if (digits[0] == '2' || digits[0] == '3') {
		finish(p, NULL);
	} else {
		snprintf(reason, sizeof reason, "GET %s was answered with status %.3s", p->target.check->http->path, digits);
		finish(p, reason);
	}
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *data)
{
	struct probe *p = stream->data;

	if (n == UV_EOF) {
		finish(p, "the connection was closed without an answer");
	} else if (n < 0) {
		finish_errno(p, "cannot read the answer", (int)n);
	} else {
		p->reply_len += (size_t)n;
		if (p->reply_len == sizeof p->reply)
			judge_reply(p);
	}
}

static void on_written(uv_write_t *writing, int status)
{
	struct probe *p = writing->data;

	if (!p->over && status < 0)
		finish_errno(p, "cannot send a request", status);
}

static void send_request(struct probe *p)
{
	struct in_addr address = { .s_addr = htonl(p->target.address) };
	const Capsule__V1__HttpProbe *http = p->target.check->http;
	char host[INET_ADDRSTRLEN];
	uv_buf_t data;
	int r;

	inet_ntop(AF_INET, &address, host, sizeof host);
	buf_addf(&p->request,
		 "GET %s HTTP/1.1\r\nHost: %s:%u\r\nUser-Agent: capsuled\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		 http->path, host, http->port);
	data = uv_buf_init((char *)buf_data(&p->request), (unsigned)p->request.len);
	p->writing.data = p;
	r = uv_write(&p->writing, (uv_stream_t *)&p->connection, &data, 1, on_written);
	if (r == 0)
		r = uv_read_start((uv_stream_t *)&p->connection, on_alloc, on_read);
	if (r < 0)
		finish_errno(p, "cannot send a request", r);
}

static void on_connected(uv_connect_t *connecting, int status)
{
	struct probe *p = connecting->data;

	if (p->over)
		return;
	if (status < 0)
		finish_errno(p, "cannot connect", status);
	else if (p->target.check->probe_case == CAPSULE__V1__HEALTH_CHECK__PROBE_HTTP)
		send_request(p);
	else
		finish(p, NULL);
}

static int start_connection(struct probe *p)
{
	const Capsule__V1__HealthCheck *check = p->target.check;
	bool http = check->probe_case == CAPSULE__V1__HEALTH_CHECK__PROBE_HTTP;
	struct sockaddr_in peer = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(p->target.address),
				    .sin_port = htons((uint16_t)(http ? check->http->port : check->tcp->port)) };

	uv_tcp_init(p->target.loop, &p->connection);
	p->connection.data = p;
	p->connecting.data = p;
	p->held++;
	return uv_tcp_connect(&p->connecting, &p->connection, (const struct sockaddr *)&peer, on_connected);
}

/* ---- a process ---- */

static bool on_output(enum process_stream stream, const void *data, size_t len, void *arg)
{
	return true; /* nobody reads it */
}

static void on_drained(void *arg)
{
}

static void on_ended(int exit_code, const char *why, void *arg)
{
	struct probe *p = arg;
	char reason[REASON_MAX];

	if (exit_code == 0) {
		finish(p, NULL);
	} else {
		snprintf(reason, sizeof reason, "%s exited %d%s%s", p->target.check->exec->command[0], exit_code,
			 why ? ": " : "", why ? why : "");
		finish(p, reason);
	}
}

static void on_failed(const struct error *err, void *arg)
{
	finish(arg, error_message(err));
}

static void prepare(void *arg)
{
	struct probe *p = arg;
	const struct driver_exec exec = { .config = p->config, .pid = p->target.pid };

	(void)p->target.driver->ops->exec(p->target.driver, &exec, &p->prepared, &p->prepare_error);
}

static void prepared(void *arg)
{
	struct probe *p = arg;

	if (!p->over) {
		if (p->prepare_error.code == ERR_OK)
			(void)process_start(p->process, &p->prepared, &p->prepare_error);
		if (p->prepare_error.code != ERR_OK)
			finish(p, error_message(&p->prepare_error));
	}
	let_go(p);
}

/* A copy that is freed as a whole; aborts without memory. */
static Capsule__V1__WorkloadExecConfig *config_of(const struct probe_target *target)
{
	Capsule__V1__WorkloadExecConfig config = CAPSULE__V1__WORKLOAD_EXEC_CONFIG__INIT, *copy;
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t len;

	config.name = (char *)(uintptr_t)target->name;
	config.command = target->check->exec->command;
	config.n_command = target->check->exec->n_command;
	len = capsule__v1__workload_exec_config__get_packed_size(&config);
	bytes = malloc(len);
	if (!bytes)
		abort();
	capsule__v1__workload_exec_config__pack(&config, bytes);
	copy = capsule__v1__workload_exec_config__unpack(NULL, len, bytes);
	if (!copy)
		abort();
	return copy;
}

static void start_process(struct probe *p)
{
	const struct process_events events = { on_output, on_drained, on_ended, on_failed, p };

	p->config = config_of(&p->target);
	p->process = process_new(p->target.loop, &events);
	if (!p->process)
		abort();
	process_end_input(p->process);
	p->held++;
	task_start(p->target.tasks, prepare, prepared, p);
}

struct probe *probe_start(const struct probe_target *target, probe_done_fn done, void *arg)
{
	struct probe *p = calloc(1, sizeof *p);

	if (!p)
		abort();
	p->target = *target;
	p->done = done;
	p->arg = arg;
	p->prepared = DRIVER_PROCESS_NONE;
	buf_init(&p->request, MANIFEST_URL_PATH_MAX + REASON_MAX);
	uv_update_time(target->loop);
	uv_timer_init(target->loop, &p->deadline);
	p->deadline.data = p;
	p->held++;
	if (uses_connection(p))
		p->start_failure = start_connection(p);
	else
		start_process(p);
	uv_timer_start(&p->deadline, on_deadline, p->start_failure ? 0 : (uint64_t)target->timeout_ms, 0);
	return p;
}
