/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/flatten.h"

#include "base/confine.h"
#include "image/payload.h"
#include "imager/erofs.h"

/* Reads whatever the image's owners and modes are, and which directories are opaque. */
static const uint64_t CAPABILITIES = CONFINE_KEEP(CAP_DAC_OVERRIDE) | CONFINE_KEEP(CAP_FOWNER) |
				     CONFINE_KEEP(CAP_SYS_ADMIN);

int flatten(const char *stage, char *const *layers, size_t n_layers, struct error *err)
{
	_cleanup_layers_ struct layers tree = LAYERS_INIT;

	/* It sees the layers, which are open, and nothing else. */
	if (layers_open(layers, n_layers, &tree, err) < 0 || confine(stage, CAPABILITIES, err) < 0 ||
	    layers_read(&tree, err) < 0)
		return -1;
	return erofs_write(PAYLOAD_FD, &tree, err);
}
