/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Tells the service manager, if there is one, how the daemon is doing: the protocol of sd_notify(3), one datagram to the
 * socket that $NOTIFY_SOCKET names. Never fails: a manager that does not listen is not our problem. */
#ifndef CAPSULE_CAPSULED_NOTIFY_H
#define CAPSULE_CAPSULED_NOTIFY_H

/* "READY=1", "STOPPING=1", "STATUS=...", several of them with newlines between. */
void notify_manager(const char *state);

#endif
