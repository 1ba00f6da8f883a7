-- The last rounds of `job.progress` events, one for each app whose next round they can delay, as JSON: a list of the
-- number of the app, the time of the observation, the bytes of the events, and the progress that they report.
alter table jobs add column progress_rounds text;                         -- null: none
alter table jobs drop column progressed_at;
alter table jobs drop column progress_bytes;
