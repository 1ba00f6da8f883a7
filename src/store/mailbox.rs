//! Messages from the writer to the poller and the dispatcher.

use std::sync::{Mutex, PoisonError};

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

    /// Returns when a message has arrived, or [`Mailbox::wake`] was called, since the last time that this function returned.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
}
