/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* ImageService. */
#include "service/unary.h"

#include "image/reference.h"

#include "image.pb-c.h"

#include <inttypes.h>
#include <string.h>

static void fill(Capsule__V1__Image *m, const struct image *image)
{
	capsule__v1__image__init(m);
	m->name = strdup(image->reference);
	m->digest = strdup(image->digest);
	m->size_bytes = image->size_bytes;
	m->created_unix = image->created_unix;
}

/* ---- List ---- */

static void list_work(struct unary *u)
{
	Capsule__V1__ImageListResponse *reply;
	struct image *images;
	size_t n;

	if (image_store_list(u->host->images, &images, &n, &u->err) < 0)
		return;
	reply = malloc(sizeof *reply);
	if (!reply)
		abort();
	capsule__v1__image_list_response__init(reply);
	reply->images = malloc((n + 1) * sizeof *reply->images);
	if (!reply->images)
		abort();
	for (size_t i = 0; i < n; i++) {
		reply->images[i] = malloc(sizeof **reply->images);
		if (!reply->images[i])
			abort();
		fill(reply->images[i], &images[i]);
		image_release(&images[i]);
	}
	free(images);
	reply->n_images = n;
	u->reply = &reply->base;
}

static void list_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	unary_start(call, message, list_work, unary_answer);
}

/* ---- which layers running workloads need ---- */

struct layers {
	char **items;
	size_t n;
};

static void layers_free(struct layers *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < l->n; i++)
		free(l->items[i]);
	free(l->items);
	free(l);
}

static struct layers *layers_in_use(const struct service_host *host)
{
	struct layers *l = calloc(1, sizeof *l);

	if (!l || reconciler_layers_in_use(host->reconciler, &l->items, &l->n) < 0)
		abort();
	return l;
}

static int collect(struct image_store *images, const struct layers *l, uint64_t *ret_freed, struct error *err)
{
	return image_store_collect(images, (const char *const *)l->items, l->n, ret_freed, err);
}

/* ---- Push ---- */

struct push {
	struct rpc_call *call;
	struct transfer *transfer;
	struct failed_push *failed; /* the transfer has failed and its content is being removed */
	uint64_t announced; /* 0: not known */
	uint64_t received;
};

/* Of an archive that was not taken nothing stays: what of it was right has no name and nobody would ever use it. */
struct failed_push {
	struct push *push; /* NULL: the client has left */
	struct image_store *images;
	struct layers *layers;
	struct error err;
};

static void remove_content(void *arg)
{
	struct failed_push *failed = arg;

	(void)collect(failed->images, failed->layers, NULL, NULL);
}

static void content_removed(void *arg)
{
	struct failed_push *failed = arg;

	if (failed->push) {
		failed->push->failed = NULL;
		rpc_call_fail(failed->push->call, &failed->err);
	}
	layers_free(failed->layers);
	error_release(&failed->err);
	free(failed);
}

static void push_failed(struct push *push, const struct error *err)
{
	struct service_host *host = call_host(push->call);
	struct failed_push *failed = calloc(1, sizeof *failed);

	if (!failed)
		abort();
	push->failed = failed;
	failed->push = push;
	failed->images = host->images;
	failed->layers = layers_in_use(host);
	error_set(&failed->err, err->code, "%s", error_message(err));
	task_start(host->tasks, remove_content, content_removed, failed);
}

static void push_done(char **references, size_t n, const struct error *err, void *arg)
{
	struct push *push = arg;
	Capsule__V1__ImagePushResponse reply = CAPSULE__V1__IMAGE_PUSH_RESPONSE__INIT;

	push->transfer = NULL;
	if (err) {
		push_failed(push, err);
		return;
	}
	for (size_t i = 0; i < n; i++)
		reconciler_image_arrived(call_host(push->call)->reconciler, references[i]);
	reply.image_refs = references;
	reply.n_image_refs = n;
	reply.bytes_received = push->received;
	rpc_reply(push->call, &reply.base);
}

