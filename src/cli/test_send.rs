//! `ringback test`: sends a test event to a destination, and shows what its receiver answered.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::Server;
use super::output::{Failure, clean, print_line, text};
use super::request_fields::Body;
use super::terminal::Terminal;

/// Longest time that the server needs: until a chat accepts a message, and for the reply of a mail server.
const WAIT: Duration = Duration::from_secs(75);

/// Send a test event to a destination, and show its answer
///
/// The event is sent once, by the running server, in the way of every delivery. Nothing else changes. The exit code is
/// 0 if the receiver accepted the event, else 1.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "ringback test [OPTIONS] --webhook …|--email …|--slack …|--destination …",
    after_help = "\
Example:
  ringback test --webhook https://app.example.com/hooks/muvi
  ringback test --email me@example.com
  ringback test --slack '#ops'
  ringback test --destination dst_01m84y…

At most ten tests a minute are sent.",
    group(clap::ArgGroup::new("what").required(true).args(["webhook", "email", "slack", "destination"]))
)]
pub struct Test {
    /// Send a webhook to this URL
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Send mail to this address
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Post to this Slack webhook or #channel
    #[arg(long, value_name = "URL")]
    slack: Option<String>,
    /// Test a saved destination (dst_…), also a disabled one
    #[arg(long, value_name = "ID")]
    destination: Option<String>,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

impl Test {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        let answer = client.post_waiting("/v1/test", Some(self.body()), None, WAIT).await?;
        let result = answer.value();
        let is_ok = result["ok"] == true;
        if self.json {
            Terminal::of_stdout().json(&answer.text)?;
            return if is_ok { Ok(()) } else { Err(Failure::Ended(1)) };
        }
        if is_ok {
            return Ok(print_line(format_args!("The receiver accepted the test{}.", outcome(&result)))?);
        }
        Err(Failure::Failed(failure(&result)))
    }

    fn body(&self) -> Body {
        let address = [
            (Some("webhook"), "url", "--webhook", &self.webhook),
            (Some("email"), "email", "--email", &self.email),
            (Some("slack"), "slack", "--slack", &self.slack),
            (None, "destinationId", "--destination", &self.destination),
        ];
        let mut given = address.into_iter().filter_map(|(kind, field, flag, value)| {
            let value = value.as_ref()?;
            Some((kind, field, flag, value))
        });
        let Some((kind, field, flag, value)) = given.next() else { return Body::fixed("{}".to_owned()) };
        let mut destination = json!({ field: value });
        if let Some(kind) = kind {
            destination["type"] = kind.into();
        }
        let destination = destination.to_string();
        let body = Body::of_json(&[("destination", flag, Some(destination))]);
        body.with_argument(format!("/destination/{field}"), flag.to_owned())
    }
}

/// Returns the status and the duration, as the end of a sentence.
fn outcome(result: &Value) -> String {
    let duration = result["durationMs"].as_u64().unwrap_or_default();
    match result["statusCode"].as_u64() {
        Some(status) => format!(": HTTP {status} after {duration} ms"),
        None => format!(" after {duration} ms"),
    }
}

/// Returns the failure in words: what happened, what the receiver answered, and what to check.
fn failure(result: &Value) -> String {
    let mut lines = vec![format!("The test failed{}.", outcome(result))];
    let (error, hint, body) = (text(result, "/error"), text(result, "/hint"), text(result, "/responseBody"));
    if !error.is_empty() && !outcome(result).starts_with(&error) {
        lines.push(format!("  error: {}", clean(&error)));
    }
    if let Some(first) = body.lines().find(|line| !line.trim().is_empty()) {
        let first: String = clean(first).chars().take(BODY_SHOWN).collect();
        lines.push(format!("  answer: {first}"));
    }
    if !hint.is_empty() {
        lines.push(format!("  hint: {}", clean(&hint)));
    }
    lines.join("\n")
}

/// Maximum number of characters of an answer that are shown; --json shows all.
const BODY_SHOWN: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_ends_a_sentence() {
        for (status, end) in [(json!(204), ": HTTP 204 after 51 ms"), (json!(null), " after 51 ms")] {
            assert_eq!(outcome(&json!({ "statusCode": status, "durationMs": 51 })), end);
        }
    }

    #[test]
    fn a_failed_test_is_explained() {
        let result = json!({ "ok": false, "statusCode": 500, "durationMs": 12, "error": null,
            "hint": "the receiver failed: its log says why", "responseBody": "\n<h1>no\u{1b}[31mpe</h1>\nmore" });
        insta::assert_snapshot!(failure(&result), @r"
        The test failed: HTTP 500 after 12 ms.
          answer: <h1>no\u001b[31mpe</h1>
          hint: the receiver failed: its log says why
        ");
        let result = json!({ "ok": false, "statusCode": null, "durationMs": 3, "error": "connect: refused",
            "hint": "no connection was made", "responseBody": "" });
        insta::assert_snapshot!(failure(&result), @r"
        The test failed after 3 ms.
          error: connect: refused
          hint: no connection was made
        ");
    }
}
