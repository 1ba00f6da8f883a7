//! Parse, run, exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ringback::cli::run(ringback::cli::Cli::parse())
}
