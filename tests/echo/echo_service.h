/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The service of echo.proto. */
#ifndef CAPSULE_TESTS_ECHO_SERVICE_H
#define CAPSULE_TESTS_ECHO_SERVICE_H

#include "echo.pb-c.h"
#include "rpc/rpc.h"

#define ECHO_METHODS 4

extern const struct rpc_method echo_methods[ECHO_METHODS];

#endif
