//! The reading half of a store.

use std::sync::Arc;

use super::change_notifier::Listener;
use super::db::{Readers, Result, Tx};
use super::mailbox::Mailbox;
use super::shared::Shared;
use crate::domain::{AppNo, DispatcherMessage, Ids, PollerMessage, WatchId};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Tracer;

/// The reading half of a store. Every aggregate adds its own queries to it.
#[derive(Clone, Debug)]
pub struct ReadStore {
    pub(super) shared: Arc<Shared>,
    readers: Arc<Readers>,
}

impl ReadStore {
    /// Creates a handle.
    pub(super) fn new(shared: Arc<Shared>, readers: Readers) -> Self {
        Self { shared, readers: Arc::new(readers) }
    }

    /// Runs `read` in a transaction of its own, which sees one snapshot.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.read(read).await
    }

    /// Source of new ids, in the order of creation.
    pub fn ids(&self) -> &Ids {
        &self.shared.ids
    }

    /// Messages for the poller.
    pub fn poller_messages(&self) -> Arc<Mailbox<PollerMessage>> {
        Arc::clone(&self.shared.poller_messages)
    }

    /// Messages for the dispatcher.
    pub fn dispatcher_messages(&self) -> Arc<Mailbox<DispatcherMessage>> {
        Arc::clone(&self.shared.dispatcher_messages)
    }

    /// Metrics of the process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Sets the tracer. Only the first call has an effect.
    pub fn trace_with(&self, tracer: Tracer) {
        let _ = self.shared.tracer.set(tracer);
    }

    /// The tracer, or one that records nothing.
    pub fn tracer(&self) -> &Tracer {
        self.shared.tracer()
    }

    /// Whether the database refused the last write.
    pub fn refusing(&self) -> bool {
        self.shared.is_refusing()
    }

    /// Returns a listener for the end of `watch`. Call this before reading the watch: an end between the
    /// read and this call would be missed.
    pub fn watch_ends(&self, watch: WatchId) -> Listener<WatchId> {
        self.shared.watch_ends.listen(watch)
    }

    /// Returns a listener for new events of an app. Call this before reading the feed.
    pub fn feed_changes(&self, app: AppNo) -> Listener<AppNo> {
        self.shared.feeds.listen(app)
    }
}
