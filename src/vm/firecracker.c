/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "vm/monitor.h"
const struct monitor_ops monitor_firecracker = { .option = "none" };
