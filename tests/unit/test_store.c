/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The store on real files: what is recorded, what is refused, and what is left after crashes and full disks. */
#include "base/fs.h"
#include "store/store.h"

#include "runner.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define RUNNING CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING
#define STOPPED CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_STOPPED
#define DELETING CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING

#define FIRST 0xac14fe02u /* 172.20.254.2 */

static const struct store_subnet subnet = { FIRST, FIRST + 252 };

static char dir[64], path[96];
static struct store *store;
static struct error err;

static void set_up(void)
{
	snprintf(dir, sizeof dir, "/tmp/test-store-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/state.db", dir);
	ck_assert_msg(store_open(path, &store, &err) == 0, "%s", error_message(&err));
}

static void tear_down(void)
{
	store_close(store);
	error_release(&err);
	fs_remove_tree(AT_FDCWD, dir, NULL);
}

static void reopen(void)
{
	store_close(store);
	store = NULL;
	ck_assert_msg(store_open(path, &store, &err) == 0, "%s", error_message(&err));
}

#define ok(call) ck_assert_msg((call) == 0, "%s", error_message(&err))
#define refused(call, expected, text)                                                                                 \
	do {                                                                                                          \
		ck_assert_int_lt((call), 0);                                                                          \
		ck_assert_msg(err.code == (expected), "%s: %s", error_code_name(err.code), error_message(&err));      \
		ck_assert_msg(strstr(error_message(&err), text) != NULL, "\"%s\" lacks \"%s\"",                      \
			      error_message(&err), text);                                                             \
		error_release(&err);                                                                                  \
	} while (0)

/* ---- workloads to apply ---- */

#define PORTS_MAX 4
#define MOUNTS_MAX 4

struct spec {
	Capsule__V1__Workload workload;
	Capsule__V1__ContainerSpec container;
	Capsule__V1__PortMapping ports[PORTS_MAX], *port_list[PORTS_MAX];
	Capsule__V1__VolumeMount mounts[MOUNTS_MAX], *mount_list[MOUNTS_MAX];
};

static void spec_init(struct spec *s, const char *name)
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

static void spec_port(struct spec *s, unsigned host_port, const char *protocol)
{
	size_t n = s->container.n_ports++;

	s->ports[n] = (Capsule__V1__PortMapping)CAPSULE__V1__PORT_MAPPING__INIT;
	s->ports[n].container_port = 80;
	s->ports[n].host_port = host_port;
	s->ports[n].protocol = (char *)(uintptr_t)protocol;
	s->port_list[n] = &s->ports[n];
}

static void spec_mount(struct spec *s, const char *volume)
{
	size_t n = s->container.n_mounts++;

	s->mounts[n] = (Capsule__V1__VolumeMount)CAPSULE__V1__VOLUME_MOUNT__INIT;
	s->mounts[n].volume_name = (char *)(uintptr_t)volume;
	s->mounts[n].mount_path = (char *)(uintptr_t)"/data";
	s->mount_list[n] = &s->mounts[n];
}

static int apply(const struct spec *s, struct store_workload *ret)
{
	return store_apply(store, &s->workload, &subnet, false, ret, NULL, &err);
}

static int apply_plain(const char *name)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };
	struct spec s;

	spec_init(&s, name);
	return apply(&s, &w);
}

static uint32_t address_of(const char *name)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };

	ok(store_get(store, name, &w, &err));
	return w.address;
}

static void make_volume(const char *name)
{
	ok(store_volume_create(store, name, "file", 1 << 30, &err));
	ok(store_volume_set_ready(store, name, true, &err));
}

/* ---- specs ---- */

START_TEST(apply_records_and_survives_reopening)
{
	_cleanup_store_workload_ struct store_workload made = { 0 }, before = { 0 }, got = { 0 };
	struct spec s;

	spec_init(&s, "web");
	spec_port(&s, 8080, "tcp");
	ok(store_apply(store, &s.workload, &subnet, false, &made, &before, &err));
	ck_assert_ptr_null(before.spec);
	ck_assert_int_eq(made.spec->desired_state, RUNNING);
	ck_assert_uint_eq(made.address, FIRST);
	ck_assert_uint_eq(made.revision, made.generation);
	ck_assert_int_gt(made.created_at_ns, 0);
	reopen();
	ok(store_get(store, "web", &got, &err));
	ck_assert_str_eq(got.spec->container->image, "docker.io/library/nginx:1.27");
	ck_assert_uint_eq(got.spec->container->n_ports, 1);
	ck_assert_ptr_null(got.spec->status);
	ck_assert_uint_eq(got.revision, made.revision);
	ck_assert_uint_eq(got.address, made.address);
	ck_assert_int_eq(got.created_at_ns, made.created_at_ns);
	ck_assert_int_eq(got.spec->created_at_unix, made.created_at_ns / 1000000000);
}
END_TEST

