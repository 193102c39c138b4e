/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Streams of exported volumes: none reads or writes outside of its bounds, and one that is taken comes out again as the
 * same storage. */
#include "base/cleanup.h"
#include "base/fs.h"
#include "volume/stream.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define STORAGE_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int memory_file(const void *data, size_t size)
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0 || fs_write_all(fd, data, size) < 0 || lseek(fd, 0, SEEK_SET) < 0)
		abort();
	return fd;
}

static int blank(uint64_t size)
{
	int fd = memory_file("", 0);

	if (ftruncate(fd, (off_t)size) < 0)
		abort();
	return fd;
}

static void expect_same(int a, int b, size_t size)
{
	_cleanup_free_ uint8_t *x = malloc(size), *y = malloc(size);

	if (!x || !y || pread(a, x, size, 0) != (ssize_t)size || pread(b, y, size, 0) != (ssize_t)size ||
	    memcmp(x, y, size) != 0)
		abort();
}

/* The input as what a volume holds: out, and in again. */
static void round_trip(const uint8_t *data, size_t size)
{
	_cleanup_close_ int storage = memory_file(data, size), stream = memory_file("", 0), copy = blank(size);
	_cleanup_error_ struct error err = ERROR_INIT;

	if (stream_export(storage, stream, &err) < 0 || lseek(stream, 0, SEEK_SET) < 0 ||
	    stream_import(stream, copy, &err) < 0)
		abort();
	expect_same(storage, copy, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_close_ int stream = memory_file(data, size), storage = -1;
	_cleanup_error_ struct error err = ERROR_INIT;
	uint64_t wanted;

	if (size)
		round_trip(data, size);
	if (size < STREAM_HEADER || stream_read_header(data, &wanted, &err) < 0 || wanted > STORAGE_MAX)
		return 0;
	storage = blank(wanted);
	if (stream_import(stream, storage, &err) < 0)
		return 0;
	if (lseek(storage, 0, SEEK_END) != (off_t)wanted)
		abort();
	return 0;
}
