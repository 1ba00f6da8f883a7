-- Work on many rows that a client has requested: it is done in small steps, and continues after a crash.
create table operations (
  no          integer primary key,
  app         integer not null,                  -- whose clients see it
  id          blob    not null unique,
  kind        text    not null,
  subject     text    not null,                  -- what it works on: a filter, a watch or an app, as JSON
  before      blob    not null,                  -- rows with smaller ids are left
  status      text    not null,
  total       integer not null,                  -- estimate of the beginning
  done        integer not null default 0,
  created_at  integer not null,
  finished_at integer                            -- null: it is running
);
create index operations_running on operations (app) where finished_at is null;
create index operations_finished on operations (finished_at) where finished_at is not null;

-- Positions of erased events in the feeds: a reader continues after one of them.
create table erased_events (
  id        blob    not null primary key,
  app       integer not null,
  position  integer not null,
  erased_at integer not null
) without rowid;
create index erased_events_age on erased_events (erased_at);
create index erased_events_of_app on erased_events (app);

-- When the last watch of a job was erased while the job ran. A poll may be in flight, so the row is deleted later.
alter table jobs add column orphaned_at integer;
create index jobs_orphaned on jobs (orphaned_at) where orphaned_at is not null;

-- When a client has deleted the app; its rows are being erased.
alter table apps add column deleted_at integer;
