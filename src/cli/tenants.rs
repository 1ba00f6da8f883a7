//! Apps and keys in the database itself, without a server: to create the first key, and to restore access if all
//! admin keys are lost.
//!
//! Each function opens the configured database, performs one operation with the functions that the API's handlers use,
//! and closes the database. Results have the shapes of the API. A database that a server uses is locked.

use std::sync::Arc;

use serde_json::{Value, json};

use super::arguments::{duration, values_of};
use super::client::Answer;
use super::output::Failure;
use crate::app::open_store;
use crate::channels::webhook::Secret;
use crate::clock::Clock;
use crate::config::{Config, Database};
use crate::domain::{App, AppId, KeyId, Masked, Scope, Timestamp, parse_duration};
use crate::store::{RevokeKey, Store, StoredResponse, Writer};
use crate::tenants::{self, AppView, DEFAULT_APP, EXPIRES_IN, KeyView, NewKey, check_expiry, check_name};

/// Number of rows that are read at a time.
const PAGE: u32 = 200;

/// Properties of a key to create.
#[derive(Clone, Debug, clap::Args)]
pub struct KeyRequest {
    /// Name of the key
    #[arg(long)]
    pub name: Option<String>,
    /// What the key permits
    #[arg(long, default_value = "write", value_parser = values_of(Scope::ALL, Scope::as_str))]
    pub scope: String,
    /// How long the key is valid, such as 90d [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub expires_in: Option<String>,
    /// App of the key.
    #[arg(long, value_name = "APP_ID", help = "App of the key [default: the app of RINGBACK_API_KEY]")]
    pub app: Option<String>,
}

/// Creates a key. Only this answer contains it.
pub async fn create_key(config: &Config, request: &KeyRequest) -> Result<Answer, Failure> {
    let usage = |what: &str, wrong: String| Failure::Usage(format!("{what}: {wrong}"));
    let name = request.name.as_deref().map(check_name).transpose().map_err(|wrong| usage("--name", wrong))?;
    let scope = Scope::parse(&request.scope);
    let scope = scope.ok_or_else(|| usage("--scope", "must be read, write or admin".to_owned()))?;
    with_store(config, async |store, now| {
        let expires_at = request.expires_in.as_deref().map(|text| read_expiry(text, now)).transpose();
        let expires_at = expires_at.map_err(|wrong| usage("--expires-in", wrong))?;
        let app = find_app(&store, request.app.as_deref())?;
        let key = NewKey { name, scope, expires_at, app };
        tenants::create_key(&store, key, now, None).await.map(|response| answer(&response)).map_err(failed)
    })
    .await
}

fn answer(response: &StoredResponse) -> Answer {
    Answer { text: String::from_utf8_lossy(&response.body).into_owned() }
}

fn read_expiry(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let span = parse_duration(text)?;
    check_expiry(now.plus(span), now)
        .map_err(|_| format!("must be from {} to {}", EXPIRES_IN.0, EXPIRES_IN.1))
}

/// Returns all keys, or those of one app, newest first.
pub async fn list_keys(config: &Config, app: Option<&str>) -> Result<Value, Failure> {
    with_store(config, async |store, _| {
        let app = app.map(|id| find_app(&store, Some(id))).transpose()?.map(|app| app.no);
        let (mut all, mut before) = (Vec::new(), None);
        loop {
            let page = store.keys(app, before, PAGE).await.map_err(failed)?;
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
    let revoked = with_store(config, async |store, _| {
        store.revoke_key(RevokeKey { app: None, key }).await.map_err(failed)
    });
    if revoked.await? { Ok(()) } else { Err(unknown()) }
}

/// Creates an app. The answer contains its signing secret.
pub async fn create_app(config: &Config, name: &str) -> Result<Answer, Failure> {
    let name = check_name(name).map_err(|wrong| Failure::Usage(format!("the name: {wrong}")))?;
    with_store(config, async |store, now| {
        let secret = Masked::new(Secret::generate().expose());
        tenants::create_app(&store, name, secret, now, None)
            .await
            .map(|response| answer(&response))
            .map_err(failed)
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
    work: impl AsyncFnOnce(Store, Timestamp) -> Result<T, Failure>,
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
    let opened = open_store(config, now);
    let (store, writer): (Store, Writer) =
        opened.map_err(|error| Failure::Failed(format!("{error:#}; {HINT}")))?;
    let done = work(store, now).await;
    let closed = tokio::task::spawn_blocking(|| writer.join()).await;
    closed.map_err(|_| Failure::Failed("the database was not closed cleanly".to_owned()))?;
    done
}

/// Returns the app with an id, or the first app.
fn find_app(store: &Store, id: Option<&str>) -> Result<Arc<App>, Failure> {
    match id {
        Some(id) => AppId::parse(id).and_then(|id| store.app_by_id(id)).ok_or_else(|| {
            Failure::Failed(format!("there is no app `{id}`; `ringback apps list` shows all"))
        }),
        None => store.apps(None, u32::MAX).into_iter().find(|app| app.name == DEFAULT_APP).ok_or_else(|| {
            Failure::Failed("the database has no apps: `ringback serve` creates the first one".to_owned())
        }),
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}
