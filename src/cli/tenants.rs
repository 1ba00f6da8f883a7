//! `ringback apps` and `ringback keys`: tenants and their API keys.
//!
//! The commands use a running server if `--url`, `RINGBACK_URL` or `RINGBACK_API_KEY` names one. Otherwise, and if
//! `--config` or `--database-url` names a database, they use the database itself. The first key can be created in this
//! way, and a new one if all admin keys are lost.
//!
//! Each function for a database opens it, performs one operation with the functions that the API's handlers use, and
//! closes it. Results have the shapes of the API. A database that a server uses is locked.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use super::arguments::{configuration, duration};
use super::client::{Answer, Client, Paging, Server, segment};
use super::output::{Failure, clean, discards_stdout, print_line, print_note, text, texts};
use super::request_fields::Body;
use super::terminal::{Column, FieldList};
use crate::app::open_store;
use crate::channels::webhook::Secret;
use crate::clock::Clock;
use crate::config::{Access, Config, Database, Environment, Flags};
use crate::domain::{App, AppId, KeyId, Masked, Scope, Timestamp, parse_any_duration};
use crate::store::{RevokeKey, Store, StoredResponse};
use crate::telemetry::logs;
use crate::tenants::{self, AppView, DEFAULT_APP, EXPIRES_IN, KeyView, check_expiry, check_name};

/// Number of rows that are read at a time.
const PAGE: u32 = 200;

/// Arguments that select a server or a database.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Use this server.
    #[arg(
        long,
        value_name = "URL",
        help = "Use this server [default: RINGBACK_URL; http://127.0.0.1:8080 if only RINGBACK_API_KEY is set; \
                without both, no server: the command opens the database itself]"
    )]
    url: Option<String>,
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
        let names_server = Access::is_set(self.url.as_deref(), &Environment::of_process());
        if names_server && !names_database {
            return Ok(Backend::Server(Server { url: self.url }.client()?));
        }
        let flags = Flags { config: self.config, database_url: self.database_url, ..Flags::default() };
        let config = configuration(&flags)?;
        // Opening warns of files that others can read, and damage ends the process with a sentence in the log.
        logs::init("warn", config.log_format)?;
        Ok(Backend::Database(Box::new(config)))
    }
}

/// Create and list apps: tenants that cannot see each other's data
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Example:
  ringback apps create customer-7")]
pub(super) enum Apps {
    /// Create an app, and print its signing secret once
    #[command(after_help = "\
Example:
  ringback apps create customer-7

The app needs a key of its own:
  ringback keys create --app app_… --scope write")]
    Create {
        /// Name of the app
        name: String,
        /// Print the server's JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
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

impl Apps {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create { name, json, place } => {
                let answer = match place.find()? {
                    Backend::Server(client) => {
                        let body = Body::of_texts([("name", "NAME", Some(name))]);
                        client.post("/v1/apps", Some(body), None).await?
                    }
                    Backend::Database(config) => create_app(&config, &name).await?,
                };
                let remark =
                    "Receivers verify signatures with the secret; GET /v1/signing-secret returns it again.";
                let fields = [("app", "/id"), ("name", "/name"), ("signing secret", "/signingSecret")];
                print_created(&answer, json, &fields, remark)
            }
            Self::List { paging, place } => {
                let columns = [Column::new("ID"), Column::new("NAME").soft(), Column::time("CREATED")];
                let row = |app: &Value| texts(app, ["/id", "/name", "/createdAt"]).to_vec();
                match place.find()? {
                    Backend::Server(client) => paging.show(&client, "/v1/apps", &[], &columns, row).await,
                    Backend::Database(config) => paging.show_whole(list_apps(&config).await?, &columns, row),
                }
            }
        }
    }
}

/// Prints an app or a key that was created, by the names of its fields and their pointers.
fn print_created(
    answer: &Answer,
    as_json: bool,
    fields: &[(&str, &str)],
    remark: &str,
) -> Result<(), Failure> {
    let printed = answer.print(as_json, |created, terminal| {
        let mut card = FieldList::new(terminal);
        for (name, pointer) in fields {
            if pointer.ends_with("At") {
                card.time(name, created, pointer);
            } else {
                card.line(name, text(created, pointer));
            }
        }
        card.render()
    });
    // What is shown once must not be lost quietly.
    if let Err(failure) = printed {
        let is_closed = matches!(failure, Failure::Closed);
        let why = if is_closed { "stdout is closed".to_owned() } else { failure.to_string() };
        let id = clean(&text(&answer.value(), "/id"));
        let sentence = "so what was created could not be shown, and it is not shown again";
        return Err(Failure::Failed(format!("{why}, {sentence}; its id is {id}")));
    }
    if !as_json {
        print_note(remark);
    }
    Ok(())
}

