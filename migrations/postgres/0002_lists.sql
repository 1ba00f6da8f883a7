-- For the lists of what waits and of what failed, which are short beside the history that they were searched
-- in. The lists alone ask for `app + 0` and `status || ''`: by `app` SQLite would take the primary key, and
-- by `status` PostgreSQL, which plans when the tables are empty, would take these for everything.
create index watches_watching on watches ((app + 0), id) where status || '' = 'watching';
create index deliveries_pending on deliveries ((app + 0), id) where status || '' = 'pending';
-- It led through what failed of every app.
drop index deliveries_failed;
create index deliveries_failed on deliveries ((app + 0), id) where status || '' = 'failed';
