/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsuled: opens what it owns, takes up what still runs, serves until it is told to stop. */
#include "capsuled/down.h"
#include "capsuled/locks.h"
#include "capsuled/logfile.h"
#include "capsuled/notify.h"
#include "capsuled/options.h"

#include "base/fs.h"
#include "base/timeutil.h"
#include "metrics/metrics.h"
#include "rpc/health.h"
#include "rpc/reflection.h"
#include "service/history.h"
#include "service/service.h"

#include "descriptors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define DRAIN_MS 1000 /* what a call may take to end once the daemon is told to stop */

struct daemon {
	struct options options;
	struct locks locks;
	char *registries_file, *log_file, *dns_dir, *socket;
	uv_loop_t loop;
	struct task_runner *tasks;
	struct store *store;
	struct image_store *images;
	struct volume_backends volumes;
	struct net *net;
	struct driver *container, *micro_vm;
	struct puller *puller;
	struct reconciler *reconciler;
	struct history *history;
	struct rpc_server *server;
	struct rpc_health *health;
	struct rpc_reflection *reflection;
	struct metrics *metrics;
	struct driver_options driver_options;
	struct transfer_options transfer_options;
	struct service_host host;
	uv_signal_t signals[2];
	uv_timer_t drain_timer;
	bool stopping;
};

/* ---- the two roots ---- */

/* Also where it was open before. */
static int make_closed(const char *directory, struct error *err)
{
	if (fs_mkdir_all(AT_FDCWD, directory, 0700, err) < 0)
		return -1;
	return chmod(directory, 0700) < 0 ? error_errno(err, errno, "cannot close %s to others", directory) : 0;
}

