//! The unused connections of the HTTP clients, bounded in all.
//!
//! A limit for each host would be none: one tenant that notifies 9,000 hosts would hold 9,000 descriptors. When the
//! pool is full, the connection that has been unused for the longest time is closed.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Moment};

/// Maximum time for which an unused connection stays open. Servers and load balancers close after a minute; with
/// a shorter time fewer requests meet a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Unused connections, by their destination.
pub(super) struct Pool<K, C> {
    max: usize,
    clock: Clock,
    idle: Mutex<Idle<K, C>>,
}

struct Idle<K, C> {
    /// The connections of each destination, the one that was unused for the longest time first.
    connections: HashMap<Arc<K>, VecDeque<Unused<C>>>,
    /// The destinations of all connections, in the same order.
    order: BTreeMap<u64, Arc<K>>,
    next: u64,
    is_swept: bool,
}

struct Unused<C> {
    number: u64,
    since: Moment,
    connection: C,
}

impl<K: Eq + Hash, C> Idle<K, C> {
    /// Removes the connection that has been unused for the longest time.
    fn pop_oldest(&mut self) -> Option<C> {
        let (_, key) = self.order.pop_first()?;
        let of_key = self.connections.get_mut(&key)?;
        let oldest = of_key.pop_front();
        if of_key.is_empty() {
            self.connections.remove(&key);
        }
        Some(oldest?.connection)
    }

    /// Removes the connections that are unused since before `oldest`.
    fn close_before(&mut self, now: Moment) {
        while let Some((_, key)) = self.order.first_key_value()
            && let Some(unused) = self.connections.get(key).and_then(VecDeque::front)
            && now.since(unused.since) >= IDLE_TIMEOUT
        {
            self.pop_oldest();
        }
    }
}

impl<K: Eq + Hash + Send + Sync + 'static, C: Send + 'static> Pool<K, C> {
    /// Creates a pool of at most `max` connections.
    pub(super) fn new(max: usize, clock: Clock) -> Arc<Self> {
        let idle = Idle { connections: HashMap::new(), order: BTreeMap::new(), next: 0, is_swept: false };
        Arc::new(Self { max, clock, idle: Mutex::new(idle) })
    }

    /// Takes the connection to a destination that was used last.
    pub(super) fn take<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<C>
    where
        Arc<K>: Borrow<Q>,
    {
        let mut idle = self.idle();
        idle.close_before(self.clock.moment());
        let of_key = idle.connections.get_mut(key)?;
        let Unused { number, connection, .. } = of_key.pop_back()?;
        if of_key.is_empty() {
            idle.connections.remove(key);
        }
        idle.order.remove(&number);
        Some(connection)
    }

    /// Closes the unused connections to a destination that has closed one of them.
    pub(super) fn forget<Q: Eq + Hash + ?Sized>(&self, key: &Q)
    where
        Arc<K>: Borrow<Q>,
    {
        while self.take(key).is_some() {}
    }

    /// Keeps a connection for a later request.
    pub(super) fn put(self: &Arc<Self>, key: Arc<K>, connection: C) {
        let mut idle = self.idle();
        let (number, since) = (idle.next, self.clock.moment());
        idle.next += 1;
        idle.order.insert(number, Arc::clone(&key));
        idle.connections.entry(key).or_default().push_back(Unused { number, since, connection });
        while idle.order.len() > self.max {
            idle.pop_oldest();
        }
        if !std::mem::replace(&mut idle.is_swept, true) {
            tokio::spawn(Arc::clone(self).sweep());
        }
    }

    /// Closes connections that were unused for too long, until none is left.
    async fn sweep(self: Arc<Self>) {
        loop {
            self.clock.sleep(IDLE_TIMEOUT).await;
            let mut idle = self.idle();
            idle.close_before(self.clock.moment());
            if idle.order.is_empty() {
                idle.is_swept = false;
                return;
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle<K, C>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;

    fn pool(max: usize) -> (Arc<Pool<u16, u32>>, ManualClock) {
        let clock = ManualClock::at(Timestamp::from_millis(0));
        (Pool::new(max, Clock::Manual(clock.clone())), clock)
    }

    #[tokio::test]
    async fn the_pool_is_bounded_over_all_hosts() {
        let (pool, _) = pool(8);
        for n in 0..9_000 {
            pool.put(Arc::new(n), u32::from(n));
        }
        assert_eq!(pool.idle().connections.values().map(VecDeque::len).sum::<usize>(), 8);
        assert_eq!(pool.take(&8_991), None);
        assert_eq!((pool.take(&8_992), pool.take(&8_992)), (Some(8_992), None));
        assert_eq!(pool.take(&8_999), Some(8_999));
        assert_eq!(pool.idle().order.len(), 6);
    }

    #[tokio::test]
    async fn the_connection_that_was_used_last_is_used_again() {
        let (pool, _) = pool(3);
        for connection in 1..=4 {
            pool.put(Arc::new(7), connection);
        }
        let taken: Vec<u32> = std::iter::from_fn(|| pool.take(&7)).collect();
        assert_eq!(taken, [4, 3, 2]);
        assert!(pool.idle().connections.is_empty() && pool.idle().order.is_empty());
    }

    #[tokio::test]
    async fn an_unused_connection_is_closed_after_half_a_minute() {
        let (pool, clock) = pool(8);
        pool.put(Arc::new(1), 1);
        clock.advance(Duration::from_secs(20));
        pool.put(Arc::new(2), 2);
        clock.advance(Duration::from_secs(10));
        assert_eq!((pool.take(&1), pool.take(&2)), (None, Some(2)));
        pool.put(Arc::new(3), 3);
        // Without another request.
        while !pool.idle().order.is_empty() {
            clock.advance(Duration::from_secs(10));
            tokio::task::yield_now().await;
        }
    }
}
