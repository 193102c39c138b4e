/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Real containers through the driver: shim, overlay, OCI runtime, cgroups. Needs root, crun and busybox-static. */
#include "container_fixture.h"
#include "runner.h"

#include "base/fs.h"
#include "base/process.h"
#include "base/timeutil.h"
#include "shim/cgroup.h"
#include "shim/protocol.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>

static struct fixture f;

static void setup(void)
{
	fixture_init(&f, "auto");
}

static void teardown(void)
{
	fixture_release(&f);
}

/* Runs a workload to its end. */
static struct shim_result run(Capsule__V1__Workload *w, char **ret_output)
{
	struct error err = ERROR_INIT;
	struct driver_instance i;
	struct shim_result r;

	ck_assert_msg(fixture_start(&f, w, &i, &err) == 0, "%s", error_message(&err));
	ck_assert_int_gt(i.pid, 1);
	ck_assert_uint_eq(i.generation, 7);
	fixture_wait(&i, &r);
	if (ret_output)
		*ret_output = fixture_output(&f, w->name);
	fixture_workload_free(w);
	return r;
}

static struct driver_instance start(Capsule__V1__Workload *w)
{
	struct error err = ERROR_INIT;
	struct driver_instance i;

	ck_assert_msg(fixture_start(&f, w, &i, &err) == 0, "%s", error_message(&err));
	fixture_workload_free(w);
	return i;
}

static char *read_text(const char *path)
{
	struct error err = ERROR_INIT;
	char *text;

	ck_assert_msg(fs_read(AT_FDCWD, path, 1 << 20, &text, NULL, &err) == 0, "%s", error_message(&err));
	return text;
}

static void assert_in(const char *text, const char *what)
{
	ck_assert_msg(strstr(text, what) != NULL, "\"%s\" is not in:\n%s", what, text);
}

static void assert_not_in(const char *text, const char *what)
{
	ck_assert_msg(strstr(text, what) == NULL, "\"%s\" is in:\n%s", what, text);
}

/* A dead process stays in the list until its parent, here the machine's first process, has looked. */
static void assert_dead(pid_t pid)
{
	char path[64], state = 'X';
	char *text;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (fs_read(AT_FDCWD, path, 4096, &text, NULL, NULL) == 0) {
		sscanf(strrchr(text, ')'), ") %c", &state);
		free(text);
	}
	ck_assert_msg(state == 'X' || state == 'Z', "process %d is in state %c", (int)pid, state);
}

/* Waits until the container has made a file in its writable layer. */
static void await_file(const char *workload, const char *name)
{
	char dir[256], path[300], event[4096];
	struct pollfd p = { .fd = inotify_init1(IN_CLOEXEC), .events = POLLIN };

	snprintf(dir, sizeof dir, "%s/workloads/%s/upper", f.root, workload);
	snprintf(path, sizeof path, "%s/%s", dir, name);
	ck_assert_int_ge(inotify_add_watch(p.fd, dir, IN_CREATE), 0);
	while (access(path, F_OK) < 0) {
		ck_assert_msg(poll(&p, 1, 20000) == 1, "%s does not appear", path);
		ck_assert_int_gt(read(p.fd, event, sizeof event), 0);
	}
	close(p.fd);
}

static pid_t shim_pid(const char *name)
{
	char path[256];
	char *text;
	int pid;

	snprintf(path, sizeof path, "%s/workloads/%s/" SHIM_PID_FILE, f.run, name);
	text = read_text(path);
	ck_assert_int_eq(sscanf(text, "%d", &pid), 1);
	free(text);
	return pid;
}

