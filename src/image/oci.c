/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "image/oci.h"

#include "base/buf.h"
#include "image/layout.h"

#include <errno.h>
#include <string.h>

#if defined(__x86_64__)
#define MACHINE_ARCH "amd64"
#define MACHINE_VARIANT ""
#elif defined(__aarch64__)
#define MACHINE_ARCH "arm64"
#define MACHINE_VARIANT "v8"
#elif defined(__riscv) && __riscv_xlen == 64
#define MACHINE_ARCH "riscv64"
#define MACHINE_VARIANT ""
#else
#error "name this machine's architecture as GOARCH does"
#endif

#define PLATFORMS_TEXT_MAX 1024

int oci_descriptor_parse(const json_t *json, struct oci_descriptor *ret, struct error *err)
{
	const char *digest = json_string_value(json_object_get(json, "digest"));
	const json_t *size = json_object_get(json, "size");

	if (!digest || !layout_digest_hex(digest))
		return error_set(err, ERR_INVALID_ARGUMENT, "a descriptor has no SHA-256 digest");
	if (!json_is_integer(size) || json_integer_value(size) < 0)
		return error_set(err, ERR_INVALID_ARGUMENT, "the descriptor of %s has no valid size", digest);
	snprintf(ret->digest, sizeof ret->digest, "%s", digest);
	ret->size = json_integer_value(size);
	return 0;
}

void oci_manifest_release(struct oci_manifest *m)
{
	free(m->layers);
	*m = (struct oci_manifest){ 0 };
}

int oci_manifest_parse(const json_t *json, struct oci_manifest *ret, struct error *err)
{
	_cleanup_oci_manifest_ struct oci_manifest m = { 0 };
	const json_t *layers = json_object_get(json, "layers");
	size_t n = json_array_size(layers);

	if (json_integer_value(json_object_get(json, "schemaVersion")) != 2 || !json_is_array(layers))
		return error_set(err, ERR_INVALID_ARGUMENT, "it is not an image manifest of schema version 2");
	if (n > OCI_LAYERS_MAX)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "it has %zu layers; the limit is %d", n, OCI_LAYERS_MAX);
	if (oci_descriptor_parse(json_object_get(json, "config"), &m.config, err) < 0)
		return error_wrap(err, "config");
	m.layers = calloc(n + 1, sizeof *m.layers);
	if (!m.layers)
		return error_errno(err, ENOMEM, "cannot read the manifest");
	for (; m.n_layers < n; m.n_layers++)
		if (oci_descriptor_parse(json_array_get(layers, m.n_layers), &m.layers[m.n_layers], err) < 0)
			return error_wrap(err, "layer %zu", m.n_layers + 1);
	*ret = m;
	m = (struct oci_manifest){ 0 };
	return 0;
}

int oci_config_diff_ids(const json_t *config, size_t n_layers, const json_t **ret, struct error *err)
{
	const json_t *diff_ids = json_object_get(json_object_get(config, "rootfs"), "diff_ids");
	size_t n = json_array_size(diff_ids);

	if (n != n_layers)
		return error_set(err, ERR_INVALID_ARGUMENT, "the config names %zu layers and the manifest %zu", n,
				 n_layers);
	for (size_t i = 0; i < n; i++) {
		const char *digest = json_string_value(json_array_get(diff_ids, i));

		if (!digest || !layout_digest_hex(digest))
			return error_set(err, ERR_INVALID_ARGUMENT, "the config has a bad diff id for layer %zu",
					 i + 1);
	}
	*ret = diff_ids;
	return 0;
}

int oci_config_check_platform(const json_t *config, struct error *err)
{
	const char *os = json_string_value(json_object_get(config, "os"));
	const char *architecture = json_string_value(json_object_get(config, "architecture"));

	/* Old tools left them out. */
	if (!os || !*os || !architecture || !*architecture)
		return 0;
	if (!strcmp(os, "linux") && !strcmp(architecture, MACHINE_ARCH))
		return 0;
	return error_set(err, ERR_FAILED_PRECONDITION, "the image is for %.32s/%.32s and this machine is linux/" MACHINE_ARCH,
			 os, architecture);
}

bool oci_is_index(const char *media_type)
{
	return media_type && (!strcmp(media_type, OCI_INDEX) || !strcmp(media_type, DOCKER_INDEX));
}

static const char *platform_field(const json_t *entry, const char *name)
{
	const char *s = json_string_value(json_object_get(json_object_get(entry, "platform"), name));

	return s ? s : "";
}

static bool platform_fits(const json_t *entry)
{
	const char *variant = platform_field(entry, "variant");

	return !strcmp(platform_field(entry, "os"), "linux") &&
	       !strcmp(platform_field(entry, "architecture"), MACHINE_ARCH) &&
	       (!*variant || !strcmp(variant, MACHINE_VARIANT));
}

static int no_platform(const json_t *manifests, struct error *err)
{
	_cleanup_buf_ struct buf list = BUF_INIT(PLATFORMS_TEXT_MAX);
	const json_t *entry;
	size_t i;

	json_array_foreach(manifests, i, entry) {
		const char *os = platform_field(entry, "os"), *variant = platform_field(entry, "variant");

		if (*os && strcmp(os, "unknown") != 0) /* an attestation */
			buf_addf(&list, "%s%.32s/%.32s%s%.32s", list.len ? ", " : "", os,
				 platform_field(entry, "architecture"), *variant ? "/" : "", variant);
	}
	return error_set(err, ERR_FAILED_PRECONDITION, "the image has nothing for linux/" MACHINE_ARCH "; it has: %s",
			 list.len ? buf_str(&list) : "nothing");
}

int oci_index_select(const json_t *index, const json_t **ret, struct error *err)
{
	const json_t *manifests = json_object_get(index, "manifests"), *entry, *only = NULL;
	size_t i, n_plain = 0;

	json_array_foreach(manifests, i, entry) {
		if (platform_fits(entry)) {
			*ret = entry;
			return 0;
		}
		if (!json_object_get(entry, "platform")) {
			only = entry;
			n_plain++;
		}
	}
	/* An index of one image need not name its platform. */
	if (n_plain != 1 || json_array_size(manifests) != 1)
		return no_platform(manifests, err);
	*ret = only;
	return 0;
}
