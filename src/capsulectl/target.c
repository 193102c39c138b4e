/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/target.h"

#include "base/fs.h"
#include "rpc/address.h"

#include <errno.h>

#define START "start it with \"systemctl start capsuled\""

void target_release(struct target *target)
{
	free(target->address);
	target->address = NULL;
}

int target_resolve(const char *option, const char *environment, const char *socket_path, struct target *ret,
		   struct error *err)
{
	struct target t = { NULL, TARGET_THIS_PORT };
	const char *given = NULL;
	struct rpc_address address;

	if (option && *option) {
		t.origin = TARGET_OPTION;
		given = option;
	} else if (environment && *environment) {
		t.origin = TARGET_ENVIRONMENT;
		given = environment;
	}
	if (given && rpc_address_parse(given, &address, err) < 0)
		return error_wrap(err, "%s", t.origin == TARGET_OPTION ? "--capsule" : "CAPSULE_HOST");
	if (given) {
		t.address = fs_path("%s", given);
	} else if (access(socket_path, F_OK) == 0 || errno != ENOENT) {
		/* Anything but "does not exist" is worth an attempt: its error tells what is wrong. */
		t.origin = TARGET_THIS_SOCKET;
		t.address = fs_path("unix:%s", socket_path);
	} else {
		t.address = fs_path("%s", TARGET_LOCAL);
	}
	if (!t.address)
		return error_errno(err, ENOMEM, "cannot choose a daemon");
	*ret = t;
	return 0;
}

static int socket_error(const char *path, int errnum, struct error *err)
{
	switch (errnum) {
	case ENOENT:
		return error_set(err, ERR_UNAVAILABLE, "the daemon is not running: %s does not exist; " START
				 " or name another with --capsule", path);
	case ECONNREFUSED:
		return error_set(err, ERR_UNAVAILABLE, "the daemon is not running: nobody listens on %s; " START, path);
	case EACCES:
	case EPERM:
		return error_set(err, ERR_PERMISSION_DENIED, "you may not use %s; become root, or join the group "
				 "\"capsule\" (usermod -aG capsule USER) and log in again", path);
	default:
		error_errno(err, errnum, "cannot connect to %s", path);
		err->code = ERR_UNAVAILABLE;
		return -1;
	}
}

int target_error(const struct target *target, int errnum, struct error *err)
{
	if (strncmp(target->address, "unix:", 5) == 0)
		return socket_error(target->address + 5, errnum, err);
	if (target->origin == TARGET_THIS_PORT)
		return error_set(err, ERR_UNAVAILABLE, "no daemon is running here: %s does not exist and nothing "
				 "listens on %s; " START " or name another with --capsule HOST:PORT",
				 TARGET_SOCKET, TARGET_LOCAL);
	switch (errnum) {
	case ECONNREFUSED:
		return error_set(err, ERR_UNAVAILABLE, "nothing listens on %s; check the address, and that the daemon "
				 "there runs and listens on it", target->address);
	case EHOSTUNREACH:
	case ENETUNREACH:
		return error_set(err, ERR_UNAVAILABLE, "cannot reach %s; check the host's name and the network",
				 target->address);
	case ETIMEDOUT:
		return error_set(err, ERR_UNAVAILABLE, "%s does not answer; check the address and the network",
				 target->address);
	default:
		error_errno(err, errnum, "cannot connect to %s", target->address);
		err->code = ERR_UNAVAILABLE;
		return -1;
	}
}
