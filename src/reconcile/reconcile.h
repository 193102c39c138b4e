/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The reconciler makes the host match what the store holds. It alone acts on the host; services record wishes in the
 * store and hand the record over with reconciler_submit().
 *
 * Each workload is a state machine (machine.c holds its table) with at most one task under way. Events are: a new record,
 * a request to restart, the end of a task, of a pull, of the workload's process, and its timer.
 *
 * Threads: the loop's only, but for reconciler_recover(), which runs before the loop does and may block.
 */
#ifndef CAPSULE_RECONCILE_RECONCILE_H
#define CAPSULE_RECONCILE_RECONCILE_H

#include "base/error.h"
#include "base/task.h"
#include "image/puller.h"
#include "image/store.h"
#include "net/net.h"
#include "runtime/driver.h"
#include "store/store.h"
#include "volume/backend.h"

#include "workload.pb-c.h"

#include <stdbool.h>
#include <uv.h>

struct reconciler;

/* All borrowed; they outlive the reconciler. */
struct reconciler_host {
	uv_loop_t *loop;
	struct task_runner *tasks;
	struct store *store;
	struct image_store *images;
	struct puller *puller;
	struct volume_backends *volumes;
	struct net *net;
	struct driver *container, *micro_vm; /* what one kind leaves the other's driver cleans up, too */
	const struct driver_options *driver_options;
	int64_t stop_grace_ms; /* where a workload does not say */
	/* Told of each step that a workload takes, for the record; the strings are valid for the time of the call. NULL:
	 * nobody keeps one. */
	void (*happened)(const char *name, Capsule__V1__WorkloadOccurrenceType type, const char *message, void *arg);
	void *happened_arg;
};

int reconciler_new(const struct reconciler_host *host, struct reconciler **ret, struct error *err);

/* Lets go of everything; workloads go on. No task may be under way. */
void reconciler_free(struct reconciler *r);

/* Reads the store, takes up what still runs, removes what belongs to nobody, and sets every workload on its way. */
int reconciler_recover(struct reconciler *r, struct error *err);

/* For a process that acts in the reconciler's place, before it removes what is left of a run: if the run has ended by itself and is
 * not to be followed by another one, the store is told. Borrows all. */
int reconciler_keep_end(struct store *store, const struct store_workload *record, const struct driver_instance *instance,
			struct error *err);

/* From now on no new step begins: for the end of the daemon. Steps under way end by themselves; a start
 * that waits for its payload is left to its holder, and to the next daemon. */
void reconciler_halt(struct reconciler *r);

/* Takes over a record that was just stored (the content is moved out of *record). An older revision than the known one
 * is ignored, and so is one of a workload that has been removed since. */
void reconciler_submit(struct reconciler *r, struct store_workload *record);

/* Stops and starts again; also ends a back-off. NOT_FOUND, or FAILED_PRECONDITION unless desired is RUNNING. */
int reconciler_restart(struct reconciler *r, const char *name, struct error *err);

/* The user asked for a start: a back-off ends, and a workload that has ended for good runs once more. */
void reconciler_start(struct reconciler *r, const char *name);

/* An image has arrived under this full reference: workloads that wait for it need not wait for their next attempt. */
void reconciler_image_arrived(struct reconciler *r, const char *reference);

/* ---- reading ---- */

/* The workload as the API shows it: spec, desired state, status. A copy, freed by the caller with
 * capsule__v1__workload__free_unpacked(). NULL if there is none of this name. */
Capsule__V1__Workload *reconciler_get(struct reconciler *r, const char *name);

/* The driver of a workload that runs, for what concerns the run alone (driver_ops.exec), and its first process. NULL:
 * NOT_FOUND, or FAILED_PRECONDITION with what state it is in. */
struct driver *reconciler_running(struct reconciler *r, const char *name, pid_t *ret_pid, struct error *err);

/* Keeps an ephemeral workload from being deleted, for a call that runs a process in it. The hold is the caller's, who lets
 * go of it in the end, whatever has become of the workload; one of zeros holds nothing. */
struct reconciler_hold {
	struct workload *workload;
	struct reconciler_hold *prev, *next; /* the reconciler's */
};

void reconciler_hold(struct reconciler *r, const char *name, struct reconciler_hold *hold);
void reconciler_let_go(struct reconciler_hold *hold);

/* Calls fn with every workload, by name. The message is valid for the time of the call. */
void reconciler_each(struct reconciler *r, void (*fn)(const Capsule__V1__Workload *workload, void *arg), void *arg);

/* Whether the workload has no process and no step under way; true for one that does not exist. */
bool reconciler_is_down(struct reconciler *r, const char *name);

/* Whether the workload exists and shall run. */
bool reconciler_is_wanted(struct reconciler *r, const char *name);

/* Name of a workload whose spec names this image (full reference), or NULL. Valid until the next event. */
const char *reconciler_image_user(struct reconciler *r, const char *reference);

/* Paths of the layers that running workloads use; the array and its strings are the caller's. */
int reconciler_layers_in_use(struct reconciler *r, char ***ret, size_t *ret_n);

/* Counts by phase, for metrics and the log. */
size_t reconciler_count(struct reconciler *r);

/* ---- watching ---- */

/* Called after every visible change of a workload, and with gone = true when it has been removed. */
struct reconciler_watch {
	void (*changed)(const char *name, bool gone, void *arg);
	void *arg;
	struct reconciler_watch *prev, *next; /* the reconciler's */
};

/* The watch is the caller's and stays where it is until it is removed; it may be removed inside its callback. */
void reconciler_watch_add(struct reconciler *r, struct reconciler_watch *watch);
void reconciler_watch_remove(struct reconciler *r, struct reconciler_watch *watch);

#endif
