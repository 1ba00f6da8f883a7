//! Group commit: the one writer.
//!
//! Every write is a [`Command`] in one queue. The writer takes what has queued up, applies it in one
//! transaction, commits, and only then answers: a 2xx is on disk. While one commit waits for the
//! disk the next batch gathers by itself, so a slow disk makes batches larger, not the rate lower,
//! and nothing ever waits for a batch to fill.
//!
//! **Order.** Within a batch the commands are applied kind by kind, each kind for all its items at
//! once. Two commands are in one batch only if neither waited for the other, so any order between
//! them is an order in which they could have come.
//!
//! **An item's own error fails it alone.** Everything is checked before it gets here, and conflicts
//! are part of the statements, so a statement that fails is a bug or a broken row; so is a panic. The
//! batch is rolled back and each half is tried by itself, down to the one that is to blame.
//!
//! **The store's own error fails all.** Full, unreadable, locked: the batch is rolled back, everyone
//! is told so (503), and [`Shared::refusing`] is set until a commit succeeds, so that no send starts
//! whose outcome could not be written. Until then every batch writes something, or one that only
//! reads would pass for a sign of recovery.
//!
//! **A failed COMMIT is never run again.** On SQLite, after a failed sync nobody knows what is on disk,
//! and a second sync would lie about it; the process ends, and the next start reads what is there. A
//! full disk is the exception: it fails while frames are appended, before the one that commits, so the
//! transaction is known not to have happened. On PostgreSQL the server can be asked what became of it
//! (`db/postgres` is the essay); until it has answered nothing else is written.
//!
//! **A lost server** is looked for again before each batch, and at once where it was lost between two.
//! A batch that was lost before its COMMIT did not happen, and is tried once more on a new connection;
//! if there is none, everyone is told so at once.
//!
//! **What others are told, they are told after the commit, and before its commands are answered**:
//! plans to those who look, deliveries to those who send, the end of a watch to those who wait for
//! it. A crash in between loses a message, never a fact: at start all three are made from the rows
//! again.
//!
//! **The feed never skips.** An app's events get their positions as the last statements of the
//! transaction, so their order is the order of the commits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::db::{CommitOutcome, Committed, Received, Result, StoreError, Tx, WriterConnection};
use super::{
    Shared, amend, apps, deliveries, endings, events, jobs, keys, prune, retry_many, tenants, watches,
};
use crate::clock::Clock;
use crate::domain::{AppNo, DispatcherMessage, KeyId, PollerMessage, WatchId};
use crate::telemetry::metrics::Tally;

/// How many commands one transaction takes: enough to spread a sync over, few enough that the first
/// does not wait long for the last.
const BATCH: usize = 1024;

/// How many commands may wait: what is beyond waits in the callers, who are bounded themselves.
pub(super) const QUEUE: usize = 4096;

/// How long those who wait for a commit whose outcome is not known are kept waiting for it: as long as a
/// server takes to start again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between tries to find a server again for which nobody asks.
const RETRY: Duration = Duration::from_secs(1);

/// A question to the writer, and the way back.
#[derive(Debug)]
pub(super) struct Item<Q, A> {
    ask: Q,
    answer: Option<A>,
    reply: oneshot::Sender<Result<A>>,
}

impl<Q, A> Item<Q, A> {
    pub(super) fn new(ask: Q) -> (Box<Self>, oneshot::Receiver<Result<A>>) {
        let (reply, answer) = oneshot::channel();
        (Box::new(Self { ask, answer: None, reply }), answer)
    }

    /// Answers; whoever asked may be gone, which is no reason to undo what was committed.
    fn settle(self, failure: Option<&StoreError>) {
        let answer = match (failure, self.answer) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Some(answer)) => Ok(answer),
            (None, None) => Err(StoreError::Inconsistent("a command was not applied".to_owned())),
        };
        let _ = self.reply.send(answer);
    }
}

