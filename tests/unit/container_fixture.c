/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "container_fixture.h"

#include "base/buf.h"
#include "base/fs.h"
#include "base/process.h"
#include "shim/cgroup.h"
#include "shim/protocol.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>

static const char *const applets[] = { "sh", "true", "false", "cat", "echo", "id", "ls", "sleep", "mount", "ps", "dd",
				       "mkdir", "hostname", "env", "pwd", "seq", "kill", "wc", "tail", "touch", "head", "df" };

const char *fixture_missing(void)
{
	if (geteuid() != 0)
		return "root";
	if (access("/bin/busybox", X_OK) < 0)
		return "busybox-static";
	if (access("/usr/bin/crun", X_OK) < 0)
		return "crun";
	return NULL;
}

static void copy_file(const char *from, const char *to, mode_t mode)
{
	char *data;
	size_t len;
	int fd;

	ck_assert_int_eq(fs_read(AT_FDCWD, from, 16 << 20, &data, &len, NULL), 0);
	fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, mode);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fs_write_all(fd, data, len), 0);
	close(fd);
	free(data);
}

static void make_layer(struct fixture *f)
{
	static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/sh\n";
	static const char group[] = "root:x:0:\nweb:x:33:\nlogs:x:44:other,web\n";
	char path[256];

	snprintf(path, sizeof path, "%s/bin", f->layer);
	ck_assert_int_eq(fs_mkdir_all(AT_FDCWD, path, 0755, NULL), 0);
	snprintf(path, sizeof path, "%s/etc", f->layer);
	ck_assert_int_eq(fs_mkdir_all(AT_FDCWD, path, 0755, NULL), 0);
	snprintf(path, sizeof path, "%s/tmp", f->layer);
	ck_assert_int_eq(fs_mkdir_all(AT_FDCWD, path, 01777, NULL), 0);
	snprintf(path, sizeof path, "%s/bin/busybox", f->layer);
	copy_file("/bin/busybox", path, 0755);
	for (size_t i = 0; i < sizeof applets / sizeof applets[0]; i++) {
		snprintf(path, sizeof path, "%s/bin/%s", f->layer, applets[i]);
		ck_assert_int_eq(symlink("busybox", path), 0);
	}
	snprintf(path, sizeof path, "%s/etc/passwd", f->layer);
	ck_assert_int_eq(fs_write_replace(AT_FDCWD, path, passwd, strlen(passwd), 0644, NULL), 0);
	snprintf(path, sizeof path, "%s/etc/group", f->layer);
	ck_assert_int_eq(fs_write_replace(AT_FDCWD, path, group, strlen(group), 0644, NULL), 0);
	snprintf(path, sizeof path, "%s/bin/garbage", f->layer);
	ck_assert_int_eq(fs_write_replace(AT_FDCWD, path, "\1\2\3\4", 4, 0755, NULL), 0);
}