START_TEST(equal_apply_changes_nothing)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, before = { 0 };
	Capsule__V1__WorkloadStatus status = CAPSULE__V1__WORKLOAD_STATUS__INIT;
	struct spec s;

	spec_init(&s, "web");
	ok(apply(&s, &a));
	s.workload.status = &status; /* what the daemon sets does not count */
	s.workload.created_at_unix = 7;
	ok(store_apply(store, &s.workload, &subnet, false, &b, &before, &err));
	ck_assert_uint_eq(b.revision, a.revision);
	ck_assert_uint_eq(b.generation, a.generation);
	ck_assert_uint_eq(before.revision, a.revision);
}
END_TEST

START_TEST(generation_follows_the_process)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
	struct spec s;

	spec_init(&s, "web");
	ok(apply(&s, &a));
	s.workload.restart_policy = CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_NEVER;
	ok(apply(&s, &b));
	ck_assert_uint_gt(b.revision, a.revision);
	ck_assert_uint_eq(b.generation, a.generation);
	s.workload.stop_grace_case = CAPSULE__V1__WORKLOAD__STOP_GRACE_STOP_GRACE_PERIOD_SECONDS;
	s.workload.stop_grace_period_seconds = 0;
	ok(apply(&s, &c));
	ck_assert_uint_gt(c.revision, b.revision);
	ck_assert_uint_eq(c.generation, a.generation);
	ck_assert_int_eq(c.spec->stop_grace_case, CAPSULE__V1__WORKLOAD__STOP_GRACE_STOP_GRACE_PERIOD_SECONDS);
	s.container.privileged = true;
	ok(apply(&s, &d));
	ck_assert_uint_gt(d.generation, a.generation);
	ck_assert_uint_eq(d.generation, d.revision);
	ck_assert_int_eq(d.created_at_ns, a.created_at_ns);
}
END_TEST

START_TEST(revision_is_never_given_twice)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 };
	struct spec s;

	spec_init(&s, "web");
	ok(apply(&s, &a));
	ok(store_remove(store, "web", &err));
	reopen();
	ok(apply(&s, &b));
	ck_assert_uint_gt(b.revision, a.revision);
	ck_assert_uint_gt(b.generation, a.generation);
}
END_TEST

START_TEST(desired_state_is_kept_unless_set)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
	struct spec s;

	spec_init(&s, "web");
	ok(apply(&s, &a));
	ok(store_set_desired(store, "web", STOPPED, &b, &err));
	ck_assert_uint_gt(b.revision, a.revision);
	ck_assert_uint_eq(b.generation, a.generation);
	s.container.host_ipc = true;
	ok(apply(&s, &c));
	ck_assert_int_eq(c.spec->desired_state, STOPPED);
	s.workload.desired_state = RUNNING;
	ok(apply(&s, &d));
	ck_assert_int_eq(d.spec->desired_state, RUNNING);
	ck_assert_uint_eq(d.generation, c.generation);
}
END_TEST

START_TEST(deleting_is_final)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 };
	struct spec s;

	spec_init(&s, "web");
	ok(apply(&s, &a));
	store_workload_release(&a);
	ok(store_set_desired(store, "web", DELETING, &a, &err));
	refused(apply(&s, &b), ERR_FAILED_PRECONDITION, "workload web is being deleted");
	refused(store_set_desired(store, "web", RUNNING, &b, &err), ERR_FAILED_PRECONDITION, "is being deleted");
	refused(store_set_desired(store, "web", STOPPED, &b, &err), ERR_FAILED_PRECONDITION, "is being deleted");
	ok(store_set_desired(store, "web", DELETING, &b, &err));
	ck_assert_uint_eq(b.revision, a.revision);
	s.workload.desired_state = DELETING;
	s.workload.name = (char *)(uintptr_t)"other";
	refused(apply(&s, &b), ERR_INVALID_ARGUMENT, "delete it instead");
}
END_TEST