START_TEST(runs_with_its_environment)
{
	Capsule__V1__Workload *w =
		fixture_workload("web", "id; hostname; env; pwd; cat /etc/hosts /etc/resolv.conf /etc/hostname; echo oops >&2; exit 3");
	struct shim_result r;
	char *out;

	f.image.config.user = (char *)"web";
	f.image.config.working_dir = (char *)"/srv/app";
	r = run(w, &out);
	ck_assert_int_eq(r.exit_code, 3);
	ck_assert(!r.stopped && !r.oom_killed);
	ck_assert(r.finished_at_ns >= r.started_at_ns);
	assert_in(out, "uid=33(web) gid=33(web) groups=33(web),44(logs)");
	assert_in(out, "\nweb\n");
	assert_in(out, "HOSTNAME=web\n");
	assert_in(out, "HOME=/var/www\n");
	assert_in(out, "PATH=/usr/local/sbin:");
	assert_in(out, "\n/srv/app\n");
	assert_in(out, "127.0.1.1\tweb\n");
	assert_in(out, "nameserver 192.0.2.1\n");
	assert_in(out, "oops\n");
	free(out);
}
END_TEST

START_TEST(leaves_nothing_in_the_hosts_mount_table)
{
	char *before = read_text("/proc/self/mountinfo"), *during;
	struct driver_instance i = start(fixture_workload("web", "exec sleep 1000"));
	struct shim_result r;

	during = read_text("/proc/self/mountinfo");
	ck_assert_str_eq(before, during);
	fixture_stop(&i, SIGKILL, 0);
	fixture_wait(&i, &r);
	free(before);
	free(during);
}
END_TEST

START_TEST(default_profile_confines)
{
	struct shim_result r = run(fixture_workload("web", "cat /proc/self/status; mount -t tmpfs x /tmp && echo MOUN''TED; "
							   "echo 1 2>/dev/null >/proc/sys/kernel/panic && echo WRIT''TEN; "
							   "head -c1 /proc/keys | wc -c; ls /dev; ps"),
				   NULL);
	char *out = fixture_output(&f, "web");

	ck_assert_int_eq(r.exit_code, 0);
	assert_in(out, "NoNewPrivs:\t1\n");
	assert_in(out, "Seccomp:\t2\n");
	assert_in(out, "CapEff:\t00000000a80425fb\n");
	assert_not_in(out, "MOUNTED");
	assert_not_in(out, "WRITTEN");
	assert_in(out, "\n0\n");
	assert_not_in(out, "loop0");
	assert_in(out, "\n    1 root ");
	free(out);
}
END_TEST

START_TEST(privileged_is_not_confined)
{
	Capsule__V1__Workload *w = fixture_workload("web", "cat /proc/self/status; mount -t tmpfs x /tmp && echo MOUN''TED; "
							   "ls /dev; mkdir /sys/fs/cgroup/pids/x 2>&1; exit 0");
	char *out;

	w->container->privileged = true;
	ck_assert_int_eq(run(w, &out).exit_code, 0);
	assert_in(out, "NoNewPrivs:\t0\n");
	assert_in(out, "Seccomp:\t0\n");
	assert_in(out, "MOUNTED");
	assert_in(out, "loop-control");
	assert_not_in(out, "Read-only");
	free(out);
}
END_TEST

START_TEST(stop_sends_the_signal)
{
	struct driver_instance i =
		start(fixture_workload("web", "trap 'echo bye; exit 5' TERM; touch /ready; while :; do sleep 0.05; done"));
	struct shim_result r;

	await_file("web", "ready");
	fixture_stop(&i, SIGTERM, 20000);
	fixture_wait(&i, &r);
	ck_assert(r.stopped);
	ck_assert_int_eq(r.exit_code, 5);
}
END_TEST

START_TEST(stop_knows_the_images_signal)
{
	struct driver_instance i;
	struct shim_result r;

	f.image.config.stop_signal = (char *)"SIGUSR2";
	i = start(fixture_workload("web", "trap 'exit 8' USR2; touch /ready; while :; do sleep 0.05; done"));
	await_file("web", "ready");
	fixture_stop(&i, 0, 20000);
	fixture_wait(&i, &r);
	ck_assert(r.stopped);
	ck_assert_int_eq(r.exit_code, 8);
}
END_TEST

