/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* For the tests of the store: one in a directory of its own, and workloads to apply. */
#ifndef CAPSULE_TESTS_STORE_FIXTURE_H
#define CAPSULE_TESTS_STORE_FIXTURE_H

#include "store/store.h"

#include <check.h>
#include <string.h>

#define RUNNING CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_RUNNING
#define STOPPED CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_STOPPED
#define DELETING CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING

#define FIRST 0xac14fe02u /* 172.20.254.2 */
#define VOLUME_SIZE (1ull << 30)

extern const struct store_subnet subnet; /* begins at FIRST */
extern char dir[64], path[96]; /* the directory, the database in it */
extern struct store *store;
extern struct error err;

/* A call that succeeds, and one that fails with this code and these words; both use err. */
#define ok(call) ck_assert_msg((call) == 0, "%s", error_message(&err))
#define refused(call, expected, text)                                                                                 \
	do {                                                                                                          \
		ck_assert_int_lt((call), 0);                                                                          \
		ck_assert_msg(err.code == (expected), "%s: %s", error_code_name(err.code), error_message(&err));      \
		ck_assert_msg(strstr(error_message(&err), text) != NULL, "\"%s\" lacks \"%s\"",                      \
			      error_message(&err), text);                                                             \
		error_release(&err);                                                                                  \
	} while (0)

/* Closes the store and opens the database at path. */
void reopen(void);

/* Runs the tests, each with a new store that is open; the program's exit status. */
int run_store_tests(const char *name, const TTest *const *tests, size_t n);

#define PORTS_MAX 4
#define MOUNTS_MAX 4

struct spec {
	Capsule__V1__Workload workload;
	Capsule__V1__ContainerSpec container;
	Capsule__V1__PortMapping ports[PORTS_MAX], *port_list[PORTS_MAX];
	Capsule__V1__VolumeMount mounts[MOUNTS_MAX], *mount_list[MOUNTS_MAX];
};

/* A container on the bridge; its members point into *s and to the name. */
void spec_init(struct spec *s, const char *name);
void spec_port(struct spec *s, unsigned host_port, const char *protocol);
void spec_mount(struct spec *s, const char *volume);

/* As store_apply(), of one. ret_before may be NULL. */
int apply_one(const Capsule__V1__Workload *workload, const struct store_subnet *of, bool dry_run, struct store_workload *ret,
	      struct store_workload *ret_before, struct error *e);

/* 0, or -1 with err. */
int apply(const struct spec *s, struct store_workload *ret);
int apply_plain(const char *name);

/* The address of a workload's lease, 0 if it has none; and who has a host port, NULL if nobody. The caller frees. */
uint32_t address_of(const char *name);
char *port_holder(const char *protocol, uint16_t port);

/* A volume of VOLUME_SIZE that is ready. */
void make_volume(const char *name);

#endif
