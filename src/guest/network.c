/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "guest/network.h"

#include "base/fs.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define LINK "eth0"

static int parse(const char *what, const char *text, struct sockaddr *ret, struct error *err)
{
	struct sockaddr_in address = { .sin_family = AF_INET };

	if (inet_pton(AF_INET, text, &address.sin_addr) != 1)
		return error_set(err, ERR_INVALID_ARGUMENT, "the %s \"%s\" is not an IPv4 address", what, text);
	memcpy(ret, &address, sizeof address);
	return 0;
}

static void mask_of(uint32_t prefix, struct sockaddr *ret)
{
	struct sockaddr_in mask = { .sin_family = AF_INET };

	mask.sin_addr.s_addr = htonl(prefix ? UINT32_MAX << (32 - prefix) : 0);
	memcpy(ret, &mask, sizeof mask);
}

static int set_up(int fd, const char *name, struct error *err)
{
	struct ifreq request = { 0 };

	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
	if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return error_errno(err, errno, "cannot look at the link %s", name);
	request.ifr_flags = (short)(request.ifr_flags | IFF_UP);
	return ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? error_errno(err, errno, "cannot set the link %s up", name) : 0;
}

static int add_default_route(int fd, const char *gateway, struct error *err)
{
	struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };

	if (parse("gateway", gateway, &route.rt_gateway, err) < 0)
		return -1;
	mask_of(0, &route.rt_dst);
	mask_of(0, &route.rt_genmask);
	return ioctl(fd, SIOCADDRT, &route) < 0 ? error_errno(err, errno, "cannot set the route by %s", gateway) : 0;
}

int network_up_loopback(struct error *err)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return fd < 0 ? error_errno(err, errno, "this kernel has no IPv4") : set_up(fd, "lo", err);
}

int network_set_address(const char *address, uint32_t prefix, const char *gateway, struct error *err)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = { .ifr_name = LINK };

	if (prefix > 32)
		return error_set(err, ERR_INVALID_ARGUMENT, "%u is no length of an IPv4 prefix", prefix);
	if (parse("address", address, &request.ifr_addr, err) < 0)
		return -1;
	if (fd < 0 || ioctl(fd, SIOCSIFADDR, &request) < 0)
		return error_errno(err, errno, "cannot give the link " LINK " the address %s", address);
	mask_of(prefix, &request.ifr_netmask);
	if (ioctl(fd, SIOCSIFNETMASK, &request) < 0)
		return error_errno(err, errno, "cannot give the link " LINK " a prefix of %u bits", prefix);
	if (set_up(fd, LINK, err) < 0)
		return -1;
	return *gateway ? add_default_route(fd, gateway, err) : 0;
}
