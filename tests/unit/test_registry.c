/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The parsers of what registries and operators write. The client as a whole is tested against real servers. */
#include "imager/answer.h"
#include "imager/challenge.h"
#include "imager/credentials.h"
#include "imager/http.h"
#include "imager/registries.h"

#include "runner.h"

#include <check.h>
#include <string.h>

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define DIGEST "sha256:" HEX64
#define OTHER "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"

static void says(const struct error *err, enum error_code code, const char *words)
{
	ck_assert_str_eq(error_code_name(err->code), error_code_name(code));
	ck_assert_msg(strstr(error_message(err), words), "\"%s\" does not say \"%s\"", error_message(err), words);
}

static void equal(const char *got, const char *want)
{
	ck_assert_msg((!got && !want) || (got && want && strcmp(got, want) == 0), "%s instead of %s",
		      got ? got : "NULL", want ? want : "NULL");
}

/* ---- WWW-Authenticate ---- */

static const struct {
	const char *header;
	enum challenge_scheme scheme;
	const char *realm, *service, *scope;
} challenges[] = {
	{ "Basic realm=\"r\"", CHALLENGE_BASIC, "r", NULL, NULL },
	{ "basic realm=r", CHALLENGE_BASIC, "r", NULL, NULL },
	{ "Basic", CHALLENGE_BASIC, NULL, NULL, NULL },
	{ "BEARER realm=\"https://a/t\",service=\"s\",scope=\"repository:x:pull\"", CHALLENGE_BEARER, "https://a/t",
	  "s", "repository:x:pull" },
	{ "Bearer realm = \"https://a/t\" , service = s", CHALLENGE_BEARER, "https://a/t", "s", NULL },
	{ "Bearer Realm=\"https://a/t\",SCOPE=\"a,b\"", CHALLENGE_BEARER, "https://a/t", NULL, "a,b" },
	{ "Bearer realm=\"https://a/?x=\\\"1\\\\\"", CHALLENGE_BEARER, "https://a/?x=\"1\\", NULL, NULL },
	{ "Bearer realm=\"https://a\",realm=\"https://b\"", CHALLENGE_BEARER, "https://a", NULL, NULL },
	{ "Basic realm=\"r\", Bearer realm=\"https://a\"", CHALLENGE_BEARER, "https://a", NULL, NULL },
	{ "Bearer realm=\"https://a\", Basic realm=\"r\"", CHALLENGE_BEARER, "https://a", NULL, NULL },
	{ "Negotiate, Basic realm=\"r\"", CHALLENGE_BASIC, "r", NULL, NULL },
	{ "Negotiate abc/+==, Basic realm=\"r\"", CHALLENGE_BASIC, "r", NULL, NULL },
	{ "Digest realm=\"r\", nonce=\"n\"", CHALLENGE_NONE, "r", NULL, NULL },
	{ ",, Basic realm=\"r\",, ", CHALLENGE_BASIC, "r", NULL, NULL },
	{ "Bearer realm=\"https://a\",,service=\"s\"", CHALLENGE_BEARER, "https://a", "s", NULL },
	{ "", CHALLENGE_NONE, NULL, NULL, NULL },
};

START_TEST(good_challenges)
{
	_cleanup_challenge_ struct challenge c = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_msg(challenge_parse(challenges[_i].header, &c, &err) == 0, "%s: %s", challenges[_i].header,
		      error_message(&err));
	ck_assert_int_eq(c.scheme, challenges[_i].scheme);
	if (c.scheme == CHALLENGE_NONE)
		return;
	equal(c.realm, challenges[_i].realm);
	equal(c.service, challenges[_i].service);
	equal(c.scope, challenges[_i].scope);
}
END_TEST

static const char *const bad_challenge[] = {
	"Bearer", "Bearer service=\"s\"", "Bearer realm=\"\"", "Bearer realm=\"https://a", "Bearer realm=\"https://a\\",
	"Bearer realm=", "Bearer realm=\"a\"service=\"b\"", "Bearer \"x\"", "\"Bearer\"", "=", "Bearer realm=\"a\tb\"",
	"Basic realm=\"a\" junk", "Basic/x", "B\xc3\xa4sic realm=\"x\"", "Bearer realm=\"a\n\"",
};

