/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The program capsule-guest: the first process of a microVM (docs/microvm.md).
 *
 *     main.c      the order of things, children, the end
 *     boot.c      what a kernel leaves to its first process: file systems, modules
 *     stream.c    the byte stream to the host
 *     hello.c     Hello and Stats
 *     payload.c   Run and Stop: the payload from its start to its end
 *     root.c      what the payload stands on: disks, bundle, network; in a child
 *     network.c   address and route
 *     exec.c      Exec
 *     copy.c      Copy
 *     hold.c      Hold
 *     volumes.c   volumes that have met an error
 *
 * One thread, one libuv loop. What may block, mounts and unmounts, happens in children.
 */
#ifndef CAPSULE_GUEST_GUEST_H
#define CAPSULE_GUEST_GUEST_H

#include "guest/payload.h"
#include "guest/stream.h"
#include "rpc/uv.h"
#include "shim/protocol.h"

#include "guest.pb-c.h"

/* Further processes, copies and held volumes at once. */
#define GUEST_EXECS_MAX 256
#define GUEST_COPIES_MAX 32
#define GUEST_HOLDS_MAX 32

/* A volume that may be written. */
struct watched_volume {
	struct guest *guest;
	char name[64];
	uv_poll_t poll;
	int fd; /* -1: it is not watched */
};

struct guest {
	uv_loop_t loop;
	uv_signal_t children;
	uv_idle_t reap_again;
	uv_timer_t end_timer;
	struct rpc_server *server;
	struct stream stream;
	struct payload payload;
	struct exec_call *execs;
	struct copy_call *copies;
	struct hold_call *holds;
	struct watched_volume volumes[SHIM_VOLUMES_MAX];
	size_t n_volumes;
	unsigned protocol;  /* that host and guest speak; 0: the host has not said Hello */
	bool connected;     /* the byte stream is there */
	bool ending;
};

/* The guest of a call. */
struct guest *guest_of(const struct rpc_call *call);

/* Looks after children that have ended. */
void guest_reap(struct guest *g);

/* There is nothing left to do: powers off when the host has what was sent to it. */
void guest_end(struct guest *g);

/* For when there is no going on: says why on the console and powers off. */
_Noreturn void guest_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A line in the kernel's log, which has the time of everything since the boot. */
void guest_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Writes the kernel's log to the console, in a child that has time. */
void guest_show_log(void);

/* hello.c. False: the call was ended, because Hello comes first. */
bool hello_check(struct rpc_call *call);

#define HELLO_METHODS 2
#define PAYLOAD_METHODS 2
extern struct rpc_method hello_methods[HELLO_METHODS], payload_methods[PAYLOAD_METHODS], exec_method, copy_method,
	hold_method;

/* exec.c, hold.c, copy.c. Whether the child was one of theirs. */
bool exec_reap(struct guest *g, pid_t pid, int exit_code);
bool hold_reap(struct guest *g, pid_t pid, int exit_code);
/* libuv waits for copies. */
bool copy_owns(const struct guest *g, pid_t pid);

/* Ends those under way, and tells whether no process is left of them. */
bool execs_end(struct guest *g);
bool copies_end(struct guest *g);
bool holds_end(struct guest *g);

/* volumes.c. What Run has brought; they are watched from when they are mounted until they are to be unmounted. */
void volumes_note(struct guest *g, const Capsule__Guest__V1__RunRequest *request);
void volumes_watch(struct guest *g);
void volumes_end(struct guest *g);

#endif
