//! The command set: everything that can be written.
//!
//! [`commands!`] declares each command once, as `kind method: Request => Answer, function;`. It generates
//! the enum, the dispatch to the functions, and the methods of [`Store`]. The order of the declarations is
//! the order in which the kinds of a batch are applied.
//!
//! - `write`: the command may change rows. `function` takes all requests of a batch and returns their answers.
//! - `read`: the command changes nothing, and runs on the writer because it must not see an older snapshot
//!   than the last commit.
//! - `idempotent`: a write whose request may carry an idempotency key. `=> T | R` declares its result and its
//!   refusal. `function` returns a `Result<T, R>` for each request, and knows nothing of the key:
//!   `idempotency::apply` replays the stored response or stores a new one.

use std::ops::Deref;

use super::apps::{self, BootstrapResult, BootstrapTenant, CreateApp, CreateAppRefusal, RotateSecret};
use super::batch::Batch;
use super::db::{Result, StoreError};
use super::deliveries::{
    self, DueDeliveries, LoadDueDeliveries, RecordAttempt, RescheduleRetries, RetryDelivery,
    RetryFailedDeliveries, RetryProgress, RetryRefusal,
};
use super::endings::{self, EndJob, ExpireWatches, NotifyProgress, NotifyWatches};
use super::events;
use super::idempotency::{self, Idempotent, Replayable};
use super::jobs::{self, NotFound, PollNow, RecordObservation, RefreshEnding};
use super::keys::{self, CreateKey, KeyUses, RevokeKey, TooManyKeys};
use super::nodes::{self, Probe};
use super::prune::{self, Prune};
use super::reads::ReadStore;
use super::watches::{self, AmendRefusal, AmendWatch, Register, RegisterMany, StopWatch};
use super::writer::{CommandSet, Item, WriterQueue};
use crate::domain::{App, AppNo, Watch, WatchId};
use crate::telemetry::metrics::Queues;

/// Handle of a store: reads by [`ReadStore`], and one method for each command. It is cheap to clone. The
/// writer ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    reads: ReadStore,
    queue: WriterQueue<Command>,
}

impl Deref for Store {
    type Target = ReadStore;

    fn deref(&self) -> &ReadStore {
        &self.reads
    }
}

impl Store {
    /// Creates a handle.
    pub(super) fn new(reads: ReadStore, queue: WriterQueue<Command>) -> Self {
        Self { reads, queue }
    }

    /// Lengths of the queues.
    pub fn queues(&self) -> Queues {
        Queues {
            writer: self.queue.len(),
            poller: self.shared.poller_messages.len(),
            dispatcher: self.shared.dispatcher_messages.len(),
            refusing: self.refusing(),
        }
    }

    /// Writes something that changes no fact, to show whether the database accepts writes.
    pub async fn check_writes(&self) -> Result<()> {
        self.probe(Probe).await
    }

    /// Writes the times of last use of the keys that were used since the last call. If the write fails, the
    /// next use of a key sets its time again.
    pub async fn write_key_uses(&self) -> Result<()> {
        let uses = self.take_unwritten_key_uses();
        if uses.is_empty() { Ok(()) } else { self.set_key_uses(KeyUses(uses)).await }
    }
}

/// The request of a command as the queue carries it.
macro_rules! request {
    (idempotent $ask:ty, $answer:ty $(, $refusal:ty)?) => { Idempotent<$ask, $answer> };
    ($kind:ident $ask:ty, $answer:ty) => { $ask };
}

/// The answer of a command as the queue carries it.
macro_rules! answer {
    (idempotent $answer:ty $(, $refusal:ty)?) => { Replayable<$answer $(, $refusal)?> };
    ($kind:ident $answer:ty) => { $answer };
}

macro_rules! apply {
    (idempotent $apply:path, $batch:expr, $asks:expr) => {
        idempotency::apply($batch, $asks, $apply)?
    };
    ($kind:ident $apply:path, $batch:expr, $asks:expr) => {
        $apply($batch, $asks)?
    };
}

macro_rules! only_reads {
    (read) => {
        true
    };
    ($kind:ident) => {
        false
    };
}

