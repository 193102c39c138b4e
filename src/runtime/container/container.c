/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The container driver: one shim and one run of the OCI runtime a container. */
#include "runtime/driver.h"

#include "base/fs.h"
#include "base/process.h"
#include "base/timeutil.h"
#include "runtime/container/bundle.h"
#include "runtime/container/exec_spec.h"
#include "runtime/container/origin.h"
#include "runtime/container/root.h"
#include "shim/cgroup.h"
#include "shim/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

/* Longer than the shim gives the OCI runtime. */
#define START_TIMEOUT_MS 90000
#define KILL_TIMEOUT_MS 20000
#define GRACE_MS_DEFAULT 10000
#define BACKLOG 128           /* connections that the shim has not seen yet */
#define CONNECT_TIMEOUT_S 10  /* where there are more */
#define ARGS_MAX (40 + 2 * SHIM_LAYERS_MAX + 2 * SHIM_VOLUMES_MAX)

struct container_driver {
	struct driver base;
	char *root, *run, *shim, *oci_runtime, *cgroup_parent;
	int shim_fd; /* its program on a read-only mount of its own; O_PATH */
	uint64_t log_max_bytes;
	unsigned log_max_files;
};

/* The places of one workload. */
struct places {
	char *run_dir, *state_dir, *upper, *work, *cgroup, *runtime_root, *runtime_state;
};

static void places_release(struct places *p)
{
	free(p->run_dir);
	free(p->state_dir);
	free(p->upper);
	free(p->work);
	free(p->cgroup);
	free(p->runtime_root);
	free(p->runtime_state);
}
#define _cleanup_places_ _cleanup_(places_release)

static int places_init(struct places *p, const struct container_driver *d, const char *name, struct error *err)
{
	p->run_dir = fs_path("%s/workloads/%s", d->run, name);
	p->state_dir = fs_path("%s/workloads/%s", d->root, name);
	p->upper = fs_path("%s/workloads/%s/upper", d->root, name);
	p->work = fs_path("%s/workloads/%s/work", d->root, name);
	p->cgroup = fs_path("%s/%s", d->cgroup_parent, name);
	p->runtime_root = fs_path("%s/runtime", d->run);
	p->runtime_state = fs_path("%s/runtime/%s", d->run, name);
	if (!p->run_dir || !p->state_dir || !p->upper || !p->work || !p->cgroup || !p->runtime_root || !p->runtime_state)
		return error_errno(err, ENOMEM, "cannot start %s", name);
	return 0;
}

static struct container_driver *container_of(struct driver *d)
{
	return (struct container_driver *)d;
}

/* ---- the shim's socket ---- */

/* Through /proc, because a socket's path may have 107 bytes only and a run root may be deep. */
static void socket_address(int dirfd, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d/" SHIM_SOCKET, dirfd);
}

static int listen_for_daemons(int dirfd, struct error *err)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct sockaddr_un address;

	socket_address(dirfd, &address);
	unlinkat(dirfd, SHIM_SOCKET, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
		return error_errno(err, errno, "cannot make the shim's socket");
	return steal_fd(&fd);
}

static int connect_to_shim(int dirfd)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	const struct timeval timeout = { .tv_sec = CONNECT_TIMEOUT_S };
	struct sockaddr_un address;

	socket_address(dirfd, &address);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) < 0 ||
	    connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return -1;
	return steal_fd(&fd);
}

/* Waits for the shim's first word. 1: the payload runs; 0: it does not, with the shim's reason in err; -1: the shim is
 * gone or silent. */
