-- Sum of the waits until `scheduled_at`, without jitter. A delivery ends when it reaches the sum of the schedule.
alter table deliveries add column waited_ms bigint not null default 0;
-- When the process noted last that it runs. Time in which it does not run is not counted.
alter table nodes add column running_at bigint;
