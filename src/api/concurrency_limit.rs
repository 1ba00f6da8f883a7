//! ConcurrencyLimiter for requests of which only so many are taken at a time. No app takes the last places of it: there is
//! always one for another app.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::{AppNo, per_app_limit};

/// So many places.
#[derive(Debug)]
pub struct ConcurrencyLimiter {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    each: HashMap<AppNo, usize>,
}

/// A place in a room, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    room: Arc<ConcurrencyLimiter>,
    app: AppNo,
}

impl ConcurrencyLimiter {
    /// A room with so many places.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// A place, if there is one for this app.
    pub fn take(self: &Arc<Self>, app: AppNo) -> Option<Permit> {
        let mut taken = self.taken();
        let of_app = taken.each.get(&app).copied().unwrap_or_default();
        if taken.all >= self.most || of_app >= per_app_limit(self.most) {
            return None;
        }
        taken.all += 1;
        taken.each.insert(app, of_app + 1);
        Some(Permit { room: Arc::clone(self), app })
    }

    /// How many places are taken.
    pub fn count(&self) -> usize {
        self.taken().all
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.all -= 1;
        if let Some(of_app) = taken.each.get_mut(&self.app) {
            *of_app -= 1;
            if *of_app == 0 {
                taken.each.remove(&self.app);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_app_takes_the_last_places() {
        let (room, one, two) = (ConcurrencyLimiter::new(8), AppNo(1), AppNo(2));
        let seats: Vec<Permit> = std::iter::from_fn(|| room.take(one)).collect();
        assert_eq!(seats.len(), 7);
        let other = room.take(two).expect("a place is left");
        assert!(room.take(two).is_none() && room.take(one).is_none(), "and then none");
        assert_eq!(room.count(), 8);
        drop(seats);
        assert!(room.take(one).is_some());
        drop(other);
        assert_eq!((room.count(), room.taken().each.len()), (0, 0));
    }
}
