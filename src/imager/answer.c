/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/answer.h"

#include "base/buf.h"

#include <jansson.h>
#include <string.h>
#include <sys/utsname.h>

#define OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_INDEX "application/vnd.oci.image.index.v1+json"
#define OCI_CONFIG "application/vnd.oci.image.config.v1+json"
#define DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define DOCKER_INDEX "application/vnd.docker.distribution.manifest.list.v2+json"
#define DOCKER_CONFIG "application/vnd.docker.container.image.v1+json"
#define DOCKER_SCHEMA1 "application/vnd.docker.distribution.manifest.v1+"

#define PLATFORMS_SHOWN_MAX 24
#define PLATFORMS_TEXT_MAX 2048
#define TYPE_SHOWN_MAX 100

const char answer_accept[] = OCI_MANIFEST ", " OCI_INDEX ", " DOCKER_MANIFEST ", " DOCKER_INDEX;

bool digest_valid(const char *digest)
{
	return strncmp(digest, "sha256:", 7) == 0 && strlen(digest) == DIGEST_TEXT - 1 &&
	       strspn(digest + 7, "0123456789abcdef") == DIGEST_TEXT - 1 - 7;
}

/* Foreign text for a message: printable ASCII only, cut to size. */
static void copy_printable(char *out, size_t size, const char *text)
{
	size_t n = 0;

	for (; *text && n + 1 < size; text++)
		out[n++] = *text >= ' ' && *text <= '~' ? *text : '?';
	out[n] = '\0';
}

void platform_of_this_machine(struct platform *ret)
{
	static const struct {
		const char *machine, *architecture, *variant;
	} known[] = {
		{ "x86_64", "amd64", "" },    { "i686", "386", "" },        { "aarch64", "arm64", "v8" },
		{ "armv7l", "arm", "v7" },    { "armv6l", "arm", "v6" },    { "ppc64le", "ppc64le", "" },
		{ "s390x", "s390x", "" },     { "riscv64", "riscv64", "" }, { "loongarch64", "loong64", "" },
	};
	struct utsname u;

	*ret = (struct platform){ .os = "linux" };
	if (uname(&u) < 0)
		return;
	copy_printable(ret->architecture, sizeof ret->architecture, u.machine);
	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
		if (strcmp(u.machine, known[i].machine) != 0)
			continue;
		copy_printable(ret->architecture, sizeof ret->architecture, known[i].architecture);
		copy_printable(ret->variant, sizeof ret->variant, known[i].variant);
	}
}

void answer_release(struct answer *a)
{
	free(a->items);
	*a = (struct answer){ 0 };
}

void config_summary_release(struct config_summary *c)
{
	free(c->diff_ids);
	*c = (struct config_summary){ 0 };
}

static json_t *load_object(const char *text, size_t len, const char *what, struct error *err)
{
	json_error_t where;
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &where);

	if (!root) {
		error_set(err, ERR_DATA_LOSS, "its %s is not valid JSON (line %d, column %d)", what, where.line,
			  where.column);
		return NULL;
	}
	if (!json_is_object(root)) {
		error_set(err, ERR_DATA_LOSS, "its %s is not a JSON object", what);
		json_decref(root);
		return NULL;
	}
	return root;
}

static const char *string_of(const json_t *object, const char *name)
{
	const char *s = json_string_value(json_object_get(object, name));

	return s ? s : "";
}

static int take_platform_member(const json_t *from, const char *name, char *to, size_t size, struct error *err)
{
	const char *text = string_of(from, name);

	if (strlen(text) >= size)
		return error_set(err, ERR_DATA_LOSS, "the %s of a platform is too long", name);
	copy_printable(to, size, text);
	return 0;
}

static int take_platform(const json_t *from, struct platform *to, struct error *err)
{
	if (take_platform_member(from, "os", to->os, sizeof to->os, err) < 0 ||
	    take_platform_member(from, "architecture", to->architecture, sizeof to->architecture, err) < 0 ||
	    take_platform_member(from, "variant", to->variant, sizeof to->variant, err) < 0)
		return -1;
	return 0;
}

static int take_descriptor(const json_t *from, const char *what, struct descriptor *to, struct error *err)
{
	const json_t *size = json_object_get(from, "size"), *platform = json_object_get(from, "platform");
	const char *digest = string_of(from, "digest");

	if (!digest_valid(digest))
		return error_set(err, ERR_DATA_LOSS, "its manifest gives no valid sha256 digest for %s", what);
	if (!json_is_integer(size) || json_integer_value(size) < 0)
		return error_set(err, ERR_DATA_LOSS, "its manifest gives no valid size for %s", what);
	memcpy(to->digest, digest, DIGEST_TEXT);
	to->size = (uint64_t)json_integer_value(size);
	to->has_platform = json_is_object(platform);
	return to->has_platform ? take_platform(platform, &to->platform, err) : 0;
}

/* A tar, plain or compressed, by any of the names that are in use. Foreign layers are such tars too; the addresses that
 * come with them are not followed. */
