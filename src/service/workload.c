/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* WorkloadService: the calls that answer once. */
#include "service/unary.h"

#include "base/fs.h"
#include "image/reference.h"
#include "manifest/manifest.h"
#include "reconcile/spec.h"
#include "volume/loop.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define NAME "workload name"
#define DESIRED(s) CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_##s

static int not_found(const char *name, struct error *err)
{
	return error_set(err, ERR_NOT_FOUND, "there is no workload %s", name);
}

/* ---- Apply ---- */

static int check_host_ports(struct unary *u, const Capsule__V1__Workload *w)
{
	Capsule__V1__PortMapping **ports;
	size_t n = spec_ports(w, &ports);

	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *workload = NULL, *process = NULL;
		bool udp = spec_port_is_udp(ports[i]);
		uint16_t port = (uint16_t)ports[i]->host_port;

		/* A port that a workload holds is redirected before it could reach a listener; the store judges those. */
		if (store_port_holder(u->host->store, udp ? "udp" : "tcp", port, &workload, &u->err) < 0)
			return -1;
		if (workload)
			continue;
		if (net_host_port_holder(udp, port, &process, &u->err) < 0)
			return -1;
		if (process)
			return error_set(&u->err, ERR_FAILED_PRECONDITION,
					 "host port %u/%s is in use by %s; stop it or choose another hostPort", port,
					 udp ? "udp" : "tcp", process);
	}
	return 0;
}

static int check_image(const Capsule__V1__Workload *w, struct error *err)
{
	_cleanup_reference_ struct reference reference = { 0 };

	if (!spec_is_container(w) && (!w->micro_vm->image || !*w->micro_vm->image))
		return 0; /* its own kernel and root file system */
	if (reference_parse(spec_image(w), &reference, err) < 0)
		return error_wrap(err, "%s.image", spec_is_container(w) ? "container" : "microVm");
	return 0;
}

static int check_host_file(const char *path, const char *field, struct error *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return error_set(err, ERR_FAILED_PRECONDITION, "microVm.%s: %s: %s; the path is one of the daemon's host",
				 field, path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return error_set(err, ERR_FAILED_PRECONDITION, "microVm.%s: %s is neither a file nor a block device", field,
				 path);
	return 0;
}

/* Volumes have a way of their own into a machine. And a file under a loop device is its user's; whoever has it otherwise holds
 * it locked (vm/monitor.c). */
static int check_rootfs(const char *root, const char *path, struct error *err)
{
	_cleanup_free_ char *real_root = realpath(root, NULL), *real = realpath(path, NULL), *volumes = NULL;
	_cleanup_loop_ struct loop loop = LOOP_INIT;

	volumes = real_root ? fs_path("%s/volumes/", real_root) : NULL;
	if (!volumes || !real)
		return error_errno(err, errno, "microVm.rootfsPath: %s", path);
	if (!strncmp(real, volumes, strlen(volumes)))
		return error_set(err, ERR_FAILED_PRECONDITION, "microVm.rootfsPath: %s is a volume; mount it with mounts", path);
	if (loop_find(real, &loop, err) < 0)
		return error_wrap(err, "microVm.rootfsPath");
	return loop.fd < 0 ? 0 : error_set(err, ERR_FAILED_PRECONDITION, "microVm.rootfsPath: %s is in use as %s", path, loop.device);
}

/* What the host must have for a microVM. */
static int check_machine(const char *root, const Capsule__V1__MicroVMSpec *v, struct error *err)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct sysinfo host;

	if (cpus > 0 && v->vcpus > (unsigned long)cpus)
		return error_set(err, ERR_FAILED_PRECONDITION, "microVm.vcpus: %u are asked for; this host has %ld", v->vcpus,
				 cpus);
	if (sysinfo(&host) == 0 && v->memory_mib > (uint64_t)host.totalram * host.mem_unit >> 20)
		return error_set(err, ERR_FAILED_PRECONDITION, "microVm.memoryMib: %u MiB are asked for; this host has %llu",
				 v->memory_mib, (unsigned long long)((uint64_t)host.totalram * host.mem_unit >> 20));
	if (v->backend == CAPSULE__V1__MICRO_VMBACKEND__MICRO_VM_BACKEND_SMOLVM)
		return error_set(err, ERR_UNIMPLEMENTED, "microVm.backend: SMOLVM is not supported; use QEMU or FIRECRACKER, or "
				 "leave the choice to the daemon");
	if (!*v->kernel_path)
		return 0;
	if (check_host_file(v->kernel_path, "kernelPath", err) < 0 || check_host_file(v->rootfs_path, "rootfsPath", err) < 0)
		return -1;
	return check_rootfs(root, v->rootfs_path, err);
}

/* Those of one request; workloads are the request's. */
struct applied {
	size_t n;
	Capsule__V1__Workload **workloads;
	struct store_workload *records, *before;
	Capsule__V1__WorkloadApplyResponse *replies; /* what they point to is owned */
};

