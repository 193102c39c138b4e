/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/archive.h"

#include "base/timeutil.h"
#include "imager/archive_index.h"
#include "imager/archive_legacy.h"
#include "imager/decompress.h"
#include "tree/extract.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_SIZE ((size_t)1 << 20)
#define OUTPUT_SIZE ((size_t)256 << 10)
/* Enough of an entry to tell what it is, also when it is compressed: a block of zstd holds up to 128 KiB. */
#define HEAD_SIZE ((size_t)160 << 10)
#define PROGRESS_INTERVAL (100 * NSEC_PER_MSEC)

struct input {
	int fd;
	uint8_t *buffer;    /* INPUT_SIZE: as it comes */
	const uint8_t *at;  /* in buffer: what was not taken yet */
	size_t left;
	bool ended;
	struct decompress *decompress; /* NULL: the archive is plain */
	uint8_t *output;               /* OUTPUT_SIZE: decompressed */
	uint64_t done, total;          /* total 0: not known */
	int64_t reported_ns;
	struct error error;
};

struct push {
	struct content *content;
	struct input input;
	struct archive *archive;
	struct archive_index *index;
	uint8_t *head;
};

/* ---- input ---- */

static void input_report(struct input *in)
{
	int64_t now = time_monotonic_ns();

	if (now - in->reported_ns < PROGRESS_INTERVAL)
		return;
	in->reported_ns = now;
	report_progress(in->done, in->total, "receiving");
}

/* Appends to what is left, which is at the buffer's beginning then. */
static int input_fill(struct input *in, struct error *err)
{
	ssize_t n;

	memmove(in->buffer, in->at, in->left);
	in->at = in->buffer;
	do {
		n = read(in->fd, in->buffer + in->left, INPUT_SIZE - in->left);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return error_errno(err, errno, "cannot read the archive");
	in->ended = n == 0;
	in->left += (size_t)n;
	in->done += (uint64_t)n;
	input_report(in);
	return 0;
}

static int input_open(struct input *in, int fd, struct error *err)
{
	enum compression compression;
	struct stat st;

	in->fd = fd;
	in->buffer = malloc(INPUT_SIZE);
	in->at = in->buffer;
	if (!in->buffer)
		return error_errno(err, ENOMEM, "cannot read the archive");
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		in->total = (uint64_t)st.st_size;
	if (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode))
		/* fewer turns; refused beyond the system's limit, which is fine */
		fcntl(fd, F_SETPIPE_SZ, (int)INPUT_SIZE);
	while (in->left < COMPRESSION_MAGIC_LEN && !in->ended)
		if (input_fill(in, err) < 0)
			return -1;
	if (in->left == 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "the archive is empty");
	compression = compression_recognize(in->at, in->left);
	if (compression == COMPRESSION_NONE)
		return 0;
	in->output = malloc(OUTPUT_SIZE);
	if (!in->output)
		return error_errno(err, ENOMEM, "cannot read the archive");
	return decompress_new(compression, &in->decompress, err);
}

static void input_close(struct input *in)
{
	decompress_free(in->decompress);
	free(in->output);
	free(in->buffer);
	error_release(&in->error);
}

static ssize_t input_next_plain(struct input *in, const void **ret_data, struct error *err)
{
	size_t n;

	if (!in->left && !in->ended && input_fill(in, err) < 0)
		return -1;
	n = in->left;
	*ret_data = in->at;
	in->at += n;
	in->left = 0;
	return (ssize_t)n;
}

static ssize_t input_next(struct input *in, const void **ret_data, struct error *err)
{
	size_t n = 0;

	if (!in->decompress)
		return input_next_plain(in, ret_data, err);
	while (n == 0) {
		if (!in->left && !in->ended && input_fill(in, err) < 0)
			return -1;
		if (decompress_step(in->decompress, &in->at, &in->left, in->output, OUTPUT_SIZE, &n, err) < 0)
			return -1;
		if (n == 0 && in->ended && !in->left)
			return decompress_finish(in->decompress, err) < 0 ? -1 : 0;
	}
	*ret_data = in->output;
	return (ssize_t)n;
}

static la_ssize_t on_read(struct archive *archive, void *arg, const void **ret_data)
{
	struct input *in = arg;
	ssize_t n = input_next(in, ret_data, &in->error);

	if (n < 0)
		archive_set_error(archive, EIO, "cannot read");
	return n < 0 ? -1 : n;
}

/* ---- entries ---- */

static int archive_failed(struct push *p, struct error *err)
{
	const char *why = archive_error_string(p->archive);

	if (p->input.error.code != ERR_OK)
		return error_move(err, &p->input.error);
	return error_set(err, ERR_INVALID_ARGUMENT, "the archive is damaged or not a tar archive: %s",
			 why ? why : "no reason given");
}

