//! `ringback group ID`: shows a group of watches.

use serde_json::Value;

use super::client::{Server, segment};
use super::output::{Failure, address, join, list, text, texts};
use super::terminal::{Column, FieldList, Terminal};
use crate::domain::{GroupStatus, WatchStatus};

/// Show a group of watches, and what is missing
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback group batch-7

To list its watches: ringback watches --group batch-7")]
pub struct ShowGroup {
    /// Id of the group, which its first registration has chosen
    id: String,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

impl ShowGroup {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let group = self.server.client()?.get(&format!("/v1/groups/{}", segment(&self.id))).await?;
        group.print(self.json, fields_of)
    }
}

fn number(group: &Value, pointer: &str) -> u64 {
    group.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

/// Returns what is missing until the group is completed; empty if it is not open.
fn missing(group: &Value) -> String {
    if text(group, "/status") != GroupStatus::Open.as_str() {
        return String::new();
    }
    let [size, registered] = ["/size", "/registered"].map(|pointer| number(group, pointer));
    let needed = match text(group, "/when").as_str() {
        "all" => size,
        "first" => 1,
        count => count.parse().unwrap_or(size),
    };
    let ended = WatchStatus::WORDS.iter().filter(|word| **word != WatchStatus::Watching.as_str());
    let ended: u64 = ended.map(|word| number(group, &format!("/counts/{word}"))).sum();
    let left = needed.saturating_sub(ended);
    let ends = format!("{left} more {} to end", if left == 1 { "watch has" } else { "watches have" });
    match size.saturating_sub(registered) {
        0 => ends,
        1 => format!("{ends}; 1 is not registered yet"),
        count => format!("{ends}; {count} are not registered yet"),
    }
}

/// Returns the fields of a group, and its destinations.
fn fields_of(group: &Value, terminal: Terminal) -> String {
    let mut card = FieldList::new(terminal);
    card.line("group", text(group, "/id"));
    card.line("status", text(group, "/status"));
    card.line(
        "completes",
        match text(group, "/when").as_str() {
            "all" => "when all of its watches have ended".to_owned(),
            "first" => "when the first of its watches has ended".to_owned(),
            count => format!("when {count} of its watches have ended"),
        },
    );
    card.line("missing", missing(group));
    card.line("size", text(group, "/size"));
    card.line("registered", text(group, "/registered"));
    let counts = WatchStatus::WORDS.iter().filter_map(|word| {
        let count = number(group, &format!("/counts/{word}"));
        (count > 0).then(|| format!("{count} {word}"))
    });
    card.line("watches", join(counts, ", "));
    card.time("created", group, "/createdAt");
    card.time("ended", group, "/endedAt");
    if text(group, "/endedAt").is_empty() {
        card.time("expires", group, "/expiresAt");
    }
    let destinations = list(group, "/destinations").map(|one| {
        let [id, status, kind] = texts(one, ["/id", "/status", "/type"]);
        [id, status, kind, address(one)]
    });
    let columns = [
        Column::new("DESTINATION"),
        Column::new("DELIVERY"),
        Column::new("TYPE").optional(1),
        Column::new("ADDRESS").soft(),
    ];
    join([card.render(), terminal.table(&columns, destinations, true)], "\n\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::terminal::{PLAIN, narrow};
    use super::*;

    fn group(status: &str, when: &Value, counts: &Value) -> Value {
        json!({ "id": "batch-7", "status": status, "size": 10, "when": when, "registered": 8, "counts": counts,
            "createdAt": "2026-02-18T15:00:00.000Z", "expiresAt": "2026-02-25T15:00:00.000Z", "endedAt": null,
            "destinations": [{ "id": "dst_01m84xcqq61hcfr06f3pqac000", "type": "webhook",
                "url": "https://app.example.com/hooks/batches", "status": null }] })
    }

    #[test]
    fn a_group_shows_its_counts_and_what_is_missing() {
        let open = group(
            "open",
            &json!("all"),
            &json!({ "watching": 5, "completed": 2, "failed": 1, "expired": 0 }),
        );
        insta::assert_snapshot!(fields_of(&open, PLAIN), @r"
        group       batch-7
        status      open
        completes   when all of its watches have ended
        missing     7 more watches have to end; 2 are not registered yet
        size        10
        registered  8
        watches     5 watching, 2 completed, 1 failed
        created     2026-02-18 15:00:00 UTC
        expires     2026-02-25 15:00:00 UTC

        DESTINATION                     DELIVERY  TYPE     ADDRESS
        dst_01m84xcqq61hcfr06f3pqac000            webhook  https://app.example.com/hooks/batches
        ");
        let shown = fields_of(&open, narrow(80));
        assert!(shown.lines().all(|line| narrow(80).fits(line)), "{shown}");
        for (status, when, counts, words) in [
            (
                "open",
                json!("first"),
                json!({ "watching": 8 }),
                "1 more watch has to end; 2 are not registered yet",
            ),
            (
                "open",
                json!(5),
                json!({ "stopped": 3 }),
                "2 more watches have to end; 2 are not registered yet",
            ),
            ("completed", json!(5), json!({ "completed": 5 }), ""),
        ] {
            assert_eq!(missing(&group(status, &when, &counts)), words);
        }
    }
}
