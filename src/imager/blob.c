/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The way of one blob. Each box is a thread, each arrow a bounded queue; a plain blob needs none of them.
 *
 *   blob_write() --> store: digest, file
 *        |
 *        +--> decompress --+--> hash: diff id
 *                          +--> unpack: tar into the layer's directory
 *
 * For a tar that comes plain there is no decompressor, and its digest is its diff id.
 * A stage that ends, for whatever reason, leaves its input (queue_abort) and closes its outputs, so a failure anywhere
 * runs through all of them and comes out of the next blob_write() or of blob_commit().
 */
#include "imager/content_internal.h"

#include "base/fs.h"
#include "imager/decompress.h"
#include "imager/digest.h"
#include "imager/queue.h"
#include "imager/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define STAGE_NAME 32

enum { QUEUE_STORE, QUEUE_DECOMPRESS, QUEUE_HASH, QUEUE_UNPACK, QUEUES };

struct blob_writer {
	struct content *content;
	enum blob_kind kind;
	char digest[DIGEST_TEXT], diff_id[DIGEST_TEXT]; /* what they must be; "" when not known */
	uint64_t offset;                                /* bytes taken */
	struct chunk *chunk;                            /* being filled */

	/* The store stage's: */
	int fd;                   /* -1: the blob is here already and only unpacked */
	char name[STAGE_NAME];    /* in the stage directory */
	bool direct;              /* the file is written past the page cache */
	uint64_t stored;          /* bytes in the file */
	struct digest *sum;

	/* Layers only: */
	int layer_fd; /* -1: not unpacked */
	char layer_name[STAGE_NAME];
	struct digest *layer_sum; /* NULL: the diff id is the digest */
	enum compression compression;
	bool started;
	bool has_queue[QUEUES];
	struct queue queues[QUEUES];
	pthread_t threads[QUEUES];
	unsigned n_threads;

	pthread_mutex_t lock;
	struct error error; /* under lock: the first */
	atomic_bool failed;
};

/* ---- failure ---- */

static void writer_fail(struct blob_writer *w, struct error *why)
{
	pthread_mutex_lock(&w->lock);
	if (!atomic_load(&w->failed)) {
		error_move(&w->error, why);
		atomic_store(&w->failed, true);
	}
	pthread_mutex_unlock(&w->lock);
	error_release(why);
}

/* The same error to every call that follows: the writer keeps its own. */
static int writer_error(struct blob_writer *w, struct error *err)
{
	pthread_mutex_lock(&w->lock);
	error_set(err, w->error.code, "%s", error_message(&w->error));
	pthread_mutex_unlock(&w->lock);
	return -1;
}

/* ---- store ---- */

/*
 * A layer's blob is hardly ever read again, so it goes past the page cache: that saves the memory, the copy, and, what
 * counts most, the wait at the end. This works in whole blocks; the file's last bytes, and file systems that refuse
 * it, are written the ordinary way.
 */
static void leave_direct(struct blob_writer *w)
{
	int flags = fcntl(w->fd, F_GETFL);

	if (flags >= 0)
		fcntl(w->fd, F_SETFL, flags & ~O_DIRECT);
	w->direct = false;
}

static int store_bytes(struct blob_writer *w, const void *data, size_t len, struct error *err)
{
	int r;

	digest_add(w->sum, data, len);
	if (w->fd < 0)
		return 0;
	if (w->direct && (len % CHUNK_ALIGNMENT || (uintptr_t)data % CHUNK_ALIGNMENT))
		leave_direct(w);
	r = fs_write_all(w->fd, data, len);
	if (r == -EINVAL && w->direct && lseek(w->fd, (off_t)w->stored, SEEK_SET) >= 0) {
		leave_direct(w);
		r = fs_write_all(w->fd, data, len);
	}
	if (r < 0)
		return error_errno(err, -r, "cannot write a blob to the image store");
	w->stored += len;
	return 0;
}

static int store_stage(struct blob_writer *w, struct error *err)
{
	struct chunk *c;
	int r = 0;

	while (r == 0 && (c = queue_get(&w->queues[QUEUE_STORE]))) {
		r = store_bytes(w, c->data, c->len, err);
		chunk_drop(c);
	}
	return r;
}

/* ---- decompress ---- */

