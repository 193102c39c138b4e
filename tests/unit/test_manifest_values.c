/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Sizes, words that are meant, scalars of the core schema. */
#include "manifest_fixture.h"

#include "manifest/scalar.h"
#include "manifest/suggest.h"
#include "runner.h"

#include <inttypes.h>

static const struct {
	const char *text;
	uint64_t bytes;
} good_sizes[] = {
	{ "0", 0 }, { "10", 10 }, { "10B", 10 }, { "1K", 1024 }, { "1k", 1024 }, { "1KB", 1024 }, { "1Ki", 1024 },
	{ "1KiB", 1024 }, { "500M", 524288000 }, { "1.5GiB", 1610612736 }, { "2 TB", UINT64_C(2) << 40 },
	{ "0.1K", 103 },
	{ "18446744073709551615", UINT64_MAX }, { "16777215T", UINT64_C(16777215) << 40 },
	{ "1.0000000000000001G", 1073741825 },
};
static const char *const bad_sizes[] = {
	"", " 1", "1 ", "-1", "+1", "K", "1KK", "1iB", "1E", "1.G", ".5G", "1.5", "1.5B", "1,5G", "0x10", "1e3",
	"16777216T",
	"18446744073709551616", "1.1234567890123456789G", "GiB", "1 G B",
};

START_TEST(parsed_sizes)
{
	char text[MANIFEST_SIZE_TEXT];
	struct error err = ERROR_INIT;
	uint64_t bytes, again;

	for (size_t i = 0; i < N(good_sizes); i++) {
		ck_assert_msg(manifest_parse_size(good_sizes[i].text, &bytes, NULL) == 0, "%s", good_sizes[i].text);
		ck_assert_msg(bytes == good_sizes[i].bytes, "%s is %" PRIu64, good_sizes[i].text, bytes);
	}
	for (size_t i = 0; i < N(bad_sizes); i++) {
		ck_assert_msg(manifest_parse_size(bad_sizes[i], &bytes, &err) < 0, "%s", bad_sizes[i]);
		ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
	}
	error_release(&err);
	/* Whole MiB up to 8 GiB read back as what they were. */
	for (uint64_t mib = 1; mib < 8192; mib++) {
		manifest_format_size(mib << 20, text);
		ck_assert_int_eq(manifest_parse_size(text, &again, NULL), 0);
		ck_assert_msg(again == mib << 20, "%" PRIu64 " MiB as %s", mib, text);
	}
}
END_TEST

START_TEST(formatted_sizes)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} sizes[] = {
		{ 0, "0B" }, { 1023, "1023B" }, { 1024, "1KiB" }, { 1536, "1.5KiB" }, { 12345, "12.1KiB" },
		{ UINT64_C(1) << 30, "1GiB" }, { UINT64_C(1536) << 20, "1.5GiB" },
		{ UINT64_C(1280) << 20, "1.25GiB" },
		{ UINT64_C(1100) << 20, "1100MiB" }, { UINT64_C(5000000000), "4.7GiB" },
		{ UINT64_C(64) << 40, "64TiB" },
		{ UINT64_MAX, "16777216TiB" },
	};
	char text[MANIFEST_SIZE_TEXT];

	for (size_t i = 0; i < N(sizes); i++)
		ck_assert_str_eq(manifest_format_size(sizes[i].bytes, text), sizes[i].text);
}
END_TEST

START_TEST(suggestions)
{
	static const char *const fields[] = { "image", "command", "args", "env", "mounts", "ports", "hostPid",
		"hostIpc" };
	static const struct {
		const char *word, *nearest;
	} words[] = {
		{ "imgae", "image" }, { "IMAGE", "image" }, { "comand", "command" }, { "arg", "args" },
		{ "evn", "env" },
		{ "mount", "mounts" }, { "port", "ports" }, { "host_pid", "hostPid" }, { "hosticp", "hostIpc" },
		{ "x", NULL }, { "", NULL }, { "frobnicate", NULL },
		{ "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", NULL },
	};
	struct suggest s;

	for (size_t i = 0; i < N(words); i++) {
		suggest_init(&s, words[i].word);
		for (size_t j = 0; j < N(fields); j++)
			suggest_offer(&s, fields[j]);
		ck_assert_pstr_eq(s.nearest, words[i].nearest);
	}
}
END_TEST

START_TEST(core_schema)
{
	static const struct {
		const char *text;
		enum scalar type;
	} scalars[] = {
		{ "", SCALAR_NULL }, { "~", SCALAR_NULL }, { "NULL", SCALAR_NULL }, { "nULL", SCALAR_STRING },
		{ "true", SCALAR_BOOL }, { "False", SCALAR_BOOL }, { "tRUE", SCALAR_STRING },
		{ "yes", SCALAR_STRING },
		{ "0", SCALAR_INT }, { "-0", SCALAR_INT }, { "+12", SCALAR_INT }, { "007", SCALAR_INT },
		{ "0x1F", SCALAR_INT },
		{ "0o17", SCALAR_INT }, { "0o8", SCALAR_STRING }, { "0x", SCALAR_STRING }, { "-", SCALAR_STRING },
		{ "-0x1", SCALAR_STRING }, { "1_000", SCALAR_STRING }, { "0b1", SCALAR_STRING },
		{ "1.5", SCALAR_FLOAT },
		{ ".5", SCALAR_FLOAT }, { "1.", SCALAR_FLOAT }, { ".", SCALAR_STRING }, { "1e3", SCALAR_FLOAT },
		{ "1e", SCALAR_STRING }, { "-1.5E-3", SCALAR_FLOAT }, { "-.inf", SCALAR_FLOAT },
		{ ".NaN", SCALAR_FLOAT },
		{ "-.nan", SCALAR_STRING }, { "1.2.3", SCALAR_STRING }, { "e5", SCALAR_STRING },
	};
	uint64_t value;
	bool negative;

	for (size_t i = 0; i < N(scalars); i++)
		ck_assert_msg(scalar_resolve(scalars[i].text, strlen(scalars[i].text)) == scalars[i].type, "%s",
			      scalars[i].text);
	ck_assert_int_eq(scalar_int("-0x", 1, &negative, &value), 0);
	ck_assert_int_eq(scalar_int("18446744073709551615", 20, &negative, &value), 0);
	ck_assert_uint_eq(value, UINT64_MAX);
	ck_assert_int_eq(scalar_int("18446744073709551616", 20, &negative, &value), -1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("manifest_values");
	TCase *tc = tcase_create("manifest_values");

	tcase_add_test(tc, parsed_sizes);
	tcase_add_test(tc, formatted_sizes);
	tcase_add_test(tc, suggestions);
	tcase_add_test(tc, core_schema);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
