/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

#include "image/reference.h"

#include "base/buf.h"

#include <stdbool.h>
#include <string.h>

/* The registry that a name without one means, and an older spelling of it. */
#define DEFAULT_REGISTRY "docker.io"
#define LEGACY_REGISTRY "index.docker.io"
#define DEFAULT_NAMESPACE "library/"
#define DEFAULT_TAG "latest"

#define NAME_MAX_LEN 255
#define TAG_MAX_LEN 128
#define SHA256_PREFIX "sha256:"
#define SHA256_HEX 64

/* A piece of the text; nothing is copied until all of it is known to be right. */
struct span {
	const char *p;
	size_t len;
};

/* The rules are about ASCII; <ctype.h> asks the locale. */
static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_lower(char c)
{
	return c >= 'a' && c <= 'z';
}

static bool is_upper(char c)
{
	return c >= 'A' && c <= 'Z';
}

static bool is_alnum(char c)
{
	return is_digit(c) || is_lower(c) || is_upper(c);
}

static bool is_hex(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'f');
}

static bool span_is(struct span s, const char *text)
{
	return s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

static bool span_all(struct span s, bool (*is)(char))
{
	for (size_t i = 0; i < s.len; i++)
		if (!is(s.p[i]))
			return false;
	return s.len > 0;
}

static bool span_has_upper(struct span s)
{
	for (size_t i = 0; i < s.len; i++)
		if (is_upper(s.p[i]))
			return true;
	return false;
}

/* Cuts s at the first c: what stands before it is returned, s becomes what follows. Without c all of s is returned and
 * s becomes empty with a NULL pointer. */
static struct span span_cut(struct span *s, char c)
{
	const char *at = memchr(s->p, c, s->len);
	struct span head = *s;

	if (!at) {
		*s = (struct span){ NULL, 0 };
		return head;
	}
	head.len = (size_t)(at - s->p);
	s->p = at + 1;
	s->len -= head.len + 1;
	return head;
}

/* A label of a host name: letters and digits, with '-' inside. */
static bool label_valid(struct span s)
{
	if (s.len == 0 || !is_alnum(s.p[0]) || !is_alnum(s.p[s.len - 1]))
		return false;
	for (size_t i = 0; i < s.len; i++)
		if (!is_alnum(s.p[i]) && s.p[i] != '-')
			return false;
	return true;
}

static bool is_ipv6_char(char c)
{
	return is_hex(c) || (c >= 'A' && c <= 'F') || c == ':';
}

/* "[" IPv6 "]"; s becomes what follows. */
static bool cut_ipv6(struct span *s)
{
	struct span rest = { s->p + 1, s->len - 1 };
	struct span inside = span_cut(&rest, ']');

	if (!rest.p || !span_all(inside, is_ipv6_char))
		return false;
	*s = rest;
	return true;
}

/* host[:port]; the host is dot-separated labels or an IPv6 address in brackets. */
static bool registry_valid(struct span s)
{
	struct span host, port;

	if (s.len > 0 && s.p[0] == '[') {
		if (!cut_ipv6(&s))
			return false;
		if (s.len == 0)
			return true;
		port = (struct span){ s.p + 1, s.len - 1 };
		return s.p[0] == ':' && span_all(port, is_digit);
	}
	host = span_cut(&s, ':');
	port = s;
	if (port.p && !span_all(port, is_digit))
		return false;
	for (struct span rest = host; rest.p;)
		if (!label_valid(span_cut(&rest, '.')))
			return false;
	return true;
}

/* The length of the separator at the start of s: one '.', one or two '_', any number of '-'. 0: there is none. */
static size_t separator_len(struct span s)
{
	size_t n = 0;

	if (s.len == 0)
		return 0;
	if (s.p[0] == '.')
		return 1;
	if (s.p[0] == '_')
		return s.len > 1 && s.p[1] == '_' ? 2 : 1;
	while (n < s.len && s.p[n] == '-')
		n++;
	return n;
}

/* Runs of lower-case letters and digits, joined by separators. */
static bool component_valid(struct span s)
{
	for (;;) {
		size_t run = 0, sep;

		while (run < s.len && (is_lower(s.p[run]) || is_digit(s.p[run])))
			run++;
		if (run == 0)
			return false;
		s.p += run;
		s.len -= run;
		if (s.len == 0)
			return true;
		sep = separator_len(s);
		if (sep == 0)
			return false;
		s.p += sep;
		s.len -= sep;
	}
}

static int check_repository(struct span s, const char *text, struct error *err)
{
	if (s.len == 0)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "invalid image reference \"%s\": the repository name is empty", text);
	if (span_has_upper(s))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "invalid image reference \"%s\": the repository name must be lower case", text);
	for (struct span rest = s; rest.p;) {
		struct span component = span_cut(&rest, '/');

		if (!component_valid(component))
			return error_set(
				err, ERR_INVALID_ARGUMENT,
				"invalid image reference \"%s\": \"%.*s\" is not a name of lower-case letters and "
				"digits joined by '.', '_', '__' or '-'",
				text, (int)component.len, component.p);
	}
	return 0;
}

