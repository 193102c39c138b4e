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

/* Names from an archive may end up in a message: they must not steer the terminal that shows it. */
static void mask_controls(char *text)
{
	for (unsigned char *p = (unsigned char *)text; *p; p++)
		if (*p < ' ' || *p == 0x7f)
			*p = '?';
		else if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) /* U+0080 to U+009F */
			p[0] = p[1] = '?';
}

static void mask_beyond_ascii(char *text)
{
	for (; *text; text++)
		if (*text & 0x80)
			*text = '?';
}

void report_error(const struct error *err)
{
	_cleanup_free_ char *text = strdup(error_message(err));
	json_t *message;

	if (!text)
		return;
	mask_controls(text);
	message = json_string(text);
	if (!message) { /* it is not UTF-8 */
		mask_beyond_ascii(text);
		message = json_string(text);
	}
	report_line(json_pack("{s:{s:s, s:o}}", "error", "code", error_code_name(err->code), "message", message));
}
