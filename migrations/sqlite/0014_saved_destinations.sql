-- Destinations that an app has saved: many watches use them by their ids.
create table destinations (
  no                    integer primary key,
  app                   integer not null,
  id                    blob    not null unique,
  name                  text,
  description           text,
  channel               text    not null,
  address               text    not null,
  target                text    not null,        -- queue of an inline destination with this address
  headers               text,
  secret                text,
  old_secret            text,                    -- after a rotation both sign until the grace is over
  old_secret_expires_at integer,
  events                integer not null,        -- one bit for each type that it receives
  is_default            integer not null,
  is_ordered            integer not null,
  rate                  text,                    -- null: no limit
  concurrency           integer,                 -- null: the limit of every destination
  is_managed            integer not null,        -- 1: it is in the configuration file
  disabled_reason       text,                    -- null: enabled
  disabled_at           integer,
  failing_since         integer,                 -- first failed attempt after the last success
  failed_attempts       integer not null default 0,
  last_error            text,
  last_error_at         integer,
  sweep                 text,                    -- what is to be done with its deliveries; null: nothing
  sweep_after           blob,                    -- last delivery that the sweep has examined
  deleted_at            integer,                 -- the row stays while a watch names it
  created_at            integer not null
);
create index destinations_of_app on destinations (app, id);
create index destinations_default on destinations (app) where is_default = 1;
create index destinations_sweep on destinations (no) where sweep is not null;
create index destinations_deleted on destinations (no) where deleted_at is not null;

-- Attempts to a saved destination in one hour, by their duration.
create table destination_hours (
  destination integer not null,
  hour        integer not null,                  -- beginning of the hour
  bucket      integer not null,                  -- class of durations
  succeeded   integer not null,
  failed      integer not null,
  primary key (destination, hour, bucket)
) without rowid;
create index destination_hours_age on destination_hours (hour);

alter table watch_destinations add column saved integer;   -- row of the saved destination; null: inline
create index watch_destinations_saved on watch_destinations (saved, watch) where saved is not null;
