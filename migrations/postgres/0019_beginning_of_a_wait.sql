-- End of the attempt before the current wait: interruptions of the process after it do not count as a wait. Null for
-- waits that began before this migration.
alter table deliveries add column wait_began_at bigint;
-- 1: noted by a start. Only these shorten waits: a process that stands still counts its waits.
alter table interruptions add column is_start integer not null default 0;

-- Numbers of apps that were erased. They are not used again.
create table erased_apps (
  no bigint not null primary key
);