START_TEST(what_is_missing_is_said)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };
	_cleanup_store_volume_ struct store_volume v = { 0 };

	refused(store_get(store, "ghost", &w, &err), ERR_NOT_FOUND, "no workload ghost");
	refused(store_set_desired(store, "ghost", RUNNING, &w, &err), ERR_NOT_FOUND, "no workload ghost");
	refused(store_begin_run(store, "ghost", 1, &err), ERR_NOT_FOUND, "no workload ghost");
	refused(store_volume_get(store, "ghost", &v, &err), ERR_NOT_FOUND, "no volume ghost");
	refused(store_volume_set_ready(store, "ghost", true, &err), ERR_NOT_FOUND, "no volume ghost");
	refused(store_volume_set_size(store, "ghost", 1, &err), ERR_NOT_FOUND, "no volume ghost");
	refused(store_volume_begin_delete(store, "ghost", false, &err), ERR_NOT_FOUND, "no volume ghost");
	ok(store_remove(store, "ghost", &err));
	ok(store_volume_remove(store, "ghost", &err));
	ok(store_release_claims(store, "ghost", false, 1, &err));
	ok(store_set_completed(store, "ghost", 1, 0, 0, &err));
}
END_TEST

START_TEST(list_is_by_name)
{
	struct store_workload *all;
	size_t n;

	ok(store_list(store, &all, &n, &err));
	ck_assert_uint_eq(n, 0);
	free(all);
	ok(apply_plain("b"));
	ok(apply_plain("a"));
	ok(apply_plain("c"));
	ok(store_list(store, &all, &n, &err));
	ck_assert_uint_eq(n, 3);
	ck_assert_str_eq(all[0].spec->name, "a");
	ck_assert_str_eq(all[2].spec->name, "c");
	for (size_t i = 0; i < n; i++)
		store_workload_release(&all[i]);
	free(all);
}
END_TEST

START_TEST(completion_is_kept_until_a_new_run_is_wanted)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 }, e = { 0 };
	struct spec s;

	spec_init(&s, "job");
	ok(apply(&s, &a));
	ck_assert(!a.completed);
	ok(store_set_completed(store, "job", a.generation + 1, 1, 5, &err)); /* of another generation: ignored */
	ok(store_get(store, "job", &b, &err));
	ck_assert(!b.completed);
	ok(store_set_completed(store, "job", a.generation, 3, 12345, &err));
	reopen();
	ok(apply(&s, &c)); /* equal: nothing to run again */
	ck_assert(c.completed);
	ck_assert_int_eq(c.exit_code, 3);
	ck_assert_int_eq(c.finished_at_ns, 12345);
	ok(store_set_desired(store, "job", RUNNING, &d, &err));
	ck_assert(!d.completed);
	ck_assert_uint_gt(d.revision, c.revision);
	ok(store_set_completed(store, "job", a.generation, 0, 9, &err));
	s.container.host_pid = true;
	ok(apply(&s, &e));
	ck_assert(!e.completed);
	ck_assert_int_eq(e.finished_at_ns, 0);
}
END_TEST

/* ---- addresses ---- */

START_TEST(lease_goes_on_and_wraps_around)
{
	static const struct store_subnet small = { FIRST, FIRST + 2 };
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
	struct spec s;

	spec_init(&s, "a");
	ok(store_apply(store, &s.workload, &small, false, &a, NULL, &err));
	ok(store_remove(store, "a", &err));
	spec_init(&s, "b");
	ok(store_apply(store, &s.workload, &small, false, &b, NULL, &err));
	ck_assert_uint_eq(b.address, FIRST + 1); /* not the one that was just given back */
	spec_init(&s, "c");
	ok(store_apply(store, &s.workload, &small, false, &c, NULL, &err));
	ck_assert_uint_eq(c.address, FIRST + 2);
	spec_init(&s, "d");
	ok(store_apply(store, &s.workload, &small, false, &d, NULL, &err));
	ck_assert_uint_eq(d.address, FIRST);
	spec_init(&s, "e");
	refused(store_apply(store, &s.workload, &small, false, &d, NULL, &err), ERR_RESOURCE_EXHAUSTED,
		"172.20.254.2 to 172.20.254.4");
	refused(store_get(store, "e", &d, &err), ERR_NOT_FOUND, "no workload e");
}
END_TEST

START_TEST(network_mode_gives_and_takes_the_lease)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 };
	struct spec s;

	spec_init(&s, "web");
	s.container.network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_HOST;
	ok(apply(&s, &a));
	ck_assert_uint_eq(a.address, 0);
	s.container.network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_BRIDGE;
	ok(apply(&s, &b));
	ck_assert_uint_eq(b.address, FIRST);
	s.container.network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_HOST;
	ok(apply(&s, &c));
	ck_assert_uint_eq(c.address, 0);
	ck_assert_uint_eq(address_of("web"), 0);
}
END_TEST

