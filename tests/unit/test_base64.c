/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/base64.h"

#include "runner.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

/* RFC 4648, section 10. */
static const char *const vectors[][2] = {
	{ "", "" },	      { "f", "Zg==" },	      { "fo", "Zm8=" },	      { "foo", "Zm9v" },
	{ "foob", "Zm9vYg==" }, { "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" },
};

START_TEST(both_ways)
{
	for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
		char *encoded = base64_encode(vectors[i][0], strlen(vectors[i][0]));
		size_t len = 99;
		char *decoded = base64_decode(vectors[i][1], &len);

		ck_assert_str_eq(encoded, vectors[i][1]);
		ck_assert_uint_eq(len, strlen(vectors[i][0]));
		ck_assert_mem_eq(decoded, vectors[i][0], len);
		free(encoded);
		free(decoded);
	}
}
END_TEST

START_TEST(every_byte)
{
	unsigned char bytes[256];
	size_t len;

	for (int i = 0; i < 256; i++)
		bytes[i] = (unsigned char)(255 - i);
	for (size_t n = 253; n <= 256; n++) {
		char *encoded = base64_encode(bytes, n);
		unsigned char *decoded = base64_decode(encoded, &len);

		ck_assert_uint_eq(len, n);
		ck_assert_mem_eq(decoded, bytes, n);
		free(encoded);
		free(decoded);
	}
}
END_TEST

START_TEST(what_is_not_base64)
{
	static const char *const bad[] = { "Z", "Zg", "Zg=", "Z===", "====", "Zm9v!A==", "Zm 9", "Zg==Zg==", "=Zg=" };
	size_t len;

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		ck_assert_msg(!base64_decode(bad[i], &len), "%s", bad[i]);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("base64");
	TCase *t = tcase_create("base64");

	tcase_add_test(t, both_ways);
	tcase_add_test(t, every_byte);
	tcase_add_test(t, what_is_not_base64);
	suite_add_tcase(s, t);
	return run_suite(s);
}
