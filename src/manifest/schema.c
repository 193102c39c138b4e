/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/schema.h"
#include "manifest/mistake.h"
#include "manifest/suggest.h"

#include <string.h>

#define WORKLOAD (&capsule__v1__workload__descriptor)
#define CONTAINER (&capsule__v1__container_spec__descriptor)
#define MICRO_VM (&capsule__v1__micro_vmspec__descriptor)
#define PORT (&capsule__v1__port_mapping__descriptor)
#define RESOURCES (&capsule__v1__resources__descriptor)
#define HEALTH_CHECK (&capsule__v1__health_check__descriptor)
#define HTTP_PROBE (&capsule__v1__http_probe__descriptor)
#define TCP_PROBE (&capsule__v1__tcp_probe__descriptor)
#define MOUNT (&capsule__v1__volume_mount__descriptor)
#define CONTAINER_ENV (&capsule__v1__container_spec__env_entry__descriptor)
#define MICRO_VM_ENV (&capsule__v1__micro_vmspec__env_entry__descriptor)
#define VOLUME (&capsule__v1__volume_create_request__descriptor)

#define READ_ONLY "is set by the daemon and has no place in a manifest; remove it"

/* ---- fields ---- */

static const struct exception {
	const ProtobufCMessageDescriptor *message;
	const char *field; /* of the message */
	const char *name;  /* in a manifest, when it is another */
	const char *refused;
	bool is_size, is_mib, is_cpus, is_duration, not_zero;
} exceptions[] = {
	{ WORKLOAD, "status", .refused = READ_ONLY },
	{ WORKLOAD, "created_at_unix", .refused = READ_ONLY },
	{ WORKLOAD, "ephemeral", .refused = "is for clients of the API and has no place in a manifest; remove it" },
	{ MICRO_VM, "vcpus", .not_zero = true },
	{ MICRO_VM, "memory_mib", .not_zero = true },
	{ MICRO_VM, "disk_size", .is_size = true },
	{ RESOURCES, "cpus", .is_cpus = true },
	{ RESOURCES, "memory_mib", .not_zero = true },
	{ RESOURCES, "pids_max", .not_zero = true },
	{ HEALTH_CHECK, "interval", .is_duration = true },
	{ HEALTH_CHECK, "timeout", .is_duration = true },
	{ HEALTH_CHECK, "start_period", .is_duration = true },
	{ HEALTH_CHECK, "retries", .not_zero = true },
	{ HTTP_PROBE, "port", .not_zero = true },
	{ TCP_PROBE, "port", .not_zero = true },
	{ CONTAINER_ENV, "key", .name = "name" },
	{ MICRO_VM_ENV, "key", .name = "name" },
	{ VOLUME, "size_mib", .name = "size", .is_mib = true },
};

void schema_field_at(const ProtobufCMessageDescriptor *descriptor, unsigned i, struct schema_field *ret)
{
	const ProtobufCFieldDescriptor *field = &descriptor->fields[i];

	*ret = (struct schema_field){ .field = field };
	field_json_name(field->name, ret->name);
	for (size_t j = 0; j < sizeof exceptions / sizeof *exceptions; j++) {
		const struct exception *e = &exceptions[j];

		if (e->message != descriptor || strcmp(e->field, field->name) != 0)
			continue;
		if (e->name)
			snprintf(ret->name, sizeof ret->name, "%s", e->name);
		ret->refused = e->refused;
		ret->is_size = e->is_size;
		ret->is_mib = e->is_mib;
		ret->is_cpus = e->is_cpus;
		ret->is_duration = e->is_duration;
		ret->not_zero = e->not_zero;
	}
}

int schema_find(const ProtobufCMessageDescriptor *descriptor, const char *name, struct schema_field *ret)
{
	struct schema_field field;

	for (unsigned i = 0; i < descriptor->n_fields; i++) {
		schema_field_at(descriptor, i, &field);
		if (strcmp(field.name, name) == 0) {
			*ret = field;
			return 0;
		}
	}
	return -1;
}

