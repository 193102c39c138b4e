/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The serialized google.protobuf.FileDescriptorSet of every .proto file here, for rpc_reflection_new(). */
#ifndef CAPSULE_PROTO_DESCRIPTORS_H
#define CAPSULE_PROTO_DESCRIPTORS_H

#include <stddef.h>
#include <stdint.h>

extern const uint8_t proto_descriptors[];
extern const size_t proto_descriptors_len;

#endif
