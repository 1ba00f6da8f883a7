//! `ringback provider`: lists providers, checks and tries definitions, polls a job once, and manages definitions of the app.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::arguments::{by_name, configuration, header, parameter};
use super::output::{Failure, print_line, print_note, text};
use super::terminal::{FieldList, Terminal};
use crate::app::{self, HostEnvironment, Purpose};
use crate::clock::Clock;
use crate::config::{Config, Flags};
use crate::domain::nearest;
use crate::egress::Received;
use crate::named_file;
use crate::providers::{
    Answer, CancelAnswer, Definition, Interpretation, JobReport, ParamError, PollFailure, definition_files,
};
use list::List;
use new::New;
use own::{Pull, Push, Remove};
use stdin::{ANSWER_MAX, read_stdin};

mod list;
mod new;
mod own;
mod stdin;

/// Subcommands of `ringback provider`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Provider {
    List(List),
    New(New),
    Check(Check),
    Try(Try),
    ShowRequest(ShowRequest),
    Poll(Poll),
    Push(Push),
    Pull(Pull),
    Remove(Remove),
}

/// Validate definitions and run their examples
///
/// Prints every mistake as <FILE:LINE:COLUMN>, in the order of the file; the exit code is then 1. An example without expect
/// is a mistake that shows what the answer means, ready to be pasted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback provider check providers/acme.toml
  ringback provider check providers/

docs/PROVIDERS.md describes the language of definitions.")]
pub struct Check {
    /// Files of definitions, or folders with them
    #[arg(required = true, value_name = "FILE|FOLDER")]
    paths: Vec<PathBuf>,
}

/// Show how an answer of a provider is interpreted
///
/// Reads the body of the answer from the standard input. With --cancel, it is the answer to the request that cancels the
/// job. No request is made.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback provider try acme.toml --job-id j1 < answer.json
  echo '{\"code\": \"done\"}' | ringback provider try acme.toml --cancel --http 409
  echo '{}' | ringback provider try muvi --http 404 --header retry-after:5
  ringback provider try fal --result 422:error.json < status.json")]
pub struct Try {
    /// Name of the provider, or file of a definition
    #[arg(value_name = "NAME|FILE")]
    name: String,
    /// HTTP status of the answer
    #[arg(long, value_name = "STATUS", default_value_t = 200)]
    http: u16,
    /// Header of the answer; can be repeated
    #[arg(long, value_name = "NAME:VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Id of the requested job [default: that of the first example]
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// File with the answer to a result of the definition, after its HTTP status if that is not 200; can be repeated
    #[arg(long, value_name = "[STATUS:]FILE", value_parser = result_answer)]
    result: Vec<(u16, PathBuf)>,
    /// Parameter of the job; can be repeated [default: those of the first example]
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    param: Vec<(String, String)>,
    /// Interpret the answer to the request that cancels the job
    #[arg(long, conflicts_with = "result")]
    cancel: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// The configuration that a command reads.
#[derive(Debug, clap::Args)]
struct Settings {
    /// Configuration file [default: ringback.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Settings {
    fn read(self) -> Result<Config, Failure> {
        configuration(&Flags { config: self.config, ..Flags::default() })
    }
}

/// Show the request for a job, without the credential
///
/// The requests for its results follow, if the definition has any. With --cancel, the request that cancels the job is shown
/// instead. The address and the hosts that the configuration sets for the provider apply, also to a file: those of the id
/// that it defines. No request is made.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback provider show-request acme.toml job_1 --param region=us
  ringback provider show-request acme.toml job_1 --cancel")]
pub struct ShowRequest {
    /// Name of the provider, or file of a definition
    #[arg(value_name = "NAME|FILE")]
    name: String,
    /// Id of the job at its provider
    job_id: String,
    /// Parameter of the provider; can be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    param: Vec<(String, String)>,
    /// Show the request that cancels the job
    #[arg(long)]
    cancel: bool,
    #[command(flatten)]
    settings: Settings,
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
    #[command(flatten)]
    settings: Settings,
}

impl Provider {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(list) => list.run().await,
            Self::New(new) => new.run(),
            Self::Check(check) => check.run(),
            Self::Try(answer) => answer.run(),
            Self::ShowRequest(request) => request.run(),
            Self::Poll(poll) => poll.run().await,
            Self::Push(push) => push.run().await,
            Self::Pull(pull) => pull.run().await,
            Self::Remove(remove) => remove.run().await,
        }
    }
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let (mut errors, mut ids, mut count, mut wrong) = (Vec::new(), BTreeMap::new(), 0, 0);
        for path in &self.paths {
            let files = definition_files(path).map_err(|errors| Failure::Failed(errors.join("\n")))?;
            for file in files {
                count += 1;
                let name = file.display().to_string();
                match Definition::check(&file) {
                    Ok(definition) => {
                        let (id, examples) = (definition.id.clone(), definition.examples());
                        print_line(format_args!(
                            "{name} defines `{id}`; all {examples} examples have the expected result."
                        ))?;
                        if let Some(other) = ids.insert(id.clone(), name.clone()) {
                            errors.push(format!("{name}: id: {other} defines `{id}` already"));
                            wrong += 1;
                        }
                    }
                    Err(found) => {
                        errors.extend(found);
                        wrong += 1;
                    }
                }
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        if count > 1 {
            errors.push(format!("{wrong} of {count} definitions have mistakes"));
        }
        Err(Failure::Failed(errors.join("\n")))
    }
}

