/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/timeutil.h"
#include "store/resource.h"

#include <errno.h>
#include <string.h>

#define RUNNING CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING
#define DELETING CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING
#define UNSPECIFIED CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_UNSPECIFIED

#define WORKLOAD_COLUMNS                                                                                              \
	"workload.name, spec, desired, revision, generation, created_at_ns, address, completed, exit_code, finished_at_ns"
#define WORKLOAD_TABLES "workload LEFT JOIN lease ON lease.workload = workload.name AND NOT lease.former"

/* ---- rows and messages ---- */

void store_workload_release(struct store_workload *w)
{
	if (w->spec)
		capsule__v1__workload__free_unpacked(w->spec, NULL);
	*w = (struct store_workload){ 0 };
}

static void workload_move(struct store_workload *to, struct store_workload *from)
{
	*to = *from;
	*from = (struct store_workload){ 0 };
}

/* Packed bytes stand for the message: after normalization equal messages have equal bytes. */
struct packed {
	uint8_t *data; /* owned */
	size_t len;
};

static void packed_release(struct packed *p)
{
	free(p->data);
}
#define _cleanup_packed_ _cleanup_(packed_release)

static int pack(const Capsule__V1__Workload *workload, struct packed *ret, struct error *err)
{
	size_t len = capsule__v1__workload__get_packed_size(workload);
	uint8_t *data = malloc(len ? len : 1);

	if (!data)
		return error_errno(err, ENOMEM, "cannot store workload %s", workload->name);
	ret->len = capsule__v1__workload__pack(workload, data);
	ret->data = data;
	return 0;
}

static bool packed_equal(const struct packed *a, const struct packed *b)
{
	return a->len == b->len && !memcmp(a->data, b->data, a->len);
}

/* What the spec column holds: the rest has columns of its own, or is not kept. The copy borrows from the original. */
static Capsule__V1__Workload stored_part(const Capsule__V1__Workload *workload)
{
	Capsule__V1__Workload part = *workload;

	part.status = NULL;
	part.desired_state = UNSPECIFIED;
	part.created_at_unix = 0;
	return part;
}

/* What a process is made from: a change of the rest reaches a process that runs. */
static Capsule__V1__Workload process_part(const Capsule__V1__Workload *workload)
{
	Capsule__V1__Workload part = stored_part(workload);

	part.restart_policy = CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_UNSPECIFIED;
	part.stop_grace_case = CAPSULE__V1__WORKLOAD__STOP_GRACE__NOT_SET;
	part.health_check = NULL;
	/* Those of a microVM lie inside the machine. */
	if (workload->kind == CAPSULE__V1__WORKLOAD_KIND__WORKLOAD_KIND_CONTAINER)
		part.resources = NULL;
	part.ephemeral = false;
	return part;
}

static int part_changed(const Capsule__V1__Workload *a, const Capsule__V1__Workload *b, bool *ret, struct error *err)
{
	_cleanup_packed_ struct packed packed_a = { 0 }, packed_b = { 0 };

	if (pack(a, &packed_a, err) < 0 || pack(b, &packed_b, err) < 0)
		return -1;
	*ret = !packed_equal(&packed_a, &packed_b);
	return 0;
}

/* The first two columns are its name and the spec. NULL on failure. */
static Capsule__V1__Workload *spec_read(struct store *store, sqlite3_stmt *stmt, struct error *err)
{
	const void *blob = sqlite3_column_blob(stmt, 1);
	size_t len = (size_t)sqlite3_column_bytes(stmt, 1);
	Capsule__V1__Workload *spec = capsule__v1__workload__unpack(NULL, len, blob);

	if (!spec)
		error_set(err, ERR_DATA_LOSS, "the entry of workload %s in %s cannot be read; put back a copy of the file",
			  (const char *)sqlite3_column_text(stmt, 0), db_path(store));
	return spec;
}

static int row_read(struct store *store, sqlite3_stmt *stmt, struct store_workload *ret, struct error *err)
{
	Capsule__V1__Workload *spec = spec_read(store, stmt, err);

	if (!spec)
		return -1;
	spec->desired_state = (Capsule__V1__DesiredState)sqlite3_column_int(stmt, 2);
	ret->spec = spec;
	ret->revision = (uint64_t)sqlite3_column_int64(stmt, 3);
	ret->generation = (uint64_t)sqlite3_column_int64(stmt, 4);
	ret->created_at_ns = sqlite3_column_int64(stmt, 5);
	ret->address = (uint32_t)sqlite3_column_int64(stmt, 6);
	ret->completed = sqlite3_column_int(stmt, 7) != 0;
	ret->exit_code = sqlite3_column_int(stmt, 8);
	ret->finished_at_ns = sqlite3_column_int64(stmt, 9);
	spec->created_at_unix = ret->created_at_ns / NSEC_PER_SEC;
	return 0;
}

