//! `ringback destinations`: saves, lists, shows, changes, enables and deletes destinations of a running server.

use std::collections::BTreeMap;
use std::path::Path;

use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::arguments::{by_name, duration, parameter, secret_file_or_stdin};
use super::client::{Paging, Server, segment};
use super::output::{Failure, address, clean, discards_stdout, join, print_line, print_note, text, texts};
use super::request_fields::{Body, Field};
use super::terminal::{Column, FieldList, Terminal};
use crate::domain::{Masked, file_text};
use crate::named_file;

/// Path of the list.
const PATH: &str = "/v1/destinations";

/// Save destinations, and manage them
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Example:
  ringback destinations create --name billing \\
    --webhook https://app.example.com/hooks/billing")]
pub(super) enum Destinations {
    /// List saved destinations, newest first
    #[command(after_help = "\
Example:
  ringback destinations list")]
    List {
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        server: Server,
    },
    /// Save a destination, and print the secret of a webhook once
    #[command(after_help = "\
Example:
  ringback destinations create --name billing --rate 10/s \\
    --webhook https://app.example.com/hooks/billing

A secret that the receiver has already comes from a file, and is not printed:
  ringback destinations create --signature github --secret-file secret.txt \\
    --webhook https://app.example.com/hooks/billing

Registrations use the id that is printed:
  ringback watch JOB_ID --destination dst_…")]
    Create {
        #[command(flatten)]
        address: AddressFlags,
        #[command(flatten)]
        settings: SettingFlags,
        /// File with the signing secret; - for stdin
        #[arg(long, value_name = "FILE", value_parser = secret_file_or_stdin)]
        secret_file: Option<Masked>,
        #[command(flatten)]
        output: Output,
    },
    /// Show a saved destination and its health
    #[command(after_help = "\
Example:
  ringback destinations show dst_01m84y…")]
    Show {
        /// Id of the destination (dst_…)
        id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Change a saved destination, also for pending deliveries
    #[command(after_help = "\
Example:
  ringback destinations update dst_01m84y… --rate off --enabled false
  ringback destinations update dst_01m84y… --remove auth,tls")]
    Update {
        /// Id of the destination (dst_…)
        id: String,
        /// Values to remove, or to set to their defaults
        #[arg(long, value_name = "FIELDS", value_delimiter = ',', value_parser = PossibleValuesParser::new(REMOVABLE))]
        remove: Vec<String>,
        #[command(flatten)]
        address: AddressFlags,
        #[command(flatten)]
        settings: SettingFlags,
        #[command(flatten)]
        output: Output,
    },
    /// Enable a saved destination
    #[command(after_help = "\
Example:
  ringback destinations enable dst_01m84y… --retry-skipped")]
    Enable {
        /// Id of the destination (dst_…)
        id: String,
        /// Send what was skipped while it was disabled
        #[arg(long)]
        retry_skipped: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a saved destination; its pending deliveries are skipped
    #[command(after_help = "\
Example:
  ringback destinations delete dst_01m84y…")]
    Delete {
        /// Id of the destination (dst_…)
        id: String,
        #[command(flatten)]
        server: Server,
    },
    /// Replace the secret of a webhook, and print the new one once
    #[command(after_help = "\
Example:
  ringback destinations rotate-secret dst_01m84y… --grace 24h")]
    RotateSecret {
        /// Id of the destination (dst_…)
        id: String,
        /// Time in which the previous secret signs, too, such as 24h
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        grace: Option<String>,
        #[command(flatten)]
        output: Output,
    },
}

/// Form of the result, and the server.
#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
}

/// The channel with its address.
#[derive(Debug, clap::Args)]
#[group(multiple = true)]
pub(super) struct AddressFlags {
    /// URL of the webhook
    #[arg(long, value_name = "URL", conflicts_with_all = ["email", "slack"])]
    webhook: Option<String>,
    /// Mail address
    #[arg(long, value_name = "ADDRESS", conflicts_with = "slack")]
    email: Option<String>,
    /// URL of a Slack webhook, or a #channel
    #[arg(long, value_name = "URL")]
    slack: Option<String>,
    /// Additional header of the webhook; can be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    header: Vec<(String, String)>,
    #[command(flatten)]
    security: SecurityFlags,
}

/// How requests to a webhook are signed and authenticated. Secrets come from files: every user of a machine can see the
/// command lines of its processes.
#[derive(Debug, clap::Args)]
#[group(multiple = true)]
struct SecurityFlags {
    /// Signature: standard, github, stripe or none
    #[arg(long, value_name = "FORM")]
    signature: Option<String>,
    /// Keys of the standard form: hmac, ed25519
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    keys: Vec<String>,
    /// File with the JSON object of auth (basic, oauth2)
    #[arg(long, value_name = "FILE", value_parser = json_file)]
    auth_file: Option<Masked>,
    /// File with the client certificate in PEM
    #[arg(long, value_name = "FILE", value_parser = text_file, requires = "client_key")]
    client_certificate: Option<Masked>,
    /// File with the key of the client certificate in PEM
    #[arg(long, value_name = "FILE", value_parser = text_file, requires = "client_certificate")]
    client_key: Option<Masked>,
    /// File with the authorities in PEM that are trusted
    #[arg(long, value_name = "FILE", value_parser = text_file)]
    ca: Option<Masked>,
}

/// Maximum size of a file with certificates or credentials, in bytes. The server accepts less.
const FILE_MAX: u64 = 1024 * 1024;

/// Reads a file.
fn text_file(path: &str) -> Result<Masked, String> {
    let bytes = named_file::read_once(Path::new(path), FILE_MAX)
        .map_err(|error| format!("the file cannot be read: {error}"))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err("the file is larger than 1 MiB; is it the right one?".to_owned());
    }
    file_text(bytes).map(Masked::new).map_err(|error| format!("the file {error}"))
}