static struct applied *applied_new(const Capsule__V1__WorkloadApplyRequest *request)
{
	size_t n = request->n_others + 1;
	struct applied *a = calloc(1, sizeof *a);

	if (!a || !(a->workloads = calloc(n, sizeof(*a->workloads))) || !(a->records = calloc(n, sizeof(*a->records))) ||
	    !(a->before = calloc(n, sizeof(*a->before))) || !(a->replies = calloc(n, sizeof(*a->replies))))
		abort();
	a->n = n;
	a->workloads[0] = request->workload;
	for (size_t i = 1; i < n; i++)
		a->workloads[i] = request->others[i - 1];
	for (size_t i = 0; i < n; i++)
		capsule__v1__workload_apply_response__init(&a->replies[i]);
	return a;
}

static void applied_free(struct applied *a)
{
	for (size_t i = 0; i < a->n; i++) {
		store_workload_release(&a->records[i]);
		store_workload_release(&a->before[i]);
		manifest_changes_free(a->replies[i].changes, a->replies[i].n_changes);
		if (a->replies[i].workload)
			protobuf_c_message_free_unpacked(&a->replies[i].workload->base, NULL);
	}
	free(a->workloads);
	free(a->records);
	free(a->before);
	free(a->replies);
	free(a);
}

static int check_host(struct unary *u, const Capsule__V1__Workload *workload)
{
	if (check_image(workload, &u->err) < 0 || check_host_ports(u, workload) < 0)
		return -1;
	return workload->micro_vm ? check_machine(u->host->root, workload->micro_vm, &u->err) : 0;
}

static void apply_work(struct unary *u)
{
	const Capsule__V1__WorkloadApplyRequest *request = (const void *)u->request;
	struct applied *a = u->state = applied_new(request);

	for (size_t i = 0; i < a->n; i++)
		if (check_host(u, a->workloads[i]) < 0) {
			if (a->n > 1)
				error_wrap(&u->err, "workload %s", a->workloads[i]->name);
			return;
		}
	(void)store_apply(u->host->store, a->workloads, a->n, &u->host->subnet, request->dry_run, a->records, a->before, &u->err);
}

/* Also what could not be compared was stored. */
static void submit(struct unary *u, struct applied *a, size_t i, bool dry_run)
{
	Capsule__V1__WorkloadApplyResponse *reply = &a->replies[i];

	reply->created = !a->before[i].spec;
	if (manifest_diff(a->before[i].spec, a->records[i].spec, &reply->changes, &reply->n_changes) < 0)
		error_set(&u->err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	if (dry_run) {
		reply->workload = (Capsule__V1__Workload *)message_copy(&a->records[i].spec->base);
		return;
	}
	reconciler_submit(u->host->reconciler, &a->records[i]);
	reply->workload = reconciler_get(u->host->reconciler, a->workloads[i]->name);
}

static void apply_done(struct unary *u)
{
	const Capsule__V1__WorkloadApplyRequest *request = (const void *)u->request;
	struct applied *a = u->state;
	Capsule__V1__WorkloadApplyResponse **others = calloc(a->n, sizeof *others);
	bool stored = u->err.code == ERR_OK;

	if (!others)
		abort();
	for (size_t i = 0; stored && i < a->n; i++)
		submit(u, a, i, request->dry_run);
	for (size_t i = 1; i < a->n; i++)
		others[i - 1] = &a->replies[i];
	a->replies[0].others = others;
	a->replies[0].n_others = a->n - 1;
	if (u->err.code == ERR_OK)
		unary_reply(u, &a->replies[0].base);
	else
		unary_fail(u);
	free(others);
	applied_free(a);
}

static int check_request(const Capsule__V1__WorkloadApplyRequest *request, struct manifest_mistakes *ret, struct error *err)
{
	size_t n = request->n_others;

	if (!request->workload)
		return error_set(err, ERR_INVALID_ARGUMENT, "the request holds no workload");
	if (n >= MANIFEST_DOCUMENTS_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the request holds more than %d workloads", MANIFEST_DOCUMENTS_MAX);
	for (size_t i = 0; i <= n; i++) {
		Capsule__V1__Workload *w = i < n ? request->others[i] : request->workload;

		manifest_normalize_workload(w);
		if (manifest_check_workload(w, ret) < 0) {
			manifest_mistakes_error(ret, err);
			return n ? error_wrap(err, "workload %s", w->name) : -1;
		}
		for (size_t j = 0; j < i; j++)
			if (!strcmp(w->name, request->others[j]->name))
				return error_set(err, ERR_INVALID_ARGUMENT, "workload %s is given twice", w->name);
	}
	return 0;
}

static void apply_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	Capsule__V1__WorkloadApplyRequest *request = (Capsule__V1__WorkloadApplyRequest *)message_copy(message);
	struct manifest_mistakes mistakes = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;

	if (check_request(request, &mistakes, &err) < 0)
		rpc_call_fail(call, &err);
	else
		unary_start(call, &request->base, apply_work, apply_done);
	manifest_mistakes_release(&mistakes);
	protobuf_c_message_free_unpacked(&request->base, NULL);
}

/* ---- Get, List ---- */

static void get_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__WorkloadGetRequest *request = (const void *)message;
	_cleanup_error_ struct error err = ERROR_INIT;
	Capsule__V1__Workload *w;

	if (!call_name_valid(call, NAME, request->name))
		return;
	w = reconciler_get(call_host(call)->reconciler, request->name);
	if (!w) {
		not_found(request->name, &err);
		rpc_call_fail(call, &err);
		return;
	}
	rpc_reply(call, &w->base);
	protobuf_c_message_free_unpacked(&w->base, NULL);
}

