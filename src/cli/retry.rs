//! `ringback retry`: retries one delivery, or many.

use clap::builder::PossibleValuesParser;
use serde_json::json;

use super::arguments::time_argument;
use super::bulk::{BulkOptions, BulkRequest};
use super::client::{Server, segment};
use super::output::{Failure, clean};
use crate::domain::{ChannelKind, EventType, Reason};

/// Retry a delivery now, or all that a filter selects
///
/// A pending delivery is attempted at once and keeps its schedule. A delivery that has succeeded, failed or was skipped
/// is attempted once more, with the same webhook-id.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "ringback retry [OPTIONS] <ID>\n       \
        ringback retry [OPTIONS] --status …|--origin …|--since …|--all|…",
    after_help = "\
Example:
  ringback retry dlv_01m84y…
  ringback retry --status failed,pending --since 2h \\
    --origin https://app.example.com

With a filter, the command says first how many deliveries are selected, and continues after a confirmation; --yes needs none. Without --status, failed deliveries are selected.

--since and --until select by the time of the event: a time such as 2026-02-18T15:00:00Z, or how long ago, such as 24h.",
    group(clap::ArgGroup::new("what").required(true).multiple(true).args([
        "id", "status", "failed", "reason", "event", "channel", "origin", "destination", "watch", "job_id", "reference",
        "since", "until", "all",
    ]))
)]
pub struct Retry {
    /// Id of the delivery (dlv_…)
    #[arg(conflicts_with_all = [
        "status", "failed", "reason", "event", "channel", "origin", "destination", "watch", "job_id", "reference",
        "since", "until", "all",
    ])]
    id: Option<String>,
    /// Deliveries with one of these statuses
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(["failed", "pending", "skipped"]))]
    status: Vec<String>,
    /// The same as --status failed
    #[arg(long, conflicts_with = "status")]
    failed: bool,
    /// Only deliveries that ended for this reason
    #[arg(long, value_parser = PossibleValuesParser::new(Reason::WORDS))]
    reason: Option<String>,
    /// Only events of this type
    #[arg(long, value_name = "TYPE", value_parser = PossibleValuesParser::new(EventType::listed_words()))]
    event: Option<String>,
    /// Only deliveries by this channel
    #[arg(long, value_parser = PossibleValuesParser::new(ChannelKind::WORDS))]
    channel: Option<String>,
    /// Only webhooks to this scheme, host and port
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// Only deliveries to this destination
    #[arg(long, value_name = "ID")]
    destination: Option<String>,
    /// Only deliveries of this watch
    #[arg(long, value_name = "ID")]
    watch: Option<String>,
    /// Only deliveries of watches of this job
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// Only deliveries of watches with this reference
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
    /// Only events from this time on
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only events before this time
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Every failed delivery of the app
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    options: BulkOptions,
    #[command(flatten)]
    server: Server,
}

impl Retry {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        if let Some(id) = &self.id {
            let answer = client.post(&format!("/v1/deliveries/{}/retry", segment(id)), None, None).await?;
            let id = clean(id);
            return answer.print(self.options.json, |_, _| {
                format!("{id} is attempted now. To see the result:\n  ringback show {id}")
            });
        }
        let now = client.clock.now();
        let statuses = if self.failed { vec!["failed".to_owned()] } else { self.status };
        let filter = vec![
            ("status", "--status", json!(statuses)),
            ("reason", "--reason", json!(self.reason)),
            ("type", "--event", json!(self.event)),
            ("channel", "--channel", json!(self.channel)),
            ("origin", "--origin", json!(self.origin)),
            ("destinationId", "--destination", json!(self.destination)),
            ("watchId", "--watch", json!(self.watch)),
            ("jobId", "--job-id", json!(self.job_id)),
            ("reference", "--reference", json!(self.reference)),
            ("since", "--since", json!(time_argument("--since", self.since, now)?)),
            ("until", "--until", json!(time_argument("--until", self.until, now)?)),
            ("all", "--all", json!(self.all)),
        ];
        let nouns = ("delivery", "deliveries");
        let request = BulkRequest { path: "/v1/deliveries/retry", filter, nouns, done: "retried" };
        request.run(&client, &self.options).await
    }
}
