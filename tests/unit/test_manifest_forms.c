/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* The normal form of workloads, their differences, and what is printed of them. */
#include "manifest_fixture.h"

#include "../same_message.h"
#include "runner.h"

/* ---- normal form, equality, differences ---- */

START_TEST(normal_form_drops_what_is_unknown)
{
	/* field 1000 of ContainerSpec, field 1099 of Workload: of a newer client */
	static const uint8_t wire[] = { 0x0a, 1, 'w', 0x10, 1, 0x1a, 6, 0x0a, 1, 'i', 0xc0, 0x3e, 5, 0xd8, 0x44, 1 };
	Capsule__V1__Workload *w = capsule__v1__workload__unpack(NULL, sizeof wire, wire);
	Capsule__V1__Workload *other = workload("name: w\nkind: Container\ncontainer: {image: i}\n");
	Capsule__V1__WorkloadStatus *status = malloc(sizeof *status);

	ck_assert_ptr_nonnull(w);
	capsule__v1__workload_status__init(status);
	w->status = status;
	ck_assert_uint_eq(w->base.n_unknown_fields, 1);
	ck_assert_uint_eq(w->container->base.n_unknown_fields, 1);
	ck_assert(!same_message(&w->base, &other->base));
	manifest_normalize_workload(w);
	ck_assert_ptr_null(w->status);
	ck_assert(same_message(&w->base, &other->base));
	manifest_normalize_workload(w);
	ck_assert(same_message(&w->base, &other->base));
	drop(w);
	drop(other);
}
END_TEST

START_TEST(equality)
{
	Capsule__V1__Workload *a = workload(WEB);
	Capsule__V1__Workload *never = workload(WEB "restartPolicy: Never\n"),
		*grace = workload(WEB "stopGracePeriodSeconds: 0\n");
	Capsule__V1__Workload *host = workload(WEB "  networkMode: HOST\n"),
		*spelt = workload(WEB "  networkMode: BRIDGE\n");
	Capsule__V1__Workload *limited = workload(WEB "resources: {cpus: 0.1}\n"),
		*milli = workload(WEB "resources: {cpus: 100m}\n"), *unlimited = workload(WEB "resources: {}\n");
	Capsule__V1__Workload *checked = workload(WEB "healthCheck: {http: {port: 80}, interval: 90s}\n"),
		*in_full = workload(WEB "healthCheck: {http: {port: 80, path: /}, interval: 1m30s, timeout: 2, retries: 3, "
					"startPeriod: 0ms}\n");

	ck_assert(same_message(&a->base, &spelt->base));
	ck_assert(!same_message(&a->base, &never->base));
	ck_assert(!same_message(&a->base, &grace->base));
	ck_assert(!same_message(&a->base, &host->base));
	ck_assert(!same_message(&a->base, &limited->base));
	ck_assert(same_message(&limited->base, &milli->base));
	ck_assert(same_message(&a->base, &unlimited->base));
	ck_assert(!same_message(&a->base, &checked->base));
	ck_assert(same_message(&checked->base, &in_full->base));
	drop(checked);
	drop(in_full);
	drop(limited);
	drop(milli);
	drop(unlimited);
	drop(a);
	drop(never);
	drop(grace);
	drop(host);
	drop(spelt);
}
END_TEST

static char *differences(const char *from, const char *to)
{
	Capsule__V1__Workload *a = from ? workload(from) : NULL, *b = to ? workload(to) : NULL;
	struct buf out = BUF_INIT(1 << 20);
	Capsule__V1__FieldChange **changes;
	size_t n;

	ck_assert_int_eq(manifest_diff(a, b, &changes, &n), 0);
	for (size_t i = 0; i < n; i++)
		buf_addf(&out, "%s: %s -> %s\n", changes[i]->path, changes[i]->old_value, changes[i]->new_value);
	manifest_changes_free(changes, n);
	if (a)
		drop(a);
	if (b)
		drop(b);
	return buf_steal(&out);
}