static int check_tag(struct span s, const char *text, struct error *err)
{
	bool valid = s.len > 0 && (is_alnum(s.p[0]) || s.p[0] == '_');

	if (s.len > TAG_MAX_LEN)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "invalid image reference \"%s\": the tag is longer than %d characters", text,
				 TAG_MAX_LEN);
	for (size_t i = 0; valid && i < s.len; i++)
		valid = is_alnum(s.p[i]) || s.p[i] == '_' || s.p[i] == '.' || s.p[i] == '-';
	if (!valid)
		return error_set(
			err, ERR_INVALID_ARGUMENT,
			"invalid image reference \"%s\": the tag \"%.*s\" is not letters, digits, '_', '.' and '-'",
			text, (int)s.len, s.p);
	return 0;
}

static int check_digest(struct span s, const char *text, struct error *err)
{
	size_t prefix = strlen(SHA256_PREFIX);
	struct span hex;

	if (s.len < prefix || memcmp(s.p, SHA256_PREFIX, prefix) != 0)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "invalid image reference \"%s\": the digest must begin with \"" SHA256_PREFIX "\"",
				 text);
	hex = (struct span){ s.p + prefix, s.len - prefix };
	if (hex.len != SHA256_HEX || !span_all(hex, is_hex))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "invalid image reference \"%s\": the digest needs %d lower-case hex digits after "
				 "\"" SHA256_PREFIX "\"",
				 text, SHA256_HEX);
	return 0;
}

/* Whether the first component of a name is a registry and not the start of the repository. */
static bool is_registry(struct span first)
{
	return memchr(first.p, '.', first.len) || memchr(first.p, ':', first.len) || span_is(first, "localhost") ||
	       span_has_upper(first);
}

/* The pieces of the text. registry.p is NULL when none is named, tag.p and digest.p when there is none. */
struct pieces {
	struct span registry, repository, tag, digest;
	bool is_default;  /* the registry is Docker's... */
	bool is_official; /* ...and the repository belongs into its namespace "library" */
};

static void split(struct span text, struct pieces *ret)
{
	const char *slash, *colon;
	struct span rest, first;

	ret->digest = text;
	text = span_cut(&ret->digest, '@');

	/* A colon before the last slash belongs to a port. */
	slash = memrchr(text.p, '/', text.len);
	colon = memrchr(text.p, ':', text.len);
	ret->tag = (struct span){ NULL, 0 };
	if (colon && (!slash || colon > slash)) {
		ret->tag = (struct span){ colon + 1, (size_t)(text.p + text.len - (colon + 1)) };
		text.len = (size_t)(colon - text.p);
	}

	rest = text;
	first = span_cut(&rest, '/');
	if (rest.p && is_registry(first)) {
		ret->registry = first;
		ret->repository = rest;
	} else {
		ret->registry = (struct span){ NULL, 0 };
		ret->repository = text;
	}
	ret->is_default = !ret->registry.p || span_is(ret->registry, DEFAULT_REGISTRY) ||
			  span_is(ret->registry, LEGACY_REGISTRY);
	ret->is_official = ret->is_default && !memchr(ret->repository.p, '/', ret->repository.len);
}

/* Of what reference_format() will give. */
static size_t full_len(const struct pieces *p)
{
	size_t len = (p->is_default ? strlen(DEFAULT_REGISTRY) : p->registry.len) + 1;

	len += (p->is_official ? strlen(DEFAULT_NAMESPACE) : 0) + p->repository.len;
	if (p->tag.p)
		len += 1 + p->tag.len;
	else if (!p->digest.p)
		len += 1 + strlen(DEFAULT_TAG);
	return p->digest.p ? len + 1 + p->digest.len : len;
}

