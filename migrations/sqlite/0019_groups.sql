-- Groups of watches, which end with one event. The event, its destinations and its deliveries have the id of the group in
-- the place of a watch's.
create table watch_groups (
  no         integer primary key,
  app        integer not null,
  id         blob    not null unique,
  name       text    not null,                   -- the client's id
  size       integer not null,                   -- number of watches that belong to it
  rule       text    not null,                   -- `all`, `first` or a number
  needed     integer not null,                   -- number of ended watches that complete it
  expires_in integer not null,                   -- as the first registration gave it
  expires_at integer not null,
  status     text    not null,
  registered integer not null default 0,         -- number of watches that were registered
  completed  integer not null default 0,         -- numbers of those that have ended, by their status
  failed     integer not null default 0,
  cancelled  integer not null default 0,
  not_found  integer not null default 0,
  expired    integer not null default 0,
  stopped    integer not null default 0,
  created_at integer not null,
  ended_at   integer,                            -- null: it is open
  pruned     integer not null default 0,         -- 1: its event and deliveries are gone
  unique (app, name)
);
create index watch_groups_open on watch_groups (expires_at) where ended_at is null;
create index watch_groups_ended on watch_groups (pruned, ended_at, id) where ended_at is not null;

alter table watches add column watch_group integer;   -- row of its group; null: none
create index watches_of_group on watches (watch_group, id) where watch_group is not null;