/* As fs_sweep_tmp(), in the directories below this one. */
static int sweep_each(const char *directory, struct error *err)
{
	_cleanup_closedir_ DIR *dir = opendir(directory);
	struct dirent *entry;

	if (!dir)
		return error_errno(err, errno, "cannot open %s", directory);
	while ((entry = readdir(dir)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.' && fs_sweep_tmp(dirfd(dir), entry->d_name, err) < 0)
			return error_wrap(err, "cannot sweep %s", directory);
	return 0;
}

static int prepare_roots(struct daemon *d, struct error *err)
{
	_cleanup_free_ char *workloads = fs_path("%s/workloads", d->options.root);
	_cleanup_free_ char *running = fs_path("%s/workloads", d->options.run);
	_cleanup_free_ char *volumes = fs_path("%s/volumes", d->options.root);
	_cleanup_free_ char *registries = options_registries_json(&d->options, err);

	d->registries_file = fs_path("%s/registries.json", d->options.run);
	d->log_file = fs_path("%s/capsuled.log", d->options.root);
	d->dns_dir = fs_path("%s/dns", d->options.run);
	d->socket = fs_path("%s/capsule.sock", d->options.run);
	if (!workloads || !running || !volumes || !registries || !d->registries_file || !d->log_file || !d->dns_dir ||
	    !d->socket)
		return error_errno(err, ENOMEM, "cannot prepare %s", d->options.root);
	/* Others may pass through the root, not look; of what is below it they reach nothing: a set-user-ID program or a device that
	 * a container has made in its layer would be theirs. */
	if (fs_mkdir_all(AT_FDCWD, d->options.root, 0711, err) < 0 || fs_mkdir_all(AT_FDCWD, d->options.run, 0755, err) < 0 ||
	    locks_take(&d->options, &d->locks, err) < 0 || make_closed(workloads, err) < 0 || make_closed(volumes, err) < 0 ||
	    fs_mkdir_all(AT_FDCWD, running, 0711, err) < 0)
		return -1;
	/* What a daemon that was killed was about to rename. */
	if (fs_sweep_tmp(AT_FDCWD, d->options.root, err) < 0 || fs_sweep_tmp(AT_FDCWD, d->options.run, err) < 0 ||
	    fs_sweep_tmp(AT_FDCWD, d->dns_dir, err) < 0 || sweep_each(workloads, err) < 0)
		return -1;
	return fs_write_replace(AT_FDCWD, d->registries_file, registries, strlen(registries), 0600, err);
}

/* ---- the parts ---- */

static int add_backend(struct daemon *d, const char *kind, struct error *err)
{
	_cleanup_free_ char *directory = fs_path("%s/volumes", d->options.root);
	struct volume_backend **next = &d->volumes.items[d->volumes.n];
	int r;

	if (!directory)
		return error_errno(err, ENOMEM, "cannot open %s", d->options.root);
	if (!strcmp(kind, "file"))
		r = volume_file_backend_new(directory, d->options.volume_worker, next, err);
	else
		r = volume_lvm_backend_new(kind + strlen(OPTIONS_LVM), next, err);
	if (r == 0)
		d->volumes.n++;
	return r;
}

/* The file backend is always there; it is the default unless another one is asked for. */
static int open_volumes(struct daemon *d, struct error *err)
{
	if (strcmp(d->options.volumes, "file") != 0 && add_backend(d, d->options.volumes, err) < 0)
		return error_wrap(err, "--volumes %s", d->options.volumes);
	return add_backend(d, "file", err);
}

static int open_parts(struct daemon *d, struct error *err)
{
	const struct options *o = &d->options;
	_cleanup_free_ char *db = fs_path("%s/state.db", o->root);
	struct net_options net = { .bridge = o->bridge, .table = o->table, .run_dir = d->dns_dir, .dnsmasq = o->dnsmasq,
				   .linger = true };

	if (!db)
		return error_errno(err, ENOMEM, "cannot open %s", o->root);
	if (net_parse_subnet(o->subnet, &net.address, &net.prefix, err) < 0)
		return error_wrap(err, "--subnet");
	d->host.subnet.first = (net.address & ~(UINT32_MAX >> net.prefix)) + 1;
	d->host.subnet.last = (net.address | (UINT32_MAX >> net.prefix)) - 1;
	/* The bridge itself has the first or the last address, or one in between that no lease may take. */
	if (d->host.subnet.first == net.address)
		d->host.subnet.first++;
	else if (d->host.subnet.last == net.address)
		d->host.subnet.last--;
	else
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "--subnet: the bridge's address must be the first or the last one of its subnet");
	d->driver_options = (struct driver_options){
		.root = o->root,
		.run = o->run,
		.shim = o->shim,
		.oci_runtime = o->oci_runtime,
		.vm_holder = o->vm_holder,
		.image_worker = o->image_worker,
		.guest_dir = o->guest_dir,
		.guest_kernel = o->guest_kernel,
		.vm_monitor = o->vm_monitor,
		.vm_accel = o->vm_accel,
		.vm_jailer = !strcmp(o->vm_jailer, "auto"),
		.cgroup_parent = o->cgroup_parent,
		.log_max_bytes = o->log_max_size,
		.log_max_files = o->log_max_files,
	};
	d->transfer_options = (struct transfer_options){ o->image_worker, o->root, d->registries_file };
	if (store_open(db, &d->store, err) < 0 ||
	    image_store_open(o->root, &d->images, err) < 0 ||
	    net_new(&net, &d->net, err) < 0 ||
	    container_driver_new(&d->driver_options, &d->container, err) < 0 ||
	    microvm_driver_new(&d->driver_options, &d->micro_vm, err) < 0)
		return -1;
	return 0;
}

/* The leases move to another subnet only once it is known that the bridge can: a start that is refused changes none. */
static int adopt_subnet(struct daemon *d, struct error *err)
{
	bool used;

	if (net_check(d->net, &used, err) < 0)
		return -1;
	return store_adopt_subnet(d->store, &d->host.subnet, used, err);
}

static int start_reconciler(struct daemon *d, struct error *err)
{
	struct reconciler_host host;

	d->tasks = task_runner_new(&d->loop);
	d->puller = puller_new(&d->loop, &d->transfer_options);
	d->history = history_new();
	if (!d->tasks || !d->puller || !d->history)
		return error_errno(err, ENOMEM, "cannot start");
	host = (struct reconciler_host){
		.loop = &d->loop,
		.tasks = d->tasks,
		.store = d->store,
		.images = d->images,
		.puller = d->puller,
		.volumes = &d->volumes,
		.net = d->net,
		.container = d->container,
		.micro_vm = d->micro_vm,
		.driver_options = &d->driver_options,
		.stop_grace_ms = d->options.stop_grace_ns / NSEC_PER_MSEC,
		.happened = history_add,
		.happened_arg = d->history,
	};
	if (reconciler_new(&host, &d->reconciler, err) < 0)
		return -1;
	return reconciler_recover(d->reconciler, err);
}

/* ---- the API ---- */

static int listen_on(struct daemon *d, const char *where, struct error *err)
{
	struct rpc_address address;
	struct group *group;

	if (rpc_address_parse(where, &address, err) < 0)
		return error_wrap(err, "--listen");
	if (address.is_unix) {
		group = getgrnam("capsule");
		return rpc_server_listen_unix(d->server, address.path, 0660, group ? group->gr_gid : (gid_t)-1, err);
	}
	if (!address.loopback)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "--listen %s: without TLS and keys the API is for this host only; use a loopback address "
				 "such as 127.0.0.1:%u, or unix:PATH",
				 where, address.port);
	return rpc_server_listen_tcp(d->server, address.host, address.port, NULL, err);
}