static void push_drained(void *arg)
{
	struct push *push = arg;

	rpc_call_resume(push->call);
}

static int push_begin(struct push *push, const struct service_host *host, struct error *err)
{
	const struct transfer_callbacks callbacks = { .done = push_done, .drained = push_drained, .arg = push };

	push->transfer = transfer_push(host->loop, host->transfer, &callbacks, err);
	return push->transfer ? 0 : -1;
}

/* A client that lost its place in the archive, or a part of it: what came is not what was meant. */
static int wrong_size(const struct push *push, struct error *err)
{
	return error_set(err, ERR_INVALID_ARGUMENT, "the archive was announced with %" PRIu64 " bytes and %s %" PRIu64,
			 push->announced, push->received > push->announced ? "has at least" : "ended after",
			 push->received);
}

static int push_take(struct push *push, const struct service_host *host, const Capsule__V1__ImagePushRequest *request,
		     struct error *err)
{
	switch (request->msg_case) {
	case CAPSULE__V1__IMAGE_PUSH_REQUEST__MSG_METADATA:
		if (push->transfer)
			return error_set(err, ERR_INVALID_ARGUMENT, "the metadata was sent twice; it comes first, once");
		push->announced = request->metadata->total_bytes;
		return push_begin(push, host, err);
	case CAPSULE__V1__IMAGE_PUSH_REQUEST__MSG_CHUNK:
		if (!push->transfer)
			return error_set(err, ERR_INVALID_ARGUMENT, "the first message must hold the metadata");
		push->received += request->chunk.len;
		if (push->announced && push->received > push->announced)
			return wrong_size(push, err);
		if (transfer_write(push->transfer, request->chunk.data, request->chunk.len) > TRANSFER_QUEUE_HIGH)
			rpc_call_pause(push->call);
		return 0;
	default:
		return error_set(err, ERR_INVALID_ARGUMENT, "a message holds neither metadata nor a chunk");
	}
}

static void push_open(struct rpc_call *call)
{
	struct push *push = calloc(1, sizeof *push);

	if (!push)
		abort();
	push->call = call;
	rpc_call_set_data(call, push);
}

static void push_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct push *push = rpc_call_data(call);

	if (push->failed)
		return;
	if (push_take(push, call_host(call), (const void *)message, &err) < 0)
		rpc_call_fail(call, &err);
}

static void push_half_close(struct rpc_call *call)
{
	struct push *push = rpc_call_data(call);
	_cleanup_error_ struct error err = ERROR_INIT;

	if (push->failed)
		return;
	if (!push->transfer)
		error_set(&err, ERR_INVALID_ARGUMENT, "the stream ended without an archive");
	else if (push->announced && push->received != push->announced)
		wrong_size(push, &err);
	if (err.code != ERR_OK)
		rpc_call_fail(call, &err);
	else
		transfer_end(push->transfer);
}

static void push_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct push *push = rpc_call_data(call);

	if (!push)
		return;
	if (push->transfer)
		transfer_cancel(push->transfer);
	if (push->failed)
		push->failed->push = NULL;
	free(push);
}

/* ---- Pull ---- */

static void pull_progress(const struct transfer_progress *progress, void *arg)
{
	struct unary *u = arg;
	Capsule__V1__ImagePullProgress message = CAPSULE__V1__IMAGE_PULL_PROGRESS__INIT;

	/* A client that reads slowly misses some steps, not the end. */
	if (!rpc_call_writable(u->call))
		return;
	message.done_bytes = progress->done_bytes;
	message.total_bytes = progress->total_bytes;
	if (progress->status)
		message.status = (char *)(uintptr_t)progress->status;
	(void)rpc_call_send(u->call, &message.base);
}

