//! The integration tests: the real application, in surroundings that are held still.

mod migrations;
mod store;
mod tidy;
