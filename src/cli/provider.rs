//! `ringback provider`: what is known of job APIs, whether a definition is one, and what it makes of
//! an answer.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::screen::{Card, Screen, Table, text, time};
use super::watch::parameter;
use super::{Failure, configuration, say};
use crate::app::{self, Surroundings};
use crate::config::Flags;
use crate::domain::{format_duration, format_rate};
use crate::egress::Fetch;
use crate::providers::{Definition, Interpretation};

/// List the job APIs that are known, check a definition, ask about one job
#[derive(Debug, clap::Args)]
pub struct Provider {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    List(List),
    Check(Check),
    Poll(Poll),
}

/// List the job APIs that this configuration knows
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  RINGBACK_PROVIDERS__PATH=./providers ringback provider list")]
pub struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    configured: Configured,
}

/// Validate a definition and run its examples
///
/// Every mistake is listed with its place, and the exit code is then 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback provider check providers/acme.toml

docs/PROVIDERS.md is the language of definitions.")]
pub struct Check {
    /// The definition
    file: PathBuf,
}

/// Ask about one job, once, and show what was understood
///
/// The credential, the address and the proxy are those that `ringback serve` would use. The exit code
/// is 1 if nothing was learned of the job.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  MUVI_API_KEY=pb_… ringback provider poll muvi job_abc123def456 --raw")]
pub struct Poll {
    /// Whom to ask
    name: String,
    /// The provider's id of the job
    job_id: String,
    /// A parameter of the provider; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    param: Vec<(String, String)>,
    /// Show the answer itself, too
    #[arg(long)]
    raw: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "raw")]
    json: bool,
    #[command(flatten)]
    configured: Configured,
}

/// Where the configuration comes from.
#[derive(Debug, clap::Args)]
pub struct Configured {
    /// The configuration file [default: ringback.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Configured {
    fn flags(self) -> Flags {
        Flags { config: self.config, ..Flags::default() }
    }
}

impl Provider {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self.what {
            What::List(list) => list.run(),
            What::Check(check) => check.run(),
            What::Poll(poll) => poll.run().await,
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let config = configuration(&self.configured.flags())?;
        let known = app::providers(&config)?;
        let known: Vec<Value> = known.iter().map(about).collect();
        let screen = Screen::of_stdout();
        if self.json {
            return Ok(screen.json(&json!({ "data": known, "nextCursor": null }).to_string())?);
        }
        let mut table = Table::new(&["ID", "KEY", "STATUSES…", "RATE", "AT ONCE", "LOOKS", "BASE URL…"]);
        for one in &known {
            let bounds = [text(one, "/poll/minInterval"), text(one, "/poll/maxInterval")].join("–");
            table.row([
                text(one, "/id"),
                text(one, "/credential"),
                one["statuses"].as_object().map(words).unwrap_or_default(),
                text(one, "/limits/rate"),
                text(one, "/limits/concurrency"),
                bounds,
                text(one, "/baseUrl"),
            ]);
        }
        Ok(say(table.render(screen, "", true))?)
    }
}

/// The provider's words for its statuses.
fn words(statuses: &Map<String, Value>) -> String {
    statuses.keys().cloned().collect::<Vec<_>>().join(" ")
}

/// A provider, as it is configured here.
fn about(provider: &app::Provider) -> Value {
    let definition = &provider.definition;
    let credential = match (&provider.credential, definition.needs_credential()) {
        (_, false) => "not needed",
        (Some(_), true) => "set",
        (None, true) => "missing",
    };
    let base_url = provider.base_url.as_ref().map_or_else(|| definition.base_url(), ToString::to_string);
    let statuses: Map<String, Value> =
        definition.status_words().map(|(word, status)| (word.to_owned(), json!(status))).collect();
    let (bounds, limits) = (&provider.policy, &provider.limits);
    json!({
        "id": definition.id(),
        "name": definition.name(),
        "docs": definition.docs(),
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
            "rate": limits.rate.spacing().map_or_else(|| "off".to_owned(), format_rate),
            "burst": limits.burst,
            "concurrency": limits.concurrency,
        },
    })
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let name = self.file.display();
        let definition =
            Definition::check(&self.file).map_err(|mistakes| Failure::Failed(mistakes.join("\n")))?;
        let (id, examples) = (definition.id(), definition.examples());
        Ok(say(format_args!("{name} defines `{id}`; all {examples} examples are understood as they say."))?)
    }
}

