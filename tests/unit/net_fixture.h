/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The bridge network against the real kernel. Each HOST_TEST is the first process of new network, process and mount
 * namespaces, which play the host: nothing of the real one is touched, and whatever a test leaves behind ends with it.
 * A second namespace, joined by a cable, plays another host: 10.9.0.1 is ours, 10.9.0.2 the other's.
 */
#ifndef CAPSULE_TESTS_NET_FIXTURE_H
#define CAPSULE_TESTS_NET_FIXTURE_H

#include "base/process.h"
#include "net/net.h"

#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <check.h>
#include <stdlib.h>
#include <string.h>

#define RUN_DIR "/mnt/dns"
#define BRIDGE_ADDRESS 0xac14fe01u /* 172.20.254.1 */
#define HOST_ADDRESS "10.9.0.1"
#define REMOTE_ADDRESS "10.9.0.2"

/* The network namespaces of the host and of the other one, inside a HOST_TEST. */
extern int remote_ns, host_ns;

#define OK(call)                                                                                                      \
	do {                                                                                                          \
		struct error err = ERROR_INIT;                                                                        \
		int ok_r = (call);                                                                                    \
		ck_assert_msg(ok_r >= 0, "%s: %s", #call, error_message(&err));                                       \
	} while (0)

#define FAILS(call, what, text)                                                                                       \
	do {                                                                                                          \
		struct error err = ERROR_INIT;                                                                        \
		ck_assert_msg((call) < 0, "%s did not fail", #call);                                                  \
		ck_assert_msg(err.code == (what) && strstr(error_message(&err), text), "%s: %s",                      \
			      error_code_name(err.code), error_message(&err));                                        \
		error_release(&err);                                                                                  \
	} while (0)

/* ---- commands ---- */

/* What the command prints. The caller frees. */
char *output_of(const char *const *argv);

#define RUN(...)                                                                                                      \
	do {                                                                                                          \
		const char *const run_argv[] = { __VA_ARGS__, NULL };                                                 \
		OK(process_run_ok(run_argv, 10000, &err));                                                            \
	} while (0)

#define ASSERT_OUTPUT(expected, text, ...)                                                                            \
	do {                                                                                                          \
		const char *const out_argv[] = { __VA_ARGS__, NULL };                                                 \
		char *out = output_of(out_argv);                                                                      \
		ck_assert_msg(!!strstr(out, text) == (expected), "\"%s\" %s in: %s", text,                            \
			      (expected) ? "missing" : "found", out);                                                 \
		free(out);                                                                                            \
	} while (0)

/* Runs fn in a child that has entered the namespace; its exit status. */
int in_namespace(int ns, int (*fn)(const void *), const void *arg);

/* For in_namespace(): arg is an argv. */
int run_argv(const void *arg);

#define RUN_IN(ns, ...)                                                                                               \
	do {                                                                                                          \
		const char *const in_argv[] = { __VA_ARGS__, NULL };                                                  \
		ck_assert_int_eq(in_namespace(ns, run_argv, in_argv), 0);                                             \
	} while (0)

/* ---- servers and clients ---- */

struct service {
	bool udp;
	uint16_t port;
	const char *name; /* what the server calls itself */
};

struct sockaddr_in ipv4(const char *address, uint16_t port);

/* Starts a server, which answers each call with its own name and the caller's address; it listens when this returns and
 * ends with this process. */
pid_t start_server(int ns, struct service s);
void stop(pid_t pid);

/* The answer to a call from a namespace; "" if there was none. source_port 0: any. Good until the next call. */
const char *call_from(int ns, const char *address, struct service service, uint16_t source_port, int timeout_ms);

#define TCP(port) ((struct service){ false, port, "" })
#define UDP(port) ((struct service){ true, port, "" })
#define ASSERT_REPLY(ns, address, service, expected) ck_assert_str_eq(call_from(ns, address, service, 0, 3000), expected)
#define ASSERT_SILENCE(ns, address, service) ck_assert_str_eq(call_from(ns, address, service, 0, 300), "")

/* ---- names ---- */

/* What the bridge's resolver says: an address, or in words that there is none. Good until the next call. */
const char *resolve(int ns, const char *name, int type);

/* The resolver reads its names a moment after it was told to: waits for the answer. */
void assert_resolves(int ns, const char *name, const char *expected);

/* ---- the stage ---- */

/* Runs the body as the first process of a host of its own. */
void on_a_host(void (*body)(void));

#define HOST_TEST(name)                                                                                               \
	static void name##_body(void);                                                                                \
	START_TEST(name)                                                                                              \
	{                                                                                                             \
		on_a_host(name##_body);                                                                               \
	}                                                                                                             \
	END_TEST                                                                                                      \
	static void name##_body(void)

struct net *make_net(void);

/* The last byte of its address; the fd of its network namespace, which the caller closes. */
int attach(struct net *net, const char *name, unsigned last, const struct net_port *ports, size_t n);
void detach(struct net *net, const char *name);

/* Nothing of ours is on the host: no link, no rule, no process, no file. */
void assert_clean(void);

#endif
