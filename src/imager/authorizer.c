/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/authorizer.h"

#include "base/fs.h"
#include "imager/challenge.h"
#include "imager/credentials.h"

#include <string.h>
#include <strings.h>

#define URL_MAX (16u << 10)

void authorizer_init(struct authorizer *a, const struct registries *registries,
		     const struct registry_endpoint *endpoint, const char *repository, const atomic_bool *stop)
{
	*a = (struct authorizer){
		.registries = registries, .endpoint = endpoint, .repository = repository, .stop = stop,
	};
	pthread_mutex_init(&a->lock, NULL);
}

void authorizer_release(struct authorizer *a)
{
	free(a->header);
	pthread_mutex_destroy(&a->lock);
}

static int out_of_memory(struct error *err)
{
	return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
}

int authorizer_header(struct authorizer *a, char **ret, unsigned *ret_generation, struct error *err)
{
	char *copy = NULL;
	bool failed;

	pthread_mutex_lock(&a->lock);
	if (a->header)
		copy = strdup(a->header);
	failed = a->header && !copy;
	*ret_generation = a->generation;
	pthread_mutex_unlock(&a->lock);
	if (failed)
		return out_of_memory(err);
	*ret = copy;
	return 0;
}

static bool has_credentials(const struct credentials *c)
{
	return c->user || c->identity_token || c->registry_token;
}

static int denied(const struct authorizer *a, const struct credentials *c, struct error *err)
{
	const char *file = a->registries->credentials_file;

	if (has_credentials(c))
		return error_set(err, ERR_UNAUTHENTICATED, "it refuses the credentials for %s in %s", a->endpoint->host,
				 file);
	if (file)
		return error_set(err, ERR_UNAUTHENTICATED, "it needs credentials: add them for %s to %s",
				 a->endpoint->host, file);
	return error_set(err, ERR_UNAUTHENTICATED,
			 "it needs credentials: name a credentials file in the configuration and add them for %s to it",
			 a->endpoint->host);
}

/* ---- the token server ---- */

struct token_answer {
	struct buf text;
};

static int token_begin(void *arg, const struct http_response *response, struct error *err)
{
	return 0;
}

static int token_write(void *arg, const void *data, size_t len, struct error *err)
{
	struct token_answer *answer = arg;

	if (buf_add(&answer->text, data, len) < 0)
		return error_set(err, ERR_DATA_LOSS, "its answer is larger than %u KiB", TOKEN_ANSWER_MAX >> 10);
	return 0;
}

/* Credentials and tokens must not travel in the clear where the registry itself is spoken to over TLS. */
static int check_realm(const struct authorizer *a, const char *realm, struct error *err)
{
	if (strncasecmp(realm, "https://", 8) == 0)
		return 0;
	if (strncasecmp(realm, "http://", 7) == 0 && strncmp(a->endpoint->url, "http://", 7) == 0)
		return 0;
	return error_set(err, ERR_DATA_LOSS, "it names a token server that is not reached over https");
}

/* A mirror may know the repository by another name than ours, but no token is to allow more than a pull. */
static bool is_pull_scope(const char *scope)
{
	size_t len = strlen(scope);

	return strncmp(scope, "repository:", 11) == 0 && len > 16 && strcmp(scope + len - 5, ":pull") == 0 &&
	       !strpbrk(scope, " ,");
}

static void add_scope(const struct authorizer *a, const struct challenge *c, struct buf *to)
{
	if (c->service) {
		buf_adds(to, "&service=");
		http_escape(to, c->service);
	}
	buf_adds(to, "&scope=");
	if (c->scope && is_pull_scope(c->scope)) {
		http_escape(to, c->scope);
	} else {
		http_escape(to, "repository:");
		http_escape(to, a->repository);
		http_escape(to, ":pull");
	}
}

/* The GET form of the protocol, or, with a refresh token, the POST form (oauth.md). */
static int build_token_request(const struct authorizer *a, const struct challenge *c, const struct credentials *who,
			       struct buf *url, struct buf *form)
{
	buf_adds(url, c->realm);
	if (who->identity_token) {
		buf_adds(form, "grant_type=refresh_token&client_id=capsule&refresh_token=");
		http_escape(form, who->identity_token);
		add_scope(a, c, form);
	} else {
		buf_addf(url, "%cclient_id=capsule", strchr(c->realm, '?') ? '&' : '?');
		add_scope(a, c, url);
	}
	return url->failed || form->failed ? -1 : 0;
}

static enum http_result judge_token(const struct authorizer *a, const struct credentials *who,
				    const struct http_response *response, const struct buf *text, char **ret,
				    struct error *err)
{
	if (response->status == 401 || response->status == 403) {
		denied(a, who, err);
		return HTTP_REFUSED;
	}
	if (response->status == 429 || response->status >= 500) {
		error_set(err, ERR_UNAVAILABLE, "the token server answers with status %ld", response->status);
		return HTTP_TROUBLE;
	}
	if (response->status != 200) {
		error_set(err, ERR_UNAVAILABLE, "the token server answers with status %ld", response->status);
		return HTTP_REFUSED;
	}
	return token_parse(buf_str(text), text->len, ret, err) < 0 ? HTTP_REFUSED : HTTP_DONE;
}

