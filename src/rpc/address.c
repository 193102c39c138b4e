/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/address.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static bool host_is_loopback(const char *host)
{
	struct in6_addr v6;
	struct in_addr v4;

	if (strcmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static int parse_port(const char *text, uint16_t *ret)
{
	char *end;
	long port;

	if (*text < '0' || *text > '9')
		return -1;
	port = strtol(text, &end, 10);
	if (*end || port > 65535)
		return -1;
	*ret = (uint16_t)port;
	return 0;
}

int rpc_address_parse(const char *text, struct rpc_address *ret, struct error *err)
{
	struct rpc_address a = { .is_unix = strncmp(text, "unix:", 5) == 0 };
	const char *colon = strrchr(text, ':'), *host = text;
	size_t len;

	if (a.is_unix) {
		/* "unix:///path" is how other gRPC programs write it. */
		const char *path = strncmp(text, "unix:///", 8) == 0 ? text + 7 : text + 5;

		if (!*path || strlen(path) >= sizeof(a.path))
			return error_set(err, ERR_INVALID_ARGUMENT,
					 "\"%s\" is not an address: the path of a Unix socket has 1 to %zu characters",
					 text, sizeof(a.path) - 1);
		memcpy(a.path, path, strlen(path) + 1);
		*ret = a;
		return 0;
	}
	len = colon ? (size_t)(colon - text) : 0;
	if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
		host = text + 1;
		len -= 2;
	} else if (len > 0 && memchr(text, ':', len)) {
		len = 0; /* an IPv6 address without brackets: where does the port begin? */
	}
	if (len == 0 || len >= sizeof(a.host) || parse_port(colon + 1, &a.port) < 0)
		return error_set(err, ERR_INVALID_ARGUMENT,
				 "\"%s\" is not an address: write HOST:PORT, [IPV6]:PORT or unix:PATH", text);
	memcpy(a.host, host, len);
	a.host[len] = '\0';
	a.loopback = host_is_loopback(a.host);
	*ret = a;
	return 0;
}
