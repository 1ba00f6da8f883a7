//! Outcomes of commits and of waits.

/// Result of a commit that the database did not refuse.
#[derive(Clone, Copy, Debug)]
pub enum Committed {
    /// The transaction is on disk.
    Yes,
    /// The connection was lost before the server answered. `WriterConnection::ready` returns the outcome
    /// when the server answers again.
    Unknown,
}

/// Outcome of a commit that was unknown at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The transaction is on disk.
    Committed,
    /// The transaction did not happen.
    Aborted,
}

/// Reason why the writer stopped waiting.
#[derive(Debug)]
pub enum Received<T> {
    /// A command arrived.
    Item(T),
    /// The queue is closed: no command will arrive.
    Closed,
    /// The connection was lost, or it is time to reconnect.
    Lost,
}
