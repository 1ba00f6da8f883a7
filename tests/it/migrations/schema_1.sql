-- A database as the first version leaves it: schema 1, with a row of everything. Never changed: it stands
-- for the databases that are out there.
pragma foreign_keys = off;
pragma user_version = 1;
CREATE TABLE apps (
  no             integer primary key,
  id             blob    not null unique,
  name           text    not null unique,
  signing_secret text    not null,
  position       integer not null default 0,  -- of the last event in the app's feed
  created_at     integer not null
);
INSERT INTO "apps" VALUES(1,X'019C7143E1801E45AFEB7594BD7A0000','default','whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz',3,1771426800000);
CREATE TABLE attempts (
  delivery         blob    not null,
  n                integer not null,
  at               integer not null,
  duration_ms      integer not null,
  status_code      integer,
  error            text,
  request_headers  text    not null,
  response_headers text    not null,
  response_body    text    not null,
  primary key (delivery, n)
) without rowid;
INSERT INTO "attempts" VALUES(X'019C7144CBE04C91EC9CDD84C7500000',0,1771426870000,12,500,NULL,'[["x-env","***"]]','[]','oh');
CREATE TABLE deliveries (
  app         integer not null,
  id          blob    not null,
  shard       integer not null,
  event       blob    not null,
  type        text    not null,
  watch       blob    not null,
  n           integer not null,                -- which of the watch's destinations
  destination blob    not null,
  lane        text    not null,
  status      text    not null,
  reason      text,
  step        integer not null,                -- the place in the schedule that is next
  due_at      integer,                         -- when the schedule wants it tried
  late        integer not null,                -- 0: a first try, or one by hand; 1: a retry
  by_hand     integer not null default 0,
  raw_of      integer,                         -- the generation of the job whose raw answer is the body
  turn        integer,                         -- when it is sent next; null: never
  attempts    integer not null default 0,
  created_at  integer not null,
  primary key (app, id)
) without rowid;
INSERT INTO "deliveries" VALUES(1,X'019C7143F5083F56C4FCADE2D39B0000',913,X'237F68DEE3D310A11FEB68EB8DE4809E','job.processing',X'019C7143E1801E45AFEB7594BD7A0002',0,X'019C7143E1801E45AFEB7594BD7A0003','1 https a.example 443','failed','superseded',0,NULL,0,0,NULL,NULL,0,1771426805000);
INSERT INTO "deliveries" VALUES(1,X'019C7143F5083F56C4FCADE2D39B0001',913,X'36F13E740444A930B47783EAF3268866','job.progress',X'019C7143E1801E45AFEB7594BD7A0002',0,X'019C7143E1801E45AFEB7594BD7A0003','1 https a.example 443','failed','superseded',0,NULL,0,0,NULL,NULL,0,1771426805000);
INSERT INTO "deliveries" VALUES(1,X'019C7144CBE04C91EC9CDD84C7500000',913,X'35AF81FA81FF13C541F6C447F9DBEE7A','job.completed',X'019C7143E1801E45AFEB7594BD7A0002',0,X'019C7143E1801E45AFEB7594BD7A0003','1 https a.example 443','pending',NULL,1,1771426900000,1,0,0,1771426900000,1,1771426860000);
CREATE TABLE endings (
  job        integer not null references jobs (no),
  generation integer not null,
  kind       text    not null,
  seen       text    not null,
  error      text,                             -- why, where the provider did not say: JSON
  refreshed  text,                             -- a later observation of the same ending: fresh signed URLs
  raw        blob,                             -- the provider's answer, if a watch asked for it
  at         integer not null,
  open       integer not null,                 -- 1: not all watches have been told yet
  primary key (job, generation)
);
INSERT INTO "endings" VALUES(1,0,'completed','{"status":"completed","rawStatus":"completed","progress":100,"output":null,"outputs":null,"error":null,"createdAt":null,"completedAt":null}',NULL,NULL,X'7B7D',1771426860000,0);
CREATE TABLE events (
  no       integer primary key,
  id       blob    not null unique,
  app      integer not null,
  position integer not null,
  watch    blob    not null,
  type     text    not null,
  ending   integer not null,
  at       integer not null,
  body     blob    not null,
  unique (app, position)
);
INSERT INTO "events" VALUES(1,X'237F68DEE3D310A11FEB68EB8DE4809E',1,1,X'019C7143E1801E45AFEB7594BD7A0002','job.processing',0,1771426805000,X'7B2274797065223A226A6F622E70726F63657373696E67222C2274696D657374616D70223A22323032362D30322D31385431353A30303A30352E3030305A222C2264617461223A7B2277617463684964223A2277617463685F30316B68726D37726330337332747A74766E6A6A79716D303032222C2270726F7669646572223A226D757669222C226A6F624964223A226A6F625F31222C22737461747573223A2270726F63657373696E67222C22726177537461747573223A2270726F63657373696E67222C2270726F6772657373223A31302C226F7574707574223A6E756C6C2C226F757470757473223A6E756C6C2C226572726F72223A6E756C6C2C22637265617465644174223A6E756C6C2C22636F6D706C657465644174223A6E756C6C2C226D65746164617461223A7B226F726465724964223A2034327D7D7D');
INSERT INTO "events" VALUES(2,X'36F13E740444A930B47783EAF3268866',1,2,X'019C7143E1801E45AFEB7594BD7A0002','job.progress',0,1771426805000,X'7B2274797065223A226A6F622E70726F6772657373222C2274696D657374616D70223A22323032362D30322D31385431353A30303A30352E3030305A222C2264617461223A7B2277617463684964223A2277617463685F30316B68726D37726330337332747A74766E6A6A79716D303032222C2270726F7669646572223A226D757669222C226A6F624964223A226A6F625F31222C22737461747573223A2270726F63657373696E67222C22726177537461747573223A2270726F63657373696E67222C2270726F6772657373223A31302C226F7574707574223A6E756C6C2C226F757470757473223A6E756C6C2C226572726F72223A6E756C6C2C22637265617465644174223A6E756C6C2C22636F6D706C657465644174223A6E756C6C2C226D65746164617461223A7B226F726465724964223A2034327D7D7D');
INSERT INTO "events" VALUES(3,X'35AF81FA81FF13C541F6C447F9DBEE7A',1,3,X'019C7143E1801E45AFEB7594BD7A0002','job.completed',1,1771426860000,X'7B2274797065223A226A6F622E636F6D706C65746564222C2274696D657374616D70223A22323032362D30322D31385431353A30313A30302E3030305A222C2264617461223A7B2277617463684964223A2277617463685F30316B68726D37726330337332747A74766E6A6A79716D303032222C2270726F7669646572223A226D757669222C226A6F624964223A226A6F625F31222C22737461747573223A22636F6D706C65746564222C22726177537461747573223A22636F6D706C65746564222C2270726F6772657373223A3130302C226F7574707574223A6E756C6C2C226F757470757473223A6E756C6C2C226572726F72223A6E756C6C2C22637265617465644174223A6E756C6C2C22636F6D706C657465644174223A6E756C6C2C226D65746164617461223A7B226F726465724964223A2034327D7D7D');
CREATE TABLE idempotency (
  app        integer not null,
  path       text    not null,
  key        text    not null,
  request    blob    not null,                 -- SHA-256 of the body
  status     integer not null,
  location   text,
  answer     blob    not null,
  created_at integer not null,
  primary key (app, path, key)
) without rowid;
INSERT INTO "idempotency" VALUES(1,'/','k',X'0101010101010101010101010101010101010101010101010101010101010101',201,'/watch_01khrm7rc03s2tztvnjjyqm002',X'6D616465',1771426800000);
CREATE TABLE jobs (
  no            integer primary key,
  shard         integer not null,
  job_id        text    not null,
  provider      text    not null,
  account       text    not null,
  params        text    not null,
  generation    integer not null default 0,    -- one more for each registration that finds it ended
  ended         integer not null default 0,    -- 1: this generation has its row in `endings`
  seen          text    not null,              -- the last observation that changed something, JSON
  registered_at integer not null,              -- of this generation
  look_wanted   integer,                       -- since when somebody waits for a look, asked for by hand
  unique (job_id, provider, account, params)
);
INSERT INTO "jobs" VALUES(1,913,'job_1','muvi','default','{}',0,1,'{"status":"completed","rawStatus":"completed","progress":100,"output":null,"outputs":null,"error":null,"createdAt":null,"completedAt":null}',1771426800000,NULL);
CREATE TABLE keys (
  id         blob    not null primary key,
  app        integer not null references apps (no),
  hash       blob    not null unique,          -- SHA-256 of the key, which itself is not kept
  scope      text    not null,
  created_at integer not null
) without rowid;
INSERT INTO "keys" VALUES(X'019C7143E1801E45AFEB7594BD7A0001',1,X'0707070707070707070707070707070707070707070707070707070707070707','admin',1771426800000);
CREATE TABLE nodes (
  id          text    not null primary key,
  incarnation integer not null,          -- one more at each start
  started_at  integer not null,
  lease_until integer,                   -- null: held by a lock on the file, not by a lease
  probes      integer not null default 0 -- one more for each try whether writes are taken again
);
INSERT INTO "nodes" VALUES('sqlite',1,1771426800000,NULL,0);
CREATE TABLE observations (
  job        integer not null,
  at         integer not null,
  status     text    not null,
  raw_status text,
  progress   integer,
  primary key (job, at)
) without rowid;
INSERT INTO "observations" VALUES(1,1771426805000,'processing','processing',10);
CREATE TABLE shards (
  shard integer not null primary key,
  node  text references nodes (id),
  epoch integer not null
);
with recursive n (i) as (select 0 union all select i + 1 from n where i < 1023)
insert into shards (shard, node, epoch) select i, 'sqlite', 1 from n;
CREATE TABLE watch_destinations (
  watch   blob    not null,
  n       integer not null,
  id      blob    not null,
  channel text    not null,
  address text    not null,
  lane    text    not null,                    -- whose queue its deliveries wait in
  headers text,
  secret  text,
  gone_at integer,                             -- since when it wants nothing more (410)
  primary key (watch, n)
) without rowid;
INSERT INTO "watch_destinations" VALUES(X'019C7143E1801E45AFEB7594BD7A0002',0,X'019C7143E1801E45AFEB7594BD7A0003','webhook','https://a.example/hook','1 https a.example 443','[["x-env","prod"]]','whsec_ZGVzdGluYXRpb24tc2VjcmV0LTAxMjM0NTY3ODkw',NULL);
CREATE TABLE watches (
  app           integer not null,
  id            blob    not null,
  job           integer not null references jobs (no),
  generation    integer not null,
  status        text    not null,
  events        integer not null,              -- one bit for each type
  payload       text    not null,
  metadata      text,
  poll_interval integer,
  expected_at   integer,
  traceparent   text,
  progress      integer not null default 0,    -- how many job.progress there were
  created_at    integer not null,
  expires_at    integer not null,
  ended_at      integer,
  pruned        integer not null default 0,    -- 1: its events and deliveries are gone
  primary key (app, id)
) without rowid;
INSERT INTO "watches" VALUES(1,X'019C7143E1801E45AFEB7594BD7A0002',1,0,'completed',127,'raw','{"orderId": 42}',NULL,NULL,NULL,1,1771426800000,1771513200000,1771426860000,0);
CREATE INDEX jobs_look_wanted on jobs (no) where look_wanted is not null;
CREATE INDEX endings_open on endings (job) where open = 1;
CREATE INDEX watches_of_job on watches (job, status);
CREATE INDEX watches_ended on watches (pruned, ended_at) where ended_at is not null;
CREATE INDEX events_of_watch on events (watch);
CREATE UNIQUE INDEX events_one_ending on events (watch) where ending = 1;
CREATE INDEX deliveries_waiting on deliveries (lane, late, turn) where turn is not null;
CREATE INDEX deliveries_of_watch on deliveries (watch);
CREATE INDEX deliveries_to on deliveries (destination);
CREATE INDEX deliveries_failed on deliveries (status, id) where status = 'failed';
CREATE INDEX idempotency_age on idempotency (created_at);