static void pulled_work(struct unary *u)
{
	const Capsule__V1__ImagePullRequest *request = (const void *)u->request;
	_cleanup_image_ struct image image = { 0 };
	Capsule__V1__ImagePullProgress *reply;

	if (image_store_resolve(u->host->images, request->reference, &image, &u->err) < 0)
		return;
	reply = malloc(sizeof *reply);
	if (!reply)
		abort();
	capsule__v1__image_pull_progress__init(reply);
	reply->image = malloc(sizeof *reply->image);
	if (!reply->image)
		abort();
	fill(reply->image, &image);
	reply->done_bytes = reply->total_bytes = (uint64_t)image.size_bytes;
	u->reply = &reply->base;
}

static void pull_done(const struct error *err, void *arg)
{
	struct unary *u = arg;

	u->state = NULL;
	if (!err) {
		unary_continue(u, pulled_work, unary_answer);
		return;
	}
	rpc_call_fail(u->call, err);
	unary_finish(u);
}

static void pull_check_work(struct unary *u)
{
	Capsule__V1__ImagePullRequest *request = (void *)u->request;
	char *reference;

	if (reference_normalize(request->reference, &reference, &u->err) < 0)
		return;
	free(request->reference);
	request->reference = reference;
}

static void pull_begin(struct unary *u)
{
	const Capsule__V1__ImagePullRequest *request = (const void *)u->request;
	const struct pull_callbacks callbacks = { pull_progress, pull_done, u };

	if (!u->call)
		return;
	if (u->err.code == ERR_OK)
		u->state = puller_want(u->host->puller, request->reference, &callbacks, &u->err);
	if (u->state)
		unary_hold(u);
	else
		unary_fail(u);
}

static void pull_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	const Capsule__V1__ImagePullRequest *request = (const void *)message;

	if (*request->reference)
		unary_start(call, message, pull_check_work, pull_begin);
	else
		rpc_call_finish(call, ERR_INVALID_ARGUMENT, "the request names no image");
}

/* A client that leaves takes back its wish. While there is a ticket no task of this call is under way. */
static void pull_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct unary *u = rpc_call_data(call);
	struct pull_ticket *ticket = u ? u->state : NULL;

	unary_on_close(call, code, message);
	if (ticket) {
		puller_drop(ticket);
		unary_finish(u);
	}
}

/* ---- Delete, Prune ---- */

static void delete_work(struct unary *u)
{
	const Capsule__V1__ImageDeleteRequest *request = (const void *)u->request;
	Capsule__V1__ImageDeleteResponse *reply;
	struct layers *l = u->state;
	char *removed;

	if (image_store_delete(u->host->images, request->reference, &removed, &u->err) < 0)
		return;
	(void)collect(u->host->images, l, NULL, NULL);
	reply = malloc(sizeof *reply);
	if (!reply)
		abort();
	capsule__v1__image_delete_response__init(reply);
	reply->removed = malloc(sizeof *reply->removed);
	if (!reply->removed)
		abort();
	reply->removed[0] = removed;
	reply->n_removed = 1;
	u->reply = &reply->base;
}

static void delete_done(struct unary *u)
{
	layers_free(u->state);
	unary_answer(u);
}

/* Finds what the request means: a reference, or a digest that stands for one. */
static void identify_work(struct unary *u)
{
	Capsule__V1__ImageDeleteRequest *request = (void *)u->request;
	char *reference;

	if (image_store_identify(u->host->images, request->reference, &reference, &u->err) < 0)
		return;
	protobuf_c_message_free_unpacked(u->request, NULL);
	request = malloc(sizeof *request);
	if (!request)
		abort();
	capsule__v1__image_delete_request__init(request);
	request->reference = reference;
	u->request = &request->base;
}

static void identify_done(struct unary *u)
{
	const Capsule__V1__ImageDeleteRequest *request = (const void *)u->request;
	const char *user;

	if (u->err.code != ERR_OK) {
		unary_fail(u);
		return;
	}
	user = reconciler_image_user(u->host->reconciler, request->reference);
	if (user) {
		error_set(&u->err, ERR_FAILED_PRECONDITION, "image %s is in use by workload %s; delete that first",
			  request->reference, user);
		unary_fail(u);
		return;
	}
	u->state = layers_in_use(u->host);
	unary_continue(u, delete_work, delete_done);
}

