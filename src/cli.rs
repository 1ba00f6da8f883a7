//! The command line.
//!
//! Exit codes of all commands: 0 success, 1 failure, 2 wrong usage. `serve` that a signal stopped exits with 0, also
//! if the wait for the work in progress was cut short. An error is a sentence on stderr that says what
//! to do. The result of a command goes to stdout, and only this folder writes to it.

mod arguments;
mod bulk;
pub mod client;
mod credentials;
pub mod deliveries;
mod delivery_state;
pub mod demo;
mod destinations;
mod follow;
mod group;
pub mod listen;
mod output;
mod poll_arguments;
pub mod provider;
pub mod request_fields;
pub mod retry;
pub mod serve;
pub mod show;
mod signals;
pub mod sim;
pub mod stop;
pub mod tenants;
mod terminal;
pub mod test_send;
pub mod verify;
mod waiting;
pub mod watches;

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use output::{Failure, print, print_note};

/// Help of `ringback openapi`. In a doc comment, a lint requires backticks around the name, which a terminal would
/// show.
const OPENAPI: &str = "\
Print the API as an OpenAPI 3.1 document

A running server has the same document at /openapi.json, and a readable version at /docs.";

/// The groups of commands in the help of the program.
const CONTENTS: &[(&str, &[&str])] = &[
    ("Try it", &["demo", "sim", "listen", "verify"]),
    ("Run it", &["serve", "config", "health"]),
    (
        "Use a running server",
        &[
            "watch",
            "watches",
            "group",
            "show",
            "stop",
            "erase",
            "deliveries",
            "retry",
            "destinations",
            "test",
        ],
    ),
    ("Manage access", &["apps", "keys", "credential"]),
    ("Other job APIs", &["provider"]),
    ("Tools", &["openapi", "completions"]),
];

/// Polls job APIs and calls back when a job ends: signed webhooks, durable, with retries.
#[derive(Debug, Parser)]
#[command(
    name = "ringback",
    version,
    arg_required_else_help = true,
    help_template = contents(),
    after_help = "To explain a command, with an example: ringback COMMAND --help"
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
    Config(serve::ShowConfig),
    Health(serve::Health),
    Watch(Box<watches::Watch>),
    Watches(watches::Watches),
    Group(group::ShowGroup),
    Show(show::Show),
    #[command(alias = "cancel")]
    Stop(stop::Stop),
    Erase(stop::Erase),
    Deliveries(deliveries::Deliveries),
    Retry(retry::Retry),
    Test(test_send::Test),
    #[command(subcommand)]
    Destinations(destinations::Destinations),
    #[command(subcommand)]
    Credential(credentials::Credentials),
    #[command(subcommand)]
    Apps(tenants::Apps),
    #[command(subcommand)]
    Keys(tenants::Keys),
    /// List providers, check a definition, poll a job once
    #[command(
        subcommand,
        after_help = "\
Example:
  ringback provider list"
    )]
    Provider(provider::Provider),
    /// Print the API as a document.
    #[command(name = "openapi", about = "Print the API as an OpenAPI 3.1 document", long_about = OPENAPI)]
    #[command(after_help = "\
Example:
  ringback openapi > openapi.json")]
    OpenApi,
    /// Print the completion script of a shell
    #[command(after_help = "\
Example:
  ringback completions bash \\
    > ~/.local/share/bash-completion/completions/ringback
  ringback completions zsh > ~/.zfunc/_ringback
  ringback completions fish > ~/.config/fish/completions/ringback.fish")]
    Completions {
        /// Name of the shell
        shell: Shell,
    },
}

/// Returns the template of the help of the program. clap lists commands, but does not group them.
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

/// Runs a command and returns its exit code.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Demo(command) => wait(command.run()),
        Command::Sim(command) => wait(command.run()),
        Command::Listen(command) => wait(command.run()),
        Command::Verify(command) => command.run(),
        Command::Serve(command) => wait(command.run()),
        Command::Config(command) => wait(command.run()),
        Command::OpenApi => print(crate::api::document()).map_err(Failure::from),
        Command::Health(command) => wait(command.run()),
        Command::Watch(command) => wait(command.run()),
        Command::Watches(command) => wait(command.run()),
        Command::Group(command) => wait(command.run()),
        Command::Show(command) => wait(command.run()),
        Command::Stop(command) => wait(command.run()),
        Command::Erase(command) => wait(command.run()),
        Command::Deliveries(command) => wait(command.run()),
        Command::Retry(command) => wait(command.run()),
        Command::Test(command) => wait(command.run()),
        Command::Destinations(command) => wait(command.run()),
        Command::Credential(command) => wait(command.run()),
        Command::Apps(command) => wait(command.run()),
        Command::Keys(command) => wait(command.run()),
        Command::Provider(command) => wait(command.run()),
        Command::Completions { shell } => {
            // Into memory first: the generator panics if its output cannot be written.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ringback", &mut script);
            print(String::from_utf8_lossy(&script)).map_err(Failure::from)
        }
    };
    let (code, message) = match done {
        Ok(()) | Err(Failure::Closed) => (0, None),
        Err(Failure::Ended(code)) => (code, None),
        Err(Failure::Failed(message) | Failure::Unavailable(message)) => (1, Some(message)),
        Err(Failure::Usage(message)) => (2, Some(message)),
    };
    message.into_iter().for_each(print_note);
    crate::telemetry::logs::flush();
    ExitCode::from(code)
}

/// Runs a command that uses the network.
fn wait(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the runtime does not start")?;
    let done = runtime.block_on(work);
    // Tasks that still wait for a server are abandoned: the command has ended.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use unicode_width::UnicodeWidthStr as _;

    use super::*;

    /// Returns every command without subcommands, with its full name.
    fn leaves(command: &clap::Command, words: &str) -> Vec<(String, clap::Command)> {
        let below = command.get_subcommands().filter(|below| below.get_name() != "help");
        let below: Vec<_> =
            below.flat_map(|below| leaves(below, &format!("{words} {}", below.get_name()))).collect();
        if below.is_empty() { vec![(words.to_owned(), command.clone())] } else { below }
    }

    #[test]
    fn every_command_is_listed_and_has_an_example() {
        let cli = Cli::command();
        cli.clone().debug_assert();
        for (words, command) in all(&cli, "ringback").into_iter().skip(1) {
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

    /// Returns every command, with its full name: groups and their commands.
    fn all(command: &clap::Command, words: &str) -> Vec<(String, clap::Command)> {
        let below = command.get_subcommands().filter(|below| below.get_name() != "help");
        let below = below.flat_map(|below| all(below, &format!("{words} {}", below.get_name())));
        std::iter::once((words.to_owned(), command.clone())).chain(below).collect()
    }

    #[test]
    fn help_texts_fit_every_terminal_without_broken_lines() {
        let mut cli = Cli::command();
        cli.build();
        for (words, command) in all(&cli, "ringback") {
            for width in [80, 100, 120] {
                let mut command = command.clone().term_width(width);
                for page in [command.render_long_help(), command.render_help()] {
                    let page = page.to_string();
                    let wide = page.lines().find(|line| line.width() > width);
                    assert_eq!(wide, None, "{words} at {width}");
                    assert!(!page.contains('`'), "{words}: {page}");
                }
            }
            // The terminal breaks a paragraph, so the text must not: both together break it in the middle of a line.
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let is_prose = |line: &str| !line.is_empty() && !line.starts_with("  ") && !line.ends_with(':');
            let broken = lines.windows(2).find(|pair| pair.iter().all(|line| is_prose(line)));
            assert_eq!(broken, None, "{words}");
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
}
