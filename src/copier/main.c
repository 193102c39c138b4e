/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * capsule-copy: one end of a copy, as a process of its own, because a copy meets foreign bytes and foreign trees. For
 * the daemon it is the workload's end (protocol.h), for capsulectl the end on this side, which it writes to its own
 * user's terminal about.
 */
#include "base/fs.h"
#include "copier/protocol.h"
#include "copier/reach.h"
#include "copier/relay.h"
#include "tree/extract.h"
#include "tree/pack.h"
#include "tree/path.h"
#include "tree/target.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <string.h>
#include <sys/stat.h>

#define INPUT_SIZE ((size_t)256 << 10)

static const char USAGE[] =
	"usage: capsule-copy in|out --process|--guest PATH\n"
	"       capsule-copy in|out --state DIR --layer DIR... [--volume MODE:DEVICE:PATH]... PATH\n"
	"       capsule-copy pack [--archive] PATH > TAR\n"
	"       capsule-copy unpack [--archive] [--contents] PATH < TAR\n"
	"\n"
	"One end of a copy. Started by capsuled and capsulectl; not meant to be run by hand.\n"
	"\n"
	"  --process      descriptor 3 is a pidfd of a process of a running workload\n"
	"  --guest        descriptor 3 is a connection to the holder of a running microVM\n"
	"  --state DIR    the directory of one that does not run, with upper/ and work/\n"
	"  --layer DIR    a layer of its image, the lowest first\n"
	"  --volume ...   a volume of it; MODE is ro or rw\n"
	"  --archive      keep owners and special rights\n"
	"  --contents     unpack what is in the archive's directory instead of the directory\n";

struct arguments {
	const char *verb, *path;
	struct reach reach;
	bool guest, archive, contents;
};

/* ---- arguments ---- */

static int add_volume(struct reach *r, char *text)
{
	char *mode = strsep(&text, ":"), *device = strsep(&text, ":"), *path = text;
	struct reach_volume *v = &r->volumes[r->n_volumes];

	if (!path || r->n_volumes == SHIM_VOLUMES_MAX)
		return -1;
	*v = (struct reach_volume){ .device = device, .path = path, .read_only = !strcmp(mode, "ro") };
	r->n_volumes++;
	return v->read_only || !strcmp(mode, "rw") ? 0 : -1;
}

static int parse_option(struct arguments *a, int option, char *value)
{
	switch (option) {
	case 'p': a->reach.running = true; return 0;
	case 'g': a->guest = true; return 0;
	case 's': a->reach.state_dir = value; return 0;
	case 'l':
		if (a->reach.n_layers == SHIM_LAYERS_MAX)
			return -1;
		a->reach.layers[a->reach.n_layers++] = value;
		return 0;
	case 'v': return add_volume(&a->reach, value);
	case 'a': a->archive = true; return 0;
	case 'c': a->contents = true; return 0;
	case 'h':
		fputs(USAGE, stdout);
		exit(0);
	default: return -1;
	}
}