START_TEST(bad_challenges)
{
	_cleanup_challenge_ struct challenge c = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_msg(challenge_parse(bad_challenge[_i], &c, &err) < 0, "%s was taken", bad_challenge[_i]);
	says(&err, ERR_DATA_LOSS, "WWW-Authenticate");
}
END_TEST

START_TEST(long_challenge)
{
	static char header[CHALLENGE_TEXT_MAX + 16];
	_cleanup_challenge_ struct challenge c = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;

	memset(header, ',', sizeof header - 1);
	ck_assert_int_lt(challenge_parse(header, &c, &err), 0);
	says(&err, ERR_DATA_LOSS, "longer than");
}
END_TEST

/* ---- token answers ---- */

static const struct {
	const char *text, *token; /* NULL: refused */
} tokens[] = {
	{ "{\"token\": \"abc\"}", "abc" },
	{ "{\"access_token\": \"abc\"}", "abc" },
	{ "{\"token\": \"\", \"access_token\": \"abc\"}", "abc" },
	{ "{\"token\": \"abc\", \"access_token\": \"def\", \"expires_in\": 60}", "abc" },
	{ "{\"token\": \"a\\r\\nX-Evil: 1\"}", NULL },
	{ "{\"token\": \"a b\"}", NULL },
	{ "{\"token\": 1}", NULL },
	{ "{\"token\": \"\"}", NULL },
	{ "{}", NULL },
	{ "[]", NULL },
	{ "", NULL },
	{ "<html>", NULL },
	{ "{\"token\": \"a\", \"token\": \"b\"}", NULL },
	{ "{\"token\": \"a\\u0000b\"}", NULL },
	{ "{\"token\": \"\xff\"}", NULL },
};

START_TEST(token_answers)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *token = NULL;
	int r = token_parse(tokens[_i].text, strlen(tokens[_i].text), &token, &err);

	equal(token, tokens[_i].token);
	if (tokens[_i].token)
		ck_assert_int_eq(r, 0);
	else
		says(&err, ERR_DATA_LOSS, "the token server's answer");
}
END_TEST

/* ---- manifests and indexes ---- */

#define OCI "application/vnd.oci.image."
#define CONFIG "\"config\": {\"mediaType\": \"" OCI "config.v1+json\", \"digest\": \"" DIGEST "\", \"size\": 7}"
#define LAYER(type) "{\"mediaType\": \"" type "\", \"digest\": \"" DIGEST "\", \"size\": 8}"
#define GZIP OCI "layer.v1.tar+gzip"
#define MANIFEST(layers) "{\"schemaVersion\": 2, " CONFIG ", \"layers\": [" layers "]}"
#define ENTRY(platform) "{\"digest\": \"" DIGEST "\", \"size\": 9, \"platform\": " platform "}"
#define INDEX(entries) "{\"schemaVersion\": 2, \"manifests\": [" entries "]}"

static const struct {
	const char *text, *content_type;
	bool is_index;
	size_t n;
} good_answer[] = {
	{ MANIFEST(""), NULL, false, 0 },
	{ MANIFEST(LAYER(GZIP)), OCI "manifest.v1+json", false, 1 },
	{ MANIFEST(LAYER(GZIP)), "application/vnd.docker.distribution.manifest.v2+json; charset=utf-8", false, 1 },
	{ MANIFEST(LAYER(GZIP)), "text/plain", false, 1 },
	{ MANIFEST(LAYER(OCI "layer.v1.tar") "," LAYER(OCI "layer.v1.tar+zstd")), NULL, false, 2 },
	{ MANIFEST(LAYER("application/vnd.docker.image.rootfs.diff.tar.gzip")), NULL, false, 1 },
	{ MANIFEST(LAYER("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")), NULL, false, 1 },
	{ MANIFEST(LAYER(OCI "layer.nondistributable.v1.tar+gzip")), NULL, false, 1 },
	{ INDEX(""), NULL, true, 0 },
	{ INDEX(ENTRY("{\"os\": \"linux\", \"architecture\": \"amd64\"}")), OCI "index.v1+json", true, 1 },
};

