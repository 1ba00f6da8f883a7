//! `ringback show ID`: a watch with its timeline, a delivery with its attempts, or an event.

use anyhow::Context as _;
use serde_json::Value;

use super::client::{Answer, Client, PAGE_MAX, Page, Server, segment, with_query};
use super::delivery_state;
use super::follow::{self, Follow};
use super::output::{Failure, address, join, list, text, texts};
use super::terminal::{Column, FieldList, Terminal, seconds};
use super::waiting::{self, WaitNotes};
use crate::domain::{EventType, JobStatus, Timestamp, WatchStatus};

/// Show a watch with its timeline, a delivery or an event
///
/// A delivery is shown with its attempts, an event with its deliveries. The id says which: watch_…, dlv_… or evt_….
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback show watch_01m84y… --follow

--follow waits for the end of a watch; the exit codes are those of ringback watch --follow.

With --json a watch has its timeline in the field timeline.")]
pub struct Show {
    /// Id (watch_…, dlv_… or evt_…)
    id: String,
    #[command(flatten)]
    follow: Follow,
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
        if self.follow.is_wanted && kind != "watch" {
            let sentence = "only a watch can be followed; give the id of a watch (watch_…)";
            return Err(Failure::Usage(sentence.into()));
        }
        let client = self.server.client()?;
        let id = segment(&self.id);
        match kind {
            "watch" if self.follow.is_wanted => {
                follow::follow(&client, &self.id, None, (self.json, self.follow.delivery_wait)).await
            }
            "watch" => with_timeline(&client, &id).await?.print(self.json, watch),
            "dlv" => client.get(&format!("/v1/deliveries/{id}")).await?.print(self.json, delivery),
            "evt" => {
                let event = client.get(&format!("/v1/events/{id}")).await?;
                let deliveries = if self.json { Value::Null } else { deliveries_of(&client, &event).await? };
                event.print(self.json, |event, terminal| event_fields(event, &deliveries, terminal))
            }
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

/// Returns whether an event is about a watch.
fn is_of_watch(event: &Value) -> bool {
    EventType::parse(&text(event, "/type")).is_none_or(EventType::is_of_watch)
}

/// Returns the deliveries of an event: those at the time of the event, and of its watch if it is about one.
async fn deliveries_of(client: &Client, event: &Answer) -> Result<Value, Failure> {
    const MOMENT: std::time::Duration = std::time::Duration::from_millis(1);
    let event = event.value();
    let at = text(&event, "/timestamp");
    let until = Timestamp::parse(&at).map(|at| at.plus(MOMENT).to_string());
    let watch = is_of_watch(&event).then(|| text(&event, "/data/watchId"));
    let filters = [("watchId", watch), ("since", Some(at)), ("until", until)];
    Ok(client.get(&with_query("/v1/deliveries", filters)).await?.value())
}

/// Returns a watch with its destinations.
pub(super) fn watch_fields(watch: &Value, terminal: Terminal) -> String {
    let mut card = FieldList::new(terminal);
    card.line("watch", text(watch, "/id"));
    card.line("status", text(watch, "/status"));
    card.line("name", text(watch, "/name"));
    card.line("reference", text(watch, "/reference"));
    card.line("job", format!("{} of {}", text(watch, "/jobId"), text(watch, "/provider")));
    card.line("credential", text(watch, "/credential"));
    job_status(&mut card, watch, "/job", follow::unknown_status(watch));
    result(&mut card, watch, "/job");
    card.line("last error", text(watch, "/job/lastError"));
    polls(&mut card, watch);
    card.time("created", watch, "/createdAt");
    card.time("ended", watch, "/endedAt");
    if text(watch, "/endedAt").is_empty() {
        card.time("expires", watch, "/expiresAt");
    }
    card.line("group", text(watch, "/groupId"));
    card.line("job cancel", join(texts(watch, ["/cancelJob/status", "/cancelJob/message"]), ": "));
    metadata(&mut card, watch, "/metadata");
    let destinations = list(watch, "/destinations").map(|one| {
        let [id, attempts, next] = texts(one, ["/id", "/attemptCount", "/nextAttemptAt"]);
        [id, delivery_state::of_destination(one), text(one, "/type"), address(one), attempts, next]
    });
    let columns = [
        Column::new("DESTINATION"),
        Column::new("DELIVERY"),
        Column::new("TYPE").optional(2),
        Column::new("ADDRESS").soft(),
        Column::new("ATTEMPTS").optional(3),
        Column::time("NEXT ATTEMPT").optional(1),
    ];
    let mut notes = WaitNotes::new(terminal);
    notes.add_watch(watch);
    join([card.render(), terminal.table(&columns, destinations, true), notes.render()], "\n\n")
}

/// Adds the status of a job with the provider's own word and the progress. `unknown` replaces an unknown status.
fn job_status(card: &mut FieldList, value: &Value, job: &str, unknown: &str) {
    let [status, raw, percent] =
        ["status", "rawStatus", "progress"].map(|field| text(value, &format!("{job}/{field}")));
    let named = match status {
        status if status == JobStatus::Unknown.as_str() => unknown.to_owned(),
        status if raw.is_empty() || raw == status => status,
        status => format!("{status} ({raw})"),
    };
    card.line("job status", if percent.is_empty() { named } else { format!("{named}, {percent} %") });
}

/// Adds the result of a job: its output, or its error.
fn result(card: &mut FieldList, value: &Value, job: &str) {
    let at = |field: &str| format!("{job}/{field}");
    card.line("output", text(value, &at("output")));
    let outputs = list(value, &at("outputs")).count();
    if outputs > 1 {
        card.line("outputs", format!("{outputs}; --json shows all"));
    }
    card.time("outputs expire", value, &at("outputExpiresAt"));
    card.line("error", join(texts(value, [&at("error/code"), &at("error/message")]), ": "));
}

/// Adds the polls of a job.
fn polls(card: &mut FieldList, watch: &Value) {
    let polls = text(watch, "/job/polls");
    card.line("polls", if polls == "0" { "" } else { &polls });
    card.time("last poll", watch, "/job/lastPolledAt");
    card.time("next poll", watch, "/job/nextPollAt");
}

/// Adds the metadata of a client, if there is any.
fn metadata(card: &mut FieldList, value: &Value, pointer: &str) {
    let metadata = text(value, pointer);
    card.line("metadata", if metadata == "{}" { "" } else { &metadata });
}

fn watch(watch: &Value, terminal: Terminal) -> String {
    let timeline = list(watch, "/timeline").map(|one| {
        let [at, kind] = texts(one, ["/at", "/kind"]);
        [seconds(&at), kind, details(one, watch, terminal)]
    });
    // Absolute times: the distances between the entries count.
    let columns = [Column::new("TIME (UTC)"), Column::new("KIND"), Column::new("DETAILS").soft()];
    let timeline = terminal.table(&columns, timeline, true);
    join([watch_fields(watch, terminal), timeline, undelivered(watch, terminal)], "\n\n")
}

/// Returns the last error of each delivery that has not succeeded, in full: a timeline has one line for each entry.
fn undelivered(watch: &Value, terminal: Terminal) -> String {
    let of_kind = |kind: &'static str| list(watch, "/timeline").filter(move |one| text(one, "/kind") == kind);
    let mut card = FieldList::new(terminal);
    for delivery in of_kind("delivery").filter(|one| text(one, "/status") != "succeeded") {
        let [id, status] = texts(delivery, ["/deliveryId", "/status"]);
        let last = of_kind("attempt").filter(|one| text(one, "/deliveryId") == id).last();
        let error = last.map(|last| text(last, "/error")).unwrap_or_default();
        if !error.is_empty() {
            card.line(&status, format!("{id}: {error}"));
        }
    }
    card.render()
}

/// Returns the important fields of an entry of a timeline, the id of an object before what may be cut.
fn details(one: &Value, watch: &Value, terminal: Terminal) -> String {
    /// Width of the columns before the details.
    const BEFORE: usize = 33;
    const ERROR: &str = "/error";

    let fields: &[&str] = match text(one, "/kind").as_str() {
        "observed" => &["/status", "/rawStatus", "/progress", "/errorCode"],
        "event" => &["/eventType", "/eventId"],
        "delivery" => &["/status", "/deliveryId", "/reason"],
        "attempt" => &["/statusCode", "/deliveryId", ERROR],
        "cancel_finished" => &["/status", "/httpStatus", "/message"],
        _ => &[],
    };
    let mut words: Vec<String> = Vec::new();
    for field in fields {
        let word = if *field == ERROR { error_beside_status(one) } else { text(one, field) };
        if !word.is_empty() && !words.contains(&word) {
            words.push(if *field == "/progress" { format!("{word} %") } else { word });
        }
    }
    if !text(one, "/durationMs").is_empty() {
        words.push(format!("in {} ms", text(one, "/durationMs")));
    }
    let to = text(one, "/destinationId");
    let to = list(watch, "/destinations").find(|known| !to.is_empty() && text(known, "/id") == to);
    let words = words.join("  ");
    match to.map(|to| format!("{words}  to {}", address(to))) {
        // Not a beginning of the address: those of one host are alike.
        Some(all) if terminal.fits(&format!("{:BEFORE$}{all}", "")) => all,
        _ => words,
    }
}

/// Returns the error of an attempt whose status is shown beside it: empty if it only repeats the status.
fn error_beside_status(attempt: &Value) -> String {
    let error = text(attempt, "/error");
    if error == format!("HTTP {}", text(attempt, "/statusCode")) { String::new() } else { error }
}

/// Returns the reason of a delivery. It may have ended without an attempt, and then no error explains it.
fn reason(delivery: &Value) -> String {
    let [reason, attempts] = texts(delivery, ["/reason", "/attemptCount"]);
    match (reason.as_str(), attempts.as_str()) {
        ("exhausted", "0") => "exhausted (pending for too long, without an attempt)".to_owned(),
        ("exhausted", _) => "exhausted (all attempts failed, or pending for too long)".to_owned(),
        _ => reason,
    }
}

fn delivery(delivery: &Value, terminal: Terminal) -> String {
    let mut card = FieldList::new(terminal);
    card.line("delivery", text(delivery, "/id"));
    card.line("status", text(delivery, "/status"));
    card.line("reason", reason(delivery));
    card.line("event", format!("{} {}", text(delivery, "/eventType"), text(delivery, "/eventId")));
    card.line("watch", text(delivery, "/watchId"));
    let to = &delivery["destination"];
    card.line("destination", format!("{} {}", text(to, "/type"), address(to)));
    let last = list(delivery, "/attempts").max_by_key(|one| one["number"].as_u64());
    card.line("last error", last.map(|last| text(last, "/error")).unwrap_or_default());
    card.time("next attempt", delivery, "/nextAttemptAt");
    if let Some(sentence) = waiting::describe(delivery, to, terminal) {
        card.line("waits because", sentence);
        card.time("since", delivery, "/waiting/since");
    }
    card.line("to try now", waiting::command_of_one(delivery));
    card.time("created", delivery, "/createdAt");
    let (count, listed) = (text(delivery, "/attemptCount"), list(delivery, "/attempts").count());
    if count.parse().is_ok_and(|count: usize| count > listed) {
        card.line("attempts", format!("{count}, of which the newest {listed} follow"));
    }
    let attempts = list(delivery, "/attempts").map(|one| {
        let duration = format!("{} ms", text(one, "/durationMs"));
        let [at, status, response] = texts(one, ["/at", "/statusCode", "/responseBody"]);
        [seconds(&at), status, duration, error_beside_status(one), response]
    });
    let columns = [
        Column::new("TIME (UTC)"),
        Column::new("STATUS"),
        Column::new("DURATION"),
        Column::new("ERROR").soft(),
        Column::new("RESPONSE").soft().optional(1),
    ];
    join([card.render(), terminal.table(&columns, attempts, true)], "\n\n")
}

/// Adds what an event says that is about no watch.
fn operational_fields(card: &mut FieldList, event: &Value) {
    for (name, field) in [
        ("destination", "destinationId"),
        ("name", "name"),
        ("reason", "reason"),
        ("delivery", "deliveryId"),
        ("of event", "eventType"),
        ("attempts", "attemptCount"),
        ("last error", "lastError"),
        ("group", "groupId"),
        ("size", "size"),
        ("registered", "registered"),
    ] {
        card.line(name, text(event, &format!("/data/{field}")));
    }
    card.time("since", event, "/data/since");
    for status in WatchStatus::WORDS {
        let count = text(event, &format!("/data/counts/{status}"));
        card.line(status, if count == "0" { String::new() } else { count });
    }
}

fn event_fields(event: &Value, deliveries: &Value, terminal: Terminal) -> String {
    let mut card = FieldList::new(terminal);
    card.line("event", text(event, "/id"));
    card.line("type", text(event, "/type"));
    card.line("name", text(event, "/data/name"));
    card.line("reference", text(event, "/data/reference"));
    card.time("time", event, "/timestamp");
    let [watch, job, provider] = texts(event, ["/data/watchId", "/data/jobId", "/data/provider"]);
    card.line("watch", watch);
    if is_of_watch(event) {
        card.line("job", format!("{job} of {provider}"));
        job_status(&mut card, event, "/data", "unknown");
        result(&mut card, event, "/data");
        card.time("job created", event, "/data/createdAt");
        card.time("job completed", event, "/data/completedAt");
        metadata(&mut card, event, "/data/metadata");
    } else {
        card.line("job", job);
        operational_fields(&mut card, event);
    }
    let id = text(event, "/id");
    let of_event = || list(deliveries, "/data").filter(|one| text(one, "/eventId") == id);
    let mut notes = WaitNotes::new(terminal);
    of_event().for_each(|one| notes.add(one, &one["destination"]));
    let deliveries = of_event().map(|one| {
        let [id, status] = texts(one, ["/id", "/status"]);
        [id, status, text(one, "/destination/type"), address(&one["destination"])]
    });
    let columns =
        [Column::new("DELIVERY"), Column::new("STATUS"), Column::new("TYPE"), Column::new("ADDRESS").soft()];
    join([card.render(), terminal.table(&columns, deliveries, true), notes.render()], "\n\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::terminal::narrow;
    use super::*;

    const ERROR: &str =
        "connect: the mail server cannot be reached: connection refused; it is tried again later";

    #[test]
    fn the_last_error_of_a_delivery_is_shown_in_full() {
        let attempt = |number: u32, error: &str| json!({ "number": number, "at": "2026-02-18T15:00:00Z", "durationMs": 3, "error": error });
        let shown = delivery(
            &json!({ "id": "dlv_01m84xcqq61hcfr06f3pqac001", "status": "pending", "attemptCount": 2,
                     "attempts": [attempt(1, "timeout: no answer"), attempt(2, ERROR)] }),
            narrow(80),
        );
        let (_, card) = shown.split_once("last error").expect("a line");
        assert!(words(card).starts_with(ERROR), "{shown}");
        assert!(shown.lines().all(|line| narrow(80).fits(line)), "{shown}");
    }

    #[test]
    fn a_watch_shows_the_last_error_of_each_delivery_that_has_not_succeeded() {
        let (first, second) = ("dlv_01m84xcqq61hcfr06f3pqac001", "dlv_01m84xcqq61hcfr06f3pqac002");
        let at = "2026-02-18T15:00:00Z";
        let made = |id: &str, status: &str| json!({ "kind": "delivery", "at": at, "deliveryId": id, "status": status });
        let attempt = |id: &str, error: Option<&str>| json!({ "kind": "attempt", "at": at, "deliveryId": id, "error": error, "durationMs": 3 });
        let timeline = [
            made(first, "pending"),
            made(second, "succeeded"),
            attempt(first, Some("timeout: no answer")),
            attempt(second, Some("refused: an error that is past")),
            attempt(first, Some(ERROR)),
            attempt(second, None),
        ];
        let all = watch(&json!({ "id": "watch_1", "timeline": timeline }), narrow(80));
        let below = all.rsplit("\n\n").next().expect("a part");
        assert_eq!(words(below), format!("pending {first}: {ERROR}"), "{all}");
        assert!(all.lines().all(|line| narrow(80).fits(line)), "{all}");
    }

    fn words(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}
