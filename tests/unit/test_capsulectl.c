/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "base/timeutil.h"
#include "capsulectl/commands.h"
#include "capsulectl/output.h"
#include "capsulectl/target.h"

#include "runner.h"
#include "workload.pb-c.h"

#include <check.h>
#include <errno.h>

/* ---- the command line ---- */

#define WORDS_MAX 24

/* A command line, parsed. */
struct line {
	char *argv[WORDS_MAX + 1];
	char *text;
	struct cli cli;
	struct error err;
	int result;
};

/* Words are separated by one space; "''" is an empty one. */
static void parse(struct line *l, const char *text)
{
	int argc = 0;

	memset(l, 0, sizeof *l);
	l->text = strdup(text);
	for (char *word = strtok(l->text, " "); word && argc < WORDS_MAX; word = strtok(NULL, " "))
		l->argv[argc++] = strcmp(word, "''") == 0 ? word + 2 : word;
	l->result = cli_parse(&l->cli, argc, l->argv, &l->err);
}

static void line_release(struct line *l)
{
	cli_release(&l->cli);
	error_release(&l->err);
	free(l->text);
}

static const struct {
	const char *text, *error;
} wrong_lines[] = {
	{ "capsulectl wrkload", "unknown command \"wrkload\"; did you mean \"workload\"?" },
	{ "capsulectl frobnicate", "unknown command \"frobnicate\"" },
	{ "capsulectl workload lst", "\"lst\" is not a verb of workload; did you mean \"list\"?" },
	{ "capsulectl workload del web", "\"del\" is not a verb of workload; did you mean \"delete\"?" },
	{ "capsulectl workload get", "missing NAME" },
	{ "capsulectl workload get ''", "an argument is empty" },
	{ "capsulectl workload get a b", "\"b\" is one argument too many" },
	{ "capsulectl workload list web", "\"web\" is one argument too many" },
	{ "capsulectl workload list --folow", "unknown option --folow" },
	{ "capsulectl workload logs --folow web", "unknown option --folow; did you mean --follow?" },
	{ "capsulectl workload logs --folow=1 web", "unknown option --folow; did you mean --follow?" },
	{ "capsulectl workload logs -x web", "unknown option -x" },
	{ "capsulectl workload logs web -n", "-n needs a value: N" },
	{ "capsulectl workload logs web --tail", "--tail needs a value: N" },
	{ "capsulectl workload logs web -n -5", "--tail: \"-5\" is not a number of lines" },
	{ "capsulectl workload logs web -n 5x", "--tail: \"5x\" is not a number of lines" },
	{ "capsulectl workload logs web -n 99999999999", "--tail: \"99999999999\" is not a number of lines" },
	{ "capsulectl workload logs web --follow=yes", "--follow takes no value" },
	{ "capsulectl workload logs web --since yesterday",
	  "--since: \"yesterday\" is neither a duration (10m) nor a time (2026-01-31T12:00:00Z)" },
	{ "capsulectl --timeout soon info", "--timeout: \"soon\" is not a duration; write 30s, 2m or 1h30m" },
	{ "capsulectl --timeout 0 info", "--timeout: \"0\" is not a duration; write 30s, 2m or 1h30m" },
	{ "capsulectl -o xml workload list", "-o: \"xml\" is not one of table|json|yaml|name|manifest" },
	{ "capsulectl volume list -o manifest", "-o: \"manifest\" is not one of table|json|yaml|name" },
	{ "capsulectl -o json workload stop web",
	  "\"capsulectl workload stop\" has no output to give a form: leave -o out" },
	{ "capsulectl workload -f logs web", "unknown option -f" },
};

START_TEST(wrong_line)
{
	struct line l;

	parse(&l, wrong_lines[_i].text);
	ck_assert_int_lt(l.result, 0);
	ck_assert_str_eq(error_message(&l.err), wrong_lines[_i].error);
	line_release(&l);
}
END_TEST

