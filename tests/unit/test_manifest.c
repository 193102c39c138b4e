/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "manifest/manifest.h"
#include "base/fs.h"
#include "manifest/scalar.h"
#include "manifest/suggest.h"
#include "manifest/text.h"

#include "../same_message.h"
#include "bad_manifests.h"
#include "runner.h"

#include <check.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#define N(array) (sizeof(array) / sizeof *(array))

/* ---- helpers ---- */

/* Parses what must be right. */
static struct manifest parsed(const char *text, size_t len)
{
	struct manifest m = { 0 };
	struct manifest_mistakes found;
	struct buf report = BUF_INIT(1 << 20);

	if (manifest_parse(text, len, &m, &found) < 0)
		manifest_mistakes_print(&found, NULL, &report);
	ck_assert_str_eq(buf_str(&report), "");
	manifest_mistakes_release(&found);
	buf_release(&report);
	return m;
}

static Capsule__V1__Workload *workload(const char *text)
{
	struct manifest m = parsed(text, strlen(text));
	Capsule__V1__Workload *w;

	ck_assert_uint_eq(m.n, 1);
	w = steal_ptr(&m.objects[0].workload);
	ck_assert_ptr_nonnull(w);
	manifest_release(&m);
	return w;
}

static void drop(Capsule__V1__Workload *w)
{
	capsule__v1__workload__free_unpacked(w, NULL);
}

/* The report about a text, of any length. Caller frees. */
static char *report_on(const char *text, size_t len, const char *file)
{
	struct manifest m = { 0 };
	struct manifest_mistakes found;
	struct buf report = BUF_INIT(4 << 20);

	ck_assert_int_eq(manifest_parse(text, len, &m, &found), -1);
	ck_assert_ptr_null(m.objects);
	manifest_mistakes_print(&found, file, &report);
	manifest_mistakes_release(&found);
	return buf_steal(&report);
}

static void expect_report(const char *text, const char *expected)
{
	char *report = report_on(text, strlen(text), NULL);

	ck_assert_str_eq(report, expected);
	free(report);
}

static char *to_json(const void *message)
{
	struct buf out = BUF_INIT(1 << 20);

	ck_assert_int_eq(message_to_json(message, 0, &out), 0);
	return buf_steal(&out);
}

/* Repeats a text n times behind another. Caller frees. */
static char *repeated(const char *head, const char *text, size_t n, const char *tail)
{
	struct buf b = BUF_INIT(64 << 20);

	buf_adds(&b, head);
	while (n--)
		buf_adds(&b, text);
	buf_adds(&b, tail);
	return buf_steal(&b);
}

/* ---- mistakes ---- */

START_TEST(mistakes)
{
	expect_report(bad_manifests[_i].text, bad_manifests[_i].mistakes);
}
END_TEST

START_TEST(report_names_the_file)
{
	const char *text = "name: web\nkind: Volume\nsize: 1X\n";
	char *report = report_on(text, strlen(text), "data.yaml");

	ck_assert_str_eq(report, "data.yaml:3:7: size: \"1X\" is not a size: write a number and a unit, for example "
				 "500M, 2GiB or 1.5TiB\n");
	free(report);
}
END_TEST

START_TEST(mistakes_as_an_error)
{
	struct manifest_mistakes found;
	struct error err = ERROR_INIT;
	struct manifest m = { 0 };
	char *many;

	ck_assert_int_eq(manifest_parse("kind: Volume\nname: -a\n", 22, &m, &found), -1);
	ck_assert_int_eq(manifest_mistakes_error(&found, &err), -1);
	ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
	ck_assert_str_eq(error_message(&err), "size: is required, for example 10GiB; "
					      "name: must begin and end with a letter or a digit");
	manifest_mistakes_release(&found);

	many = repeated(WEB "  args: [", "1,", 50, "]\n");
	ck_assert_int_eq(manifest_parse(many, strlen(many), &m, &found), -1);
	manifest_mistakes_error(&found, &err);
	ck_assert_ptr_nonnull(strstr(error_message(&err), "; and 40 more"));
	manifest_mistakes_release(&found);
	error_release(&err);
	free(many);
}
END_TEST

