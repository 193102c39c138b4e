/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Does KVM really run guests here?
 *
 * That there is a /dev/kvm says little. In a virtual machine without nested virtualisation it may be there and interpret a
 * guest's instructions one by one, some microseconds each: real mode code and HLT work, an ordinary kernel never comes up
 * (or ends with "emulation failure" at its first CMPXCHG16B). So a guest of a few instructions in long mode is run, in a
 * process of its own, and has to be done within KVM_PROBE_MS of a processor's time, for which a busy host may let it wait: one
 * CMPXCHG16B, and a loop that takes milliseconds on a processor, also on an emulated one, and half a minute when interpreted.
 *
 * The answer is found out when it is first needed. That it runs is kept. That it does not is kept for as long as the device's
 * node is the same: a daemon may start before the module is loaded or the node is there. Threads: any; callers that come
 * meanwhile wait.
 */
#ifndef CAPSULE_RUNTIME_MICROVM_KVM_H
#define CAPSULE_RUNTIME_MICROVM_KVM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define KVM_DEVICE "/dev/kvm"
#define KVM_PROBE_MS 3000
#define KVM_WAIT_FACTOR 15 /* from a processor's time to what a clock shows, on a very busy host */
#define KVM_REASON_MAX 256

struct kvm {
	pthread_mutex_t lock;
	const char *device;
	bool runs, failed;
	struct stat failed_node; /* when it failed */
	char why_not[KVM_REASON_MAX];
};

#define KVM_INIT(path) { .lock = PTHREAD_MUTEX_INITIALIZER, .device = (path) }

/* Blocks for KVM_WAIT_FACTOR * KVM_PROBE_MS at most when it has to try. When it is false ret_why_not is half a sentence. */
bool kvm_runs(struct kvm *kvm, char ret_why_not[KVM_REASON_MAX]);

enum kvm_outcome {
	KVM_RAN,         /* the guest wrote KVM_PORT_DONE and left */
	KVM_REFUSED,     /* KVM would not make a machine */
	KVM_INTERPRETED, /* an instruction that KVM cannot interpret, and should not have to */
	KVM_LOST,        /* it ended in some other way */
	KVM_STUCK,       /* it did not end */
};

/* A guest ends with a byte written to this port. */
#define KVM_PORT_DONE 0x10
#define KVM_CODE_MAX 4096

/* Runs code, in long mode, with the first 2 MiB mapped to themselves, of which KVM_MEMORY bytes are there; those from
 * KVM_SCRATCH on are its own, zero at first, 16-byte aligned. It may take cpu_ms of a processor's time; blocks for KVM_WAIT_FACTOR
 * times as long at most. */
#define KVM_MEMORY 0x8000
#define KVM_SCRATCH 0x6000
enum kvm_outcome kvm_try(int device_fd, const uint8_t *code, size_t len, int cpu_ms);

#endif