static bool is_layer_type(const char *type)
{
	static const char *const prefixes[] = {
		"application/vnd.oci.image.layer.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar",
	};
	static const char *const suffixes[] = { "", "+gzip", "+zstd", ".gzip", ".zstd" };

	for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++) {
		size_t len = strlen(prefixes[i]);

		if (strncmp(type, prefixes[i], len) != 0)
			continue;
		for (size_t k = 0; k < sizeof suffixes / sizeof suffixes[0]; k++)
			if (strcmp(type + len, suffixes[k]) == 0)
				return true;
	}
	return false;
}

static int take_items(const json_t *list, const char *what, size_t max, struct answer *a, struct error *err)
{
	const json_t *item;
	char name[32];
	size_t i;

	if (json_array_size(list) > max)
		return error_set(err, ERR_DATA_LOSS, "its manifest has more than %zu %s entries", max, what);
	a->items = calloc(json_array_size(list) + 1, sizeof *a->items);
	if (!a->items)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	json_array_foreach(list, i, item) {
		snprintf(name, sizeof name, "%s %zu", what, i + 1);
		if (take_descriptor(item, name, &a->items[a->n_items++], err) < 0)
			return -1;
	}
	return 0;
}

static int unusable_type(const char *what, const char *type, struct error *err)
{
	char shown[TYPE_SHOWN_MAX];

	copy_printable(shown, sizeof shown, type);
	return error_set(err, ERR_FAILED_PRECONDITION, "it is not a container image: %s is of type \"%s\"", what,
			 shown);
}

static int take_manifest(const json_t *root, struct answer *a, struct error *err)
{
	const json_t *config = json_object_get(root, "config"), *layers = json_object_get(root, "layers"), *layer;
	const char *type = string_of(config, "mediaType");
	size_t i;

	if (!json_is_object(config) || !json_is_array(layers))
		return error_set(err, ERR_DATA_LOSS, "its manifest names no config and layers");
	if (strcmp(type, OCI_CONFIG) != 0 && strcmp(type, DOCKER_CONFIG) != 0)
		return unusable_type("its config", type, err);
	json_array_foreach(layers, i, layer)
		if (!is_layer_type(string_of(layer, "mediaType")))
			return unusable_type("a layer", string_of(layer, "mediaType"), err);
	if (take_descriptor(config, "the config", &a->config, err) < 0)
		return -1;
	if (a->config.size > ANSWER_MAX)
		return error_set(err, ERR_DATA_LOSS, "its config is larger than %u MiB", ANSWER_MAX >> 20);
	return take_items(layers, "layer", ANSWER_LAYERS_MAX, a, err);
}

/* Whether the type, parameters aside, is `want`. */
static bool type_is(const char *type, const char *want)
{
	size_t len = strlen(want);

	return strncmp(type, want, len) == 0 && (type[len] == '\0' || type[len] == ';' || type[len] == ' ');
}

static int take_root(const json_t *root, const char *content_type, struct answer *a, struct error *err)
{
	const json_t *version = json_object_get(root, "schemaVersion"), *manifests = json_object_get(root, "manifests");
	const char *type = string_of(root, "mediaType");
	bool has_layers = json_object_get(root, "layers") || json_object_get(root, "config");

	if (!type[0] && content_type)
		type = content_type;
	if (json_integer_value(version) == 1 || strncmp(type, DOCKER_SCHEMA1, strlen(DOCKER_SCHEMA1)) == 0)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "it has the image only in Docker's old manifest schema 1, which is not supported: "
				 "push the image again with a current tool");
	if (!json_is_integer(version) || json_integer_value(version) != 2)
		return error_set(err, ERR_DATA_LOSS, "its answer is not an image manifest (no schemaVersion 2)");
	/* One document must not be two things, depending on who reads it. */
	if (manifests && has_layers)
		return error_set(err, ERR_DATA_LOSS, "its manifest claims to be an index and an image at once");
	if ((type_is(type, OCI_INDEX) || type_is(type, DOCKER_INDEX)) != (manifests != NULL))
		if (type_is(type, OCI_INDEX) || type_is(type, DOCKER_INDEX) || type_is(type, OCI_MANIFEST) ||
		    type_is(type, DOCKER_MANIFEST))
			return error_set(err, ERR_DATA_LOSS, "its manifest is not of the type that it claims to be");
	if (!manifests)
		return take_manifest(root, a, err);
	a->is_index = true;
	if (!json_is_array(manifests))
		return error_set(err, ERR_DATA_LOSS, "its index holds no list of manifests");
	return take_items(manifests, "index", ANSWER_ENTRIES_MAX, a, err);
}

int answer_parse(const char *text, size_t len, const char *content_type, struct answer *ret, struct error *err)
{
	_cleanup_answer_ struct answer a = { 0 };
	json_t *root = load_object(text, len, "manifest", err);
	int r;

	if (!root)
		return -1;
	r = take_root(root, content_type, &a, err);
	json_decref(root);
	if (r < 0)
		return -1;
	*ret = a;
	a = (struct answer){ 0 };
	return 0;
}

