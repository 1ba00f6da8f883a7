-- Requests to cancel jobs at their providers, one for each watch whose client wants it.
create table job_cancels (
  watch           blob    primary key,           -- id of the watch
  app             integer not null,
  job             integer not null,              -- row of the job
  status          text    not null,              -- on_expiry until the watch expires, then pending until it is decided
  requested_at    integer,                       -- null: on_expiry
  attempts        integer not null default 0,    -- requests that the provider got, or could not be sent
  next_attempt_at integer,                       -- while pending
  http_status     integer,                       -- of the last answer
  message         text,                          -- why it was not accepted
  finished_at     integer
) without rowid;

-- The requests of an app for a job are made together.
create index job_cancels_pending on job_cancels (job, app) where status = 'pending';