static int check(const struct pieces *pieces, const char *text, struct error *err)
{
	if (pieces->registry.p && !registry_valid(pieces->registry))
		return error_set(
			err, ERR_INVALID_ARGUMENT,
			"invalid image reference \"%s\": \"%.*s\" is not a registry's host name with an optional port",
			text, (int)pieces->registry.len, pieces->registry.p);
	if (check_repository(pieces->repository, text, err) < 0)
		return -1;
	if (pieces->repository.len + (pieces->is_official ? strlen(DEFAULT_NAMESPACE) : 0) > NAME_MAX_LEN)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "invalid image reference \"%s\": the repository name is longer than %d characters",
				 text, NAME_MAX_LEN);
	/* As Docker: such a name could not be told from the ID of an image. */
	if (!pieces->registry.p && pieces->repository.len == SHA256_HEX && span_all(pieces->repository, is_hex))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "invalid image reference \"%s\": %d hex digits alone are an ID, not a name", text,
				 SHA256_HEX);
	if (pieces->tag.p && check_tag(pieces->tag, text, err) < 0)
		return -1;
	if (pieces->digest.p && check_digest(pieces->digest, text, err) < 0)
		return -1;
	if (full_len(pieces) > REFERENCE_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "invalid image reference \"%s\": its full form is longer than %d characters", text,
				 REFERENCE_MAX);
	return 0;
}

static char *span_dup(struct span s)
{
	return strndup(s.p, s.len);
}

static char *repository_dup(struct span s, bool official)
{
	struct buf b = BUF_INIT(REFERENCE_MAX);

	if (official)
		buf_adds(&b, DEFAULT_NAMESPACE);
	buf_add(&b, s.p, s.len);
	return buf_steal(&b);
}

static int fill(const struct pieces *pieces, struct reference *ret, struct error *err)
{
	_cleanup_reference_ struct reference r = { 0 };

	r.registry = pieces->is_default ? strdup(DEFAULT_REGISTRY) : span_dup(pieces->registry);
	r.repository = repository_dup(pieces->repository, pieces->is_official);
	if (pieces->tag.p)
		r.tag = span_dup(pieces->tag);
	else if (!pieces->digest.p)
		r.tag = strdup(DEFAULT_TAG);
	if (pieces->digest.p)
		r.digest = span_dup(pieces->digest);
	if (!r.registry || !r.repository || (!r.tag && !r.digest) || (pieces->digest.p && !r.digest))
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	*ret = r;
	r = (struct reference){ 0 };
	return 0;
}

/* Whether the text can be quoted in a message. */
static bool is_printable(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return false;
	return true;
}

int reference_parse(const char *text, struct reference *ret, struct error *err)
{
	size_t len = strnlen(text, REFERENCE_MAX + 1);
	struct pieces pieces;

	if (len == 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "the image reference is empty");
	if (len > REFERENCE_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the image reference is longer than %d characters",
				 REFERENCE_MAX);
	if (!is_printable(text, len))
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "the image reference holds a space or a character that is not printable ASCII");
	split((struct span){ text, len }, &pieces);
	if (check(&pieces, text, err) < 0)
		return -1;
	return fill(&pieces, ret, err);
}

void reference_release(struct reference *r)
{
	free(r->registry);
	free(r->repository);
	free(r->tag);
	free(r->digest);
	*r = (struct reference){ 0 };
}

char *reference_format(const struct reference *r)
{
	struct buf b = BUF_INIT(REFERENCE_MAX);

	buf_addf(&b, "%s/%s", r->registry, r->repository);
	if (r->tag)
		buf_addf(&b, ":%s", r->tag);
	if (r->digest)
		buf_addf(&b, "@%s", r->digest);
	return buf_steal(&b);
}

int reference_normalize(const char *text, char **ret, struct error *err)
{
	_cleanup_reference_ struct reference r = { 0 };
	char *full;

	if (reference_parse(text, &r, err) < 0)
		return -1;
	full = reference_format(&r);
	if (!full)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	*ret = full;
	return 0;
}