/* ret->spec is NULL if there is no such workload. */
static int row_find(struct store *store, const char *name, struct store_workload *ret, struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int r;

	stmt = db_query(store, err, "SELECT " WORKLOAD_COLUMNS " FROM " WORKLOAD_TABLES " WHERE workload.name = ?", "t",
			name);
	r = stmt ? db_step(store, stmt, err) : -1;
	if (r > 0)
		return row_read(store, stmt, ret, err);
	if (r == 0)
		*ret = (struct store_workload){ 0 };
	return r;
}

static int row_get(struct store *store, const char *name, struct store_workload *ret, struct error *err)
{
	if (row_find(store, name, ret, err) < 0)
		return -1;
	return ret->spec ? 0 : error_set(err, ERR_NOT_FOUND, "there is no workload %s", name);
}

static int next_revision(struct store *store, uint64_t *ret, struct error *err)
{
	int64_t revision = 0;

	if (db_run(store, err, "UPDATE counter SET revision = revision + 1", "") < 0 ||
	    db_integer(store, 0, &revision, err, "SELECT revision FROM counter", "") < 0)
		return -1;
	*ret = (uint64_t)revision;
	return 0;
}

static int being_deleted(const char *name, struct error *err)
{
	return error_set(err, ERR_FAILED_PRECONDITION, "workload %s is being deleted; apply it again once it is gone",
			 name);
}

/* ---- apply ---- */

struct change {
	const Capsule__V1__Workload *wish;
	const struct store_workload *before; /* spec is NULL for a new workload */
	Capsule__V1__DesiredState desired;
	bool any;     /* something that is recorded differs */
	bool process; /* something that a process is made from differs */
	bool start;   /* it was not to run, and now is */
};

static int change_find(const Capsule__V1__Workload *wish, const struct store_workload *before, struct change *ret,
		       struct error *err)
{
	Capsule__V1__Workload wished = stored_part(wish), had;
	bool spec_changed;

	*ret = (struct change){ .wish = wish, .before = before, .desired = wish->desired_state };
	if (ret->desired == UNSPECIFIED)
		ret->desired = before->spec ? before->spec->desired_state : RUNNING;
	if (!before->spec) {
		ret->any = ret->process = ret->start = true;
		return 0;
	}
	ret->start = ret->desired == RUNNING && before->spec->desired_state != RUNNING;
	had = stored_part(before->spec);
	if (part_changed(&wished, &had, &spec_changed, err) < 0)
		return -1;
	ret->any = spec_changed || ret->desired != before->spec->desired_state;
	wished = process_part(wish);
	had = process_part(before->spec);
	return part_changed(&wished, &had, &ret->process, err);
}

static int row_write(struct store *store, const struct change *change, uint64_t revision, struct error *err)
{
	uint64_t generation = change->process ? revision : change->before->generation;
	Capsule__V1__Workload stored = stored_part(change->wish);
	_cleanup_packed_ struct packed spec = { 0 };

	if (pack(&stored, &spec, err) < 0)
		return -1;
	return db_run(store, err,
		      "INSERT INTO workload (name, spec, desired, revision, generation, created_at_ns) "
		      "VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO UPDATE SET "
		      "former_spec = iif(holds AND generation <> ?5 AND former_spec IS NULL, spec, former_spec), "
		      "spec = ?2, desired = ?3, revision = ?4, generation = ?5",
		      "tbiiii", change->wish->name, (const void *)spec.data, spec.len, (int64_t)change->desired,
		      (int64_t)revision, (int64_t)generation, time_realtime_ns());
}

/* A run that ended for good was one of the former process, or of the former wish to run. */
static int forget_completion(struct store *store, const char *name, struct error *err)
{
	return db_run(store, err,
		      "UPDATE workload SET completed = 0, exit_code = 0, finished_at_ns = 0 WHERE name = ? AND completed",
		      "t", name);
}

static int record(struct store *store, const struct change *change, struct error *err)
{
	uint64_t revision;

	if (next_revision(store, &revision, err) < 0 || row_write(store, change, revision, err) < 0)
		return -1;
	return change->process || change->start ? forget_completion(store, change->wish->name, err) : 0;
}

/* The first half: the row, to which resources refer, and what the workload no longer needs. */
static int apply_row(struct store *store, const Capsule__V1__Workload *wish, const struct store_subnet *subnet,
		     const struct store_workload *before, struct change *ret, struct error *err)
{
	const char *name = wish->name;
	uint32_t address;

	if (wish->desired_state == DELETING)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "workload %s cannot be applied as DELETING; delete it instead", name);
	if (before->spec && before->spec->desired_state == DELETING)
		return being_deleted(name, err);
	if (change_find(wish, before, ret, err) < 0)
		return -1;
	if (ret->any && (db_check_room(store, err) < 0 || record(store, ret, err) < 0))
		return -1;
	if (resource_lease(store, name, resource_wish(wish).address, subnet, &address, err) < 0)
		return -1;
	if (!ret->process && address != before->address) {
		/* The subnet is another one than when the workload was stored: its process needs the new address. */
		ret->process = true;
		if (record(store, ret, err) < 0)
			return -1;
	}
	return ret->process ? resource_forget(store, name, err) : 0;
}

