-- A job may have a hundred thousand watches. Their combined terms, and those of them that expire next, are read from
-- the beginning of an index. `status` stands in each so that the planner prefers it to `watches_of_job`.
drop index watches_of_job;
create index watches_of_job on watches (job, status, expires_at);
create index watches_poll_interval on watches (job, status, poll_interval)
  where status = 'watching' and poll_interval is not null;
create index watches_expected_at on watches (job, status, expected_at)
  where status = 'watching' and expected_at is not null;
create index watches_progress on watches (job, status) where status = 'watching' and events & 96 <> 0;
create index watches_raw on watches (job, status, payload) where status = 'watching' and payload = 'raw';
