//! Ringback polls job APIs for its clients and calls back when a job ends.
//!
//! The modules are listed in the order of the data flow: requests, storage, polling, delivery.

pub mod config;

pub mod clock;
mod dns;
pub mod domain;
mod file_state;
mod named_file;
pub mod telemetry;

pub mod api;

pub mod store;
pub mod tenants;

mod own_work;
pub mod poller;
pub mod providers;

pub mod events;

pub mod channels;
pub mod dispatcher;

pub mod egress;
pub mod tls;

pub mod app;
pub mod cli;
