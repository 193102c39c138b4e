/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What registries, token servers and operators write. The first byte says which parser gets the rest. */
#include "imager/answer.h"
#include "imager/challenge.h"
#include "imager/credentials.h"
#include "imager/registries.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int r, const struct error *err)
{
	if ((r < 0) != (err->code != ERR_OK) || (r < 0 && !err->message))
		abort();
}

static void fuzz_answer(const char *text, size_t len, struct error *err)
{
	static const struct platform want = { "linux", "arm", "v7" };
	_cleanup_answer_ struct answer answer = { 0 };
	const struct descriptor *chosen = NULL;
	int r = answer_parse(text, len, NULL, &answer, err);

	check(r, err);
	if (r < 0)
		return;
	for (size_t i = 0; i < answer.n_items; i++)
		if (!digest_valid(answer.items[i].digest))
			abort();
	if (answer.is_index)
		check(answer_choose(&answer, &want, &chosen, err), err);
}

static void fuzz_challenge(const char *text, size_t len, struct error *err)
{
	_cleanup_free_ char *header = strndup(text, len);
	_cleanup_challenge_ struct challenge c = { 0 };
	int r = header ? challenge_parse(header, &c, err) : 0;

	check(r, err);
	if (r == 0 && c.scheme == CHALLENGE_BEARER && !c.realm)
		abort();
}

static void fuzz_token(const char *text, size_t len, struct error *err)
{
	_cleanup_free_ char *token = NULL;

	check(token_parse(text, len, &token, err), err);
	if (token && strpbrk(token, "\r\n "))
		abort();
}

static void fuzz_config(const char *text, size_t len, struct error *err)
{
	_cleanup_config_summary_ struct config_summary c = { 0 };

	check(config_parse(text, len, &c, err), err);
}

static void fuzz_error_text(const char *text, size_t len)
{
	char out[40];

	answer_error_text(text, len, out, sizeof out);
	for (const char *p = out; *p; p++)
		if (*p < ' ' || *p > '~')
			abort();
}

static void fuzz_registries(const char *text, size_t len, struct error *err)
{
	_cleanup_registry_endpoints_ struct registry_endpoints endpoints = { 0 };
	_cleanup_registries_ struct registries r = { 0 };
	int parsed = registries_parse(text, len, &r, err);

	check(parsed, err);
	if (parsed == 0 && (registries_endpoints(&r, "a", &endpoints, err) < 0 || endpoints.n == 0))
		abort();
}

static void fuzz_credentials(const char *text, size_t len, struct error *err)
{
	_cleanup_credentials_ struct credentials c = { 0 };

	check(credentials_parse(text, len, "docker.io", &c, err), err);
	if (!c.user != !c.password)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	const char *text = (const char *)data + 1;

	if (size < 1)
		return 0;
	switch (data[0]) {
	case 'a':
		fuzz_answer(text, size - 1, &err);
		break;
	case 'w':
		fuzz_challenge(text, size - 1, &err);
		break;
	case 't':
		fuzz_token(text, size - 1, &err);
		break;
	case 'c':
		fuzz_config(text, size - 1, &err);
		break;
	case 'e':
		fuzz_error_text(text, size - 1);
		break;
	case 'r':
		fuzz_registries(text, size - 1, &err);
		break;
	case 'k':
		fuzz_credentials(text, size - 1, &err);
		break;
	default:
		break;
	}
	return 0;
}
