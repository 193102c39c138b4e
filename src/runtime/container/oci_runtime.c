/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "runtime/container/oci_runtime.h"

#include "base/process.h"
#include "shim/oci_run.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#define PROBE_TIMEOUT_MS 10000

/* One entry for each choice that was ever asked for; a process asks for one. */
struct known {
	char *choice;
	struct oci_runtime runtime;
	struct stat sealed_from; /* the file that sealed_fd is a copy of */
	struct known *next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct known *known;

/* Whether the program exists and answers; else why not. */
static int probe(const char *name, struct oci_runtime *ret, struct error *err)
{
	_cleanup_process_result_ struct process_result result = { 0 };
	_cleanup_free_ char *program = process_find(name);
	const char *argv[] = { program, "--version", NULL };
	const struct process_run run = { .spawn = { .argv = argv }, .timeout_ms = PROBE_TIMEOUT_MS };

	if (!program)
		return error_set(err, ERR_FAILED_PRECONDITION, "the OCI runtime %s is not installed", name);
	if (process_run(&run, &result, err) < 0)
		return -1;
	if (result.exit_code != 0)
		return error_set(err, ERR_FAILED_PRECONDITION, "the OCI runtime %s does not work: \"%s --version\" exits %d",
				 name, program, result.exit_code);
	ret->is_crun = !strncmp(result.output, "crun ", 5);
	ret->program = steal_ptr(&program);
	ret->sealed_fd = -1;
	return 0;
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* An upgraded program is what the next start runs. */
static void refresh_sealed(struct known *k)
{
	_cleanup_close_ int fd = open(k->runtime.program, O_RDONLY | O_CLOEXEC);
	struct stat now = { 0 };

	if (fd >= 0 && fstat(fd, &now) == 0 && k->runtime.sealed_fd >= 0 && same_file(&now, &k->sealed_from))
		return;
	cleanup_closep(&k->runtime.sealed_fd);
	k->runtime.sealed_fd = fd >= 0 ? oci_run_sealed_copy(fd) : -1;
	k->sealed_from = now;
}

static int probe_choice(const char *choice, struct oci_runtime *ret, struct error *err)
{
	_cleanup_error_ struct error first = ERROR_INIT;

	if (strcmp(choice, "auto") != 0)
		return probe(choice, ret, err);
	if (probe("crun", ret, &first) == 0 || probe("runc", ret, NULL) == 0)
		return 0;
	return error_set(err, ERR_FAILED_PRECONDITION, "%s and runc is neither; install crun (apt install crun)",
			 error_message(&first));
}

int oci_runtime_find(const char *choice, struct oci_runtime *ret, struct error *err)
{
	struct known *k;
	int r = 0;

	if (!choice || !*choice)
		choice = "auto";
	pthread_mutex_lock(&lock);
	for (k = known; k && strcmp(k->choice, choice) != 0;)
		k = k->next;
	if (!k) {
		struct oci_runtime found;

		r = probe_choice(choice, &found, err);
		k = r == 0 ? calloc(1, sizeof *k) : NULL;
		if (k) {
			k->choice = strdup(choice);
			k->runtime = found;
		}
		if (r == 0 && (!k || !k->choice)) {
			free(k);
			r = error_errno(err, ENOMEM, "cannot remember the OCI runtime");
		}
		if (r == 0) {
			k->next = known;
			known = k;
		}
	}
	if (r == 0) {
		refresh_sealed(k);
		*ret = k->runtime;
		ret->sealed_fd = fcntl(k->runtime.sealed_fd, F_DUPFD_CLOEXEC, 0);
	}
	pthread_mutex_unlock(&lock);
	return r;
}

void oci_runtime_release(struct oci_runtime *r)
{
	cleanup_closep(&r->sealed_fd);
	r->sealed_fd = -1;
}

/* ---- its words ---- */

/* runc writes its log as `time="..." level=error msg="..."` with C's escapes. Leaves the message alone in the text. */
static void unquote_message(char *text)
{
	char *from = strstr(text, " msg=\""), *to = text;

	if (!from)
		return;
	for (from += 6; *from && *from != '"'; from++) {
		if (*from == '\\' && from[1])
			from++;
		*to++ = *from;
	}
	*to = '\0';
}

void oci_runtime_clarify(struct error *err)
{
	static const struct {
		const char *sign, *meaning;
	} terms[] = {
		{ "missing dynamic library", "its interpreter or dynamic loader is not in the image" },
		{ "not found in $PATH", "not found in the image" },
		{ "no such file or directory", "not found in the image" },
		{ "exec format error", "not a program for this machine" },
		{ "permission denied", "permission denied: it is not executable for the container's user" },
	};
	_cleanup_free_ char *text = strdup(error_message(err));
	const char *program, *end;

	if (!text)
		return;
	unquote_message(text);
	/* crun quotes the program with `, runc with ". */
	program = strstr(text, "exec: \"");
	program = program ? program + strlen("exec: \"") : strchr(text, '`') ? strchr(text, '`') + 1 : NULL;
	end = program && strstr(text, "exec") ? strpbrk(program, "`\"") : NULL;
	for (size_t i = 0; end && end > program && i < sizeof terms / sizeof terms[0]; i++)
		if (strcasestr(text, terms[i].sign)) {
			error_set(err, ERR_FAILED_PRECONDITION, "exec: %.*s: %s", (int)(end - program), program,
				  terms[i].meaning);
			return;
		}
	error_set(err, err->code, "%s", text);
}