macro_rules! commands {
    ($($(#[$doc:meta])* $name:ident: $ask:ty => $answer:ty, $apply:path;)*) => {
        /// Everything that can be written. In a box each: the queue moves them several times.
        #[derive(Debug)]
        pub(super) enum Command { $($(#[$doc])* $name(Box<Item<$ask, $answer>>),)* }

        impl Command {
            fn settle(self, failure: Option<&StoreError>) {
                match self { $(Self::$name(item) => item.settle(failure),)* }
            }

            /// Whether it only reads.
            const fn reads(&self) -> bool {
                matches!(self, Self::Page(_))
            }
        }

        /// Applies all commands, kind by kind, in the order in which the kinds are declared.
        fn apply(batch: &mut Batch<'_>, commands: &mut [Command]) -> Result<()> {
            $({
                let mut items: Vec<&mut Box<Item<$ask, $answer>>> = commands
                    .iter_mut()
                    .filter_map(|command| match command { Command::$name(item) => Some(item), _ => None })
                    .collect();
                if !items.is_empty() {
                    let asks: Vec<&$ask> = items.iter().map(|item| &item.ask).collect();
                    let answers: Vec<$answer> = $apply(batch, &asks)?;
                    deliveries::send_out(batch)?;
                    for (item, answer) in items.iter_mut().zip(answers) {
                        item.answer = Some(answer);
                    }
                }
            })*
            Ok(())
        }
    };
}

commands! {
    BootstrapTenant: apps::BootstrapTenant => apps::BootstrapResult, apps::found;
    CreateApp: apps::CreateApp => apps::CreatedApp, apps::create_app;
    CreateKey: keys::CreateKey => keys::CreatedKey, keys::create_key;
    RevokeKey: keys::RevokeKey => bool, keys::revoke_key;
    Uses: Vec<(KeyId, i64)> => (), keys::uses;
    Rotate: apps::Rotate => apps::Rotated, apps::rotate;
    Register: watches::Register => watches::Registered, watches::register;
    RegisterMany: watches::RegisterMany => watches::RegisteredMany, watches::register_many;
    Amend: amend::Amend => amend::Amended, amend::amend;
    Observe: jobs::Observed => Option<(AppNo, WatchId)>, jobs::observe;
    End: endings::Ended => endings::NotifyProgress, endings::end;
    NotifyWatches: endings::NotifyWatches => endings::NotifyProgress, endings::tell;
    Expire: endings::Expire => endings::NotifyProgress, endings::expire;
    Refresh: jobs::Refresh => (), jobs::refresh;
    Stop: watches::Stop => watches::Stopped, watches::stop;
    PollNow: jobs::PollNow => jobs::PollNowResult, jobs::poll_now;
    Record: deliveries::Record => (), deliveries::record;
    Rewind: deliveries::Rewind => usize, deliveries::rewind;
    RetryDelivery: deliveries::RetryDelivery => deliveries::RetryDeliveryResult, deliveries::retry_delivery;
    RetryMany: retry_many::RetryMany => retry_many::RetriedMany, retry_many::retry_many;
    /// Read here, between two transactions' worth of writes: a page from an older snapshot would
    /// send a finished delivery again.
    Page: deliveries::Page => deliveries::Paged, deliveries::page;
    Prune: prune::Prune => usize, prune::prune;
    /// Writes something that changes nothing, to learn whether it can.
    Probe: () => (), probe;
}

fn probe(batch: &mut Batch<'_>, asks: &[&()]) -> Result<Vec<()>> {
    // A number that grows: SQLite writes no page for an update that changes nothing.
    batch.tx.run("update nodes set probes = probes + 1", [])?;
    Ok(vec![(); asks.len()])
}

/// An open transaction, and what is to be told once it is committed.
#[derive(Debug)]
pub(super) struct Batch<'c> {
    pub(super) tx: Tx<'c>,
    pub(super) shared: &'c Shared,
    /// Made into deliveries when all commands of a kind have been applied.
    pub(super) outgoing: Vec<deliveries::Outgoing>,
    /// Inserted as the transaction's last statements.
    pub(super) events: Vec<events::NewEvent>,
    pub(super) plans: Vec<PollerMessage>,
    pub(super) dispatcher_messages: Vec<DispatcherMessage>,
    pub(super) ended: Vec<WatchId>,
    pub(super) tenants: Vec<tenants::Change>,
    /// The apps whose feeds grew.
    pub(super) fed: Vec<AppNo>,
    /// Counted once it is committed.
    pub(super) tally: Tally,
}

/// The writer's thread: runs until the last handle of the store is gone.
pub(super) fn run(connection: WriterConnection, shared: &Arc<Shared>, mut queue: mpsc::Receiver<Command>) {
    let mut writer_loop = WriterLoop { connection, shared, pending_effects: None };
    let mut waiting = Vec::with_capacity(BATCH);
    while let Some(first) = writer_loop.next(&mut queue) {
        waiting.push(first);
        while waiting.len() < BATCH {
            let Ok(next) = queue.try_recv() else { break };
            waiting.push(next);
        }
        writer_loop.commit(std::mem::take(&mut waiting));
    }
    writer_loop.connection.close();
}

/// What a committed batch has to tell.
#[derive(Debug, Default)]
struct CommitEffects {
    plans: Vec<PollerMessage>,
    dispatcher_messages: Vec<DispatcherMessage>,
    ended: Vec<WatchId>,
    tenants: Vec<tenants::Change>,
    fed: Vec<AppNo>,
    tally: Tally,
    /// How many commands it was, and how long it took.
    cost: (usize, Duration),
}

/// How a transaction ended that was not refused.
enum Done {
    /// It is on disk.
    Committed(CommitEffects),
    /// Nobody knows whether it is.
    Unknown(CommitEffects),
}

struct WriterLoop<'s> {
    connection: WriterConnection,
    shared: &'s Arc<Shared>,
    /// What is to be told if a commit turns out to have happened.
    pending_effects: Option<CommitEffects>,
}

impl WriterLoop<'_> {
    /// The next command; `None` when nobody is left to send one.
    fn next(&mut self, queue: &mut mpsc::Receiver<Command>) -> Option<Command> {
        loop {
            let retry = self.shared.refusing.load(Ordering::Acquire).then_some(RETRY);
            match self.connection.receive(queue, retry) {
                Received::Item(command) => return Some(command),
                Received::Closed => return None,
                Received::Lost => match self.ready() {
                    // Whether writes are taken again is for a write to say.
                    Ok(_) => {}
                    Err(error) => self.refuse(&error),
                },
            }
        }
    }

    /// Commits `commands` in one transaction, or, where one of them fails, in halves.
    fn commit(&mut self, mut commands: Vec<Command>) {
        let done = self.ready().and_then(|_| match self.transact(&mut commands) {
            // It did not happen: once more, if there is a new connection.
            Err(error) if self.connection.is_lost() => match self.ready() {
                Ok(_) => self.transact(&mut commands),
                Err(_) => Err(error),
            },
            done => done,
        });
        let failure = match done {
            Ok(Done::Committed(effects)) => {
                self.tell(effects);
                None
            }
            Ok(Done::Unknown(effects)) => {
                self.pending_effects = Some(effects);
                self.refuse(&StoreError::Unknown("the connection was lost in a commit".to_owned()));
                self.learn()
            }
            Err(StoreError::Inconsistent(_)) if commands.len() > 1 => {
                let second = commands.split_off(commands.len() / 2);
                self.commit(commands);
                self.commit(second);
                return;
            }
            Err(error) => Some(error),
        };
        if let Some(error) = &failure {
            self.refuse(error);
        }
        for command in commands {
            command.settle(failure.as_ref());
        }
    }

    /// Waits a while for the outcome of a commit.
    fn learn(&mut self) -> Option<StoreError> {
        let waited = Clock::System.stopwatch();
        loop {
            match self.ready() {
                Ok(Some(CommitOutcome::Aborted)) => {
                    let reason = "the connection was lost while it was asked to write".to_owned();
                    return Some(StoreError::Unavailable(reason));
                }
                Ok(_) => return None,
                Err(_) if waited.elapsed() < PATIENCE => self.connection.pause(),
                Err(error) => return Some(StoreError::Unknown(error.to_string())),
            }
        }
    }

    /// Finds the database, and settles what is pending_effects.
    fn ready(&mut self) -> Result<Option<CommitOutcome>> {
        let outcome = self.connection.ready()?;
        if outcome.is_some()
            && let Some(effects) =
                self.pending_effects.take().filter(|_| outcome == Some(CommitOutcome::Committed))
        {
            self.tell(effects);
        }
        Ok(outcome)
    }

    /// Tells what was committed.
    fn tell(&self, told: CommitEffects) {
        let (commands, took) = told.cost;
        self.shared.metrics.committed(commands, took, &told.tally);
        self.shared.refusing.store(false, Ordering::Release);
        self.shared.follow(told.tenants);
        self.shared.plans.put(told.plans);
        self.shared.dispatcher_messages.put(told.dispatcher_messages);
        self.shared.watch_ends.notify(&told.ended);
        self.shared.feeds.notify(&told.fed);
    }

    fn refuse(&self, error: &StoreError) {
        if let StoreError::Unavailable(reason) | StoreError::Unknown(reason) = error
            && !self.shared.refusing.swap(true, Ordering::AcqRel)
        {
            tracing::error!(error = %reason, "the store refuses writes: nothing is accepted or sent until it takes them");
        }
    }

    fn transact(&mut self, commands: &mut [Command]) -> Result<Done> {
        let (shared, began) = (self.shared, Clock::System.stopwatch());
        let refusing = shared.refusing.load(Ordering::Acquire);
        self.connection.begin(refusing || !commands.iter().all(Command::reads))?;
        let mut batch = Batch {
            tx: self.connection.tx(),
            shared,
            outgoing: Vec::new(),
            events: Vec::new(),
            plans: Vec::new(),
            dispatcher_messages: Vec::new(),
            ended: Vec::new(),
            tenants: Vec::new(),
            fed: Vec::new(),
            tally: Tally::default(),
        };
        let applied = catch_unwind(AssertUnwindSafe(|| {
            if refusing {
                probe(&mut batch, &[])?;
            }
            apply(&mut batch, commands)?;
            events::append(&mut batch)
        }));
        // Without a writer the program would live on and take nothing any more.
        let applied =
            applied.unwrap_or_else(|_| Err(StoreError::Inconsistent("a write panicked".to_owned())));
        let Batch { plans, dispatcher_messages, ended, tenants, fed, tally, .. } = batch;
        if let Err(error) = applied {
            self.connection.roll_back();
            return Err(error);
        }
        let committed = self.connection.commit()?;
        let cost = (commands.len(), began.elapsed());
        let effects = CommitEffects { plans, dispatcher_messages, ended, tenants, fed, tally, cost };
        Ok(match committed {
            Committed::Yes => Done::Committed(effects),
            Committed::Unknown => Done::Unknown(effects),
        })
    }
}