/* Words of other tools for what we have too. */
static const struct {
	const char *word, *ours;
} foreign_words[] = {
	{ "environment", "env" },      { "volumes", "mounts" },       { "volumeMounts", "mounts" },
	{ "restart", "restartPolicy" }, { "stopGracePeriod", "stopGracePeriodSeconds" },
	{ "terminationGracePeriodSeconds", "stopGracePeriodSeconds" },
	{ "entrypoint", "command" },   { "cmd", "args" },             { "cpus", "vcpus" },
	{ "cpu", "vcpus" },            { "cpu", "cpus" },           { "vcpus", "cpus" },
	{ "pids", "pidsMax" },         { "pidsLimit", "pidsMax" },   { "limits", "resources" },
	{ "memory", "memoryMib" },     { "kernel", "kernelPath" },
	{ "rootfs", "rootfsPath" }, { "disk", "diskSize" },    { "network", "networkMode" },  { "hostNetwork", "networkMode" },
	{ "path", "mountPath" },       { "volume", "volumeName" },    { "key", "name" },
	{ "capacity", "size" },        { "storage", "size" },         { "sizeMib", "size" },
	{ "livenessProbe", "healthCheck" }, { "readinessProbe", "healthCheck" },
	{ "target", "mountPath" },     { "source", "volumeName" },    { "published", "hostPort" },
};

/* Where fields live, for one that was put into the wrong place. */
static const struct {
	const ProtobufCMessageDescriptor *message;
	const char *belongs;
} homes[] = {
	{ WORKLOAD, "it belongs at the top level, beside name and kind" },
	{ CONTAINER, "it belongs in \"container\"" },
	{ RESOURCES, "it belongs in \"resources\", which stands beside name and kind" },
	{ MICRO_VM, "it belongs in \"microVm\"" },
	{ HEALTH_CHECK, "it belongs in \"healthCheck\", which stands beside name and kind" },
	{ PORT, "it belongs in an entry of \"ports\"" },
	{ MOUNT, "it belongs in an entry of \"mounts\"" },
	{ VOLUME, "only a Volume has it" },
};

static const char *explain_home(const ProtobufCMessageDescriptor *descriptor, const char *name)
{
	struct schema_field field;

	if (descriptor == VOLUME)
		return NULL;
	for (size_t i = 0; i < sizeof homes / sizeof *homes; i++) {
		const ProtobufCMessageDescriptor *home = homes[i].message;

		if (home == descriptor || schema_find(home, name, &field) < 0 || field.refused)
			continue;
		if (descriptor == MICRO_VM && home == CONTAINER)
			return "only a Container has it";
		if (descriptor == CONTAINER && home == MICRO_VM)
			return "only a MicroVM has it";
		return homes[i].belongs;
	}
	return NULL;
}

static void list_fields(const ProtobufCMessageDescriptor *descriptor, struct buf *out)
{
	struct schema_field field;
	const char *separator = "; known here: ";

	for (unsigned i = 0; i < descriptor->n_fields; i++) {
		schema_field_at(descriptor, i, &field);
		if (field.refused)
			continue;
		buf_addf(out, "%s%s", separator, field.name);
		separator = ", ";
		if (descriptor == VOLUME && i == 0)
			buf_adds(out, ", kind");
	}
}

static bool find_meant(const ProtobufCMessageDescriptor *descriptor, const char *name, bool near,
		       char ret_name[FIELD_NAME_MAX])
{
	struct schema_field fields[16], *best = NULL;
	struct suggest suggest;

	suggest_init(&suggest, name);
	for (unsigned i = 0; i < descriptor->n_fields && i < sizeof fields / sizeof *fields; i++) {
		schema_field_at(descriptor, i, &fields[i]);
		if (fields[i].refused)
			continue;
		suggest_offer(&suggest, fields[i].name);
		if (suggest.nearest == fields[i].name)
			best = &fields[i];
	}
	if (!best || (!near && suggest.distance > 0))
		return false;
	memcpy(ret_name, best->name, FIELD_NAME_MAX);
	return true;
}

static bool find_foreign(const ProtobufCMessageDescriptor *descriptor, const char *name, char ret_name[FIELD_NAME_MAX])
{
	struct schema_field field;

	for (size_t i = 0; i < sizeof foreign_words / sizeof *foreign_words; i++)
		if (suggest_is_same(foreign_words[i].word, name) &&
		    schema_find(descriptor, foreign_words[i].ours, &field) == 0) {
			memcpy(ret_name, field.name, FIELD_NAME_MAX);
			return true;
		}
	return false;
}

