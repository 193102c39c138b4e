/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Desired state, on disk before a call returns (SQLite, WAL, synchronous=FULL).
 *
 * The store also decides everything that workloads compete for, in the same transaction that records the wish:
 * addresses (leases), published ports and volume claims. A refused call changes nothing.
 *
 * Threads: every function may be called from any thread; a lock inside makes them one after another. They may block on
 * the disk: never call them from the event loop once the daemon serves.
 */
#ifndef CAPSULE_STORE_STORE_H
#define CAPSULE_STORE_STORE_H

#include "base/error.h"

#include "workload.pb-c.h"

#include <stdbool.h>
#include <stdint.h>

struct store;

/* Opens or creates the database and brings its schema up to date. A database written by a newer version is refused
 * (FAILED_PRECONDITION), a damaged one too (DATA_LOSS). */
int store_open(const char *path, struct store **ret, struct error *err);
void store_close(struct store *store); /* NULL is fine */

/* ---- workloads ---- */

struct store_workload {
	Capsule__V1__Workload *spec; /* normalized; desired_state is set (never UNSPECIFIED); status is NULL */
	uint64_t revision;           /* grows with every change of any workload: later is newer */
	uint64_t generation;         /* the revision at which the spec needed a new process; equal: same process */
	uint32_t address;            /* IPv4 lease in host byte order; 0: none (host network) */
	int64_t created_at_ns;
	bool completed;              /* this generation has ended and is not to be started again; see store_set_completed() */
	int exit_code;               /* of that end */
	int64_t finished_at_ns;
};

void store_workload_release(struct store_workload *w);
#define _cleanup_store_workload_ _cleanup_(store_workload_release)

/* The addresses that may be leased, both ends included, in host byte order. */
struct store_subnet {
	uint32_t first, last;
};

/* Creates or updates workloads of different names, in one transaction, all or none. Takes over desired_state if set (UNSPECIFIED
 * keeps the stored one; RUNNING for a new workload), leases an address if the spec needs one, replaces the ports and, when the
 * result is desired RUNNING, claims the volumes. What a process of a former spec may still use (claims, ports, the address) stays
 * the workload's until store_release_claims().
 * A port that another workload gives up is taken at once, and had when that one's run has ended (store_begin_run()): all of these
 * workloads give up theirs before any takes one.
 * Errors: FAILED_PRECONDITION "host port 8080/tcp is taken by workload web; ..." or "volume data is in use by ..." or
 * "... is being deleted"; NOT_FOUND for a volume that does not exist; RESOURCE_EXHAUSTED when no address is left.
 * With dry_run everything is checked and nothing changes.
 * ret, ret_before: n members each, zeroed; in ret_before the spec of a new workload is NULL. */
int store_apply(struct store *store, Capsule__V1__Workload *const *workloads, size_t n, const struct store_subnet *subnet,
		bool dry_run, struct store_workload *ret, struct store_workload *ret_before, struct error *err);

/* RUNNING claims the volumes (errors as above), STOPPED and DELETING only record. NOT_FOUND if there is no such
 * workload; FAILED_PRECONDITION when it is being deleted and the state is not DELETING. */
int store_set_desired(struct store *store, const char *name, Capsule__V1__DesiredState state, struct store_workload *ret,
		      struct error *err);

int store_get(struct store *store, const char *name, struct store_workload *ret, struct error *err);

/* Spec and address, and nothing else, that a process has which was started for a former generation and may still be there.
 * ret->spec is NULL if there is none. */
int store_get_former(struct store *store, const char *name, struct store_workload *ret, struct error *err);

/* All, by name. The caller releases each and frees the array. */
int store_list(struct store *store, struct store_workload **ret, size_t *ret_n, struct error *err);

/* Forgets the workload with its lease, ports and claims. Missing: success. */
int store_remove(struct store *store, const char *name, struct error *err);

/* Records that the run of this generation has ended for good, by the workload's restart policy, so that no restart of the
 * daemon or of the machine runs it again. Ignored if the spec has a newer generation or the workload is gone. An apply
 * with a new generation, or store_set_desired() to RUNNING, clears it. */
int store_set_completed(struct store *store, const char *name, uint64_t generation, int exit_code, int64_t finished_at_ns,
			struct error *err);

/* A run of this generation is about to start, no other one is left, and what it had was given up (store_release_claims()): claims
 * what the spec names, and forgets that the generation had ended for good.
 * FAILED_PRECONDITION unless the workload is desired RUNNING and has this generation; as for store_apply() for what cannot be
 * claimed. ABORTED with what it waits for: another workload's run has a port of this one. */
int store_begin_run(struct store *store, const char *name, uint64_t generation, struct error *err);

/* The same for one that may be stopped: somebody looks at its volumes while it does not run. */
int store_claim_at_rest(struct store *store, const char *name, struct error *err);

