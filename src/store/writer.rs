//! Group commit by a single writer.
//!
//! Every write is a command in one queue. The writer takes all commands that wait, applies them in one
//! transaction, commits, and then replies. A 2xx therefore means that the change is on disk. While a commit
//! waits for the disk, the next batch gathers. A slow disk makes the batches larger and does not lower the
//! rate. The writer never waits for a batch to fill. It is generic over the [`CommandSet`].
//!
//! **Order.** Within a batch, commands are applied kind by kind: all commands of one kind at once. The
//! callers of a batch sent their commands without waiting for a reply to another command of the batch. The
//! commands could therefore have arrived in any order, and every order is correct.
//!
//! **An error of one command fails only that command.** Requests are checked before they get here, and the
//! statements handle conflicts. A failed statement or a panic therefore means a bug or a broken row. The
//! writer rolls the batch back and applies each half in a transaction of its own. It repeats this until only
//! the failing command is left.
//!
//! **An error of the database fails all commands.** If it is full, unreadable or locked, the writer rolls the
//! batch back, answers every command with the error (503), and sets [`Shared::refusing`] until a commit
//! succeeds. Meanwhile no attempt starts, because its outcome could not be written. In this state every batch
//! contains a write. Otherwise the success of a batch that only reads would look like a recovery.
//!
//! **A failed COMMIT is not repeated.**
//!
//! - On SQLite, the contents of the disk are unknown after a failed sync, and a second sync could falsely
//!   report success. The process ends, and the next start reads what is there. A full disk is the exception:
//!   the write fails while frames are appended, before the frame that commits. The transaction is then known
//!   not to have happened.
//! - On PostgreSQL, the server can be asked for the outcome (see `db/postgres`). The writer writes nothing
//!   else until the server has answered.
//!
//! **A lost server.** Before each batch, the writer reconnects if the connection is lost. Between two batches
//! it notices the loss and reconnects at once. A batch that was lost before its COMMIT did not happen. The
//! writer applies it once more on a new connection. If it cannot connect, it answers every command with the
//! error at once.
//!
//! **Notifications follow the commit and precede the replies.** The writer sends messages to the poller and
//! the dispatcher and notifies requests that wait for the end of a watch; then it replies to the callers. A
//! crash in between can lose messages but no facts: the next start creates all messages again from the rows.
//!
//! **The feed never skips an event.** The last statements of a transaction give an app's events their
//! positions, so their order is the order of the commits.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::batch::{Batch, CommitEffects};
use super::db::{CommitOutcome, Committed, Received, Result, StoreError, WriterConnection};
use super::nodes;
use super::shared::Shared;
use crate::clock::Clock;

/// Maximum number of commands in one transaction: enough to share the cost of a sync, few enough that the
/// first command does not wait long for the last.
const BATCH: usize = 1024;

/// Capacity of the queue. Further commands wait in their callers, whose number is bounded.
const QUEUE: usize = 4096;

/// Maximum time that callers wait for the outcome of a commit if it is unknown: the time that a server needs
/// to restart.
const PATIENCE: Duration = Duration::from_secs(5);

/// Interval of attempts to reconnect while no command arrives.
const RETRY: Duration = Duration::from_secs(1);

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
#[derive(Debug)]
pub(super) struct Item<Q, A> {
    pub(super) ask: Q,
    pub(super) answer: Option<A>,
    reply: oneshot::Sender<Result<A>>,
}

impl<Q, A> Item<Q, A> {
    /// Replies. The caller may be gone; its command stays committed.
    pub(super) fn settle(self, failure: Option<&StoreError>) {
        let answer = match (failure, self.answer) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Some(answer)) => Ok(answer),
            (None, None) => Err(StoreError::Inconsistent("a command was not applied".to_owned())),
        };
        let _ = self.reply.send(answer);
    }
}

/// The sending half of the queue of the writer.
#[derive(Debug)]
pub(super) struct WriterQueue<C>(mpsc::Sender<C>);

impl<C> Clone for WriterQueue<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C> WriterQueue<C> {
    /// Sends a command and waits for the reply.
    pub(super) async fn ask<Q, A>(&self, command: fn(Box<Item<Q, A>>) -> C, ask: Q) -> Result<A> {
        let ended = || StoreError::Unavailable("the writer has ended".to_owned());
        let (reply, answer) = oneshot::channel();
        let item = Box::new(Item { ask, answer: None, reply });
        self.0.send(command(item)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Number of commands that wait.
    pub(super) fn len(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }
}

/// The thread of the writer. It ends when the last handle of the store is dropped.
#[derive(Debug)]
pub struct Writer(std::thread::JoinHandle<()>);

impl Writer {
    /// Starts the thread.
    pub(super) fn start<C: CommandSet>(
        connection: WriterConnection,
        shared: &Arc<Shared>,
    ) -> std::io::Result<(WriterQueue<C>, Self)> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("writer".to_owned());
        let thread = thread.spawn(move || {
            WriterLoop { connection, shared: &shared, pending_effects: None }.run(queue);
        })?;
        Ok((WriterQueue(sender), Self(thread)))
    }

    /// Waits until everything is written and the database is closed.
    pub fn join(self) {
        let _ = self.0.join();
    }
}

/// State of a transaction that the database did not refuse.
enum Transacted {
    /// It is on disk.
    Committed(CommitEffects),
    /// The connection was lost in the commit.
    Unknown(CommitEffects),
}

struct WriterLoop<'s> {
    connection: WriterConnection,
    shared: &'s Shared,
    /// Effects of a commit whose outcome is unknown. They are published if it did happen.
    pending_effects: Option<CommitEffects>,
}