static bool pass_on(struct blob_writer *w, struct chunk *c)
{
	return queue_put(&w->queues[QUEUE_HASH], c) && queue_put(&w->queues[QUEUE_UNPACK], c);
}

/* Decompresses what `in` holds into *out, passing on what is full. 1: go on, 0: nobody listens any more. */
static int decompress_chunk(struct blob_writer *w, struct decompress *d, const struct chunk *in, struct chunk **out,
			    struct error *err)
{
	const uint8_t *data = in->data;
	size_t len = in->len, n;

	for (;;) {
		if (!*out)
			*out = chunk_new();
		if (!*out)
			return error_errno(err, ENOMEM, "cannot decompress");
		if (decompress_step(d, &data, &len, (*out)->data + (*out)->len, CHUNK_SIZE - (*out)->len, &n, err) < 0)
			return -1;
		(*out)->len += n;
		if ((*out)->len < CHUNK_SIZE)
			return 1;
		if (!pass_on(w, *out))
			return 0;
		chunk_drop(steal_ptr(out));
	}
}

static int decompress_stage(struct blob_writer *w, struct error *err)
{
	_cleanup_(decompress_freep) struct decompress *d = NULL;
	struct chunk *in, *out = NULL;
	int r = 1;

	if (decompress_new(w->compression, &d, err) < 0)
		return -1;
	while (r > 0 && (in = queue_get(&w->queues[QUEUE_DECOMPRESS]))) {
		r = decompress_chunk(w, d, in, &out, err);
		chunk_drop(in);
	}
	if (r > 0 && !atomic_load(&w->failed)) {
		r = decompress_finish(d, err);
		if (r == 0 && out && out->len)
			pass_on(w, out);
	}
	chunk_drop(out);
	return r < 0 ? -1 : 0;
}

/* ---- hash ---- */

static int hash_stage(struct blob_writer *w, struct error *err)
{
	struct chunk *c;

	while ((c = queue_get(&w->queues[QUEUE_HASH]))) {
		digest_add(w->layer_sum, c->data, c->len);
		chunk_drop(c);
	}
	return 0;
}

/* ---- unpack ---- */

struct unpack_input {
	struct queue *queue;
	struct chunk *chunk; /* the one that was handed out last */
};

static ssize_t unpack_read(void *arg, const void **ret_data, struct error *err)
{
	struct unpack_input *in = arg;

	chunk_drop(in->chunk);
	in->chunk = queue_get(in->queue);
	if (!in->chunk)
		return 0;
	*ret_data = in->chunk->data;
	return (ssize_t)in->chunk->len;
}

static int unpack_stage(struct blob_writer *w, struct error *err)
{
	const struct extract_limits limits = { w->content->limits.unpacked_max, w->content->limits.entries_max };
	struct unpack_input in = { &w->queues[QUEUE_UNPACK], NULL };
	const struct extract_source source = { unpack_read, &in };
	const void *rest;
	int r = unpack_layer(w->layer_fd, &source, &limits, err);

	/* Padding after the archive's end belongs to the digest: the stages before this one must not be cut off. */
	if (r == 0)
		while (unpack_read(&in, &rest, err) > 0)
			;
	chunk_drop(in.chunk);
	return r;
}

/* ---- threads ---- */

struct stage {
	int (*run)(struct blob_writer *w, struct error *err);
	struct blob_writer *writer;
	unsigned queue;
};

static void *stage_main(void *arg)
{
	_cleanup_error_ struct error why = ERROR_INIT;
	_cleanup_free_ struct stage *stage = arg;
	struct blob_writer *w = stage->writer;

	if (stage->run(w, &why) < 0)
		writer_fail(w, &why);
	queue_abort(&w->queues[stage->queue]);
	if (stage->queue == QUEUE_DECOMPRESS) {
		queue_close(&w->queues[QUEUE_HASH]);
		queue_close(&w->queues[QUEUE_UNPACK]);
	}
	return NULL;
}

static int start_stage(struct blob_writer *w, unsigned queue, int (*run)(struct blob_writer *, struct error *),
		       struct error *err)
{
	struct stage *stage = malloc(sizeof *stage);
	int r;

	if (!stage)
		return error_errno(err, ENOMEM, "cannot start a thread");
	*stage = (struct stage){ run, w, queue };
	r = pthread_create(&w->threads[w->n_threads], NULL, stage_main, stage);
	if (r != 0) {
		free(stage);
		return error_errno(err, r, "cannot start a thread");
	}
	w->n_threads++;
	return 0;
}

