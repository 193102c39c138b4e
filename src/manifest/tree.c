/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/tree.h"
#include "manifest/mistake.h"
#include "manifest/text.h"

#include "base/hex.h"
#include "base/utf8.h"

#include <jansson.h>
#include <yaml.h>

#define TAGS_REFUSED "tags (!) have no place in a manifest; a value in quotes is a string"

/* ---- memory: a tree is released at once ---- */

#define POOL_CHUNK (16u << 10)

struct chunk {
	struct chunk *next;
	size_t used, size;
	max_align_t data[];
};

struct documents {
	yaml_parser_t parser;
	const char *text;
	size_t len;
	char *rewritten; /* the text when it is not the caller's */
	size_t *joined;  /* places of characters in `rewritten` that were surrogate pairs; sorted */
	size_t n_joined;
	struct chunk *pool;
	size_t n_nodes;
};

static void pool_clear(struct documents *d)
{
	struct chunk *next;

	for (; d->pool; d->pool = next) {
		next = d->pool->next;
		free(d->pool);
	}
	d->n_nodes = 0;
}

static void *pool_take(struct documents *d, size_t size)
{
	struct chunk *c = d->pool;
	size_t room;
	void *p;

	size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
	if (!c || size > c->size - c->used) {
		room = size > POOL_CHUNK ? size : POOL_CHUNK;
		c = malloc(sizeof *c + room);
		if (!c)
			return NULL;
		*c = (struct chunk){ .next = d->pool, .size = room };
		d->pool = c;
	}
	p = (char *)c->data + c->used;
	c->used += size;
	return p;
}

const char *documents_keep(struct documents *d, const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = pool_take(d, size);

	return copy ? memcpy(copy, text, size) : "";
}

/* ---- places ---- */

