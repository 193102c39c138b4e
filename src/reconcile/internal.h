/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What the files of the reconciler share. */
#ifndef CAPSULE_RECONCILE_INTERNAL_H
#define CAPSULE_RECONCILE_INTERNAL_H

#include "reconcile/reconcile.h"
#include "reconcile/spec.h"
#include "runtime/limit.h"
#include "runtime/shim_client.h"
#include "shim/protocol.h"

#include <uthash.h>

/* The states of a workload. In those marked (task) a task of this workload is under way and nothing else may begin. */
enum state {
	STATE_DOWN,     /* nothing on the host but what it keeps on disk */
	STATE_PULLING,  /* its image is being fetched */
	STATE_STARTING, /* (task) */
	STATE_RUNNING,  /* held by a shim */
	STATE_STOPPING, /* its shim was asked to end it */
	STATE_CLEANING, /* (task) removing what a run left, giving up claims */
	STATE_WAITING,  /* down until its timer fires */
	STATE_REMOVING, /* (task) */
};

#define RUN_REASON_MAX 512

/* How the last run ended. */
struct run_result {
	bool valid;
	bool lost;      /* the shim was killed: nobody saw the end */
	bool oom_killed;
	bool unhealthy; /* it was stopped because its health check failed */
	int exit_code;
	int64_t finished_at_ns;
	char reason[RUN_REASON_MAX]; /* why a microVM ended before its payload; "" */
};

struct workload {
	UT_hash_handle hh;
	struct reconciler *owner;
	char name[64];
	struct store_workload record;
	enum state state;

	/* The present run, or the last one. */
	struct shim_client *shim;
	pid_t pid;
	uint64_t run_generation;
	int64_t started_at_ns;
	struct run_result result;
	char *image_digest;
	char **layers; /* of the run: kept from collection; of a microVM its payload */
	size_t n_layers;
	bool emulated; /* the run: a microVM without KVM */
	bool ending;   /* the run: its payload has ended, and the guest cleans up */

	/* See limits.c. */
	struct limits limits;   /* that the run has, or is being given */
	bool limits_known;      /* of one that was taken up they are not */
	bool limiting;          /* the task is under way */
	char *limits_failure;   /* why they could not be set; NULL: they could */

	char *storage_warning;  /* see storage.c; NULL: all is well with what its volumes stand on */
	char *failed_volumes;   /* of the run, those that have met an error: "a, b"; NULL: none */

	/* What comes next. */
	struct reconciler_access *accesses; /* utlist; see access.h */
	bool clean_due;         /* a run has ended: step_clean() comes before anything else */
	bool clean_failed;      /* so what the run had may be in use yet: it is tried again, after a while */
	bool holds;             /* claims, or leftovers of a run, that must go before the workload is at rest */
	bool completed;         /* ended, and by its restart policy not to be started again */
	bool restart_requested;
	bool unhealthy;         /* the present run is to be ended: its health check fails */
	int64_t stop_grace_ms;  /* what its shim was told, while STOPPING */
	bool failed;            /* the last attempt to start failed: `failure` says why */
	char *failure;
	unsigned restart_count;
	unsigned attempts;      /* ends in a row without a stable minute: decides the back-off */
	int64_t due_at_ns;      /* monotonic: no start before this; 0: at any time; INT64_MAX: when something happens */
	bool image_missing;     /* what the last attempt to start found out */
	bool waits_for_port;    /* it found that another workload's run has a port of this one: `failure` says which */
	bool pulled;            /* since the last attempt to start: a missing image is not pulled once more */
	uv_timer_t timer;

	struct health *health; /* see health.c; NULL: nothing is checked */

	/* See ephemeral.c. */
	struct ephemeral *ephemeral;            /* NULL: it stays */
	struct reconciler_hold *holds_of_calls; /* utlist */

	/* While PULLING. */
	struct pull_ticket *ticket;
	char *pull_status;
	uint64_t pull_done, pull_total;
};

