//! Keys: creating, listing and revoking them. Only the SHA-256 of a key is stored.

use super::batch::Batch;
use super::db::{Result, Row, Where, params, row_sql};
use super::idempotency::Outcome;
use super::reads::{INTERNAL, ReadStore};
use super::tenant_cache::{CachedKey, Key, TenantChange};
use crate::domain::{AppId, AppNo, Id, KeyId, Scope, Timestamp};

/// Maximum number of keys of an app, expired keys included: all of them are in memory.
const KEYS_MAX: i64 = 1_000;

/// Creates a key.
#[derive(Debug)]
pub struct CreateKey {
    /// The key's public attributes.
    pub row: KeyRow,
    /// The app.
    pub app: AppNo,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
}

/// Refusal of a key: the app has the maximum number of keys, which is the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyKeys(pub i64);

/// Revokes a key.
#[derive(Clone, Copy, Debug)]
pub struct RevokeKey {
    /// The app whose keys may be revoked. `None`: every app's.
    pub app: Option<AppNo>,
    /// The key.
    pub key: KeyId,
}

/// Public attributes of a key.
#[derive(Clone, Debug)]
pub struct KeyRow {
    /// Id.
    pub id: KeyId,
    /// Public id of the app.
    pub app_id: AppId,
    /// Display name.
    pub name: Option<String>,
    /// Scope.
    pub scope: Scope,
    /// Time of the creation.
    pub created_at: Timestamp,
    /// Time from which the key is invalid. `None`: it does not expire.
    pub expires_at: Option<Timestamp>,
    /// Time of the last known use, accurate to about a minute after a crash.
    pub last_used_at: Option<Timestamp>,
}

/// Times of last use of keys, in milliseconds since the epoch.
#[derive(Debug)]
pub struct KeyUses(pub(super) Vec<(KeyId, i64)>);

impl ReadStore {
    /// Returns up to `limit` keys that were created before `before`, newest first. `app`: `None` for the keys
    /// of every app.
    pub async fn keys(&self, app: Option<AppNo>, before: Option<KeyId>, limit: u32) -> Result<Vec<KeyRow>> {
        let unreadable = self.shared.unreadable.clone();
        let found = self.read(app.unwrap_or(INTERNAL), move |tx| {
            let mut query = Where::new(&format!("{KEYS} where k.id <"), before.map_or(Id::MAX, |id| id.0));
            query.and("k.app =", app);
            query.push(" order by k.id desc limit", limit);
            let read = |row: &Row<'_>| unreadable.skip(("keys", 0), row, read_key(row));
            Ok(tx.list(&query.sql, query.values, read)?.into_iter().flatten().collect())
        });
        Ok(self.with_uses(found.await?))
    }

    /// Returns a key. `app`: `None` for a key of any app.
    pub async fn key_by_id(&self, app: Option<AppNo>, id: KeyId) -> Result<Option<KeyRow>> {
        let found = self.read(app.unwrap_or(INTERNAL), move |tx| {
            let mut query = Where::new(&format!("{KEYS} where k.id ="), id);
            query.and("k.app =", app);
            tx.list(&query.sql, query.values, read_key)
        });
        Ok(self.with_uses(found.await?).pop())
    }

    fn with_uses(&self, mut keys: Vec<KeyRow>) -> Vec<KeyRow> {
        self.tenants(|tenants| {
            for key in &mut keys {
                key.last_used_at = tenants.last_used(key.id).or(key.last_used_at);
            }
        });
        keys
    }
}

const KEYS: &str = "select k.id, a.id, k.name, k.scope, k.created_at, k.expires_at, k.last_used_at
  from keys k join apps a on a.no = k.app";

fn read_key(row: &Row<'_>) -> Result<KeyRow> {
    Ok(KeyRow {
        id: KeyId(row.id(0)?),
        app_id: AppId(row.id(1)?),
        name: row.opt_text(2)?,
        scope: row.word(3, Scope::parse)?,
        created_at: row.time(4)?,
        expires_at: row.opt_time(5)?,
        last_used_at: row.opt_time(6)?,
    })
}

pub(super) fn create_key(batch: &mut Batch<'_>, command: &CreateKey) -> Outcome<(), TooManyKeys> {
    let sql = "select count(*) from keys where app = $1";
    if batch.tx.one(sql, params![command.app], |row| row.int(0))? >= KEYS_MAX {
        return Ok(Err(TooManyKeys(KEYS_MAX)));
    }
    insert_key(batch, command).map(Ok)
}

/// Inserts a key.
pub(super) fn insert_key(batch: &mut Batch<'_>, command: &CreateKey) -> Result<()> {
    let CreateKey { row: KeyRow { id, name, scope, created_at, expires_at, .. }, app, hash } = command;
    batch.tx.run(
        "insert into keys (id, app, hash, scope, created_at, name, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        params![*id, *app, hash.as_slice(), *scope, *created_at, name.as_deref(), *expires_at],
    )?;
    let key = CachedKey::new(Key { id: *id, app: *app, scope: *scope }, *expires_at, 0);
    batch.effects.tenant_changes.push(TenantChange::Key(*hash, key));
    Ok(())
}

pub(super) fn revoke_key(batch: &mut Batch<'_>, &RevokeKey { app, key }: &RevokeKey) -> Result<bool> {
    let revoked = match app {
        Some(app) => batch.tx.run("delete from keys where id = $1 and app = $2", params![key, app])?,
        None => batch.tx.run("delete from keys where id = $1", params![key])?,
    };
    if revoked > 0 {
        batch.effects.tenant_changes.push(TenantChange::Revoked(key));
    }
    Ok(revoked > 0)
}

pub(super) fn set_key_uses(batch: &mut Batch<'_>, KeyUses(uses): &KeyUses) -> Result<()> {
    let rows = uses.iter().map(|(id, used_ms)| params![*used_ms, *id]);
    batch.tx.update_each(row_sql!("update keys set last_used_at = $1" where "id = $2"), rows)?;
    Ok(())
}
