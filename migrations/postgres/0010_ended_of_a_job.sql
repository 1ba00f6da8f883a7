-- A job may be registered again every minute, or have a hundred thousand watches. Whether a watch still shows an ending
-- is a search in this index.
create index watches_ended_of_job on watches (job, generation, ended_at) where ended_at is not null;