/* For a workload whose process is gone: gives up the ports and the address of former specs, and its claims: all of them, or
 * with keep_spec those that its present spec does not name. The caller decided that knowing this revision: if a newer one
 * wants the workload to run, the claims that came with it are kept in any case. *ret_port_freed (may be NULL): another workload
 * may have waited for one of the ports. */
int store_release_claims(struct store *store, const char *name, bool keep_spec, uint64_t revision, bool *ret_port_freed,
			 struct error *err);

/* Gives a new address to every workload whose lease lies outside the subnet, with a new revision: for a start with another
 * subnet than before. The generation stays, and with it the writable layer: an address moves only while nothing runs with
 * it. With used, something may: FAILED_PRECONDITION if there is such a lease. */
int store_adopt_subnet(struct store *store, const struct store_subnet *subnet, bool used, struct error *err);

/* Who publishes this host port, or did so in a run that may not have ended: *ret_name is NULL if nobody; caller frees. */
int store_port_holder(struct store *store, const char *protocol, uint16_t host_port, char **ret_name, struct error *err);

/* ---- volumes ---- */

struct store_volume {
	char *name;
	char *backend;      /* "file" or "lvm" */
	uint64_t size_bytes;
	bool ready;         /* false: its file system is being made or removed, nothing can claim it. What is found so at
			     * start was cut off: remove its storage, then the entry */
	bool deleting;      /* not ready because it is being removed */
	int64_t created_at_ns;
	char *claimed_by;   /* NULL: nobody */
};

void store_volume_release(struct store_volume *v);
#define _cleanup_store_volume_ _cleanup_(store_volume_release)

/* Records a volume that is not ready yet. ALREADY_EXISTS. */
int store_volume_create(struct store *store, const char *name, const char *backend, uint64_t size_bytes, struct error *err);

/* Its file system is made. FAILED_PRECONDITION when it is being deleted. With ready false: it is being made again. */
int store_volume_set_ready(struct store *store, const char *name, bool ready, struct error *err);

/* Records the new size before the backend grows it. FAILED_PRECONDITION if it would shrink or is claimed. */
int store_volume_set_size(struct store *store, const char *name, uint64_t size_bytes, struct error *err);

/* Takes back what store_volume_set_size() recorded, when the backend had no room to grow. */
int store_volume_undo_size(struct store *store, const char *name, uint64_t size_bytes, struct error *err);
int store_volume_get(struct store *store, const char *name, struct store_volume *ret, struct error *err);
int store_volume_list(struct store *store, struct store_volume **ret, size_t *ret_n, struct error *err);

/* Marks the volume as going away (ready = false) unless a spec names it or it has snapshots (FAILED_PRECONDITION, with
 * who) or, with force, unless it is claimed. After that no workload can claim it. */
int store_volume_begin_delete(struct store *store, const char *name, bool force, struct error *err);

/* Forgets a volume that is not ready: its storage is gone, and that of its snapshots, which go with it. Missing:
 * success. */
int store_volume_remove(struct store *store, const char *name, struct error *err);

/* ---- snapshots of volumes ---- */

#define STORE_SNAPSHOTS_MAX 256 /* of one volume */

struct store_snapshot {
	char *volume, *name;
	uint64_t size_bytes; /* of the volume when it was made */
	bool ready;          /* false: its storage is being made or removed. What is found so at start was cut off */
	int64_t created_at_ns;
};

void store_snapshot_release(struct store_snapshot *s);
#define _cleanup_store_snapshot_ _cleanup_(store_snapshot_release)

/* Records a snapshot that is not ready yet, of the size that the volume has. NOT_FOUND for the volume; ALREADY_EXISTS;
 * RESOURCE_EXHAUSTED. */
int store_snapshot_create(struct store *store, const char *volume, const char *name, struct error *err);

/* true: its storage is made. false: it is about to be removed. */
int store_snapshot_set_ready(struct store *store, const char *volume, const char *name, bool ready, struct error *err);

/* Forgets a snapshot that is not ready: its storage is gone. Missing: success. */
int store_snapshot_remove(struct store *store, const char *volume, const char *name, struct error *err);
int store_snapshot_get(struct store *store, const char *volume, const char *name, struct store_snapshot *ret,
		       struct error *err);

/* Of one volume, or with NULL of all, the oldest of a volume first. */
int store_snapshot_list(struct store *store, const char *volume, struct store_snapshot **ret, size_t *ret_n,
			struct error *err);
void store_snapshots_free(struct store_snapshot *items, size_t n);

/* ---- the machine ---- */

/* A small value that belongs to this state root, such as its id. Missing: *ret is NULL. Caller frees. */
int store_meta_get(struct store *store, const char *key, char **ret, struct error *err);
int store_meta_set(struct store *store, const char *key, const char *value, struct error *err);

/* Sets the value if there is none yet; *ret is the one that then stands. Caller frees. */
int store_meta_default(struct store *store, const char *key, const char *value, char **ret, struct error *err);

#endif
