//! Facts. All SQL is in this module and nowhere else.
//!
//! A row records what happened: jobs as last seen, their endings, watches, events, deliveries, attempts. The
//! schedules of polls and attempts are in memory and computed from rows. A write is a command to the single
//! writer ([`writer`] explains it). Reads run beside the writer, on connections of their own, and see what is
//! committed.
//!
//! The store knows no HTTP. After a commit it puts messages for the poller and the dispatcher into their
//! [`Mailbox`].
//!
//! The end of this file declares the commands. A new aggregate is one new file and a few lines here: its
//! module, its public names and its commands.
//!
//! The files form layers, each of which imports only those above it:
//!
//! 1. `db`: connections, one SQL text, two dialects;
//! 2. `sealing`, `tenant_cache`, `notifications`: state without SQL, and `reads`, which holds it;
//! 3. `rows`, `batch`: what else all aggregates use;
//! 4. one file for each aggregate: its types, statements and reads;
//! 5. `writer` and `commands`: the writer is generic, and `commands` generates the command set;
//! 6. this file, which declares the commands and defines [`Store`];
//! 7. `open`.

#[macro_use]
mod commands;

mod apps;
mod batch;
mod credentials;
mod db;
mod definition_ids;
mod definitions;
mod deliveries;
mod destinations;
mod endings;
mod erase;
mod events;
mod groups;
mod idempotency;
mod identity;
mod indexes;
mod job_cancels;
mod job_polls;
mod jobs;
mod keys;
mod lists;
mod nodes;
mod notifications;
mod observations;
mod open;
mod operational_events;
mod operations;
mod options;
mod prune;
mod reads;
mod reseal;
mod rows;
mod schema;
mod sealing;
mod tenant_cache;
mod timeline;
mod unreadable;
mod watch_events;
mod watches;
mod writer;

use std::ops::Deref;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;

use self::batch::each;
use self::db::{LOG_SIZE_MAX, Result};
use self::keys::KeyUses;
use self::nodes::Probe;
use self::tenant_cache::TenantCache;
use crate::clock::Clock;
use crate::domain::{App, SavedDestination, Timestamp, Watch};
use crate::telemetry::metrics::Queues;

pub use self::apps::{
    BootstrapResult, BootstrapTenant, CreateApp, CreateAppRefusal, RenameApp, RenameAppRefusal, RotateSecret,
};
pub use self::credentials::{CreateCredential, CredentialRefusal, DeleteCredential};
pub use self::db::{DatabaseLocation, FairPermit, FairSemaphore, StoreError};
pub use self::definitions::{
    DEFINITIONS_MAX, DefinitionRefusal, DeleteDefinition, OLD_VERSIONS_MAX, PutDefinition, StoredDefinition,
};
pub use self::deliveries::{
    DeliveryFilter, DestinationQueues, DueDeliveries, EndOverdue, EndedOverdue, FindDue, FoundDue,
    LoadDueDeliveries, NoteRunning, PostponeDelivery, RecordAttempt, RescheduleRetries, Rescheduled,
    RetryDelivery, RetryRefusal,
};
pub use self::destinations::{
    ApplyManaged, Change, CreateDestination, DeleteDestination, DestinationChange, DestinationRefusal,
    DestinationUser, EnableDestination, LastAttempt, ManagedChanges, ManagedDestination,
    RotateDestinationSecret, SweepDestinations, TooManyDestinations, UpdateDestination,
};
pub use self::endings::{EndJob, EndNotFound, ExpireWatches, NotFoundEnd, NotifyWatches};
pub use self::events::{After, EventFilter, Followed};
pub use self::groups::{ExpireGroups, GroupRefusal};
pub use self::idempotency::{
    IdempotencyKey, Idempotent, KeepAnswer, Replay, Replayable, Respond, StoredResponse,
};
pub use self::job_cancels::RecordCancel;
pub use self::jobs::{JobPage, NotFound, PollNow, RefreshEnding};
pub use self::keys::{CreateKey, KeyRow, RevokeKey, TooManyKeys};
pub use self::lists::ListPage;
pub use self::notifications::{Listener, Mailbox, WorkSignal};
pub use self::observations::{Notified, ProgressPosition, RecordObservation};
pub use self::open::StoreOptions;
pub use self::operations::{
    AdvanceOperation, CreateOperation, DeleteApp, EraseWatch, FailOperation, OperationPage, OperationTurns,
    RunningOperation, Subject, TooManyOperations, WatchErasure,
};
pub use self::prune::{Prune, PrunePosition, Pruned};
pub use self::reads::ReadStore;
pub use self::sealing::{AnswerKey, Keyring};
pub use self::tenant_cache::Key;
pub use self::timeline::TimelinePosition;
pub use self::watches::{
    AmendRefusal, AmendWatch, CancelRefusal, Register, RegisterMany, RegisterRefusal, StopAndCancel,
    StopWatch, WatchFilter,
};
pub use self::writer::{WRITE_RETRY_PAUSE, Writer, write_until_accepted};
pub use crate::domain::Scope;

