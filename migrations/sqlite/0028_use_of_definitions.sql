-- The app's definition and credential with which a running watch is polled, or a job is cancelled: copies of those of
-- `job_polls`. The indexes find what is used without the jobs that have ended.
alter table watches add column definition blob;
alter table watches add column credential blob;
alter table job_cancels add column definition blob;
alter table job_cancels add column credential blob;

update watches set
  definition = (select p.definition from job_polls p where p.job = watches.job),
  credential = (select p.credential from job_polls p where p.job = watches.job)
where status = 'watching' and job in (select job from job_polls);

update job_cancels set
  definition = (select p.definition from job_polls p where p.job = job_cancels.job),
  credential = (select p.credential from job_polls p where p.job = job_cancels.job);

create index watches_definition on watches (definition) where status = 'watching' and definition is not null;
create index watches_credential on watches (credential) where status = 'watching' and credential is not null;
create index job_cancels_definition on job_cancels (definition) where status = 'pending' and definition is not null;
create index job_cancels_credential on job_cancels (credential) where status = 'pending' and credential is not null;

drop index job_polls_definition;
drop index job_polls_credential;
