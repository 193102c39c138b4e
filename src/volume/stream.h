/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The storage of a volume as a stream: for a file or a pipe, without its holes, compressed, with a digest.
 *
 *     "CAPSVOL1", the size in bytes (64 bits, little-endian)           STREAM_HEADER bytes, in clear
 *     one zstd frame (RFC 8878) of
 *         records: offset (64 bits), length (32 bits), that many bytes; ascending, none above STREAM_RECORD_MAX
 *         the end: offset = the size, length 0
 *         SHA-256 of the header and all that the frame holds up to here
 *
 * What no record covers reads as zeros.
 *
 * Blocks on its descriptors.
 */
#ifndef CAPSULE_VOLUME_STREAM_H
#define CAPSULE_VOLUME_STREAM_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define STREAM_HEADER 16
#define STREAM_MAGIC "CAPSVOL1"
#define STREAM_RECORD_MAX (64u << 10)

/* The size that the header tells. INVALID_ARGUMENT if it is none. */
int stream_read_header(const uint8_t header[STREAM_HEADER], uint64_t *ret_size, struct error *err);

/* Writes the storage to out. */
int stream_export(int storage, int out, struct error *err);

/* Fills storage that reads as zeros and has the size that the stream tells. INVALID_ARGUMENT for what is no such stream,
 * DATA_LOSS for one that is cut off or damaged; then the storage is of no use. */
int stream_import(int in, int storage, struct error *err);

#endif
