/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Servers and clients on a loop, over real sockets. */
#include "base/timeutil.h"
#include "echo_service.h"
#include "runner.h"
#include "rpc/uv.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>

static uv_loop_t loop;
static struct rpc_server *server;
static char dir[] = "/tmp/rpc-uv-XXXXXX";
static char path[64], target[80];
static unsigned servers_closed, clients_closed;

static void count(void *arg)
{
	(*(unsigned *)arg)++;
}

static unsigned open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static unsigned fds_before;

static void setup(void)
{
	_cleanup_error_ struct error err = ERROR_INIT;

	/* libuv's own descriptors for signals come with the first loop and stay. */
	uv_loop_init(&loop);
	uv_loop_close(&loop);
	fds_before = open_fds();
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/sock", dir);
	snprintf(target, sizeof(target), "unix:%s", path);
	uv_loop_init(&loop);
	server = rpc_server_new(&loop, 4);
	rpc_server_add_methods(server, echo_methods, ECHO_METHODS);
	ck_assert_msg(rpc_server_listen_unix(server, path, 0640, (gid_t)-1, &err) == 0, "%s", error_message(&err));
}

/* Whatever a test did, the loop must come to rest and let go of everything. */
static void teardown(void)
{
	if (server)
		rpc_server_close(server, count, &servers_closed);
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert_uint_eq(servers_closed, 1);
	ck_assert_int_eq(uv_loop_close(&loop), 0);
	ck_assert_int_eq(access(path, F_OK), -1);
	ck_assert_int_eq(rmdir(dir), 0);
	ck_assert_uint_eq(open_fds(), fds_before);
}

/* --- calls that stop the loop when the last one is done --- */

struct result {
	unsigned calls;
	enum error_code code;
	char text[256];
	uint64_t seq;
};

static unsigned waiting;

static void on_done(const ProtobufCMessage *reply, const struct error *err, void *arg)
{
	struct result *r = arg;

	r->calls++;
	r->code = err ? err->code : ERR_OK;
	r->seq = err ? 0 : ((const Echo__V1__EchoMessage *)reply)->seq;
	snprintf(r->text, sizeof(r->text), "%s",
		 err ? error_message(err) : ((const Echo__V1__EchoMessage *)reply)->text);
	if (--waiting == 0)
		uv_stop(&loop);
}

static struct rpc_call *ask(struct rpc_client *client, const char *text, int64_t timeout_ms, struct result *r)
{
	Echo__V1__EchoMessage m = ECHO__V1__ECHO_MESSAGE__INIT;

	m.text = (char *)text;
	waiting++;
	return rpc_client_unary(client, "/echo.v1.Echo/Unary", &m.base, &echo__v1__echo_message__descriptor, timeout_ms,
				on_done, r);
}

static void run(void)
{
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert_uint_eq(waiting, 0);
}

static struct rpc_client *client_new(const char *where)
{
	struct rpc_client *client = rpc_client_new(&loop, where, NULL, NULL, NULL);

	ck_assert_ptr_nonnull(client);
	return client;
}

static void client_close(struct rpc_client *client)
{
	unsigned before = clients_closed;

	rpc_client_close(client, count, &clients_closed);
	while (clients_closed == before)
		uv_run(&loop, UV_RUN_ONCE);
}

START_TEST(call_over_a_unix_socket)
{
	struct rpc_client *client = client_new(target);
	struct result r = { 0 }, peer = { 0 };
	struct stat st;

	ask(client, "hello", 0, &r);
	ask(client, "peer", 0, &peer);
	run();
	ck_assert_str_eq(r.text, "hello");
	ck_assert_str_eq(peer.text, "local");
	ck_assert_uint_eq(peer.seq, getuid());
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0640);
	ck_assert_uint_eq(rpc_server_connections(server), 1);
	client_close(client);
}
END_TEST

START_TEST(call_over_tcp)
{
	static const struct {
		const char *listen, *connect;
	} hosts[] = {
		{ "127.0.0.1", "127.0.0.1" },
		{ "localhost", "localhost" },
		{ "::1", "[::1]" },
		{ "::1", "localhost" },
	};
	_cleanup_error_ struct error err = ERROR_INIT;
	struct rpc_client *client;
	struct result r = { 0 };
	char where[64];
	uint16_t port;

	ck_assert_msg(rpc_server_listen_tcp(server, hosts[_i].listen, 0, &port, &err) == 0, "%s", error_message(&err));
	snprintf(where, sizeof(where), "%s:%u", hosts[_i].connect, port);
	client = client_new(where);
	ask(client, "peer", 0, &r);
	run();
	ck_assert_str_eq(r.text, "remote");
	client_close(client);
}
END_TEST

