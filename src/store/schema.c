/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "store/schema.h"

const char *const schema_migrations[] = {
	"PRAGMA application_id = 0x43415053;"

	"CREATE TABLE meta ("
	"  key TEXT PRIMARY KEY,"
	"  value TEXT NOT NULL"
	") STRICT, WITHOUT ROWID;"

	/* One row. A revision is never given twice, not even after the workload that had it is gone. */
	"CREATE TABLE counter ("
	"  id INTEGER PRIMARY KEY CHECK (id = 1),"
	"  revision INTEGER NOT NULL,"
	"  last_address INTEGER NOT NULL"
	") STRICT;"
	"INSERT INTO counter VALUES (1, 0, 0);"

	/* spec: a packed capsule.v1.Workload without desired_state, status and created_at_unix. */
	"CREATE TABLE workload ("
	"  name TEXT PRIMARY KEY,"
	"  spec BLOB NOT NULL,"
	"  desired INTEGER NOT NULL,"
	"  revision INTEGER NOT NULL,"
	"  generation INTEGER NOT NULL,"
	"  created_at_ns INTEGER NOT NULL,"
	"  completed INTEGER NOT NULL DEFAULT 0,"
	"  exit_code INTEGER NOT NULL DEFAULT 0,"
	"  finished_at_ns INTEGER NOT NULL DEFAULT 0"
	") STRICT, WITHOUT ROWID;"

	"CREATE TABLE lease ("
	"  address INTEGER PRIMARY KEY,"
	"  workload TEXT NOT NULL UNIQUE REFERENCES workload (name) ON DELETE CASCADE"
	") STRICT;"

	"CREATE TABLE port ("
	"  protocol TEXT NOT NULL,"
	"  host_port INTEGER NOT NULL,"
	"  workload TEXT NOT NULL REFERENCES workload (name) ON DELETE CASCADE,"
	"  PRIMARY KEY (protocol, host_port)"
	") STRICT, WITHOUT ROWID;"
	"CREATE INDEX port_workload ON port (workload);"

	"CREATE TABLE volume ("
	"  name TEXT PRIMARY KEY,"
	"  backend TEXT NOT NULL,"
	"  size_bytes INTEGER NOT NULL,"
	"  state INTEGER NOT NULL," /* enum volume_state */
	"  created_at_ns INTEGER NOT NULL"
	") STRICT, WITHOUT ROWID;"

	/* The volumes that a spec names. A volume may be deleted by force while one does: no reference to it. */
	"CREATE TABLE mount ("
	"  workload TEXT NOT NULL REFERENCES workload (name) ON DELETE CASCADE,"
	"  volume TEXT NOT NULL,"
	"  PRIMARY KEY (workload, volume)"
	") STRICT, WITHOUT ROWID;"
	"CREATE INDEX mount_volume ON mount (volume);"

	/* Who may mount a volume now: one workload. */
	"CREATE TABLE claim ("
	"  volume TEXT PRIMARY KEY REFERENCES volume (name),"
	"  workload TEXT NOT NULL REFERENCES workload (name) ON DELETE CASCADE"
	") STRICT, WITHOUT ROWID;"
	"CREATE INDEX claim_workload ON claim (workload);",

	/* Not ready: its storage is being made or removed. */
	"CREATE TABLE snapshot ("
	"  volume TEXT NOT NULL REFERENCES volume (name),"
	"  name TEXT NOT NULL,"
	"  size_bytes INTEGER NOT NULL,"
	"  ready INTEGER NOT NULL,"
	"  created_at_ns INTEGER NOT NULL,"
	"  PRIMARY KEY (volume, name)"
	") STRICT, WITHOUT ROWID;",

	/* holds: a process of the workload may be there, or is to be. former: not of the present spec, but of a process that may
	 * still use it. What an earlier version knew of no process is found out when the daemon starts. */
	"ALTER TABLE workload ADD COLUMN holds INTEGER NOT NULL DEFAULT 0;"
	"UPDATE workload SET holds = 1;"
	"ALTER TABLE lease ADD COLUMN former INTEGER NOT NULL DEFAULT 0;"
	"ALTER TABLE port ADD COLUMN former INTEGER NOT NULL DEFAULT 0;",

	/* A port that a run still has may be another workload's by its spec already. */
	"CREATE TABLE port_of_two ("
	"  protocol TEXT NOT NULL,"
	"  host_port INTEGER NOT NULL,"
	"  former INTEGER NOT NULL,"
	"  workload TEXT NOT NULL REFERENCES workload (name) ON DELETE CASCADE,"
	"  PRIMARY KEY (protocol, host_port, former)"
	") STRICT, WITHOUT ROWID;"
	"INSERT INTO port_of_two SELECT protocol, host_port, former, workload FROM port;"
	"DROP TABLE port;"
	"ALTER TABLE port_of_two RENAME TO port;"
	"CREATE INDEX port_workload ON port (workload);",

	/* Of a process that may be there, as `spec`, where that is of a newer generation. */
	"ALTER TABLE workload ADD COLUMN former_spec BLOB;",
};

const size_t schema_version = sizeof schema_migrations / sizeof schema_migrations[0];
