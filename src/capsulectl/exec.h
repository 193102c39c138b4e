/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Running a command in a workload, joined to this program's standard streams. */
#ifndef CAPSULE_CAPSULECTL_EXEC_H
#define CAPSULE_CAPSULECTL_EXEC_H

#include "capsulectl/cli.h"

#include "workload.pb-c.h"

#define EXIT_OWN_FAILURE 125 /* as env, timeout and other programs that run a command have it */

/* Returns when the command has ended; cli->exit_status is its exit code then, or EXIT_OWN_FAILURE. */
int exec_run(struct cli *cli, const Capsule__V1__WorkloadExecConfig *config, struct error *err);

#endif