static void format_platform(struct buf *b, const struct platform *p)
{
	buf_addf(b, "%s/%s", p->os[0] ? p->os : "unknown", p->architecture[0] ? p->architecture : "unknown");
	if (p->variant[0])
		buf_addf(b, "/%s", p->variant);
}

/* Attestations and the like ride along in an index under the platform "unknown/unknown". */
static bool is_no_image(const struct platform *p)
{
	return strcmp(p->os, "unknown") == 0 || strcmp(p->architecture, "unknown") == 0;
}

/* How well the platform suits: 0 not at all, 3 best. */
static int platform_suits(const struct platform *p, const struct platform *want)
{
	if (strcmp(p->os, want->os) != 0 || strcmp(p->architecture, want->architecture) != 0)
		return 0;
	if (strcmp(p->variant, want->variant) == 0)
		return 3;
	if (!p->variant[0] || strcmp(p->variant, "v1") == 0)
		return 2;
	/* A later variant of the instruction set may stop a workload in its middle. */
	return strcmp(p->variant, want->variant) < 0 ? 1 : 0;
}

static int no_platform(const struct answer *index, const struct platform *want, struct error *err)
{
	_cleanup_buf_ struct buf have = BUF_INIT(PLATFORMS_TEXT_MAX), wanted = BUF_INIT(128);
	size_t shown = 0;

	format_platform(&wanted, want);
	for (size_t i = 0; i < index->n_items; i++) {
		if (is_no_image(&index->items[i].platform) || !index->items[i].has_platform)
			continue;
		if (++shown > PLATFORMS_SHOWN_MAX)
			break;
		buf_adds(&have, shown > 1 ? ", " : "");
		format_platform(&have, &index->items[i].platform);
	}
	if (shown == 0)
		return error_set(err, ERR_FAILED_PRECONDITION,
				 "it has no image for this machine's platform %s, nor for any other", buf_str(&wanted));
	return error_set(err, ERR_FAILED_PRECONDITION, "it has no image for this machine's platform %s; it has %s%s",
			 buf_str(&wanted), buf_str(&have), shown > PLATFORMS_SHOWN_MAX ? " and others" : "");
}

int answer_choose(const struct answer *index, const struct platform *want, const struct descriptor **ret,
		  struct error *err)
{
	const struct descriptor *best = NULL;
	int best_suits = 0;

	for (size_t i = 0; i < index->n_items; i++) {
		const struct descriptor *d = &index->items[i];
		int suits = d->has_platform ? platform_suits(&d->platform, want) : 0;

		if (suits > best_suits) {
			best = d;
			best_suits = suits;
		}
	}
	/* A lone entry need not say its platform: its config does, and is checked. */
	if (!best && index->n_items == 1 && !index->items[0].has_platform)
		best = &index->items[0];
	if (!best)
		return no_platform(index, want, err);
	*ret = best;
	return 0;
}

static int take_config(json_t *root, struct config_summary *c, struct error *err)
{
	const json_t *ids = json_object_get(json_object_get(root, "rootfs"), "diff_ids"), *id;
	size_t i;

	if (!json_is_array(ids) || json_array_size(ids) > ANSWER_LAYERS_MAX)
		return error_set(err, ERR_DATA_LOSS, "its config holds no valid rootfs.diff_ids");
	c->diff_ids = calloc(json_array_size(ids) + 1, sizeof *c->diff_ids);
	if (!c->diff_ids)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	json_array_foreach(ids, i, id) {
		const char *text = json_string_value(id);

		if (!text || !digest_valid(text))
			return error_set(err, ERR_DATA_LOSS, "diff id %zu of its config is not a sha256 digest", i + 1);
		memcpy(c->diff_ids[c->n_diff_ids++], text, DIGEST_TEXT);
	}
	return take_platform(root, &c->platform, err);
}

int config_parse(const char *text, size_t len, struct config_summary *ret, struct error *err)
{
	_cleanup_config_summary_ struct config_summary c = { 0 };
	json_t *root = load_object(text, len, "config", err);
	int r;

	if (!root)
		return -1;
	r = take_config(root, &c, err);
	json_decref(root);
	if (r < 0)
		return -1;
	*ret = c;
	c = (struct config_summary){ 0 };
	return 0;
}

int platform_check(const struct platform *image, const struct platform *want, struct error *err)
{
	_cleanup_buf_ struct buf have = BUF_INIT(128), wanted = BUF_INIT(128);

	/* Old tools left them out. */
	if (!image->os[0] || !image->architecture[0])
		return 0;
	if (strcmp(image->os, want->os) == 0 && strcmp(image->architecture, want->architecture) == 0)
		return 0;
	format_platform(&have, image);
	format_platform(&wanted, want);
	return error_set(err, ERR_FAILED_PRECONDITION, "it has no image for this machine's platform %s; it has %s",
			 buf_str(&wanted), buf_str(&have));
}

void answer_error_text(const char *text, size_t len, char *out, size_t size)
{
	json_t *root = json_loadb(text, len, 0, NULL);
	const json_t *first = json_array_get(json_object_get(root, "errors"), 0);
	const char *message = string_of(first, "message");

	copy_printable(out, size, message[0] ? message : string_of(root, "details"));
	json_decref(root);
}