/// Handle of a store: reads by [`ReadStore`], and one method for each command. It is cheap to clone. The
/// writer ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    reads: ReadStore,
    queue: mpsc::Sender<Command>,
}

impl Deref for Store {
    type Target = ReadStore;

    fn deref(&self) -> &ReadStore {
        &self.reads
    }
}

impl Store {
    /// Returns a handle for requests, whose answers take at most 20 s by this clock. A read then fails as
    /// [`StoreError::Unavailable`]. A write fails as [`StoreError::Unknown`], because it can still happen.
    #[must_use]
    pub fn for_requests(&self, clock: Clock) -> Self {
        Self {
            reads: ReadStore { request_clock: Some(clock), ..self.reads.clone() },
            queue: self.queue.clone(),
        }
    }

    /// Lengths of the queues.
    pub fn queues(&self) -> Queues {
        Queues {
            writer: self.queue.max_capacity() - self.queue.capacity(),
            poller: self.shared.poller_messages.len(),
            dispatcher: self.shared.dispatcher_messages.len(),
            refusing: self.refusing() || self.is_silent(),
            log_size: self.shared.log_size.load(Ordering::Relaxed),
        }
    }

    /// Compares the open files of a SQLite database with their names. If one was deleted or replaced, nothing is
    /// written any more, and the writer saves the contents and ends the process. If they cannot be saved, each later
    /// call tries it again. Warns if the log has become too large.
    pub async fn check_files(&self) {
        let Some(files) = self.shared.files.clone() else { return };
        if self.shared.fault.get().is_none() {
            let checked = tokio::task::spawn_blocking(move || (files.check(), files.log_size())).await;
            let Ok((checked, log_size)) = checked else { return };
            self.warn_of_log(log_size);
            let Err(fault) = checked else { return };
            let _ = self.shared.fault.set(fault);
        }
        self.save_files().await;
    }

    fn warn_of_log(&self, size: u64) {
        let before = self.shared.log_size.swap(size, Ordering::Relaxed);
        if before <= LOG_SIZE_MAX && size > LOG_SIZE_MAX {
            tracing::warn!(
                "the write-ahead log of the database has more than 128 MiB and grows until no other process reads \
                 the database; end a shell or a backup that has been open for long"
            );
        }
    }

    /// Ends the process if its files were deleted and could not be saved yet, after a last try.
    pub async fn save_files_at_stop(&self) {
        if self.shared.fault.get().is_some() {
            self.shared.is_last_save.store(true, Ordering::Release);
            self.save_files().await;
            // The writer answers that command before it copies the contents, and this one never: it ends the process.
            let _ = self.check_writes().await;
        }
    }

    async fn save_files(&self) {
        self.shared.save_due.store(true, Ordering::Release);
        // Any command wakes the writer.
        let _ = self.check_writes().await;
    }

    /// Writes something that changes no fact, to show whether the database accepts writes.
    pub async fn check_writes(&self) -> Result<()> {
        self.probe(Probe).await
    }