/* The first bytes are here: decides which stages are needed and starts them. */
static int start_stages(struct blob_writer *w, struct error *err)
{
	bool unpack = w->layer_fd >= 0;

	w->started = true;
	w->compression = compression_recognize(w->chunk->data, w->chunk->len);
	w->has_queue[QUEUE_STORE] = true;
	w->has_queue[QUEUE_UNPACK] = unpack;
	w->has_queue[QUEUE_DECOMPRESS] = w->has_queue[QUEUE_HASH] = unpack && w->compression != COMPRESSION_NONE;
	for (unsigned i = 0; i < QUEUES; i++)
		if (w->has_queue[i])
			queue_init(&w->queues[i]);
	if (w->has_queue[QUEUE_HASH]) {
		w->layer_sum = digest_new();
		if (!w->layer_sum)
			return error_errno(err, ENOMEM, "cannot start a digest");
		if (start_stage(w, QUEUE_HASH, hash_stage, err) < 0)
			return -1;
	}
	if (w->has_queue[QUEUE_UNPACK] && start_stage(w, QUEUE_UNPACK, unpack_stage, err) < 0)
		return -1;
	if (w->has_queue[QUEUE_DECOMPRESS] && start_stage(w, QUEUE_DECOMPRESS, decompress_stage, err) < 0)
		return -1;
	return start_stage(w, QUEUE_STORE, store_stage, err);
}

/* Hands the chunk to the first stages. */
static int flush_chunk(struct blob_writer *w, struct error *err)
{
	if (!w->started && start_stages(w, err) < 0) {
		_cleanup_error_ struct error copy = ERROR_INIT;

		error_set(&copy, err ? err->code : ERR_INTERNAL, "%s", err ? error_message(err) : "cannot start");
		writer_fail(w, &copy);
		return -1;
	}
	if (w->chunk && w->chunk->len) {
		bool ok = queue_put(&w->queues[QUEUE_STORE], w->chunk);

		if (w->has_queue[QUEUE_DECOMPRESS])
			ok = queue_put(&w->queues[QUEUE_DECOMPRESS], w->chunk) && ok;
		else if (w->has_queue[QUEUE_UNPACK])
			ok = queue_put(&w->queues[QUEUE_UNPACK], w->chunk) && ok;
		if (!ok || atomic_load(&w->failed))
			return writer_error(w, err);
	}
	chunk_drop(steal_ptr(&w->chunk));
	return 0;
}

static void join_stages(struct blob_writer *w)
{
	if (!w->started)
		return;
	/* The decompressor closes what follows it, unless it never started. */
	for (unsigned i = 0; i < QUEUES; i++)
		if (w->has_queue[i] && (i <= QUEUE_DECOMPRESS || !w->has_queue[QUEUE_DECOMPRESS] ||
					atomic_load(&w->failed)))
			queue_close(&w->queues[i]);
	while (w->n_threads)
		pthread_join(w->threads[--w->n_threads], NULL);
}

/* ---- the writer ---- */

static void writer_free(struct blob_writer *w)
{
	join_stages(w);
	for (unsigned i = 0; i < QUEUES; i++)
		if (w->started && w->has_queue[i])
			queue_release(&w->queues[i]);
	chunk_drop(w->chunk);
	digest_free(w->sum);
	digest_free(w->layer_sum);
	if (w->fd >= 0) {
		close(w->fd);
		unlinkat(w->content->stage.fd, w->name, 0);
	}
	if (w->layer_fd >= 0) {
		close(w->layer_fd);
		fs_remove_tree(w->content->stage.fd, w->layer_name, NULL);
	}
	pthread_mutex_destroy(&w->lock);
	error_release(&w->error);
	free(w);
}

static struct blob_writer *writer_new(struct content *c, enum blob_kind kind, const char *digest, const char *diff_id,
				      struct error *err)
{
	struct blob_writer *w;

