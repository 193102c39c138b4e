/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The container driver: one shim and one run of the OCI runtime a container. */
#include "runtime/driver.h"

#include "base/fs.h"
#include "runtime/container/bundle.h"
#include "runtime/container/exec_spec.h"
#include "runtime/container/root.h"
#include "runtime/holder.h"
#include "runtime/origin.h"
#include "shim/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mount.h>
#include <sys/stat.h>

/* Longer than the shim gives the OCI runtime. */
#define START_TIMEOUT_MS 90000

struct container_driver {
	struct driver_common common;
	char *shim, *oci_runtime;
	int shim_fd; /* the program on a read-only mount of its own; O_PATH */
};

static struct container_driver *container_of(struct driver *d)
{
	return (struct container_driver *)d;
}

/* ---- start ---- */

static int make_writable_layer(const struct places *p, const struct driver_plan *plan, struct error *err)
{
	const struct origin origin = {
		.generation = plan->generation, .image = plan->image->digest, .layers = plan->image->layers,
		.n_layers = plan->image->n_layers,
	};

	if (places_make_state(p, &origin, err) < 0)
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

	if (!rootfs)
		return error_errno(err, ENOMEM, "cannot make %s", p->run_dir);
	if (fs_mkdir_all(AT_FDCWD, p->runtime_root, 0700, err) < 0 || fs_mkdir_all(AT_FDCWD, rootfs, 0711, err) < 0)
		return -1;
	for (size_t i = 0; i < plan->n_volumes; i++) {
		_cleanup_free_ char *dir = fs_path("%s/%s", p->volumes_dir, plan->volumes[i].name);

		if (!dir || fs_mkdir_all(AT_FDCWD, dir, 0700, err) < 0)
			return dir ? -1 : error_errno(err, ENOMEM, "cannot make %s", p->volumes_dir);
	}
	return 0;
}

static void build_command(struct holder_command *c, const struct container_driver *d, const struct places *p,
			  const struct driver_plan *plan, const struct oci_runtime *runtime)
{
	holder_command_begin(c, d->shim, &d->common, p, plan);
	holder_add_option(c, "--runtime", runtime->program);
	holder_add_option(c, "--runtime-root", p->runtime_root);
	if (plan->netns_fd >= 0)
		holder_add_flag(c, "--netns");
	if (runtime->sealed_fd >= 0)
		holder_add_flag(c, "--sealed-runtime");
	if (runtime->is_crun && cgroup_mode() == CGROUP_HYBRID)
		holder_add_flag(c, "--hide-unified");
	if (runtime->is_crun)
		holder_add_flag(c, "--config-pipe");
	for (size_t i = 0; i < plan->n_volumes; i++)
		holder_add_made(c, "--volume", fs_path("%s:%s:%s", plan->volumes[i].name,
						       plan->volumes[i].read_only ? "ro" : "rw", plan->volumes[i].device));
	for (size_t i = 0; i < plan->image->n_layers; i++)
		holder_add_option(c, "--layer", plan->image->layers[i]);
	holder_command_end(c, plan->spec->name);
}

/* What a shim is given to mount and to run. */
struct contents {
	const struct places *places;
	const struct bundle *bundle;
};

static int prepare_contents(const void *arg, struct error *err)
{
	const struct contents *c = arg;

	return make_writable_layer(c->places, c->bundle->plan, err) < 0 ? -1 : bundle_write(c->bundle, err);
}

