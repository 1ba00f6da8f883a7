//! Events of watches, as jobs change and end.
//!
//! **The jobs of a transaction share its watches.** Other writes wait for a transaction, and its events are held in
//! memory. Many jobs can end or expire at the same moment, above all after an outage. Each of them therefore gets an
//! equal part of [`CHUNK`], and at least one watch; the other watches follow in the next transactions. If the events are
//! large, they are fewer ([`CHUNK_BYTES`]). The number of commands of a transaction that end many watches is limited as
//! well: polls by the concurrency of their provider, expiries by `poller`.
//!
//! **The apps of a job take turns.** Many apps can watch one job, and one of them can have a hundred thousand watches of
//! it. If the watches that end do not fit into one transaction, each app gets an equal part of it ([`read_turns`]). A
//! job with few watches, as most have, is read without the turns ([`read_watches`]).

use std::borrow::Cow;
use std::sync::Arc;

use super::batch::{Batch, NewEvent};
use super::db::{Result, Row, Tx, Value, params};
use crate::domain::{
    AppNo, EndingKind, EventId, EventSet, EventType, Finished, GroupNo, Id, JobError, JobName, JobNo,
    Observation, Payload, Timestamp, WatchId,
};
use crate::events::{EventBody, Labels};

/// Maximum number of watches that are notified in one transaction by commands of one kind. Each has up to 20
/// destinations, and an event of up to 128 KiB.
const CHUNK: usize = 200;

/// Maximum size of the events of one transaction, estimated from the texts of their jobs. The text of a job can have more
/// than 100 KiB, and every other write waits until its events are written.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of the row of an event and of the row of a delivery, with their entries in indexes and without the body.
const ROWS: usize = 1_024;

/// A watch for which an event is created.
pub(super) struct WatchToNotify {
    pub(super) app: AppNo,
    pub(super) id: WatchId,
    /// Types that it wants.
    pub(super) events: EventSet,
    /// Form of its webhooks.
    payload: Payload,
    name: Option<String>,
    reference: Option<String>,
    metadata: Option<String>,
    traceparent: Option<String>,
    /// Number of its `job.progress` events.
    pub(super) progress: u32,
    pub(super) created_at: Timestamp,
    pub(super) expires_at: Timestamp,
    pub(super) group: Option<GroupNo>,
}

/// A change of a job, and the watches that this transaction notifies of it.
pub(super) struct JobChange<'a> {
    pub(super) job: JobNo,
    pub(super) name: JobName,
    pub(super) seen: Cow<'a, Observation>,
    pub(super) at: Timestamp,
    /// Kind of the ending, and the generation whose row stores the provider's answer. `None`: the job runs.
    pub(super) ending: Option<(EndingKind, i64)>,
    /// Error of an ending that the provider did not report.
    pub(super) error: Option<JobError>,
    /// The provider's answer.
    pub(super) raw: Option<Arc<[u8]>>,
    pub(super) watches: Watches,
}

/// A chunk of the watches of a job.
#[derive(Default)]
pub(super) struct Watches {
    pub(super) chunk: Vec<WatchToNotify>,
    /// Whether more remain.
    pub(super) has_more: bool,
}

