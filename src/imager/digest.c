/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/digest.h"

#include <openssl/evp.h>
#include <stdio.h>

struct digest {
	EVP_MD_CTX *ctx;
};

struct digest *digest_new(void)
{
	struct digest *d = calloc(1, sizeof *d);

	if (!d)
		return NULL;
	d->ctx = EVP_MD_CTX_new();
	if (!d->ctx || EVP_DigestInit_ex(d->ctx, EVP_sha256(), NULL) != 1) {
		digest_free(d);
		return NULL;
	}
	return d;
}

void digest_free(struct digest *d)
{
	if (!d)
		return;
	EVP_MD_CTX_free(d->ctx);
	free(d);
}

/* SHA-256 in memory has no way to fail once it is set up; going on with a wrong state would be worse than ending. */
void digest_add(struct digest *d, const void *data, size_t len)
{
	if (EVP_DigestUpdate(d->ctx, data, len) != 1)
		abort();
}

static void print(const unsigned char *sum, unsigned n, char ret[DIGEST_TEXT])
{
	int at = snprintf(ret, DIGEST_TEXT, "sha256:");

	for (unsigned i = 0; i < n; i++)
		at += snprintf(ret + at, (size_t)(DIGEST_TEXT - at), "%02x", sum[i]);
}

void digest_finish(struct digest *d, char ret[DIGEST_TEXT])
{
	unsigned char sum[EVP_MAX_MD_SIZE];
	unsigned n;

	if (EVP_DigestFinal_ex(d->ctx, sum, &n) != 1 || n != 32)
		abort();
	print(sum, n, ret);
}

void digest_of(const void *data, size_t len, char ret[DIGEST_TEXT])
{
	unsigned char sum[EVP_MAX_MD_SIZE];
	unsigned n;

	if (EVP_Digest(data, len, sum, &n, EVP_sha256(), NULL) != 1 || n != 32)
		abort();
	print(sum, n, ret);
}
