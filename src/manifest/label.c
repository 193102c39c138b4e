/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/check.h"
#include "manifest/mistake.h"

#include "base/utf8.h"

#include <string.h>

static bool is_label_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

const char *label_problem(const char *name, char out[LABEL_PROBLEM_MAX])
{
	size_t len = strlen(name);
	struct excerpt e;
	uint32_t c;
	size_t n;

	if (len == 0)
		return "is required: 1 to 63 characters of a-z, 0-9 and '-'";
	for (size_t i = 0; i < len; i++) {
		if (is_label_char(name[i]))
			continue;
		n = utf8_decode(name + i, len - i, &c);
		snprintf(out, LABEL_PROBLEM_MAX, "may hold a-z, 0-9 and '-' only, not %s",
			 excerpt(&e, name + i, n ? n : 1));
		return out;
	}
	if (len > MANIFEST_NAME_MAX) {
		snprintf(out, LABEL_PROBLEM_MAX, "has %zu characters; %d are allowed", len, MANIFEST_NAME_MAX);
		return out;
	}
	if (name[0] == '-' || name[len - 1] == '-')
		return "must begin and end with a letter or a digit";
	return NULL;
}

int manifest_check_name(const char *what, const char *name, struct error *err)
{
	char text[LABEL_PROBLEM_MAX];
	const char *problem = label_problem(name, text);
	struct excerpt e;

	if (!problem)
		return 0;
	if (!*name)
		return error_set(err, ERR_INVALID_ARGUMENT, "%s %s", what, problem);
	return error_set(err, ERR_INVALID_ARGUMENT, "%s %s %s", what, excerpt(&e, name, strlen(name)), problem);
}
