-- Requests to cancel jobs at their providers, one for each watch whose client wants it.
create table job_cancels (
  watch           bytea  primary key,            -- id of the watch
  app             bigint not null,
  job             bigint not null,               -- row of the job
  status          text   not null,               -- on_expiry until the watch expires, then pending until it is decided
  requested_at    bigint,                        -- null: on_expiry
  attempts        bigint not null default 0,     -- requests that the provider got, or could not be sent
  next_attempt_at bigint,                        -- while pending
  http_status     bigint,                        -- of the last answer
  message         text,                          -- why it was not accepted
  finished_at     bigint
);

-- The requests of an app for a job are made together.
create index job_cancels_pending on job_cancels (job, app) where status = 'pending';
