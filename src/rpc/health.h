/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * grpc.health.v1.Health: Check and Watch (grpc/doc/health-checking.md).
 *
 * The service "" is the server as a whole and is there from the start, NOT_SERVING. A Check of a service that was
 * never set is NOT_FOUND; a Watch of it says SERVICE_UNKNOWN until it is set.
 */
#ifndef CAPSULE_RPC_HEALTH_H
#define CAPSULE_RPC_HEALTH_H

#include "rpc/conn.h"

struct rpc_health;

/* NULL without memory. Frees only after the connections that use it. */
struct rpc_health *rpc_health_new(void);
void rpc_health_free(struct rpc_health *health);

int rpc_health_register(struct rpc_health *health, struct rpc_services *services);

/* Sets a service's status and tells its watchers. 0, or -1 without memory. */
int rpc_health_set(struct rpc_health *health, const char *service, bool serving);

/* Everything is NOT_SERVING from now on, and the watchers are told so and released, so that a drain can end. */
void rpc_health_shutdown(struct rpc_health *health);

#endif