/// Reads a file that holds a JSON object, which is sent as it is. The error does not repeat it.
fn json_file(path: &str) -> Result<Masked, String> {
    let text = text_file(path)?;
    let text = text.reveal().trim_start_matches('\u{feff}').trim();
    let object: Result<serde_json::Map<String, Value>, _> = serde_json::from_str(text);
    object.map(|_| Masked::new(text)).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!("the file is not a JSON object (line {line}, column {column})")
    })
}

impl SecurityFlags {
    /// Returns `tls` as JSON; `None` if no flag sets it.
    fn tls(&self) -> Option<String> {
        let Self { client_certificate, client_key, ca, .. } = self;
        let fields = [("clientCertificate", client_certificate), ("clientKey", client_key), ("ca", ca)];
        let given = fields.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?.reveal())));
        let given: BTreeMap<&str, &str> = given.collect();
        (!given.is_empty()).then(|| json!(given).to_string())
    }
}

/// What does not depend on the channel.
#[derive(Debug, clap::Args)]
pub(super) struct SettingFlags {
    /// Name of the destination
    #[arg(long)]
    name: Option<String>,
    /// Description of the destination
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Events that it receives, such as job.completed or job.*
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    events: Vec<String>,
    /// Whether it is enabled: true or false
    #[arg(long, value_name = "YES")]
    enabled: Option<bool>,
    /// Whether it receives watches that name no destination
    #[arg(long, value_name = "YES")]
    default: Option<bool>,
    /// Maximum rate of attempts, such as 10/s, or off
    #[arg(long, value_name = "RATE")]
    rate: Option<String>,
    /// Maximum number of attempts in progress, or off
    #[arg(long, value_name = "N", value_parser = concurrency)]
    concurrency: Option<Concurrency>,
    /// Whether an event waits for retries of earlier ones
    #[arg(long, value_name = "YES")]
    ordered: Option<bool>,
}

/// A number of attempts in progress; `None` for no limit of its own.
#[derive(Clone, Copy, Debug)]
struct Concurrency(Option<u32>);

fn concurrency(text: &str) -> Result<Concurrency, String> {
    if text == "off" {
        return Ok(Concurrency(None));
    }
    let number = text.parse().map_err(|_| "must be a whole number, such as 4, or off".to_owned());
    number.map(|number| Concurrency(Some(number)))
}

/// Fields that an update can remove. A rate and a concurrency are removed by `off`.
const REMOVABLE: [&str; 8] = ["auth", "tls", "headers", "name", "description", "events", "signature", "keys"];

