/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/health.h"

#include "health.pb-c.h"
#include "rpc/unary.h"

#define SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus status_t;

struct service {
	struct service *next;
	bool serving;
	char name[];
};

struct watcher {
	struct watcher *next, **self;
	struct rpc_call *call;
	char *service;
};

struct rpc_health {
	struct service *services;
	struct watcher *watchers;
	bool shut_down;
	struct rpc_method methods[2];
};

static struct service *find(const struct rpc_health *health, const char *name)
{
	for (struct service *s = health->services; s; s = s->next)
		if (strcmp(s->name, name) == 0)
			return s;
	return NULL;
}

static status_t status_of(const struct rpc_health *health, const struct service *s)
{
	if (!s)
		return SERVICE_UNKNOWN;
	return s->serving && !health->shut_down ? SERVING : NOT_SERVING;
}

static void send_status(struct rpc_call *call, status_t status)
{
	Grpc__Health__V1__HealthCheckResponse response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;

	response.status = status;
	rpc_call_send(call, &response.base);
}

static void on_check(struct rpc_call *call, const ProtobufCMessage *message)
{
	const struct rpc_health *health = rpc_call_method(call)->arg;
	const Grpc__Health__V1__HealthCheckRequest *request = (const Grpc__Health__V1__HealthCheckRequest *)message;
	const struct service *s = find(health, request->service);
	_cleanup_error_ struct error err = ERROR_INIT;

	if (!s) {
		error_set(&err, ERR_NOT_FOUND, "there is no service \"%s\" here", request->service);
		rpc_call_fail(call, &err);
		return;
	}
	send_status(call, status_of(health, s));
	rpc_call_finish(call, ERR_OK, NULL);
}

static void on_watch(struct rpc_call *call, const ProtobufCMessage *message)
{
	struct rpc_health *health = rpc_call_method(call)->arg;
	const Grpc__Health__V1__HealthCheckRequest *request = (const Grpc__Health__V1__HealthCheckRequest *)message;
	struct watcher *w;

	send_status(call, status_of(health, find(health, request->service)));
	if (health->shut_down) {
		rpc_call_finish(call, ERR_UNAVAILABLE, "the server is shutting down");
		return;
	}
	w = calloc(1, sizeof(*w));
	if (!w || !(w->service = strdup(request->service))) {
		free(w);
		rpc_call_finish(call, ERR_RESOURCE_EXHAUSTED, "no memory");
		return;
	}
	w->call = call;
	w->next = health->watchers;
	w->self = &health->watchers;
	if (w->next)
		w->next->self = &w->next;
	health->watchers = w;
	rpc_call_set_data(call, w);
}

static void on_watch_close(struct rpc_call *call, enum error_code code, const char *message)
{
	struct watcher *w = rpc_call_data(call);

	if (!w)
		return;
	*w->self = w->next;
	if (w->next)
		w->next->self = w->self;
	free(w->service);
	free(w);
}

int rpc_health_set(struct rpc_health *health, const char *service, bool serving)
{
	struct service *s = find(health, service);
	status_t before = status_of(health, s);
	size_t len = strlen(service) + 1;

	if (!s) {
		s = calloc(1, sizeof(*s) + len);
		if (!s)
			return -1;
		memcpy(s->name, service, len);
		s->next = health->services;
		health->services = s;
	}
	s->serving = serving;
	if (status_of(health, s) == before)
		return 0;
	for (struct watcher *w = health->watchers; w; w = w->next)
		if (strcmp(w->service, service) == 0)
			send_status(w->call, status_of(health, s));
	return 0;
}

void rpc_health_shutdown(struct rpc_health *health)
{
	if (health->shut_down)
		return;
	health->shut_down = true;
	for (struct watcher *w = health->watchers; w; w = w->next) {
		send_status(w->call, status_of(health, find(health, w->service)));
		rpc_call_finish(w->call, ERR_UNAVAILABLE, "the server is shutting down");
	}
}

int rpc_health_register(struct rpc_health *health, struct rpc_services *services)
{
	return rpc_services_add(services, health->methods, 2);
}

struct rpc_health *rpc_health_new(void)
{
	struct rpc_health *health = calloc(1, sizeof(*health));

	if (!health)
		return NULL;
	health->methods[0] = (struct rpc_method){
		.path = "/grpc.health.v1.Health/Check",
		.receives = &grpc__health__v1__health_check_request__descriptor,
		.receives_one = true,
		.message = on_check,
		.arg = health,
	};
	health->methods[1] = (struct rpc_method){
		.path = "/grpc.health.v1.Health/Watch",
		.receives = &grpc__health__v1__health_check_request__descriptor,
		.receives_one = true,
		.message = on_watch,
		.close = on_watch_close,
		.arg = health,
	};
	if (rpc_health_set(health, "", false) < 0) {
		free(health);
		return NULL;
	}
	return health;
}

void rpc_health_free(struct rpc_health *health)
{
	struct service *s;

	if (!health)
		return;
	while ((s = health->services)) {
		health->services = s->next;
		free(s);
	}
	free(health);
}
