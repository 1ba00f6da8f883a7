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

use super::amend::{self, Amend, Amended};
use super::apps::{self, BootstrapResult, BootstrapTenant, CreateApp, CreatedApp, Rotate, Rotated};
use super::batch::Batch;
use super::db::{Result, StoreError};
use super::deliveries::{self, Page, Paged, Record, RetryDelivery, RetryDeliveryResult, Rewind};
use super::endings::{self, Ended, Expire, NotifyProgress, NotifyWatches};
use super::events;
use super::jobs::{self, Observed, PollNow, PollNowResult, Refresh};
use super::keys::{self, CreateKey, CreatedKey, KeyUses, RevokeKey};
use super::nodes::{self, Probe};
use super::prune::{self, Prune};
use super::reads::ReadStore;
use super::retry_many::{self, RetriedMany, RetryMany};
use super::watches::{self, Register, RegisterMany, Registered, RegisteredMany, Stop, Stopped};
use super::writer::{CommandSet, Item, WriterQueue};
use crate::domain::{AppNo, WatchId};
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
                        deliveries::send_out(batch)?;
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
    write bootstrap: BootstrapTenant => BootstrapResult, apps::found;
    /// Creates an app.
    write create_app: CreateApp => CreatedApp, apps::create_app;
    /// Creates a key.
    write create_key: CreateKey => CreatedKey, keys::create_key;
    /// Deletes a key. Returns whether there was one. Requests with the key are refused from then on.
    write revoke_key: RevokeKey => bool, keys::revoke_key;
    /// Writes the times of last use of keys.
    write set_key_uses: KeyUses => (), keys::uses;
    /// Replaces a signing secret.
    write rotate: Rotate => Rotated, apps::rotate;
    /// Registers a watch.
    write register: Register => Registered, watches::register;
    /// Registers watches, all or none.
    write register_many: RegisterMany => RegisteredMany, watches::register_many;
    /// Changes a watch that has not ended.
    write amend: Amend => Amended, amend::amend;
    /// Writes a change of a job that has not ended. Returns the last watch that was notified, if more
    /// remain: the caller repeats the command with `after` set to that watch.
    write observe: Observed => Option<(AppNo, WatchId)>, jobs::observe;
    /// Writes the ending of a job, and ends the first of its watches.
    write end: Ended => NotifyProgress, endings::end;
    /// Ends more watches of a job that has ended.
    write notify_watches: NotifyWatches => NotifyProgress, endings::tell;
    /// Ends watches that have expired.
    write expire: Expire => NotifyProgress, endings::expire;
    /// Writes the result of a requested poll of a job that has ended.
    write refresh: Refresh => (), jobs::refresh;
    /// Stops a watch.
    write stop: Stop => Stopped, watches::stop;
    /// Records the request to poll a job at once.
    write poll_now: PollNow => PollNowResult, jobs::poll_now;
    /// Records an attempt and the next state of its delivery.
    write record: Record => (), deliveries::record;
    /// Reschedules deliveries whose last attempt lies in the future. Returns their number.
    write rewind: Rewind => usize, deliveries::rewind;
    /// Records the request to retry a delivery at once.
    write retry_delivery: RetryDelivery => RetryDeliveryResult, deliveries::retry_delivery;
    /// Records the request to retry the next failed deliveries. Excludes deliveries of stopped watches and
    /// superseded progress.
    write retry_many: RetryMany => RetriedMany, retry_many::retry_many;
    /// Reads a page of a destination queue. It runs on the writer: a page of an older snapshot would send a
    /// finished delivery again.
    read page: Page => Paged, deliveries::page;
    /// Deletes a chunk of what is older than the retention. Returns the number of rows; 0 if none is left.
    write prune: Prune => usize, prune::prune;
    /// Writes something that changes no fact.
    write probe: Probe => (), nodes::probe;
}