/* ---- what is right ---- */

START_TEST(full_container)
{
	Capsule__V1__Workload *w = workload(
		"%YAML 1.2\n---\n# everything\n"
		"name: full\nkind: WORKLOAD_KIND_CONTAINER\nrestartPolicy: OnFailure\nstopGracePeriodSeconds: 0\n"
		"desiredState: DESIRED_STATE_STOPPED\n"
		"container:\n  image: docker.io/library/nginx:1.27-alpine\n  command: [/bin/sh, '-c']\n"
		"  args:\n    - |\n      a\n      b\n    - 'yes'\n  env: [{name: Z, value: "
		"z}, {value: a, name: A}, {name: E}]\n"
		"  networkMode: BRIDGE\n"
		"  ports: [{containerPort: 0x50, hostPort: 8080}, {containerPort: 80, "
		"hostPort: 8080, protocol: udp}]\n"
		"  mounts: [{volumeName: d, mountPath: /data//x/./, readOnly: True}]\n"
		"  privileged: true\n  hostPid: true\n  hostIpc: false\n  hostMount: ~\n"
		"  hostBindPaths: [/dev/fuse, '/a:/b', '/c:/d:ro']\n...\n");
	Capsule__V1__ContainerSpec *c = w->container;
	char *json = to_json(w);

	ck_assert_str_eq(json,
		"{\"name\":\"full\",\"kind\":\"WORKLOAD_KIND_CONTAINER\",\"container\":{"
		"\"image\":\"docker.io/library/nginx:1.27-alpine\",\"command\":[\"/bin/sh\",\"-c\"],"
		"\"args\":[\"a\\nb\\n\",\"yes\"],\"env\":{\"A\":\"a\",\"E\":\"\",\"Z\":\"z\"},"
		"\"mounts\":[{\"volumeName\":\"d\",\"mountPath\":\"/data/x\",\"readOnly\":true}],"
		"\"networkMode\":\"NETWORK_MODE_BRIDGE\",\"ports\":["
		"{\"containerPort\":80,\"hostPort\":8080,\"protocol\":\"tcp\"},"
		"{\"containerPort\":80,\"hostPort\":8080,\"protocol\":\"udp\"}],"
		"\"privileged\":true,\"hostPid\":true,\"hostBindPaths\":[\"/dev/fuse\",\"/a:/b\",\"/c:/d:ro\"]},"
		"\"desiredState\":\"DESIRED_STATE_STOPPED\",\"restartPolicy\":\"RESTART_POLICY_ON_FAILURE\","
		"\"stopGracePeriodSeconds\":0}");
	ck_assert_uint_eq(c->n_env, 3);
	free(json);
	drop(w);
}
END_TEST

START_TEST(full_micro_vm)
{
	Capsule__V1__Workload *w = workload("name: vm\nkind: MicroVM\nmicroVm:\n  kernelPath: /k\n  rootfsPath: /r\n"
					    "  vcpus: 256\n  memoryMib: 32\n  kernelCmdlineExtra: quiet\n"
					    "  backend: QEMU\n  ports: []\n");
	char *json = to_json(w);

	ck_assert_str_eq(json,
		"{\"name\":\"vm\",\"kind\":\"WORKLOAD_KIND_MICRO_VM\",\"microVm\":{\"kernelPath\":\"/k\","
			       "\"rootfsPath\":\"/r\",\"vcpus\":256,\"memoryMib\":32,\"kernelCmdlineExtra\":\"quiet\","
			       "\"backend\":\"MICRO_VM_BACKEND_QEMU\"},"
			       "\"restartPolicy\":\"RESTART_POLICY_ALWAYS\"}");
	free(json);
	drop(w);
}
END_TEST

