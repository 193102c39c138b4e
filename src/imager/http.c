/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <string.h>
#include <strings.h>

#define CONNECT_TIMEOUT_S 20L
#define TRICKLE_BYTES_PER_S 16L
#define RECEIVE_BUFFER (256L << 10)
#define USER_AGENT "capsule/" CAPSULE_VERSION
#define HOST_MAX 256

struct http {
	CURL *curl;
	char reason[CURL_ERROR_SIZE];
};

/* One exchange under way: what the callbacks work on. */
struct exchange {
	CURL *curl;
	const struct http_request *request;
	struct http_response *response;
	struct error *err;
	size_t header_bytes;
	bool begun;
	bool failed;  /* a callback has filled err and ended the exchange */
	bool cut;     /* the body of an error answer was longer than is kept */
};

int http_global_init(struct error *err)
{
	CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);

	if (code != CURLE_OK)
		return error_set(err, ERR_INTERNAL, "cannot start the HTTP client: %s", curl_easy_strerror(code));
	return 0;
}

struct http *http_new(void)
{
	struct http *http = calloc(1, sizeof *http);

	if (!http)
		return NULL;
	http->curl = curl_easy_init();
	if (!http->curl) {
		free(http);
		return NULL;
	}
	return http;
}

void http_free(struct http *http)
{
	if (!http)
		return;
	curl_easy_cleanup(http->curl);
	free(http);
}

void http_response_release(struct http_response *r)
{
	free(r->content_type);
	free(r->content_range);
	free(r->etag);
	free(r->docker_content_digest);
	free(r->retry_after);
	free(r->www_authenticate);
	buf_release(&r->error_body);
	*r = (struct http_response){ 0 };
}

static int replace(char **to, const char *value, size_t len)
{
	char *copy = strndup(value, len);

	if (!copy)
		return -1;
	free(*to);
	*to = copy;
	return 0;
}

static int append_challenge(char **to, const char *value, size_t len)
{
	char *joined;

	if (!*to)
		return replace(to, value, len);
	if (asprintf(&joined, "%s, %.*s", *to, (int)len, value) < 0)
		return -1;
	free(*to);
	*to = joined;
	return 0;
}

static int take_header(struct http_response *r, const char *line, size_t len)
{
	const struct {
		const char *name;
		char **to;
	} single[] = {
		{ "content-type", &r->content_type },
		{ "content-range", &r->content_range },
		{ "etag", &r->etag },
		{ "docker-content-digest", &r->docker_content_digest },
		{ "retry-after", &r->retry_after },
	};
	const char *colon = memchr(line, ':', len), *value;
	size_t name_len;

	if (!colon)
		return 0;
	name_len = (size_t)(colon - line);
	value = colon + 1;
	len -= name_len + 1;
	while (len > 0 && (*value == ' ' || *value == '\t')) {
		value++;
		len--;
	}
	while (len > 0 && (value[len - 1] == '\r' || value[len - 1] == '\n' || value[len - 1] == ' '))
		len--;
	for (size_t i = 0; i < sizeof single / sizeof single[0]; i++)
		if (name_len == strlen(single[i].name) && strncasecmp(line, single[i].name, name_len) == 0)
			return replace(single[i].to, value, len);
	if (name_len == strlen("www-authenticate") && strncasecmp(line, "www-authenticate", name_len) == 0)
		return append_challenge(&r->www_authenticate, value, len);
	return 0;
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
	struct exchange *x = arg;
	size_t len = size * n;

	x->header_bytes += len;
	if (x->header_bytes > HTTP_HEADERS_MAX) {
		error_set(x->err, ERR_DATA_LOSS, "it sends more than %u KiB of headers", HTTP_HEADERS_MAX >> 10);
		x->failed = true;
		return 0;
	}
	/* Each answer of a chain of redirects begins with a status line: only the last one counts. */
	if (len >= 5 && memcmp(line, "HTTP/", 5) == 0)
		http_response_release(x->response);
	if (take_header(x->response, line, len) < 0) {
		error_set(x->err, ERR_RESOURCE_EXHAUSTED, "out of memory");
		x->failed = true;
		return 0;
	}
	return len;
}

