/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/metadata.h"

#include "base/buf.h"
#include "base/hex.h"
#include "base/timeutil.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <nghttp2/nghttp2.h>

static bool is_plain(unsigned char c)
{
	return c >= 0x20 && c <= 0x7e && c != '%';
}

char *rpc_status_message_encode(const char *message)
{
	_cleanup_free_ char *text = strndup(message, RPC_STATUS_MESSAGE_MAX);
	_cleanup_buf_ struct buf b = BUF_INIT(3 * RPC_STATUS_MESSAGE_MAX + 1);

	if (!text)
		return NULL;
	utf8_trim(text);
	utf8_clean(text, strlen(text));
	for (const char *p = text; *p; p++) {
		unsigned char c = (unsigned char)*p;

		if (is_plain(c))
			buf_addc(&b, (char)c);
		else
			buf_addf(&b, "%%%02X", c);
	}
	return buf_steal(&b);
}

char *rpc_status_message_decode(const char *value, size_t len)
{
	_cleanup_buf_ struct buf b = BUF_INIT(len + 1);

	for (size_t i = 0; i < len; i++) {
		int hi = -1, lo = -1;

		if (value[i] == '%' && i + 2 < len) {
			hi = hex_digit(value[i + 1]);
			lo = hex_digit(value[i + 2]);
		}
		/* A NUL would end the C string early: it stays escaped. */
		if (hi >= 0 && lo >= 0 && hi + lo > 0) {
			buf_addc(&b, (char)(hi << 4 | lo));
			i += 2;
		} else {
			buf_addc(&b, value[i]);
		}
	}
	/* What was escaped may be any bytes. */
	if (b.len > 0)
		utf8_clean((char *)buf_data(&b), b.len);
	return buf_steal(&b);
}

int rpc_timeout_parse(const char *value, size_t len, int64_t *ret_ns)
{
	static const struct {
		char unit;
		int64_t ns;
	} units[] = {
		{ 'H', 3600 * NSEC_PER_SEC }, { 'M', 60 * NSEC_PER_SEC }, { 'S', NSEC_PER_SEC },
		{ 'm', NSEC_PER_MSEC },       { 'u', 1000 },              { 'n', 1 },
	};
	int64_t n = 0, ns;

	if (len < 2 || len > 9)
		return -1;
	for (size_t i = 0; i < len - 1; i++) {
		if (value[i] < '0' || value[i] > '9')
			return -1;
		n = n * 10 + (value[i] - '0');
	}
	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (units[i].unit != value[len - 1])
			continue;
		/* 99,999,999 hours do not fit: a time that far away is as good as any other. */
		if (__builtin_mul_overflow(n, units[i].ns, &ns))
			ns = INT64_MAX / 2;
		*ret_ns = ns;
		return 0;
	}
	return -1;
}

void rpc_timeout_format(int64_t timeout_ms, char out[RPC_TIMEOUT_MAX])
{
	if (timeout_ms <= 99999999)
		snprintf(out, RPC_TIMEOUT_MAX, "%" PRId64 "m", timeout_ms);
	else
		snprintf(out, RPC_TIMEOUT_MAX, "%" PRId64 "S",
			 timeout_ms / 1000 < 99999999 ? timeout_ms / 1000 : INT64_C(99999999));
}

enum error_code rpc_status_parse(const char *value, size_t len)
{
	int code = 0;

	if (len < 1 || len > 2)
		return ERR_UNKNOWN;
	for (size_t i = 0; i < len; i++) {
		if (value[i] < '0' || value[i] > '9')
			return ERR_UNKNOWN;
		code = code * 10 + (value[i] - '0');
	}
	return code <= ERR_UNAUTHENTICATED ? (enum error_code)code : ERR_UNKNOWN;
}

bool rpc_content_type_ok(const char *value, size_t len)
{
	static const char type[] = "application/grpc";
	size_t n = sizeof(type) - 1;

	return len >= n && memcmp(value, type, n) == 0 && (len == n || value[n] == '+' || value[n] == ';');
}

enum error_code rpc_status_of_http(int http_status)
{
	switch (http_status) {
	case 400:
		return ERR_INTERNAL;
	case 401:
		return ERR_UNAUTHENTICATED;
	case 403:
		return ERR_PERMISSION_DENIED;
	case 404:
		return ERR_UNIMPLEMENTED;
	case 429:
	case 502:
	case 503:
	case 504:
		return ERR_UNAVAILABLE;
	default:
		return ERR_UNKNOWN;
	}
}

enum error_code rpc_status_of_reset(uint32_t h2_error)
{
	switch (h2_error) {
	case NGHTTP2_REFUSED_STREAM:
		return ERR_UNAVAILABLE;
	case NGHTTP2_CANCEL:
		return ERR_CANCELLED;
	case NGHTTP2_ENHANCE_YOUR_CALM:
		return ERR_RESOURCE_EXHAUSTED;
	case NGHTTP2_INADEQUATE_SECURITY:
		return ERR_PERMISSION_DENIED;
	default:
		return ERR_INTERNAL;
	}
}
