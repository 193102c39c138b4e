/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "image/payload.h"

#include "base/fs.h"
#include "base/overlay.h"
#include "base/process.h"
#include "image/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#define MAKE_TIMEOUT_MS (30 * 60 * 1000)
#define MADE_NAME "payload"

/* A payload that is being made, on its maker's stack. */
struct making {
	const char *hex;
	struct making *next;
};

struct payloads {
	struct layout layout;
	char *root, *worker; /* root is absolute */
	pthread_mutex_t lock;
	pthread_cond_t made;
	struct making *making;
};

void payloads_free(struct payloads *p)
{
	if (!p)
		return;
	layout_release(&p->layout);
	free(p->root);
	free(p->worker);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->made);
	free(p);
}

int payloads_new(const char *root, const char *worker, struct payloads **ret, struct error *err)
{
	struct payloads *p = calloc(1, sizeof *p);

	if (!p)
		return error_errno(err, ENOMEM, "cannot open the payloads");
	p->layout = (struct layout)LAYOUT_INIT;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->made, NULL);
	p->worker = strdup(worker);
	if (layout_open(root, &p->layout, err) < 0 || !p->worker || !(p->root = realpath(root, NULL))) {
		if (p->layout.root >= 0)
			error_errno(err, errno, "cannot open the payloads in %s", root);
		payloads_free(p);
		return -1;
	}
	*ret = p;
	return 0;
}

/* ---- one maker an image ---- */

static bool is_being_made(const struct payloads *p, const char *hex)
{
	for (const struct making *m = p->making; m; m = m->next)
		if (!strcmp(m->hex, hex))
			return true;
	return false;
}

static void making_begin(struct payloads *p, struct making *me)
{
	pthread_mutex_lock(&p->lock);
	while (is_being_made(p, me->hex))
		pthread_cond_wait(&p->made, &p->lock);
	me->next = p->making;
	p->making = me;
	pthread_mutex_unlock(&p->lock);
}

static void making_end(struct payloads *p, struct making *me)
{
	struct making **m = &p->making;

	pthread_mutex_lock(&p->lock);
	while (*m != me)
		m = &(*m)->next;
	*m = me->next;
	pthread_cond_broadcast(&p->made);
	pthread_mutex_unlock(&p->lock);
}

/* ---- making it ---- */

/* What it is made from must not be collected meanwhile. */
static int pin(const struct payloads *p, const struct layout_stage *stage, const struct image *image, const char *hex,
	       struct error *err)
{
	_cleanup_close_ int lock = layout_lock(&p->layout, false, err);

	if (lock < 0 || layout_stage_pin(stage, hex, err) < 0)
		return -1;
	for (size_t i = 0; i < image->n_layers; i++) {
		const char *name = strrchr(image->layers[i], '/') + 1;

		if (access(image->layers[i], F_OK) < 0)
			return error_errno(err, errno, "cannot find the unpacked layer %s", name);
		if (layout_stage_pin(stage, name, err) < 0)
			return -1;
	}
	return 0;
}

static int run_maker(const struct payloads *p, const char *stage, const struct image *image, int fd, struct error *err)
{
	const char *argv[5 + OVERLAY_LAYERS_MAX + 1] = { p->worker, "flatten", "--root", stage };
	const struct process_fd fds = { .fd = fd, .target = PAYLOAD_FD };
	const struct process_run run = { .spawn = { .argv = argv, .fds = &fds, .n_fds = 1 }, .timeout_ms = MAKE_TIMEOUT_MS };
	_cleanup_process_result_ struct process_result result = { 0 };
	size_t n = 4;

	if (image->n_layers > OVERLAY_LAYERS_MAX)
		return error_set(err, ERR_FAILED_PRECONDITION, "the image has more than %d layers", OVERLAY_LAYERS_MAX);
	for (size_t i = 0; i < image->n_layers; i++)
		argv[n++] = image->layers[i];
	if (process_run(&run, &result, err) < 0)
		return -1;
	if (result.exit_code == 0)
		return 0;
	if (strstr(result.output, strerrordesc_np(ENOSPC)))
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the disk of %s is full; free some space", p->root);
	while (result.output_len > 0 && result.output[result.output_len - 1] == '\n')
		result.output[--result.output_len] = '\0';
	return error_set(err, ERR_INTERNAL, "its maker exited %d%s%s", result.exit_code, result.output_len ? ": " : "",
			 strrchr(result.output, '\n') ? strrchr(result.output, '\n') + 1 : result.output);
}

static int make_in_stage(const struct payloads *p, const struct layout_stage *stage, const struct image *image,
			 const char *hex, const char *path, struct error *err)
{
	_cleanup_free_ char *stage_path = fs_path("%s/images/%s", p->root, stage->name);
	_cleanup_close_ int fd = openat(stage->fd, MADE_NAME, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (!stage_path || fd < 0)
		return error_errno(err, errno, "cannot prepare it");
	if (pin(p, stage, image, hex, err) < 0 || run_maker(p, stage_path, image, fd, err) < 0)
		return -1;
	/* For monitors of many users, which find it in their jails; its directory keeps all others out. */
	if (fchmod(fd, 0444) < 0 || fsync(fd) < 0 || renameat(stage->fd, MADE_NAME, AT_FDCWD, path) < 0)
		return error_errno(err, errno, "cannot keep it");
	return fs_sync_dir(p->layout.payloads, ".") < 0 ? error_errno(err, errno, "cannot keep it") : 0;
}

static int make(const struct payloads *p, const struct image *image, const char *hex, const char *path, struct error *err)
{
	struct layout_stage stage = LAYOUT_STAGE_INIT;
	int r;

	if (access(path, F_OK) == 0)
		return 0;
	if (layout_stage_open(&p->layout, &stage, err) < 0)
		return -1;
	r = make_in_stage(p, &stage, image, hex, path, err);
	if (layout_stage_remove(&p->layout, &stage, NULL, r < 0 ? NULL : err) < 0)
		r = -1;
	return r;
}

int payload_ensure(struct payloads *p, const struct image *image, char **ret_path, struct error *err)
{
	const char *hex = layout_digest_hex(image->digest);
	_cleanup_free_ char *path = hex ? fs_path("%s/payloads/%s" PAYLOAD_SUFFIX, p->root, hex) : NULL;
	struct making me = { .hex = hex };
	int r;

	if (!hex)
		return error_set(err, ERR_DATA_LOSS, "\"%.80s\" is not a SHA-256 digest", image->digest);
	if (!path)
		return error_errno(err, ENOMEM, "cannot find the payload of %s", image->reference);
	making_begin(p, &me);
	r = make(p, image, hex, path, err);
	making_end(p, &me);
	if (r < 0)
		return error_wrap(err, "cannot flatten the image %s into a disk", image->reference);
	*ret_path = steal_ptr(&path);
	return 0;
}