static int run_shim(const struct container_driver *d, const struct holder_command *command, const struct places *p,
		    const struct bundle *bundle, struct driver_instance *ret, struct error *err)
{
	_cleanup_close_ int dirfd = open(bundle->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const struct contents contents = { p, bundle };
	struct process_fd fds[2];
	char program[32];
	struct holder_start start = {
		.driver = &d->common, .command = command, .program = program, .dirfd = dirfd, .fds = fds, .prepare = prepare_contents,
		.arg = &contents, .timeout_ms = START_TIMEOUT_MS,
	};

	snprintf(program, sizeof program, "/proc/self/fd/%d", d->shim_fd);
	if (dirfd < 0)
		return error_errno(err, errno, "cannot open %s", bundle->run_dir);
	if (bundle->plan->netns_fd >= 0)
		fds[start.n_fds++] = (struct process_fd){ bundle->plan->netns_fd, SHIM_FD_NETNS };
	if (bundle->runtime->sealed_fd >= 0)
		fds[start.n_fds++] = (struct process_fd){ bundle->runtime->sealed_fd, SHIM_FD_RUNTIME };
	return holder_run(&start, ret, err);
}

static int prepare_and_run(struct container_driver *d, const struct places *p, const struct driver_plan *plan,
			   struct driver_instance *ret, struct error *err)
{
	_cleanup_holder_command_ struct holder_command command = { .n = 0 };
	_cleanup_oci_runtime_ struct oci_runtime runtime = { .sealed_fd = -1 };
	const struct bundle_payload payload = bundle_of_container(plan->spec->container);
	const struct bundle bundle = {
		.plan = plan, .payload = &payload, .runtime = &runtime, .run_dir = p->run_dir, .files_dir = p->run_dir,
		.volumes_dir = p->volumes_dir, .upper_dir = p->upper, .cgroup_path = p->cgroup,
		.cgroup_namespace = cgroup_mode() == CGROUP_V2, .counts_swap = cgroup_counts_swap(),
	};

	if (oci_runtime_find(d->oci_runtime, &runtime, err) < 0)
		return -1;
	if (make_run_dir(p, plan, err) < 0)
		return -1;
	build_command(&command, d, p, plan, &runtime);
	return run_shim(d, &command, p, &bundle, ret, err);
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
	_cleanup_places_ struct places p = { 0 };
	const char *name = plan->spec->name;

	if (plan->spec->kind != CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_CONTAINER || !plan->spec->container)
		return error_set(err, ERR_INVALID_ARGUMENT, "workload %s is not a container", name);
	if (places_prepare(&p, driver, plan, err) < 0)
		return -1;
	if (prepare_and_run_hastened(container_of(driver), &p, plan, ret, err) < 0) {
		if (err->code != ERR_CANCELLED)
			(void)places_cleanup(driver, name, NULL);
		oci_runtime_clarify(err);
		return error_wrap(err, "cannot start %s", name);
	}
	origin_read(p.state_dir, ret);
	return 0;
}

/* ---- recover ---- */

static int container_recover(struct driver *driver, const char *name, bool patient, struct driver_instance *ret,
			     struct error *err)
{
	_cleanup_places_ struct places p = { 0 };

	/* A start that was cut off before the OCI runtime knew of the container is no run. */
	if (places_init(&p, driver, name, err) < 0 || holder_find(driver, &p, name, p.runtime_state, patient, ret, err) < 0)
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

	if (places_init(&p, driver, name, err) < 0)
		return -1;
	r = pid ? root_of_process(pid, p.cgroup, ret, err) : root_of_last_run(p.state_dir, generation, ret, err);
	return r < 0 ? error_wrap(err, "workload %s", name) : 0;
}

/* ---- exec ---- */

static int prepare_exec(const struct places *places, const struct driver_exec *exec, struct driver_process *ret,
			struct error *err)
{
	_cleanup_close_ int dirfd = open(places->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dirfd < 0)
		return error_set(err, ERR_FAILED_PRECONDITION, "it is not running");
	if (exec_spec_prepare(dirfd, exec, ret, err) < 0)
		return -1;
	return holder_connect_process(dirfd, ret, err);
}

static int container_exec(struct driver *driver, const struct driver_exec *exec, struct driver_process *ret,
			  struct error *err)
{
	_cleanup_places_ struct places places = { 0 };

	*ret = DRIVER_PROCESS_NONE;
	if (places_init(&places, driver, exec->config->name, err) == 0 &&
	    prepare_exec(&places, exec, ret, err) == 0)
		return 0;
	driver_process_release(ret);
	return -1;
}

/* ---- the table ---- */

static void container_driver_free(struct driver *driver)
{
	struct container_driver *d = container_of(driver);

	free(d->shim);
	cleanup_closep(&d->shim_fd);
	free(d->oci_runtime);
	driver_common_release(&d->common);
	free(d);
}

static const struct driver_ops container_ops = {
	.name = "container",
	.start = container_start,
	.cleanup = places_cleanup,
	.remove = places_remove,
	.recover = container_recover,
	.root = container_root,
	.exec = container_exec,
	.leave = driver_common_leave,
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
	struct container_driver *d = calloc(1, sizeof *d);

	if (!d)
		return error_errno(err, ENOMEM, "cannot make the container driver");
	d->shim_fd = -1;
	if (driver_common_init(&d->common, &container_ops, o, err) < 0) {
		container_driver_free(&d->common.base);
		return -1;
	}
	d->shim = strdup(o->shim);
	d->oci_runtime = strdup(o->oci_runtime ? o->oci_runtime : "auto");
	if (!d->shim || !d->oci_runtime) {
		container_driver_free(&d->common.base);
		return error_errno(err, ENOMEM, "cannot make the container driver");
	}
	/* The overlay's options are a list: these would end an entry. */
	if (strpbrk(o->root, ",:\\")) {
		container_driver_free(&d->common.base);
		return error_set(err, ERR_INVALID_ARGUMENT, "the state root %s must not hold a comma, colon or backslash",
				 o->root);
	}
	d->shim_fd = open_read_only(d->shim, err);
	if (d->shim_fd < 0) {
		container_driver_free(&d->common.base);
		return -1;
	}
	*ret = &d->common.base;
	return 0;
}
