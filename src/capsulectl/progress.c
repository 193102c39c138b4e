/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/progress.h"

#include "base/timeutil.h"
#include "capsulectl/output.h"

#include <sys/ioctl.h>

#define INTERVAL_NS (100 * NSEC_PER_MSEC)
#define BAR 24

void progress_init(struct progress *p)
{
	*p = (struct progress){ .terminal = isatty(STDERR_FILENO), .started_ns = time_monotonic_ns() };
}

static bool due(struct progress *p)
{
	int64_t now;

	if (!p->terminal)
		return false;
	now = time_monotonic_ns();
	if (now < p->next_ns)
		return false;
	p->next_ns = now + INTERVAL_NS;
	return true;
}

/* A line that wraps cannot be taken back: cut it to the screen. The texts are ASCII but for names, which are short. */
static void draw(struct progress *p, char *line)
{
	struct winsize size = { 0 };
	size_t width = 80;

	if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
		width = size.ws_col;
	fprintf(stderr, "\r%.*s\033[K", (int)width - 1, text_clean(line));
	fflush(stderr);
	p->drawn = true;
}

void progress_bytes(struct progress *p, const char *what, uint64_t done, uint64_t total)
{
	char bar[BAR + 1], done_text[TEXT_BYTES_MAX], total_text[TEXT_BYTES_MAX], rate_text[TEXT_BYTES_MAX], line[512];
	int64_t ms;
	size_t full;

	if (!due(p))
		return;
	ms = (time_monotonic_ns() - p->started_ns) / NSEC_PER_MSEC;
	text_bytes(ms > 0 ? done * 1000 / (uint64_t)ms : 0, rate_text);
	text_bytes(done, done_text);
	text_bytes(total, total_text);
	if (!total) {
		snprintf(line, sizeof line, "%s  %s/s  %s", done_text, rate_text, what ? what : "");
	} else {
		full = done >= total ? BAR : (size_t)((double)done / (double)total * BAR);
		memset(bar, '#', full);
		memset(bar + full, '.', BAR - full);
		bar[BAR] = '\0';
		snprintf(line, sizeof line, "[%s] %s of %s  %s/s  %s", bar, done_text, total_text, rate_text,
			 what ? what : "");
	}
	draw(p, line);
}

void progress_text(struct progress *p, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	if (!p->terminal)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	draw(p, line);
}

void progress_clear(struct progress *p)
{
	if (!p->drawn)
		return;
	fputs("\r\033[K", stderr);
	fflush(stderr);
	p->drawn = false;
	p->next_ns = 0;
}
