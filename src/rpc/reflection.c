/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "rpc/reflection.h"

#include "descriptor.pb-c.h"
#include "reflection.pb-c.h"
#include "rpc/unpack.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest request_t;
typedef Grpc__Reflection__V1__ServerReflectionResponse response_t;

struct rpc_reflection {
	struct rpc_services *services;
	const uint8_t *set;
	size_t set_len;
	struct rpc_method methods[2];
};

/* --- the set, read for the time of one question --- */

struct index {
	Rpc__Descriptor__FileSet *set;
	Rpc__Descriptor__File **files;
	size_t n;
};

static void index_release(struct index *index)
{
	for (size_t i = 0; index->files && i < index->n; i++)
		if (index->files[i])
			rpc__descriptor__file__free_unpacked(index->files[i], NULL);
	free(index->files);
	if (index->set)
		rpc__descriptor__file_set__free_unpacked(index->set, NULL);
}

static int index_read(struct index *index, const struct rpc_reflection *r)
{
	index->set = rpc__descriptor__file_set__unpack(NULL, r->set_len, r->set);
	if (!index->set)
		return -1;
	index->n = index->set->n_file;
	index->files = calloc(index->n + 1, sizeof(*index->files));
	if (!index->files)
		return -1;
	for (size_t i = 0; i < index->n; i++) {
		const ProtobufCBinaryData *bytes = &index->set->file[i];

		index->files[i] = rpc__descriptor__file__unpack(NULL, bytes->len, bytes->data);
		if (!index->files[i])
			return -1;
	}
	return 0;
}

static ssize_t find_file(const struct index *index, const char *name)
{
	for (size_t i = 0; i < index->n; i++)
		if (strcmp(index->files[i]->name, name) == 0)
			return (ssize_t)i;
	return -1;
}

/* --- symbols. Each step takes the first component of a full name off and looks for the rest inside. --- */

/* What of `symbol` follows `name` and a dot; "" if nothing does; NULL if it does not begin so. */
static const char *rest_after(const char *symbol, const char *name)
{
	size_t len = strlen(name);

	if (strncmp(symbol, name, len) != 0)
		return NULL;
	if (symbol[len] == '\0')
		return symbol + len;
	return symbol[len] == '.' ? symbol + len + 1 : NULL;
}

static bool has_member(Rpc__Descriptor__Member *const *members, size_t n, const char *symbol)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(members[i]->name, symbol) == 0)
			return true;
	return false;
}

static bool enums_have(Rpc__Descriptor__Enum *const *enums, size_t n, const char *symbol)
{
	for (size_t i = 0; i < n; i++) {
		/* A value's name stands beside its type's, not inside it. */
		if (strcmp(enums[i]->name, symbol) == 0 || has_member(enums[i]->value, enums[i]->n_value, symbol))
			return true;
	}
	return false;
}

static bool message_is(Rpc__Descriptor__Message *const *messages, size_t n, const char *symbol, bool types_only)
{
	for (size_t i = 0; i < n; i++) {
		const Rpc__Descriptor__Message *m = messages[i];
		const char *rest = rest_after(symbol, m->name);

		if (!rest)
			continue;
		if (!*rest || message_is(m->nested_type, m->n_nested_type, rest, types_only))
			return true;
		if (!types_only &&
		    (has_member(m->field, m->n_field, rest) || enums_have(m->enum_type, m->n_enum_type, rest)))
			return true;
	}
	return false;
}

static bool services_have(Rpc__Descriptor__Service *const *services, size_t n, const char *symbol)
{
	for (size_t i = 0; i < n; i++) {
		const char *rest = rest_after(symbol, services[i]->name);

		if (rest && (!*rest || has_member(services[i]->method, services[i]->n_method, rest)))
			return true;
	}
	return false;
}