START_TEST(defaults)
{
	Capsule__V1__Workload *c = workload(WEB), *v = workload(VM);

	ck_assert_int_eq(c->container->network_mode, CAPSULE__V1__NETWORK_MODE__NETWORK_MODE_BRIDGE);
	ck_assert_int_eq(c->restart_policy, CAPSULE__V1__RESTART_POLICY__RESTART_POLICY_ALWAYS);
	ck_assert_int_eq(c->desired_state, CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_UNSPECIFIED);
	ck_assert_int_eq(c->stop_grace_case, CAPSULE__V1__WORKLOAD__STOP_GRACE__NOT_SET);
	ck_assert_uint_eq(v->micro_vm->vcpus, 1);
	ck_assert_uint_eq(v->micro_vm->memory_mib, 256);
	ck_assert_uint_eq(v->micro_vm->disk_size, 4ull << 30);
	drop(c);
	drop(v);
}
END_TEST

static const struct {
	const char *size;
	uint64_t mib;
} volume_sizes[] = {
	{ "16M", 16 }, { "1GiB", 1024 }, { "1.5GiB", 1536 }, { "10G", 10240 }, { "16777217", 17 },
	{ "\"2 TB\"", 2 << 20 },
	{ "64T", 64 << 20 }, { "0.3g", 308 },
};

START_TEST(volume)
{
	struct buf text = BUF_INIT(200);
	struct manifest m;

	buf_addf(&text, "{\"kind\": \"KIND_VOLUME\", \"name\": \"d\", \"size\": %s}", volume_sizes[_i].size);
	m = parsed(buf_str(&text), text.len);
	ck_assert_uint_eq(m.n, 1);
	ck_assert_int_eq(m.objects[0].kind, MANIFEST_VOLUME);
	ck_assert_str_eq(m.objects[0].volume->name, "d");
	ck_assert_uint_eq(m.objects[0].volume->size_mib, volume_sizes[_i].mib);
	manifest_release(&m);
	buf_release(&text);
}
END_TEST

START_TEST(several_documents)
{
	const char *text = "\xef\xbb\xbf# first\n---\nname: d\nkind: Volume\nsize: 1G\n---\n# nothing\n---\n"
		WEB "---\n~\n---\n" VM;
	struct manifest m = parsed(text, strlen(text));

	ck_assert_uint_eq(m.n, 3);
	ck_assert_uint_eq(m.objects[0].line, 3);
	ck_assert_str_eq(m.objects[0].volume->name, "d");
	ck_assert_uint_eq(m.objects[1].line, 9);
	ck_assert_str_eq(m.objects[1].workload->name, "web");
	ck_assert_str_eq(m.objects[2].workload->name, "vm");
	manifest_release(&m);
}
END_TEST

START_TEST(json_is_read_too)
{
	Capsule__V1__Workload *w = workload(
		"{\n\t\"name\": \"web\",\n\t\"kind\": \"Container\",\"container\":{\"image\":\"nginx\",\n"
		"\"env\":{\"A\":\"\\u00e4\\/\\ud83d\\ude00\\\\ud83dx\\ttab\",\"B\":\"null\"},\n"
		"\"ports\":[{\"containerPort\":65535,\"hostPort\":1}],\"privileged\":false,\"command\":null},\n"
		"\"stopGracePeriodSeconds\":4294967295}\n");

	ck_assert_str_eq(w->container->env[0]->value, "ä/😀\\ud83dx\ttab");
	drop(w);
}
END_TEST

START_TEST(env_forms_are_equal)
{
	Capsule__V1__Workload *list = workload(WEB "  env:\n    - {name: B, value: b}\n"
		"    - {name: A, value: \"1\"}\n");
	Capsule__V1__Workload *map = workload(WEB "  env: {A: \"1\", B: b}\n");

	ck_assert(same_message(&list->base, &map->base));
	drop(list);
	drop(map);
}
END_TEST

