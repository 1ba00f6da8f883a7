//! Apps: creating them, and replacing their signing secrets. All apps and keys are in the [`TenantCache`].

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::batch::Batch;
use super::db::{Result, Row, StoreError, Tx, params};
use super::idempotency::Outcome;
use super::keys::{CreateKey, KeyRow, insert_key};
use super::reads::ReadStore;
use super::sealing::{Column, Keyring};
use super::tenant_cache::{CachedKey, Key, TenantCache, TenantChange};
use crate::domain::{App, AppId, AppNo, KeyId, Masked, Scope, Timestamp};

/// Maximum number of apps: all of them are in memory, each with its destination queues.
const APPS_MAX: i64 = 10_000;

/// Creates the first app, and the first key if none is configured.
#[derive(Clone, Debug)]
pub struct BootstrapTenant {
    /// Name of the app.
    pub name: String,
    /// Signing secret of the app, if it does not exist yet.
    pub signing_secret: Masked,
    /// SHA-256 of an admin key. The key is created if the database has no key.
    pub key_hash: Option<[u8; 32]>,
    /// Time of the creation.
    pub now: Timestamp,
}

/// Result of [`BootstrapTenant`].
#[derive(Clone, Debug)]
pub struct BootstrapResult {
    /// The app.
    pub app: App,
    /// Whether the app was created.
    pub new_app: bool,
    /// Whether the key was created.
    pub new_key: bool,
}

/// Creates an app.
#[derive(Debug)]
pub struct CreateApp {
    /// Id from [`ReadStore::ids`](super::ReadStore::ids).
    pub id: AppId,
    /// Name, unique among the apps.
    pub name: String,
    /// Signing secret.
    pub signing_secret: Masked,
    /// Time of the creation.
    pub now: Timestamp,
}

/// Reason why an app was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateAppRefusal {
    /// Another app has the name.
    NameTaken,
    /// The maximum number of apps, which is the value, exists.
    TooMany(i64),
}

/// Replaces a signing secret. The previous secret also signs until the grace period ends; an older one is
/// deleted.
#[derive(Debug)]
pub struct RotateSecret {
    /// The app.
    pub app: AppNo,
    /// The new secret.
    pub signing_secret: Masked,
    /// Grace period of the previous secret.
    pub grace: Duration,
    /// Start of the grace period.
    pub now: Timestamp,
}

/// Reads all apps and keys.
pub(super) fn load_tenants(tx: &Tx<'_>, keyring: &Keyring) -> Result<TenantCache> {
    let mut cache = TenantCache::default();
    let app = |row: &Row<'_>| Ok(TenantChange::App(Arc::new(read_app(row, keyring)?)));
    cache.apply(tx.list(&format!("select {APP} from apps"), [], app)?);
    let sql = "select hash, app, scope, id, expires_at, coalesce(last_used_at, 0) from keys";
    cache.apply(tx.list(sql, [], |row| {
        let key = Key { app: AppNo(row.int(1)?), scope: row.word(2, Scope::parse)? };
        let broken = |_| StoreError::Inconsistent("the hash of a key is not 32 bytes".to_owned());
        let hash = row.bytes(0)?.try_into().map_err(broken)?;
        Ok(TenantChange::Key(hash, CachedKey::new(KeyId(row.id(3)?), key, row.opt_time(4)?, row.int(5)?)))
    })?);
    Ok(cache)
}

impl ReadStore {
    /// Returns an app by its row.
    pub fn app(&self, no: AppNo) -> Option<Arc<App>> {
        self.tenants(|tenants| tenants.apps.get(&no).cloned())
    }

    /// Returns an app by its public id.
    pub fn app_by_id(&self, id: AppId) -> Option<Arc<App>> {
        self.tenants(|tenants| tenants.apps.values().find(|app| app.id == id).cloned())
    }

