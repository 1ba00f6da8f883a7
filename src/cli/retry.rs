//! `ringback retry`: retries deliveries now.

use serde_json::{Value, json};

use super::arguments::time_argument;
use super::client::{Server, json_object, segment};
use super::output::Failure;
use super::terminal::{clean, text};

/// Retry a delivery now, or all failed deliveries
///
/// A pending delivery is attempted at once and keeps its schedule. A delivery that has succeeded or failed is attempted
/// once more, with the same webhook-id.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "\
Example:
  ringback retry dlv_01m84y…
  ringback retry --failed --since 24h

--since and --until select by the time of the event: a time such as 2026-02-18T15:00:00Z, or how long
ago, such as 24h.",
    group(clap::ArgGroup::new("what").required(true).args(["id", "failed"]))
)]
pub struct Retry {
    /// Id of the delivery (dlv_…)
    id: Option<String>,
    /// Retry all failed deliveries
    #[arg(long)]
    failed: bool,
    /// Only events from this time on
    #[arg(long, value_name = "WHEN", conflicts_with = "id")]
    since: Option<String>,
    /// Only events before this time
    #[arg(long, value_name = "WHEN", conflicts_with = "id")]
    until: Option<String>,
    /// Only deliveries to this destination
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    destination: Option<String>,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

impl Retry {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        let answer = if let Some(id) = &self.id {
            client.post(&format!("/v1/deliveries/{}/retry", segment(id)), None, None).await?
        } else {
            let now = client.clock.now();
            let filters = [
                ("since", time_argument("--since", self.since, now)?),
                ("until", time_argument("--until", self.until, now)?),
                ("destinationId", self.destination),
            ];
            let mut body = json_object(filters);
            body.insert("status".to_owned(), json!("failed"));
            client.post("/v1/deliveries/retry", Some(Value::Object(body).to_string()), None).await?
        };
        answer.print(self.json, |value, _| match self.id.as_deref().map(clean) {
            Some(id) => format!("{id} is attempted now; `ringback show {id}` shows the result."),
            None => match text(value, "/count").as_str() {
                "1" => "1 delivery is retried.".to_owned(),
                count => format!("{count} deliveries are retried."),
            },
        })
    }
}
