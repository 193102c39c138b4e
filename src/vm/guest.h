/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The guest's first process, as capsule-vm sees it: the client of proto/capsule/guest/guest.proto over one stream. The loop's
 * thread. The guest may send anything: what is no message of that protocol ends the connection or the call, and what is
 * held of it is limited as rpc/conn.h says.
 */
#ifndef CAPSULE_VM_GUEST_H
#define CAPSULE_VM_GUEST_H

#include "rpc/uv.h"
#include "shim/log_writer.h"
#include "vm/vm.h"

#include "guest.pb-c.h"

#define GUEST_BUNDLE_FILE_MAX (1u << 20)

struct guest;

struct guest_events {
	void (*hello)(const struct error *err, void *arg); /* err NULL: it has answered */
	void (*started)(void *arg);                        /* the payload runs */
	void (*output)(enum log_stream stream, const char *data, size_t len, void *arg);
	/* It has ended or was killed, and the guest unmounts and syncs; before exited, if the guest tells at all. */
	void (*ending)(void *arg);
	void (*exited)(const Capsule__Guest__V1__Exited *exited, void *arg);
	void (*volume_failed)(const char *volume, void *arg); /* whatever name the guest gives it */
	/* Run has ended: err is NULL in good order, else why, also when the connection is gone. */
	void (*run_ended)(const struct error *err, void *arg);
	void *arg;
};

/* Takes over the connected stream in any case, and says Hello. NULL, and err, on failure. */
struct guest *guest_new(uv_loop_t *loop, int fd, int64_t hello_timeout_ms, const struct guest_events *events,
			struct error *err);

/* Reads the bundle from run_dir and sends Run. */
int guest_run(struct guest *g, const struct vm_options *options, struct error *err);

/* Whether run_ended is still to come. */
bool guest_runs(const struct guest *g);

/* Without an answer: Run's end tells. */
void guest_stop(struct guest *g, int sig, int64_t grace_ms);

struct rpc_client *guest_client(struct guest *g);

/* No callback comes any more; calls of others on its client end. NULL is fine. */
void guest_free(struct guest *g);

#endif