void schema_explain_field(const ProtobufCMessageDescriptor *descriptor, const char *name, size_t len, struct buf *out,
			  char ret_name[FIELD_NAME_MAX])
{
	struct excerpt e;
	const char *home;

	ret_name[0] = '\0';
	buf_addf(out, "unknown field %s", excerpt(&e, name, len));
	if (find_meant(descriptor, name, false, ret_name) || find_foreign(descriptor, name, ret_name)) {
		buf_addf(out, "; did you mean \"%s\"?", ret_name);
		return;
	}
	home = explain_home(descriptor, name);
	if (home)
		buf_addf(out, "; %s", home);
	else if (find_meant(descriptor, name, true, ret_name))
		buf_addf(out, "; did you mean \"%s\"?", ret_name);
	else
		list_fields(descriptor, out);
}

/* ---- kinds ---- */

static const struct {
	const char *name;
	enum schema_kind kind;
} kinds[] = {
	/* The first three are the names that messages show. */
	{ "Container", SCHEMA_CONTAINER }, { "MicroVM", SCHEMA_MICRO_VM }, { "Volume", SCHEMA_VOLUME },
	{ "CONTAINER", SCHEMA_CONTAINER }, { "MICRO_VM", SCHEMA_MICRO_VM }, { "VOLUME", SCHEMA_VOLUME },
	{ "WORKLOAD_KIND_CONTAINER", SCHEMA_CONTAINER }, { "WORKLOAD_KIND_MICRO_VM", SCHEMA_MICRO_VM },
	{ "KIND_VOLUME", SCHEMA_VOLUME },
};

enum schema_kind schema_kind_parse(const char *text)
{
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		if (strcmp(kinds[i].name, text) == 0)
			return kinds[i].kind;
	return SCHEMA_KIND_NONE;
}

enum schema_kind schema_explain_kind(const char *text, size_t len, struct buf *out)
{
	struct suggest suggest;
	struct excerpt e;

	suggest_init(&suggest, text);
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
		suggest_offer(&suggest, kinds[i].name);
	buf_addf(out, "must be Container, MicroVM or Volume, not %s", excerpt(&e, text, len));
	if (!suggest.nearest)
		return SCHEMA_KIND_NONE;
	buf_addf(out, "; did you mean %s?", suggest.nearest);
	return schema_kind_parse(suggest.nearest);
}

/* ---- enums ---- */

enum enum_style schema_enum_style(const ProtobufCEnumDescriptor *descriptor)
{
	if (descriptor == &capsule__v1__workload_kind__descriptor ||
	    descriptor == &capsule__v1__restart_policy__descriptor ||
	    descriptor == &capsule__v1__desired_state__descriptor)
		return ENUM_CAMEL;
	return ENUM_FULL;
}

static bool may_ask_for(const ProtobufCEnumDescriptor *descriptor, int value)
{
	return value != 0 && !(descriptor == &capsule__v1__desired_state__descriptor &&
			       value == CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING);
}

static void list_values(const ProtobufCEnumDescriptor *descriptor, struct buf *out)
{
	char name[FIELD_NAME_MAX];
	unsigned left = 0;

	for (unsigned i = 0; i < descriptor->n_values; i++)
		left += may_ask_for(descriptor, descriptor->values[i].value);
	for (unsigned i = 0; i < descriptor->n_values; i++) {
		int value = descriptor->values[i].value;

		if (!may_ask_for(descriptor, value))
			continue;
		left--;
		buf_addf(out, "%s%s", enum_name(descriptor, value, schema_enum_style(descriptor), name),
			 left == 0 ? "" : left == 1 ? " or " : ", ");
	}
}

void schema_explain_enum(const ProtobufCEnumDescriptor *descriptor, const char *text, size_t len, struct buf *out)
{
	const enum enum_style styles[] = { schema_enum_style(descriptor), ENUM_UPPER, ENUM_FULL };
	char names[8][ENUM_STYLES][FIELD_NAME_MAX];
	struct suggest suggest;
	struct excerpt e;

	suggest_init(&suggest, text);
	/* Of names that are equally near, the first wins: the one that manifests show. */
	for (int s = 0; s < ENUM_STYLES; s++)
		for (unsigned i = 0; i < descriptor->n_values && i < 8; i++) {
			int value = descriptor->values[i].value;

			if (may_ask_for(descriptor, value))
				suggest_offer(&suggest, enum_name(descriptor, value, styles[s], names[i][s]));
		}
	buf_adds(out, "must be ");
	list_values(descriptor, out);
	buf_addf(out, ", not %s", excerpt(&e, text, len));
	if (suggest.nearest)
		buf_addf(out, "; did you mean %s?", suggest.nearest);
}
