//! The integration tests: the real application, in surroundings that are held still.

#![allow(
    clippy::default_trait_access,
    clippy::redundant_closure_for_method_calls,
    clippy::similar_names,
    clippy::too_many_lines,
    clippy::unused_async,
    clippy::vec_box,
    clippy::wildcard_enum_match_arm,
    reason = "a test is read as a story, and whatever it did not expect is a failure"
)]

mod migrations;
mod store;
mod tidy;