START_TEST(micro_vm_always_has_an_address)
{
	Capsule__V1__MicroVMSpec vm = CAPSULE__V1__MICRO_VMSPEC__INIT;
	_cleanup_store_workload_ struct store_workload a = { 0 };
	struct spec s;

	spec_init(&s, "vm");
	s.workload.kind = CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_MICRO_VM;
	s.workload.container = NULL;
	s.workload.micro_vm = &vm;
	ok(apply(&s, &a));
	ck_assert_uint_eq(a.address, FIRST);
}
END_TEST

START_TEST(another_subnet_moves_the_leases)
{
	static const struct store_subnet other = { 0x0a000002, 0x0a000003 };
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 };
	struct spec s;

	spec_init(&s, "a");
	ok(apply(&s, &a));
	ok(apply_plain("b"));
	ok(store_adopt_subnet(store, &subnet, &err));
	ck_assert_uint_eq(address_of("a"), a.address);
	ok(store_adopt_subnet(store, &other, &err));
	ok(store_get(store, "a", &b, &err));
	ck_assert_uint_ge(b.address, other.first);
	ck_assert_uint_le(b.address, other.last);
	ck_assert_uint_ne(b.address, address_of("b"));
	ck_assert_uint_gt(b.generation, a.generation);
}
END_TEST

/* ---- ports ---- */

static char *port_holder(const char *protocol, uint16_t port)
{
	char *name = NULL;

	ok(store_port_holder(store, protocol, port, &name, &err));
	return name;
}

START_TEST(port_belongs_to_one)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 };
	_cleanup_free_ char *holder = NULL;
	struct spec web, other;

	spec_init(&web, "web");
	spec_port(&web, 8080, "tcp");
	ok(apply(&web, &a));
	spec_init(&other, "other");
	spec_port(&other, 8080, "udp");
	spec_port(&other, 8080, "tcp");
	refused(apply(&other, &b), ERR_FAILED_PRECONDITION, "host port 8080/tcp is taken by workload web");
	ck_assert_ptr_null(port_holder("udp", 8080)); /* nothing is half taken */
	refused(store_get(store, "other", &b, &err), ERR_NOT_FOUND, "other");
	holder = port_holder("", 8080);
	ck_assert_str_eq(holder, "web");
	ok(store_remove(store, "web", &err));
	ok(apply(&other, &b));
}
END_TEST

START_TEST(changed_ports_replace_the_former)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 };
	_cleanup_free_ char *holder = NULL;
	struct spec s;

	spec_init(&s, "web");
	spec_port(&s, 8080, "tcp");
	ok(apply(&s, &a));
	s.ports[0].host_port = 8081;
	ok(apply(&s, &b));
	ck_assert_ptr_null(port_holder("tcp", 8080));
	holder = port_holder("tcp", 8081);
	ck_assert_str_eq(holder, "web");
	spec_port(&s, 8081, "tcp");
	refused(apply(&s, &c), ERR_INVALID_ARGUMENT, "8081/tcp twice");
}
END_TEST

/* ---- claims ---- */

START_TEST(volume_has_one_holder)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 };
	_cleanup_store_volume_ struct store_volume v = { 0 };
	struct spec first, second;

	make_volume("data");
	spec_init(&first, "first");
	spec_mount(&first, "data");
	spec_mount(&first, "data");
	ok(apply(&first, &a));
	spec_init(&second, "second");
	spec_mount(&second, "data");
	refused(apply(&second, &b), ERR_FAILED_PRECONDITION, "volume data is in use by workload first");
	second.workload.desired_state = STOPPED; /* may name it, but not run */
	ok(apply(&second, &b));
	store_workload_release(&b);
	refused(store_set_desired(store, "second", RUNNING, &b, &err), ERR_FAILED_PRECONDITION,
		"in use by workload first");
	refused(store_begin_run(store, "second", 1, &err), ERR_FAILED_PRECONDITION, "shall not run");
	store_workload_release(&a);
	ok(store_set_desired(store, "first", STOPPED, &a, &err)); /* its process may still run: the claim stays */
	refused(store_set_desired(store, "second", RUNNING, &b, &err), ERR_FAILED_PRECONDITION,
		"in use by workload first");
	ok(store_release_claims(store, "first", false, a.revision, &err));
	ok(store_set_desired(store, "second", RUNNING, &b, &err));
	ok(store_volume_get(store, "data", &v, &err));
	ck_assert_str_eq(v.claimed_by, "second");
}
END_TEST