START_TEST(many_layers)
{
	static char *layers[SHIM_LAYERS_MAX], path[SHIM_LAYERS_MAX][128];
	struct shim_result r;

	for (int i = 0; i < SHIM_LAYERS_MAX; i++) {
		snprintf(path[i], sizeof path[i], "%s/layers/%064d", f.root, i);
		ck_assert_int_eq(mkdir(path[i], 0755), 0);
		layers[i] = i == 7 ? f.layer : path[i];
	}
	f.image.layers = layers;
	f.image.n_layers = SHIM_LAYERS_MAX;
	r = run(fixture_workload("web", "exit 2"), NULL);
	ck_assert_int_eq(r.exit_code, 2);
}
END_TEST

START_TEST(stop_kills_after_the_grace)
{
	struct driver_instance i = start(fixture_workload("web", "trap '' TERM; while :; do sleep 1; done"));
	int64_t begin = time_monotonic_ns(), took;
	struct shim_result r;

	fixture_stop(&i, SIGTERM, 60000);
	/* A later, smaller grace shortens the first one. */
	fixture_stop(&i, SIGTERM, 300);
	fixture_wait(&i, &r);
	took = (time_monotonic_ns() - begin) / NSEC_PER_MSEC;
	ck_assert_int_eq(r.exit_code, 128 + SIGKILL);
	ck_assert(r.stopped);
	ck_assert_msg(took >= 300 && took < 10000, "%lld ms", (long long)took);
}
END_TEST

START_TEST(sigterm_to_the_shim_stops)
{
	struct driver_instance i = start(fixture_workload("web", "trap 'exit 9' TERM; touch /ready; while :; do sleep 0.05; done"));
	struct shim_result r;
	pid_t pid = shim_pid("web");

	await_file("web", "ready");
	/* What a terminal sends is not for it. */
	ck_assert_int_eq(kill(pid, SIGHUP), 0);
	ck_assert_int_eq(kill(pid, SIGINT), 0);
	ck_assert_int_eq(kill(pid, SIGTERM), 0);
	fixture_wait(&i, &r);
	ck_assert(r.stopped);
	ck_assert_int_eq(r.exit_code, 9);
}
END_TEST

static void assert_start_fails(const char *program, const char *message)
{
	Capsule__V1__Workload *w = fixture_workload("web", "true");
	struct error err = ERROR_INIT;
	struct driver_instance i;
	char path[256];

	free(w->container->command[0]);
	w->container->command[0] = strdup(program);
	ck_assert_int_lt(fixture_start(&f, w, &i, &err), 0);
	ck_assert_str_eq(error_message(&err), message);
	error_release(&err);
	fixture_workload_free(w);
	/* Everything is undone. */
	snprintf(path, sizeof path, "%s/workloads/web", f.run);
	ck_assert_int_lt(access(path, F_OK), 0);
	snprintf(path, sizeof path, "%s/web", f.cgroup);
	ck_assert(!cgroup_exists(path));
}

START_TEST(program_is_missing)
{
	assert_start_fails("/bin/nope", "cannot start web: exec: /bin/nope: not found in the image");
	assert_start_fails("nope", "cannot start web: exec: nope: not found in the image");
}
END_TEST

START_TEST(program_is_none)
{
	assert_start_fails("/bin/garbage", "cannot start web: exec: /bin/garbage: not a program for this machine");
}
END_TEST

