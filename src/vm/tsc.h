/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The rate of this machine's time stamp counter, which an emulated guest sees too. */
#ifndef CAPSULE_VM_TSC_H
#define CAPSULE_VM_TSC_H

/* Begins to measure; once, at the program's start. */
void tsc_begin(void);

/* In kHz: measured since tsc_begin(), over TSC_WINDOW_NS at least, which are waited for if they have not passed. Exact to
 * some millionths. The same at every call. */
#define TSC_WINDOW_NS 3000000
unsigned tsc_khz(void);

#endif