static void list_one(const Capsule__V1__Workload *workload, void *arg)
{
	Capsule__V1__WorkloadListResponse *reply = arg;

	reply->workloads[reply->n_workloads++] = (Capsule__V1__Workload *)message_copy(&workload->base);
}

static void list_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct reconciler *r = call_host(call)->reconciler;
	Capsule__V1__WorkloadListResponse reply = CAPSULE__V1__WORKLOAD_LIST_RESPONSE__INIT;

	reply.workloads = calloc(reconciler_count(r) + 1, sizeof *reply.workloads);
	if (!reply.workloads)
		abort();
	reconciler_each(r, list_one, &reply);
	rpc_reply(call, &reply.base);
	for (size_t i = 0; i < reply.n_workloads; i++)
		protobuf_c_message_free_unpacked(&reply.workloads[i]->base, NULL);
	free(reply.workloads);
}

/* ---- Delete, Stop, Start: a new desired state ---- */

/* All three requests have the name as their only field. */
static const char *desired_name(const ProtobufCMessage *request)
{
	return ((const Capsule__V1__WorkloadStopRequest *)(const void *)request)->name;
}

static void desired_start(struct rpc_call *call, const ProtobufCMessage *request, unary_fn work, unary_fn done)
{
	if (call_name_valid(call, NAME, desired_name(request)))
		unary_start(call, request, work, done);
}

static void desired_work(struct unary *u, Capsule__V1__DesiredState state)
{	(void)store_set_desired(u->host->store, desired_name(u->request), state, &u->record, &u->err);
}

static void desired_done(struct unary *u, const ProtobufCMessage *reply)
{
	if (u->err.code != ERR_OK) {
		unary_fail(u);
		return;
	}
	reconciler_submit(u->host->reconciler, &u->record);
	unary_reply(u, reply);
}

static void delete_work(struct unary *u)
{
	desired_work(u, DESIRED(DELETING));
}

static void delete_done(struct unary *u)
{
	Capsule__V1__WorkloadDeleteResponse reply = CAPSULE__V1__WORKLOAD_DELETE_RESPONSE__INIT;

	desired_done(u, &reply.base);
}

static void delete_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	desired_start(call, message, delete_work, delete_done);
}

static void stop_work(struct unary *u)
{
	desired_work(u, DESIRED(STOPPED));
}

static void stop_done(struct unary *u)
{
	Capsule__V1__WorkloadStopResponse reply = CAPSULE__V1__WORKLOAD_STOP_RESPONSE__INIT;

	desired_done(u, &reply.base);
}

static void stop_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	desired_start(call, message, stop_work, stop_done);
}

static void start_work(struct unary *u)
{
	desired_work(u, DESIRED(RUNNING));
}

static void start_done(struct unary *u)
{
	Capsule__V1__WorkloadStartResponse reply = CAPSULE__V1__WORKLOAD_START_RESPONSE__INIT;

	desired_done(u, &reply.base);
	if (u->err.code == ERR_OK)
		reconciler_start(u->host->reconciler, desired_name(u->request));
}

static void start_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	desired_start(call, message, start_work, start_done);
}

static void restart_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__WorkloadRestartRequest *request = (const void *)message;
	Capsule__V1__WorkloadRestartResponse reply = CAPSULE__V1__WORKLOAD_RESTART_RESPONSE__INIT;
	_cleanup_error_ struct error err = ERROR_INIT;

	if (!call_name_valid(call, NAME, request->name))
		return;
	if (reconciler_restart(call_host(call)->reconciler, request->name, &err) < 0)
		rpc_call_fail(call, &err);
	else
		rpc_reply(call, &reply.base);
}

#define METHOD(verb, handler, request)                                                                                \
	{                                                                                                             \
		.path = "/capsule.v1.WorkloadService/" #verb, .receives = &capsule__v1__##request##__descriptor,      \
		.receives_one = true, .message = handler, .close = unary_on_close                                     \
	}

int workload_service_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		METHOD(Apply, apply_message, workload_apply_request),
		METHOD(Get, get_message, workload_get_request),
		METHOD(List, list_message, workload_list_request),
		METHOD(Delete, delete_message, workload_delete_request),
		METHOD(Stop, stop_message, workload_stop_request),
		METHOD(Start, start_message, workload_start_request),
		METHOD(Restart, restart_message, workload_restart_request),
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
