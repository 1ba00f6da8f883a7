//! Loading of the [`TenantCache`], and reads from it.

use std::sync::{Arc, PoisonError};

use super::apps::{APP, read_app};
use super::db::{Result, StoreError, Tx};
use super::reads::ReadStore;
use super::sealing::Keyring;
use super::tenant_cache::{CachedKey, Key, TenantCache};
use crate::domain::{App, AppId, AppNo, KeyId, Masked, Scope, Timestamp};

/// Reads all apps and keys.
pub(super) fn load(tx: &Tx<'_>, keyring: &Keyring) -> Result<TenantCache> {
    let apps = tx.list(&format!("select {APP} from apps"), [], |row| read_app(row, keyring))?;
    let sql = "select hash, app, scope, id, expires_at, coalesce(last_used_at, 0) from keys";
    let keys = tx.list(sql, [], |row| {
        let key = Key { app: AppNo(row.int(1)?), scope: row.word(2, Scope::parse)? };
        let broken = |_| StoreError::Inconsistent("the hash of a key is not 32 bytes".to_owned());
        let hash = row.bytes(0)?.try_into().map_err(broken)?;
        Ok((hash, CachedKey::new(KeyId(row.id(3)?), key, row.opt_time(4)?, row.int(5)?)))
    })?;
    Ok(TenantCache::new(apps, keys))
}

impl ReadStore {
    /// Returns an app by its row.
    pub fn app(&self, no: AppNo) -> Option<Arc<App>> {
        self.tenants(|tenants| tenants.app(no))
    }

    /// Returns an app by its public id.
    pub fn app_by_id(&self, id: AppId) -> Option<Arc<App>> {
        self.tenants(|tenants| tenants.app_by_id(id))
    }

    /// Returns up to `limit` apps that were created before `before`, newest first.
    pub fn apps(&self, before: Option<AppId>, limit: u32) -> Vec<Arc<App>> {
        let mut found: Vec<Arc<App>> = self.tenants(|tenants| {
            tenants.apps().filter(|app| before.is_none_or(|before| app.id < before)).cloned().collect()
        });
        found.sort_unstable_by_key(|app| std::cmp::Reverse(app.id));
        found.truncate(limit as usize);
        found
    }

    /// Returns the key with this SHA-256 if it is valid, and notes its use. The time of the comparison
    /// reveals nothing, because hashes are compared.
    pub fn key(&self, hash: &[u8; 32], now: Timestamp) -> Option<Key> {
        self.tenants(|tenants| tenants.key(hash, now))
    }

    /// Replaces the signing secret of an app by a configured one, for the lifetime of the process.
    pub fn override_signing_secret(&self, no: AppNo, secret: Masked) {
        self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner).configure(no, secret);
    }

    /// Whether the signing secret of an app is configured.
    pub fn has_configured_secret(&self, no: AppNo) -> bool {
        self.tenants(|tenants| tenants.is_configured(no))
    }

    /// Returns the last uses of keys that are not written yet, in milliseconds, and marks them as written.
    pub(super) fn take_unwritten_key_uses(&self) -> Vec<(KeyId, i64)> {
        self.tenants(TenantCache::take_unwritten_uses)
    }

    /// Reads the cache.
    pub(super) fn tenants<T>(&self, read: impl FnOnce(&TenantCache) -> T) -> T {
        read(&self.shared.tenants.read().unwrap_or_else(PoisonError::into_inner))
    }
}