/// Returns the body of an update: the fields that are given, and null for those that are removed.
fn change(address: &AddressFlags, settings: &SettingFlags, removed: &[String]) -> Result<Body, Failure> {
    let mut fields = fields(address, settings, (false, None))?;
    for (name, argument, value) in &mut fields {
        if removed.iter().any(|removed| removed == name) {
            if value.is_some() {
                let sentence =
                    format!("--remove {name} cannot be used together with {argument}; give one of them");
                return Err(Failure::Usage(sentence));
            }
            (*argument, *value) = ("--remove", Some("null".to_owned()));
        }
    }
    Ok(body(&fields))
}

/// Returns the fields that are given. Only a new destination can have a secret.
fn fields(
    address: &AddressFlags,
    settings: &SettingFlags,
    (is_new, secret): (bool, Option<&Masked>),
) -> Result<[Field; 18], Failure> {
    let given =
        |value: Value| Some(value.to_string()).filter(|json| !["null", "[]", "{}"].contains(&json.as_str()));
    let kind = match address {
        AddressFlags { email: Some(_), .. } => Some("email"),
        AddressFlags { slack: Some(_), .. } => Some("slack"),
        AddressFlags { .. } => None,
    };
    let headers = by_name("--header", &address.header, str::eq_ignore_ascii_case)?;
    let security = &address.security;
    Ok([
        ("type", "--slack", given(json!(kind.filter(|_| is_new)))),
        ("url", "--webhook", given(json!(address.webhook))),
        ("email", "--email", given(json!(address.email))),
        ("slack", "--slack", given(json!(address.slack))),
        ("headers", "--header", given(json!(headers))),
        ("signature", "--signature", given(json!(security.signature))),
        ("keys", "--keys", given(json!(security.keys))),
        ("secret", "--secret-file", given(json!(secret.map(Masked::reveal)))),
        ("auth", "--auth-file", security.auth_file.as_ref().map(|json| json.reveal().to_owned())),
        ("tls", "--client-certificate", security.tls()),
        ("name", "--name", given(json!(settings.name))),
        ("description", "--description", given(json!(settings.description))),
        ("events", "--events", given(json!(settings.events))),
        ("enabled", "--enabled", given(json!(settings.enabled))),
        ("default", "--default", given(json!(settings.default))),
        ("rate", "--rate", given(json!(settings.rate))),
        (
            "concurrency",
            "--concurrency",
            settings.concurrency.map(|Concurrency(limit)| json!(limit).to_string()),
        ),
        ("ordered", "--ordered", given(json!(settings.ordered))),
    ])
}

/// Returns a body with the arguments of the fields below `tls`.
fn body(fields: &[Field]) -> Body {
    Body::of_json(fields)
        .with_argument("/tls/clientCertificate".to_owned(), "--client-certificate".to_owned())
        .with_argument("/tls/clientKey".to_owned(), "--client-key".to_owned())
        .with_argument("/tls/ca".to_owned(), "--ca".to_owned())
}

fn path(id: &str) -> String {
    format!("{PATH}/{}", segment(id))
}