START_TEST(examples)
{
	static const char *const names[] = {
		"nginx-host", "nginx-bridge", "alpine-shell", "nginx-with-volume", "alpine-vol-container", "nginx-vm",
		"alpine-vm-image", "alpine-vm-with-volume", "shared-volume", "shared-writer-container",
		"shared-reader-vm",
		"debug-shell", "alpine-vm",
	};
	const char *directory = getenv("CAPSULE_EXAMPLES");
	struct error err = ERROR_INIT;
	struct manifest m;
	char *path, *text;
	size_t len;

	ck_assert_ptr_nonnull(directory);
	for (size_t i = 0; i < N(names); i++) {
		path = fs_path("%s/%s.yaml", directory, names[i]);
		ck_assert_int_eq(fs_read(AT_FDCWD, path, MANIFEST_SIZE_MAX, &text, &len, &err), 0);
		m = parsed(text, len);
		ck_assert_uint_ge(m.n, 1);
		manifest_release(&m);
		free(text);
		free(path);
	}
}
END_TEST

/* ---- limits ---- */

static void expect_limit(char *text, const char *expected)
{
	char *report = report_on(text, strlen(text), NULL);

	ck_assert_msg(strstr(report, expected), "\"%s\" is not in: %.500s", expected, report);
	free(report);
	free(text);
}

static void expect_right(char *text)
{
	struct manifest m = parsed(text, strlen(text));

	manifest_release(&m);
	free(text);
}

START_TEST(limits)
{
	const char *named = "\nkind: Volume\nsize: 1G\n";

	expect_right(repeated("name: ", "n", 63, named));
	expect_limit(repeated("name: ", "n", 64, named), "1:7: name: has 64 characters; 63 are allowed");
	expect_right(repeated("name: web\nkind: Container\ncontainer:\n  image: ", "i", 512, ""));
	expect_limit(repeated("name: web\nkind: Container\ncontainer:\n  image: ", "i", 513, ""), "513 bytes; 512");
	expect_right(repeated(WEB "  args: [", "a,", 1024, "]"));
	expect_limit(repeated(WEB "  args: [", "a,", 1025, "]"), "5:3: container.args: has 1025 entries; 1024");
	expect_limit(repeated(WEB "  hostBindPaths: [", "/a,", 65, "]"), "hostBindPaths: has 65 entries; 64");
	expect_limit(repeated(WEB "  mounts: [", "{},", 65, "]"), "5:3: container.mounts: has 65 entries; 64");
	expect_limit(repeated(WEB "  ports: [", "{},", 1025, "]"), "5:3: container.ports: has 1025 entries; 1024");
	expect_limit(repeated(WEB "  env: [", "{},", 1025, "]"), "5:3: container.env: has 1025 entries; 1024");
	expect_right(repeated(WEB "  args: [", "x", 131071, "]"));
	expect_limit(repeated(WEB "  args: [", "x", 131072, "]"), "5:10: container.args[0]: "
		"has 131072 bytes; 131071");
	expect_right(repeated(WEB "  env: {N: ", "x", 131069, "}"));
	expect_limit(repeated(WEB "  env: {N: ", "x", 131070, "}"), "5:12: container.env.N: "
		"has 131072 bytes with its name");
	expect_limit(repeated(WEB "  mounts: [{volumeName: d, mountPath: /", "x", 4095, "}]"),
		"has 4096 bytes; 4095");
	expect_right(repeated(VM "  kernelCmdlineExtra: ", "x", 1024, ""));
	expect_limit(repeated(VM "  kernelCmdlineExtra: ", "x", 1025, ""), "has 1025 bytes; 1024");
}
END_TEST

