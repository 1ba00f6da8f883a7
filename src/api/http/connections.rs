//! The connections of clients, and which of them makes room for a new one.
//!
//! A connection is *busy* from the head of a request to the end of the body of its answer. Otherwise it is *idle*: it
//! waits for the next request, or for the rest of a head. A busy connection can *wait for its client*, too.
//!
//! **All places are taken.** Each new connection then closes one whose client alone decides how long the place is kept.
//! The idle connections are one group, and those of each app that have waited for their client for [`GRACE`] are
//! another; requests without a key count as one app. The largest group loses the connection that has waited longest.
//!
//! - Usually that is an idle connection. Clients of kept-alive connections expect its end, and connect again.
//! - A client that opens thousands of connections and leaves each of them waiting displaces its own app's. The slow
//!   upload of another app, or its idle connections, are not the victims.
//! - Nothing that was accepted is lost: half a request has no effect, and an answer can be read again.
//!
//! Without this rule a client without a key could keep all places with one request every half minute, and a client with
//! a key could do it with half a body in each. If nothing can be displaced, the new connection waits: then the server
//! itself works for all places.
//!
//! **What bounds the time of a place**, in each state:
//!
//! | State | Bounds |
//! |---|---|
//! | idle, or the rest of a head is awaited | 30 s; displaced |
//! | accepted, and not read from yet | a turn of its task; not displaced, because its request may have arrived |
//! | the rest of a body is awaited | 30 s; displaced |
//! | the rest of a refused body is read and discarded | 5 s and 1 MiB; displaced |
//! | the client does not read an answer or a stream (also of pipelined requests) | 30 s of silence; displaced |
//! | `?wait=` | 60 s, and a share of the places: the client may vanish without a sign; its hang-up ends the wait |
//! | a stream of events | one hour, and a share of the places |
//! | a refused key of an address with many wrong keys | 1 s |
//! | a batch waits for its turn; the names of a registration are resolved | 10 s; 5 s |
//! | the database | the limits of the store |
//!
//! At a stop, idle connections are closed at once: the rest of a head is not awaited. The rest of a body is, and an
//! answer that the kernel does not accept yet is still written.
//!
//! **Costs.** Every request changes a few atomics of its own connection. It takes the lock of `open` never, and the
//! lock of a [`Notify`] only while a new connection waits for a place or the server stops. The task of a connection
//! runs several times for each request. It checks each time whether the connection has to end, so the [`Signal`] is an
//! atomic with a waker: a [`Notify`] would take a lock each time, and one that all connections share would make them
//! wait for each other.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::task::AtomicWaker;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::memory_budget::WITHOUT_KEY;
use crate::clock::{Clock, Moment};
use crate::domain::AppNo;

/// Time for which a connection waits for its client before it can be displaced. Many clients send the head and the body
/// in separate packets, and an answer that is larger than the send buffer takes some round trips.
const GRACE: Duration = Duration::from_millis(250);

/// The open connections of a listener.
#[derive(Debug)]
pub(super) struct Connections {
    places: Arc<Semaphore>,
    clock: Clock,
    open: Mutex<HashMap<u64, Arc<Activity>>>,
    next_id: AtomicU64,
    /// Whether a new connection waits for a place.
    is_place_wanted: AtomicBool,
    /// Notified while a place is wanted: a connection became idle, or keeps its place.
    changed: Notify,
}

/// What a connection does.
#[derive(Debug)]
pub(super) struct Activity {
    connections: Arc<Connections>,
    /// Number of the connection, in the order of their beginning.
    id: u64,
    /// App of the latest request, after its key was checked.
    app: AtomicI64,
    /// Number of requests without a complete answer. The first request counts until a read finds nothing.
    requests: AtomicUsize,
    /// Number of bodies and of writes that wait for the client.
    waits: AtomicUsize,
    /// The moment at which the connection became idle or began to wait, in microseconds.
    since: AtomicU64,
    /// Whether the connection was asked to make room.
    is_displaced: AtomicBool,
    /// Whether the server stops.
    is_closing: AtomicBool,
    /// Wakes the task of the connection when one of the two is set.
    signalled: AtomicWaker,
    /// Whether `became_idle` is awaited.
    is_idle_awaited: AtomicBool,
    /// Notified when the connection may have become idle.
    became_idle: Notify,
}

