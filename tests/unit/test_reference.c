/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

#include "image/reference.h"

#include "runner.h"

#include <check.h>
#include <string.h>

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define DIGEST "sha256:" HEX64
#define A10 "aaaaaaaaaa"
#define A50 A10 A10 A10 A10 A10
#define A128 A50 A50 A10 A10 "aaaaaaaa"
#define A255 A128 A50 A50 A10 A10 "aaaaaaa"

static const struct {
	const char *text, *registry, *repository, *tag, *digest;
} good[] = {
	{ "nginx", "docker.io", "library/nginx", "latest", NULL },
	{ "nginx:1.27", "docker.io", "library/nginx", "1.27", NULL },
	{ "nginx:1.27-alpine_3.x", "docker.io", "library/nginx", "1.27-alpine_3.x", NULL },
	{ "nginx:_x", "docker.io", "library/nginx", "_x", NULL },
	{ "nginx:Latest", "docker.io", "library/nginx", "Latest", NULL },
	{ "nginx@" DIGEST, "docker.io", "library/nginx", NULL, DIGEST },
	{ "nginx:1.27@" DIGEST, "docker.io", "library/nginx", "1.27", DIGEST },
	{ "library/nginx", "docker.io", "library/nginx", "latest", NULL },
	{ "grafana/grafana", "docker.io", "grafana/grafana", "latest", NULL },
	{ "docker.io/nginx", "docker.io", "library/nginx", "latest", NULL },
	{ "docker.io/library/nginx", "docker.io", "library/nginx", "latest", NULL },
	{ "docker.io/grafana/grafana:9", "docker.io", "grafana/grafana", "9", NULL },
	{ "index.docker.io/nginx", "docker.io", "library/nginx", "latest", NULL },
	{ "index.docker.io/grafana/grafana", "docker.io", "grafana/grafana", "latest", NULL },
	{ "docker.io", "docker.io", "library/docker.io", "latest", NULL },
	{ "localhost", "docker.io", "library/localhost", "latest", NULL },
	{ "localhost:5000", "docker.io", "library/localhost", "5000", NULL },
	{ "localhost/nginx", "localhost", "nginx", "latest", NULL },
	{ "localhost:5000/nginx", "localhost:5000", "nginx", "latest", NULL },
	{ "localhost:5000/a/b/c:v1", "localhost:5000", "a/b/c", "v1", NULL },
	{ "127.0.0.1:5000/nginx", "127.0.0.1:5000", "nginx", "latest", NULL },
	{ "registry.example/nginx", "registry.example", "nginx", "latest", NULL },
	{ "registry.example:443/team/app:2@" DIGEST, "registry.example:443", "team/app", "2", DIGEST },
	{ "registry:5000/app", "registry:5000", "app", "latest", NULL },
	{ "registry/app", "docker.io", "registry/app", "latest", NULL },
	{ "Registry/app", "Registry", "app", "latest", NULL },
	{ "REGISTRY.example/app", "REGISTRY.example", "app", "latest", NULL },
	{ "my-registry.example/app", "my-registry.example", "app", "latest", NULL },
	{ "xn--bcher-kva.example/app", "xn--bcher-kva.example", "app", "latest", NULL },
	{ "[::1]:5000/app", "[::1]:5000", "app", "latest", NULL },
	{ "[2001:DB8::1]/app", "[2001:DB8::1]", "app", "latest", NULL },
	{ "a", "docker.io", "library/a", "latest", NULL },
	{ "0", "docker.io", "library/0", "latest", NULL },
	{ "a.b", "docker.io", "library/a.b", "latest", NULL },
	{ "a_b", "docker.io", "library/a_b", "latest", NULL },
	{ "a__b", "docker.io", "library/a__b", "latest", NULL },
	{ "a---b", "docker.io", "library/a---b", "latest", NULL },
	{ "foo.bar/baz_qux__1-2.3", "foo.bar", "baz_qux__1-2.3", "latest", NULL },
	{ "docker.io/" HEX64, "docker.io", "library/" HEX64, "latest", NULL },
	{ HEX64 "0", "docker.io", "library/" HEX64 "0", "latest", NULL },
	{ "user/" HEX64, "docker.io", "user/" HEX64, "latest", NULL },
	{ "x:" A128, "docker.io", "library/x", A128, NULL },
	{ "r.example/" A255, "r.example", A255, "latest", NULL },
	{ A128 A50 A50 A10 "aaaaaaaaa", "docker.io", "library/" A128 A50 A50 A10 "aaaaaaaaa", "latest", NULL },
};

