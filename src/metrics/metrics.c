/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "metrics/metrics.h"

#include "base/fs.h"
#include "base/log.h"
#include "base/timeutil.h"
#include "metrics/http.h"
#include "service/history.h"
#include "service/stats.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>

#define TEXT_MAX (64u << 20)
#define PHASES 5 /* with UNSPECIFIED */

struct metrics {
	struct service_host *host;
	struct rpc_server *server;
	struct http_server *http; /* NULL: closed */
	struct http_document document;
	int64_t started_at_ns;
};

/* What the process itself uses. */
struct process_figures {
	uint64_t resident_bytes;
	size_t open_files;
	double cpu_seconds;
};

/* One answer under way. */
struct scrape {
	struct metrics *metrics;
	struct http_exchange *exchange;
	Capsule__V1__WorkloadStatsResponse *stats;
	struct process_figures process;
};

/* ---- text ---- */

static void add_family(struct buf *out, const char *name, const char *type, const char *help)
{
	buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void add_gauge(struct buf *out, const char *name, const char *help, double value)
{
	add_family(out, name, "gauge", help);
	buf_addf(out, "%s %.15g\n", name, value);
}

/* "pulled" for WORKLOAD_OCCURRENCE_TYPE_PULLED: the end of an enum's name in lower case. */
static const char *enum_word(const ProtobufCEnumDescriptor *descriptor, int value, char *out, size_t size)
{
	const char *zero = descriptor->values[0].name;
	size_t prefix = strlen(zero) - strlen("UNSPECIFIED"), n = 0;

	for (const char *p = protobuf_c_enum_descriptor_get_value(descriptor, value)->name + prefix; *p && n + 1 < size; p++)
		out[n++] = (char)tolower((unsigned char)*p);
	out[n] = '\0';
	return out;
}

/* ---- the daemon ---- */

static void count_phase(const Capsule__V1__Workload *workload, void *arg)
{
	size_t *counts = arg;

	counts[workload->status->phase]++;
}

static void add_phases(const struct service_host *host, struct buf *out)
{
	size_t counts[PHASES] = { 0 };
	char word[32];

	reconciler_each(host->reconciler, count_phase, counts);
	add_family(out, "capsule_workloads", "gauge", "Workloads by phase.");
	for (int phase = 1; phase < PHASES; phase++)
		buf_addf(out, "capsule_workloads{phase=\"%s\"} %zu\n",
			 enum_word(&capsule__v1__workload_phase__descriptor, phase, word, sizeof word), counts[phase]);
}

static void add_events(const struct service_host *host, struct buf *out)
{
	const ProtobufCEnumDescriptor *types = &capsule__v1__workload_occurrence_type__descriptor;
	char word[32];

	add_family(out, "capsule_events_total", "counter", "What has happened to workloads since the daemon started.");
	for (unsigned i = 1; i < types->n_values; i++) {
		int type = types->values[i].value;

		buf_addf(out, "capsule_events_total{type=\"%s\"} %" PRIu64 "\n", enum_word(types, type, word, sizeof word),
			 history_count(host->history, (Capsule__V1__WorkloadOccurrenceType)type));
	}
}

static void add_method(const char *path, uint64_t calls, void *arg)
{
	buf_addf(arg, "capsule_api_calls_total{method=\"%s\"} %" PRIu64 "\n", path + 1, calls);
}

static void add_api(const struct metrics *m, struct buf *out)
{
	add_family(out, "capsule_api_calls_total", "counter", "Calls of the API since the daemon started.");
	services_each_method(m->host->services, add_method, out);
	add_gauge(out, "capsule_api_connections", "Open connections to the API.",
		  (double)rpc_server_connections(m->server));
}

static void add_daemon(const struct scrape *s, struct buf *out)
{
	const struct metrics *m = s->metrics;

	add_family(out, "capsule_build_info", "gauge", "The daemon's version.");
	buf_addf(out, "capsule_build_info{version=\"%s\"} 1\n", CAPSULE_VERSION);
	add_phases(m->host, out);
	add_events(m->host, out);
	add_api(m, out);
	add_gauge(out, "process_resident_memory_bytes", "Resident memory of the daemon.", (double)s->process.resident_bytes);
	add_gauge(out, "process_open_fds", "Open file descriptors of the daemon.", (double)s->process.open_files);
	add_gauge(out, "process_start_time_seconds", "Start of the daemon, since the epoch.",
		  (double)m->started_at_ns / NSEC_PER_SEC);
	add_family(out, "process_cpu_seconds_total", "counter", "Processor time of the daemon.");
	buf_addf(out, "process_cpu_seconds_total %.6f\n", s->process.cpu_seconds);
}

/* ---- the workloads ---- */

/* A figure of those that run. */
static const struct figure {
	const char *name, *type, *help;
	size_t offset; /* of a uint64_t in a WorkloadStats */
	double scale;
	bool not_zero; /* 0 stands for nothing that could be shown */
} figures[] = {
#define FIGURE(field) offsetof(Capsule__V1__WorkloadStats, field)
	{ "capsule_workload_cpu_seconds_total", "counter", "Processor time of the present run.", FIGURE(cpu_time_ns), 1e-9 },
	{ "capsule_workload_memory_bytes", "gauge", "Memory without the file cache that would be dropped first.",
	  FIGURE(memory_bytes), 1 },
	{ "capsule_workload_memory_limit_bytes", "gauge", "Memory that it may use.", FIGURE(memory_limit_bytes), 1, true },
	{ "capsule_workload_block_read_bytes_total", "counter", "Read from block devices.", FIGURE(block_read_bytes), 1 },
	{ "capsule_workload_block_written_bytes_total", "counter", "Written to block devices.", FIGURE(block_written_bytes), 1 },
	{ "capsule_workload_network_received_bytes_total", "counter", "Received over the bridge.",
	  FIGURE(network_received_bytes), 1 },
	{ "capsule_workload_network_sent_bytes_total", "counter", "Sent over the bridge.", FIGURE(network_sent_bytes), 1 },
	{ "capsule_workload_pids", "gauge", "Processes and threads.", FIGURE(pids), 1 },
	{ "capsule_workload_pids_limit", "gauge", "Processes and threads that it may have.", FIGURE(pids_limit), 1, true },
};

static void add_figure(const struct figure *figure, const Capsule__V1__WorkloadStatsResponse *stats, struct buf *out)
{
	add_family(out, figure->name, figure->type, figure->help);
	for (size_t i = 0; i < stats->n_stats; i++) {
		uint64_t value = *(const uint64_t *)(const void *)((const char *)stats->stats[i] + figure->offset);

		if (value || !figure->not_zero)
			buf_addf(out, "%s{name=\"%s\"} %.15g\n", figure->name, stats->stats[i]->name,
				 (double)value * figure->scale);
	}
}

static void add_running(const Capsule__V1__Workload *workload, void *arg)
{
	buf_addf(arg, "capsule_workload_running{name=\"%s\"} %d\n", workload->name,
		 workload->status->phase == CAPSULE__V1__WORKLOAD_PHASE__WORKLOAD_PHASE_RUNNING);
}

static void add_restarts(const Capsule__V1__Workload *workload, void *arg)
{
	buf_addf(arg, "capsule_workload_restarts_total{name=\"%s\"} %u\n", workload->name,
		 workload->status->restart_count);
}

/* Only what a health check has found out. */
static void add_healthy(const Capsule__V1__Workload *workload, void *arg)
{
	Capsule__V1__Health health = workload->status->health;

	if (health == CAPSULE__V1__HEALTH__HEALTH_HEALTHY || health == CAPSULE__V1__HEALTH__HEALTH_UNHEALTHY)
		buf_addf(arg, "capsule_workload_healthy{name=\"%s\"} %d\n", workload->name,
			 health == CAPSULE__V1__HEALTH__HEALTH_HEALTHY);
}

static void add_workloads(const struct scrape *s, struct buf *out)
{
	struct reconciler *r = s->metrics->host->reconciler;

	add_family(out, "capsule_workload_running", "gauge", "Whether it runs.");
	reconciler_each(r, add_running, out);
	add_family(out, "capsule_workload_healthy", "gauge", "Whether its health check succeeds.");
	reconciler_each(r, add_healthy, out);
	add_family(out, "capsule_workload_restarts_total", "counter", "Restarts by its restart policy.");
	reconciler_each(r, add_restarts, out);
	for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
		add_figure(&figures[i], s->stats, out);
}

/* ---- one answer ---- */

static size_t count_entries(const char *path)
{
	_cleanup_closedir_ DIR *dir = opendir(path);
	struct dirent *entry;
	size_t n = 0;

	while (dir && (entry = readdir(dir)))
		n += entry->d_name[0] != '.';
	/* The one that is open to count them. */
	return n ? n - 1 : 0;
}

static double seconds_of(const struct timeval *time)
{
	return (double)time->tv_sec + (double)time->tv_usec / 1e6;
}

static void read_process(struct process_figures *ret)
{
	_cleanup_free_ char *statm = NULL;
	struct rusage usage;
	uint64_t pages;

	if (fs_read(AT_FDCWD, "/proc/self/statm", 256, &statm, NULL, NULL) == 0 &&
	    sscanf(statm, "%*u %" SCNu64, &pages) == 1)
		ret->resident_bytes = pages * (uint64_t)sysconf(_SC_PAGESIZE);
	ret->open_files = count_entries("/proc/self/fd");
	if (getrusage(RUSAGE_SELF, &usage) == 0)
		ret->cpu_seconds = seconds_of(&usage.ru_utime) + seconds_of(&usage.ru_stime);
}

static void scrape_work(void *arg)
{
	struct scrape *s = arg;

	stats_measure(s->metrics->host, s->stats);
	read_process(&s->process);
}

static void scrape_done(void *arg)
{
	struct scrape *s = arg;
	_cleanup_buf_ struct buf text = BUF_INIT(TEXT_MAX);

	/* At the end of the daemon there is nobody to read it, and no API to tell of. */
	if (s->metrics->http) {
		add_daemon(s, &text);
		add_workloads(s, &text);
	}
	http_answer(s->exchange, &text);
	capsule__v1__workload_stats_response__free_unpacked(s->stats, NULL);
	free(s);
}

static void on_get(struct http_exchange *exchange, void *arg)
{
	struct metrics *m = arg;
	struct scrape *s = calloc(1, sizeof *s);

	if (!s)
		abort();
	s->metrics = m;
	s->exchange = exchange;
	s->stats = stats_list(m->host, NULL, 0, NULL);
	task_start(m->host->tasks, scrape_work, scrape_done, s);
}

/* ---- the endpoint ---- */

int metrics_new(const char *address, struct service_host *host, struct rpc_server *server, struct metrics **ret,
		struct error *err)
{
	struct rpc_address where;
	struct metrics *m;

	if (rpc_address_parse(address, &where, err) < 0)
		return -1;
	if (where.is_unix)
		return error_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is not of the form HOST:PORT", address);
	m = calloc(1, sizeof *m);
	if (!m)
		return error_set(err, ERR_RESOURCE_EXHAUSTED, "out of memory");
	m->host = host;
	m->server = server;
	m->started_at_ns = time_realtime_ns();
	m->document = (struct http_document){ "/metrics", "text/plain; version=0.0.4; charset=utf-8", on_get, m };
	if (http_server_new(host->loop, where.host, where.port, &m->document, &m->http, err) < 0) {
		free(m);
		return -1;
	}
	log_info("figures for Prometheus on http://%s/metrics, port %u", address, http_server_port(m->http));
	*ret = m;
	return 0;
}

void metrics_close(struct metrics *m)
{
	if (m)
		http_server_close(steal_ptr(&m->http));
}

void metrics_free(struct metrics *m)
{
	free(m);
}
