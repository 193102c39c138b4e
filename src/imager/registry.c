/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/registry.h"

#include "base/buf.h"
#include "base/fs.h"
#include "base/timeutil.h"
#include "imager/answer.h"
#include "imager/digest.h"
#include "imager/session.h"

#include <pthread.h>
#include <string.h>

#define PROGRESS_INTERVAL_NS (100 * NSEC_PER_MSEC)
#define INDEX_DEPTH_MAX 3

/* How far the layers are. */
struct progress {
	pthread_mutex_t lock;
	uint64_t done, total;
	int64_t reported_ns;
};

struct pull {
	struct content *content;
	struct registries registries;
	struct reference reference;
	struct session *session;
	struct http *http; /* of the thread that called */
	struct platform platform;
	struct progress progress;
};

static int out_of_memory(struct error *err)
{
	return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
}

/* ---- progress ---- */

/* Called as bytes arrive; a line a tenth of a second is enough for any eye. */
static void progress_add(struct progress *p, int64_t bytes)
{
	int64_t now = time_monotonic_ns();
	uint64_t done;
	bool due;

	pthread_mutex_lock(&p->lock);
	p->done += (uint64_t)bytes;
	done = p->done;
	due = now - p->reported_ns >= PROGRESS_INTERVAL_NS || done == p->total;
	if (due)
		p->reported_ns = now;
	pthread_mutex_unlock(&p->lock);
	if (due)
		report_progress(done, p->total, "downloading");
}

static void progress_notice(const char *text, void *arg)
{
	struct progress *p = arg;
	uint64_t done;

	pthread_mutex_lock(&p->lock);
	done = p->done;
	pthread_mutex_unlock(&p->lock);
	report_progress(done, p->total, text);
}

/* ---- documents: manifests, indexes, configs ---- */

struct document {
	struct buf text;
	char digest[DIGEST_TEXT]; /* of the text, once it is whole */
	char *content_type;       /* as the registry says; NULL from the store */
	const char *expected;     /* the digest that it must have; NULL: any */
};

static void document_release(struct document *d)
{
	buf_release(&d->text);
	free(d->content_type);
	d->content_type = NULL;
}
#define _cleanup_document_ _cleanup_(document_release)
#define DOCUMENT_INIT { .text = BUF_INIT(ANSWER_MAX) }

static uint64_t document_offset(void *arg)
{
	return 0;
}

static int document_write(void *arg, const void *data, size_t len, struct error *err)
{
	struct document *d = arg;

	if (buf_add(&d->text, data, len) == 0)
		return 0;
	return error_set(err, ERR_DATA_LOSS, "its answer is larger than %u MiB", ANSWER_MAX >> 20);
}

static int document_restart(void *arg, struct error *err)
{
	struct document *d = arg;

	buf_reset(&d->text);
	return 0;
}

static int document_end(void *arg, const struct http_response *response, struct error *err)
{
	const char *said = response->docker_content_digest;
	struct document *d = arg;

	digest_of(buf_str(&d->text), d->text.len, d->digest);
	if (d->expected && strcmp(d->digest, d->expected) != 0)
		return error_set(err, ERR_DATA_LOSS, "it gives other content than was asked for: %s instead of %s",
				 d->digest, d->expected);
	if (said && digest_valid(said) && strcmp(d->digest, said) != 0)
		return error_set(err, ERR_DATA_LOSS,
				 "its answer does not have the digest that it claims: %s instead of %s", d->digest,
				 said);
	free(d->content_type);
	d->content_type = response->content_type ? strdup(response->content_type) : NULL;
	return 0;
}

static int store_document(struct pull *p, struct document *d, struct error *err)
{
	struct blob_writer *w;

	if (blob_begin(p->content, BLOB_PLAIN, d->digest, NULL, &w, err) < 0)
		return -1;
	if (blob_write(w, buf_str(&d->text), d->text.len, err) < 0) {
		blob_abort(w);
		return -1;
	}
	return blob_commit(w, NULL, NULL, NULL, err);
}

