/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "store_fixture.h"

#include "base/fs.h"
#include "runner.h"

#include <fcntl.h>
#include <stdlib.h>

const struct store_subnet subnet = { FIRST, FIRST + 252 };
char dir[64], path[96];
struct store *store;
struct error err;

static void set_up(void)
{
	snprintf(dir, sizeof dir, "/tmp/test-store-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/state.db", dir);
	reopen();
}

static void tear_down(void)
{
	store_close(store);
	error_release(&err);
	fs_remove_tree(AT_FDCWD, dir, NULL);
}

void reopen(void)
{
	store_close(store);
	store = NULL;
	ok(store_open(path, &store, &err));
}

int run_store_tests(const char *name, const TTest *const *tests, size_t n)
{
	Suite *suite = suite_create(name);
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 60);
	for (size_t i = 0; i < n; i++)
		tcase_add_test(tc, tests[i]);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}

/* ---- workloads to apply ---- */

void spec_init(struct spec *s, const char *name)
{
	*s = (struct spec){ .workload = CAPSULE__V1__WORKLOAD__INIT, .container = CAPSULE__V1__CONTAINER_SPEC__INIT };
	s->workload.name = (char *)(uintptr_t)name;
	s->workload.kind = CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_CONTAINER;
	s->workload.container = &s->container;
	s->workload.restart_policy = CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_ALWAYS;
	s->container.image = (char *)(uintptr_t)"docker.io/library/nginx:1.27";
	s->container.network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_BRIDGE;
	s->container.ports = s->port_list;
	s->container.mounts = s->mount_list;
}

void spec_port(struct spec *s, unsigned host_port, const char *protocol)
{
	size_t n = s->container.n_ports++;

	s->ports[n] = (Capsule__V1__PortMapping)CAPSULE__V1__PORT_MAPPING__INIT;
	s->ports[n].container_port = 80;
	s->ports[n].host_port = host_port;
	s->ports[n].protocol = (char *)(uintptr_t)protocol;
	s->port_list[n] = &s->ports[n];
}

void spec_mount(struct spec *s, const char *volume)
{
	size_t n = s->container.n_mounts++;

	s->mounts[n] = (Capsule__V1__VolumeMount)CAPSULE__V1__VOLUME_MOUNT__INIT;
	s->mounts[n].volume_name = (char *)(uintptr_t)volume;
	s->mounts[n].mount_path = (char *)(uintptr_t)"/data";
	s->mount_list[n] = &s->mounts[n];
}

int apply_one(const Capsule__V1__Workload *workload, const struct store_subnet *of, bool dry_run, struct store_workload *ret,
	      struct store_workload *ret_before, struct error *e)
{
	_cleanup_store_workload_ struct store_workload before = { 0 };
	Capsule__V1__Workload *one = (Capsule__V1__Workload *)(uintptr_t)workload;
	struct store_workload after = { 0 };

	if (store_apply(store, &one, 1, of, dry_run, &after, &before, e) < 0)
		return -1;
	*ret = after;
	if (ret_before) {
		*ret_before = before;
		before = (struct store_workload){ 0 };
	}
	return 0;
}

int apply(const struct spec *s, struct store_workload *ret)
{
	return apply_one(&s->workload, &subnet, false, ret, NULL, &err);
}

int apply_plain(const char *name)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };
	struct spec s;

	spec_init(&s, name);
	return apply(&s, &w);
}

void make_volume(const char *name)
{
	ok(store_volume_create(store, name, "file", VOLUME_SIZE, &err));
	ok(store_volume_set_ready(store, name, true, &err));
}

/* ---- what workloads have ---- */

uint32_t address_of(const char *name)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };

	ok(store_get(store, name, &w, &err));
	return w.address;
}

char *port_holder(const char *protocol, uint16_t port)
{
	char *name = NULL;

	ok(store_port_holder(store, protocol, port, &name, &err));
	return name;
}