/* The second half: what it needs now. */
static int apply_resources(struct store *store, const struct change *change, struct error *err)
{
	struct resource_wish resources = resource_wish(change->wish);
	const char *name = change->wish->name;

	if (change->process && resource_publish(store, name, &resources, err) < 0)
		return -1;
	if (resource_name_volumes(store, name, &resources, err) < 0)
		return -1;
	return change->desired == RUNNING ? resource_claim(store, name, err) : 0;
}

static int blame(const Capsule__V1__Workload *workload, size_t n, int r, struct error *err)
{
	return r < 0 && n > 1 ? error_wrap(err, "workload %s", workload->name) : r;
}

static int apply(struct store *store, Capsule__V1__Workload *const *wishes, size_t n, const struct store_subnet *subnet,
		 struct store_workload *ret, struct store_workload *ret_before, struct error *err)
{
	_cleanup_free_ struct change *changes = calloc(n, sizeof *changes);
	int r = changes ? 0 : error_errno(err, ENOMEM, "cannot store the workloads");

	for (size_t i = 0; r == 0 && i < n; i++) {
		r = row_find(store, wishes[i]->name, &ret_before[i], err);
		if (r == 0)
			r = blame(wishes[i], n, apply_row(store, wishes[i], subnet, &ret_before[i], &changes[i], err), err);
	}
	for (size_t i = 0; r == 0 && i < n; i++)
		r = blame(wishes[i], n, apply_resources(store, &changes[i], err), err);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = row_get(store, wishes[i]->name, &ret[i], err);
	return r;
}

int store_apply(struct store *store, Capsule__V1__Workload *const *workloads, size_t n, const struct store_subnet *subnet,
		bool dry_run, struct store_workload *ret, struct store_workload *ret_before, struct error *err)
{
	int r;

	if (db_begin(store, err) < 0)
		return -1;
	r = apply(store, workloads, n, subnet, ret, ret_before, err);
	r = dry_run ? db_end_trial(store, r) : db_end(store, r, err);
	for (size_t i = 0; r < 0 && i < n; i++) {
		store_workload_release(&ret[i]);
		store_workload_release(&ret_before[i]);
	}
	return r;
}

/* Workloads keep their leases for good; a daemon that is given another subnet moves them. */
static int relocate(struct store *store, const struct store_subnet *subnet, bool used, struct error *err)
{
	if (!used && db_run(store, err, "DELETE FROM lease WHERE former", "") < 0)
		return -1;
	for (;;) {
		_cleanup_free_ char *name = NULL;
		uint64_t revision;
		uint32_t address;

		if (db_text(store, &name, err, "SELECT workload FROM lease WHERE address NOT BETWEEN ? AND ? LIMIT 1",
			    "ii",
			    (int64_t)subnet->first, (int64_t)subnet->last) < 0)
			return -1;
		if (!name)
			return 0;
		if (used)
			return error_set(err, ERR_FAILED_PRECONDITION,
					 "workload %s has an address outside of the subnet, and workloads are running: end them "
					 "with capsuled --down first, or give the --subnet that they were started with", name);
		if (resource_lease(store, name, true, subnet, &address, err) < 0 ||
		    next_revision(store, &revision, err) < 0 ||
		    db_run(store, err, "UPDATE workload SET revision = ? WHERE name = ?", "it", (int64_t)revision, name) < 0)
			return -1;
	}
}

int store_adopt_subnet(struct store *store, const struct store_subnet *subnet, bool used, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, relocate(store, subnet, used, err), err);
}

/* ---- desired state ---- */

static int set_desired(struct store *store, const char *name, Capsule__V1__DesiredState state,
		       struct store_workload *ret,
		       struct error *err)
{
	uint64_t revision;
	bool again; /* what ended for good shall run once more */

	if (row_get(store, name, ret, err) < 0)
		return -1;
	if (ret->spec->desired_state == DELETING && state != DELETING)
		return being_deleted(name, err);
	if (state == RUNNING && resource_claim(store, name, err) < 0)
		return -1;
	again = state == RUNNING && ret->completed;
	if (ret->spec->desired_state == state && !again)
		return 0;
	if (next_revision(store, &revision, err) < 0 ||
	    db_run(store, err, "UPDATE workload SET desired = ?, revision = ? WHERE name = ?", "iit", (int64_t)state,
		   (int64_t)revision, name) < 0 ||
	    (again && forget_completion(store, name, err) < 0))
		return -1;
	store_workload_release(ret);
	return row_get(store, name, ret, err);
}

