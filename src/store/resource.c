/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "store/resource.h"

#include "store/schema.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

struct resource_wish resource_wish(const Capsule__V1__Workload *spec)
{
	struct resource_wish wish = { 0 };

	if (spec->container) {
		const Capsule__V1__ContainerSpec *c = spec->container;

		wish.address = c->network_mode != CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_HOST;
		wish.ports = wish.address ? c->ports : NULL;
		wish.n_ports = wish.address ? c->n_ports : 0;
		wish.mounts = c->mounts;
		wish.n_mounts = c->n_mounts;
	} else if (spec->micro_vm) {
		const Capsule__V1__MicroVMSpec *vm = spec->micro_vm;

		wish.address = true;
		wish.ports = vm->ports;
		wish.n_ports = vm->n_ports;
		wish.mounts = vm->mounts;
		wish.n_mounts = vm->n_mounts;
	}
	return wish;
}

static int holds(struct store *store, const char *name, int64_t *ret, struct error *err)
{
	return db_integer(store, 0, ret, err, "SELECT holds FROM workload WHERE name = ?", "t", name);
}

/* ---- addresses ---- */

/* The lowest free address from `from` to `to`; 0 if there is none. */
static int free_address(struct store *store, uint32_t from, uint32_t to, uint32_t *ret, struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int64_t candidate = from;
	int r;

	stmt = db_query(store, err, "SELECT address FROM lease WHERE address BETWEEN ? AND ? ORDER BY address", "ii",
			(int64_t)from, (int64_t)to);
	if (!stmt)
		return -1;
	while ((r = db_step(store, stmt, err)) > 0 && sqlite3_column_int64(stmt, 0) == candidate)
		candidate++;
	if (r < 0)
		return -1;
	*ret = candidate <= (int64_t)to ? (uint32_t)candidate : 0;
	return 0;
}

static int no_address(const char *name, const struct store_subnet *subnet, struct error *err)
{
	struct in_addr first = { htonl(subnet->first) }, last = { htonl(subnet->last) };
	char first_text[INET_ADDRSTRLEN], last_text[INET_ADDRSTRLEN];

	inet_ntop(AF_INET, &first, first_text, sizeof first_text);
	inet_ntop(AF_INET, &last, last_text, sizeof last_text);
	return error_set(err, ERR_RESOURCE_EXHAUSTED,
			 "no address from %s to %s is left for workload %s; delete a workload or give "
			 "capsuled a larger subnet",
			 first_text, last_text, name);
}

/* Goes on behind the address that was leased last: one that was given back rests as long as possible, because peers may
 * still talk to its former holder. */
static int lease_new(struct store *store, const char *name, const struct store_subnet *subnet, uint32_t *ret,
		     struct error *err)
{
	uint32_t address = 0;
	int64_t last = 0;

	if (db_integer(store, 0, &last, err, "SELECT last_address FROM counter", "") < 0)
		return -1;
	if (last >= subnet->first && last < subnet->last) {
		if (free_address(store, (uint32_t)last + 1, subnet->last, &address, err) < 0)
			return -1;
	}
	if (!address && free_address(store, subnet->first, subnet->last, &address, err) < 0)
		return -1;
	if (!address)
		return no_address(name, subnet, err);
	if (db_run(store, err, "INSERT INTO lease (address, workload) VALUES (?, ?)", "it", (int64_t)address,
		   name) < 0 ||
	    db_run(store, err, "UPDATE counter SET last_address = ?", "i", (int64_t)address) < 0)
		return -1;
	*ret = address;
	return 0;
}

int resource_lease(struct store *store, const char *name, bool wanted, const struct store_subnet *subnet,
		   uint32_t *ret_address, struct error *err)
{
	int64_t held = 0, in_use = 0;

	if (db_integer(store, 0, &held, err, "SELECT address FROM lease WHERE workload = ?", "t", name) < 0 ||
	    holds(store, name, &in_use, err) < 0)
		return -1;
	if (wanted && held >= subnet->first && held <= subnet->last) {
		*ret_address = (uint32_t)held;
		return db_run(store, err, "UPDATE lease SET former = 0 WHERE workload = ? AND former", "t", name);
	}
	*ret_address = 0;
	if (!wanted && in_use)
		return db_run(store, err, "UPDATE lease SET former = 1 WHERE workload = ?", "t", name);
	if (held && db_run(store, err, "DELETE FROM lease WHERE workload = ?", "t", name) < 0)
		return -1;
	return wanted ? lease_new(store, name, subnet, ret_address, err) : 0;
}

