/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * A file reaches its disk while another program still writes it, so that the fsync(2) at its end finds little to do.
 */
#ifndef CAPSULE_IMAGER_WRITE_BEHIND_H
#define CAPSULE_IMAGER_WRITE_BEHIND_H

/* For a regular file that grows: a child process follows it until this process ends, which may become another program
 * (execve(2)) meanwhile. fd stays the caller's; it is none of the standard streams. Where it cannot be done nothing happens:
 * it only saves time. To be called while the process has one thread. */
void write_behind_start(int fd);

#endif
