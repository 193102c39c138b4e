/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/check.h"
#include "manifest/fields.h"
#include "manifest/manifest.h"

#include "base/timeutil.h"

#include <inttypes.h>
#include <string.h>

/* Two messages that differ in what this version does not know would never be equal. */
static void drop_unknown(ProtobufCMessage *message)
{
	for (unsigned i = 0; i < message->n_unknown_fields; i++)
		free(message->unknown_fields[i].data);
	free(message->unknown_fields);
	message->unknown_fields = NULL;
	message->n_unknown_fields = 0;
	for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];

		if (field->type != PROTOBUF_C_TYPE_MESSAGE || !field_is_set(message, field))
			continue;
		if (field->label != PROTOBUF_C_LABEL_REPEATED) {
			drop_unknown(field_message(field_member(message, field)));
			continue;
		}
		for (size_t j = 0; j < field_count(message, field); j++)
			drop_unknown(field_message(field_item(message, field, j)));
	}
}

/* Without memory it stays as it is. */
static void set_text(char **member, const char *text)
{
	char *copy = strdup(text);

	if (!copy)
		return;
	if (*member != (const char *)protobuf_c_empty_string)
		free(*member);
	*member = copy;
}

static int compare_entries(const void *a, const void *b)
{
	const ProtobufCMessage *x = field_message(a), *y = field_message(b);
	char unused[FIELD_NAME_MAX];

	return strcmp(map_key(x, unused), map_key(y, unused));
}

static void sort_env(void *env, size_t n)
{
	if (n)
		qsort(env, n, sizeof(void *), compare_entries);
}

static void normalize_mounts(Capsule__V1__VolumeMount **mounts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		path_normalize(mounts[i]->mount_path);
}

static void normalize_ports(Capsule__V1__PortMapping **ports, size_t n)
{
	/* Without memory it stays empty, which means the same. */
	for (size_t i = 0; i < n; i++)
		if (!*ports[i]->protocol)
			set_text(&ports[i]->protocol, "tcp");
}

/* No limit at all is as if nothing were said. */
static void normalize_resources(Capsule__V1__Resources **resources)
{
	Capsule__V1__Resources *r = *resources;

	if (r->cpus > 0 && r->cpus <= MANIFEST_CPUS_MAX)
		r->cpus = (double)(uint64_t)(r->cpus * 1000 + 0.5) / 1000;
	if (r->cpus == 0 && !r->memory_mib && !r->pids_max)
		capsule__v1__resources__free_unpacked(steal_ptr(resources), NULL);
}

/* ---- health checks ---- */

/* In whole seconds or else in milliseconds. What is no duration stays, to be found by the check. Returns what it is now. */
static int64_t normalize_duration(char **member, int64_t absent_ms)
{
	char text[32];
	int64_t ns, ms = absent_ms;

	if (**member) {
		if (time_parse_duration(*member, &ns) < 0)
			return absent_ms;
		ms = ns / NSEC_PER_MSEC;
	}
	if (ms % 1000)
		snprintf(text, sizeof text, "%" PRId64 "ms", ms);
	else
		snprintf(text, sizeof text, "%" PRId64 "s", ms / 1000);
	set_text(member, text);
	return ms;
}

static void normalize_health_check(Capsule__V1__HealthCheck *check)
{
	int64_t interval_ms = normalize_duration(&check->interval, 10000);

	normalize_duration(&check->timeout, interval_ms < 2000 ? interval_ms : 2000);
	normalize_duration(&check->start_period, 0);
	check->retries = check->retries ? check->retries : 3;
	if (check->probe_case == CAPSULE__V1__HEALTH_CHECK__PROBE_HTTP && !*check->http->path)
		set_text(&check->http->path, "/");
}

void manifest_normalize_workload(Capsule__V1__Workload *workload)
{
	Capsule__V1__ContainerSpec *c = workload->container;
	Capsule__V1__MicroVMSpec *v = workload->micro_vm;

	if (workload->status)
		capsule__v1__workload_status__free_unpacked(steal_ptr(&workload->status), NULL);
	drop_unknown(&workload->base);
	if (workload->restart_policy == CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_UNSPECIFIED)
		workload->restart_policy = CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_ALWAYS;
	if (workload->resources)
		normalize_resources(&workload->resources);
	if (workload->health_check)
		normalize_health_check(workload->health_check);
	if (c) {
		if (c->network_mode == CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_UNSPECIFIED)
			c->network_mode = CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_BRIDGE;
		sort_env(c->env, c->n_env);
		normalize_mounts(c->mounts, c->n_mounts);
		normalize_ports(c->ports, c->n_ports);
	}
	if (v) {
		v->vcpus = v->vcpus ? v->vcpus : 1;
		v->memory_mib = v->memory_mib ? v->memory_mib : 256;
		if (!v->disk_size && *v->image)
			v->disk_size = MANIFEST_DISK_SIZE_DEFAULT;
		sort_env(v->env, v->n_env);
		normalize_mounts(v->mounts, v->n_mounts);
		normalize_ports(v->ports, v->n_ports);
	}
}
