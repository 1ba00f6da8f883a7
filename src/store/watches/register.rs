//! Registering watches.
//!
//! **Registration of a job that has ended.** The upsert of the job decides this case, in the transaction of the
//! watch. A job that has ended begins the next generation: its last observation is discarded, and it is polled
//! again. An ending ends only watches of its own and earlier generations, so it never ends the new watch,
//! whichever transaction is first. The job keeps `had_status`: the provider has known it, and the grace before "not
//! found" depends on this.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::super::batch::Batch;
use super::super::db::{Result, StoreError, Tx, params, row_sql};
use super::super::groups::{self, GroupRefusal};
use super::super::idempotency::{Outcome, Results};
use super::super::reads::ReadStore;
use super::super::rows::{insert_destinations, read_rounds};
use super::super::sealing::Keyring;
use super::super::{credentials, definitions, destinations};
use super::super::{job_cancels, job_polls};
use crate::domain::{
    AppNo, AppsApart, GroupNo, INLINE, JobCancel, JobName, JobNo, JobSnapshot, Known, NewWatch, Observation,
    PollerMessage, ProgressRound, Timestamp, Watch, WatchStatus, params_key,
};

/// Stored observation of a job that was never polled.
static NEVER_POLLED: LazyLock<String> =
    LazyLock::new(|| serde_json::to_string(&Observation::default()).unwrap_or_default());

/// Reason why a watch was not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterRefusal {
    /// A saved destination that it names was deleted meanwhile.
    DestinationDeleted,
    /// The credential that it names was deleted meanwhile.
    CredentialDeleted {
        /// Whether its poll object names the credential.
        is_inline: bool,
    },
    /// The version of the app's definition that it was read with was replaced or deleted meanwhile.
    DefinitionReplaced,
    /// It does not fit its group.
    Group(GroupRefusal),
}

/// Registers a watch.
#[derive(Debug)]
pub struct Register(pub NewWatch);

/// Registers watches in one transaction, without those that do not fit their groups.
#[derive(Debug)]
pub struct RegisterMany(pub Vec<NewWatch>);

impl ReadStore {
    /// Returns the sizes of what polls have found out about those of these jobs that have not ended, in bytes: a new
    /// watch shows it.
    pub async fn seen_sizes(&self, app: AppNo, jobs: Vec<JobName>) -> Result<Vec<usize>> {
        self.read(app, move |tx| {
            let keys: Vec<_> = jobs.iter().map(|job| params_key(&job.params)).collect();
            let found = tx.fetch(
                "select octet_length(seen) from jobs
                 where job_id = $1 and provider = $2 and account = $3 and params = $4 and ended = 0",
                jobs.iter().zip(&keys).map(|(job, key)| {
                    let JobName { provider, account, job_id, params: _ } = job;
                    params![job_id, provider, account, &**key]
                }),
                |row| row.count(0),
            )?;
            Ok(found.into_iter().flatten().map(|size| size as usize).collect())
        })
        .await
    }
}

pub fn register(batch: &mut Batch<'_>, commands: &[&Register]) -> Results<Watch, RegisterRefusal> {
    let mut watches: Vec<&NewWatch> = commands.iter().map(|command| &command.0).collect();
    if refusal(batch, watches.iter().copied())?.is_none() {
        return Ok(insert_in_groups(batch, &watches)?.into_iter().map(group_refusal).collect());
    }
    // Rare: it is not known yet which of the watches is refused.
    let refusals = watches.iter().map(|new| refusal(batch, std::iter::once(*new)));
    let refusals: Vec<Option<RegisterRefusal>> = refusals.collect::<Result<_>>()?;
    let mut kept = refusals.iter();
    watches.retain(|_| kept.next().is_some_and(Option::is_none));
    let mut inserted = insert_in_groups(batch, &watches)?.into_iter().map(group_refusal);
    let missing = || StoreError::Inconsistent("a watch was not inserted".to_owned());
    let result = |refusal: Option<RegisterRefusal>| match refusal {
        Some(refusal) => Ok(Err(refusal)),
        None => inserted.next().ok_or_else(missing),
    };
    refusals.into_iter().map(result).collect()
}

fn group_refusal(registered: Result<Watch, GroupRefusal>) -> Result<Watch, RegisterRefusal> {
    registered.map_err(RegisterRefusal::Group)
}

pub fn register_many(
    batch: &mut Batch<'_>,
    command: &RegisterMany,
) -> Outcome<Vec<Result<Watch, GroupRefusal>>, RegisterRefusal> {
    match refusal(batch, command.0.iter())? {
        Some(refusal) => Ok(Err(refusal)),
        None => insert_in_groups(batch, &command.0.iter().collect::<Vec<_>>()).map(Ok),
    }
}