static const struct {
	const char *from, *to, *changes;
} diffs[] = {
	{ WEB, WEB, "" },
	{ WEB, WEB "desiredState: Stopped\n", "desiredState:  -> \"DESIRED_STATE_STOPPED\"\n" },
	{ WEB "desiredState: Stopped\n", WEB, "" },
	{ WEB "  privileged: true\n  command: [a, b]\n", WEB "  command: [a]\nstopGracePeriodSeconds: 0\n",
	  "container.command: [\"a\",\"b\"] -> [\"a\"]\ncontainer.privileged: true -> false\n"
	  "stopGracePeriodSeconds:  -> 0\n" },
	{ WEB "  env: {A: a, B: b, D: d}\n", WEB "  env: {B: x, C: \"\", D: d}\n",
	  "container.env.A: \"a\" -> \ncontainer.env.B: \"b\" -> \"x\"\ncontainer.env.C:  -> \"\"\n" },
	{ WEB "  ports: [{containerPort: 80, hostPort: 80}]\n",
	  WEB "  ports: [{containerPort: 80, hostPort: 81}, {containerPort: 1, hostPort: 2, protocol: udp}]\n",
	  "container.ports[0].hostPort: 80 -> 81\n"
	  "container.ports[1]:  -> {\"containerPort\":1,\"hostPort\":2,\"protocol\":\"udp\"}\n" },
	{ WEB "resources: {cpus: 1}\n", WEB "resources: {cpus: 1500m, memoryMib: 64}\n",
	  "resources.cpus: 1 -> 1.5\nresources.memoryMib:  -> 64\n" },
	{ WEB "resources: {pidsMax: 5}\n", WEB, "resources.pidsMax: 5 -> \n" },
	{ WEB "healthCheck: {tcp: {port: 80}, interval: 5}\n", WEB "healthCheck: {exec: {command: [a]}, interval: 1.5s}\n",
	  "healthCheck.exec.command:  -> [\"a\"]\nhealthCheck.tcp.port: 80 -> \nhealthCheck.interval: \"5s\" -> \"1500ms\"\n"
	  "healthCheck.timeout: \"2s\" -> \"1500ms\"\n" },
	{ NULL, WEB, "name:  -> \"web\"\nkind:  -> \"WORKLOAD_KIND_CONTAINER\"\ncontainer.image:  -> \"nginx\"\n"
		     "container.networkMode:  -> \"NETWORK_MODE_BRIDGE\"\nrestartPolicy: "
		     " -> \"RESTART_POLICY_ALWAYS\"\n" },
	{ WEB, "name: web\nkind: MicroVM\nmicroVm: {image: nginx}\n",
	  "kind: \"WORKLOAD_KIND_CONTAINER\" -> \"WORKLOAD_KIND_MICRO_VM\"\ncontainer.image: \"nginx\" -> \n"
	  "container.networkMode: \"NETWORK_MODE_BRIDGE\" -> \nmicroVm.vcpus:  -> 1\nmicroVm.memoryMib:  -> 256\n"
	  "microVm.image:  -> \"nginx\"\nmicroVm.diskSize:  -> \"4294967296\"\n" },
	{ NULL, NULL, "" },
};

START_TEST(diff)
{
	char *changes = differences(diffs[_i].from, diffs[_i].to);

	ck_assert_str_eq(changes, diffs[_i].changes);
	free(changes);
}
END_TEST

/* ---- output ---- */

static const char *const round_trips[] = {
	WEB,
	VM,
	WEB "restartPolicy: Never\nstopGracePeriodSeconds: 7\ndesiredState: Running\n",
	WEB "resources: {cpus: 0.1, memoryMib: 64, pidsMax: 100}\n",
	VM "resources: {cpus: 1024}\n",
	WEB "healthCheck: {exec: {command: [test, -e, /ready]}, interval: 1m, timeout: 500ms, retries: 1, startPeriod: 2.5}\n",
	VM "healthCheck: {http: {port: 8080, path: '/a?b=c#d'}}\n",
	WEB "healthCheck: {tcp: {port: 65535}}\n",
	WEB "  command: ['', ' ', 'a ', ' a', '-', '- a', '?', '? a', ':', 'a:', "
		"'a: b', 'a :b', 'a:b', '#', 'a #b', 'a#b', ',', '[', ']', "
	    "'{', '}', '&', '*', '!', '|', '>', '%', '@', '`', '\"', '''', '\\', '<<', '=', '---', '...']\n",
	WEB "  args: ['null', 'Null', '~', 'true', 'FALSE', 'yes', 'No', 'on', "
		"'y', '1', '-1', '+1', '0x1f', '0o7', '010', '1e3', "
	    "'.5', '1.', '.inf', '-.INF', '.nan', '1:30', '2001-01-01', '1_000', 'e5', '0', '/', '_']\n",
	WEB "  args: [\"\\n\", \"a\\n\", \"\\na\", \"a\\n\\n b\", \"\\t\", "
		"\"\\x01\\x7f\\x85\\xa0\\u2028\\u2029\\ufeff\\ufffe\\uffff\","
	    " \"\\U0001F600\", \"\\r\\n\", ä, 日本語, \"\\e[0m\"]\n",
	WEB "  env: {'a.b': c, '[x]': y, 'null': '1', '~': z, '1': one, 'a b': "
		"c, 'x: y': z, '#': '#', \"\\n\": n, yes: 'yes'}\n",
	VM "  backend: FIRECRACKER\n  kernelCmdlineExtra: 'a=b c'\n  mounts: [{volumeName: "
		"d, mountPath: '/a b: c', readOnly: true}]\n",
};

