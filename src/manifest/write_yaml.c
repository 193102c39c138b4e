/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/manifest.h"
#include "manifest/scalar.h"
#include "manifest/schema.h"
#include "manifest/text.h"
#include "manifest/walk.h"

#include <string.h>
#include <strings.h>

/* A key of more than 1024 characters must be marked as one (YAML 1.2.2, 7.4.2); a byte takes up to 6 when escaped. */
#define SIMPLE_KEY_MAX (1000 / 6)

struct yaml_writer {
	struct buf *out;
	int depth; /* of the present object or list; the root is 0 */
	enum { AT_LINE, AT_KEY, AT_DASH } at; /* what stands on the present line */
	bool manifest; /* enums as a manifest shows them */
};

static void yaml_indent(struct yaml_writer *w)
{
	for (int i = 0; i < w->depth; i++)
		buf_adds(w->out, "  ");
}

/* Words that some readers of YAML 1.1 take for a boolean. */
static bool is_old_bool(const char *s)
{
	static const char *const words[] = { "y", "n", "yes", "no", "on", "off", NULL };

	for (const char *const *w = words; *w; w++)
		if (strcasecmp(s, *w) == 0)
			return true;
	return false;
}

/* Whether a string may stand without quotes. Quotes too many do no harm: only what is surely plain passes. What begins
 * with a digit may be a date or a number to base 60 for other readers. */
static bool is_plain(const char *s)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/_";
	static const char marks[] = "0123456789.@+=,-;()$<>~^%";

	if (*s == '\0' || !strchr(letters, *s) || scalar_resolve(s, strlen(s)) != SCALAR_STRING || is_old_bool(s))
		return false;
	for (; *s; s++) {
		if (*s == ' ' || *s == ':') {
			if (s[1] == ' ' || s[1] == '\0')
				return false;
		} else if (!strchr(letters, *s) && !strchr(marks, *s)) {
			return false;
		}
	}
	return true;
}

static void yaml_string(struct yaml_writer *w, const char *s)
{
	if (is_plain(s))
		buf_adds(w->out, s);
	else
		text_quote(w->out, s, strlen(s));
}

static void yaml_key(void *arg, const char *name)
{
	struct yaml_writer *w = arg;

	if (w->at != AT_DASH)
		yaml_indent(w);
	if (strlen(name) > SIMPLE_KEY_MAX) {
		buf_adds(w->out, "? ");
		yaml_string(w, name);
		buf_addc(w->out, '\n');
		yaml_indent(w);
	} else {
		yaml_string(w, name);
	}
	buf_addc(w->out, ':');
	w->at = AT_KEY;
}

static void yaml_nest(struct yaml_writer *w)
{
	if (w->at == AT_KEY)
		buf_addc(w->out, '\n');
	if (w->at != AT_DASH)
		w->at = AT_LINE;
	w->depth++;
}

static void yaml_object_begin(void *arg, bool empty)
{
	struct yaml_writer *w = arg;

	if (!empty) {
		yaml_nest(w);
		return;
	}
	buf_adds(w->out, w->at == AT_KEY ? " {}\n" : "{}\n");
	w->at = AT_LINE;
}

static void yaml_object_end(void *arg, bool empty)
{
	struct yaml_writer *w = arg;

	if (!empty)
		w->depth--;
}

static void yaml_list_begin(void *arg)
{
	yaml_nest(arg);
}

static void yaml_item(void *arg)
{
	struct yaml_writer *w = arg;

	yaml_indent(w);
	buf_adds(w->out, "- ");
	w->at = AT_DASH;
}

static void yaml_list_end(void *arg)
{
	struct yaml_writer *w = arg;

	w->depth--;
}

static void yaml_enum(struct yaml_writer *w, const ProtobufCEnumDescriptor *descriptor, int value)
{
	enum enum_style style = w->manifest ? schema_enum_style(descriptor) : ENUM_FULL;
	char text[FIELD_NAME_MAX];
	const char *name = enum_name(descriptor, value, style, text);

	if (name)
		buf_adds(w->out, name);
	else
		buf_addf(w->out, "%d", value);
}

static void yaml_value(void *arg, const ProtobufCFieldDescriptor *field, const void *member)
{
	struct yaml_writer *w = arg;
	_cleanup_buf_ struct buf json = BUF_INIT(64);
	const char *string;
	size_t quote;

	if (w->at == AT_KEY)
		buf_addc(w->out, ' ');
	switch (field->type) {
	case PROTOBUF_C_TYPE_STRING:
		string = *(const char *const *)member;
		yaml_string(w, string ? string : "");
		break;
	case PROTOBUF_C_TYPE_ENUM:
		yaml_enum(w, field->descriptor, *(const int *)member);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		value_to_json(field, member, w->out);
		break;
	default:
		/* JSON quotes 64-bit numbers because JavaScript rounds them; YAML needs no quotes. */
		value_to_json(field, member, &json);
		quote = *buf_str(&json) == '"';
		buf_add(w->out, buf_str(&json) + quote, json.len - 2 * quote);
		break;
	}
	buf_addc(w->out, '\n');
	w->at = AT_LINE;
}

static int write_yaml(const ProtobufCMessage *message, bool manifest, struct buf *out)
{
	static const struct message_visitor visitor = {
		.object_begin = yaml_object_begin, .key = yaml_key, .object_end = yaml_object_end,
		.list_begin = yaml_list_begin, .item = yaml_item, .list_end = yaml_list_end,
		.value = yaml_value,
	};
	struct yaml_writer w = { .out = out, .depth = -1, .manifest = manifest };

	message_walk(message, &visitor, &w);
	return out->failed ? -1 : 0;
}

int message_to_yaml(const ProtobufCMessage *message, struct buf *out)
{
	return write_yaml(message, false, out);
}

int manifest_print_workload(const Capsule__V1__Workload *workload, struct buf *out)
{
	Capsule__V1__Workload desired = *workload;

	/* What the daemon reports is not part of what a user declares. */
	desired.status = NULL;
	desired.created_at_unix = 0;
	/* What is applied from a manifest stays. */
	desired.ephemeral = false;
	if (desired.desired_state == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING)
		desired.desired_state = CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_UNSPECIFIED;
	return write_yaml(&desired.base, true, out);
}
