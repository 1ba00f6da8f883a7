//! `ringback apps` and `ringback keys`: tenants, and the keys with which they come in.

use serde_json::{Value, json};

use super::act::fields;
use super::client::{Server, segment};
use super::lists::Extent;
use super::screen::{Card, Screen, text, time};
use super::{Failure, note, say};

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
    server: Server,
}

/// List apps
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback apps list --json")]
pub struct ListApps {
    #[command(flatten)]
    extent: Extent,
    #[command(flatten)]
    server: Server,
}

impl Apps {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self.what {
            AppsWhat::Create(create) => create.run().await,
            AppsWhat::List(ListApps { extent, server }) => {
                let head = ["ID", "NAME", "CREATED (UTC)"];
                let row = |app: &Value| vec![text(app, "/id"), text(app, "/name"), time(app, "/createdAt")];
                extent.show(&server.client()?, "/v1/apps", Vec::new(), &head, row).await
            }
        }
    }
}

impl CreateApp {
    async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        let body = json!({ "name": self.name }).to_string();
        let answer = client.post("/v1/apps", Some(body), None).await?;
        let screen = Screen::of_stdout();
        if self.json {
            return Ok(screen.json(&answer.text)?);
        }
        let app = answer.value();
        let mut card = Card::default();
        card.line("app", text(&app, "/id"));
        card.line("name", text(&app, "/name"));
        card.line("signing secret", text(&app, "/signingSecret"));
        say(card.render(screen))?;
        note("Receivers verify by the signing secret; GET /v1/signing-secret gives it again.");
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
    /// What it may do: read, write or admin
    #[arg(long, default_value = "write")]
    scope: String,
    /// For how long it is valid, as 90d [default: until it is revoked]
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
    /// Whose it is.
    #[arg(long, value_name = "APP_ID", help = "Whose it is [default: the app of RINGBACK_API_KEY]")]
    app: Option<String>,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: Server,
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
    extent: Extent,
    #[command(flatten)]
    server: Server,
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
    server: Server,
}

impl Keys {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        match self.what {
            KeysWhat::Create(create) => create.run().await,
            KeysWhat::List(ListKeys { app, extent, server }) => {
                let head =
                    ["ID", "NAME", "SCOPE", "APP", "CREATED (UTC)", "EXPIRES (UTC)", "LAST USED (UTC)"];
                let row = |key: &Value| {
                    let words = ["/id", "/name", "/scope", "/appId"].map(|field| text(key, field));
                    let times = ["/createdAt", "/expiresAt", "/lastUsedAt"].map(|field| time(key, field));
                    words.into_iter().chain(times).collect()
                };
                extent.show(&server.client()?, "/v1/keys", vec![("appId", app)], &head, row).await
            }
            KeysWhat::Revoke(RevokeKey { id, server }) => {
                server.client()?.delete(&format!("/v1/keys/{}", segment(&id))).await?;
                Ok(say(format_args!("{} is revoked.", super::screen::clean(&id)))?)
            }
        }
    }
}

impl CreateKey {
    async fn run(self) -> Result<(), Failure> {
        let client = self.server.client()?;
        let mut body = fields([("name", self.name), ("expiresIn", self.expires_in), ("appId", self.app)]);
        body.insert("scope".to_owned(), json!(self.scope));
        let answer = client.post("/v1/keys", Some(Value::Object(body).to_string()), None).await?;
        let screen = Screen::of_stdout();
        if self.json {
            return Ok(screen.json(&answer.text)?);
        }
        let key = answer.value();
        let mut card = Card::default();
        card.line("key", text(&key, "/key"));
        card.line("id", text(&key, "/id"));
        card.line("app", text(&key, "/appId"));
        card.line("scope", text(&key, "/scope"));
        card.line("expires (UTC)", time(&key, "/expiresAt"));
        say(card.render(screen))?;
        note("The key is shown this once: keep it.");
        Ok(())
    }
}