static ssize_t find_symbol(const struct index *index, const char *symbol, bool types_only)
{
	for (size_t i = 0; i < index->n; i++) {
		const Rpc__Descriptor__File *f = index->files[i];
		const char *rest = *f->package ? rest_after(symbol, f->package) : symbol;

		if (!rest || !*rest)
			continue;
		if (message_is(f->message_type, f->n_message_type, rest, types_only))
			return (ssize_t)i;
		if (!types_only && (enums_have(f->enum_type, f->n_enum_type, rest) ||
				    services_have(f->service, f->n_service, rest)))
			return (ssize_t)i;
	}
	return -1;
}

/* --- answers --- */

static void send_answer(struct rpc_call *call, request_t *request, response_t *answer)
{
	answer->valid_host = request->host;
	answer->original_request = request;
	rpc_call_send(call, &answer->base);
	/* Who asks without reading the answers is not read from either. */
	if (!rpc_call_writable(call))
		rpc_call_pause(call);
}

static void send_error(struct rpc_call *call, request_t *request, enum error_code code, const char *what,
		       const char *name)
{
	Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
	response_t answer = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
	_cleanup_free_ char *text = NULL;

	error.error_code = code;
	if (asprintf(&text, "%s%s", what, name) >= 0)
		error.error_message = text;
	answer.message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
	answer.error_response = &error;
	send_answer(call, request, &answer);
}

/* The file and, each once, everything that it imports. */
static void send_file(struct rpc_call *call, request_t *request, const struct index *index, size_t first)
{
	Grpc__Reflection__V1__FileDescriptorResponse files = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
	response_t answer = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
	_cleanup_free_ ProtobufCBinaryData *bytes = calloc(index->n, sizeof(*bytes));
	_cleanup_free_ size_t *order = calloc(index->n, sizeof(*order));
	_cleanup_free_ bool *taken = calloc(index->n, sizeof(*taken));
	size_t n = 0;

	if (!bytes || !order || !taken) {
		rpc_call_finish(call, ERR_RESOURCE_EXHAUSTED, "no memory");
		return;
	}
	taken[first] = true;
	order[n++] = first;
	for (size_t i = 0; i < n; i++) {
		const Rpc__Descriptor__File *f = index->files[order[i]];

		bytes[i] = index->set->file[order[i]];
		for (size_t k = 0; k < f->n_dependency; k++) {
			ssize_t at = find_file(index, f->dependency[k]);

			if (at >= 0 && !taken[at]) {
				taken[at] = true;
				order[n++] = (size_t)at;
			}
		}
	}
	files.n_file_descriptor_proto = n;
	files.file_descriptor_proto = bytes;
	answer.message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
	answer.file_descriptor_response = &files;
	send_answer(call, request, &answer);
}

static void send_extension_numbers(struct rpc_call *call, request_t *request, char *type)
{
	Grpc__Reflection__V1__ExtensionNumberResponse none = GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
	response_t answer = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;

	none.base_type_name = type;
	answer.message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
	answer.all_extension_numbers_response = &none;
	send_answer(call, request, &answer);
}

/* --- list of services --- */

struct names {
	Grpc__Reflection__V1__ServiceResponse *services, **pointers;
	size_t n;
	bool failed;
};

static void names_release(struct names *names)
{
	for (size_t i = 0; i < names->n; i++)
		free(names->services[i].name);
	free(names->services);
	free(names->pointers);
}

static void names_add(const struct rpc_method *method, void *arg)
{
	static const Grpc__Reflection__V1__ServiceResponse init = GRPC__REFLECTION__V1__SERVICE_RESPONSE__INIT;
	struct names *names = arg;
	Grpc__Reflection__V1__ServiceResponse *grown;
	const char *name = method->path + 1, *slash = strchr(name, '/');
	size_t len = slash ? (size_t)(slash - name) : strlen(name);

	for (size_t i = 0; i < names->n; i++)
		if (strlen(names->services[i].name) == len && memcmp(names->services[i].name, name, len) == 0)
			return;
	grown = reallocarray(names->services, names->n + 1, sizeof(*grown));
	if (!grown) {
		names->failed = true;
		return;
	}
	names->services = grown;
	grown[names->n] = init;
	grown[names->n].name = strndup(name, len);
	if (grown[names->n].name)
		names->n++;
	else
		names->failed = true;
}

