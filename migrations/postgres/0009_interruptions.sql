-- Times in which no process ran, or the process stood still: they do not count for the maximum age of a pending
-- delivery.
create table interruptions (
  started_at bigint not null primary key,
  ended_at   bigint not null
);