START_TEST(good_answers)
{
	_cleanup_answer_ struct answer a = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;
	const char *text = good_answer[_i].text;

	ck_assert_msg(answer_parse(text, strlen(text), good_answer[_i].content_type, &a, &err) == 0, "%s: %s", text,
		      error_message(&err));
	ck_assert_int_eq(a.is_index, good_answer[_i].is_index);
	ck_assert_uint_eq(a.n_items, good_answer[_i].n);
	if (!a.is_index)
		ck_assert_uint_eq(a.config.size, 7);
}
END_TEST

static const struct {
	const char *text, *content_type;
	enum error_code code;
	const char *says;
} bad_answer[] = {
	{ "", NULL, ERR_DATA_LOSS, "not valid JSON" },
	{ "{", NULL, ERR_DATA_LOSS, "not valid JSON" },
	{ "[]", NULL, ERR_DATA_LOSS, "not a JSON object" },
	{ "{}", NULL, ERR_DATA_LOSS, "no schemaVersion 2" },
	{ "{\"schemaVersion\": \"2\"}", NULL, ERR_DATA_LOSS, "no schemaVersion 2" },
	{ "{\"schemaVersion\": 3}", NULL, ERR_DATA_LOSS, "no schemaVersion 2" },
	{ "{\"schemaVersion\": 2}", NULL, ERR_DATA_LOSS, "names no config and layers" },
	{ "{\"schemaVersion\": 2, " CONFIG "}", NULL, ERR_DATA_LOSS, "names no config and layers" },
	{ "{\"schemaVersion\": 2, " CONFIG ", " CONFIG ", \"layers\": []}", NULL, ERR_DATA_LOSS, "not valid JSON" },
	{ "{\"schemaVersion\": 1, \"fsLayers\": []}", NULL, ERR_FAILED_PRECONDITION, "schema 1" },
	{ "{\"schemaVersion\": 2}", "application/vnd.docker.distribution.manifest.v1+prettyjws",
	  ERR_FAILED_PRECONDITION, "schema 1" },
	{ "{\"schemaVersion\": 2, \"manifests\": [], \"layers\": []}", NULL, ERR_DATA_LOSS,
	  "an index and an image at once" },
	{ INDEX(""), OCI "manifest.v1+json", ERR_DATA_LOSS, "not of the type" },
	{ MANIFEST(""), OCI "index.v1+json", ERR_DATA_LOSS, "not of the type" },
	{ "{\"schemaVersion\": 2, \"manifests\": {}}", NULL, ERR_DATA_LOSS, "no list of manifests" },
	{ INDEX("1"), NULL, ERR_DATA_LOSS, "no valid sha256 digest for index 1" },
	{ INDEX("{\"digest\": \"" DIGEST "\", \"size\": -1}"), NULL, ERR_DATA_LOSS, "no valid size for index 1" },
	{ INDEX("{\"digest\": \"sha512:" HEX64 HEX64 "\", \"size\": 1}"), NULL, ERR_DATA_LOSS,
	  "no valid sha256 digest" },
	{ INDEX(ENTRY("{\"os\": \"" HEX64 "\"}")), NULL, ERR_DATA_LOSS, "too long" },
	{ MANIFEST("{\"mediaType\": \"" GZIP "\", \"digest\": \"sha256:../../etc\", \"size\": 1}"), NULL, ERR_DATA_LOSS,
	  "no valid sha256 digest for layer 1" },
	{ MANIFEST(LAYER(GZIP) ",{\"mediaType\": \"" GZIP "\", \"digest\": \"" DIGEST "\", \"size\": 1.5}"), NULL,
	  ERR_DATA_LOSS, "no valid size for layer 2" },
	{ MANIFEST("{\"mediaType\": \"" GZIP "\", \"digest\": \"" DIGEST "\", \"size\": 99999999999999999999}"), NULL,
	  ERR_DATA_LOSS, "not valid JSON" },
	{ MANIFEST(LAYER("application/vnd.cncf.helm.chart.content.v1.tar+gzip")), NULL, ERR_FAILED_PRECONDITION,
	  "not a container image: a layer" },
	{ MANIFEST(LAYER(OCI "layer.v1.tar+gzip+encrypted")), NULL, ERR_FAILED_PRECONDITION, "not a container image" },
	{ "{\"schemaVersion\": 2, \"config\": {\"mediaType\": \"application/vnd.cncf.helm.config.v1+json\"}, "
	  "\"layers\": []}",
	  NULL, ERR_FAILED_PRECONDITION, "its config is of type \"application/vnd.cncf.helm.config.v1+json\"" },
	{ "{\"schemaVersion\": 2, \"config\": {\"mediaType\": \"" OCI "config.v1+json\", \"digest\": \"" DIGEST
	  "\", \"size\": 4194305}, \"layers\": []}",
	  NULL, ERR_DATA_LOSS, "config is larger than 4 MiB" },
};

