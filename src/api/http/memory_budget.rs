//! A budget for the memory of requests and answers, in bytes.
//!
//! Limits on numbers do not limit memory: 400 connections that each request a list of nine megabytes and read nothing
//! held 4 GiB, 4,090 unfinished bodies of 256 KiB held one. So everything that a client can make the server hold is
//! counted in bytes: the body of a request from the first byte that arrives, and the answer until the kernel has taken
//! its last byte.
//!
//! **What is counted.** The first [`SMALL`] bytes of a body and of an answer are not counted: the number of
//! connections bounds them, and small requests of an app that is over its budget still work. The head of a request is
//! at most 16 KiB. Public documents are static, and shared by all answers. Parsed data takes up to twice the bytes of
//! its text, and lives only while its request is worked on.
//!
//! **How much an app may use.** No more than what remains free afterwards. One app alone gets half of the budget, two
//! get a third each, and so on: those who hold memory always leave as much for the next app as each of them has.
//! A fixed share would not do: with seven eighths for one app, two apps use up everything.
//!
//! **Reads leave room for writes.** A key that can only read could otherwise make its own app refuse registrations, with
//! streams and lists that nobody reads. So the answers to reads get three quarters of what the app may use.
//!
//! **An app over its budget** is refused with 503 and `Retry-After`, as soon as it is known: while a body arrives, or
//! after an answer was made, whose memory is released. A stream of events waits instead.
//!
//! **Answers to writes.** The answer to a committed write is always sent. Many such answers are larger than the body of
//! their request, which may not be counted at all. So the memory of the answer is reserved while nothing is committed
//! ([`HeldMemory::try_extend`]), and a write that gets none is refused. The size is exact, or an upper estimate. Only
//! what the job's polls have found meanwhile can make an answer larger; then the app may hold more than half of the
//! budget, and its next write with such an answer is refused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::body::Bytes;

use crate::domain::AppNo;

/// Memory of all requests and answers, in bytes.
pub const MEMORY_MAX: usize = 128 * 1024 * 1024;

/// Size of a body or an answer that is not counted, in bytes.
pub(super) const SMALL: usize = 8 * 1024;

/// The app of requests without a key.
pub(super) const WITHOUT_KEY: AppNo = AppNo(0);

/// The memory of requests and answers, in all and of each app.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    /// Number of bytes in use. It changes only with the lock of `by_app`.
    total: AtomicUsize,
    by_app: Mutex<HashMap<AppNo, usize>>,
}

/// Memory that one request holds, until it is dropped.
#[derive(Debug)]
pub struct HeldMemory {
    budget: Arc<MemoryBudget>,
    app: AppNo,
    bytes: usize,
}

/// How much of the memory an app may use with a request.
#[derive(Clone, Copy)]
enum Share {
    Whole,
    OfReads,
    Unlimited,
}

