//! Gauges whose values other modules hold: they are read at each scrape.

use std::time::Duration;

use super::registry::{Reading, Readings, Registry, Value};
use crate::domain::Timestamp;

/// Work that the poller and the dispatcher hold in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Number of scheduled jobs.
    pub jobs: usize,
    /// Number of watches of these jobs.
    pub watching: u64,
    /// Number of deliveries in memory.
    pub loaded: usize,
    /// Number of those deliveries that are being sent.
    pub in_flight: usize,
    /// Number of open breakers of origins and URLs.
    pub down: usize,
}

/// State of the store's queues.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queues {
    /// Number of commands that wait for the writer.
    pub writer: usize,
    /// Number of messages that wait for the poller.
    pub poller: usize,
    /// Number of messages that wait for the dispatcher.
    pub dispatcher: usize,
    /// Whether the database refuses writes or does not answer.
    pub refusing: bool,
    /// Size of the log of a SQLite database, in bytes.
    pub log_size: u64,
}

/// Deliveries that are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Number of deliveries.
    pub count: u64,
    /// The time at which the oldest became due.
    pub oldest: Option<Timestamp>,
}

/// Everything that is read at a scrape.
#[derive(Clone, Copy, Debug, Default)]
pub struct Snapshot {
    /// Work in memory.
    pub load: Load,
    /// State of the queues.
    pub queues: Queues,
    /// Deliveries that are due.
    pub backlog: Backlog,
    /// Time since the oldest of them became due.
    pub oldest_due: Duration,
    /// Number of connections of clients.
    pub connections: usize,
    /// Number of requests that wait for the end of a watch.
    pub waiting: usize,
    /// Number of requests that follow the event stream.
    pub following: usize,
    /// Memory of requests and answers in progress, in bytes.
    pub http_memory: usize,
}

/// Name, description and value of each gauge without labels.
#[expect(clippy::cast_precision_loss, reason = "numbers of things in memory")]
const GAUGES: [Reading<Snapshot>; 13] = [
    ("ringback_watches_watching", "Watches that wait for their job to end.", |s| s.load.watching as f64),
    ("ringback_jobs_scheduled", "Jobs that this process polls.", |s| s.load.jobs as f64),
    ("ringback_deliveries_loaded", "Deliveries in memory, waiting or in flight.", |s| s.load.loaded as f64),
    ("ringback_deliveries_in_flight", "Attempts in progress.", |s| s.load.in_flight as f64),
    ("ringback_destinations_down", "Open breakers of hosts and URLs.", |s| s.load.down as f64),
    ("ringback_deliveries_due", "Deliveries that are due, in flight or not.", |s| s.backlog.count as f64),
    ("ringback_deliveries_due_oldest_seconds", "Time since the oldest of these became due.", |s| {
        s.oldest_due.as_secs_f64()
    }),
    ("ringback_store_refusing", "1 while the database refuses writes or does not answer.", |s| {
        s.queues.refusing.into()
    }),
    ("ringback_store_log_bytes", "Size of the write-ahead log of a SQLite database.", |s| {
        s.queues.log_size as f64
    }),
    ("ringback_http_connections", "Open connections of clients.", |s| s.connections as f64),
    ("ringback_http_waiting", "Requests that wait for the end of a watch.", |s| s.waiting as f64),
    ("ringback_http_streams", "Requests that follow the event stream.", |s| s.following as f64),
    ("ringback_http_memory_bytes", "Memory of large requests and answers in progress.", |s| {
        s.http_memory as f64
    }),
];

/// Name of each queue within the process, and its length.
#[expect(clippy::cast_precision_loss, reason = "numbers of things in memory")]
const QUEUES: [(&str, Value<Snapshot>); 3] = [
    ("writer", |s| s.queues.writer as f64),
    ("poller", |s| s.queues.poller as f64),
    ("dispatcher", |s| s.queues.dispatcher as f64),
];

/// Registers the gauges that a [`Snapshot`] sets.
pub fn register(registry: &Registry) -> Readings<Snapshot> {
    let mut gauges = registry.readings(&GAUGES);
    for (queue, length) in QUEUES {
        let help = "Messages that wait within the process.";
        gauges.extend(registry.labeled("queue", queue).readings(&[("ringback_queue_length", help, length)]));
    }
    gauges
}
