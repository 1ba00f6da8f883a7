//! `ringback watch` and `ringback watches`: registers and lists watches.

use std::collections::BTreeMap;

use clap::builder::PossibleValuesParser;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::arguments::{by_name, duration, parameter};
use super::client::{Paging, Server};
use super::follow::{self, Follow};
use super::output::{Failure, print_line, print_note, text, texts};
use super::poll_arguments::PollArguments;
use super::request_fields::Body;
use super::terminal::{Column, Terminal};
use super::waiting::WaitNotes;
use super::{delivery_state, show};
use crate::domain::{JobStatus, Payload, WatchStatus};

/// Register a watch on a running server, and follow it
///
/// Exit codes with --follow: 0 the job completed, 3 failed, 4 was cancelled, 5 was not found, 6 the watch expired or
/// was stopped, 7 the job completed and a delivery has not succeeded. Without --follow: 0 the watch is registered, 1 it is not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback watch job_abc123def456 --follow \\
    --webhook https://app.example.com/hooks/muvi

A job API without a definition:
  ringback watch --poll-url https://api.example.com/jobs/123 \\
    --poll-headers-file headers.txt \\
    --status '$.state' --completed done --failed error \\
    --output '$.result.url' --follow

Without --webhook, --email, --slack and --destination nothing is sent: use --follow, or ringback show later.

When the watch expires, the job is polled once more. If this poll fails, it is repeated for 60 s, so the watch can end up to a minute after --expires-in.

The server is RINGBACK_URL, the key RINGBACK_API_KEY. HTTPS_PROXY and NO_PROXY are respected, except for a server on this machine.

With --follow, the command waits after the end for up to --delivery-wait until deliveries have succeeded, and then prints on stderr what is not delivered.

