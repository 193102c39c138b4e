/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * How capsule-copy is started for a workload, and how it answers.
 *
 *     capsule-copy in|out [--process | --guest | --state DIR --layer DIR... --volume MODE:DEVICE:PATH...] PATH
 *
 * With --process, descriptor COPIER_FD_PROCESS is a pidfd of a process of a running workload, whose mount namespace is
 * entered. With --guest, COPIER_FD_GUEST is a connection to the holder of a microVM, whose guest is asked for the copy
 * (SHIM_COPY, shim/protocol.h); its answer is this program's. Without either the root is mounted, in a mount namespace
 * of the program's own: the layers, lowest first, under the writable layer in the workload's directory in the state root,
 * and the volumes (MODE: ro, rw).
 *
 * `in` reads a tar stream from standard input, to its end unless it fails; `out` writes one to standard output. Exit
 * status 0: done. 1: failed; the last line on standard error is "CODE message", CODE as error_code_name() gives it.
 * Anything else is a bug.
 */
#ifndef CAPSULE_COPIER_PROTOCOL_H
#define CAPSULE_COPIER_PROTOCOL_H

#define COPIER_FD_PROCESS 3
#define COPIER_FD_GUEST 3
#define COPIER_EXIT_FAILED 1

#endif
