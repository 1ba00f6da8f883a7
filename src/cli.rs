//! The command line: what there is to say, and how a command ends.
//!
//! Exit codes everywhere: 0 done, 1 failed, 2 wrong usage. An error is one sentence on stderr that
//! says what to do. What a command answers goes to stdout, and only this folder writes there.

pub mod config;
pub mod demo;
pub mod listen;
pub mod openapi;
pub mod serve;
pub mod sim;
pub mod verify;

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::{Config, Environment, File, Flags};

/// Watches the jobs of polling-only APIs and calls back: signed webhooks, durable, with retries.
#[derive(Debug, Parser)]
#[command(
    name = "ringback",
    version,
    arg_required_else_help = true,
    after_help = "`ringback COMMAND --help` explains a command, with an example."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Demo(demo::Demo),
    Sim(sim::Sim),
    Listen(listen::Listen),
    Verify(verify::Verify),
    Config(config::Show),
    #[command(name = "openapi")]
    OpenApi(openapi::OpenApi),
}

/// How a command fails.
#[derive(Debug)]
pub enum Failure {
    /// It was asked for the wrong way: exit code 2.
    Usage(String),
    /// It did not work out: exit code 1.
    Failed(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

/// Runs a command to its exit code.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Serve(command) => wait(command.run()),
        Command::Demo(command) => wait(command.run()),
        Command::Sim(command) => wait(command.run()),
        Command::Listen(command) => wait(command.run()),
        Command::Verify(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::OpenApi(command) => command.run(),
    };
    let (code, sentence) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(sentence)) => (1, sentence),
        Err(Failure::Usage(sentence)) => (2, sentence),
    };
    // Where nobody listens, the code has to say it.
    let _ = writeln!(std::io::stderr(), "{sentence}");
    ExitCode::from(code)
}

/// Writes a line of what a command answers. `println!` would panic where nobody reads it: in
/// `ringback config | true`, or on a full disk.
pub(crate) fn say(line: impl Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("stdout cannot be written")
}

/// Runs a command that waits for the network.
fn wait(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("the runtime does not start").map_err(Failure::from)?.block_on(work)
}

/// Reads the configuration, or says everything that is wrong with it.
pub(crate) fn configuration(flags: &Flags) -> Result<Config, Failure> {
    let env = Environment::of_process();
    let (file, mut mistakes) = match File::find(flags.config.as_deref()) {
        Ok(file) => (file, Vec::new()),
        Err(mistake) => (None, vec![mistake]),
    };
    let read = Config::read(flags, &env, file.as_ref()).map_err(|more| mistakes.extend(more));
    read.ok().filter(|_| mistakes.is_empty()).ok_or_else(|| mistaken(&mistakes))
}

/// One line for each mistake.
pub(crate) fn mistaken(mistakes: &[crate::config::Mistake]) -> Failure {
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    Failure::Failed(lines.join("\n"))
}

/// Returns when the process is asked to stop: SIGINT or SIGTERM.
pub(crate) async fn stopped() -> anyhow::Result<()> {
    let kind = tokio::signal::unix::SignalKind::terminate();
    let mut terminate = tokio::signal::unix::signal(kind).context("SIGTERM cannot be heard")?;
    tokio::select! {
        heard = tokio::signal::ctrl_c() => heard.context("SIGINT cannot be heard"),
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_command_has_one_line_in_the_contents_and_an_example_in_its_help() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        for command in cli.get_subcommands() {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name}");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("ringback {name}")), "{name}: {help}");
        }
    }
}
