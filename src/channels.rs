//! Ways out.

pub mod webhook;