	if ((digest && !layout_digest_hex(digest)) || (diff_id && !layout_digest_hex(diff_id))) {
		error_set(err, ERR_INVALID_ARGUMENT, "\"%.80s\" is not a SHA-256 digest",
			  digest && !layout_digest_hex(digest) ? digest : diff_id);
		return NULL;
	}
	w = calloc(1, sizeof *w);
	if (!w || !(w->sum = digest_new())) {
		free(w);
		error_errno(err, ENOMEM, "cannot take a blob");
		return NULL;
	}
	w->content = c;
	w->kind = kind;
	w->fd = w->layer_fd = -1;
	pthread_mutex_init(&w->lock, NULL);
	snprintf(w->digest, sizeof w->digest, "%s", digest ? digest : "");
	snprintf(w->diff_id, sizeof w->diff_id, "%s", diff_id ? diff_id : "");
	return w;
}

static int open_blob_file(struct blob_writer *w, struct error *err)
{
	const int flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC;
	int stage = w->content->stage.fd;

	snprintf(w->name, sizeof w->name, "blob-%u", atomic_fetch_add(&w->content->serial, 1));
	if (w->kind != BLOB_PLAIN)
		w->fd = openat(stage, w->name, flags | O_DIRECT, 0644);
	w->direct = w->fd >= 0;
	if (w->fd < 0)
		w->fd = openat(stage, w->name, flags, 0644);
	return w->fd < 0 ? error_errno(err, errno, "cannot make a file in the image store") : 0;
}

static int open_layer_dir(struct blob_writer *w, struct error *err)
{
	int stage = w->content->stage.fd;

	snprintf(w->layer_name, sizeof w->layer_name, "layer-%u", atomic_fetch_add(&w->content->serial, 1));
	if (mkdirat(stage, w->layer_name, 0755) == 0)
		w->layer_fd = openat(stage, w->layer_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return w->layer_fd < 0 ? error_errno(err, errno, "cannot make a directory in the image store") : 0;
}

int blob_begin(struct content *c, enum blob_kind kind, const char *digest, const char *diff_id,
	       struct blob_writer **ret, struct error *err)
{
	struct blob_writer *w = writer_new(c, kind, digest, diff_id, err);

	if (!w)
		return -1;
	if (open_blob_file(w, err) < 0 ||
	    (kind != BLOB_PLAIN && !(diff_id && content_has_layer(c, diff_id)) && open_layer_dir(w, err) < 0)) {
		writer_free(w);
		return -1;
	}
	*ret = w;
	return 0;
}

uint64_t blob_offset(const struct blob_writer *w)
{
	return w->offset;
}

static int fill_chunk(struct blob_writer *w, const uint8_t **data, size_t *len, struct error *err)
{
	size_t room, n;

	if (!w->chunk)
		w->chunk = chunk_new();
	if (!w->chunk)
		return error_errno(err, ENOMEM, "cannot take a blob");
	room = CHUNK_SIZE - w->chunk->len;
	n = *len < room ? *len : room;
	memcpy(w->chunk->data + w->chunk->len, *data, n);
	w->chunk->len += n;
	*data += n;
	*len -= n;
	return n == room ? flush_chunk(w, err) : 0;
}

int blob_write(struct blob_writer *w, const void *data, size_t len, struct error *err)
{
	const uint8_t *p = data;

	if (atomic_load(&w->failed))
		return writer_error(w, err);
	if (len > w->content->limits.blob_max - w->offset)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the blob is larger than the limit of %llu bytes",
				 (unsigned long long)w->content->limits.blob_max);
	w->offset += len;
	if (w->kind == BLOB_PLAIN)
		return store_bytes(w, data, len, err);
	while (len)
		if (fill_chunk(w, &p, &len, err) < 0)
			return -1;
	return 0;
}

/* ---- commit ---- */

static int check_digest(const char *what, const char *wanted, const char *found, struct error *err)
{
	if (*wanted && strcmp(wanted, found) != 0)
		return error_set(err, ERR_DATA_LOSS,
				 "the %s is %s and should be %s: the content was changed or damaged", what,
				 found, wanted);
	return 0;
}

/* Renames what is in the stage to its final place, pinned; what is there already stays and ours is dropped. */
static int publish(struct content *c, const char *name, int dirfd, const char *digest, struct error *err)
{
	const char *hex = layout_digest_hex(digest);
	_cleanup_close_ int lock = layout_lock(&c->layout, false, err);

	if (lock < 0 || layout_stage_pin(&c->stage, hex, err) < 0)
		return -1;
	if (renameat2(c->stage.fd, name, dirfd, hex, RENAME_NOREPLACE) < 0 && errno != EEXIST)
		return error_errno(err, errno, "cannot place %s in the image store", digest);
	return 0;
}

