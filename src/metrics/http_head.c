/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "metrics/http_head.h"

#include <stdbool.h>
#include <string.h>

#define TOKEN "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

/* A line without its end. */
struct line {
	const char *text;
	size_t len;
};

/* The next line; false while its end is missing. A bare LF ends one too (RFC 9112, 2.2). */
static bool next_line(const char *data, size_t len, size_t *at, struct line *ret)
{
	const char *begin = data + *at, *end = memchr(begin, '\n', len - *at);

	if (!end)
		return false;
	*at += (size_t)(end - begin) + 1;
	*ret = (struct line){ begin, (size_t)(end - begin) };
	if (ret->len && ret->text[ret->len - 1] == '\r')
		ret->len--;
	return true;
}

/* How many characters at the beginning are of this set, or (not) of none. */
static size_t span(const char *text, size_t len, const char *set)
{
	size_t n = 0;

	while (n < len && text[n] && strchr(set, text[n]))
		n++;
	return n;
}

static size_t span_visible(const char *text, size_t len)
{
	size_t n = 0;

	while (n < len && text[n] > ' ' && text[n] < 0x7f)
		n++;
	return n;
}

static bool is_word(const char *text, size_t len, const char *word)
{
	return strlen(word) == len && memcmp(text, word, len) == 0;
}

static void copy_path(const char *target, size_t len, char out[HTTP_PATH_MAX])
{
	const char *query = memchr(target, '?', len);
	size_t n = query ? (size_t)(query - target) : len;

	if (n >= HTTP_PATH_MAX || target[0] != '/')
		n = 0;
	memcpy(out, target, n);
	out[n] = '\0';
}

/* "GET /metrics HTTP/1.1" */
static bool parse_request_line(const struct line *line, struct http_head *ret)
{
	size_t method = span(line->text, line->len, TOKEN), target;
	const char *rest = line->text + method;
	size_t left = line->len - method;

	if (method == 0 || left < 2 || *rest != ' ')
		return false;
	rest++;
	left--;
	target = span_visible(rest, left);
	if (target == 0 || left - target != strlen(" HTTP/1.1") || memcmp(rest + target, " HTTP/1.", 8) != 0 ||
	    rest[left - 1] < '0' || rest[left - 1] > '9')
		return false;
	ret->method = is_word(line->text, method, "GET") ? HTTP_GET : is_word(line->text, method, "HEAD") ? HTTP_HEAD :
												     HTTP_OTHER;
	copy_path(rest, target, ret->path);
	return true;
}

/* "name: value". What the fields say does not matter here. */
static bool is_field(const struct line *line)
{
	size_t name = span(line->text, line->len, TOKEN);

	return name > 0 && name < line->len && line->text[name] == ':' && !memchr(line->text, '\0', line->len);
}

ssize_t http_head_parse(const char *data, size_t len, struct http_head *ret)
{
	struct http_head head;
	struct line line;
	size_t at = 0;

	if (!next_line(data, len, &at, &line))
		return 0;
	if (!parse_request_line(&line, &head))
		return -1;
	for (;;) {
		if (!next_line(data, len, &at, &line))
			return 0;
		if (line.len == 0)
			break;
		if (!is_field(&line))
			return -1;
	}
	*ret = head;
	return (ssize_t)at;
}
