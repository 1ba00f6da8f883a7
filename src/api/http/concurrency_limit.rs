//! A limit on concurrent requests of one kind. No app can use all of it, so another app always finds a permit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{AppNo, per_app_limit};

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

    /// Returns a permit, or `None` if the limit, or the app's share of it, is reached.
    pub fn try_acquire(self: &Arc<Self>, app: AppNo) -> Option<Permit> {
        let mut in_use = self.in_use();
        let of_app = in_use.by_app.get(&app).copied().unwrap_or_default();
        if in_use.total >= self.limit || of_app >= per_app_limit(self.limit) {
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
    fn no_app_uses_all_permits() {
        let (limiter, first, second) = (ConcurrencyLimiter::new(8), AppNo(1), AppNo(2));
        let permits: Vec<Permit> = std::iter::from_fn(|| limiter.try_acquire(first)).collect();
        assert_eq!(permits.len(), 7);
        let other = limiter.try_acquire(second).expect("a permit is left");
        assert!(limiter.try_acquire(second).is_none() && limiter.try_acquire(first).is_none());
        assert_eq!(limiter.in_use_count(), 8);
        drop(permits);
        assert!(limiter.try_acquire(first).is_some());
        drop(other);
        assert_eq!((limiter.in_use_count(), limiter.in_use().by_app.len()), (0, 0));
    }
}