static int load_document(struct pull *p, struct document *d, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (content_read_blob(p->content, d->expected, ANSWER_MAX, &text, &len, err) < 0)
		return -1;
	if (buf_add(&d->text, text, len) < 0)
		return out_of_memory(err);
	memcpy(d->digest, d->expected, DIGEST_TEXT);
	return 0;
}

/* The document out of the store or from the registry; `what` is for messages. */
static int get_document(struct pull *p, const char *kind, const char *name, const char *what, struct document *d,
			struct error *err)
{
	_cleanup_free_ char *path = fs_path("%s/%s", kind, name);
	struct fetch fetch = {
		.path = path,
		.accept = strcmp(kind, "manifests") == 0 ? answer_accept : NULL,
		.what = what,
		.offset = document_offset,
		.write = document_write,
		.end = document_end,
		.restart = document_restart,
		.arg = d,
	};

	if (!path)
		return out_of_memory(err);
	/* A damaged one is fetched anew. */
	if (d->expected && content_has_blob(p->content, d->expected) && load_document(p, d, NULL) == 0)
		return 0;
	buf_reset(&d->text);
	return session_fetch(p->session, p->http, &fetch, err);
}

/* ---- layers ---- */

struct layer {
	const struct descriptor *descriptor;
	const char *diff_id;
};

struct layers {
	struct pull *pull;
	struct layer *list;
	size_t n;
	pthread_mutex_t lock;
	size_t next;
	struct error error; /* the first */
};

/* One layer on its way. */
struct download {
	struct pull *pull;
	const struct layer *layer;
	struct blob_writer *writer; /* NULL once it is committed */
};

static uint64_t layer_offset(void *arg)
{
	const struct download *d = arg;

	return d->writer ? blob_offset(d->writer) : d->layer->descriptor->size;
}

static int layer_write(void *arg, const void *data, size_t len, struct error *err)
{
	struct download *d = arg;

	if (len > d->layer->descriptor->size - blob_offset(d->writer))
		return error_set(err, ERR_DATA_LOSS, "layer %s is larger than the manifest says (%llu bytes)",
				 d->layer->descriptor->digest, (unsigned long long)d->layer->descriptor->size);
	if (blob_write(d->writer, data, len, err) < 0)
		return error_wrap(err, "layer %s", d->layer->descriptor->digest);
	progress_add(&d->pull->progress, (int64_t)len);
	return 0;
}

static int layer_end(void *arg, const struct http_response *response, struct error *err)
{
	struct download *d = arg;

	if (blob_offset(d->writer) < d->layer->descriptor->size)
		return 1;
	if (blob_commit(steal_ptr(&d->writer), NULL, NULL, NULL, err) < 0)
		return error_wrap(err, "layer %s", d->layer->descriptor->digest);
	return 0;
}

static int layer_begin(struct download *d, struct error *err)
{
	return blob_begin(d->pull->content, BLOB_LAYER, d->layer->descriptor->digest, d->layer->diff_id, &d->writer,
			  err);
}

static int layer_restart(void *arg, struct error *err)
{
	struct download *d = arg;

	progress_add(&d->pull->progress, -(int64_t)layer_offset(d));
	blob_abort(steal_ptr(&d->writer));
	return layer_begin(d, err);
}

static int get_layer(struct pull *p, struct http *http, const struct layer *layer, struct error *err)
{
	struct download d = { .pull = p, .layer = layer };
	_cleanup_free_ char *path = fs_path("blobs/%s", layer->descriptor->digest);
	_cleanup_free_ char *what = fs_path("layer %s", layer->descriptor->digest);
	struct fetch fetch = {
		.path = path, .what = what, .offset = layer_offset, .write = layer_write, .end = layer_end,
		.restart = layer_restart, .resume = true, .arg = &d,
	};
	int r;

	if (!path || !what)
		return out_of_memory(err);
	if (content_has_blob(p->content, layer->descriptor->digest)) {
		progress_add(&p->progress, (int64_t)layer->descriptor->size);
		return 0;
	}
	if (layer_begin(&d, err) < 0)
		return -1;
	r = session_fetch(p->session, http, &fetch, err);
	blob_abort(d.writer);
	return r;
}

