/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Where host and guest of a microVM find each other, beside proto/capsule/guest/guest.proto.
 *
 * Version. It grows when a peer must know more than protocol buffers tell by themselves (a field that is not there, a
 * method that answers UNIMPLEMENTED). Each side names the newest that it speaks, both speak the older of the two.
 */
#ifndef CAPSULE_GUEST_PROTOCOL_H
#define CAPSULE_GUEST_PROTOCOL_H

#define GUEST_PROTOCOL_VERSION 1

#define GUEST_PORT_NAME "capsule.agent" /* of the virtio-serial port */
#define GUEST_VSOCK_PORT 1024           /* of the host */

/* Directories in the guest that the OCI configuration names. */
#define GUEST_BUNDLE "/run/capsule/bundle"
#define GUEST_VOLUMES "/run/capsule/volumes"

#endif
