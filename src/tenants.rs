//! Tenants, as people see them: apps and the keys with which they come in.
//!
//! What the API and the command line share: what a name may be, how a key is drawn, how long it may be
//! valid, and the shapes in which both show apps and keys. The rows are the store's.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::domain::{App, AppId, KeyId, Masked, Scope, Timestamp, random};
use crate::store::KeyRow;

/// The one app that there is until somebody makes another. Its admins manage the tenants.
pub const DEFAULT_APP: &str = "default";

/// What fits into a column of a table for people.
const NAME_MAX: usize = 64;

/// The least and the greatest time for which a key may be valid: what is shorter expires on its way to
/// whoever is to use it, and what is longer is meant to be for ever.
pub const EXPIRES_IN: (&str, &str) = ("1s", "3650d");

/// Draws a key.
pub fn make_key() -> Masked {
    let mut bytes = [0u8; 32];
    random(&mut bytes);
    Masked::new(format!("rb_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

/// What is kept of a key. It holds 256 random bits, so a fast hash without salt is enough: nobody can
/// try them all, and no two are alike.
pub fn hash_key(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Judges the name of an app or of a key. The error is a sentence.
pub fn check_name(name: &str) -> Result<String, String> {
    let length = name.chars().count();
    if !(1..=NAME_MAX).contains(&length) {
        return Err(format!("must have 1 to {NAME_MAX} characters, and this one has {length}"));
    }
    if name.chars().any(is_hidden) {
        return Err("must be printable".to_owned());
    }
    if name.trim() != name {
        return Err("must not begin or end with a space".to_owned());
    }
    Ok(name.to_owned())
}

/// What is not seen where a name is shown, or changes how its neighbours are: control characters, and
/// the marks that turn the direction of writing or take no room.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Judges when a key is to expire. The error is a sentence.
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

/// An app: a tenant.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = App)]
pub struct AppView<'a> {
    id: AppId,
    name: &'a str,
    created_at: Timestamp,
    /// In the answer that made it; later the app's own admins can ask for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    signing_secret: Option<&'a str>,
}

/// An app, with its secret where it is new.
pub fn app_view(app: &App, new: bool) -> AppView<'_> {
    AppView {
        id: app.id,
        name: &app.name,
        created_at: app.created_at,
        signing_secret: new.then(|| app.signing_secret.reveal()),
    }
}

/// An API key; the key itself is kept as a hash only.
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
    /// Null: until it is revoked.
    #[schema(required)]
    expires_at: Option<Timestamp>,
    /// To the minute, or so; null: never.
    #[schema(required)]
    last_used_at: Option<Timestamp>,
    /// In the answer that made it, and nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
}

/// A key, with the key itself where it is new.
pub fn key_view<'a>(row: &'a KeyRow, key: Option<&'a Masked>) -> KeyView<'a> {
    KeyView {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_people_can_read_and_tell_apart() {
        for name in ["a", "Kunde 7", "größe", &"x".repeat(64)] {
            assert_eq!(check_name(name).as_deref(), Ok(name));
        }
        for name in ["", " a", "a ", "a\nb", "a\u{202e}b", "a\u{200b}", &"x".repeat(65)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn two_keys_are_never_alike() {
        let (one, other) = (make_key(), make_key());
        assert!(one.reveal().starts_with("rb_") && one.reveal().len() == 46, "{}", one.reveal().len());
        assert_ne!(hash_key(one.reveal()), hash_key(other.reveal()));
    }
}
