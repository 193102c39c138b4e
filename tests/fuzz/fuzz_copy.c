/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A tar stream that `capsulectl cp` brings, into a tree in use that is full of traps: links that lead out of it, up, in
 * circles, to what is no directory. Whatever the stream says, what lies beside the tree stays as it was.
 *
 * The first byte of the input chooses: bit 0, the copy belongs to its new place (without --archive); bit 1, the one
 * top-level entry is renamed; bits 2 and 3, where it goes. Bit 4: it goes to this side, to `new`, which is not there yet, and
 * whose neighbours the canary and the tree are.
 */
#include "checksums.h"

#include "base/fs.h"
#include "tree/extract.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define CANARY "as it was"

static const char *const places[] = { "", "dir/new", "through", "outside" };

/* The parent of the tree: it holds `tree`, `canary` and `new`, nothing else. */
static char place[] = "/dev/shm/capsule-fuzz-copy-XXXXXX";
static int beside = -1;

static void leave(void)
{
	fs_remove_tree(AT_FDCWD, place, NULL);
}

static void must(int r)
{
	if (r < 0)
		abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	if (!mkdtemp(place))
		abort();
	atexit(leave);
	umask(0);
	must(beside = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	must(fs_write_replace(beside, "canary", CANARY, strlen(CANARY), 0600, NULL));
	return 0;
}

static void make_tree(void)
{
	_cleanup_close_ int tree = -1;

	must(mkdirat(beside, "tree", 0755));
	must(tree = openat(beside, "tree", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	must(fs_mkdir_all(tree, "dir/sub", 0755, NULL));
	must(fs_write_replace(tree, "file", "old", 3, 0644, NULL));
	must(symlinkat("dir/sub", tree, "through"));
	must(symlinkat("..", tree, "outside"));
	must(symlinkat("../../../../../..", tree, "dir/up"));
	must(symlinkat("../canary", tree, "canary"));
	must(symlinkat(place, tree, "absolute"));
	must(symlinkat("circle", tree, "circle"));
}

/* The canary has the content, mode and number of names that it was made with, and no neighbours but those. */
static void check_beside(void)
{
	_cleanup_close_ int again = openat(beside, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_free_ char *content = NULL;
	struct dirent *entry;
	struct stat st;
	DIR *dir;

	must(again);
	dir = fdopendir(steal_fd(&again));
	if (!dir || fs_read(beside, "canary", 64, &content, NULL, NULL) < 0 || strcmp(content, CANARY) != 0)
		abort();
	if (fstatat(beside, "canary", &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_mode != (S_IFREG | 0600) || st.st_nlink != 1)
		abort();
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && strcmp(entry->d_name, "tree") != 0 && strcmp(entry->d_name, "canary") != 0 &&
		    strcmp(entry->d_name, "new") != 0)
			abort();
	closedir(dir);
}

struct input {
	const uint8_t *data;
	size_t len;
};

/* In pieces of one size, so that entries lie across them. */
static ssize_t read_input(void *arg, const void **ret_data, struct error *err)
{
	struct input *input = arg;
	size_t n = input->len < 700 ? input->len : 700;

	*ret_data = input->data;
	input->data += n;
	input->len -= n;
	return (ssize_t)n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_close_ int root = -1;
	struct extract_options options = { .what = "archive", .limits = { .bytes_max = 1 << 20, .entries_max = 200 } };
	struct extract_source source = { .read = read_input };
	struct input input;
	uint8_t *copy;

	if (size < 1 || size > 1 << 16)
		return -1;
	copy = malloc(size);
	if (!copy)
		abort();
	memcpy(copy, data + 1, size - 1);
	correct_checksums(copy, size - 1);
	input = (struct input){ copy, size - 1 };
	source.arg = &input;
	make_tree();
	must(root = openat(beside, "tree", O_PATH | O_DIRECTORY | O_CLOEXEC));
	options.root = root;
	options.plain = data[0] & 1;
	options.rename = data[0] & 2;
	options.prefix = places[data[0] >> 2 & 3];
	if (data[0] & 16) {
		options.root = beside;
		options.prefix = "new";
		options.rename = options.straight = true;
	}
	if (extract_tree(&options, &source, &err) < 0 && !err.message)
		abort();
	free(copy);
	check_beside();
	must(fs_remove_tree(beside, "tree", NULL));
	must(fs_remove_tree(beside, "new", NULL));
	return 0;
}
