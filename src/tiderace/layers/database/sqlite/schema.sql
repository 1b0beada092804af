-- The tables of the layer in a SQLite file of its own; version 1.
--
-- Times are milliseconds. Names begin with the layer's prefix and a colon. Statements end
-- with a semicolon at the end of a line.

CREATE TABLE tiderace_layer_stream (
  subject TEXT PRIMARY KEY,
  epoch TEXT NOT NULL,
  last_number INTEGER NOT NULL,
  timeline TEXT NOT NULL DEFAULT '',
  unstepped_bytes INTEGER NOT NULL DEFAULT 0,
  has_members INTEGER NOT NULL DEFAULT 0,
  retention TEXT NOT NULL DEFAULT '[]',
  used_ms INTEGER NOT NULL,
  check_ms INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX tiderace_layer_stream_check ON tiderace_layer_stream (check_ms);

-- An id is never used again, so that feeds can read on after the last one.
CREATE TABLE tiderace_layer_entry (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  subject TEXT NOT NULL,
  epoch TEXT NOT NULL,
  number INTEGER NOT NULL,
  previous INTEGER NOT NULL,
  data BLOB NOT NULL,
  published_ms INTEGER NOT NULL
);
CREATE UNIQUE INDEX tiderace_layer_entry_number ON tiderace_layer_entry (subject, number);

CREATE TABLE tiderace_layer_once (
  subject TEXT NOT NULL,
  idempotency_key TEXT NOT NULL,
  epoch TEXT NOT NULL,
  number INTEGER NOT NULL,
  expires_ms INTEGER NOT NULL,
  PRIMARY KEY (subject, idempotency_key)
) WITHOUT ROWID;
CREATE INDEX tiderace_layer_once_expires ON tiderace_layer_once (expires_ms);

-- Named queues in groups.
CREATE TABLE tiderace_layer_member (
  subject TEXT NOT NULL,
  member TEXT NOT NULL,
  joined_ms INTEGER NOT NULL,
  PRIMARY KEY (subject, member)
) WITHOUT ROWID;

-- With a rowid, so that a renewed report of a kilobyte changes one page, and not a second
-- one that it overflows to.
CREATE TABLE tiderace_layer_process (
  name TEXT PRIMARY KEY,
  token TEXT NOT NULL DEFAULT '',
  report BLOB,
  expires_ms INTEGER NOT NULL
);

CREATE TABLE tiderace_layer_membership (
  subject TEXT NOT NULL,
  process TEXT NOT NULL,
  channel TEXT NOT NULL,
  PRIMARY KEY (subject, process, channel)
) WITHOUT ROWID;
CREATE INDEX tiderace_layer_membership_process ON tiderace_layer_membership (process);

CREATE TABLE tiderace_layer_queue (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  queue TEXT NOT NULL,
  data BLOB NOT NULL,
  expires_ms INTEGER NOT NULL,
  taken_until_ms INTEGER NOT NULL DEFAULT 0,
  token TEXT NOT NULL DEFAULT ''
);
CREATE INDEX tiderace_layer_queue_name ON tiderace_layer_queue (queue, id);
CREATE INDEX tiderace_layer_queue_expires ON tiderace_layer_queue (expires_ms);

CREATE TABLE tiderace_layer_bucket (
  name TEXT PRIMARY KEY,
  full_ms REAL NOT NULL
) WITHOUT ROWID;

CREATE TABLE tiderace_layer_presence_group (
  name TEXT PRIMARY KEY,
  connections INTEGER NOT NULL,
  pushes INTEGER NOT NULL DEFAULT 0,
  coalesced INTEGER NOT NULL DEFAULT 0,
  ends_ms INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE tiderace_layer_presence_connection (
  group_name TEXT NOT NULL,
  client TEXT NOT NULL,
  identity TEXT NOT NULL,
  per_user INTEGER NOT NULL,
  grace_ms INTEGER NOT NULL,
  info TEXT NOT NULL,
  expires_ms INTEGER NOT NULL,
  PRIMARY KEY (group_name, client)
) WITHOUT ROWID;
CREATE INDEX tiderace_layer_presence_connection_expires
  ON tiderace_layer_presence_connection (expires_ms);

-- A user who is present while client is not empty, and the event about them that was
-- handed out and is not confirmed while claim_kind is not empty.
CREATE TABLE tiderace_layer_presence_user (
  group_name TEXT NOT NULL,
  identity TEXT NOT NULL,
  client TEXT NOT NULL,
  info TEXT NOT NULL,
  per_user INTEGER NOT NULL,
  connections INTEGER NOT NULL,
  gone_ms INTEGER NOT NULL,
  confirmed INTEGER NOT NULL,
  claim_kind TEXT NOT NULL,
  claim_client TEXT NOT NULL,
  claim_info TEXT NOT NULL,
  claim_per_user INTEGER NOT NULL,
  claim_token TEXT NOT NULL,
  claim_until_ms INTEGER NOT NULL,
  due_ms INTEGER,
  PRIMARY KEY (group_name, identity)
) WITHOUT ROWID;
CREATE INDEX tiderace_layer_presence_user_due ON tiderace_layer_presence_user (due_ms);
