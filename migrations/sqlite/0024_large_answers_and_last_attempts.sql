-- Kept answers of more than 16 KiB, of each app by their age: their total size is limited (`store/idempotency`). The
-- expression and the condition are those of the queries.
create index idempotency_large on idempotency (app, created_at, octet_length(response))
  where octet_length(response) > 16384;

-- Time of the last attempt to a saved destination with a rate: the next start continues its spacing.
alter table destinations add column last_attempt_at integer;
