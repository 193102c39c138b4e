/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "shim/oci_run.h"

#include "base/fs.h"
#include "base/timeutil.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

#define LOG "runtime.log"
#define PID_FILE "pid"
#define REASON_MAX 1024
#define STRING(x) STRING_OF(x)
#define STRING_OF(x) #x
/* include/linux/sched.h: "Getting shut down", "Forked but didn't exec"; in field 9 of /proc/PID/stat. */
#define PF_EXITING 0x4u
#define PF_FORKNOEXEC 0x40u
#ifndef MFD_EXEC /* Linux 6.3 */
#define MFD_EXEC 0x0010U
#endif
/* Exactly these make crun and runc take themselves for a sealed copy. */
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

const char *const oci_run_env[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL };

int oci_run_init(struct oci_run *run, const char *runtime, const char *root, const char *bundle, const char *name,
		 bool config_pipe, struct error *err)
{
	size_t n;

	*run = (struct oci_run){ .log = fs_path("%s/" LOG, bundle), .pid_file = fs_path("%s/" PID_FILE, bundle) };
	if (!run->log || !run->pid_file)
		return error_errno(err, ENOMEM, "cannot run %s", runtime);
	const char *const argv[] = { runtime, "--root", root, "--log", run->log, "--log-format", "text",
				     "run", "--detach", "--bundle", bundle, "--pid-file", run->pid_file };

	memcpy(run->argv, argv, sizeof argv);
	n = sizeof argv / sizeof *argv;
	if (config_pipe) {
		run->argv[n++] = "--config";
		run->argv[n++] = "/proc/self/fd/" STRING(OCI_RUN_CONFIG_FD);
	}
	run->argv[n++] = name;
	run->argv[n] = NULL;
	return 0;
}

void oci_run_release(struct oci_run *run)
{
	free(run->log);
	free(run->pid_file);
}

int oci_run_sealed_copy(int program_fd)
{
	_cleanup_close_ int copy = memfd_create("oci-runtime", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
	ssize_t n;

	if (copy < 0 && errno == EINVAL)
		copy = memfd_create("oci-runtime", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (copy < 0)
		return -1;
	while ((n = sendfile(copy, program_fd, NULL, 1 << 30)) > 0)
		;
	if (n < 0 || fcntl(copy, F_ADD_SEALS, SEALS) < 0)
		return -1;
	return steal_fd(&copy);
}

int oci_run_pid(int bundle_fd, pid_t *ret_pid, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	int pid;

	if (fs_read(bundle_fd, PID_FILE, 64, &text, NULL, err) < 0)
		return -1;
	if (sscanf(text, "%d", &pid) != 1 || pid <= 1)
		return error_set(err, ERR_INTERNAL, "the OCI runtime wrote no pid");
	*ret_pid = pid;
	return 0;
}

/* The kernel clears the one flag and sets the other before it shuts the gate. (runc does not pass the gate on; what it
 * cannot execute it finds out earlier.) */
bool oci_run_ended_before_exec(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	unsigned flags;
	char path[32];
	char *p;

	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (fs_read(AT_FDCWD, path, 4096, &text, NULL, NULL) < 0)
		return false;
	p = strrchr(text, ')');
	if (!p || sscanf(p, ") %*c %*d %*d %*d %*d %*d %u", &flags) != 1)
		return false;
	return flags & PF_FORKNOEXEC && flags & PF_EXITING;
}

/* The last line of a text, without the time that the runtimes put in front of it. */
static const char *last_line(char *text)
{
	size_t len = strlen(text);
	char *line, *space;
	int64_t ignored;

	while (len && (text[len - 1] == '\n' || text[len - 1] == '\r'))
		text[--len] = '\0';
	line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	space = strchr(line, ' ');
	if (space && space > line) {
		char last = space[-1];

		*space = '\0';
		if (last == ':')
			space[-1] = '\0';
		if (time_parse_rfc3339(line, &ignored) == 0)
			return space + 1;
		if (last == ':')
			space[-1] = last;
		*space = ' ';
	}
	return line;
}

/* It is in its log or, where it had no log any more, on the payload's stderr. */
int oci_run_failure(int bundle_fd, int stderr_fd, struct error *err)
{
	_cleanup_free_ char *log = NULL;
	char said[REASON_MAX];
	const char *text = "";
	ssize_t n;

	if (fs_read(bundle_fd, LOG, 64 << 10, &log, NULL, NULL) == 0)
		text = last_line(log);
	if (!*text) {
		n = read(stderr_fd, said, sizeof said - 1);
		said[n > 0 ? n : 0] = '\0';
		text = last_line(said);
	}
	return error_set(err, ERR_FAILED_PRECONDITION, "%s",
			 *text ? text : "the OCI runtime started no payload and does not say why");
}
