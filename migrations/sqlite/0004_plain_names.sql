-- Standard terms for columns: `_at` for an instant, "queue", "retry", "manual".
alter table jobs rename column look_wanted to poll_requested_at;          -- null: no poll was requested
alter table endings rename column at to ended_at;
alter table endings rename column open to unfinished;                     -- 1: some watches are not notified yet
alter table watch_destinations rename column lane to queue;               -- name of the destination queue
alter table events rename column at to observed_at;
alter table events rename column sent to webhook_body;                    -- null: webhooks get `body`
alter table deliveries rename column lane to queue;
alter table deliveries rename column due_at to scheduled_at;              -- next attempt of the retry schedule
alter table deliveries rename column turn to next_attempt_at;             -- scheduled or manual; null: none
alter table deliveries rename column late to is_retry;                    -- 0: dispatched before retries
alter table deliveries rename column by_hand to is_manual;                -- 1: a client requested the next attempt
alter table deliveries rename column raw_of to raw_generation;            -- the ending whose raw answer is sent
alter table attempts rename column at to started_at;
alter table observations rename column at to observed_at;
alter table idempotency rename column request to request_hash;
alter table idempotency rename column answer to response;
alter table apps rename column old_until to old_secret_expires_at;

drop index jobs_look_wanted;
create index jobs_poll_requested on jobs (no) where poll_requested_at is not null;
drop index endings_open;
create index endings_unfinished on endings (job) where unfinished = 1;

-- Deliveries that never failed are skipped. A delivery to an address that is gone failed only if its own
-- attempt was refused: a webhook with 410; for mail and chat, any attempt counts.
update deliveries set status = 'skipped' where status = 'failed' and (
  reason in ('superseded', 'stopped', 'disabled')
  or reason = 'gone' and case
    (select d.channel from watch_destinations d where d.watch = deliveries.watch and d.n = deliveries.n)
    when 'webhook' then not exists
      (select 1 from attempts a where a.delivery = deliveries.id and a.status_code = 410)
    else attempts = 0 end);
create index deliveries_skipped on deliveries ((app + 0), id) where status || '' = 'skipped';