static int await_hello(int fd, struct shim_message *ret, struct error *err)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int64_t deadline = time_monotonic_ns() + START_TIMEOUT_MS * NSEC_PER_MSEC;
	int n, r;

	do {
		int64_t left = (deadline - time_monotonic_ns()) / NSEC_PER_MSEC;

		n = poll(&p, 1, left > 0 ? (int)left : 0);
	} while (n < 0 && errno == EINTR);
	if (n == 0) {
		error_set(err, ERR_DEADLINE_EXCEEDED, "the shim did not answer within %d s", START_TIMEOUT_MS / 1000);
		return -1;
	}
	r = shim_receive(fd, ret);
	if (r > 0 && ret->type == SHIM_HELLO)
		return 1;
	if (r > 0 && ret->type == SHIM_FAILED) {
		error_set(err, ERR_FAILED_PRECONDITION, "%s", ret->body.text);
		return 0;
	}
	error_set(err, ERR_INTERNAL, "the shim ended before the payload ran");
	return -1;
}

static void instance_running(struct driver_instance *i, const struct shim_message *hello, int *fd)
{
	*i = (struct driver_instance){
		.pid = hello->body.hello.pid,
		.generation = hello->body.hello.generation,
		.started_at_ns = hello->body.hello.started_at_ns,
		.shim_fd = steal_fd(fd),
	};
}

/* ---- start ---- */

static int make_writable_layer(const struct places *p, const struct driver_plan *plan, struct error *err)
{
	bool keep = origin_matches(p->state_dir, plan);

	if (!keep && (fs_remove_tree(AT_FDCWD, p->upper, err) < 0 || fs_remove_tree(AT_FDCWD, p->work, err) < 0))
		return -1;
	if (fs_mkdir_all(AT_FDCWD, p->state_dir, 0711, err) < 0)
		return -1;
	/* After the old layer is gone: a record never speaks of an older layer than it stands beside. */
	if (!keep && origin_write(p->state_dir, plan, err) < 0)
		return -1;
	if (mkdir(p->work, 0700) < 0 && errno != EEXIST)
		return error_errno(err, errno, "cannot make %s", p->work);
	if (mkdir(p->upper, 0755) == 0) {
		/* The upper directory is the container's "/": whatever our umask is. */
		if (chmod(p->upper, 0755) < 0)
			return error_errno(err, errno, "cannot make %s", p->upper);
	} else if (errno != EEXIST) {
		return error_errno(err, errno, "cannot make %s", p->upper);
	}
	return 0;
}

static int make_run_dir(const struct places *p, const struct driver_plan *plan, struct error *err)
{
	_cleanup_free_ char *rootfs = fs_path("%s/rootfs", p->run_dir);
	_cleanup_free_ char *volumes = fs_path("%s/volumes", p->run_dir);

	if (!rootfs || !volumes)
		return error_errno(err, ENOMEM, "cannot make %s", p->run_dir);
	if (fs_mkdir_all(AT_FDCWD, p->runtime_root, 0700, err) < 0 || fs_mkdir_all(AT_FDCWD, rootfs, 0711, err) < 0)
		return -1;
	for (size_t i = 0; i < plan->n_volumes; i++) {
		_cleanup_free_ char *dir = fs_path("%s/%s", volumes, plan->volumes[i].name);

		if (!dir || fs_mkdir_all(AT_FDCWD, dir, 0700, err) < 0)
			return dir ? -1 : error_errno(err, ENOMEM, "cannot make %s", volumes);
	}
	return 0;
}

/* "SIGTERM", "TERM" or "15"; images write all three. */
static int parse_signal(const char *text)
{
	char *end;
	long n;

	if (!text || !*text)
		return SIGTERM;
	n = strtol(text, &end, 10);
	if (!*end)
		return n > 0 && n < NSIG ? (int)n : SIGTERM;
	if (!strncasecmp(text, "SIG", 3))
		text += 3;
	if (!strncasecmp(text, "RTMIN+", 6))
		return SIGRTMIN + (int)(strtol(text + 6, NULL, 10) & 31);
	for (int sig = 1; sig < NSIG; sig++) {
		const char *name = sigabbrev_np(sig);

		if (name && !strcasecmp(name, text))
			return sig;
	}
	return SIGTERM;
}

