/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * recorder FILE PORT: looks how many records of FILE are whole, from the first one on, and tells it ("found N"); then adds one after
 * the other, and tells the number of each when it was synced. Between them it writes what is not synced, to FILE.noise, so that at
 * any moment there is something to lose.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RECORD_SIZE 200 /* no multiple of a sector, and none of it */
#define NOISE_SIZE 32768
#define NOISE_PLACES 64

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

/* It is on its way to the disk when this returns, and nobody has flushed it there. */
static int make_noise(int noise, unsigned long number)
{
	static char block[NOISE_SIZE];
	off_t offset = (off_t)(number % NOISE_PLACES * NOISE_SIZE);

	memset(block, (int)number, sizeof block);
	return pwrite(noise, block, sizeof block, offset) == (ssize_t)sizeof block
		       ? sync_file_range(noise, offset, sizeof block, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)
		       : -1;
}

int main(int argc, char **argv)
{
	char record[RECORD_SIZE], beside[256];
	int file, port, noise;
	unsigned long n;

	if (argc != 3)
		return 2;
	file = open(argv[1], O_RDWR | O_CREAT, 0644);
	port = open(argv[2], O_WRONLY);
	snprintf(beside, sizeof beside, "%s.noise", argv[1]);
	noise = open(beside, O_WRONLY | O_CREAT, 0644);
	if (file < 0 || port < 0 || noise < 0) {
		perror("recorder");
		return 1;
	}
	n = count_whole(file);
	dprintf(port, "found %lu\n", n);
	for (;;) {
		record_make(record, ++n);
		if (pwrite(file, record, RECORD_SIZE, (off_t)((n - 1) * RECORD_SIZE)) != RECORD_SIZE || fsync(file) != 0 ||
		    dprintf(port, "%lu\n", n) < 0 || make_noise(noise, n) != 0) {
			perror("recorder");
			return 1;
		}
	}
}
