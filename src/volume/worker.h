/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * How capsule-volume is started, and how it answers.
 *
 *     capsule-volume hold DEVICE SECONDS
 *
 * freezes the ext4 that is mounted from the device and writes the line STILL_FROZEN (volume/still.h); it thaws when its standard input
 * ends, exit status 0, or after the seconds, exit status VOLUMER_EXIT_LATE. If it cannot freeze, it writes "CODE message"
 * instead, CODE as error_code_name() gives it, exit status VOLUMER_EXIT_FAILED.
 *
 *     capsule-volume thaw DEVICE
 *
 * thaws it where such a process was killed; one that is not frozen stays as it is. Exit status 0, or else as above.
 *
 *     capsule-volume export|import
 *
 * Descriptor VOLUMER_FD is the storage of a volume. `export` writes it as a stream (volume/stream.h) to standard output;
 * `import` reads one from standard input into storage that reads as zeros. Exit status 0: done. VOLUMER_EXIT_FAILED: the
 * last line on standard error is "CODE message". Anything else is a bug.
 */
#ifndef CAPSULE_VOLUME_WORKER_H
#define CAPSULE_VOLUME_WORKER_H

#define VOLUMER_FD 3
#define VOLUMER_EXIT_FAILED 1
#define VOLUMER_EXIT_LATE 3

#endif
