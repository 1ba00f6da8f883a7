//! The program: parses the command line, runs the command and returns its exit code.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ringback::cli::run(ringback::cli::Cli::parse())
}