START_TEST(bad_answers)
{
	_cleanup_answer_ struct answer a = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;
	const char *text = bad_answer[_i].text;

	ck_assert_msg(answer_parse(text, strlen(text), bad_answer[_i].content_type, &a, &err) < 0, "%s was taken",
		      text);
	says(&err, bad_answer[_i].code, bad_answer[_i].says);
	ck_assert_ptr_null(a.items);
}
END_TEST

/* ---- the choice of a platform ---- */

#define P(os, arch, variant) { os, arch, variant }

static const struct {
	struct platform have[4]; /* until the first without an os */
	struct platform want;
	int chosen; /* -1: none */
	const char *says;
} choices[] = {
	{ { P("linux", "arm64", ""), P("linux", "amd64", "") }, P("linux", "amd64", ""), 1, NULL },
	{ { P("windows", "amd64", ""), P("linux", "amd64", "v1") }, P("linux", "amd64", ""), 1, NULL },
	{ { P("linux", "amd64", "v3"), P("linux", "amd64", "") }, P("linux", "amd64", ""), 1, NULL },
	{ { P("linux", "amd64", "v3") }, P("linux", "amd64", ""), -1, "it has linux/amd64/v3" },
	{ { P("linux", "arm", "v5"), P("linux", "arm", "v7") }, P("linux", "arm", "v7"), 1, NULL },
	{ { P("linux", "arm", "v6") }, P("linux", "arm", "v7"), 0, NULL },
	{ { P("linux", "arm", "v7") }, P("linux", "arm", "v6"), -1, "linux/arm/v7" },
	{ { P("linux", "arm64", "") }, P("linux", "arm64", "v8"), 0, NULL },
	{ { P("linux", "arm64", "v8"), P("unknown", "unknown", "") },
	  P("linux", "amd64", ""),
	  -1,
	  "platform linux/amd64; it has linux/arm64/v8" },
	{ { P("linux", "arm64", ""), P("linux", "s390x", "") },
	  P("linux", "amd64", ""),
	  -1,
	  "it has linux/arm64, linux/s390x" },
	{ { P("unknown", "unknown", "") }, P("linux", "amd64", ""), -1, "nor for any other" },
	{ { { "", "", "" } }, P("linux", "amd64", ""), -1, "nor for any other" },
};

START_TEST(platform_choice)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct descriptor items[4] = { 0 };
	struct answer index = { .is_index = true, .items = items };
	const struct descriptor *chosen = NULL;
	int r;

	for (; index.n_items < 4 && choices[_i].have[index.n_items].os[0]; index.n_items++) {
		items[index.n_items].has_platform = true;
		items[index.n_items].platform = choices[_i].have[index.n_items];
	}
	r = answer_choose(&index, &choices[_i].want, &chosen, &err);
	if (choices[_i].chosen >= 0) {
		ck_assert_msg(r == 0, "%s", error_message(&err));
		ck_assert_ptr_eq(chosen, &items[choices[_i].chosen]);
	} else {
		ck_assert_int_lt(r, 0);
		says(&err, ERR_FAILED_PRECONDITION, choices[_i].says);
	}
}
END_TEST

