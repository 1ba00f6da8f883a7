-- The last round of `job.progress` events, one for each watch: the time of its observation, and the bytes that its
-- events take. The next round waits longer after a larger one.
alter table jobs add column progressed_at bigint;                        -- null: none
alter table jobs add column progress_bytes bigint not null default 0;
