/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The daemon's options: built-in defaults, then the configuration file, then the command line. One table (options.c) drives
 * parsing, the configuration file and --help. In the file (YAML) an option stands under its long name without the dashes;
 * one that may be given several times is a list.
 */
#ifndef CAPSULE_CAPSULED_OPTIONS_H
#define CAPSULE_CAPSULED_OPTIONS_H

#include "base/error.h"
#include "base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OPTIONS_LIST_MAX 32
#define OPTIONS_LVM "lvm:"

struct option_list {
	char *items[OPTIONS_LIST_MAX];
	size_t n;
};

struct options {
	char *config;          /* file; NULL: the default one, if it is there */
	char *root, *run;
	struct option_list listen; /* empty: unix:<run>/capsule.sock */
	char *bridge, *subnet, *table, *dnsmasq;
	char *oci_runtime, *cgroup_parent, *shim, *image_worker, *copy_worker, *volume_worker;
	char *volumes;         /* "file", or OPTIONS_LVM and VG/POOL */
	char *vm_holder, *guest_dir;
	char *guest_kernel;    /* NULL: the one in guest_dir */
	char *vm_monitor, *vm_accel;
	char *vm_jailer;       /* "auto", "none" */
	enum log_level log_level;
	uint64_t log_max_size;
	unsigned log_max_files;
	int64_t stop_grace_ns;
	struct option_list mirrors;     /* "HOST=URL" */
	struct option_list plain_http;  /* "HOST" */
	char *metrics;         /* "HOST:PORT"; NULL: off */
	char *credentials;     /* file in Docker's format; NULL: none */
	bool down, help, version;
};

void options_release(struct options *o);

/* Fills *ret from argv and from the configuration file that it names. INVALID_ARGUMENT says which option or which line of the
 * file is wrong. */
int options_parse(int argc, char **argv, struct options *ret, struct error *err);

/* The text of --help. */
void options_print_help(void);

/* What capsule-image reads about registries, as JSON; caller frees. */
char *options_registries_json(const struct options *o, struct error *err);

#endif
