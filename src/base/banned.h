/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Included before everything else, by the compiler's command line. What is poisoned here does not compile: it
 * overruns buffers, hides errors, is not thread-safe or goes through a shell.
 */
#ifndef CAPSULE_BASE_BANNED_H
#define CAPSULE_BASE_BANNED_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if !defined(CAPSULE_ALLOW_BANNED)
#undef strcpy
#undef strcat
#undef strncpy
#undef strncat
#undef strtok
#undef alloca
#pragma GCC poison strcpy strcat strncpy strncat sprintf vsprintf gets strtok atoi atol alloca system popen
#endif

#endif
