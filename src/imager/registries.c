/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/registries.h"

#include "base/fs.h"
#include "imager/http.h"

#include <fcntl.h>
#include <jansson.h>
#include <string.h>

/* Docker's name for its registry is not the name of the host that serves it: a rule of that ecosystem, not an address
 * of ours. */
#define DOCKER_REGISTRY "docker.io"
#define DOCKER_REGISTRY_HOST "registry-1.docker.io"

#define STALL_MAX_S 600
#define MIRRORS_MAX (REGISTRIES_ENDPOINTS_MAX - 1)

enum tristate { UNSET, NO, YES };

struct registry_rule {
	char *registry;
	char *mirrors[MIRRORS_MAX];
	size_t n_mirrors;
	enum tristate plain_http;
	char *ca_file;
};

static int out_of_memory(struct error *err)
{
	return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
}

void registries_release(struct registries *r)
{
	for (size_t i = 0; i < r->n_rules; i++) {
		for (size_t m = 0; m < r->rules[i].n_mirrors; m++)
			free(r->rules[i].mirrors[m]);
		free(r->rules[i].registry);
		free(r->rules[i].ca_file);
	}
	free(r->rules);
	free(r->credentials_file);
	*r = (struct registries){ 0 };
}

/* An absolute path. */
static int take_path(const char *name, const json_t *value, char **ret, struct error *err)
{
	const char *path = json_string_value(value);

	if (!path || path[0] != '/')
		return error_set(err, ERR_INVALID_ARGUMENT, "%s must be an absolute path", name);
	free(*ret);
	*ret = strdup(path);
	return *ret ? 0 : out_of_memory(err);
}

/* Takes "scheme://host..." apart far enough to tell that libcurl will see the same host. */
static bool mirror_valid(const char *url)
{
	const char *host;

	if (strncmp(url, "https://", 8) == 0)
		host = url + 8;
	else if (strncmp(url, "http://", 7) == 0)
		host = url + 7;
	else
		return false;
	if (host[0] == '\0' || host[0] == '/')
		return false;
	for (const char *p = host; *p; p++)
		if (*p <= ' ' || *p > '~' || strchr("@?#\\\"<>", *p))
			return false;
	return true;
}

static int take_mirrors(struct registry_rule *rule, const json_t *value, struct error *err)
{
	const json_t *item;
	size_t i;

	if (!json_is_array(value) || json_array_size(value) > MIRRORS_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "mirrors of %s must be a list of at most %d URLs",
				 rule->registry, MIRRORS_MAX);
	json_array_foreach(value, i, item) {
		const char *url = json_string_value(item);
		size_t len;

		if (!url || !mirror_valid(url))
			return error_set(err, ERR_INVALID_ARGUMENT,
					 "mirror %zu of %s must be a URL that begins with http:// or https:// and "
					 "holds no user, query or fragment",
					 i + 1, rule->registry);
		for (len = strlen(url); url[len - 1] == '/'; len--)
			;
		rule->mirrors[rule->n_mirrors] = strndup(url, len);
		if (!rule->mirrors[rule->n_mirrors])
			return out_of_memory(err);
		rule->n_mirrors++;
	}
	return 0;
}

static int take_rule(struct registry_rule *rule, const char *registry, json_t *value, struct error *err)
{
	const char *key;
	json_t *member;

	rule->registry = strdup(registry);
	if (!rule->registry)
		return out_of_memory(err);
	if (!json_is_object(value))
		return error_set(err, ERR_INVALID_ARGUMENT, "registry %s must be an object", registry);
	json_object_foreach(value, key, member) {
		int r = 0;

		if (strcmp(key, "mirrors") == 0)
			r = take_mirrors(rule, member, err);
		else if (strcmp(key, "caFile") == 0)
			r = take_path("caFile", member, &rule->ca_file, err);
		else if (strcmp(key, "plainHttp") == 0 && json_is_boolean(member))
			rule->plain_http = json_is_true(member) ? YES : NO;
		else if (strcmp(key, "plainHttp") == 0)
			r = error_set(err, ERR_INVALID_ARGUMENT, "plainHttp of %s must be true or false", registry);
		else
			r = error_set(err, ERR_INVALID_ARGUMENT, "registry %s has an unknown member \"%s\"", registry,
				      key);
		if (r < 0)
			return -1;
	}
	return 0;
}

static int take_rules(struct registries *r, json_t *value, struct error *err)
{
	const char *registry;
	json_t *rule;

	if (!json_is_object(value))
		return error_set(err, ERR_INVALID_ARGUMENT, "registries must be an object");
	r->rules = calloc(json_object_size(value) + 1, sizeof *r->rules);
	if (!r->rules)
		return out_of_memory(err);
	json_object_foreach(value, registry, rule)
		if (take_rule(&r->rules[r->n_rules++], registry, rule, err) < 0)
			return -1;
	return 0;
}

