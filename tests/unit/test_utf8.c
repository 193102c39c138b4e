/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/utf8.h"

#include "base/error.h"
#include "runner.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#define N(array) (sizeof(array) / sizeof((array)[0]))

START_TEST(what_is_utf8)
{
	static const char *const good[] = { "", "a", "\xc3\xa4", "\xe2\x98\xba", "\xf0\x9f\x98\x80",
		"\xed\x9f\xbf", "\xf4\x8f\xbf\xbf" };
	static const char *const bad[] = { "\x80", "\xc3", "\xc0\xaf", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80",
		"\xf0\x80\x80\x80",
					   "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3\x28", "\xe2\x98" };

	for (size_t i = 0; i < N(good); i++)
		ck_assert(utf8_is_valid(good[i], strlen(good[i])));
	for (size_t i = 0; i < N(bad); i++)
		ck_assert_msg(!utf8_is_valid(bad[i], strlen(bad[i])), "number %zu", i);
}
END_TEST

START_TEST(foreign_text_is_cleaned)
{
	static const struct {
		const char *text, *clean, *line;
	} texts[] = {
		{ "", "", "" },
		{ "größer \xe2\x98\xba \xf0\x9f\x98\x80", "größer \xe2\x98\xba \xf0\x9f\x98\x80", "größer \xe2\x98\xba \xf0\x9f\x98\x80" },
		{ "a\xff" "b", "a?b", "a?b" },
		{ "\xc3(\x80\xe2\x98.", "?(???.", "?(???." },
		{ "\xed\xa0\x80.", "???.", "???." },
		{ "one\ntwo\r\n\tthree", "one\ntwo\r\n\tthree", "one two   three" },
		{ "\x1b[1m\x7f", "\x1b[1m\x7f", "?[1m?" },
		{ "\xc2\x9b" "1m\xc2\xa0", "\xc2\x9b" "1m\xc2\xa0", "??1m\xc2\xa0" },
		/* A cut at the end. */
		{ "cut \xc3", "cut ?", "cut " },
		{ "cut \xf0\x9f\x98", "cut ???", "cut " },
		{ "no cut \xff", "no cut ?", "no cut ?" },
	};
	char text[64];

	snprintf(text, sizeof text, "%s", texts[_i].text);
	utf8_clean(text, strlen(text));
	ck_assert_str_eq(text, texts[_i].clean);
	snprintf(text, sizeof text, "%s", texts[_i].text);
	utf8_line(text);
	ck_assert_str_eq(text, texts[_i].line);
}
END_TEST

/* Wherever a text is cut, what is left of it is whole characters: all of them that fit. */
START_TEST(cuts_fall_between_characters)
{
	static const char whole[] = "a\xc3\xa4\xe2\x98\xba\xf0\x9f\x98\x80z";
	static const size_t ends[] = { 0, 1, 3, 6, 10, 11 };

	for (size_t size = 1; size <= sizeof whole; size++) {
		char text[sizeof whole];
		size_t expected = 0;

		for (size_t i = 0; i < N(ends); i++)
			if (ends[i] < size)
				expected = ends[i];
		snprintf(text, size, "%s", whole);
		utf8_trim(text);
		ck_assert_uint_eq(strlen(text), expected);
		ck_assert_mem_eq(text, whole, expected);
	}
}
END_TEST

START_TEST(what_no_character_began_is_not_trimmed)
{
	static const char *const texts[] = { "\x80", "\x80\x80\x80\x80\x80", "a\x80\x80", "\xc3\xa4\x80" };
	char text[8];

	snprintf(text, sizeof text, "%s", texts[_i]);
	utf8_trim(text);
	ck_assert_str_eq(text, texts[_i]);
}
END_TEST

START_TEST(messages_of_errors_are_utf8)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	error_set(&err, ERR_INTERNAL, "cannot read %s, ü", "a\xff" "b");
	ck_assert_str_eq(error_message(&err), "cannot read a?b, ü");
	error_wrap(&err, "%.1s", "ä");
	ck_assert_str_eq(error_message(&err), "?: cannot read a?b, ü");
	error_errno(&err, 2, "%s", "\xe2\x98");
	ck_assert_str_eq(error_message(&err), "??: No such file or directory");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("utf8");
	TCase *tc = tcase_create("utf8");

	tcase_add_test(tc, what_is_utf8);
	tcase_add_loop_test(tc, foreign_text_is_cleaned, 0, 11);
	tcase_add_test(tc, cuts_fall_between_characters);
	tcase_add_loop_test(tc, what_no_character_began_is_not_trimmed, 0, 4);
	tcase_add_test(tc, messages_of_errors_are_utf8);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