/* The arguments of one shim. Strings that were made for it are owned, the rest is borrowed. */
struct command {
	const char *argv[ARGS_MAX + 1];
	size_t n;
	char *owned[SHIM_VOLUMES_MAX + 8];
	size_t n_owned;
	bool failed;
};

static void command_release(struct command *c)
{
	for (size_t i = 0; i < c->n_owned; i++)
		free(c->owned[i]);
}

static void add_flag(struct command *c, const char *flag)
{
	if (c->n < ARGS_MAX)
		c->argv[c->n++] = flag;
	else
		c->failed = true;
}

static void add_option(struct command *c, const char *option, const char *value)
{
	add_flag(c, option);
	add_flag(c, value);
}

/* Takes over the value. */
static void add_made(struct command *c, const char *option, char *value)
{
	if (!value || c->n_owned == sizeof c->owned / sizeof c->owned[0]) {
		free(value);
		c->failed = true;
		return;
	}
	c->owned[c->n_owned++] = value;
	add_option(c, option, value);
}

static void build_command(struct command *c, const struct container_driver *d, const struct places *p,
			  const struct driver_plan *plan, const struct oci_runtime *runtime)
{
	const Capsule__V1__Workload *spec = plan->spec;
	int64_t grace_ms = GRACE_MS_DEFAULT;

	if (spec->stop_grace_case == CAPSULE__V1__WORKLOAD__STOP_GRACE_STOP_GRACE_PERIOD_SECONDS)
		grace_ms = (int64_t)spec->stop_grace_period_seconds * 1000;
	add_flag(c, d->shim);
	add_option(c, "--run", p->run_dir);
	add_option(c, "--state", p->state_dir);
	add_option(c, "--cgroup", p->cgroup);
	add_option(c, "--runtime", runtime->program);
	add_option(c, "--runtime-root", p->runtime_root);
	add_made(c, "--generation", fs_path("%" PRIu64, plan->generation));
	add_made(c, "--log-max-bytes", fs_path("%" PRIu64, d->log_max_bytes));
	add_made(c, "--log-max-files", fs_path("%u", d->log_max_files));
	add_made(c, "--stop-signal", fs_path("%d", parse_signal(plan->image->config.stop_signal)));
	add_made(c, "--grace", fs_path("%" PRId64, grace_ms));
	if (plan->netns_fd >= 0)
		add_flag(c, "--netns");
	if (runtime->sealed_fd >= 0)
		add_flag(c, "--sealed-runtime");
	if (runtime->is_crun && cgroup_mode() == CGROUP_HYBRID)
		add_flag(c, "--hide-unified");
	for (size_t i = 0; i < plan->n_volumes; i++)
		add_made(c, "--volume", fs_path("%s:%s:%s", plan->volumes[i].name,
						plan->volumes[i].read_only ? "ro" : "rw", plan->volumes[i].device));
	for (size_t i = 0; i < plan->image->n_layers; i++)
		add_option(c, "--layer", plan->image->layers[i]);
	add_flag(c, spec->name);
	c->argv[c->n] = NULL;
}

/* Starts the shim. *ret_fd: the first connection to it. */
static int spawn_shim(const struct container_driver *d, const struct command *c, int dirfd, const struct bundle *bundle,
		      int *ret_fd, pid_t *ret_pid, struct error *err)
{
	const struct driver_plan *plan = bundle->plan;
	const struct oci_runtime *runtime = bundle->runtime;
	_cleanup_close_ int listener = listen_for_daemons(dirfd, err), mine = -1, theirs = -1;
	struct process_fd fds[4];
	char program[32];
	struct process_spawn spawn = {
		.argv = c->argv, .program = program, .fds = fds, .n_fds = 2, .new_session = true,
	};
	int pair[2];

	snprintf(program, sizeof program, "/proc/self/fd/%d", d->shim_fd);
	if (listener < 0)
		return -1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_errno(err, errno, "cannot make a socket for the shim");
	mine = pair[0];
	theirs = pair[1];
	fds[0] = (struct process_fd){ theirs, SHIM_FD_CONNECTION };
	fds[1] = (struct process_fd){ listener, SHIM_FD_LISTEN };
	if (plan->netns_fd >= 0)
		fds[spawn.n_fds++] = (struct process_fd){ plan->netns_fd, SHIM_FD_NETNS };
	if (runtime->sealed_fd >= 0)
		fds[spawn.n_fds++] = (struct process_fd){ runtime->sealed_fd, SHIM_FD_RUNTIME };
	if (process_spawn(&spawn, ret_pid, NULL, err) < 0)
		return -1;
	*ret_fd = steal_fd(&mine);
	return 0;
}

