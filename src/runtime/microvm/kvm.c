/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/microvm/kvm.h"

#include "base/cleanup.h"
#include "base/process.h"

#include <asm/processor-flags.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

/* The guest's memory. */
#define ADDRESS_CODE 0x1000
#define ADDRESS_PAGE_MAP 0x2000
#define ADDRESS_POINTERS 0x3000
#define ADDRESS_DIRECTORY 0x4000

/* AMD64 Architecture Programmer's Manual, volume 2: 5.3 (page tables), 3.1.7 (EFER). */
#define PAGE_PRESENT_WRITABLE 0x3
#define PAGE_LARGE 0x80
#define EFER_LONG_MODE_ENABLED 0x100
#define EFER_LONG_MODE_ACTIVE 0x400
#define SEGMENT_CODE 11
#define SEGMENT_DATA 3
#define RFLAGS_ALWAYS 0x2

/* What the loop runs is the processor's business, so these are few enough for an emulated one and too many for anything
 * that takes each for itself. */
static const uint8_t probe_code[] = {
	0x31, 0xc0,                                                 /* xor %eax, %eax */
	0x31, 0xd2,                                                 /* xor %edx, %edx */
	0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x60, 0x00, 0x00, /* lock cmpxchg16b KVM_SCRATCH */
	0xb9, 0x00, 0x00, 0x40, 0x00,                               /* mov $0x400000, %ecx */
	0xff, 0xc9,                                                 /* dec %ecx */
	0x75, 0xfc,                                                 /* jnz to the dec */
	0xe6, KVM_PORT_DONE,                                        /* out %al, $KVM_PORT_DONE */
	0xf4,                                                       /* hlt */
};

/* ---- the process that runs the guest; it was forked from a program with threads: system calls and memory only ---- */

static void write_page_entry(uint8_t *memory, size_t table, uint64_t entry)
{
	memcpy(memory + table, &entry, sizeof entry);
}

static int set_registers(int vcpu)
{
	const struct kvm_regs regs = { .rip = ADDRESS_CODE, .rsp = KVM_MEMORY, .rflags = RFLAGS_ALWAYS };
	const struct kvm_segment code = {
		.limit = UINT32_MAX, .selector = 8, .type = SEGMENT_CODE, .present = 1, .s = 1, .l = 1, .g = 1,
	};
	const struct kvm_segment data = {
		.limit = UINT32_MAX, .selector = 16, .type = SEGMENT_DATA, .present = 1, .db = 1, .s = 1, .g = 1,
	};
	struct kvm_sregs sregs;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		return -1;
	sregs.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
	sregs.cr3 = ADDRESS_PAGE_MAP;
	sregs.cr4 = X86_CR4_PAE;
	sregs.efer = EFER_LONG_MODE_ENABLED | EFER_LONG_MODE_ACTIVE;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0)
		return -1;
	return ioctl(vcpu, KVM_SET_REGS, &regs);
}

static enum kvm_outcome enter_guest(int vcpu, const struct kvm_run *run)
{
	while (ioctl(vcpu, KVM_RUN, 0) < 0)
		if (errno != EINTR && errno != EAGAIN)
			return KVM_LOST;
	if (run->exit_reason == KVM_EXIT_IO && run->io.port == KVM_PORT_DONE)
		return KVM_RAN;
	if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR && run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
		return KVM_INTERPRETED;
	return KVM_LOST;
}

