//! Order of lists of events.

word_enum! {
    /// Order of a list of events.
    FeedOrder {
        /// Oldest first.
        Ascending = "asc",
        /// Newest first.
        Descending = "desc",
    }
}
