/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/vm.h"

#include "shim/holder.h"
#include "vm/monitor.h"
#include "vm/tsc.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <sys/stat.h>

#define CLEAN_UP_MS_DEFAULT 600000
#define SERIAL_MAX 20 /* of a virtio block device */

static const char help[] =
	"Usage: capsule-vm OPTION... NAME\n"
	"Holds one running microVM. Started by capsuled; not meant to be run by hand.\n\n"
	"  --run DIR              the workload's run directory, with its bundle\n"
	"  --state DIR            the workload's directory in the state root: logs\n"
	"  --cgroup PATH          its cgroup\n"
	"  --generation N         recorded with the run\n"
	"  --log-max-bytes N      size at which a log is rotated\n"
	"  --log-max-files N      files kept of a log\n"
	"  --stop-signal N        for the payload when capsule-vm gets SIGTERM\n"
	"  --grace MS             from that signal to the kill\n"
	"  --clean-up MS          from the payload's end to the kill of a guest that still works on its disks\n"
	"  --monitor qemu|firecracker\n"
	"  --monitor-program PATH\n"
	"  --jailer PATH          Firecracker's\n"
	"  --accel kvm|emulated\n"
	"  --kernel PATH\n"
	"  --initramfs PATH\n"
	"  --cmdline TEXT         added to the kernel's command line\n"
	"  --vcpus N\n"
	"  --memory MIB\n"
	"  --disk SERIAL:ro|rw:PATH\n"
	"                         repeated, in this order: payload, disk, volume-0, ...; or rootfs, volume-0, ...\n"
	"  --volume NAME:ro|rw    the name of a volume; repeated\n"
	"  --address A.B.C.D/P    of the guest, with --gateway\n"
	"  --gateway A.B.C.D\n"
	"  --tap                  descriptor 5 is the guest's link\n"
	"  --uid N                user and group of the monitor\n"
	"  --no-agent             the guest is a system of its own\n";

enum vm_option {
	OPT_RUN = 1, OPT_STATE, OPT_CGROUP, OPT_GENERATION, OPT_LOG_MAX_BYTES, OPT_LOG_MAX_FILES, OPT_STOP_SIGNAL, OPT_GRACE,
	OPT_CLEAN_UP, OPT_MONITOR, OPT_MONITOR_PROGRAM, OPT_JAILER, OPT_ACCEL, OPT_KERNEL, OPT_INITRAMFS, OPT_CMDLINE,
	OPT_VCPUS, OPT_MEMORY, OPT_DISK, OPT_VOLUME, OPT_ADDRESS, OPT_GATEWAY, OPT_TAP, OPT_UID, OPT_NO_AGENT, OPT_HELP,
};

