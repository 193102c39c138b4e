/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/container/origin.h"

#include "base/buf.h"
#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

/*
 * Lines: "generation N", "image DIGEST", then "layer PATH" for each, lowest first. The last line is "end".
 */
#define ORIGIN_MAX (128 * (PATH_MAX + 16))

void origin_release(struct origin *o)
{
	free(o->image_digest);
	for (size_t i = 0; i < o->n_layers; i++)
		free(o->layers[i]);
	free(o->layers);
	*o = (struct origin){ 0 };
}

int origin_write(const char *state_dir, uint64_t generation, const struct image *image, struct error *err)
{
	_cleanup_buf_ struct buf text = BUF_INIT(ORIGIN_MAX);
	_cleanup_free_ char *path = fs_path("%s/origin", state_dir);

	buf_addf(&text, "generation %" PRIu64 "\nimage %s\n", generation, image->digest);
	for (size_t i = 0; i < image->n_layers; i++)
		buf_addf(&text, "layer %s\n", image->layers[i]);
	buf_adds(&text, "end\n");
	if (!path || text.failed)
		return error_errno(err, ENOMEM, "cannot record what %s is made from", state_dir);
	return fs_write_replace(AT_FDCWD, path, buf_data(&text), text.len, 0600, err);
}

static int add_layer(struct origin *o, const char *path)
{
	char **layers = reallocarray(o->layers, o->n_layers + 1, sizeof *layers);

	if (!layers)
		return -1;
	o->layers = layers;
	o->layers[o->n_layers] = strdup(path);
	return o->layers[o->n_layers] ? (int)o->n_layers++ : -1;
}

/* 1: the record is complete with this line; 0: more to come; -1: not a line of a record. */
static int take_line(struct origin *o, const char *line)
{
	char *end;

	if (!strcmp(line, "end"))
		return o->image_digest ? 1 : -1;
	if (!strncmp(line, "generation ", 11)) {
		o->generation = strtoull(line + 11, &end, 10);
		return *end ? -1 : 0;
	}
	if (!strncmp(line, "image ", 6) && !o->image_digest) {
		o->image_digest = strdup(line + 6);
		return o->image_digest ? 0 : -1;
	}
	return !strncmp(line, "layer ", 6) && add_layer(o, line + 6) >= 0 ? 0 : -1;
}

int origin_read(const char *state_dir, struct origin *ret)
{
	_cleanup_free_ char *path = fs_path("%s/origin", state_dir), *text = NULL;
	_cleanup_origin_ struct origin o = { 0 };
	char *rest, *line;
	int r = 0;

	if (!path || fs_read(AT_FDCWD, path, ORIGIN_MAX, &text, NULL, NULL) < 0)
		return 0;
	rest = text;
	while (r == 0 && (line = strsep(&rest, "\n")))
		r = take_line(&o, line);
	if (r != 1)
		return 0;
	*ret = o;
	o = (struct origin){ 0 };
	return 1;
}

bool origin_matches(const struct origin *o, uint64_t generation, const struct image *image)
{
	return o->generation == generation && !strcmp(o->image_digest, image->digest);
}
