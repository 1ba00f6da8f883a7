//! What became of the deliveries of a watch, as the server shows it for each of its destinations.

use serde_json::Value;

use super::output::{address, clean, join, list, text, texts};
use super::terminal::Terminal;
use super::waiting;
use crate::domain::{DeliveryStatus, Reason};

/// Statuses of deliveries, the most important for a reader first.
const BY_IMPORTANCE: [DeliveryStatus; 4] =
    [DeliveryStatus::Failed, DeliveryStatus::Pending, DeliveryStatus::Skipped, DeliveryStatus::Succeeded];

/// Returns the state of the newest delivery to a destination of a watch: its status, and why it ended.
pub(super) fn of_destination(destination: &Value) -> String {
    join(texts(destination, ["/status", "/reason"]), ": ")
}

/// Returns the most important status among the newest deliveries of a watch. Of several destinations, the number with
/// this status follows.
pub(super) fn summary(watch: &Value) -> String {
    let statuses: Vec<String> = list(watch, "/destinations").map(|one| text(one, "/status")).collect();
    let count = |word: &str| statuses.iter().filter(|status| *status == word).count();
    let first = BY_IMPORTANCE.iter().map(|status| status.as_str()).find(|word| count(word) > 0);
    match first {
        Some(word) if count(word) < statuses.len() => format!("{word} {}/{}", count(word), statuses.len()),
        Some(word) => word.to_owned(),
        None => String::new(),
    }
}

/// Returns the destinations of an ended watch whose newest delivery has not succeeded, in the order of the watch. The
/// progress of a job is not sent any more after its end, and nothing is after a stop: that is no failure.
pub(super) fn undelivered(watch: &Value) -> impl Iterator<Item = &Value> {
    list(watch, "/destinations").filter(|one| {
        let [status, reason] = texts(one, ["/status", "/reason"]);
        let is_done = status.is_empty() || status == DeliveryStatus::Succeeded.as_str();
        let is_unwanted = [Reason::Superseded, Reason::Stopped].iter().any(|known| reason == known.as_str());
        !is_done && !is_unwanted
    })
}

/// Whether a delivery of a watch is still attempted.
pub(super) fn is_pending(watch: &Value) -> bool {
    undelivered(watch).any(|one| text(one, "/status") == DeliveryStatus::Pending.as_str())
}

/// Describes what a watch has not delivered, why, when it is tried next, and what to do; empty if there is nothing.
pub(super) fn describe_undelivered(watch: &Value, terminal: Terminal) -> String {
    let mut lines: Vec<String> = undelivered(watch).map(|one| describe(one, terminal)).collect();
    if lines.is_empty() {
        return String::new();
    }
    lines.insert(0, "Not delivered:".to_owned());
    lines.push("To send now what is not delivered:".to_owned());
    lines.extend(undelivered(watch).map(|one| {
        let [id, delivery, reason] = texts(one, ["/id", "/deliveryId", "/reason"]).map(|text| clean(&text));
        if reason == Reason::Disabled.as_str() {
            format!("  ringback destinations enable {id} --retry-skipped")
        } else {
            format!("  ringback retry {delivery}")
        }
    }));
    lines.join("\n")
}

fn describe(destination: &Value, terminal: Terminal) -> String {
    let [id, attempts, error, next] =
        texts(destination, ["/deliveryId", "/attemptCount", "/lastError", "/nextAttemptAt"]);
    let attempts = if attempts == "1" { "1 attempt".to_owned() } else { format!("{attempts} attempts") };
    let waits = waiting::describe(destination, destination, terminal);
    // The time of a delivery that waits is past. The sentence has the next one, and the present error.
    let is_scheduled = waits.is_none() && !next.is_empty();
    let next = if is_scheduled { format!("next {}", terminal.moment(&next)) } else { String::new() };
    let state = join([of_destination(destination), attempts, next], ", ");
    let why = waits.unwrap_or(error);
    let why = if why.is_empty() { why } else { format!("\n{}", terminal.paragraph(&clean(&why), 4)) };
    format!("  {} to {}: {}{why}", clean(&id), clean(&address(destination)), clean(&state))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::terminal::{PLAIN, narrow};
    use super::*;

    fn watch(statuses: &[Option<&str>]) -> Value {
        let one = |status: Option<&str>| json!({ "status": status, "reason": null });
        json!({ "destinations": statuses.iter().copied().map(one).collect::<Vec<_>>() })
    }

    #[test]
    fn the_most_important_status_of_a_watch_is_shown() {
        for (statuses, shown) in [
            (&[][..], ""),
            (&[None], ""),
            (&[Some("succeeded")], "succeeded"),
            (&[Some("succeeded"), Some("succeeded")], "succeeded"),
            (&[Some("succeeded"), Some("pending")], "pending 1/2"),
            (&[Some("pending"), Some("failed"), Some("failed")], "failed 2/3"),
            (&[Some("skipped"), None], "skipped 1/2"),
        ] {
            assert_eq!(summary(&watch(statuses)), shown, "{statuses:?}");
        }
    }

    #[test]
    fn a_delivery_that_waits_shows_the_present_error_and_the_next_attempt() {
        let waiting = json!({ "reason": "destination_down", "since": "2026-02-18T15:00:00.000Z",
            "until": "2026-02-18T15:02:39.000Z", "lastError": "connect: connection refused" });
        let one = json!({ "type": "webhook", "url": "https://app.example.com/hooks/muvi", "deliveryId": "dlv_1",
            "status": "pending", "reason": null, "attemptCount": 0, "lastError": null,
            "nextAttemptAt": "2026-02-18T15:00:05.000Z", "waiting": waiting });
        let watch = json!({ "destinations": [one] });
        insta::assert_snapshot!(describe_undelivered(&watch, narrow(80)), @r"
        Not delivered:
          dlv_1 to https://app.example.com/hooks/muvi: pending, 0 attempts
            app.example.com does not answer (connection refused); next attempt in 8 s
        To send now what is not delivered:
          ringback retry dlv_1
        ");
    }

    #[test]
    fn what_is_not_delivered_is_explained_with_the_command_that_helps() {
        let one = |status: &str, reason: Option<&str>, error: Option<&str>| {
            let next = (status == "pending").then_some("2026-02-18T15:05:00.000Z");
            json!({ "type": "webhook", "url": "https://a.example/hook", "deliveryId": format!("dlv_{status}"),
                    "status": status, "reason": reason, "attemptCount": 2, "lastError": error, "nextAttemptAt": next })
        };
        let destinations = [
            one("succeeded", None, None),
            one("skipped", Some("superseded"), None),
            one("pending", None, Some("connect: the connection was refused\u{1b}[2J")),
            one("failed", Some("exhausted"), Some("timeout: no answer")),
        ];
        let watch = json!({ "destinations": destinations });
        assert!(is_pending(&watch));
        insta::assert_snapshot!(describe_undelivered(&watch, PLAIN), @r"
        Not delivered:
          dlv_pending to https://a.example/hook: pending, 2 attempts, next 2026-02-18 15:05:00 UTC
            connect: the connection was refused\u001b[2J
          dlv_failed to https://a.example/hook: failed: exhausted, 2 attempts
            timeout: no answer
        To send now what is not delivered:
          ringback retry dlv_pending
          ringback retry dlv_failed
        ");
        assert_eq!(
            describe_undelivered(&json!({ "destinations": [one("succeeded", None, None)] }), PLAIN),
            ""
        );
    }
}
