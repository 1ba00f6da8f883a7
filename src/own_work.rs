//! The work that definitions of apps cause: to parse them, to make requests, and to read answers with them.
//!
//! A client writes such a definition, and perhaps the answers as well, so both may be made to take as long and as much
//! memory as their limits allow (`providers/own_definition`).
//!
//! **One piece of work at a time**, on a thread of its own: whatever apps define, one core is left for everything else.
//! **The apps take turns**: work of an app waits for at most one piece of each other app. **A wait has an end**
//! ([`WAIT_MAX`]), so that no poll, and no request, hangs on the work of others: a poll fails then, and its watches can
//! expire.
//!
//! **What is parsed is kept** ([`AppCache`]), because a batch can name a definition a thousand times, and polls need it
//! again. The cache is limited in bytes, which the apps share.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::{AppNo, Id};
use crate::providers::{Definition, Mistake};
use crate::store::{FairSemaphore, Store, StoreError};

/// Longest wait for a turn.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Memory of the definitions that are kept, in KiB.
const PARSED_KIB: u32 = 32 * 1024;

/// What a poll or a request says that had no turn in time.
const BUSY: &str = "busy: the server had no time for the definitions of apps";

/// Runs the work of all apps.
#[derive(Debug)]
pub struct OwnWork {
    turns: Arc<FairSemaphore>,
    clock: Clock,
    /// Definitions by the ids of their versions.
    parsed: AppCache<Id, Arc<Definition>>,
}

/// Reason why work was not done.
#[derive(Debug, PartialEq, Eq)]
pub enum NotDone {
    /// There was no turn in time.
    Busy,
    /// The service stops.
    Stopping,
}

impl std::fmt::Display for NotDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Busy => BUSY,
            Self::Stopping => "the service stops",
        })
    }
}

/// Reason why there is no definition.
#[derive(Debug)]
pub enum NoDefinition {
    /// It was not parsed.
    NotDone(NotDone),
    /// The version was deleted.
    Deleted,
    /// This version of the program refuses it: the first mistake.
    Refused(String),
    /// The store cannot be read now.
    Store(StoreError),
}

impl OwnWork {
    /// Creates an instance without work.
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { turns: FairSemaphore::new(1, 1), clock, parsed: AppCache::new(PARSED_KIB) })
    }

    /// Runs work of an app when it is the app's turn.
    pub async fn run<T: Send + 'static>(
        &self,
        app: AppNo,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let turn = self.clock.timeout(WAIT_MAX, self.turns.acquire(app)).await.ok_or(NotDone::Busy)?;
        on_thread(move || {
            let done = work();
            // Also if the future is dropped, the turn lasts as long as the work.
            drop(turn);
            done
        })
        .await
    }

    /// Parses a definition of an app.
    pub async fn parse(
        &self,
        app: AppNo,
        text: Arc<String>,
    ) -> Result<Result<Definition, Vec<Mistake>>, NotDone> {
        self.run(app, move || Definition::parse_own(&text)).await
    }

    /// Returns a version of a definition of an app, which is read from the store if it is not kept.
    pub async fn definition(
        self: &Arc<Self>,
        store: &Store,
        app: AppNo,
        version: Id,
    ) -> Result<Arc<Definition>, NoDefinition> {
        if let Some(known) = self.parsed.get(&version) {
            return Ok(known);
        }
        let text = store.definition_text(version).await.map_err(NoDefinition::Store)?;
        let text = text.ok_or(NoDefinition::Deleted)?;
        let work = Arc::clone(self);
        let parsed = self.run(app, move || {
            // Others may have waited for the same definition.
            if let Some(known) = work.parsed.get(&version) {
                return Ok(known);
            }
            let definition = Arc::new(Definition::parse_own_stored(text.reveal())?);
            work.parsed.put(app, version, definition.own_kib(), Arc::clone(&definition));
            Ok(definition)
        });
        parsed.await.map_err(NoDefinition::NotDone)?.map_err(|mistakes: Vec<Mistake>| {
            NoDefinition::Refused(mistakes.first().map(ToString::to_string).unwrap_or_default())
        })
    }
}

/// Does work on a thread of its own. A panic of the work is passed on.
pub async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, NotDone> {
    tokio::task::spawn_blocking(work).await.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => NotDone::Stopping,
    })
}

/// Values that are kept for apps, up to a size of all of them together. If there is no space for a new one, that of the
/// app with the largest part gives way which was used least recently.
#[derive(Debug)]
pub struct AppCache<K, V> {
    most_kib: u32,
    kept: Mutex<Kept<K, V>>,
}

#[derive(Debug)]
struct Kept<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Sizes by app, in KiB.
    of_app: HashMap<AppNo, u32>,
    uses: u64,
}

