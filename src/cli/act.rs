//! `ringback cancel` and `ringback retry`.

use serde_json::{Map, Value, json};

use super::client::{Server, segment};
use super::screen::{Screen, clean, text};
use super::{Failure, moment, say, show};

/// An object of what was said.
pub(super) fn fields<const N: usize>(said: [(&str, Option<String>); N]) -> Map<String, Value> {
    said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect()
}

/// Stop a watch: its job is not looked at any more, and nothing more is sent
///
/// A watch that has ended keeps its ending and loses what is still waiting to be sent. The job itself
/// is the provider's and goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback cancel watch_01m84y…")]
pub struct Cancel {
    /// The watch, as watch_…
    id: String,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

impl Cancel {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        let answer = client.delete(&format!("/v1/watches/{}", segment(&self.id))).await?;
        let screen = Screen::of_stdout();
        if self.json {
            return Ok(screen.json(&answer.text)?);
        }
        Ok(say(show::watch_card(&answer.value(), screen))?)
    }
}

/// Send a delivery now, or all that have failed
///
/// A delivery that waits for its next try is sent at once and keeps its schedule; one that has
/// succeeded or failed is sent once more, with the same webhook-id.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "\
Example:
  ringback retry dlv_01m84y…
  ringback retry --failed --since 24h

--since and --until take a time, as 2026-02-18T15:00:00Z, or how long ago, as 24h; it is the event's.",
    group(clap::ArgGroup::new("what").required(true).args(["id", "failed"]))
)]
pub struct Retry {
    /// The delivery, as dlv_…
    id: Option<String>,
    /// All that have failed
    #[arg(long)]
    failed: bool,
    /// Of those, not before
    #[arg(long, value_name = "WHEN", conflicts_with = "id")]
    since: Option<String>,
    /// Of those, before
    #[arg(long, value_name = "WHEN", conflicts_with = "id")]
    until: Option<String>,
    /// Of those, to this destination
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
            let which = [
                ("since", moment("--since", self.since, now)?),
                ("until", moment("--until", self.until, now)?),
                ("destinationId", self.destination),
            ];
            let mut body = fields(which);
            body.insert("status".to_owned(), json!("failed"));
            client.post("/v1/deliveries/retry", Some(Value::Object(body).to_string()), None).await?
        };
        if self.json {
            return Ok(Screen::of_stdout().json(&answer.text)?);
        }
        let value = answer.value();
        match &self.id {
            Some(id) => {
                let id = clean(id);
                say(format_args!("{id} is sent now; `ringback show {id}` says what became of it."))?;
            }
            None => match text(&value, "/count").as_str() {
                "1" => say("1 delivery is sent again.")?,
                count => say(format_args!("{count} deliveries are sent again."))?,
            },
        }
        Ok(())
    }
}