static long status_of(const struct exchange *x)
{
	long status = 0;

	curl_easy_getinfo(x->curl, CURLINFO_RESPONSE_CODE, &status);
	return status;
}

static bool is_success(long status)
{
	return status >= 200 && status < 300;
}

static int begin_body(struct exchange *x)
{
	const struct http_sink *sink = &x->request->sink;

	if (x->begun)
		return 0;
	x->begun = true;
	x->response->status = status_of(x);
	if (is_success(x->response->status))
		return sink->begin(sink->arg, x->response, x->err);
	buf_init(&x->response->error_body, HTTP_ERROR_BODY_MAX);
	return 0;
}

static int keep_error_body(struct exchange *x, const void *data, size_t len)
{
	struct buf *b = &x->response->error_body;
	size_t room = HTTP_ERROR_BODY_MAX - b->len;

	buf_add(b, data, len < room ? len : room);
	x->cut = len > room;
	return x->cut ? -1 : 0;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
	struct exchange *x = arg;
	const struct http_sink *sink = &x->request->sink;
	size_t len = size * n;

	if (begin_body(x) < 0) {
		x->failed = true;
		return 0;
	}
	if (!is_success(x->response->status))
		return keep_error_body(x, data, len) < 0 ? 0 : len;
	if (sink->write(sink->arg, data, len, x->err) < 0) {
		x->failed = true;
		return 0;
	}
	return len;
}

static int on_tick(void *arg, curl_off_t dltotal, curl_off_t dlnow, curl_off_t ultotal, curl_off_t ulnow)
{
	const struct exchange *x = arg;

	return x->request->stop && atomic_load(x->request->stop) ? 1 : 0;
}

bool http_host_is_loopback(const char *host)
{
	char name[HOST_MAX];
	const char *end = host[0] == '[' ? strchr(host, ']') : strchr(host, ':');
	struct in6_addr v6;
	struct in_addr v4;
	size_t len;

	if (host[0] == '[')
		host++;
	len = end ? (size_t)(end - host) : strlen(host);
	if (len >= sizeof name)
		return false;
	memcpy(name, host, len);
	name[len] = '\0';
	if (strcasecmp(name, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, name, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == 127;
	return inet_pton(AF_INET6, name, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

void http_escape(struct buf *b, const char *text)
{
	for (const char *p = text; *p; p++) {
		unsigned char c = (unsigned char)*p;

		if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr("-._~", c))
			buf_addc(b, *p);
		else
			buf_addf(b, "%%%02X", c);
	}
}

static int add_header(struct curl_slist **list, const char *name, const char *value)
{
	_cleanup_free_ char *line = NULL;
	struct curl_slist *longer;

	if (asprintf(&line, "%s: %s", name, value) < 0) {
		line = NULL;
		return -1;
	}
	longer = curl_slist_append(*list, line);
	if (!longer)
		return -1;
	*list = longer;
	return 0;
}

static int add_headers(const struct http_request *q, struct curl_slist **list)
{
	if (q->accept && add_header(list, "Accept", q->accept) < 0)
		return -1;
	if (q->authorization && add_header(list, "Authorization", q->authorization) < 0)
		return -1;
	if (q->offset > 0 && q->if_range && add_header(list, "If-Range", q->if_range) < 0)
		return -1;
	return 0;
}

static void set_options(struct http *http, struct exchange *x, struct curl_slist *headers)
{
	const struct http_request *q = x->request;
	bool secure = strncasecmp(q->url, "https:", 6) == 0;
	const char *host = strstr(q->url, "://");
	char range[32];
	CURL *c = http->curl;

	curl_easy_reset(c);
	curl_easy_setopt(c, CURLOPT_URL, q->url);
	curl_easy_setopt(c, CURLOPT_USERAGENT, USER_AGENT);
	curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(c, CURLOPT_ERRORBUFFER, http->reason);
	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, secure ? "https" : "http,https");
	curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
	curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
	curl_easy_setopt(c, CURLOPT_MAXREDIRS, (long)HTTP_REDIRECTS_MAX);
	curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_S < q->stall_s ? CONNECT_TIMEOUT_S : q->stall_s);
	curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, TRICKLE_BYTES_PER_S);
	curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, q->stall_s);
	curl_easy_setopt(c, CURLOPT_BUFFERSIZE, RECEIVE_BUFFER);
	curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(c, CURLOPT_HEADERDATA, x);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
	curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_tick);
	curl_easy_setopt(c, CURLOPT_XFERINFODATA, x);
	if (q->form)
		curl_easy_setopt(c, CURLOPT_POSTFIELDS, q->form);
	if (q->ca_file)
		curl_easy_setopt(c, CURLOPT_CAINFO, q->ca_file);
	/* A proxy of the environment cannot mean this machine's own loopback. */
	if (host && http_host_is_loopback(host + 3))
		curl_easy_setopt(c, CURLOPT_PROXY, "");
	if (q->offset > 0) {
		snprintf(range, sizeof range, "%llu-", (unsigned long long)q->offset);
		curl_easy_setopt(c, CURLOPT_RANGE, range);
	}
}