static const struct option options_table[] = {
	{ "run", required_argument, NULL, OPT_RUN },
	{ "state", required_argument, NULL, OPT_STATE },
	{ "cgroup", required_argument, NULL, OPT_CGROUP },
	{ "generation", required_argument, NULL, OPT_GENERATION },
	{ "log-max-bytes", required_argument, NULL, OPT_LOG_MAX_BYTES },
	{ "log-max-files", required_argument, NULL, OPT_LOG_MAX_FILES },
	{ "stop-signal", required_argument, NULL, OPT_STOP_SIGNAL },
	{ "grace", required_argument, NULL, OPT_GRACE },
	{ "clean-up", required_argument, NULL, OPT_CLEAN_UP },
	{ "monitor", required_argument, NULL, OPT_MONITOR },
	{ "monitor-program", required_argument, NULL, OPT_MONITOR_PROGRAM },
	{ "jailer", required_argument, NULL, OPT_JAILER },
	{ "accel", required_argument, NULL, OPT_ACCEL },
	{ "kernel", required_argument, NULL, OPT_KERNEL },
	{ "initramfs", required_argument, NULL, OPT_INITRAMFS },
	{ "cmdline", required_argument, NULL, OPT_CMDLINE },
	{ "vcpus", required_argument, NULL, OPT_VCPUS },
	{ "memory", required_argument, NULL, OPT_MEMORY },
	{ "disk", required_argument, NULL, OPT_DISK },
	{ "volume", required_argument, NULL, OPT_VOLUME },
	{ "address", required_argument, NULL, OPT_ADDRESS },
	{ "gateway", required_argument, NULL, OPT_GATEWAY },
	{ "tap", no_argument, NULL, OPT_TAP },
	{ "uid", required_argument, NULL, OPT_UID },
	{ "no-agent", no_argument, NULL, OPT_NO_AGENT },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

static int parse_mode(const char *mode, bool *ret_read_only)
{
	*ret_read_only = !strcmp(mode, "ro");
	return *ret_read_only || !strcmp(mode, "rw") ? 0 : -1;
}

/* It becomes a part of the monitor's options. */
static bool is_serial(const char *text)
{
	size_t len = strlen(text);

	return len > 0 && len <= SERIAL_MAX && strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-") == len;
}

/* SERIAL:MODE:PATH */
static int add_disk(struct vm_options *o, char *text)
{
	char *serial = strsep(&text, ":"), *mode = strsep(&text, ":");
	struct vm_disk *d = &o->disks[o->n_disks];

	if (!text || !*text || !is_serial(serial) || o->n_disks == VM_DISKS_MAX)
		return -1;
	d->serial = serial;
	d->path = text;
	o->n_disks++;
	return parse_mode(mode, &d->read_only);
}

/* NAME:MODE */
static int add_volume(struct vm_options *o, char *text)
{
	char *name = strsep(&text, ":");
	struct vm_volume *v = &o->volumes[o->n_volumes];

	if (!text || !*name || o->n_volumes == SHIM_VOLUMES_MAX)
		return -1;
	v->name = name;
	o->n_volumes++;
	return parse_mode(text, &v->read_only);
}

/* ADDRESS/PREFIX */
static int parse_address(struct vm_options *o, char *text)
{
	uint64_t prefix;
	char *slash = strchr(text, '/');

	if (!slash || holder_parse_number(slash + 1, 32, &prefix) < 0)
		return -1;
	*slash = '\0';
	o->address = text;
	o->prefix = (unsigned)prefix;
	return 0;
}

static int parse_accel(struct vm_options *o, const char *text)
{
	o->emulated = !strcmp(text, "emulated");
	return o->emulated || !strcmp(text, "kvm") ? 0 : -1;
}

static int parse_unsigned(const char *text, uint64_t max, unsigned *ret)
{
	uint64_t n;

	if (holder_parse_number(text, max, &n) < 0)
		return -1;
	*ret = (unsigned)n;
	return 0;
}

static int parse_machine_option(struct vm_options *o, int opt, char *arg)
{
	switch (opt) {
	case OPT_MONITOR:
		o->monitor = monitor_find(arg);
		return o->monitor ? 0 : -1;
	case OPT_MONITOR_PROGRAM: o->monitor_program = arg; return 0;
	case OPT_JAILER: o->jailer = arg; return 0;
	case OPT_ACCEL: return parse_accel(o, arg);
	case OPT_KERNEL: o->kernel = arg; return 0;
	case OPT_INITRAMFS: o->initramfs = arg; return 0;
	case OPT_CMDLINE: o->cmdline = arg; return 0;
	case OPT_VCPUS: return parse_unsigned(arg, 255, &o->vcpus);
	case OPT_MEMORY: return holder_parse_number(arg, UINT32_MAX, &o->memory_mib);
	case OPT_DISK: return add_disk(o, arg);
	case OPT_VOLUME: return add_volume(o, arg);
	case OPT_ADDRESS: return parse_address(o, arg);
	case OPT_GATEWAY: o->gateway = arg; return 0;
	case OPT_TAP: o->tap = true; return 0;
	case OPT_UID: return parse_unsigned(arg, UINT32_MAX - 1, &o->uid);
	case OPT_NO_AGENT: o->agent = false; return 0;
	default: return -1;
	}
}

static int parse_option(struct vm_options *o, int opt, char *arg)
{
	uint64_t n;

	switch (opt) {
	case OPT_RUN: o->run_dir = arg; return 0;
	case OPT_STATE: o->state_dir = arg; return 0;
	case OPT_CGROUP: o->cgroup = arg; return 0;
	case OPT_GENERATION: return holder_parse_number(arg, UINT64_MAX, &o->generation);
	case OPT_LOG_MAX_BYTES: return holder_parse_number(arg, INT64_MAX, &o->log_max_bytes);
	case OPT_LOG_MAX_FILES: return parse_unsigned(arg, 1000, &o->log_max_files);
	case OPT_STOP_SIGNAL:
		if (holder_parse_number(arg, NSIG - 1, &n) < 0)
			return -1;
		o->stop_signal = (int)n;
		return 0;
	case OPT_GRACE:
		if (holder_parse_number(arg, UINT64_C(1) << 40, &n) < 0)
			return -1;
		o->grace_ms = (int64_t)n;
		return 0;
	case OPT_CLEAN_UP:
		if (holder_parse_number(arg, UINT64_C(1) << 40, &n) < 0)
			return -1;
		o->clean_up_ms = (int64_t)n;
		return 0;
	case OPT_HELP:
		fputs(help, stdout);
		exit(0);
	default: return parse_machine_option(o, opt, arg);
	}
}

/* The disks that the kind of guest has, in their order. */
static bool disks_fit(const struct vm_options *o)
{
	size_t first = o->agent ? 2 : 1;

	if (o->n_disks != first + o->n_volumes)
		return false;
	return o->agent ? !strcmp(o->disks[0].serial, "payload") && !strcmp(o->disks[1].serial, "disk")
			: !strcmp(o->disks[0].serial, "rootfs");
}

static int parse_options(struct vm_options *o, int argc, char **argv, struct error *err)
{
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "", options_table, NULL)) != -1)
		if (opt == '?' || opt == ':' || parse_option(o, opt, optarg) < 0)
			return error_set(err, ERR_INVALID_ARGUMENT, "capsule-vm: bad option %s", argv[optind - 1]);
	if (optind + 1 != argc || !o->run_dir || !o->state_dir || !o->cgroup || !o->monitor || !o->monitor_program ||
	    !o->kernel || !o->vcpus || !o->memory_mib || !o->uid || !o->address != !o->gateway)
		return error_set(err, ERR_INVALID_ARGUMENT, "capsule-vm: an option is missing; see --help");
	if (!disks_fit(o))
		return error_set(err, ERR_INVALID_ARGUMENT, "capsule-vm: the disks and the volumes do not fit together");
	o->name = argv[optind];
	return 0;
}

int main(int argc, char **argv)
{
	static struct vm_options options = {
		.log_max_bytes = 10 << 20, .log_max_files = 3, .stop_signal = SIGTERM, .grace_ms = HOLDER_GRACE_MS_DEFAULT,
		.clean_up_ms = CLEAN_UP_MS_DEFAULT, .agent = true, .cmdline = "",
	};
	_cleanup_error_ struct error err = ERROR_INIT;

	tsc_begin();
	options.own_argv = argv[0];
	options.own_argv_size = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) + 1 - argv[0]);
	if (parse_options(&options, argc, argv, &err) < 0) {
		fprintf(stderr, "%s\n", error_message(&err));
		holder_refuse(&err);
		return 2;
	}
	umask(022);
	holder_keep_fds(options.tap ? VM_FD_TAP : SHIM_FD_LISTEN);
	if (holder_detach(&err) < 0) {
		holder_refuse(&err);
		return 1;
	}
	holder_block_signals();
	return vm_hold(&options);
}
