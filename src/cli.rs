//! The command line: what there is to say, and how a command ends.
//!
//! Exit codes everywhere: 0 done, 1 failed, 2 wrong usage. An error is one sentence on stderr that
//! says what to do. What a command answers goes to stdout, and only this folder writes there.

pub mod act;
pub mod client;
pub mod completions;
pub mod config;
pub mod demo;
mod follow;
pub mod health;
pub mod keys;
pub mod listen;
pub mod lists;
pub mod openapi;
pub mod provider;
pub mod screen;
pub mod serve;
pub mod show;
pub mod sim;
pub mod tenants;
pub mod verify;
pub mod watch;

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, Environment, File, Flags, Source};
use crate::domain::{Timestamp, parse_duration};

/// The table of contents: what belongs together, in the order in which one meets it.
const CONTENTS: &[(&str, &[&str])] = &[
    ("Try it", &["demo", "sim", "listen", "verify"]),
    ("Run it", &["serve", "config", "health"]),
    ("Use a running server", &["watch", "watches", "show", "cancel", "deliveries", "retry"]),
    ("Let others in", &["apps", "keys"]),
    ("Other job APIs", &["provider"]),
    ("Tools", &["openapi", "completions"]),
];

/// Watches the jobs of polling-only APIs and calls back: signed webhooks, durable, with retries.
#[derive(Debug, Parser)]
#[command(
    name = "ringback",
    version,
    arg_required_else_help = true,
    help_template = contents(),
    after_help = "`ringback COMMAND --help` explains a command, with an example."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Sim(sim::Sim),
    Listen(listen::Listen),
    Verify(verify::Verify),
    Serve(serve::Serve),
    Config(config::Show),
    Health(health::Health),
    Watch(watch::Watch),
    Watches(lists::Watches),
    Show(show::Show),
    Cancel(act::Cancel),
    Deliveries(lists::Deliveries),
    Retry(act::Retry),
    Apps(keys::Apps),
    Keys(keys::Keys),
    Provider(provider::Provider),
    #[command(name = "openapi")]
    OpenApi(openapi::OpenApi),
    Completions(completions::Completions),
}

/// The help of the whole program: clap lists commands, but does not group them.
fn contents() -> String {
    let listed = Command::augment_subcommands(clap::Command::new("ringback"));
    let width = listed.get_subcommands().map(|command| command.get_name().len()).max().unwrap_or(0);
    let mut page = "{about-with-newline}\n{usage-heading} {usage}\n".to_owned();
    for (heading, names) in CONTENTS {
        // Writing to a string cannot fail.
        let _ = write!(page, "\n\x1b[1;4m{heading}:\x1b[0m\n");
        for command in names.iter().filter_map(|name| listed.find_subcommand(name)) {
            let (name, about) = (command.get_name(), command.get_about().cloned().unwrap_or_default());
            let _ = writeln!(page, "  \x1b[1m{name:width$}\x1b[0m  {about}");
        }
    }
    page.push_str("\n\x1b[1;4mOptions:\x1b[0m\n{options}{after-help}");
    page
}

/// How a command fails.
#[derive(Debug)]
pub enum Failure {
    /// It was asked for the wrong way: exit code 2.
    Usage(String),
    /// It did not work out: exit code 1.
    Failed(String),
    /// It worked, and the job did not end well: what was followed has its own codes.
    Ended(u8),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

/// Runs a command to its exit code.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Demo(command) => wait(command.run()),
        Command::Sim(command) => wait(command.run()),
        Command::Listen(command) => wait(command.run()),
        Command::Verify(command) => command.run(),
        Command::Serve(command) => wait(command.run()),
        Command::Config(command) => command.run(),
        Command::OpenApi(command) => command.run(),
        Command::Health(command) => wait(command.run()),
        Command::Watch(command) => wait(command.run()),
        Command::Watches(command) => wait(command.run()),
        Command::Show(command) => wait(command.run()),
        Command::Cancel(command) => wait(command.run()),
        Command::Deliveries(command) => wait(command.run()),
        Command::Retry(command) => wait(command.run()),
        Command::Apps(command) => wait(command.run()),
        Command::Keys(command) => wait(command.run()),
        Command::Provider(command) => wait(command.run()),
        Command::Completions(command) => command.run(),
    };
    let (code, sentence) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Ended(code)) => return ExitCode::from(code),
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

