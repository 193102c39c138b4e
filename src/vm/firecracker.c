/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Firecracker, and what is compatible with it. It opens everything by name: files and devices appear in its jail, and belong
 * to its user while it runs where they are written; what is only read may be read by many of them. The guest's stream is a
 * connection that the guest makes to a vsock port of its host: Firecracker passes it on to a socket in the jail that listens
 * before it runs.
 *
 * It is configured and started through its API, a socket in the jail that is reached through /proc. It does not tell when it
 * listens there, so connecting is tried again for the milliseconds until then.
 *
 * A TAP has one opener. Firecracker opens it by name and so must be where it is: in the daemon's network namespace, with the
 * TAP made its user's and lasting. It has no right to do anything else there. Who made the TAP removes it.
 *
 * Where its jailer is to be used, that does the last part of the jail (jail.h).
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

#define CMDLINE_MAX 2048 /* Firecracker's own; it adds the devices */
#define GUEST_CID 3
#define VSOCK JAIL_SCRATCH "/vsock"
#define TEXT_OF(number) TEXT_OF_VALUE(number)
#define TEXT_OF_VALUE(value) #value
#define API_SOCKET "api"
#define RETRY_MS 10

struct firecracker {
	struct monitor *monitor;
	struct watch *listener; /* for the guest; NULL: it is there, or never comes */
	int jail_fd;            /* its scratch directory */
	uv_timer_t *retry;      /* allocated, as it is closed while the rest goes */
	struct api *api;        /* NULL: it does not listen yet */
	bool running;
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
	watch_close(f->listener);
	api_free(f->api);
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
	/* It is opened later, as another user: a payload that is handed over would be taken away by the next machine. */
	if (disk->read_only) {
		if (fchmod(fd, (st.st_mode & 07777) | S_IROTH) < 0)
			return error_errno(err, errno, "cannot open %s to its reader", disk->path);
		return 0;
	}
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

static int add_disks(struct monitor *m, struct jail *jail, struct error *err)
{
	const struct vm_options *o = m->options;
	char target[32];

	for (size_t i = 0; i < o->n_disks; i++) {
		if (hand_over(m, &o->disks[i], err) < 0)
			return -1;
		snprintf(target, sizeof target, "/disks/%zu", i);
		jail_add_bind(jail, o->disks[i].path, target, !o->disks[i].read_only, false);
	}
	return 0;
}

static int add_tap(const struct vm_options *o, struct jail *jail, struct error *err)
{
	jail_add_bind(jail, "/dev/net/tun", "/dev/net/tun", true, false);
	return release_tap(o, err);
}

static void on_guest(int fd, int events, void *arg)
{
	struct firecracker *f = arg;
	int stream = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (stream < 0)
		return;
	watch_close(steal_ptr(&f->listener));
	f->monitor->events.agent(stream, f->monitor->events.arg);
}

static int add_listener(struct firecracker *f, struct jail *jail, struct error *err)
{
	int fd = jail_listen(jail, VSOCK "_" TEXT_OF(GUEST_VSOCK_PORT), err);

	if (fd < 0)
		return -1;
	f->listener = watch_new(f->monitor->loop, fd, on_guest, f);
	return f->listener ? 0 : error_set(err, ERR_RESOURCE_EXHAUSTED, "cannot wait for the guest");
}

static int firecracker_describe(struct monitor *m, struct jail *jail, struct error *err)
{
	const struct vm_options *o = m->options;
	struct firecracker *f = calloc(1, sizeof *f);

	if (!f)
		return error_errno(err, ENOMEM, "cannot start Firecracker");
	f->monitor = m;
	f->jail_fd = -1;
	m->data = f;
	if (o->emulated)
		return error_set(err, ERR_FAILED_PRECONDITION, "Firecracker needs KVM, which does not work on this host");
	jail->scratch = true;
	jail->jailer = o->jailer;
	jail_add_arg(jail, "--api-sock");
	jail_add_arg(jail, JAIL_SCRATCH "/" API_SOCKET);
	/* What it says comes between the lines of the console. */
	jail_add_arg(jail, "--level");
	jail_add_arg(jail, "Error");
	return add_disks(m, jail, err) < 0 || (o->tap && add_tap(o, jail, err) < 0) ||
	       (o->agent && add_listener(f, jail, err) < 0) ? -1 : 0;
}

/* ---- the API ---- */

static void put_machine(struct firecracker *f, const char *cmdline)
{
	const struct vm_options *o = f->monitor->options;

	api_put(f->api, "/machine-config",
		json_pack("{s:i, s:I}", "vcpu_count", (int)o->vcpus, "mem_size_mib", (json_int_t)o->memory_mib));
	api_put(f->api, "/boot-source",
		json_pack("{s:s, s:s, s:s*}", "kernel_image_path", MONITOR_KERNEL, "boot_args", cmdline, "initrd_path",
			  o->initramfs ? MONITOR_INITRAMFS : NULL));
	/* An agent gets entropy with Hello. Before 1.4 there is no such device. */
	if (!o->agent)
		api_try_put(f->api, "/entropy", json_object());
	/* For what the guest frees. Before 1.14 there is no such thing. */
	api_try_put(f->api, "/balloon",
		    json_pack("{s:i, s:b, s:b}", "amount_mib", 0, "deflate_on_oom", 0, "free_page_reporting", 1));
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

static void put_network(struct firecracker *f)
{
	char mac[MONITOR_MAC_MAX];

	api_put(f->api, "/network-interfaces/eth0",
		json_pack("{s:s, s:s, s:s}", "iface_id", "eth0", "host_dev_name", tap_name, "guest_mac",
			  monitor_mac(f->monitor->options, mac)));
}

static int configure(struct firecracker *f, struct error *err)
{
	const struct vm_options *o = f->monitor->options;
	_cleanup_buf_ struct buf cmdline = BUF_INIT(CMDLINE_MAX);

	monitor_cmdline(f->monitor, true, &cmdline);
	if (cmdline.failed)
		return error_set(err, ERR_INVALID_ARGUMENT, "the kernel's command line is too long for Firecracker");
	put_machine(f, buf_str(&cmdline));
	for (size_t i = 0; i < o->n_disks; i++)
		put_disk(f, i);
	if (o->tap)
		put_network(f);
	if (o->agent)
		api_put(f->api, "/vsock", json_pack("{s:i, s:s}", "guest_cid", GUEST_CID, "uds_path", VSOCK));
	api_put(f->api, "/actions", json_pack("{s:s}", "action_type", "InstanceStart"));
	return 0;
}

static void on_done(void *arg)
{
	struct firecracker *f = arg;

	if (f->running)
		return;
	f->running = true;
	f->monitor->events.running(f->monitor->events.arg);
}

static void on_failed(const struct error *err, void *arg)
{
	struct firecracker *f = arg;

	f->monitor->events.failed(err, f->monitor->events.arg);
}

/* Until the jailer is done there is no such directory in the process's root. */
static int connect_api(struct firecracker *f)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	char path[64];

	if (f->jail_fd < 0) {
		snprintf(path, sizeof path, "/proc/%d/root" JAIL_SCRATCH, (int)f->monitor->pid);
		f->jail_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/" API_SOCKET, f->jail_fd);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
		return -1;
	return steal_fd(&fd);
}

static void on_retry(uv_timer_t *timer)
{
	struct firecracker *f = timer->data;
	const struct api_events events = { on_done, on_failed, f };
	_cleanup_error_ struct error err = ERROR_INIT;
	int fd = connect_api(f);

	if (fd < 0)
		return;
	uv_timer_stop(timer);
	f->api = api_new(f->monitor->loop, fd, &events, &err);
	if (!f->api || (f->monitor->options->jailer && jail_seal(f->monitor->pid, &err) < 0) || configure(f, &err) < 0)
		on_failed(&err, f);
}

static int firecracker_connect(struct monitor *m, struct error *err)
{
	struct firecracker *f = m->data;

	if (f->listener)
		watch_set(f->listener, UV_READABLE);
	f->retry = malloc(sizeof *f->retry);
	if (!f->retry)
		return error_errno(err, ENOMEM, "cannot reach Firecracker's API");
	uv_timer_init(m->loop, f->retry);
	f->retry->data = f;
	uv_timer_start(f->retry, on_retry, RETRY_MS, RETRY_MS);
	return 0;
}

/* A guest with a keyboard driver takes it for the keys that shut a system down. */
static void firecracker_power_off(struct monitor *m)
{
	struct firecracker *f = m->data;

	if (f->api)
		api_put(f->api, "/actions", json_pack("{s:s}", "action_type", "SendCtrlAltDel"));
}

const struct monitor_ops monitor_firecracker = {
	.option = "firecracker", .name = "Firecracker", .host_network = true, .reboot = 'k', .describe = firecracker_describe,
	.connect = firecracker_connect, .power_off = firecracker_power_off, .close = firecracker_close,
};
