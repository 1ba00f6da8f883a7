//! Apps, the tenants of the service; what their keys permit; secrets that are not printed.

use std::fmt;

use super::{AppId, Timestamp};

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
}

impl App {
    /// Returns the previous secret and the end of its grace period, while that lasts.
    pub fn old_secret(&self, now: Timestamp) -> Option<(&Masked, Timestamp)> {
        self.old_secret.as_ref().filter(|(_, until)| now < *until).map(|(secret, until)| (secret, *until))
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
