/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The documents of an image: manifest (image-spec/manifest.md, and Docker's schema 2, which has the same shape), config
 * (config.md) and descriptors. They come from strangers: every field is checked here, once. Pure; thread-safe.
 */
#ifndef CAPSULE_IMAGE_OCI_H
#define CAPSULE_IMAGE_OCI_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OCI_DOCUMENT_MAX (4u << 20) /* bytes of a manifest or config */
#define OCI_LAYERS_MAX 500          /* what one overlay mount takes as lower directories */
#define OCI_DIGEST_TEXT 72          /* "sha256:" + 64 hex digits + NUL */

#define OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define OCI_INDEX "application/vnd.oci.image.index.v1+json"
#define OCI_CONFIG "application/vnd.oci.image.config.v1+json"
#define OCI_LAYER "application/vnd.oci.image.layer.v1.tar"
#define OCI_LAYER_GZIP OCI_LAYER "+gzip"
#define OCI_LAYER_ZSTD OCI_LAYER "+zstd"
#define DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define DOCKER_INDEX "application/vnd.docker.distribution.manifest.list.v2+json"

struct oci_descriptor {
	char digest[OCI_DIGEST_TEXT];
	int64_t size; /* never negative */
};

struct oci_manifest {
	struct oci_descriptor config;
	struct oci_descriptor *layers; /* lowest first */
	size_t n_layers;
};

/* digest and size of a descriptor. INVALID_ARGUMENT says what is wrong with it. */
int oci_descriptor_parse(const json_t *json, struct oci_descriptor *ret, struct error *err);

int oci_manifest_parse(const json_t *json, struct oci_manifest *ret, struct error *err);
void oci_manifest_release(struct oci_manifest *m);
#define _cleanup_oci_manifest_ _cleanup_(oci_manifest_release)

/* Checks rootfs.diff_ids of a config: n_layers SHA-256 digests. Returns the array, which belongs to the config. */
int oci_config_diff_ids(const json_t *config, size_t n_layers, const json_t **ret, struct error *err);

/* FAILED_PRECONDITION if the config says that the image is for another kind of machine. */
int oci_config_check_platform(const json_t *config, struct error *err);

/* Whether the media type is that of an index (a list of manifests by platform). NULL is not. */
bool oci_is_index(const char *media_type);

/* Picks this machine's manifest from an index and returns its descriptor, which belongs to the index. NOT_FOUND lists
 * the platforms there are. */
int oci_index_select(const json_t *index, const json_t **ret, struct error *err);

#define _cleanup_json_ _cleanup_(json_decrefp)

#endif
