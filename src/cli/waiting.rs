//! Why deliveries wait, in sentences, with the command that helps.
//!
//! A list has one short sentence for each delivery. In an outage, many of them have the same one, so each is printed once
//! below the list, in full and with its command.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::Value;
use url::Url;

use super::output::{clean, list, print_note, text, texts};
use super::terminal::Terminal;
use crate::domain::{DeliveryStatus, WaitReason};

/// Maximum number of sentences below a list. An outage concerns one host as a rule.
const NOTES_MAX: usize = 5;

/// Describes why a delivery waits; `None` if it does not. `to` is its destination.
pub(super) fn describe(delivery: &Value, to: &Value, terminal: Terminal) -> Option<String> {
    let word = text(delivery, "/waiting/reason");
    let host = host(to);
    let (until, error) = (text(delivery, "/waiting/until"), text(delivery, "/waiting/lastError"));
    let next = if until.is_empty() {
        "; an attempt is in progress or due".to_owned()
    } else {
        format!("; next attempt {}", terminal.sentence_time(&until))
    };
    // The word before the sentence of an error is for programs.
    let error = error.split_once(": ").map_or(error.as_str(), |(_, sentence)| sentence);
    let error = if error.is_empty() { String::new() } else { format!(" ({error})") };
    let sentence = match WaitReason::parse(&word) {
        Some(WaitReason::DestinationDown) => format!("{host} does not answer{error}{next}"),
        Some(WaitReason::RateLimited) if delivery["waiting"]["ownRate"] == true => {
            format!("the rate of the destination permits no more messages now{next}")
        }
        Some(WaitReason::RateLimited) => format!("{host} takes no more messages now{next}"),
        Some(WaitReason::Order) => "an earlier event of its watch comes first".to_owned(),
        Some(WaitReason::Busy) => format!("as many attempts to {host} are in progress as are allowed"),
        Some(WaitReason::Token) => format!("a request for a token has just failed{error}{next}"),
        Some(WaitReason::NoResources) => {
            "the server lacks file descriptors, memory or ports; its log says more".to_owned()
        }
        Some(WaitReason::NoWrites) => "the server's database refuses writes; its log says why".to_owned(),
        None if word.is_empty() => return None,
        // A later version of the server.
        None => word,
    };
    Some(sentence)
}

/// Returns the command that sends a pending delivery at once; empty if no command helps.
pub(super) fn command_of_one(delivery: &Value) -> String {
    let [id, status, reason] = texts(delivery, ["/id", "/status", "/waiting/reason"]);
    let is_scheduled = reason.is_empty() && text(delivery, "/attemptCount") != "0";
    let helps = is_scheduled || reason == WaitReason::DestinationDown.as_str();
    if status == DeliveryStatus::Pending.as_str() && helps {
        format!("ringback retry {id}")
    } else {
        String::new()
    }
}

/// Returns the name of a destination's host in a sentence.
fn host(to: &Value) -> String {
    let [kind, url, channel] = texts(to, ["/type", "/url", "/channel"]);
    let host = Url::parse(&url).ok().and_then(|url| url.host_str().map(str::to_owned));
    match (host, kind.as_str()) {
        (Some(host), _) => host,
        (None, "email") => "the mail server".to_owned(),
        (None, "slack") if !channel.is_empty() => "Slack".to_owned(),
        (None, _) => "the receiver".to_owned(),
    }
}

/// Returns the command for all deliveries that wait for the same reason; `None` if no command helps.
fn command(delivery: &Value, to: &Value) -> Option<String> {
    match WaitReason::parse(&text(delivery, "/waiting/reason"))? {
        WaitReason::DestinationDown => {
            let [kind, url] = texts(to, ["/type", "/url"]);
            let origin = Url::parse(&url).ok().filter(|_| kind == "webhook").map(|url| url.origin());
            let selected = match origin {
                Some(origin) => format!("--origin {}", origin.ascii_serialization()),
                None => format!("--channel {}", clean(&kind)),
            };
            Some(format!("ringback retry --status pending {selected}"))
        }
        WaitReason::Order => {
            let watch = text(delivery, "/watchId");
            (!watch.is_empty())
                .then(|| format!("ringback deliveries --status pending --watch {}", clean(&watch)))
        }
        WaitReason::RateLimited
        | WaitReason::Busy
        | WaitReason::Token
        | WaitReason::NoResources
        | WaitReason::NoWrites => None,
    }
}

/// Sentences about the deliveries of a list, one for each reason and host.
#[derive(Debug)]
pub(super) struct WaitNotes {
    terminal: Terminal,
    known: HashSet<(String, String)>,
    notes: Vec<String>,
}

impl WaitNotes {
    pub(super) fn new(terminal: Terminal) -> Self {
        Self { terminal, known: HashSet::new(), notes: Vec::new() }
    }