With --follow, progress goes to stderr: a bar on a terminal, elsewhere a line with the first status and one per change. stdout has the watch; with --json only the ended watch.")]
pub struct Watch {
    /// Id of the job at its provider
    #[arg(required_unless_present = "poll_url")]
    job_id: Option<String>,
    /// Send a webhook to this URL; can be repeated
    #[arg(long, value_name = "URL")]
    webhook: Vec<String>,
    /// Send mail to this address; can be repeated
    #[arg(long, value_name = "ADDRESS")]
    email: Vec<String>,
    /// Post to this Slack webhook or #channel; can be repeated
    #[arg(long, value_name = "URL")]
    slack: Vec<String>,
    /// Send to this saved destination; can be repeated
    #[arg(long, value_name = "DESTINATION_ID")]
    destination: Vec<String>,
    /// Provider of the job [default: the default of the server]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Credential of the app, in place of the server's key
    #[arg(long, value_name = "NAME", conflicts_with = "poll_url")]
    credential: Option<String>,
    #[command(flatten)]
    poll: PollArguments,
    /// Events to send, such as job.completed,job.failed or job.* [default: every end]
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    events: Vec<String>,
    /// Maximum duration of the watch, such as 24h [default: that of the provider]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: Option<String>,
    /// Cancel the job at its provider when the watch expires
    #[arg(long, conflicts_with = "poll_url")]
    cancel_on_expiry: bool,
    /// Name for people, in subjects of mails, messages and lists
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Your own id of the watch, such as the number of an order; ringback watches --reference finds it
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
    /// JSON object that every event contains
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,
    /// Parameter of the provider; can be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    param: Vec<(String, String)>,
    /// Body of the webhooks
    #[arg(long, value_name = "FORM", value_parser = PossibleValuesParser::new(Payload::WORDS))]
    payload: Option<String>,
    /// Longest poll interval, such as 10s
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    poll_interval: Option<String>,
    /// Group of the watch, which notifies when enough of its watches have ended
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    /// Number of watches of the group; required for its first watch
    #[arg(long, value_name = "N", requires = "group")]
    group_size: Option<u32>,
    /// Number of watches that end until the group notifies: all, first or a number [default: all]
    #[arg(long, value_name = "WHEN", requires = "group")]
    group_when: Option<String>,
    /// Time until the group expires [default: 7d]
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "group")]
    group_expires_in: Option<String>,
    /// Where the group notifies: a URL, mailto:ADDRESS or the id of a saved destination; can be repeated
    #[arg(long, value_name = "DESTINATION", requires = "group")]
    group_notify: Vec<String>,
    /// Key that makes it safe to repeat the command
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    follow: Follow,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
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
        } else if !self.follow.is_wanted {
            terminal.json(&answer.text)?;
        }
        if self.follow.is_wanted {
            return follow::follow(&client, &id, Some(answer), (self.json, self.follow.delivery_wait)).await;
        }
        if self.is_silent() && self.group.is_none() {
            print_note(format_args!(
                "Nothing will be sent. To wait for the end of the watch:\n  ringback show {id} --follow"
            ));
        }
        Ok(())
    }

    fn is_silent(&self) -> bool {
        self.webhook.is_empty()
            && self.email.is_empty()
            && self.slack.is_empty()
            && self.destination.is_empty()
    }

    /// Returns the group as JSON.
    fn group(&self) -> Option<String> {
        let count = |when: &String| when.parse::<u32>().map_or_else(|_| json!(when), |count| json!(count));
        let target = |text: &String| {
            if text.starts_with("dst_") { json!({ "destinationId": text }) } else { json!(text) }
        };
        let notify: Vec<Value> = self.group_notify.iter().map(target).collect();
        let fields = [
            ("id", json!(self.group.as_ref()?)),
            ("size", json!(self.group_size)),
            ("when", json!(self.group_when.as_ref().map(count))),
            ("expiresIn", json!(self.group_expires_in)),
            ("notify", json!((!notify.is_empty()).then_some(notify))),
        ];
        let given = fields.into_iter().filter(|(_, value)| !value.is_null());
        Some(json!(given.collect::<BTreeMap<_, _>>()).to_string())
    }

    fn body(&self) -> Result<Body, Failure> {
        let metadata = self.metadata.as_deref().map(serde_json::from_str::<&RawValue>).transpose();
        let metadata = metadata.map_err(|_| {
            Failure::Usage(
                "--metadata: this is not JSON; write an object, such as '{\"orderId\": 42}'".to_owned(),
            )
        })?;
        // Fields with one value take the first one, so that errors of the server name the argument.
        let webhooks = self.webhook.iter().skip(1).map(|url| json!({ "type": "webhook", "url": url }));
        let slacks = self.slack.iter().skip(1).map(|url| json!({ "type": "slack", "url": url }));
        let saved = self.destination.iter().map(|id| json!({ "destinationId": id }));
        let more: Vec<Value> = webhooks.chain(slacks).chain(saved).collect();
        let numbered = |flag, count: usize| (2..=count).map(move |n| format!("{flag} (number {n})"));
        let flags_of_more =
            numbered("--webhook", self.webhook.len()).chain(numbered("--slack", self.slack.len()));
        // What was not given is left to the server.
        let given = |value: Value| {
            Some(value.to_string()).filter(|json| !["null", "[]", "{}"].contains(&json.as_str()))
        };
        let params = by_name("--param", &self.param, |one, other| one == other)?;
        let notify = (self.is_silent() || !more.is_empty()).then(|| json!(more).to_string());
        let body = Body::of_json(&[
            ("jobId", "JOB_ID", given(json!(self.job_id))),
            ("poll", "--poll-url", self.poll.json()?),
            ("provider", "--provider", given(json!(self.provider))),
            ("credential", "--credential", given(json!(self.credential))),
            ("callbackUrl", "--webhook", given(json!(self.webhook.first()))),
            ("email", "--email", given(json!(self.email))),
            ("slack", "--slack", given(json!(self.slack.first()))),
            ("notify", "--webhook", notify),
            ("events", "--events", given(json!(self.events))),
            ("name", "--name", given(json!(self.name))),
            ("reference", "--reference", given(json!(self.reference))),
            // Byte for byte.
            ("metadata", "--metadata", metadata.map(|json| json.get().to_owned())),
            ("params", "--param", given(json!(params))),
            ("expiresIn", "--expires-in", given(json!(self.expires_in))),
            ("pollInterval", "--poll-interval", given(json!(self.poll_interval))),
            ("payload", "--payload", given(json!(self.payload))),
            ("group", "--group", self.group()),
            ("cancelJobOnExpiry", "--cancel-on-expiry", self.cancel_on_expiry.then(|| "true".to_owned())),
        ]);
        let of_group = ["size", "when", "expiresIn", "notify"];
        let arguments = ["--group-size", "--group-when", "--group-expires-in", "--group-notify"];
        let name = |body: Body, (field, argument): (&str, &str)| {
            body.with_argument(format!("/group/{field}"), argument.to_owned())
        };
        let body = of_group.into_iter().zip(arguments).fold(body, name);
        let name = |body: Body, (n, flag)| body.with_argument(format!("/notify/{n}/url"), flag);
        let body = PollArguments::name_arguments(body);
        let body = flags_of_more.enumerate().fold(body, name);
        let first = more.len() - self.destination.len();
        let name = |body: Body, n: usize| {
            let flag = format!("--destination (number {})", n + 1);
            body.with_argument(format!("/notify/{}/destinationId", first + n), flag)
        };
        Ok((0..self.destination.len()).fold(body, name))
    }
}

/// List watches, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback watches --status watching --provider muvi

