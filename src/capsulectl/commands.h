/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The commands at the top, each declared in the file of its subject. */
#ifndef CAPSULE_CAPSULECTL_COMMANDS_H
#define CAPSULE_CAPSULECTL_COMMANDS_H

#include "capsulectl/cli.h"

extern const struct command apply_command, diff_command;
extern const struct command workload_command;
extern const struct command volume_command;
extern const struct command image_command;
extern const struct command cp_command;
extern const struct command capsule_command, info_command, version_command;
extern const struct command completion_command, complete_command;
extern const struct command help_command, help_all_command;

/* A verb of workload. */
extern const struct command exec_command;

#endif
