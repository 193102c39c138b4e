/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The verbs of `workload` that only look: wait, events, stats. */
#ifndef CAPSULE_CAPSULECTL_OBSERVE_H
#define CAPSULE_CAPSULECTL_OBSERVE_H

#include "capsulectl/cli.h"

extern const struct command workload_wait_command, workload_events_command, workload_stats_command;

#endif
