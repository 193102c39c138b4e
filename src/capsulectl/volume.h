/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What apply needs of the volumes, and the verbs that have files of their own. */
#ifndef CAPSULE_CAPSULECTL_VOLUME_H
#define CAPSULE_CAPSULECTL_VOLUME_H

#include "capsulectl/cli.h"

#include "volume.pb-c.h"

/* Makes the volume as asked for: created if missing, grown if smaller, left alone otherwise. Prints the result. With
 * dry_run it only says what it would do. */
int volume_apply(struct cli *cli, Capsule__V1__VolumeCreateRequest *wanted, bool dry_run, struct error *err);

extern const struct command volume_snapshot_command, volume_clone_command;
extern const struct command volume_export_command, volume_import_command, volume_du_command;

#endif
