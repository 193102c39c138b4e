/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "tree/path.h"

#include "base/cleanup.h"

#include <string.h>

static const char *last_component(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static bool is_dots(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

bool path_wants_directory(const char *path)
{
	const char *last = last_component(path);

	return !*last || is_dots(last);
}

bool path_wants_contents(const char *path)
{
	size_t len = strlen(path);

	while (len > 0 && path[len - 1] == '/')
		len--;
	if (len == 0)
		return *path == '/';
	if (path[len - 1] != '.')
		return false;
	if (len == 1 || path[len - 2] == '/')
		return true;
	return path[len - 2] == '.' && (len == 2 || path[len - 3] == '/');
}

char *path_trim(const char *path)
{
	size_t len = strlen(path);

	while (len > 1 && (path[len - 1] == '/' || (path[len - 1] == '.' && path[len - 2] == '/')))
		len--;
	return len ? strndup(path, len) : strdup(".");
}

int path_split(const char *path, char **ret_dir, char **ret_name)
{
	const char *last = last_component(path);
	size_t len = (size_t)(last - path);
	_cleanup_free_ char *dir = NULL, *name = NULL;

	if (!*last || is_dots(last)) {
		dir = strdup(path);
	} else {
		dir = len ? strndup(path, len > 1 ? len - 1 : 1) : strdup(".");
		name = strdup(last);
	}
	if (!dir || (!name && *last && !is_dots(last)))
		return -1;
	*ret_dir = steal_ptr(&dir);
	*ret_name = steal_ptr(&name);
	return 0;
}