/* The same meaning wherever the options stand. */
static const char *const same_lines[] = {
	"capsulectl --capsule unix:/x --timeout 90s workload logs -f -n 7 web",
	"capsulectl workload --capsule unix:/x logs web -f -n7 --timeout=90s",
	"capsulectl workload logs web --follow --tail=7 --capsule=unix:/x --timeout 1m30s",
	"capsulectl w --timeout 90 logs -fn 7 --capsule unix:/x -- web",
	"capsulectl workload logs -n 1 -f --capsule tcp:1 --timeout 1s web -n 7 --capsule unix:/x --timeout 90s",
};

START_TEST(options_anywhere)
{
	struct line l;

	parse(&l, same_lines[_i]);
	ck_assert_msg(l.result == 0, "%s", error_message(&l.err));
	ck_assert_str_eq(l.cli.command->name, "logs");
	ck_assert_uint_eq(l.cli.n_names, 1);
	ck_assert_str_eq(l.cli.names[0], "web");
	ck_assert(cli_has(&l.cli, OPT_FOLLOW));
	ck_assert(!cli_has(&l.cli, OPT_SERIAL));
	ck_assert_int_eq(cli_option(&l.cli, OPT_TAIL)->number, 7);
	ck_assert_int_eq(cli_option(&l.cli, OPT_TIMEOUT)->number, 90 * NSEC_PER_SEC);
	ck_assert_str_eq(cli_option(&l.cli, OPT_CAPSULE)->text, "unix:/x");
	line_release(&l);
}
END_TEST

START_TEST(double_dash_ends_options)
{
	struct line l;

	parse(&l, "capsulectl workload delete a -- -f --all");
	ck_assert_int_eq(l.result, 0);
	ck_assert_uint_eq(l.cli.n_names, 3);
	ck_assert_str_eq(l.cli.names[1], "-f");
	ck_assert(!cli_has(&l.cli, OPT_ALL));
	line_release(&l);
}
END_TEST

START_TEST(help_demands_nothing)
{
	struct line l;

	parse(&l, "capsulectl workload get --help");
	ck_assert_int_eq(l.result, 0);
	ck_assert(cli_has(&l.cli, OPT_HELP));
	line_release(&l);
	parse(&l, "capsulectl --help nonsense");
	ck_assert_int_eq(l.result, 0);
	ck_assert_ptr_eq(l.cli.command, &root_command);
	line_release(&l);
}
END_TEST

START_TEST(repeated_files)
{
	const char *files[4];
	struct line l;
	size_t n = 0;

	parse(&l, "capsulectl apply -f a --file b -fc --file=-");
	ck_assert_int_eq(l.result, 0);
	for (size_t i = 0; i < l.cli.n_options; i++)
		if (l.cli.options[i].id == OPT_FILE)
			files[n++] = l.cli.options[i].text;
	ck_assert_uint_eq(n, 4);
	ck_assert_str_eq(files[0], "a");
	ck_assert_str_eq(files[2], "c");
	ck_assert_str_eq(files[3], "-");
	line_release(&l);
}
END_TEST

START_TEST(since_is_a_moment)
{
	int64_t now = time_realtime_ns(), given;
	struct line l;

	parse(&l, "capsulectl workload logs web --since 10m");
	given = cli_option(&l.cli, OPT_SINCE)->number;
	ck_assert_int_ge(given, now - 601 * NSEC_PER_SEC);
	ck_assert_int_le(given, now - 599 * NSEC_PER_SEC);
	line_release(&l);
	parse(&l, "capsulectl workload logs web --since 2026-01-31T12:00:00Z");
	ck_assert_int_eq(cli_option(&l.cli, OPT_SINCE)->number, INT64_C(1769860800) * NSEC_PER_SEC);
	line_release(&l);
}
END_TEST

/* ---- the tables behind it ---- */

