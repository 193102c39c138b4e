/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "tree/attributes.h"

#include <archive.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <string.h>
#include <sys/xattr.h>

#define PERMISSIONS 07777
#define SET_ID_BITS 06000

int attributes_check(struct archive_entry *entry, bool plain, struct error *err)
{
	int64_t uid = archive_entry_uid(entry), gid = archive_entry_gid(entry);

	/* 2^32 - 1 would mean "leave it" to chown(2). */
	if (!plain && (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX))
		return error_set(err, ERR_INVALID_ARGUMENT, "its owner %lld:%lld is out of range", (long long)uid,
				 (long long)gid);
	return 0;
}

mode_t attributes_mode(struct archive_entry *entry, bool plain)
{
	return archive_entry_perm(entry) & PERMISSIONS & ~(plain ? SET_ID_BITS : 0u);
}

mode_t attributes_first_mode(struct archive_entry *entry)
{
	return archive_entry_perm(entry) & 0777;
}

void attributes_times(struct archive_entry *entry, struct timespec ret[2])
{
	ret[0].tv_sec = archive_entry_mtime(entry);
	ret[0].tv_nsec = archive_entry_mtime_nsec(entry);
	if (ret[0].tv_nsec < 0 || ret[0].tv_nsec >= 1000000000)
		ret[0].tv_nsec = 0;
	ret[1] = ret[0];
}

bool attributes_xattr_wanted(const char *name, bool plain)
{
	if (!strncmp(name, "user.", 5))
		return true;
	return !plain && (!strcmp(name, "security.capability") || !strcmp(name, "system.posix_acl_access") ||
			  !strcmp(name, "system.posix_acl_default"));
}

int attributes_set_xattrs(int fd, struct archive_entry *entry, bool plain, struct error *err)
{
	const char *name;
	const void *value;
	size_t size;

	if (archive_entry_xattr_reset(entry) == 0)
		return 0;
	while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK)
		/* A file system without ACLs, or one that finds the value too large, does not make the tree
		 * useless; one that cannot hold capabilities does. */
		if (name && attributes_xattr_wanted(name, plain) && fsetxattr(fd, name, value, size, 0) < 0 &&
		    (!strncmp(name, "security.", 9) || (errno != ENOTSUP && errno != EOPNOTSUPP)))
			return error_errno(err, errno, "cannot set its attribute %s", name);
	return 0;
}

int attributes_set_owner(int fd, struct archive_entry *entry, bool plain, struct error *err)
{
	if (!plain && fchown(fd, (uid_t)archive_entry_uid(entry), (gid_t)archive_entry_gid(entry)) < 0)
		return error_errno(err, errno, "cannot set its owner");
	return 0;
}

/* The owner first: changing it clears set-user-ID bits and capabilities. What is right already, as with most new files, is
 * not set again: each change costs the file system a record in its journal. */
static int set_owner_and_mode(int fd, struct archive_entry *entry, bool plain, struct error *err)
{
	mode_t mode = attributes_mode(entry, plain);
	struct stat st;
	bool owned;

	if (fstat(fd, &st) < 0)
		return error_errno(err, errno, "cannot look at it");
	owned = plain || (st.st_uid == (uid_t)archive_entry_uid(entry) && st.st_gid == (gid_t)archive_entry_gid(entry));
	if (!owned && attributes_set_owner(fd, entry, plain, err) < 0)
		return -1;
	if ((!owned || (st.st_mode & PERMISSIONS) != mode) && fchmod(fd, mode) < 0)
		return error_errno(err, errno, "cannot set its mode");
	return 0;
}

/* The time last. */
int attributes_set(int fd, struct archive_entry *entry, bool plain, struct error *err)
{
	struct timespec times[2];

	attributes_times(entry, times);
	if (set_owner_and_mode(fd, entry, plain, err) < 0 || attributes_set_xattrs(fd, entry, plain, err) < 0)
		return -1;
	if (futimens(fd, times) < 0)
		return error_errno(err, errno, "cannot set its time");
	return 0;
}

int attributes_set_at(int dirfd, const char *name, struct archive_entry *entry, bool plain, struct error *err)
{
	struct timespec times[2];

	attributes_times(entry, times);
	if (!plain && fchownat(dirfd, name, (uid_t)archive_entry_uid(entry), (gid_t)archive_entry_gid(entry),
			       AT_SYMLINK_NOFOLLOW) < 0)
		return error_errno(err, errno, "cannot set its owner");
	if (utimensat(dirfd, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return error_errno(err, errno, "cannot set its time");
	return 0;
}

int attributes_get_xattrs(int fd, struct archive_entry *entry, struct error *err)
{
	_cleanup_free_ char *names = NULL, *value = NULL;
	ssize_t n = flistxattr(fd, NULL, 0);

	if (n <= 0)
		return n == 0 || errno == ENOTSUP ? 0 : error_errno(err, errno, "cannot list its attributes");
	names = malloc(XATTR_LIST_MAX);
	value = malloc(XATTR_SIZE_MAX);
	if (!names || !value)
		return error_errno(err, ENOMEM, "cannot read its attributes");
	n = flistxattr(fd, names, XATTR_LIST_MAX);
	for (char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
		ssize_t size = attributes_xattr_wanted(name, false) ? fgetxattr(fd, name, value, XATTR_SIZE_MAX) : -1;

		if (size >= 0)
			archive_entry_xattr_add_entry(entry, name, value, (size_t)size);
	}
	return 0;
}
