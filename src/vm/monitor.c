/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/monitor.h"

#include "shim/cgroup.h"
#include "vm/tsc.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

const struct monitor_ops *monitor_find(const char *option)
{
	static const struct monitor_ops *const all[] = { &monitor_qemu, &monitor_firecracker };

	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		if (!strcmp(all[i]->option, option))
			return all[i];
	return NULL;
}

/* ---- what monitors have in common ---- */

int monitor_open_disk(const struct vm_disk *disk, struct error *err)
{
	int fd = open(disk->path, (disk->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	struct stat st;

	if (fd < 0)
		return error_errno(err, errno, "cannot open the disk %s", disk->path);
	if (fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)))
		return fd;
	close(fd);
	return error_set(err, ERR_FAILED_PRECONDITION, "the disk %s is neither a file nor a block device", disk->path);
}

const char *monitor_mac(const struct vm_options *o, char out[MONITOR_MAC_MAX])
{
	uint8_t a[4] = { 0 };

	if (o->address)
		(void)inet_pton(AF_INET, o->address, a);
	snprintf(out, MONITOR_MAC_MAX, "02:ca:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3]);
	return out;
}

static void add_emulated(struct buf *out)
{
	/* The kernel may fail to measure the rate of the processor's counter, and hangs then. And where ticks come late it
	 * distrusts the counter, which is the host's, and counts ticks instead: a clock that loses time. Or it finds that no
	 * timer works, and panics. */
	buf_addf(out, " tsc_early_khz=%u tsc=reliable no_timer_check", tsc_khz());
	/* Ours (guest/patches) measures the APIC's timer neither, for which 0.1 s of ticks must come in time. QEMU's counts
	 * nanoseconds. */
	buf_adds(out, " lapic_timer_khz=1000000");
	/* For a single processor 7000 instructions would be patched, one by one: 0.1 s. */
	buf_adds(out, " noreplace-smp");
}

void monitor_cmdline(const struct monitor *m, bool acpi, struct buf *out)
{
	const struct vm_options *o = m->options;
	struct in_addr mask = { .s_addr = o->prefix ? htonl(~0u << (32 - o->prefix)) : 0 };
	char text[INET_ADDRSTRLEN];

	/* A kernel that panics ends the machine. */
	buf_addf(out, "console=ttyS0 panic=-1 reboot=%c", o->monitor->reboot);
	if (!acpi)
		buf_adds(out, " acpi=off");
	if (o->agent)
		buf_addf(out, "%s rootfstype=ramfs", m->verbose ? "" : " quiet");
	else
		buf_adds(out, " root=/dev/vda rw");
	if (o->emulated)
		add_emulated(out);
	if (!o->agent && o->address)
		buf_addf(out, " ip=%s::%s:%s:%s:eth0:off", o->address, o->gateway,
			 inet_ntop(AF_INET, &mask, text, sizeof text), o->name);
	if (*o->cmdline)
		buf_addf(out, " %s", o->cmdline);
}

static int check_readable(const char *what, const char *path, struct error *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return error_errno(err, errno, "cannot open the %s %s", what, path);
	if (!S_ISREG(st.st_mode) || !(st.st_mode & S_IROTH))
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "the %s %s must be a file that everybody may read, as the monitor runs without rights", what,
				 path);
	return 0;
}

/* ---- the process ---- */

static void finish(struct monitor *m)
{
	console_detach(m->console);
	m->events.ended(m->status, m->events.arg);
}

static void on_first_ended(int fd, int events, void *arg)
{
	struct monitor *m = arg;

	if (waitpid(m->first, NULL, WNOHANG) == 0)
		return;
	m->first = 0;
	watch_close(steal_ptr(&m->first_process));
	finish(m);
}

static void on_process_ended(int fd, int events, void *arg)
{
	struct monitor *m = arg;

	if (waitpid(m->pid, &m->status, WNOHANG) == 0)
		return;
	m->pid = 0;
	watch_close(steal_ptr(&m->process));
	if (!m->first) {
		finish(m);
		return;
	}
	/* With it goes what else is in the namespace. */
	kill(m->first, SIGKILL);
	watch_set(m->first_process, UV_READABLE);
}