/// Returns why one of these watches is refused.
fn refusal<'w>(
    batch: &Batch<'_>,
    watches: impl Iterator<Item = &'w NewWatch> + Clone,
) -> Result<Option<RegisterRefusal>> {
    let of_group = |new: &'w NewWatch| new.group.iter().flat_map(|group| group.notify.iter().flatten());
    let of_polls = watches.clone().filter_map(|new| new.poll.as_ref()?.credential).collect::<Vec<_>>();
    if !credentials::all_exist(&batch.tx, &of_polls)? {
        let inline = |new: &NewWatch| new.job.provider == INLINE && new.poll.is_some();
        return Ok(Some(RegisterRefusal::CredentialDeleted { is_inline: watches.clone().any(inline) }));
    }
    let versions = watches.clone().filter_map(|new| new.poll.as_ref()?.source.definition_id());
    if !definitions::are_current(&batch.tx, &versions.collect::<Vec<_>>())? {
        return Ok(Some(RegisterRefusal::DefinitionReplaced));
    }
    let named = watches.flat_map(|new| new.destinations.iter().chain(of_group(new)));
    let all_exist = destinations::all_exist(&batch.tx, named)?;
    Ok((!all_exist).then_some(RegisterRefusal::DestinationDeleted))
}

/// Inserts watches, without those that do not fit their groups.
fn insert_in_groups(batch: &mut Batch<'_>, watches: &[&NewWatch]) -> Results<Watch, GroupRefusal> {
    let joined = groups::join(batch, watches)?;
    let accepted = watches.iter().zip(&joined).filter_map(|(new, group)| Some((*new, *group.as_ref().ok()?)));
    let (accepted, groups): (Vec<&NewWatch>, Vec<Option<GroupNo>>) = accepted.unzip();
    let mut inserted = insert(batch, &accepted, &groups)?.into_iter();
    // Each accepted watch was inserted.
    let result = |group: Result<_, GroupRefusal>| group.map(|_| inserted.next()).transpose();
    Ok(joined.into_iter().filter_map(result).collect())
}

/// Inserts watches and their jobs, and notifies the poller. Returns the watches as they are read back.
fn insert(batch: &mut Batch<'_>, watches: &[&NewWatch], groups: &[Option<GroupNo>]) -> Result<Vec<Watch>> {
    let jobs = upsert_jobs(&batch.tx, watches)?;
    insert_polls(batch, watches, &jobs)?;
    insert_watches(&batch.tx, &batch.shared.keyring, watches, (&jobs, groups))?;
    let with_cancel = watches.iter().zip(&jobs).filter(|(new, _)| new.cancels_on_expiry);
    let with_cancel: Vec<_> = with_cancel.map(|(new, job)| (new.id, new.app, job.no)).collect();
    job_cancels::insert_for_expiry(&batch.tx, with_cancel.into_iter())?;
    batch.effects.tally.registered += watches.len();
    let traced = batch.shared.tracer().is_on();
    let mut inserted = Vec::with_capacity(watches.len());
    for (new, job) in watches.iter().zip(jobs) {
        let UpsertedJob { no, generation, had_status, seen, registered_at, rounds } = job;
        let known = Known::new(&seen, &rounds, new.created_at);
        // The terms of this watch alone.
        let snapshot = JobSnapshot {
            traced: traced.then(|| (new.id, new.traceparent.clone())),
            no,
            name: new.job.clone(),
            poll: new.poll.as_ref().map(|poll| Arc::new(poll.source.clone())),
            app: new.app,
            other_app: None,
            generation,
            known,
            apart: AppsApart::new(&rounds, known.reported(), new.created_at),
            had_status,
            registered_at,
            watching: 1,
            terms: Some(new.terms),
            poll_requested: false,
        };
        batch.effects.poller_messages.push(PollerMessage::Watch(Box::new(snapshot)));
        inserted.push(Watch {
            id: new.id,
            status: WatchStatus::Watching,
            job: new.job.clone(),
            poll: new.poll.as_ref().map(|poll| poll.shown.clone()),
            job_no: no,
            seen,
            destinations: new.destinations.iter().map(|destination| (destination.clone(), None)).collect(),
            events: new.events,
            name: new.name.clone(),
            reference: new.reference.clone(),
            metadata: new.metadata.clone(),
            group: new.group.as_ref().map(|group| group.name.clone()),
            cancel: new.cancels_on_expiry.then(JobCancel::on_expiry),
            created_at: new.created_at,
            ended_at: None,
            expires_at: new.terms.expires_at,
        });
    }
    Ok(inserted)
}