START_TEST(lone_entry_without_platform)
{
	struct descriptor items[2] = { 0 };
	struct answer index = { .is_index = true, .items = items, .n_items = 1 };
	struct platform want = P("linux", "amd64", "");
	const struct descriptor *chosen = NULL;

	ck_assert_int_eq(answer_choose(&index, &want, &chosen, NULL), 0);
	ck_assert_ptr_eq(chosen, items);
	index.n_items = 2;
	ck_assert_int_lt(answer_choose(&index, &want, &chosen, NULL), 0);
}
END_TEST

START_TEST(many_platforms)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct descriptor items[100] = { 0 };
	struct answer index = { .is_index = true, .items = items, .n_items = 100 };
	struct platform want = P("linux", "amd64", "");
	const struct descriptor *chosen;

	for (size_t i = 0; i < 100; i++)
		items[i] = (struct descriptor){ .has_platform = true, .platform = P("linux", "s390x", "") };
	ck_assert_int_lt(answer_choose(&index, &want, &chosen, &err), 0);
	says(&err, ERR_FAILED_PRECONDITION, " and others");
	ck_assert_uint_lt(strlen(error_message(&err)), 2048);
}
END_TEST

/* ---- configs ---- */

START_TEST(good_config)
{
	static const char text[] =
		"{\"os\": \"linux\", \"architecture\": \"arm64\", \"rootfs\": {\"diff_ids\": [\"" DIGEST "\", \"" OTHER
		"\"]}}";
	_cleanup_config_summary_ struct config_summary c = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;
	struct platform want = P("linux", "amd64", ""), arm = P("linux", "arm64", "v8"), none = P("", "", "");

	ck_assert_int_eq(config_parse(text, strlen(text), &c, &err), 0);
	ck_assert_uint_eq(c.n_diff_ids, 2);
	ck_assert_str_eq(c.diff_ids[1], OTHER);
	ck_assert_int_eq(platform_check(&c.platform, &arm, NULL), 0);
	ck_assert_int_eq(platform_check(&none, &want, NULL), 0);
	ck_assert_int_lt(platform_check(&c.platform, &want, &err), 0);
	says(&err, ERR_FAILED_PRECONDITION, "platform linux/amd64; it has linux/arm64");
}
END_TEST

static const char *const bad_config[] = {
	"", "[]", "{}", "{\"rootfs\": []}", "{\"rootfs\": {\"diff_ids\": {}}}", "{\"rootfs\": {\"diff_ids\": [1]}}",
	"{\"rootfs\": {\"diff_ids\": [\"sha256:xyz\"]}}",
	"{\"os\": \"" HEX64 "\", \"rootfs\": {\"diff_ids\": []}}",
};

START_TEST(bad_configs)
{
	_cleanup_config_summary_ struct config_summary c = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_int_lt(config_parse(bad_config[_i], strlen(bad_config[_i]), &c, &err), 0);
	ck_assert_int_eq(err.code, ERR_DATA_LOSS);
}
END_TEST

START_TEST(error_bodies)
{
	static const struct {
		const char *body, *text;
	} cases[] = {
		{ "{\"errors\": [{\"code\": \"DENIED\", \"message\": \"not for you\"}]}", "not for you" },
		{ "{\"errors\": [{\"message\": \"a\\u001b[31m\\nb\\u00e4\"}]}", "a?[31m?b??" },
		{ "{\"errors\": [{\"message\": \"0123456789012345678901234567890123456789\"}]}",
		  "0123456789012345678" },
		{ "{\"details\": \"incorrect login\"}", "incorrect login" },
		{ "<html>", "" },
		{ "{\"errors\": {}}", "" },
		{ "", "" },
	};
	char out[20];

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		answer_error_text(cases[i].body, strlen(cases[i].body), out, sizeof out);
		ck_assert_str_eq(out, cases[i].text);
	}
}
END_TEST