/* Two ends of a byte stream that is no socket: a terminal that does nothing to its bytes. */
static void open_devices(int *ret_master, int *ret_slave)
{
	struct termios raw;

	*ret_master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_int_ge(*ret_master, 0);
	ck_assert_int_eq(unlockpt(*ret_master), 0);
	*ret_slave = open(ptsname(*ret_master), O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_int_ge(*ret_slave, 0);
	ck_assert_int_eq(tcgetattr(*ret_slave, &raw), 0);
	cfmakeraw(&raw);
	ck_assert_int_eq(tcsetattr(*ret_slave, TCSANOW, &raw), 0);
}

START_TEST(one_connection_over_a_device)
{
	struct rpc_client *client;
	struct result r = { 0 };
	unsigned lost = 0;
	int master, slave;

	open_devices(&master, &slave);
	ck_assert_int_eq(rpc_server_adopt(server, slave, count, &lost, NULL), 0);
	client = rpc_client_adopt(&loop, master, "device", NULL);
	ck_assert_ptr_nonnull(client);
	ask(client, "hello", 0, &r);
	run();
	ck_assert_str_eq(r.text, "hello");
	ck_assert_uint_eq(lost, 0);
	client_close(client);
	while (!lost)
		uv_run(&loop, UV_RUN_ONCE);
	ck_assert_uint_eq(rpc_server_connections(server), 0);
}
END_TEST

/* Of a shared one: the settings that it begins with (RFC 9113, 6.5.2: number 4 is the window). */
static void expect_small_window(int fd)
{
	static const uint8_t window[] = { 0, 4, 0, RPC_SHARED_WINDOW >> 16, 0, 0 };
	uint8_t said[4096];
	ssize_t n;

	while ((n = read(fd, said, sizeof(said))) < 0)
		uv_run(&loop, UV_RUN_NOWAIT);
	ck_assert_ptr_nonnull(memmem(said, (size_t)n, window, sizeof(window)));
}

START_TEST(an_adopted_connection_is_shared)
{
	struct rpc_client *client;
	int a[2], b[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, a), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, b), 0);
	ck_assert_int_eq(rpc_server_adopt(server, a[0], NULL, NULL, NULL), 0);
	client = rpc_client_adopt(&loop, b[0], "other", NULL);
	ck_assert_ptr_nonnull(client);
	expect_small_window(a[1]);
	expect_small_window(b[1]);
	client_close(client);
	close(a[1]);
	close(b[1]);
	while (rpc_server_connections(server))
		uv_run(&loop, UV_RUN_ONCE);
}
END_TEST

static int connected_errnum = -1;

static void on_connected(struct rpc_client *client, int errnum, void *arg)
{
	connected_errnum = errnum;
	if (arg)
		rpc_client_close(client, count, &clients_closed);
}

START_TEST(nobody_there)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct rpc_client *client;
	struct result r = { 0 }, late = { 0 };
	char where[96];

	snprintf(where, sizeof(where), "unix:%s/nothing", dir);
	client = rpc_client_new(&loop, where, on_connected, NULL, NULL);
	ask(client, "x", 0, &r);
	run();
	ck_assert_int_eq(connected_errnum, ENOENT);
	ck_assert_int_eq(rpc_client_errno(client), ENOENT);
	ck_assert_int_eq(r.code, ERR_UNAVAILABLE);
	ck_assert_ptr_nonnull(strstr(r.text, where));
	ask(client, "x", 0, &late);
	ck_assert_uint_eq(late.calls, 0);
	run();
	ck_assert_int_eq(late.code, ERR_UNAVAILABLE);
	client_close(client);
	client = rpc_client_new(&loop, "127.0.0.1:1", on_connected, NULL, NULL);
	ask(client, "x", 0, &r);
	run();
	ck_assert_int_eq(connected_errnum, ECONNREFUSED);
	client_close(client);
	ck_assert_ptr_null(rpc_client_new(&loop, "nonsense", NULL, NULL, &err));
	ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
}
END_TEST

START_TEST(close_in_callbacks)
{
	struct rpc_client *client = rpc_client_new(&loop, target, on_connected, &loop, NULL);
	struct result r = { 0 };

	ask(client, "x", 0, &r);
	run();
	ck_assert_int_eq(connected_errnum, 0);
	ck_assert_int_eq(r.code, ERR_CANCELLED);
	ck_assert_uint_eq(r.calls, 1);
	client = client_new(target);
	ask(client, "hang", 0, &r);
	client_close(client); /* before the loop ran at all */
	ck_assert_uint_eq(r.calls, 2);
	ck_assert_int_eq(r.code, ERR_CANCELLED);
}
END_TEST

