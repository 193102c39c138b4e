/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * recorder FILE PORT: looks how many records of FILE are whole, from the first one on, and tells it ("found N"); then adds one after
 * the other, and tells the number of each when it was synced.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RECORD_SIZE 200 /* no multiple of a sector, and none of it */

static void record_make(char record[RECORD_SIZE], unsigned long number)
{
	int n = snprintf(record, RECORD_SIZE, "%lu", number);

	for (int i = n; i < RECORD_SIZE; i++)
		record[i] = (char)('a' + (number * 7 + (unsigned long)i) % 26);
	record[RECORD_SIZE - 1] = '\n';
}

static unsigned long count_whole(int file)
{
	char record[RECORD_SIZE], wanted[RECORD_SIZE];
	unsigned long n = 0;

	for (;; n++) {
		record_make(wanted, n + 1);
		if (pread(file, record, RECORD_SIZE, (off_t)(n * RECORD_SIZE)) != RECORD_SIZE || memcmp(record, wanted, RECORD_SIZE) != 0)
			return n;
	}
}

int main(int argc, char **argv)
{
	char record[RECORD_SIZE];
	unsigned long n;
	int file, port;

	if (argc != 3)
		return 2;
	file = open(argv[1], O_RDWR | O_CREAT, 0644);
	port = open(argv[2], O_WRONLY);
	if (file < 0 || port < 0) {
		perror("recorder");
		return 1;
	}
	n = count_whole(file);
	dprintf(port, "found %lu\n", n);
	for (;;) {
		record_make(record, ++n);
		if (pwrite(file, record, RECORD_SIZE, (off_t)((n - 1) * RECORD_SIZE)) != RECORD_SIZE || fsync(file) != 0) {
			perror("recorder");
			return 1;
		}
		dprintf(port, "%lu\n", n);
	}
}
