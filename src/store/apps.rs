//! Apps: creating them, and replacing their signing secrets. All apps and keys are in the [`TenantCache`].

use std::borrow::Cow;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::batch::Batch;
use super::db::{Result, Row, StoreError, Tx, params};
use super::idempotency::Outcome;
use super::keys::{CreateKey, KeyRow, insert_key};
use super::reads::ReadStore;
use super::sealing::{Column, Keyring};
use super::tenant_cache::{CachedKey, Key, TenantCache, TenantChange};
use super::unreadable::UnreadableRows;
use crate::domain::{App, AppId, AppNo, KeyId, Masked, Scope, Timestamp, draw_private_key};

/// Maximum number of apps: all of them are in memory, each with its destination queues.
const APPS_MAX: i64 = 10_000;

/// Creates the first app, and the first key if none is configured.
#[derive(Clone, Debug)]
pub struct BootstrapTenant {
    /// Name of the app.
    pub name: String,
    /// Signing secret of the app, if it does not exist yet.
    pub signing_secret: Masked,
    /// Private key of the app, if it does not exist yet.
    pub private_key: Masked,
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
    /// Private key.
    pub private_key: Masked,
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

/// Replaces a signing secret and the key pair. The previous ones also sign until the grace period ends; older ones are
/// deleted.
#[derive(Debug)]
pub struct RotateSecret {
    /// The app.
    pub app: AppNo,
    /// The new secret.
    pub signing_secret: Masked,
    /// The new private key.
    pub private_key: Masked,
    /// Grace period of the previous secret and key.
    pub grace: Duration,
    /// Start of the grace period.
    pub now: Timestamp,
}

/// Gives an app another name.
#[derive(Clone, Debug)]
pub struct RenameApp {
    /// The app.
    pub app: AppNo,
    /// The new name, unique among the apps.
    pub name: String,
}

/// Reason why an app was not renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameAppRefusal {
    /// The app does not exist.
    NotFound,
    /// Another app has the name.
    NameTaken,
}

/// Reads all apps and keys.
pub(super) fn load_tenants(
    tx: &Tx<'_>,
    keyring: &Keyring,
    unreadable: &UnreadableRows,
) -> Result<TenantCache> {
    let mut cache = TenantCache::default();
    let app = |row: &Row<'_>| Ok(TenantChange::App(Arc::new(read_app(row, keyring)?)));
    let app = |row: &Row<'_>| unreadable.skip(("apps", 0), row, app(row));
    let apps = tx.list(&format!("select {APP} from apps"), [], app)?;
    cache.apply(apps.into_iter().flatten().collect());
    let sql = "select no from apps where deleted_at is not null";
    cache.apply(tx.list(sql, [], |row| Ok(TenantChange::Deleted(AppNo(row.int(0)?))))?);
    let sql = "select hash, app, scope, id, expires_at, coalesce(last_used_at, 0) from keys";
    let key = |row: &Row<'_>| {
        let key = Key { id: KeyId(row.id(3)?), app: AppNo(row.int(1)?), scope: row.word(2, Scope::parse)? };
        let broken = |_| StoreError::Inconsistent("the hash of a key is not 32 bytes".to_owned());
        let hash = row.bytes(0)?.try_into().map_err(broken)?;
        Ok(TenantChange::Key(hash, CachedKey::new(key, row.opt_time(4)?, row.int(5)?)))
    };
    let keys = tx.list(sql, [], |row| unreadable.skip(("keys", 3), row, key(row)))?;
    cache.apply(keys.into_iter().flatten().collect());
    Ok(cache)
}

impl ReadStore {
    /// Returns an app by its row, also one that is being erased.
    pub fn app(&self, no: AppNo) -> Option<Arc<App>> {
        self.tenants(|tenants| tenants.apps.get(&no).cloned())
    }

    /// Returns an app by its public id.
    pub fn app_by_id(&self, id: AppId) -> Option<Arc<App>> {
        self.tenants(|tenants| tenants.live().find(|app| app.id == id).cloned())
    }

    /// Returns an app by its name.
    pub fn app_by_name(&self, name: &str) -> Option<Arc<App>> {
        self.tenants(|tenants| tenants.live().find(|app| app.name == name).cloned())
    }

