//! Group commit by a single writer.
//!
//! Every write is a command in one queue. The writer takes all commands that wait, applies them in one
//! transaction, commits, and then replies. A 2xx therefore means that the change is on disk. While a commit
//! waits for the disk, the next batch accumulates. A slow disk therefore makes the batches larger and does not
//! lower the rate. The writer never waits for a batch to fill. It is generic over the [`CommandSet`].
//!
//! **Order.** Within a batch, commands are applied kind by kind: all commands of one kind at once. Replies are sent
//! after the commit, so all commands of a batch are queued before any of them is answered. The commands of a batch
//! are therefore concurrent, and every order is correct.
//!
//! **An error of one command fails only that command.** Requests are checked before they are queued, and the
//! statements handle conflicts. A failed statement or a panic therefore means a bug or a broken row. The
//! writer rolls the batch back and applies each half in a transaction of its own. It repeats this until only
//! the failing command is left.
//!
//! **An error of the database fails all commands.** If the database is full, unreadable or locked, the writer rolls
//! the batch back, and answers every command with the error (503). It also sets [`Shared::refusing`] until a commit
//! succeeds. Meanwhile the dispatcher starts no attempt to send a delivery, because the outcome of the attempt could
//! not be written. In this state, the writer adds a write to every batch. Otherwise the success of a batch that only
//! reads would count as a recovery.
//!
//! **Damage, and files that are gone, end the process.** A damaged page fails the commands that need it, while others
//! succeed: nothing would show that some watches never end. A deleted file would lose everything that follows. So the
//! writer refuses what is queued and ends the process, and so does a reader that finds damage. Before, the writer saves
//! the contents of a deleted file. While it cannot, it refuses all commands, because they would be lost with the
//! process (`db/sqlite/files`). A panic of this thread outside of a batch ends the process as well.
//!
//! **A failed COMMIT is not repeated.**
//!
//! - On SQLite, the contents of the disk are unknown after a failed sync, and a second sync could falsely
//!   report success. The process ends, and the next start reads what is there. A full disk is the exception:
//!   SQLite fails while it appends the changes to the log, before it appends the commit mark. The
//!   transaction is then known not to have happened.
//! - On PostgreSQL, the server can be asked for the outcome (see `db/postgres`). The writer writes nothing
//!   else until the server has answered.
//!
//! **A lost server.** While the writer waits for commands, it detects the loss of the connection and reconnects
//! at once. If this fails, it tries again every second and before each batch. If the connection is lost
//! before the COMMIT of a batch is sent, the batch is not committed. The writer applies it once more on a new
//! connection. If it cannot connect, it answers every command of the batch with the error at once.
//!
//! **Notifications follow the commit and precede the replies.** The writer sends messages to the poller and
//! the dispatcher. It also notifies the requests that wait for the end of a watch or for new events of an app. Then
//! it replies to the callers. A crash in between can lose messages but no facts: the next start rebuilds the
//! schedules and the queues from the rows.
//!
//! **The event feed has no gaps.** The last statements of a transaction assign the positions of its events in the
//! feed. The order of the positions is therefore the order of the commits.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable as _};
use tokio::sync::{mpsc, oneshot};

use super::batch::{Batch, CommitEffects};
use super::db::{
    CommitOutcome, Fault, Received, Result, StoreError, WriterConnection, end_the_process, end_with,
};
use super::nodes;
use super::reads::Shared;
use crate::clock::Clock;

/// Maximum number of commands in one transaction: enough to share the cost of a sync, few enough that the
/// first command does not wait long for the last.
const BATCH: usize = 1024;

/// Capacity of the queue. Callers with further commands wait; their number is limited.
const QUEUE: usize = 4096;

/// Maximum time that callers wait for the outcome of a commit if it is unknown: the time that a server needs
/// to restart.
const PATIENCE: Duration = Duration::from_secs(5);

/// Interval of attempts to reconnect while no command arrives.
const RETRY: Duration = Duration::from_secs(1);

/// Pause between two attempts to write while the database accepts no writes.
pub const WRITE_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Number of failed saves of deleted files for which one line is logged: one a minute.
const SAVES_PER_LINE: u32 = 60;

/// A closed set of commands, which the writer applies in batches.
pub(super) trait CommandSet: Send + Sized + 'static {
    /// Whether the command changes nothing.
    fn only_reads(&self) -> bool;

    /// Applies all commands, kind by kind, and runs the last statements of the transaction.
    fn apply(batch: &mut Batch<'_>, commands: &mut [Self]) -> Result<()>;

    /// Replies with the answer of the command, or with the error of its batch.
    fn settle(self, failure: Option<&StoreError>);
}

/// A command with its answer and the channel for the reply.
pub(super) struct Item<Q, A> {
    pub(super) request: Q,
    pub(super) answer: Option<A>,
    /// Whether the command is not applied, because its app is deleted.
    pub(super) is_refused: bool,
    reply: oneshot::Sender<Result<A>>,
}

