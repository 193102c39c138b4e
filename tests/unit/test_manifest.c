/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* What a manifest may say and what not, each mistake with its report; messages that no manifest can hold. */
#include "manifest_fixture.h"

#include "base/fs.h"
#include "../same_message.h"
#include "bad_manifests.h"
#include "runner.h"

#include <fcntl.h>

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
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