    /// Adds a delivery to a destination.
    pub(super) fn add(&mut self, delivery: &Value, to: &Value) {
        let Some(sentence) = describe(delivery, to, self.terminal) else { return };
        let is_new = self.known.insert((text(delivery, "/waiting/reason"), host(to)));
        if !is_new || self.notes.len() == NOTES_MAX {
            return;
        }
        let since = text(delivery, "/waiting/since");
        let since =
            if since.is_empty() { since } else { format!(" Since: {}.", self.terminal.moment(&since)) };
        let mut note = self.terminal.paragraph(&clean(&format!("{sentence}.{since}")), 0);
        if let Some(command) = command(delivery, to) {
            let purpose = if command.contains(" retry ") { "To try now" } else { "To see them" };
            // Writing to a string cannot fail.
            let _ = write!(note, "\n{purpose}:\n  {command}");
        }
        self.notes.push(note);
    }

    /// Adds the newest delivery to each destination of a watch.
    pub(super) fn add_watch(&mut self, watch: &Value) {
        for destination in list(watch, "/destinations") {
            self.add(destination, destination);
        }
    }

    /// Returns the sentences; empty if nothing waits.
    pub(super) fn render(&self) -> String {
        let others = self.known.len() - self.notes.len();
        let more =
            (others > 0).then(|| format!("There are {others} more reasons to wait; --json shows all."));
        self.notes.iter().cloned().chain(more).collect::<Vec<_>>().join("\n")
    }

    /// Prints the sentences on stderr: they are no rows of the list.
    pub(super) fn print(&self) {
        let text = self.render();
        if !text.is_empty() {
            print_note(format_args!("\n{text}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::terminal::narrow;
    use super::*;

    fn waiting(reason: &str, until: Option<&str>, error: Option<&str>) -> Value {
        json!({ "id": "dlv_1", "status": "pending", "attemptCount": 0, "watchId": "watch_1",
                "waiting": { "reason": reason, "since": "2026-02-18T15:01:31.000Z", "until": until, "lastError": error } })
    }

    fn to(url: &str) -> Value {
        json!({ "type": "webhook", "url": url })
    }

    #[test]
    fn every_reason_is_a_sentence() {
        let until = Some("2026-02-18T15:02:39.000Z");
        let sentences: Vec<String> = WaitReason::WORDS
            .iter()
            .chain(&["a_later_one"])
            .map(|word| {
                let error = Some("connect: connection refused").filter(|_| *word == "destination_down");
                describe(&waiting(word, until, error), &to("https://app.example.com/hook"), narrow(80))
                    .unwrap_or_default()
            })
            .collect();
        insta::assert_snapshot!(sentences.join("\n"), @r"
        app.example.com does not answer (connection refused); next attempt in 8 s
        app.example.com takes no more messages now; next attempt in 8 s
        an earlier event of its watch comes first
        as many attempts to app.example.com are in progress as are allowed
        a request for a token has just failed; next attempt in 8 s
        the server lacks file descriptors, memory or ports; its log says more
        the server's database refuses writes; its log says why
        a_later_one
        ");
        let own = json!({ "waiting": { "reason": "rate_limited", "until": null, "ownRate": true } });
        assert_eq!(
            describe(&own, &to("https://a.example/"), narrow(80)).as_deref(),
            Some(
                "the rate of the destination permits no more messages now; an attempt is in progress or due"
            )
        );
        let token = waiting("token", until, Some("token: HTTP 503"));
        assert_eq!(
            describe(&token, &to("https://a.example/"), narrow(80)).as_deref(),
            Some("a request for a token has just failed (HTTP 503); next attempt in 8 s")
        );
        assert_eq!(describe(&json!({ "waiting": null }), &to("https://a.example/"), narrow(80)), None);
        let probed =
            describe(&waiting("destination_down", None, None), &json!({ "type": "email" }), narrow(80));
        assert_eq!(
            probed.as_deref(),
            Some("the mail server does not answer; an attempt is in progress or due")
        );
    }

    #[test]
    fn an_outage_is_explained_once_with_the_command_that_helps() {
        let mut notes = WaitNotes::new(narrow(80));
        let long =
            "tls: invalid peer certificate: UnknownIssuer; name its authority in SSL_CERT_FILE\u{1b}[2J";
        for path in ["a", "b"] {
            notes.add(
                &waiting("destination_down", None, Some(long)),
                &to(&format!("https://app.example.com:8443/{path}")),
            );
        }
        notes.add(&waiting("order", None, None), &to("https://b.example/"));
        let text = notes.render();
        insta::assert_snapshot!(text, @r"
        app.example.com does not answer (invalid peer certificate: UnknownIssuer; name
        its authority in SSL_CERT_FILE\u001b[2J); an attempt is in progress or due.
        Since: 2026-02-18 15:01:31 UTC (1 min ago).
        To try now:
          ringback retry --status pending --origin https://app.example.com:8443
        an earlier event of its watch comes first. Since: 2026-02-18 15:01:31 UTC (1 min
        ago).
        To see them:
          ringback deliveries --status pending --watch watch_1
        ");
        assert!(text.lines().all(|line| narrow(80).fits(line)), "{text}");
        for n in 0..10 {
            notes.add(&waiting("busy", None, None), &to(&format!("https://{n}.example/")));
        }
        assert!(
            notes.render().ends_with("There are 7 more reasons to wait; --json shows all."),
            "{}",
            notes.render()
        );
    }
}