START_TEST(killed_shim_takes_the_container_along)
{
	struct driver_instance i = start(fixture_workload("web", "echo kept > /file; while :; do sleep 1; done")), again;
	struct error err = ERROR_INIT;
	struct shim_message m;
	char path[256];

	snprintf(path, sizeof path, "%s/workloads/web/upper/file", f.root);
	await_file("web", "file");
	ck_assert_int_eq(kill(shim_pid("web"), SIGKILL), 0);
	ck_assert_int_eq(shim_receive(i.shim_fd, &m), 0);
	driver_instance_release(&i);
	ck_assert_msg(f.driver->ops->recover(f.driver, "web", true, &again, &err) == 0, "%s", error_message(&err));
	ck_assert(again.ended);
	ck_assert_int_eq(again.exit_code, 255);
	ck_assert_int_eq(again.shim_fd, -1);
	driver_instance_release(&again);
	assert_dead(i.pid);
	ck_assert_int_eq(f.driver->ops->cleanup(f.driver, "web", &err), 0);
	ck_assert_int_eq(f.driver->ops->cleanup(f.driver, "web", &err), 0);
	ck_assert_int_eq(access(path, F_OK), 0);
	ck_assert_int_eq(f.driver->ops->recover(f.driver, "web", true, &again, &err), 0);
	ck_assert(!again.ended && again.pid == 0);
}
END_TEST

START_TEST(cleanup_of_a_running_one)
{
	struct driver_instance i = start(fixture_workload("web", "while :; do sleep 1; done"));
	struct error err = ERROR_INIT;
	char path[256];

	ck_assert_msg(f.driver->ops->remove(f.driver, "web", &err) == 0, "%s", error_message(&err));
	assert_dead(i.pid);
	snprintf(path, sizeof path, "%s/workloads/web", f.root);
	ck_assert_int_lt(access(path, F_OK), 0);
	driver_instance_release(&i);
}
END_TEST

START_TEST(found_again_alive_and_ended)
{
	struct driver_instance i = start(fixture_workload("web", "exec sleep 1000")), again;
	struct error err = ERROR_INIT;
	struct shim_result r;

	/* The daemon dies: its connection goes, the container does not. */
	close(steal_fd(&i.shim_fd));
	ck_assert_msg(f.driver->ops->recover(f.driver, "web", true, &again, &err) == 0, "%s", error_message(&err));
	ck_assert(!again.ended);
	ck_assert_int_eq(again.pid, i.pid);
	ck_assert_uint_eq(again.generation, 7);
	ck_assert(again.started_at_ns == i.started_at_ns);
	driver_instance_release(&i);
	ck_assert_str_eq(again.image_digest, "sha256:1");
	ck_assert_uint_eq(again.n_layers, 1);
	ck_assert_str_eq(again.layers[0], f.layer);
	fixture_stop(&again, SIGKILL, 0);
	fixture_wait(&again, &r);
	driver_instance_release(&again);
	ck_assert_int_eq(f.driver->ops->recover(f.driver, "web", true, &again, &err), 0);
	ck_assert(again.ended && again.stopped);
	ck_assert_int_eq(again.exit_code, 137);
	ck_assert(again.finished_at_ns == r.finished_at_ns);
	ck_assert_uint_eq(again.generation, 7);
	ck_assert_uint_eq(again.n_layers, 1);
	driver_instance_release(&again);
}
END_TEST

START_TEST(writable_layer_is_kept_for_its_generation)
{
	struct driver_plan plan = { .image = &f.image, .netns_fd = -1 };
	struct driver_instance i;
	struct shim_result r;
	Capsule__V1__Workload *w = fixture_workload("web", "test -e /mark && exit 4; touch /mark");

	ck_assert_int_eq(fixture_start(&f, w, &i, NULL), 0);
	fixture_wait(&i, &r);
	ck_assert_int_eq(r.exit_code, 0);
	ck_assert_int_eq(fixture_start(&f, w, &i, NULL), 0);
	fixture_wait(&i, &r);
	ck_assert_int_eq(r.exit_code, 4);
	plan.spec = w;
	plan.generation = 8;
	ck_assert_int_eq(f.driver->ops->start(f.driver, &plan, &i, NULL), 0);
	fixture_wait(&i, &r);
	ck_assert_int_eq(r.exit_code, 0);
	ck_assert_int_eq(f.driver->ops->start(f.driver, &plan, &i, NULL), 0);
	fixture_wait(&i, &r);
	ck_assert_int_eq(r.exit_code, 4);
	/* Another image under the same name. */
	f.image.digest = (char *)"sha256:2";
	ck_assert_int_eq(f.driver->ops->start(f.driver, &plan, &i, NULL), 0);
	fixture_wait(&i, &r);
	ck_assert_int_eq(r.exit_code, 0);
	fixture_workload_free(w);
}
END_TEST