static void expect_round_trip(const char *text)
{
	Capsule__V1__Workload *w = workload(text), *again;
	struct buf out = BUF_INIT(1 << 20), twice = BUF_INIT(1 << 20);

	ck_assert_int_eq(manifest_print_workload(w, &out), 0);
	again = workload(buf_str(&out));
	ck_assert_msg(same_message(&w->base, &again->base), "printed as: %s", buf_str(&out));
	ck_assert_int_eq(manifest_print_workload(again, &twice), 0);
	ck_assert_str_eq(buf_str(&out), buf_str(&twice));
	buf_release(&out);
	buf_release(&twice);
	drop(w);
	drop(again);
}

START_TEST(round_trip)
{
	expect_round_trip(round_trips[_i]);
}
END_TEST

START_TEST(round_trip_long_key)
{
	char *plain = repeated(WEB "  env:\n    ? ", "k", 3000, "\n    : v\n");
	char *escaped = repeated(WEB "  env:\n    - value: v\n      name: \"", "\\x01", 300, "\"\n");

	expect_round_trip(plain);
	expect_round_trip(escaped);
	free(plain);
	free(escaped);
}
END_TEST

START_TEST(printed_manifest)
{
	Capsule__V1__Workload *w = workload(WEB "  command: [sh, '-c']\n  env: {A: \"1\"}\n"
		"  ports: [{containerPort: 80, hostPort: 8080}]\n");
	Capsule__V1__WorkloadStatus *status = malloc(sizeof *status);
	struct buf out = BUF_INIT(1 << 20);

	capsule__v1__workload_status__init(status);
	status->pid = 7;
	w->status = status;
	w->created_at_unix = 5;
	w->desired_state = CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING;
	ck_assert_int_eq(manifest_print_workload(w, &out), 0);
	ck_assert_str_eq(buf_str(&out), "name: web\nkind: Container\ncontainer:\n  image: nginx\n  command:\n"
		"    - sh\n    - \"-c\"\n"
					"  env:\n    A: \"1\"\n  networkMode: NETWORK_MODE_BRIDGE\n  ports:\n"
					"    - containerPort: 80\n"
					"      hostPort: 8080\n      protocol: tcp\nrestartPolicy: Always\n");
	ck_assert_int_eq(w->status->pid, 7);
	buf_release(&out);
	drop(w);
}
END_TEST