/* While the shim makes its namespace and mounts, the bundle is written. Then it is told to go on. */
static int run_shim(const struct container_driver *d, const struct command *c, const struct bundle *bundle, int dirfd,
		    struct driver_instance *ret, struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct shim_message message;
	pid_t pid;
	int r;

	if (spawn_shim(d, c, dirfd, bundle, &fd, &pid, err) < 0)
		return -1;
	r = bundle_write(bundle, err);
	/* The process that was started is gone by now; the shim is its child and nobody's. */
	process_wait(pid);
	if (r < 0)
		return -1;
	/* If the shim has failed meanwhile, it has said why. */
	(void)shim_send(fd, SHIM_START, NULL, 0);
	if (await_hello(fd, &message, err) <= 0)
		return -1;
	instance_running(ret, &message, &fd);
	return 0;
}

/* runc writes its log as `time="..." level=error msg="..."` with C's escapes. Leaves the message alone in the text. */
static void unquote_message(char *text)
{
	char *from = strstr(text, " msg=\""), *to = text;

	if (!from)
		return;
	for (from += 6; *from && *from != '"'; from++) {
		if (*from == '\\' && from[1])
			from++;
		*to++ = *from;
	}
	*to = '\0';
}

/* The OCI runtime's words in terms of the user's. */
static void clarify(struct error *err)
{
	static const struct {
		const char *sign, *meaning;
	} known[] = {
		{ "missing dynamic library", "its interpreter or dynamic loader is not in the image" },
		{ "not found in $PATH", "not found in the image" },
		{ "no such file or directory", "not found in the image" },
		{ "exec format error", "not a program for this machine" },
		{ "permission denied", "permission denied: it is not executable for the container's user" },
	};
	_cleanup_free_ char *text = strdup(error_message(err));
	const char *program, *end;

	if (!text)
		return;
	unquote_message(text);
	/* crun quotes the program with `, runc with ". */
	program = strstr(text, "exec: \"");
	program = program ? program + strlen("exec: \"") : strchr(text, '`') ? strchr(text, '`') + 1 : NULL;
	end = program && strstr(text, "exec") ? strpbrk(program, "`\"") : NULL;
	for (size_t i = 0; end && end > program && i < sizeof known / sizeof known[0]; i++)
		if (strcasestr(text, known[i].sign)) {
			error_set(err, ERR_FAILED_PRECONDITION, "exec: %.*s: %s", (int)(end - program), program,
				  known[i].meaning);
			return;
		}
	error_set(err, err->code, "%s", text);
}

static int container_cleanup(struct driver *driver, const char *name, struct error *err);

static int prepare_and_run(struct container_driver *d, const struct places *p, const struct driver_plan *plan,
			   struct driver_instance *ret, struct error *err)
{
	_cleanup_(command_release) struct command command = { .n = 0 };
	_cleanup_close_ int dirfd = -1;
	_cleanup_oci_runtime_ struct oci_runtime runtime = { .sealed_fd = -1 };
	struct bundle bundle = {
		.plan = plan, .runtime = &runtime, .run_dir = p->run_dir, .upper_dir = p->upper, .cgroup_path = p->cgroup,
	};

