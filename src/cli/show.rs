//! `ringback show ID`: a watch with its timeline, a delivery with its attempts, or an event.

use anyhow::Context as _;
use serde_json::Value;

use super::client::{Answer, Client, PAGE_MAX, Page, Server, segment};
use super::follow;
use super::output::{Failure, FieldList, Terminal, address, join, list, text, texts, time};
use crate::domain::JobStatus;

/// Show a watch with its timeline, a delivery with its attempts, or an event
///
/// The id says which: watch_…, dlv_… or evt_….
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback show watch_01m84y… --follow

--follow waits for the end of a watch; the exit codes are those of `ringback watch --follow`.
With --json a watch has its timeline in the field `timeline`.")]
pub struct Show {
    /// Id (watch_…, dlv_… or evt_…)
    id: String,
    /// Wait for the end of a watch and show progress
    #[arg(long, short)]
    follow: bool,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

impl Show {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let kind = self.id.split_once('_').map_or("", |(kind, _)| kind);
        if self.follow && kind != "watch" {
            let sentence = "only a watch can be followed; give the id of a watch (watch_…)";
            return Err(Failure::Usage(sentence.into()));
        }
        let client = self.server.client()?;
        let id = segment(&self.id);
        match kind {
            "watch" if self.follow => follow::follow(&client, &self.id, None, self.json).await,
            "watch" => with_timeline(&client, &id).await?.print(self.json, watch),
            "dlv" => client.get(&format!("/v1/deliveries/{id}")).await?.print(self.json, delivery),
            "evt" => client.get(&format!("/v1/events/{id}")).await?.print(self.json, event),
            _ => {
                let sentence =
                    "this object cannot be shown; give an id that begins with watch_, dlv_ or evt_";
                Err(Failure::Usage(sentence.into()))
            }
        }
    }
}

/// Returns the JSON of a watch with its timeline as an additional field.
async fn with_timeline(client: &Client, id: &str) -> Result<Answer, Failure> {
    let watch = client.get(&format!("/v1/watches/{id}")).await?.text;
    let (mut lines, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/watches/{id}/timeline?limit={PAGE_MAX}{after}")).await?.text;
        let page: Page =
            serde_json::from_str(&page).with_context(|| format!("{} sent no timeline", client.url()))?;
        lines.extend(page.data.iter().map(|line| line.get().to_owned()));
        let Some(cursor) = page.next_cursor else { break };
        after = format!("&cursor={}", segment(&cursor));
    }
    let open = watch.trim_end().strip_suffix('}').unwrap_or_default();
    Ok(Answer { text: format!("{open},\"timeline\":[{}]}}", lines.join(",")) })
}

/// Returns a watch with its destinations.
pub(super) fn watch_fields(watch: &Value, terminal: Terminal) -> String {
    let mut card = FieldList::default();
    card.line("watch", text(watch, "/id"));
    card.line("status", text(watch, "/status"));
    card.line("job", format!("{} of {}", text(watch, "/jobId"), text(watch, "/provider")));
    let [status, raw, percent] = texts(watch, ["/job/status", "/job/rawStatus", "/job/progress"]);
    let named = match status {
        status if raw.is_empty() || raw == status => status,
        status => format!("{status} ({raw})"),
    };
    let named = if named == JobStatus::Unknown.as_str() { "not polled yet".to_owned() } else { named };
    card.line("job status", if percent.is_empty() { named } else { format!("{named}, {percent} %") });
    card.line("output", text(watch, "/job/output"));
    let outputs = list(watch, "/job/outputs").count();
    if outputs > 1 {
        card.line("outputs", format!("{outputs}; --json shows all"));
    }
    let why = texts(watch, ["/job/error/code", "/job/error/message"]);
    card.line("error", join(why, ": "));
    card.line("last error", text(watch, "/job/lastError"));
    card.line("last poll", utc(watch, "/job/lastPolledAt"));
    card.line("next poll", utc(watch, "/job/nextPollAt"));
    card.line("created", utc(watch, "/createdAt"));
    card.line("ended", utc(watch, "/endedAt"));
    if text(watch, "/endedAt").is_empty() {
        card.line("expires", utc(watch, "/expiresAt"));
    }
    let metadata = text(watch, "/metadata");
    card.line("metadata", if metadata == "{}" { "" } else { &metadata });
    let destinations = list(watch, "/destinations").map(|one| {
        let [id, status, kind] = texts(one, ["/id", "/status", "/type"]);
        [id, status, kind, address(one)]
    });
    let head = ["DESTINATION", "STATUS", "TYPE", "ADDRESS…"];
    join([card.render(terminal), terminal.table(&head, destinations, true)], "\n\n")
}

fn watch(watch: &Value, terminal: Terminal) -> String {
    let timeline = list(watch, "/timeline").map(|one| [time(one, "/at"), text(one, "/kind"), details(one)]);
    let timeline = terminal.table(&["TIME (UTC)", "KIND", "DETAILS…"], timeline, true);
    join([watch_fields(watch, terminal), timeline], "\n\n")
}

/// Returns the important fields of an entry of a timeline.
fn details(one: &Value) -> String {
    let fields: &[&str] = match text(one, "/kind").as_str() {
        "observed" => &["/status", "/rawStatus", "/progress"],
        "event" => &["/eventType", "/eventId"],
        "delivery" => &["/status", "/reason", "/deliveryId", "/destinationId"],
        "attempt" => &["/statusCode", "/error", "/deliveryId"],
        _ => &[],
    };
    let mut words: Vec<String> = Vec::new();
    for field in fields {
        let word = text(one, field);
        if !word.is_empty() && !words.contains(&word) {
            words.push(if *field == "/progress" { format!("{word} %") } else { word });
        }
    }
    if !text(one, "/durationMs").is_empty() {
        words.push(format!("in {} ms", text(one, "/durationMs")));
    }
    words.join("  ")
}

fn delivery(delivery: &Value, terminal: Terminal) -> String {
    let mut card = FieldList::default();
    card.line("delivery", text(delivery, "/id"));
    card.line("status", text(delivery, "/status"));
    card.line("reason", text(delivery, "/reason"));
    card.line("event", format!("{} {}", text(delivery, "/eventType"), text(delivery, "/eventId")));
    card.line("watch", text(delivery, "/watchId"));
    let to = &delivery["destination"];
    card.line("destination", format!("{} {}", text(to, "/type"), address(to)));
    card.line("next attempt", utc(delivery, "/nextAttemptAt"));
    card.line("created", utc(delivery, "/createdAt"));
    let attempts = list(delivery, "/attempts").map(|one| {
        let duration = format!("{} ms", text(one, "/durationMs"));
        let [at, status, error, response] = texts(one, ["/at", "/statusCode", "/error", "/responseBody"]);
        [at, status, duration, error, response]
    });
    let head = ["TIME (UTC)", "STATUS", "DURATION", "ERROR…", "RESPONSE…"];
    join([card.render(terminal), terminal.table(&head, attempts, true)], "\n\n")
}

fn event(event: &Value, terminal: Terminal) -> String {
    let mut card = FieldList::default();
    card.line("event", text(event, "/id"));
    card.line("type", text(event, "/type"));
    card.line("at", utc(event, "/timestamp"));
    for (name, value) in event.pointer("/data").and_then(Value::as_object).into_iter().flatten() {
        card.line(name, text(value, ""));
    }
    card.render(terminal)
}

fn utc(value: &Value, pointer: &str) -> String {
    let time = time(value, pointer);
    if time.is_empty() { time } else { format!("{time} UTC") }
}