/* ---- the registries file ---- */

static int endpoints_of(const char *config, const char *registry, struct registry_endpoints *ret)
{
	_cleanup_registries_ struct registries r = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;

	ck_assert_msg(registries_parse(config, strlen(config), &r, &err) == 0, "%s", error_message(&err));
	return registries_endpoints(&r, registry, ret, NULL);
}

static const struct {
	const char *config, *registry, *urls[3];
	const char *last_host;
} endpoints[] = {
	{ "{}", "docker.io", { "https://registry-1.docker.io" }, "docker.io" },
	{ "{}", "registry.example", { "https://registry.example" }, "registry.example" },
	{ "{}", "registry.example:5000", { "https://registry.example:5000" }, "registry.example:5000" },
	{ "{}", "localhost:5000", { "http://localhost:5000" }, "localhost:5000" },
	{ "{}", "127.9.9.9", { "http://127.9.9.9" }, "127.9.9.9" },
	{ "{}", "[::1]:80", { "http://[::1]:80" }, "[::1]:80" },
	{ "{}", "127.0.0.1.example", { "https://127.0.0.1.example" }, "127.0.0.1.example" },
	{ "{\"registries\": {\"localhost:5000\": {\"plainHttp\": false}}}",
	  "localhost:5000",
	  { "https://localhost:5000" },
	  "localhost:5000" },
	{ "{\"registries\": {\"r.example\": {\"plainHttp\": true}}}",
	  "r.example",
	  { "http://r.example" },
	  "r.example" },
	{ "{\"registries\": {\"r.example\": {\"plainHttp\": true}}}",
	  "r.example:443",
	  { "https://r.example:443" },
	  "r.example:443" },
	{ "{\"registries\": {\"docker.io\": {\"mirrors\": [\"http://127.0.0.1:5000/\", \"https://m.example/hub\"]}}}",
	  "docker.io",
	  { "http://127.0.0.1:5000", "https://m.example/hub", "https://registry-1.docker.io" },
	  "docker.io" },
};

START_TEST(endpoint_lists)
{
	_cleanup_registry_endpoints_ struct registry_endpoints e = { 0 };
	size_t n = 0;

	ck_assert_int_eq(endpoints_of(endpoints[_i].config, endpoints[_i].registry, &e), 0);
	for (; n < 3 && endpoints[_i].urls[n]; n++) {
		ck_assert_uint_lt(n, e.n);
		ck_assert_str_eq(e.list[n].url, endpoints[_i].urls[n]);
		ck_assert_int_eq(e.list[n].is_mirror, n + 1 < e.n);
	}
	ck_assert_uint_eq(e.n, n);
	ck_assert_str_eq(e.list[n - 1].host, endpoints[_i].last_host);
	if (n == 3)
		ck_assert_str_eq(e.list[1].host, "m.example");
}
END_TEST

static const struct {
	const char *config, *says;
} bad_registries[] = {
	{ "", "line 1" },
	{ "[]", "one JSON object" },
	{ "{\"mirror\": []}", "unknown member \"mirror\"" },
	{ "{\"registries\": []}", "registries must be an object" },
	{ "{\"registries\": {\"a\": []}}", "registry a must be an object" },
	{ "{\"registries\": {\"a\": {\"tls\": true}}}", "registry a has an unknown member \"tls\"" },
	{ "{\"registries\": {\"a\": {\"plainHttp\": \"yes\"}}}", "plainHttp of a must be true or false" },
	{ "{\"registries\": {\"a\": {\"mirrors\": \"http://x\"}}}", "mirrors of a must be a list" },
	{ "{\"registries\": {\"a\": {\"mirrors\": [\"m.example\"]}}}", "mirror 1 of a must be a URL" },
	{ "{\"registries\": {\"a\": {\"mirrors\": [\"https://x\", \"ftp://x\"]}}}", "mirror 2 of a must be a URL" },
	{ "{\"registries\": {\"a\": {\"mirrors\": [\"https://u:p@x\"]}}}", "mirror 1 of a must be a URL" },
	{ "{\"registries\": {\"a\": {\"mirrors\": [\"https://x?y\"]}}}", "mirror 1 of a must be a URL" },
	{ "{\"registries\": {\"a\": {\"mirrors\": [\"https://\"]}}}", "mirror 1 of a must be a URL" },
	{ "{\"registries\": {\"a\": {\"caFile\": \"x.pem\"}}}", "caFile must be an absolute path" },
	{ "{\"credentialsFile\": \"x.json\"}", "credentialsFile must be an absolute path" },
	{ "{\"credentialsFile\": 1}", "credentialsFile must be an absolute path" },
	{ "{\"stallTimeoutSeconds\": 0}", "stallTimeoutSeconds must be an integer" },
	{ "{\"stallTimeoutSeconds\": \"9\"}", "stallTimeoutSeconds must be an integer" },
	{ "{\"registries\": {\"a\": {}, \"a\": {}}}", "duplicate" },
};

