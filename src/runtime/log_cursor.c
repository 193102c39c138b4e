/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/log_cursor.h"

#include "base/fs.h"
#include "base/timeutil.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#define FILES_MAX 1000
#define TIME_MAX 64

int log_cursor_init(struct log_cursor *c, const struct log_reader_options *o, struct error *err)
{
	c->path = strdup(o->path);
	c->plain = o->plain;
	c->timestamps = o->timestamps && !o->plain;
	c->tail_lines = o->tail_lines;
	c->since_ns = o->since_ns;
	c->fd = -1;
	return c->path ? 0 : error_errno(err, ENOMEM, "cannot read the log %s", o->path);
}

void log_cursor_release(struct log_cursor *c)
{
	cleanup_closep(&c->fd);
	c->fd = -1;
	free(c->path);
	c->path = NULL;
}

/* ---- files ---- */

static char *file_name(const struct log_cursor *c, unsigned index)
{
	return index ? fs_path("%s.%u", c->path, index) : strdup(c->path);
}

static int open_file(const struct log_cursor *c, unsigned index)
{
	_cleanup_free_ char *name = file_name(c, index);
	int fd = name ? open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;

	return fd < 0 ? (name ? -errno : -ENOMEM) : fd;
}

/* Takes over the fd. */
static void enter_file(struct log_cursor *c, int fd, uint64_t offset)
{
	struct stat st = { 0 };

	cleanup_closep(&c->fd);
	c->fd = fd;
	fstat(fd, &st);
	c->dev = st.st_dev;
	c->ino = st.st_ino;
	c->offset = offset;
}

static bool is_current(const struct log_cursor *c, unsigned index)
{
	_cleanup_free_ char *name = file_name(c, index);
	struct stat st;

	return name && stat(name, &st) == 0 && st.st_dev == c->dev && st.st_ino == c->ino;
}

static bool exists(const struct log_cursor *c, unsigned index)
{
	_cleanup_free_ char *name = file_name(c, index);

	return name && access(name, F_OK) == 0;
}

static unsigned oldest(const struct log_cursor *c)
{
	unsigned index = 0;

	/* In the middle of a rotation one number may be vacant. */
	while (index < FILES_MAX && (exists(c, index + 1) || exists(c, index + 2)))
		index++;
	return index;
}

/* The current file's number; files move up only, so going up cannot miss it. -1: it was rotated away. */
static int index_of_current(const struct log_cursor *c)
{
	unsigned top = oldest(c) + 1;

	for (unsigned i = 0; i <= top; i++)
		if (is_current(c, i))
			return (int)i;
	return -1;
}

/* Opens the file that was begun after the current one. -EAGAIN: there is none, or a rotation is just under way and its
 * end will be noticed. */
static int open_next(const struct log_cursor *c)
{
	for (int attempt = 0; attempt < 100; attempt++) {
		int index = index_of_current(c), fd;

		if (index == 0)
			return -EAGAIN;
		fd = open_file(c, index > 0 ? (unsigned)index - 1 : oldest(c));
		if (fd < 0)
			return fd == -ENOENT ? -EAGAIN : fd;
		/* A rotation moves the older file first. If ours is where it was, its neighbour was its neighbour. */
		if (index < 0 || is_current(c, (unsigned)index))
			return fd;
		close(fd);
	}
	return -EAGAIN;
}

/* ---- records ---- */

struct record {
	int64_t time_ns;
	const char *time;
	size_t time_len;
	int stream; /* 0 stdout, 1 stderr */
	bool whole;
	const char *data;
	size_t len;
};

static bool parse_time(const char *text, size_t len, int64_t *ret)
{
	char copy[TIME_MAX];

	if (len >= sizeof copy)
		return false;
	memcpy(copy, text, len);
	copy[len] = '\0';
	return time_parse_rfc3339(copy, ret) == 0;
}