START_TEST(claims_of_a_former_spec_stay_until_released)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
	struct spec s, other;

	make_volume("one");
	make_volume("two");
	spec_init(&s, "web");
	spec_mount(&s, "one");
	ok(apply(&s, &a));
	s.mounts[0].volume_name = (char *)(uintptr_t)"two";
	ok(apply(&s, &b));
	spec_init(&other, "other");
	spec_mount(&other, "one");
	refused(apply(&other, &c), ERR_FAILED_PRECONDITION, "volume one is in use by workload web");
	ok(store_release_claims(store, "web", true, b.revision, &err));
	ok(apply(&other, &c));
	other.mounts[0].volume_name = (char *)(uintptr_t)"two";
	refused(apply(&other, &d), ERR_FAILED_PRECONDITION, "volume two is in use by workload web");
	ok(store_release_claims(store, "web", false, b.revision, &err));
	ok(store_begin_run(store, "web", b.generation, &err));
	ok(store_begin_run(store, "web", b.generation, &err));
}
END_TEST

START_TEST(a_newer_wish_to_run_keeps_its_claims)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, stopped = { 0 }, again = { 0 };
	_cleanup_store_volume_ struct store_volume v = { 0 }, w = { 0 };
	struct spec s;

	make_volume("data");
	spec_init(&s, "web");
	spec_mount(&s, "data");
	ok(apply(&s, &a));
	ok(store_set_desired(store, "web", STOPPED, &stopped, &err));
	ok(store_set_desired(store, "web", RUNNING, &again, &err));
	ok(store_release_claims(store, "web", false, stopped.revision, &err)); /* decided before it was started again */
	ok(store_volume_get(store, "data", &v, &err));
	ck_assert_str_eq(v.claimed_by, "web");
	ok(store_release_claims(store, "web", false, again.revision, &err));
	ok(store_volume_get(store, "data", &w, &err));
	ck_assert_ptr_null(w.claimed_by);
}
END_TEST

START_TEST(a_run_begins_with_the_claims_of_its_spec_only)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 };
	_cleanup_store_volume_ struct store_volume v = { 0 }, w = { 0 };
	struct spec s;

	make_volume("one");
	make_volume("two");
	spec_init(&s, "web");
	spec_mount(&s, "one");
	ok(apply(&s, &a));
	s.mounts[0].volume_name = (char *)(uintptr_t)"two";
	ok(apply(&s, &b));
	refused(store_begin_run(store, "web", a.generation, &err), ERR_FAILED_PRECONDITION, "changed meanwhile");
	ok(store_set_completed(store, "web", b.generation, 3, 1, &err));
	ok(store_begin_run(store, "web", b.generation, &err));
	ok(store_volume_get(store, "one", &v, &err));
	ck_assert_ptr_null(v.claimed_by);
	ok(store_volume_get(store, "two", &w, &err));
	ck_assert_str_eq(w.claimed_by, "web");
	ok(store_get(store, "web", &c, &err));
	ck_assert(!c.completed);
}
END_TEST

START_TEST(volume_must_be_there)
{
	_cleanup_store_workload_ struct store_workload a = { 0 };
	struct spec s;

	spec_init(&s, "web");
	spec_mount(&s, "data");
	refused(apply(&s, &a), ERR_NOT_FOUND, "volume data");
	ok(store_volume_create(store, "data", "file", 1 << 30, &err));
	refused(apply(&s, &a), ERR_FAILED_PRECONDITION, "volume data is still being made");
	ok(store_volume_set_ready(store, "data", true, &err));
	ok(store_volume_begin_delete(store, "data", false, &err));
	refused(apply(&s, &a), ERR_FAILED_PRECONDITION, "volume data is being deleted");
}
END_TEST

/* ---- volumes ---- */

