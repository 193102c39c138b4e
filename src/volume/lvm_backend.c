/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "volume/backend.h"

int volume_lvm_backend_new(const char *pool, const char *worker, struct volume_backend **ret, struct error *err)
{
	return error_set(err, ERR_UNIMPLEMENTED, "not yet");
}