static int serve(struct daemon *d, struct error *err)
{
	static const char *const names[] = { "", "capsule.v1.WorkloadService", "capsule.v1.VolumeService",
					     "capsule.v1.ImageService", "capsule.v1.CapsuleService" };
	_cleanup_free_ char *fallback = fs_path("unix:%s", d->socket);
	const struct option_list *listen = &d->options.listen;

	d->host.loop = &d->loop;
	d->host.tasks = d->tasks;
	d->host.store = d->store;
	d->host.images = d->images;
	d->host.puller = d->puller;
	d->host.transfer = &d->transfer_options;
	d->host.copy_worker = d->options.copy_worker;
	d->host.volumes = &d->volumes;
	d->host.volume_worker = d->options.volume_worker;
	d->host.micro_vm = d->micro_vm;
	d->host.reconciler = d->reconciler;
	d->host.net = d->net;
	d->host.history = d->history;
	d->host.cgroup_parent = d->options.cgroup_parent;
	d->host.root = d->options.root;
	d->host.log_file = d->log_file;
	d->server = rpc_server_new(&d->loop, 0);
	d->health = rpc_health_new();
	if (!fallback || !d->server || !d->health || rpc_health_register(d->health, rpc_server_services(d->server)) < 0)
		return error_errno(err, ENOMEM, "cannot serve");
	if (services_register(d->server, &d->host, err) < 0)
		return -1;
	d->reflection = rpc_reflection_new(rpc_server_services(d->server), proto_descriptors, proto_descriptors_len);
	if (!d->reflection)
		return error_errno(err, ENOMEM, "cannot serve");
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (rpc_health_set(d->health, names[i], true) < 0)
			return error_errno(err, ENOMEM, "cannot serve");
	if (d->options.metrics && metrics_new(d->options.metrics, &d->host, d->server, &d->metrics, err) < 0)
		return error_wrap(err, "--metrics");
	if (listen->n == 0)
		return listen_on(d, fallback, err);
	for (size_t i = 0; i < listen->n; i++)
		if (listen_on(d, listen->items[i], err) < 0)
			return -1;
	return 0;
}

/* ---- the end ---- */

static void on_server_closed(void *arg)
{
	struct daemon *d = arg;

	d->server = NULL;
	uv_stop(&d->loop);
}

static void close_server(struct daemon *d)
{
	uv_timer_stop(&d->drain_timer);
	if (d->server)
		rpc_server_close(d->server, on_server_closed, d);
}

static void on_drain_timer(uv_timer_t *timer)
{
	close_server(timer->data);
}

static void on_drained(void *arg)
{
	close_server(arg);
}

static void on_signal(uv_signal_t *handle, int signum)
{
	struct daemon *d = handle->data;

	if (d->stopping)
		return;
	d->stopping = true;
	log_info("%s: stopping; workloads go on", signum == SIGINT ? "SIGINT" : "SIGTERM");
	notify_manager("STOPPING=1");
	reconciler_halt(d->reconciler);
	rpc_health_shutdown(d->health);
	metrics_close(d->metrics);
	uv_timer_start(&d->drain_timer, on_drain_timer, DRAIN_MS, 0);
	rpc_server_drain(d->server, on_drained, d);
}

static void watch_signals(struct daemon *d)
{
	static const int numbers[] = { SIGTERM, SIGINT };

	for (size_t i = 0; i < 2; i++) {
		uv_signal_init(&d->loop, &d->signals[i]);
		d->signals[i].data = d;
		uv_signal_start(&d->signals[i], on_signal, numbers[i]);
		uv_unref((uv_handle_t *)&d->signals[i]);
	}
	uv_timer_init(&d->loop, &d->drain_timer);
	d->drain_timer.data = d;
}