START_TEST(limits_of_the_text)
{
	expect_right(repeated(WEB "# ", "x", MANIFEST_SIZE_MAX - strlen(WEB "# "), ""));
	expect_limit(repeated(WEB "# ", "x", MANIFEST_SIZE_MAX - strlen(WEB "# ") + 1, ""),
		"has 1048577 bytes; 1048576");
	expect_limit(repeated(WEB "  x: ", "[", 40, ""), "5:36: is nested deeper than 32 levels");
	expect_limit(repeated(WEB "  x: ", "[", 500000, ""), "is nested deeper than 32 levels");
	expect_limit(repeated(WEB "  x: ", "{a: ", 100000, ""), "is nested deeper than 32 levels");
	expect_limit(repeated(WEB "  x: [", "a,", 200000, "]"), "the document has more than 200000 values");
	expect_limit(repeated("", "name: a\nkind: Volume\nsize: 1G\n---\n", 1001, ""),
		"there are more mistakes than");
	expect_limit(repeated("", "{}\n---\n", 1001, ""), "there are more mistakes than can be shown");
	expect_limit(repeated(WEB, "  foo: bar\n", 300, ""), "there are more mistakes than can be shown\n");
	expect_limit(repeated("", "%TAG !a! b\n", 20, ""), "17:1: tags (!) have no place in a manifest");
}
END_TEST

START_TEST(too_many_documents)
{
	struct buf text = BUF_INIT(MANIFEST_SIZE_MAX);
	struct manifest m;
	char *report;

	for (int i = 0; i < 1000; i++)
		buf_addf(&text, "---\nname: v%d\nkind: Volume\nsize: 1G\n", i);
	m = parsed(buf_str(&text), text.len);
	ck_assert_uint_eq(m.n, 1000);
	manifest_release(&m);
	buf_adds(&text, "---\nname: more\nkind: Volume\nsize: 1G\n");
	report = report_on(buf_str(&text), text.len, NULL);
	ck_assert_str_eq(report, "4002:1: there are more than 1000 documents\n");
	free(report);
	buf_release(&text);
}
END_TEST

START_TEST(all_strings_together)
{
	Capsule__V1__Workload *w = workload(WEB "  command: [a, b, c, d, e, f, g, h, i]\n");
	struct manifest_mistakes found = { 0 };
	struct buf report = BUF_INIT(4096);

	/* A text of this size is refused before; a message is not. */
	for (size_t i = 0; i < 9; i++) {
		free(w->container->command[i]);
		w->container->command[i] = repeated("", "x", 120000, "");
	}
	ck_assert_int_eq(manifest_check_workload(w, &found), -1);
	manifest_mistakes_print(&found, NULL, &report);
	ck_assert_str_eq(buf_str(&report), "container: command, args and env have "
		"1080009 bytes together; 1048576 are allowed\n");
	manifest_mistakes_release(&found);
	buf_release(&report);
	drop(w);
}
END_TEST

/* ---- messages that no manifest can hold ---- */

static void expect_refused(Capsule__V1__Workload *w, const char *expected)
{
	struct manifest_mistakes found = { 0 };
	struct buf report = BUF_INIT(1 << 20);

	ck_assert_int_eq(manifest_check_workload(w, &found), -1);
	manifest_mistakes_print(&found, NULL, &report);
	ck_assert_str_eq(buf_str(&report), expected);
	manifest_mistakes_release(&found);
	buf_release(&report);
	drop(w);
}

static void set_string(char **member, const char *text)
{
	if (*member != (const char *)protobuf_c_empty_string)
		free(*member);
	*member = strdup(text);
}

