/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "capsulectl/output.h"

#include "base/fs.h"
#include "base/timeutil.h"
#include "manifest/manifest.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <sys/ioctl.h>

static bool reader_gone;

static int write_error(int errnum, struct error *err)
{
	if (errnum == EPIPE)
		reader_gone = true;
	return error_errno(err, errnum, "cannot write the output");
}

bool output_reader_gone(void)
{
	return reader_gone;
}

void output_set_reader_gone(void)
{
	reader_gone = true;
}

/* ---- forms ---- */

enum form output_form(const struct cli *cli)
{
	static const char *const names[] = { "table", "json", "yaml", "name", "manifest" };
	const struct option_value *o = cli_option(cli, OPT_OUTPUT);

	for (size_t i = 0; o && i < sizeof names / sizeof *names; i++)
		if (strcmp(names[i], o->text) == 0)
			return (enum form)i;
	return FORM_TABLE;
}

int output_message(enum form form, const void *message, struct error *err)
{
	_cleanup_buf_ struct buf out = BUF_INIT(TABLE_BYTES_MAX);
	int r = form == FORM_YAML ? message_to_yaml(message, &out) : message_to_json(message, 2, &out);

	if (r < 0)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the output is too large");
	if (out.len && buf_data(&out)[out.len - 1] != '\n')
		buf_addc(&out, '\n');
	return output_buf(&out, err);
}

int output_list(enum form form, const void *message, struct error *err)
{
	const ProtobufCMessage *m = message;
	const ProtobufCFieldDescriptor *list = &m->descriptor->fields[0];
	const size_t *n = (const void *)((const char *)message + list->quantifier_offset);

	if (*n)
		return output_message(form, message, err);
	/* The mapping leaves empty lists out; whoever reads this wants to iterate over it. */
	output_text(form == FORM_YAML ? "%s: []\n" : "{\n  \"%s\": []\n}\n", list->name);
	return 0;
}

bool output_is_terminal(void)
{
	return isatty(STDOUT_FILENO);
}

static bool use_colour(void)
{
	const char *no_color = getenv("NO_COLOR");

	return output_is_terminal() && !(no_color && *no_color);
}

int output_table(const struct table *t, struct error *err)
{
	_cleanup_buf_ struct buf out = BUF_INIT(2 * TABLE_BYTES_MAX);
	struct winsize size = { 0 };

	if (output_is_terminal() && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0)
		size.ws_col = 0;
	if (table_print(t, size.ws_col, use_colour(), &out) < 0)
		return error_errno(err, ENOMEM, "cannot print the table");
	return output_buf(&out, err);
}

/* ---- standard output ---- */

void output_text(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
}

void output_styled(enum style style, const char *fmt, ...)
{
	_cleanup_buf_ struct buf text = BUF_INIT(4096), out = BUF_INIT(4096 + 64);
	va_list ap;

	va_start(ap, fmt);
	buf_addv(&text, fmt, ap);
	va_end(ap);
	style_add(&out, style, use_colour(), buf_str(&text), text.len);
	output_text("%s", buf_str(&out));
}

void output_field(const char *name, const char *fmt, ...)
{
	_cleanup_free_ char *value = NULL;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&value, fmt, ap);
	va_end(ap);
	if (n > 0)
		printf("%s:%*s%s\n", name, (int)(strlen(name) < 14 ? 15 - strlen(name) : 1), "", text_clean(value));
	else if (n < 0)
		value = NULL;
}

int output_buf(const struct buf *b, struct error *err)
{
	if (b->failed)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "the output is too large");
	/* The error sticks to the stream; output_flush() reports it with its reason. */
	fwrite(buf_str(b), 1, b->len, stdout);
	return 0;
}

int output_flush(struct error *err)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	return write_error(errno, err);
}

int output_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd room = { .fd = fd, .events = POLLOUT };

			(void)poll(&room, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			return -errno;
		} else if (n > 0) {
			p += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

int output_bytes(const void *data, size_t len, struct error *err)
{
	int r = output_all(STDOUT_FILENO, data, len);

	return r < 0 ? write_error(-r, err) : 0;
}

/* ---- text ---- */

char *text_clean(char *text)
{
	for (unsigned char *p = (unsigned char *)text; *p; p++) {
		/* C0 and DEL; and C1, which UTF-8 writes as C2 80 to C2 9F. */
		if (iscntrl(*p))
			*p = '?';
		else if (*p == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f)
			p[0] = p[1] = '?';
	}
	return text;
}

char *text_bytes(uint64_t bytes, char out[TEXT_BYTES_MAX])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = (double)bytes;
	size_t unit = 0;

	while (v >= 1023.5 && unit + 1 < sizeof units / sizeof *units) {
		v /= 1024;
		unit++;
	}
	snprintf(out, TEXT_BYTES_MAX, "%.*f%s", unit == 0 || v >= 99.95 ? 0 : v >= 9.995 ? 1 : 2, v, units[unit]);
	return out;
}

char *text_age(int64_t realtime_ns, char *out, size_t size)
{
	char age[TIME_AGE_MAX];
	int64_t passed = time_realtime_ns() - realtime_ns;

	if (realtime_ns == 0)
		snprintf(out, size, "-");
	else
		snprintf(out, size, "%s", time_format_age(passed < 0 ? 0 : passed, age));
	return out;
}

const char *text_enum(const ProtobufCEnumDescriptor *descriptor, int value, char *out, size_t size)
{
	const ProtobufCEnumValue *v = protobuf_c_enum_descriptor_get_value(descriptor, value);
	const ProtobufCEnumValue *zero = protobuf_c_enum_descriptor_get_value(descriptor, 0);
	/* The zero value is always <PREFIX>_UNSPECIFIED. */
	size_t prefix = zero && strlen(zero->name) > 11 ? strlen(zero->name) - 11 : 0;
	bool upper = true;
	size_t n = 0;

	for (const char *p = v ? v->name + prefix : "UNSPECIFIED"; *p && n + 1 < size; p++) {
		if (*p == '_') {
			upper = true;
			continue;
		}
		out[n++] = (char)(upper ? *p : tolower((unsigned char)*p));
		upper = false;
	}
	out[n] = '\0';
	return out;
}

const char *text_phase(const Capsule__V1__WorkloadStatus *status, char *out, size_t size)
{
	char phase[32], health[32];

	text_enum(&capsule__v1__workload_phase__descriptor, (int)status->phase, phase, sizeof phase);
	text_enum(&capsule__v1__health__descriptor, (int)status->health, health, sizeof health);
	health[0] = (char)tolower((unsigned char)health[0]);
	if (status->health == CAPSULE__V1__HEALTH__HEALTH_UNSPECIFIED)
		snprintf(out, size, "%s", phase);
	else
		snprintf(out, size, "%s (%s)", phase, health);
	return out;
}
