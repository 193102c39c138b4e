/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/exec.h"

#include "base/confine.h"
#include "base/fs.h"
#include "base/timeutil.h"
#include "shim/cgroup.h"
#include "shim/holder.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#define KILL_TIMEOUT_MS 10000

static const char help[] =
	"Usage: capsule-shim OPTION... NAME\n"
	"Holds one running workload. Started by capsuled; not meant to be run by hand.\n\n"
	"  --run DIR             the workload's run directory, which is the OCI bundle\n"
	"  --state DIR           the workload's directory in the state root\n"
	"  --cgroup PATH         its cgroup\n"
	"  --runtime PROGRAM     OCI runtime\n"
	"  --sealed-runtime      execute the copy of it on descriptor 6\n"
	"  --runtime-root DIR    state directory of the OCI runtime\n"
	"  --layer DIR           a layer of the image; repeated, lowest first\n"
	"  --volume NAME:ro|rw:DEVICE\n"
	"                        a volume to mount on volumes/NAME; repeated\n"
	"  --generation N        recorded with the run\n"
	"  --log-max-bytes N     size at which the log is rotated\n"
	"  --log-max-files N     log files kept\n"
	"  --stop-signal N       sent when the shim gets SIGTERM\n"
	"  --grace MS            from that signal to the kill\n"
	"  --netns               enter the network namespace on descriptor 5\n"
	"  --hide-unified        hide the v2 hierarchy of a hybrid host from the runtime\n"
	"  --config-pipe         hand the runtime its configuration through a pipe\n";

enum shim_option {
	OPT_RUN = 1, OPT_STATE, OPT_CGROUP, OPT_RUNTIME, OPT_SEALED_RUNTIME, OPT_RUNTIME_ROOT, OPT_LAYER, OPT_VOLUME, OPT_GENERATION,
	OPT_LOG_MAX_BYTES, OPT_LOG_MAX_FILES, OPT_STOP_SIGNAL, OPT_GRACE, OPT_NETNS, OPT_HIDE_UNIFIED, OPT_CONFIG_PIPE, OPT_HELP,
};

static const struct option options_table[] = {
	{ "run", required_argument, NULL, OPT_RUN },
	{ "state", required_argument, NULL, OPT_STATE },
	{ "cgroup", required_argument, NULL, OPT_CGROUP },
	{ "runtime", required_argument, NULL, OPT_RUNTIME },
	{ "sealed-runtime", no_argument, NULL, OPT_SEALED_RUNTIME },
	{ "runtime-root", required_argument, NULL, OPT_RUNTIME_ROOT },
	{ "layer", required_argument, NULL, OPT_LAYER },
	{ "volume", required_argument, NULL, OPT_VOLUME },
	{ "generation", required_argument, NULL, OPT_GENERATION },
	{ "log-max-bytes", required_argument, NULL, OPT_LOG_MAX_BYTES },
	{ "log-max-files", required_argument, NULL, OPT_LOG_MAX_FILES },
	{ "stop-signal", required_argument, NULL, OPT_STOP_SIGNAL },
	{ "grace", required_argument, NULL, OPT_GRACE },
	{ "netns", no_argument, NULL, OPT_NETNS },
	{ "hide-unified", no_argument, NULL, OPT_HIDE_UNIFIED },
	{ "config-pipe", no_argument, NULL, OPT_CONFIG_PIPE },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

static int add_volume(struct shim_options *o, char *text)
{
	char *mode = strchr(text, ':'), *device = mode ? strchr(mode + 1, ':') : NULL;
	struct shim_volume *v = &o->volumes[o->n_volumes];

	if (!device || o->n_volumes == SHIM_VOLUMES_MAX)
		return -1;
	*mode++ = *device++ = '\0';
	*v = (struct shim_volume){ .name = text, .device = device, .read_only = !strcmp(mode, "ro") };
	if (!v->read_only && strcmp(mode, "rw") != 0)
		return -1;
	o->n_volumes++;
	return 0;
}

static int parse_option(struct shim_options *o, int opt, char *arg)
{
	uint64_t n = 0;
	int r = 0;

	switch ((enum shim_option)opt) {
	case OPT_RUN: o->run_dir = arg; break;
	case OPT_STATE: o->state_dir = arg; break;
	case OPT_CGROUP: o->cgroup = arg; break;
	case OPT_RUNTIME: o->runtime = arg; break;
	case OPT_SEALED_RUNTIME: o->sealed_runtime = true; break;
	case OPT_RUNTIME_ROOT: o->runtime_root = arg; break;
	case OPT_LAYER:
		if (o->n_layers == SHIM_LAYERS_MAX)
			return -1;
		o->layers[o->n_layers++] = arg;
		break;
	case OPT_VOLUME: return add_volume(o, arg);
	case OPT_GENERATION: return holder_parse_number(arg, UINT64_MAX, &o->generation);
	case OPT_LOG_MAX_BYTES: return holder_parse_number(arg, INT64_MAX, &o->log_max_bytes);
	case OPT_LOG_MAX_FILES:
		r = holder_parse_number(arg, 1000, &n);
		o->log_max_files = (unsigned)n;
		break;
	case OPT_STOP_SIGNAL:
		r = holder_parse_number(arg, NSIG - 1, &n);
		o->stop_signal = (int)n;
		break;
	case OPT_GRACE:
		r = holder_parse_number(arg, UINT64_C(1) << 40, &n);
		o->grace_ms = (int64_t)n;
		break;
	case OPT_NETNS: o->netns = true; break;
	case OPT_HIDE_UNIFIED: o->hide_unified = true; break;
	case OPT_CONFIG_PIPE: o->config_pipe = true; break;
	case OPT_HELP:
		fputs(help, stdout);
		exit(0);
	default: return -1;
	}
	return r;
}

static int parse_options(struct shim_options *o, int argc, char **argv, struct error *err)
{
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "", options_table, NULL)) != -1)
		if (opt == '?' || opt == ':' || parse_option(o, opt, optarg) < 0)
			return error_set(err, ERR_INVALID_ARGUMENT, "capsule-shim: bad option %s", argv[optind - 1]);
	if (optind + 1 != argc || !o->run_dir || !o->state_dir || !o->cgroup || !o->runtime || !o->runtime_root ||
	    !o->n_layers)
		return error_set(err, ERR_INVALID_ARGUMENT, "capsule-shim: an option is missing; see --help");
	o->name = argv[optind];
	return 0;
}