#[derive(Debug)]
struct Entry<V> {
    app: AppNo,
    kib: u32,
    value: V,
    /// Number of the last use.
    used: u64,
}

impl<K: Eq + Hash + Clone, V: Clone> AppCache<K, V> {
    /// Creates a cache that keeps this many KiB.
    pub fn new(most_kib: u32) -> Self {
        let kept = Kept { entries: HashMap::new(), of_app: HashMap::new(), uses: 0 };
        Self { most_kib, kept: Mutex::new(kept) }
    }

    /// Returns a value that is kept.
    pub fn get(&self, key: &K) -> Option<V> {
        let mut kept = self.kept();
        kept.uses += 1;
        let uses = kept.uses;
        let entry = kept.entries.get_mut(key)?;
        entry.used = uses;
        Some(entry.value.clone())
    }

    /// Keeps a value of an app, unless the key has one. Returns the one that is kept.
    pub fn put(&self, app: AppNo, key: K, kib: u32, value: V) -> V {
        let mut kept = self.kept();
        kept.uses += 1;
        let used = kept.uses;
        if let Some(known) = kept.entries.get_mut(&key) {
            known.used = used;
            return known.value.clone();
        }
        kept.entries.insert(key, Entry { app, kib, value: value.clone(), used });
        *kept.of_app.entry(app).or_default() += kib;
        while kept.of_app.values().sum::<u32>() > self.most_kib && kept.remove_one(used) {}
        value
    }

    fn kept(&self) -> MutexGuard<'_, Kept<K, V>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone, V> Kept<K, V> {
    /// Removes the value that gives way, but not the one that was used now. Returns whether there was one.
    fn remove_one(&mut self, now: u64) -> bool {
        let mut apps: Vec<(u32, AppNo)> = self.of_app.iter().map(|(app, kib)| (*kib, *app)).collect();
        apps.sort_unstable();
        let oldest = apps.iter().rev().find_map(|(_, app)| {
            let of_app = self.entries.iter().filter(|(_, entry)| entry.app == *app && entry.used != now);
            of_app.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone())
        });
        let removed = oldest.and_then(|key| self.entries.remove(&key));
        if let Some(Entry { app, kib, .. }) = &removed
            && let Some(left) = self.of_app.get_mut(app)
        {
            *left -= kib;
            if *left == 0 {
                self.of_app.remove(app);
            }
        }
        removed.is_some()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;

    #[test]
    fn the_app_with_the_largest_part_gives_way() {
        let cache = AppCache::new(100);
        for n in 0..9 {
            assert_eq!(cache.put(AppNo(1), n, 10, n), n);
        }
        cache.put(AppNo(2), 100, 10, 100);
        assert_eq!(cache.get(&0), Some(0));
        // There is no space left: the first of the larger app gives way that was not used again.
        cache.put(AppNo(2), 101, 20, 101);
        assert_eq!(
            [0, 1, 2, 3, 100, 101].map(|key| cache.get(&key).is_some()),
            [true, false, false, true, true, true]
        );
        assert_eq!(cache.put(AppNo(2), 101, 20, 7), 101, "the one that is kept");
        // One that is larger than the cache is kept alone.
        cache.put(AppNo(3), 200, 1_000, 200);
        assert_eq!(
            [0, 3, 100, 101, 200].map(|key| cache.get(&key).is_some()),
            [false, false, false, false, true]
        );
        cache.put(AppNo(1), 0, 10, 0);
        assert_eq!((cache.get(&200), cache.get(&0)), (None, Some(0)));
        assert_eq!(cache.kept().of_app, HashMap::from([(AppNo(1), 10)]));
    }

    #[tokio::test]
    async fn work_of_one_app_waits_for_a_turn_and_not_for_ever() {
        let clock = ManualClock::at(Timestamp::from_millis(0));
        let work = OwnWork::new(Clock::Manual(clock.clone()));
        let (start, started) = std::sync::mpsc::channel::<()>();
        let mut first = Box::pin(work.run(AppNo(1), move || started.recv().is_ok()));
        assert!((&mut first).now_or_never().is_none());
        let mut own = Box::pin(work.run(AppNo(1), || 1));
        assert!((&mut own).now_or_never().is_none());
        drop(start);
        assert_eq!((first.await, own.await), (Ok(false), Ok(1)));
        let turn = work.turns.acquire(AppNo(1)).await;
        let mut late = Box::pin(work.run(AppNo(2), || ()));
        assert!((&mut late).now_or_never().is_none());
        clock.advance(WAIT_MAX);
        assert_eq!(late.await, Err(NotDone::Busy));
        drop(turn);
        assert_eq!(work.run(AppNo(2), || 2).await, Ok(2));
    }
}