START_TEST(volume_lives_and_goes)
{
	_cleanup_store_volume_ struct store_volume v = { 0 }, w = { 0 };
	struct store_volume *all;
	size_t n;

	ok(store_volume_create(store, "data", "file", 1 << 30, &err));
	refused(store_volume_create(store, "data", "file", 1 << 30, &err), ERR_ALREADY_EXISTS, "volume data exists");
	ok(store_volume_get(store, "data", &v, &err));
	ck_assert(!v.ready && !v.deleting);
	ck_assert_str_eq(v.backend, "file");
	refused(store_volume_set_size(store, "data", 2ull << 30, &err), ERR_FAILED_PRECONDITION, "being made");
	ok(store_volume_set_ready(store, "data", true, &err));
	refused(store_volume_set_size(store, "data", 1 << 20, &err), ERR_FAILED_PRECONDITION, "cannot shrink to 1 MiB");
	ok(store_volume_set_size(store, "data", 2ull << 30, &err));
	refused(store_volume_remove(store, "data", &err), ERR_FAILED_PRECONDITION, "holds data");
	reopen();
	ok(store_volume_list(store, &all, &n, &err));
	ck_assert_uint_eq(n, 1);
	ck_assert_uint_eq(all[0].size_bytes, 2ull << 30);
	ck_assert(all[0].ready);
	ck_assert_ptr_null(all[0].claimed_by);
	store_volume_release(&all[0]);
	free(all);
	ok(store_volume_undo_size(store, "data", 1 << 30, &err));
	ok(store_volume_begin_delete(store, "data", false, &err));
	ok(store_volume_begin_delete(store, "data", false, &err));
	refused(store_volume_set_ready(store, "data", true, &err), ERR_FAILED_PRECONDITION, "being deleted");
	refused(store_volume_create(store, "data", "file", 1 << 30, &err), ERR_ALREADY_EXISTS, "being deleted");
	ok(store_volume_get(store, "data", &w, &err));
	ck_assert(!w.ready && w.deleting);
	ok(store_volume_remove(store, "data", &err));
	ok(store_volume_create(store, "data", "file", 1 << 30, &err));
}
END_TEST

START_TEST(volume_in_use_is_not_deleted)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 };
	struct spec s;

	make_volume("data");
	spec_init(&s, "web");
	spec_mount(&s, "data");
	ok(apply(&s, &a));
	spec_init(&s, "batch");
	spec_mount(&s, "data");
	s.workload.desired_state = STOPPED;
	ok(apply(&s, &b));
	refused(store_volume_set_size(store, "data", 2ull << 30, &err), ERR_FAILED_PRECONDITION,
		"in use by workload web");
	refused(store_volume_begin_delete(store, "data", false, &err), ERR_FAILED_PRECONDITION, "workloads batch, web");
	refused(store_volume_begin_delete(store, "data", true, &err), ERR_FAILED_PRECONDITION,
		"in use by workload web");
	ok(store_release_claims(store, "web", false, a.revision, &err));
	refused(store_volume_begin_delete(store, "data", false, &err), ERR_FAILED_PRECONDITION, "batch, web");
	ok(store_volume_begin_delete(store, "data", true, &err));
	refused(store_begin_run(store, "web", a.generation, &err), ERR_FAILED_PRECONDITION, "being deleted");
	ok(store_volume_remove(store, "data", &err));
	refused(store_begin_run(store, "web", a.generation, &err), ERR_NOT_FOUND, "volume data");
}
END_TEST

/* ---- trials ---- */

START_TEST(dry_run_tells_and_changes_nothing)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, before = { 0 }, c = { 0 };
	_cleanup_store_volume_ struct store_volume v = { 0 };
	struct spec s;

	make_volume("data");
	spec_init(&s, "web");
	spec_port(&s, 8080, "tcp");
	spec_mount(&s, "data");
	ok(store_apply(store, &s.workload, &subnet, true, &a, &before, &err));
	ck_assert_str_eq(a.spec->name, "web");
	ck_assert_uint_eq(a.address, FIRST);
	refused(store_get(store, "web", &b, &err), ERR_NOT_FOUND, "web");
	ck_assert_ptr_null(port_holder("tcp", 8080));
	ok(store_volume_get(store, "data", &v, &err));
	ck_assert_ptr_null(v.claimed_by);
	ok(apply(&s, &b));
	ck_assert_uint_eq(b.address, FIRST);
	ck_assert_uint_eq(b.revision, a.revision);
	spec_init(&s, "other");
	spec_port(&s, 8080, "tcp");
	refused(store_apply(store, &s.workload, &subnet, true, &c, NULL, &err), ERR_FAILED_PRECONDITION, "8080/tcp");
}
END_TEST

START_TEST(meta_is_kept)
{
	_cleanup_free_ char *none = NULL, *value = NULL, *first = NULL, *second = NULL;

	ok(store_meta_get(store, "id", &none, &err));
	ck_assert_ptr_null(none);
	ok(store_meta_set(store, "id", "one", &err));
	ok(store_meta_set(store, "id", "two", &err));
	reopen();
	ok(store_meta_get(store, "id", &value, &err));
	ck_assert_str_eq(value, "two");
	ok(store_meta_default(store, "key", "first", &first, &err));
	ok(store_meta_default(store, "key", "second", &second, &err));
	ck_assert_str_eq(first, "first");
	ck_assert_str_eq(second, "first");
}
END_TEST

/* ---- threads ---- */

#define THREADS 6
#define ROUNDS 20