START_TEST(deadlines)
{
	struct rpc_client *client = client_new(target);
	struct result r = { 0 };
	int64_t start = time_monotonic_ns(), took;

	ask(client, "hang", 100, &r);
	run();
	took = time_monotonic_ns() - start;
	ck_assert_int_eq(r.code, ERR_DEADLINE_EXCEEDED);
	ck_assert_int_ge(took, 100 * NSEC_PER_MSEC);
	ck_assert_int_lt(took, 5 * NSEC_PER_SEC);
	ask(client, "still here", 5000, &r);
	run();
	ck_assert_str_eq(r.text, "still here");
	client_close(client);
}
END_TEST

/* A peer that takes the connection and says nothing. */
START_TEST(deadline_with_a_mute_peer)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct rpc_client *client;
	struct result r = { 0 };
	char where[80];

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/mute", dir);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	ck_assert_int_eq(listen(fd, 1), 0);
	snprintf(where, sizeof(where), "unix:%s", addr.sun_path);
	client = client_new(where);
	ask(client, "x", 50, &r);
	run();
	ck_assert_int_eq(r.code, ERR_DEADLINE_EXCEEDED);
	client_close(client);
	close(fd);
	unlink(addr.sun_path);
}
END_TEST

START_TEST(idle_client_does_not_hold_the_loop)
{
	struct rpc_client *client = client_new(target);
	struct result r = { 0 };

	ask(client, "x", 0, &r);
	run();
	rpc_server_close(steal_ptr(&server), count, &servers_closed);
	/* Ends by itself: the client's connection is no reason to go on. */
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert_uint_eq(servers_closed, 1);
	ask(client, "x", 0, &r);
	run();
	ck_assert_int_eq(r.code, ERR_UNAVAILABLE);
	client_close(client);
}
END_TEST

START_TEST(server_goes_away_under_a_call)
{
	struct rpc_client *client = client_new(target);
	struct result r = { 0 }, hang = { 0 };

	ask(client, "x", 0, &r);
	run();
	ask(client, "hang", 0, &hang);
	uv_run(&loop, UV_RUN_NOWAIT);
	rpc_server_close(steal_ptr(&server), count, &servers_closed);
	run();
	ck_assert_int_eq(hang.code, ERR_UNAVAILABLE);
	ck_assert_int_eq(rpc_client_errno(client), ECONNRESET);
	client_close(client);
}
END_TEST

/* --- limits and drain --- */

START_TEST(connections_above_the_limit_wait)
{
	struct rpc_client *clients[6];
	struct result r[6] = { { 0 } };

	for (unsigned i = 0; i < 4; i++) {
		clients[i] = client_new(target);
		ask(clients[i], "x", 0, &r[i]);
		run();
	}
	for (unsigned i = 4; i < 6; i++) {
		clients[i] = client_new(target);
		ask(clients[i], "x", 0, &r[i]);
	}
	for (unsigned i = 0; i < 10; i++)
		uv_run(&loop, UV_RUN_NOWAIT);
	ck_assert_uint_eq(r[4].calls + r[5].calls, 0);
	ck_assert_uint_eq(rpc_server_connections(server), 4);
	client_close(clients[0]);
	client_close(clients[1]);
	run();
	ck_assert(r[4].code == ERR_OK && r[5].code == ERR_OK);
	ck_assert_uint_eq(r[4].calls + r[5].calls, 2);
	for (unsigned i = 2; i < 6; i++)
		client_close(clients[i]);
}
END_TEST

static unsigned drained;

START_TEST(drain)
{
	struct rpc_client *client = client_new(target), *late;
	struct result r = { 0 }, hang = { 0 }, refused = { 0 };
	struct rpc_call *call;

	ask(client, "x", 0, &r);
	run();
	call = ask(client, "hang", 0, &hang);
	uv_run(&loop, UV_RUN_NOWAIT);
	rpc_server_drain(server, count, &drained);
	ck_assert_uint_eq(drained, 0);
	ck_assert_int_eq(access(path, F_OK), -1);
	for (unsigned i = 0; i < 10; i++)
		uv_run(&loop, UV_RUN_NOWAIT);
	ck_assert_uint_eq(drained, 0);
	late = client_new(target);
	waiting = 0;
	ask(late, "x", 0, &refused);
	run();
	ck_assert_int_eq(refused.code, ERR_UNAVAILABLE);
	waiting = 1;
	rpc_call_cancel(call);
	run();
	ck_assert_int_eq(hang.code, ERR_CANCELLED);
	while (drained == 0)
		uv_run(&loop, UV_RUN_ONCE);
	ck_assert_uint_eq(rpc_server_connections(server), 0);
	client_close(client);
	client_close(late);
}
END_TEST

