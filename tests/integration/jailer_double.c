/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Stands in the place of Firecracker's jailer: says what it was told and what it sees and may do, and waits to be killed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static void list(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	printf("in %s:", path);
	while (dir && (entry = readdir(dir)))
		if (*entry->d_name != '.')
			printf(" %s", entry->d_name);
	printf("\n");
}

static void told(const char *what, int r)
{
	printf("%s: %s\n", what, r < 0 ? strerror(errno) : "done");
}

int main(int argc, char **argv)
{
	told("descriptor 3", fcntl(3, F_GETFD));
	printf("argv:");
	for (int i = 0; i < argc; i++)
		printf(" %s", argv[i]);
	printf("\n");
	list("/");
	told("write to its root", open("/file", O_WRONLY | O_CREAT, 0600));
	if (chdir("/jail/firecracker/web/root") < 0)
		return 1;
	list(".");
	list("disks");
	told("device", mknod("null", S_IFCHR | 0600, makedev(1, 3)));
	told("open it", open("null", O_RDWR));
	told("copy", open("firecracker", O_WRONLY | O_CREAT, 0700));
	told("own", chown("firecracker", 64123, 64123));
	told("mount", mount(".", ".", NULL, MS_BIND | MS_REC, NULL));
	printf("end\n");
	fflush(stdout);
	for (;;)
		pause();
}
