//! Apps, the tenants of the service; what their keys permit; secrets that are not printed.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{AppId, Timestamp, random};

/// Row number of an app in the database. It is never shown in public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppNo(pub i64);

/// A tenant with its signing secrets.
#[derive(Clone, Debug)]
pub struct App {
    /// Row number in the database.
    pub no: AppNo,
    /// Public id.
    pub id: AppId,
    /// Name for people, chosen by the operator.
    pub name: String,
    /// Time of creation.
    pub created_at: Timestamp,
    /// Current secret (`whsec_…`). It signs for destinations without a secret of their own.
    pub signing_secret: Masked,
    /// Previous secret, and the time until which it signs too.
    pub old_secret: Option<(Masked, Timestamp)>,
    /// Current private key (`whsk_…`) of ed25519. It is replaced together with the secret.
    pub private_key: Masked,
    /// Previous private key, and the time until which it signs too.
    pub old_private_key: Option<(Masked, Timestamp)>,
}

impl App {
    /// Returns the previous secret and the end of its grace period, while that lasts.
    pub fn old_secret(&self, now: Timestamp) -> Option<(&Masked, Timestamp)> {
        self.old_secret.as_ref().filter(|(_, until)| now < *until).map(|(secret, until)| (secret, *until))
    }

    /// Returns the previous private key and the end of its grace period, while that lasts.
    pub fn old_private_key(&self, now: Timestamp) -> Option<(&Masked, Timestamp)> {
        self.old_private_key.as_ref().filter(|(_, until)| now < *until).map(|(key, until)| (key, *until))
    }

    /// Returns all private keys that sign at `now`, the newest first.
    pub fn private_keys(&self, now: Timestamp) -> impl Iterator<Item = &Masked> {
        std::iter::once(&self.private_key).chain(self.old_private_key(now).map(|(key, _)| key))
    }

    /// Returns all secrets that sign at `now`, the newest first.
    pub fn secrets(&self, now: Timestamp) -> impl Iterator<Item = &Masked> {
        std::iter::once(&self.signing_secret).chain(self.old_secret(now).map(|(secret, _)| secret))
    }
}

word_enum! {
    /// What an API key permits. Each scope includes the ones before it.
    Scope {
        /// Read everything of the app.
        Read = "read",
        /// Register, change and stop watches; retry deliveries.
        Write = "write",
        /// Manage the app's keys and its signing secret.
        Admin = "admin",
    }
}

/// Draws a private key of ed25519, which is any 32 bytes: `whsk_` and their base64.
pub fn draw_private_key() -> Masked {
    let mut seed = [0; 32];
    random(&mut seed);
    Masked::new(format!("whsk_{}", BASE64_STANDARD.encode(seed)))
}

/// The largest part of a shared, bounded resource that one app may use: seven eighths, so that another app
/// always finds a place. Of fewer than eight, one app may use all.
pub const fn per_app_limit(total: usize) -> usize {
    total - total / 8
}

/// A secret that `{:?}` does not print. `{}` does not compile.
#[derive(Clone, PartialEq, Eq)]
pub struct Masked(String);

impl Masked {
    /// Wraps `secret`.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// Returns the secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