	if (oci_runtime_find(d->oci_runtime, &runtime, err) < 0)
		return -1;
	if (make_writable_layer(p, plan, err) < 0 || make_run_dir(p, plan, err) < 0)
		return -1;
	build_command(&command, d, p, plan, &runtime);
	if (command.failed)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "too many layers or volumes");
	dirfd = open(p->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return error_errno(err, errno, "cannot open %s", p->run_dir);
	return run_shim(d, &command, &bundle, dirfd, ret, err);
}

static void *hasten_main(void *arg)
{
	cgroup_hasten_moves();
	return NULL;
}

/* Without the thread it only takes longer. */
static int prepare_and_run_hastened(struct container_driver *d, const struct places *p, const struct driver_plan *plan,
				    struct driver_instance *ret, struct error *err)
{
	pthread_t hastener;
	bool hastened = pthread_create(&hastener, NULL, hasten_main, NULL) == 0;
	int r = prepare_and_run(d, p, plan, ret, err);

	if (hastened)
		pthread_join(hastener, NULL);
	return r;
}

static int container_start(struct driver *driver, const struct driver_plan *plan, struct driver_instance *ret,
			   struct error *err)
{
	struct container_driver *d = container_of(driver);
	_cleanup_places_ struct places p = { 0 };
	const char *name = plan->spec->name;

	if (plan->spec->kind != CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_CONTAINER || !plan->spec->container)
		return error_set(err, ERR_INVALID_ARGUMENT, "workload %s is not a container", name);
	if (plan->n_volumes > SHIM_VOLUMES_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "workload %s mounts more than %d volumes", name,
				 SHIM_VOLUMES_MAX);
	if (places_init(&p, d, name, err) < 0)
		return -1;
	/* Whatever an earlier run left is in the way. */
	if (access(p.run_dir, F_OK) == 0 && container_cleanup(driver, name, err) < 0)
		return -1;
	if (prepare_and_run_hastened(d, &p, plan, ret, err) < 0) {
		(void)container_cleanup(driver, name, NULL);
		clarify(err);
		return error_wrap(err, "cannot start %s", name);
	}
	return 0;
}

/* ---- cleanup ---- */

