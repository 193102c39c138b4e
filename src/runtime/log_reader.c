/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/log_reader.h"

#include "base/fs.h"
#include "runtime/log_cursor.h"

#include <errno.h>
#include <sys/inotify.h>

struct log_reader {
	struct task_runner *tasks;
	struct log_reader_callbacks callbacks;
	char *dir, *parent;  /* of the log; of dir */
	bool follow;
	bool busy;           /* a task has the cursor */
	bool paused;
	bool again;          /* something happened while the task was under way */
	bool ended;          /* end() was called */
	bool freed;          /* by the owner; goes when nothing needs it any more */
	bool poll_open;
	uv_poll_t poll;      /* on inotify_fd, while following */
	int inotify_fd;
	bool watching_dir;
	/* The task's: */
	struct log_cursor cursor;
	bool last;
	int result;
	struct error error;
};

static void destroy_when_idle(struct log_reader *r)
{
	if (!r->freed || r->busy || r->poll_open)
		return;
	log_cursor_release(&r->cursor);
	error_release(&r->error);
	free(r->dir);
	free(r->parent);
	free(r);
}

static void on_poll_closed(uv_handle_t *handle)
{
	struct log_reader *r = handle->data;

	close(steal_fd(&r->inotify_fd));
	r->poll_open = false;
	destroy_when_idle(r);
}

static void stop_watching(struct log_reader *r)
{
	if (r->poll_open && !uv_is_closing((uv_handle_t *)&r->poll)) {
		uv_poll_stop(&r->poll);
		uv_close((uv_handle_t *)&r->poll, on_poll_closed);
	}
}

static void end(struct log_reader *r, const struct error *err)
{
	r->ended = true;
	stop_watching(r);
	r->callbacks.end(err, r->callbacks.arg);
}

/* ---- pieces ---- */

static void read_piece(void *arg)
{
	struct log_reader *r = arg;

	r->result = log_cursor_read(&r->cursor, r->last, &r->error);
}

static void go_on(struct log_reader *r);

static void piece_done(void *arg)
{
	struct log_reader *r = arg;
	struct log_cursor *c = &r->cursor;

	/* Still busy while the callback runs: it may free the reader. */
	if (!r->freed && c->out_len && !r->callbacks.data(c->out, c->out_len, r->callbacks.arg))
		r->paused = true;
	r->busy = false;
	if (r->freed) {
		destroy_when_idle(r);
		return;
	}
	if (r->result < 0) {
		end(r, &r->error);
		return;
	}
	if (r->result > 0)
		r->again = true;
	/* A reader that is to finish may have been asked after this piece was begun. */
	else if (!r->follow && !r->last)
		r->again = true;
	else if (!r->follow && !r->paused) {
		end(r, NULL);
		return;
	}
	go_on(r);
}

static void go_on(struct log_reader *r)
{
	if (r->busy || r->paused || r->ended || r->freed)
		return;
	if (!r->again) {
		/* Resumed after the very last piece. */
		if (!r->follow && r->last)
			end(r, NULL);
		return;
	}
	r->again = false;
	r->busy = true;
	r->last = !r->follow;
	task_start(r->tasks, read_piece, piece_done, r);
}

/* ---- following ---- */

/* The directory appears with the workload's first run; until then its parent tells. */
static int watch_directory(struct log_reader *r)
{
	const uint32_t changes = IN_MODIFY | IN_CREATE | IN_MOVED_TO;

	if (inotify_add_watch(r->inotify_fd, r->dir, changes | IN_ONLYDIR) >= 0) {
		r->watching_dir = true;
		return 0;
	}
	if (errno != ENOENT)
		return -errno;
	if (inotify_add_watch(r->inotify_fd, r->parent, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR) < 0)
		return -errno;
	/* It may have been made between the two. */
	if (inotify_add_watch(r->inotify_fd, r->dir, changes | IN_ONLYDIR) >= 0)
		r->watching_dir = true;
	return 0;
}

static void on_changed(uv_poll_t *handle, int status, int events)
{
	struct log_reader *r = handle->data;
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));

	/* Which file it was does not matter: the cursor looks for itself. A queue that overflowed is no loss either. */
	while (read(r->inotify_fd, buffer, sizeof buffer) > 0)
		;
	if (!r->watching_dir)
		(void)watch_directory(r);
	r->again = true;
	go_on(r);
}

static int start_watching(struct log_reader *r, uv_loop_t *loop)
{
	int e;

	r->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (r->inotify_fd < 0)
		return -errno;
	e = watch_directory(r);
	if (e == 0)
		e = uv_poll_init(loop, &r->poll, r->inotify_fd);
	if (e < 0) {
		close(steal_fd(&r->inotify_fd));
		return e;
	}
	r->poll.data = r;
	r->poll_open = true;
	return uv_poll_start(&r->poll, UV_READABLE, on_changed);
}

/* "/a/b/c" to "/a/b"; "c" to ".". */
static char *directory_of(const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;

	if (!slash)
		return strdup(".");
	return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

/* ---- the owner's side ---- */

struct log_reader *log_reader_new(uv_loop_t *loop, struct task_runner *tasks, const struct log_reader_options *options,
				  const struct log_reader_callbacks *callbacks, struct error *err)
{
	struct log_reader *r = calloc(1, sizeof *r);
	int e;

	if (!r) {
		error_errno(err, ENOMEM, "cannot read the log %s", options->path);
		return NULL;
	}
	r->tasks = tasks;
	r->callbacks = *callbacks;
	r->follow = options->follow;
	r->inotify_fd = -1;
	r->dir = directory_of(options->path);
	r->parent = directory_of(r->dir);
	if (log_cursor_init(&r->cursor, options, err) < 0 || !r->dir || !r->parent) {
		log_reader_free(r);
		return NULL;
	}
	/* Before the first read, so that nothing falls between the two. */
	e = r->follow ? start_watching(r, loop) : 0;
	if (e < 0) {
		error_errno(err, -e, "cannot follow the log %s", options->path);
		log_reader_free(r);
		return NULL;
	}
	r->again = true;
	go_on(r);
	return r;
}

void log_reader_resume(struct log_reader *r)
{
	r->paused = false;
	go_on(r);
}

void log_reader_finish(struct log_reader *r)
{
	r->follow = false;
	r->again = true;
	go_on(r);
}

void log_reader_free(struct log_reader *r)
{
	if (!r)
		return;
	r->freed = true;
	stop_watching(r);
	destroy_when_idle(r);
}

char *log_path_of_workload(const char *root, const char *name, bool serial)
{
	return fs_path("%s/workloads/%s/%s.log", root, name, serial ? "serial" : "payload");
}