static enum http_result not_http(struct exchange *x, const char *reason)
{
	error_set(x->err, ERR_DATA_LOSS, "its answer is not HTTP: %s", reason);
	return HTTP_REFUSED;
}

static enum http_result judge(const struct http *http, struct exchange *x, CURLcode code)
{
	const char *reason = http->reason[0] ? http->reason : curl_easy_strerror(code);
	long redirects = 0;

	if (x->failed)
		return HTTP_REFUSED;
	if (code == CURLE_OK || x->cut)
		return HTTP_DONE;
	switch (code) {
	case CURLE_ABORTED_BY_CALLBACK:
		error_set(x->err, ERR_CANCELLED, "cancelled");
		return HTTP_REFUSED;
	case CURLE_OUT_OF_MEMORY:
		error_set(x->err, ERR_RESOURCE_EXHAUSTED, "out of memory");
		return HTTP_REFUSED;
	case CURLE_TOO_MANY_REDIRECTS:
		error_set(x->err, ERR_DATA_LOSS, "it redirects more than %d times", HTTP_REDIRECTS_MAX);
		return HTTP_REFUSED;
	case CURLE_UNSUPPORTED_PROTOCOL:
		curl_easy_getinfo(x->curl, CURLINFO_REDIRECT_COUNT, &redirects);
		if (redirects == 0) /* "HTTP/0.9" */
			return not_http(x, reason);
		error_set(x->err, ERR_DATA_LOSS, "it redirects to a protocol that is not allowed: %s", reason);
		return HTTP_REFUSED;
	case CURLE_URL_MALFORMAT:
		error_set(x->err, ERR_INVALID_ARGUMENT, "its address is not valid: %s", reason);
		return HTTP_REFUSED;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_ISSUER_ERROR:
		error_set(x->err, ERR_UNAVAILABLE, "its certificate cannot be trusted: %s", reason);
		return HTTP_REFUSED;
	case CURLE_WEIRD_SERVER_REPLY:
		return not_http(x, reason);
	default:
		error_set(x->err, ERR_UNAVAILABLE, "%s", reason);
		return HTTP_TROUBLE;
	}
}

enum http_result http_perform(struct http *http, const struct http_request *request, struct http_response *ret,
			      struct error *err)
{
	struct exchange x = { .curl = http->curl, .request = request, .response = ret, .err = err };
	struct curl_slist *headers = NULL;
	CURLcode code;

	if (add_headers(request, &headers) < 0) {
		curl_slist_free_all(headers);
		error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
		return HTTP_REFUSED;
	}
	http->reason[0] = '\0';
	set_options(http, &x, headers);
	code = curl_easy_perform(http->curl);
	if (code == CURLE_OK && begin_body(&x) < 0)
		x.failed = true;
	curl_slist_free_all(headers);
	return judge(http, &x, code);
}
