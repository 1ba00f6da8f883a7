//! Ringback watches jobs of polling-only APIs and calls back.
//!
//! The modules, in the order in which data flows.

pub mod clock;
pub mod domain;
pub mod events;
pub mod poller;
pub mod providers;
pub mod store;
