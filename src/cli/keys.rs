//! `ringback apps` and `ringback keys`: tenants, and the keys with which they come in.
//!
//! They are asked of a running server where the user names one, by `--url`, `RINGBACK_URL` or
//! `RINGBACK_API_KEY`. Elsewhere, and where `--config` or `--database-url` names a database, they are
//! made in the database itself: that is how the first key is made, and how one gets in again.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::arguments::{configuration, duration, values_of};
use super::client::json_object;
use super::client::{Answer, Client, Server, segment};
use super::output::{Failure, print_line, print_note};
use super::paging::Paging;
use super::tenants::{self, WantedKey};
use super::terminal::{FieldList, Terminal, clean, text, time};
use crate::config::{Access, Config, Environment, Flags};
use crate::domain::Scope;

/// Where apps and keys are.
#[derive(Debug, clap::Args)]
pub struct Place {
    #[command(flatten)]
    server: Server,
    /// Ask the database of this configuration file, and no server
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    config: Option<PathBuf>,
    /// Ask this database, and no server
    #[arg(long, value_name = "DATABASE", conflicts_with = "url")]
    database_url: Option<String>,
}

/// Whom to ask.
enum Asked {
    Server(Client),
    Database(Box<Config>),
}

impl Place {
    fn find(self) -> Result<Asked, Failure> {
        let names_database = self.config.is_some() || self.database_url.is_some();
        let names_server = Access::is_set(self.server.url.as_deref(), &Environment::of_process());
        if names_server && !names_database {
            return Ok(Asked::Server(self.server.client()?));
        }
        let flags = Flags { config: self.config, database_url: self.database_url, ..Flags::default() };
        Ok(Asked::Database(Box::new(configuration(&flags)?)))
    }
}

/// Make and list apps: tenants that see nothing of each other
#[derive(Debug, clap::Args)]
pub struct Apps {
    #[command(subcommand)]
    what: AppsWhat,
}

#[derive(Debug, clap::Subcommand)]
enum AppsWhat {
    Create(CreateApp),
    List(ListApps),
}

/// Make an app, and print its signing secret, once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback apps create customer-7

It needs a key of its own: ringback keys create --app app_… --scope write")]
pub struct CreateApp {
    /// What people call it
    name: String,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// List apps
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback apps list --json")]
pub struct ListApps {
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    place: Place,
}

impl Apps {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self.what {
            AppsWhat::Create(create) => create.run().await,
            AppsWhat::List(ListApps { paging, place }) => {
                let head = ["ID", "NAME", "CREATED (UTC)"];
                let row = |app: &Value| vec![text(app, "/id"), text(app, "/name"), time(app, "/createdAt")];
                match place.find()? {
                    Asked::Server(client) => paging.show(&client, "/v1/apps", Vec::new(), &head, row).await,
                    Asked::Database(config) => {
                        paging.show_whole(tenants::list_apps(&config).await?, &head, row)
                    }
                }
            }
        }
    }
}

impl CreateApp {
    async fn run(self) -> Result<(), Failure> {
        let answer = match self.place.find()? {
            Asked::Server(client) => {
                let body = json!({ "name": self.name }).to_string();
                client.post("/v1/apps", Some(body), None).await?
            }
            Asked::Database(config) => {
                Answer { text: tenants::create_app(&config, &self.name).await?.to_string() }
            }
        };
        let terminal = Terminal::of_stdout();
        if self.json {
            return Ok(terminal.json(&answer.text)?);
        }
        let app = answer.value();
        let mut card = FieldList::default();
        card.line("app", text(&app, "/id"));
        card.line("name", text(&app, "/name"));
        card.line("signing secret", text(&app, "/signingSecret"));
        print_line(card.render(terminal))?;
        print_note("Receivers verify by the signing secret; GET /v1/signing-secret gives it again.");
        Ok(())
    }
}

/// Make, list and revoke keys
#[derive(Debug, clap::Args)]
pub struct Keys {
    #[command(subcommand)]
    what: KeysWhat,
}

