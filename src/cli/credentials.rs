//! `ringback credential`: credentials of the app, with which its jobs are polled.

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::arguments::secret_file_or_stdin;
use super::client::{Paging, Server, segment};
use super::output::{Failure, print_line, text, texts};
use super::request_fields::Body;
use super::terminal::Column;
use crate::domain::{CredentialKind, Masked};

/// Manage the app's own credentials, with which its jobs are polled
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Example:
  ringback credential list")]
pub enum Credentials {
    /// Store a credential; the secret comes from a file or from stdin
    #[command(after_help = "\
Example:
  ringback credential add my-key --kind bearer \\
    --send-to api.example.com < token.txt
  ringback watch --poll-url https://api.example.com/jobs/123 \\
    --poll-credential my-key

In place of the server's own key of a provider:
  ringback credential add my-replicate --kind key \\
    --send-to api.replicate.com < key.txt
  ringback watch 4bxk... --provider replicate \\
    --credential my-replicate

The secret is a token, a value, for basic user:password, or for key what the page of the provider describes. It is not an argument, which other users of the machine could read.")]
    Add {
        /// Name by which watches use it
        name: String,
        /// How it is sent; key: as the definition of the provider says
        #[arg(long, default_value = "bearer", value_parser = PossibleValuesParser::new(CredentialKind::WORDS))]
        kind: String,
        /// Host that gets it, by https only; can be repeated
        #[arg(long, value_name = "HOST", required = true)]
        send_to: Vec<String>,
        /// Name of the header, for the kind header
        #[arg(long, value_name = "NAME")]
        header: Option<String>,
        /// Name of the parameter, for the kind query
        #[arg(long, value_name = "NAME")]
        parameter: Option<String>,
        /// File with the secret [default: stdin]
        #[arg(long, value_name = "FILE", value_parser = secret_file_or_stdin)]
        secret_file: Option<Masked>,
        #[command(flatten)]
        server: Server,
    },
    /// List credentials, without their secrets
    #[command(after_help = "\
Example:
  ringback credential list")]
    List {
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        server: Server,
    },
    /// Delete a credential that no running watch uses
    #[command(after_help = "\
Example:
  ringback credential remove my-key")]
    Remove {
        /// Name of the credential
        name: String,
        #[command(flatten)]
        server: Server,
    },
}

impl Credentials {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Add { name, kind, send_to, header, parameter, secret_file, server } => {
                let secret = secret_file.map_or_else(|| secret_file_or_stdin("-"), Ok);
                let secret = secret.map_err(|wrong| Failure::Usage(format!("the secret: {wrong}")))?;
                let secret = secret.reveal();
                let (username, password) = secret.split_once(':').unwrap_or((secret, ""));
                let value = |wanted: &str, text: &str| (kind == wanted).then(|| json!(text).to_string());
                let value_of_name =
                    ["header", "query", "key"].contains(&kind.as_str()).then(|| json!(secret).to_string());
                let given = |text: &Option<String>| text.as_ref().map(|text| json!(text).to_string());
                let body = Body::of_json(&[
                    ("name", "NAME", Some(json!(name).to_string())),
                    ("kind", "--kind", Some(json!(kind).to_string())),
                    ("sendTo", "--send-to", Some(json!(send_to).to_string())),
                    ("header", "--header", given(&header)),
                    ("parameter", "--parameter", given(&parameter)),
                    ("token", "the secret", value("bearer", secret)),
                    ("value", "the secret", value_of_name),
                    ("username", "the secret, user:password,", value("basic", username)),
                    ("password", "the secret, user:password,", value("basic", password)),
                ]);
                let answer = server.client()?.post("/v1/credentials", Some(body), None).await?;
                let name = text(&answer.value(), "/name");
                Ok(print_line(format_args!("{name} is stored. Its secret is never shown."))?)
            }
            Self::List { paging, server } => {
                let columns = [
                    Column::new("NAME"),
                    Column::new("KIND"),
                    Column::new("SENT TO").soft(),
                    Column::time("CREATED").optional(1),
                ];
                let row = |credential: &Value| {
                    let [name, kind, created] = texts(credential, ["/name", "/kind", "/createdAt"]);
                    let hosts = credential["sendTo"].as_array().into_iter().flatten();
                    let hosts: Vec<&str> = hosts.filter_map(Value::as_str).collect();
                    vec![name, kind, hosts.join(", "), created]
                };
                paging.show(&server.client()?, "/v1/credentials", &[], &columns, row).await
            }
            Self::Remove { name, server } => {
                server.client()?.delete(&format!("/v1/credentials/{}", segment(&name))).await?;
                Ok(print_line(format_args!("{name} is deleted."))?)
            }
        }
    }
}
