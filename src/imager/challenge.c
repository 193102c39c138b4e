/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/challenge.h"

#include "base/buf.h"

#include <jansson.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

void challenge_release(struct challenge *c)
{
	free(c->realm);
	free(c->service);
	free(c->scope);
	free(c->error);
	*c = (struct challenge){ 0 };
}

static bool is_token_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c != '\0' && strchr("!#$%&'*+-.^_`|~", c));
}

static const char *skip_space(const char *p)
{
	while (*p == ' ' || *p == '\t')
		p++;
	return p;
}

/* Elements of the list may be empty: "a, , b". */
static const char *skip_commas(const char *p)
{
	for (p = skip_space(p); *p == ','; p = skip_space(p + 1))
		;
	return p;
}

/* A token; empty when there is none. Sets *ret_len and returns what follows. */
static const char *scan_token(const char *p, size_t *ret_len)
{
	const char *start = p;

	while (is_token_char(*p))
		p++;
	*ret_len = (size_t)(p - start);
	return p;
}

/* token68 of RFC 9110, 11.2: what "Negotiate" and others carry instead of parameters. It is only skipped. */
static const char *skip_token68(const char *p)
{
	while (is_token_char(*p) || *p == '/')
		p++;
	while (*p == '=')
		p++;
	return p;
}

/* A quoted string or a token as the value of a parameter. NULL: neither. */
static const char *scan_value(const char *p, struct buf *value)
{
	size_t len;

	if (*p != '"') {
		const char *end = scan_token(p, &len);

		buf_add(value, p, len);
		return len ? end : NULL;
	}
	for (p++; *p != '"'; p++) {
		if (*p == '\\')
			p++;
		if (*p == '\0' || (unsigned char)*p < ' ' || *p == 0x7f)
			return NULL;
		buf_addc(value, *p);
	}
	return p + 1;
}

static int keep(struct challenge *c, const char *name, size_t name_len, struct buf *value)
{
	const struct {
		const char *name;
		char **to;
	} known[] = {
		{ "realm", &c->realm }, { "service", &c->service }, { "scope", &c->scope }, { "error", &c->error },
	};

	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
		if (strlen(known[i].name) != name_len || strncasecmp(known[i].name, name, name_len) != 0)
			continue;
		if (*known[i].to) /* said twice: the first counts */
			return 0;
		*known[i].to = buf_steal(value);
		return *known[i].to ? 0 : -1;
	}
	return 0;
}

/* Whether "name =" follows: a parameter, and not the scheme of the next challenge. */
static bool at_parameter(const char *p)
{
	size_t len;

	p = skip_space(scan_token(p, &len));
	return len > 0 && *p == '=';
}

/* The parameters of one challenge. NULL when the grammar is broken. */
static const char *scan_parameters(const char *p, struct challenge *c)
{
	while (at_parameter(p)) {
		_cleanup_buf_ struct buf value = BUF_INIT(CHALLENGE_TEXT_MAX);
		const char *name = p;
		size_t name_len;

		p = skip_space(scan_token(p, &name_len));
		p = scan_value(skip_space(p + 1), &value);
		if (!p || keep(c, name, name_len, &value) < 0)
			return NULL;
		p = skip_space(p);
		if (*p != ',' && *p != '\0')
			return NULL;
		p = skip_commas(p);
	}
	return p;
}

static enum challenge_scheme scheme_of(const char *name, size_t len)
{
	if (len == 6 && strncasecmp(name, "bearer", len) == 0)
		return CHALLENGE_BEARER;
	if (len == 5 && strncasecmp(name, "basic", len) == 0)
		return CHALLENGE_BASIC;
	return CHALLENGE_NONE;
}

/* One challenge. NULL when the grammar is broken. */
static const char *scan_challenge(const char *p, struct challenge *c)
{
	const char *name = p, *rest;
	size_t len;

	p = scan_token(p, &len);
	if (len == 0 || (*p != '\0' && *p != ',' && *p != ' ' && *p != '\t'))
		return NULL;
	c->scheme = scheme_of(name, len);
	p = skip_space(p);
	if (*p == ',' || *p == '\0')
		return skip_commas(p);
	rest = skip_space(skip_token68(p));
	if (c->scheme == CHALLENGE_NONE && (*rest == ',' || *rest == '\0'))
		return skip_commas(rest);
	if (!at_parameter(p))
		return NULL;
	return scan_parameters(p, c);
}

int challenge_parse(const char *header, struct challenge *ret, struct error *err)
{
	_cleanup_challenge_ struct challenge best = { 0 };
	const char *p;

	if (strnlen(header, CHALLENGE_TEXT_MAX + 1) > CHALLENGE_TEXT_MAX)
		return error_set(err, ERR_DATA_LOSS, "its WWW-Authenticate header is longer than %u KiB",
				 CHALLENGE_TEXT_MAX >> 10);
	for (p = skip_commas(header); *p;) {
		_cleanup_challenge_ struct challenge c = { 0 };

		p = scan_challenge(p, &c);
		if (!p)
			return error_set(err, ERR_DATA_LOSS, "its WWW-Authenticate header cannot be understood");
		if (c.scheme <= best.scheme)
			continue;
		challenge_release(&best);
		best = c;
		c = (struct challenge){ 0 };
	}
	if (best.scheme == CHALLENGE_BEARER && (!best.realm || !best.realm[0]))
		return error_set(err, ERR_DATA_LOSS, "its WWW-Authenticate header names no token server (realm)");
	*ret = best;
	best = (struct challenge){ 0 };
	return 0;
}

/* RFC 6750 allows less; what matters is that nothing can end the header line. */
static bool token_valid(const char *token)
{
	size_t len = strlen(token);

	if (len == 0 || len > TOKEN_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if (token[i] <= ' ' || token[i] > '~')
			return false;
	return true;
}

int token_parse(const char *text, size_t len, char **ret, struct error *err)
{
	const char *token;
	json_error_t where;
	json_t *root;
	char *copy;

	root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
	if (!root)
		return error_set(err, ERR_DATA_LOSS, "the token server's answer is not JSON (line %d, column %d)",
				 where.line, where.column);
	token = json_string_value(json_object_get(root, "token"));
	if (!token || !token[0])
		token = json_string_value(json_object_get(root, "access_token"));
	if (!token || !token_valid(token)) {
		json_decref(root);
		return error_set(err, ERR_DATA_LOSS, "the token server's answer holds no valid token");
	}
	copy = strdup(token);
	json_decref(root);
	if (!copy)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	*ret = copy;
	return 0;
}