    /// Returns up to `limit` apps that were created before `before`, newest first.
    pub fn apps(&self, before: Option<AppId>, limit: u32) -> Vec<Arc<App>> {
        let mut found: Vec<Arc<App>> = self.tenants(|tenants| {
            tenants.apps.values().filter(|app| before.is_none_or(|before| app.id < before)).cloned().collect()
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

    /// Whether there is a key, valid or not.
    pub fn has_keys(&self) -> bool {
        self.tenants(TenantCache::has_keys)
    }

    /// Replaces the signing secret of an app by a configured one, for the lifetime of the process.
    pub fn override_signing_secret(&self, no: AppNo, secret: Masked) {
        self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner).configure(no, secret);
    }

    /// Whether the signing secret of an app is configured.
    pub fn has_configured_secret(&self, no: AppNo) -> bool {
        self.tenants(|tenants| tenants.configured.as_ref().is_some_and(|(configured, _)| *configured == no))
    }

    /// Reads the cache.
    pub(super) fn tenants<T>(&self, read: impl FnOnce(&TenantCache) -> T) -> T {
        read(&self.shared.tenants.read().unwrap_or_else(PoisonError::into_inner))
    }
}

const APP: &str = "no, id, name, created_at, signing_secret, old_signing_secret, old_secret_expires_at";

fn read_app(row: &Row<'_>, keyring: &Keyring) -> Result<App> {
    let id = row.id(1)?;
    let old = match (row.opt_text(5)?, row.opt_time(6)?) {
        (Some(old), Some(until)) => {
            Some((Masked::new(keyring.open(Column::APP_OLD_SECRET, id, old)?), until))
        }
        (_, _) => None,
    };
    Ok(App {
        no: AppNo(row.int(0)?),
        id: AppId(id),
        name: row.text(2)?,
        created_at: row.time(3)?,
        signing_secret: Masked::new(keyring.open(Column::APP_SECRET, id, row.text(4)?)?),
        old_secret: old,
    })
}

pub(super) fn bootstrap(batch: &mut Batch<'_>, command: &BootstrapTenant) -> Result<BootstrapResult> {
    let BootstrapTenant { name, signing_secret, key_hash, now } = command.clone();
    let known = find_app(batch, &name)?;
    let new_app = known.is_none();
    let app = if let Some(app) = known {
        app
    } else {
        let id = AppId(batch.shared.ids.draw(now));
        let made = insert_app(batch, &CreateApp { id, name, signing_secret, now })?;
        made.ok_or_else(|| StoreError::Inconsistent("an app both exists and does not".to_owned()))?
    };
    let mut new_key = false;
    if let Some(hash) = key_hash
        && batch.tx.one("select count(*) from keys", [], |row| row.int(0))? == 0
    {
        let row = KeyRow {
            id: KeyId(batch.shared.ids.draw(now)),
            app_id: app.id,
            name: None,
            scope: Scope::Admin,
            created_at: now,
            expires_at: None,
            last_used_at: None,
        };
        insert_key(batch, &CreateKey { row, app: app.no, hash })?;
        new_key = true;
    }
    Ok(BootstrapResult { app, new_app, new_key })
}

fn find_app(batch: &Batch<'_>, name: &str) -> Result<Option<App>> {
    let sql = format!("select {APP} from apps where name = $1");
    batch.tx.find(&sql, params![name], |row| read_app(row, &batch.shared.keyring))
}

/// Inserts an app. Returns `None` if another app has the name.
fn insert_app(batch: &mut Batch<'_>, new: &CreateApp) -> Result<Option<App>> {
    let sealed = batch.shared.keyring.seal(Column::APP_SECRET, new.id.0, new.signing_secret.reveal())?;
    let made = batch.tx.run(
        "insert into apps (id, name, signing_secret, created_at) values ($1, $2, $3, $4)
         on conflict (name) do nothing",
        params![new.id, &new.name, &*sealed, new.now],
    )?;
    if made == 0 {
        return Ok(None);
    }
    let app = find_app(batch, &new.name)?;
    batch.effects.tenant_changes.extend(app.clone().map(|app| TenantChange::App(Arc::new(app))));
    Ok(app)
}

pub(super) fn create_app(batch: &mut Batch<'_>, command: &CreateApp) -> Outcome<App, CreateAppRefusal> {
    if batch.tx.one("select count(*) from apps", [], |row| row.int(0))? >= APPS_MAX {
        return Ok(Err(CreateAppRefusal::TooMany(APPS_MAX)));
    }
    Ok(insert_app(batch, command)?.ok_or(CreateAppRefusal::NameTaken))
}

pub(super) fn rotate_secret(batch: &mut Batch<'_>, command: &RotateSecret) -> Outcome<()> {
    let keyring = &batch.shared.keyring;
    let sql = format!("select {APP} from apps where no = $1");
    let mut app = batch.tx.one(&sql, params![command.app], |row| read_app(row, keyring))?;
    let until = command.now.plus(command.grace);
    let old = std::mem::replace(&mut app.signing_secret, command.signing_secret.clone());
    app.old_secret = (until > command.now).then_some((old, until));
    let sealed = keyring.seal(Column::APP_SECRET, app.id.0, app.signing_secret.reveal())?;
    let old_sealed = match &app.old_secret {
        Some((old, _)) => Some(keyring.seal(Column::APP_OLD_SECRET, app.id.0, old.reveal())?),
        None => None,
    };
    let old_until = app.old_secret.as_ref().map(|(_, until)| *until);
    batch.tx.run(
        "update apps set signing_secret = $1, old_signing_secret = $2, old_secret_expires_at = $3 where no = $4",
        params![&*sealed, old_sealed.as_deref(), old_until, app.no],
    )?;
    batch.effects.tenant_changes.push(TenantChange::App(Arc::new(app)));
    Ok(Ok(()))
}
