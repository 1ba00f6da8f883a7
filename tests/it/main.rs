//! Tests of the guarantees on the real application, through its API, with a fake provider, a fake receiver and a
//! manual clock. The store has its own tests.

#![allow(
    clippy::cast_precision_loss,
    clippy::default_trait_access,
    clippy::float_cmp,
    clippy::format_collect,
    clippy::format_push_string,
    clippy::ignored_unit_patterns,
    clippy::match_same_arms,
    clippy::missing_panics_doc,
    clippy::print_stdout,
    clippy::redundant_closure_for_method_calls,
    clippy::similar_names,
    clippy::struct_field_names,
    clippy::too_many_lines,
    clippy::unnecessary_operation,
    clippy::unused_async,
    clippy::unwrap_used,
    clippy::vec_box,
    clippy::wildcard_enum_match_arm,
    reason = "a test is read from top to bottom, and a panic is a failure"
)]

mod access;
mod api;
mod bad_input;
mod batch;
mod cancelling;
mod chat;
mod chatting;
mod cli;
mod cli_bulk;
mod cli_output;
mod cli_providers;
mod client_certificates;
mod cloudevents;
mod contract;
mod crash;
mod credentials;
mod cuttable_proxy;
mod database_files;
mod definitions;
mod delivering;
mod delivery_states;
mod demo;
mod destinations;
mod destinations_of_the_file;
mod erasing;
mod fakes;
mod faults;
mod groups;
mod harness;
mod holding_back;
mod imports;
mod inline_polls;
mod instances;
mod job_apis;
mod limits;
mod logs;
mod mail_replies;
mod mail_server;
mod mailing;
mod main_job;
mod metrics;
mod migrations;
mod name_servers;
mod openapi;
mod openapi_examples;
mod operational_events;
mod operations;
mod own_cancels;
mod own_credentials;
mod own_definitions;
mod patch;
mod poll_sharing;
mod polling;
mod postgres;
mod postgres_tls;
mod progress;
mod proxy;
mod results;
mod retry;
mod send_to;
mod server;
mod signals;
mod signing;
mod simulation;
mod small_disk;
mod standstill;
mod store;
mod stream;
mod tenancy;
mod tenants;
mod test_send;
mod tidy;
mod tls;
mod tokens;
mod traces;
mod unreadable;
mod user_errors;
mod verdict;
mod waiting;
mod walk;
mod wire;
