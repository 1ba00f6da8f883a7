//! Keys: making, listing and revoking them. What is kept of a key is its SHA-256.

use super::batch::Batch;
use super::db::{Result, Row, Where};
use super::idempotency::{self, Kept, Replay};
use super::reads::ReadStore;
use super::tenant_cache::{Key, TenantChange};
use crate::domain::{AppId, AppNo, Id, KeyId, Scope, Timestamp};

/// Keys of an app, those that have expired and were not revoked included: they are held in memory.
const KEYS_MAX: i64 = 1_000;

/// A key to be made.
#[derive(Debug)]
pub struct CreateKey {
    /// As it will be shown.
    pub row: KeyRow,
    /// Whose it is.
    pub app: AppNo,
    /// SHA-256 of the key.
    pub hash: [u8; 32],
    /// What is kept, if anything.
    pub remember: Option<Kept>,
}

/// What became of it.
#[derive(Debug)]
pub enum CreatedKey {
    /// It is on disk.
    New,
    /// The app has too many.
    TooMany(i64),
    /// The `Idempotency-Key` was used before.
    Replayed(Replay),
}

/// A key to be revoked; of this app, if any is named.
#[derive(Clone, Copy, Debug)]
pub struct RevokeKey {
    /// In whose name; `None`: of any app.
    pub app: Option<AppNo>,
    /// The key.
    pub key: KeyId,
}

/// A key, as it is shown.
#[derive(Clone, Debug)]
pub struct KeyRow {
    /// Its id.
    pub id: KeyId,
    /// Whose it is.
    pub app_id: AppId,
    /// What people call it.
    pub name: Option<String>,
    /// What it may do.
    pub scope: Scope,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it is valid, if not for ever.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, as far as is known.
    pub last_used_at: Option<Timestamp>,
}

/// Times of last use of keys, in milliseconds since the epoch.
#[derive(Debug)]
pub struct KeyUses(pub(super) Vec<(KeyId, i64)>);

impl ReadStore {
    /// Keys, newest first, made before `before`, of one app or of all.
    pub async fn keys(&self, app: Option<AppNo>, before: Option<KeyId>, limit: u32) -> Result<Vec<KeyRow>> {
        let found = self.read(move |tx| {
            let mut query = Where::new(&format!("{KEYS} where k.id <"), before.map_or(Id::MAX, |id| id.0));
            query.and("k.app =", app.map(|app| app.0));
            query.push(" order by k.id desc limit", limit);
            tx.list(&query.sql, query.values, read_key)
        });
        Ok(self.with_uses(found.await?))
    }

    /// One key, of one app or of any.
    pub async fn key_by_id(&self, app: Option<AppNo>, id: KeyId) -> Result<Option<KeyRow>> {
        let found = self.read(move |tx| {
            let mut query = Where::new(&format!("{KEYS} where k.id ="), id.0);
            query.and("k.app =", app.map(|app| app.0));
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

pub(super) fn create_key(batch: &mut Batch<'_>, asks: &[&CreateKey]) -> Result<Vec<CreatedKey>> {
    asks.iter().map(|ask| create_key_one(batch, ask)).collect()
}

fn create_key_one(batch: &mut Batch<'_>, ask: &CreateKey) -> Result<CreatedKey> {
    if let Some(replay) = idempotency::replay(&batch.tx, ask.remember.as_ref(), ask.row.created_at)? {
        return Ok(CreatedKey::Replayed(replay));
    }
    let sql = "select count(*) from keys where app = $1";
    if batch.tx.one(sql, [ask.app.0.into()], |row| row.int(0))? >= KEYS_MAX {
        return Ok(CreatedKey::TooMany(KEYS_MAX));
    }
    insert_key(batch, ask)?;
    if let Some((remember, answer)) = &ask.remember {
        idempotency::keep(&batch.tx, remember, answer, ask.row.created_at)?;
    }
    Ok(CreatedKey::New)
}

pub(super) fn insert_key(batch: &mut Batch<'_>, ask: &CreateKey) -> Result<()> {
    let CreateKey { row, app, hash, remember: _ } = ask;
    batch.tx.run(
        "insert into keys (id, app, hash, scope, created_at, name, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        [
            row.id.0.into(),
            app.0.into(),
            hash.as_slice().into(),
            row.scope.as_str().into(),
            row.created_at.into(),
            row.name.as_deref().into(),
            row.expires_at.into(),
        ],
    )?;
    let key = Key { app: *app, scope: row.scope };
    batch.effects.tenant_changes.push(TenantChange::Key {
        id: row.id,
        hash: *hash,
        key,
        expires_at: row.expires_at,
    });
    Ok(())
}

pub(super) fn revoke_key(batch: &mut Batch<'_>, asks: &[&RevokeKey]) -> Result<Vec<bool>> {
    let mut answers = Vec::with_capacity(asks.len());
    for RevokeKey { app, key } in asks {
        let id = key.0.into();
        let revoked = match app {
            Some(app) => batch.tx.run("delete from keys where id = $1 and app = $2", [id, app.0.into()])?,
            None => batch.tx.run("delete from keys where id = $1", [id])?,
        };
        let revoked = revoked > 0;
        if revoked {
            batch.effects.tenant_changes.push(TenantChange::Revoked(*key));
        }
        answers.push(revoked);
    }
    Ok(answers)
}

pub(super) fn uses(batch: &mut Batch<'_>, asks: &[&KeyUses]) -> Result<Vec<()>> {
    for ask in asks {
        let rows = ask.0.iter().map(|(id, at)| [(*at).into(), id.0.into()]);
        batch.tx.each("update keys set last_used_at = $1 where id = $2", rows)?;
    }
    Ok(vec![(); asks.len()])
}
