//! The guarantees, tried on the real application from outside: over its API, with a provider and a
//! receiver that are played, and a clock that is moved by hand.

#![expect(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]
#![expect(clippy::print_stdout, reason = "a seed is for whoever reads the output of a test that failed")]

mod api;
mod bad_input;
mod crash;
mod delivering;
mod fakes;
mod harness;
mod main_job;
mod polling;
mod walk;
mod wire;