START_TEST(host_pid_leaves_no_process)
{
	Capsule__V1__Workload *w =
		fixture_workload("web", "sleep 1000 & (sleep 1001 &); test $$ -gt 1 && ls /proc/1 >/dev/null && exit 6");
	char path[256];

	w->container->host_pid = true;
	ck_assert_int_eq(run(w, NULL).exit_code, 6);
	snprintf(path, sizeof path, "%s/web", f.cgroup);
	ck_assert_uint_eq(cgroup_kill_once(path), 0);
}
END_TEST

START_TEST(host_paths)
{
	Capsule__V1__Workload *w = fixture_workload("web", "cat /data/text; echo x > /data/new && exit 1; ls /host/proc/1/stat");
	char path[256], bind[300];
	char *out;

	snprintf(path, sizeof path, "%s/shared", f.dir);
	ck_assert_int_eq(mkdir(path, 0755), 0);
	snprintf(bind, sizeof bind, "%s/text", path);
	ck_assert_int_eq(fs_write_replace(AT_FDCWD, bind, "hello\n", 6, 0644, NULL), 0);
	snprintf(bind, sizeof bind, "%s:/data:ro", path);
	w->container->host_mount = true;
	w->container->host_ipc = true;
	w->container->host_bind_paths = calloc(1, sizeof(char *));
	w->container->host_bind_paths[w->container->n_host_bind_paths++] = strdup(bind);
	ck_assert_int_eq(run(w, &out).exit_code, 0);
	assert_in(out, "hello\n");
	assert_in(out, "/host/proc/1/stat\n");
	free(out);
}
END_TEST

START_TEST(enters_the_network_namespace)
{
	Capsule__V1__Workload *w = fixture_workload("web", "cat /proc/net/dev | wc -l; cat /proc/sys/net/ipv4/ip_unprivileged_port_start;"
							   "cat /etc/hosts");
	struct driver_plan plan = { .spec = w, .image = &f.image, .address = "172.20.254.9" };
	int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	struct error err = ERROR_INIT;
	struct driver_instance i;
	struct shim_result r;
	char *out;

	ck_assert_int_eq(unshare(CLONE_NEWNET), 0);
	plan.netns_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(setns(own, CLONE_NEWNET), 0);
	ck_assert_msg(f.driver->ops->start(f.driver, &plan, &i, &err) == 0, "%s", error_message(&err));
	fixture_wait(&i, &r);
	out = fixture_output(&f, "web");
	/* Two lines of heading, and lo. */
	assert_in(out, "3\n0\n127.0.0.1\tlocalhost");
	assert_in(out, "172.20.254.9\tweb\n");
	free(out);
	close(plan.netns_fd);
	close(own);
	fixture_workload_free(w);
}
END_TEST

static char *command_output(const char *const *argv)
{
	struct process_run p = { .spawn = { .argv = argv }, .timeout_ms = 20000 };
	struct process_result r = { 0 };
	struct error err = ERROR_INIT;

	ck_assert_msg(process_run(&p, &r, &err) == 0 && r.exit_code == 0, "%s: %s %s", argv[0], error_message(&err), r.output);
	r.output[strcspn(r.output, "\n")] = '\0';
	return r.output;
}