static const struct layer *next_layer(struct layers *l)
{
	const struct layer *layer = NULL;

	pthread_mutex_lock(&l->lock);
	if (l->error.code == ERR_OK && l->next < l->n)
		layer = &l->list[l->next++];
	pthread_mutex_unlock(&l->lock);
	return layer;
}

/* The first error counts; the others follow from it. */
static void layers_fail(struct layers *l, struct error *err)
{
	pthread_mutex_lock(&l->lock);
	if (l->error.code == ERR_OK)
		error_move(&l->error, err);
	pthread_mutex_unlock(&l->lock);
	session_stop(l->pull->session);
}

static void get_layers_with(struct layers *l, struct http *http)
{
	const struct layer *layer;

	while ((layer = next_layer(l))) {
		_cleanup_error_ struct error local = ERROR_INIT;

		if (get_layer(l->pull, http, layer, &local) < 0)
			layers_fail(l, &local);
	}
}

static void *layers_thread(void *arg)
{
	struct http *http = http_new();

	/* Without memory for one more the other threads do the work. */
	if (http)
		get_layers_with(arg, http);
	http_free(http);
	return NULL;
}

/* Fetches the layers on this thread and a few more: each runs plain blocking code from the first byte of a layer to its
 * commit, so a layer that unpacks slowly holds up its own connection and nothing else. */