START_TEST(bad_registries_files)
{
	_cleanup_registries_ struct registries r = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;
	const char *text = bad_registries[_i].config;

	ck_assert_msg(registries_parse(text, strlen(text), &r, &err) < 0, "%s was taken", text);
	says(&err, ERR_INVALID_ARGUMENT, bad_registries[_i].says);
}
END_TEST

/* ---- credentials ---- */

static const struct {
	const char *text, *host, *user, *password, *identity_token;
} good_credential[] = {
	{ "{\"auths\": {\"r.example\": {\"auth\": \"dXNlcjpwYXNz\"}}}", "r.example", "user", "pass", NULL },
	{ "{\"auths\": {\"r.example\": {\"auth\": \"dTpwOnE=\"}}}", "r.example", "u", "p:q", NULL },
	{ "{\"auths\": {\"r.example\": {\"auth\": \"dTo=\"}}}", "r.example", "u", "", NULL },
	{ "{\"auths\": {\"https://r.example/v2/\": {\"auth\": \"dXNlcjpwYXNz\"}}}", "r.example", "user", "pass", NULL },
	{ "{\"auths\": {\"http://r.example\": {\"username\": \"u\", \"password\": \"p\"}}}", "r.example", "u", "p",
	  NULL },
	{ "{\"auths\": {\"https://index.docker.io/v1/\": {\"auth\": \"dXNlcjpwYXNz\"}}}", "docker.io", "user", "pass",
	  NULL },
	{ "{\"auths\": {\"registry-1.docker.io\": {\"auth\": \"dXNlcjpwYXNz\"}}}", "docker.io", "user", "pass", NULL },
	{ "{\"auths\": {\"r.example:5000\": {\"auth\": \"dXNlcjpwYXNz\"}}}", "r.example", NULL, NULL, NULL },
	{ "{\"auths\": {\"r.example\": {\"identitytoken\": \"t\"}}}", "r.example", NULL, NULL, "t" },
	{ "{\"auths\": {}}", "r.example", NULL, NULL, NULL },
	{ "{}", "r.example", NULL, NULL, NULL },
	{ "{\"credsStore\": \"desktop\"}", "r.example", NULL, NULL, NULL },
	{ "{\"credsStore\": \"desktop\", \"auths\": {\"r.example\": {\"auth\": \"dXNlcjpwYXNz\"}}}", "r.example",
	  "user", "pass", NULL },
	{ "{\"credHelpers\": {\"other.example\": \"ecr\"}}", "r.example", NULL, NULL, NULL },
};

START_TEST(good_credentials)
{
	_cleanup_credentials_ struct credentials c = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;
	const char *text = good_credential[_i].text;

	ck_assert_msg(credentials_parse(text, strlen(text), good_credential[_i].host, &c, &err) == 0, "%s: %s", text,
		      error_message(&err));
	equal(c.user, good_credential[_i].user);
	equal(c.password, good_credential[_i].password);
	equal(c.identity_token, good_credential[_i].identity_token);
}
END_TEST