START_TEST(hostile_messages)
{
	Capsule__V1__Workload *w;

	w = workload(WEB);
	w->kind = 7;
	w->restart_policy = 9;
	w->container->network_mode = -1;
	w->desired_state = 4;
	expect_refused(w, "kind: 7 is not a known value\ncontainer.networkMode: -1 is not a known value\n"
			  "restartPolicy: 9 is not a known value\ndesiredState: 4 is not a known value\n");
	w = workload(WEB);
	w->kind = 0;
	expect_refused(w, "kind: is required: Container or MicroVM\n");
	w = workload(WEB "  args: [a]\n  env: {A: b, C: d}\n");
	set_string(&w->name, "\x1b[2Jweb");
	set_string(&w->container->image, "a\xff");
	set_string(&w->container->args[0], "\xc0\xaf");
	set_string(&w->container->env[0]->value, "\xed\xa0\x80");
	set_string(&w->container->env[1]->key, "\xf8");
	expect_refused(w, "name: may hold a-z, 0-9 and '-' only, not \"\\u001b\"\n"
			  "container.image: is not UTF-8\ncontainer.args[0]: is not UTF-8\ncontainer.env.A: "
			  "is not UTF-8\n"
			  "container.env[\"\xef\xbf\xbd\"]: the name of a variable is not UTF-8\n");
	w = workload(WEB "  env: {A: b, C: d}\n");
	set_string(&w->container->env[1]->key, "A");
	expect_refused(w, "container.env.A: is given twice\n");
	w = workload(WEB);
	w->desired_state = CAPSULE__V1__DESIRED_STATE__DESIRED_STATE_DELETING;
	expect_refused(w, "desiredState: must be Running or Stopped; to remove a workload, delete it\n");
}
END_TEST

START_TEST(volume_messages)
{
	Capsule__V1__VolumeCreateRequest v = CAPSULE__V1__VOLUME_CREATE_REQUEST__INIT;
	struct manifest_mistakes found = { 0 };

	v.name = (char *)"data";
	ck_assert_int_eq(manifest_check_volume(&v, &found), 0);
	v.size_mib = 15;
	ck_assert_int_eq(manifest_check_volume(&v, &found), -1);
	v.size_mib = UINT64_MAX;
	ck_assert_int_eq(manifest_check_volume(&v, &found), -1);
	ck_assert_uint_eq(found.n, 2);
	ck_assert_str_eq(found.items[1].message, "must be at most 64TiB");
	manifest_mistakes_release(&found);
}
END_TEST

START_TEST(names)
{
	static const char *const good[] = { "a", "0", "a-b", "web-1" };
	static const char *const bad[] = { "", "-a", "a-", "A", "a.b", "a_b", "a b", "ä", "a\n" };
	struct error err = ERROR_INIT;

	for (size_t i = 0; i < N(good); i++)
		ck_assert_int_eq(manifest_check_name("name", good[i], NULL), 0);
	for (size_t i = 0; i < N(bad); i++)
		ck_assert_int_eq(manifest_check_name("workload name", bad[i], &err), -1);
	ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
	ck_assert_str_eq(error_message(&err), "workload name \"a\\n\" may hold a-z, 0-9 and '-' only, not \"\\n\"");
	error_release(&err);
}
END_TEST

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

/* ---- sizes, words, scalars, text ---- */

static const struct {
	const char *text;
	uint64_t bytes;
} good_sizes[] = {
	{ "0", 0 }, { "10", 10 }, { "10B", 10 }, { "1K", 1024 }, { "1k", 1024 }, { "1KB", 1024 }, { "1Ki", 1024 },
	{ "1KiB", 1024 }, { "500M", 524288000 }, { "1.5GiB", 1610612736 }, { "2 TB", UINT64_C(2) << 40 },
	{ "0.1K", 103 },
	{ "18446744073709551615", UINT64_MAX }, { "16777215T", UINT64_C(16777215) << 40 },
	{ "1.0000000000000001G", 1073741825 },
};
static const char *const bad_sizes[] = {
	"", " 1", "1 ", "-1", "+1", "K", "1KK", "1iB", "1E", "1.G", ".5G", "1.5", "1.5B", "1,5G", "0x10", "1e3",
	"16777216T",
	"18446744073709551616", "1.1234567890123456789G", "GiB", "1 G B",
};

