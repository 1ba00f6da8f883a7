-- Facts, not plans: when to look next is made from these rows at start and kept in memory.
-- Times are milliseconds since 1970. Ids are 16 bytes. Words are the contract's.

-- Who runs. With SQLite there is one node; several share a PostgreSQL.
create table nodes (
  id          text    not null primary key,
  incarnation integer not null,          -- one more at each start
  started_at  integer not null,
  lease_until integer,                   -- null: held by a lock on the file, not by a lease
  probes      integer not null default 0 -- one more for each try whether writes are taken again
);

-- Who looks at and sends for which part of the jobs. `epoch` grows with each change of owner.
create table shards (
  shard integer not null primary key,
  node  text references nodes (id),
  epoch integer not null
);

create table apps (
  no             integer primary key,
  id             blob    not null unique,
  name           text    not null unique,
  signing_secret text    not null,
  position       integer not null default 0,  -- of the last event in the app's feed
  created_at     integer not null
);

create table keys (
  id         blob    not null primary key,
  app        integer not null references apps (no),
  hash       blob    not null unique,          -- SHA-256 of the key, which itself is not kept
  scope      text    not null,
  created_at integer not null
) without rowid;

-- The provider's jobs, as last seen. What is decided, an ending aside, is never decided from here.
create table jobs (
  no            integer primary key,
  shard         integer not null,
  job_id        text    not null,
  provider      text    not null,
  account       text    not null,
  params        text    not null,
  generation    integer not null default 0,    -- one more for each registration that finds it ended
  ended         integer not null default 0,    -- 1: this generation has its row in `endings`
  seen          text    not null,              -- the last observation that changed something, JSON
  registered_at integer not null,              -- of this generation
  look_wanted   integer,                       -- since when somebody waits for a look, asked for by hand
  unique (job_id, provider, account, params)
);
create index jobs_look_wanted on jobs (no) where look_wanted is not null;

-- How a generation of a job ended: immutable, but for `refreshed` and `open`.
create table endings (
  job        integer not null references jobs (no),
  generation integer not null,
  kind       text    not null,
  seen       text    not null,
  error      text,                             -- why, where the provider did not say: JSON
  refreshed  text,                             -- a later observation of the same ending: fresh signed URLs
  raw        blob,                             -- the provider's answer, if a watch asked for it
  at         integer not null,
  open       integer not null,                 -- 1: not all watches have been told yet
  primary key (job, generation)
);
create index endings_open on endings (job) where open = 1;

create table watches (
  app           integer not null,
  id            blob    not null,
  job           integer not null references jobs (no),
  generation    integer not null,
  status        text    not null,
  events        integer not null,              -- one bit for each type
  payload       text    not null,
  metadata      text,
  poll_interval integer,
  expected_at   integer,
  traceparent   text,
  progress      integer not null default 0,    -- how many job.progress there were
  created_at    integer not null,
  expires_at    integer not null,
  ended_at      integer,
  pruned        integer not null default 0,    -- 1: its events and deliveries are gone
  primary key (app, id)
) without rowid;
create index watches_of_job on watches (job, status);
create index watches_ended on watches (pruned, ended_at) where ended_at is not null;

create table watch_destinations (
  watch   blob    not null,
  n       integer not null,
  id      blob    not null,
  channel text    not null,
  address text    not null,
  lane    text    not null,                    -- whose queue its deliveries wait in
  headers text,
  secret  text,
  gone_at integer,                             -- since when it wants nothing more (410)
  primary key (watch, n)
) without rowid;

-- Immutable. The body is what is signed and sent, byte for byte.
create table events (
  no       integer primary key,
  id       blob    not null unique,
  app      integer not null,
  position integer not null,
  watch    blob    not null,
  type     text    not null,
  ending   integer not null,
  at       integer not null,
  body     blob    not null,
  unique (app, position)
);
create index events_of_watch on events (watch);
create unique index events_one_ending on events (watch) where ending = 1;

create table deliveries (
  app         integer not null,
  id          blob    not null,
  shard       integer not null,
  event       blob    not null,
  type        text    not null,
  watch       blob    not null,
  n           integer not null,                -- which of the watch's destinations
  destination blob    not null,
  lane        text    not null,
  status      text    not null,
  reason      text,
  step        integer not null,                -- the place in the schedule that is next
  due_at      integer,                         -- when the schedule wants it tried
  late        integer not null,                -- 0: a first try, or one by hand; 1: a retry
  by_hand     integer not null default 0,
  raw_of      integer,                         -- the generation of the job whose raw answer is the body
  turn        integer,                         -- when it is sent next; null: never
  attempts    integer not null default 0,
  created_at  integer not null,
  primary key (app, id)
) without rowid;
create index deliveries_waiting on deliveries (lane, late, turn) where turn is not null;
create index deliveries_of_watch on deliveries (watch);
create index deliveries_to on deliveries (destination);
-- `status` stands in it so that the planner prefers it to the primary key.
create index deliveries_failed on deliveries (status, id) where status = 'failed';

create table attempts (
  delivery         blob    not null,
  n                integer not null,
  at               integer not null,
  duration_ms      integer not null,
  status_code      integer,
  error            text,
  request_headers  text    not null,
  response_headers text    not null,
  response_body    text    not null,
  primary key (delivery, n)
) without rowid;

-- First answers to writes that carried an Idempotency-Key, kept for a day.
create table idempotency (
  app        integer not null,
  path       text    not null,
  key        text    not null,
  request    blob    not null,                 -- SHA-256 of the body
  status     integer not null,
  location   text,
  answer     blob    not null,
  created_at integer not null,
  primary key (app, path, key)
) without rowid;
create index idempotency_age on idempotency (created_at);

-- Observations that changed a job's status, for the story of a watch. The last one, the ending, is in
-- `endings`.
create table observations (
  job        integer not null,
  at         integer not null,
  status     text    not null,
  raw_status text,
  progress   integer,
  primary key (job, at)
) without rowid;