With --all --json each watch is one line of JSON.")]
pub struct Watches {
    /// Only watches with this status
    #[arg(long, value_parser = PossibleValuesParser::new(WatchStatus::WORDS))]
    status: Option<String>,
    /// Only watches of this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only watches of this job
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// Only watches with this reference
    #[arg(long, value_name = "TEXT")]
    reference: Option<String>,
    /// Only watches of this group
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    server: Server,
}

impl Watches {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        let filters = [
            ("status", "--status", self.status),
            ("provider", "--provider", self.provider),
            ("jobId", "--job-id", self.job_id),
            ("reference", "--reference", self.reference),
            ("groupId", "--group", self.group),
        ];
        let columns = [
            Column::new("ID"),
            Column::new("STATUS"),
            Column::new("DELIVERY"),
            Column::new("PROVIDER").optional(4),
            Column::new("JOB").soft(),
            Column::new("NAME").soft().optional(5),
            Column::new("PROGRESS").optional(2),
            Column::time("CREATED").optional(1),
            Column::time("ENDED").optional(3),
        ];
        let mut notes = WaitNotes::new(Terminal::of_stdout());
        let row = |watch: &Value| {
            notes.add_watch(watch);
            let progress = match texts(watch, ["/job/progress", "/job/status"]) {
                [percent, _] if !percent.is_empty() => format!("{percent} %"),
                [_, status] if status == JobStatus::Unknown.as_str() => String::new(),
                [_, status] => status,
            };
            let [id, status, provider, job] = texts(watch, ["/id", "/status", "/provider", "/jobId"]);
            let [name, created, ended] = texts(watch, ["/name", "/createdAt", "/endedAt"]);
            vec![id, status, delivery_state::summary(watch), provider, job, name, progress, created, ended]
        };
        self.paging.show(&client, "/v1/watches", &filters, &columns, row).await?;
        notes.print();
        Ok(())
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
        line.watch.body().expect("a body").json
    }

    #[test]
    fn a_poll_stands_in_place_of_the_job_id() {
        let line = "watch --poll-url https://a/1 --poll-header x:y:z --status $.s --completed done,ok --failed error \
                    --output $.o --error $.e";
        let line = Line::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{error}"));
        insta::assert_snapshot!(line.watch.body().expect("a body").json, @r#"{"poll":{"completed":["done","ok"],"error":"$.e","failed":["error"],"headers":{"x":"y:z"},"output":"$.o","status":"$.s","url":"https://a/1"},"notify":[]}"#);
        for wrong in [
            &["watch"] as &[&str],
            &["watch", "--poll-url", "https://a/1", "--provider", "muvi"],
            &["watch", "job_1", "--status", "$.s"],
            &["watch", "--poll-url", "https://a/1", "--completed", "done"],
        ] {
            assert!(Line::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
        let line =
            ["watch", "--poll-url", "https://a/1", "--status", "$.s", "--completed", "done", "--failed", ""];
        let line = Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
        assert!(line.watch.body().expect("a body").json.contains(r#""failed":[]"#));
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "authorization: Bearer hush\n\nX-Key: a:b\n").expect("written");
        let path = file.path().to_str().expect("UTF-8");
        let given =
            ["watch", "--poll-url", "https://a/1", "--poll-header", "x: y", "--poll-headers-file", path];
        let line = Line::try_parse_from(given).unwrap_or_else(|error| panic!("{error}"));
        let body = line.watch.body().expect("a body").json;
        assert!(body.contains(r#"{"X-Key":"a:b","authorization":"Bearer hush","x":"y"}"#), "{body}");
        assert!(!format!("{:?}", line.watch).contains("hush"));
        let line = ["watch", "--poll-url", "https://a/1", "--poll-header", "no-colon"];
        let line = Line::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(line.watch.body(), Err(Failure::Usage(_))));
    }

    #[test]
    fn only_given_arguments_are_sent() {
        assert_eq!(body(&[]), r#"{"jobId":"job_1","notify":[]}"#);
        assert_eq!(body(&["--webhook", "https://a"]), r#"{"jobId":"job_1","callbackUrl":"https://a"}"#);
        let line = "--webhook https://a --webhook https://b --email x@a --email y@a --slack https://c --slack #d \
                    --provider p --events job.*,watch.expired --expires-in 1h --metadata {\"z\":1,\"a\":1.0} \
                    --param k=v=w --payload raw --poll-interval 10s --name n --reference r";
        insta::assert_snapshot!(body(&line.split_whitespace().collect::<Vec<_>>()), @r##"{"jobId":"job_1","provider":"p","callbackUrl":"https://a","email":["x@a","y@a"],"slack":"https://c","notify":[{"type":"webhook","url":"https://b"},{"type":"slack","url":"#d"}],"events":["job.*","watch.expired"],"name":"n","reference":"r","metadata":{"z":1,"a":1.0},"params":{"k":"v=w"},"expiresIn":"1h","pollInterval":"10s","payload":"raw"}"##);
    }
}