/* A workload that was removed: a task that ends late may still bring an older record of it. */
struct removed {
	UT_hash_handle hh;
	char name[64];
	uint64_t revision;
};

/* What is known of the network that workloads share. */
struct bridge {
	char *obstacle;           /* NULL or "": none */
	int resolver;             /* pidfd; -1: none is watched */
	int64_t watched_since_ns; /* monotonic */
	uv_poll_t poll;           /* on resolver */
	uv_timer_t timer;         /* to the next look after its end */
	uv_timer_t linger;        /* to the removal of an empty bridge */
	unsigned open_timers;
};

/* What is known of the storage that volumes share. */
struct storage {
	struct volume_backend *backend; /* that tells of events; NULL: none does */
	int events;                     /* -1: nothing is watched */
	uv_poll_t poll;                 /* on events */
	uv_timer_t retry;               /* runs after a look that failed */
	uint64_t retry_ms;              /* that it last waited; 0: the last look went well */
	bool looking, again;            /* a look is under way, and is to be followed by another one */
	char warning[VOLUME_WARNING_MAX];
};

struct reconciler {
	struct reconciler_host host;
	struct removed *removed; /* uthash by name; emptied whenever no task is under way */
	struct bridge bridge;
	struct storage storage;
	struct workload *workloads; /* uthash by name */
	struct reconciler_watch *watches, *watch_cursor;
	bool halted;
	uint64_t ports_freed; /* how often reconciler_port_freed() was called */
	size_t closing;
};

static inline struct driver *driver_of(const struct reconciler_host *host, const Capsule__V1__Workload *spec)
{
	return spec_is_container(spec) ? host->container : host->micro_vm;
}

/* ---- machine.c: on the loop ---- */

struct workload *workload_new(struct reconciler *r, const char *name);
void workload_free(struct workload *w); /* takes it out of the table; the memory goes when its timer is closed */

/* Notes that records of this name up to this revision are of the past. */
void reconciler_note_removed(struct reconciler *r, const char *name, uint64_t revision);

/* Does the next step that state and wish ask for, if any. */
void workload_advance(struct workload *w);

/* Takes note of the end of a run and decides about a restart. asked: it ended because the daemon wanted it to. */
void workload_note_end(struct workload *w, const struct run_result *result, bool asked);

/* What was found of a run at start-up (recover.c). Takes what the instance owns. */
void workload_found(struct workload *w, struct driver_instance *instance);

/* The end of step_start() for a spec of this generation: instance is NULL on failure. */
void workload_started(struct workload *w, struct driver_instance *instance, uint64_t generation, const struct error *err);

/* A new wish: what the past attempts decided (back-off, completion, failure, a pull under way) counts no more. */
void workload_reset(struct workload *w);

/* Tells the watchers. */
void workload_changed(struct workload *w);