static int note_diff_id(struct content *c, const char *digest, const char *diff_id, struct error *err)
{
	int r;

	pthread_mutex_lock(&c->lock);
	r = json_object_set_new(c->diff_ids, layout_digest_hex(digest), json_string(diff_id));
	pthread_mutex_unlock(&c->lock);
	return r < 0 ? error_errno(err, ENOMEM, "cannot take a layer") : 0;
}

static int writer_finish(struct blob_writer *w, char digest[DIGEST_TEXT], char diff_id[DIGEST_TEXT], struct error *err)
{
	if (w->kind != BLOB_PLAIN && !atomic_load(&w->failed)) {
		if (!w->chunk && !w->started)
			w->chunk = chunk_new(); /* an empty blob still has stages to start */
		flush_chunk(w, NULL);
	}
	join_stages(w);
	if (atomic_load(&w->failed))
		return writer_error(w, err);
	digest_finish(w->sum, digest);
	if (w->layer_sum)
		digest_finish(w->layer_sum, diff_id);
	else
		snprintf(diff_id, DIGEST_TEXT, "%s", w->layer_fd >= 0 ? digest : w->diff_id);
	if (check_digest("digest", w->digest, digest, err) < 0)
		return -1;
	return check_digest("layer's diff id", w->diff_id, diff_id, err);
}

static int writer_publish(struct blob_writer *w, const char *digest, const char *diff_id, struct error *err)
{
	struct content *c = w->content;

	if (w->layer_fd >= 0 && publish(c, w->layer_name, c->layout.layers, diff_id, err) < 0)
		return -1;
	if (w->fd >= 0 && publish(c, w->name, c->layout.blobs, digest, err) < 0)
		return -1;
	return w->kind == BLOB_PLAIN ? 0 : note_diff_id(c, digest, diff_id, err);
}

int blob_commit(struct blob_writer *w, char ret_digest[DIGEST_TEXT], uint64_t *ret_size, char ret_diff_id[DIGEST_TEXT],
		struct error *err)
{
	char digest[DIGEST_TEXT], diff_id[DIGEST_TEXT];
	int r = writer_finish(w, digest, diff_id, err);

	if (r == 0)
		r = writer_publish(w, digest, diff_id, err);
	if (r == 0) {
		if (ret_digest)
			memcpy(ret_digest, digest, sizeof digest);
		if (ret_size)
			*ret_size = w->stored;
		if (ret_diff_id && w->kind != BLOB_PLAIN)
			memcpy(ret_diff_id, diff_id, sizeof diff_id);
	}
	writer_free(w);
	return r;
}

void blob_abort(struct blob_writer *w)
{
	_cleanup_error_ struct error why = ERROR_INIT;

	if (!w)
		return;
	error_set(&why, ERR_CANCELLED, "the blob was given up");
	writer_fail(w, &why);
	/* Nobody waits for room any more, and nobody goes on with what is queued. */
	for (unsigned i = 0; w->started && i < QUEUES; i++)
		if (w->has_queue[i])
			queue_abort(&w->queues[i]);
	writer_free(w);
}

int blob_unpack(struct content *c, const char *digest, const char *diff_id, struct error *err)
{
	_cleanup_close_ int fd = openat(c->layout.blobs, layout_digest_hex(digest), O_RDONLY | O_CLOEXEC);
	_cleanup_free_ uint8_t *buffer = malloc(CHUNK_SIZE);
	struct blob_writer *w;
	ssize_t n;

	if (fd < 0 || !buffer)
		return error_errno(err, errno, "cannot open the blob %s", digest);
	w = writer_new(c, BLOB_LAYER, digest, diff_id, err);
	if (!w)
		return -1;
	if (open_layer_dir(w, err) < 0)
		goto failed;
	while ((n = read(fd, buffer, CHUNK_SIZE)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			error_errno(err, errno, "cannot read the blob %s", digest);
			goto failed;
		}
		if (blob_write(w, buffer, (size_t)n, err) < 0)
			goto failed;
	}
	return blob_commit(w, NULL, NULL, NULL, err);
failed:
	blob_abort(w);
	return -1;
}
