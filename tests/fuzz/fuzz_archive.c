/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The way of a pushed archive, and of a layer alone, into a store of its own with small limits. The first byte of the
 * input says which ('L': a layer).
 */
#include "checksums.h"

#include "base/fs.h"
#include "image/store.h"
#include "imager/archive.h"
#include "imager/content.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define COLLECT_EVERY 256

static char root[] = "/dev/shm/capsule-fuzz-XXXXXX";

static void leave(void)
{
	fs_remove_tree(AT_FDCWD, root, NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	if (!mkdtemp(root))
		abort();
	atexit(leave);
	umask(022);
	/* Results are written there; the fuzzer itself uses standard error. */
	if (dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDOUT_FILENO) < 0)
		abort();
	return 0;
}

static void push_layer(struct content *content, const uint8_t *data, size_t len)
{
	struct blob_writer *w;

	if (blob_begin(content, BLOB_LAYER, NULL, NULL, &w, NULL) < 0)
		abort();
	if (blob_write(w, data, len, NULL) < 0)
		blob_abort(w);
	else
		blob_commit(w, NULL, NULL, NULL, NULL);
}

static void push_archive(struct content *content, const uint8_t *data, size_t len)
{
	_cleanup_close_ int fd = memfd_create("archive", MFD_CLOEXEC);

	if (fd < 0 || fs_write_all(fd, data, len) < 0 || lseek(fd, 0, SEEK_SET) != 0)
		abort();
	archive_push(content, fd, NULL);
}

/* What was kept must not pile up, and the store must be whole whatever came. */
static void check_store(void)
{
	struct image_store *store;
	struct image *images;
	size_t n;

	if (image_store_open(root, &store, NULL) < 0 || image_store_list(store, &images, &n, NULL) < 0)
		abort();
	for (size_t i = 0; i < n; i++) {
		struct image image;
		char *removed;

		if (image_store_resolve(store, images[i].reference, &image, NULL) == 0)
			image_release(&image);
		if (image_store_delete(store, images[i].reference, &removed, NULL) < 0)
			abort();
		free(removed);
		image_release(&images[i]);
	}
	free(images);
	if (image_store_collect(store, NULL, 0, NULL, NULL) < 0)
		abort();
	image_store_free(store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct content_limits limits = { .blob_max = 1 << 20, .unpacked_max = 1 << 20, .entries_max = 200 };
	static unsigned runs;
	struct content *content;
	uint8_t *copy;

	if (size < 1 || size > 1 << 20)
		return -1;
	copy = malloc(size);
	if (!copy || content_open(root, &limits, &content, NULL) < 0)
		abort();
	memcpy(copy, data + 1, size - 1);
	correct_checksums(copy, size - 1);
	if (data[0] == 'L')
		push_layer(content, copy, size - 1);
	else
		push_archive(content, copy, size - 1);
	content_close(content);
	free(copy);
	if (++runs % COLLECT_EVERY == 0)
		check_store();
	return 0;
}
