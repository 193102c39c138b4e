/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/holder.h"

#include "base/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

int holder_parse_number(const char *text, uint64_t max, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno || end == text || *end || *ret > max ? -1 : 0;
}

void holder_keep_fds(int last)
{
	close_range((unsigned)last + 1, ~0u, 0);
	for (int fd = SHIM_FD_CONNECTION; fd <= last; fd++)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* Nobody waits for a holder: its parent may be gone, or may come later. */
int holder_detach(struct error *err)
{
	pid_t pid = fork();

	if (pid < 0)
		return error_errno(err, errno, "cannot fork");
	if (pid > 0)
		_exit(0);
	setsid();
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return error_errno(err, errno, "cannot become a subreaper");
	/* Pins no directory that somebody may want to unmount. */
	if (chdir("/") < 0)
		return error_errno(err, errno, "cannot change to /");
	return 0;
}

void holder_block_signals(void)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	/* A log file that reaches a file size limit is a write error, not an end. */
	sigaction(SIGXFSZ, &ignore, NULL);
}

void holder_lower_capabilities(uint64_t kept, bool for_good)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (syscall(SYS_capget, &header, data) < 0)
		return;
	for (unsigned i = 0; i < 2; i++) {
		uint32_t keep = (uint32_t)(kept >> (32 * i));

		data[i].effective &= keep;
		data[i].permitted &= for_good ? keep : ~0u;
		data[i].inheritable = 0;
	}
	(void)syscall(SYS_capset, &header, data);
}

void holder_say_last(int connection, enum shim_type type, const void *body, size_t length)
{
	char ignored;

	(void)shim_send(connection, type, body, length);
	shutdown(connection, SHUT_RD);
	while (recv(connection, &ignored, sizeof ignored, MSG_DONTWAIT) > 0)
		;
}

void holder_refuse(const struct error *reason)
{
	const char *text = error_message(reason);
	size_t len = strnlen(text, SHIM_BODY_MAX);
	int fd;

	holder_say_last(SHIM_FD_CONNECTION, SHIM_FAILED, text, len);
	fcntl(SHIM_FD_LISTEN, F_SETFL, O_NONBLOCK);
	while ((fd = accept4(SHIM_FD_LISTEN, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		holder_say_last(fd, SHIM_FAILED, text, len);
		close(fd);
	}
}

void holder_refuse_exec(int connection, int exit_code, const char *why)
{
	struct shim_exec_failed failed = { .exit_code = exit_code };

	snprintf(failed.text, sizeof failed.text, "%s", why);
	(void)shim_send(connection, SHIM_EXEC_FAILED, &failed, sizeof failed.exit_code + strlen(failed.text));
}

static int drop_text(struct dl_phdr_info *info, size_t size, void *arg)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

	for (unsigned i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];
		uintptr_t from = (info->dlpi_addr + p->p_vaddr) & ~(page - 1);
		uintptr_t to = (info->dlpi_addr + p->p_vaddr + p->p_memsz) & ~(page - 1);

		if (p->p_type == PT_LOAD && !(p->p_flags & PF_W) && to > from)
			madvise((void *)from, to - from, MADV_DONTNEED);
	}
	return 0;
}

void holder_shrink(void)
{
	malloc_trim(0);
	dl_iterate_phdr(drop_text, NULL);
}
