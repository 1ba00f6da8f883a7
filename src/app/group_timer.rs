//! The expiry of groups: a timer for the next one.
//!
//! The timer is set at the start from the store, and by each commit with a new group. A group expires by the wall clock.
//! After the clock was set forward by more than five minutes, groups expire for a while as if it had not been set, as
//! watches do (`clock::trust`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::background::Never;
use crate::clock::Clock;
use crate::clock::trust::ClockTrust;
use crate::domain::Timestamp;
use crate::store::{ExpireGroups, Mailbox, Store, StoreError, WRITE_RETRY_PAUSE};

/// The timer.
#[derive(Debug)]
pub(super) struct GroupTimer {
    clock: Clock,
    /// Expiries of new groups.
    created: Arc<Mailbox<Timestamp>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The next expiry.
    next: Option<Timestamp>,
    /// By how much the clock is ahead of the one that is trusted, and until when.
    doubt: Option<(Duration, Timestamp)>,
}

impl State {
    /// Returns the time at which something is due.
    fn due_at(&self) -> Option<Timestamp> {
        let next = self.next?;
        Some(self.doubt.map_or(next, |(lead, until)| next.plus(lead).min(until)))
    }
}

impl GroupTimer {
    pub(super) fn new(clock: Clock, store: &Store) -> Self {
        Self { clock, created: store.group_expiries(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the timer from the store.
    pub(super) async fn load(&self, store: &Store) -> Result<(), StoreError> {
        let next = store.next_group_expiry().await?;
        self.state().next = next;
        Ok(())
    }

    /// Returns when the timer works next.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        if self.created.is_empty() { self.state().due_at() } else { Some(self.clock.now()) }
    }

    /// Ends groups when they expire.
    pub(super) async fn run(&self, store: &Store) -> Never {
        let (now, moment) = self.clock.reading();
        let mut trust = ClockTrust::for_expiries(now, moment);
        loop {
            let due_at = self.state().due_at();
            tokio::select! {
                () = self.created.arrived() => {}
                () = self.clock.sleep_until(due_at.unwrap_or_default()), if due_at.is_some() => {}
            }
            let (now, moment) = self.clock.reading();
            trust.judge(now, moment);
            let lead = trust.lead(now, moment);
            let until = now.minus(lead.map(|(lead, _)| lead).unwrap_or_default());
            {
                let mut state = self.state();
                state.next = self.created.take().into_iter().chain(state.next).min();
                state.doubt = lead.map(|(lead, left)| (lead, now.plus(left)));
                if state.next.is_none_or(|next| next > until) {
                    continue;
                }
            }
            match store.expire_groups(ExpireGroups { until, now }).await {
                Ok(next) => self.state().next = next,
                Err(error) => {
                    tracing::warn!(%error, "groups that have expired could not be ended; the next try follows in a second");
                    self.clock.sleep(WRITE_RETRY_PAUSE).await;
                }
            }
        }
    }
}
