//! Apps and keys in memory.
//!
//! There are few of them, and every request and every attempt reads one. Only the writer changes the cache:
//! after each commit, in the order of the commits ([`TenantChange`]). A caller may be cancelled before its
//! key is created or revoked on disk; the cache follows the disk all the same.
//!
//! **Last use of a key.** Every request notes it here. Once a minute the notes of the keys that were used
//! since are written to the database, so a crash loses up to a minute of notes. Operators use the time to
//! find unused keys.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::domain::{App, AppNo, KeyId, Masked, Scope, Timestamp};

/// Resolution of the last use of a key, in milliseconds. One request in a thousand then writes to memory
/// that all cores share.
const USE_RESOLUTION_MS: i64 = 1_000;

/// Rights of a valid key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Id.
    pub id: KeyId,
    /// The app of the key.
    pub app: AppNo,
    /// The scope of the key.
    pub scope: Scope,
}

/// A key in memory.
#[derive(Debug)]
pub(super) struct CachedKey {
    key: Key,
    expires_at: Option<Timestamp>,
    /// Last use, in milliseconds since the epoch; 0 if the key was never used.
    used_ms: AtomicI64,
    /// The part of `used_ms` that is written.
    written_ms: AtomicI64,
}

impl CachedKey {
    /// Creates a key whose last use is written.
    pub(super) fn new(key: Key, expires_at: Option<Timestamp>, used_ms: i64) -> Self {
        Self { key, expires_at, used_ms: AtomicI64::new(used_ms), written_ms: AtomicI64::new(used_ms) }
    }
}

/// All apps and keys.
#[derive(Debug, Default)]
pub(super) struct TenantCache {
    pub(super) apps: HashMap<AppNo, Arc<App>>,
    /// Apps that a client has deleted, while they are erased. They sign what is sent until their watches are stopped.
    deleted: HashSet<AppNo>,
    keys: HashMap<[u8; 32], CachedKey>,
    hashes: HashMap<KeyId, [u8; 32]>,
    /// Signing secret of an app in the configuration. It replaces the secrets in the database.
    pub(super) configured: Option<(AppNo, Masked)>,
}

/// A committed change of an app or a key.
#[derive(Debug)]
pub(super) enum TenantChange {
    App(Arc<App>),
    /// A client has deleted the app.
    Deleted(AppNo),
    /// Nothing is left of the app.
    Erased(AppNo),
    Key([u8; 32], CachedKey),
    Revoked(KeyId),
}

impl TenantCache {
    /// Applies the changes of a commit, or the rows of a database that was just opened.
    pub(super) fn apply(&mut self, changes: Vec<TenantChange>) {
        for change in changes {
            match change {
                TenantChange::App(app) => {
                    self.apps.insert(app.no, app);
                }
                TenantChange::Deleted(app) => {
                    self.deleted.insert(app);
                }
                TenantChange::Erased(app) => {
                    self.apps.remove(&app);
                    self.deleted.remove(&app);
                }
                TenantChange::Key(hash, key) => {
                    self.hashes.insert(key.key.id, hash);
                    self.keys.insert(hash, key);
                }
                TenantChange::Revoked(id) => {
                    if let Some(hash) = self.hashes.remove(&id) {
                        self.keys.remove(&hash);
                    }
                }
            }
        }
        self.apply_configured();
    }

    /// Replaces the secret of an app by a configured one, for the lifetime of the process.
    pub(super) fn configure(&mut self, app: AppNo, secret: Masked) {
        self.configured = Some((app, secret));
        self.apply_configured();
    }

    fn apply_configured(&mut self) {
        if let Some((app, secret)) = &self.configured
            && let Some(app) = self.apps.get_mut(app).map(Arc::make_mut)
        {
            (app.signing_secret, app.old_secret) = (secret.clone(), None);
        }
    }

    /// Returns the apps that no client has deleted.
    pub(super) fn live(&self) -> impl Iterator<Item = &Arc<App>> {
        self.apps.values().filter(|app| !self.deleted.contains(&app.no))
    }

    /// Whether the app exists, and no client has deleted it.
    pub(super) fn is_live(&self, app: AppNo) -> bool {
        self.apps.contains_key(&app) && !self.deleted.contains(&app)
    }

    /// Returns the key with this SHA-256 if it is valid, and notes its use.
    pub(super) fn key(&self, hash: &[u8; 32], now: Timestamp) -> Option<Key> {
        let cached = self.keys.get(hash)?;
        if cached.expires_at.is_some_and(|at| at <= now) {
            return None;
        }
        if now.millis() - cached.used_ms.load(Ordering::Relaxed) >= USE_RESOLUTION_MS {
            cached.used_ms.store(now.millis(), Ordering::Relaxed);
        }
        Some(cached.key)
    }

    /// Whether there is a key, valid or not.
    pub(super) fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Returns the time of the last use of a key; `None` if it was never used.
    pub(super) fn last_used(&self, id: KeyId) -> Option<Timestamp> {
        let cached = self.keys.get(self.hashes.get(&id)?)?;
        Some(cached.used_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0).map(Timestamp::from_millis)
    }

    /// Returns the last uses, in milliseconds, that are not written yet, and marks them as written.
    pub(super) fn take_unwritten_uses(&self) -> Vec<(KeyId, i64)> {
        let uses = self.keys.values().map(|key| (key, key.used_ms.load(Ordering::Relaxed)));
        let unwritten = uses.filter(|(key, ms)| key.written_ms.swap(*ms, Ordering::Relaxed) != *ms);
        unwritten.map(|(key, ms)| (key.key.id, ms)).collect()
    }
}
