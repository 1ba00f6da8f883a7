-- After a rotation both secrets sign until the grace is over.
alter table apps add column old_signing_secret text;
alter table apps add column old_until integer;

alter table keys add column name text;              -- what people call it
alter table keys add column expires_at integer;     -- null: never
alter table keys add column last_used_at integer;   -- to the minute or so

-- What is sent in the stead of `body`, where the watch asked for another form of it. Null: the body.
alter table events add column sent blob;

-- Which encryption keys something may be sealed with. While one is complete it is the only one, and
-- nothing is plain.
create table seals (
  id       text    not null primary key,        -- of the key: the beginning of its SHA-256
  complete integer not null
) without rowid;
