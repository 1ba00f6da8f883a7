-- Events about saved destinations and deliveries. Their rows, their destinations and their deliveries have the id of this
-- row in the place of a watch's. They are deleted by their age.
create table operational_events (
  id         bytea  not null primary key,
  app        bigint not null,
  watch      bytea,                             -- the watch of the delivery that it is about
  created_at bigint not null
);
create index operational_events_age on operational_events (created_at, id);
create index operational_events_of_app on operational_events (app);
create index operational_events_of_watch on operational_events (watch) where watch is not null;

-- A delivery of a watch's event has failed after its last attempt, and no later one has succeeded.
alter table destinations add column failed_since bigint;  -- first failed attempt of this time; null: none has failed
alter table destinations add column failed_error text;     -- error of the last delivery that failed