/// Returns the fields of a destination.
fn fields_of(destination: &Value, terminal: Terminal) -> String {
    let mut card = FieldList::new(terminal);
    let [id, name, kind, secret] = texts(destination, ["/id", "/name", "/type", "/secret"]);
    card.line("destination", id);
    card.line("name", name);
    card.line("description", text(destination, "/description"));
    card.line("sends to", join([kind, address(destination)], " "));
    card.line("secret", secret);
    let keys: Vec<&str> =
        destination["keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let form = text(destination, "/signature");
    // The default form is not in the answer.
    let form = if form.is_empty() && !keys.is_empty() { "standard".to_owned() } else { form };
    let signed = std::iter::once(form).chain(keys.into_iter().map(str::to_owned));
    card.line("signature", join(signed, " "));
    card.line(
        "auth",
        join(texts(destination, ["/auth/type", "/auth/username", "/auth/clientId", "/auth/tokenUrl"]), " "),
    );
    card.line("client certificate", text(destination, "/tls/clientCertificateSha256"));
    card.line("authorities", text(destination, "/tls/caCount"));
    card.line("state", state(destination));
    card.time("disabled", destination, "/disabledAt");
    let limits = ["/rate", "/concurrency"].map(|pointer| text(destination, pointer));
    let [rate, concurrency] = limits;
    card.line("rate", rate);
    card.line("concurrency", concurrency);
    let flags = [("/default", "default"), ("/ordered", "ordered"), ("/managed", "in the configuration file")];
    let is_set = |(pointer, _): &(&str, &str)| destination.pointer(pointer) == Some(&Value::Bool(true));
    card.line("is", join(flags.into_iter().filter(is_set).map(|(_, word)| word.to_owned()), ", "));
    card.line("success, 24 h", percent(destination));
    let [p50, p95] = texts(destination, ["/health/latencyMs/p50", "/health/latencyMs/p95"]);
    if !p50.is_empty() {
        card.line("duration", format!("half within {p50} ms, 95 % within {p95} ms"));
    }
    card.line("last error", text(destination, "/health/lastError"));
    card.time("failing since", destination, "/health/failingSince");
    card.render()
}

/// Returns whether a destination is enabled, or why not.
fn state(destination: &Value) -> String {
    let reason = text(destination, "/disabledReason");
    if reason.is_empty() { "enabled".to_owned() } else { format!("disabled ({reason})") }
}

/// Returns the part of the attempts that succeeded; empty without attempts.
fn percent(destination: &Value) -> String {
    let rate = destination.pointer("/health/successRate").and_then(Value::as_f64);
    rate.map(|rate| format!("{:.1} %", rate * 100.0)).unwrap_or_default()
}

/// Refuses to create a secret that would not be shown.
fn check_stdout() -> Result<(), Failure> {
    if discards_stdout() {
        let why = "stdout is closed or the null device, and a secret is shown only once; keep stdout";
        return Err(Failure::Failed(why.to_owned()));
    }
    Ok(())
}

impl Destinations {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::List { paging, server } => {
                let columns = [
                    Column::new("ID"),
                    Column::new("NAME").soft(),
                    Column::new("SENDS TO").soft(),
                    Column::new("STATE"),
                    Column::new("SUCCESS").optional(2),
                    Column::time("CREATED").optional(1),
                ];
                let row = |one: &Value| {
                    let [id, name, created] = texts(one, ["/id", "/name", "/createdAt"]);
                    vec![id, name, address(one), state(one), percent(one), created]
                };
                paging.show(&server.client()?, PATH, &[], &columns, row).await
            }
            Self::Create { address, settings, secret_file, output } => {
                let is_known = secret_file.is_some();
                if !is_known {
                    check_stdout()?;
                }
                let body = body(&fields(&address, &settings, (true, secret_file.as_ref()))?);
                let created = output.server.client()?.post(PATH, Some(body), None).await?;
                created.print(output.json, |created, terminal| {
                    let mut shown = created.clone();
                    if let Some(fields) = shown.as_object_mut().filter(|_| is_known) {
                        fields.remove("secret");
                    }
                    fields_of(&shown, terminal)
                })?;
                if !output.json && !is_known && !text(&created.value(), "/secret").is_empty() {
                    print_note("The secret is not shown again; store it now.");
                }
                Ok(())
            }
            Self::Show { id, output } => {
                output.server.client()?.get(&path(&id)).await?.print(output.json, fields_of)
            }
            Self::Update { id, remove, address, settings, output } => {
                let body = change(&address, &settings, &remove)?;
                output.server.client()?.patch(&path(&id), body).await?.print(output.json, fields_of)
            }
            Self::Enable { id, retry_skipped, output } => {
                let body = Body::fixed(json!({ "retrySkipped": retry_skipped }).to_string());
                let enable = format!("{}/enable", path(&id));
                output.server.client()?.post(&enable, Some(body), None).await?.print(output.json, fields_of)
            }
            Self::Delete { id, server } => {
                server.client()?.delete(&path(&id)).await?;
                Ok(print_line(format_args!("{} is deleted.", clean(&id)))?)
            }
            Self::RotateSecret { id, grace, output } => {
                check_stdout()?;
                let body = Body::of_texts([("grace", "--grace", grace)]);
                let rotate = format!("{}/rotate-secret", path(&id));
                let rotated = output.server.client()?.post(&rotate, Some(body), None).await?;
                rotated.print(output.json, |rotated, terminal| {
                    let mut card = FieldList::new(terminal);
                    card.line("secret", text(rotated, "/secret"));
                    card.time("previous until", rotated, "/previous/expiresAt");
                    card.render()
                })?;
                if !output.json {
                    print_note("The secret is not shown again; store it now.");
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        address: AddressFlags,
        #[command(flatten)]
        settings: SettingFlags,
        #[arg(long, value_parser = secret_file_or_stdin)]
        secret_file: Option<Masked>,
    }

    fn json_of(line: &str, is_new: bool) -> String {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let secret = line.secret_file.as_ref();
        body(&fields(&line.address, &line.settings, (is_new, secret)).expect("fields")).json
    }

    #[test]
    fn only_given_settings_of_a_destination_are_sent() {
        assert_eq!(json_of("", false), "{}");
        assert_eq!(json_of("--slack #ops", true), r##"{"type":"slack","slack":"#ops"}"##);
        assert_eq!(json_of("--slack #ops", false), r##"{"slack":"#ops"}"##);
        assert_eq!(
            json_of(
                "--webhook https://a --header x-a=1 --events job.*,watch.expired --rate off --ordered true",
                true
            ),
            r#"{"url":"https://a","headers":{"x-a":"1"},"events":["job.*","watch.expired"],"rate":"off","ordered":true}"#
        );
        assert_eq!(
            json_of("--concurrency off --enabled false", false),
            r#"{"enabled":false,"concurrency":null}"#
        );
        assert_eq!(json_of("--concurrency 4", false), r#"{"concurrency":4}"#);
        assert_eq!(
            json_of("--signature standard --keys hmac,ed25519", false),
            r#"{"signature":"standard","keys":["hmac","ed25519"]}"#
        );
    }

    #[test]
    fn an_update_removes_values() {
        let removed = |line: &str, removed: &[&str]| {
            let line =
                Line::try_parse_from(std::iter::once("x").chain(line.split_whitespace())).expect("arguments");
            let removed: Vec<String> = removed.iter().map(|name| (*name).to_owned()).collect();
            change(&line.address, &line.settings, &removed).map(|body| body.json)
        };
        assert_eq!(
            removed("--name n", &["auth", "tls"]).expect("a body"),
            r#"{"auth":null,"tls":null,"name":"n"}"#
        );
        let names = fields(
            &Line::try_parse_from(["x"]).expect("no arguments").address,
            &no_settings(),
            (false, None),
        )
        .expect("fields");
        for name in REMOVABLE {
            assert!(names.iter().any(|(field, ..)| *field == name), "{name}");
            assert_eq!(removed("", &[name]).expect("a body"), format!("{{\"{name}\":null}}"));
        }
        let both = removed("--events job.*", &["events"]);
        assert!(matches!(both, Err(Failure::Usage(sentence)) if sentence.contains("--events")));
    }

    fn no_settings() -> SettingFlags {
        Line::try_parse_from(["x"]).expect("no arguments").settings
    }

    #[test]
    fn secrets_of_a_destination_come_from_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.to_str().expect("UTF-8").to_owned()
        };
        let auth = file("auth.json", "\u{feff}{\"type\": \"basic\", \"password\": \"hush\"}\n");
        let (certificate, key) = (file("c.pem", "C"), file("k.pem", "K"));
        let line = format!(
            "--auth-file {auth} --client-certificate {certificate} --client-key {key} --ca {certificate}"
        );
        assert_eq!(
            json_of(&line, false),
            r#"{"auth":{"type": "basic", "password": "hush"},"tls":{"ca":"C","clientCertificate":"C","clientKey":"K"}}"#
        );
        let line = format!("--signature github --secret-file {}", file("secret.txt", "It's a Secret\n"));
        assert_eq!(json_of(&line, true), r#"{"signature":"github","secret":"It's a Secret"}"#);
        let broken = file("broken.json", "{\"password\": hush}");
        let line = ["x", "--auth-file", broken.as_str()];
        let error = Line::try_parse_from(line).map(|_| ()).expect_err("not JSON").to_string();
        assert!(error.contains("is not a JSON object (line 1") && !error.contains("hush"), "{error}");
        assert!(Line::try_parse_from(["x", "--client-key", &key]).is_err(), "without its certificate");
    }
}