impl Poll {
    async fn run(self) -> Result<(), Failure> {
        let config = configuration(&self.configured.flags())?;
        let providers = app::providers(&config)?;
        let provider = providers.iter().find(|provider| provider.definition.id() == self.name);
        let provider = provider.ok_or_else(|| {
            let known: Vec<&str> = providers.iter().map(|provider| provider.definition.id()).collect();
            Failure::Usage(format!("no provider is called `{}`; there are {}", self.name, known.join(", ")))
        })?;
        let definition = &provider.definition;
        let usage = |why: String| Failure::Usage(format!("JOB_ID: {why}"));
        definition.check_job_id(&self.job_id).map_err(usage)?;
        let given = self.param.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        let params = definition.params(&given).map_err(|wrong| {
            let lines = wrong.iter().map(|(name, why)| format!("--param {name}: {why}"));
            Failure::Usage(lines.collect::<Vec<_>>().join("\n"))
        })?;
        let request =
            definition.request(&self.job_id, &params, provider.base_url.as_ref(), provider.key()).map_err(
                |why| Failure::Failed(format!("{why}: `ringback provider list` says which have a key")),
            )?;
        let surroundings = Surroundings::of_machine()?;
        let egress = app::egress(&config, &surroundings)?;
        let url = request.url.clone();
        let fetch = Fetch::new(request.url, &request.headers, request.timeout, request.max_body);
        let received = egress.fetch(fetch).await;
        let received = received
            .map_err(|why| Failure::Failed(format!("{} gave no answer: {why}", definition.name())))?;
        let answer = definition.interpret(&self.job_id, received.status, &received.body);
        let mut told = report(&answer);
        told["httpStatus"] = json!(received.status);
        told["durationMs"] = json!(u64::try_from(received.duration.as_millis()).unwrap_or(u64::MAX));
        let screen = Screen::of_stdout();
        if self.json {
            screen.json(&told.to_string())?;
        } else {
            // Without its query, which may hold what is nobody's business.
            say(card(&told, &format!("{}{}", url.origin().ascii_serialization(), url.path())).render(screen))?;
        }
        if self.raw {
            say("")?;
            screen.json(&String::from_utf8_lossy(&received.body))?;
        }
        if matches!(answer, Interpretation::Ok(_)) { Ok(()) } else { Err(Failure::Ended(1)) }
    }
}

/// Returns the meaning of a response as JSON.
fn report(meaning: &Interpretation) -> Value {
    let mut report = json!({ "outcome": meaning.outcome() });
    if let Interpretation::Ok(seen) = meaning
        && let (Value::Object(all), Ok(Value::Object(job))) =
            (&mut report, serde_json::to_value(&seen.observation))
    {
        all.extend(job);
        report["unknownStatus"] = json!(seen.unknown_status);
        report["requestId"] = json!(seen.request_id);
    }
    if let Interpretation::Unauthorized { code, .. } = meaning {
        report["code"] = json!(code);
    }
    if let Some(message) = meaning.message() {
        report["message"] = json!(message);
    }
    report
}

fn card(told: &Value, url: &str) -> Card {
    let mut card = Card::default();
    card.line("asked", url);
    card.line("answer", format!("HTTP {} in {} ms", text(told, "/httpStatus"), text(told, "/durationMs")));
    let meaning = match text(told, "/outcome").as_str() {
        "ok" => String::new(),
        "not_found" => "there is no such job".to_owned(),
        "unauthorized" => format!("the provider rejects the credential ({})", text(told, "/code")),
        "rate_limited" => "too many requests".to_owned(),
        _ => "an error: nothing was learned about the job".to_owned(),
    };
    card.line("means", meaning);
    card.line("says", text(told, "/message"));
    card.line("status", text(told, "/status"));
    let unknown = told["unknownStatus"] == json!(true);
    let raw = text(told, "/rawStatus");
    card.line("its word", if unknown { format!("{raw} (the definition does not know it)") } else { raw });
    card.line("progress", text(told, "/progress"));
    card.line("output", text(told, "/output"));
    for (n, output) in (1..).zip(told["outputs"].as_array().into_iter().flatten()) {
        card.line(&format!("output {n}"), format!("{} {}", text(output, "/url"), text(output, "/type")));
    }
    card.line("error", text(told, "/error/code"));
    card.line("error says", text(told, "/error/message"));
    card.line("created (UTC)", time(told, "/createdAt"));
    card.line("completed (UTC)", time(told, "/completedAt"));
    card.line("request id", text(told, "/requestId"));
    card
}
