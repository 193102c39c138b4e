/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "tree/name.h"

#include "base/fs.h"

#include <limits.h>
#include <string.h>

int name_clean(char *path, struct error *err)
{
	char *to = path, *from = path;

	if (*path == '/')
		return error_set(err, ERR_INVALID_ARGUMENT, "the absolute path is refused");
	if (strlen(path) >= PATH_MAX)
		return error_set(err, ERR_INVALID_ARGUMENT, "the path is longer than %d bytes", PATH_MAX - 1);
	while (*from) {
		size_t len = strcspn(from, "/");

		if (len == 2 && from[0] == '.' && from[1] == '.')
			return error_set(err, ERR_INVALID_ARGUMENT, "the path with \"..\" is refused");
		if (len > NAME_MAX)
			return error_set(err, ERR_INVALID_ARGUMENT, "a name in the path is longer than %d bytes",
					 NAME_MAX);
		if (len && !(len == 1 && from[0] == '.')) {
			if (to != path)
				*to++ = '/';
			memmove(to, from, len);
			to += len;
		}
		from += len;
		while (*from == '/')
			from++;
	}
	*to = '\0';
	return 0;
}

char *name_split(const char *path, const char **ret_name)
{
	const char *slash = strrchr(path, '/');

	*ret_name = slash ? slash + 1 : path;
	return slash ? strndup(path, (size_t)(slash - path)) : strdup("");
}

char *name_join(const char *a, const char *b)
{
	return fs_path("%s%s%s", a, *a && *b ? "/" : "", b);
}
