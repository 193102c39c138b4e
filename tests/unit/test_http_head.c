/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "metrics/http_head.h"

#include "runner.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *text;
	int method;
	const char *path;
} good[] = {
	{ "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", HTTP_GET, "/metrics" },
	{ "HEAD / HTTP/1.0\r\n\r\n", HTTP_HEAD, "/" },
	{ "GET /metrics?x=/y HTTP/1.1\nA:\n\n", HTTP_GET, "/metrics" },
	{ "POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\n", HTTP_OTHER, "/metrics" },
	{ "get /x HTTP/1.1\r\n\r\n", HTTP_OTHER, "/x" },
	{ "GET http://a/metrics HTTP/1.1\r\n\r\n", HTTP_GET, "" },
};

START_TEST(whole)
{
	size_t len = strlen(good[_i].text);
	struct http_head head;

	ck_assert_int_eq(http_head_parse(good[_i].text, len, &head), (ssize_t)len);
	ck_assert_int_eq(head.method, good[_i].method);
	ck_assert_str_eq(head.path, good[_i].path);
	/* What comes behind it is no part of it, and before its end there is none. */
	for (size_t n = 0; n < len; n++)
		ck_assert_int_eq(http_head_parse(good[_i].text, n, &head), 0);
}
END_TEST

static const char *const bad[] = {
	"\r\n\r\n", "GET\r\n\r\n", "GET /\r\n\r\n", "GET  / HTTP/1.1\r\n\r\n", "GET / HTTP/2\r\n\r\n",
	"GET / HTTP/1.x\r\n\r\n", " GET / HTTP/1.1\r\n\r\n", "GET /a b HTTP/1.1\r\n\r\n", "GET /\x01 HTTP/1.1\r\n\r\n",
	"GET / HTTP/1.1\r\nno colon\r\n\r\n", "GET / HTTP/1.1\r\n: no name\r\n\r\n", "GET / HTTP/1.1\r\n folded: x\r\n\r\n",
	"\x16\x03\x01\x02\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
};

START_TEST(malformed)
{
	struct http_head head;

	ck_assert_int_eq(http_head_parse(bad[_i], strlen(bad[_i]), &head), -1);
}
END_TEST

START_TEST(long_path)
{
	char text[1024];
	struct http_head head;
	int len = snprintf(text, sizeof text, "GET /%0*d HTTP/1.1\r\n\r\n", HTTP_PATH_MAX, 0);

	ck_assert_int_eq(http_head_parse(text, (size_t)len, &head), len);
	ck_assert_str_eq(head.path, "");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("http_head");
	TCase *tc = tcase_create("http_head");

	tcase_add_loop_test(tc, whole, 0, sizeof good / sizeof *good);
	tcase_add_loop_test(tc, malformed, 0, sizeof bad / sizeof *bad);
	tcase_add_test(tc, long_path);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
