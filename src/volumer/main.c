/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* capsule-volume: what is done to a volume's storage in a process of its own (volume/worker.h): a stream of foreign bytes is
 * read by a process that sees nothing but that storage, and a frozen file system is thawed whatever becomes of the daemon. */
#include "base/confine.h"
#include "base/fs.h"
#include "volume/stream.h"
#include "volume/worker.h"
#include "volumer/hold.h"

#include <string.h>

static const char USAGE[] = "usage: capsule-volume hold DEVICE SECONDS\n"
			    "       capsule-volume thaw DEVICE\n"
			    "       capsule-volume export > STREAM\n"
			    "       capsule-volume import < STREAM\n"
			    "\n"
			    "Works on the storage of a volume. Started by capsuled; not meant to be run by hand.\n";

/* "CODE message", one line, whatever is in it. */
static int report(int fd, struct error *err)
{
	_cleanup_free_ char *line = NULL;

	for (char *p = err->message; p && *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	line = fs_path("%s %s\n", error_code_name(err->code), error_message(err));
	if (line)
		(void)fs_write_all(fd, line, strlen(line));
	return VOLUMER_EXIT_FAILED;
}

static int run_hold(const char *device, const char *seconds)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	char *end;
	long n = strtol(seconds, &end, 10);
	bool late;

	if (*end || n < 1 || n > 3600) {
		fputs(USAGE, stderr);
		return 2;
	}
	if (hold(device, (int)n, &late, &err) < 0)
		return report(STDOUT_FILENO, &err);
	return late ? VOLUMER_EXIT_LATE : 0;
}

static int run_thaw(const char *device)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	return thaw(device, &err) < 0 ? report(STDOUT_FILENO, &err) : 0;
}

/* A directory that every host has, where nothing can be made; nothing is to be found in it once there is no /proc. */
#define EMPTY "/proc/self/fdinfo"

static int run_transfer(bool import)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	int r = confine(EMPTY, 0, &err);

	if (r == 0)
		r = import ? stream_import(STDIN_FILENO, VOLUMER_FD, &err) : stream_export(VOLUMER_FD, STDOUT_FILENO, &err);
	return r < 0 ? report(STDERR_FILENO, &err) : 0;
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "hold"))
		return run_hold(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "thaw"))
		return run_thaw(argv[2]);
	if (argc == 2 && (!strcmp(argv[1], "export") || !strcmp(argv[1], "import")))
		return run_transfer(argv[1][0] == 'i');
	fputs(USAGE, argc == 2 && !strcmp(argv[1], "--help") ? stdout : stderr);
	return argc == 2 && !strcmp(argv[1], "--help") ? 0 : 2;
}
