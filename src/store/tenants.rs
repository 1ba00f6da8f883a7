//! Apps and keys in memory.
//!
//! There are few, and every request and every send asks for one. What is in memory is changed by the
//! writer, after the commit and in the order of the commits ([`Change`]), not by whoever asked: who
//! asks may go away in between, and a key that was revoked on disk must not live on because its revoker
//! hung up.
//!
//! **When a key was last used** is for people, to find the keys that nobody needs. It is noted here
//! with each request, and written once a minute for the keys that were used since
//! ([`Store::write_uses`]). A crash loses a minute of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};

use super::apps::{APP, read_app};
use super::db::{Result, StoreError, Tx};
use super::sealing::Keyring;
use super::writer::Command;
use super::{Shared, Store};
use crate::domain::{App, AppId, AppNo, KeyId, Masked, Scope, Timestamp};

/// A key's last use is noted when it is so much later than what is noted: one request in a thousand
/// then writes to memory that all cores share.
const NOTED_AFTER: i64 = 1_000;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The app in whose name.
    pub app: AppNo,
    /// What for.
    pub scope: Scope,
}

/// A key in memory.
#[derive(Debug)]
struct Held {
    id: KeyId,
    key: Key,
    expires_at: Option<Timestamp>,
    /// When it was last used, in milliseconds; 0: never.
    used: AtomicI64,
    /// How much of that is written.
    written: AtomicI64,
}

/// All apps and keys.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    apps: HashMap<AppNo, Arc<App>>,
    keys: HashMap<[u8; 32], Held>,
    hashes: HashMap<KeyId, [u8; 32]>,
    /// Whose secret stands in the configuration, which is then the only one that signs.
    configured: Option<(AppNo, Masked)>,
}

/// What a commit changed.
#[derive(Debug)]
pub(super) enum Change {
    App(Box<App>),
    Key { id: KeyId, hash: [u8; 32], key: Key, expires_at: Option<Timestamp> },
    Revoked(KeyId),
    Rotated { app: AppNo, secret: Masked, old: Option<(Masked, Timestamp)> },
}

impl Tenants {
    pub(super) fn load(tx: &Tx<'_>, keyring: &Keyring) -> Result<Self> {
        let mut all = Self::default();
        for app in tx.list(&format!("select {APP} from apps"), [], |row| read_app(row, keyring))? {
            all.apps.insert(app.no, Arc::new(app));
        }
        let sql = "select hash, app, scope, id, expires_at, coalesce(last_used_at, 0) from keys";
        let keys = tx.list(sql, [], |row| {
            let key = Key { app: AppNo(row.int(1)?), scope: row.word(2, Scope::parse)? };
            let (used, written) = (AtomicI64::new(row.int(5)?), AtomicI64::new(row.int(5)?));
            let held = Held { id: KeyId(row.id(3)?), key, expires_at: row.opt_time(4)?, used, written };
            let broken = |_| StoreError::Inconsistent("the hash of a key is not 32 bytes".to_owned());
            Ok((row.bytes(0)?.try_into().map_err(broken)?, held))
        })?;
        all.hashes = keys.iter().map(|(hash, held)| (held.id, *hash)).collect();
        all.keys = keys.into_iter().collect();
        Ok(all)
    }

    /// Follows a commit.
    fn apply(&mut self, change: Change) {
        match change {
            Change::App(app) => {
                self.apps.insert(app.no, Arc::new(*app));
            }
            Change::Key { id, hash, key, expires_at } => {
                let (used, written) = (AtomicI64::new(0), AtomicI64::new(0));
                self.keys.insert(hash, Held { id, key, expires_at, used, written });
                self.hashes.insert(id, hash);
            }
            Change::Revoked(id) => {
                if let Some(hash) = self.hashes.remove(&id) {
                    self.keys.remove(&hash);
                }
            }
            Change::Rotated { app, secret, old } => {
                if let Some(app) = self.apps.get_mut(&app) {
                    let app = Arc::make_mut(app);
                    (app.signing_secret, app.old_secret) = (secret, old);
                }
            }
        }
    }

