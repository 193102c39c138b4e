/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Sends an image archive from a file or from standard input ("-"). */
#ifndef CAPSULE_CAPSULECTL_PUSH_H
#define CAPSULE_CAPSULECTL_PUSH_H

#include "capsulectl/cli.h"

#include "image.pb-c.h"

/* The reply is the caller's. */
int push_archive(struct cli *cli, const char *path, Capsule__V1__ImagePushResponse **ret_reply, struct error *err);

#endif
