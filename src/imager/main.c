/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * capsule-image: one transfer into the image store, as a process of its own. The daemon starts it and reads its
 * standard output (image/transfer.h); it works from a command line just as well.
 */
#include "base/confine.h"
#include "imager/archive.h"
#include "imager/content.h"
#include "imager/flatten.h"
#include "imager/registry.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char USAGE[] =
	"usage: capsule-image push --root DIR < ARCHIVE\n"
	"       capsule-image pull --root DIR [--registries FILE] REFERENCE\n"
	"       capsule-image flatten --root STAGE LAYER... 3> PAYLOAD\n"
	"\n"
	"  --root DIR          the state root, whose image store receives the image\n"
	"  --root STAGE        a directory to be confined to\n"
	"  --registries FILE   mirrors, plain HTTP hosts and credentials\n";

/* Owners, any file's access, modes and times, set-group-ID bits, devices, file capabilities, trusted.* attributes: what
 * writing a layer takes. */
static const uint64_t CAPABILITIES = CONFINE_KEEP(CAP_CHOWN) | CONFINE_KEEP(CAP_DAC_OVERRIDE) |
				     CONFINE_KEEP(CAP_FOWNER) | CONFINE_KEEP(CAP_FSETID) | CONFINE_KEEP(CAP_MKNOD) | CONFINE_KEEP(CAP_SETFCAP) |
				     CONFINE_KEEP(CAP_SYS_ADMIN);

struct arguments {
	const char *verb, *root, *registries, *reference;
	char **layers;
	size_t n_layers;
};

static bool is_flatten(const struct arguments *a)
{
	return !strcmp(a->verb, "flatten");
}

static int parse_arguments(int argc, char **argv, struct arguments *ret)
{
	static const struct option options[] = {
		{ "root", required_argument, NULL, 'r' },
		{ "registries", required_argument, NULL, 'c' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct arguments a = { 0 };
	int c, n;

	while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
		switch (c) {
		case 'r':
			a.root = optarg;
			break;
		case 'c':
			a.registries = optarg;
			break;
		case 'h':
			fputs(USAGE, stdout);
			exit(0);
		default:
			return -1;
		}
	a.verb = optind < argc ? argv[optind] : "";
	n = argc - optind - 1;
	if (!a.root || !(!strcmp(a.verb, "pull") ? n == 1 : !strcmp(a.verb, "push") ? n == 0 : is_flatten(&a) && n > 0))
		return -1;
	a.reference = argv[optind + 1];
	a.layers = argv + optind + 1;
	a.n_layers = (size_t)n;
	*ret = a;
	return 0;
}

static int transfer(const struct arguments *a, struct content *content, struct error *err)
{
	/* A push needs nothing but the image store and gets nothing else; a pull needs the resolver's files and
	 * certificates. */
	if (!strcmp(a->verb, "push"))
		return confine(a->root, CAPABILITIES, err) < 0 ? -1 : archive_push(content, STDIN_FILENO, err);
	return confine(NULL, CAPABILITIES, err) < 0 ? -1 : registry_pull(content, a->reference, a->registries, err);
}

int main(int argc, char **argv)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct content *content = NULL;
	struct arguments a;
	int r;

	if (parse_arguments(argc, argv, &a) < 0) {
		fputs(USAGE, stderr);
		return 2;
	}
	umask(022);
	if (is_flatten(&a)) {
		r = flatten(a.root, a.layers, a.n_layers, &err);
		if (r < 0)
			fprintf(stderr, "%s\n", error_message(&err));
		return r < 0;
	}
	/* No setlocale(): tree/extract.h says why. */
	r = content_open(a.root, NULL, &content, &err);
	if (r == 0)
		r = transfer(&a, content, &err);
	content_close(content);
	if (r < 0)
		report_error(&err);
	return r < 0;
}
