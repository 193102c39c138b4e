/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "image/transfer.h"

#include "base/buf.h"

#include <jansson.h>
#include <stdbool.h>
#include <string.h>

#define ARGS_MAX 8

struct transfer {
	struct worker *worker;
	struct transfer_callbacks callbacks;
	bool reading;         /* in on_output(): the memory is needed until that returns */
	bool cancelled;
	struct buf line;      /* of the output, not whole yet */
	struct error error;   /* the result, unless it is success */
	char **references;
	size_t n_references;
};

static void transfer_free(struct transfer *t)
{
	for (size_t i = 0; i < t->n_references; i++)
		free(t->references[i]);
	free(t->references);
	buf_release(&t->line);
	error_release(&t->error);
	free(t);
}

/* ---- the end ---- */

static void judge(struct transfer *t, const struct worker_end *end)
{
	const char *words = end->last_words, *colon = *words ? ": " : "";

	if (t->error.code != ERR_OK || (!end->term_signal && !end->exit_status && t->n_references > 0))
		return;
	if (end->out_of_memory)
		error_set(&t->error, ERR_RESOURCE_EXHAUSTED, "out of memory");
	else if (end->term_signal)
		error_set(&t->error, ERR_INTERNAL, "the image transfer was killed by signal %d%s%s",
			  end->term_signal, colon, words);
	else
		error_set(&t->error, ERR_INTERNAL,
			  "the image transfer ended with exit code %lld and without a result%s%s",
			  (long long)end->exit_status, colon, words);
}

static void on_ended(const struct worker_end *end, void *arg)
{
	struct transfer *t = arg;
	bool ok;

	judge(t, end);
	ok = t->error.code == ERR_OK;
	t->callbacks.done(ok ? t->references : NULL, ok ? t->n_references : 0, ok ? NULL : &t->error, t->callbacks.arg);
	transfer_free(t);
}

/* The worker does not keep to the protocol: nothing that it says counts any more. */
static void protocol_error(struct transfer *t, const char *why)
{
	if (t->error.code == ERR_OK)
		error_set(&t->error, ERR_INTERNAL, "the image transfer %s", why);
	worker_kill(t->worker);
}

/* ---- the worker's lines ---- */

static uint64_t count_of(const json_t *object, const char *name)
{
	json_int_t n = json_integer_value(json_object_get(object, name));

	return n > 0 ? (uint64_t)n : 0;
}

static void take_progress(struct transfer *t, const json_t *p)
{
	const char *status = json_string_value(json_object_get(p, "status"));
	struct transfer_progress progress = {
		.done_bytes = count_of(p, "done"), .total_bytes = count_of(p, "total"), .status = status ? status : "",
	};

	if (t->callbacks.progress)
		t->callbacks.progress(&progress, t->callbacks.arg);
}

static void take_image(struct transfer *t, const json_t *image)
{
	const char *reference = json_string_value(json_object_get(image, "reference"));
	char **longer, *copy;

	if (!reference || t->n_references == TRANSFER_IMAGES_MAX) {
		protocol_error(t, reference ? "brought too many images" : "wrote a line that is not understood");
		return;
	}
	longer = realloc(t->references, (t->n_references + 1) * sizeof *longer);
	if (longer)
		t->references = longer;
	copy = strdup(reference);
	if (!longer || !copy) {
		free(copy);
		if (t->error.code == ERR_OK)
			error_set(&t->error, ERR_RESOURCE_EXHAUSTED, "out of memory");
		return;
	}
	t->references[t->n_references++] = copy;
}

static void take_error(struct transfer *t, const json_t *error)
{
	const char *message = json_string_value(json_object_get(error, "message"));

	if (t->error.code == ERR_OK)
		error_set(&t->error, error_code_by_name(json_string_value(json_object_get(error, "code"))), "%s",
			  message && message[0] ? message : "the image transfer failed and did not say why");
}

static void take_line(struct transfer *t, const char *line, size_t len)
{
	json_t *root = json_loadb(line, len, JSON_REJECT_DUPLICATES, NULL), *member;

	if ((member = json_object_get(root, "progress")))
		take_progress(t, member);
	else if ((member = json_object_get(root, "image")))
		take_image(t, member);
	else if ((member = json_object_get(root, "error")))
		take_error(t, member);
	else
		protocol_error(t, "wrote a line that is not understood");
	json_decref(root);
}

static void on_output(const char *data, size_t len, void *arg)
{
	struct transfer *t = arg;

	t->reading = true;
	while (len > 0 && !t->cancelled) {
		const char *end = memchr(data, '\n', len);
		size_t n = end ? (size_t)(end - data) : len;

		if (buf_add(&t->line, data, n) < 0) {
			protocol_error(t, "wrote a line that is too long");
			break;
		}
		if (!end)
			break;
		take_line(t, buf_str(&t->line), t->line.len);
		buf_reset(&t->line);
		data = end + 1;
		len -= n + 1;
	}
	t->reading = false;
	if (t->cancelled)
		transfer_free(t);
}

/* ---- the start ---- */

static void on_drained(void *arg)
{
	struct transfer *t = arg;

	if (t->callbacks.drained)
		t->callbacks.drained(t->callbacks.arg);
}

static struct transfer *start(uv_loop_t *loop, const char *const *argv, bool with_input,
			      const struct transfer_callbacks *callbacks, struct error *err)
{
	const struct worker_options options = { .argv = argv, .input = with_input, .extra_fd = -1 };
	struct transfer *t = calloc(1, sizeof *t);
	struct worker_callbacks worker = { on_output, on_drained, on_ended, t };

	if (!t) {
		error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
		return NULL;
	}
	t->callbacks = *callbacks;
	buf_init(&t->line, TRANSFER_LINE_MAX);
	t->worker = worker_start(loop, &options, &worker, err);
	if (t->worker)
		return t;
	transfer_free(t);
	return NULL;
}

/* The arguments that every transfer has. */
static size_t common_args(const char **args, const struct transfer_options *options, const char *verb)
{
	const char *const fixed[] = { options->program, verb, "--root", options->root };
	size_t n = sizeof fixed / sizeof fixed[0];

	for (size_t i = 0; i < n; i++)
		args[i] = fixed[i];
	return n;
}

struct transfer *transfer_pull(uv_loop_t *loop, const struct transfer_options *options, const char *reference,
			       const struct transfer_callbacks *callbacks, struct error *err)
{
	const char *args[ARGS_MAX + 1] = { NULL };
	size_t n = common_args(args, options, "pull");

	if (options->registries_file) {
		args[n++] = "--registries";
		args[n++] = options->registries_file;
	}
	args[n++] = "--"; /* whatever the reference looks like, it is no option */
	args[n++] = reference;
	return start(loop, args, false, callbacks, err);
}

struct transfer *transfer_push(uv_loop_t *loop, const struct transfer_options *options,
			       const struct transfer_callbacks *callbacks, struct error *err)
{
	const char *args[ARGS_MAX + 1] = { NULL };

	common_args(args, options, "push");
	return start(loop, args, true, callbacks, err);
}

/* ---- its input ---- */

size_t transfer_write(struct transfer *t, const void *data, size_t len)
{
	return worker_write(t->worker, data, len);
}

void transfer_end(struct transfer *t)
{
	worker_end_input(t->worker);
}

void transfer_cancel(struct transfer *t)
{
	worker_abandon(t->worker);
	t->cancelled = true;
	if (!t->reading)
		transfer_free(t);
}
