/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * QEMU's microvm machine. Everything comes as a descriptor but kernel and initramfs, which QEMU opens by name. The agent's
 * stream is a virtio-serial port: what is written before the guest has opened it waits in the socket, and QMP tells when
 * it has.
 */
#include "guest/protocol.h"
#include "vm/monitor.h"
#include "vm/qmp.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/socket.h>

#define CMDLINE_MAX 4096
/* The machine has eight devices for a kernel without ACPI: two disks, network, agent and balloon leave room for so many
 * volumes. More of them are disks of one SCSI controller. */
#define VIRTIO_VOLUMES_MAX 3
/* ACPI: 5.2.5.3, the root pointer's, which a kernel with ACPI looks for in memory. */
#define ACPI_SIGNATURE "RSD PTR "
#define KERNEL_READ_SIZE (64u << 10)

struct qemu {
	struct qmp *qmp;
	int control_fd, agent_fd; /* ours; -1: handed over */
};

static void qemu_close(struct monitor *m)
{
	struct qemu *q = m->data;

	if (!q)
		return;
	qmp_free(q->qmp);
	cleanup_closep(&q->control_fd);
	cleanup_closep(&q->agent_fd);
	free(q);
	m->data = NULL;
}

static bool contains(int fd, const char *text)
{
	size_t len = strlen(text);
	char data[KERNEL_READ_SIZE];
	off_t at = 0;
	ssize_t n;

	/* The pieces overlap, as it may lie across their ends. */
	while ((n = pread(fd, data, sizeof data, at)) >= (ssize_t)len) {
		if (memmem(data, (size_t)n, text, len))
			return true;
		at += n - (ssize_t)(len - 1);
	}
	return false;
}

static bool has_word(const char *text, const char *word)
{
	size_t len = strlen(word);

	for (const char *at = text; (at = strstr(at, word)); at += len)
		if ((at == text || at[-1] == ' ') && (!at[len] || at[len] == ' '))
			return true;
	return false;
}

/* An image that is no ELF file is booted like a PC's and needs ACPI to find its devices. An ELF file is entered as PVH says and
 * finds them through ACPI, which brings a power button, or on the command line: QEMU tells in one way only. Our kernel has no
 * ACPI. */
static bool kernel_has_acpi(const struct vm_options *o)
{
	_cleanup_close_ int fd = open(o->kernel, O_RDONLY | O_CLOEXEC);
	char magic[SELFMAG];

	if (fd < 0 || read(fd, magic, sizeof magic) != sizeof magic || memcmp(magic, ELFMAG, SELFMAG))
		return true;
	return !o->agent && !has_word(o->cmdline, "acpi=off") && contains(fd, ACPI_SIGNATURE);
}

/* A socket whose other end is QEMU's. Returns the number there. */
static int add_socket(struct jail *jail, int *ret_fd, struct error *err)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return error_errno(err, errno, "cannot make a socket");
	*ret_fd = pair[0];
	return jail_add_fd(jail, pair[1]);
}

/* Errors are the guest's to see: by default the machine would stop when the host's disk is full. Host caches are used, shared
 * by the machines of an image; a flush of the guest reaches the disk. */
static int add_disk(struct jail *jail, const struct vm_disk *disk, size_t number, bool scsi, struct error *err)
{
	int fd = monitor_open_disk(disk, err);
	struct stat st;

	if (fd < 0)
		return -1;
	/* A volume is a block device, a payload a file. */
	if (fstat(fd, &st) < 0) {
		error_errno(err, errno, "cannot look at %s", disk->path);
		close(fd);
		return -1;
	}
	fd = jail_add_fd(jail, fd);
	jail_add_arg(jail, "-add-fd");
	jail_add_arg(jail, "fd=%d,set=%zu", fd, number);
	jail_add_arg(jail, "-blockdev");
	jail_add_arg(jail,
		     "driver=raw,node-name=disk%zu,read-only=%s,discard=unmap,cache.direct=off,cache.no-flush=off,"
		     "file.driver=%s,file.filename=/dev/fdset/%zu,file.aio=threads,file.locking=off",
		     number, disk->read_only ? "on" : "off", S_ISBLK(st.st_mode) ? "host_device" : "file", number);
	jail_add_arg(jail, "-device");
	jail_add_arg(jail, "%s,drive=disk%zu,serial=%s,werror=report,rerror=report", scsi ? "scsi-hd" : "virtio-blk-device",
		     number, disk->serial);
	return 0;
}

static int add_disks(struct jail *jail, const struct vm_options *o, struct error *err)
{
	size_t first_volume = o->n_disks - o->n_volumes;
	bool scsi = o->n_volumes > VIRTIO_VOLUMES_MAX;

	if (scsi) {
		jail_add_arg(jail, "-device");
		jail_add_arg(jail, "virtio-scsi-device");
	}
	for (size_t i = 0; i < o->n_disks; i++)
		if (add_disk(jail, &o->disks[i], i, scsi && i >= first_volume, err) < 0)
			return -1;
	return 0;
}

static void add_network(struct jail *jail, const struct vm_options *o)
{
	char mac[MONITOR_MAC_MAX];
	int fd = fcntl(VM_FD_TAP, F_DUPFD_CLOEXEC, 0);

	fd = jail_add_fd(jail, fd);
	jail_add_arg(jail, "-netdev");
	jail_add_arg(jail, "tap,id=net,fd=%d", fd);
	jail_add_arg(jail, "-device");
	jail_add_arg(jail, "virtio-net-device,netdev=net,mac=%s", monitor_mac(o, mac));
}