impl WriterLoop<'_> {
    /// Runs until the last handle of the store is dropped.
    fn run<C: CommandSet>(mut self, mut queue: mpsc::Receiver<C>) {
        let mut waiting = Vec::with_capacity(BATCH);
        while let Some(first) = self.next(&mut queue) {
            waiting.push(first);
            while waiting.len() < BATCH {
                let Ok(next) = queue.try_recv() else { break };
                waiting.push(next);
            }
            self.commit(std::mem::take(&mut waiting));
        }
        self.connection.close();
    }

    /// Returns the next command; `None` when the queue is closed.
    fn next<C>(&mut self, queue: &mut mpsc::Receiver<C>) -> Option<C> {
        loop {
            let retry = self.shared.is_refusing().then_some(RETRY);
            match self.connection.receive(queue, retry) {
                Received::Item(command) => return Some(command),
                Received::Closed => return None,
                Received::Lost => {
                    // A connection is no sign of recovery: only a commit resets `refusing`.
                    if let Err(error) = self.ready() {
                        self.refuse(&error);
                    }
                }
            }
        }
    }

    /// Commits `commands` in one transaction, or in halves if one of them fails.
    fn commit<C: CommandSet>(&mut self, mut commands: Vec<C>) {
        let transacted = self.ready().and_then(|()| match self.transact(&mut commands) {
            // The transaction did not happen. It is applied once more if there is a new connection.
            Err(error) if self.connection.is_lost() => match self.ready() {
                Ok(()) => self.transact(&mut commands),
                Err(_) => Err(error),
            },
            transacted => transacted,
        });
        let failure = match transacted {
            Ok(Transacted::Committed(effects)) => {
                effects.publish(self.shared);
                None
            }
            Ok(Transacted::Unknown(effects)) => {
                self.pending_effects = Some(effects);
                self.refuse(&StoreError::Unknown("the connection was lost in a commit".to_owned()));
                self.wait_for_outcome()
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

    /// Waits up to [`PATIENCE`] for the outcome of a commit. Returns the error for its callers, if any.
    fn wait_for_outcome(&mut self) -> Option<StoreError> {
        let outcome = self.connection.wait_until_ready(PATIENCE);
        match outcome.map(|outcome| self.settle_pending(outcome)) {
            Ok(Some(CommitOutcome::Aborted)) => {
                Some(StoreError::Unavailable("the connection was lost before the commit".to_owned()))
            }
            Ok(_) => None,
            Err(error) => Some(StoreError::Unknown(error.to_string())),
        }
    }

    /// Reconnects if needed.
    fn ready(&mut self) -> Result<()> {
        let outcome = self.connection.ready()?;
        self.settle_pending(outcome);
        Ok(())
    }

    /// Publishes or drops the pending effects when their outcome is known.
    fn settle_pending(&mut self, outcome: Option<CommitOutcome>) -> Option<CommitOutcome> {
        if outcome.is_some()
            && let Some(effects) = self.pending_effects.take()
            && outcome == Some(CommitOutcome::Committed)
        {
            effects.publish(self.shared);
        }
        outcome
    }

    /// Marks the store as refusing, if the error is an error of the database. Logs the first such error.
    fn refuse(&self, error: &StoreError) {
        if let StoreError::Unavailable(reason) | StoreError::Unknown(reason) = error
            && !self.shared.refusing.swap(true, Ordering::AcqRel)
        {
            tracing::error!(error = %reason, "the store refuses writes: nothing is accepted or sent until a write succeeds");
        }
    }

    fn transact<C: CommandSet>(&mut self, commands: &mut [C]) -> Result<Transacted> {
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
        if let Err(error) = applied {
            self.connection.roll_back();
            return Err(error);
        }
        let committed = self.connection.commit()?;
        (effects.commands, effects.duration) = (commands.len(), started.elapsed());
        Ok(match committed {
            Committed::Yes => Transacted::Committed(effects),
            Committed::Unknown => Transacted::Unknown(effects),
        })
    }
}