START_TEST(volumes)
{
	char file[256];
	const char *const mke2fs[] = { "mke2fs", "-q", "-F", "-t", "ext4", file, "16M", NULL };
	const char *const attach[] = { "losetup", "-f", "--show", file, NULL };
	struct driver_volume volume = { .name = "data", .mount_path = "/data" };
	Capsule__V1__Workload *w = fixture_workload("web", "cat /data/file; echo more >> /data/file; df -T /data | tail -n 1");
	struct driver_plan plan = { .spec = w, .image = &f.image, .netns_fd = -1, .volumes = &volume, .n_volumes = 1 };
	struct driver_instance i;
	struct shim_result r;
	char *out, *device;

	snprintf(file, sizeof file, "%s/volume.img", f.dir);
	free(command_output(mke2fs));
	device = command_output(attach);
	volume.device = device;
	for (int n = 0; n < 3; n++) {
		struct error err = ERROR_INIT;

		volume.read_only = n == 2;
		ck_assert_msg(f.driver->ops->start(f.driver, &plan, &i, &err) == 0, "%s", error_message(&err));
		fixture_wait(&i, &r);
		/* Nobody holds the device from the moment the end was told. */
		int fd = open(device, O_RDWR | O_EXCL | O_CLOEXEC);
		ck_assert_msg(fd >= 0, "%s: %s", device, strerror(errno));
		close(fd);
	}
	out = fixture_output(&f, "web");
	assert_in(out, "ext4");
	assert_in(out, "more\nmore\n");
	assert_in(out, "Read-only file system");
	free(out);
	const char *const detach[] = { "losetup", "-d", device, NULL };
	free(command_output(detach));
	free(device);
	fixture_workload_free(w);
}
END_TEST

static int write_limit(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -1;
	r = fs_write_all(fd, "20000000", 8);
	close(fd);
	return r;
}

START_TEST(out_of_memory)
{
	struct driver_instance i =
		start(fixture_workload("web", "trap 'tail /dev/zero; exit $?' USR1; touch /ready; while :; do sleep 0.05; done"));
	struct shim_result r;
	char path[256];

	snprintf(path, sizeof path, "/sys/fs/cgroup/memory%s/web/memory.limit_in_bytes", f.cgroup);
	if (write_limit(path) < 0) {
		snprintf(path, sizeof path, "/sys/fs/cgroup%s/web/memory.max", f.cgroup);
		ck_assert_int_eq(write_limit(path), 0);
	}
	await_file("web", "ready");
	kill(i.pid, SIGUSR1);
	fixture_wait(&i, &r);
	ck_assert(r.oom_killed);
	ck_assert(!r.stopped);
	ck_assert_int_eq(r.exit_code, 137);
}
END_TEST

struct parallel {
	pthread_t thread;
	char name[16];
	struct driver_instance instance;
	struct error err;
	int result;
};

static void *start_one(void *arg)
{
	struct parallel *p = arg;
	Capsule__V1__Workload *w = fixture_workload(p->name, "echo hello; exec sleep 1000");

	p->result = fixture_start(&f, w, &p->instance, &p->err);
	fixture_workload_free(w);
	return NULL;
}

START_TEST(twenty_at_once)
{
	static struct parallel all[20];
	struct shim_result r;

	for (int i = 0; i < 20; i++) {
		snprintf(all[i].name, sizeof all[i].name, "w%d", i);
		ck_assert_int_eq(pthread_create(&all[i].thread, NULL, start_one, &all[i]), 0);
	}
	for (int i = 0; i < 20; i++)
		pthread_join(all[i].thread, NULL);
	for (int i = 0; i < 20; i++) {
		ck_assert_msg(all[i].result == 0, "%s", error_message(&all[i].err));
		fixture_stop(&all[i].instance, SIGKILL, 0);
	}
	for (int i = 0; i < 20; i++) {
		fixture_wait(&all[i].instance, &r);
		ck_assert_int_eq(r.exit_code, 137);
	}
}
END_TEST

START_TEST(memory_of_a_shim)
{
	struct driver_instance i = start(fixture_workload("web", "exec sleep 1000"));
	struct shim_result r;
	unsigned long anonymous;
	char path[64];
	char *text, *line;

	snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)shim_pid("web"));
	text = read_text(path);
	line = strstr(text, "Anonymous:");
	ck_assert_ptr_nonnull(line);
	ck_assert_int_eq(sscanf(line, "Anonymous: %lu", &anonymous), 1);
