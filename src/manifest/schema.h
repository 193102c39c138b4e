/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * What a manifest's fields are, where that is more than the messages' descriptors say: a table of the exceptions, and
 * the words that people bring from other tools.
 */
#ifndef CAPSULE_MANIFEST_SCHEMA_H
#define CAPSULE_MANIFEST_SCHEMA_H

#include "manifest/fields.h"
#include "manifest/manifest.h"

struct schema_field {
	const ProtobufCFieldDescriptor *field;
	char name[FIELD_NAME_MAX]; /* in a manifest */
	const char *refused;       /* why a manifest may not hold it; NULL: it may */
	bool is_size;              /* a size for people, stored in bytes */
	bool is_mib;               /* a size for people, stored in MiB, rounded up */
	bool is_cpus;              /* a number of processors: 1.5, or in thousandths "1500m" */
	bool is_duration;          /* "10s"; a number without a unit is seconds */
	bool not_zero;             /* 0 on the wire means the default, so it cannot be asked for */
};

/* The field of a message by its place among the descriptor's fields. */
void schema_field_at(const ProtobufCMessageDescriptor *descriptor, unsigned i, struct schema_field *ret);

/* By its name in a manifest. 0, or -1. */
int schema_find(const ProtobufCMessageDescriptor *descriptor, const char *name, struct schema_field *ret);

/* The kinds that `kind` may name. */
enum schema_kind { SCHEMA_KIND_NONE, SCHEMA_CONTAINER, SCHEMA_MICRO_VM, SCHEMA_VOLUME };

enum schema_kind schema_kind_parse(const char *text);

/* What to say about an unknown kind or field: "unknown field \"x\"; did you mean \"y\"?". */
enum schema_kind schema_explain_kind(const char *text, size_t len, struct buf *out);

/* ret_name is the field that was meant, or "" when there is no telling. */
void schema_explain_field(const ProtobufCMessageDescriptor *descriptor, const char *name, size_t len, struct buf *out,
			  char ret_name[FIELD_NAME_MAX]);

/* "must be one of Always, OnFailure or Never, not \"x\"; did you mean ..." */
void schema_explain_enum(const ProtobufCEnumDescriptor *descriptor, const char *text, size_t len, struct buf *out);

/* The form in which messages and manifests show an enum's values. */
enum enum_style schema_enum_style(const ProtobufCEnumDescriptor *descriptor);

#endif
