/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Firecracker, and what is compatible with it. It opens everything by name: files and devices appear in its jail, and belong
 * to its user while it runs where they are written. Its sockets are in a directory of its jail, which is reached through
 * /proc; neither they nor the guest behind its vsock tell when they listen, so connecting is tried again until the boot's
 * deadline.
 *
 * A TAP has one opener. Firecracker opens it by name and so must be where it is: in the daemon's network namespace, with the
 * TAP made its user's and lasting. It has no right to do anything else there. Who made the TAP removes it.
 *
 * Its jailer is not used: it would do over again, with other paths and cgroups, what the jail of every monitor does.
 */
#include "guest/protocol.h"
#include "vm/api.h"
#include "vm/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define CMDLINE_MAX 2048
#define RETRY_MS 10
#define GUEST_CID 3
#define ACKNOWLEDGEMENT_MAX 32
#define API_SOCKET "api.sock"
#define VSOCK_SOCKET "vsock.sock"

struct firecracker {
	struct monitor *monitor;
	int jail_fd; /* its scratch directory */
	struct api *api;
	uv_timer_t *retry;   /* allocated, as it is closed while the rest goes */
	struct watch *vsock; /* CONNECT is under way */
	bool running;
	size_t n_acknowledged;
	char acknowledged[ACKNOWLEDGEMENT_MAX];
};

/* The second attempt to boot finds the descriptor closed. */
static char tap_name[IFNAMSIZ];

static void on_retry_closed(uv_handle_t *handle)
{
	free(handle);
}

static void firecracker_close(struct monitor *m)
{
	struct firecracker *f = m->data;

	if (!f)
		return;
	api_free(f->api);
	watch_close(f->vsock);
	if (f->retry)
		uv_close((uv_handle_t *)f->retry, on_retry_closed);
	cleanup_closep(&f->jail_fd);
	free(f);
	m->data = NULL;
}

/* ---- the jail ---- */

static int hand_over(const struct monitor *m, const struct vm_disk *disk, struct error *err)
{
	_cleanup_close_ int fd = monitor_open_disk(disk, err);
	struct stat st;

	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "cannot look at %s", disk->path);
	/* A device is the jail's own. */
	if (!S_ISREG(st.st_mode) || (disk->read_only && st.st_mode & S_IROTH))
		return 0;
	if (fchown(fd, m->options->uid, m->options->uid) < 0)
		return error_errno(err, errno, "cannot hand over %s", disk->path);
	return 0;
}

static int release_tap(const struct vm_options *o, struct error *err)
{
	struct ifreq request = { 0 };

	if (*tap_name)
		return 0;
	if (ioctl(VM_FD_TAP, TUNGETIFF, &request) < 0 || ioctl(VM_FD_TAP, TUNSETOWNER, (unsigned long)o->uid) < 0 ||
	    ioctl(VM_FD_TAP, TUNSETPERSIST, 1UL) < 0)
		return error_errno(err, errno, "cannot hand the TAP over to Firecracker");
	memcpy(tap_name, request.ifr_name, sizeof tap_name);
	close(VM_FD_TAP);
	return 0;
}

static int firecracker_describe(struct monitor *m, struct jail *jail, struct error *err)
{
	const struct vm_options *o = m->options;
	struct firecracker *f = calloc(1, sizeof *f);
	char target[32];

	if (!f)
		return error_errno(err, ENOMEM, "cannot start Firecracker");
	f->monitor = m;
	f->jail_fd = -1;
	m->data = f;
	if (o->emulated)
		return error_set(err, ERR_FAILED_PRECONDITION, "Firecracker needs KVM, which does not work on this host");
	jail->scratch = true;
	jail_add_arg(jail, "--id");
	jail_add_arg(jail, "%s", o->name);
	jail_add_arg(jail, "--api-sock");
	jail_add_arg(jail, JAIL_SCRATCH "/" API_SOCKET);
	for (size_t i = 0; i < o->n_disks; i++) {
		if (hand_over(m, &o->disks[i], err) < 0)
			return -1;
		snprintf(target, sizeof target, "/disks/%zu", i);
		jail_add_bind(jail, o->disks[i].path, target, !o->disks[i].read_only, false);
	}
	if (!o->tap)
		return 0;
	jail_add_bind(jail, "/dev/net/tun", "/dev/net/tun", true, false);
	return release_tap(o, err);
}

/* ---- sockets ---- */

static int connect_to(const struct firecracker *f, const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", f->jail_fd, name);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	cleanup_closep(&fd);
	return -1;
}

static void try_to_connect(struct firecracker *f);

static void on_retry(uv_timer_t *timer)
{
	try_to_connect(timer->data);
}

static void try_later(struct firecracker *f)
{
	uv_timer_start(f->retry, on_retry, RETRY_MS, 0);
}

/* ---- the guest's stream ---- */

/* "OK 1073741824\n"; a byte at a time, as what follows is the guest's. */
static void on_vsock(int fd, int events, void *arg)
{
	struct firecracker *f = arg;
	struct monitor *m = f->monitor;
	char byte;
	ssize_t n;

	while ((n = recv(fd, &byte, 1, MSG_DONTWAIT)) == 1 && byte != '\n' && f->n_acknowledged < sizeof f->acknowledged)
		f->acknowledged[f->n_acknowledged++] = byte;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n == 1 && byte == '\n' && f->n_acknowledged > 3 && !memcmp(f->acknowledged, "OK ", 3)) {
		fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		watch_close(steal_ptr(&f->vsock));
		m->events.agent(fd, m->events.arg);
		return;
	}
	/* Nobody listens in the guest yet. */
	watch_close(steal_ptr(&f->vsock));
	try_later(f);
}