START_TEST(parsed_sizes)
{
	char text[MANIFEST_SIZE_TEXT];
	struct error err = ERROR_INIT;
	uint64_t bytes, again;

	for (size_t i = 0; i < N(good_sizes); i++) {
		ck_assert_msg(manifest_parse_size(good_sizes[i].text, &bytes, NULL) == 0, "%s", good_sizes[i].text);
		ck_assert_msg(bytes == good_sizes[i].bytes, "%s is %" PRIu64, good_sizes[i].text, bytes);
	}
	for (size_t i = 0; i < N(bad_sizes); i++) {
		ck_assert_msg(manifest_parse_size(bad_sizes[i], &bytes, &err) < 0, "%s", bad_sizes[i]);
		ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
	}
	error_release(&err);
	/* Whole MiB up to 8 GiB read back as what they were. */
	for (uint64_t mib = 1; mib < 8192; mib++) {
		manifest_format_size(mib << 20, text);
		ck_assert_int_eq(manifest_parse_size(text, &again, NULL), 0);
		ck_assert_msg(again == mib << 20, "%" PRIu64 " MiB as %s", mib, text);
	}
}
END_TEST

START_TEST(formatted_sizes)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} sizes[] = {
		{ 0, "0B" }, { 1023, "1023B" }, { 1024, "1KiB" }, { 1536, "1.5KiB" }, { 12345, "12.1KiB" },
		{ UINT64_C(1) << 30, "1GiB" }, { UINT64_C(1536) << 20, "1.5GiB" },
		{ UINT64_C(1280) << 20, "1.25GiB" },
		{ UINT64_C(1100) << 20, "1100MiB" }, { UINT64_C(5000000000), "4.7GiB" },
		{ UINT64_C(64) << 40, "64TiB" },
		{ UINT64_MAX, "16777216TiB" },
	};
	char text[MANIFEST_SIZE_TEXT];

	for (size_t i = 0; i < N(sizes); i++)
		ck_assert_str_eq(manifest_format_size(sizes[i].bytes, text), sizes[i].text);
}
END_TEST

START_TEST(suggestions)
{
	static const char *const fields[] = { "image", "command", "args", "env", "mounts", "ports", "hostPid",
		"hostIpc" };
	static const struct {
		const char *word, *nearest;
	} words[] = {
		{ "imgae", "image" }, { "IMAGE", "image" }, { "comand", "command" }, { "arg", "args" },
		{ "evn", "env" },
		{ "mount", "mounts" }, { "port", "ports" }, { "host_pid", "hostPid" }, { "hosticp", "hostIpc" },
		{ "x", NULL }, { "", NULL }, { "frobnicate", NULL },
		{ "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", NULL },
	};
	struct suggest s;

	for (size_t i = 0; i < N(words); i++) {
		suggest_init(&s, words[i].word);
		for (size_t j = 0; j < N(fields); j++)
			suggest_offer(&s, fields[j]);
		ck_assert_pstr_eq(s.nearest, words[i].nearest);
	}
}
END_TEST

