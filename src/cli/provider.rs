//! `ringback provider`: lists providers, checks definitions and polls a job once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::arguments::{by_name, configuration, parameter};
use super::output::{Failure, print_line, print_note, text};
use super::terminal::{Column, FieldList, Terminal};
use crate::app::{self, HostEnvironment};
use crate::clock::Clock;
use crate::config::Flags;
use crate::domain::{JobStatus, format_duration, format_rate};
use crate::egress::Fetch;
use crate::providers::{Definition, Interpretation, PollFailure};

/// Subcommands of `ringback provider`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Provider {
    List(List),
    Check(Check),
    Poll(Poll),
}

/// List the providers of this configuration
///
/// Reads the settings and the keys of this shell, as ringback serve would if it was started here. GET /v1/providers
/// shows those of a running server.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  RINGBACK_PROVIDERS__PATH=./providers ringback provider list")]
pub struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Configuration file [default: ringback.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Validate a definition and run its examples
///
/// Prints every error with its place; the exit code is then 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback provider check providers/acme.toml

docs/PROVIDERS.md describes the language of definitions.")]
pub struct Check {
    /// File of the definition
    file: PathBuf,
}

/// Poll a job once and show how the answer is interpreted
///
/// Uses the credential, the base URL and the proxy of ringback serve. The exit code is 1 if the answer contains no
/// status of the job.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  MUVI_API_KEY=pb_… ringback provider poll muvi job_abc123def456 --raw")]
pub struct Poll {
    /// Name of the provider
    name: String,
    /// Id of the job at its provider
    job_id: String,
    /// Parameter of the provider; can be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    param: Vec<(String, String)>,
    /// Print the answer itself as well
    #[arg(long)]
    raw: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "raw")]
    json: bool,
    /// Configuration file [default: ringback.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Provider {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run(),
            Self::Check(check) => check.run(),
            Self::Poll(poll) => poll.run().await,
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let config = configuration(&Flags { config: self.config, ..Flags::default() })?;
        let known = app::providers(&config)?;
        let known: Vec<Value> = known.iter().map(about).collect();
        let terminal = Terminal::of_stdout();
        if self.json {
            return Ok(terminal.json(&json!({ "data": known, "nextCursor": null }).to_string())?);
        }
        let columns = [
            Column::new("ID"),
            Column::new("KEY"),
            Column::new("STATUSES").soft().optional(2),
            Column::new("RATE"),
            Column::new("CONCURRENCY").optional(3),
            Column::new("POLL INTERVAL").optional(1),
            Column::new("BASE URL").soft(),
        ];
        let rows = known.iter().map(|one| {
            let statuses: Vec<_> =
                one["statuses"].as_object().into_iter().flat_map(Map::keys).cloned().collect();
            [
                text(one, "/id"),
                text(one, "/credential"),
                statuses.join(" "),
                text(one, "/limits/rate"),
                text(one, "/limits/concurrency"),
                [text(one, "/poll/minInterval"), text(one, "/poll/maxInterval")].join("–"),
                text(one, "/baseUrl"),
            ]
        });
        print_line(terminal.table(&columns, rows, true))?;
        print_note(
            "\nThese are the settings of this shell. GET /v1/providers shows those of a running server.",
        );
        Ok(())
    }
}

/// Returns a provider with its effective settings as JSON.
fn about(provider: &app::Provider) -> Value {
    let definition = &provider.definition;
    let credential = match (&provider.credential, definition.needs_credential()) {
        (_, false) => "not needed",
        (Some(_), true) => "set",
        (None, true) => "missing",
    };
    let base_url = provider.base_url.as_ref().map_or_else(|| definition.base_url(), ToString::to_string);
    let statuses: BTreeMap<&str, JobStatus> = definition.status_words().collect();
    let (bounds, limits) = (&provider.policy, &provider.limits);
    json!({
        "id": definition.id,
        "name": definition.name,
        "docs": definition.docs,
        "baseUrl": base_url.trim_end_matches('/'),
        "credential": credential,
        "statuses": statuses,
        "poll": {
            "first": format_duration(bounds.first),
            "minInterval": format_duration(bounds.min_interval),
            "maxInterval": format_duration(bounds.max_interval),
            "deadline": format_duration(bounds.deadline),
        },
        "limits": {
            "rate": limits.rate.spacing.map_or_else(|| "off".to_owned(), format_rate),
            "burst": limits.burst,
            "concurrency": limits.concurrency,
        },
    })
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let name = self.file.display();
        let definition =
            Definition::check(&self.file).map_err(|errors| Failure::Failed(errors.join("\n")))?;
        let (id, examples) = (&definition.id, definition.examples());
        Ok(print_line(format_args!(
            "{name} defines `{id}`; all {examples} examples have the expected result."
        ))?)
    }
}

