//! Apps and keys, made and shown in the database itself, where no server runs on it: the first way in,
//! and the way back in for whoever has lost every admin key.
//!
//! Each function opens the database that is configured, does one thing with the functions that the
//! API's handlers use, and closes it again. What is returned has the API's shapes. A database that a
//! server has in use is refused by its lock.

use std::sync::Arc;

use serde_json::{Value, json};

use super::output::Failure;
use crate::app::open_store;
use crate::channels::webhook::Secret;
use crate::clock::Clock;
use crate::config::{Config, Database};
use crate::domain::{App, AppId, KeyId, Masked, Scope, Timestamp, parse_duration};
use crate::store::{RevokeKey, Store, StoredResponse, Writer};
use crate::tenants::{self, AppView, DEFAULT_APP, EXPIRES_IN, KeyView, NewKey, check_expiry, check_name};

/// How many rows are read at a time.
const PAGE: u32 = 200;

/// A key as somebody wants it, in words.
#[derive(Clone, Copy, Debug)]
pub struct WantedKey<'a> {
    /// What people call it.
    pub name: Option<&'a str>,
    /// read, write or admin.
    pub scope: &'a str,
    /// For how long it is valid, as 90d.
    pub expires_in: Option<&'a str>,
    /// Whose it is, by id; nobody's: the first app's.
    pub app: Option<&'a str>,
}

/// Makes a key. The answer holds it, and nothing ever will again.
pub async fn create_key(config: &Config, wanted: WantedKey<'_>) -> Result<Value, Failure> {
    let usage = |what: &str, wrong: String| Failure::Usage(format!("{what}: {wrong}"));
    let name = wanted.name.map(check_name).transpose().map_err(|wrong| usage("the name", wrong))?;
    let scope = Scope::parse(wanted.scope);
    let scope = scope.ok_or_else(|| usage("the scope", "must be read, write or admin".to_owned()))?;
    let now = Clock::System.now();
    let expires_at = wanted.expires_in.map(|text| read_expiry(text, now)).transpose();
    let expires_at = expires_at.map_err(|wrong| usage("the time for which it is valid", wrong))?;
    let created = with_store(config, now, async |store| {
        let app = find_app(&store, wanted.app)?;
        let key = NewKey { name, scope, expires_at, app };
        tenants::create_key(&store, key, now, None).await.map_err(failed)
    });
    Ok(value_of(&created.await?))
}

/// Returns the JSON of an answer.
fn value_of(answer: &StoredResponse) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

fn read_expiry(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let span = parse_duration(text)?;
    check_expiry(now.plus(span), now)
        .map_err(|_| format!("must be from {} to {}", EXPIRES_IN.0, EXPIRES_IN.1))
}

/// All keys, or those of one app, newest first.
pub async fn list_keys(config: &Config, app: Option<&str>) -> Result<Value, Failure> {
    let listed = with_store(config, Clock::System.now(), async |store| {
        let app = app.map(|id| find_app(&store, Some(id))).transpose()?.map(|app| app.no);
        let (mut all, mut before) = (Vec::new(), None);
        loop {
            let page = store.keys(app, before, PAGE).await.map_err(failed)?;
            let Some(last) = page.last() else { break };
            before = Some(last.id);
            all.extend(page.iter().map(|key| json!(KeyView::of(key, None))));
        }
        Ok(json!({ "data": all, "nextCursor": null }))
    });
    listed.await
}

/// Revokes a key.
pub async fn revoke_key(config: &Config, id: &str) -> Result<(), Failure> {
    let unknown = || Failure::Failed(format!("there is no key `{id}`; `ringback keys list` shows all"));
    let key = KeyId::parse(id).ok_or_else(unknown)?;
    let revoked = with_store(config, Clock::System.now(), async |store| {
        store.revoke_key(RevokeKey { app: None, key }).await.map_err(failed)
    });
    if revoked.await? { Ok(()) } else { Err(unknown()) }
}

/// Makes an app. The answer holds its signing secret.
pub async fn create_app(config: &Config, name: &str) -> Result<Value, Failure> {
    let name = check_name(name).map_err(|wrong| Failure::Usage(format!("the name: {wrong}")))?;
    let now = Clock::System.now();
    let created = with_store(config, now, async |store| {
        let secret = Masked::new(Secret::generate().expose());
        tenants::create_app(&store, name, secret, now, None).await.map_err(failed)
    });
    Ok(value_of(&created.await?))
}

/// All apps, newest first.
pub async fn list_apps(config: &Config) -> Result<Value, Failure> {
    let listed = with_store(config, Clock::System.now(), async |store| {
        let all: Vec<Value> = store.apps(None, u32::MAX).iter().map(|app| json!(AppView::of(app))).collect();
        Ok(json!({ "data": all, "nextCursor": null }))
    });
    listed.await
}

/// Opens the database, works on it, and closes it, whatever became of the work.
async fn with_store<T>(
    config: &Config,
    now: Timestamp,
    work: impl AsyncFnOnce(Store) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if let Database::Sqlite(path) = &config.database
        && !path.exists()
    {
        let what = format!(
            "there is no database {}: `ringback serve` makes it; to ask a running server instead, set \
             RINGBACK_URL and RINGBACK_API_KEY",
            path.display()
        );
        return Err(Failure::Failed(what));
    }
    let (store, writer): (Store, Writer) = open_store(config, now).map_err(|error| {
        Failure::Failed(format!(
            "{error:#}; to ask a running server instead, set RINGBACK_URL and RINGBACK_API_KEY"
        ))
    })?;
    let done = work(store).await;
    let closed = tokio::task::spawn_blocking(|| writer.join()).await;
    closed.map_err(|_| Failure::Failed("the database was not closed in order".to_owned()))?;
    done
}

/// An app by its id, or the first one.
fn find_app(store: &Store, id: Option<&str>) -> Result<Arc<App>, Failure> {
    match id {
        Some(id) => AppId::parse(id).and_then(|id| store.app_by_id(id)).ok_or_else(|| {
            Failure::Failed(format!("there is no app `{id}`; `ringback apps list` shows all"))
        }),
        None => store.apps(None, u32::MAX).into_iter().find(|app| app.name == DEFAULT_APP).ok_or_else(|| {
            Failure::Failed("nobody has started a server on this database: `ringback serve` does".to_owned())
        }),
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(error.to_string())
}