#if !defined(__SANITIZE_ADDRESS__)
	ck_assert_msg(anonymous <= 200, "%lu KiB", anonymous);
#endif
	free(text);
	fixture_stop(&i, SIGKILL, 0);
	fixture_wait(&i, &r);
}
END_TEST

START_TEST(every_byte_of_a_torrent)
{
	Capsule__V1__Workload *w = fixture_workload("web", "seq 1 100000; dd if=/dev/zero bs=1000 count=500 2>/dev/null; printf end");
	struct driver_instance i;
	struct shim_result r;
	char path[256], number[32];
	char *out, *p;

	f.driver->ops->free(f.driver);
	f.options.log_max_bytes = 64 << 20;
	ck_assert_int_eq(container_driver_new(&f.options, &f.driver, NULL), 0);
	ck_assert_int_eq(fixture_start(&f, w, &i, NULL), 0);
	fixture_wait(&i, &r);
	ck_assert_int_eq(r.exit_code, 0);
	snprintf(path, sizeof path, "%s/workloads/web/payload.log", f.root);
	ck_assert_int_eq(access(path, F_OK), 0);
	out = p = fixture_output(&f, "web");
	for (int n = 1; n <= 100000; n++) {
		int len = snprintf(number, sizeof number, "%d\n", n);

		ck_assert_msg(!strncmp(p, number, (size_t)len), "at %d: %.20s", n, p);
		p += len;
	}
	free(out);
	fixture_workload_free(w);
}
END_TEST

static void setup_runc(void)
{
	fixture_init(&f, "runc");
}

static TCase *cases(const char *name, void (*up)(void))
{
	TCase *c = tcase_create(name);

	tcase_add_checked_fixture(c, up, teardown);
	tcase_set_timeout(c, 100);
	return c;
}

int main(void)
{
	Suite *suite = suite_create("container");
	TCase *c = cases("crun", setup), *runc = cases("runc", setup_runc);

	if (fixture_missing()) {
		printf("1..0 # SKIP %s is missing\n", fixture_missing());
		return 0;
	}
	tcase_add_test(c, runs_with_its_environment);
	tcase_add_test(c, leaves_nothing_in_the_hosts_mount_table);
	tcase_add_test(c, default_profile_confines);
	tcase_add_test(c, privileged_is_not_confined);
	tcase_add_test(c, stop_sends_the_signal);
	tcase_add_test(c, stop_knows_the_images_signal);
	tcase_add_test(c, many_layers);
	tcase_add_test(c, stop_kills_after_the_grace);
	tcase_add_test(c, sigterm_to_the_shim_stops);
	tcase_add_test(c, program_is_missing);
	tcase_add_test(c, program_is_none);
	tcase_add_test(c, killed_shim_takes_the_container_along);
	tcase_add_test(c, cleanup_of_a_running_one);
	tcase_add_test(c, found_again_alive_and_ended);
	tcase_add_test(c, writable_layer_is_kept_for_its_generation);
	tcase_add_test(c, host_pid_leaves_no_process);
	tcase_add_test(c, host_paths);
	tcase_add_test(c, enters_the_network_namespace);
	tcase_add_test(c, volumes);
	tcase_add_test(c, out_of_memory);
	tcase_add_test(c, twenty_at_once);
	tcase_add_test(c, memory_of_a_shim);
	tcase_add_test(c, every_byte_of_a_torrent);
	suite_add_tcase(suite, c);
	if (access("/usr/sbin/runc", X_OK) == 0 || access("/usr/bin/runc", X_OK) == 0) {
		tcase_add_test(runc, runs_with_its_environment);
		tcase_add_test(runc, default_profile_confines);
		tcase_add_test(runc, program_is_missing);
		suite_add_tcase(suite, runc);
	}
	return run_suite(suite);
}