/* Every part may be missing: this is the way out of a failed start, too. */
static void release(struct daemon *d)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	metrics_close(d->metrics);
	while (d->tasks && task_runner_active(d->tasks))
		uv_run(&d->loop, UV_RUN_ONCE);
	reconciler_free(d->reconciler); /* it has tickets of the puller's */
	puller_free(d->puller);
	history_free(d->history);
	metrics_free(d->metrics);
	services_free(d->host.services);
	rpc_reflection_free(d->reflection);
	rpc_health_free(d->health);
	task_runner_free(d->tasks);
	for (size_t i = 0; i < 2; i++)
		if (d->signals[i].data)
			uv_close((uv_handle_t *)&d->signals[i], NULL);
	if (d->drain_timer.data)
		uv_close((uv_handle_t *)&d->drain_timer, NULL);
	uv_run(&d->loop, UV_RUN_DEFAULT);
	uv_loop_close(&d->loop);
	if (d->container)
		d->container->ops->free(d->container);
	if (d->micro_vm)
		d->micro_vm->ops->free(d->micro_vm);
	/* An empty bridge does not outlive the daemon; one with workloads does. */
	if (d->reconciler && net_sweep(d->net, &err) < 0)
		log_warn("network: %s", error_message(&err));
	net_free(d->net);
	volume_backends_free(&d->volumes);
	image_store_free(d->images);
	store_close(d->store);
	logfile_close();
	locks_release(&d->locks);
	free(d->registries_file);
	free(d->log_file);
	free(d->dns_dir);
	free(d->socket);
	options_release(&d->options);
}

/* ---- main ---- */

static void set_up_process(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	struct rlimit files;

	sigaction(SIGPIPE, &ignore, NULL);
	umask(022);
	/* Each task has a thread of its own; an arena for each would keep memory that is never used again. */
	mallopt(M_ARENA_MAX, 2);
	mallopt(M_TRIM_THRESHOLD, 256 << 10);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &files);
	}
}

static int take_over(struct daemon *d, struct error *err)
{
	if (geteuid() != 0)
		return error_set(err, ERR_PERMISSION_DENIED, "capsuled manages this host and must run as root");
	if (prepare_roots(d, err) < 0 ||
	    logfile_open(d->log_file, d->options.log_max_size, d->options.log_max_files, err) < 0)
		return -1;
	log_info("capsuled %s on %s", CAPSULE_VERSION, d->options.root);
	return open_parts(d, err);
}

/* Without volumes: a machine that goes down may have lost its pool by now. */
static int take_down(struct daemon *d, struct error *err)
{
	struct down_host host = { .loop = &d->loop, .driver_options = &d->driver_options };

	if (take_over(d, err) < 0)
		return -1;
	host.store = d->store;
	host.net = d->net;
	host.container = d->container;
	host.micro_vm = d->micro_vm;
	host.stop_grace_ms = d->options.stop_grace_ns / NSEC_PER_MSEC;
	return down(&host, err);
}

static int start(struct daemon *d, struct error *err)
{
	watch_signals(d);
	if (take_over(d, err) < 0 || down_note_parent(&d->driver_options, err) < 0 || open_volumes(d, err) < 0 ||
	    adopt_subnet(d, err) < 0 || start_reconciler(d, err) < 0 || serve(d, err) < 0)
		return -1;
	log_info("ready");
	notify_manager("READY=1");
	return 0;
}

int main(int argc, char **argv)
{
	static struct daemon d = { .locks = LOCKS_NONE };
	_cleanup_error_ struct error err = ERROR_INIT;
	int result;

	set_up_process();
	if (options_parse(argc, argv, &d.options, &err) < 0) {
		fprintf(stderr, "capsuled: %s\n", error_message(&err));
		return 2;
	}
	if (d.options.help || d.options.version) {
		if (d.options.help)
			options_print_help();
		else
			printf("capsuled %s\n", CAPSULE_VERSION);
		options_release(&d.options);
		return fflush(stdout) == 0 ? 0 : 1;
	}
	log_set_level(d.options.log_level);
	uv_loop_init(&d.loop);
	if (d.options.down) {
		result = take_down(&d, &err);
		if (result < 0)
			log_error("not everything is down: %s", error_message(&err));
		release(&d);
		return result < 0 ? 1 : 0;
	}
	if (start(&d, &err) < 0) {
		log_error("cannot start: %s", error_message(&err));
		if (d.reconciler)
			reconciler_halt(d.reconciler);
		if (d.server)
			rpc_server_close(d.server, NULL, NULL);
		release(&d);
		return 1;
	}
	uv_run(&d.loop, UV_RUN_DEFAULT);
	release(&d);
	return 0;
}
