//! Guarantees of the store on both databases, and a fixture that opens a [`Store`].

mod bounded;
mod deleted_apps;
mod events;
mod filters;
mod lasting;
mod lost;
mod operating;
mod schema;
pub mod sealing;
mod sending;
mod server;
mod steady;
mod turns;
mod watching;

use ringback::domain::{
    AppNo, Attempt, ChannelKind, DeliveryId, DeliveryStatus, Destination, DestinationId, DispatcherMessage,
    EndingKind, EventList, EventSet, EventType, JobName, JobNo, JobStatus, Masked, NewWatch, NextStep,
    Observation, Payload, PendingDelivery, PollerMessage, ProgressApps, Terms, Timestamp, Watch, WatchId,
};
use ringback::store::{
    After, BootstrapTenant, DatabaseLocation, DueDeliveries, EndJob, EndOverdue, EventFilter, IdempotencyKey,
    Idempotent, Keyring, LoadDueDeliveries, Prune, PrunePosition, RecordAttempt, RecordObservation, Register,
    Respond, StopWatch, Store, StoreOptions, StoredResponse, Writer,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::postgres::{On, on, shared};

/// Time at which every test starts.
pub const START: Timestamp = Timestamp::from_millis(1_771_426_800_000);

pub fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

/// Maximum time for which a delivery is pending.
pub const PENDING_MAX: Duration = Duration::from_secs(14 * 24 * 3_600);

/// A store on a database of its own, with one app.
pub struct StoreFixture {
    pub store: Store,
    pub app: AppNo,
    pub location: DatabaseLocation,
    writer: Option<Writer>,
    folder: tempfile::TempDir,
}

impl StoreFixture {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let location = match on() {
            On::Sqlite => DatabaseLocation::File(folder.path().join("ringback.db")),
            On::Postgres => {
                let server = shared("a store").expect("a server");
                DatabaseLocation::Server(Masked::new(server.url(&server.database())))
            }
        };
        Self::at(folder, location, START).await
    }

    pub async fn at(folder: tempfile::TempDir, location: DatabaseLocation, now: Timestamp) -> Self {
        Self::with(folder, location, now, Keyring::default()).await
    }

    /// Opens a store that seals its secrets.
    pub async fn with(
        folder: tempfile::TempDir,
        location: DatabaseLocation,
        now: Timestamp,
        keyring: Keyring,
    ) -> Self {
        let (store, writer) = open_with(&location, now, keyring).expect("the store opens");
        let app = app(&store, "default").await;
        Self { store, app, location, writer: Some(writer), folder }
    }

    /// Closes the store and opens it again.
    pub async fn reopen(self, now: Timestamp) -> Self {
        let (folder, location) = self.close().await;
        Self::at(folder, location, now).await
    }

    pub async fn close(self) -> (tempfile::TempDir, DatabaseLocation) {
        let Self { store, writer, folder, location, .. } = self;
        drop(store);
        writer.expect("a writer").join();
        (folder, location)
    }

    /// Returns a watch of the job `job_id` that notifies one address of every ending.
    pub fn watch(&self, job_id: &str) -> NewWatch {
        NewWatch {
            poll: None,
            app: self.app,
            id: WatchId(self.store.ids().draw(START)),
            job: JobName {
                provider: "muvi".to_owned(),
                account: "default".to_owned(),
                job_id: job_id.to_owned(),
                params: "{}".to_owned(),
            },
            events: EventSet::endings(),
            payload: Payload::Event,
            name: None,
            reference: None,
            metadata: Some(r#"{"orderId": 42}"#.to_owned()),
            terms: Terms {
                expires_at: at(86_400),
                poll_interval: None,
                expected_at: None,
                wants_progress: false,
            },
            traceparent: None,
            destinations: vec![self.destination("a.example")],
            group: None,
            cancels_on_expiry: false,
            created_at: START,
        }
    }

    pub fn destination(&self, host: &str) -> Destination {
        Destination {
            id: DestinationId(self.store.ids().draw(START)),
            channel: ChannelKind::Webhook,
            address: format!("https://{host}/hook"),
            queue: format!("1 https {host} 443"),
            headers: vec![("x-env".to_owned(), "prod".to_owned())],
            secret: None,
            signing: None,
            access: None,
            saved: None,
        }
    }

    /// Returns a watch that also notifies of progress.
    pub fn follower(&self, job_id: &str) -> NewWatch {
        let mut watch = self.watch(job_id);
        assert!(watch.events.add("job.*", EventList::OfWatch));
        watch.terms.wants_progress = true;
        watch
    }

    pub async fn register(&self, watch: NewWatch) -> Watch {
        match self.store.register(register_command(watch, None)).await.expect("registered") {
            Ok(Ok(watch)) => watch,
            other => panic!("{other:?}"),
        }
    }

    /// Ends a job. Returns whether more watches remain.
    pub async fn end(&self, job: JobNo, generation: i64) -> bool {
        self.store.end_job(ended(job, generation, EndingKind::Completed, at(60))).await.expect("ended")
    }

    /// Returns the number of rows of a table.
    pub fn count(&self, table: &str) -> usize {
        let sql = format!("select count(*) from {table}");
        match &self.location {
            DatabaseLocation::File(path) => {
                let db = rusqlite::Connection::open(path).expect("opens");
                db.query_row(&sql, [], |row| row.get::<_, u32>(0)).expect("a count") as usize
            }
            DatabaseLocation::Server(url) => {
                let (_, database) = url.reveal().rsplit_once('/').expect("a name");
                let count = shared("a count").expect("a server").query(database, &sql);
                count.and_then(|count| count.parse().ok()).expect("a count")
            }
        }
    }

    /// Runs a statement beside the store, as an operator does.
    pub fn run(&self, sql: &str) {
        match &self.location {
            DatabaseLocation::File(path) => {
                rusqlite::Connection::open(path).expect("opens").execute_batch(sql).expect("run");
            }
            DatabaseLocation::Server(url) => {
                let (_, database) = url.reveal().rsplit_once('/').expect("a name");
                shared("a statement").expect("a server").query(database, sql);
            }
        }
    }

    pub async fn stop(&self, watch: WatchId) {
        let stop = StopWatch { app: self.app, watch, now: at(30) };
        self.store.stop_watch(stop).await.expect("stopped").expect("no key").expect("a watch");
    }

    /// Registers a watch on a job of its own and ends it. One delivery is then pending.
    pub async fn delivery(&self, job_id: &str) -> Box<PendingDelivery> {
        let watch = self.register(self.watch(job_id)).await;
        self.store.dispatcher_messages().take();
        self.end(watch.job_no, 0).await;
        take_deliveries(&self.store).pop().expect("a delivery")
    }

    pub async fn page(&self, now: Timestamp, limit: u32, loaded: &[DeliveryId]) -> DueDeliveries {
        let queue = "1 https a.example 443".to_owned();
        self.store
            .load_due_deliveries(LoadDueDeliveries {
                queue,
                now,
                limit,
                loaded: loaded.to_vec(),
                retries_first: false,
            })
            .await
            .expect("a page")
    }

    /// Deletes what is older. Returns the number of watches and stored responses that were deleted.
    pub async fn prune(&self, events_before: Timestamp, watches_before: Timestamp, now: Timestamp) -> usize {
        let (pending_max, mut count) = (PENDING_MAX, 0);
        let after = PrunePosition::default();
        let rows = Prune::ROWS_MAX;
        let mut prune = Prune { watches_before, events_before, pending_max, now, after, rows };
        loop {
            let pruned = self.store.prune(prune).await.expect("pruned");
            count += pruned.count;
            let Some(next) = pruned.next else { return count };
            prune.after = next;
        }
    }

    /// Ends the deliveries that have been pending for too long. Returns their number.
    pub async fn end_overdue(&self, pending_max: Duration, now: Timestamp) -> usize {
        let (mut from, mut count) = (AppNo(0), 0);
        loop {
            let command = EndOverdue { pending_max, from, now };
            let ended = self.store.end_overdue(command).await.expect("ended");
            count += ended.count;
            let Some(next) = ended.next else { return count };
            from = next;
        }
    }

    pub async fn record(&self, send: &PendingDelivery, after: NextStep) {
        let (_, attempts) = self.shown_delivery(send.id).await;
        let before = attempts.len().try_into().expect("a few");
        let (app, delivery, event_type, manual) = (self.app, send.id, send.event_type, send.manual);
        let (attempt, saved) = (attempt().into(), None);
        let record = RecordAttempt { app, delivery, event_type, manual, before, attempt, after, saved };
        self.store.record_attempt(record).await.expect("recorded");
    }

    pub async fn shown(&self, id: WatchId) -> Watch {
        self.store.watch(self.app, id).await.expect("read").expect("there")
    }

    /// Returns a delivery and its attempts, oldest first.
    pub async fn shown_delivery(&self, id: DeliveryId) -> (ringback::domain::Delivery, Vec<Attempt>) {
        let (delivery, newest) = self.store.delivery(self.app, id, 100).await.expect("read").expect("there");
        let attempts: Vec<Attempt> = newest.into_iter().rev().map(|(_, attempt)| attempt).collect();
        assert_eq!(delivery.attempt_count as usize, attempts.len());
        (delivery, attempts)
    }

    /// Returns the types of the events of the app, in the order of the feed.
    pub async fn events(&self) -> Vec<EventType> {
        let (mut after, mut types) = (After::Start, Vec::new());
        loop {
            let page = self
                .store
                .events(self.app, after, EventFilter::default(), 10_000)
                .await
                .expect("read")
                .expect("a feed");
            types.extend(page.rows.into_iter().map(|event| event.event_type));
            let Some(next) = page.next else { return types };
            after = After::Position(next);
        }
    }

    pub async fn statuses(&self, id: WatchId) -> Vec<Option<DeliveryStatus>> {
        self.shown(id)
            .await
            .destinations
            .into_iter()
            .map(|(_, latest)| latest.map(|latest| latest.status))
            .collect()
    }
}

pub fn open(location: &DatabaseLocation, now: Timestamp) -> anyhow::Result<(Store, Writer)> {
    open_with(location, now, Keyring::default())
}

pub fn open_with(
    location: &DatabaseLocation,
    now: Timestamp,
    keyring: Keyring,
) -> anyhow::Result<(Store, Writer)> {
    let public_url = "https://ringback.example.com".to_owned();
    Store::open(StoreOptions { location: location.clone(), keyring, public_url, now })
}

/// Returns the path of a SQLite database.
pub fn file(location: &DatabaseLocation) -> &Path {
    let DatabaseLocation::File(path) = location else { panic!("not a file") };
    path
}

/// Private key of the apps of these tests.
pub const PRIVATE_KEY: &str = "whsk_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

pub async fn app(store: &Store, name: &str) -> AppNo {
    let found = BootstrapTenant {
        name: name.to_owned(),
        signing_secret: Masked::new("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"),
        private_key: Masked::new(PRIVATE_KEY),
        key_hash: Some([7; 32]),
        now: START,
    };
    store.bootstrap(found).await.expect("an app").app.no
}

/// Returns a registration. Its stored response is `created`.
pub fn register_command(watch: NewWatch, key: Option<IdempotencyKey>) -> Idempotent<Register, Watch> {
    let respond: Respond<Watch> = Arc::new(|watch| {
        let location = Some(format!("/{}", watch.id));
        Some(StoredResponse { status: 201, location, body: b"created".to_vec() })
    });
    Idempotent { command: Register(watch), key: key.map(|key| (key, respond)) }
}

pub fn seen(status: JobStatus, progress: Option<u8>) -> Observation {
    Observation { status, raw_status: Some(status.to_string()), progress, ..Observation::default() }
}

pub fn ended(job: JobNo, generation: i64, kind: EndingKind, at: Timestamp) -> EndJob {
    let status = match kind {
        EndingKind::Completed => JobStatus::Completed,
        EndingKind::Failed => JobStatus::Failed,
        EndingKind::Cancelled => JobStatus::Cancelled,
        EndingKind::NotFound | EndingKind::Expired => panic!("no poll shows {kind}"),
    };
    let seen = seen(status, Some(100));
    EndJob { job, generation, kind, seen, raw: None, observed_at: at }
}

pub fn observed(job: JobNo, generation: i64, progress: u8, at: Timestamp) -> RecordObservation {
    RecordObservation {
        job,
        generation,
        seen: seen(JobStatus::Processing, Some(progress)),
        status_changed: true,
        is_other: true,
        progress: ProgressApps::ALL,
        only_new: Vec::new(),
        notify: true,
        raw: None,
        after: Vec::new(),
        observed_at: at,
    }
}

pub fn attempt() -> Attempt {
    Attempt {
        at: at(70),
        duration_ms: 12,
        status_code: Some(500),
        error: None,
        request_headers: vec![("x-env".to_owned(), "***".to_owned())],
        response_headers: Vec::new(),
        response_body: "oh".to_owned(),
    }
}

/// Returns the deliveries among the messages to the dispatcher since the last call.
pub fn take_deliveries(store: &Store) -> Vec<Box<PendingDelivery>> {
    let delivery = |message| match message {
        DispatcherMessage::Dispatch(delivery) => Some(delivery),
        DispatcherMessage::QueueChanged { .. }
        | DispatcherMessage::Skip { .. }
        | DispatcherMessage::DestinationChanged { .. }
        | DispatcherMessage::SweepDue => None,
    };
    store.dispatcher_messages().take().into_iter().filter_map(delivery).collect()
}

/// Returns the messages to the poller since the last call.
pub fn take_poller_messages(store: &Store) -> Vec<PollerMessage> {
    store.poller_messages().take()
}
