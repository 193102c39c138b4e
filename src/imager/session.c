/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/session.h"

#include "base/fs.h"
#include "base/timeutil.h"
#include "imager/answer.h"
#include "imager/authorizer.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#define BACKOFF_FIRST_MS 500
#define BACKOFF_MAX_MS 8000
#define RETRY_AFTER_MAX_S 60
#define RENEWALS_MAX 2 /* of the credentials, for one try */
#define ETAG_MAX 256
#define SERVER_TEXT_MAX 200

struct endpoint {
	const struct registry_endpoint *where;
	struct authorizer authorizer;
	atomic_bool down; /* gave nothing in all its tries: asked again only if there is no other */
};

struct session {
	const struct registries *registries;
	const struct reference *reference;
	struct registry_endpoints places;
	struct endpoint endpoints[REGISTRIES_ENDPOINTS_MAX];
	atomic_bool stop;
	pthread_mutex_t lock; /* guards the wait for `stop` */
	pthread_cond_t stopped;
	void (*notice)(const char *text, void *arg);
	void *notice_arg;
};

int session_new(const struct registries *registries, const struct reference *reference, struct session **ret,
		struct error *err)
{
	struct session *s = calloc(1, sizeof *s);
	pthread_condattr_t attr;

	if (!s)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	if (registries_endpoints(registries, reference->registry, &s->places, err) < 0) {
		free(s);
		return -1;
	}
	s->registries = registries;
	s->reference = reference;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->stopped, &attr);
	pthread_condattr_destroy(&attr);
	for (size_t i = 0; i < s->places.n; i++) {
		s->endpoints[i].where = &s->places.list[i];
		authorizer_init(&s->endpoints[i].authorizer, registries, s->endpoints[i].where, reference->repository,
				&s->stop);
	}
	*ret = s;
	return 0;
}

void session_free(struct session *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->places.n; i++)
		authorizer_release(&s->endpoints[i].authorizer);
	registry_endpoints_release(&s->places);
	pthread_cond_destroy(&s->stopped);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void session_stop(struct session *s)
{
	pthread_mutex_lock(&s->lock);
	atomic_store(&s->stop, true);
	pthread_cond_broadcast(&s->stopped);
	pthread_mutex_unlock(&s->lock);
}

void session_set_notice(struct session *s, void (*notice)(const char *text, void *arg), void *arg)
{
	s->notice = notice;
	s->notice_arg = arg;
}

/* Returns after ms, or earlier when the session was stopped: then -1. */
static int wait_ms(struct session *s, int64_t ms, struct error *err)
{
	int64_t until = time_monotonic_ns() + ms * NSEC_PER_MSEC;
	struct timespec ts = { .tv_sec = (time_t)(until / NSEC_PER_SEC), .tv_nsec = (long)(until % NSEC_PER_SEC) };
	int r = 0;

	pthread_mutex_lock(&s->lock);
	while (!atomic_load(&s->stop) && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&s->stopped, &s->lock, &ts);
	pthread_mutex_unlock(&s->lock);
	return atomic_load(&s->stop) ? error_set(err, ERR_CANCELLED, "cancelled") : 0;
}

/* ---- one try ---- */

/* What is known of a fetch at one endpoint. */
struct attempt {
	struct session *session;
	struct endpoint *endpoint;
	const struct fetch *fetch;
	uint64_t offset;        /* where this try begins */
	uint64_t skip;          /* bytes that the server sends again */
	bool no_range;          /* the server does not do it: ask for the whole and skip */
	char etag[ETAG_MAX];    /* of what was taken so far; "": not known */
	bool own_failure;       /* the sink failed for a reason of ours */
	bool bad_content;       /* the sink says that the content is wrong */
	int64_t retry_after_ms; /* asked for by the server; 0: not */
};

enum outcome {
	OUTCOME_DONE,
	OUTCOME_AGAIN,   /* try once more at this endpoint */
	OUTCOME_NEXT,    /* not at this endpoint */
	OUTCOME_FAILED,  /* nowhere */
};

