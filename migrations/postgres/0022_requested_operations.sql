-- Operations in progress that a client has requested, in the order of their creation. Those that skip deliveries can be
-- a hundred thousand, and the others are found without them. The expressions are those of the queries.
create index operations_requested on operations ((no + 0))
  where finished_at is null and kind <> 'skip_deliveries';