/* A record without its newline. */
static bool parse_record(const char *text, size_t len, struct record *r)
{
	const char *end = text + len, *p = memchr(text, ' ', len);

	if (!p || end - p < 10 || (strncmp(p, " stdout ", 8) != 0 && strncmp(p, " stderr ", 8) != 0) || p[9] != ' ' ||
	    (p[8] != 'F' && p[8] != 'P'))
		return false;
	*r = (struct record){
		.time = text, .time_len = (size_t)(p - text), .stream = p[4] == 'e', .whole = p[8] == 'F', .data = p + 10,
		.len = (size_t)(end - (p + 10)),
	};
	return true;
}

static void put(struct log_cursor *c, const char *data, size_t len)
{
	if (len > sizeof c->out - c->out_len)
		len = sizeof c->out - c->out_len;
	memcpy(c->out + c->out_len, data, len);
	c->out_len += len;
}

static bool too_old(const struct log_cursor *c, const char *time, size_t len)
{
	int64_t t;

	return c->since_ns && parse_time(time, len, &t) && t < c->since_ns;
}

/* text ends before its newline. */
static void decode(struct log_cursor *c, const char *text, size_t len)
{
	struct record r;

	if (c->plain) {
		const char *space = memchr(text, ' ', len);

		if (too_old(c, text, space ? (size_t)(space - text) : 0))
			return;
		put(c, text, len);
		put(c, "\n", 1);
		return;
	}
	/* What is no record was not written by a shim, or a crash of the machine damaged it: it tells nothing. */
	if (!parse_record(text, len, &r))
		return;
	if (too_old(c, r.time, r.time_len)) {
		c->in_line[r.stream] = !r.whole;
		return;
	}
	if (c->timestamps && !c->in_line[r.stream]) {
		put(c, r.time, r.time_len);
		put(c, " ", 1);
	}
	put(c, r.data, r.len);
	if (r.whole)
		put(c, "\n", 1);
	c->in_line[r.stream] = !r.whole;
}

/* ---- the start ---- */

/* Counts lines from the end, over all files. */
struct tail {
	const struct log_cursor *c;
	int64_t left;
	bool seen[2]; /* a record of this stream was met: an unfinished line counts once */
};

/* Whether the line that this record ends is one too many. */
static bool one_too_many(struct tail *t, const char *text, size_t len)
{
	bool begins = true;
	struct record r;

	if (!t->c->plain) {
		if (!parse_record(text, len, &r))
			return false;
		begins = r.whole || !t->seen[r.stream];
		t->seen[r.stream] = true;
	}
	if (!begins)
		return false;
	if (t->left == 0)
		return true;
	t->left--;
	return false;
}

/* Walks back through one file. Returns the offset at which the tail begins; 0: it begins in an older file, or here. */
static int64_t tail_in_file(struct tail *t, int fd, int64_t size, char *block)
{
	size_t keep = 0; /* bytes at the front of the block that begin a record whose head is not read yet */
	int64_t pos = size;

	while (pos > 0) {
		size_t len = LOG_PIECE_MAX - keep;
		const char *end;

		if (len == 0)
			return 0;
		len = (int64_t)len < pos ? len : (size_t)pos;
		memmove(block + len, block, keep);
		if (pread(fd, block, len, pos - (int64_t)len) != (ssize_t)len)
			return 0;
		pos -= (int64_t)len;
		end = block + len + keep;
		while (end > block) {
			const char *stop = end[-1] == '\n' ? end - 1 : end;
			const char *newline = memrchr(block, '\n', (size_t)(stop - block));
			const char *start = newline ? newline + 1 : block;

			if (!newline && pos > 0)
				break;
			if (one_too_many(t, start, (size_t)(stop - start)))
				return pos + (end - block);
			end = start;
		}
		keep = (size_t)(end - block);
	}
	return 0;
}

static bool file_too_old(const struct log_cursor *c, const struct stat *st)
{
	return c->since_ns && st->st_mtim.tv_sec * NSEC_PER_SEC + st->st_mtim.tv_nsec < c->since_ns;
}

