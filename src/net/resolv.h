/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The text of a workload's resolv.conf (resolv.conf(5)), private to this folder. */
#ifndef CAPSULE_NET_RESOLV_H
#define CAPSULE_NET_RESOLV_H

#include <stdbool.h>
#include <stdint.h>

/* Search domains and options of the host's text with our resolver in place of the host's. ndots is 0: a bare name is
 * asked as it stands first, so that a workload's name is found without a detour through the search domains. NULL
 * without memory; caller frees. */
char *resolv_for_bridge(const char *host_text, uint32_t resolver);

/* The host's text without the resolvers that only the host can reach (127.0.0.0/8, ::1). Caller frees. */
char *resolv_without_loopback(const char *host_text);

/* Whether the text names a resolver that is not on a loopback address. */
bool resolv_reaches_out(const char *text);

#endif
