//! Ringback watches jobs of polling-only APIs and calls back.
//!
//! The modules, in the order in which data flows.

pub mod config;

pub mod clock;
pub mod domain;
pub mod telemetry;

pub mod api;

pub mod store;
pub mod tenants;

pub mod poller;
pub mod providers;

pub mod events;

pub mod channels;
pub mod dispatcher;

pub mod egress;
pub mod tls;

pub mod app;
pub mod cli;