static void *apply_many(void *arg)
{
	int me = (int)(intptr_t)arg;

	for (int i = 0; i < ROUNDS; i++) {
		_cleanup_store_workload_ struct store_workload w = { 0 }, got = { 0 };
		_cleanup_error_ struct error e = ERROR_INIT;
		char name[32];
		struct spec s;
		int won;

		snprintf(name, sizeof name, "w-%d-%d", me, i);
		spec_init(&s, name);
		spec_port(&s, 1000 + (unsigned)i, "tcp"); /* every thread wants the same port: one gets it */
		won = store_apply(store, &s.workload, &subnet, false, &w, NULL, &e);
		if (won < 0 && e.code != ERR_FAILED_PRECONDITION)
			return strdup(error_message(&e));
		if ((store_get(store, name, &got, NULL) == 0) != (won == 0))
			return strdup("what was refused is there, or what was accepted is not");
	}
	return NULL;
}

START_TEST(threads_share_the_store)
{
	pthread_t threads[THREADS];
	struct store_workload *all;
	bool used[256] = { false };
	size_t n;

	for (int i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, apply_many, (void *)(intptr_t)i), 0);
	for (int i = 0; i < THREADS; i++) {
		void *failure;

		pthread_join(threads[i], &failure);
		ck_assert_msg(!failure, "%s", (char *)failure);
	}
	ok(store_list(store, &all, &n, &err));
	ck_assert_uint_eq(n, ROUNDS); /* one winner a port */
	for (size_t i = 0; i < n; i++) {
		ck_assert(!used[all[i].address & 0xff]);
		used[all[i].address & 0xff] = true;
		store_workload_release(&all[i]);
	}
	free(all);
}
END_TEST

/* ---- crashes and damage ---- */

#define KILL_AFTER 25

/* A child applies and reports each name after the call has returned; it is killed in the midst of it. Whatever was
 * reported must be there, whole. */
START_TEST(killed_writer_loses_nothing_that_was_reported)
{
	struct store_workload *all;
	int fds[2], last = -1, number;
	size_t n;
	pid_t pid;

	store_close(store);
	store = NULL;
	ck_assert_int_eq(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		close(fds[0]);
		if (store_open(path, &store, &err) < 0)
			_exit(1);
		for (number = 0; number < 250; number++) {
			char name[32];

			snprintf(name, sizeof name, "w-%03d", number);
			if (apply_plain(name) < 0 || write(fds[1], &number, sizeof number) != sizeof number)
				_exit(1);
		}
		_exit(0);
	}
	close(fds[1]);
	while (last < KILL_AFTER && read(fds[0], &number, sizeof number) == sizeof number)
		last = number;
	kill(pid, SIGKILL);
	while (read(fds[0], &number, sizeof number) == sizeof number)
		last = number;
	waitpid(pid, NULL, 0);
	close(fds[0]);
	ck_assert_int_ge(last, KILL_AFTER);
	ok(store_open(path, &store, &err));
	ok(store_list(store, &all, &n, &err));
	ck_assert_int_ge((int)n, last + 1);
	ck_assert_int_le((int)n, last + 2); /* one more may have been recorded and not reported */
	for (size_t i = 0; i < n; i++) {
		ck_assert_uint_eq(all[i].address, FIRST + i);
		store_workload_release(&all[i]);
	}
	free(all);
}
END_TEST

static void run_sql(const char *sql)
{
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
}

START_TEST(newer_schema_is_refused)
{
	store_close(store);
	store = NULL;
	run_sql("PRAGMA user_version = 9999");
	refused(store_open(path, &store, &err), ERR_FAILED_PRECONDITION, "newer version of capsuled (schema 9999");
}
END_TEST

START_TEST(foreign_database_is_refused)
{
	store_close(store);
	store = NULL;
	ck_assert_int_eq(unlink(path), 0);
	run_sql("CREATE TABLE recipes (name TEXT)");
	refused(store_open(path, &store, &err), ERR_FAILED_PRECONDITION, "another program");
}
END_TEST

START_TEST(damage_is_told)
{
	static const char garbage[4096] = "this is no database, and it is long enough to be looked at";
	int fd;

	for (int i = 0; i < 100; i++) {
		char name[16];

		snprintf(name, sizeof name, "w-%d", i);
		ok(apply_plain(name));
	}
	store_close(store);
	store = NULL;
	fd = open(path, O_RDWR);
	ck_assert_int_ge(fd, 0);
	for (off_t at = 4 * 4096; at < 9 * 4096; at += 4096) /* pages of tables */
		ck_assert_int_eq(pwrite(fd, garbage, sizeof garbage, at), sizeof garbage);
	refused(store_open(path, &store, &err), ERR_DATA_LOSS, "is damaged");
	ck_assert_int_eq(pwrite(fd, garbage, sizeof garbage, 0), sizeof garbage);
	close(fd);
	refused(store_open(path, &store, &err), ERR_DATA_LOSS, "put back a copy");
}
END_TEST

