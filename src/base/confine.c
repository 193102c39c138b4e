/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/confine.h"

#include <errno.h>
#include <linux/landlock.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int drop_capabilities(uint64_t keep, struct error *err)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	/* The bounding set first: dropping from it takes CAP_SETPCAP. EINVAL ends the kernel's list. */
	for (unsigned long cap = 0; cap < 64; cap++)
		if (!(keep & CONFINE_KEEP(cap)) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
			if (errno == EINVAL)
				break;
			return error_errno(err, errno, "cannot give up capabilities");
		}
	if (syscall(SYS_capget, &header, data) < 0)
		return error_errno(err, errno, "cannot read the capabilities");
	for (unsigned i = 0; i < 2; i++) {
		uint32_t kept = (uint32_t)(keep >> (32 * i));

		data[i].permitted &= kept;
		data[i].effective = data[i].permitted;
		data[i].inheritable = 0;
	}
	if (syscall(SYS_capset, &header, data) < 0)
		return error_errno(err, errno, "cannot give up capabilities");
	return 0;
}

#ifdef __SANITIZE_ADDRESS__
/* The leak check at the end of a sanitized program reads /proc, which is out of reach then. */
static int root_is_changed;
int __lsan_is_turned_off(void);

int __lsan_is_turned_off(void)
{
	return root_is_changed;
}

static void note_changed_root(void)
{
	root_is_changed = 1;
}
#else
static void note_changed_root(void)
{
}
#endif

int confine(const char *root, uint64_t kept, struct error *err)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return error_errno(err, errno, "cannot confine the process");
	if (root && (chroot(root) < 0 || chdir("/") < 0))
		return error_errno(err, errno, "cannot confine the process to %s", root);
	if (root)
		note_changed_root();
	return drop_capabilities(kept, err);
}

/* ---- files ---- */

#define SEARCH_RIGHTS LANDLOCK_ACCESS_FS_READ_DIR
#define READ_RIGHTS (SEARCH_RIGHTS | LANDLOCK_ACCESS_FS_READ_FILE)
#define MODIFY_RIGHTS (READ_RIGHTS | LANDLOCK_ACCESS_FS_WRITE_FILE)
#define MANAGE_RIGHTS (MODIFY_RIGHTS | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE)
/* All that the first version of Landlock knows: what is handled and not allowed is refused. */
#define ALL_RIGHTS ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

int confine_files_begin(void)
{
	const struct landlock_ruleset_attr attr = { .handled_access_fs = ALL_RIGHTS };

	return (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0);
}

int confine_files_allow(int rules, int dirfd, enum confine_use use, struct error *err)
{
	static const uint64_t rights[] = { SEARCH_RIGHTS, READ_RIGHTS, MODIFY_RIGHTS, MANAGE_RIGHTS };
	const struct landlock_path_beneath_attr attr = { .allowed_access = rights[use], .parent_fd = dirfd };

	if (rules < 0 || syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &attr, 0) == 0)
		return 0;
	return error_errno(err, errno, "cannot name the files that the process may use");
}

int confine_files_enforce(int rules, struct error *err)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    (rules >= 0 && syscall(SYS_landlock_restrict_self, rules, 0) < 0))
		return error_errno(err, errno, "cannot confine the process to its files");
	note_changed_root();
	return 0;
}