static enum kvm_outcome run_guest(int device_fd, const uint8_t *code, size_t len)
{
	uint8_t *memory = mmap(NULL, KVM_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = { .memory_size = KVM_MEMORY, .userspace_addr = (uintptr_t)memory };
	int machine = ioctl(device_fd, KVM_CREATE_VM, 0), vcpu, run_size;
	struct kvm_run *run;

	if (memory == MAP_FAILED || machine < 0)
		return KVM_REFUSED;
	write_page_entry(memory, ADDRESS_PAGE_MAP, ADDRESS_POINTERS | PAGE_PRESENT_WRITABLE);
	write_page_entry(memory, ADDRESS_POINTERS, ADDRESS_DIRECTORY | PAGE_PRESENT_WRITABLE);
	write_page_entry(memory, ADDRESS_DIRECTORY, PAGE_PRESENT_WRITABLE | PAGE_LARGE);
	memcpy(memory + ADDRESS_CODE, code, len);
	if (ioctl(machine, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return KVM_REFUSED;
	vcpu = ioctl(machine, KVM_CREATE_VCPU, 0);
	run_size = ioctl(device_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vcpu < 0 || run_size < (int)sizeof *run)
		return KVM_REFUSED;
	run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED || set_registers(vcpu) < 0)
		return KVM_REFUSED;
	return enter_guest(vcpu, run);
}

static _Noreturn void guest_process(int device_fd, const uint8_t *code, size_t len, int cpu_ms)
{
	const struct itimerval limit = { .it_value = { .tv_sec = cpu_ms / 1000, .tv_usec = cpu_ms % 1000 * 1000 } };

	process_reset_signals();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* It ends with a SIGPROF. */
	setitimer(ITIMER_PROF, &limit, NULL);
	/* Nothing of the daemon's stays open in here. */
	if (dup2(device_fd, 0) < 0 || syscall(SYS_close_range, 1u, ~0u, 0u) < 0)
		_exit(KVM_REFUSED);
	_exit(run_guest(0, code, len));
}

/* ---- the daemon's side ---- */

enum kvm_outcome kvm_try(int device_fd, const uint8_t *code, size_t len, int cpu_ms)
{
	_cleanup_close_ int pidfd = -1;
	struct pollfd ended = { .events = POLLIN };
	pid_t pid;
	int status, n = -1;

	if (len > KVM_CODE_MAX)
		return KVM_REFUSED;
	pid = fork();
	if (pid == 0)
		guest_process(device_fd, code, len, cpu_ms);
	if (pid < 0)
		return KVM_REFUSED;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	ended.fd = pidfd;
	if (pidfd >= 0)
		n = poll(&ended, 1, KVM_WAIT_FACTOR * cpu_ms);
	if (n <= 0)
		kill(pid, SIGKILL);
	status = process_wait(pid);
	if (n == 0 || status == 128 + SIGPROF)
		return KVM_STUCK;
	if (n < 0)
		return KVM_LOST;
	return status >= KVM_RAN && status < KVM_STUCK ? (enum kvm_outcome)status : KVM_LOST;
}

static const char *explain(enum kvm_outcome outcome)
{
	switch (outcome) {
	case KVM_RAN: return "";
	case KVM_REFUSED: return "makes no virtual machine";
	case KVM_INTERPRETED: return "only interprets a guest's instructions, as this host has no hardware virtualisation";
	case KVM_LOST: return "did not run a guest to its end";
	case KVM_STUCK: return "did not run a guest of a few instructions within seconds";
	}
	return "";
}

static bool is_same_node(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_rdev == b->st_rdev &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* Nothing is remembered of what cannot be opened: to ask again costs nothing. */
static bool probe(struct kvm *kvm)
{
	_cleanup_close_ int fd = open(kvm->device, O_RDWR | O_CLOEXEC);
	enum kvm_outcome outcome;

	kvm->failed = false;
	if (fd < 0 || fstat(fd, &kvm->failed_node) < 0) {
		/* %m: strerror() is not for several threads. */
		snprintf(kvm->why_not, sizeof kvm->why_not, "%s cannot be opened: %m", kvm->device);
		return false;
	}
	kvm->failed = true;
	if (ioctl(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		snprintf(kvm->why_not, sizeof kvm->why_not, "%s is not KVM", kvm->device);
		return false;
	}
	outcome = kvm_try(fd, probe_code, sizeof probe_code, KVM_PROBE_MS);
	if (outcome != KVM_RAN)
		snprintf(kvm->why_not, sizeof kvm->why_not, "%s %s", kvm->device, explain(outcome));
	return outcome == KVM_RAN;
}

static bool has_failed(const struct kvm *kvm)
{
	struct stat now;

	return kvm->failed && stat(kvm->device, &now) == 0 && is_same_node(&now, &kvm->failed_node);
}

bool kvm_runs(struct kvm *kvm, char ret_why_not[KVM_REASON_MAX])
{
	bool runs;

	pthread_mutex_lock(&kvm->lock);
	if (!kvm->runs && !has_failed(kvm))
		kvm->runs = probe(kvm);
	runs = kvm->runs;
	if (!runs)
		memcpy(ret_why_not, kvm->why_not, KVM_REASON_MAX);
	pthread_mutex_unlock(&kvm->lock);
	return runs;
}