/* The first byte's position that "bytes 5-9/10" tells. */
static int content_range_start(const char *text, uint64_t *ret)
{
	char *end;

	if (!text || strncmp(text, "bytes ", 6) != 0 || text[6] < '0' || text[6] > '9')
		return -1;
	errno = 0;
	*ret = strtoull(text + 6, &end, 10);
	return errno == 0 && *end == '-' ? 0 : -1;
}

/* Sorts a failure of the sink. The user has not given the invalid argument: the registry has. */
static int sink_failed(struct attempt *a, struct error *err)
{
	a->bad_content = err->code == ERR_DATA_LOSS || err->code == ERR_INVALID_ARGUMENT;
	a->own_failure = !a->bad_content;
	if (a->bad_content)
		err->code = ERR_DATA_LOSS;
	return -1;
}

static int on_begin(void *arg, const struct http_response *response, struct error *err)
{
	struct attempt *a = arg;
	uint64_t start = 0;

	if (response->status == 206 &&
	    (content_range_start(response->content_range, &start) < 0 || start > a->offset)) {
		a->bad_content = true;
		return error_set(err, ERR_DATA_LOSS, "it sends another range than it was asked for");
	}
	a->skip = a->offset - start;
	/* Only a strong ETag promises the same bytes. */
	a->etag[0] = '\0';
	if (response->etag && response->etag[0] == '"' && strlen(response->etag) < sizeof a->etag)
		memcpy(a->etag, response->etag, strlen(response->etag) + 1);
	if (a->fetch->begin && a->fetch->begin(a->fetch->arg, response, err) < 0)
		return sink_failed(a, err);
	return 0;
}

static int on_write(void *arg, const void *data, size_t len, struct error *err)
{
	struct attempt *a = arg;
	size_t skip = a->skip < len ? (size_t)a->skip : len;

	a->skip -= skip;
	if (len == skip)
		return 0;
	if (a->fetch->write(a->fetch->arg, (const char *)data + skip, len - skip, err) < 0)
		return sink_failed(a, err);
	return 0;
}

static int64_t retry_after_ms(const struct http_response *response)
{
	char *end;
	long long s;

	/* The other form, a date, would have us trust the server's clock. */
	if (!response->retry_after)
		return 0;
	s = strtoll(response->retry_after, &end, 10);
	if (end == response->retry_after || *end != '\0' || s < 0)
		return 0;
	return s > INT64_MAX / 1000 ? INT64_MAX : s * 1000;
}

static const char *server_text(const struct http_response *response, char out[SERVER_TEXT_MAX])
{
	char said[SERVER_TEXT_MAX - 16];

	answer_error_text(buf_str(&response->error_body), response->error_body.len, said, sizeof said);
	out[0] = '\0';
	if (said[0])
		snprintf(out, SERVER_TEXT_MAX, " (\"%s\")", said);
	return out;
}

static enum outcome judge_refusal(struct attempt *a, const struct http_response *response, struct error *err)
{
	char said[SERVER_TEXT_MAX];
	long status = response->status;

	server_text(response, said);
	if (status == 404) {
		error_set(err, ERR_NOT_FOUND, "it has no such %s%s", a->fetch->what, said);
		return OUTCOME_NEXT;
	}
	if (status == 403) {
		error_set(err, ERR_PERMISSION_DENIED, "it does not allow the pull%s", said);
		return OUTCOME_NEXT;
	}
	if (status == 416 && a->offset > 0 && !a->no_range) {
		a->no_range = true;
		error_set(err, ERR_UNAVAILABLE, "it does not go on with a broken download");
		return OUTCOME_AGAIN;
	}
	error_set(err, ERR_UNAVAILABLE, "it answers with status %ld%s", status, said);
	if (status != 408 && status != 429 && status < 500)
		return OUTCOME_NEXT;
	a->retry_after_ms = retry_after_ms(response);
	if (a->retry_after_ms <= RETRY_AFTER_MAX_S * 1000)
		return OUTCOME_AGAIN;
	error_set(err, ERR_UNAVAILABLE, "it answers with status %ld%s and wants to be left alone for %lld s", status,
		  said, (long long)(a->retry_after_ms / 1000));
	return OUTCOME_NEXT;
}

