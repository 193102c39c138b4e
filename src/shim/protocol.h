/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What daemon and shim say to each other, and what a shim leaves behind.
 *
 * Start. The daemon binds and listens on <run>/workloads/<name>/shim.sock before it starts the shim, and hands that
 * socket over. So from the moment the shim exists a daemon can connect to it, also one that comes later and finds a shim
 * that is still setting up. File descriptors of the new shim: SHIM_FD_CONNECTION, a first connection; SHIM_FD_LISTEN;
 * SHIM_FD_NETNS, the network namespace to enter, with --netns; SHIM_FD_RUNTIME, a sealed copy of the OCI runtime, with
 * --sealed-runtime. Shim and daemon prepare side by side, the one the mounts,
 * the other the bundle; on SHIM_START the shim runs the payload. If the connection ends before, it undoes and goes.
 *
 * Messages. SOCK_SEQPACKET: one packet is one message, a `struct shim_header` and a body of `length` bytes in the host's
 * byte order. On every connection the shim speaks first: SHIM_HELLO when the payload runs, or SHIM_FAILED. When the run
 * ends it sends SHIM_EXIT and closes.
 *
 * Evolution. A type never changes its meaning and a body only grows at its end: a receiver takes the part that it knows
 * and sees zeros where the sender had less to say. A type that the shim does not know is answered with
 * SHIM_UNSUPPORTED, so a newer daemon can drive an older shim. Types 16 to 31 are for running further processes, 32 to
 * 47 are meant for statistics, 48 to 63 are about volumes.
 *
 * Further processes. Each has a connection of its own: SHIM_EXEC asks for it, SHIM_EXEC_STARTED or SHIM_EXEC_FAILED
 * answers, SHIM_EXEC_EXIT tells its end. It lives no longer than the connection: when that closes the shim kills the
 * process with its session. What it reads and writes never passes through the shim: with SHIM_EXEC come descriptors, the
 * memory file with its struct shim_exec_spec and its three standard streams; or, for a terminal, the memory file alone,
 * and the terminal's master side comes back with SHIM_EXEC_STARTED.
 *
 * MicroVMs. capsule-vm holds a microVM and speaks this protocol as the shim does, but for further processes: the memory
 * file with SHIM_EXEC holds a serialized capsule.v1.WorkloadExecConfig, and the three streams come along also for a
 * terminal, which is in the guest; a change of its size is a SHIM_EXEC_RESIZE. What the process reads and writes passes
 * through capsule-vm. SHIM_COPY asks for one end of a copy and comes with three streams too; it is answered like
 * SHIM_EXEC, and exit code and standard error are those of capsule-copy (copier/protocol.h).
 *
 * SHIM_ENDING, after SHIM_HELLO and on every connection, tells that the payload of a microVM has ended: what is left until
 * SHIM_EXIT is the guest's work on its disks.
 *
 * SHIM_VOLUME_FAILED, after SHIM_HELLO and on every connection, tells of a volume whose file system has met an error and is
 * read-only from then on.
 *
 * SHIM_HOLD asks for a volume to be held still in the guest (volume/still.h). SHIM_HELD answers when it is so; SHIM_LET_GO, or
 * the end of the connection, lets go. SHIM_HOLD_ENDED comes last, instead of SHIM_HELD if it cannot be held.
 *
 * Texts for the daemon are one line of UTF-8 when they were received or read, whatever was sent.
 *
 * Functions: any thread; nothing here allocates.
 */
#ifndef CAPSULE_SHIM_PROTOCOL_H
#define CAPSULE_SHIM_PROTOCOL_H

#include "base/error.h"
#include "base/overlay.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define SHIM_PROTOCOL_VERSION 1
#define SHIM_BODY_MAX 4352
#define SHIM_COPY_PATH_MAX 4096
#define SHIM_FDS_MAX 4
#define SHIM_REASON_MAX 1024

#define SHIM_FD_CONNECTION 3
#define SHIM_FD_LISTEN 4
#define SHIM_FD_NETNS 5
#define SHIM_FD_TAP 5 /* of capsule-vm */
#define SHIM_FD_RUNTIME 6

/* Files in a workload's run directory. */
#define SHIM_SOCKET "shim.sock"
#define SHIM_PID_FILE "shim.pid"
#define SHIM_EXIT_FILE "exit"
#define SHIM_BEGUN_FILE "begun" /* of capsule-vm: the payload was started */

/* One shim can mount this many layers and volumes. */
#define SHIM_LAYERS_MAX OVERLAY_LAYERS_MAX
#define SHIM_VOLUMES_MAX 64

enum shim_type {
	SHIM_HELLO = 1,       /* to the daemon: struct shim_hello */
	SHIM_FAILED = 2,      /* to the daemon: why the payload does not run, text without a NUL */
	SHIM_EXIT = 3,        /* to the daemon: struct shim_result */
	SHIM_STOP = 4,        /* to the shim: struct shim_stop */
	SHIM_UNSUPPORTED = 5, /* to the daemon: struct shim_unsupported */
	SHIM_START = 6,       /* to the shim, on the first connection, once: the bundle is written; no body */
	SHIM_ENDING = 7,      /* to the daemon; no body */
	SHIM_EXEC = 16,         /* to the shim: struct shim_exec, and descriptors */
	SHIM_EXEC_STARTED = 17, /* to the daemon: struct shim_exec_started; with a terminal its descriptor */
	SHIM_EXEC_FAILED = 18,  /* to the daemon: struct shim_exec_failed */
	SHIM_EXEC_EXIT = 19,    /* to the daemon: struct shim_exec_exit */
	SHIM_EXEC_RESIZE = 20,  /* to capsule-vm: struct shim_exec_resize */
	SHIM_COPY = 21,         /* to capsule-vm: struct shim_copy, and descriptors */
	SHIM_HOLD = 48,         /* to capsule-vm: struct shim_hold */
	SHIM_HELD = 49,         /* to the daemon; no body */
	SHIM_LET_GO = 50,       /* to capsule-vm; no body */
	SHIM_HOLD_ENDED = 51,   /* to the daemon: struct shim_hold_ended */
	SHIM_VOLUME_FAILED = 52, /* to the daemon: struct shim_volume_failed */
};

