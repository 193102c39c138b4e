/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a registry answers with: image manifests and indexes (image-spec/manifest.md, image-index.md, and Docker's
 * schema 2), image configs (config.md), error bodies (distribution-spec, "Error Codes"). Pure parsers of foreign bytes;
 * thread-safe. What is wrong with an answer is DATA_LOSS; what is right but of no use here FAILED_PRECONDITION.
 */
#ifndef CAPSULE_IMAGER_ANSWER_H
#define CAPSULE_IMAGER_ANSWER_H

#include "base/error.h"
#include "imager/content.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ANSWER_MAX (4u << 20)     /* of a manifest, an index or a config */
#define ANSWER_LAYERS_MAX 512
#define ANSWER_ENTRIES_MAX 1024

/* The Accept header under which manifests are asked for. */
extern const char answer_accept[];

struct platform {
	char os[32], architecture[32], variant[16]; /* "" when not said */
};

/* "linux" and what GOARCH calls this machine. */
void platform_of_this_machine(struct platform *ret);

struct descriptor {
	char digest[DIGEST_TEXT];
	uint64_t size;
	bool has_platform;
	struct platform platform; /* entries of an index */
};

struct answer {
	bool is_index;
	struct descriptor config;    /* of a manifest */
	struct descriptor *items;    /* the layers, lowest first, or the entries of the index */
	size_t n_items;
};

void answer_release(struct answer *a);
#define _cleanup_answer_ _cleanup_(answer_release)

/* content_type may be NULL; the document's own mediaType comes first. */
int answer_parse(const char *text, size_t len, const char *content_type, struct answer *ret, struct error *err);

/* The entry of an index for the platform. FAILED_PRECONDITION lists what there is. */
int answer_choose(const struct answer *index, const struct platform *want, const struct descriptor **ret,
		  struct error *err);

struct config_summary {
	struct platform platform;
	char (*diff_ids)[DIGEST_TEXT]; /* owned */
	size_t n_diff_ids;
};

void config_summary_release(struct config_summary *c);
#define _cleanup_config_summary_ _cleanup_(config_summary_release)

int config_parse(const char *text, size_t len, struct config_summary *ret, struct error *err);

/* FAILED_PRECONDITION if the platform that an image says it is for is not `want`. */
int platform_check(const struct platform *image, const struct platform *want, struct error *err);

/* The first message of an error body as printable ASCII, cut to size; "" when there is none. */
void answer_error_text(const char *text, size_t len, char *out, size_t size);

/* "sha256:" and 64 lower-case hex digits. */
bool digest_valid(const char *digest);

#endif
