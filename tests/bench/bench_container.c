/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * How long a container takes from start() to running, against the OCI runtime alone on the very same bundle in the same
 * run, each in turn. Prints milliseconds and the ratio.
 *
 *     bench-container [rounds] [shims for the memory figure]
 */
#include "../unit/container_fixture.h"

#include "base/fs.h"
#include "base/process.h"
#include "base/timeutil.h"
#include "runtime/container/bundle.h"
#include "runtime/container/seccomp.h"
#include "shim/cgroup.h"
#include "shim/protocol.h"

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <sys/mount.h>

#define ROUNDS_MAX 1000

static int rounds = 30, shims = 10;
static struct fixture f;
static char bundle_dir[128], cgroup[96], runtime_root[128], runtime_state[160];

struct series {
	int64_t ns[ROUNDS_MAX];
	int n;
};

static void add(struct series *s, int64_t begin)
{
	s->ns[s->n++] = time_monotonic_ns() - begin;
}

static int compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static double median(struct series *s)
{
	qsort(s->ns, (size_t)s->n, sizeof *s->ns, compare);
	return (double)s->ns[s->n / 2] / 1e6;
}

static void print(const char *what, struct series *s)
{
	double m = median(s);

	printf("%-52s median %6.2f ms  min %6.2f ms\n", what, m, (double)s->ns[0] / 1e6);
}

/* The bundle as the driver writes it, for a container of its own; compiled seccomp code or a list of names. */
static void write_bundle(const Capsule__V1__Workload *w, bool as_names)
{
	struct driver_plan plan = { .spec = w, .image = &f.image, .netns_fd = -1 };
	struct oci_runtime runtime = { .program = "crun", .is_crun = !as_names };
	struct bundle b = {
		.plan = &plan, .runtime = &runtime, .run_dir = bundle_dir, .upper_dir = bundle_dir, .cgroup_path = cgroup,
	};
	struct error err = ERROR_INIT;

	ck_assert_msg(bundle_write(&b, &err) == 0, "%s", error_message(&err));
}

/* The bare runs get what the shim would give them: a mount namespace with the overlay, crun's view of the cgroups. */
static void prepare_bare(void)
{
	char path[160], options[512];

	snprintf(bundle_dir, sizeof bundle_dir, "%s/bare", f.dir);
	snprintf(cgroup, sizeof cgroup, "%s/bare", f.cgroup);
	snprintf(runtime_root, sizeof runtime_root, "%s/bare-state", f.dir);
	snprintf(runtime_state, sizeof runtime_state, "%s/bare", runtime_root);
	static const char *const dirs[] = { "rootfs", "upper", "work" };
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "%s/%s", bundle_dir, dirs[i]);
		ck_assert_int_eq(fs_mkdir_all(AT_FDCWD, path, 0755, NULL), 0);
	}
	ck_assert_int_eq(unshare(CLONE_NEWNS), 0);
	ck_assert_int_eq(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL), 0);
	if (cgroup_mode() == CGROUP_HYBRID)
		ck_assert_int_eq(mount("bench", "/sys/fs/cgroup/unified", "tmpfs", 0, "size=64k"), 0);
	snprintf(path, sizeof path, "%s/rootfs", bundle_dir);
	snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work", f.layer, bundle_dir, bundle_dir);
	ck_assert_int_eq(mount("overlay", path, "overlay", 0, options), 0);
}

static void release_bare(void)
{
	char path[160];

	snprintf(path, sizeof path, "%s/rootfs", bundle_dir);
	umount2(path, MNT_DETACH);
	umount2("/sys/fs/cgroup/unified", MNT_DETACH);
}

static void bare_run(struct series *s)
{
	const char *const argv[] = { "crun", "--root", runtime_root, "run", "--detach", "--bundle", bundle_dir, "bare", NULL };
	struct process_spawn spawn = { .argv = argv };
	int64_t begin = time_monotonic_ns();
	pid_t pid;

	ck_assert_int_eq(process_spawn(&spawn, &pid, NULL, NULL), 0);
	ck_assert_int_eq(process_wait(pid), 0);
	add(s, begin);
	ck_assert_int_eq(cgroup_kill(cgroup, 10000, NULL), 0);
	(void)cgroup_remove(cgroup, NULL);
	ck_assert_int_eq(fs_remove_tree(AT_FDCWD, runtime_state, NULL), 0);
}

