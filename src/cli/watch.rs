//! `ringback watch`: registers a watch on a running server.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::arguments::{duration, values_of};
use super::client::Server;
use super::output::{Failure, print_line, print_note};
use super::terminal::{Terminal, text};
use super::{follow, show};
use crate::domain::Payload;

/// Register a watch on a running server, and optionally wait for its end
///
/// Exit codes with --follow: 0 the job completed, 3 failed, 4 was cancelled, 5 was not found, 6 the watch expired or
/// was stopped. Without --follow: 0 the watch is registered, 1 it is not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback watch job_abc123def456 --webhook https://app.example.com/hooks/muvi --follow

Without --webhook, --email and --slack nothing is sent: use --follow, or `ringback show` later. The
server is RINGBACK_URL, the key RINGBACK_API_KEY. With --follow, progress goes to stderr: a bar on a
terminal, lines elsewhere. stdout has the watch; with --json only the ended watch.")]
pub struct Watch {
    /// Id of the job at its provider
    job_id: String,
    /// Send a webhook to this URL; can be repeated
    #[arg(long, value_name = "URL")]
    webhook: Vec<String>,
    /// Send mail to this address; can be repeated
    #[arg(long, value_name = "ADDRESS")]
    email: Vec<String>,
    /// Post to this Slack webhook or #channel; can be repeated
    #[arg(long, value_name = "URL")]
    slack: Vec<String>,
    /// Provider of the job [default: the default of the server]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Events to send, such as job.completed,job.failed or job.* [default: every end]
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    events: Vec<String>,
    /// Maximum duration of the watch, such as 24h [default: that of the provider]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: Option<String>,
    /// JSON object that every event contains
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// Parameter of the provider; can be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    param: Vec<(String, String)>,
    /// Body of the webhooks
    #[arg(long, value_name = "FORM", value_parser = values_of(Payload::ALL, Payload::as_str))]
    payload: Option<String>,
    /// Longest poll interval, such as 10s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    poll_interval: Option<String>,
    /// Key that makes it safe to repeat the command
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait for the end and show progress
    #[arg(long, short)]
    follow: bool,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

/// Parses `name=value`.
pub(super) fn parameter(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned()));
    pair.ok_or_else(|| "write it as name=value".to_owned())
}

/// What is registered; what was not said is left to the server.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Registration<'a> {
    job_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_url: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    email: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    slack: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notify: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    events: &'a [String],
    /// Byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    params: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    poll_interval: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
}

impl Watch {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let body = self.body()?;
        let client = self.server.client()?;
        let answer = client.post("/v1/watches", Some(body), self.idempotency_key.as_deref()).await?;
        let (terminal, watch) = (Terminal::of_stdout(), answer.value());
        let id = text(&watch, "/id");
        if !self.json {
            print_line(show::watch_fields(&watch, terminal))?;
        } else if !self.follow {
            terminal.json(&answer.text)?;
        }
        if self.follow {
            return follow::follow(&client, &id, Some(answer), self.json).await;
        }
        if self.is_silent() {
            print_note(&format!(
                "Nothing will be sent; `ringback show {id} --follow` waits for the end of the watch."
            ));
        }
        Ok(())
    }

    fn is_silent(&self) -> bool {
        self.webhook.is_empty() && self.email.is_empty() && self.slack.is_empty()
    }

    fn body(&self) -> Result<String, Failure> {
        let metadata = self.metadata.as_deref().map(serde_json::from_str::<&RawValue>).transpose();
        let metadata = metadata.map_err(|error| Failure::Usage(format!("--metadata: not JSON: {error}")))?;
        // Fields with one value take the first one, so that errors of the server name the argument.
        let (callback_url, webhooks) = first(&self.webhook);
        let (slack, slacks) = first(&self.slack);
        let webhooks = webhooks.iter().map(|url| json!({ "type": "webhook", "url": url }));
        let more = webhooks.chain(slacks.iter().map(|url| json!({ "type": "slack", "url": url })));
        let more: Vec<Value> = more.collect();
        let registration = Registration {
            job_id: &self.job_id,
            provider: self.provider.as_deref(),
            callback_url,
            email: &self.email,
            slack,
            notify: (self.is_silent() || !more.is_empty()).then_some(more),
            events: &self.events,
            metadata,
            params: self.param.iter().map(|(name, value)| (name.clone(), json!(value))).collect(),
            expires_in: self.expires_in.as_deref(),
            poll_interval: self.poll_interval.as_deref(),
            payload: self.payload.as_deref(),
        };
        serde_json::to_string(&registration).map_err(|error| Failure::Failed(error.to_string()))
    }
}

fn first(all: &[String]) -> (Option<&str>, &[String]) {
    match all.split_first() {
        Some((first, rest)) => (Some(first), rest),
        None => (None, &[]),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        watch: Watch,
    }

    fn body(line: &[&str]) -> String {
        let line = Line::try_parse_from([&["watch", "job_1"], line].concat())
            .unwrap_or_else(|error| panic!("{error}"));
        line.watch.body().expect("a body")
    }

    #[test]
    fn only_given_arguments_are_sent() {
        assert_eq!(body(&[]), r#"{"jobId":"job_1","notify":[]}"#);
        assert_eq!(body(&["--webhook", "https://a"]), r#"{"jobId":"job_1","callbackUrl":"https://a"}"#);
        let line = "--webhook https://a --webhook https://b --email x@a --email y@a --slack https://c --slack #d \
                    --provider p --events job.*,watch.expired --expires-in 1h --metadata {\"z\":1,\"a\":1.0} \
                    --param k=v=w --payload raw --poll-interval 10s";
        insta::assert_snapshot!(body(&line.split_whitespace().collect::<Vec<_>>()), @r##"{"jobId":"job_1","provider":"p","callbackUrl":"https://a","email":["x@a","y@a"],"slack":"https://c","notify":[{"type":"webhook","url":"https://b"},{"type":"slack","url":"#d"}],"events":["job.*","watch.expired"],"metadata":{"z":1,"a":1.0},"params":{"k":"v=w"},"expiresIn":"1h","pollInterval":"10s","payload":"raw"}"##);
    }
}