/// Returns the definition in a file; `None` if the name is not that of a file. Mistakes in its examples are only noted.
fn definition_of_file(name: &str) -> Result<Option<Definition>, Failure> {
    let path = Path::new(name);
    if !path.is_file() {
        return Ok(None);
    }
    let (definition, mistakes) = Definition::read(path);
    let definition = definition.ok_or_else(|| Failure::Failed(mistakes.join("\n")))?;
    if !mistakes.is_empty() {
        print_note("The examples of this definition have mistakes: run `ringback provider check`.\n");
    }
    Ok(Some(definition))
}

/// Returns the definition in a file, or the one of a configured provider.
fn definition(name: &str, settings: Settings) -> Result<Arc<Definition>, Failure> {
    if let Some(definition) = definition_of_file(name)? {
        return Ok(Arc::new(definition));
    }
    let providers = app::providers(&settings.read()?)?;
    find(&providers, name).map(|provider| Arc::clone(&provider.definition))
}

fn find<'a>(providers: &'a [app::Provider], name: &str) -> Result<&'a app::Provider, Failure> {
    let found = providers.iter().find(|provider| provider.definition.id == name);
    found.ok_or_else(|| unknown(providers, name))
}

/// Returns the error about a name that no provider has.
fn unknown(providers: &[app::Provider], name: &str) -> Failure {
    let known = providers.iter().map(|provider| provider.definition.id.as_str());
    let nearest = nearest(name, known).map(|(_, nearest)| format!("the nearest is `{nearest}`; "));
    let nearest = nearest.unwrap_or_default();
    Failure::Usage(format!("there is no provider `{name}`; {nearest}`ringback provider list` shows all"))
}

