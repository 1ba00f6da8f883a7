-- The apps take turns when many watches of one job end: those of each app are found, in the order of their expiry.
drop index watches_of_job;
create index watches_of_job on watches (job, status, app, expires_at, id);
-- A page continues after a row: with all columns of the order, it does not read again the rows of the same time.
drop index watches_ended;
create index watches_ended on watches (pruned, ended_at, app, id) where ended_at is not null;
drop index deliveries_waiting;
create index deliveries_waiting on deliveries (queue, is_retry, next_attempt_at, app, id)
  where next_attempt_at is not null;