static void check_command(const struct command *c)
{
	char letters[128] = { 0 };

	ck_assert_msg(!c->children != !c->run, "%s is neither a noun nor a verb", c->name);
	ck_assert_ptr_nonnull(c->summary);
	ck_assert_msg(c->summary[strlen(c->summary) - 1] != '.', "%s", c->name);
	ck_assert_msg(!c->max_arguments == !c->arguments, "%s hides its arguments", c->name);
	ck_assert_msg(c->min_arguments <= c->max_arguments, "%s", c->name);
	for (int id = 0; id < OPT_COUNT; id++) {
		unsigned char letter = (unsigned char)option_specs[id].letter;

		if (!letter || !(command_options(c) & (UINT64_C(1) << id)))
			continue;
		ck_assert_msg(!letters[letter], "%s has two options -%c", c->name, letter);
		letters[letter] = 1;
	}
	for (const struct command *const *child = c->children; child && *child; child++) {
		ck_assert_ptr_eq(command_find(c, (*child)->name), *child);
		if ((*child)->alias)
			ck_assert_ptr_eq(command_find(c, (*child)->alias), *child);
		check_command(*child);
	}
}

START_TEST(commands_are_consistent)
{
	for (int id = 0; id < OPT_COUNT; id++) {
		ck_assert_ptr_nonnull(option_specs[id].name);
		ck_assert_int_eq(option_specs[id].type == VALUE_NONE, option_specs[id].value == NULL);
	}
	check_command(&root_command);
}
END_TEST

START_TEST(help_shows_what_there_is)
{
	_cleanup_buf_ struct buf out = BUF_INIT(1 << 16);
	static const char *const words[] = { "workload", "logs" };
	const struct command *logs = command_walk(words, 2, NULL);

	help_print(logs, &out);
	ck_assert_ptr_nonnull(strstr(buf_str(&out), "Usage: capsulectl workload logs [options] NAME\n"));
	ck_assert_ptr_nonnull(strstr(buf_str(&out), "  -f, --follow "));
	ck_assert_ptr_nonnull(strstr(buf_str(&out), "      --capsule TARGET "));
	ck_assert_ptr_null(strstr(buf_str(&out), "--output"));
	buf_reset(&out);
	ck_assert_int_eq(help_print_all("scdoc", &out), 0);
	ck_assert_ptr_nonnull(strstr(buf_str(&out), "*workload logs* NAME\n"));
	ck_assert_ptr_null(strstr(buf_str(&out), "__complete"));
	ck_assert_int_eq(help_print_all("html", &out), -1);
}
END_TEST

/* ---- target ---- */

START_TEST(target_order)
{
	_cleanup_error_ struct error e = ERROR_INIT;
	struct target t;

	ck_assert_int_eq(target_resolve("h:1", "e:2", "/", &t, &e), 0);
	ck_assert_str_eq(t.address, "h:1");
	target_release(&t);
	ck_assert_int_eq(target_resolve("", "unix:/e", "/", &t, &e), 0);
	ck_assert_str_eq(t.address, "unix:/e");
	ck_assert_int_eq(t.origin, TARGET_ENVIRONMENT);
	target_release(&t);
	ck_assert_int_eq(target_resolve(NULL, "", "/dev/null", &t, &e), 0);
	ck_assert_str_eq(t.address, "unix:/dev/null");
	target_release(&t);
	ck_assert_int_eq(target_resolve(NULL, NULL, "/nonexistent/socket", &t, &e), 0);
	ck_assert_str_eq(t.address, "localhost:50000");
	ck_assert_int_eq(t.origin, TARGET_THIS_PORT);
	target_release(&t);
}
END_TEST

START_TEST(target_refused)
{
	_cleanup_error_ struct error e = ERROR_INIT;
	struct target t;

	ck_assert_int_lt(target_resolve("nonsense", NULL, "/", &t, &e), 0);
	ck_assert_int_eq(strncmp(error_message(&e), "--capsule: ", 11), 0);
	ck_assert_int_lt(target_resolve(NULL, "host:port", "/", &t, &e), 0);
	ck_assert_int_eq(strncmp(error_message(&e), "CAPSULE_HOST: ", 14), 0);
}
END_TEST