static enum http_result fetch_token(const struct authorizer *a, struct http *http, const struct challenge *c,
				    const struct credentials *who, char **ret, struct error *err)
{
	_cleanup_buf_ struct buf url = BUF_INIT(URL_MAX), form = BUF_INIT(2 * URL_MAX + TOKEN_MAX);
	_cleanup_http_response_ struct http_response response = { 0 };
	struct token_answer answer = { BUF_INIT(TOKEN_ANSWER_MAX) };
	_cleanup_free_ char *basic = NULL;
	enum http_result result;

	if (check_realm(a, c->realm, err) < 0)
		return HTTP_REFUSED;
	if (who->user && !who->identity_token)
		basic = credentials_basic(who);
	if (build_token_request(a, c, who, &url, &form) < 0 || (who->user && !who->identity_token && !basic)) {
		error_set(err, ERR_DATA_LOSS, "the address of its token server is too long");
		return HTTP_REFUSED;
	}
	struct http_request request = {
		.url = buf_str(&url), .accept = "application/json", .authorization = basic,
		.form = form.len ? buf_str(&form) : NULL, .ca_file = a->endpoint->ca_file,
		.stall_s = a->registries->stall_timeout_s, .stop = a->stop,
		.sink = { token_begin, token_write, &answer },
	};

	result = http_perform(http, &request, &response, err);
	if (result == HTTP_DONE)
		result = judge_token(a, who, &response, &answer.text, ret, err);
	else
		error_wrap(err, "the token server");
	buf_release(&answer.text);
	return result;
}

/* ---- the header ---- */

static enum http_result bearer_header(const struct authorizer *a, struct http *http, const struct challenge *c,
				      const struct credentials *who, char **ret, struct error *err)
{
	_cleanup_free_ char *token = NULL;

	if (!who->registry_token) {
		enum http_result result = fetch_token(a, http, c, who, &token, err);

		if (result != HTTP_DONE)
			return result;
	}
	*ret = fs_path("Bearer %s", who->registry_token ? who->registry_token : token);
	if (*ret)
		return HTTP_DONE;
	out_of_memory(err);
	return HTTP_REFUSED;
}

static enum http_result make_header(const struct authorizer *a, struct http *http, const char *challenge_text,
				    char **ret, struct error *err)
{
	_cleanup_challenge_ struct challenge c = { 0 };
	_cleanup_credentials_ struct credentials who = { 0 };

	if (!challenge_text) {
		error_set(err, ERR_DATA_LOSS,
			  "it asks for credentials but does not say how (no WWW-Authenticate header)");
		return HTTP_REFUSED;
	}
	if (challenge_parse(challenge_text, &c, err) < 0 ||
	    credentials_load(a->registries->credentials_file, a->endpoint->host, &who, err) < 0)
		return HTTP_REFUSED;
	if (c.scheme == CHALLENGE_BEARER)
		return bearer_header(a, http, &c, &who, ret, err);
	if (c.scheme == CHALLENGE_NONE) {
		error_set(err, ERR_UNIMPLEMENTED, "it knows neither bearer tokens nor basic credentials");
		return HTTP_REFUSED;
	}
	if (!who.user) {
		denied(a, &who, err);
		return HTTP_REFUSED;
	}
	*ret = credentials_basic(&who);
	if (*ret)
		return HTTP_DONE;
	out_of_memory(err);
	return HTTP_REFUSED;
}

int authorizer_denied(const struct authorizer *a, struct error *err)
{
	_cleanup_credentials_ struct credentials who = { 0 };

	if (credentials_load(a->registries->credentials_file, a->endpoint->host, &who, err) < 0)
		return -1;
	return denied(a, &who, err);
}

enum http_result authorizer_renew(struct authorizer *a, struct http *http, unsigned generation,
				  const struct http_response *challenge, struct error *err)
{
	enum http_result result = HTTP_DONE;
	char *header = NULL;

	pthread_mutex_lock(&a->lock);
	/* Another thread may have renewed it since. */
	if (a->generation == generation) {
		result = make_header(a, http, challenge->www_authenticate, &header, err);
		/* Credentials that were refused once are not sent again: many a server locks out who does. */
		if (result == HTTP_DONE && a->header && strcmp(header, a->header) == 0) {
			authorizer_denied(a, err);
			result = HTTP_REFUSED;
			free(header);
		} else if (result == HTTP_DONE) {
			free(a->header);
			a->header = header;
			a->generation++;
		}
	}
	pthread_mutex_unlock(&a->lock);
	return result;
}