impl Poll {
    async fn run(self) -> Result<(), Failure> {
        let config = configuration(&Flags { config: self.config, ..Flags::default() })?;
        let providers = app::providers(&config)?;
        let Some(provider) = providers.iter().find(|provider| provider.definition.id == self.name) else {
            let known: Vec<&str> = providers.iter().map(|provider| provider.definition.id.as_str()).collect();
            let (name, known) = (self.name, known.join(", "));
            return Err(Failure::Usage(format!("there is no provider `{name}`; the providers are {known}")));
        };
        let definition = &provider.definition;
        definition.check_job_id(&self.job_id).map_err(|why| Failure::Usage(format!("JOB_ID: {why}")))?;
        let given = by_name("--param", &self.param, |one, other| one == other)?;
        let given = given.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        let params = definition.params(&given).map_err(|wrong| {
            let lines = wrong.iter().map(|(name, why)| format!("--param {name}: {why}"));
            Failure::Usage(lines.collect::<Vec<_>>().join("\n"))
        })?;
        let (base_url, key) = (provider.base_url.as_ref(), provider.key());
        let request = definition.request(&self.job_id, &params, base_url, key).map_err(|why| {
            Failure::Failed(format!("{why}; `ringback provider list` shows which providers have a key"))
        })?;
        let egress = app::egress(&config, &HostEnvironment::system()?)?;
        // Without the query, which can hold secrets.
        let url = format!("{}{}", request.url.origin().ascii_serialization(), request.url.path());
        let fetch = Fetch::new(request.url, &request.headers, request.timeout, request.max_body);
        let received = egress.fetch(fetch).await;
        let received = received
            .map_err(|why| Failure::Failed(format!("{} did not answer at {url}: {why}", definition.name)))?;
        let mut answer = definition.interpret(&self.job_id, received.status, &received.body);
        if let Interpretation::Ok(report) = &mut answer {
            report.observation.discard_implausible_times(Clock::System.now());
        }
        let mut report = report(&answer);
        report["httpStatus"] = json!(received.status);
        report["durationMs"] = json!(u64::try_from(received.duration.as_millis()).unwrap_or(u64::MAX));
        let terminal = Terminal::of_stdout();
        if self.json {
            terminal.json(&report.to_string())?;
        } else {
            print_line(card(&report, &url, terminal).render())?;
        }
        if self.raw {
            print_line("")?;
            terminal.json(&String::from_utf8_lossy(&received.body))?;
        }
        if matches!(answer, Interpretation::Ok(_)) { Ok(()) } else { Err(Failure::Ended(1)) }
    }
}

/// Returns the meaning of a response as JSON.
fn report(meaning: &Interpretation) -> Value {
    let mut report = match meaning {
        Interpretation::Ok(seen) => {
            let mut job = json!(seen.observation);
            job["unknownStatus"] = json!(seen.unknown_status);
            job["requestId"] = json!(seen.request_id);
            job
        }
        Interpretation::Failed { failure: PollFailure::Unauthorized { code }, message } => {
            json!({ "code": code, "message": message })
        }
        Interpretation::Failed { message, .. } => json!({ "message": message }),
    };
    report["outcome"] = json!(meaning.outcome());
    report
}

fn card(report: &Value, url: &str, terminal: Terminal) -> FieldList {
    let mut card = FieldList::new(terminal);
    card.line("request", url);
    let (status, duration) = (text(report, "/httpStatus"), text(report, "/durationMs"));
    card.line("answer", format!("HTTP {status} in {duration} ms"));
    let meaning = match text(report, "/outcome").as_str() {
        "ok" => String::new(),
        "not_found" => "there is no such job".to_owned(),
        "unauthorized" => format!("the provider rejects the credential ({})", text(report, "/code")),
        "rate_limited" => "too many requests".to_owned(),
        _ => "an error: nothing was learned about the job".to_owned(),
    };
    card.line("meaning", meaning);
    card.line("message", text(report, "/message"));
    card.line("status", text(report, "/status"));
    let unknown = report["unknownStatus"] == json!(true);
    let raw = text(report, "/rawStatus");
    card.line("raw status", if unknown { format!("{raw} (not in the definition)") } else { raw });
    card.line("progress", text(report, "/progress"));
    card.line("output", text(report, "/output"));
    for (n, output) in (1..).zip(report["outputs"].as_array().into_iter().flatten()) {
        card.line(&format!("output {n}"), format!("{} {}", text(output, "/url"), text(output, "/type")));
    }
    card.line("error", text(report, "/error/code"));
    card.line("error message", text(report, "/error/message"));
    card.time("created", report, "/createdAt");
    card.time("completed", report, "/completedAt");
    card.line("request id", text(report, "/requestId"));
    card
}
