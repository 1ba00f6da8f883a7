//! Apps: making them, and replacing their signing secrets.

use std::time::Duration;

use super::batch::Batch;
use super::db::{Result, Row, StoreError};
use super::idempotency::{self, Kept, Replay};
use super::keys::{CreateKey, KeyRow, insert_key};
use super::sealing::{Column, Keyring};
use super::tenant_cache::TenantChange;
use crate::domain::{App, AppId, AppNo, Id, KeyId, Masked, Scope, Timestamp};

/// Apps are held in memory, each with its lanes.
const APPS_MAX: i64 = 10_000;

/// The first app, and the first key where none is configured.
#[derive(Clone, Debug)]
pub struct BootstrapTenant {
    /// The app's name.
    pub name: String,
    /// The secret of the app, if it is new.
    pub signing_secret: Masked,
    /// SHA-256 of an admin key, if one is wanted and there is no key yet.
    pub key_hash: Option<[u8; 32]>,
    /// When.
    pub now: Timestamp,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct BootstrapResult {
    /// The app, old or new.
    pub app: App,
    /// Whether the app is new.
    pub new_app: bool,
    /// Whether the key was taken.
    pub new_key: bool,
}

/// An app to be made.
#[derive(Debug)]
pub struct CreateApp {
    /// Its id, already drawn.
    pub id: AppId,
    /// Its name.
    pub name: String,
    /// Its secret.
    pub signing_secret: Masked,
    /// What is kept, if anything.
    pub remember: Option<Kept>,
    /// When.
    pub now: Timestamp,
}

/// What became of it.
#[derive(Debug)]
pub enum CreatedApp {
    /// It is on disk.
    New(Box<App>),
    /// Another app has this name.
    Taken,
    /// There are too many.
    TooMany(i64),
    /// The key was used before.
    Replayed(Replay),
}

/// A signing secret to be replaced.
#[derive(Debug)]
pub struct Rotate {
    /// Whose.
    pub app: AppNo,
    /// The new one.
    pub signing_secret: Masked,
    /// How long the one before signs, too.
    pub grace: Duration,
    /// What is kept, if anything.
    pub remember: Option<Kept>,
    /// When.
    pub now: Timestamp,
}

/// What became of it.
#[derive(Debug)]
pub enum Rotated {
    /// It is on disk.
    Done,
    /// The key was used before.
    Replayed(Replay),
}

pub(super) const APP: &str =
    "no, id, name, created_at, signing_secret, old_signing_secret, old_secret_expires_at";

pub(super) fn read_app(row: &Row<'_>, keyring: &Keyring) -> Result<App> {
    let id = row.id(1)?;
    let old = match (row.opt_text(5)?, row.opt_time(6)?) {
        (Some(old), Some(until)) => Some((Masked::new(keyring.open(Column::AppOldSecret, id, old)?), until)),
        (_, _) => None,
    };
    Ok(App {
        no: AppNo(row.int(0)?),
        id: AppId(id),
        name: row.text(2)?,
        created_at: row.time(3)?,
        signing_secret: Masked::new(keyring.open(Column::AppSecret, id, row.text(4)?)?),
        old_secret: old,
    })
}

pub(super) fn found(batch: &mut Batch<'_>, asks: &[&BootstrapTenant]) -> Result<Vec<BootstrapResult>> {
    asks.iter().map(|ask| found_one(batch, ask)).collect()
}

fn found_one(batch: &mut Batch<'_>, ask: &BootstrapTenant) -> Result<BootstrapResult> {
    let known = find_app(batch, &ask.name)?;
    let new_app = known.is_none();
    let app = if let Some(app) = known {
        app
    } else {
        let id = batch.shared.ids.draw(ask.now);
        let made = insert_app(batch, id, &ask.name, &ask.signing_secret, ask.now)?;
        made.ok_or_else(|| StoreError::Inconsistent("an app is there and is not".to_owned()))?
    };
    let mut new_key = false;
    if let Some(hash) = &ask.key_hash
        && batch.tx.one("select count(*) from keys", [], |row| row.int(0))? == 0
    {
        let row = KeyRow {
            id: KeyId(batch.shared.ids.draw(ask.now)),
            app_id: app.id,
            name: None,
            scope: Scope::Admin,
            created_at: ask.now,
            expires_at: None,
            last_used_at: None,
        };
        let create = CreateKey { row, app: app.no, hash: *hash, remember: None };
        insert_key(batch, &create)?;
        new_key = true;
    }
    Ok(BootstrapResult { app, new_app, new_key })
}

fn find_app(batch: &Batch<'_>, name: &str) -> Result<Option<App>> {
    let sql = format!("select {APP} from apps where name = $1");
    batch.tx.find(&sql, [name.into()], |row| read_app(row, &batch.shared.keyring))
}

/// `None` where another app has this name.
fn insert_app(
    batch: &mut Batch<'_>,
    id: Id,
    name: &str,
    secret: &Masked,
    now: Timestamp,
) -> Result<Option<App>> {
    let sealed = batch.shared.keyring.seal(Column::AppSecret, id, secret.reveal())?;
    let made = batch.tx.run(
        "insert into apps (id, name, signing_secret, created_at) values ($1, $2, $3, $4)
         on conflict (name) do nothing",
        [id.into(), name.into(), sealed.as_ref().into(), now.into()],
    )?;
    if made == 0 {
        return Ok(None);
    }
    let app = find_app(batch, name)?;
    batch.effects.tenant_changes.extend(app.clone().map(|app| TenantChange::App(Box::new(app))));
    Ok(app)
}

pub(super) fn create_app(batch: &mut Batch<'_>, asks: &[&CreateApp]) -> Result<Vec<CreatedApp>> {
    asks.iter().map(|ask| create_app_one(batch, ask)).collect()
}

fn create_app_one(batch: &mut Batch<'_>, ask: &CreateApp) -> Result<CreatedApp> {
    if let Some(replay) = idempotency::replay(&batch.tx, ask.remember.as_ref(), ask.now)? {
        return Ok(CreatedApp::Replayed(replay));
    }
    if batch.tx.one("select count(*) from apps", [], |row| row.int(0))? >= APPS_MAX {
        return Ok(CreatedApp::TooMany(APPS_MAX));
    }
    let app = insert_app(batch, ask.id.0, &ask.name, &ask.signing_secret, ask.now)?;
    let Some(app) = app else { return Ok(CreatedApp::Taken) };
    if let Some((remember, answer)) = &ask.remember {
        idempotency::keep(&batch.tx, remember, answer, ask.now)?;
    }
    Ok(CreatedApp::New(Box::new(app)))
}

pub(super) fn rotate(batch: &mut Batch<'_>, asks: &[&Rotate]) -> Result<Vec<Rotated>> {
    asks.iter().map(|ask| rotate_one(batch, ask)).collect()
}

/// The new secret signs, and the one before it until the grace is over; one that is older still is
/// dropped.
fn rotate_one(batch: &mut Batch<'_>, ask: &Rotate) -> Result<Rotated> {
    if let Some(replay) = idempotency::replay(&batch.tx, ask.remember.as_ref(), ask.now)? {
        return Ok(Rotated::Replayed(replay));
    }
    let keyring = &batch.shared.keyring;
    let sql = format!("select {APP} from apps where no = $1");
    let app = batch.tx.one(&sql, [ask.app.0.into()], |row| read_app(row, keyring))?;
    let until = ask.now.plus(ask.grace);
    let old = (until > ask.now).then(|| (app.signing_secret.clone(), until));
    let sealed = keyring.seal(Column::AppSecret, app.id.0, ask.signing_secret.reveal())?;
    let old_sealed = match &old {
        Some((old, _)) => Some(keyring.seal(Column::AppOldSecret, app.id.0, old.reveal())?),
        None => None,
    };
    batch.tx.run(
        "update apps set signing_secret = $1, old_signing_secret = $2, old_secret_expires_at = $3 where no = $4",
        [
            sealed.as_ref().into(),
            old_sealed.as_deref().into(),
            old.as_ref().map(|(_, until)| *until).into(),
            ask.app.0.into(),
        ],
    )?;
    if let Some((remember, answer)) = &ask.remember {
        idempotency::keep(&batch.tx, remember, answer, ask.now)?;
    }
    batch.effects.tenant_changes.push(TenantChange::Rotated {
        app: ask.app,
        secret: ask.signing_secret.clone(),
        old,
    });
    Ok(Rotated::Done)
}