static void connect_guest(struct firecracker *f)
{
	char request[32];
	int fd = connect_to(f, VSOCK_SOCKET), n = snprintf(request, sizeof request, "CONNECT %d\n", GUEST_VSOCK_PORT);

	if (fd >= 0 && send(fd, request, (size_t)n, MSG_NOSIGNAL) == n) {
		f->n_acknowledged = 0;
		f->vsock = watch_new(f->monitor->loop, steal_fd(&fd), on_vsock, f);
	}
	cleanup_closep(&fd);
	if (f->vsock)
		watch_set(f->vsock, UV_READABLE);
	else
		try_later(f);
}

/* ---- the API ---- */

static void put_machine(struct firecracker *f)
{
	const struct vm_options *o = f->monitor->options;
	_cleanup_buf_ struct buf cmdline = BUF_INIT(CMDLINE_MAX);
	json_t *boot;

	monitor_cmdline(o, true, &cmdline);
	boot = json_pack("{s:s, s:s}", "kernel_image_path", MONITOR_KERNEL, "boot_args", buf_str(&cmdline));
	if (boot && o->initramfs)
		json_object_set_new(boot, "initrd_path", json_string(MONITOR_INITRAMFS));
	api_put(f->api, "/machine-config",
		json_pack("{s:i, s:I}", "vcpu_count", (int)o->vcpus, "mem_size_mib", (json_int_t)o->memory_mib));
	api_put(f->api, "/boot-source", boot);
	api_put(f->api, "/entropy", json_object());
	api_put(f->api, "/balloon", json_pack("{s:i, s:b}", "amount_mib", 0, "deflate_on_oom", 1));
}

/* A flush of the guest reaches the disk only with "Writeback". */
static void put_disk(struct firecracker *f, size_t i)
{
	const struct vm_disk *disk = &f->monitor->options->disks[i];
	char path[64], file[32];

	snprintf(path, sizeof path, "/drives/%zu", i);
	snprintf(file, sizeof file, "/disks/%zu", i);
	api_put(f->api, path,
		json_pack("{s:s, s:s, s:b, s:b, s:s}", "drive_id", path + strlen("/drives/"), "path_on_host", file,
			  "is_root_device", 0, "is_read_only", disk->read_only, "cache_type", "Writeback"));
}

static void on_done(void *arg)
{
	struct firecracker *f = arg;
	struct monitor *m = f->monitor;

	if (f->running)
		return;
	f->running = true;
	if (m->options->agent)
		try_to_connect(f);
	m->events.running(m->events.arg);
}

static void on_failed(const struct error *err, void *arg)
{
	struct firecracker *f = arg;

	f->monitor->events.failed(err, f->monitor->events.arg);
}

static void configure(struct firecracker *f)
{
	const struct vm_options *o = f->monitor->options;
	char mac[MONITOR_MAC_MAX];

	put_machine(f);
	for (size_t i = 0; i < o->n_disks; i++)
		put_disk(f, i);
	if (o->tap)
		api_put(f->api, "/network-interfaces/eth0",
			json_pack("{s:s, s:s, s:s}", "iface_id", "eth0", "host_dev_name", tap_name, "guest_mac",
				  monitor_mac(o, mac)));
	if (o->agent)
		api_put(f->api, "/vsock",
			json_pack("{s:i, s:s}", "guest_cid", GUEST_CID, "uds_path", JAIL_SCRATCH "/" VSOCK_SOCKET));
	api_put(f->api, "/actions", json_pack("{s:s}", "action_type", "InstanceStart"));
}

static void connect_api(struct firecracker *f)
{
	const struct api_events events = { on_done, on_failed, f };
	_cleanup_error_ struct error err = ERROR_INIT;
	int fd = connect_to(f, API_SOCKET);

	if (fd < 0) {
		try_later(f);
		return;
	}
	f->api = api_new(f->monitor->loop, fd, &events, &err);
	if (f->api)
		configure(f);
	else
		on_failed(&err, f);
}

static void try_to_connect(struct firecracker *f)
{
	if (f->running)
		connect_guest(f);
	else
		connect_api(f);
}

static int firecracker_connect(struct monitor *m, struct error *err)
{
	struct firecracker *f = m->data;
	char path[64];

	snprintf(path, sizeof path, "/proc/%d/root" JAIL_SCRATCH, (int)m->pid);
	f->jail_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (f->jail_fd < 0)
		return error_errno(err, errno, "cannot reach Firecracker's sockets");
	f->retry = malloc(sizeof *f->retry);
	if (!f->retry)
		return error_errno(err, ENOMEM, "cannot configure Firecracker");
	uv_timer_init(m->loop, f->retry);
	f->retry->data = f;
	try_later(f);
	return 0;
}

static void firecracker_power_off(struct monitor *m)
{
	struct firecracker *f = m->data;

	if (f->api)
		api_put(f->api, "/actions", json_pack("{s:s}", "action_type", "SendCtrlAltDel"));
}

const struct monitor_ops monitor_firecracker = {
	.option = "firecracker", .name = "Firecracker", .host_network = true, .describe = firecracker_describe,
	.connect = firecracker_connect, .power_off = firecracker_power_off, .close = firecracker_close,
};