static int take_root(struct registries *r, json_t *root, struct error *err)
{
	const char *key;
	json_t *member;

	if (!json_is_object(root))
		return error_set(err, ERR_INVALID_ARGUMENT, "it must hold one JSON object");
	json_object_foreach(root, key, member) {
		if (strcmp(key, "registries") == 0) {
			if (take_rules(r, member, err) < 0)
				return -1;
		} else if (strcmp(key, "credentialsFile") == 0) {
			if (take_path(key, member, &r->credentials_file, err) < 0)
				return -1;
		} else if (strcmp(key, "stallTimeoutSeconds") == 0) {
			r->stall_timeout_s = (long)json_integer_value(member);
			if (r->stall_timeout_s < 1 || r->stall_timeout_s > STALL_MAX_S)
				return error_set(err, ERR_INVALID_ARGUMENT, "%s must be an integer from 1 to %d", key,
						 STALL_MAX_S);
		} else {
			return error_set(err, ERR_INVALID_ARGUMENT, "unknown member \"%s\"", key);
		}
	}
	return 0;
}

int registries_parse(const char *text, size_t len, struct registries *ret, struct error *err)
{
	_cleanup_registries_ struct registries r = { .stall_timeout_s = REGISTRIES_STALL_DEFAULT_S };
	json_error_t where;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
	int taken;

	if (!root)
		return error_set(err, ERR_INVALID_ARGUMENT, "line %d, column %d: %s", where.line, where.column,
				 where.text);
	taken = take_root(&r, root, err);
	json_decref(root);
	if (taken < 0)
		return -1;
	*ret = r;
	r = (struct registries){ 0 };
	return 0;
}

int registries_load(const char *path, struct registries *ret, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len;

	if (!path) {
		*ret = (struct registries){ .stall_timeout_s = REGISTRIES_STALL_DEFAULT_S };
		return 0;
	}
	if (fs_read(AT_FDCWD, path, REGISTRIES_FILE_MAX, &text, &len, err) < 0)
		return -1;
	if (registries_parse(text, len, ret, err) < 0)
		return error_wrap(err, "invalid registries file %s", path);
	return 0;
}

static const struct registry_rule *find_rule(const struct registries *r, const char *registry)
{
	for (size_t i = 0; i < r->n_rules; i++)
		if (strcmp(r->rules[i].registry, registry) == 0)
			return &r->rules[i];
	return NULL;
}

void registry_endpoints_release(struct registry_endpoints *endpoints)
{
	for (size_t i = 0; i < endpoints->n; i++) {
		free(endpoints->list[i].url);
		free(endpoints->list[i].host);
		free(endpoints->list[i].ca_file);
	}
	*endpoints = (struct registry_endpoints){ 0 };
}

/* Takes url and host over, NULL for want of memory included. */
static int add_endpoint(struct registry_endpoints *to, char *url, char *host, const char *ca_file, bool is_mirror)
{
	struct registry_endpoint *e = &to->list[to->n++];

	e->url = url;
	e->host = host;
	e->is_mirror = is_mirror;
	if (ca_file)
		e->ca_file = strdup(ca_file);
	return url && host && (!ca_file || e->ca_file) ? 0 : -1;
}

static char *host_of_url(const char *url)
{
	const char *host = strstr(url, "://") + 3;

	return strndup(host, strcspn(host, "/"));
}

int registries_endpoints(const struct registries *r, const char *registry, struct registry_endpoints *ret,
			 struct error *err)
{
	_cleanup_registry_endpoints_ struct registry_endpoints all = { 0 };
	const struct registry_rule *rule = find_rule(r, registry);
	const char *host = strcmp(registry, DOCKER_REGISTRY) == 0 ? DOCKER_REGISTRY_HOST : registry;
	const char *ca_file = rule ? rule->ca_file : NULL;
	bool plain = http_host_is_loopback(host);
	char *url;

	for (size_t i = 0; rule && i < rule->n_mirrors; i++)
		if (add_endpoint(&all, strdup(rule->mirrors[i]), host_of_url(rule->mirrors[i]), ca_file, true) < 0)
			return out_of_memory(err);
	if (rule && rule->plain_http != UNSET)
		plain = rule->plain_http == YES;
	url = fs_path("%s://%s", plain ? "http" : "https", host);
	if (add_endpoint(&all, url, strdup(registry), ca_file, false) < 0)
		return out_of_memory(err);
	*ret = all;
	all = (struct registry_endpoints){ 0 };
	return 0;
}
