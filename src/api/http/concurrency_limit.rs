//! A limit on concurrent requests of one kind. Apps that use all they may leave permits for the next one.
//!
//! An app gets a permit while it has fewer than are free. One app alone gets half of the permits, two leave a quarter
//! free, and so on. With a fixed share of more than half, two apps could use up all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::AppNo;

/// Limits the number of concurrent requests, in all and of each app.
#[derive(Debug)]
pub struct ConcurrencyLimiter {
    limit: usize,
    in_use: Mutex<InUse>,
}

#[derive(Debug, Default)]
struct InUse {
    total: usize,
    by_app: HashMap<AppNo, usize>,
}

/// The right to run one request, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    limiter: Arc<ConcurrencyLimiter>,
    app: AppNo,
}

impl ConcurrencyLimiter {
    /// Makes a limiter with this many permits.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, in_use: Mutex::default() })
    }

    /// Returns a permit, or `None` if the app has as many as are free.
    pub fn try_acquire(self: &Arc<Self>, app: AppNo) -> Option<Permit> {
        let mut in_use = self.in_use();
        let of_app = in_use.by_app.get(&app).copied().unwrap_or_default();
        if of_app >= self.limit - in_use.total {
            return None;
        }
        in_use.total += 1;
        in_use.by_app.insert(app, of_app + 1);
        Some(Permit { limiter: Arc::clone(self), app })
    }

    /// Number of permits in use.
    pub fn in_use_count(&self) -> usize {
        self.in_use().total
    }

    fn in_use(&self) -> MutexGuard<'_, InUse> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut in_use = self.limiter.in_use();
        in_use.total -= 1;
        if let Some(of_app) = in_use.by_app.get_mut(&self.app) {
            *of_app -= 1;
            if *of_app == 0 {
                in_use.by_app.remove(&self.app);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_apps_that_take_all_they_may_leave_permits_for_a_third() {
        let limiter = ConcurrencyLimiter::new(8);
        let fill = |app| -> Vec<Permit> { std::iter::from_fn(|| limiter.try_acquire(AppNo(app))).collect() };
        let (first, second, third) = (fill(1), fill(2), fill(3));
        assert_eq!((first.len(), second.len(), third.len()), (4, 2, 1));
        assert_eq!(limiter.in_use_count(), 7);
        drop(first);
        assert_eq!(fill(2).len(), 2);
        drop((second, third));
        assert_eq!(limiter.in_use_count(), 0);
        assert!(limiter.in_use().by_app.is_empty());
    }
}