static const struct {
	const char *address;
	enum target_origin origin;
	int errnum;
	enum error_code code;
	const char *message;
} absent[] = {
	{ "unix:/s", TARGET_OPTION, ENOENT, ERR_UNAVAILABLE,
	  "the daemon is not running: /s does not exist; start it with \"systemctl start capsuled\" or name another "
	  "with --capsule" },
	{ "unix:/s", TARGET_THIS_SOCKET, ECONNREFUSED, ERR_UNAVAILABLE,
	  "the daemon is not running: nobody listens on /s; start it with \"systemctl start capsuled\"" },
	{ "unix:/s", TARGET_THIS_SOCKET, EACCES, ERR_PERMISSION_DENIED,
	  "you may not use /s; become root, or join the group \"capsule\" (usermod -aG capsule USER) and log in "
	  "again" },
	{ "localhost:50000", TARGET_THIS_PORT, ECONNREFUSED, ERR_UNAVAILABLE,
	  "no daemon is running here: /run/capsule/capsule.sock does not exist and nothing listens on localhost:50000; "
	  "start it with \"systemctl start capsuled\" or name another with --capsule HOST:PORT" },
	{ "h:1", TARGET_OPTION, ECONNREFUSED, ERR_UNAVAILABLE,
	  "nothing listens on h:1; check the address, and that the daemon there runs and listens on it" },
	{ "h:1", TARGET_OPTION, ETIMEDOUT, ERR_UNAVAILABLE, "h:1 does not answer; check the address and the network" },
	{ "h:1", TARGET_OPTION, EHOSTUNREACH, ERR_UNAVAILABLE,
	  "cannot reach h:1; check the host's name and the network" },
	{ "h:1", TARGET_OPTION, EMFILE, ERR_UNAVAILABLE, "cannot connect to h:1: Too many open files" },
};

START_TEST(target_absent)
{
	_cleanup_error_ struct error e = ERROR_INIT;
	struct target t = { (char *)absent[_i].address, absent[_i].origin };

	ck_assert_int_eq(target_error(&t, absent[_i].errnum, &e), -1);
	ck_assert_int_eq(e.code, absent[_i].code);
	ck_assert_str_eq(error_message(&e), absent[_i].message);
}
END_TEST

/* ---- output ---- */

static void table_fill(struct table *t)
{
	static const char *const headers[] = { "NAME", "PHASE", "MESSAGE" };

	table_init(t, headers, 3);
	table_cell(t, STYLE_PLAIN, "web");
	table_cell(t, STYLE_GOOD, "Running");
	table_cell(t, STYLE_PLAIN, "%s", "");
	table_cell(t, STYLE_PLAIN, "größer-name");
	table_cell(t, STYLE_BAD, "Failed");
	table_cell(t, STYLE_PLAIN, "exited 1: \033[31mred\xc2\x9b and\nmore");
}

START_TEST(table_layout)
{
	_cleanup_buf_ struct buf out = BUF_INIT(4096);
	_cleanup_table_ struct table t = { 0 };

	table_fill(&t);
	ck_assert_int_eq(table_print(&t, 0, false, &out), 0);
	ck_assert_str_eq(buf_str(&out), "NAME         PHASE    MESSAGE\n"
					"web          Running  -\n"
					"größer-name  Failed   exited 1: ?[31mred?? and?more\n");
}
END_TEST

START_TEST(table_on_a_terminal)
{
	_cleanup_buf_ struct buf out = BUF_INIT(4096);
	_cleanup_table_ struct table t = { 0 };

	table_fill(&t);
	ck_assert_int_eq(table_print(&t, 32, true, &out), 0);
	ck_assert_str_eq(buf_str(&out), "NAME         PHASE    MESSAGE\n"
					"web          \033[32mRunning\033[0m  -\n"
					"größer-name  \033[31mFailed\033[0m   exited 1:…\n");
}
END_TEST

