/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * grpc.reflection.v1.ServerReflection, also under its older name v1alpha (grpc/doc/server-reflection.md).
 *
 * Lists the services that are registered and serves the files of a serialized FileDescriptorSet that describe them. The
 * set (proto/descriptors.h is ours) is read again for each question: they are rare, and an idle server keeps no index.
 */
#ifndef CAPSULE_RPC_REFLECTION_H
#define CAPSULE_RPC_REFLECTION_H

#include "rpc/conn.h"

struct rpc_reflection;

/* Registers with the services, which must outlive it. The set stays the caller's and must live as long. NULL without
 * memory. */
struct rpc_reflection *rpc_reflection_new(struct rpc_services *services, const uint8_t *descriptor_set, size_t len);
void rpc_reflection_free(struct rpc_reflection *reflection);

#endif
