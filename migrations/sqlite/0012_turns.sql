-- The apps take turns when many watches of one job end: those of each app are found, in the order of their expiry.
drop index watches_of_job;
create index watches_of_job on watches (job, status, app, expires_at);
