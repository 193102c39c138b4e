/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/guest.h"

#include "base/fs.h"
#include "base/timeutil.h"
#include "guest/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>

#define SERVICE "/capsule.guest.v1.GuestService/"
#define STOP_TIMEOUT_MS 60000
#define DEVICE_MAX sizeof "/dev/vdxx"
#define BUNDLE_FILES 4

struct guest {
	struct rpc_client *client;
	struct guest_events events;
	struct rpc_call *run; /* NULL: not begun, or ended */
	bool started, ending, exited, freed;
};

static void on_closed(void *arg)
{
	free(arg);
}

void guest_free(struct guest *g)
{
	if (!g)
		return;
	g->freed = true;
	rpc_client_close(g->client, on_closed, g);
}

struct rpc_client *guest_client(struct guest *g)
{
	return g->client;
}

bool guest_runs(const struct guest *g)
{
	return g->run;
}

/* ---- Hello ---- */

static void on_hello(const ProtobufCMessage *reply, const struct error *err, void *arg)
{
	const Capsule__Guest__V1__HelloResponse *hello = (const void *)reply;
	_cleanup_error_ struct error wrong = ERROR_INIT;
	struct guest *g = arg;

	if (g->freed)
		return;
	if (hello && (hello->protocol == 0 || hello->protocol > GUEST_PROTOCOL_VERSION)) {
		error_set(&wrong, ERR_FAILED_PRECONDITION, "the guest speaks protocol %u, which this version does not",
			  hello->protocol);
		err = &wrong;
	}
	g->events.hello(err, g->events.arg);
}

static int say_hello(struct guest *g, int64_t timeout_ms, struct error *err)
{
	Capsule__Guest__V1__HelloRequest request = CAPSULE__GUEST__V1__HELLO_REQUEST__INIT;
	uint8_t entropy[64];

	if (getrandom(entropy, sizeof entropy, 0) != sizeof entropy)
		return error_errno(err, errno, "cannot get random bytes for the guest");
	request.protocol = GUEST_PROTOCOL_VERSION;
	request.host_version = (char *)CAPSULE_VERSION;
	request.realtime_ns = time_realtime_ns();
	request.entropy.data = entropy;
	request.entropy.len = sizeof entropy;
	if (!rpc_client_unary(g->client, SERVICE "Hello", &request.base, &capsule__guest__v1__hello_response__descriptor,
			      timeout_ms, on_hello, g))
		return error_errno(err, ENOMEM, "cannot speak to the guest");
	return 0;
}

struct guest *guest_new(uv_loop_t *loop, int fd, int64_t hello_timeout_ms, const struct guest_events *events,
			struct error *err)
{
	struct guest *g = calloc(1, sizeof *g);

	if (!g) {
		close(fd);
		error_errno(err, ENOMEM, "cannot speak to the guest");
		return NULL;
	}
	g->events = *events;
	g->client = rpc_client_adopt(loop, fd, "the guest", err);
	if (!g->client) {
		free(g);
		return NULL;
	}
	if (say_hello(g, hello_timeout_ms, err) < 0) {
		guest_free(g);
		return NULL;
	}
	return g;
}

/* ---- Run ---- */

static void log_output(struct guest *g, enum log_stream stream, const ProtobufCBinaryData *bytes)
{
	const char *data = (const char *)bytes->data;

	for (size_t at = 0, n; at < bytes->len; at += n) {
		n = bytes->len - at < LOG_WRITER_READ_MAX ? bytes->len - at : LOG_WRITER_READ_MAX;
		g->events.output(stream, data + at, n, g->events.arg);
	}
}

static void on_run_event(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__Guest__V1__RunEvent *event = (const void *)message;
	struct guest *g = rpc_call_data(call);

	if (g->freed)
		return;
	switch (event->event_case) {
	case CAPSULE__GUEST__V1__RUN_EVENT__EVENT_STARTED:
		if (!g->started)
			g->events.started(g->events.arg);
		g->started = true;
		break;
	case CAPSULE__GUEST__V1__RUN_EVENT__EVENT_STDOUT:
		log_output(g, LOG_STDOUT, &event->stdout);
		break;
	case CAPSULE__GUEST__V1__RUN_EVENT__EVENT_STDERR:
		log_output(g, LOG_STDERR, &event->stderr);
		break;
	case CAPSULE__GUEST__V1__RUN_EVENT__EVENT_ENDING:
		if (g->started && !g->ending)
			g->events.ending(g->events.arg);
		g->ending = true;
		break;
	case CAPSULE__GUEST__V1__RUN_EVENT__EVENT_EXITED:
		if (g->started && !g->exited)
			g->events.exited(event->exited, g->events.arg);
		g->exited = true;
		break;
	case CAPSULE__GUEST__V1__RUN_EVENT__EVENT_VOLUME_FAILED:
		g->events.volume_failed(event->volume_failed->volume, g->events.arg);
		break;
	default: /* of a newer guest */
		break;
	}
}

static void on_run_closed(struct rpc_call *call, enum error_code code, const char *message)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct guest *g = rpc_call_data(call);

	g->run = NULL;
	if (g->freed)
		return;
	if (code != ERR_OK)
		error_set(&err, code, "%s", *message ? message : error_code_name(code));
	g->events.run_ended(code == ERR_OK ? NULL : &err, g->events.arg);
}

