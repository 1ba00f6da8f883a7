//! Apps and their keys, as the API and the command line create and show them.
//!
//! An app is a tenant. This module holds the rules for names and expiry, draws keys, creates apps and keys
//! in the store, and defines their JSON. The rows belong to the store.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::domain::{App, AppId, KeyId, Masked, Scope, Timestamp, draw_private_key, hidden_in_name, random};
use crate::store::{
    CreateApp, CreateAppRefusal, CreateKey, IdempotencyKey, Idempotent, KeyRow, Replay, Store, StoreError,
    StoredResponse, TooManyKeys,
};

/// Name of the first app. Its admins manage all apps and keys.
pub const DEFAULT_APP: &str = "default";

/// Longest name, in characters: it fits into a column of a table.
const NAME_MAX: usize = 64;

/// Bounds of the time for which a key is valid. A key for a longer time is meant to have no end.
pub const EXPIRES_IN: (&str, &str) = ("1s", "3650d");

/// Draws a key of 256 random bits.
pub fn draw_key() -> Masked {
    let mut bytes = [0u8; 32];
    random(&mut bytes);
    Masked::new(format!("rb_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

/// Hashes a key, as it is stored. A key holds 256 random bits, so a fast hash without salt is enough: an
/// attacker cannot try all of them, and no two keys are equal.
pub fn hash_key(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Checks the name of an app or of a key. The error is a sentence without its subject.
pub fn check_name(name: &str) -> Result<String, String> {
    let length = name.chars().count();
    if !(1..=NAME_MAX).contains(&length) {
        return Err(format!("must have 1 to {NAME_MAX} characters, and this one has {length}"));
    }
    if let Some(c) = hidden_in_name(name) {
        return Err(format!("must not contain the invisible character U+{:04X}; remove it", u32::from(c)));
    }
    if name.trim() != name {
        return Err("must not begin or end with a space".to_owned());
    }
    Ok(name.to_owned())
}

/// Checks the expiry of a key. The error is a sentence without its subject.
pub fn check_expiry(at: Timestamp, now: Timestamp) -> Result<Timestamp, String> {
    let most = crate::domain::parse_duration(EXPIRES_IN.1).unwrap_or(Duration::ZERO);
    if at <= now {
        Err("must be in the future".to_owned())
    } else if at > now.plus(most) {
        Err(format!("must be within {}", EXPIRES_IN.1))
    } else {
        Ok(at)
    }
}

/// Why an app or a key was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another app has the name.
    #[error("another app has this name; choose another one")]
    NameTaken,
    /// The maximum number exists.
    #[error("there are {count} {kind}, which is the maximum; use an existing one")]
    TooMany {
        /// The maximum.
        count: i64,
        /// `apps`, or `keys of this app`.
        kind: &'static str,
    },
    /// An earlier request with the same `Idempotency-Key` was answered.
    #[error("an earlier request created it")]
    Replayed(Replay),
}

/// Creates a key, which is valid until `expires_at` or until it is revoked. The answer holds it; it is never shown
/// again. `idempotency_key`: of the request.
pub async fn create_key(
    store: &Store,
    name: Option<String>,
    scope: Scope,
    expires_at: Option<Timestamp>,
    app: Arc<App>,
    now: Timestamp,
    idempotency_key: Option<IdempotencyKey>,
) -> Result<StoredResponse, CreateError> {
    let (id, key) = (KeyId(store.ids().draw(now)), draw_key());
    let row = KeyRow { id, app_id: app.id, name, scope, created_at: now, expires_at, last_used_at: None };
    let answer = created(format!("/v1/keys/{id}"), &KeyView::of(&row, Some(&key)));
    let create = CreateKey { row, app: app.no, hash: hash_key(key.reveal()) };
    let create = Idempotent::with_response(create, idempotency_key, &answer);
    match store.create_key(create).await?.map_err(CreateError::Replayed)? {
        Ok(()) => Ok(answer),
        Err(TooManyKeys(count)) => Err(CreateError::TooMany { count, kind: "keys of this app" }),
    }
}

/// Creates an app. The answer holds its signing secret. `idempotency_key`: of the request.
pub async fn create_app(
    store: &Store,
    name: String,
    signing_secret: Masked,
    now: Timestamp,
    idempotency_key: Option<IdempotencyKey>,
) -> Result<StoredResponse, CreateError> {
    let id = AppId(store.ids().draw(now));
    let view = AppView { id, name: &name, created_at: now, signing_secret: Some(signing_secret.reveal()) };
    let answer = created(format!("/v1/apps/{id}"), &view);
    let create = CreateApp { id, name, signing_secret, private_key: draw_private_key(), now };
    let create = Idempotent::with_response(create, idempotency_key, &answer);
    match store.create_app(create).await?.map_err(CreateError::Replayed)? {
        Ok(_) => Ok(answer),
        Err(CreateAppRefusal::NameTaken) => Err(CreateError::NameTaken),
        Err(CreateAppRefusal::TooMany(count)) => Err(CreateError::TooMany { count, kind: "apps" }),
    }
}

fn created(location: String, view: &impl Serialize) -> StoredResponse {
    StoredResponse {
        status: 201,
        location: Some(location),
        body: serde_json::to_vec(view).unwrap_or_default(),
    }
}

/// An app: a tenant.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = App)]
pub struct AppView<'a> {
    id: AppId,
    name: &'a str,
    created_at: Timestamp,
    /// Only in the answer that creates the app. The app's admins can show it later.
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<&'a str>,
}

impl<'a> AppView<'a> {
    /// Shows an app, without its secret.
    pub fn of(app: &'a App) -> Self {
        Self { id: app.id, name: &app.name, created_at: app.created_at, signing_secret: None }
    }
}

/// An API key. The key itself is stored as a hash only.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Key)]
pub struct KeyView<'a> {
    id: KeyId,
    app_id: AppId,
    #[schema(required)]
    name: Option<&'a str>,
    scope: Scope,
    created_at: Timestamp,
    /// Null: valid until it is revoked.
    #[schema(required)]
    expires_at: Option<Timestamp>,
    /// To the minute, or so. Null: never used.
    #[schema(required)]
    last_used_at: Option<Timestamp>,
    /// Only in the answer that creates the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

impl<'a> KeyView<'a> {
    /// Shows a key; `key` is the key itself, where it is new.
    pub fn of(row: &'a KeyRow, key: Option<&'a Masked>) -> Self {
        Self {
            id: row.id,
            app_id: row.app_id,
            name: row.name.as_deref(),
            scope: row.scope,
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            key: key.map(Masked::reveal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printable_and_unambiguous() {
        for name in ["a", "Kunde 7", "größe", &"x".repeat(64)] {
            assert_eq!(check_name(name).as_deref(), Ok(name));
        }
        for name in ["", " a", "a ", "a\nb", "a\u{202e}b", "a\u{200b}", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn two_drawn_keys_differ() {
        let (one, other) = (draw_key(), draw_key());
        assert!(one.reveal().starts_with("rb_") && one.reveal().len() == 46, "{}", one.reveal().len());
        assert_ne!(hash_key(one.reveal()), hash_key(other.reveal()));
    }
}