    /// The configured secret goes before whatever was written.
    fn put_configured(&mut self) {
        if let Some((no, secret)) = &self.configured
            && let Some(app) = self.apps.get_mut(no)
        {
            let app = Arc::make_mut(app);
            (app.signing_secret, app.old_secret) = (secret.clone(), None);
        }
    }

    /// When a key was last used, where that is later than what is written.
    pub(super) fn last_used(&self, id: KeyId) -> Option<Timestamp> {
        let held = self.keys.get(self.hashes.get(&id)?)?;
        Some(held.used.load(Ordering::Relaxed)).filter(|used| *used > 0).map(Timestamp::from_millis)
    }
}

impl Shared {
    /// Brings what is in memory up to a commit.
    pub(super) fn follow(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            tenants.apply(change);
        }
        tenants.put_configured();
    }
}

impl Store {
    /// An app by its row.
    pub fn app(&self, no: AppNo) -> Option<Arc<App>> {
        self.tenants(|tenants| tenants.apps.get(&no).cloned())
    }

    /// An app by its public id.
    pub fn app_by_id(&self, id: AppId) -> Option<Arc<App>> {
        self.tenants(|tenants| tenants.apps.values().find(|app| app.id == id).cloned())
    }

    /// Apps, newest first, made before `before`.
    pub fn apps(&self, before: Option<AppId>, limit: u32) -> Vec<Arc<App>> {
        let mut found: Vec<Arc<App>> = self.tenants(|tenants| {
            let wanted = |app: &&Arc<App>| before.is_none_or(|before| app.id < before);
            tenants.apps.values().filter(wanted).cloned().collect()
        });
        found.sort_unstable_by_key(|app| std::cmp::Reverse(app.id));
        found.truncate(limit as usize);
        found
    }

    /// The key with this SHA-256, if it is valid. A hash tells nothing by the time that its comparison
    /// takes.
    pub fn key(&self, hash: &[u8; 32], now: Timestamp) -> Option<Key> {
        self.tenants(|tenants| {
            let held = tenants.keys.get(hash)?;
            if held.expires_at.is_some_and(|at| at <= now) {
                return None;
            }
            if now.millis() - held.used.load(Ordering::Relaxed) >= NOTED_AFTER {
                held.used.store(now.millis(), Ordering::Relaxed);
            }
            Some(held.key)
        })
    }

    /// Writes when keys were last used, for those that were used since it was last written.
    pub async fn write_uses(&self) -> Result<()> {
        let used: Vec<(KeyId, i64)> = self.tenants(|tenants| {
            let now = tenants.keys.values().map(|held| (held, held.used.load(Ordering::Relaxed)));
            let new = now.filter(|(held, used)| held.written.swap(*used, Ordering::Relaxed) != *used);
            new.map(|(held, used)| (held.id, used)).collect()
        });
        // What is not taken now is lost, and the next use is noted again: nothing hangs on it.
        if used.is_empty() { Ok(()) } else { self.ask(Command::Uses, used).await }
    }

    /// Puts a configured secret in the place of the app's own, for as long as this process runs.
    pub fn override_signing_secret(&self, no: AppNo, secret: Masked) {
        let mut tenants = self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.configured = Some((no, secret));
        tenants.put_configured();
    }

    /// Whether the app's secret stands in the configuration.
    pub fn has_configured_secret(&self, no: AppNo) -> bool {
        self.tenants(|tenants| tenants.configured.as_ref().is_some_and(|(known, _)| *known == no))
    }

    pub(super) fn tenants<T>(&self, look: impl FnOnce(&Tenants) -> T) -> T {
        look(&self.shared.tenants.read().unwrap_or_else(PoisonError::into_inner))
    }
}