impl WatchToNotify {
    fn read(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            app: AppNo(row.int(0)?),
            id: WatchId(row.id(1)?),
            events: EventSet(row.int(2)?),
            payload: row.word(3, Payload::parse)?,
            metadata: row.opt_text(4)?,
            traceparent: row.opt_text(5)?,
            progress: row.count(6)?,
            created_at: row.time(7)?,
            expires_at: row.time(8)?,
            name: row.opt_text(9)?,
            reference: row.opt_text(10)?,
            group: row.opt_int(11)?.map(GroupNo),
        })
    }

    /// Creates the `n`th event of a type, and deliveries if the watch wants the type. Returns the bytes that the event
    /// takes in the database.
    pub(super) fn create_event(
        &self,
        batch: &mut Batch<'_>,
        event_type: EventType,
        n: u32,
        change: &JobChange<'_>,
    ) -> u64 {
        let JobChange { name, seen, at, ending, error, raw, .. } = change;
        let own = ending.zip(error.as_ref()).map(|((kind, _), error)| (kind.as_str(), error));
        let labels = Labels {
            name: self.name.as_deref(),
            reference: self.reference.as_deref(),
            metadata: self.metadata.as_deref(),
        };
        let body = EventBody::new((event_type, *at), self.id, name, labels, seen, own);
        let id = EventId::derive(self.id, event_type, n);
        // The ending stores the provider's answer once for all watches.
        let (generation, webhook_body) = match self.payload {
            Payload::Event => (None, None),
            Payload::Raw => (ending.map(|(_, generation)| generation), raw.clone()),
            Payload::CloudEvents => (None, Some(body.to_cloud_event(id, &batch.shared.public_url).into())),
        };
        let reports_end = seen.status.ending().is_some_and(|kind| kind.event() == event_type);
        let finished_at = seen.completed_at.filter(|_| reports_end);
        let is_wanted = self.events.has(event_type);
        let body = body.to_json();
        let webhook_bytes = webhook_body.as_ref().map_or(0, |body| body.len());
        let bytes = (body.len() + webhook_bytes + ROWS) as u64;
        batch.events.push(NewEvent {
            id,
            app: self.app,
            watch: self.id,
            event_type,
            observed_at: *at,
            body: body.into(),
            webhook_body: webhook_body.map(|body| (generation, self.payload, body)),
            finished: finished_at.map(|at| Finished { provider: name.provider.clone(), at }),
            delivery: is_wanted.then(|| (self.traceparent.clone(), name.shard())),
        });
        bytes
    }
}

/// The columns of a watch to notify.
pub(super) const WATCH: &str =
    "select app, id, events, payload, metadata, traceparent, progress, created_at, expires_at, name, reference,
       watch_group
     from watches";

/// Reads for each row of values a chunk of the watches of job `$1` that have not ended and meet a condition. `which` is
/// the condition and the order. The order is that of an index, so that a chunk does not read all remaining watches. A
/// chunk has at most `most` watches.
pub(super) fn read_watches<'v, const N: usize>(
    batch: &Batch<'_>,
    which: &str,
    most: usize,
    rows: impl Iterator<Item = [Value<'v>; N]>,
) -> Result<Vec<Watches>> {
    let left_out = left_out(batch);
    let limit = most + left_out + 1;
    let sql = format!("{WATCH} where job = $1 and status = 'watching' and {which} limit {limit}");
    let found = fetch_watches(batch, &sql, rows)?;
    let has_new = self::left_out(batch) > left_out;
    Ok(found.into_iter().map(|found| first_readable(found, most, (left_out, has_new))).collect())
}

/// Runs a query of watches for each row of values. A watch that cannot be read is `None`.
fn fetch_watches<'v, const N: usize>(
    batch: &Batch<'_>,
    sql: &str,
    rows: impl IntoIterator<Item = [Value<'v>; N]>,
) -> Result<Vec<Vec<Option<WatchToNotify>>>> {
    let unreadable = &batch.shared.unreadable;
    batch.tx.fetch(sql, rows, |row| unreadable.skip(("watches", 1), row, WatchToNotify::read(row)))
}

/// Returns the number of watches that could not be read, by which a query returns more rows.
fn left_out(batch: &Batch<'_>) -> usize {
    batch.shared.unreadable.count("watches")
}

/// Returns the first watches, without those that cannot be read. Those wait, and others behind them go on: `left_out` is
/// their number before the query, and whether it has found further ones.
fn first_readable(
    found: Vec<Option<WatchToNotify>>,
    most: usize,
    (left_out, has_new): (usize, bool),
) -> Watches {
    let is_full = found.len() > most + left_out;
    let mut chunk: Vec<WatchToNotify> = found.into_iter().flatten().collect();
    let has_more = chunk.len() > most || (is_full && (has_new || !chunk.is_empty()));
    chunk.truncate(most);
    Watches { chunk, has_more }
}