/// What a connection is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// To end after its current answer: the server stops.
    Close,
    /// To make room for a new connection.
    MakeRoom,
}

/// A place for one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) activity: Arc<Activity>,
    _permit: OwnedSemaphorePermit,
}

/// A request without a complete answer.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

/// A wait for the rest of a body, until it is dropped.
#[derive(Debug)]
pub(super) struct WaitForClient<'a>(&'a Activity);

/// Connections that can be displaced: their number, and the one that has waited longest.
struct Group<'a> {
    count: usize,
    longest: &'a Activity,
}

impl Connections {
    /// Returns an empty set of connections with these places.
    pub(super) fn new(places: Arc<Semaphore>, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            places,
            clock,
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
            is_place_wanted: AtomicBool::new(false),
            changed: Notify::new(),
        })
    }

    /// Returns a place for a new connection. If all are taken, another connection is displaced.
    pub(super) async fn place(self: &Arc<Self>) -> Option<Place> {
        let permit = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.make_room().await?,
        };
        let activity = self.activity();
        self.open().insert(activity.id, Arc::clone(&activity));
        Some(Place { activity, _permit: permit })
    }

    /// Returns the activity of a connection that has no place.
    pub(super) fn activity(self: &Arc<Self>) -> Arc<Activity> {
        Arc::new(Activity {
            connections: Arc::clone(self),
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            app: AtomicI64::new(WITHOUT_KEY.0),
            requests: AtomicUsize::new(0),
            waits: AtomicUsize::new(0),
            since: AtomicU64::new(micros(self.clock.moment())),
            is_displaced: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
            signalled: AtomicWaker::new(),
            is_idle_awaited: AtomicBool::new(false),
            became_idle: Notify::new(),
        })
    }

    async fn make_room(&self) -> Option<OwnedSemaphorePermit> {
        let permit = loop {
            let changed = self.changed.notified();
            self.is_place_wanted.store(true, Ordering::SeqCst);
            self.displace_one();
            tokio::select! {
                permit = Arc::clone(&self.places).acquire_owned() => break permit.ok(),
                () = changed => {}
                // What waits now can be displaced then.
                () = self.clock.sleep(GRACE) => {}
            }
        };
        self.is_place_wanted.store(false, Ordering::SeqCst);
        permit
    }

    /// Asks the connection that has waited longest in the largest group to make room, unless one was asked already.
    fn displace_one(&self) {
        let (open, now) = (self.open(), self.clock.moment());
        if open.values().any(|one| one.is_displaced.load(Ordering::Relaxed)) {
            return;
        }
        // `None`: the idle ones.
        let mut groups: HashMap<Option<AppNo>, Group<'_>> = HashMap::new();
        for one in open.values().filter(|one| one.is_displaceable(now)) {
            let app = (!one.is_idle()).then(|| AppNo(one.app.load(Ordering::Relaxed)));
            let group = groups.entry(app).or_insert(Group { count: 0, longest: one });
            group.count += 1;
            if one.position() < group.longest.position() {
                group.longest = one;
            }
        }
        let largest = groups.iter().max_by_key(|(app, group)| (group.count, app.is_none()));
        if let Some((_, Group { longest, .. })) = largest {
            longest.is_displaced.store(true, Ordering::Relaxed);
            longest.signalled.wake();
        }
    }

    /// Asks every connection to end after its current answer.
    pub(super) fn close(&self) {
        for one in self.open().values() {
            one.is_closing.store(true, Ordering::Relaxed);
            one.signalled.wake();
        }
    }

    /// Lets a new connection that waits for a place choose again.
    fn choose_again(&self) {
        if self.is_place_wanted.load(Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Arc<Activity>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Activity {
    /// Records that a request has begun.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        self.app.store(WITHOUT_KEY.0, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::SeqCst);
        Busy(Arc::clone(self))
    }

    /// Records the app of the request.
    pub(super) fn belongs_to(&self, app: AppNo) {
        self.app.store(app.0, Ordering::Relaxed);
    }

    /// Records that the rest of a body is awaited.
    pub(super) fn wait_for_client(&self) -> WaitForClient<'_> {
        self.begin_wait();
        WaitForClient(self)
    }

    /// Records that a write, or the rest of a body, waits for the client.
    pub(super) fn begin_wait(&self) {
        self.since.store(self.now(), Ordering::Relaxed);
        self.waits.fetch_add(1, Ordering::SeqCst);
    }

    /// Records the end of such a wait.
    pub(super) fn end_wait(&self) {
        self.waits.fetch_sub(1, Ordering::SeqCst);
        self.note_idle();
    }

    /// Notifies those who wait for an idle connection if this one is idle. They set their flag before they check, so
    /// one of the two sees the other.
    fn note_idle(&self) {
        if self.is_idle() {
            self.since.store(self.now(), Ordering::Relaxed);
            self.connections.choose_again();
            if self.is_idle_awaited.load(Ordering::SeqCst) {
                self.became_idle.notify_waiters();
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::SeqCst) == 0 && self.waits.load(Ordering::SeqCst) == 0
    }

    /// Whether only the client decides how long the connection keeps its place.
    fn is_displaceable(&self, now: Moment) -> bool {
        let has_waited = || {
            let waited = micros(now).saturating_sub(self.since.load(Ordering::Relaxed));
            Duration::from_micros(waited) >= GRACE
        };
        self.is_idle() || (self.waits.load(Ordering::SeqCst) > 0 && has_waited())
    }

    /// Position in a group: the one that has waited longest is first.
    fn position(&self) -> (u64, u64) {
        (self.since.load(Ordering::Relaxed), self.id)
    }

    fn now(&self) -> u64 {
        micros(self.connections.clock.moment())
    }

    /// Returns when the connection is idle.
    pub(super) async fn idle(&self) {
        self.is_idle_awaited.store(true, Ordering::SeqCst);
        until(&self.became_idle, || self.is_idle()).await;
    }

    /// Returns what the connection is asked to do, once it is asked. Only its own task waits for it.
    pub(super) async fn signal(&self) -> Signal {
        poll_fn(|cx| {
            // First: a signal that comes after the checks wakes the task.
            self.signalled.register(cx.waker());
            if self.is_closing.load(Ordering::Relaxed) {
                Poll::Ready(Signal::Close)
            } else if self.is_displaced.load(Ordering::Relaxed) {
                Poll::Ready(Signal::MakeRoom)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    /// Returns whether the connection, which was asked to make room, does so. Otherwise the client has gone on in the
    /// meantime, and another one is asked.
    pub(super) fn makes_room(&self) -> bool {
        let makes_room = self.is_displaceable(self.connections.clock.moment());
        if !makes_room {
            self.is_displaced.store(false, Ordering::Relaxed);
            self.connections.choose_again();
        }
        makes_room
    }
}

fn micros(moment: Moment) -> u64 {
    u64::try_from(moment.since(Moment::default()).as_micros()).unwrap_or(u64::MAX)
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
        self.activity.connections.open().remove(&self.activity.id);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::SeqCst);
        self.0.note_idle();
    }
}

impl Drop for WaitForClient<'_> {
    fn drop(&mut self) {
        self.0.end_wait();
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
    use tokio::task::JoinHandle;

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;

    /// Connections that took all places, and the clock.
    struct Full {
        connections: Arc<Connections>,
        time: ManualClock,
        places: Vec<Place>,
    }

    impl Full {
        async fn new(places: usize) -> Self {
            let time = ManualClock::at(Timestamp::from_millis(0));
            let connections = Connections::new(Arc::new(Semaphore::new(places)), Clock::Manual(time.clone()));
            let mut full = Self { connections, time, places: Vec::new() };
            for _ in 0..places {
                let place = full.connections.place().await.expect("a place");
                full.places.push(place);
            }
            full
        }

        fn activity(&self, index: usize) -> &Arc<Activity> {
            &self.places[index].activity
        }

        /// Opens one more connection.
        fn next(&self) -> JoinHandle<Place> {
            let connections = Arc::clone(&self.connections);
            tokio::spawn(async move { connections.place().await.expect("a place") })
        }

        /// Returns the index of the connection that is asked to make room for a new one.
        async fn victim(&self) -> Option<usize> {
            let next = self.next();
            tokio::task::yield_now().await;
            let victim = self.places.iter().position(|one| one.activity.is_displaced.load(Ordering::Relaxed));
            next.abort();
            assert!(next.await.is_err_and(|error| error.is_cancelled()), "there is no place yet");
            victim
        }
    }

    #[tokio::test]
    async fn a_new_connection_closes_the_one_that_was_idle_longest() {
        let mut full = Full::new(3).await;
        full.time.advance(Duration::from_secs(1));
        // The first one is busy, the second one had a request after the third one was opened.
        let busy = full.activity(0).begin();
        drop(full.activity(1).begin());
        let next = full.next();
        full.activity(2).signal().await;
        full.places.remove(2);
        let next = next.await.expect("a place");
        let busy_too = next.activity.begin();
        let waiting = full.next();
        full.activity(1).signal().await;
        assert!(!full.activity(0).is_displaced.load(Ordering::Relaxed), "a busy connection stays");
        full.places.clear();
        waiting.await.expect("a place");
        drop((busy, busy_too, next));
        assert!(full.connections.open().is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_becomes_idle_makes_room() {
        let mut full = Full::new(1).await;
        let busy = full.activity(0).begin();
        let next = full.next();
        tokio::task::yield_now().await;
        assert!(!full.activity(0).is_displaced.load(Ordering::Relaxed));
        drop(busy);
        full.activity(0).signal().await;
        full.places.clear();
        next.await.expect("a place");
    }

    #[tokio::test]
    async fn the_app_with_the_most_waiting_connections_makes_room() {
        let full = Full::new(6).await;
        // The upload of the neighbour began first.
        let mut busy = Vec::new();
        for index in 0..5 {
            busy.push(full.activity(index).begin());
            full.activity(index).belongs_to(AppNo(if index == 0 { 1 } else { 2 }));
        }
        let neighbour = full.activity(0).wait_for_client();
        // The last connection is idle; one of the flood waits with an answer, and one is being worked on.
        full.time.advance(Duration::from_millis(1));
        let write = full.activity(2);
        write.begin_wait();
        full.time.advance(Duration::from_millis(1));
        let body = full.activity(1).wait_for_client();
        assert_eq!(full.victim().await, Some(5), "an idle one, as long as none has waited long enough");
        full.activity(5).is_displaced.store(false, Ordering::Relaxed);
        full.time.advance(GRACE);
        assert_eq!(full.victim().await, Some(2));
        // The client reads it: another one is chosen.
        write.end_wait();
        assert!(!write.makes_room());
        assert_eq!(full.victim().await, Some(5), "as many are idle as wait: clients expect its end");
        drop((neighbour, body));
        assert_eq!(full.connections.open().len(), 6);
    }

    #[tokio::test]
    async fn a_flood_of_half_bodies_gives_way_after_the_grace() {
        let full = Full::new(2).await;
        let _busy = [full.activity(0).begin(), full.activity(1).begin()];
        let _waits = [full.activity(0).wait_for_client(), full.activity(1).wait_for_client()];
        let next = full.next();
        tokio::task::yield_now().await;
        assert!(!full.activity(0).is_displaced.load(Ordering::Relaxed));
        full.time.advance(GRACE);
        full.activity(0).signal().await;
        assert!(full.activity(0).makes_room());
        next.abort();
    }
}