    /// Returns up to `limit` apps that were created before `before`, newest first.
    pub fn apps(&self, before: Option<AppId>, limit: u32) -> Vec<Arc<App>> {
        let mut found: Vec<Arc<App>> = self.tenants(|tenants| {
            tenants.live().filter(|app| before.is_none_or(|before| app.id < before)).cloned().collect()
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

/// Number of rows that one transaction fills.
const CHUNK: u32 = 500;

/// Draws the private keys of apps that an earlier version created. Returns whether more may remain.
pub(super) fn draw_missing_keys(tx: &Tx<'_>, keyring: &Keyring) -> Result<bool> {
    let sql = "select id from apps where signing_key is null limit $1";
    let ids = tx.list(sql, params![CHUNK], |row| row.id(0))?;
    for id in &ids {
        let key = draw_private_key();
        let sealed = keyring.seal(Column::APP_PRIVATE_KEY, *id, key.reveal())?;
        tx.run("update apps set signing_key = $1 where id = $2", params![&*sealed, *id])?;
    }
    Ok(ids.len() == CHUNK as usize)
}

const APP: &str =
    "no, id, name, created_at, signing_secret, old_signing_secret, old_secret_expires_at, signing_key,
  old_signing_key";

fn read_app(row: &Row<'_>, keyring: &Keyring) -> Result<App> {
    let id = row.id(1)?;
    let until = row.opt_time(6)?;
    let old = |column, text: Option<String>| match (text, until) {
        (Some(old), Some(until)) => keyring.open(column, id, old).map(|old| Some((Masked::new(old), until))),
        (_, _) => Ok(None),
    };
    let lacks_key = || StoreError::Inconsistent("an app has no private key".to_owned());
    let private_key = row.opt_text(7)?.ok_or_else(lacks_key)?;
    Ok(App {
        no: AppNo(row.int(0)?),
        id: AppId(id),
        name: row.text(2)?,
        created_at: row.time(3)?,
        signing_secret: Masked::new(keyring.open(Column::APP_SECRET, id, row.text(4)?)?),
        old_secret: old(Column::APP_OLD_SECRET, row.opt_text(5)?)?,
        private_key: Masked::new(keyring.open(Column::APP_PRIVATE_KEY, id, private_key)?),
        old_private_key: old(Column::APP_OLD_PRIVATE_KEY, row.opt_text(8)?)?,
    })
}

pub(super) fn bootstrap(batch: &mut Batch<'_>, command: &BootstrapTenant) -> Result<BootstrapResult> {
    let BootstrapTenant { name, signing_secret, private_key, key_hash, now } = command.clone();
    let known = find_app(batch, &name)?;
    let new_app = known.is_none();
    let app = if let Some(app) = known {
        app
    } else {
        let id = AppId(batch.shared.ids.draw(now));
        let made = insert_app(batch, &CreateApp { id, name, signing_secret, private_key, now })?;
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
    let keyring = &batch.shared.keyring;
    let sealed = keyring.seal(Column::APP_SECRET, new.id.0, new.signing_secret.reveal())?;
    let sealed_key = keyring.seal(Column::APP_PRIVATE_KEY, new.id.0, new.private_key.reveal())?;
    let made = batch.tx.run(
        // No number is used twice: a request of an erased app can still be in progress.
        "insert into apps (no, id, name, signing_secret, signing_key, created_at) values (
           (select coalesce(max(no), 0) + 1
            from (select no from apps union all select no from erased_apps) numbers), $1, $2, $3, $4, $5)
         on conflict (name) do nothing",
        params![new.id, &new.name, &*sealed, &*sealed_key, new.now],
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

pub(super) fn rename_app(
    batch: &mut Batch<'_>,
    RenameApp { app, name }: &RenameApp,
) -> Result<Result<App, RenameAppRefusal>> {
    let sql = "select no from apps where name = $1 and no <> $2";
    if batch.tx.find(sql, params![name, app], |row| row.int(0))?.is_some() {
        return Ok(Err(RenameAppRefusal::NameTaken));
    }
    batch.tx.run("update apps set name = $1 where no = $2 and deleted_at is null", params![name, app])?;
    let sql = format!("select {APP} from apps where no = $1 and deleted_at is null");
    let found = batch.tx.find(&sql, params![app], |row| read_app(row, &batch.shared.keyring))?;
    batch.effects.tenant_changes.extend(found.clone().map(|app| TenantChange::App(Arc::new(app))));
    Ok(found.ok_or(RenameAppRefusal::NotFound))
}

/// Marks an app as deleted, and revokes its keys. Its name is free from then on: a name never begins with a space.
/// Returns whether the app existed.
pub(super) fn mark_deleted(batch: &mut Batch<'_>, app: AppNo, now: Timestamp) -> Result<bool> {
    let sql = "select id from apps where no = $1 and deleted_at is null";
    let Some(id) = batch.tx.find(sql, params![app], |row| Ok(AppId(row.id(0)?)))? else { return Ok(false) };
    let name = format!(" {id}");
    batch.tx.run("update apps set deleted_at = $1, name = $2 where no = $3", params![now, &name, app])?;
    batch.effects.tenant_changes.push(TenantChange::Deleted(app));
    Ok(true)
}

pub(super) fn rotate_secret(batch: &mut Batch<'_>, command: &RotateSecret) -> Outcome<()> {
    let keyring = &batch.shared.keyring;
    let sql = format!("select {APP} from apps where no = $1");
    let mut app = batch.tx.one(&sql, params![command.app], |row| read_app(row, keyring))?;
    let until = command.now.plus(command.grace);
    let old = std::mem::replace(&mut app.signing_secret, command.signing_secret.clone());
    app.old_secret = (until > command.now).then_some((old, until));
    let old = std::mem::replace(&mut app.private_key, command.private_key.clone());
    app.old_private_key = (until > command.now).then_some((old, until));
    let seal = |column, text: &Masked| keyring.seal(column, app.id.0, text.reveal()).map(Cow::into_owned);
    let seal_old = |column, old: &Option<(Masked, Timestamp)>| {
        old.as_ref().map(|(old, _)| seal(column, old)).transpose()
    };
    batch.tx.run(
        "update apps set signing_secret = $1, old_signing_secret = $2, old_secret_expires_at = $3, signing_key = $4,
           old_signing_key = $5 where no = $6",
        params![
            &seal(Column::APP_SECRET, &app.signing_secret)?,
            &seal_old(Column::APP_OLD_SECRET, &app.old_secret)?,
            app.old_secret.as_ref().map(|(_, until)| *until),
            &seal(Column::APP_PRIVATE_KEY, &app.private_key)?,
            &seal_old(Column::APP_OLD_PRIVATE_KEY, &app.old_private_key)?,
            app.no,
        ],
    )?;
    batch.effects.tenant_changes.push(TenantChange::App(Arc::new(app)));
    Ok(Ok(()))
}
