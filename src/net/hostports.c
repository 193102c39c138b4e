/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/fs.h"
#include "net/dns.h"
#include "net/net.h"
#include "net/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>

#define SOCKETS_MAX 64 /* on one port: one an address, or a group with SO_REUSEPORT */

struct sockets {
	uint16_t port; /* network byte order */
	uint32_t inodes[SOCKETS_MAX];
	size_t n;
};

static void socket_look(const struct nlmsghdr *message, void *arg)
{
	const struct inet_diag_msg *d = mnl_nlmsg_get_payload(message);
	struct sockets *s = arg;

	if (mnl_nlmsg_get_payload_len(message) >= sizeof *d && d->id.idiag_sport == s->port && s->n < SOCKETS_MAX)
		s->inodes[s->n++] = d->idiag_inode;
}

/* A UDP socket that waits for anybody is in the state that TCP calls closed; a connected one is a client's. */
static int sockets_find(struct nl *nl, bool udp, int family, struct sockets *s)
{
	struct nl_batch batch = NL_BATCH_INIT;
	struct inet_diag_req_v2 *req = nl_batch_add(&batch, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, sizeof *req);
	int r;

	req->sdiag_family = (uint8_t)family;
	req->sdiag_protocol = udp ? IPPROTO_UDP : IPPROTO_TCP;
	req->idiag_states = udp ? 1u << TCP_CLOSE : 1u << TCP_LISTEN;
	req->id.idiag_sport = s->port;
	r = nl_query(nl, &batch, socket_look, s);
	return r == -ENOENT ? 0 : r; /* a kernel without this family */
}

/* Whether one of the process's descriptors is one of the sockets. Processes and descriptors may go meanwhile. */
static bool process_holds(const char *pid, const struct sockets *s)
{
	_cleanup_free_ char *path = fs_path("/proc/%s/fd", pid);
	_cleanup_closedir_ DIR *dir = path ? opendir(path) : NULL;
	const struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char target[64], want[64];
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);

		if (n <= 0)
			continue;
		target[n] = '\0';
		for (size_t i = 0; i < s->n; i++) {
			snprintf(want, sizeof want, "socket:[%u]", s->inodes[i]);
			if (strcmp(target, want) == 0)
				return true;
		}
	}
	return false;
}

static char *describe(const char *pid)
{
	_cleanup_free_ char *path = fs_path("/proc/%s/comm", pid), *comm = NULL;

	if (!path || fs_read(AT_FDCWD, path, 256, &comm, NULL, NULL) < 0)
		return fs_path("process %s", pid);
	comm[strcspn(comm, "\n")] = '\0';
	return fs_path("%s (pid %s)", comm, pid);
}

/* The first process that holds one of the sockets, unless it is a resolver of ours: that one has the bridge's address
 * to itself and is in nobody's way. *ret_ours says so. NULL if none can be seen. */
static char *find_owner(const struct sockets *s, bool *ret_ours)
{
	_cleanup_closedir_ DIR *proc = opendir("/proc");
	const struct dirent *entry;

	while (proc && (entry = readdir(proc))) {
		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || !process_holds(entry->d_name, s))
			continue;
		if (!dns_is_resolver(entry->d_name))
			return describe(entry->d_name);
		*ret_ours = true;
	}
	return NULL;
}

int net_host_port_holder(bool udp, uint16_t port, char **ret_holder, struct error *err)
{
	_cleanup_nl_ struct nl nl = NL_INIT;
	struct sockets s = { .port = htons(port) };
	bool ours = false;
	char *owner = NULL;
	int r = nl_open(&nl, NETLINK_SOCK_DIAG);

	if (r == 0)
		r = sockets_find(&nl, udp, AF_INET, &s);
	if (r == 0)
		r = sockets_find(&nl, udp, AF_INET6, &s);
	if (r < 0)
		return nl_error(&nl, r, err, "cannot find out who uses %s port %u", udp ? "udp" : "tcp", port);
	if (s.n) {
		owner = find_owner(&s, &ours);
		if (!owner && !ours && !(owner = strdup("a process that cannot be seen from here")))
			return error_errno(err, ENOMEM, "cannot find out who uses port %u", port);
	}
	*ret_holder = owner;
	return 0;
}