START_TEST(database_is_private)
{
	struct stat st;

	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
}
END_TEST

/* A file system of our own in a mount namespace of our own: it goes with this process. */
static void mount_small(const char *options)
{
	store_close(store);
	store = NULL;
	ck_assert_msg(unshare(CLONE_NEWNS) == 0, "needs root: %s", strerror(errno));
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	ck_assert_int_eq(mount("small", dir, "tmpfs", 0, options), 0);
	ok(store_open(path, &store, &err));
}

START_TEST(full_disk_is_told_and_survived)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };
	static char filler[4096];
	char file[96];
	int fd, n = 0;

	mount_small("size=4m");
	ok(apply_plain("before"));
	snprintf(file, sizeof file, "%s/filler", dir);
	fd = open(file, O_WRONLY | O_CREAT, 0600);
	while (write(fd, filler, sizeof filler) > 0)
		;
	close(fd);
	for (; n < 200; n++) {
		char name[16];

		snprintf(name, sizeof name, "w-%d", n);
		if (apply_plain(name) < 0)
			break;
	}
	ck_assert_int_lt(n, 200);
	ck_assert_msg(err.code == ERR_RESOURCE_EXHAUSTED, "%s", error_message(&err));
	ck_assert_ptr_nonnull(strstr(error_message(&err), "the disk is full; free some space"));
	error_release(&err);
	ok(store_get(store, "before", &w, &err)); /* reading goes on */
	for (int i = 0; i < 40; i++) { /* and what makes room, or may */
		_cleanup_store_workload_ struct store_workload changed = { 0 };

		ok(store_set_desired(store, "before", i % 2 ? RUNNING : STOPPED, &changed, &err));
	}
	ck_assert_int_eq(unlink(file), 0);
	for (int i = 0; i <= n; i++) {
		_cleanup_store_workload_ struct store_workload got = { 0 };
		char name[16];

		snprintf(name, sizeof name, "w-%d", i);
		ck_assert_int_eq(store_get(store, name, &got, NULL) == 0, i < n); /* the failed one left nothing */
	}
	ok(apply_plain("after"));
	reopen();
	ck_assert_uint_ne(address_of("after"), 0);
	store_close(store);
	store = NULL;
	umount2(dir, MNT_DETACH);
}
END_TEST

START_TEST(read_only_file_system_is_told)
{
	mount_small("size=4m");
	ok(apply_plain("before"));
	store_close(store);
	store = NULL;
	ck_assert_int_eq(mount("small", dir, "tmpfs", MS_REMOUNT | MS_RDONLY, "size=4m"), 0);
	refused(store_open(path, &store, &err), ERR_FAILED_PRECONDITION, "Read-only file system); make");
	umount2(dir, MNT_DETACH);
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		apply_records_and_survives_reopening, equal_apply_changes_nothing, generation_follows_the_process,
		revision_is_never_given_twice, desired_state_is_kept_unless_set, deleting_is_final,
		what_is_missing_is_said,
		list_is_by_name, completion_is_kept_until_a_new_run_is_wanted, lease_goes_on_and_wraps_around,
		network_mode_gives_and_takes_the_lease, micro_vm_always_has_an_address, another_subnet_moves_the_leases,
		port_belongs_to_one, changed_ports_replace_the_former, volume_has_one_holder,
		claims_of_a_former_spec_stay_until_released, a_newer_wish_to_run_keeps_its_claims,
		a_run_begins_with_the_claims_of_its_spec_only, volume_must_be_there, volume_lives_and_goes,
		volume_in_use_is_not_deleted,
		dry_run_tells_and_changes_nothing, meta_is_kept, threads_share_the_store,
		killed_writer_loses_nothing_that_was_reported, newer_schema_is_refused, foreign_database_is_refused,
		damage_is_told,
		database_is_private, full_disk_is_told_and_survived, read_only_file_system_is_told,
	};
	Suite *suite = suite_create("store");
	TCase *tc = tcase_create("store");

	tcase_add_checked_fixture(tc, set_up, tear_down);
	tcase_set_timeout(tc, 60);
	for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
		tcase_add_test(tc, tests[i]);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
