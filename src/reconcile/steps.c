/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/*
 * The three steps that act on the host. Each is straight-line code on a task's thread, over copies: it never touches the
 * workload, which may change meanwhile. Its end, on the loop, hands the outcome to the machine.
 */
#include "reconcile/internal.h"

#include "base/log.h"
#include "manifest/manifest.h"
#include "reconcile/volumes.h"
#include "shim/protocol.h"

#include <arpa/inet.h>
#include <assert.h>
#include <string.h>

static_assert(MANIFEST_MOUNTS_MAX <= SHIM_VOLUMES_MAX, "a spec may hold more than a shim takes");

struct step {
	struct workload *w; /* for the loop's side only: a workload is not freed while a step is under way */
	const struct reconciler_host *host;
	char name[64];
	struct store_workload record;
	bool keep_claims;    /* clean: it will be started again */
	bool completed;      /* clean: to be recorded with the result */
	struct run_result result;
	uint64_t run_generation;
	uint64_t ports_freed; /* start: the owner's, at its beginning */
	/* Outcome. */
	struct error err;
	bool ok, image_missing, waits_for_port, port_freed;
	struct driver_instance instance;
	struct image image;
	struct bridge_look look;
};

void record_copy(const struct store_workload *from, struct store_workload *to)
{
	*to = *from;
	to->spec = (Capsule__V1__Workload *)message_copy(&from->spec->base);
}

static struct step *step_new(struct workload *w, enum state state)
{
	struct step *s = calloc(1, sizeof *s);

	if (!s)
		abort();
	s->w = w;
	s->host = &w->owner->host;
	snprintf(s->name, sizeof s->name, "%s", w->name);
	record_copy(&w->record, &s->record);
	s->instance.shim_fd = -1;
	s->look.resolver = -1;
	w->state = state;
	return s;
}

static void step_free(struct step *s)
{
	store_workload_release(&s->record);
	error_release(&s->err);
	image_release(&s->image);
	bridge_look_release(&s->look);
	driver_instance_release(&s->instance);
	free(s);
}

int endpoint_of(const struct store_workload *record, struct net_endpoint *ret, struct net_port **ret_ports)
{
	Capsule__V1__PortMapping **mappings;
	size_t n = spec_ports(record->spec, &mappings);
	struct net_port *ports = calloc(n ? n : 1, sizeof *ports);

	if (!ports)
		return -1;
	for (size_t i = 0; i < n; i++)
		ports[i] = (struct net_port){ spec_port_is_udp(mappings[i]), (uint16_t)mappings[i]->host_port,
					      (uint16_t)mappings[i]->container_port };
	*ret_ports = ports;
	*ret = (struct net_endpoint){ record->spec->name, record->address, ports, n };
	return 0;
}

/* ---- start ---- */