/* ---- ports ---- */

int resource_forget(struct store *store, const char *name, struct error *err)
{
	int64_t in_use = 0;
	int r;

	if (holds(store, name, &in_use, err) < 0)
		return -1;
	/* One that another's run still has was never this one's to hold. */
	if (in_use)
		r = db_run(store, err, "UPDATE OR IGNORE port SET former = 1 WHERE workload = ? AND NOT former", "t", name);
	if (!in_use || r == 0)
		r = db_run(store, err, "DELETE FROM port WHERE workload = ?1 AND former <= ?2", "ti", name, (int64_t)!in_use);
	if (r < 0)
		return -1;
	return db_run(store, err, "DELETE FROM mount WHERE workload = ?", "t", name);
}

static int publish_one(struct store *store, const char *name, const Capsule__V1__PortMapping *port, struct error *err)
{
	const char *protocol = *port->protocol ? port->protocol : "tcp";
	_cleanup_free_ char *holder = NULL;

	if (db_text(store, &holder, err, "SELECT workload FROM port WHERE protocol = ? AND host_port = ? AND NOT former", "ti", protocol,
		    (int64_t)port->host_port) < 0)
		return -1;
	if (holder && !strcmp(holder, name))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "workload %s publishes host port %u/%s twice; give each port a host port of its own",
				 name,
				 port->host_port, protocol);
	if (holder)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "host port %u/%s is taken by workload %s; choose another host port or delete that "
				 "workload",
				 port->host_port, protocol, holder);
	/* What the workload's own run has already it keeps. */
	if (db_run(store, err, "DELETE FROM port WHERE protocol = ? AND host_port = ? AND former AND workload = ?", "tit", protocol,
		   (int64_t)port->host_port, name) < 0)
		return -1;
	return db_run(store, err, "INSERT INTO port (protocol, host_port, workload, former) VALUES (?, ?, ?, 0)", "tit", protocol,
		      (int64_t)port->host_port, name);
}

int resource_publish(struct store *store, const char *name, const struct resource_wish *wish, struct error *err)
{
	for (size_t i = 0; i < wish->n_ports; i++)
		if (wish->ports[i]->host_port && publish_one(store, name, wish->ports[i], err) < 0)
			return -1;
	return 0;
}

int resource_await_ports(struct store *store, const char *name, struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int r;

	stmt = db_query(store, err,
			"SELECT mine.host_port, mine.protocol, other.workload FROM port AS mine JOIN port AS other ON "
			"other.protocol = mine.protocol AND other.host_port = mine.host_port AND other.former "
			"WHERE mine.workload = ? AND NOT mine.former LIMIT 1", "t", name);
	if (!stmt || (r = db_step(store, stmt, err)) < 0)
		return -1;
	if (r == 0)
		return 0;
	return error_set(err, ERR_ABORTED, "waiting for host port %d/%s, which the former run of workload %s has until it has ended",
			 sqlite3_column_int(stmt, 0), (const char *)sqlite3_column_text(stmt, 1),
			 (const char *)sqlite3_column_text(stmt, 2));
}

int store_port_holder(struct store *store, const char *protocol, uint16_t host_port, char **ret_name, struct error *err)
{
	_cleanup_free_ char *holder = NULL;
	int r;

	if (db_begin(store, err) < 0)
		return -1;
	r = db_text(store, &holder, err, "SELECT workload FROM port WHERE protocol = ? AND host_port = ? ORDER BY former LIMIT 1",
		    "ti", *protocol ? protocol : "tcp", (int64_t)host_port);
	if (db_end(store, r, err) < 0)
		return -1;
	*ret_name = steal_ptr(&holder);
	return 0;
}

/* ---- volumes ---- */

int resource_in_use(const char *volume, const char *holder, struct error *err)
{
	return error_set(err, ERR_FAILED_PRECONDITION,
			 "volume %s is in use by workload %s; stop or delete that workload first",
			 volume, holder);
}