/* What Run is told, with the memory that it points to. */
struct run_request {
	Capsule__Guest__V1__RunRequest message;
	Capsule__Guest__V1__Disk disks[VM_DISKS_MAX];
	char devices[VM_DISKS_MAX][DEVICE_MAX];
	Capsule__Guest__V1__Volume volumes[SHIM_VOLUMES_MAX], *volume_list[SHIM_VOLUMES_MAX];
	Capsule__Guest__V1__Link link;
	Capsule__Guest__V1__File files[BUNDLE_FILES], *file_list[BUNDLE_FILES];
};

static void run_request_release(struct run_request *r)
{
	for (size_t i = 0; i < r->message.n_files; i++)
		free(r->files[i].content.data);
}

/* As the kernel names them: vda to vdz, vdaa, ... */
static void name_device(size_t number, char out[DEVICE_MAX])
{
	if (number < 26)
		snprintf(out, DEVICE_MAX, "/dev/vd%c", 'a' + (int)number);
	else
		snprintf(out, DEVICE_MAX, "/dev/vd%c%c", 'a' + (int)(number / 26) - 1, 'a' + (int)(number % 26));
}

static int add_file(struct run_request *r, int dirfd, const char *name, bool required, struct error *err)
{
	Capsule__Guest__V1__File *f = &r->files[r->message.n_files];
	_cleanup_error_ struct error why = ERROR_INIT;
	char *text;

	capsule__guest__v1__file__init(f);
	if (fs_read(dirfd, name, GUEST_BUNDLE_FILE_MAX, &text, &f->content.len, &why) < 0)
		return why.code == ERR_NOT_FOUND && !required ? 0 : error_move(err, &why);
	f->name = (char *)(uintptr_t)name;
	f->content.data = (uint8_t *)text;
	r->file_list[r->message.n_files++] = f;
	return 0;
}

static int add_bundle(struct run_request *r, const char *run_dir, struct error *err)
{
	static const char *const names[BUNDLE_FILES] = { "config.json", "hosts", "hostname", "resolv.conf" };
	_cleanup_close_ int dirfd = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dirfd < 0)
		return error_errno(err, errno, "cannot open %s", run_dir);
	r->message.files = r->file_list;
	for (size_t i = 0; i < BUNDLE_FILES; i++)
		if (add_file(r, dirfd, names[i], i == 0, err) < 0)
			return error_wrap(err, "cannot read the bundle");
	return 0;
}

static void add_disks(struct run_request *r, const struct vm_options *o)
{
	for (size_t i = 0; i < o->n_disks; i++) {
		capsule__guest__v1__disk__init(&r->disks[i]);
		name_device(i, r->devices[i]);
		r->disks[i].serial = (char *)(uintptr_t)o->disks[i].serial;
		r->disks[i].device = r->devices[i];
	}
	r->message.payload = &r->disks[0];
	r->message.disk = &r->disks[1];
	for (size_t i = 0; i < o->n_volumes; i++) {
		capsule__guest__v1__volume__init(&r->volumes[i]);
		r->volumes[i].name = (char *)(uintptr_t)o->volumes[i].name;
		r->volumes[i].disk = &r->disks[2 + i];
		r->volumes[i].read_only = o->volumes[i].read_only;
		r->volume_list[i] = &r->volumes[i];
	}
	r->message.volumes = r->volume_list;
	r->message.n_volumes = o->n_volumes;
}

int guest_run(struct guest *g, const struct vm_options *o, struct error *err)
{
	static const struct rpc_method method = {
		.path = SERVICE "Run", .receives = &capsule__guest__v1__run_event__descriptor, .message = on_run_event,
		.close = on_run_closed,
	};
	_cleanup_(run_request_release) struct run_request r = { 0 };

	capsule__guest__v1__run_request__init(&r.message);
	capsule__guest__v1__link__init(&r.link);
	r.message.name = (char *)(uintptr_t)o->name;
	r.message.link = &r.link;
	if (o->address) {
		r.link.address = o->address;
		r.link.prefix = o->prefix;
		r.link.gateway = (char *)(uintptr_t)o->gateway;
	}
	add_disks(&r, o);
	if (add_bundle(&r, o->run_dir, err) < 0)
		return -1;
	g->run = rpc_client_call(g->client, &method, 0, g);
	if (!g->run)
		return error_errno(err, ENOMEM, "cannot speak to the guest");
	/* A connection that is gone tells in run_ended. */
	if (rpc_call_send(g->run, &r.message.base) == 0)
		rpc_call_half_close(g->run);
	return 0;
}

/* ---- Stop ---- */

static void on_stopped(const ProtobufCMessage *reply, const struct error *err, void *arg)
{
}

void guest_stop(struct guest *g, int sig, int64_t grace_ms)
{
	Capsule__Guest__V1__StopRequest request = CAPSULE__GUEST__V1__STOP_REQUEST__INIT;

	request.signal = sig;
	request.grace_ms = grace_ms;
	(void)rpc_client_unary(g->client, SERVICE "Stop", &request.base, &capsule__guest__v1__stop_response__descriptor,
			       STOP_TIMEOUT_MS, on_stopped, NULL);
}
