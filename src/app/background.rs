//! Work of the service that no request and no message causes: each loop waits for a span, works, and waits again.
//!
//! [`Background`] knows when each loop works next, so that a test can wait until the work that is due is done. A loop
//! that works has not begun its next wait, so its work is still due.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::trust::{ClockTrust, Judgement};
use crate::clock::{Clock, Moment};
use crate::config::Config;
use crate::dispatcher::Dispatcher;
use crate::domain::{AppNo, Timestamp};
use crate::store::{EndOverdue, EndedOverdue, NoteRunning, Prune, PrunePosition, Pruned, Store, StoreError};

/// Interval between two deletions of data that is older than the retention.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);

/// Duration of one deletion beyond which the next one is smaller. Every other write waits for it, for at most about twice
/// as long.
const PRUNE_STEP: Duration = Duration::from_millis(10);

/// Smallest and first number of rows of one deletion.
const PRUNED_ROWS: (u32, u32) = (10, 100);

/// Pause before the first deletion. A process that is restarted every hour must delete as well.
const FIRST_PRUNE: Duration = Duration::from_secs(5 * 60);

/// Interval between two checks whether the files of the database are still there: the time in which writes can be
/// accepted that are lost.
const FILES_INTERVAL: Duration = Duration::from_secs(1);

/// Interval between two writes of the times at which keys were last used.
const KEY_USES_INTERVAL: Duration = Duration::from_secs(60);

/// Interval between two notes that the process runs (`store/deliveries/downtime`).
const RUNNING_INTERVAL: Duration = Duration::from_secs(60);

/// Interval between two checks whether the database answers, and whether its tables can be used.
const ANSWERS_INTERVAL: Duration = Duration::from_secs(2);

/// The result of a function that does not return.
pub(super) enum Never {}

/// A loop.
#[derive(Clone, Copy, Debug)]
enum Loop {
    Prune,
    KeyUses,
    Files,
    Running,
}

/// Number of loops.
const LOOPS: usize = 4;

/// The loops, and when each of them works next.
#[derive(Debug)]
pub(super) struct Background {
    clock: Clock,
    /// Zero for a loop that has not begun to wait, so its work is due.
    next: Mutex<[Moment; LOOPS]>,
}

impl Background {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, next: Mutex::default() }
    }

    /// Returns how many loops work, or are due to work.
    pub(super) fn count_due(&self) -> usize {
        let now = self.clock.moment();
        self.next().iter().filter(|next| **next <= now).count()
    }

    fn next(&self) -> MutexGuard<'_, [Moment; LOOPS]> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next work of a loop.
    async fn wait(&self, of: Loop, span: Duration) {
        let until = self.clock.moment().plus(span);
        self.next()[of as usize] = until;
        self.clock.sleep_until_moment(until).await;
    }

    /// Ends what has been pending for too long, and deletes old data, the first time minutes after the start, and only while
    /// the clock is trusted (`clock::trust`).
    pub(super) async fn prune(&self, store: &Store, config: &Config, mut trust: ClockTrust) -> Never {
        let mut pause = FIRST_PRUNE;
        loop {
            self.wait(Loop::Prune, pause).await;
            let clock = &self.clock;
            let (stopwatch, (now, moment)) = (clock.stopwatch(), clock.reading());
            match trust.judge(now, moment) {
                Judgement::Trusted => {
                    end_overdue(store, config.delivery.pending_max(), now).await;
                    if let Err(error) = delete_old(store, clock, config, now).await {
                        tracing::warn!(%error, "data older than the retention could not be deleted");
                    }
                }
                Judgement::Jumped => tracing::warn!(
                    "the clock was set forward, or the service did not run for more than a day; data older than the \
                     retention is kept until the clock was steady for a day"
                ),
                Judgement::Doubted => {}
            }
            pause = PRUNE_INTERVAL.saturating_sub(stopwatch.elapsed());
        }
    }

    /// Writes the times at which keys were last used.
    pub(super) async fn write_key_uses(&self, store: &Store) -> Never {
        loop {
            self.wait(Loop::KeyUses, KEY_USES_INTERVAL).await;
            write_key_uses(store).await;
        }
    }

    /// Checks the files of the database.
    pub(super) async fn watch_files(&self, store: &Store) -> Never {
        loop {
            self.wait(Loop::Files, FILES_INTERVAL).await;
            store.check_files().await;
        }
    }

    /// Checks whether the database answers, and whether its tables can be used. This loop writes nothing, and a test need not wait for it.
    pub(super) async fn watch_answers(&self, store: &Store) -> Never {
        loop {
            self.clock.sleep(ANSWERS_INTERVAL).await;
            store.watch_answers().await;
        }
    }

    /// Notes that the process runs.
    pub(super) async fn note_running(&self, dispatcher: &Dispatcher) -> Never {
        loop {
            self.wait(Loop::Running, RUNNING_INTERVAL).await;
            dispatcher.note_running().await;
        }
    }
}

/// Returns the number of rows of the next deletion after one of `rows` that took this time.
fn next_rows(rows: u32, took: Duration) -> u32 {
    if took > PRUNE_STEP { (rows / 2).max(PRUNED_ROWS.0) } else { (rows + rows / 2).min(Prune::ROWS_MAX) }
}

/// Deletes what is older than the retention at the time `now`, and notes the end as a time at which the process ran.
async fn delete_old(store: &Store, clock: &Clock, config: &Config, now: Timestamp) -> Result<(), StoreError> {
    let Config { retention, delivery, .. } = config;
    let (watches_before, events_before) = (now.minus(retention.watches), now.minus(retention.events));
    let (pending_max, after) = (delivery.pending_max(), PrunePosition::default());
    let mut prune = Prune { watches_before, events_before, pending_max, now, after, rows: PRUNED_ROWS.1 };
    loop {
        let step = clock.stopwatch();
        let Pruned { count, next } = store.prune(prune).await?;
        prune.rows = next_rows(prune.rows, step.elapsed());
        if count > 0 {
            tracing::debug!(count, "deleted data older than the retention");
        }
        let Some(next) = next else {
            return store.note_running(NoteRunning { is_start: false, now: clock.now() }).await;
        };
        prune.after = next;
    }
}

/// Ends the deliveries that have been pending for too long.
async fn end_overdue(store: &Store, pending_max: Duration, now: Timestamp) {
    let (mut from, mut total) = (AppNo(0), 0);
    let result = loop {
        match store.end_overdue(EndOverdue { pending_max, from, now }).await {
            Ok(EndedOverdue { count, next }) => {
                total += count;
                let Some(next) = next else { break Ok(()) };
                from = next;
            }
            Err(error) => break Err(error),
        }
    };
    if total > 0 {
        let days = pending_max.as_secs() / (24 * 3600);
        tracing::warn!(
            count = total,
            days,
            "deliveries ended as exhausted, because they were pending for too long: their receivers did not respond; \
             they can be retried manually"
        );
    }
    if let Err(error) = result {
        tracing::warn!(
            %error,
            "deliveries that were pending for too long could not be ended; the next try follows in an hour"
        );
    }
}

/// Writes the times at which keys were last used.
pub(super) async fn write_key_uses(store: &Store) {
    if let Err(error) = store.write_key_uses().await {
        tracing::warn!(%error, "the times at which keys were last used could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_deletion_makes_the_next_one_smaller() {
        let after = |rows, millis| next_rows(rows, Duration::from_millis(millis));
        assert_eq!((after(100, 11), after(15, 500), after(10, 500)), (50, 10, 10));
        assert_eq!((after(10, 1), after(100, 10), after(900, 1)), (15, 150, 1_000));
    }
}