struct shim_header {
	uint16_t version;
	uint16_t type;
	uint32_t length;
};

struct shim_hello {
	uint64_t generation;
	int64_t started_at_ns; /* realtime */
	int32_t pid;           /* first process of the workload */
	uint32_t reserved;
};

struct shim_stop {
	int64_t grace_ms;
	int32_t signal; /* 0: the image's stop signal */
	uint32_t reserved;
};

struct shim_unsupported {
	uint32_t type;
};

struct shim_result {
	uint64_t generation;
	int64_t started_at_ns;
	int64_t finished_at_ns;
	int32_t exit_code; /* 128 + signal for a kill */
	uint8_t oom_killed;
	uint8_t stopped; /* after a SHIM_STOP or SIGTERM to the shim */
	uint8_t reserved[2];
	char reason[SHIM_REASON_MAX]; /* NUL-terminated, one line: why a microVM ended that its payload did not end; or "" */
};

struct shim_exec {
	uint32_t terminal; /* it gets one, of this size */
	uint16_t columns, rows;
};

struct shim_exec_resize {
	uint16_t columns, rows;
};

struct shim_copy {
	uint32_t in; /* into the workload's files, else out of them */
	char path[SHIM_COPY_PATH_MAX]; /* NUL-terminated; as long as the message */
};

/* What is in the memory file: this, then the groups (uint32_t), the filter (struct sock_filter) and strings, each with its
 * NUL: the working directory, the arguments, the environment as NAME=VALUE. A newer daemon may add members at the end. */
struct shim_exec_spec {
	uint32_t size; /* of this structure: the groups begin there */
	uint32_t uid, gid;
	uint32_t n_groups, n_filter, n_args, n_env;
	uint32_t no_new_privs;
	uint64_t bounding, permitted; /* capabilities; 1 << CAP_... */
};

struct shim_exec_started {
	int32_t pid;
	uint32_t reserved;
};

struct shim_exec_failed {
	int32_t exit_code;          /* as shells have it: 127 not found, 126 not to be executed; 0: it is not about the command */
	char text[SHIM_REASON_MAX]; /* NUL-terminated; as long as the message */
};

struct shim_exec_exit {
	int32_t exit_code; /* 128 + signal for a kill */
	uint32_t reserved;
};

struct shim_hold {
	uint32_t seconds; /* at most */
	char volume[64];  /* NUL-terminated */
};

struct shim_hold_ended {
	int32_t code;               /* enum error_code; 0: it was held until it was let go */
	char text[SHIM_REASON_MAX]; /* NUL-terminated; as long as the message */
};

struct shim_volume_failed {
	char volume[64]; /* NUL-terminated */
};

struct shim_message {
	enum shim_type type;
	size_t length;
	union {
		struct shim_hello hello;
		struct shim_stop stop;
		struct shim_unsupported unsupported;
		struct shim_result result;
		struct shim_exec exec;
		struct shim_exec_started exec_started;
		struct shim_exec_failed exec_failed;
		struct shim_exec_exit exec_exit;
		struct shim_exec_resize exec_resize;
		struct shim_copy copy;
		struct shim_hold hold;
		struct shim_hold_ended hold_ended;
		struct shim_volume_failed volume_failed;
		char text[SHIM_BODY_MAX + 1]; /* NUL-terminated by shim_receive() */
	} body;
};

/* Sends one message without blocking. 0, or -errno. */
int shim_send(int fd, enum shim_type type, const void *body, size_t length);
int shim_send_fds(int fd, enum shim_type type, const void *body, size_t length, const int *fds, size_t n_fds);

/* Receives one message; blocks as the socket does. 1: a message; 0: the peer is gone; -errno, -EPROTO for a malformed
 * packet and for descriptors that nobody asked for. */
int shim_receive(int fd, struct shim_message *ret);

/* Descriptors that come with the message, close-on-exec, are the caller's. */
int shim_receive_fds(int fd, struct shim_message *ret, int fds[SHIM_FDS_MAX], size_t *ret_n_fds);

void shim_close_fds(const int *fds, size_t n_fds);

/* The exit file: "key value" lines, readable for people. dirfd is the run directory. Reading: 1, or 0 when there is no
 * (whole) record. */
int shim_result_write(int dirfd, const struct shim_result *result, struct error *err);
int shim_result_read(int dirfd, struct shim_result *ret);

/* Makes the begun file; it may exist. */
int shim_note_begun(int dirfd, struct error *err);

/* The pid file names a process by pid and start time, so that a reused pid is never taken for the shim. Reading returns
 * a pidfd, or -1 when that process does not exist any more. */
int shim_pid_write(int dirfd, struct error *err);
int shim_pid_open(int dirfd, pid_t *ret_pid);

#endif
