//! `ringback stop` and `ringback erase`: stops watches, and erases one.

use serde_json::json;

use super::bulk::{BulkOptions, BulkRequest};
use super::client::{Client, Server, segment, with_query};
use super::output::{Failure, clean, list, print_line, print_note, text};
use super::request_fields::Body;
use super::show;
use super::terminal::Terminal;

/// Stop a watch, or all that a filter selects
///
/// The job is not polled any more, and nothing more is sent. A watch that has ended keeps its status; its pending
/// deliveries are skipped. The job itself continues at the provider, unless --cancel-job is given.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "ringback stop [OPTIONS] <ID>\n       \
        ringback stop [OPTIONS] --job-id …|--reference …|--group …|--all|…",
    after_help = "\
Example:
  ringback stop watch_01m84y…
  ringback stop watch_01m84y… --cancel-job
  ringback stop --reference order-42

With a filter, watches that have not ended are stopped. The command says first how many are selected, and continues after a confirmation; --yes needs none.",
    group(clap::ArgGroup::new("what").required(true).multiple(true).args([
        "id", "provider", "job_id", "reference", "group", "all",
    ]))
)]
pub struct Stop {
    /// Id of the watch (watch_…)
    #[arg(conflicts_with_all = ["provider", "job_id", "reference", "group", "all"])]
    id: Option<String>,
    /// Cancel the job at its provider as well, where its definition says how and the operator allows it
    #[arg(long, requires = "id")]
    cancel_job: bool,
    /// Watches of this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Watches of this job
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// Watches with this reference
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
    /// Watches of this group
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    /// Every watch of the app that has not ended
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    options: BulkOptions,
    #[command(flatten)]
    server: Server,
}

impl Stop {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        if let Some(id) = &self.id {
            return stop(&client, id, (self.cancel_job, self.options.json)).await;
        }
        let filter = vec![
            ("provider", "--provider", json!(self.provider)),
            ("jobId", "--job-id", json!(self.job_id)),
            ("reference", "--reference", json!(self.reference)),
            ("groupId", "--group", json!(self.group)),
            ("all", "--all", json!(self.all)),
        ];
        let nouns = ("watch", "watches");
        let request = BulkRequest { path: "/v1/watches/stop", filter, nouns, done: "stopped" };
        request.run(&client, &self.options).await
    }
}

async fn stop(client: &Client, id: &str, (cancels, json): (bool, bool)) -> Result<(), Failure> {
    let path = format!("/v1/watches/{}", segment(id));
    let before = client.get(&path).await?.value();
    let ended = text(&before, "/endedAt");
    let is_noted = !json && !ended.is_empty();
    let pending = if is_noted { has_pending(client, id).await? } else { false };
    let body = Body::of_json(&[("cancelJob", "--cancel-job", cancels.then(|| "true".to_owned()))]);
    let answer = client.post(&format!("{path}/stop"), cancels.then_some(body), None).await?;
    answer.print(json, show::watch_fields)?;
    if cancels && !json && text(&answer.value(), "/cancelJob/status").is_empty() {
        print_note("\nThe job had ended before, so it is not cancelled.");
    } else if cancels && !json {
        print_note(format_args!("\nThe job is being cancelled: `ringback show {id}` shows the result."));
    }
    if is_noted {
        let (status, at) = (clean(&text(&before, "/status")), Terminal::of_stdout().moment(&ended));
        let effect = if pending {
            "Its pending deliveries are skipped from now on."
        } else {
            "It had no pending deliveries, so nothing has changed."
        };
        print_note(format_args!("\nThe watch had ended before: {status}, {at}.\n{effect}"));
    }
    Ok(())
}

/// Returns whether a watch has deliveries that are still attempted.
async fn has_pending(client: &Client, id: &str) -> Result<bool, Failure> {
    let [watch, status, limit] = [id, "pending", "1"].map(|text| Some(text.to_owned()));
    let filters = [("watchId", watch), ("status", status), ("limit", limit)];
    let pending = client.get(&with_query("/v1/deliveries", filters)).await?.value();
    Ok(list(&pending, "/data").next().is_some())
}

/// Stop a watch and delete everything about it
///
/// Its events, deliveries, addresses and metadata are deleted, and nothing more is sent. This cannot be undone.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback erase watch_01m84y…")]
pub struct Erase {
    /// Id of the watch (watch_…)
    id: String,
    #[command(flatten)]
    server: Server,
}

impl Erase {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        client.delete(&format!("/v1/watches/{}", segment(&self.id))).await?;
        Ok(print_line(format_args!("{} is erased.", clean(&self.id)))?)
    }
}
