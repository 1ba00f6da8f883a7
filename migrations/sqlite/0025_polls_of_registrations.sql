-- How jobs without a definition are polled, as their registrations say. A job keeps its row for as long as it exists.
create table job_polls (
  job    integer primary key,                    -- row of the job
  id     blob    not null,                       -- keyed hash of the app and the source: the `account` of the job
  source text    not null,                       -- the poll object, JSON; can be sealed
  shown  text    not null                        -- the same with `***` for header values, query and body
);

-- The key of these hashes, at most one row. It is drawn at a start and never changes; it can be sealed.
create table identity_keys (
  id  blob primary key,
  key text not null
);