/* *ret_holder (caller frees) is NULL if nobody claims the volume. */
static int volume_usable(struct store *store, const char *volume, const char *workload, char **ret_holder,
			 struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int r;

	stmt = db_query(store, err,
			"SELECT state, workload FROM volume LEFT JOIN claim ON claim.volume = volume.name WHERE name = ?", "t",
			volume);
	if (!stmt || (r = db_step(store, stmt, err)) < 0)
		return -1;
	if (r == 0)
		return error_set(err, ERR_NOT_FOUND,
				 "volume %s, which workload %s names, does not exist; create it first", volume,
				 workload);
	switch (sqlite3_column_int(stmt, 0)) {
	case VOLUME_READY:
		break;
	case VOLUME_CREATING:
		return error_set(err, ERR_FAILED_PRECONDITION, "volume %s is still being made; try again in a moment",
				 volume);
	default:
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "volume %s is being deleted; create it again once it is gone, or name another one",
				 volume);
	}
	*ret_holder = NULL;
	if (sqlite3_column_type(stmt, 1) != SQLITE_NULL && !(*ret_holder = db_column_text(stmt, 1)))
		return error_errno(err, ENOMEM, "cannot read %s", db_path(store));
	return 0;
}

int resource_name_volumes(struct store *store, const char *name, const struct resource_wish *wish, struct error *err)
{
	for (size_t i = 0; i < wish->n_mounts; i++) {
		const char *volume = wish->mounts[i]->volume_name;
		_cleanup_free_ char *holder = NULL;

		if (volume_usable(store, volume, name, &holder, err) < 0)
			return -1;
		/* One volume may be mounted at two paths. */
		if (db_run(store, err, "INSERT OR IGNORE INTO mount (workload, volume) VALUES (?, ?)", "tt", name,
			   volume) < 0)
			return -1;
	}
	return 0;
}

static int claim_one(struct store *store, const char *volume, const char *workload, struct error *err)
{
	_cleanup_free_ char *holder = NULL;

	if (volume_usable(store, volume, workload, &holder, err) < 0)
		return -1;
	if (!holder)
		return db_run(store, err, "INSERT INTO claim (volume, workload) VALUES (?, ?)", "tt", volume, workload);
	return strcmp(holder, workload) ? resource_in_use(volume, holder, err) : 0;
}

int resource_claim(struct store *store, const char *name, struct error *err)
{
	_cleanup_db_stmt_ sqlite3_stmt *stmt = NULL;
	int r;

	if (db_run(store, err, "UPDATE workload SET holds = 1 WHERE name = ? AND NOT holds", "t", name) < 0)
		return -1;
	stmt = db_query(store, err, "SELECT volume FROM mount WHERE workload = ? ORDER BY volume", "t", name);
	if (!stmt)
		return -1;
	while ((r = db_step(store, stmt, err)) > 0)
		if (claim_one(store, (const char *)sqlite3_column_text(stmt, 0), name, err) < 0)
			return -1;
	return r;
}

/* What the spec does not name. */
static int trim(struct store *store, const char *name, struct error *err)
{
	if (db_run(store, err, "UPDATE workload SET former_spec = NULL WHERE name = ? AND former_spec IS NOT NULL", "t",
		   name) < 0 ||
	    db_run(store, err, "DELETE FROM port WHERE workload = ? AND former", "t", name) < 0 ||
	    db_run(store, err, "DELETE FROM lease WHERE workload = ? AND former", "t", name) < 0)
		return -1;
	return db_run(store, err,
		      "DELETE FROM claim WHERE workload = ?1 AND volume NOT IN (SELECT volume FROM mount WHERE workload = ?1)",
		      "t", name);
}

static int release(struct store *store, const char *name, bool keep_spec, uint64_t revision, int64_t *ret_ports, struct error *err)
{
	int64_t wanted = 0;

	if (db_integer(store, 0, ret_ports, err, "SELECT count(*) FROM port WHERE workload = ? AND former", "t", name) < 0)
		return -1;
	if (!keep_spec &&
	    db_integer(store, 0, &wanted, err, "SELECT count(*) FROM workload WHERE name = ? AND revision > ? AND desired = ?",
		       "tii", name, (int64_t)revision, (int64_t)CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING) < 0)
		return -1;
	if (trim(store, name, err) < 0)
		return -1;
	if (keep_spec || wanted)
		return 0;
	if (db_run(store, err, "UPDATE workload SET holds = 0 WHERE name = ?", "t", name) < 0)
		return -1;
	return db_run(store, err, "DELETE FROM claim WHERE workload = ?", "t", name);
}

int store_release_claims(struct store *store, const char *name, bool keep_spec, uint64_t revision, bool *ret_port_freed,
			 struct error *err)
{
	int64_t ports = 0;

	if (db_begin(store, err) < 0 || db_end(store, release(store, name, keep_spec, revision, &ports, err), err) < 0)
		return -1;
	if (ret_port_freed)
		*ret_port_freed = ports > 0;
	return 0;
}
