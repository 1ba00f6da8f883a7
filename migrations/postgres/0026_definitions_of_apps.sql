-- Versions of the definitions of apps. The newest version of a definition is current, unless it was deleted. Another one is
-- kept for as long as a running watch uses it.
create table definitions (
  id          bytea   primary key,
  app         bigint not null,
  provider    text    not null,                  -- the app's id of the definition
  version     bigint not null,
  text        text    not null,                  -- TOML; can be sealed
  summary     text    not null,                  -- what lists show, JSON
  created_at  bigint not null,
  replaced_at bigint,                           -- time of the next version or of the deletion; null: current
  unique (app, provider, version)
);

create unique index definitions_current on definitions (app, provider) where replaced_at is null;

-- Version of the app's definition by which a job is polled; null: none of an app.
alter table job_polls add column definition bytea;

create index job_polls_definition on job_polls (definition) where definition is not null;
