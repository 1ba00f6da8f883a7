//! Ringback watches jobs of polling-only APIs and calls back.
//!
//! The modules, in the order in which data flows.

pub mod channels;
pub mod clock;
pub mod domain;
pub mod egress;