static int get_layers(struct layers *l, struct error *err)
{
	pthread_t threads[REGISTRY_PARALLEL - 1];
	size_t n = 0;

	pthread_mutex_init(&l->lock, NULL);
	while (n < REGISTRY_PARALLEL - 1 && n + 1 < l->n && pthread_create(&threads[n], NULL, layers_thread, l) == 0)
		n++;
	get_layers_with(l, l->pull->http);
	for (size_t i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	pthread_mutex_destroy(&l->lock);
	return l->error.code == ERR_OK ? 0 : error_move(err, &l->error);
}

/* The layers, each once, and their sizes into the progress. */
static int list_layers(struct layers *l, const struct answer *manifest, const struct config_summary *config,
		       struct error *err)
{
	if (manifest->n_items != config->n_diff_ids)
		return error_set(err, ERR_DATA_LOSS, "its manifest has %zu layers and its config %zu",
				 manifest->n_items, config->n_diff_ids);
	l->list = calloc(manifest->n_items + 1, sizeof *l->list);
	if (!l->list)
		return out_of_memory(err);
	for (size_t i = 0; i < manifest->n_items; i++) {
		const struct descriptor *d = &manifest->items[i];
		size_t k = 0;

		while (k < l->n && strcmp(l->list[k].descriptor->digest, d->digest) != 0)
			k++;
		if (k < l->n && (l->list[k].descriptor->size != d->size ||
				 strcmp(l->list[k].diff_id, config->diff_ids[i]) != 0))
			return error_set(err, ERR_DATA_LOSS, "its manifest contradicts itself about layer %s",
					 d->digest);
		if (k < l->n)
			continue;
		if (d->size > INT64_MAX - l->pull->progress.total)
			return error_set(err, ERR_DATA_LOSS, "its layers add up to an impossible size");
		l->pull->progress.total += d->size;
		l->list[l->n++] = (struct layer){ d, config->diff_ids[i] };
	}
	return 0;
}

/* ---- the pull ---- */

/* What follows "its" in the messages of answer.h. */
static int blame_registry(const struct pull *p, struct error *err)
{
	return error_wrap(err, "registry %s", p->reference.registry);
}

/* Follows indexes down to the manifest for this machine. *d holds its text, *ret what it says. */
static int get_manifest(struct pull *p, struct document *d, struct answer *ret, struct error *err)
{
	char next[DIGEST_TEXT];

	d->expected = p->reference.digest;
	for (int depth = 0; depth < INDEX_DEPTH_MAX; depth++) {
		const char *name = d->expected ? d->expected : p->reference.tag;
		_cleanup_answer_ struct answer answer = { 0 };
		const struct descriptor *chosen;

		if (get_document(p, "manifests", name, depth ? "manifest" : "image", d, err) < 0)
			return -1;
		d->expected = NULL;
		if (answer_parse(buf_str(&d->text), d->text.len, d->content_type, &answer, err) < 0)
			return blame_registry(p, err);
		if (!answer.is_index) {
			*ret = answer;
			answer = (struct answer){ 0 };
			return 0;
		}
		if (answer_choose(&answer, &p->platform, &chosen, err) < 0)
			return blame_registry(p, err);
		memcpy(next, chosen->digest, sizeof next);
		document_release(d);
		d->expected = next;
	}
	error_set(err, ERR_DATA_LOSS, "its index leads to other indexes without an end");
	return blame_registry(p, err);
}

static int get_config(struct pull *p, const struct answer *manifest, struct config_summary *ret, struct error *err)
{
	_cleanup_document_ struct document d = DOCUMENT_INIT;
	_cleanup_config_summary_ struct config_summary config = { 0 };

	d.expected = manifest->config.digest;
	if (get_document(p, "blobs", manifest->config.digest, "config", &d, err) < 0)
		return -1;
	if (config_parse(buf_str(&d.text), d.text.len, &config, err) < 0 ||
	    platform_check(&config.platform, &p->platform, err) < 0)
		return blame_registry(p, err);
	if (store_document(p, &d, err) < 0)
		return -1;
	*ret = config;
	config = (struct config_summary){ 0 };
	return 0;
}

static int pull_image(struct pull *p, const char *full, struct error *err)
{
	_cleanup_document_ struct document d = DOCUMENT_INIT;
	_cleanup_answer_ struct answer manifest = { 0 };
	_cleanup_config_summary_ struct config_summary config = { 0 };
	struct layers layers = { .pull = p };
	int r;

	if (get_manifest(p, &d, &manifest, err) < 0 || get_config(p, &manifest, &config, err) < 0)
		return -1;
	r = list_layers(&layers, &manifest, &config, err);
	if (r < 0)
		blame_registry(p, err);
	else
		r = get_layers(&layers, err);
	free(layers.list);
	if (r < 0 || store_document(p, &d, err) < 0)
		return -1;
	report_progress(p->progress.total, p->progress.total, "storing");
	if (content_register(p->content, full, d.digest, err) < 0)
		return -1;
	report_image(full, d.digest);
	return 0;
}

static int pull_prepared(struct pull *p, const char *registries_file, const char *full, struct error *err)
{
	int r;

	if (http_global_init(err) < 0 || registries_load(registries_file, &p->registries, err) < 0 ||
	    session_new(&p->registries, &p->reference, &p->session, err) < 0)
		return -1;
	p->http = http_new();
	if (!p->http)
		return out_of_memory(err);
	session_set_notice(p->session, progress_notice, &p->progress);
	r = pull_image(p, full, err);
	return r < 0 ? error_wrap(err, "cannot pull %s", full) : 0;
}

int registry_pull(struct content *content, const char *reference, const char *registries_file, struct error *err)
{
	struct pull p = { .content = content };
	_cleanup_free_ char *full = NULL;
	int r;

	if (reference_parse(reference, &p.reference, err) < 0)
		return -1;
	pthread_mutex_init(&p.progress.lock, NULL);
	platform_of_this_machine(&p.platform);
	full = reference_format(&p.reference);
	r = full ? pull_prepared(&p, registries_file, full, err) : out_of_memory(err);
	http_free(p.http);
	session_free(p.session);
	registries_release(&p.registries);
	pthread_mutex_destroy(&p.progress.lock);
	reference_release(&p.reference);
	return r;
}
