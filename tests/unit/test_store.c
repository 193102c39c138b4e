/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What the store keeps of workloads: specs, revisions, generations, wishes; trials; its notes. */
#include "store_fixture.h"

/* ---- specs ---- */

START_TEST(apply_records_and_survives_reopening)
{
	_cleanup_store_workload_ struct store_workload made = { 0 }, before = { 0 }, got = { 0 };
	struct spec s;

	spec_init(&s, "web");
	spec_port(&s, 8080, "tcp");
	ok(apply_one(&s.workload, &subnet, false, &made, &before, &err));
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
	ok(apply_one(&s.workload, &subnet, false, &b, &before, &err));
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
	ok(store_release_claims(store, "ghost", false, 1, NULL, &err));
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
	ok(apply_one(&s.workload, &subnet, true, &a, &before, &err));
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
	refused(apply_one(&s.workload, &subnet, true, &c, NULL, &err), ERR_FAILED_PRECONDITION, "8080/tcp");
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

int main(void)
{
	const TTest *const tests[] = {
		apply_records_and_survives_reopening, equal_apply_changes_nothing, generation_follows_the_process,
		revision_is_never_given_twice, desired_state_is_kept_unless_set, deleting_is_final,
		what_is_missing_is_said, list_is_by_name, completion_is_kept_until_a_new_run_is_wanted,
		dry_run_tells_and_changes_nothing, meta_is_kept,
	};

	return run_store_tests("store", tests, sizeof tests / sizeof tests[0]);
}
