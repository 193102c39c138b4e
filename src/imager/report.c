/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/content.h"

#include "base/fs.h"

#include <jansson.h>
#include <pthread.h>
#include <string.h>

/* One write a line, under a lock: lines of two threads never mix. Who reads them may be gone; then nobody needs to be
 * told, and the transfer ends by its own means. Takes the reference. */
static void report_line(json_t *line)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	_cleanup_free_ char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
	size_t len;

	json_decref(line);
	if (!text)
		return;
	len = strlen(text);
	text[len] = '\n'; /* in place of the NUL: the length is known */
	pthread_mutex_lock(&lock);
	fs_write_all(STDOUT_FILENO, text, len + 1);
	pthread_mutex_unlock(&lock);
}

void report_progress(uint64_t done, uint64_t total, const char *status)
{
	report_line(json_pack("{s:{s:I, s:I, s:s}}", "progress", "done", (json_int_t)done, "total", (json_int_t)total,
			      "status", status));
}

void report_image(const char *reference, const char *digest)
{
	report_line(json_pack("{s:{s:s, s:s}}", "image", "reference", reference, "digest", digest));
}

void report_error(const struct error *err)
{
	json_t *message = json_string(error_message(err));

	/* Names from an archive may end up in a message and need not be UTF-8. */
	if (!message)
		message = json_string("the transfer failed; the reason holds characters that cannot be shown");
	report_line(json_pack("{s:{s:s, s:o}}", "error", "code", error_code_name(err->code), "message", message));
}