/// Inserts how the jobs are polled that are an app's alone.
fn insert_polls(batch: &Batch<'_>, watches: &[&NewWatch], jobs: &[UpsertedJob]) -> Result<()> {
    let mut known = HashSet::new();
    let polls = watches.iter().zip(jobs).filter_map(|(new, job)| Some((job.no, new.poll.as_deref()?)));
    let polls: Vec<_> = polls.filter(|(job, _)| known.insert(*job)).collect();
    if polls.is_empty() {
        return Ok(());
    }
    job_polls::insert(&batch.tx, &batch.shared.keyring, polls.into_iter())
}

/// A job after the upsert.
struct UpsertedJob {
    no: JobNo,
    generation: i64,
    had_status: bool,
    seen: Observation,
    registered_at: Timestamp,
    /// Last rounds of progress events.
    rounds: Vec<ProgressRound>,
}

/// Inserts the jobs of watches, or begins the next generation of jobs that have ended.
fn upsert_jobs(tx: &Tx<'_>, watches: &[&NewWatch]) -> Result<Vec<UpsertedJob>> {
    let keys: Vec<_> = watches.iter().map(|new| params_key(&new.job.params)).collect();
    // Each job once, in the order of its first watch: PostgreSQL refuses to upsert a row twice.
    let mut jobs = HashSet::with_capacity(watches.len());
    let rows = watches.iter().zip(&keys).filter(|(new, _)| jobs.insert(&new.job)).map(|(new, key)| {
        let JobName { provider, account, job_id, params } = &new.job;
        let long = matches!(key, Cow::Owned(_)).then_some(params);
        params![new.job.shard(), job_id, provider, account, &**key, &*NEVER_POLLED, new.created_at, long]
    });
    tx.upsert_each(
        row_sql!(
            "insert into jobs (shard, job_id, provider, account, params, seen, registered_at, long_params)"
            values ("$1, $2, $3, $4, $5, $6, $7, $8")
            "on conflict (job_id, provider, account, params) do update set
               generation = jobs.generation + jobs.ended,
               seen = case when jobs.ended = 1 then excluded.seen else jobs.seen end,
               registered_at = case when jobs.ended = 1 then excluded.registered_at else jobs.registered_at end,
               progress_rounds = case when jobs.ended = 1 then null else jobs.progress_rounds end,
               ended = 0"
        ),
        rows,
    )?;
    // A lookup is faster than `returning`, for which SQLite fills a temporary table at each execution.
    let found = tx.fetch_each(
        "select no, generation, seen, registered_at, had_status, progress_rounds from jobs
         where job_id = $1 and provider = $2 and account = $3 and params = $4",
        watches.iter().zip(&keys).map(|(new, key)| {
            let JobName { provider, account, job_id, params: _ } = &new.job;
            params![job_id, provider, account, &**key]
        }),
        |row| {
            Ok(UpsertedJob {
                no: JobNo(row.int(0)?),
                generation: row.int(1)?,
                // Most jobs are new: this saves the parsing.
                seen: if row.is(2, &NEVER_POLLED)? { Observation::default() } else { row.json(2)? },
                registered_at: row.time(3)?,
                had_status: row.flag(4)?,
                rounds: read_rounds(row, 5)?,
            })
        },
    )?;
    Ok(found.into_iter().flatten().collect())
}

/// Inserts watches and their destinations.
fn insert_watches(
    tx: &Tx<'_>,
    keyring: &Keyring,
    watches: &[&NewWatch],
    (jobs, groups): (&[UpsertedJob], &[Option<GroupNo>]),
) -> Result<()> {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    tx.insert_each(
        row_sql!(
            "insert into watches (app, id, job, generation, status, events, payload, metadata, poll_interval,
               expected_at, traceparent, created_at, expires_at, name, reference, watch_group, definition, credential)"
            values ("$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18")
        ),
        watches.iter().zip(jobs).zip(groups).map(|((new, job), group)| {
            params![
                new.app,
                new.id,
                job.no,
                job.generation,
                WatchStatus::Watching,
                new.events.0,
                new.payload,
                &new.metadata,
                new.terms.poll_interval.map(millis),
                new.terms.expected_at,
                &new.traceparent,
                new.created_at,
                new.terms.expires_at,
                &new.name,
                &new.reference,
                *group,
                new.poll.as_ref().and_then(|poll| poll.source.definition_id()),
                new.poll.as_ref().and_then(|poll| poll.credential),
            ]
        }),
    )?;
    let destinations =
        watches.iter().flat_map(|new| (0..).zip(&new.destinations).map(|(n, one)| (new.id, n, one)));
    insert_destinations(tx, keyring, destinations)
}