/* Tells whoever keeps the record. */
#define workload_happened(w, type, ...)                                                                               \
	workload_record((w), CAPSULE__V1__WORKLOAD_OCCURRENCE_TYPE__WORKLOAD_OCCURRENCE_TYPE_##type, __VA_ARGS__)
void workload_record(struct workload *w, Capsule__V1__WorkloadOccurrenceType type, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* A port that a former run had is free: whoever waits for one, all or this workload, tries again. */
void reconciler_port_freed(struct reconciler *r);
void workload_port_freed(struct workload *w);

/* The workload was removed as it was at this revision. Frees it and tells the watchers that it is gone; one of the same
 * name that was applied since takes its place. */
void workload_gone(struct workload *w, uint64_t revision);

/* A step other than a start failed ("delete it"): it is tried again after a while. */
void workload_step_failed(struct workload *w, const char *what, const struct error *err);

bool workload_wants_run(const struct workload *w);

/* Takes over the list of layers that are in use, instead of the former one. */
void workload_keep_layers(struct workload *w, char **layers, size_t n);

/* A connected run, just started or found at start-up. Takes what the instance owns. */
void workload_adopt(struct workload *w, struct driver_instance *instance);

/* The health check has failed often enough: the run ends like one that failed, if the restart policy restarts those. */
void workload_note_unhealthy(struct workload *w);

/* ---- health.c ---- */

/* Checks the workload if it runs and has a health check, else not. */
void health_follow(struct workload *w);
void health_end(struct workload *w);

/* UNSPECIFIED if nothing is checked. *ret_message: why the last probe failed, or ""; valid until the next event. */
Capsule__V1__Health health_state(const struct workload *w, const char **ret_message);

/* ---- ephemeral.c ---- */

/* An ephemeral workload that nobody uses any more is deleted after a while. */
void ephemeral_follow(struct workload *w);
void ephemeral_end(struct workload *w);

/* The workload goes before those that hold it. */
void ephemeral_orphan(struct workload *w);

/* ---- limits.c ---- */

/* Gives the workload the limits of its record if it runs and has others. */
void limits_follow(struct workload *w);

/* It runs with these. */
void limits_note(struct workload *w, const struct limits *limits);

/* ---- access.c ---- */

/* Tells those that have begun, or all, that they shall end. */
void access_revoke(struct workload *w, bool waiting_too);

/* Whether any has begun and not ended: a workload that does not run must not be touched. */
bool access_is_active(const struct workload *w);

/* Begins those that wait, as far as the state allows. */
void access_admit(struct workload *w);

/* The workload goes before those that access it. */
void access_orphan(struct workload *w);

/* The layers that a stopped workload's accesses stand on, borrowed: fills in up to max, returns how many there are. */
size_t access_layers(const struct workload *w, const char **layers, size_t max);

/* ---- steps.c: what the tasks do; each begins one and ends in workload_advance() ---- */

void step_start(struct workload *w);
void step_take_up(struct workload *w); /* of a run that was found starting: waits for what becomes of it */
void step_clean(struct workload *w);
void step_remove(struct workload *w);

/* A deep copy for a task; aborts without memory. */
void record_copy(const struct store_workload *from, struct store_workload *to);

/* The endpoint of a record; the ports are allocated, freed by the caller. -1 without memory. */
int endpoint_of(const struct store_workload *record, struct net_endpoint *ret, struct net_port **ret_ports);

/* ---- bridge.c ---- */

void bridge_init(struct reconciler *r);
void bridge_release(struct reconciler *r);

/* A workload has left the bridge: if it is empty, and stays so for a while, it goes. */
void bridge_left(struct reconciler *r);

/* What a look at the network finds. */
struct bridge_look {
	char *obstacle; /* text for the user, a line each; "": none; NULL: unknown */
	int resolver;   /* pidfd; -1: none runs */
};

/* May block. Starts the resolver again if it has ended. */
void bridge_look(struct net *net, struct bridge_look *ret);
void bridge_look_release(struct bridge_look *look);

/* On the loop: takes over what was found, and releases it. */
void bridge_note(struct reconciler *r, struct bridge_look *look);

/* What is in the way of the workloads on the bridge; "" if nothing is. */
const char *bridge_obstacle(const struct reconciler *r);

/* ---- storage.c ---- */

void storage_init(struct reconciler *r);
void storage_release(struct reconciler *r);

/* Looks at the storage of volumes, unless nothing could have changed about it; the statuses of workloads follow. */
void storage_look(struct reconciler *r);

/* ---- status.c ---- */

/* Fills a message on the stack whose strings live in `text` and in the workload. */
struct status_view {
	Capsule__V1__Workload workload;
	Capsule__V1__WorkloadStatus status;
	char message[2048];
	char address[16];
};
void status_fill(const struct workload *w, struct status_view *view);

/* Until the next attempt; 0: it is due. */
unsigned workload_seconds_left(const struct workload *w);

/* "exited 1", "killed: out of memory". */
#define RUN_RESULT_TEXT (80 + RUN_REASON_MAX)
const char *run_result_text(const struct run_result *result, char out[RUN_RESULT_TEXT]);

#endif
