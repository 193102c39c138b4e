/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/credentials.h"

#include "base/fs.h"

#include <fcntl.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>

#define SECRET_MAX (32u << 10)

static void secret_free(char *s)
{
	if (s)
		OPENSSL_cleanse(s, strlen(s));
	free(s);
}

void credentials_release(struct credentials *c)
{
	secret_free(c->password);
	secret_free(c->identity_token);
	secret_free(c->registry_token);
	free(c->user);
	*c = (struct credentials){ 0 };
}

/* The host that a key of "auths" means; the other spellings of Docker's registry become its name. */
static bool key_means(const char *key, const char *host)
{
	static const char *const docker_hosts[] = { "docker.io", "index.docker.io", "registry-1.docker.io" };
	const char *scheme = strstr(key, "://");
	size_t len;

	if (scheme)
		key = scheme + 3;
	len = strcspn(key, "/");
	if (strlen(host) == len && memcmp(key, host, len) == 0)
		return true;
	if (strcmp(host, docker_hosts[0]) != 0)
		return false;
	for (size_t i = 0; i < sizeof docker_hosts / sizeof docker_hosts[0]; i++)
		if (strlen(docker_hosts[i]) == len && memcmp(key, docker_hosts[i], len) == 0)
			return true;
	return false;
}

static json_t *find_entry(json_t *object, const char *host)
{
	json_t *exact = json_object_get(object, host), *entry;
	const char *key;

	if (exact)
		return exact;
	json_object_foreach(object, key, entry)
		if (key_means(key, host))
			return entry;
	return NULL;
}

/* Standard base64 with padding. Caller frees; NULL when it is not that, or holds a NUL. */
static char *decode_base64(const char *text)
{
	size_t len = strlen(text), padding = 0;
	char *out;
	int n;

	if (len == 0 || len % 4 != 0 || len > SECRET_MAX)
		return NULL;
	while (padding < 2 && text[len - 1 - padding] == '=')
		padding++;
	out = malloc(len / 4 * 3 + 1);
	if (!out)
		return NULL;
	n = EVP_DecodeBlock((unsigned char *)out, (const unsigned char *)text, (int)len);
	if (n < (int)padding || memchr(out, '\0', (size_t)n - padding)) {
		free(out);
		return NULL;
	}
	out[(size_t)n - padding] = '\0';
	return out;
}

/* "user:password" in base64. */
static int take_auth(const char *auth, struct credentials *c, struct error *err)
{
	char *plain = decode_base64(auth);
	char *colon = plain ? strchr(plain, ':') : NULL;

	if (!colon) {
		secret_free(plain);
		return error_set(err, ERR_INVALID_ARGUMENT, "\"auth\" is not the base64 of user:password");
	}
	c->user = strndup(plain, (size_t)(colon - plain));
	c->password = strdup(colon + 1);
	secret_free(plain);
	return c->user && c->password ? 0 : error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
}

/* A member that is absent or empty gives NULL. */
static int take_string(json_t *entry, const char *name, char **ret, struct error *err)
{
	json_t *value = json_object_get(entry, name);
	const char *text = json_string_value(value);

	if (value && !text)
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" must be a string", name);
	if (!text || !text[0])
		return 0;
	if (strlen(text) > SECRET_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is too long", name);
	*ret = strdup(text);
	return *ret ? 0 : error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
}

static int take_entry(json_t *entry, struct credentials *c, struct error *err)
{
	char *auth = NULL;
	int r;

	if (!json_is_object(entry))
		return error_set(err, ERR_INVALID_ARGUMENT, "it must be an object");
	if (take_string(entry, "identitytoken", &c->identity_token, err) < 0 ||
	    take_string(entry, "registrytoken", &c->registry_token, err) < 0 ||
	    take_string(entry, "username", &c->user, err) < 0 ||
	    take_string(entry, "password", &c->password, err) < 0 || take_string(entry, "auth", &auth, err) < 0)
		return -1;
	if (c->user && c->password) {
		secret_free(auth);
		return 0;
	}
	free(c->user);
	secret_free(c->password);
	c->user = c->password = NULL;
	r = auth ? take_auth(auth, c, err) : 0;
	secret_free(auth);
	return r;
}

static bool is_empty(const struct credentials *c)
{
	return !c->user && !c->identity_token && !c->registry_token;
}

static int take_root(json_t *root, const char *host, struct credentials *ret, struct error *err)
{
	_cleanup_credentials_ struct credentials c = { 0 };
	json_t *entry = find_entry(json_object_get(root, "auths"), host);
	const char *helper = json_string_value(find_entry(json_object_get(root, "credHelpers"), host));

	/* With a store Docker leaves an empty entry behind as the sign that it holds the secret. */
	if (!helper && entry)
		helper = json_string_value(json_object_get(root, "credsStore"));
	if (entry && take_entry(entry, &c, err) < 0)
		return error_wrap(err, "the entry for %s", host);
	if (is_empty(&c) && helper)
		return error_set(
			err, ERR_FAILED_PRECONDITION,
			"the credentials for %s are kept by the program docker-credential-%.64s, which is not run: put "
			"them into \"auths\"",
			host, helper);
	*ret = c;
	c = (struct credentials){ 0 };
	return 0;
}

int credentials_parse(const char *text, size_t len, const char *host, struct credentials *ret, struct error *err)
{
	json_error_t where;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);
	int r;

	/* The parser's own words may quote the text, and with it a secret. */
	if (!root)
		return error_set(err, ERR_INVALID_ARGUMENT, "it is not JSON (line %d, column %d)", where.line,
				 where.column);
	r = take_root(root, host, ret, err);
	json_decref(root);
	return r;
}

int credentials_load(const char *path, const char *host, struct credentials *ret, struct error *err)
{
	_cleanup_error_ struct error local = ERROR_INIT;
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r;

	if (!path) {
		*ret = (struct credentials){ 0 };
		return 0;
	}
	if (fs_read(AT_FDCWD, path, CREDENTIALS_FILE_MAX, &text, &len, &local) < 0) {
		if (local.code != ERR_NOT_FOUND)
			return error_move(err, &local);
		*ret = (struct credentials){ 0 };
		return 0;
	}
	r = credentials_parse(text, len, host, ret, err);
	OPENSSL_cleanse(text, len);
	return r < 0 ? error_wrap(err, "credentials file %s", path) : 0;
}

char *credentials_basic(const struct credentials *c)
{
	size_t len = strlen(c->user) + 1 + strlen(c->password), prefix = strlen("Basic ");
	char *plain = fs_path("%s:%s", c->user, c->password);
	char *out = malloc(prefix + 4 * ((len + 2) / 3) + 1);

	if (plain && out) {
		memcpy(out, "Basic ", prefix);
		EVP_EncodeBlock((unsigned char *)out + prefix, (const unsigned char *)plain, (int)len);
	} else {
		free(out);
		out = NULL;
	}
	secret_free(plain);
	return out;
}