impl<Q, A> Item<Q, A> {
    /// Replies. The caller may be gone; its command stays committed.
    pub(super) fn settle(self, failure: Option<&StoreError>) {
        let answer = match (failure, self.answer) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Some(answer)) => Ok(answer),
            (None, None) if self.is_refused => Err(StoreError::AppDeleted),
            (None, None) => Err(StoreError::Inconsistent("a command was not applied".to_owned())),
        };
        let _ = self.reply.send(answer);
    }
}

/// Sends a command to the writer and waits for the reply.
pub(super) async fn send<C, Q, A>(
    queue: &mpsc::Sender<C>,
    command: fn(Box<Item<Q, A>>) -> C,
    request: Q,
) -> Result<A> {
    let ended = || StoreError::Unavailable("the writer has ended".to_owned());
    let (reply, answer) = oneshot::channel();
    let item = Box::new(Item { request, answer: None, is_refused: false, reply });
    queue.send(command(item)).await.map_err(|_| ended())?;
    answer.await.map_err(|_| ended())?
}

/// Repeats `write` while the database accepts no writes. Returns the error only if a retry cannot help
/// ([`StoreError::Inconsistent`]).
///
/// The write must be idempotent, because the commit of a failed attempt may have happened
/// ([`StoreError::Unknown`]).
pub async fn write_until_accepted<T, F>(clock: &Clock, write: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    write
        .retry(ConstantBuilder::new().with_delay(WRITE_RETRY_PAUSE).without_max_times())
        .sleep(clock.clone())
        .when(|error| {
            matches!(error, StoreError::Unavailable(_) | StoreError::Unknown(_) | StoreError::Schema(_))
        })
        .await
}

/// The thread of the writer. It ends when the last handle of the store is dropped.
#[derive(Debug)]
pub struct Writer(std::thread::JoinHandle<()>);

impl Writer {
    /// Starts the thread.
    pub(super) fn start<C: CommandSet>(
        connection: WriterConnection,
        shared: &Arc<Shared>,
    ) -> std::io::Result<(mpsc::Sender<C>, Self)> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("writer".to_owned());
        let thread = thread.spawn(move || {
            let pending_effects = None;
            let writer =
                WriterLoop { connection, shared: &shared, pending_effects, refused: 0, failed_saves: 0 };
            // Without the writer, the process would refuse every write and repeat every attempt for ever.
            if catch_unwind(AssertUnwindSafe(|| writer.run(queue))).is_err() {
                end_the_process("the writer of the database panicked, which is a bug");
            }
        })?;
        Ok((sender, Self(thread)))
    }

    /// Waits until everything is written and the database is closed.
    pub fn join(self) {
        // A panic has ended the process.
        let _ = self.0.join();
    }
}

struct WriterLoop<'s> {
    connection: WriterConnection,
    shared: &'s Shared,
    /// Effects of a commit whose outcome is unknown. They are published if the commit happened.
    pending_effects: Option<CommitEffects>,
    /// Number of commands that were refused since the last commit.
    refused: usize,
    /// Number of times that the contents of deleted files could not be saved.
    failed_saves: u32,
}

