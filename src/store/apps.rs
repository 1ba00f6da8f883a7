//! Apps: creating them, and replacing their signing secrets.

use std::time::Duration;

use super::batch::Batch;
use super::db::{Result, Row, StoreError};
use super::idempotency::Results;
use super::keys::{CreateKey, KeyRow, insert_key};
use super::sealing::{Column, Keyring};
use super::tenant_cache::TenantChange;
use crate::domain::{App, AppId, AppNo, Id, KeyId, Masked, Scope, Timestamp};

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

pub(super) fn bootstrap(
    batch: &mut Batch<'_>,
    commands: &[&BootstrapTenant],
) -> Result<Vec<BootstrapResult>> {
    commands.iter().map(|command| bootstrap_one(batch, command)).collect()
}

fn bootstrap_one(batch: &mut Batch<'_>, command: &BootstrapTenant) -> Result<BootstrapResult> {
    let known = find_app(batch, &command.name)?;
    let new_app = known.is_none();
    let app = if let Some(app) = known {
        app
    } else {
        let id = batch.shared.ids.draw(command.now);
        let made = insert_app(batch, id, &command.name, &command.signing_secret, command.now)?;
        made.ok_or_else(|| StoreError::Inconsistent("an app both exists and does not".to_owned()))?
    };
    let mut new_key = false;
    if let Some(hash) = &command.key_hash
        && batch.tx.one("select count(*) from keys", [], |row| row.int(0))? == 0
    {
        let row = KeyRow {
            id: KeyId(batch.shared.ids.draw(command.now)),
            app_id: app.id,
            name: None,
            scope: Scope::Admin,
            created_at: command.now,
            expires_at: None,
            last_used_at: None,
        };
        insert_key(batch, &CreateKey { row, app: app.no, hash: *hash })?;
        new_key = true;
    }
    Ok(BootstrapResult { app, new_app, new_key })
}

fn find_app(batch: &Batch<'_>, name: &str) -> Result<Option<App>> {
    let sql = format!("select {APP} from apps where name = $1");
    batch.tx.find(&sql, [name.into()], |row| read_app(row, &batch.shared.keyring))
}

/// Inserts an app. Returns `None` if another app has the name.
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

pub(super) fn create_app(batch: &mut Batch<'_>, commands: &[&CreateApp]) -> Results<App, CreateAppRefusal> {
    let create = |command: &&CreateApp| {
        if batch.tx.one("select count(*) from apps", [], |row| row.int(0))? >= APPS_MAX {
            return Ok(Err(CreateAppRefusal::TooMany(APPS_MAX)));
        }
        let app = insert_app(batch, command.id.0, &command.name, &command.signing_secret, command.now)?;
        Ok(app.ok_or(CreateAppRefusal::NameTaken))
    };
    commands.iter().map(create).collect()
}

pub(super) fn rotate_secret(batch: &mut Batch<'_>, commands: &[&RotateSecret]) -> Results<()> {
    commands.iter().map(|command| rotate_one(batch, command).map(Ok)).collect()
}

fn rotate_one(batch: &mut Batch<'_>, command: &RotateSecret) -> Result<()> {
    let keyring = &batch.shared.keyring;
    let sql = format!("select {APP} from apps where no = $1");
    let app = batch.tx.one(&sql, [command.app.0.into()], |row| read_app(row, keyring))?;
    let until = command.now.plus(command.grace);
    let old = (until > command.now).then(|| (app.signing_secret.clone(), until));
    let sealed = keyring.seal(Column::AppSecret, app.id.0, command.signing_secret.reveal())?;
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
            command.app.0.into(),
        ],
    )?;
    let secret = command.signing_secret.clone();
    batch.effects.tenant_changes.push(TenantChange::Rotated { app: command.app, secret, old });
    Ok(())
}