static int parse_arguments(int argc, char **argv, struct arguments *a)
{
	static const struct option options[] = {
		{ "process", no_argument, NULL, 'p' },	    { "guest", no_argument, NULL, 'g' },
		{ "state", required_argument, NULL, 's' },
		{ "layer", required_argument, NULL, 'l' },
		{ "volume", required_argument, NULL, 'v' },
		{ "archive", no_argument, NULL, 'a' },	    { "contents", no_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },	    { NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
		if (parse_option(a, c, optarg) < 0)
			return -1;
	if (argc - optind != 2)
		return -1;
	a->verb = argv[optind];
	a->path = argv[optind + 1];
	return 0;
}

/* ---- the stream that comes in ---- */

static ssize_t read_input(void *arg, const void **ret_data, struct error *err)
{
	ssize_t n;

	*ret_data = arg;
	do {
		n = read(STDIN_FILENO, arg, INPUT_SIZE);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? error_errno(err, errno, "cannot read the archive") : n;
}

/* To the end of the input, which comes after the archive's: whoever writes it must not find that nobody reads. */
static int extract(const struct extract_options *options, struct error *err)
{
	_cleanup_free_ char *buffer = malloc(INPUT_SIZE);
	const struct extract_source source = { read_input, buffer };
	const void *rest;
	int r;

	if (!buffer)
		return error_errno(err, ENOMEM, "cannot read the archive");
	r = extract_tree(options, &source, err);
	while (r == 0 && read_input(buffer, &rest, NULL) > 0)
		;
	return r;
}

/* ---- the workload's end ---- */

static int open_root(struct arguments *a, struct error *err)
{
	int root;

	if (reach_root(&a->reach, err) < 0)
		return -1;
	root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root < 0 ? error_errno(err, errno, "cannot open the root of the workload") : root;
}

static int run_in(struct arguments *a, struct error *err)
{
	_cleanup_close_ int root = open_root(a, err);
	_cleanup_target_ struct target target = { 0 };
	struct extract_options options = { .what = "archive", .root = root, .limits = EXTRACT_UNLIMITED };

	if (root < 0 || target_find(root, a->path, &target, err) < 0)
		return -1;
	options.prefix = target.prefix;
	options.rename = target.rename;
	return extract(&options, err);
}

static int run_out(struct arguments *a, struct error *err)
{
	_cleanup_close_ int root = open_root(a, err);
	const struct pack_options options = { .root = root, .path = a->path };

	return root < 0 ? -1 : pack_tree(&options, STDOUT_FILENO, err);
}

/* ---- this side's end ---- */

static int run_pack(struct arguments *a, struct error *err)
{
	const struct pack_options options = {
		.root = AT_FDCWD, .path = a->path, .name = path_wants_contents(a->path) ? "." : NULL,
		.plain = !a->archive,
	};

	return pack_tree(&options, STDOUT_FILENO, err);
}

/* The user's own path leads wherever it leads. From its end on nothing does: not out of a directory that is there already,
 * and not through a link of the stream's when the root is the directory that the new one is made in. */
static int unpack_below(struct arguments *a, const char *dir, const char *name, bool rename, struct error *err)
{
	_cleanup_close_ int root = -1;
	struct extract_options options = {
		.what = "archive", .prefix = name, .rename = rename, .straight = *name != '\0', .plain = !a->archive,
		.limits = EXTRACT_UNLIMITED,
	};

	if (fs_mkdir_all(AT_FDCWD, dir, 0777, err) < 0)
		return -1;
	root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return error_errno(err, errno, "cannot open %s", dir);
	options.root = root;
	return extract(&options, err);
}

static int run_unpack(struct arguments *a, struct error *err)
{
	_cleanup_free_ char *path = path_trim(a->path), *dir = NULL, *name = NULL;
	struct stat st;
	bool exists;

	if (!path || path_split(path, &dir, &name) < 0)
		return error_errno(err, ENOMEM, "cannot unpack");
	exists = stat(path, &st) == 0;
	if (exists && !S_ISDIR(st.st_mode) && path_wants_directory(a->path))
		return error_set(err, ERR_FAILED_PRECONDITION, "%s is not a directory", a->path);
	if ((exists && S_ISDIR(st.st_mode)) || path_wants_directory(a->path))
		return unpack_below(a, path, "", a->contents, err);
	return unpack_below(a, dir, name, true, err);
}

/* ---- main ---- */

struct verb {
	const char *name;
	int (*run)(struct arguments *a, struct error *err);
	bool for_daemon;
};

static const struct verb *find_verb(const struct arguments *a)
{
	static const struct verb verbs[] = {
		{ "in", run_in, true },
		{ "out", run_out, true },
		{ "pack", run_pack, false },
		{ "unpack", run_unpack, false },
	};
	bool has_place = a->guest || a->reach.running || (a->reach.state_dir && a->reach.n_layers);

	for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
		if (!strcmp(a->verb, verbs[i].name) && verbs[i].for_daemon == has_place)
			return &verbs[i];
	return NULL;
}

/* One line, whatever names are in it. */
static void report(const struct verb *verb, struct error *err)
{
	for (char *p = err->message; p && *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	fprintf(stderr, "%s %s\n", verb->for_daemon ? error_code_name(err->code) : "capsulectl:", error_message(err));
}

int main(int argc, char **argv)
{
	static struct arguments arguments;
	_cleanup_error_ struct error err = ERROR_INIT;
	const struct verb *verb;

	/* No setlocale(): tree/extract.h says why. */
	if (parse_arguments(argc, argv, &arguments) < 0 || !(verb = find_verb(&arguments))) {
		fputs(USAGE, stderr);
		return 2;
	}
	/* What is made has the mode that the archive says; implied directories are 0755. */
	if (verb->for_daemon)
		umask(0);
	if (arguments.guest)
		return relay_to_guest(verb->run == run_in, arguments.path);
	if (verb->run(&arguments, &err) == 0)
		return 0;
	report(verb, &err);
	return COPIER_EXIT_FAILED;
}
