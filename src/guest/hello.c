/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "guest/guest.h"

#include "base/fs.h"
#include "base/timeutil.h"
#include "guest.pb-c.h"
#include "guest/protocol.h"
#include "runtime/usage.h"
#include "shim/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <time.h>

#define ENTROPY_MAX 512u

bool hello_check(struct rpc_call *call)
{
	if (guest_of(call)->protocol)
		return true;
	rpc_call_finish(call, ERR_FAILED_PRECONDITION, "Hello comes first");
	return false;
}

/* Neither clock nor entropy is worth refusing to run for: without them the guest is late and slow, not wrong. */
static void set_clock(int64_t realtime_ns)
{
	struct timespec now = { realtime_ns / NSEC_PER_SEC, realtime_ns % NSEC_PER_SEC };

	if (realtime_ns > 0 && clock_settime(CLOCK_REALTIME, &now) < 0)
		guest_note("cannot set the clock: %s", strerror(errno));
}

static void add_entropy(const ProtobufCBinaryData *entropy)
{
	_cleanup_close_ int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	struct {
		struct rand_pool_info info;
		uint8_t bytes[ENTROPY_MAX];
	} pool;

	if (!entropy->len || entropy->len > ENTROPY_MAX)
		return;
	pool.info.entropy_count = (int)entropy->len * 8;
	pool.info.buf_size = (int)entropy->len;
	memcpy(pool.info.buf, entropy->data, entropy->len);
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) < 0)
		guest_note("cannot feed the random number generator: %s", strerror(errno));
}

static void on_hello(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__Guest__V1__HelloRequest *request = (const void *)message;
	Capsule__Guest__V1__HelloResponse reply = CAPSULE__GUEST__V1__HELLO_RESPONSE__INIT;
	struct guest *g = guest_of(call);
	struct utsname kernel;

	if (!request->protocol) {
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "the host names no protocol");
		return;
	}
	if (g->protocol) {
		rpc_call_finish(call, ERR_FAILED_PRECONDITION, "Hello was said already");
		return;
	}
	g->protocol = request->protocol < GUEST_PROTOCOL_VERSION ? request->protocol : GUEST_PROTOCOL_VERSION;
	set_clock(request->realtime_ns);
	add_entropy(&request->entropy);
	uname(&kernel);
	reply.protocol = g->protocol;
	reply.guest_version = (char *)(uintptr_t)CAPSULE_VERSION;
	reply.kernel_release = kernel.release;
	rpc_reply(call, &reply.base);
}

/* ---- what the kernel counts ---- */

static uint64_t meminfo_bytes(const char *text, const char *key)
{
	const char *line = strstr(text, key);

	return line ? strtoull(line + strlen(key), NULL, 10) << 10 : 0;
}

static void on_stats(struct rpc_call *call, const ProtobufCMessage *message)
{
	Capsule__Guest__V1__StatsResponse reply = CAPSULE__GUEST__V1__STATS_RESPONSE__INIT;
	struct guest *g = guest_of(call);
	_cleanup_free_ char *memory = NULL;
	struct usage usage = { 0 };

	if (!hello_check(call))
		return;
	if (fs_read(AT_FDCWD, "/proc/meminfo", 64 << 10, &memory, NULL, NULL) == 0) {
		reply.memory_total_bytes = meminfo_bytes(memory, "MemTotal:");
		reply.memory_used_bytes = reply.memory_total_bytes - meminfo_bytes(memory, "MemAvailable:");
	}
	if (g->payload.cgroup)
		(void)usage_read("", g->payload.cgroup, &usage);
	reply.cpu_usec = usage.cpu_time_ns / 1000;
	reply.pids = usage.pids;
	rpc_reply(call, &reply.base);
}

struct rpc_method hello_methods[HELLO_METHODS] = {
	{ .path = "/capsule.guest.v1.GuestService/Hello",
	  .receives = &capsule__guest__v1__hello_request__descriptor,
	  .receives_one = true,
	  .message = on_hello },
	{ .path = "/capsule.guest.v1.GuestService/Stats",
	  .receives = &capsule__guest__v1__stats_request__descriptor,
	  .receives_one = true,
	  .message = on_stats },
};
