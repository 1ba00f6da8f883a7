-- 1: the provider has reported a status of the job, in any generation. It then has a longer grace before "not found".
alter table jobs add column had_status bigint not null default 0;
update jobs set had_status = 1
where seen not like '{"status":"unknown"%'
  or exists (select 1 from endings e where e.job = jobs.no and e.kind in ('completed', 'failed', 'cancelled'))
  or exists (select 1 from observations o where o.job = jobs.no);