/* The next bytes of the entry; 1, or 0 at its end. Holes come as zeros: a blob is a run of bytes. */
struct entry_reader {
	struct push *push;
	int64_t offset;   /* of what is handed out next */
	const uint8_t *data;
	size_t len;
	int64_t at;       /* of data */
	int64_t size;
};

static int entry_read(struct entry_reader *r, const void **ret_data, size_t *ret_len, struct error *err)
{
	static const uint8_t zeros[65536];
	const void *data;
	int status;

	if (r->len == 0) {
		status = archive_read_data_block(r->push->archive, &data, &r->len, &r->at);
		if (status != ARCHIVE_OK && status != ARCHIVE_WARN && status != ARCHIVE_EOF)
			return archive_failed(r->push, err);
		if (status == ARCHIVE_EOF) {
			r->len = 0;
			r->at = r->size;
			if (r->offset >= r->size)
				return 0;
		} else {
			r->data = data;
		}
	}
	if (r->at > r->offset) {
		int64_t hole = r->at - r->offset;

		*ret_data = zeros;
		*ret_len = hole < (int64_t)sizeof zeros ? (size_t)hole : sizeof zeros;
	} else {
		*ret_data = r->data;
		*ret_len = r->len;
		r->len = 0;
	}
	r->offset += (int64_t)*ret_len;
	return 1;
}

/* Fills the head. What did not fit into it any more is in *ret_rest. */
static int read_head(struct push *p, struct entry_reader *r, size_t *ret_len, const void **ret_rest,
		     size_t *ret_rest_len, struct error *err)
{
	size_t head = 0;

	*ret_rest_len = 0;
	while (head < HEAD_SIZE) {
		const void *data = NULL;
		size_t len = 0, n;
		int more = entry_read(r, &data, &len, err);

		if (more < 0)
			return -1;
		if (more == 0)
			break;
		n = len < HEAD_SIZE - head ? len : HEAD_SIZE - head;
		memcpy(p->head + head, data, n);
		head += n;
		*ret_rest = (const uint8_t *)data + n;
		*ret_rest_len = len - n;
	}
	*ret_len = head;
	return 0;
}

/* What a blob is, by its first bytes: a tar, plain or compressed, is taken for a layer. */
static bool is_layer(const uint8_t *head, size_t len, enum compression *ret_compression)
{
	uint8_t first[512];
	struct decompress *d = NULL;
	size_t n = 0;
	bool layer;

	*ret_compression = compression_recognize(head, len);
	if (*ret_compression == COMPRESSION_NONE)
		return extract_is_tar(head, len);
	layer = decompress_new(*ret_compression, &d, NULL) == 0 &&
		decompress_step(d, &head, &len, first, sizeof first, &n, NULL) == 0 && extract_is_tar(first, n);
	decompress_free(d);
	return layer;
}

static int skip_rest(struct entry_reader *r, struct error *err)
{
	const void *data;
	size_t len;
	int more;

	while ((more = entry_read(r, &data, &len, err)) > 0)
		;
	return more;
}

static int copy_blob(struct push *p, struct entry_reader *r, struct blob_writer *w, size_t head, const void *rest,
		     size_t rest_len, struct error *err)
{
	const void *data;
	size_t len;
	int more;

	if (blob_write(w, p->head, head, err) < 0 || blob_write(w, rest, rest_len, err) < 0)
		return -1;
	while ((more = entry_read(r, &data, &len, err)) > 0)
		if (blob_write(w, data, len, err) < 0)
			return -1;
	return more;
}

static int take_blob(struct push *p, const char *key, struct entry_reader *r, struct error *err)
{
	const char *digest = archive_index_digest_of(key);
	struct archive_blob blob = { .media_type = NULL };
	enum compression compression;
	struct blob_writer *w;
	const void *rest = "";
	size_t head, rest_len;
	bool layer;

	if (read_head(p, r, &head, &rest, &rest_len, err) < 0)
		return -1;
	layer = is_layer(p->head, head, &compression);
	blob.is_layer = layer;
	blob.media_type = layer ? archive_layer_type(compression) : NULL;
	if (!digest && !layer && (head == 0 || p->head[0] != '{'))
		return skip_rest(r, err); /* neither a layer nor a document */
	if (digest && content_has_blob(p->content, digest)) {
		snprintf(blob.digest, sizeof blob.digest, "%s", digest);
		blob.size = (uint64_t)r->size;
		return skip_rest(r, err) < 0 ? -1 : archive_index_add_blob(p->index, key, &blob, err);
	}
	if (blob_begin(p->content, layer ? BLOB_LAYER : BLOB_PLAIN, digest, NULL, &w, err) < 0)
		return -1;
	if (copy_blob(p, r, w, head, rest, rest_len, err) < 0) {
		blob_abort(w);
		return -1;
	}
	if (blob_commit(w, blob.digest, &blob.size, blob.diff_id, err) < 0)
		return -1;
	return archive_index_add_blob(p->index, key, &blob, err);
}

