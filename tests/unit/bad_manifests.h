/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */

/* Manifests with mistakes, and all that is to be said about each. */
#ifndef CAPSULE_TESTS_BAD_MANIFESTS_H
#define CAPSULE_TESTS_BAD_MANIFESTS_H

#include "manifest_fixture.h"

#define DATA "name: data\nkind: Volume\n"

static const struct {
	const char *text, *mistakes;
} bad_manifests[] = {
	{ "",
	  "1:1: there is no manifest in it\n" },
	{ "# nothing\n---\n",
	  "1:1: there is no manifest in it\n" },
	{ "name: w\377b\nkind: Volume\nsize: 1G\n",
	  "1:8: byte 0xff is not UTF-8\n" },
	{ "name: a\nkind: Vol\001ume\n",
	  "2:10: character U+0001 cannot stand in a manifest\n" },
	{ "name: web\nkind: Container\ncontainer:\n\timage: nginx\n",
	  "4:1: found a tab where only spaces may indent, while scanning for the next token that "
	  "begins in line 4\n" },
	{ "name: web\n kind: Container\n",
	  "2:6: mapping values are not allowed in this context\n" },
	{ "name: web\nkind: [Container\n",
	  "3:1: did not find expected ',' or ']', while parsing a flow sequence that begins in line 2\n" },
	{ "name: \"web\n",
	  "2:1: found unexpected end of stream, while scanning a quoted scalar that begins in line 1\n" },
	{ "name: web\nkind Container\ncontainer: {}\n",
	  "3:1: could not find expected ':', while scanning a simple key that begins in line 2\n" },
	{ "- name: web\n",
	  "1:1: must be a mapping with name, kind and what belongs to the kind, not a list\n" },
	{ "hello\n",
	  "1:1: must be a mapping with name, kind and what belongs to the kind, not a string\n" },
	{ "{\"name\": \"web\", \"kind\"",
	  "2:1: did not find expected ',' or '}', while parsing a flow mapping that begins in line 1\n" },
	{ "name: &a web\nkind: Container\ncontainer:\n  image: *a\n",
	  "1:7: name: anchors and aliases (& and *) have no place in a manifest; write the value out\n"
	  "4:10: container.image: anchors and aliases (& and *) have no place in a manifest; write "
	  "the value out\n" },
	{ WEB "  env:\n    *x : y\n",
	  "6:5: container.env: anchors and aliases (& and *) have no place in a manifest; write "
	  "the value out\n" },
	{ "name: web\nkind: Container\ncontainer:\n  image: !!str nginx\n",
	  "4:10: container.image: tags (!) have no place in a manifest; a value in quotes is a string\n" },
	{ WEB "  <<: {privileged: true}\n",
	  "5:3: container[\"<<\"]: unknown field \"<<\"; known here: image, command, args, env, "
	  "mounts, networkMode, ports, privileged, hostPid, hostMount, hostIpc, hostBindPaths\n" },
	{ WEB "  env:\n    [a, b]: c\n",
	  "6:5: container.env: a key must be a word, not a mapping or a list\n" },
	{ WEB "  image: httpd\n",
	  "5:3: container.image: is given twice (first in line 4)\n" },
	{ "name: a\nname: web\nkind: Container\ncontainer:\n  image: nginx\n",
	  "2:1: name: is given twice (first in line 1)\n" },
	{ WEB "  env:\n    A: x\n    A: y\n",
	  "7:5: container.env.A: is given twice (first in line 6)\n" },
	{ WEB "  env:\n    - name: A\n      value: x\n    - {name: B, value: y}\n    - name: A\n"
	  "      value: z\n",
	  "9:7: container.env.A: is given twice (first in line 6)\n" },
	{ "name: web\ncontainer:\n  image: nginx\n",
	  "1:1: kind: is required: Container, MicroVM or Volume\n" },
	{ "name: web\nkind:\n",
	  "2:1: kind: is required: Container, MicroVM or Volume\n" },
	{ "name: web\nkind: Contianer\ncontainer:\n  image: nginx\n",
	  "2:7: kind: must be Container, MicroVM or Volume, not \"Contianer\"; did you mean Container?\n" },
	{ "name: web\nkind: microvm\nmicroVm:\n  image: a\n",
	  "2:7: kind: must be Container, MicroVM or Volume, not \"microvm\"; did you mean MicroVM?\n" },
	{ "name: web\nkind: Deployment\n",
	  "2:7: kind: must be Container, MicroVM or Volume, not \"Deployment\"\n" },
	{ "name: web\nkind: 1\n",
	  "2:7: kind: must be Container, MicroVM or Volume, not \"1\"\n" },
	{ "name: web\nKind: Container\ncontainer:\n  image: nginx\n",
	  "2:1: Kind: unknown field \"Kind\"; did you mean \"kind\"?\n" },
	{ "name: web\nkind: Container\n",
	  "1:1: container: is required for a Container\n" },
	{ "name: web\nkind: MicroVM\ncontainer:\n  image: nginx\n",
	  "1:1: microVm: is required for a MicroVM\n"
	  "3:1: container: has no place in a MicroVM; set kind to Container or use \"microVm\"\n" },
	{ WEB "microVm:\n  image: a\n",
	  "5:1: microVm: has no place in a Container; set kind to MicroVM or use \"container\"\n" },
	{ "name: web\nkind: Container\ncontainer: nginx\n",
	  "3:12: container: must be a mapping of fields, not a string\n" },
	{ "name: web\nkind: Container\ncontainer:\n",
	  "3:1: container: is required for a Container\n" },
	{ "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec: {}\n",
	  "1:1: apiVersion: unknown field \"apiVersion\"; known here: name, kind, container, "
	  "microVm, desiredState, restartPolicy, stopGracePeriodSeconds, resources, healthCheck\n"
	  "1:1: name: is required: 1 to 63 characters of a-z, 0-9 and '-'\n"
	  "2:7: kind: must be Container, MicroVM or Volume, not \"Pod\"\n"
	  "3:1: metadata: unknown field \"metadata\"; known here: name, kind, container, microVm, "
	  "desiredState, restartPolicy, stopGracePeriodSeconds, resources, healthCheck\n"
	  "5:1: spec: unknown field \"spec\"; known here: name, kind, container, microVm, "
	  "desiredState, restartPolicy, stopGracePeriodSeconds, resources, healthCheck\n" },
	{ "kind: Volume\nsize: 1G\n",
	  "1:1: name: is required: 1 to 63 characters of a-z, 0-9 and '-'\n" },
	{ "name: Web\nkind: Container\ncontainer:\n  image: nginx\n",
	  "1:7: name: may hold a-z, 0-9 and '-' only, not \"W\"\n" },
	{ "name: web-\nkind: Container\ncontainer:\n  image: nginx\n",
	  "1:7: name: must begin and end with a letter or a digit\n" },
	{ "name: my.web\nkind: Container\ncontainer:\n  image: nginx\n",
	  "1:7: name: may hold a-z, 0-9 and '-' only, not \".\"\n" },
	{ "name: w\303\274b\nkind: Container\ncontainer:\n  image: nginx\n",
	  "1:7: name: may hold a-z, 0-9 and '-' only, not \"\303\274\"\n" },
	{ "name: 42\nkind: Container\ncontainer:\n  image: nginx\n",
	  "1:7: name: must be a string, not a number; write it in quotes: \"42\"\n" },
	{ WEB "---\nname: web\nkind: Container\ncontainer:\n  image: nginx\n",
	  "6:7: name: the document in line 1 has the same name\n" },
	{ "name: web\nkind: Container\ncontainer:\n  imgae: nginx\n",
	  "4:3: container.imgae: unknown field \"imgae\"; did you mean \"image\"?\n" },
	{ WEB "  network_mode: HOST\n",
	  "5:3: container.network_mode: unknown field \"network_mode\"; did you mean \"networkMode\"?\n" },
	{ WEB "  ports:\n    - containerPort: 80\n      hostport: 8080\n",
	  "7:7: container.ports[0].hostport: unknown field \"hostport\"; did you mean \"hostPort\"?\n" },
	{ WEB "  environment:\n    A: b\n  volumes: []\n",
	  "5:3: container.environment: unknown field \"environment\"; did you mean \"env\"?\n"
	  "7:3: container.volumes: unknown field \"volumes\"; did you mean \"mounts\"?\n" },
	{ WEB "  restartPolicy: Never\n",
	  "5:3: container.restartPolicy: unknown field \"restartPolicy\"; it belongs at the top "
	  "level, beside name and kind\n" },
	{ "name: web\nkind: Container\nimage: nginx\ncontainer:\n  command: [x]\n",
	  "3:1: image: unknown field \"image\"; it belongs in \"container\"\n"
	  "4:1: container.image: is required, for example docker.io/library/nginx:1.27\n" },
	{ VM "  networkMode: HOST\n",
	  "5:3: microVm.networkMode: unknown field \"networkMode\"; only a Container has it\n" },
	{ WEB "  vcpus: 2\n",
	  "5:3: container.vcpus: unknown field \"vcpus\"; only a MicroVM has it\n" },
	{ WEB "  frobnicate: 1\n",
	  "5:3: container.frobnicate: unknown field \"frobnicate\"; known here: image, command, "
	  "args, env, mounts, networkMode, ports, privileged, hostPid, hostMount, hostIpc, hostBindPaths\n" },
	{ WEB "status:\n  phase: WORKLOAD_PHASE_RUNNING\n",
	  "5:1: status: is set by the daemon and has no place in a manifest; remove it\n" },
	{ WEB "ephemeral: true\n",
	  "5:1: ephemeral: is for clients of the API and has no place in a manifest; remove it\n" },
	{ "name: web\nkind: Container\ncontaner:\n  image: nginx\n  ports:\n"
	  "    - containerPort: 80\n",
	  "3:1: contaner: unknown field \"contaner\"; did you mean \"container\"?\n"
	  "6:7: container.ports[0].hostPort: is required: a port from 1 to 65535\n" },
	{ WEB "size: 1G\n",
	  "5:1: size: unknown field \"size\"; only a Volume has it\n" },
	{ DATA "size: 1G\nformat: xfs\n",
	  "4:1: format: unknown field \"format\"; known here: name, kind, size, backend, fromSnapshot\n" },
	{ WEB "  env:\n    - name: A\n      valueFrom: {}\n",
	  "7:7: container.env[0].valueFrom: unknown field \"valueFrom\"; known here: name, value\n" },
	{ "name: web\nkind: Container\ncontainer:\n  image: 1.27\n",
	  "4:10: container.image: must be a string, not a number; write it in quotes: \"1.27\"\n" },
	{ WEB "  command: [sleep, 5, true, ~]\n",
	  "5:20: container.command[1]: must be a string, not a number; write it in quotes: \"5\"\n"
	  "5:23: container.command[2]: must be a string, not a boolean; write it in quotes: \"true\"\n"
	  "5:29: container.command[3]: must be a string; write \"\" for an empty one\n" },
	{ WEB "  env:\n    PORT: 8080\n    ON: true\n    E:\n",
	  "6:11: container.env.PORT: must be a string, not a number; write it in quotes: \"8080\"\n"
	  "7:9: container.env.ON: must be a string, not a boolean; write it in quotes: \"true\"\n"
	  "8:5: container.env.E: must be a string; write \"\" for an empty one\n" },
	{ WEB "  privileged: yes\n",
	  "5:15: container.privileged: must be true or false, not \"yes\"\n" },
	{ WEB "  privileged: \"true\"\n",
	  "5:15: container.privileged: must be true or false, not \"true\" in quotes\n" },
	{ WEB "  ports:\n    - {containerPort: \"80\", hostPort: 8080}\n",
	  "6:23: container.ports[0].containerPort: must be a whole number, not \"80\" in quotes\n" },
	{ VM "  vcpus: 1.5\n",
	  "5:10: microVm.vcpus: must be a whole number, not \"1.5\"\n" },
	{ VM "  vcpus: -1\n",
	  "5:10: microVm.vcpus: must be at least 1\n" },
	{ VM "  vcpus: 0\n",
	  "5:10: microVm.vcpus: must be at least 1\n" },
	{ WEB "resources: {cpus: 0, memoryMib: 0, pidsMax: 0}\n",
	  "5:19: resources.cpus: must be at least 0.01; leave it out for no limit\n"
	  "5:33: resources.memoryMib: must be at least 1\n"
	  "5:45: resources.pidsMax: must be at least 1\n" },
	{ WEB "resources: {cpus: 1.5 cores, memoryMib: 64M, pidsMax: many}\n",
	  "5:19: resources.cpus: must be a number of processors such as 1.5 or 500m, not \"1.5 cores\"\n"
	  "5:41: resources.memoryMib: must be a whole number, not \"64M\"\n"
	  "5:55: resources.pidsMax: must be a whole number, not \"many\"\n" },
	{ WEB "resources: {cpus: -1, memoryMib: 4, pidsMax: 4194305}\n",
	  "5:19: resources.cpus: must be 0.01 to 1024, not -1\n"
	  "5:34: resources.memoryMib: must be 8 to 16777216, not 4\n"
	  "5:46: resources.pidsMax: must be 1 to 4194304, not 4194305\n" },
	{ WEB "resources: {cpus: nan}\n",
	  "5:19: resources.cpus: must be 0.01 to 1024, not nan\n" },
	{ WEB "resources: {cpu: 1, pids: 7}\n",
	  "5:13: resources.cpu: unknown field \"cpu\"; did you mean \"cpus\"?\n"
	  "5:21: resources.pids: unknown field \"pids\"; did you mean \"pidsMax\"?\n" },
	{ WEB "  memoryMib: 64\n",
	  "5:3: container.memoryMib: unknown field \"memoryMib\"; it belongs in \"resources\", which stands beside name and "
	  "kind\n" },
	{ VM "resources: {memoryMib: 256}\n",
	  "5:24: resources.memoryMib: must be less than microVm.memoryMib (256): it is a limit inside the machine\n" },
	{ WEB "healthCheck: {}\n",
	  "5:1: healthCheck: needs one of exec, http and tcp\n" },
	{ WEB "healthCheck: {tcp: {port: 80}, http: {port: 80}}\n",
	  "5:32: healthCheck.http: cannot stand beside \"tcp\"\n" },
	{ WEB "healthCheck: {exec: true, tcp: {port: 80}}\n",
	  "5:21: healthCheck.exec: must be a mapping of fields, not a boolean\n"
	  "5:27: healthCheck.tcp: cannot stand beside \"exec\"\n" },
	{ WEB "healthCheck: {tcp: {}}\n",
	  "5:15: healthCheck.tcp.port: is required\n" },
	{ WEB "healthCheck: {tcp: {port: 65536}, retries: 0}\n",
	  "5:27: healthCheck.tcp.port: must be 1 to 65535, not 65536\n"
	  "5:44: healthCheck.retries: must be at least 1\n" },
	{ WEB "healthCheck: {exec: {command: []}, interval: 999ms, retries: 1001}\n",
	  "5:22: healthCheck.exec.command: must name a program\n"
	  "5:46: healthCheck.interval: must be at least 1000ms, not 999ms\n"
	  "5:62: healthCheck.retries: must be 1 to 1000, not 1001\n" },
	{ WEB "healthCheck: {http: {port: 80, path: status}, interval: soon, timeout: -1s}\n",
	  "5:38: healthCheck.http.path: must begin with \"/\"\n"
	  "5:57: healthCheck.interval: must be a duration such as 10s, 1m30s or 500ms, not \"soon\"\n"
	  "5:72: healthCheck.timeout: must be a duration such as 10s, 1m30s or 500ms, not \"-1s\"\n" },
	{ WEB "healthCheck: {http: {port: 80, path: \"/ HTTP/1.1\\r\\nX: y\"}, timeout: 99ms}\n",
	  "5:38: healthCheck.http.path: must not hold a space or a control character\n"
	  "5:70: healthCheck.timeout: must be at least 100ms, not 99ms\n" },
	{ WEB "healthCheck: {tcp: {port: 80}, interval: 5, timeout: 6s, startPeriod: 25h}\n",
	  "5:54: healthCheck.timeout: must not be longer than the interval\n"
	  "5:71: healthCheck.startPeriod: must be at most 24h, not 90000s\n" },
	{ WEB "livenessProbe: {tcp: {port: 80}}\n",
	  "5:1: livenessProbe: unknown field \"livenessProbe\"; did you mean \"healthCheck\"?\n" },
	{ WEB "  startPeriod: 5s\n",
	  "5:3: container.startPeriod: unknown field \"startPeriod\"; it belongs in \"healthCheck\", which stands beside "
	  "name and kind\n" },
	{ WEB "  ports: [{containerPort: 80, hostPort: 4294967296}]\n",
	  "5:41: container.ports[0].hostPort: must be at most 4294967295\n" },
	{ WEB "  ports: [{containerPort: 80, hostPort: 99999999999999999999999}]\n",
	  "5:41: container.ports[0].hostPort: must be at most 4294967295\n" },
	{ WEB "  command: /bin/sh\n",
	  "5:12: container.command: must be a list of strings, not a string\n" },
	{ WEB "  ports: [\"8080:80\"]\n",
	  "5:11: container.ports[0]: must be a mapping of fields, not a string\n" },
	{ WEB "  env: [A=b]\n",
	  "5:9: container.env[0]: must be a mapping of name and value, not a string\n" },
	{ WEB "  env: A=b\n",
	  "5:8: container.env: must be a mapping of names to values or a list of {name, value}, "
	  "not a string\n" },
	{ "name: web\nkind: Container\ncontainer:\n  image:\n    name: nginx\n",
	  "4:3: container.image: must be a string, not a mapping\n" },
	{ WEB "  args: [\"a\\0b\"]\n",
	  "5:10: container.args[0]: must not hold a NUL character\n" },
	{ WEB "  env: {\"a\\0b\": c}\n",
	  "5:9: container.env: a key must not hold a NUL character\n" },
	{ WEB "  networkMode: host\n",
	  "5:16: container.networkMode: must be NETWORK_MODE_HOST or NETWORK_MODE_BRIDGE, not "
	  "\"host\"; did you mean HOST?\n" },
	{ WEB "  networkMode: overlay\n",
	  "5:16: container.networkMode: must be NETWORK_MODE_HOST or NETWORK_MODE_BRIDGE, not \"overlay\"\n" },
	{ WEB "  networkMode: NETWORK_MODE_UNSPECIFIED\n",
	  "5:16: container.networkMode: must be NETWORK_MODE_HOST or NETWORK_MODE_BRIDGE, not "
	  "\"NETWORK_MODE_UNSPECIFIED\"\n" },
	{ WEB "restartPolicy: on-failure\n",
	  "5:16: restartPolicy: must be Always, OnFailure or Never, not \"on-failure\"; did you mean "
	  "OnFailure?\n" },
	{ WEB "restartPolicy: unless-stopped\n",
	  "5:16: restartPolicy: must be Always, OnFailure or Never, not \"unless-stopped\"\n" },
	{ WEB "desiredState: Deleting\n",
	  "5:15: desiredState: must be Running or Stopped; to remove a workload, delete it\n" },
	{ VM "  backend: fircracker\n",
	  "5:12: microVm.backend: must be MICRO_VM_BACKEND_FIRECRACKER, MICRO_VM_BACKEND_SMOLVM or MICRO_VM_BACKEND_QEMU, "
	  "not \"fircracker\"; did you mean FIRECRACKER?\n" },
	{ WEB "restartPolicy: 1\n",
	  "5:16: restartPolicy: must be Always, OnFailure or Never, not \"1\"\n" },
	{ WEB "stopGracePeriodSeconds: -1\n",
	  "5:25: stopGracePeriodSeconds: must not be negative\n" },
	{ "name: web\nkind: Container\ncontainer:\n  command: [x]\n",
	  "3:1: container.image: is required, for example docker.io/library/nginx:1.27\n" },
	{ "name: web\nkind: Container\ncontainer:\n  image: \"nginx latest\"\n",
	  "4:10: container.image: \"nginx latest\" is not an image reference: it holds a space or a "
	  "control character\n" },
	{ "name: web\nkind: Container\ncontainer:\n  image: \"\"\n",
	  "4:10: container.image: is required, for example docker.io/library/nginx:1.27\n" },
	{ WEB "  ports:\n    - containerPort: 80\n",
	  "6:7: container.ports[0].hostPort: is required: a port from 1 to 65535\n" },
	{ WEB "  ports:\n    - containerPort: 0\n      hostPort: 1\n",
	  "6:22: container.ports[0].containerPort: is required: a port from 1 to 65535\n" },
	{ WEB "  ports:\n    - containerPort: 80\n      hostPort: 70000\n",
	  "7:17: container.ports[0].hostPort: must be a port from 1 to 65535, not 70000\n" },
	{ WEB "  ports:\n    - {containerPort: 80, hostPort: 80, protocol: TCP}\n",
	  "6:51: container.ports[0].protocol: must be tcp or udp, not \"TCP\"; did you mean tcp?\n" },
	{ WEB "  ports:\n    - {containerPort: 80, hostPort: 80, protocol: sctp}\n",
	  "6:51: container.ports[0].protocol: must be tcp or udp, not \"sctp\"\n" },
	{ WEB "  ports:\n    - {containerPort: 80, hostPort: 8080}\n"
	  "    - {containerPort: 80, hostPort: 8080, protocol: udp}\n"
	  "    - {containerPort: 81, hostPort: 8080, protocol: tcp}\n",
	  "8:37: container.ports[2].hostPort: 8080/tcp is published already by ports[0]\n" },
	{ WEB "  networkMode: HOST\n  ports:\n    - {containerPort: 80, hostPort: 8080}\n",
	  "6:3: container.ports: cannot stand beside networkMode NETWORK_MODE_HOST: such a "
	  "container listens on the host's own addresses; remove ports or use NETWORK_MODE_BRIDGE\n" },
	{ WEB "  mounts:\n    - {volumeName: d, mountPath: data}\n",
	  "6:34: container.mounts[0].mountPath: must be an absolute path, not \"data\"\n" },
	{ WEB "  mounts:\n    - readOnly: true\n",
	  "6:7: container.mounts[0].volumeName: is required: 1 to 63 characters of a-z, 0-9 and '-'\n"
	  "6:7: container.mounts[0].mountPath: is required: an absolute path\n" },
	{ WEB "  mounts:\n    - {volumeName: d, mountPath: /data}\n"
	  "    - {volumeName: e, mountPath: /data//./}\n",
	  "7:34: container.mounts[1].mountPath: \"/data\" is used twice\n" },
	{ WEB "  mounts:\n    - {volumeName: d, mountPath: /a}\n"
	  "    - {volumeName: d, mountPath: /b}\n",
	  "7:20: container.mounts[1].volumeName: is mounted already by mounts[0]; a volume can be "
	  "mounted once\n" },
	{ WEB "  mounts:\n    - {volumeName: d, mountPath: //}\n",
	  "6:34: container.mounts[0].mountPath: must not be \"/\": it is the image's own\n" },
	{ WEB "  mounts:\n    - {volumeName: d, mountPath: /proc/x}\n",
	  "6:34: container.mounts[0].mountPath: must not be in /proc: it is the kernel's own\n" },
	{ WEB "  mounts:\n    - {volumeName: d, mountPath: /a/../b}\n",
	  "6:34: container.mounts[0].mountPath: must not hold \"..\"\n" },
	{ WEB "  mounts:\n    - {volumeName: My_Data, mountPath: /a}\n",
	  "6:20: container.mounts[0].volumeName: may hold a-z, 0-9 and '-' only, not \"M\"\n" },
	{ WEB "  hostBindPaths: [srv]\n",
	  "5:19: container.hostBindPaths[0]: must be an absolute path, not \"srv\"\n" },
	{ WEB "  hostBindPaths: [\"/a:/b:rx\"]\n",
	  "5:19: container.hostBindPaths[0]: must be \"/source\", \"/source:/target\" or "
	  "\"/source:/target:ro\" (or \":rw\")\n" },
	{ WEB "  hostBindPaths: [\"/a:b\", \"/c:/\", \"/e:\"]\n",
	  "5:19: container.hostBindPaths[0]: must be an absolute path, not \"b\"\n"
	  "5:27: container.hostBindPaths[1]: must not be \"/\": it is the image's own\n"
	  "5:35: container.hostBindPaths[2]: is required: an absolute path\n" },
	{ WEB "  mounts: [{volumeName: d, mountPath: /a}]\n  hostBindPaths: [/a]\n",
	  "6:19: container.hostBindPaths[0]: \"/a\" is used twice\n" },
	{ WEB "  env:\n    - {name: \"A=B\", value: c}\n",
	  "6:7: container.env[\"A=B\"]: the name of a variable must not hold \"=\"\n" },
	{ WEB "  env:\n    - value: c\n",
	  "5:3: container.env: a variable has no name\n" },
	{ WEB "  env:\n    \"\": c\n",
	  "5:3: container.env: a variable has no name\n" },
	{ VM "  kernelPath: /k\n  rootfsPath: /r\n",
	  "4:10: microVm.image: cannot stand beside kernelPath and rootfsPath; a microVM boots "
	  "from one or the other\n" },
	{ "name: vm\nkind: MicroVM\nmicroVm:\n  kernelPath: /k\n",
	  "3:1: microVm.rootfsPath: is required: an absolute path\n" },
	{ "name: vm\nkind: MicroVM\nmicroVm:\n  vcpus: 1\n",
	  "3:1: microVm.image: is required, or kernelPath and rootfsPath in its place\n" },
	{ "name: vm\nkind: MicroVM\nmicroVm:\n  kernelPath: k\n  rootfsPath: /r\n",
	  "4:15: microVm.kernelPath: must be an absolute path, not \"k\"\n" },
	{ VM "  vcpus: 257\n",
	  "5:10: microVm.vcpus: must be 1 to 256, not 257\n" },
	{ VM "  memoryMib: 16\n",
	  "5:14: microVm.memoryMib: must be 64 to 16777216, not 16\n" },
	{ VM "  memoryMib: 512M\n",
	  "5:14: microVm.memoryMib: must be a whole number, not \"512M\"\n" },
	{ VM "  diskSize: 1M\n",
	  "5:13: microVm.diskSize: must be at least 16MiB\n" },
	{ VM "  diskSize: 65TiB\n",
	  "5:13: microVm.diskSize: must be at most 64TiB\n" },
	{ "name: vm\nkind: MicroVM\nmicroVm:\n  kernelPath: /k\n  rootfsPath: /r\n  command: [sh]\n  diskSize: 1G\n"
	  "resources: {pidsMax: 5}\nhealthCheck: {exec: {command: [x]}}\n",
	  "6:3: microVm.command: cannot stand beside kernelPath and rootfsPath; that root file system decides what runs in it\n"
	  "7:13: microVm.diskSize: cannot stand beside kernelPath and rootfsPath; that root file system decides what runs in it\n"
	  "8:1: resources: cannot stand beside kernelPath and rootfsPath; that root file system decides what runs in it\n"
	  "9:15: healthCheck.exec: cannot stand beside kernelPath and rootfsPath; that root file system decides what runs in it\n" },
	{ VM "  kernelCmdlineExtra: \"a\\nb\"\n",
	  "5:23: microVm.kernelCmdlineExtra: must be one line\n" },
	{ VM "  kernelCmdlineExtra: 'a=\"b'\n",
	  "5:23: microVm.kernelCmdlineExtra: has a \" without its counterpart, behind which no device would be found\n" },
	{ VM "  kernelCmdlineExtra: init=/sbin/x -- y\n",
	  "5:23: microVm.kernelCmdlineExtra: must not hold \"--\", behind which no device would be found; let init= name a program "
	  "that needs no arguments\n" },
	{ DATA,
	  "1:1: size: is required, for example 10GiB\n" },
	{ DATA "size: 1G\nbackend: btrfs\n",
	  "4:10: backend: must be file or lvm\n" },
	{ DATA "size: 1G\nfromSnapshot: before\n",
	  "4:15: fromSnapshot: must name a volume and a snapshot of it, for example data/before\n" },
	{ DATA "size: 1G\nfromSnapshot: data/../other\n",
	  "4:15: fromSnapshot: must name a volume and a snapshot of it, for example data/before\n" },
	{ WEB "fromSnapshot: data/before\n",
	  "5:1: fromSnapshot: unknown field \"fromSnapshot\"; only a Volume has it\n" },
	{ DATA "size: 15M\n",
	  "3:7: size: must be at least 16MiB\n" },
	{ DATA "size: 0\n",
	  "3:7: size: must not be 0\n" },
	{ DATA "size: 65T\n",
	  "3:7: size: must be at most 64TiB\n" },
	{ DATA "size: -1\n",
	  "3:7: size: \"-1\" is not a size: write a number and a unit, for example 500M, 2GiB or 1.5TiB\n" },
	{ DATA "size: 10GX\n",
	  "3:7: size: \"10GX\" is not a size: write a number and a unit, for example 500M, 2GiB or 1.5TiB\n" },
	{ DATA "size: 1.5\n",
	  "3:7: size: \"1.5\" has a fraction but no unit; write for example 1.5GiB\n" },
	{ DATA "size: 99999999999999999999G\n",
	  "3:7: size: \"99999999999999999999G\" is too large a size\n" },
	{ DATA "size: [1]\n",
	  "3:1: size: must be a size such as 10GiB, not a list\n" },
	{ DATA "size: 1G\ncontainer: {}\n",
	  "4:1: container: unknown field \"container\"; known here: name, kind, size, backend, fromSnapshot\n" },
	{ "name: Web\nkind: Container\ncontainer:\n  imag: nginx\n  privileged: 1\n  ports:\n"
	  "    - hostPort: 1\n    - bad\n  mounts:\n    - {volumeName: d, mountPath: x}\n"
	  "restartPolicy: Sometimes\n---\nname: v\nkind: Volume\n",
	  "1:7: name: may hold a-z, 0-9 and '-' only, not \"W\"\n"
	  "4:3: container.imag: unknown field \"imag\"; did you mean \"image\"?\n"
	  "5:15: container.privileged: must be true or false, not \"1\"\n"
	  "7:7: container.ports[0].containerPort: is required: a port from 1 to 65535\n"
	  "8:7: container.ports[1]: must be a mapping of fields, not a string\n"
	  "10:34: container.mounts[0].mountPath: must be an absolute path, not \"x\"\n"
	  "11:16: restartPolicy: must be Always, OnFailure or Never, not \"Sometimes\"\n"
	  "13:1: size: is required, for example 10GiB\n" },
	{ "{\n  \"name\": \"web\",\n  \"kind\": \"Container\",\n"
	  "  \"container\": {\"image\": \"nginx\", \"portz\": []}\n}\n",
	  "4:35: container.portz: unknown field \"portz\"; did you mean \"ports\"?\n" },
	{ "{\"name\": \"web\", \"kind\": \"Container\", \"container\": {\"env\": {\"A\": "
	  "\"\\ud83d\\ude00\"}, \"image\": 1}}\n",
	  "1:91: container.image: must be a string, not a number; write it in quotes: \"1\"\n" },
	{ "{\"name\": \"web\", \"kind\": \"Container\", \"container\": {\"env\": {\"A\": "
	  "\"\\ud83d\"}, \"image\": \"a\"}}\n",
	  "1:68: found invalid Unicode character escape code, while parsing a quoted scalar that "
	  "begins in line 1\n" },
	{ "name: web\r\nkind: Container\r\ncontainer:\r\n  image: 5\r\n",
	  "4:10: container.image: must be a string, not a number; write it in quotes: \"5\"\n" },
};

#endif