/// Create, list and revoke keys
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Example:
  ringback keys create --name billing --scope write")]
pub(super) enum Keys {
    /// Create a key, and print it once
    #[command(after_help = "\
Example:
  ringback keys create --name billing --scope write --expires-in 90d

Scopes: read; write, which includes read; and admin, which also manages keys and apps and reads the signing secret.")]
    Create {
        #[command(flatten)]
        key: KeyRequest,
        /// Print the server's JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
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

/// Properties of a key to create.
#[derive(Clone, Debug, clap::Args)]
pub struct KeyRequest {
    /// Name of the key
    #[arg(long)]
    pub name: Option<String>,
    /// What the key permits
    #[arg(long, default_value = "write", value_parser = PossibleValuesParser::new(Scope::WORDS))]
    pub scope: String,
    /// How long the key is valid, such as 90d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub expires_in: Option<String>,
    /// App of the key.
    #[arg(long, value_name = "APP_ID", help = "App of the key [default: the app of RINGBACK_API_KEY]")]
    pub app: Option<String>,
}

impl Keys {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create { key, json, place } => {
                if discards_stdout() {
                    let why =
                        "stdout is closed or the null device, and a key is shown only once; keep stdout";
                    return Err(Failure::Failed(why.to_owned()));
                }
                let answer = match place.find()? {
                    Backend::Server(client) => {
                        let body = Body::of_texts([
                            ("name", "--name", key.name),
                            ("scope", "--scope", Some(key.scope)),
                            ("expiresIn", "--expires-in", key.expires_in),
                            ("appId", "--app", key.app),
                        ]);
                        client.post("/v1/keys", Some(body), None).await?
                    }
                    Backend::Database(config) => create_key(&config, &key).await?,
                };
                let fields = [
                    ("key", "/key"),
                    ("id", "/id"),
                    ("app", "/appId"),
                    ("scope", "/scope"),
                    ("expires", "/expiresAt"),
                ];
                print_created(&answer, json, &fields, "The key is not shown again; store it now.")
            }
            Self::List { app, paging, place } => {
                let columns = [
                    Column::new("ID"),
                    Column::new("NAME").soft(),
                    Column::new("SCOPE"),
                    Column::new("APP").optional(4),
                    Column::time("CREATED").optional(3),
                    Column::time("EXPIRES").optional(2),
                    Column::time("LAST USED").optional(1),
                ];
                let row = |key: &Value| {
                    let fields =
                        ["/id", "/name", "/scope", "/appId", "/createdAt", "/expiresAt", "/lastUsedAt"];
                    texts(key, fields).to_vec()
                };
                match place.find()? {
                    Backend::Server(client) => {
                        paging.show(&client, "/v1/keys", &[("appId", "--app", app)], &columns, row).await
                    }
                    Backend::Database(config) => {
                        paging.show_whole(list_keys(&config, app.as_deref()).await?, &columns, row)
                    }
                }
            }
            Self::Revoke { id, place } => {
                match place.find()? {
                    Backend::Server(client) => {
                        client.delete(&format!("/v1/keys/{}", segment(&id))).await?;
                    }
                    Backend::Database(config) => revoke_key(&config, &id).await?,
                }
                Ok(print_line(format_args!("{} is revoked.", clean(&id)))?)
            }
        }
    }
}

/// Creates a key. Only this answer contains it.
pub async fn create_key(config: &Config, request: &KeyRequest) -> Result<Answer, Failure> {
    let usage = |what: &str, wrong: &str| Failure::Usage(format!("{what}: {wrong}"));
    let name = request.name.as_deref().map(check_name).transpose();
    let name = name.map_err(|wrong| usage("--name", &wrong))?;
    let scope = Scope::parse(&request.scope);
    let scope = scope.ok_or_else(|| usage("--scope", "must be read, write or admin"))?;
    with_store(config, async |store, now| {
        let expires_at = request.expires_in.as_deref().map(|text| read_expiry(text, now)).transpose();
        let expires_at = expires_at.map_err(|wrong| usage("--expires-in", &wrong))?;
        let app = find_app(&store, request.app.as_deref())?;
        Ok(answer(tenants::create_key(&store, name, scope, expires_at, app, now, None).await?))
    })
    .await
}

