-- What a client calls a watch: a name for people, and an id of its own, which need not be unique.
alter table watches add column name text;
alter table watches add column reference text;
-- `app + 0`: by `app` SQLite would take the primary key.
create index watches_reference on watches ((app + 0), reference, id) where reference is not null;
-- The events of one watch are listed in the order of the feed.
drop index events_of_watch;
create index events_of_watch on events (watch, position);
