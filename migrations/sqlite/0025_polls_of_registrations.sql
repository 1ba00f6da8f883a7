-- How jobs without a definition are polled, as their registrations say. A job keeps its row for as long as it exists.
create table job_polls (
  job        integer primary key,                -- row of the job
  id         blob    not null,                   -- keyed hash of the rest: the `account` of the job
  source     text    not null,                   -- the poll object, JSON; can be sealed
  shown      text    not null,                   -- the same with `***` for header values, query and body
  credential blob                                -- id of the credential that polls send; null: none
);

-- The key of these hashes, at most one row. It is drawn at a start and never changes; it can be sealed.
create table identity_keys (
  id  blob primary key,
  key text not null
);

-- Whether a running watch uses a credential is a search in this index.
create index job_polls_credential on job_polls (credential) where credential is not null;

-- Credentials of apps, which polls without a definition can use. The sealed text holds kind and hosts as well.
create table credentials (
  id         blob primary key,
  app        integer not null,
  name       text not null,                      -- the client's
  kind       text not null,
  send_to    text not null,                      -- hosts that get it, JSON
  secret     text not null,                      -- JSON; can be sealed
  created_at integer not null,
  unique (app, name)
);