#[derive(Debug, clap::Subcommand)]
enum KeysWhat {
    Create(CreateKey),
    List(ListKeys),
    Revoke(RevokeKey),
}

/// Make a key, and print it, once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback keys create --name billing --scope write --expires-in 90d

A key may read; read and write; or, as admin, also make keys and apps and see the signing secret.")]
pub struct CreateKey {
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// What it may do
    #[arg(long, default_value = "write", value_parser = values_of(Scope::ALL, Scope::as_str))]
    scope: String,
    /// For how long it is valid, as 90d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires_in: Option<String>,
    /// Whose it is.
    #[arg(long, value_name = "APP_ID", help = "Whose it is [default: the app of RINGBACK_API_KEY]")]
    app: Option<String>,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// List keys; the keys themselves are not kept, and never shown
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback keys list --app app_01m84y…")]
pub struct ListKeys {
    /// Of this app
    #[arg(long, value_name = "APP_ID")]
    app: Option<String>,
    #[command(flatten)]
    paging: Paging,
    #[command(flatten)]
    place: Place,
}

/// Revoke a key: it is refused from now on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback keys revoke key_01m84y…")]
pub struct RevokeKey {
    /// The key's id, as key_…
    id: String,
    #[command(flatten)]
    place: Place,
}

impl Keys {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self.what {
            KeysWhat::Create(create) => create.run().await,
            KeysWhat::List(ListKeys { app, paging, place }) => {
                let head =
                    ["ID", "NAME", "SCOPE", "APP", "CREATED (UTC)", "EXPIRES (UTC)", "LAST USED (UTC)"];
                let row = |key: &Value| {
                    let words = ["/id", "/name", "/scope", "/appId"].map(|field| text(key, field));
                    let times = ["/createdAt", "/expiresAt", "/lastUsedAt"].map(|field| time(key, field));
                    words.into_iter().chain(times).collect()
                };
                match place.find()? {
                    Asked::Server(client) => {
                        paging.show(&client, "/v1/keys", vec![("appId", app)], &head, row).await
                    }
                    Asked::Database(config) => {
                        paging.show_whole(tenants::list_keys(&config, app.as_deref()).await?, &head, row)
                    }
                }
            }
            KeysWhat::Revoke(RevokeKey { id, place }) => {
                match place.find()? {
                    Asked::Server(client) => {
                        client.delete(&format!("/v1/keys/{}", segment(&id))).await?;
                    }
                    Asked::Database(config) => tenants::revoke_key(&config, &id).await?,
                }
                Ok(print_line(format_args!("{} is revoked.", clean(&id)))?)
            }
        }
    }
}

impl CreateKey {
    async fn run(self) -> Result<(), Failure> {
        let answer = match self.place.find()? {
            Asked::Server(client) => {
                let said = [("name", self.name), ("expiresIn", self.expires_in), ("appId", self.app)];
                let mut body = json_object(said);
                body.insert("scope".to_owned(), json!(self.scope));
                client.post("/v1/keys", Some(Value::Object(body).to_string()), None).await?
            }
            Asked::Database(config) => {
                let wanted = WantedKey {
                    name: self.name.as_deref(),
                    scope: &self.scope,
                    expires_in: self.expires_in.as_deref(),
                    app: self.app.as_deref(),
                };
                Answer { text: tenants::create_key(&config, wanted).await?.to_string() }
            }
        };
        let terminal = Terminal::of_stdout();
        if self.json {
            return Ok(terminal.json(&answer.text)?);
        }
        let key = answer.value();
        let mut card = FieldList::default();
        card.line("key", text(&key, "/key"));
        card.line("id", text(&key, "/id"));
        card.line("app", text(&key, "/appId"));
        card.line("scope", text(&key, "/scope"));
        card.line("expires (UTC)", time(&key, "/expiresAt"));
        print_line(card.render(terminal))?;
        print_note("The key is shown this once: keep it.");
        Ok(())
    }
}