static void driver_run(const Capsule__V1__Workload *w, struct series *starts, struct series *stops, struct series *cleanups)
{
	struct error err = ERROR_INIT;
	struct driver_instance i;
	struct shim_result r;
	int64_t begin = time_monotonic_ns();

	ck_assert_msg(fixture_start(&f, w, &i, &err) == 0, "%s", error_message(&err));
	add(starts, begin);
	begin = time_monotonic_ns();
	fixture_stop(&i, SIGKILL, 0);
	fixture_wait(&i, &r);
	add(stops, begin);
	begin = time_monotonic_ns();
	ck_assert_int_eq(f.driver->ops->cleanup(f.driver, w->name, &err), 0);
	add(cleanups, begin);
}

static unsigned long field(const char *text, const char *name)
{
	const char *line = strstr(text, name);
	unsigned long n = 0;

	if (line)
		sscanf(line + strlen(name), " %lu", &n);
	return n;
}

static void measure_memory(void)
{
	struct driver_instance *all = calloc((size_t)shims, sizeof *all);
	unsigned long total = 0;
	char name[32], path[256], *text;
	int pid;

	for (int k = 0; k < shims; k++) {
		snprintf(name, sizeof name, "memory-%d", k);
		Capsule__V1__Workload *w = fixture_workload(name, "echo hello; exec sleep 1000");
		ck_assert_int_eq(fixture_start(&f, w, &all[k], NULL), 0);
		fixture_workload_free(w);
	}
	for (int k = 0; k < shims; k++) {
		snprintf(path, sizeof path, "%s/workloads/memory-%d/" SHIM_PID_FILE, f.run, k);
		ck_assert_int_eq(fs_read(AT_FDCWD, path, 64, &text, NULL, NULL), 0);
		sscanf(text, "%d", &pid);
		free(text);
		snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
		ck_assert_int_eq(fs_read(AT_FDCWD, path, 8192, &text, NULL, NULL), 0);
		total += field(text, "Private_Clean:") + field(text, "Private_Dirty:");
		free(text);
		driver_instance_release(&all[k]);
	}
	printf("%-52s %lu KiB (mean of %d)\n", "private memory of a shim", total / (unsigned long)shims, shims);
	free(all);
}

START_TEST(bench)
{
	static struct series starts, stops, cleanups, bare, names;
	Capsule__V1__Workload *w;

	fixture_init(&f, "crun");
	w = fixture_workload("bench", "exec sleep 1000");
	prepare_bare();
	write_bundle(w, false);
	for (int k = 0; k < rounds; k++) {
		driver_run(w, &starts, &stops, &cleanups);
		bare_run(&bare);
	}
	write_bundle(w, true);
	for (int k = 0; k < rounds; k++)
		bare_run(&names);
	print("start() to running", &starts);
	print("bare crun run --detach, the same bundle", &bare);
	print("bare crun run --detach, seccomp by names", &names);
	print("kill to the word of the end", &stops);
	print("cleanup()", &cleanups);
	printf("start() / bare: %.2f\n", median(&starts) / median(&bare));
	measure_memory();
	release_bare();
	fixture_workload_free(w);
	fixture_release(&f);
}
END_TEST

int main(int argc, char **argv)
{
	Suite *suite = suite_create("bench");
	TCase *c = tcase_create("bench");
	SRunner *runner;
	int failed;

	if (fixture_missing()) {
		printf("skipped: %s is missing\n", fixture_missing());
		return 77;
	}
	if (argc > 1)
		rounds = (int)strtol(argv[1], NULL, 10);
	if (argc > 2)
		shims = (int)strtol(argv[2], NULL, 10);
	if (rounds < 1 || rounds > ROUNDS_MAX || shims < 1)
		return 2;
	tcase_set_timeout(c, 0);
	tcase_add_test(c, bench);
	suite_add_tcase(suite, c);
	runner = srunner_create(suite);
	srunner_set_fork_status(runner, CK_NOFORK);
	srunner_run_all(runner, CK_NORMAL);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
