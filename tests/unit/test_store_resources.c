/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What one workload has and another cannot have: addresses, ports, volumes. */
#include "store_fixture.h"

#include <stdlib.h>

/* ---- addresses ---- */

START_TEST(lease_goes_on_and_wraps_around)
{
	static const struct store_subnet small = { FIRST, FIRST + 2 };
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
	struct spec s;

	spec_init(&s, "a");
	ok(apply_one(&s.workload, &small, false, &a, NULL, &err));
	ok(store_remove(store, "a", &err));
	spec_init(&s, "b");
	ok(apply_one(&s.workload, &small, false, &b, NULL, &err));
	ck_assert_uint_eq(b.address, FIRST + 1); /* not the one that was just given back */
	spec_init(&s, "c");
	ok(apply_one(&s.workload, &small, false, &c, NULL, &err));
	ck_assert_uint_eq(c.address, FIRST + 2);
	spec_init(&s, "d");
	ok(apply_one(&s.workload, &small, false, &d, NULL, &err));
	ck_assert_uint_eq(d.address, FIRST);
	spec_init(&s, "e");
	refused(apply_one(&s.workload, &small, false, &d, NULL, &err), ERR_RESOURCE_EXHAUSTED,
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

/* As a start does, when no former run is left. */
static int begin_run(const char *name, const struct store_workload *w)
{
	if (store_release_claims(store, name, true, w->revision, NULL, &err) < 0)
		return -1;
	return store_begin_run(store, name, w->generation, &err);
}

START_TEST(a_former_lease_is_nobody_elses_until_the_run_has_ended)
{
	static const struct store_subnet small = { FIRST, FIRST };
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 }, e = { 0 }, f = { 0 };
	struct spec s, other;

	spec_init(&s, "web");
	ok(apply(&s, &a));
	s.container.network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_HOST;
	ok(apply(&s, &b));
	spec_init(&other, "other");
	refused(apply_one(&other.workload, &small, false, &f, NULL, &err), ERR_RESOURCE_EXHAUSTED, "no address");
	s.container.network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_BRIDGE;
	ok(apply(&s, &c));
	ck_assert_uint_eq(c.address, FIRST); /* its own again */
	ok(store_release_claims(store, "web", true, c.revision, NULL, &err));
	ck_assert_uint_eq(address_of("web"), FIRST);
	s.container.network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_HOST;
	ok(apply(&s, &d));
	ok(begin_run("web", &d));
	ok(apply_one(&other.workload, &small, false, &e, NULL, &err));
	ck_assert_uint_eq(e.address, FIRST);
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
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
	struct spec s;

	spec_init(&s, "a");
	ok(apply(&s, &a));
	ok(apply_plain("b"));
	spec_init(&s, "c");
	ok(apply(&s, &c));
	s.container.network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_HOST;
	ok(apply(&s, &d));
	ok(store_adopt_subnet(store, &subnet, true, &err));
	ck_assert_uint_eq(address_of("a"), a.address);
	refused(store_adopt_subnet(store, &other, true, &err), ERR_FAILED_PRECONDITION, "outside of the subnet");
	ck_assert_uint_eq(address_of("a"), a.address);
	ok(store_adopt_subnet(store, &other, false, &err));
	ok(store_get(store, "a", &b, &err));
	ck_assert_uint_ge(b.address, other.first);
	ck_assert_uint_le(b.address, other.last);
	ck_assert_uint_ne(b.address, address_of("b"));
	ck_assert_uint_eq(address_of("c"), 0); /* its former lease is given no successor */
	ck_assert_uint_gt(b.revision, a.revision);
	ck_assert_uint_eq(b.generation, a.generation); /* nothing ran: the writable layer is still that of the spec */
}
END_TEST

/* ---- ports ---- */

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

/* The workload web, which published port 8080 at first and has 8081 in its place now. */
static void apply_and_change_port(struct spec *s, struct store_workload *first, struct store_workload *second)
{
	spec_init(s, "web");
	spec_port(s, 8080, "tcp");
	ok(apply(s, first));
	s->ports[0].host_port = 8081;
	ok(apply(s, second));
}

START_TEST(changed_ports_replace_the_former)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 };
	_cleanup_free_ char *holder = NULL;
	struct spec s;

	apply_and_change_port(&s, &a, &b);
	ok(begin_run("web", &b));
	ck_assert_ptr_null(port_holder("tcp", 8080));
	holder = port_holder("tcp", 8081);
	ck_assert_str_eq(holder, "web");
	spec_port(&s, 8081, "tcp");
	refused(apply(&s, &c), ERR_INVALID_ARGUMENT, "8081/tcp twice");
}
END_TEST