static int take_document(struct push *p, const char *key, struct entry_reader *r, struct error *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(OCI_DOCUMENT_MAX);
	const void *data;
	size_t len;
	int more;

	while ((more = entry_read(r, &data, &len, err)) > 0)
		if (buf_add(&text, data, len) < 0)
			return error_set(err, ERR_RESOURCE_EXHAUSTED, "it is larger than the limit of %u bytes",
					 OCI_DOCUMENT_MAX);
	return more < 0 ? -1 : archive_index_add_document(p->index, key, buf_str(&text), text.len, err);
}

/* In most archives these files mean nothing, so nothing about them is an error yet. */
static int take_legacy(struct push *p, const char *key, struct entry_reader *r, struct error *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(LEGACY_TEXT_MAX);
	const void *data;
	size_t len;
	int more;

	while ((more = entry_read(r, &data, &len, err)) > 0)
		buf_add(&text, data, len);
	if (more == 0)
		archive_index_add_legacy(p->index, key, text.failed ? NULL : buf_str(&text), text.len);
	return more;
}

static int take_entry(struct push *p, struct archive_entry *entry, const char *name, struct error *err)
{
	_cleanup_free_ char *key = archive_key("", name);
	const char *hard = archive_entry_hardlink(entry), *soft = archive_entry_symlink(entry);
	struct entry_reader r = { .push = p, .size = archive_entry_size(entry) };

	if (!key)
		return error_errno(err, ENOMEM, "cannot read the archive");
	if (hard)
		return archive_index_add_link(p->index, key, "", hard, err);
	switch (archive_entry_filetype(entry)) {
	case S_IFLNK:
		return archive_index_add_link(p->index, key, key, soft ? soft : "", err);
	case S_IFREG:
		break;
	default:
		return 0;
	}
	switch (archive_role(key)) {
	case ARCHIVE_DOCUMENT:
		return take_document(p, key, &r, err);
	case ARCHIVE_LEGACY:
		return take_legacy(p, key, &r, err);
	case ARCHIVE_IGNORED:
		return skip_rest(&r, err);
	case ARCHIVE_BLOB:
		break;
	}
	return take_blob(p, key, &r, err);
}

static int take_entries(struct push *p, struct error *err)
{
	struct archive_entry *entry;
	int r;

	while ((r = archive_read_next_header(p->archive, &entry)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
		const char *name = archive_entry_pathname(entry);

		if (!name || strlen(name) >= PATH_MAX)
			return error_set(err, ERR_INVALID_ARGUMENT, "the archive has an entry without a valid name");
		if (take_entry(p, entry, name, err) < 0)
			return error_wrap(err, "archive entry \"%.256s\"", name);
	}
	return r == ARCHIVE_EOF ? 0 : archive_failed(p, err);
}

/* To the end of the input: the sender must not find the pipe closed while it writes the last padding, and the last
 * checksum of a compressed archive counts too. */
static int drain(struct input *in, struct error *err)
{
	const void *data;
	ssize_t n;

	do {
		n = input_next(in, &data, err);
	} while (n > 0);
	return n < 0 ? -1 : 0;
}

static int read_archive(struct push *p, int fd, struct error *err)
{
	if (input_open(&p->input, fd, err) < 0)
		return -1;
	p->head = malloc(HEAD_SIZE);
	p->archive = archive_read_new();
	if (!p->head || !p->archive || archive_read_support_format_tar(p->archive) != ARCHIVE_OK)
		return error_errno(err, ENOMEM, "cannot read the archive");
	if (archive_read_open(p->archive, &p->input, NULL, on_read, NULL) != ARCHIVE_OK)
		return archive_failed(p, err);
	if (take_entries(p, err) < 0)
		return -1;
	return drain(&p->input, err);
}

/* What an archive lacks or got wrong is its sender's mistake, not an object that this host has lost. */
static int blame_archive(struct error *err, enum error_code code)
{
	if (err && err->code == code)
		err->code = ERR_INVALID_ARGUMENT;
	return -1;
}

int archive_push(struct content *content, int fd, struct error *err)
{
	struct push p = { .content = content, .input = { .error = ERROR_INIT } };
	int r = archive_index_new(content, &p.index, err);

	if (r == 0 && read_archive(&p, fd, err) < 0)
		r = blame_archive(err, ERR_DATA_LOSS);
	if (r == 0) {
		report_progress(p.input.done, p.input.total, "writing to the disk");
		if (archive_index_register(p.index, err) < 0)
			r = blame_archive(err, ERR_NOT_FOUND);
	}
	archive_read_free(p.archive);
	free(p.head);
	archive_index_free(p.index);
	input_close(&p.input);
	return r;
}