void fixture_init(struct fixture *f, const char *runtime)
{
	const char *shim = getenv("CAPSULE_SHIM");

	memset(f, 0, sizeof *f);
	ck_assert_msg(shim != NULL, "CAPSULE_SHIM does not name the program");
	ck_assert_ptr_nonnull(realpath(shim, f->shim));
	snprintf(f->dir, sizeof f->dir, "/tmp/capsule-test-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(f->dir));
	chmod(f->dir, 0755);
	snprintf(f->root, sizeof f->root, "%s/root", f->dir);
	snprintf(f->run, sizeof f->run, "%s/run", f->dir);
	snprintf(f->layer, sizeof f->layer, "%s/layers/one", f->root);
	snprintf(f->cgroup, sizeof f->cgroup, "/capsule-test-%d", (int)getpid());
	make_layer(f);
	f->options = (struct driver_options){
		.root = f->root, .run = f->run, .shim = f->shim, .oci_runtime = runtime, .cgroup_parent = f->cgroup,
		.log_max_bytes = 1 << 20, .log_max_files = 3,
	};
	ck_assert_int_eq(container_driver_new(&f->options, &f->driver, NULL), 0);
	f->layers[0] = f->layer;
	f->image = (struct image){
		.reference = (char *)"docker.io/library/busybox:test", .digest = (char *)"sha256:1",
		 .layers = f->layers, .n_layers = 1,
		.config = { .entrypoint = f->none, .cmd = f->none, .env = f->none },
	};
}

static void remove_one(const char *name, void *arg)
{
	struct fixture *f = arg;
	struct error err = ERROR_INIT;

	ck_assert_msg(f->driver->ops->remove(f->driver, name, &err) == 0, "%s", error_message(&err));
}

void fixture_release(struct fixture *f)
{
	struct error err = ERROR_INIT;

	ck_assert_int_eq(driver_enumerate(&f->options, remove_one, f, NULL), 0);
	f->driver->ops->free(f->driver);
	ck_assert_msg(cgroup_remove(f->cgroup, &err) == 0, "%s", error_message(&err));
	ck_assert_msg(fs_remove_tree(AT_FDCWD, f->dir, &err) == 0, "%s", error_message(&err));
}

Capsule__V1__Workload *fixture_workload(const char *name, const char *script)
{
	Capsule__V1__Workload *w = malloc(sizeof *w);
	Capsule__V1__ContainerSpec *c = malloc(sizeof *c);

	capsule__v1__workload__init(w);
	capsule__v1__container_spec__init(c);
	w->name = strdup(name);
	w->kind = CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_CONTAINER;
	w->container = c;
	c->image = strdup("busybox:test");
	c->command = calloc(3, sizeof *c->command);
	c->command[c->n_command++] = strdup("/bin/sh");
	c->command[c->n_command++] = strdup("-c");
	c->command[c->n_command++] = strdup(script);
	return w;
}

void fixture_workload_free(Capsule__V1__Workload *w)
{
	capsule__v1__workload__free_unpacked(w, NULL);
}

int fixture_start(struct fixture *f, const Capsule__V1__Workload *w, struct driver_instance *ret, struct error *err)
{
	struct driver_plan plan = {
		.spec = w, .generation = 7, .image = &f->image, .netns_fd = -1, .resolv_conf = "nameserver 192.0.2.1\n",
	};

	return f->driver->ops->start(f->driver, &plan, ret, err);
}

void fixture_wait(struct driver_instance *i, struct shim_result *ret)
{
	struct pollfd p = { .fd = i->shim_fd, .events = POLLIN };
	struct shim_message m;

	do {
		ck_assert_msg(poll(&p, 1, 30000) == 1, "the workload does not end");
		ck_assert_int_eq(shim_receive(i->shim_fd, &m), 1);
	} while (m.type != SHIM_EXIT);
	*ret = m.body.result;
	driver_instance_release(i);
}

void fixture_stop(const struct driver_instance *i, int sig, int64_t grace_ms)
{
	struct shim_stop stop = { .signal = sig, .grace_ms = grace_ms };

	ck_assert_int_eq(shim_send(i->shim_fd, SHIM_STOP, &stop, sizeof stop), 0);
}

char *fixture_output(struct fixture *f, const char *name)
{
	struct buf out = BUF_INIT(16 << 20);
	char path[256], *log, *line, *rest;
	struct error err = ERROR_INIT;

	snprintf(path, sizeof path, "%s/workloads/%s/payload.log", f->root, name);
	ck_assert_msg(fs_read(AT_FDCWD, path, 16 << 20, &log, NULL, &err) == 0, "%s", error_message(&err));
	rest = log;
	while ((line = strsep(&rest, "\n")) && rest) {
		char *stream = strchr(line, ' '), *tag = strchr(stream + 1, ' '), *data = strchr(tag + 1, ' ');

		buf_adds(&out, data + 1);
		if (tag[1] == 'F')
			buf_addc(&out, '\n');
	}
	free(log);
	return buf_steal(&out);
}