static void delete_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	unary_start(call, message, identify_work, identify_done);
}

/* What no workload may need: decided on the loop, between the two tasks of a prune. */
struct prune {
	struct layers *layers;
	char **references; /* to be removed, then those that were */
	size_t n;
	uint64_t freed;
};

static void prune_list_work(struct unary *u)
{
	struct prune *p = calloc(1, sizeof *p);
	struct image *images;
	size_t n;

	if (!p)
		abort();
	u->state = p;
	if (image_store_list(u->host->images, &images, &n, &u->err) < 0)
		return;
	p->references = calloc(n + 1, sizeof *p->references);
	if (!p->references)
		abort();
	for (size_t i = 0; i < n; i++) {
		p->references[p->n++] = strdup(images[i].reference);
		image_release(&images[i]);
	}
	free(images);
}

static void prune_work(struct unary *u)
{
	struct prune *p = u->state;
	size_t kept = 0;

	for (size_t i = 0; i < p->n; i++) {
		_cleanup_free_ char *removed = NULL;

		if (u->err.code == ERR_OK &&
		    image_store_delete(u->host->images, p->references[i], &removed, &u->err) == 0)
			p->references[kept++] = p->references[i];
		else
			free(p->references[i]);
	}
	p->n = kept;
	if (u->err.code == ERR_OK)
		(void)collect(u->host->images, p->layers, &p->freed, &u->err);
}

static void prune_done(struct unary *u)
{
	struct prune *p = u->state;
	Capsule__V1__ImagePruneResponse reply = CAPSULE__V1__IMAGE_PRUNE_RESPONSE__INIT;

	reply.removed = p->references;
	reply.n_removed = p->n;
	reply.freed_bytes = p->freed;
	if (u->err.code != ERR_OK)
		unary_fail(u);
	else
		unary_reply(u, &reply.base);
	for (size_t i = 0; i < p->n; i++)
		free(p->references[i]);
	free(p->references);
	layers_free(p->layers);
	free(p);
}

static void prune_list_done(struct unary *u)
{
	struct prune *p = u->state;
	size_t kept = 0;

	for (size_t i = 0; i < p->n; i++)
		if (reconciler_image_user(u->host->reconciler, p->references[i]))
			free(p->references[i]);
		else
			p->references[kept++] = p->references[i];
	p->n = kept;
	p->layers = layers_in_use(u->host);
	if (u->err.code != ERR_OK)
		prune_done(u);
	else
		unary_continue(u, prune_work, prune_done);
}

static void prune_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	unary_start(call, message, prune_list_work, prune_list_done);
}

#define METHOD(verb, handler, request)                                                                                \
	{                                                                                                             \
		.path = "/capsule.v1.ImageService/" #verb, .receives = &capsule__v1__##request##__descriptor,         \
		.receives_one = true, .message = handler, .close = unary_on_close                                     \
	}

int image_service_register(struct rpc_server *server, struct service_host *host)
{
	static const struct rpc_method methods[] = {
		METHOD(List, list_message, image_list_request),
		METHOD(Delete, delete_message, image_delete_request),
		METHOD(Prune, prune_message, image_prune_request),
		{ .path = "/capsule.v1.ImageService/Push",
		  .receives = &capsule__v1__image_push_request__descriptor,
		  .open = push_open,
		  .message = push_message,
		  .half_close = push_half_close,
		  .close = push_close },
		{ .path = "/capsule.v1.ImageService/Pull",
		  .receives = &capsule__v1__image_pull_request__descriptor,
		  .receives_one = true,
		  .message = pull_message,
		  .close = pull_close },
	};

	return service_add(server, host, methods, sizeof methods / sizeof methods[0]);
}