/// The apps with watches of job `$1` that have not ended. One entry of an index is read for each: only an operator
/// creates apps, so they are few.
pub(super) const APPS_OF_JOB: &str = "with recursive turns (app) as (
     select (select app from watches where job = $1 and status = 'watching' order by app limit 1)
     union all
     select (select w.app from watches w where w.job = $1 and w.status = 'watching' and w.app > turns.app
             order by w.app limit 1)
     from turns where turns.app is not null)
   select app from turns where app is not null";

/// Returns a row if an app after `$2` has watches of job `$1` that have not ended.
pub(super) const HAS_LATER_APP: &str =
    "select 1 from watches where job = $1 and status = 'watching' and app > $2 limit 1";

/// The watches of app `$3` and job `$1`, at most `$4`, that meet a condition on `$2`.
pub(super) fn of_app(which: &str) -> String {
    format!(
        "{WATCH} where job = $1 and status = 'watching' and {which} and app = $3 order by expires_at, id limit $4"
    )
}

/// Reads for each job a chunk of the watches that have not ended and meet a condition on a value: an equal part of each
/// app, and `most` in total.
pub(super) fn read_turns(
    batch: &Batch<'_>,
    which: &str,
    most: usize,
    jobs: &[(JobNo, Value<'_>)],
) -> Result<Vec<Watches>> {
    let apps = batch.tx.fetch(APPS_OF_JOB, jobs.iter().map(|(job, _)| params![job]), |row| row.int(0))?;
    let part = |apps: &[i64]| (most / apps.len().max(1)).max(1);
    let left_out = left_out(batch);
    let rows = jobs.iter().zip(&apps).flat_map(|((job, value), apps)| {
        let limit = i64::try_from(part(apps) + left_out + 1).unwrap_or(i64::MAX);
        apps.iter().map(move |app| [job.into(), *value, (*app).into(), limit.into()])
    });
    let rows: Vec<[Value<'_>; 4]> = rows.collect();
    let mut found = fetch_watches(batch, &of_app(which), rows)?.into_iter();
    let left_out = (left_out, self::left_out(batch) > left_out);
    let chunk =
        |apps: &Vec<i64>| take_turns(found.by_ref().take(apps.len()).collect(), part(apps), most, left_out);
    Ok(apps.iter().map(chunk).collect())
}

/// Position of a watch among those of its job: its app, its expiry and its id.
pub type ExpiryPosition = (AppNo, Timestamp, WatchId);

/// The watches of app `$2` and job `$1` after the expiry `$3` and the id `$4`, at most `$5`.
pub(super) fn of_app_after() -> String {
    format!(
        "{WATCH} where job = $1 and status = 'watching' and app = $2 and (expires_at, id) > ($3, $4)
         order by expires_at, id limit $5"
    )
}

/// Returns the positions at which the turns of a job's apps begin.
pub(super) fn first_positions(tx: &Tx<'_>, jobs: &[JobNo]) -> Result<Vec<Vec<ExpiryPosition>>> {
    let first = |app| (AppNo(app), Timestamp::from_millis(i64::MIN), WatchId(Id::from_bytes([0; 16])));
    tx.fetch(APPS_OF_JOB, jobs.iter().map(|job| params![job]), |row| row.int(0).map(first))
}

/// Reads for each job a chunk of the watches after these positions: an equal part of each app, and `most` in total.
/// Returns the positions at which the next chunk begins; none if no watches remain.
pub(super) fn read_turns_after(
    batch: &Batch<'_>,
    most: usize,
    jobs: &[(JobNo, Vec<ExpiryPosition>)],
) -> Result<Vec<(Vec<WatchToNotify>, Vec<ExpiryPosition>)>> {
    let values = |job, (app, expires_at, id): ExpiryPosition, limit| params![job, app, expires_at, id, limit];
    let position = |watch: &WatchToNotify| (watch.app, watch.expires_at, watch.id);
    read_from_positions(batch, &of_app_after(), most, jobs, values, position)
}

/// Does the same with positions of any kind. `sql` reads the watches of an app after a position. `values` makes its
/// parameters from a job, a position and a maximum number of rows, and `position` makes the position of a watch.
pub(super) fn read_from_positions<P: Copy, const N: usize>(
    batch: &Batch<'_>,
    sql: &str,
    most: usize,
    jobs: &[(JobNo, Vec<P>)],
    values: impl Fn(JobNo, P, i64) -> [Value<'static>; N],
    position: impl Fn(&WatchToNotify) -> P,
) -> Result<Vec<(Vec<WatchToNotify>, Vec<P>)>> {
    let part = |apps: usize| (most / apps.max(1)).max(1);
    let left_out = left_out(batch);
    let rows = jobs.iter().flat_map(|(job, positions)| {
        let limit = i64::try_from(part(positions.len()) + left_out + 1).unwrap_or(i64::MAX);
        let values = &values;
        positions.iter().take(most).map(move |position| values(*job, *position, limit))
    });
    let rows: Vec<[Value<'_>; N]> = rows.collect();
    let mut found = fetch_watches(batch, sql, rows)?.into_iter();
    let left_out = (left_out, self::left_out(batch) > left_out);
    let chunks = jobs.iter().map(|(_, positions)| {
        // Those that this chunk does not serve are the first of the next one.
        let mut next = positions.get(most..).unwrap_or_default().to_vec();
        let (part, mut chunk) = (part(positions.len()), Vec::new());
        for (from, found) in positions.iter().take(most).zip(found.by_ref()) {
            let watches = first_readable(found, part, left_out);
            let last = watches.chunk.last().map_or(*from, &position);
            next.extend(watches.has_more.then_some(last));
            chunk.extend(watches.chunk);
        }
        (chunk, next)
    });
    Ok(chunks.collect())
}

/// Factor that spreads sums of bytes over the upper bits (from the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Takes this part of the watches of each app, and `most` in total.
fn take_turns(
    found: Vec<Vec<Option<WatchToNotify>>>,
    part: usize,
    most: usize,
    left_out: (usize, bool),
) -> Watches {
    let (mut has_more, mut by_app) = (false, Vec::with_capacity(found.len()));
    for found in found {
        let watches = first_readable(found, part, left_out);
        has_more |= watches.has_more;
        by_app.push(watches.chunk);
    }
    by_app.retain(|watches: &Vec<WatchToNotify>| !watches.is_empty());
    if by_app.len() > most {
        // Not always the same apps: what this transaction takes changes where the next one begins.
        let sum = by_app.iter().flatten().fold(0_u64, |sum, watch| {
            watch
                .id
                .to_bytes()
                .iter()
                .fold(sum, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()))
        });
        let start = usize::try_from(sum.wrapping_mul(SPREAD) >> 32).unwrap_or_default() % by_app.len();
        by_app.rotate_left(start);
        by_app.truncate(most);
        has_more = true;
    }
    Watches { chunk: by_app.into_iter().flatten().collect(), has_more }
}

/// Returns the number of watches of each job of a transaction. `texts` are the sizes of the jobs' observations. For
/// several jobs, or large texts, it is a power of two, so that few statements are prepared.
pub(super) fn chunk_size(texts: impl IntoIterator<Item = usize>) -> usize {
    let (jobs, largest) = texts.into_iter().fold((0, 0), |(jobs, most), size| (jobs + 1, size.max(most)));
    let fitting = (CHUNK_BYTES / (largest + ROWS)).min(CHUNK);
    if jobs <= 1 && fitting == CHUNK { CHUNK } else { 1 << (fitting / jobs.max(1)).max(1).ilog2() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watches(app: i64, count: u16) -> Vec<Option<WatchToNotify>> {
        let watch = |n: u16| {
            let mut bytes = [0; 16];
            bytes[14..].copy_from_slice(&n.wrapping_mul(40_503).to_be_bytes());
            WatchToNotify {
                app: AppNo(app),
                id: WatchId(Id::from_bytes(bytes)),
                events: EventSet(0),
                payload: Payload::Event,
                name: None,
                reference: None,
                metadata: None,
                traceparent: None,
                progress: 0,
                created_at: Timestamp::default(),
                expires_at: Timestamp::default(),
                group: None,
            }
        };
        (0..count).map(watch).map(Some).collect()
    }

    /// No watch could not be read.
    const NONE: (usize, bool) = (0, false);

    #[test]
    fn watches_behind_unreadable_ones_go_on() {
        let page = |unreadable: usize, count| {
            let unreadable = std::iter::repeat_with(|| None).take(unreadable);
            unreadable.chain(watches(1, count)).collect::<Vec<_>>()
        };
        let read = |found, left_out| {
            let Watches { chunk, has_more } = first_readable(found, 2, left_out);
            (chunk.len(), has_more)
        };
        assert_eq!(read(page(3, 0), (0, true)), (0, true), "the next query returns three more");
        assert_eq!(read(page(3, 3), (3, false)), (2, true));
        assert_eq!(read(page(3, 1), (3, false)), (1, false));
        assert_eq!(read(page(6, 0), (3, true)), (0, true));
        assert_eq!(read(page(3, 0), (3, false)), (0, false));
        assert_eq!(read(page(6, 0), (3, false)), (0, false), "more than are remembered");
        assert_eq!(read(page(1, 2), (0, true)), (2, true));
    }

    #[test]
    fn each_app_gets_an_equal_part_of_a_transaction() {
        let taken = take_turns(vec![watches(1, 101), watches(2, 1)], 100, 200, NONE);
        assert_eq!((taken.chunk.len(), taken.has_more), (101, true));
        let taken = take_turns(vec![watches(1, 100), watches(2, 0)], 100, 200, NONE);
        assert_eq!((taken.chunk.len(), taken.has_more), (100, false));
    }

    #[test]
    fn more_apps_than_a_transaction_holds_are_not_starved() {
        // Each app has another first watch after each turn.
        let mut taken = vec![0_u16; 30];
        for _ in 0..400 {
            let of_app = |app: usize| {
                watches(i64::try_from(app).unwrap(), taken[app] + 2).split_off(taken[app].into())
            };
            let chunk = take_turns((0..30).map(of_app).collect(), 1, 8, NONE);
            assert_eq!((chunk.chunk.len(), chunk.has_more), (8, true));
            for watch in chunk.chunk {
                taken[usize::try_from(watch.app.0).unwrap()] += 1;
            }
        }
        assert!(taken.iter().all(|count| *count > 40), "{taken:?}");
    }

    #[test]
    fn the_jobs_of_a_transaction_share_its_watches() {
        let small = |jobs: usize| chunk_size(std::iter::repeat_n(500, jobs));
        assert_eq!([0, 1, 2, 3, 16, 150, 201, 1024].map(small), [200, 200, 64, 64, 8, 1, 1, 1]);
        for jobs in 1..=CHUNK {
            assert!(jobs * small(jobs) <= CHUNK, "{jobs}");
        }
    }

    #[test]
    fn large_events_of_a_transaction_are_few() {
        assert_eq!(
            [1_000, 20_000, 65_536, 130_000, 10_000_000].map(|size| chunk_size([size])),
            [200, 128, 32, 32, 1]
        );
        for size in [0, 1_000, 30_000, 130_000] {
            for jobs in 1..=30 {
                let events = jobs * chunk_size(std::iter::repeat_n(size, jobs));
                assert!(events * size <= CHUNK_BYTES.max(jobs * size), "{jobs} {size}");
            }
        }
    }
}
