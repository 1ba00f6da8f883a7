//! Apps and their keys. There are few, and every request and every send asks for one, so they are
//! kept in memory too.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use super::Store;
use super::db::{Result, Tx};
use super::writer::{Batch, Command};
use crate::domain::{App, AppId, AppNo, Id, KeyId, Timestamp};

/// What a key may do: each scope includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// See.
    Read,
    /// See and register.
    Write,
    /// Everything.
    Admin,
}

impl Scope {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Read, Self::Write, Self::Admin].into_iter().find(|scope| scope.as_str() == word)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The app in whose name.
    pub app: AppNo,
    /// What for.
    pub scope: Scope,
}

/// The first app, and the first key where none is configured.
#[derive(Clone, Debug)]
pub struct Found {
    /// The app's name.
    pub name: String,
    /// The secret of the app, if it is new.
    pub signing_secret: String,
    /// SHA-256 of an admin key, if one is wanted and there is no key yet.
    pub key_hash: Option<[u8; 32]>,
    /// When.
    pub now: Timestamp,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Founded {
    /// The app, old or new.
    pub app: App,
    /// Whether the app is new.
    pub new_app: bool,
    /// Whether the key was taken.
    pub new_key: bool,
}

/// All apps and keys.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    apps: HashMap<AppNo, Arc<App>>,
    keys: HashMap<[u8; 32], Key>,
}

impl Tenants {
    pub(super) fn load(tx: &Tx<'_>) -> Result<Self> {
        let apps = tx.list("select no, id, name, signing_secret from apps", [], |row| {
            Ok(App {
                no: AppNo(row.int(0)?),
                id: AppId(row.id(1)?),
                name: row.text(2)?,
                signing_secret: row.text(3)?,
            })
        })?;
        let keys = tx.list("select hash, app, scope from keys", [], |row| {
            let key = Key { app: AppNo(row.int(1)?), scope: row.word(2, Scope::parse)? };
            Ok((row.bytes(0)?.try_into().unwrap_or_default(), key))
        })?;
        Ok(Self {
            apps: apps.into_iter().map(|app| (app.no, Arc::new(app))).collect(),
            keys: keys.into_iter().collect(),
        })
    }
}

impl Store {
    /// Makes the first app and its key, where they are missing.
    pub async fn found(&self, found: Found) -> Result<Founded> {
        let hash = found.key_hash;
        let founded = self.ask(Command::Found, found).await?;
        let mut tenants = self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.apps.insert(founded.app.no, Arc::new(founded.app.clone()));
        if let Some(hash) = hash.filter(|_| founded.new_key) {
            tenants.keys.insert(hash, Key { app: founded.app.no, scope: Scope::Admin });
        }
        Ok(founded)
    }

    /// An app by its row.
    pub fn app(&self, no: AppNo) -> Option<Arc<App>> {
        self.shared.tenants.read().unwrap_or_else(PoisonError::into_inner).apps.get(&no).cloned()
    }

    /// The key with this SHA-256. A hash tells nothing by the time that its comparison takes.
    pub fn key(&self, hash: &[u8; 32]) -> Option<Key> {
        self.shared.tenants.read().unwrap_or_else(PoisonError::into_inner).keys.get(hash).copied()
    }

    /// Puts a configured secret in the place of the app's own, for as long as this process runs.
    pub fn override_signing_secret(&self, no: AppNo, secret: String) {
        let mut tenants = self.shared.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(app) = tenants.apps.get_mut(&no) {
            Arc::make_mut(app).signing_secret = secret;
        }
    }
}

pub(super) fn found(batch: &mut Batch<'_>, asks: &[&Found]) -> Result<Vec<Founded>> {
    asks.iter().map(|ask| found_one(batch, ask)).collect()
}

fn found_one(batch: &Batch<'_>, ask: &Found) -> Result<Founded> {
    let id: Id = batch.shared.ids.draw(ask.now);
    let made = batch.tx.run(
        "insert into apps (id, name, signing_secret, created_at) values ($1, $2, $3, $4)
         on conflict (name) do nothing",
        [id.into(), (&ask.name).into(), (&ask.signing_secret).into(), ask.now.into()],
    )?;
    let app = batch.tx.one(
        "select no, id, name, signing_secret from apps where name = $1",
        [(&ask.name).into()],
        |row| {
            let (no, id) = (AppNo(row.int(0)?), AppId(row.id(1)?));
            Ok(App { no, id, name: row.text(2)?, signing_secret: row.text(3)? })
        },
    )?;
    let mut new_key = false;
    if let Some(hash) = &ask.key_hash {
        let id = KeyId(batch.shared.ids.draw(ask.now));
        new_key = batch.tx.run(
            "insert into keys (id, app, hash, scope, created_at)
             select $1, $2, $3, $4, $5 where not exists (select 1 from keys)",
            [
                id.0.into(),
                app.no.0.into(),
                hash.as_slice().into(),
                Scope::Admin.as_str().into(),
                ask.now.into(),
            ],
        )? > 0;
    }
    Ok(Founded { app, new_app: made > 0, new_key })
}