START_TEST(drain_of_an_idle_server)
{
	rpc_server_drain(server, count, &drained);
	ck_assert_uint_eq(drained, 0);
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert_uint_eq(drained, 1);
}
END_TEST

START_TEST(socket_files)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char other[96], longer[200];
	int fd;

	/* One that is in use. */
	ck_assert_int_eq(rpc_server_listen_unix(server, path, 0600, (gid_t)-1, &err), -1);
	ck_assert_int_eq(err.code, ERR_ALREADY_EXISTS);
	/* One that a dead program left behind. */
	snprintf(other, sizeof(other), "%s/stale", dir);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", other);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	ck_assert_int_eq(rpc_server_listen_unix(server, other, 0600, getgid(), &err), 0);
	/* Something else of that name. */
	snprintf(other, sizeof(other), "%s/file", dir);
	fclose(fopen(other, "w"));
	ck_assert_int_eq(rpc_server_listen_unix(server, other, 0600, (gid_t)-1, &err), -1);
	ck_assert_int_eq(unlink(other), 0);
	snprintf(other, sizeof(other), "%s/no/such/dir", dir);
	ck_assert_int_eq(rpc_server_listen_unix(server, other, 0600, (gid_t)-1, &err), -1);
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	ck_assert_int_eq(rpc_server_listen_unix(server, longer, 0600, (gid_t)-1, &err), -1);
	ck_assert_int_eq(rpc_server_listen_tcp(server, "example.org", 1, NULL, &err), -1);
	ck_assert_int_eq(err.code, ERR_INVALID_ARGUMENT);
}
END_TEST

/* --- bulk: more than a socket's buffer holds, both ways at once --- */

static struct {
	struct rpc_call *call;
	unsigned sent, received, closes;
	enum error_code code;
	bool in_order;
} bulk;

#define BULK_MESSAGES 400u

static void bulk_send(struct rpc_call *call)
{
	static uint8_t blob[100000];
	Echo__V1__EchoMessage m = ECHO__V1__ECHO_MESSAGE__INIT;

	m.blob.data = blob;
	m.blob.len = sizeof(blob);
	while (bulk.sent < BULK_MESSAGES && rpc_call_writable(call)) {
		m.seq = bulk.sent++;
		rpc_call_send(call, &m.base);
	}
	if (bulk.sent == BULK_MESSAGES)
		rpc_call_half_close(call);
}

static void bulk_message(struct rpc_call *call, const ProtobufCMessage *message)
{
	bulk.in_order = bulk.in_order && ((const Echo__V1__EchoMessage *)message)->seq == bulk.received;
	bulk.received++;
}

static void bulk_close(struct rpc_call *call, enum error_code code, const char *message)
{
	bulk.closes++;
	bulk.code = code;
	uv_stop(&loop);
}

START_TEST(bulk_both_ways)
{
	static const struct rpc_method bidi = {
		.path = "/echo.v1.Echo/Bidi",
		.receives = &echo__v1__echo_message__descriptor,
		.message = bulk_message,
		.writable = bulk_send,
		.close = bulk_close,
	};
	struct rpc_client *client = client_new(target);

	bulk.in_order = true;
	bulk_send(rpc_client_call(client, &bidi, 60000, NULL));
	uv_run(&loop, UV_RUN_DEFAULT);
	ck_assert_uint_eq(bulk.closes, 1);
	ck_assert_int_eq(bulk.code, ERR_OK);
	ck_assert_uint_eq(bulk.received, BULK_MESSAGES);
	ck_assert(bulk.in_order);
	client_close(client);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rpc_uv");
	TCase *t = tcase_create("sockets");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, call_over_a_unix_socket);
	tcase_add_loop_test(t, call_over_tcp, 0, 4);
	tcase_add_test(t, one_connection_over_a_device);
	tcase_add_test(t, an_adopted_connection_is_shared);
	tcase_add_test(t, nobody_there);
	tcase_add_test(t, close_in_callbacks);
	tcase_add_test(t, deadlines);
	tcase_add_test(t, deadline_with_a_mute_peer);
	tcase_add_test(t, idle_client_does_not_hold_the_loop);
	tcase_add_test(t, server_goes_away_under_a_call);
	tcase_add_test(t, connections_above_the_limit_wait);
	tcase_add_test(t, drain);
	tcase_add_test(t, drain_of_an_idle_server);
	tcase_add_test(t, socket_files);
	tcase_add_test(t, bulk_both_ways);
	tcase_set_timeout(t, 60);
	suite_add_tcase(s, t);
	return run_suite(s);
}