static void send_services(struct rpc_call *call, request_t *request, const struct rpc_services *services)
{
	Grpc__Reflection__V1__ListServiceResponse list = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
	response_t answer = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
	_cleanup_(names_release) struct names names = { .n = 0 };

	rpc_services_each(services, names_add, &names);
	names.pointers = calloc(names.n + 1, sizeof(*names.pointers));
	if (names.failed || !names.pointers) {
		rpc_call_finish(call, ERR_RESOURCE_EXHAUSTED, "no memory");
		return;
	}
	for (size_t i = 0; i < names.n; i++)
		names.pointers[i] = &names.services[i];
	list.n_service = names.n;
	list.service = names.pointers;
	answer.message_response_case =
		GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
	answer.list_services_response = &list;
	send_answer(call, request, &answer);
}

/* --- the method --- */

static void answer_from_set(struct rpc_call *call, request_t *request, const struct index *index)
{
	ssize_t at;

	switch (request->message_request_case) {
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
		at = find_file(index, request->file_by_filename);
		if (at >= 0)
			send_file(call, request, index, (size_t)at);
		else
			send_error(call, request, ERR_NOT_FOUND, "there is no file ", request->file_by_filename);
		return;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
		at = find_symbol(index, request->file_containing_symbol, false);
		if (at >= 0)
			send_file(call, request, index, (size_t)at);
		else
			send_error(call, request, ERR_NOT_FOUND, "there is no symbol ",
				   request->file_containing_symbol);
		return;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
		/* proto3 has no extensions but of options, and we define none. */
		send_error(call, request, ERR_NOT_FOUND, "there are no extensions of ",
			   request->file_containing_extension->containing_type);
		return;
	case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
		if (find_symbol(index, request->all_extension_numbers_of_type, true) >= 0)
			send_extension_numbers(call, request, request->all_extension_numbers_of_type);
		else
			send_error(call, request, ERR_NOT_FOUND, "there is no message type ",
				   request->all_extension_numbers_of_type);
		return;
	default:
		send_error(call, request, ERR_INVALID_ARGUMENT, "the request asks for nothing", "");
	}
}

static void on_request(struct rpc_call *call, const ProtobufCMessage *message)
{
	const struct rpc_reflection *r = rpc_call_method(call)->arg;
	/* A copy, as the answer quotes it and generated types know no const. */
	request_t request = *(const request_t *)message;
	_cleanup_(index_release) struct index index = { .n = 0 };

	if (request.message_request_case ==
	    GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES) {
		send_services(call, &request, r->services);
		return;
	}
	if (index_read(&index, r) < 0) {
		rpc_call_finish(call, ERR_INTERNAL, "the descriptors cannot be read");
		return;
	}
	answer_from_set(call, &request, &index);
}

static void on_half_close(struct rpc_call *call)
{
	rpc_call_finish(call, ERR_OK, NULL);
}

static void on_writable(struct rpc_call *call)
{
	rpc_call_resume(call);
}

struct rpc_reflection *rpc_reflection_new(struct rpc_services *services, const uint8_t *descriptor_set, size_t len)
{
	static const char *const paths[] = {
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	};
	struct rpc_reflection *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->services = services;
	r->set = descriptor_set;
	r->set_len = len;
	for (size_t i = 0; i < 2; i++)
		r->methods[i] = (struct rpc_method){
			.path = paths[i],
			.receives = &grpc__reflection__v1__server_reflection_request__descriptor,
			.message = on_request,
			.half_close = on_half_close,
			.writable = on_writable,
			.arg = r,
		};
	if (rpc_services_add(services, r->methods, 2) < 0) {
		free(r);
		return NULL;
	}
	return r;
}

void rpc_reflection_free(struct rpc_reflection *reflection)
{
	free(reflection);
}