static int add_agent(struct jail *jail, struct qemu *q, struct error *err)
{
	int fd = add_socket(jail, &q->agent_fd, err);

	if (fd < 0)
		return -1;
	jail_add_arg(jail, "-device");
	jail_add_arg(jail, "virtio-serial-device");
	jail_add_arg(jail, "-chardev");
	jail_add_arg(jail, "socket,id=agent,fd=%d", fd);
	jail_add_arg(jail, "-device");
	jail_add_arg(jail, "virtserialport,id=agent,chardev=agent,name=" GUEST_PORT_NAME);
	return 0;
}

static void add_all(struct jail *jail, const char *const *args)
{
	for (; *args; args++)
		jail_add_arg(jail, "%s", *args);
}

static void add_machine(struct jail *jail, const struct vm_options *o, bool acpi)
{
	static const char *const always[] = {
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-msg", "timestamp=off", "-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny", "-chardev",
		"stdio,id=console,signal=off", "-serial", "chardev:console", "-device",
		"virtio-balloon-device,free-page-reporting=on", NULL,
	};
	static const char *const entropy[] = { "-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng", NULL };

	add_all(jail, always);
	/* The agent gets entropy with Hello: one more device for volumes. */
	if (!o->agent)
		add_all(jail, entropy);
	jail_add_arg(jail, "-machine");
	/* Without a PC's old timer and interrupt controller a boot is 30 ms shorter, but its end, a reset, hangs. */
	jail_add_arg(jail, "microvm,acpi=%s,rtc=on,pic=on,pit=on,usb=off", acpi ? "on" : "off");
	jail_add_arg(jail, "-accel");
	jail_add_arg(jail, "%s", o->emulated ? "tcg" : "kvm");
	jail_add_arg(jail, "-cpu");
	jail_add_arg(jail, "%s", o->emulated ? "max,la57=off" : "host");
	jail_add_arg(jail, "-smp");
	jail_add_arg(jail, "%u", o->vcpus);
	jail_add_arg(jail, "-m");
	jail_add_arg(jail, "%llu", (unsigned long long)o->memory_mib);
}

static void add_kernel(struct jail *jail, const struct monitor *m, bool acpi)
{
	const struct vm_options *o = m->options;
	_cleanup_buf_ struct buf cmdline = BUF_INIT(CMDLINE_MAX);

	monitor_cmdline(m, acpi, &cmdline);
	jail->failed |= cmdline.failed;
	jail_add_arg(jail, "-kernel");
	jail_add_arg(jail, MONITOR_KERNEL);
	if (o->initramfs) {
		jail_add_arg(jail, "-initrd");
		jail_add_arg(jail, MONITOR_INITRAMFS);
	}
	jail_add_arg(jail, "-append");
	jail_add_arg(jail, "%s", buf_str(&cmdline));
}

static int qemu_describe(struct monitor *m, struct jail *jail, struct error *err)
{
	static const char *const firmware[] = { "/usr/share/qemu", "/usr/share/seabios", "/usr/local/share/qemu" };
	const struct vm_options *o = m->options;
	bool acpi = kernel_has_acpi(o);
	struct qemu *q = calloc(1, sizeof *q);
	int fd;

	if (!q)
		return error_errno(err, ENOMEM, "cannot start QEMU");
	q->control_fd = q->agent_fd = -1;
	m->data = q;
	add_machine(jail, o, acpi);
	add_kernel(jail, m, acpi);
	for (size_t i = 0; i < sizeof firmware / sizeof firmware[0]; i++)
		jail_add_bind(jail, firmware[i], firmware[i], false, true);
	fd = add_socket(jail, &q->control_fd, err);
	if (fd < 0)
		return -1;
	jail_add_arg(jail, "-chardev");
	jail_add_arg(jail, "socket,id=control,fd=%d", fd);
	jail_add_arg(jail, "-mon");
	jail_add_arg(jail, "chardev=control,mode=control");
	if (o->agent && add_agent(jail, q, err) < 0)
		return -1;
	if (o->tap)
		add_network(jail, o);
	return add_disks(jail, o, err);
}

static void on_ready(void *arg)
{
	struct monitor *m = arg;

	m->events.running(m->events.arg);
}

static void on_event(const char *name, const json_t *data, void *arg)
{
	struct monitor *m = arg;
	struct qemu *q = m->data;
	const char *id = json_string_value(json_object_get(data, "id"));

	if (!strcmp(name, "VSERPORT_CHANGE") && id && !strcmp(id, "agent") && json_is_true(json_object_get(data, "open")) &&
	    q->agent_fd >= 0)
		m->events.agent(steal_fd(&q->agent_fd), m->events.arg);
}

static void on_failed(const struct error *err, void *arg)
{
	struct monitor *m = arg;

	m->events.failed(err, m->events.arg);
}

static int qemu_connect(struct monitor *m, struct error *err)
{
	const struct qmp_events events = { on_ready, on_event, on_failed, m };
	struct qemu *q = m->data;

	q->qmp = qmp_new(m->loop, steal_fd(&q->control_fd), &events, err);
	return q->qmp ? 0 : -1;
}

static void qemu_power_off(struct monitor *m)
{
	struct qemu *q = m->data;

	qmp_command(q->qmp, "system_powerdown");
}

const struct monitor_ops monitor_qemu = {
	.option = "qemu", .name = "QEMU", .reboot = 't', .describe = qemu_describe, .connect = qemu_connect,
	.power_off = qemu_power_off, .close = qemu_close,
};