impl MemoryBudget {
    /// Creates a budget of so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, total: AtomicUsize::new(0), by_app: Mutex::default() })
    }

    /// Returns an empty reservation of an app. `None`: the request has no key.
    pub fn hold(self: &Arc<Self>, app: Option<AppNo>) -> HeldMemory {
        HeldMemory { budget: Arc::clone(self), app: app.unwrap_or(WITHOUT_KEY), bytes: 0 }
    }

    /// Number of bytes in use.
    pub fn in_use_bytes(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AppNo, usize>> {
        self.by_app.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldMemory {
    /// Whether no memory is held: small texts are not counted.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Assigns an empty reservation to an app.
    pub(super) fn belongs_to(&mut self, app: AppNo) {
        if self.bytes == 0 {
            self.app = app;
        }
    }

    /// Changes the reservation to what a text of so many bytes needs. Returns `false`, and changes nothing, if the
    /// app would use more than what remains free.
    #[must_use]
    pub fn try_resize(&mut self, bytes: usize) -> bool {
        self.set(bytes, Share::Whole)
    }

    /// Does the same for the answer to a read, which leaves a part of the app's memory to writes.
    #[must_use]
    pub fn try_resize_for_read(&mut self, bytes: usize) -> bool {
        self.set(bytes, Share::OfReads)
    }

    /// Extends the reservation to what the answer to a write needs, before the write is committed. Returns `false`, and
    /// changes nothing, if the app would use more than what remains free, or holds more than half of the budget:
    /// only answers that were larger than their reservations lead to that.
    #[must_use]
    pub(super) fn try_extend(&mut self, bytes: usize) -> bool {
        let half = self.budget.limit / 2;
        // Usually little is in use, so that no app can hold more than half, and the lock is not needed.
        let holds_half = || self.budget.lock().get(&self.app).is_some_and(|of_app| *of_app > half);
        let is_refused = self.budget.in_use_bytes() > half && holds_half();
        !is_refused && (bytes <= self.bytes || self.try_resize(bytes))
    }

    /// Changes the reservation to what a text of so many bytes needs, whatever remains free.
    pub fn resize(&mut self, bytes: usize) {
        self.set(bytes, Share::Unlimited);
    }

    fn set(&mut self, bytes: usize, share: Share) -> bool {
        let bytes = if bytes <= SMALL { 0 } else { bytes };
        if bytes == self.bytes {
            return true;
        }
        let mut by_app = self.budget.lock();
        let of_app = by_app.get(&self.app).copied().unwrap_or_default() - self.bytes + bytes;
        let total = self.budget.in_use_bytes() - self.bytes + bytes;
        let free = self.budget.limit.saturating_sub(total);
        let is_granted = match share {
            Share::Unlimited => true,
            Share::Whole => of_app <= free,
            Share::OfReads => of_app <= free - free / 4,
        };
        if bytes > self.bytes && !is_granted {
            return false;
        }
        self.budget.total.store(total, Ordering::Relaxed);
        if of_app == 0 {
            by_app.remove(&self.app);
        } else {
            by_app.insert(self.app, of_app);
        }
        self.bytes = bytes;
        true
    }

    /// Attaches the reservation to the bytes that it was made for: it ends with the last reference to them, which is
    /// when the connection has written them.
    pub fn attach(self, bytes: Bytes) -> Bytes {
        if self.bytes == 0 { bytes } else { Bytes::from_owner(Attached { bytes, _memory: self }) }
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.resize(0);
    }
}

struct Attached {
    bytes: Bytes,
    _memory: HeldMemory,
}

impl AsRef<[u8]> for Attached {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    /// Lets an app hold as much as it can, in pieces. Returns the pieces.
    fn fill(budget: &Arc<MemoryBudget>, app: i64) -> Vec<HeldMemory> {
        let piece = || {
            let mut piece = budget.hold(Some(AppNo(app)));
            piece.try_resize(MIB).then_some(piece)
        };
        std::iter::from_fn(piece).collect()
    }

    #[test]
    fn apps_that_use_all_they_may_leave_memory_for_the_next() {
        let budget = MemoryBudget::new(128 * MIB);
        let all: Vec<Vec<HeldMemory>> = (1..=4).map(|app| fill(&budget, app)).collect();
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [64, 32, 16, 8]);
        assert_eq!(budget.in_use_bytes(), 120 * MIB);
        // An app that holds less than what is free can continue; one that holds more cannot.
        assert_eq!((fill(&budget, 1).len(), fill(&budget, 5).len()), (0, 4));
        drop(all);
        assert_eq!(budget.in_use_bytes(), 0);
        assert!(budget.lock().is_empty());
    }

    #[test]
    fn reads_leave_memory_for_the_writes_of_their_app() {
        let budget = MemoryBudget::new(128 * MIB);
        let read = || {
            let mut piece = budget.hold(Some(AppNo(1)));
            piece.try_resize_for_read(MIB).then_some(piece)
        };
        let reads: Vec<HeldMemory> = std::iter::from_fn(read).collect();
        let writes = fill(&budget, 1);
        assert!((50..64).contains(&reads.len()) && reads.len() + writes.len() == 64, "{}", reads.len());
    }

    #[test]
    fn small_texts_are_not_counted() {
        let budget = MemoryBudget::new(MIB);
        let mut held = budget.hold(None);
        assert!(held.try_resize(SMALL));
        assert_eq!(budget.in_use_bytes(), 0);
        assert!(held.try_resize(SMALL + 1) && !held.try_resize(MIB));
        assert_eq!(budget.in_use_bytes(), SMALL + 1);
        held.resize(2 * MIB);
        let mut other = budget.hold(Some(AppNo(1)));
        assert!(!other.try_resize(SMALL + 1) && other.try_resize(SMALL));
    }

    #[test]
    fn a_reservation_for_an_answer_is_extended_and_never_reduced() {
        let budget = MemoryBudget::new(4 * MIB);
        let mut held = budget.hold(Some(AppNo(1)));
        assert!(held.try_extend(SMALL) && held.try_extend(MIB) && held.try_extend(SMALL));
        assert_eq!(budget.in_use_bytes(), MIB);
        assert!(!held.try_extend(2 * MIB + 1) && held.try_extend(2 * MIB));
        // An answer that was larger than its reservation leads to the refusal of every further one.
        held.resize(2 * MIB + 1);
        assert!(!held.try_extend(SMALL) && !budget.hold(Some(AppNo(1))).try_extend(1));
        assert!(budget.hold(Some(AppNo(2))).try_extend(MIB / 2));
    }

    #[test]
    fn attached_memory_is_free_when_its_bytes_are() {
        let budget = MemoryBudget::new(MIB);
        let mut held = budget.hold(None);
        held.resize(10_000);
        let bytes = held.attach(Bytes::from(vec![1; 10_000]));
        let part = bytes.slice(9_000..);
        drop(bytes);
        assert_eq!((budget.in_use_bytes(), part.len()), (10_000, 1_000));
        drop(part);
        assert_eq!(budget.in_use_bytes(), 0);
    }
}