/* After this nothing of the shim is left: also not its mount namespace, which holds volumes. */
static int kill_shim(int dirfd, struct error *err)
{
	pid_t pid = 0;
	_cleanup_close_ int pidfd = shim_pid_open(dirfd, &pid);
	struct pollfd p = { .fd = pidfd, .events = POLLIN };
	int n;

	if (pidfd < 0)
		return 0;
	syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	do {
		n = poll(&p, 1, KILL_TIMEOUT_MS);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		return 0;
	return error_set(err, ERR_DEADLINE_EXCEEDED, "the shim (pid %d) does not end although it was killed", (int)pid);
}

static int container_cleanup(struct driver *driver, const char *name, struct error *err)
{
	struct container_driver *d = container_of(driver);
	_cleanup_places_ struct places p = { 0 };
	_cleanup_close_ int dirfd = -1;

	if (places_init(&p, d, name, err) < 0)
		return -1;
	dirfd = open(p.run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd >= 0 && kill_shim(dirfd, err) < 0)
		return error_wrap(err, "cannot clean up after %s", name);
	/* The runtime's state directory is removed as a file tree: it describes processes that are gone, and its own delete
	 * command would cost a process. */
	if (cgroup_kill(p.cgroup, KILL_TIMEOUT_MS, err) < 0 || cgroup_remove(p.cgroup, err) < 0 ||
	    fs_remove_tree(AT_FDCWD, p.runtime_state, err) < 0 || fs_remove_tree(AT_FDCWD, p.run_dir, err) < 0)
		return error_wrap(err, "cannot clean up after %s", name);
	return 0;
}

static int container_remove(struct driver *driver, const char *name, struct error *err)
{
	_cleanup_places_ struct places p = { 0 };

	if (container_cleanup(driver, name, err) < 0 || places_init(&p, container_of(driver), name, err) < 0)
		return -1;
	if (fs_remove_tree(AT_FDCWD, p.state_dir, err) < 0)
		return error_wrap(err, "cannot remove %s", name);
	return 0;
}

/* ---- recover ---- */

static void instance_ended(struct driver_instance *i, const struct shim_result *r)
{
	*i = (struct driver_instance){
		.generation = r->generation,
		.started_at_ns = r->started_at_ns,
		.shim_fd = -1,
		.ended = true,
		.exit_code = r->exit_code,
		.oom_killed = r->oom_killed,
		.stopped = r->stopped,
		.finished_at_ns = r->finished_at_ns,
	};
}

static int find_instance(const struct places *p, const char *name, struct driver_instance *ret, struct error *err)
{
	_cleanup_close_ int dirfd = -1, fd = -1;
	struct shim_result result = { .exit_code = 255 };
	struct shim_message message;

	dirfd = open(p->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0 && !cgroup_exists(p->cgroup)) {
		*ret = (struct driver_instance){ .shim_fd = -1 };
		return 0;
	}
	if (dirfd >= 0)
		fd = connect_to_shim(dirfd);
	if (fd >= 0 && await_hello(fd, &message, NULL) == 1) {
		instance_running(ret, &message, &fd);
		return 0;
	}
	if (dirfd >= 0 && shim_result_read(dirfd, &result) == 1) {
		instance_ended(ret, &result);
		return 0;
	}
	/* The shim was killed, or failed with nobody to tell. Without it the container's output goes nowhere and its end
	 * would be seen by nobody, so it does not go on. */
	if ((dirfd >= 0 && kill_shim(dirfd, err) < 0) || cgroup_kill(p->cgroup, KILL_TIMEOUT_MS, err) < 0)
		return error_wrap(err, "cannot take up %s", name);
	/* A start that was cut off before the OCI runtime knew of the container is no run. */
	if (access(p->runtime_state, F_OK) < 0)
		*ret = (struct driver_instance){ .shim_fd = -1 };
	else
		instance_ended(ret, &result);
	return 0;
}

static int container_recover(struct driver *driver, const char *name, struct driver_instance *ret, struct error *err)
{
	_cleanup_places_ struct places p = { 0 };

	if (places_init(&p, container_of(driver), name, err) < 0 || find_instance(&p, name, ret, err) < 0)
		return -1;
	if (ret->pid || ret->ended)
		origin_read(p.state_dir, ret);
	return 0;
}

/* ---- root ---- */

static int container_root(struct driver *driver, const char *name, pid_t pid, uint64_t generation,
			  struct driver_root *ret, struct error *err)
{
	_cleanup_places_ struct places p = { 0 };
	int r;

	if (places_init(&p, container_of(driver), name, err) < 0)
		return -1;
	r = pid ? root_of_process(pid, p.cgroup, ret, err) : root_of_last_run(p.state_dir, generation, ret, err);
	return r < 0 ? error_wrap(err, "workload %s", name) : 0;
}

/* ---- exec ---- */

static int make_streams(struct driver_process *p, struct error *err)
{
	for (int i = 0; i < 3; i++) {
		int ends[2];

		if (pipe2(ends, O_CLOEXEC) < 0)
			return error_errno(err, errno, "cannot make pipes");
		p->ours[i] = ends[i == 0];
		p->theirs[1 + i] = ends[i != 0];
	}
	return 0;
}

static int prepare_exec(const struct places *places, const struct driver_exec *exec, struct driver_process *ret,
			struct error *err)
{
	_cleanup_close_ int dirfd = open(places->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	ret->terminal = exec->config->tty;
	if (dirfd < 0)
		return error_set(err, ERR_FAILED_PRECONDITION, "it is not running");
	ret->theirs[0] = exec_spec_make(dirfd, exec, err);
	if (ret->theirs[0] < 0 || (!ret->terminal && make_streams(ret, err) < 0))
		return -1;
	ret->control_fd = connect_to_shim(dirfd);
	return ret->control_fd < 0 ? error_set(err, ERR_FAILED_PRECONDITION, "its shim does not answer; it may be ending") : 0;
}

static int container_exec(struct driver *driver, const struct driver_exec *exec, struct driver_process *ret,
			  struct error *err)
{
	_cleanup_places_ struct places places = { 0 };

	*ret = DRIVER_PROCESS_NONE;
	if (places_init(&places, container_of(driver), exec->config->name, err) == 0 &&
	    prepare_exec(&places, exec, ret, err) == 0)
		return 0;
	driver_process_release(ret);
	return -1;
}

/* ---- the table ---- */

static void container_driver_free(struct driver *driver)
{
	struct container_driver *d = container_of(driver);

	free(d->root);
	free(d->run);
	free(d->shim);
	cleanup_closep(&d->shim_fd);
	free(d->oci_runtime);
	free(d->cgroup_parent);
	free(d);
}

static const struct driver_ops container_ops = {
	.name = "container",
	.start = container_start,
	.cleanup = container_cleanup,
	.remove = container_remove,
	.recover = container_recover,
	.root = container_root,
	.exec = container_exec,
	.free = container_driver_free,
};

/* A container sees the shim's program in the children that enter it, and can make them run it once more ("#!/proc/self/exe").
 * So it is executed through a mount that exists for nothing else: by that way nobody can open it for writing. */
static int open_read_only(const char *program, struct error *err)
{
	struct mount_attr read_only = { .attr_set = MOUNT_ATTR_RDONLY };
	_cleanup_close_ int fd = open_tree(AT_FDCWD, program, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	int above;

	if (fd < 0 || mount_setattr(fd, "", AT_EMPTY_PATH, &read_only, sizeof read_only) < 0)
		return error_errno(err, errno, "cannot make a read-only mount of %s", program);
	/* Above the numbers that a shim's descriptors get before it is executed. */
	above = fcntl(fd, F_DUPFD_CLOEXEC, SHIM_FD_RUNTIME + 1);
	return above < 0 ? error_errno(err, errno, "cannot keep a mount of %s", program) : above;
}

int container_driver_new(const struct driver_options *o, struct driver **ret, struct error *err)
{
	struct container_driver *d;

	if (o->root[0] != '/' || o->run[0] != '/' || o->cgroup_parent[0] != '/')
		return error_set(err, ERR_INVALID_ARGUMENT, "root, run and cgroup parent must be absolute paths");
	/* The overlay's options are a list: these would end an entry. */
	if (strpbrk(o->root, ",:\\"))
		return error_set(err, ERR_INVALID_ARGUMENT, "the state root %s must not hold a comma, colon or backslash",
				 o->root);
	d = calloc(1, sizeof *d);
	if (!d)
		return error_errno(err, ENOMEM, "cannot make the container driver");
	d->base.ops = &container_ops;
	d->shim_fd = -1;
	d->root = strdup(o->root);
	d->run = strdup(o->run);
	d->shim = strdup(o->shim);
	d->oci_runtime = strdup(o->oci_runtime ? o->oci_runtime : "auto");
	d->cgroup_parent = strdup(o->cgroup_parent);
	d->log_max_bytes = o->log_max_bytes;
	d->log_max_files = o->log_max_files;
	if (!d->root || !d->run || !d->shim || !d->oci_runtime || !d->cgroup_parent) {
		container_driver_free(&d->base);
		return error_errno(err, ENOMEM, "cannot make the container driver");
	}
	d->shim_fd = open_read_only(d->shim, err);
	if (d->shim_fd < 0) {
		container_driver_free(&d->base);
		return -1;
	}
	*ret = &d->base;
	return 0;
}