macro_rules! commands {
    ($(
        $(#[$doc:meta])*
        $kind:ident $method:ident: $ask:ident => $answer:ty $(| $refusal:ty)?, $apply:path;
    )*) => {
        /// A command, boxed because the queue moves it several times.
        #[derive(Debug)]
        pub(super) enum Command {
            $($ask(Box<Item<
                request!($kind $ask, $answer $(, $refusal)?),
                answer!($kind $answer $(, $refusal)?),
            >>),)*
        }

        impl Store {
            $(
                $(#[$doc])*
                pub async fn $method(
                    &self,
                    ask: impl Into<request!($kind $ask, $answer $(, $refusal)?)>,
                ) -> Result<answer!($kind $answer $(, $refusal)?)> {
                    self.queue.ask(Command::$ask, ask.into()).await
                }
            )*
        }

        impl CommandSet for Command {
            fn only_reads(&self) -> bool {
                match self { $(Self::$ask(_) => only_reads!($kind),)* }
            }

            fn apply(batch: &mut Batch<'_>, commands: &mut [Self]) -> Result<()> {
                $({
                    let mut items: Vec<_> = commands
                        .iter_mut()
                        .filter_map(|command| match command { Self::$ask(item) => Some(&mut **item), _ => None })
                        .collect();
                    if !items.is_empty() {
                        let asks: Vec<_> = items.iter().map(|item| &item.ask).collect();
                        let answers = apply!($kind $apply, batch, &asks);
                        deliveries::create_deliveries(batch)?;
                        for (item, answer) in items.iter_mut().zip(answers) {
                            item.answer = Some(answer);
                        }
                    }
                })*
                events::append(batch)
            }

            fn settle(self, failure: Option<&StoreError>) {
                match self { $(Self::$ask(item) => item.settle(failure),)* }
            }
        }
    };
}

commands! {
    /// Creates the first app and the first key, if they are missing.
    write bootstrap: BootstrapTenant => BootstrapResult, apps::bootstrap;
    /// Creates an app.
    idempotent create_app: CreateApp => App | CreateAppRefusal, apps::create_app;
    /// Creates a key.
    idempotent create_key: CreateKey => () | TooManyKeys, keys::create_key;
    /// Deletes a key. Returns whether there was one. Requests with the key are refused from then on.
    write revoke_key: RevokeKey => bool, keys::revoke_key;
    /// Writes the times of last use of keys.
    write set_key_uses: KeyUses => (), keys::set_key_uses;
    /// Replaces a signing secret.
    idempotent rotate_secret: RotateSecret => (), apps::rotate_secret;
    /// Registers a watch.
    idempotent register: Register => Watch, watches::register;
    /// Registers watches, all or none.
    idempotent register_many: RegisterMany => Vec<Watch>, watches::register_many;
    /// Changes a watch that has not ended.
    write amend_watch: AmendWatch => Result<Watch, AmendRefusal>, watches::amend_watch;
    /// Writes a change of a job that has not ended. Returns the last watch that was notified, if more
    /// remain: the caller repeats the command with `after` set to that watch.
    write record_observation: RecordObservation => Option<(AppNo, WatchId)>, jobs::record_observation;
    /// Writes the ending of a job, and ends the first of its watches.
    write end_job: EndJob => NotifyProgress, endings::end_job;
    /// Ends more watches of a job that has ended.
    write notify_watches: NotifyWatches => NotifyProgress, endings::notify_watches;
    /// Ends watches that have expired.
    write expire_watches: ExpireWatches => NotifyProgress, endings::expire_watches;
    /// Writes the result of a requested poll of a job that has ended.
    write refresh_ending: RefreshEnding => (), jobs::refresh_ending;
    /// Stops a watch. Returns whether it exists.
    write stop_watch: StopWatch => bool, watches::stop_watch;
    /// Records the request to poll a job at once.
    idempotent poll_now: PollNow => () | NotFound, jobs::poll_now;
    /// Records an attempt and the next step of its delivery.
    write record_attempt: RecordAttempt => (), deliveries::record_attempt;
    /// Reschedules deliveries whose last attempt lies in the future. Returns their number.
    write reschedule_retries: RescheduleRetries => usize, deliveries::reschedule_retries;
    /// Records the request to retry a delivery at once.
    idempotent retry_delivery: RetryDelivery => () | RetryRefusal, deliveries::retry_delivery;
    /// Records the request to retry the next failed deliveries at once.
    idempotent retry_failed_deliveries: RetryFailedDeliveries => RetryProgress,
        deliveries::retry_failed_deliveries;
    /// Loads due deliveries of a destination queue. It runs on the writer: with an older snapshot, a finished
    /// delivery would be sent again.
    read load_due_deliveries: LoadDueDeliveries => DueDeliveries, deliveries::load_due_deliveries;
    /// Deletes a chunk of what is older than the retention. Returns the number of rows; 0 if none is left.
    write prune: Prune => usize, prune::prune;
    /// Writes something that changes no fact, to show whether the database accepts writes.
    write probe: Probe => (), nodes::probe;
}