/* How many surrogate pairs were joined before a character. */
static size_t joined_before(const struct documents *d, size_t index)
{
	size_t low = 0, high = d->n_joined, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (d->joined[middle] < index)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* A joined pair is eleven characters shorter than it was in the user's text. */
static unsigned column_of(const struct documents *d, const yaml_mark_t *mark)
{
	size_t joined = 0;

	if (d->n_joined)
		joined = joined_before(d, mark->index) - joined_before(d, mark->index - mark->column);
	return (unsigned)(mark->column + 11 * joined) + 1;
}

static unsigned line_of(const yaml_mark_t *mark)
{
	return (unsigned)mark->line + 1;
}

/* The first byte at or after a place that libyaml names, for a better message; '\0' at the end. */
static char byte_at(const struct documents *d, const yaml_mark_t *mark)
{
	size_t at = 0, n;
	uint32_t c;

	for (size_t i = 0; i < mark->index && at < d->len; i++, at += n) {
		n = utf8_decode(d->text + at, d->len - at, &c);
		if (n == 0)
			return '\0';
	}
	return at < d->len ? d->text[at] : '\0';
}

/* ---- the text before the parser sees it ---- */

/* libyaml compares each tag directive with all before it. */
#define TAG_DIRECTIVES_MAX 16

static int check_characters(const char *text, size_t len, struct manifest_mistakes *m)
{
	unsigned line = 1, column = 1, directives = 0;
	uint32_t c = 0;
	size_t n;

	for (size_t i = 0; i < len; i += n) {
		if (column == 1 && len - i > 4 && memcmp(text + i, "%TAG", 4) == 0 && ++directives > TAG_DIRECTIVES_MAX)
			return mistake_add(m, NULL, line, column, TAGS_REFUSED);
		n = utf8_decode(text + i, len - i, &c);
		if (n == 0)
			return mistake_add(m, NULL, line, column, "byte 0x%02x is not UTF-8", (uint8_t)text[i]);
		if (!text_is_printable(c) && c != 0xfeff)
			return mistake_add(m, NULL, line, column, "character U+%04X cannot stand in a manifest", c);
		if (c == '\n' || (c == '\r' && !(i + 1 < len && text[i + 1] == '\n'))) {
			line++;
			column = 1;
		} else {
			column++;
		}
	}
	return 0;
}

static int hex4(const char *s, unsigned *ret)
{
	unsigned value = 0;

	for (int i = 0; i < 4; i++) {
		int digit = hex_digit(s[i]);

		if (digit < 0)
			return -1;
		value = value << 4 | (unsigned)digit;
	}
	*ret = value;
	return 0;
}

/* Reads "\ud83d\ude00" at s. */
static bool surrogate_pair(const char *s, size_t len, uint32_t *ret_char)
{
	unsigned high, low;

	if (len < 12 || s[0] != '\\' || s[1] != 'u' || s[6] != '\\' || s[7] != 'u')
		return false;
	if (hex4(s + 2, &high) < 0 || hex4(s + 8, &low) < 0)
		return false;
	if (high < 0xd800 || high > 0xdbff || low < 0xdc00 || low > 0xdfff)
		return false;
	*ret_char = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
	return true;
}

static size_t encode4(uint32_t c, char *out)
{
	out[0] = (char)(0xf0 | c >> 18);
	out[1] = (char)(0x80 | (c >> 12 & 0x3f));
	out[2] = (char)(0x80 | (c >> 6 & 0x3f));
	out[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

static bool has_surrogate(const char *text, size_t len)
{
	const char *s = text, *end = text + len;

	while ((s = memchr(s, '\\', (size_t)(end - s))) != NULL) {
		if (end - s > 2 && s[1] == 'u' && (s[2] == 'd' || s[2] == 'D'))
			return true;
		s++;
	}
	return false;
}

/*
 * JSON writes a character beyond U+FFFF as two escapes, which YAML does not know. They are joined here, when the text
 * is JSON without doubt: then an escape can be nothing else.
 */
static int join_surrogates(struct documents *d, struct manifest_mistakes *m)
{
	json_t *json;
	size_t out = 0, n_chars = 0, step;
	uint32_t c;

	if (!has_surrogate(d->text, d->len))
		return 0;
	json = json_loadb(d->text, d->len, JSON_ALLOW_NUL, NULL);
	if (!json)
		return 0;
	json_decref(json);
	d->rewritten = malloc(d->len + 1);
	d->joined = calloc(d->len / 12 + 1, sizeof *d->joined);
	if (!d->rewritten || !d->joined) {
		m->out_of_memory = true;
		return -1;
	}
	for (size_t i = 0; i < d->len; i += step) {
		step = d->text[i] == '\\' ? 2 : 1;
		if (surrogate_pair(d->text + i, d->len - i, &c)) {
			d->joined[d->n_joined++] = n_chars++;
			out += encode4(c, d->rewritten + out);
			step = 12;
			continue;
		}
		for (size_t j = i; j < i + step; j++) {
			d->rewritten[out++] = d->text[j];
			n_chars += ((uint8_t)d->text[j] & 0xc0) != 0x80;
		}
	}
	d->text = d->rewritten;
	d->len = out;
	return 0;
}

/* ---- events ---- */

static int syntax_mistake(struct documents *d, struct manifest_mistakes *m)
{
	const yaml_parser_t *p = &d->parser;
	const char *problem = p->problem ? p->problem : "not YAML";
	char context[160] = "";

	if (p->error == YAML_MEMORY_ERROR) {
		m->out_of_memory = true;
		return -1;
	}
	if (strncmp(problem, "found character that cannot start any token", 43) == 0 &&
	    byte_at(d, &p->problem_mark) == '\t')
		problem = "found a tab where only spaces may indent";
	if (p->context)
		snprintf(context, sizeof context, ", %s that begins in line %u", p->context, line_of(&p->context_mark));
	return mistake_add(m, NULL, line_of(&p->problem_mark), column_of(d, &p->problem_mark), "%s%s", problem,
			   context);
}

static int event_next(struct documents *d, yaml_event_t *ret, struct manifest_mistakes *m)
{
	return yaml_parser_parse(&d->parser, ret) ? 0 : syntax_mistake(d, m);
}

static struct node *node_new(struct documents *d, const yaml_event_t *event, unsigned depth,
			     struct manifest_mistakes *m)
{
	unsigned line = line_of(&event->start_mark), column = column_of(d, &event->start_mark);
	struct node *node;

	if (depth > TREE_DEPTH_MAX) {
		mistake_add(m, NULL, line, column, "is nested deeper than %d levels", TREE_DEPTH_MAX);
		return NULL;
	}
	if (++d->n_nodes > TREE_NODES_MAX) {
		mistake_add(m, NULL, line, column, "the document has more than %d values", TREE_NODES_MAX);
		return NULL;
	}
	node = pool_take(d, sizeof *node);
	if (!node) {
		m->out_of_memory = true;
		return NULL;
	}
	*node = (struct node){ .line = line, .column = column, .text = "" };
	return node;
}

static const char *refusal(const yaml_char_t *anchor, const yaml_char_t *tag)
{
	if (anchor)
		return "anchors and aliases (& and *) have no place in a manifest; write the value out";
	if (tag)
		return TAGS_REFUSED;
	return NULL;
}

static int node_set_scalar(struct documents *d, struct node *node, const yaml_event_t *event,
			   struct manifest_mistakes *m)
{
	size_t len = event->data.scalar.length;
	char *text = pool_take(d, len + 1);

	if (!text) {
		m->out_of_memory = true;
		return -1;
	}
	memcpy(text, event->data.scalar.value, len);
	text[len] = '\0';
	node->text = text;
	node->len = len;
	node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	node->refused = refusal(event->data.scalar.anchor, event->data.scalar.tag);
	return 0;
}

static struct node *node_read(struct documents *d, const yaml_event_t *event, unsigned depth,
			      struct manifest_mistakes *m);

/* Reads the event that comes next as a node; *ret_node is NULL when it was `end`. */
static int child_read(struct documents *d, yaml_event_type_t end, unsigned depth, struct node **ret_node,
		      struct manifest_mistakes *m)
{
	yaml_event_t event;
	struct node *node = NULL;

	if (event_next(d, &event, m) < 0)
		return -1;
	if (event.type != end) {
		node = node_read(d, &event, depth, m);
		if (!node) {
			yaml_event_delete(&event);
			return -1;
		}
	}
	yaml_event_delete(&event);
	*ret_node = node;
	return 0;
}

static int children_read(struct documents *d, struct node *parent, unsigned depth, struct manifest_mistakes *m)
{
	bool map = parent->type == NODE_MAP;
	yaml_event_type_t end = map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
	struct node **link = &parent->first, *first, *child;

	for (;;) {
		if (child_read(d, end, depth, &first, m) < 0)
			return -1;
		if (!first)
			return 0;
		child = first;
		if (map) {
			if (child_read(d, YAML_NO_EVENT, depth, &child, m) < 0)
				return -1;
			child->key = first;
			if (first->type != NODE_SCALAR && !first->refused)
				first->refused = "a key must be a word, not a mapping or a list";
		}
		*link = child;
		link = &child->next;
		parent->n++;
	}
}

static struct node *node_read(struct documents *d, const yaml_event_t *event, unsigned depth,
			      struct manifest_mistakes *m)
{
	struct node *node = node_new(d, event, depth, m);
	int r = 0;

	if (!node)
		return NULL;
	switch (event->type) {
	case YAML_ALIAS_EVENT:
		node->refused = refusal(event->data.alias.anchor, NULL);
		break;
	case YAML_SCALAR_EVENT:
		r = node_set_scalar(d, node, event, m);
		break;
	case YAML_SEQUENCE_START_EVENT:
		node->type = NODE_LIST;
		node->refused = refusal(event->data.sequence_start.anchor, event->data.sequence_start.tag);
		r = children_read(d, node, depth + 1, m);
		break;
	default:
		node->type = NODE_MAP;
		node->refused = refusal(event->data.mapping_start.anchor, event->data.mapping_start.tag);
		r = children_read(d, node, depth + 1, m);
		break;
	}
	return r < 0 ? NULL : node;
}

/* ---- the stream ---- */

void documents_close(struct documents *d)
{
	pool_clear(d);
	yaml_parser_delete(&d->parser);
	free(d->rewritten);
	free(d->joined);
	free(d);
}

struct documents *documents_open(const char *text, size_t len, struct manifest_mistakes *mistakes)
{
	_cleanup_documents_ struct documents *d = calloc(1, sizeof *d);

	if (!d || !yaml_parser_initialize(&d->parser)) {
		mistakes->out_of_memory = true;
		return NULL;
	}
	if (check_characters(text, len, mistakes) < 0)
		return NULL;
	d->text = text;
	d->len = len;
	if (join_surrogates(d, mistakes) < 0)
		return NULL;
	yaml_parser_set_encoding(&d->parser, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&d->parser, (const unsigned char *)d->text, d->len);
	return steal_ptr(&d);
}

int documents_next(struct documents *d, struct node **ret_root, struct manifest_mistakes *mistakes)
{
	yaml_event_t event;
	yaml_event_type_t type;

	pool_clear(d);
	do {
		if (event_next(d, &event, mistakes) < 0)
			return -1;
		type = event.type;
		yaml_event_delete(&event);
		if (type == YAML_STREAM_END_EVENT || type == YAML_NO_EVENT)
			return 0;
	} while (type != YAML_DOCUMENT_START_EVENT);
	if (child_read(d, YAML_NO_EVENT, 1, ret_root, mistakes) < 0)
		return -1;
	return 1;
}
