-- Pending deliveries to saved destinations, by watch: whether an earlier one to an ordered destination is pending is a
-- search in this index, however many deliveries the watch had before. The expressions are those of the queries.
create index deliveries_pending_of_watch on deliveries (watch, n, id)
  where status || '' = 'pending' and queue like '% dst_%';
