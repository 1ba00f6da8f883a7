//! The connections of clients, and which of them makes room for a new one.
//!
//! A connection is *busy* from the head of a request to the end of the body of its answer. Otherwise it is *idle*: it
//! waits for the next request, or for the rest of a head. If all places are taken, the connection that has been idle
//! for the longest time is closed; clients of kept-alive connections expect that, and connect again. Without this rule
//! a client without a key could keep all places with one request every half minute.
//!
//! At a stop, idle connections are closed at once: the rest of a head is not awaited. An answer that the kernel does not
//! accept yet is still written.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The open connections of a listener.
#[derive(Debug)]
pub(super) struct Connections {
    places: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Arc<Activity>>>,
    /// Counts connections, and the times at which one became idle.
    sequence: AtomicU64,
    /// Notified when a connection becomes idle.
    became_idle: Notify,
}

/// What a connection does.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Number of requests without a complete answer.
    requests: AtomicUsize,
    /// Whether a write waits for the client.
    is_writing: AtomicBool,
    /// Position among the times at which connections became idle.
    idle_since: AtomicU64,
    /// Whether the connection was asked to close.
    is_closing: AtomicBool,
    /// Notified when `is_closing` is set. A waiting connection is not woken by its requests.
    close: Notify,
    /// Notified when the connection may have become idle.
    changed: Notify,
}

/// A place for one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) activity: Arc<Activity>,
    connections: Arc<Connections>,
    id: u64,
    _permit: OwnedSemaphorePermit,
}

/// A request without a complete answer.
#[derive(Debug)]
pub(super) struct Busy {
    activity: Arc<Activity>,
    connections: Arc<Connections>,
}

impl Connections {
    /// Returns an empty set of connections with these places.
    pub(super) fn new(places: Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self {
            places,
            open: Mutex::default(),
            sequence: AtomicU64::new(0),
            became_idle: Notify::new(),
        })
    }

    /// Returns a place for a new connection. If all are taken, a connection that is idle is closed.
    pub(super) async fn place(self: &Arc<Self>) -> Option<Place> {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
                break permit;
            }
            let became_idle = self.became_idle.notified();
            self.close_longest_idle();
            tokio::select! {
                permit = Arc::clone(&self.places).acquire_owned() => break permit.ok()?,
                () = became_idle => {}
            }
        };
        let (id, activity) = (self.next(), Arc::new(Activity::default()));
        activity.idle_since.store(id, Ordering::Relaxed);
        self.open().insert(id, Arc::clone(&activity));
        Some(Place { activity, connections: Arc::clone(self), id, _permit: permit })
    }

    /// Records that a request has begun.
    pub(super) fn begin(self: &Arc<Self>, activity: &Arc<Activity>) -> Busy {
        activity.requests.fetch_add(1, Ordering::Relaxed);
        Busy { activity: Arc::clone(activity), connections: Arc::clone(self) }
    }

    fn close_longest_idle(&self) {
        let open = self.open();
        let idle = open.values().filter(|one| one.is_idle() && !one.is_closing.load(Ordering::Relaxed));
        if let Some(longest) = idle.min_by_key(|one| one.idle_since.load(Ordering::Relaxed)) {
            longest.is_closing.store(true, Ordering::Relaxed);
            longest.close.notify_waiters();
        }
    }

    fn next(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0 && !self.is_writing.load(Ordering::Relaxed)
    }

    /// Records whether a write waits for the client.
    pub(super) fn set_writing(&self, is_writing: bool) {
        if self.is_writing.swap(is_writing, Ordering::Relaxed) != is_writing {
            self.changed.notify_waiters();
        }
    }

    /// Returns when the connection is idle.
    pub(super) async fn idle(&self) {
        until(&self.changed, || self.is_idle()).await;
    }

    /// Returns when the connection was asked to close.
    pub(super) async fn closing(&self) {
        until(&self.close, || self.is_closing.load(Ordering::Relaxed)).await;
    }
}

/// Returns when `holds` does, which is checked after each notification.
async fn until(changed: &Notify, holds: impl Fn() -> bool) {
    loop {
        let changed = changed.notified();
        if holds() {
            return;
        }
        changed.await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().remove(&self.id);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.activity.idle_since.store(self.connections.next(), Ordering::Relaxed);
        self.activity.requests.fetch_sub(1, Ordering::Relaxed);
        self.activity.changed.notify_waiters();
        self.connections.became_idle.notify_waiters();
    }
}

/// The body of an answer. Its connection is busy until the body was read to its end, or dropped.
#[derive(Debug)]
struct BusyBody {
    body: Body,
    _busy: Busy,
}

/// Returns a body that keeps its connection busy.
pub(super) fn busy_body(body: Body, busy: Busy) -> Body {
    Body::new(BusyBody { body, _busy: busy })
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_connection_closes_the_one_that_was_idle_longest() {
        let connections = Connections::new(Arc::new(Semaphore::new(3)));
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(connections.place().await.expect("a place"));
        }
        // The first one is busy, the second one had a request after the third one was opened.
        let busy = connections.begin(&places[0].activity);
        drop(connections.begin(&places[1].activity));
        let next = tokio::spawn({
            let connections = Arc::clone(&connections);
            async move { connections.place().await.expect("a place") }
        });
        places[2].activity.closing().await;
        places.remove(2);
        let next = next.await.expect("a place");
        let waiting = tokio::spawn({
            let connections = Arc::clone(&connections);
            async move { connections.place().await.expect("a place") }
        });
        places[1].activity.closing().await;
        assert!(!places[0].activity.is_closing.load(Ordering::Relaxed), "a busy connection stays");
        drop((busy, places, next));
        waiting.await.expect("a place");
        assert!(connections.open().is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_becomes_idle_makes_room() {
        let connections = Connections::new(Arc::new(Semaphore::new(1)));
        let only = connections.place().await.expect("a place");
        let busy = connections.begin(&only.activity);
        let next = tokio::spawn({
            let connections = Arc::clone(&connections);
            async move { connections.place().await.expect("a place") }
        });
        tokio::task::yield_now().await;
        assert!(!only.activity.is_closing.load(Ordering::Relaxed));
        drop(busy);
        only.activity.closing().await;
        drop(only);
        next.await.expect("a place");
    }
}