int store_set_desired(struct store *store, const char *name, Capsule__V1__DesiredState state,
		      struct store_workload *ret,
		      struct error *err)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };

	if (state == UNSPECIFIED)
		state = RUNNING;
	if (db_begin(store, err) < 0)
		return -1;
	if (db_end(store, set_desired(store, name, state, &w, err), err) < 0)
		return -1;
	workload_move(ret, &w);
	return 0;
}

int store_set_completed(struct store *store, const char *name, uint64_t generation, int exit_code,
			int64_t finished_at_ns,
			struct error *err)
{
	int r;

	if (db_begin(store, err) < 0)
		return -1;
	r = db_run(store, err,
		   "UPDATE workload SET completed = 1, exit_code = ?, finished_at_ns = ? WHERE name = ? AND generation = ?", "iiti",
		   (int64_t)exit_code, finished_at_ns, name, (int64_t)generation);
	return db_end(store, r, err);
}

static int begin_run(struct store *store, const char *name, uint64_t generation, struct error *err)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };

	if (row_get(store, name, &w, err) < 0)
		return -1;
	if (w.spec->desired_state != RUNNING)
		return error_set(err, ERR_FAILED_PRECONDITION, "workload %s shall not run; start it first", name);
	if (w.generation != generation)
		return error_set(err, ERR_FAILED_PRECONDITION, "workload %s has been changed meanwhile", name);
	if (resource_await_ports(store, name, err) < 0 || resource_claim(store, name, err) < 0)
		return -1;
	return forget_completion(store, name, err);
}

int store_begin_run(struct store *store, const char *name, uint64_t generation, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, begin_run(store, name, generation, err), err);
}

int store_claim_at_rest(struct store *store, const char *name, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, resource_claim(store, name, err), err);
}

/* ---- reading and forgetting ---- */

int store_get(struct store *store, const char *name, struct store_workload *ret, struct error *err)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };

	if (db_begin(store, err) < 0)
		return -1;
	if (db_end(store, row_get(store, name, &w, err), err) < 0)
		return -1;
	workload_move(ret, &w);
	return 0;
}

static int get_former(struct store *store, const char *name, struct store_workload *ret, struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int r;

	stmt = db_query(store, err,
			"SELECT name, former_spec, address FROM workload LEFT JOIN lease ON lease.workload = name "
			"WHERE name = ? AND former_spec IS NOT NULL", "t", name);
	r = stmt ? db_step(store, stmt, err) : -1;
	if (r <= 0)
		return r;
	ret->spec = spec_read(store, stmt, err);
	if (ret->spec && resource_wish(ret->spec).address)
		ret->address = (uint32_t)sqlite3_column_int64(stmt, 2);
	return ret->spec ? 0 : -1;
}

int store_get_former(struct store *store, const char *name, struct store_workload *ret, struct error *err)
{
	_cleanup_store_workload_ struct store_workload w = { 0 };

	if (db_begin(store, err) < 0)
		return -1;
	if (db_end(store, get_former(store, name, &w, err), err) < 0)
		return -1;
	workload_move(ret, &w);
	return 0;
}

static int list(struct store *store, struct store_workload *items, size_t n, struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int r;

	stmt = db_query(store, err, "SELECT " WORKLOAD_COLUMNS " FROM " WORKLOAD_TABLES " ORDER BY workload.name", "");
	if (!stmt)
		return -1;
	for (size_t i = 0; (r = db_step(store, stmt, err)) > 0 && i < n; i++)
		if (row_read(store, stmt, &items[i], err) < 0)
			return -1;
	return r;
}

int store_list(struct store *store, struct store_workload **ret, size_t *ret_n, struct error *err)
{
	struct store_workload *items = NULL;
	int64_t n = 0;
	int r;

	if (db_begin(store, err) < 0)
		return -1;
	r = db_integer(store, 0, &n, err, "SELECT count(*) FROM workload", "");
	if (r == 0 && !(items = calloc((size_t)n + 1, sizeof *items)))
		r = error_errno(err, ENOMEM, "cannot list the workloads");
	if (r == 0)
		r = list(store, items, (size_t)n, err);
	if (db_end(store, r, err) < 0) {
		for (int64_t i = 0; items && i < n; i++)
			store_workload_release(&items[i]);
		free(items);
		return -1;
	}
	*ret = items;
	*ret_n = (size_t)n;
	return 0;
}

int store_remove(struct store *store, const char *name, struct error *err)
{
	if (db_begin(store, err) < 0)
		return -1;
	return db_end(store, db_run(store, err, "DELETE FROM workload WHERE name = ?", "t", name), err);
}