static const struct {
	const char *text;
	enum error_code code;
	const char *says;
} bad_credential[] = {
	{ "", ERR_INVALID_ARGUMENT, "not JSON" },
	{ "{\"auths\": {\"r.example\": 1}}", ERR_INVALID_ARGUMENT, "the entry for r.example: it must be an object" },
	{ "{\"auths\": {\"r.example\": {\"auth\": 1}}}", ERR_INVALID_ARGUMENT, "\"auth\" must be a string" },
	{ "{\"auths\": {\"r.example\": {\"auth\": \"secret!\"}}}", ERR_INVALID_ARGUMENT,
	  "not the base64 of user:password" },
	{ "{\"auths\": {\"r.example\": {\"auth\": \"dXNlcg==\"}}}", ERR_INVALID_ARGUMENT,
	  "not the base64 of user:password" },
	{ "{\"auths\": {\"r.example\": {\"auth\": \"dXNl\\ncjpwYXNz\"}}}", ERR_INVALID_ARGUMENT, "not the base64" },
	{ "{\"credsStore\": \"desktop\", \"auths\": {\"r.example\": {}}}", ERR_FAILED_PRECONDITION,
	  "docker-credential-desktop, which is not run" },
	{ "{\"credHelpers\": {\"r.example\": \"ecr\"}}", ERR_FAILED_PRECONDITION,
	  "docker-credential-ecr, which is not run" },
};

START_TEST(bad_credentials)
{
	_cleanup_credentials_ struct credentials c = { 0 };
	_cleanup_error_ struct error err = ERROR_INIT;
	const char *text = bad_credential[_i].text;

	ck_assert_msg(credentials_parse(text, strlen(text), "r.example", &c, &err) < 0, "%s was taken", text);
	says(&err, bad_credential[_i].code, bad_credential[_i].says);
	ck_assert_ptr_null(strstr(error_message(&err), "secret"));
}
END_TEST

START_TEST(basic_header)
{
	char user[] = "Aladdin", password[] = "open sesame";
	struct credentials c = { .user = user, .password = password };
	_cleanup_free_ char *header = credentials_basic(&c);

	ck_assert_str_eq(header, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}
END_TEST

START_TEST(missing_credentials_file)
{
	struct credentials c = { .user = (char *)"x" };

	ck_assert_int_eq(credentials_load("/nonexistent/config.json", "r.example", &c, NULL), 0);
	ck_assert_ptr_null(c.user);
	ck_assert_int_eq(credentials_load(NULL, "r.example", &c, NULL), 0);
	ck_assert_int_lt(credentials_load("/", "r.example", &c, NULL), 0);
}
END_TEST

START_TEST(escaping)
{
	_cleanup_buf_ struct buf b = BUF_INIT(100);

	http_escape(&b, "a-Z_0.~ &=/:\xc3\xa4");
	ck_assert_str_eq(buf_str(&b), "a-Z_0.~%20%26%3D%2F%3A%C3%A4");
}
END_TEST

#define LOOP(tc, name, table) tcase_add_loop_test(tc, name, 0, sizeof table / sizeof table[0])

int main(void)
{
	Suite *suite = suite_create("registry");
	TCase *tc = tcase_create("registry");

	LOOP(tc, good_challenges, challenges);
	LOOP(tc, bad_challenges, bad_challenge);
	tcase_add_test(tc, long_challenge);
	LOOP(tc, token_answers, tokens);
	LOOP(tc, good_answers, good_answer);
	LOOP(tc, bad_answers, bad_answer);
	LOOP(tc, platform_choice, choices);
	tcase_add_test(tc, lone_entry_without_platform);
	tcase_add_test(tc, many_platforms);
	tcase_add_test(tc, good_config);
	LOOP(tc, bad_configs, bad_config);
	tcase_add_test(tc, error_bodies);
	LOOP(tc, endpoint_lists, endpoints);
	LOOP(tc, bad_registries_files, bad_registries);
	LOOP(tc, good_credentials, good_credential);
	LOOP(tc, bad_credentials, bad_credential);
	tcase_add_test(tc, basic_header);
	tcase_add_test(tc, missing_credentials_file);
	tcase_add_test(tc, escaping);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