/* The body has come to its end. */
static enum outcome finish(struct attempt *a, const struct http_response *response, struct error *err)
{
	int r;

	if (a->skip > 0) {
		error_set(err, ERR_UNAVAILABLE, "its answer ended early");
		return OUTCOME_AGAIN;
	}
	r = a->fetch->end(a->fetch->arg, response, err);
	if (r == 0)
		return OUTCOME_DONE;
	if (r > 0) {
		error_set(err, ERR_UNAVAILABLE, "its answer ended early");
		return OUTCOME_AGAIN;
	}
	sink_failed(a, err);
	return a->own_failure ? OUTCOME_FAILED : OUTCOME_NEXT;
}

static bool is_own_failure(const struct error *err)
{
	return err->code == ERR_CANCELLED || err->code == ERR_RESOURCE_EXHAUSTED;
}

static enum outcome judge(struct attempt *a, enum http_result result, const struct http_response *response,
			  struct error *err)
{
	if (result == HTTP_TROUBLE)
		return OUTCOME_AGAIN;
	if (result == HTTP_REFUSED)
		return a->own_failure || is_own_failure(err) ? OUTCOME_FAILED : OUTCOME_NEXT;
	if (response->status == 200 || response->status == 206)
		return finish(a, response, err);
	return judge_refusal(a, response, err);
}

/* One request with the present credentials. Sets *ret_generation to what it was sent with. */
static enum http_result ask(struct attempt *a, struct http *http, const char *url, unsigned *ret_generation,
			    struct http_response *response, struct error *err)
{
	_cleanup_free_ char *authorization = NULL;

	if (authorizer_header(&a->endpoint->authorizer, &authorization, ret_generation, err) < 0) {
		a->own_failure = true;
		return HTTP_REFUSED;
	}
	a->offset = a->fetch->offset(a->fetch->arg);
	a->skip = 0;
	struct http_request request = {
		.url = url, .accept = a->fetch->accept, .authorization = authorization,
		.ca_file = a->endpoint->where->ca_file, .offset = a->no_range ? 0 : a->offset,
		.if_range = a->etag[0] ? a->etag : NULL, .stall_s = a->session->registries->stall_timeout_s,
		.stop = &a->session->stop, .sink = { on_begin, on_write, a },
	};
	return http_perform(http, &request, response, err);
}

/* One try: a request, and another one after each renewal of the credentials. */
static enum outcome try_once(struct attempt *a, struct http *http, const char *url, struct error *err)
{
	for (int renewals = 0;; renewals++) {
		_cleanup_http_response_ struct http_response response = { 0 };
		enum http_result result;
		unsigned generation;

		result = ask(a, http, url, &generation, &response, err);
		if (result != HTTP_DONE || response.status != 401)
			return judge(a, result, &response, err);
		if (renewals == RENEWALS_MAX) {
			authorizer_denied(&a->endpoint->authorizer, err);
			return OUTCOME_NEXT;
		}
		result = authorizer_renew(&a->endpoint->authorizer, http, generation, &response, err);
		if (result != HTTP_DONE)
			return judge(a, result, &response, err);
	}
}

/* ---- one endpoint, all endpoints ---- */

static int back_off(struct attempt *a, int tries, const struct error *why, struct error *err)
{
	int64_t ms = BACKOFF_FIRST_MS;
	_cleanup_free_ char *text = NULL;

	for (int i = 1; i < tries && ms < BACKOFF_MAX_MS; i++)
		ms *= 2;
	if (ms > BACKOFF_MAX_MS)
		ms = BACKOFF_MAX_MS;
	if (ms < a->retry_after_ms)
		ms = a->retry_after_ms;
	a->retry_after_ms = 0;
	if (a->session->notice) {
		text = fs_path("%s: %s; next try in %.1f s", a->endpoint->where->host, error_message(why),
			       (double)ms / 1000);
		if (text)
			a->session->notice(text, a->session->notice_arg);
	}
	return wait_ms(a->session, ms, err);
}

