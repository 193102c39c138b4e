/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/log_writer.h"

#include "base/fs.h"
#include "base/timeutil.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

#define NEXT_NAME FS_TMP_PREFIX "payload.log"
#define NAME_MAX_LEN 64
#define HEAD_MAX (TIME_RFC3339_MAX + sizeof " stdout F ")

/* Finds the end of the last whole record. */
static int cut_half_record(int fd, uint64_t *size)
{
	char block[4096];

	while (*size > 0) {
		size_t len = *size < sizeof block ? (size_t)*size : sizeof block;
		ssize_t n = pread(fd, block, len, (off_t)(*size - len));
		const char *newline;

		if (n != (ssize_t)len)
			return n < 0 ? -errno : -EIO;
		newline = memrchr(block, '\n', len);
		if (newline) {
			*size -= len - (size_t)(newline + 1 - block);
			break;
		}
		*size -= len;
	}
	return ftruncate(fd, (off_t)*size) < 0 ? -errno : 0;
}

int log_writer_open(struct log_writer *w, const char *dir, const char *name, uint64_t max_bytes, unsigned max_files,
		    struct error *err)
{
	struct stat st;
	int r;

	*w = (struct log_writer){
		.dirfd = -1, .fd = -1, .name = name, .max_bytes = max_bytes, .max_files = max_files ? max_files : 1,
	};
	w->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (w->dirfd < 0)
		return error_errno(err, errno, "cannot open %s", dir);
	fs_remove_numbered(w->dirfd, w->name, w->max_files);
	w->fd = openat(w->dirfd, name, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	/* No room even for an empty file must not keep the workload from starting. */
	if (w->fd < 0)
		return errno == ENOSPC || errno == EDQUOT ? 0 : error_errno(err, errno, "cannot open %s/%s", dir, name);
	if (fstat(w->fd, &st) < 0)
		return error_errno(err, errno, "cannot read %s/%s", dir, name);
	w->size = (uint64_t)st.st_size;
	r = cut_half_record(w->fd, &w->size);
	return r < 0 ? error_errno(err, -r, "cannot repair %s/%s", dir, name) : 0;
}

void log_writer_close(struct log_writer *w)
{
	cleanup_closep(&w->fd);
	cleanup_closep(&w->dirfd);
	w->fd = w->dirfd = -1;
}

/* The new file is made first: without room for it the old one simply goes on, and at no moment is data out of reach. */
static void rotate(struct log_writer *w)
{
	char from[NAME_MAX_LEN], to[NAME_MAX_LEN];
	int fd;

	unlinkat(w->dirfd, NEXT_NAME, 0);
	fd = openat(w->dirfd, NEXT_NAME, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0640);
	if (fd < 0)
		return;
	for (unsigned i = w->max_files - 1; i > 0; i--) {
		snprintf(to, sizeof to, "%s.%u", w->name, i);
		snprintf(from, sizeof from, i > 1 ? "%s.%u" : "%s", w->name, i - 1);
		renameat(w->dirfd, from, w->dirfd, to);
	}
	if (renameat(w->dirfd, NEXT_NAME, w->dirfd, w->name) < 0) {
		close(fd);
		return;
	}
	cleanup_closep(&w->fd);
	w->fd = fd;
	w->size = 0;
}

/* After a full disk the file may be missing altogether. */
static bool have_file(struct log_writer *w)
{
	if (w->fd < 0 && w->dirfd >= 0) {
		w->fd = openat(w->dirfd, w->name, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
		w->size = 0;
	}
	return w->fd >= 0;
}

static void flush(struct log_writer *w)
{
	bool written = false;

	if (w->out_len == 0)
		return;
	if (w->size > 0 && w->size + w->out_len > w->max_bytes)
		rotate(w);
	if (have_file(w)) {
		written = fs_write_all(w->fd, w->out, w->out_len) == 0;
		/* A part of a record must not stay: the next one would be glued to it. */
		if (!written && ftruncate(w->fd, (off_t)w->size) < 0)
			cleanup_closep(&w->fd), w->fd = -1;
	}
	if (written) {
		w->size += w->out_len;
		w->lost -= w->lost_noted;
	} else {
		w->lost += w->out_payload;
	}
	w->lost_noted = 0;
	w->out_len = w->out_payload = 0;
}

static void put(struct log_writer *w, const char *data, size_t len)
{
	memcpy(w->out + w->out_len, data, len);
	w->out_len += len;
}

static void record(struct log_writer *w, const char *when, enum log_stream stream, bool whole, const char *data,
		   size_t len)
{
	/* What is flushed at once goes into one file. */
	if (w->out_len + HEAD_MAX + len + 1 > (w->max_bytes < sizeof w->out ? w->max_bytes : sizeof w->out))
		flush(w);
	w->out_len += (size_t)snprintf(w->out + w->out_len, HEAD_MAX, "%s %s %c ", when,
				       stream == LOG_STDOUT ? "stdout" : "stderr", whole ? 'F' : 'P');
	put(w, data, len);
	put(w, "\n", 1);
	w->in_line[stream] = !whole;
}

static void note_loss(struct log_writer *w, const char *when)
{
	char text[64];
	int n;

	if (w->in_line[LOG_STDERR])
		record(w, when, LOG_STDERR, true, "", 0);
	n = snprintf(text, sizeof text, "capsule: %" PRIu64 " bytes of log lost", w->lost);
	record(w, when, LOG_STDERR, true, text, (size_t)n);
	w->lost_noted = w->lost;
}

void log_writer_add(struct log_writer *w, enum log_stream stream, const char *data, size_t len)
{
	char when[TIME_RFC3339_MAX];

	time_format_rfc3339(time_realtime_ns(), 9, when);
	if (w->lost)
		note_loss(w, when);
	while (len) {
		const char *newline = memchr(data, '\n', len);
		size_t n = newline ? (size_t)(newline - data) : len;

		record(w, when, stream, newline, data, n);
		n += newline ? 1 : 0;
		w->out_payload += n;
		data += n;
		len -= n;
	}
	flush(w);
}
