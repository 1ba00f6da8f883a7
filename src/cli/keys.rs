//! `ringback apps` and `ringback keys`: tenants and their API keys.
//!
//! The commands use a running server if `--url`, `RINGBACK_URL` or `RINGBACK_API_KEY` names one. Otherwise, and if
//! `--config` or `--database-url` names a database, they use the database itself. The first key can be created in this
//! way, and a new one if all admin keys are lost.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::arguments::configuration;
use super::client::{Answer, Client, Server, json_object, segment};
use super::output::{Failure, print_line, print_note};
use super::paging::Paging;
use super::tenants::{self, KeyRequest};
use super::terminal::{FieldList, clean, text, time};
use crate::config::{Access, Config, Environment, Flags};

/// Arguments that select a server or a database.
#[derive(Debug, clap::Args)]
pub struct Place {
    #[command(flatten)]
    server: Server,
    /// Use the database of this configuration file instead of a server
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    config: Option<PathBuf>,
    /// Use this database instead of a server
    #[arg(long, value_name = "DATABASE", conflicts_with = "url")]
    database_url: Option<String>,
}

/// The selected server or database.
enum Backend {
    Server(Client),
    Database(Box<Config>),
}

impl Place {
    fn find(self) -> Result<Backend, Failure> {
        let names_database = self.config.is_some() || self.database_url.is_some();
        let names_server = Access::is_set(self.server.url.as_deref(), &Environment::of_process());
        if names_server && !names_database {
            return Ok(Backend::Server(self.server.client()?));
        }
        let flags = Flags { config: self.config, database_url: self.database_url, ..Flags::default() };
        Ok(Backend::Database(Box::new(configuration(&flags)?)))
    }
}

/// Create and list apps: tenants that cannot see each other's data
#[derive(Debug, clap::Args)]
pub struct Apps {
    #[command(subcommand)]
    command: AppsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum AppsCommand {
    Create(CreateApp),
    /// List apps
    #[command(after_help = "\
Example:
  ringback apps list --json")]
    List {
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        place: Place,
    },
}

/// Create an app, and print its signing secret once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback apps create customer-7

The app needs a key of its own: ringback keys create --app app_… --scope write")]
pub struct CreateApp {
    /// Name of the app
    name: String,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl Apps {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let (paging, place) = match self.command {
            AppsCommand::Create(create) => return create.run().await,
            AppsCommand::List { paging, place } => (paging, place),
        };
        let head = ["ID", "NAME", "CREATED (UTC)"];
        let row = |app: &Value| vec![text(app, "/id"), text(app, "/name"), time(app, "/createdAt")];
        match place.find()? {
            Backend::Server(client) => paging.show(&client, "/v1/apps", Vec::new(), &head, row).await,
            Backend::Database(config) => paging.show_whole(tenants::list_apps(&config).await?, &head, row),
        }
    }
}

impl CreateApp {
    async fn run(self) -> Result<(), Failure> {
        let answer = match self.place.find()? {
            Backend::Server(client) => {
                let body = json!({ "name": self.name }).to_string();
                client.post("/v1/apps", Some(body), None).await?
            }
            Backend::Database(config) => tenants::create_app(&config, &self.name).await?,
        };
        let fields = [("app", "/id"), ("name", "/name"), ("signing secret", "/signingSecret")];
        print_created(
            &answer,
            self.json,
            &fields,
            "Receivers verify signatures with the secret; GET /v1/signing-secret returns it again.",
        )
    }
}

/// Prints an app or a key that was created, by the names of its fields and their pointers.
fn print_created(
    answer: &Answer,
    as_json: bool,
    fields: &[(&str, &str)],
    remark: &str,
) -> Result<(), Failure> {
    answer.print(as_json, |created, terminal| {
        let mut card = FieldList::default();
        for (name, pointer) in fields {
            let show = if pointer.ends_with("At") { time } else { text };
            card.line(name, show(created, pointer));
        }
        card.render(terminal)
    })?;
    if !as_json {
        print_note(remark);
    }
    Ok(())
}

/// Create, list and revoke keys
#[derive(Debug, clap::Args)]
pub struct Keys {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, clap::Subcommand)]
enum KeysCommand {
    Create(CreateKey),
    /// List keys; the keys themselves are not stored and never shown
    #[command(after_help = "\
Example:
  ringback keys list --app app_01m84y…")]
    List {
        /// Only keys of this app
        #[arg(long, value_name = "APP_ID")]
        app: Option<String>,
        #[command(flatten)]
        paging: Paging,
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a key: it is rejected from now on
    #[command(after_help = "\
Example:
  ringback keys revoke key_01m84y…")]
    Revoke {
        /// Id of the key (key_…)
        id: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Create a key, and print it once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback keys create --name billing --scope write --expires-in 90d

Scopes: read; write, which includes read; and admin, which also manages keys and apps and reads the
signing secret.")]
pub struct CreateKey {
    #[command(flatten)]
    key: KeyRequest,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl Keys {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self.command {
            KeysCommand::Create(create) => create.run().await,
            KeysCommand::List { app, paging, place } => {
                let head =
                    ["ID", "NAME", "SCOPE", "APP", "CREATED (UTC)", "EXPIRES (UTC)", "LAST USED (UTC)"];
                let row = |key: &Value| {
                    let words = ["/id", "/name", "/scope", "/appId"].map(|field| text(key, field));
                    let times = ["/createdAt", "/expiresAt", "/lastUsedAt"].map(|field| time(key, field));
                    words.into_iter().chain(times).collect()
                };
                match place.find()? {
                    Backend::Server(client) => {
                        paging.show(&client, "/v1/keys", vec![("appId", app)], &head, row).await
                    }
                    Backend::Database(config) => {
                        paging.show_whole(tenants::list_keys(&config, app.as_deref()).await?, &head, row)
                    }
                }
            }
            KeysCommand::Revoke { id, place } => {
                match place.find()? {
                    Backend::Server(client) => {
                        client.delete(&format!("/v1/keys/{}", segment(&id))).await?;
                    }
                    Backend::Database(config) => tenants::revoke_key(&config, &id).await?,
                }
                Ok(print_line(format_args!("{} is revoked.", clean(&id)))?)
            }
        }
    }
}

impl CreateKey {
    async fn run(self) -> Result<(), Failure> {
        let answer = match self.place.find()? {
            Backend::Server(client) => {
                let KeyRequest { name, scope, expires_in, app } = self.key;
                let body = json_object([
                    ("name", name),
                    ("scope", Some(scope)),
                    ("expiresIn", expires_in),
                    ("appId", app),
                ]);
                client.post("/v1/keys", Some(Value::Object(body).to_string()), None).await?
            }
            Backend::Database(config) => tenants::create_key(&config, &self.key).await?,
        };
        let fields = [
            ("key", "/key"),
            ("id", "/id"),
            ("app", "/appId"),
            ("scope", "/scope"),
            ("expires (UTC)", "/expiresAt"),
        ];
        print_created(&answer, self.json, &fields, "The key is not shown again; store it now.")
    }
}
