/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/manifest.h"
#include "manifest/text.h"
#include "manifest/walk.h"

#include <string.h>

struct json_writer {
	struct buf *out;
	unsigned indent, depth;
	bool first; /* nothing stands in the present object or list */
};

static void json_newline(struct json_writer *w)
{
	if (w->indent == 0)
		return;
	buf_addc(w->out, '\n');
	for (unsigned i = 0; i < w->indent * w->depth; i++)
		buf_addc(w->out, ' ');
}

static void json_open(struct json_writer *w, char bracket)
{
	buf_addc(w->out, bracket);
	w->depth++;
	w->first = true;
}

static void json_close(struct json_writer *w, char bracket, bool empty)
{
	w->depth--;
	w->first = false;
	if (!empty)
		json_newline(w);
	buf_addc(w->out, bracket);
}

static void json_item(void *arg)
{
	struct json_writer *w = arg;

	if (!w->first)
		buf_addc(w->out, ',');
	w->first = false;
	json_newline(w);
}

static void json_key(void *arg, const char *name)
{
	struct json_writer *w = arg;

	json_item(w);
	text_quote(w->out, name, strlen(name));
	buf_adds(w->out, w->indent ? ": " : ":");
}

static void json_object_begin(void *arg, bool empty)
{
	json_open(arg, '{');
}

static void json_object_end(void *arg, bool empty)
{
	json_close(arg, '}', empty);
}

static void json_list_begin(void *arg)
{
	json_open(arg, '[');
}

static void json_list_end(void *arg)
{
	json_close(arg, ']', false);
}

static void json_value(void *arg, const ProtobufCFieldDescriptor *field, const void *member)
{
	struct json_writer *w = arg;

	value_to_json(field, member, w->out);
}

int message_to_json(const ProtobufCMessage *message, unsigned indent, struct buf *out)
{
	static const struct message_visitor visitor = {
		.object_begin = json_object_begin, .key = json_key, .object_end = json_object_end,
		.list_begin = json_list_begin, .item = json_item, .list_end = json_list_end,
		.value = json_value,
	};
	struct json_writer w = { .out = out, .indent = indent };

	message_walk(message, &visitor, &w);
	return out->failed ? -1 : 0;
}