START_TEST(former_ports_stay_until_the_run_has_ended)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 }, e = { 0 }, f = { 0 };
	struct spec s, other;

	spec_init(&s, "web");
	spec_port(&s, 8080, "tcp");
	ok(apply(&s, &a));
	ok(store_begin_run(store, "web", a.generation, &err));
	s.ports[0].host_port = 8081;
	ok(apply(&s, &b));
	s.ports[0].host_port = 8080; /* who holds it may have it back */
	ok(apply(&s, &c));
	spec_init(&other, "other");
	spec_port(&other, 8080, "tcp");
	refused(apply(&other, &f), ERR_FAILED_PRECONDITION, "host port 8080/tcp is taken by workload web");
	ok(store_release_claims(store, "web", true, c.revision, NULL, &err));
	refused(apply(&other, &f), ERR_FAILED_PRECONDITION, "host port 8080/tcp is taken by workload web");
	s.ports[0].host_port = 8081;
	s.workload.desired_state = STOPPED;
	ok(apply(&s, &d));
	ok(apply(&other, &e));
	refused(store_begin_run(store, "other", e.generation, &err), ERR_ABORTED,
		"waiting for host port 8080/tcp, which the former run of workload web has");
	reopen();
	refused(store_begin_run(store, "other", e.generation, &err), ERR_ABORTED, "workload web");
	ok(store_release_claims(store, "web", false, d.revision, NULL, &err));
	ok(store_begin_run(store, "other", e.generation, &err));
}
END_TEST

/* It is given up by who waited for it, and wanted back by who has it. */
START_TEST(a_port_that_is_waited_for_may_be_given_up)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 }, e = { 0 }, f = { 0 };
	struct spec s, other;

	apply_and_change_port(&s, &a, &b);
	spec_init(&other, "other");
	spec_port(&other, 8080, "tcp");
	ok(apply(&other, &c));
	s.ports[0].host_port = 8080;
	refused(apply(&s, &f), ERR_FAILED_PRECONDITION, "host port 8080/tcp is taken by workload other");
	other.ports[0].host_port = 8082;
	ok(apply(&other, &d));
	ok(store_begin_run(store, "other", d.generation, &err));
	ok(apply(&s, &e));
	ok(store_begin_run(store, "web", e.generation, &err));
}
END_TEST

/* Neither order of the two would do. */
START_TEST(ports_are_exchanged_in_one_transaction)
{
	struct store_workload now[2] = { 0 }, before[2] = { 0 };
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 };
	struct spec first, second;
	Capsule__V1__Workload *both[] = { &first.workload, &second.workload };

	spec_init(&first, "first");
	spec_port(&first, 8080, "tcp");
	ok(apply(&first, &a));
	spec_init(&second, "second");
	spec_port(&second, 8081, "tcp");
	ok(apply(&second, &b));
	first.ports[0].host_port = 8081;
	refused(apply(&first, &c), ERR_FAILED_PRECONDITION, "is taken by workload second");
	refused(store_apply(store, both, 2, &subnet, false, now, before, &err), ERR_FAILED_PRECONDITION,
		"workload first: host port 8081/tcp is taken by workload second");
	second.ports[0].host_port = 8080;
	ok(store_apply(store, both, 2, &subnet, true, now, before, &err));
	for (size_t i = 0; i < 2; i++) {
		ck_assert_uint_eq(before[i].spec->container->ports[0]->host_port, 8080 + i);
		store_workload_release(&now[i]);
		store_workload_release(&before[i]);
	}
	refused(apply(&first, &c), ERR_FAILED_PRECONDITION, "is taken by workload second");
	ok(store_apply(store, both, 2, &subnet, false, now, before, &err));
	refused(store_begin_run(store, "first", now[0].generation, &err), ERR_ABORTED, "former run of workload second");
	refused(store_begin_run(store, "second", now[1].generation, &err), ERR_ABORTED, "former run of workload first");
	ok(store_release_claims(store, "second", true, now[1].revision, NULL, &err));
	ok(begin_run("first", &now[0]));
	ok(begin_run("second", &now[1]));
	for (size_t i = 0; i < 2; i++) {
		store_workload_release(&now[i]);
		store_workload_release(&before[i]);
	}
}
END_TEST

