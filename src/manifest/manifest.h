/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * Manifests: YAML 1.2 or JSON text to messages of the API.
 *
 * manifest_parse() reads every document of a text and reports every mistake, each with file, line, column and the path
 * of the field. manifest_check_*() hold the rules that do not depend on the form of the input; the daemon calls them on
 * every request, because it trusts no client. Unknown fields are a mistake in a text, but not in a message.
 *
 * Pure functions over memory: thread-safe, no I/O. Limits: MANIFEST_SIZE_MAX bytes, MANIFEST_DOCUMENTS_MAX documents,
 * nesting of 32, MANIFEST_MISTAKES_MAX mistakes (one more says that there are others).
 */
#ifndef CAPSULE_MANIFEST_MANIFEST_H
#define CAPSULE_MANIFEST_MANIFEST_H

#include "base/buf.h"
#include "base/error.h"

#include "volume.pb-c.h"
#include "workload.pb-c.h"

#define MANIFEST_SIZE_MAX (1u << 20)
#define MANIFEST_DOCUMENTS_MAX 1000
#define MANIFEST_MISTAKES_MAX 100
#define MANIFEST_NAME_MAX 63

/* Limits of one workload, in elements and bytes. */
#define MANIFEST_ENV_MAX 1024
#define MANIFEST_WORDS_MAX 1024        /* command and args, each */
#define MANIFEST_STRING_MAX 131071     /* one word, or one NAME=value: MAX_ARG_STRLEN of execve(2) less the NUL */
#define MANIFEST_STRINGS_MAX (1u << 20) /* all words and variables */
#define MANIFEST_PORTS_MAX 1024
#define MANIFEST_MOUNTS_MAX 64
#define MANIFEST_BINDS_MAX 64
#define MANIFEST_IMAGE_MAX 512
#define MANIFEST_PATH_MAX 4095
#define MANIFEST_CMDLINE_MAX 1024
#define MANIFEST_VCPUS_MAX 256
#define MANIFEST_MEMORY_MIB_MIN 32
#define MANIFEST_IMAGE_MEMORY_MIB_MIN 64 /* with less the guest kernel, its initramfs and the agent do not come up */
#define MANIFEST_MEMORY_MIB_MAX (1u << 24)
#define MANIFEST_CPUS_MIN 0.01         /* the kernel's smallest quota is 1 ms in 100 ms */
#define MANIFEST_CPUS_MAX 1024
#define MANIFEST_LIMIT_MIB_MIN 8       /* the OCI runtime itself has to pass through it */
#define MANIFEST_PIDS_MAX (1u << 22)   /* PID_MAX_LIMIT of Linux */
#define MANIFEST_INTERVAL_MIN_MS 1000
#define MANIFEST_INTERVAL_MAX_S (24 * 3600)
#define MANIFEST_TIMEOUT_MIN_MS 100
#define MANIFEST_RETRIES_MAX 1000
#define MANIFEST_URL_PATH_MAX 1024
#define MANIFEST_VOLUME_MIB_MIN 16
#define MANIFEST_VOLUME_MIB_MAX (64u << 20)
#define MANIFEST_DISK_SIZE_DEFAULT (UINT64_C(4) << 30)
#define MANIFEST_DISK_SIZE_MIN (UINT64_C(16) << 20)
#define MANIFEST_DISK_SIZE_MAX (UINT64_C(64) << 40)

/* ---- mistakes ---- */

struct manifest_mistake {
	unsigned line, column; /* from 1; 0: not tied to a place in a text */
	char *path;            /* "container.ports[0].hostPort"; "" for the document */
	char *message;         /* "unknown field \"hostport\"; did you mean \"hostPort\"?" */
};

struct manifest_mistakes {
	struct manifest_mistake *items;
	size_t n;
	bool out_of_memory; /* the list may be incomplete; there may be none */
};

void manifest_mistakes_release(struct manifest_mistakes *m);

/* "file:line:column: path: message", one a line; file may be NULL. */
void manifest_mistakes_print(const struct manifest_mistakes *m, const char *file, struct buf *out);

/* All mistakes in one sentence, as INVALID_ARGUMENT: "container.image: is missing; name: ...". Returns -1. */
int manifest_mistakes_error(const struct manifest_mistakes *m, struct error *err);

