//! Notifications that follow a commit: messages to the poller and the dispatcher, and the wake-up of requests that
//! wait for the end of a watch or the growth of an app's feed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// A queue of messages for one reader, in the order of the commits.
#[derive(Debug)]
pub struct Mailbox<T> {
    waiting: Mutex<Vec<T>>,
    arrived: Notify,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new() }
    }
}

impl<T> Mailbox<T> {
    /// Appends messages.
    pub(super) fn put(&self, messages: Vec<T>) {
        if !messages.is_empty() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).extend(messages);
            self.arrived.notify_one();
        }
    }

    /// Lets [`Mailbox::arrived`] return without a message.
    pub fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Whether no message has arrived since the last [`Mailbox::take`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of messages that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Removes and returns all messages that wait.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when a message has arrived, or [`Mailbox::wake`] was called, since the last time that this function
    /// returned.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}

/// Requests of work for one worker, which does all of it each time: requests that come meanwhile are one more time.
#[derive(Debug, Default)]
pub struct WorkSignal {
    requested: AtomicU64,
    done: AtomicU64,
    arrived: Notify,
}

impl WorkSignal {
    /// Requests work.
    pub fn request(&self) {
        self.requested.fetch_add(1, Ordering::AcqRel);
        self.arrived.notify_one();
    }

    /// Whether work was requested that is not done.
    pub fn is_due(&self) -> bool {
        self.requested.load(Ordering::Acquire) != self.done.load(Ordering::Acquire)
    }

    /// Waits for a request. Returns it for [`WorkSignal::finish`].
    pub async fn next(&self) -> u64 {
        loop {
            let requested = self.requested.load(Ordering::Acquire);
            if requested != self.done.load(Ordering::Acquire) {
                return requested;
            }
            self.arrived.notified().await;
        }
    }

    /// Notes that all work is done that was requested until then.
    pub fn finish(&self, requested: u64) {
        self.done.store(requested, Ordering::Release);
    }
}

/// Notifies the listeners of a key. A key has an entry for as long as it has a listener.
#[derive(Clone, Debug)]
pub(super) struct ChangeNotifier<K: Eq + Hash>(Arc<Mutex<HashMap<K, Listeners>>>);

#[derive(Debug, Default)]
struct Listeners {
    count: usize,
    notify: Arc<Notify>,
}

impl<K: Eq + Hash> Default for ChangeNotifier<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Copy> ChangeNotifier<K> {
    /// Adds a listener.
    pub(super) fn listen(&self, key: K) -> Listener<K> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let listeners = entries.entry(key).or_default();
        listeners.count += 1;
        Listener { key, notify: Arc::clone(&listeners.notify), notifier: self.clone() }
    }

    /// Notifies all listeners of these keys.
    pub(super) fn notify(&self, changed: &[K]) {
        if changed.is_empty() {
            return;
        }
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for listeners in changed.iter().filter_map(|key| entries.get(key)) {
            listeners.notify.notify_waiters();
        }
    }
}

/// A listener for one key.
#[derive(Debug)]
pub struct Listener<K: Eq + Hash + Copy> {
    key: K,
    notify: Arc<Notify>,
    notifier: ChangeNotifier<K>,
}

impl<K: Eq + Hash + Copy> Listener<K> {
    /// Returns a future of the next change. It is armed when this function returns, not when the future is
    /// first polled.
    pub fn armed(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl<K: Eq + Hash + Copy> Drop for Listener<K> {
    fn drop(&mut self) {
        let mut entries = self.notifier.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut listeners) = entries.entry(self.key) {
            listeners.get_mut().count -= 1;
            if listeners.get().count == 0 {
                listeners.remove();
            }
        }
    }
}