/* Goes back from the newest file as far as the tail and the time reach. */
static int place(struct log_cursor *c, struct error *err)
{
	struct tail tail = { .c = c, .left = c->tail_lines };

	for (unsigned i = 0; i <= FILES_MAX; i++) {
		_cleanup_close_ int fd = open_file(c, i);
		struct stat st;
		int64_t offset = 0;

		if (fd == -ENOENT && i == 0)
			continue; /* a rotation, or a full disk: older ones may exist */
		if (fd == -ENOENT)
			break;
		if (fd < 0 || fstat(fd, &st) < 0)
			return error_errno(err, fd < 0 ? -fd : errno, "cannot read the log %s", c->path);
		if (c->fd >= 0 && file_too_old(c, &st))
			break;
		if (c->tail_lines)
			offset = tail_in_file(&tail, fd, st.st_size, c->in);
		enter_file(c, steal_fd(&fd), (uint64_t)offset);
		if (offset > 0)
			break;
	}
	c->placed = true;
	return 0;
}

/* ---- reading ---- */

/* Decodes the whole records of the block and returns how many bytes they were. */
static size_t decode_block(struct log_cursor *c, size_t len, bool last)
{
	const char *p = c->in, *end = c->in + len;

	while (p < end) {
		const char *newline = memchr(p, '\n', (size_t)(end - p));

		if (!newline)
			break;
		decode(c, p, (size_t)(newline - p));
		p = newline + 1;
	}
	if (p == c->in && len == sizeof c->in) {
		/* Longer than any record: not ours. Taken as text, or passed over. */
		if (c->plain)
			put(c, p, len);
		return len;
	}
	if (last && c->plain && p < end) {
		put(c, p, (size_t)(end - p));
		p = end;
	}
	return (size_t)(p - c->in);
}

/* > 0: so many bytes were consumed. */
static ssize_t read_block(struct log_cursor *c, bool last)
{
	ssize_t n = pread(c->fd, c->in, sizeof c->in, (off_t)c->offset);
	size_t used;

	if (n <= 0)
		return n < 0 ? -errno : 0;
	used = decode_block(c, (size_t)n, last);
	c->offset += used;
	return (ssize_t)used;
}

/* At the end of the current file. 1: another one is open; 0: it is the newest. */
static int advance(struct log_cursor *c, struct error *err)
{
	struct stat st;
	ssize_t n;
	int fd;

	if (c->fd < 0) {
		fd = open_file(c, oldest(c));
		if (fd == -ENOENT)
			return 0;
	} else {
		/* A plain log was begun anew in place. From a workload's a full disk took back its last records: it goes on where it
		 * ends now. */
		if (fstat(c->fd, &st) == 0 && (uint64_t)st.st_size < c->offset) {
			c->offset = c->plain ? 0 : (uint64_t)st.st_size;
			return 1;
		}
		fd = open_next(c);
		if (fd == -EAGAIN)
			return 0;
	}
	if (fd < 0)
		return error_errno(err, -fd, "cannot read the log %s", c->path);
	/* What came between the last read and the rotation. Nothing is written to a file that was rotated. */
	n = c->fd >= 0 ? read_block(c, false) : 0;
	if (n > 0) {
		close(fd);
		return 1;
	}
	enter_file(c, fd, 0);
	return 1;
}

int log_cursor_read(struct log_cursor *c, bool last, struct error *err)
{
	ssize_t n;

	c->out_len = 0;
	if (!c->placed && place(c, err) < 0)
		return -1;
	n = c->fd >= 0 ? read_block(c, false) : 0;
	if (n < 0)
		return error_errno(err, (int)-n, "cannot read the log %s", c->path);
	if (n > 0)
		return 1;
	n = advance(c, err);
	if (n != 0 || !last || c->fd < 0)
		return (int)n;
	n = read_block(c, true);
	return n < 0 ? error_errno(err, (int)-n, "cannot read the log %s", c->path) : 0;
}