impl Try {
    fn run(self) -> Result<(), Failure> {
        let definition = definition(&self.name, self.settings)?;
        let is_given = self.job_id.is_some();
        let job_id = self.job_id.or_else(|| definition.first_example().map(str::to_owned));
        let job_id = job_id.ok_or_else(|| {
            let why =
                "--job-id is required, because the definition has no example from which it could be taken";
            Failure::Usage(why.to_owned())
        })?;
        let params = if self.param.is_empty() {
            params_of_example(&definition)?
        } else {
            params(&definition, &job_id, &self.param)?
        };
        let job = (job_id.as_str(), params.as_str());
        let body = read_stdin()?;
        let answer = Answer { status: self.http, headers: &self.header, body: &body };
        if !is_given {
            print_note(format_args!(
                "The job is that of the first example, {job_id}; --job-id names another.\n"
            ));
        }
        if self.cancel {
            return show_cancel(&definition.interpret_cancel(job, answer), &definition, self.http, self.json);
        }
        let mut meaning = definition.interpret_of(job, answer);
        let mut http_status = self.http;
        for (status, file) in &self.result {
            let Some(before) = awaiting(&meaning) else {
                let file = file.display();
                return Err(Failure::Usage(format!(
                    "--result {file}: the answers before it lead to no result"
                )));
            };
            let body = named_file::read(file, ANSWER_MAX)
                .map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
            let answer = Answer { status: *status, headers: &[], body: &body };
            (meaning, http_status) = (definition.interpret_result_of(job, before, answer), *status);
        }
        if let Some(report) = awaiting(&meaning) {
            let count = report.results.len();
            print_note(format_args!(
                "The job has ended, and {count} of its results would be requested; --result gives an answer to each.\n"
            ));
        }
        let mut report = report(&meaning);
        report["httpStatus"] = json!(http_status);
        let terminal = Terminal::of_stdout();
        if self.json {
            terminal.json(&report.to_string())?;
        } else {
            print_line(card(&report, None, terminal).render())?;
            print_line(format_args!("\nAs an example:\n{}", meaning.as_expect()))?;
        }
        Ok(())
    }
}

/// Returns the parameters of the first example, and notes them.
fn params_of_example(definition: &Definition) -> Result<String, Failure> {
    let first = definition.first_params();
    let params = match definition.params(&first) {
        Ok(params) => params,
        Err(wrong) => {
            let missing = wrong.iter().filter(|(_, why)| matches!(why, ParamError::Missing(_)));
            let lines: Vec<String> =
                missing.map(|(name, why)| format!("--param {name}=VALUE: {name} {why}")).collect();
            if !lines.is_empty() {
                return Err(Failure::Usage(lines.join("\n")));
            }
            // A host that the operator would have to list is harmless: no request is made.
            Value::Object(first.clone()).to_string()
        }
    };
    if !first.is_empty() {
        let pair =
            |(name, value): (&String, &Value)| format!("{name}={}", value.as_str().unwrap_or_default());
        let pairs: Vec<String> = first.iter().map(pair).collect();
        print_note(format_args!(
            "The parameters are those of the first example, {}; --param names others.\n",
            pairs.join(", ")
        ));
    }
    Ok(params)
}

/// Prints the meaning of an answer to the request that cancels a job.
fn show_cancel(
    answer: &CancelAnswer,
    definition: &Definition,
    http_status: u16,
    as_json: bool,
) -> Result<(), Failure> {
    if !definition.can_cancel() {
        return Err(Failure::Failed("the definition has no [cancel], so it cannot cancel a job".to_owned()));
    }
    let terminal = Terminal::of_stdout();
    if as_json {
        let (word, message) = (answer.word(), answer.message());
        let report = json!({ "answer": word, "message": message, "httpStatus": http_status });
        return Ok(terminal.json(&report.to_string())?);
    }
    let meaning = match answer {
        CancelAnswer::Accepted => "the provider accepts to cancel the job",
        CancelAnswer::AlreadyEnded(_) => "the job had ended before",
        CancelAnswer::Refused(_) => "the provider refuses to cancel the job",
        CancelAnswer::RateLimited(_) => "too many requests; the request would be repeated",
        CancelAnswer::Unauthorized(_) => "the provider rejects the credential; the request would be repeated",
        CancelAnswer::Error(_) => "an error; the request would be repeated",
    };
    let mut card = FieldList::new(terminal);
    card.line("answer", format!("HTTP {http_status}"));
    card.line("meaning", meaning);
    card.line("message", answer.message().unwrap_or_default());
    print_line(card.render())?;
    Ok(print_line(format_args!("\nAs a [[cancel.example]]:\n{}", answer.as_expect()))?)
}

