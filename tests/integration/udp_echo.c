/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Answers each datagram with the address that it came from and what it says: "192.0.2.2 hello". Argument: the port. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons((unsigned short)strtoul(argv[argc - 1], NULL, 10)) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (bind(fd, (struct sockaddr *)&own, sizeof own) < 0)
		return 1;
	for (;;) {
		struct sockaddr_in peer;
		socklen_t len = sizeof peer;
		char text[1024], answer[1100];
		ssize_t n = recvfrom(fd, text, sizeof text, 0, (struct sockaddr *)&peer, &len);

		if (n < 0)
			return 1;
		snprintf(answer, sizeof answer, "%s %.*s", inet_ntoa(peer.sin_addr), (int)n, text);
		sendto(fd, answer, strnlen(answer, sizeof answer), 0, (struct sockaddr *)&peer, len);
	}
}