/* ---- objects ---- */

enum manifest_kind { MANIFEST_WORKLOAD, MANIFEST_VOLUME };

struct manifest_object {
	enum manifest_kind kind;
	unsigned line; /* where its document begins */
	Capsule__V1__Workload *workload;           /* MANIFEST_WORKLOAD */
	Capsule__V1__VolumeCreateRequest *volume;  /* MANIFEST_VOLUME */
};

struct manifest {
	struct manifest_object *objects; /* in the order of the text */
	size_t n;
};

void manifest_release(struct manifest *m);

/* Returns 0 with the objects, normalized and checked, or -1 with at least one mistake, in the order of the text. What
 * *ret_mistakes held before is not released. Empty documents are skipped; a text without any object is a mistake, and
 * so are two objects of the same kind and name. */
int manifest_parse(const char *text, size_t len, struct manifest *ret, struct manifest_mistakes *ret_mistakes);

/* ---- rules ---- */

/* RFC 1123 label: a-z, 0-9, '-'; 1 to 63 characters; no '-' at either end. INVALID_ARGUMENT says what is wrong. `what`
 * names the thing in the message ("workload name"). */
int manifest_check_name(const char *what, const char *name, struct error *err);

/* Fills defaults in place, so that two equal workloads have equal bytes, which the store compares: network mode,
 * protocol, restart policy, vcpus, memory, disk, all of a health check; env sorted by name; cpus in whole thousandths;
 * durations in whole milliseconds, in one form; resources without a limit go; an empty desired_state stays. Status is dropped. */
void manifest_normalize_workload(Capsule__V1__Workload *workload);

/* Adds a mistake for every rule that the workload breaks; normalized or not. 0 if there is none, else -1. The image's
 * reference is checked for its characters only; its grammar is the image store's. */
int manifest_check_workload(const Capsule__V1__Workload *workload, struct manifest_mistakes *ret_mistakes);
int manifest_check_volume(const Capsule__V1__VolumeCreateRequest *volume, struct manifest_mistakes *ret_mistakes);

/* Field by field; either may be NULL. Both normalized. Lists of strings count as one value, and so does an element of
 * ports or mounts that is on one side only. Status and times are left out, and so is a desired state that `to` does not
 * name. The caller frees through manifest_changes_free(). 0, or -1 without memory. */
int manifest_diff(const Capsule__V1__Workload *from, const Capsule__V1__Workload *to,
		  Capsule__V1__FieldChange ***ret_changes, size_t *ret_n);
void manifest_changes_free(Capsule__V1__FieldChange **changes, size_t n);

/* ---- sizes ---- */

/* "10", "500M", "1.5GiB", "2 TB": K, M, G and T with or without i and B are powers of 1024, a plain number is bytes.
 * 0, or -1 with INVALID_ARGUMENT. */
int manifest_parse_size(const char *text, uint64_t *ret_bytes, struct error *err);

/* "1.5GiB"; exact when the value allows it. out holds MANIFEST_SIZE_TEXT bytes. Returns out. */
#define MANIFEST_SIZE_TEXT 32
char *manifest_format_size(uint64_t bytes, char out[MANIFEST_SIZE_TEXT]);

/* ---- copies ---- */

/* A deep copy, freed with protobuf_c_message_free_unpacked(). Aborts without memory. */
ProtobufCMessage *message_copy(const ProtobufCMessage *message);

/* ---- output: one walker over protobuf-c descriptors ---- */

/* proto3 JSON mapping: lowerCamelCase names, 64-bit integers as strings, bytes as base64, enums by name, maps as
 * objects, fields at their default left out. indent 0: one line. No newline at the end. 0, or -1 (buffer limit). */
int message_to_json(const ProtobufCMessage *message, unsigned indent, struct buf *out);

/* The same data as YAML block style; 64-bit integers are numbers there. Ends with a newline. */
int message_to_yaml(const ProtobufCMessage *message, struct buf *out);

/* The workload in the form of a manifest, without what the daemon reports: parsing it gives the same workload. Ends
 * with a newline. */
int manifest_print_workload(const Capsule__V1__Workload *workload, struct buf *out);

#endif
