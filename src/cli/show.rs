//! `ringback show ID`: a watch with its timeline, a delivery with its attempts, or an event.

use serde_json::Value;

use super::client::{Answer, Client, PAGE_MAX, Server, segment};
use super::follow;
use super::output::Failure;
use super::terminal::{FieldList, Table, Terminal, address, text, time};
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
            return Err(Failure::Usage(
                "only a watch can be followed; give the id of a watch (watch_…)".into(),
            ));
        }
        let client = self.server.client()?;
        let id = segment(&self.id);
        let (answer, shown): (Answer, fn(&Value, Terminal) -> String) = match kind {
            "watch" if self.follow => return follow::follow(&client, &self.id, None, self.json).await,
            "watch" => (with_timeline(&client, &id).await?, watch),
            "dlv" => (client.get(&format!("/v1/deliveries/{id}")).await?, delivery),
            "evt" => (client.get(&format!("/v1/events/{id}")).await?, event),
            _ => {
                let sentence =
                    "this object cannot be shown; give an id that begins with watch_, dlv_ or evt_";
                return Err(Failure::Usage(sentence.into()));
            }
        };
        answer.print(self.json, shown)
    }
}

/// Returns the JSON of a watch with its timeline as an additional field.
async fn with_timeline(client: &Client, id: &str) -> Result<Answer, Failure> {
    let watch = client.get(&format!("/v1/watches/{id}")).await?.text;
    let (mut lines, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/watches/{id}/timeline?limit={PAGE_MAX}{after}")).await?.text;
        let page: super::client::Page = serde_json::from_str(&page)
            .map_err(|error| Failure::Failed(format!("{} sent no timeline: {error}", client.url())))?;
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
    let (status, raw) = (text(watch, "/job/status"), text(watch, "/job/rawStatus"));
    let named = if raw.is_empty() || raw == status { status } else { format!("{status} ({raw})") };
    let progress = text(watch, "/job/progress");
    let named = if named == JobStatus::Unknown.as_str() { "not polled yet".to_owned() } else { named };
    card.line("job status", if progress.is_empty() { named } else { format!("{named}, {progress} %") });
    card.line("output", text(watch, "/job/output"));
    let outputs = watch.pointer("/job/outputs").and_then(Value::as_array).map_or(0, Vec::len);
    if outputs > 1 {
        card.line("outputs", format!("{outputs}; --json shows all"));
    }
    let why = [text(watch, "/job/error/code"), text(watch, "/job/error/message")];
    card.line("error", why.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(": "));
    card.line("last error", text(watch, "/job/lastError"));
    card.line("last poll", utc(watch, "/job/lastPolledAt"));
    card.line("next poll", utc(watch, "/job/nextPollAt"));
    card.line("created", utc(watch, "/createdAt"));
    card.line("ended", utc(watch, "/endedAt"));
    card.line(
        "expires",
        if text(watch, "/endedAt").is_empty() { utc(watch, "/expiresAt") } else { String::new() },
    );
    let metadata = text(watch, "/metadata");
    card.line("metadata", if metadata == "{}" { String::new() } else { metadata });
    let mut shown = card.render(terminal);
    let mut destinations = Table::new(&["DESTINATION", "STATUS", "TYPE", "ADDRESS…"]);
    for one in watch.pointer("/destinations").and_then(Value::as_array).into_iter().flatten() {
        let [id, status, kind] = ["/id", "/status", "/type"].map(|field| text(one, field));
        destinations.row([id, status, kind, address(one)]);
    }
    if !destinations.is_empty() {
        shown.push_str("\n\n");
        shown.push_str(&destinations.render(terminal, "", true));
    }
    shown
}

fn watch(watch: &Value, terminal: Terminal) -> String {
    let mut timeline = Table::new(&["TIME (UTC)", "KIND", "DETAILS…"]);
    for one in watch.pointer("/timeline").and_then(Value::as_array).into_iter().flatten() {
        timeline.row([time(one, "/at"), text(one, "/kind"), details(one)]);
    }
    format!("{}\n\n{}", watch_fields(watch, terminal), timeline.render(terminal, "", true))
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
    let mut attempts = Table::new(&["TIME (UTC)", "STATUS", "DURATION", "ERROR…", "RESPONSE…"]);
    for one in delivery.pointer("/attempts").and_then(Value::as_array).into_iter().flatten() {
        attempts.row([
            time(one, "/at"),
            text(one, "/statusCode"),
            format!("{} ms", text(one, "/durationMs")),
            text(one, "/error"),
            text(one, "/responseBody"),
        ]);
    }
    let card = card.render(terminal);
    if attempts.is_empty() { card } else { format!("{card}\n\n{}", attempts.render(terminal, "", true)) }
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
