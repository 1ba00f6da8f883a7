//! Requests that change many objects: count, confirm, start, and follow the operation.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::client::Client;
use super::output::{Failure, print_line, print_note, text};
use super::request_fields::{Body, Field};
use super::terminal::Terminal;
use crate::domain::OperationStatus;

/// Interval of the requests for the progress.
const INTERVAL: Duration = Duration::from_millis(500);

/// Maximum time for which the server may be unavailable while an operation is followed: a restart takes seconds.
const UNAVAILABLE_MAX: Duration = Duration::from_secs(60);

/// A request that changes many objects.
pub(super) struct BulkRequest {
    /// Path of the request.
    pub(super) path: &'static str,
    /// Fields of the filter, each with the argument that sets it. What was not given is null, false or empty.
    pub(super) filter: Vec<(&'static str, &'static str, Value)>,
    /// Name of one object, and of several.
    pub(super) nouns: (&'static str, &'static str),
    /// What happens to them, as "retried".
    pub(super) done: &'static str,
}

/// Arguments of all requests that change many objects.
#[derive(Debug, clap::Args)]
pub(super) struct BulkOptions {
    /// Do it without a question
    #[arg(long, short, conflicts_with = "id")]
    yes: bool,
    /// Print the server's JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl BulkRequest {
    fn counted(&self, count: u64) -> String {
        match count {
            1 => format!("1 {}", self.nouns.0),
            count => format!("{count} {}", self.nouns.1),
        }
    }

    /// Returns the body, with what was given.
    fn body(&self, is_dry_run: bool) -> Body {
        let fields = self.filter.iter().cloned().chain([("dryRun", "", json!(is_dry_run))]);
        let given = |value: Value| {
            Some(value.to_string()).filter(|json| !["null", "false", "[]"].contains(&json.as_str()))
        };
        Body::of_json(
            &fields.map(|(name, argument, value)| (name, argument, given(value))).collect::<Vec<Field>>(),
        )
    }

    /// Says how many objects the request concerns, waits for a confirmation, makes the request, and follows it.
    pub(super) async fn run(&self, client: &Client, options: &BulkOptions) -> Result<(), Failure> {
        let is_interactive = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if !options.yes && !is_interactive {
            let sentence = "this changes everything that the filter selects, and there is no terminal for a \
                            confirmation; add --yes";
            return Err(Failure::Usage(sentence.to_owned()));
        }
        let dry_run = client.post(self.path, Some(self.body(true)), None).await?.value();
        let count = dry_run["count"].as_u64().unwrap_or_default();
        if !options.json {
            print_note(format_args!("The filter selects {}.", self.counted(count)));
        }
        if count == 0 && !options.json {
            return Ok(());
        }
        if !options.yes && !confirmed()? {
            return Err(Failure::Failed("nothing was changed".to_owned()));
        }
        let started = client.post(self.path, Some(self.body(false)), None).await?.value();
        let operation = text(&started, "/operationId");
        let answer = self.follow(client, &operation, count).await?;
        let value: Value = serde_json::from_str(&answer).unwrap_or_default();
        let done = value["done"].as_u64().unwrap_or_default();
        if options.json {
            Terminal::of_stdout().json(&answer)?;
        } else {
            let verb = if done == 1 { "is" } else { "are" };
            print_line(format_args!("{} {verb} {}.", self.counted(done), self.done))?;
        }
        if text(&value, "/status") == OperationStatus::Failed.as_str() {
            let sentence =
                format!("{operation} has ended early because of an error; the server's log has it");
            return Err(Failure::Failed(sentence));
        }
        Ok(())
    }

    /// Waits for the end of an operation. Returns it as the server's JSON.
    async fn follow(&self, client: &Client, operation: &str, count: u64) -> Result<String, Failure> {
        let bar = ProgressBar::new(count);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos} of {len}") {
            bar.set_style(style);
        }
        let mut unavailable = Duration::ZERO;
        let answer = loop {
            match client.get(&format!("/v1/operations/{operation}")).await {
                Ok(answer) => {
                    let value = answer.value();
                    bar.set_length(value["total"].as_u64().unwrap_or_default());
                    bar.set_position(value["done"].as_u64().unwrap_or_default());
                    if text(&value, "/status") != OperationStatus::Running.as_str() {
                        break Ok(answer.text);
                    }
                    unavailable = Duration::ZERO;
                }
                Err(Failure::Unavailable(_)) if unavailable < UNAVAILABLE_MAX => unavailable += INTERVAL,
                Err(Failure::Unavailable(why)) => {
                    let sentence = format!("{why}\nThe operation {operation} continues on the server.");
                    break Err(Failure::Unavailable(sentence));
                }
                Err(failure) => break Err(failure),
            }
            client.clock.sleep(INTERVAL).await;
        };
        bar.finish_and_clear();
        answer
    }
}

/// Reads a confirmation from the terminal.
fn confirmed() -> anyhow::Result<bool> {
    let mut stderr = std::io::stderr();
    write!(stderr, "Continue? [y/N] ").and_then(|()| stderr.flush()).context("stderr cannot be written")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("the confirmation cannot be read")?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}