START_TEST(json_mapping)
{
	Capsule__V1__Volume v = CAPSULE__V1__VOLUME__INIT;
	Capsule__V1__WorkloadLogChunk chunk = CAPSULE__V1__WORKLOAD_LOG_CHUNK__INIT;
	Capsule__V1__WorkloadStatus status = CAPSULE__V1__WORKLOAD_STATUS__INIT;
	char *users[] = { (char *)"a", (char *)"b" }, *json;
	struct buf out = BUF_INIT(1 << 20);

	v.name = (char *)"d\"\\\x01\xff";
	v.size_bytes = UINT64_MAX;
	v.created_at_unix = INT64_MIN;
	v.n_mounted_by = 2;
	v.mounted_by = users;
	json = to_json(&v);
	ck_assert_str_eq(json, "{\"name\":\"d\\\"\\\\\\u0001\xef\xbf\xbd\",\"sizeBytes\":\"18446744073709551615\","
			       "\"mountedBy\":[\"a\",\"b\"],\"createdAtUnix\":\"-9223372036854775808\"}");
	free(json);
	ck_assert_int_eq(message_to_json(&v.base, 2, &out), 0);
	ck_assert_str_eq(buf_str(&out), "{\n  \"name\": \"d\\\"\\\\\\u0001\xef\xbf\xbd\",\n"
		"  \"sizeBytes\": \"18446744073709551615\",\n"
					"  \"mountedBy\": [\n    \"a\",\n    \"b\"\n  ],\n"
					"  \"createdAtUnix\": \"-9223372036854775808\"\n}");
	for (size_t len = 0; len < 6; len++) {
		static const char *const base64[] = { "{}", "{\"data\":\"Zg==\"}", "{\"data\":\"Zm8=\"}",
			"{\"data\":\"Zm9v\"}",
						      "{\"data\":\"Zm9vYg==\"}", "{\"data\":\"Zm9vYmE=\"}" };

		chunk.data = (ProtobufCBinaryData){ len, (uint8_t *)"fooba" };
		json = to_json(&chunk);
		ck_assert_str_eq(json, base64[len]);
		free(json);
	}
	status.phase = 77;
	status.exit_code = -1;
	json = to_json(&status);
	ck_assert_str_eq(json, "{\"phase\":77,\"exitCode\":-1}");
	free(json);
	buf_release(&out);
}
END_TEST

START_TEST(yaml_output)
{
	Capsule__V1__Workload *items[] = { workload(WEB), workload(VM) };
	Capsule__V1__WorkloadListResponse list = CAPSULE__V1__WORKLOAD_LIST_RESPONSE__INIT;
	Capsule__V1__VolumeListResponse volumes = CAPSULE__V1__VOLUME_LIST_RESPONSE__INIT;
	Capsule__V1__Volume v = CAPSULE__V1__VOLUME__INIT, none = CAPSULE__V1__VOLUME__INIT, *both[] = { &none, &v };
	struct buf out = BUF_INIT(1 << 20);

	ck_assert_int_eq(message_to_yaml(&list.base, &out), 0);
	ck_assert_str_eq(buf_str(&out), "{}\n");
	buf_reset(&out);
	list.n_workloads = 2;
	list.workloads = items;
	ck_assert_int_eq(message_to_yaml(&list.base, &out), 0);
	ck_assert_str_eq(buf_str(&out),
			 "workloads:\n  - name: web\n    kind: WORKLOAD_KIND_CONTAINER\n    container:\n"
			 "      image: nginx\n"
			 "      networkMode: NETWORK_MODE_BRIDGE\n    restartPolicy: RESTART_POLICY_ALWAYS\n"
			 "  - name: vm\n    kind: WORKLOAD_KIND_MICRO_VM\n    microVm:\n      vcpus: 1\n"
			 "      memoryMib: 256\n"
			 "      image: alpine\n      diskSize: 4294967296\n    restartPolicy: RESTART_POLICY_ALWAYS\n");
	buf_reset(&out);
	v.size_bytes = 1 << 30;
	volumes.n_volumes = 2;
	volumes.volumes = both;
	ck_assert_int_eq(message_to_yaml(&volumes.base, &out), 0);
	ck_assert_str_eq(buf_str(&out), "volumes:\n  - {}\n  - sizeBytes: 1073741824\n");
	buf_release(&out);
	drop(items[0]);
	drop(items[1]);
}
END_TEST

START_TEST(output_has_a_limit)
{
	Capsule__V1__Workload *w = workload(WEB);
	struct buf out = BUF_INIT(10);

	ck_assert_int_eq(message_to_json(&w->base, 0, &out), -1);
	buf_reset(&out);
	ck_assert_int_eq(manifest_print_workload(w, &out), -1);
	buf_release(&out);
	drop(w);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("manifest_forms");
	TCase *tc = tcase_create("manifest_forms");

	tcase_add_test(tc, normal_form_drops_what_is_unknown);
	tcase_add_test(tc, equality);
	tcase_add_loop_test(tc, diff, 0, N(diffs));
	tcase_add_loop_test(tc, round_trip, 0, N(round_trips));
	tcase_add_test(tc, round_trip_long_key);
	tcase_add_test(tc, printed_manifest);
	tcase_add_test(tc, json_mapping);
	tcase_add_test(tc, yaml_output);
	tcase_add_test(tc, output_has_a_limit);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