START_TEST(table_grows)
{
	static const char *const headers[] = { "N", "SQUARE" };
	_cleanup_buf_ struct buf out = BUF_INIT(1 << 20);
	_cleanup_table_ struct table t = { 0 };

	table_init(&t, headers, 2);
	for (unsigned i = 0; i < 1000; i++) {
		table_cell(&t, STYLE_PLAIN, "%u", i);
		table_cell(&t, STYLE_PLAIN, "%u", i * i);
	}
	ck_assert_int_eq(table_print(&t, 0, false, &out), 0);
	ck_assert_ptr_nonnull(strstr(buf_str(&out), "\n999  998001\n"));
	ck_assert_int_eq(strncmp(buf_str(&out), "N    SQUARE\n0    0\n", 19), 0);
}
END_TEST

static const struct {
	uint64_t bytes;
	const char *text;
} sizes[] = {
	{ 0, "0B" },
	{ 1023, "1023B" },
	{ 1024, "1.00KiB" },
	{ 1536, "1.50KiB" },
	{ 10 << 10, "10.0KiB" },
	{ 1023 << 10, "1023KiB" },
	{ (1 << 20) - 1, "1.00MiB" },
	{ UINT64_C(5) << 30, "5.00GiB" },
	{ UINT64_MAX, "16.0EiB" },
};

START_TEST(bytes_for_people)
{
	char out[TEXT_BYTES_MAX];

	ck_assert_str_eq(text_bytes(sizes[_i].bytes, out), sizes[_i].text);
}
END_TEST

START_TEST(enums_without_prefix)
{
	char out[32], tiny[4];

	ck_assert_str_eq(text_enum(&capsule__v1__workload_phase__descriptor, 2, out, sizeof out), "Running");
	ck_assert_str_eq(text_enum(&capsule__v1__restart_policy__descriptor, 2, out, sizeof out), "OnFailure");
	ck_assert_str_eq(text_enum(&capsule__v1__workload_phase__descriptor, 99, out, sizeof out), "Unspecified");
	ck_assert_str_eq(text_enum(&capsule__v1__workload_phase__descriptor, 2, tiny, sizeof tiny), "Run");
}
END_TEST

START_TEST(nearest_words)
{
	static const char *const words[] = { "workload", "volume", "version", NULL };

	ck_assert_str_eq(word_nearest("wokload", words), "workload");
	ck_assert_str_eq(word_nearest("vol", words), "volume");
	ck_assert_ptr_null(word_nearest("zzz", words));
	ck_assert(word_in_list("json", "table|json|yaml"));
	ck_assert(!word_in_list("jso", "table|json|yaml"));
	ck_assert(!word_in_list("", "table|json|yaml"));
}
END_TEST

#define LOOP(tcase, test, table) tcase_add_loop_test(tcase, test, 0, (int)(sizeof(table) / sizeof *(table)))

int main(void)
{
	Suite *suite = suite_create("capsulectl");
	TCase *line = tcase_create("line"), *target = tcase_create("target"), *output = tcase_create("output");

	LOOP(line, wrong_line, wrong_lines);
	LOOP(line, options_anywhere, same_lines);
	tcase_add_test(line, double_dash_ends_options);
	tcase_add_test(line, help_demands_nothing);
	tcase_add_test(line, repeated_files);
	tcase_add_test(line, since_is_a_moment);
	tcase_add_test(line, commands_are_consistent);
	tcase_add_test(line, help_shows_what_there_is);
	tcase_add_test(line, nearest_words);
	suite_add_tcase(suite, line);
	tcase_add_test(target, target_order);
	tcase_add_test(target, target_refused);
	LOOP(target, target_absent, absent);
	suite_add_tcase(suite, target);
	tcase_add_test(output, table_layout);
	tcase_add_test(output, table_on_a_terminal);
	tcase_add_test(output, table_grows);
	LOOP(output, bytes_for_people, sizes);
	tcase_add_test(output, enums_without_prefix);
	suite_add_tcase(suite, output);
	return run_suite(suite);
}