/* Tries until it works, it cannot work here, or SESSION_TRIES in a row gave nothing. */
static enum outcome fetch_from(struct attempt *a, struct http *http, struct error *err)
{
	int max = a->endpoint->where->is_mirror ? SESSION_MIRROR_TRIES : SESSION_TRIES;
	const struct fetch *f = a->fetch;
	_cleanup_free_ char *url =
		fs_path("%s/v2/%s/%s", a->endpoint->where->url, a->session->reference->repository, f->path);
	uint64_t reached = f->offset(f->arg);

	if (!url) {
		error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
		return OUTCOME_FAILED;
	}
	for (int tries = 1;; tries++) {
		_cleanup_error_ struct error local = ERROR_INIT;
		enum outcome outcome = try_once(a, http, url, &local);

		if (outcome == OUTCOME_DONE)
			return outcome;
		if (f->resume && f->offset(f->arg) > reached) {
			reached = f->offset(f->arg);
			tries = 1;
		}
		if (outcome != OUTCOME_AGAIN || tries >= max) {
			atomic_store(&a->endpoint->down, outcome == OUTCOME_AGAIN);
			error_move(err, &local);
			return outcome == OUTCOME_AGAIN ? OUTCOME_NEXT : outcome;
		}
		if (back_off(a, tries, &local, err) < 0)
			return OUTCOME_FAILED;
		if (!f->resume && f->restart(f->arg, err) < 0)
			return OUTCOME_FAILED;
	}
}

/* Whether an error at one endpoint tells more than one at another: what the registry itself says counts, unless it only
 * could not be reached. */
static bool tells_more(const struct error *a, const struct error *b)
{
	return b->code == ERR_OK || a->code != ERR_UNAVAILABLE || b->code == ERR_UNAVAILABLE;
}

/* Which endpoints to pass over: those that are down, unless all are. One look for the whole fetch, for other threads may
 * find more of them down meanwhile. */
static void choose_endpoints(const struct session *s, bool skip[REGISTRIES_ENDPOINTS_MAX])
{
	size_t down = 0;

	for (size_t i = 0; i < s->places.n; i++) {
		skip[i] = atomic_load(&s->endpoints[i].down);
		down += skip[i];
	}
	for (size_t i = 0; i < s->places.n && down == s->places.n; i++)
		skip[i] = false;
}

int session_fetch(struct session *s, struct http *http, const struct fetch *fetch, struct error *err)
{
	_cleanup_error_ struct error best = ERROR_INIT;
	bool skip[REGISTRIES_ENDPOINTS_MAX], dirty = false;

	choose_endpoints(s, skip);
	for (size_t i = 0; i < s->places.n; i++) {
		struct attempt a = { .session = s, .endpoint = &s->endpoints[i], .fetch = fetch };
		_cleanup_error_ struct error local = ERROR_INIT;
		enum outcome outcome;

		if (skip[i])
			continue;
		if (dirty && fetch->restart(fetch->arg, err) < 0)
			return -1;
		outcome = fetch_from(&a, http, &local);
		if (outcome == OUTCOME_DONE)
			return 0;
		if (outcome == OUTCOME_FAILED)
			return error_move(err, &local);
		error_wrap(&local, "%s %s", a.endpoint->where->is_mirror ? "mirror" : "registry",
			   a.endpoint->where->host);
		if (tells_more(&local, &best))
			error_move(&best, &local);
		/* What was taken is kept only if it can be gone on with elsewhere. */
		dirty = a.bad_content || !fetch->resume;
	}
	return error_move(err, &best);
}
