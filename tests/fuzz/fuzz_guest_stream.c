/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A guest that says anything, and capsule-vm's side of its stream: Hello, Run, a further process and a copy are under way.
 * The first byte chooses whether the first SETTINGS, which no mutation should have to find, are said for it, whether the
 * calls have their headers already, and in how many pieces the rest comes.
 */
#include "vm/relay.h"

#include "base/fs.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define CALLS 4 /* on the streams 1, 3, 5, 7 */

static const uint8_t settings[] = { 0, 0, 0, 4, 0, 0, 0, 0, 0 };
/* HEADERS of a gRPC answer, without Huffman codes and without the table: ":status: 200", "content-type: application/grpc". */
static const char headers[] = "\x88\x0f\x10\x10" "application/grpc";

static char run_dir[] = "/tmp/capsule-fuzz-XXXXXX";

static void ignore_hello(const struct error *err, void *arg)
{
}

static void ignore(void *arg)
{
}

static void ignore_output(enum log_stream stream, const char *data, size_t len, void *arg)
{
	if (len > LOG_WRITER_READ_MAX)
		abort();
}

static void ignore_exited(const Capsule__Guest__V1__Exited *exited, void *arg)
{
}

static void ignore_volume(const char *volume, void *arg)
{
}

static void ignore_end(const struct error *err, void *arg)
{
}

/* The streams of a further process; our ends of them are closed, or not. */
static void make_streams(int fds[3], int ours[3])
{
	for (int i = 0; i < 3; i++) {
		int ends[2];

		if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
			abort();
		fds[i] = ends[i > 0];
		ours[i] = ends[i == 0];
	}
}

struct host {
	uv_loop_t loop;
	struct guest *guest;
	struct relay *relays[2];
	int guest_fd, connection[2], streams[2][3];
};

static void host_init(struct host *h)
{
	static const struct guest_events events = {
		.hello = ignore_hello, .started = ignore, .output = ignore_output, .ending = ignore, .exited = ignore_exited,
		.volume_failed = ignore_volume, .run_ended = ignore_end,
	};
	static const struct shim_exec exec = { .terminal = 1, .columns = 80, .rows = 24 };
	static const struct shim_copy copy = { .in = 1, .path = "/tmp" };
	const struct vm_options options = { .name = "web", .run_dir = run_dir, .n_disks = 2 };
	int pair[2], fds[4];

	uv_loop_init(&h->loop);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0 ||
	    socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, h->connection) < 0)
		abort();
	h->guest_fd = pair[1];
	h->guest = guest_new(&h->loop, pair[0], 0, &events, NULL);
	if (!h->guest || guest_run(h->guest, &options, NULL) < 0)
		abort();
	fds[0] = memfd_create("spec", MFD_CLOEXEC);
	make_streams(fds + 1, h->streams[0]);
	h->relays[0] = relay_exec(h->guest, &h->loop, h->connection[0], &exec, fds, 4, ignore, NULL);
	make_streams(fds, h->streams[1]);
	h->relays[1] = relay_copy(h->guest, &h->loop, h->connection[0], &copy, fds, 3, ignore, NULL);
	if (!h->relays[0] || !h->relays[1])
		abort();
}

static void run_loop(struct host *h)
{
	for (int i = 0; i < 4; i++)
		uv_run(&h->loop, UV_RUN_NOWAIT);
}

static void feed(struct host *h, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t ignored[4096];

	while (len > 0) {
		ssize_t n = send(h->guest_fd, p, len, MSG_NOSIGNAL);

		run_loop(h);
		while (recv(h->guest_fd, ignored, sizeof ignored, 0) > 0)
			;
		if (n <= 0)
			return;
		p += n;
		len -= (size_t)n;
	}
}

static void greet(struct host *h, bool answered)
{
	uint8_t frame[9] = { 0, 0, sizeof headers - 1, 1, 4 };

	feed(h, settings, sizeof settings);
	for (unsigned i = 0; answered && i < CALLS; i++) {
		frame[8] = (uint8_t)(2 * i + 1);
		feed(h, frame, sizeof frame);
		feed(h, headers, sizeof headers - 1);
	}
}

static void host_release(struct host *h)
{
	for (int i = 0; i < 2; i++)
		relay_free(h->relays[i]);
	guest_free(h->guest);
	close(h->guest_fd);
	uv_run(&h->loop, UV_RUN_DEFAULT);
	if (uv_loop_close(&h->loop) != 0)
		abort();
	for (int i = 0; i < 2; i++) {
		close(h->connection[i]);
		for (int k = 0; k < 3; k++)
			close(h->streams[i][k]);
	}
}

static void clean_up(void)
{
	(void)fs_remove_tree(AT_FDCWD, run_dir, NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int dirfd;

	if (!mkdtemp(run_dir) || (dirfd = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0 ||
	    fs_write_replace(dirfd, "config.json", "{}", 2, 0600, NULL) < 0)
		abort();
	close(dirfd);
	return atexit(clean_up);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct host h;
	size_t step;

	if (len < 1)
		return 0;
	host_init(&h);
	step = data[0] & 4 ? 1 + len / 8 : len;
	if (data[0] & 1)
		greet(&h, data[0] & 2);
	for (size_t at = 1; at < len; at += step)
		feed(&h, data + at, len - at < step ? len - at : step);
	host_release(&h);
	return 0;
}
