/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Where a server listens and a client connects: "unix:PATH" or "HOST:PORT", an IPv6 address in brackets. */
#ifndef CAPSULE_RPC_ADDRESS_H
#define CAPSULE_RPC_ADDRESS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/un.h>

struct rpc_address {
	bool is_unix;
	bool loopback;    /* TCP: 127.0.0.0/8, ::1 or "localhost" */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* Unix: shorter than this, NUL-terminated */
	char host[256];   /* TCP: without brackets */
	uint16_t port;
};

/* INVALID_ARGUMENT with a sentence that shows the two forms. Nothing is resolved. */
int rpc_address_parse(const char *text, struct rpc_address *ret, struct error *err);

#endif
