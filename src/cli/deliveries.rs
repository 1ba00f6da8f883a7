//! `ringback deliveries`: lists deliveries.

use clap::builder::PossibleValuesParser;
use serde_json::Value;

use super::arguments::time_argument;
use super::client::{Paging, Server};
use super::output::{Failure, address, texts};
use super::terminal::{Column, Terminal};
use super::waiting::{self, WaitNotes};
use crate::domain::{DeliveryStatus, Reason};

/// List deliveries, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback deliveries --status failed --since 24h

--since and --until select by the time of the event: a time such as 2026-02-18T15:00:00Z, or how long ago, such as 24h.")]
pub struct Deliveries {
    /// Only deliveries with one of these statuses, such as failed,pending
    #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(DeliveryStatus::WORDS))]
    status: Vec<String>,
    /// Only deliveries that ended for this reason
    #[arg(long, value_parser = PossibleValuesParser::new(Reason::WORDS))]
    reason: Option<String>,
    /// Only deliveries of events of this type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only deliveries by this channel
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Only webhooks to this origin
    #[arg(
        long,
        value_name = "URL",
        help = "Only webhooks to this scheme, host and port, such as https://app.example.com"
    )]
    origin: Option<String>,
    /// Only deliveries of this watch
    #[arg(long, value_name = "ID")]
    watch: Option<String>,
    /// Only deliveries of watches of this job
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// Only deliveries of watches with this reference
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
    /// Only deliveries to this destination
    #[arg(long, value_name = "ID")]
    destination: Option<String>,
    /// Only events from this time on
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only events before this time
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    server: Server,
}

impl Deliveries {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        let now = client.clock.now();
        let filters = [
            ("status", "--status", (!self.status.is_empty()).then(|| self.status.join(","))),
            ("reason", "--reason", self.reason),
            ("type", "--type", self.event_type),
            ("channel", "--channel", self.channel),
            ("origin", "--origin", self.origin),
            ("watchId", "--watch", self.watch),
            ("jobId", "--job-id", self.job_id),
            ("reference", "--reference", self.reference),
            ("destinationId", "--destination", self.destination),
            ("since", "--since", time_argument("--since", self.since, now)?),
            ("until", "--until", time_argument("--until", self.until, now)?),
        ];
        let columns = [
            Column::new("ID"),
            Column::new("STATUS"),
            Column::new("ATTEMPTS"),
            Column::new("WHY").soft().optional(0),
            Column::new("EVENT").optional(3),
            Column::new("WATCH").optional(5),
            Column::new("TO").soft().optional(1),
            Column::time("NEXT ATTEMPT").optional(4),
            Column::time("CREATED").optional(2),
        ];
        let (terminal, mut notes) = (Terminal::of_stdout(), WaitNotes::new(Terminal::of_stdout()));
        let row = |delivery: &Value| {
            let [id, status, reason] = texts(delivery, ["/id", "/status", "/reason"]);
            let status = if reason.is_empty() { status } else { format!("{status}: {reason}") };
            let [event, watch] = texts(delivery, ["/eventType", "/watchId"]);
            let [next, created] = texts(delivery, ["/nextAttemptAt", "/createdAt"]);
            let [attempts, error] = texts(delivery, ["/attemptCount", "/lastError"]);
            let to = &delivery["destination"];
            let waits = waiting::describe(delivery, to, terminal).unwrap_or(error);
            notes.add(delivery, to);
            vec![id, status, attempts, waits, event, watch, address(to), next, created]
        };
        self.paging.show(&client, "/v1/deliveries", &filters, &columns, row).await?;
        notes.print();
        Ok(())
    }
}
