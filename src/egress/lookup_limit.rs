//! A limit on the concurrent lookups of names at registration.
//!
//! A name whose servers are silent occupies sockets for the whole time of a lookup, and one batch can contain thousands
//! of such names. One app uses at most seven eighths of the limit, so that the lookups of another app always find a
//! place. Further lookups of the app wait for each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::{AppNo, per_app_limit};

/// Limits concurrent lookups.
#[derive(Debug)]
pub(super) struct LookupLimiter {
    limit: usize,
    all: Arc<Semaphore>,
    /// The shares of the apps, of which there are few.
    by_app: Mutex<HashMap<AppNo, Arc<Semaphore>>>,
}

/// The right to make one lookup, until it is dropped.
pub(super) struct LookupPermit {
    _of_app: Option<OwnedSemaphorePermit>,
    _of_all: Option<OwnedSemaphorePermit>,
}

impl LookupLimiter {
    /// Creates a limiter of `limit` lookups.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, all: Arc::new(Semaphore::new(limit)), by_app: Mutex::default() }
    }

    /// Waits for a permit.
    pub(super) async fn acquire(&self, app: AppNo) -> LookupPermit {
        let of_app = {
            let mut by_app = self.by_app.lock().unwrap_or_else(PoisonError::into_inner);
            let share = || Arc::new(Semaphore::new(per_app_limit(self.limit)));
            Arc::clone(by_app.entry(app).or_insert_with(share))
        };
        // The semaphores are never closed. In this order, an app waits for others only within its share.
        let of_app = of_app.acquire_owned().await.ok();
        LookupPermit { _of_app: of_app, _of_all: Arc::clone(&self.all).acquire_owned().await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn silent_names_of_one_app_leave_lookups_to_the_others() {
        let limiter = LookupLimiter::new(16);
        let acquire = |app| limiter.acquire(AppNo(app)).now_or_never();
        let mut permits: Vec<LookupPermit> = std::iter::from_fn(|| acquire(1)).collect();
        assert_eq!(permits.len(), 14);
        let mut waiting = Box::pin(limiter.acquire(AppNo(1)));
        assert!((&mut waiting).now_or_never().is_none());
        let others = [acquire(2), acquire(2)];
        assert!(others.iter().all(Option::is_some) && acquire(2).is_none());
        permits.pop();
        assert!(waiting.now_or_never().is_some());
    }
}