fn answer(response: StoredResponse) -> Answer {
    Answer { text: String::from_utf8(response.body).unwrap_or_default() }
}

fn read_expiry(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let span = parse_any_duration(text)?;
    check_expiry(now.plus(span), now)
        .map_err(|_| format!("must be from {} to {}", EXPIRES_IN.0, EXPIRES_IN.1))
}

/// Returns all keys, or those of one app, newest first.
pub async fn list_keys(config: &Config, app: Option<&str>) -> Result<Value, Failure> {
    with_store(config, async |store, _| {
        let app = app.map(|id| find_app(&store, Some(id))).transpose()?.map(|app| app.no);
        let (mut all, mut before) = (Vec::new(), None);
        loop {
            let page = store.keys(app, before, PAGE).await?;
            let Some(last) = page.last() else { break };
            before = Some(last.id);
            all.extend(page.iter().map(|key| json!(KeyView::of(key, None))));
        }
        Ok(json!({ "data": all, "nextCursor": null }))
    })
    .await
}

/// Revokes a key.
pub async fn revoke_key(config: &Config, id: &str) -> Result<(), Failure> {
    let unknown = || Failure::Failed(format!("there is no key `{id}`; `ringback keys list` shows all"));
    let key = KeyId::parse(id).ok_or_else(unknown)?;
    with_store(config, async |store, _| {
        let is_revoked = store.revoke_key(RevokeKey { app: None, key }).await?;
        if is_revoked { Ok(()) } else { Err(unknown().into()) }
    })
    .await
}

/// Creates an app. The answer contains its signing secret.
pub async fn create_app(config: &Config, name: &str) -> Result<Answer, Failure> {
    let name = check_name(name).map_err(|wrong| Failure::Usage(format!("NAME: {wrong}")))?;
    with_store(config, async |store, now| {
        let secret = Masked::new(Secret::generate().expose());
        Ok(answer(tenants::create_app(&store, name, secret, now, None).await?))
    })
    .await
}

/// Returns all apps, newest first.
pub async fn list_apps(config: &Config) -> Result<Value, Failure> {
    with_store(config, async |store, _| {
        let all: Vec<Value> = store.apps(None, u32::MAX).iter().map(|app| json!(AppView::of(app))).collect();
        Ok(json!({ "data": all, "nextCursor": null }))
    })
    .await
}

/// Opens the database, performs an operation at the current time, and closes the database, also after an error.
async fn with_store<T>(
    config: &Config,
    work: impl AsyncFnOnce(Store, Timestamp) -> anyhow::Result<T>,
) -> Result<T, Failure> {
    const HINT: &str = "to use a running server instead, set RINGBACK_URL and RINGBACK_API_KEY";
    let now = Clock::System.now();
    if let Database::Sqlite(path) = &config.database
        && !path.exists()
    {
        let path = path.display();
        let what = format!("there is no database {path}: `ringback serve` creates it; {HINT}");
        return Err(Failure::Failed(what));
    }
    let (store, writer) = open_store(config, now).map_err(|error| anyhow!("{error:#}; {HINT}"))?;
    let done = work(store, now).await;
    let closed = tokio::task::spawn_blocking(|| writer.join()).await;
    closed.map_err(|_| anyhow!("the database was not closed cleanly"))?;
    Ok(done?)
}

/// Returns the app with an id, or the first app.
fn find_app(store: &Store, id: Option<&str>) -> anyhow::Result<Arc<App>> {
    let Some(id) = id else {
        let first = store.apps(None, u32::MAX).into_iter().find(|app| app.name == DEFAULT_APP);
        return first.context("the database has no apps: `ringback serve` creates the first one");
    };
    let app = AppId::parse(id).and_then(|id| store.app_by_id(id));
    app.with_context(|| format!("--app: there is no app `{id}`; `ringback apps list` shows all"))
}