/* Each with the words that its one message must hold. */
static const struct {
	const char *text, *says;
} bad[] = {
	{ "", "is empty" },
	{ " ", "printable" },
	{ "nginx ", "printable" },
	{ "ngi\tnx", "printable" },
	{ "nginx\n", "printable" },
	{ "ngi\x1b[31mnx", "printable" },
	{ "n\xc3\xa4he", "printable" },
	{ "Nginx", "lower case" },
	{ "nginX:1", "lower case" },
	{ "library/Nginx", "lower case" },
	{ "docker.io/library/NGINX", "lower case" },
	{ ":latest", "is empty" },
	{ "@" DIGEST, "is empty" },
	{ ":tag@" DIGEST, "is empty" },
	{ "localhost:5000/", "is empty" },
	{ "registry.example/", "is empty" },
	{ "/nginx", "\"\" is not a name" },
	{ "nginx/", "\"\" is not a name" },
	{ "a//b", "\"\" is not a name" },
	{ "registry.example//b", "\"\" is not a name" },
	{ "-nginx", "\"-nginx\" is not a name" },
	{ "nginx-", "\"nginx-\" is not a name" },
	{ "_nginx", "\"_nginx\" is not a name" },
	{ ".nginx", "\".nginx\" is not a name" },
	{ "a..b", "\"a..b\" is not a name" },
	{ "a___b", "\"a___b\" is not a name" },
	{ "a._b", "\"a._b\" is not a name" },
	{ "a-_b", "\"a-_b\" is not a name" },
	{ "a/../b", "\"..\" is not a name" },
	{ "a/./b", "\".\" is not a name" },
	{ "a/b$c", "\"b$c\" is not a name" },
	{ "a*", "\"a*\" is not a name" },
	{ "a\\b", "is not a name" },
	{ "http://registry.example/app", "registry" },
	{ "https://registry.example/app:1", "registry" },
	{ "..:5000/app", "registry" },
	{ "../app", "registry" },
	{ ".example/app", "registry" },
	{ "example./app", "registry" },
	{ "-a.example/app", "registry" },
	{ "a-.example/app", "registry" },
	{ "a_b.example/app", "registry" },
	{ "user@registry.example/app", "digest" },
	{ "registry.example:/app", "registry" },
	{ "registry.example:port/app", "registry" },
	{ "registry.example:50:60/app", "registry" },
	{ ":5000/app", "registry" },
	{ "[::1/app", "registry" },
	{ "[]:5000/app", "registry" },
	{ "[::1]x/app", "registry" },
	{ "[::1]:/app", "registry" },
	{ "[::g]:1/app", "registry" },
	{ "nginx:", "the tag" },
	{ "nginx:-x", "the tag" },
	{ "nginx:.x", "the tag" },
	{ "nginx:a b", "printable" },
	{ "nginx:a+b", "the tag" },
	{ "nginx:@" DIGEST, "the tag" },
	{ "nginx:" A128 "a", "tag is longer" },
	{ "a:b:c", "\"a:b\" is not a name" },
	{ "r.example/" A255 "a", "repository name is longer" },
	{ "docker.io/" A255, "repository name is longer" },
	{ A128 A50 A50 A10 A10, "repository name is longer" },
	{ A255, "repository name is longer" },
	{ A128 "." A50 A50 A10 A10 "a/" A255, "full form is longer" },
	{ "nginx@", "digest must begin" },
	{ "nginx@sha256", "digest must begin" },
	{ "nginx@sha256:", "64 lower-case hex" },
	{ "nginx@sha256:0123", "64 lower-case hex" },
	{ "nginx@sha256:" HEX64 "0", "64 lower-case hex" },
	{ "nginx@sha256:G123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "64 lower-case hex" },
	{ "nginx@sha256:A123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "64 lower-case hex" },
	{ "nginx@SHA256:" HEX64, "digest must begin" },
	{ "nginx@md5:0123456789abcdef", "digest must begin" },
	{ "nginx@" DIGEST "@" DIGEST, "64 lower-case hex" },
	{ "nginx@latest", "digest must begin" },
	{ HEX64, "an ID, not a name" },
	{ HEX64 ":latest", "an ID, not a name" },
	{ "registry.example/" A255 A128 A128, "longer than 512" },
};

static void expect(const char *what, const char *got, const char *want)
{
	if (!want)
		ck_assert_msg(!got, "%s: %s is too much", what, got);
	else
		ck_assert_str_eq(got, want);
}

START_TEST(good_references)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_reference_ struct reference r = { 0 }, again = { 0 };
	_cleanup_free_ char *full = NULL, *twice = NULL;

	ck_assert_msg(reference_parse(good[_i].text, &r, &err) == 0, "%s: %s", good[_i].text, error_message(&err));
	expect("registry", r.registry, good[_i].registry);
	expect("repository", r.repository, good[_i].repository);
	expect("tag", r.tag, good[_i].tag);
	expect("digest", r.digest, good[_i].digest);

	/* The full form means the same, and normalizing it again changes nothing. */
	full = reference_format(&r);
	ck_assert_msg(reference_parse(full, &again, &err) == 0, "%s: %s", full, error_message(&err));
	expect("registry", again.registry, good[_i].registry);
	expect("repository", again.repository, good[_i].repository);
	expect("tag", again.tag, good[_i].tag);
	expect("digest", again.digest, good[_i].digest);
	ck_assert_int_eq(reference_normalize(full, &twice, NULL), 0);
	ck_assert_str_eq(full, twice);
}
END_TEST

START_TEST(bad_references)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct reference r = { .registry = (char *)"untouched" };

	ck_assert_msg(reference_parse(bad[_i].text, &r, &err) < 0, "\"%s\" was taken", bad[_i].text);
	ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
	ck_assert_msg(strstr(error_message(&err), bad[_i].says), "\"%s\": \"%s\" does not say \"%s\"", bad[_i].text,
		      error_message(&err), bad[_i].says);
	ck_assert_str_eq(r.registry, "untouched");
}
END_TEST

START_TEST(normalize)
{
	_cleanup_free_ char *full = NULL;

	ck_assert_int_eq(reference_normalize("nginx", &full, NULL), 0);
	ck_assert_str_eq(full, "docker.io/library/nginx:latest");
	ck_assert_int_lt(reference_normalize("Nginx", &full, NULL), 0);
}
END_TEST

START_TEST(normalize_digest_only)
{
	_cleanup_free_ char *full = NULL;

	ck_assert_int_eq(reference_normalize("r.example/app@" DIGEST, &full, NULL), 0);
	ck_assert_str_eq(full, "r.example/app@" DIGEST);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("reference");
	TCase *tc = tcase_create("reference");

	tcase_add_loop_test(tc, good_references, 0, sizeof good / sizeof good[0]);
	tcase_add_loop_test(tc, bad_references, 0, sizeof bad / sizeof bad[0]);
	tcase_add_test(tc, normalize);
	tcase_add_test(tc, normalize_digest_only);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
