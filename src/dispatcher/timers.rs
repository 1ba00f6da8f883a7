//! Timers of queues and origins, at most one for each name.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::domain::Timestamp;

/// Names with a time each, in the order of their times.
#[derive(Debug, Default)]
pub(super) struct Timers {
    by_time: BTreeSet<(Timestamp, Arc<str>)>,
    of_name: HashMap<Arc<str>, Timestamp>,
}

impl Timers {
    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }

    /// Sets the timer of a name, unless it has an earlier one.
    pub(super) fn set(&mut self, name: &Arc<str>, at: Timestamp) {
        match self.of_name.get(name) {
            Some(earliest) if *earliest <= at => return,
            Some(later) => self.by_time.remove(&(*later, Arc::clone(name))),
            None => false,
        };
        self.of_name.insert(Arc::clone(name), at);
        self.by_time.insert((at, Arc::clone(name)));
    }

    /// Returns the time of the first timer.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Removes and returns the first name whose time is not after `until`.
    pub(super) fn expire(&mut self, until: Timestamp) -> Option<Arc<str>> {
        let (_, name) = self.by_time.first().filter(|(at, _)| *at <= until)?;
        let name = Arc::clone(name);
        self.by_time.pop_first();
        self.of_name.remove(&name);
        Some(name)
    }

    /// Returns all names, in the order of their times.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_time.iter().map(|(_, name)| name)
    }

    /// Removes the timer of a name, and returns its time.
    pub(super) fn remove(&mut self, name: &Arc<str>) -> Option<Timestamp> {
        let at = self.of_name.remove(name)?;
        self.by_time.remove(&(at, Arc::clone(name)));
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_timer_and_the_earliest_one_counts() {
        let (mut timers, at) = (Timers::default(), Timestamp::from_millis);
        let names: [Arc<str>; 2] = ["a".into(), "b".into()];
        for millis in [5, 3, 4, 3, 9] {
            timers.set(&names[0], at(millis));
        }
        timers.set(&names[1], at(4));
        assert_eq!((timers.len(), timers.of_name.len(), timers.next()), (2, 2, Some(at(3))));
        assert_eq!(timers.expire(at(2)), None);
        assert_eq!((timers.expire(at(4)), timers.expire(at(4))), (Some("a".into()), Some("b".into())));
        assert!(timers.is_empty() && timers.of_name.is_empty());
        timers.set(&names[0], at(1));
        timers.set(&names[1], at(0));
        assert!(timers.names().eq([&names[1], &names[0]]));
        assert_eq!((timers.remove(&names[0]), timers.remove(&names[0])), (Some(at(1)), None));
        assert_eq!((timers.len(), timers.of_name.len(), timers.next()), (1, 1, Some(at(0))));
    }
}
