//! `ringback deliveries`: lists deliveries.

use serde_json::Value;

use super::arguments::{time_argument, values_of};
use super::client::Server;
use super::output::Failure;
use super::paging::Paging;
use super::terminal::{address, text, time};
use crate::domain::DeliveryStatus;

/// List deliveries, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback deliveries --status failed --since 24h

--since and --until select by the time of the event: a time such as 2026-02-18T15:00:00Z, or how long
ago, such as 24h.")]
pub struct Deliveries {
    /// Only deliveries with this status
    #[arg(long, value_parser = values_of(DeliveryStatus::ALL, DeliveryStatus::as_str))]
    status: Option<String>,
    /// Only deliveries of this watch
    #[arg(long, value_name = "ID")]
    watch: Option<String>,
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
        let filters = vec![
            ("status", self.status),
            ("watchId", self.watch),
            ("destinationId", self.destination),
            ("since", time_argument("--since", self.since, now)?),
            ("until", time_argument("--until", self.until, now)?),
        ];
        let head = ["ID", "STATUS", "EVENT", "WATCH", "TO…", "NEXT ATTEMPT (UTC)", "CREATED (UTC)"];
        let row = |delivery: &Value| {
            let (status, reason) = (text(delivery, "/status"), text(delivery, "/reason"));
            vec![
                text(delivery, "/id"),
                if reason.is_empty() { status } else { format!("{status}: {reason}") },
                text(delivery, "/eventType"),
                text(delivery, "/watchId"),
                address(&delivery["destination"]),
                time(delivery, "/nextAttemptAt"),
                time(delivery, "/createdAt"),
            ]
        };
        self.paging.show(&client, "/v1/deliveries", filters, &head, row).await
    }
}