impl WriterLoop<'_> {
    /// Runs until the last handle of the store is dropped.
    fn run<C: CommandSet>(mut self, mut queue: mpsc::Receiver<C>) {
        loop {
            let retry = self.shared.is_refusing().then_some(RETRY);
            match self.connection.receive(&mut queue, retry) {
                Received::Item(first) => {
                    let mut commands = vec![first];
                    while commands.len() < BATCH
                        && let Ok(next) = queue.try_recv()
                    {
                        commands.push(next);
                    }
                    match self.shared.fault.get() {
                        Some(fault) => self.end(*fault, commands, &mut queue),
                        None => self.commit(commands),
                    }
                }
                Received::Closed => return self.connection.close(),
                Received::Lost => {
                    // A new connection does not show that writes succeed: only a commit resets `refusing`.
                    if let Err(error) = self.ready(Duration::ZERO) {
                        self.refuse(&error);
                    }
                }
            }
        }
    }

    /// Refuses all commands, and ends the process if the contents of its files are saved.
    fn end<C: CommandSet>(&mut self, fault: Fault, mut commands: Vec<C>, queue: &mut mpsc::Receiver<C>) {
        while let Ok(next) = queue.try_recv() {
            commands.push(next);
        }
        let error = StoreError::Unavailable(
            "a file of the database was deleted, replaced, written or truncated".to_owned(),
        );
        for command in commands {
            command.settle(Some(&error));
        }
        // Not for every command: a copy can take a while.
        if !self.shared.save_due.swap(false, Ordering::AcqRel) {
            return;
        }
        let unsaved = self.connection.end(fault);
        if self.shared.is_last_save.load(Ordering::Acquire) {
            end_with(&unsaved.when_lost());
        }
        if self.failed_saves.is_multiple_of(SAVES_PER_LINE) {
            tracing::error!("{}", unsaved.while_waiting());
        }
        self.failed_saves = self.failed_saves.wrapping_add(1);
    }

    /// Commits `commands` in one transaction, or in halves if one of them fails.
    fn commit<C: CommandSet>(&mut self, mut commands: Vec<C>) {
        let done = self.ready(Duration::ZERO).and_then(|_| match self.transact(&mut commands) {
            // The transaction did not happen. It is applied once more if there is a new connection.
            Err(error) if self.connection.is_lost() => match self.ready(Duration::ZERO) {
                Ok(_) => self.transact(&mut commands),
                Err(_) => Err(error),
            },
            done => done,
        });
        let failure = match done {
            Err(StoreError::Inconsistent(_) | StoreError::Schema(_)) if commands.len() > 1 => {
                let second = commands.split_off(commands.len() / 2);
                self.commit(commands);
                self.commit(second);
                return;
            }
            Err(error @ StoreError::Unknown(_)) => {
                self.refuse(&error);
                self.wait_for_outcome()
            }
            done => done.err(),
        };
        if let Some(error) = &failure {
            self.refuse(error);
            self.shared.note_error(error);
            if matches!(error, StoreError::Unavailable(_) | StoreError::Unknown(_)) {
                self.refused += commands.len();
            }
        }
        for command in commands {
            command.settle(failure.as_ref());
        }
        if let Some(StoreError::Damaged(reason)) = &failure {
            self.connection.end_damaged(reason);
        }
    }

    /// Waits up to [`PATIENCE`] for the outcome of a commit. Returns the error for the replies, if any.
    fn wait_for_outcome(&mut self) -> Option<StoreError> {
        match self.ready(PATIENCE) {
            Ok(Some(CommitOutcome::Aborted)) => {
                Some(StoreError::Unavailable("the connection was lost before the commit".to_owned()))
            }
            Ok(_) => None,
            Err(error) => Some(StoreError::Unknown(error.to_string())),
        }
    }

    /// Reconnects if needed, for up to `patience`. If the outcome of an unknown commit becomes known, publishes
    /// or drops its effects, and returns the outcome.
    fn ready(&mut self, patience: Duration) -> Result<Option<CommitOutcome>> {
        let outcome = self.connection.ready(patience)?;
        if outcome.is_some()
            && let Some(effects) = self.pending_effects.take()
            && outcome == Some(CommitOutcome::Committed)
        {
            self.publish(effects);
        }
        Ok(outcome)
    }

    /// Marks the store as refusing, if the error is an error of the database. Logs the first such error.
    fn refuse(&self, error: &StoreError) {
        if let StoreError::Unavailable(reason) | StoreError::Unknown(reason) = error
            && !self.shared.refusing.swap(true, Ordering::AcqRel)
        {
            tracing::error!(error = %reason, "the store refuses writes: nothing is accepted or sent until a write succeeds");
        }
    }

    /// Publishes the effects of a commit, which ends a refusal.
    fn publish(&mut self, effects: CommitEffects) {
        let was_refusing = self.shared.refusing.load(Ordering::Acquire);
        effects.publish(self.shared);
        let count = std::mem::take(&mut self.refused);
        if was_refusing {
            tracing::info!(count, "the store accepts writes again");
        }
    }

    /// Commits `commands` in one transaction. Publishes the effects, or keeps them if the outcome is unknown.
    fn transact<C: CommandSet>(&mut self, commands: &mut [C]) -> Result<()> {
        let started = Clock::System.stopwatch();
        let refusing = self.shared.is_refusing();
        self.connection.begin(refusing || !commands.iter().all(C::only_reads))?;
        let mut batch = Batch::new(self.connection.tx(), self.shared);
        let applied = catch_unwind(AssertUnwindSafe(|| {
            if refusing {
                nodes::count_probe(&batch.tx)?;
            }
            C::apply(&mut batch, commands)
        }));
        // A panic must not end the writer: without the writer, the process would accept no write.
        let applied =
            applied.unwrap_or_else(|_| Err(StoreError::Inconsistent("a write panicked".to_owned())));
        let mut effects = batch.effects;
        applied.inspect_err(|_| self.connection.roll_back())?;
        let committed = self.connection.commit();
        (effects.commands, effects.duration) = (commands.len(), started.elapsed());
        match &committed {
            Ok(()) => self.publish(effects),
            Err(StoreError::Unknown(_)) => self.pending_effects = Some(effects),
            Err(
                StoreError::Unavailable(_)
                | StoreError::Damaged(_)
                | StoreError::AppDeleted
                | StoreError::Schema(_)
                | StoreError::Inconsistent(_),
            ) => {}
        }
        committed
    }
}
