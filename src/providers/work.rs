//! A limit of the work that reading one answer may cause.
//!
//! The time depends on the answer and on the definition together: forty rules about every item of a list, each with a
//! hundred words, take a hundred million comparisons for a list of some KiB. If an app writes both, neither limit of its own
//! is enough. So each visit of a value and each comparison is counted while an answer is read for an app, and beyond
//! [`MOST`] the answer counts as unreadable.
//!
//! The counter belongs to the thread: an answer is read on one thread, without waiting, and every function that visits
//! values would have to pass it on.

use std::cell::Cell;

/// Units of work for one answer: a value that is visited, or a member of an object that is compared. A million takes
/// about 10 ms.
const MOST: u64 = 2_000_000;

/// Units for one comparison with a constant.
pub(super) const COMPARISON: usize = 8;

thread_local! {
    /// What is left; `None`: there is no limit.
    static LEFT: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Ends the limit, also after a panic.
struct Limit;

impl Drop for Limit {
    fn drop(&mut self) {
        LEFT.set(None);
    }
}

/// Bytes of a text that are read or copied for one unit.
const BYTES: usize = 16;

/// Answers that the examples of a definition may together take as much work as.
const EXAMPLES: u64 = 4;

/// Does limited work for one answer. Returns `None` if it was too much: its result is not complete then.
pub(super) fn limited<T>(work: impl FnOnce() -> T) -> Option<T> {
    within(MOST, work)
}

/// Does the same for all examples of a definition together.
pub(super) fn limited_examples<T>(work: impl FnOnce() -> T) -> Option<T> {
    within(EXAMPLES * MOST, work)
}

fn within<T>(most: u64, work: impl FnOnce() -> T) -> Option<T> {
    LEFT.set(Some(most));
    let _limit = Limit;
    let done = work();
    LEFT.get().is_some_and(|left| left > 0).then_some(done)
}

/// Counts work that follows. Returns whether it may be done.
pub(super) fn spend(units: usize) -> bool {
    LEFT.get().is_none_or(|left| {
        let left = left.saturating_sub(units as u64);
        LEFT.set(Some(left));
        left > 0
    })
}

/// Counts the bytes of a text that is read or copied. `None`: that may not be done.
pub(super) fn spend_on(bytes: usize) -> Option<()> {
    spend(1 + bytes / BYTES).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_limited_until_it_ends() {
        assert!(spend(usize::MAX), "there is no limit");
        assert_eq!(limited(|| spend(1_000)), Some(true));
        let most = usize::try_from(MOST).expect("it fits");
        assert_eq!(limited(|| spend(most - 1)), Some(true));
        assert_eq!(limited(|| (spend(most - 1), spend(1), spend(1))), None);
        assert!(std::panic::catch_unwind(|| limited(|| panic!("a bug"))).is_err());
        assert!(spend(most) && spend(most));
    }
}