    /// Loads due deliveries of a destination queue. The writer finds them, after every earlier write. A reader reads them,
    /// because this takes several times as long, and a delivery that waits is changed only by clients: what they have
    /// skipped in the meantime is not on the page.
    pub async fn load_due_deliveries(&self, page: LoadDueDeliveries) -> Result<DueDeliveries> {
        let mut find = FindDue { page, passes_left_out: false };
        loop {
            let mut found = self.find_due(find.clone()).await?;
            let ids = std::mem::take(&mut found.ids);
            let is_last = find.passes_left_out || ids.is_empty();
            let were_due = !ids.is_empty();
            let deliveries = if were_due { self.pending_deliveries(ids).await? } else { Vec::new() };
            if is_last || !deliveries.is_empty() {
                return Ok(found.with(deliveries, were_due, find.page.now));
            }
            find.passes_left_out = true;
        }
    }

    /// Writes the times of last use of the keys that were used since the last call. If the write fails, the
    /// next use of a key sets its time again.
    pub async fn write_key_uses(&self) -> Result<()> {
        let uses = self.tenants(TenantCache::take_unwritten_uses);
        if uses.is_empty() { Ok(()) } else { self.set_key_uses(KeyUses(uses)).await }
    }
}

commands! {
    /// Creates the first app and the first key, if they are missing.
    write bootstrap of none: BootstrapTenant => BootstrapResult, each(apps::bootstrap);
    /// Creates an app.
    idempotent create_app of none: CreateApp => App | CreateAppRefusal, each(apps::create_app);
    /// Creates a key.
    idempotent create_key of app: CreateKey => () | TooManyKeys, each(keys::create_key);
    /// Deletes a key. Returns whether there was one. Requests with the key are refused from then on.
    write revoke_key of none: RevokeKey => bool, each(keys::revoke_key);
    /// Writes the times of last use of keys.
    write set_key_uses of none: KeyUses => (), each(keys::set_key_uses);
    /// Gives an app another name.
    write rename_app of none: RenameApp => Result<App, RenameAppRefusal>, each(apps::rename_app);
    /// Deletes an app: revokes its keys, and creates the operation that erases it. Returns whether it existed.
    write delete_app of owner: DeleteApp => bool, each(operations::delete_app);
    /// Replaces a signing secret.
    idempotent rotate_secret of app: RotateSecret => (), each(apps::rotate_secret);
    /// Keeps the answer to a request that changed nothing, for its idempotency key.
    idempotent keep_answer of none: KeepAnswer => (), each(idempotency::keep_answer);
    /// Creates a saved destination.
    idempotent create_destination of inner: CreateDestination => () | TooManyDestinations,
        each(destinations::create_destination);
    /// Changes a saved destination.
    write update_destination of app: UpdateDestination => Result<SavedDestination, DestinationRefusal>,
        each(destinations::update_destination);
    /// Enables a saved destination.
    idempotent enable_destination of app: EnableDestination => SavedDestination | DestinationRefusal,
        each(destinations::enable_destination);
    /// Replaces the secret of a saved destination.
    idempotent rotate_destination_secret of app: RotateDestinationSecret => () | DestinationRefusal,
        each(destinations::rotate_destination_secret);
    /// Deletes a saved destination.
    write delete_destination of app: DeleteDestination => Result<(), DestinationRefusal>,
        each(destinations::delete_destination);
    /// Applies the destinations of the configuration file.
    write apply_managed of none: ApplyManaged => ManagedChanges, each(destinations::apply_managed);
    /// Continues to skip or to retry the deliveries of a saved destination. If more may remain, the caller repeats the
    /// command.
    write sweep_destinations of none: SweepDestinations => bool, each(destinations::sweep_destinations);
    /// Creates a credential.
    idempotent create_credential of app: CreateCredential => () | CredentialRefusal, each(credentials::create);
    /// Deletes a credential that no running watch uses.
    write delete_credential of app: DeleteCredential => Result<(), CredentialRefusal>, each(credentials::delete);
    /// Stores a definition of an app.
    write put_definition of app: PutDefinition => Result<StoredDefinition, DefinitionRefusal>, each(definitions::put);
    /// Deletes a definition of an app. Returns whether there was one.
    write delete_definition of app: DeleteDefinition => bool, each(definitions::delete);
    /// Registers a watch.
    idempotent register of inner: Register => Watch | RegisterRefusal, watches::register;
    /// Registers watches in one transaction, without those that do not fit their groups.
    idempotent register_many of watches: RegisterMany => Vec<Result<Watch, GroupRefusal>> | RegisterRefusal,
        each(watches::register_many);
    /// Changes a watch that has not ended.
    write amend_watch of app: AmendWatch => Result<Watch, AmendRefusal>, each(watches::amend_watch);
    /// Writes a change of a job that has not ended. If the result has positions, more watches remain: the caller repeats
    /// the command with `after` set to these positions.
    write record_observation of none: RecordObservation => Notified, observations::record_observation;
    /// Writes the ending of a job, and ends the first of its watches. Returns whether more remain: the caller
    /// continues with `notify_watches`.
    write end_job of none: EndJob => bool, endings::end_job;
    /// Ends more watches of a job that has ended. Returns whether more remain: the caller repeats the command.
    write notify_watches of none: NotifyWatches => bool, endings::notify_watches;
    /// Ends watches of a job that its provider does not know. If it returns [`NotFoundEnd::More`], the caller repeats
    /// the command with `after` set to those positions.
    write end_not_found of none: EndNotFound => NotFoundEnd, endings::end_not_found;
    /// Ends watches that have expired. Returns whether more remain: the caller repeats the command.
    write expire_watches of none: ExpireWatches => bool, endings::expire_watches;
    /// Writes the result of a requested poll of a job that has ended.
    write refresh_ending of none: RefreshEnding => (), jobs::refresh_ending;
    /// Stops a watch. Returns the watch after the stop.
    idempotent stop_watch of app: StopWatch => Watch | NotFound, watches::stop_watch;
    /// Stops a watch, and requests to cancel its job. Returns the watch after the stop.
    idempotent stop_and_cancel of inner: StopAndCancel => Watch | CancelRefusal, each(watches::stop_and_cancel);
    /// Writes the result of an attempt to cancel a job.
    write record_cancel of none: RecordCancel => (), each(job_cancels::record_cancel);
    /// Erases a watch. If the result is [`WatchErasure::More`], the caller repeats `advance_operation`.
    write erase_watch of app: EraseWatch => WatchErasure, each(operations::erase_watch);
    /// Creates an operation.
    idempotent create_operation of app: CreateOperation => () | TooManyOperations, each(operations::create_operation);
    /// Makes a step of an operation. Returns whether it is still in progress.
    write advance_operation of none: AdvanceOperation => bool, each(operations::advance_operation);
    /// Ends an operation because of an error.
    write fail_operation of none: FailOperation => (), each(operations::fail_operation);
    /// Ends groups that have expired. Returns the next expiry, which may have passed: then the caller repeats the command.
    write expire_groups of none: ExpireGroups => Option<Timestamp>, each(groups::expire_groups);
    /// Records the request to poll a job at once.
    idempotent poll_now of app: PollNow => () | NotFound, each(jobs::poll_now);
    /// Records an attempt and the next step of its delivery.
    write record_attempt of none: RecordAttempt => (), deliveries::record_attempt;
    /// Postpones a delivery whose attempt waits for a late reply.
    write postpone_delivery of none: PostponeDelivery => (), deliveries::postpone_delivery;
    /// Notes that the process runs.
    write note_running of none: NoteRunning => (), each(deliveries::note_running);
    /// Reschedules a chunk of the deliveries whose last attempt lies in the future. If more may remain, the caller
    /// repeats the command from the position of the result.
    write reschedule_retries of none: RescheduleRetries => Rescheduled, each(deliveries::reschedule_retries);
    /// Records the request to retry a delivery at once.
    idempotent retry_delivery of app: RetryDelivery => () | RetryRefusal, each(deliveries::retry_delivery);
    /// Finds due deliveries of a destination queue. It runs on the writer: with an older snapshot, a finished delivery
    /// would be sent again.
    read find_due of none: FindDue => FoundDue, deliveries::find_due;
    /// Ends a chunk of the deliveries that have been pending for too long. If more may remain, the caller repeats the
    /// command from the app of the result.
    write end_overdue of none: EndOverdue => EndedOverdue, each(deliveries::end_overdue);
    /// Deletes a chunk of what is older than the retention. If more may remain, the caller repeats the command from
    /// the position of the result.
    write prune of none: Prune => Pruned, each(prune::prune);
    /// Writes something that changes no fact, to show whether the database accepts writes.
    write probe of none: Probe => (), nodes::probe;
}

#[cfg(test)]
mod tests;
