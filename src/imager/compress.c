/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/compress.h"

#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <limits.h>

#define LEVEL 1
#define OUT_SIZE ((size_t)256 << 10)

struct compress {
	compress_sink sink;
	void *arg;
	struct isal_zstream stream;
	uint8_t level_buf[ISAL_DEF_LVL1_DEFAULT];
	uint8_t out[OUT_SIZE];
};

int compress_new(compress_sink sink, void *arg, struct compress **ret, struct error *err)
{
	struct compress *c = malloc(sizeof *c);

	if (!c)
		return error_errno(err, ENOMEM, "cannot compress");
	c->sink = sink;
	c->arg = arg;
	isal_deflate_init(&c->stream);
	c->stream.level = LEVEL;
	c->stream.level_buf = c->level_buf;
	c->stream.level_buf_size = sizeof c->level_buf;
	c->stream.gzip_flag = IGZIP_GZIP;
	c->stream.next_out = c->out;
	c->stream.avail_out = OUT_SIZE;
	*ret = c;
	return 0;
}

void compress_free(struct compress *c)
{
	free(c);
}

static int run(struct compress *c, struct error *err)
{
	do {
		if (isal_deflate(&c->stream) != COMP_OK)
			return error_set(err, ERR_INTERNAL, "cannot compress a layer");
		if (c->stream.avail_out == 0 || c->stream.internal_state.state == ZSTATE_END) {
			if (c->sink(c->arg, c->out, OUT_SIZE - c->stream.avail_out, err) < 0)
				return -1;
			c->stream.next_out = c->out;
			c->stream.avail_out = OUT_SIZE;
		} else if (c->stream.avail_in == 0) {
			return 0; /* the rest of the output waits for more input */
		}
	} while (c->stream.internal_state.state != ZSTATE_END);
	return 0;
}

int compress_add(struct compress *c, const void *data, size_t len, struct error *err)
{
	const uint8_t *p = data;

	while (len) {
		uint32_t n = len > INT_MAX ? INT_MAX : (uint32_t)len;

		c->stream.next_in = (uint8_t *)(uintptr_t)p;
		c->stream.avail_in = n;
		if (run(c, err) < 0)
			return -1;
		p += n;
		len -= n;
	}
	return 0;
}

int compress_finish(struct compress *c, struct error *err)
{
	c->stream.avail_in = 0;
	c->stream.end_of_stream = 1;
	return run(c, err);
}