static int start_process(struct monitor *m, struct jail *jail, struct error *err)
{
	struct jail_process p;
	char tasks[32];

	if (jail_start(jail, &p, err) < 0)
		return -1;
	m->pid = p.pid;
	m->first = p.first;
	snprintf(tasks, sizeof tasks, "/proc/%d/task", (int)m->pid);
	m->tasks_fd = open(tasks, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	m->process = watch_new(m->loop, p.pidfd, on_process_ended, m);
	if (m->first)
		m->first_process = watch_new(m->loop, p.first_fd, on_first_ended, m);
	if (console_attach(m->console, p.out_fd, p.err_fd, err) < 0)
		return -1;
	if (!m->process || (m->first && !m->first_process))
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot watch %s", m->ops->name);
	return m->ops->connect(m, err);
}

static int describe(struct monitor *m, struct jail *jail, struct error *err)
{
	const struct vm_options *o = m->options;

	if (check_readable("kernel", o->kernel, err) < 0 ||
	    (o->initramfs && check_readable("initramfs", o->initramfs, err) < 0))
		return -1;
	jail_add_bind(jail, o->kernel, MONITOR_KERNEL, false, false);
	if (o->initramfs)
		jail_add_bind(jail, o->initramfs, MONITOR_INITRAMFS, false, false);
	if (!o->emulated)
		jail_add_bind(jail, "/dev/kvm", "/dev/kvm", true, false);
	return m->ops->describe(m, jail, err);
}

/* A file system that is mounted twice is damaged. The store knows who has a volume, but not who has a file of the user's own:
 * it is locked, and a device opened exclusively, which a mount is, too, for as long as this process lives. */
static int claim(struct monitor *m, const struct vm_disk *disk, struct error *err)
{
	struct stat st;

	m->claim_fd = open(disk->path, O_RDWR | O_CLOEXEC);
	if (m->claim_fd >= 0 && fstat(m->claim_fd, &st) == 0 && S_ISBLK(st.st_mode)) {
		close(m->claim_fd);
		m->claim_fd = open(disk->path, O_RDWR | O_EXCL | O_CLOEXEC);
	}
	if (m->claim_fd >= 0 && flock(m->claim_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	if (errno == EBUSY || errno == EWOULDBLOCK)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "%s is in use, mounted or by another machine; give each machine a copy of its own", disk->path);
	return error_errno(err, errno, "cannot open the disk %s", disk->path);
}

static int claim_own_system(struct monitor *m, struct error *err)
{
	const struct vm_options *o = m->options;

	return o->agent || o->n_disks == 0 ? 0 : claim(m, &o->disks[0], err);
}

struct monitor *monitor_start(uv_loop_t *loop, const struct vm_options *options, bool verbose, struct console *console,
			      const struct monitor_events *events, struct error *err)
{
	_cleanup_(jail_release) struct jail jail = {
		.program = options->monitor_program, .name = options->monitor->name, .cgroup = options->cgroup,
		.mount_point = options->run_dir, .uid = options->uid, .listener_fd = -1, .id = options->name,
		.own_argv = options->own_argv, .own_argv_size = options->own_argv_size,
		.host_network = options->tap && options->monitor->host_network,
	};
	struct monitor *m = calloc(1, sizeof *m);

	if (!m) {
		error_errno(err, ENOMEM, "cannot start %s", options->monitor->name);
		return NULL;
	}
	*m = (struct monitor){
		.ops = options->monitor, .options = options, .loop = loop, .console = console, .verbose = verbose, .events = *events,
		.tasks_fd = -1, .claim_fd = -1,
	};
	if (claim_own_system(m, err) == 0 && describe(m, &jail, err) == 0 && start_process(m, &jail, err) == 0) {
		watch_set(m->process, UV_READABLE);
		return m;
	}
	if (m->pid) {
		monitor_kill(m);
		waitpid(m->pid, NULL, 0);
		if (m->first) {
			kill(m->first, SIGKILL);
			waitpid(m->first, NULL, 0);
		}
		console_detach(console);
	}
	monitor_free(m);
	return NULL;
}

void monitor_power_off(struct monitor *m)
{
	if (m->pid)
		m->ops->power_off(m);
}

void monitor_kill(struct monitor *m)
{
	if (!m->pid)
		return;
	/* Not reaped, so the pid is its own. */
	kill(m->pid, SIGKILL);
	(void)cgroup_kill_once(m->options->cgroup);
}

void monitor_free(struct monitor *m)
{
	if (!m)
		return;
	watch_close(m->process);
	watch_close(m->first_process);
	m->ops->close(m);
	cleanup_closep(&m->tasks_fd);
	cleanup_closep(&m->claim_fd);
	free(m);
}