impl ShowRequest {
    fn run(self) -> Result<(), Failure> {
        let config = self.settings.read()?;
        let provider = if let Some(definition) = definition_of_file(&self.name)? {
            app::provider_of(&config, definition)?
        } else {
            let mut providers = app::providers(&config)?;
            let at = providers.iter().position(|provider| provider.definition.id == self.name);
            let at = at.ok_or_else(|| unknown(&providers, &self.name))?;
            providers.swap_remove(at)
        };
        let (definition, base_url) = (&provider.definition, provider.base_url.as_ref());
        let params = params(definition, &self.job_id, &self.param)?;
        let now = Clock::System.now();
        if self.cancel {
            let shown = definition.shown_cancel((&self.job_id, &params), base_url, now);
            let none =
                || Failure::Failed("the definition has no [cancel], so it cannot cancel a job".to_owned());
            return Ok(print_line(shown.ok_or_else(none)?.map_err(Failure::Failed)?)?);
        }
        let shown = definition.shown_request(&self.job_id, &params, base_url, now);
        print_line(shown.map_err(Failure::Failed)?)?;
        let results =
            definition.shown_results(&self.job_id, &params, base_url, now).map_err(Failure::Failed)?;
        for (number, (when, shown)) in (1..).zip(results) {
            print_line(format_args!("\nAfter the outcome {when}, [[result]] {number}:\n{shown}"))?;
        }
        if let Some(url) = definition.shown_token_url() {
            print_note(format_args!("\nThe key is exchanged for the token at {url}."));
        }
        Ok(())
    }
}

/// Parses `file` or `404:file`.
fn result_answer(text: &str) -> Result<(u16, PathBuf), String> {
    let status = text.split_once(':').and_then(|(status, file)| Some((status.parse().ok()?, file)));
    let (status, file) = status.unwrap_or((200, text));
    if (100..=599).contains(&status) && !file.is_empty() {
        Ok((status, PathBuf::from(file)))
    } else {
        Err("write it as FILE or STATUS:FILE".to_owned())
    }
}

/// Returns the job whose results are to be requested, if an answer means one.
fn awaiting(meaning: &Interpretation) -> Option<&JobReport> {
    if let Interpretation::Ok(report) = meaning {
        Some(report).filter(|report| !report.results.is_empty()).map(|report| &**report)
    } else {
        None
    }
}

/// Checks the id of a job and the parameters.
fn params(definition: &Definition, job_id: &str, given: &[(String, String)]) -> Result<String, Failure> {
    definition.check_job_id(job_id).map_err(|why| Failure::Usage(format!("JOB_ID: {why}")))?;
    let given = by_name("--param", given, |one, other| one == other)?;
    let given = given.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    definition.params(&given).map_err(|wrong| {
        let lines = wrong.iter().map(|(name, why)| format!("--param {name}: {why}"));
        Failure::Usage(lines.collect::<Vec<_>>().join("\n"))
    })
}