/* The daemon executes it through a read-only mount (runtime/container/container.c): containers see this program. */
static int check_read_only(struct error *err)
{
	struct statvfs fs;

	if (statvfs("/proc/self/exe", &fs) < 0)
		return error_errno(err, errno, "capsule-shim cannot look at its program");
	if (!(fs.f_flag & ST_RDONLY))
		return error_set(err, ERR_FAILED_PRECONDITION, "capsule-shim is to be run from a read-only mount");
	return 0;
}

static int enter_netns(struct error *err)
{
	int fd;

	if (setns(SHIM_FD_NETNS, CLONE_NEWNET) < 0)
		return error_errno(err, errno, "cannot enter the network namespace");
	close(SHIM_FD_NETNS);
	/* Ports below 1024 guard the host, not a network of one workload: there any user may serve port 80. */
	fd = open("/proc/sys/net/ipv4/ip_unprivileged_port_start", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		(void)fs_write_all(fd, "0", 1);
		close(fd);
	}
	return 0;
}

/* The daemon is preparing the state directory and the bundle meanwhile. Should it die over that, nobody wants the payload. */
static int await_start(struct error *err)
{
	struct shim_message m;
	int r;

	do {
		r = shim_receive(SHIM_FD_CONNECTION, &m);
	} while (r > 0 && m.type != SHIM_START);
	return r > 0 ? 0 : error_set(err, ERR_CANCELLED, "the daemon ended during the start");
}

static int start(struct shim *shim, struct error *err)
{
	const struct shim_options *o = shim->options;
	_cleanup_launch_ struct launch launch = LAUNCH_NONE;

	shim->run_fd = open(o->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (shim->run_fd < 0)
		return error_errno(err, errno, "cannot open %s", o->run_dir);
	if (shim_pid_write(shim->run_fd, err) < 0)
		return -1;
	if (o->netns && enter_netns(err) < 0)
		return -1;
	if (mounts_own_namespace(o, err) < 0 || (o->config_pipe && launch_runtime(&launch, shim, err) < 0) ||
	    await_start(err) < 0)
		return -1;
	if (log_writer_open(&shim->log, o->state_dir, "payload.log", o->log_max_bytes, o->log_max_files, err) < 0)
		return -1;
	if (mounts_setup(o, err) < 0)
		return -1;
	if ((!o->config_pipe && launch_runtime(&launch, shim, err) < 0) || launch_payload(&launch, err) < 0) {
		launch_release(&launch);
		mounts_release(o);
		return -1;
	}
	if (exec_prepare(shim, err) < 0) {
		(void)cgroup_kill(o->cgroup, KILL_TIMEOUT_MS, NULL);
		mounts_release(o);
		return -1;
	}
	if (o->sealed_runtime)
		close(SHIM_FD_RUNTIME);
	shim->result.generation = o->generation;
	shim->result.started_at_ns = time_realtime_ns();
	return 0;
}

int main(int argc, char **argv)
{
	static struct shim_options options = {
		.log_max_bytes = 10 << 20, .log_max_files = 3, .stop_signal = SIGTERM, .grace_ms = HOLDER_GRACE_MS_DEFAULT,
	};
	static struct shim shim = { .options = &options, .run_fd = -1, .out_fd = -1, .err_fd = -1, .pidfd = -1 };
	_cleanup_error_ struct error err = ERROR_INIT;

	/* Executed through a descriptor, it is called by that one's number. */
	prctl(PR_SET_NAME, "capsule-shim");
	if (parse_options(&options, argc, argv, &err) < 0) {
		fprintf(stderr, "%s\n", error_message(&err));
		holder_refuse(&err);
		return 2;
	}
	if (check_read_only(&err) < 0) {
		holder_refuse(&err);
		return 1;
	}
	umask(022);
	holder_keep_fds(SHIM_FD_RUNTIME);
	if (holder_detach(&err) < 0) {
		holder_refuse(&err);
		return 1;
	}
	holder_block_signals();
	if (start(&shim, &err) < 0) {
		holder_refuse(&err);
		return 1;
	}
	/* What is needed from here on: to signal processes of any user, to write and rotate the log, to write in cgroups,
	 * and to unmount. The others are for the children that become processes of the workload. */
	holder_lower_capabilities(CONFINE_KEEP(CAP_KILL) | CONFINE_KEEP(CAP_SYS_ADMIN) | CONFINE_KEEP(CAP_DAC_OVERRIDE),
				  false);
	return serve(&shim);
}