/* A container gets a network namespace, a microVM a TAP. */
static int attach_to_bridge(struct step *s, int *ret_link)
{
	_cleanup_free_ struct net_port *ports = NULL;
	struct net_endpoint endpoint;

	if (endpoint_of(&s->record, &endpoint, &ports) < 0)
		return error_set(&s->err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	if ((spec_is_container(s->record.spec) ? net_attach : net_attach_tap)(s->host->net, &endpoint, ret_link, &s->err) < 0)
		return error_wrap(&s->err, "cannot connect it to the bridge");
	bridge_look(s->host->net, &s->look);
	return 0;
}

static void plan_network(const struct step *s, int *link, struct driver_plan *plan, char address[INET_ADDRSTRLEN],
			 char gateway[INET_ADDRSTRLEN])
{
	struct in_addr in = { .s_addr = htonl(s->record.address) };
	uint32_t bridge;

	if (*link < 0)
		return;
	if (spec_is_container(s->record.spec))
		plan->netns_fd = *link;
	else
		plan->tap_fd = link;
	plan->address = inet_ntop(AF_INET, &in, address, INET_ADDRSTRLEN);
	net_gateway(s->host->net, &bridge, &plan->prefix);
	in.s_addr = htonl(bridge);
	plan->gateway = inet_ntop(AF_INET, &in, gateway, INET_ADDRSTRLEN);
}

/* *link: -1 on the host's network. A TAP is closed as soon as it is the machine's. */
static int start_on_link(struct step *s, const struct volumes *volumes, int *link)
{
	_cleanup_free_ char *resolv_conf = NULL;
	struct driver *driver = driver_of(s->host, s->record.spec);
	char address[INET_ADDRSTRLEN], gateway[INET_ADDRSTRLEN];
	struct driver_plan plan = {
		.spec = s->record.spec,
		.generation = s->record.generation,
		.image = &s->image,
		.volumes = volumes->items,
		.n_volumes = volumes->n,
		.netns_fd = -1,
	};

	plan_network(s, link, &plan, address, gateway);
	if (net_resolv_conf(s->host->net, *link >= 0, &resolv_conf, &s->err) < 0)
		return -1;
	plan.resolv_conf = resolv_conf;
	return driver->ops->start(driver, &plan, &s->instance, &s->err);
}

static int start_on_network(struct step *s, const struct volumes *volumes)
{
	_cleanup_close_ int link = -1;

	if (spec_on_bridge(s->record.spec) && attach_to_bridge(s, &link) < 0)
		return -1;
	if (start_on_link(s, volumes, &link) == 0)
		return 0;
	if (spec_on_bridge(s->record.spec) && s->err.code != ERR_CANCELLED)
		(void)net_detach(s->host->net, s->name, NULL);
	return -1;
}

static int start_run(struct step *s)
{
	_cleanup_(volumes_release) struct volumes volumes = { 0 };
	const char *image = spec_image(s->record.spec);

	/* First: others may wait for what a former run had, while an image is fetched or a port is waited for here. */
	if (store_release_claims(s->host->store, s->name, true, s->record.revision, &s->port_freed, &s->err) < 0)
		return -1;
	/* A microVM with a root file system of its own has none. */
	if (*image && image_store_resolve(s->host->images, image, &s->image, &s->err) < 0) {
		/* A damaged image is fetched again, like a missing one. */
		s->image_missing = s->err.code == ERR_NOT_FOUND || s->err.code == ERR_DATA_LOSS;
		return -1;
	}
	if (store_begin_run(s->host->store, s->name, s->record.generation, &s->err) < 0) {
		s->waits_for_port = s->err.code == ERR_ABORTED;
		return -1;
	}
	if (volumes_attach(s->host, s->record.spec, &volumes, &s->err) < 0)
		return -1;
	return start_on_network(s, &volumes);
}

static void start_work(void *arg)
{
	struct step *s = arg;

	s->ok = start_run(s) == 0;
}

static void start_done(void *arg)
{
	struct step *s = arg;
	struct workload *w = s->w;
	struct limits limits;

	w->image_missing = s->image_missing;
	w->waits_for_port = s->waits_for_port;
	bridge_note(w->owner, &s->look);
	if (s->ok) {
		limits = limits_of(s->record.spec->resources);
		limits_note(w, &limits);
	}
	if (s->port_freed)
		reconciler_port_freed(w->owner);
	workload_started(w, s->ok ? &s->instance : NULL, s->record.generation, &s->err);
	/* One that was freed since it looked. */
	if (s->ports_freed != w->owner->ports_freed)
		workload_port_freed(w);
	step_free(s);
}

void step_start(struct workload *w)
{
	struct step *s = step_new(w, STATE_STARTING);

	s->ports_freed = w->owner->ports_freed;
	w->holds = true;
	task_start(w->owner->host.tasks, start_work, start_done, s);
}

/* ---- a start that another daemon began ---- */

static void take_up_work(void *arg)
{
	struct step *s = arg;
	struct driver *driver = driver_of(s->host, s->record.spec);

	s->ok = driver->ops->recover(driver, s->name, true, &s->instance, &s->err) == 0;
}

static void take_up_done(void *arg)
{
	struct step *s = arg;
	struct workload *w = s->w;

	w->state = STATE_DOWN;
	if (s->ok) {
		workload_found(w, &s->instance);
	} else {
		log_warn("workload %s: cannot take up its start: %s", w->name, error_message(&s->err));
		w->clean_due = true;
	}
	step_free(s);
	workload_advance(w);
	workload_changed(w);
}

void step_take_up(struct workload *w)
{
	struct step *s = step_new(w, STATE_STARTING);

	log_info("workload %s: is being started", w->name);
	task_start(w->owner->host.tasks, take_up_work, take_up_done, s);
}

/* ---- clean ---- */

static int clean_run(struct step *s)
{
	struct driver *driver = driver_of(s->host, s->record.spec);

	/* First: what is removed then is all else that tells that it has run. */
	if (s->completed && store_set_completed(s->host->store, s->name, s->run_generation, s->result.exit_code,
						s->result.finished_at_ns, &s->err) < 0)
		return -1;
	if (driver->ops->cleanup(driver, s->name, &s->err) < 0)
		return -1;
	if (net_detach(s->host->net, s->name, &s->err) < 0)
		return -1;
	return store_release_claims(s->host->store, s->name, s->keep_claims, s->record.revision, &s->port_freed, &s->err);
}

static void clean_work(void *arg)
{
	struct step *s = arg;

	s->ok = clean_run(s) == 0;
}

static void clean_done(void *arg)
{
	struct step *s = arg;
	struct workload *w = s->w;

	w->state = STATE_DOWN;
	/* A wish that came meanwhile has brought its own claims. */
	w->holds = !s->ok || s->keep_claims || w->record.revision != s->record.revision;
	if (s->ok)
		workload_keep_layers(w, NULL, 0);
	if (s->ok && !s->keep_claims)
		workload_happened(w, STOPPED, "%s", s->completed ? "completed" : "");
	if (!s->ok)
		workload_step_failed(w, "clean up after it", &s->err);
	else if (w->clean_failed)
		w->failed = false;
	w->clean_due = w->clean_failed = !s->ok;
	bridge_left(w->owner);
	if (s->port_freed)
		reconciler_port_freed(w->owner);
	step_free(s);
	workload_advance(w);
	workload_changed(w);
}

void step_clean(struct workload *w)
{
	struct step *s = step_new(w, STATE_CLEANING);

	s->keep_claims = workload_wants_run(w);
	s->completed = w->completed && w->result.valid;
	s->result = w->result;
	s->run_generation = w->run_generation;
	task_start(w->owner->host.tasks, clean_work, clean_done, s);
}

/* ---- remove ---- */

static void remove_work(void *arg)
{
	struct step *s = arg;
	struct driver *driver = driver_of(s->host, s->record.spec);

	s->ok = driver->ops->remove(driver, s->name, &s->err) == 0 &&
		net_detach(s->host->net, s->name, &s->err) == 0 && store_remove(s->host->store, s->name, &s->err) == 0;
}

static void remove_done(void *arg)
{
	struct step *s = arg;
	struct workload *w = s->w;

	bridge_left(w->owner);
	if (s->ok) {
		log_info("workload %s: deleted", w->name);
		reconciler_port_freed(w->owner);
		workload_gone(w, s->record.revision);
	} else {
		w->state = STATE_DOWN;
		workload_step_failed(w, "delete it", &s->err);
		workload_advance(w);
		workload_changed(w);
	}
	step_free(s);
}

void step_remove(struct workload *w)
{
	task_start(w->owner->host.tasks, remove_work, remove_done, step_new(w, STATE_REMOVING));
}