impl Poll {
    async fn run(self) -> Result<(), Failure> {
        let config = self.settings.read()?;
        let providers = app::providers(&config)?;
        let provider = find(&providers, &self.name)?;
        let definition = &provider.definition;
        let params = params(definition, &self.job_id, &self.param)?;
        let egress = app::egress(&config, &HostEnvironment::system()?)?;
        let job = (self.job_id.as_str(), params.as_str());
        let authorized = provider.authorized(&egress, &Clock::System, job, Purpose::Poll).await;
        let (request, _) = authorized.map_err(|failure| {
            let why = failure.message;
            Failure::Failed(format!("{why}; `ringback provider list` shows which providers have a key"))
        })?;
        let secrets = request.secrets.clone();
        // Without the query, which can hold secrets.
        let url = format!("{}{}", request.url.origin().ascii_serialization(), request.url.path());
        let received = egress.fetch(app::Provider::fetch(request)).await;
        let mut received = received
            .map_err(|why| Failure::Failed(format!("{} did not answer at {url}: {why}", definition.name)))?;
        provider.hide_credential(&mut received, &secrets);
        let mut answer = definition.interpret_of(job, answer(&received));
        while let Some(before) = awaiting(&answer)
            && !before.results.is_empty()
        {
            let authorized = provider.authorized(&egress, &Clock::System, job, Purpose::Result(before)).await;
            let (request, _) = authorized.map_err(|failure| Failure::Failed(failure.message))?;
            let of_result = request.secrets.clone();
            received = egress.fetch(app::Provider::fetch(request)).await.map_err(|why| {
                Failure::Failed(format!("the job has ended, but its result could not be requested: {why}"))
            })?;
            provider.hide_credential(&mut received, &of_result);
            answer = definition.interpret_result_of(job, before, self::answer(&received));
        }
        match &mut answer {
            Interpretation::Ok(report) => report.settle(Clock::System.now()),
            Interpretation::Failed { message, .. } => {
                *message = provider.masked(std::mem::take(message), &secrets);
            }
            Interpretation::NotYet => {}
        }
        let mut report = report(&answer);
        report["httpStatus"] = json!(received.status);
        report["durationMs"] = json!(u64::try_from(received.duration.as_millis()).unwrap_or(u64::MAX));
        let terminal = Terminal::of_stdout();
        if self.json {
            terminal.json(&report.to_string())?;
        } else {
            print_line(card(&report, Some(&url), terminal).render())?;
        }
        if self.raw {
            print_line("")?;
            terminal.json(&String::from_utf8_lossy(&received.body))?;
        }
        if matches!(answer, Interpretation::Ok(_) | Interpretation::NotYet) {
            Ok(())
        } else {
            Err(Failure::Ended(1))
        }
    }
}

fn answer(received: &Received) -> Answer<'_> {
    let Received { status, headers, body, .. } = received;
    Answer { status: *status, headers, body }
}

/// Returns the meaning of a response as JSON.
fn report(meaning: &Interpretation) -> Value {
    let mut report = match meaning {
        Interpretation::Ok(seen) => {
            let mut job = json!(seen.observation);
            job["statusWord"] = json!(seen.outcome_word());
            job["unknownStatus"] = json!(seen.unknown_status);
            job["requestId"] = json!(seen.request_id);
            job["outputsExpire"] = json!(seen.outputs_expire.map(|expire| expire.to_string()));
            job
        }
        Interpretation::NotYet => json!({ "message": "a good answer, but without news about the job" }),
        Interpretation::Failed { failure: PollFailure::Unauthorized { code }, message } => {
            json!({ "code": code, "message": message })
        }
        Interpretation::Failed { message, .. } => json!({ "message": message }),
    };
    report["outcome"] = json!(meaning.outcome());
    report
}

/// Returns the meaning of an answer for people. There is no URL if no request was made.
fn card(report: &Value, url: Option<&str>, terminal: Terminal) -> FieldList {
    let mut card = FieldList::new(terminal);
    card.line("request", url.unwrap_or_default());
    let (status, duration) = (text(report, "/httpStatus"), text(report, "/durationMs"));
    let took = if url.is_some() { format!(" in {duration} ms") } else { String::new() };
    card.line("answer", format!("HTTP {status}{took}"));
    let meaning = match text(report, "/outcome").as_str() {
        "ok" => String::new(),
        "not_found" => "there is no such job".to_owned(),
        "unauthorized" => format!("the provider rejects the credential ({})", text(report, "/code")),
        "rate_limited" => "too many requests".to_owned(),
        _ => "an error: nothing was learned about the job".to_owned(),
    };
    card.line("meaning", meaning);
    card.line("message", text(report, "/message"));
    let (status, word) = (text(report, "/status"), text(report, "/statusWord"));
    card.line("status", if status == word { status } else { format!("{status} ({word})") });
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
    card.line("outputs expire", text(report, "/outputsExpire"));
    card.line("request id", text(report, "/requestId"));
    card
}
