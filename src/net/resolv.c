/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "net/resolv.h"

#include "base/buf.h"
#include "net/subnet.h"

#include <string.h>

#define RESOLV_MAX (64u << 10)
#define BLANKS " \t\r"

/* Splits off the next line; NULL at the end. */
static const char *next_line(const char **text, size_t *ret_len)
{
	const char *line = *text;

	if (!*line)
		return NULL;
	*ret_len = strcspn(line, "\n");
	*text = line + *ret_len + (line[*ret_len] == '\n');
	return line;
}

/* The value behind a keyword at the beginning of the line; NULL if the line is another one. */
static const char *value_of(const char *line, size_t len, const char *keyword, size_t *ret_len)
{
	size_t n = strlen(keyword), skip;

	if (len <= n || strncmp(line, keyword, n) != 0 || !strchr(BLANKS, line[n]))
		return NULL;
	skip = n + strspn(line + n, BLANKS);
	if (skip >= len)
		return NULL;
	*ret_len = len - skip;
	return line + skip;
}

static bool is_loopback(const char *address, size_t len)
{
	return (len >= 4 && strncmp(address, "127.", 4) == 0) || (len >= 3 && strncmp(address, "::1", 3) == 0);
}

/* The options but ndots, each after a blank. */
static void add_options(struct buf *out, const char *value, size_t len)
{
	while (len) {
		size_t skip = strspn(value, BLANKS), word;

		if (skip >= len)
			return;
		value += skip;
		len -= skip;
		word = strcspn(value, BLANKS "\n");
		if (word > len)
			word = len;
		if (strncmp(value, "ndots:", 6) != 0)
			buf_addf(out, " %.*s", (int)word, value);
		value += word;
		len -= word;
	}
}

char *resolv_for_bridge(const char *host_text, uint32_t resolver)
{
	_cleanup_buf_ struct buf out = BUF_INIT(RESOLV_MAX), options = BUF_INIT(RESOLV_MAX);
	char address[SUBNET_TEXT_MAX];
	const char *line, *value;
	size_t len, n;

	buf_addf(&out, "nameserver %s\n", subnet_text(resolver, address));
	while ((line = next_line(&host_text, &len))) {
		if ((value = value_of(line, len, "options", &n)))
			add_options(&options, value, n);
		else if (value_of(line, len, "search", &n) || value_of(line, len, "domain", &n))
			buf_addf(&out, "%.*s\n", (int)len, line);
	}
	buf_addf(&out, "options ndots:0%s\n", buf_str(&options));
	return buf_steal(&out);
}

char *resolv_without_loopback(const char *host_text)
{
	_cleanup_buf_ struct buf out = BUF_INIT(RESOLV_MAX);
	const char *line, *value;
	size_t len, n;

	while ((line = next_line(&host_text, &len))) {
		value = value_of(line, len, "nameserver", &n);
		if (!value || !is_loopback(value, n))
			buf_addf(&out, "%.*s\n", (int)len, line);
	}
	return out.len ? buf_steal(&out) : strdup("");
}

bool resolv_reaches_out(const char *text)
{
	const char *line, *value;
	size_t len, n;

	while ((line = next_line(&text, &len)))
		if ((value = value_of(line, len, "nameserver", &n)) && !is_loopback(value, n))
			return true;
	return false;
}