/// Writes a line beside the answer: on stderr, so that it is not taken for part of it.
pub(crate) fn note(line: &str) {
    // Whoever does not want to know it may close it.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The words of a closed set, for clap to judge.
fn one_of<T: Copy>(all: &[T], word: fn(T) -> &'static str) -> clap::builder::PossibleValuesParser {
    all.iter().map(|one| word(*one)).into()
}

/// Judges a span of time, which the server then reads for itself.
fn span(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned())
}

/// A moment as the server reads it: a time as it is, or how long ago it was.
fn moment(flag: &str, text: Option<String>, now: Timestamp) -> Result<Option<String>, Failure> {
    let Some(text) = text else { return Ok(None) };
    if let Some(at) = Timestamp::parse(&text) {
        return Ok(Some(at.to_string()));
    }
    let ago = parse_duration(&text).map_err(|_| {
        Failure::Usage(format!("{flag}: write a time as 2026-02-18T15:00:00Z, or how long ago as 24h"))
    })?;
    Ok(Some(now.minus(ago).to_string()))
}

/// Runs a command that waits for the network.
fn wait(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the runtime does not start")?;
    let done = runtime.block_on(work);
    // What still waits for a server that hangs is left to itself: the work is done, or was given up.
    runtime.shutdown_background();
    done
}

/// Reads the configuration, or says everything that is wrong with it.
pub(crate) fn configuration(flags: &Flags) -> Result<Config, Failure> {
    let (config, mistakes) = draft(flags);
    if mistakes.is_empty() { Ok(config) } else { Err(mistaken(&mistakes)) }
}

/// What can be read of the configuration, and everything that is wrong with the rest.
fn draft(flags: &Flags) -> (Config, Vec<ConfigError>) {
    Config::read_partially(flags, &Environment::of_process(), &File::find(flags.config.as_deref()))
}

/// One line for each mistake. One of the command line is wrong usage.
pub(crate) fn mistaken(mistakes: &[ConfigError]) -> Failure {
    let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    let is_usage = mistakes.iter().any(|mistake| matches!(mistake.source, Source::Flag(_)));
    if is_usage { Failure::Usage(lines.join("\n")) } else { Failure::Failed(lines.join("\n")) }
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

    /// Every command that does something, with the words that call it.
    fn leaves(command: &clap::Command, words: &str) -> Vec<(String, clap::Command)> {
        let below = command.get_subcommands().filter(|below| below.get_name() != "help");
        let below: Vec<_> =
            below.flat_map(|below| leaves(below, &format!("{words} {}", below.get_name()))).collect();
        if below.is_empty() { vec![(words.to_owned(), command.clone())] } else { below }
    }

    #[test]
    fn every_command_has_one_line_in_the_contents_and_an_example_in_its_help() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        for (words, command) in leaves(&cli, "ringback") {
            assert!(command.get_about().is_some(), "{words}");
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example:") && help.contains(&words), "{words}: {help}");
        }
        let contents = contents();
        for command in cli.get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert_eq!(contents.matches(&about).count(), 1, "{}", command.get_name());
        }
    }

    #[test]
    fn the_command_line_page_names_every_command() {
        let page = include_str!("../docs/CLI.md");
        for (words, _) in leaves(&Cli::command(), "ringback") {
            let named = [format!("`{words}`"), format!("`{words} ")].iter().any(|name| page.contains(name));
            assert!(named, "{words}");
        }
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago_it_was() {
        let now = Timestamp::parse("2026-02-18T15:00:00Z").expect("a time");
        let read = |text: &str| moment("--since", Some(text.to_owned()), now);
        assert!(read("24h").is_ok_and(|at| at.as_deref() == Some("2026-02-17T15:00:00.000Z")));
        assert!(
            read("2026-02-18T16:00:00+02:00")
                .is_ok_and(|at| at.as_deref() == Some("2026-02-18T14:00:00.000Z"))
        );
        assert!(matches!(read("yesterday"), Err(Failure::Usage(why)) if why.starts_with("--since: ")));
    }
}