START_TEST(core_schema)
{
	static const struct {
		const char *text;
		enum scalar type;
	} scalars[] = {
		{ "", SCALAR_NULL }, { "~", SCALAR_NULL }, { "NULL", SCALAR_NULL }, { "nULL", SCALAR_STRING },
		{ "true", SCALAR_BOOL }, { "False", SCALAR_BOOL }, { "tRUE", SCALAR_STRING },
		{ "yes", SCALAR_STRING },
		{ "0", SCALAR_INT }, { "-0", SCALAR_INT }, { "+12", SCALAR_INT }, { "007", SCALAR_INT },
		{ "0x1F", SCALAR_INT },
		{ "0o17", SCALAR_INT }, { "0o8", SCALAR_STRING }, { "0x", SCALAR_STRING }, { "-", SCALAR_STRING },
		{ "-0x1", SCALAR_STRING }, { "1_000", SCALAR_STRING }, { "0b1", SCALAR_STRING },
		{ "1.5", SCALAR_FLOAT },
		{ ".5", SCALAR_FLOAT }, { "1.", SCALAR_FLOAT }, { ".", SCALAR_STRING }, { "1e3", SCALAR_FLOAT },
		{ "1e", SCALAR_STRING }, { "-1.5E-3", SCALAR_FLOAT }, { "-.inf", SCALAR_FLOAT },
		{ ".NaN", SCALAR_FLOAT },
		{ "-.nan", SCALAR_STRING }, { "1.2.3", SCALAR_STRING }, { "e5", SCALAR_STRING },
	};
	uint64_t value;
	bool negative;

	for (size_t i = 0; i < N(scalars); i++)
		ck_assert_msg(scalar_resolve(scalars[i].text, strlen(scalars[i].text)) == scalars[i].type, "%s",
			      scalars[i].text);
	ck_assert_int_eq(scalar_int("-0x", 1, &negative, &value), 0);
	ck_assert_int_eq(scalar_int("18446744073709551615", 20, &negative, &value), 0);
	ck_assert_uint_eq(value, UINT64_MAX);
	ck_assert_int_eq(scalar_int("18446744073709551616", 20, &negative, &value), -1);
}
END_TEST

START_TEST(utf8)
{
	static const char *const good[] = { "", "a", "\xc3\xa4", "\xe2\x98\xba", "\xf0\x9f\x98\x80",
		"\xed\x9f\xbf", "\xf4\x8f\xbf\xbf" };
	static const char *const bad[] = { "\x80", "\xc3", "\xc0\xaf", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80",
		"\xf0\x80\x80\x80",
					   "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xc3\x28", "\xe2\x98" };

	for (size_t i = 0; i < N(good); i++)
		ck_assert(text_is_utf8(good[i], strlen(good[i])));
	for (size_t i = 0; i < N(bad); i++)
		ck_assert_msg(!text_is_utf8(bad[i], strlen(bad[i])), "number %zu", i);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("manifest");
	TCase *tc = tcase_create("manifest");

	tcase_add_loop_test(tc, mistakes, 0, N(bad_manifests));
	tcase_add_test(tc, report_names_the_file);
	tcase_add_test(tc, mistakes_as_an_error);
	tcase_add_test(tc, full_container);
	tcase_add_test(tc, full_micro_vm);
	tcase_add_test(tc, defaults);
	tcase_add_loop_test(tc, volume, 0, N(volume_sizes));
	tcase_add_test(tc, several_documents);
	tcase_add_test(tc, json_is_read_too);
	tcase_add_test(tc, env_forms_are_equal);
	tcase_add_test(tc, examples);
	tcase_add_test(tc, limits);
	tcase_add_test(tc, limits_of_the_text);
	tcase_add_test(tc, too_many_documents);
	tcase_add_test(tc, all_strings_together);
	tcase_add_test(tc, hostile_messages);
	tcase_add_test(tc, volume_messages);
	tcase_add_test(tc, names);
	tcase_add_test(tc, normal_form_drops_what_is_unknown);
	tcase_add_test(tc, equality);
	tcase_add_loop_test(tc, diff, 0, N(diffs));
	tcase_add_loop_test(tc, round_trip, 0, N(round_trips));
	tcase_add_test(tc, round_trip_long_key);
	tcase_add_test(tc, printed_manifest);
	tcase_add_test(tc, json_mapping);
	tcase_add_test(tc, yaml_output);
	tcase_add_test(tc, output_has_a_limit);
	tcase_add_test(tc, parsed_sizes);
	tcase_add_test(tc, formatted_sizes);
	tcase_add_test(tc, suggestions);
	tcase_add_test(tc, core_schema);
	tcase_add_test(tc, utf8);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
