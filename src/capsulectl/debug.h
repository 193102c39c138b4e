/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsulectl capsule debug */
#ifndef CAPSULE_CAPSULECTL_DEBUG_H
#define CAPSULE_CAPSULECTL_DEBUG_H

#include "capsulectl/cli.h"

extern const struct command debug_command;

#endif