START_TEST(at_rest_ports_change_at_once)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };
	struct spec s, other;

	spec_init(&s, "web");
	spec_port(&s, 8080, "tcp");
	s.workload.desired_state = STOPPED;
	ok(apply(&s, &a));
	s.ports[0].host_port = 8081;
	ok(apply(&s, &b));
	spec_init(&other, "other");
	spec_port(&other, 8080, "tcp");
	ok(apply(&other, &c));
	ok(store_release_claims(store, "other", false, c.revision, NULL, &err)); /* it has completed */
	other.ports[0].host_port = 8082;
	ok(apply(&other, &d));
	ck_assert_ptr_null(port_holder("tcp", 8080));
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
	ok(store_release_claims(store, "first", false, a.revision, NULL, &err));
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
	ok(store_release_claims(store, "web", true, b.revision, NULL, &err));
	ok(apply(&other, &c));
	other.mounts[0].volume_name = (char *)(uintptr_t)"two";
	refused(apply(&other, &d), ERR_FAILED_PRECONDITION, "volume two is in use by workload web");
	ok(store_release_claims(store, "web", false, b.revision, NULL, &err));
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
	ok(store_release_claims(store, "web", false, stopped.revision, NULL, &err)); /* decided before it was started again */
	ok(store_volume_get(store, "data", &v, &err));
	ck_assert_str_eq(v.claimed_by, "web");
	ok(store_release_claims(store, "web", false, again.revision, NULL, &err));
	ok(store_volume_get(store, "data", &w, &err));
	ck_assert_ptr_null(w.claimed_by);
}
END_TEST

static unsigned former_port(const char *name)
{
	_cleanup_store_workload_ struct store_workload former = { 0 };

	ok(store_get_former(store, name, &former, &err));
	return former.spec ? former.spec->container->ports[0]->host_port : 0;
}

START_TEST(a_former_spec_is_known_until_its_run_has_ended)
{
	_cleanup_store_workload_ struct store_workload a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 }, former = { 0 };
	struct spec s;

	spec_init(&s, "web");
	spec_port(&s, 8080, "tcp");
	ok(apply(&s, &a));
	ok(begin_run("web", &a));
	s.workload.restart_policy = CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_NEVER;
	ok(apply(&s, &b)); /* the same process */
	ck_assert_uint_eq(former_port("web"), 0);
	s.ports[0].host_port = 8081;
	ok(apply(&s, &c));
	s.container.network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_HOST;
	ok(apply(&s, &d));
	reopen();
	ck_assert_uint_eq(former_port("web"), 8080); /* of the run, not of what was wished for in between */
	ok(store_get_former(store, "web", &former, &err));
	ck_assert_uint_eq(former.address, a.address);
	ok(begin_run("web", &d));
	ck_assert_uint_eq(former_port("web"), 0);
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
	ok(begin_run("web", &b));
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
	ok(store_release_claims(store, "web", false, a.revision, NULL, &err));
	refused(store_volume_begin_delete(store, "data", false, &err), ERR_FAILED_PRECONDITION, "batch, web");
	ok(store_volume_begin_delete(store, "data", true, &err));
	refused(store_begin_run(store, "web", a.generation, &err), ERR_FAILED_PRECONDITION, "being deleted");
	ok(store_volume_remove(store, "data", &err));
	refused(store_begin_run(store, "web", a.generation, &err), ERR_NOT_FOUND, "volume data");
}
END_TEST

int main(void)
{
	const TTest *const tests[] = {
		lease_goes_on_and_wraps_around, network_mode_gives_and_takes_the_lease,
		a_former_lease_is_nobody_elses_until_the_run_has_ended, micro_vm_always_has_an_address,
		another_subnet_moves_the_leases, port_belongs_to_one, changed_ports_replace_the_former,
		former_ports_stay_until_the_run_has_ended, a_port_that_is_waited_for_may_be_given_up,
		ports_are_exchanged_in_one_transaction, at_rest_ports_change_at_once, volume_has_one_holder,
		claims_of_a_former_spec_stay_until_released,
		a_newer_wish_to_run_keeps_its_claims, a_former_spec_is_known_until_its_run_has_ended,
		a_newer_wish_to_run_keeps_its_claims, a_run_begins_with_the_claims_of_its_spec_only,
		volume_must_be_there, volume_lives_and_goes, volume_in_use_is_not_deleted,
	};

	return run_store_tests("store_resources", tests, sizeof tests / sizeof tests[0]);
}
