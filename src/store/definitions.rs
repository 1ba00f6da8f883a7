//! Definitions of apps, in versions.
//!
//! A definition that is stored again with another text gets the next version, with an id of its own. A job refers to
//! the id of the version with which it was registered (`job_polls`), and keeps it: a change of a definition never
//! changes the meaning of the answers for a running watch.
//!
//! **A registration is read with the current version**, outside of the writer. Its transaction checks that this version
//! is current still; otherwise the registration is refused, and the client sends it again. So no watch begins with a
//! version that was deleted.
//!
//! **A version that is not current is deleted** as soon as no running watch uses it, with the next change of a
//! definition of the app. A poll that a client requests for an ended job of such a version is forgotten, as one whose
//! credential was deleted.

use super::batch::Batch;
use super::db::{Result, Row, Tx, params};
use super::definition_ids::DefinitionIds;
use super::reads::{INTERNAL, ReadStore};
use super::rows::to_json;
use super::sealing::{Column, Keyring};
use crate::domain::{AppNo, DefinitionSummary, DefinitionVersion, Id, Masked, Timestamp, WatchId};

/// Maximum number of definitions of an app. A list shows all of them.
pub const DEFINITIONS_MAX: usize = 50;

/// Maximum number of versions of an app's definitions that running watches use, besides the current ones. Each has a
/// text of up to 64 KiB.
pub const OLD_VERSIONS_MAX: usize = 100;

/// Stores a definition of an app, unless its text is that of the current version.
#[derive(Clone, Debug)]
pub struct PutDefinition {
    /// The app.
    pub app: AppNo,
    /// Id of the version, already drawn.
    pub id: Id,
    /// The app's id of the definition.
    pub provider: String,
    /// The TOML. It can hold credentials.
    pub text: Masked,
    /// What lists show.
    pub summary: DefinitionSummary,
    /// Whether the operator has a definition with this id: then only an existing one can be changed.
    pub is_taken: bool,
    /// Time of the request.
    pub now: Timestamp,
}

/// Deletes a definition of an app. Running watches keep it.
#[derive(Clone, Debug)]
pub struct DeleteDefinition {
    /// The app.
    pub app: AppNo,
    /// The app's id of the definition.
    pub provider: String,
    /// Time of the request.
    pub now: Timestamp,
}

/// What became of a definition that was put.
#[derive(Clone, Debug)]
pub struct StoredDefinition {
    /// The current version.
    pub version: DefinitionVersion,
    /// Whether the app had no definition with this id.
    pub is_new: bool,
}

/// Reason why a definition was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefinitionRefusal {
    /// The operator has a definition with this id.
    Taken,
    /// The app has the maximum number of definitions.
    TooMany,
    /// Running watches use the maximum number of old versions.
    TooManyVersions,
}

/// Columns of a version without its text.
const VERSION: &str = "id, provider, version, summary, created_at";

/// Returns the ids of all definitions.
pub fn load_ids(tx: &Tx<'_>) -> Result<DefinitionIds> {
    let sql = "select distinct app, provider from definitions";
    let found = tx.list(sql, [], |row| Ok((AppNo(row.int(0)?), row.text(1)?)))?;
    Ok(found.into_iter().collect())
}

impl ReadStore {
    /// Returns whether the app may have a definition with this id, or have had one. It reads nothing.
    pub fn may_define(&self, app: AppNo, provider: &str) -> bool {
        self.shared.definition_ids.has(app, provider)
    }

    /// Returns whether the app may have any definition, or have had one. It reads nothing.
    pub fn may_define_any(&self, app: AppNo) -> bool {
        self.shared.definition_ids.has_any(app)
    }

    /// Returns the current version of an app's definition.
    pub async fn current_definition(
        &self,
        app: AppNo,
        provider: String,
    ) -> Result<Option<DefinitionVersion>> {
        self.read(app, move |tx| {
            let sql = format!(
                "select {VERSION} from definitions where app = $1 and provider = $2 and replaced_at is null"
            );
            tx.find(&sql, params![app, &provider], read_version)
        })
        .await
    }

    /// Returns the version of the app's definition with which a watch was registered, if it exists still.
    pub async fn definition_of_watch(&self, app: AppNo, watch: WatchId) -> Result<Option<DefinitionVersion>> {
        self.read(app, move |tx| {
            let sql = format!(
                "select {VERSION} from definitions where app = $1 and id = (
                   select p.definition from watches w join job_polls p on p.job = w.job where w.app = $1 and w.id = $2)"
            );
            tx.find(&sql, params![app, watch], read_version)
        })
        .await
    }

    /// Returns the current definitions of an app, in the order of their ids.
    pub async fn definitions(&self, app: AppNo) -> Result<Vec<DefinitionVersion>> {
        let unreadable = self.shared.unreadable.clone();
        self.read(app, move |tx| {
            let sql = format!(
                "select {VERSION} from definitions where app = $1 and replaced_at is null order by provider"
            );
            let read = |row: &Row<'_>| unreadable.skip(("definitions", 0), row, read_version(row));
            Ok(tx.list(&sql, params![app], read)?.into_iter().flatten().collect())
        })
        .await
    }

    /// Returns the current version of an app's definition, with its text.
    pub async fn definition(
        &self,
        app: AppNo,
        provider: String,
    ) -> Result<Option<(DefinitionVersion, Masked)>> {
        let keyring = self.shared.keyring.clone();
        self.read(app, move |tx| {
            let sql = format!(
                "select {VERSION}, text from definitions where app = $1 and provider = $2 and replaced_at is null"
            );
            tx.find(&sql, params![app, &provider], |row| {
                let version = read_version(row)?;
                let text = keyring.open(Column::DEFINITION_TEXT, version.id, row.text(5)?)?;
                Ok((version, Masked::new(text)))
            })
        })
        .await
    }

    /// Returns the text of a version; `None` if it was deleted.
    pub async fn definition_text(&self, id: Id) -> Result<Option<Masked>> {
        let (keyring, unreadable) = (self.shared.keyring.clone(), self.shared.unreadable.clone());
        self.read(INTERNAL, move |tx| {
            tx.find("select text, id from definitions where id = $1", params![id], |row| {
                let text = row.text(0).and_then(|text| keyring.open(Column::DEFINITION_TEXT, id, text));
                unreadable.note(("definitions", 1), row, &text);
                text.map(Masked::new)
            })
        })
        .await
    }
}

fn read_version(row: &Row<'_>) -> Result<DefinitionVersion> {
    Ok(DefinitionVersion {
        id: row.id(0)?,
        provider: row.text(1)?,
        version: row.count(2)?,
        summary: row.json(3)?,
        created_at: row.time(4)?,
    })
}

pub fn put(
    batch: &mut Batch<'_>,
    command: &PutDefinition,
) -> Result<Result<StoredDefinition, DefinitionRefusal>> {
    let PutDefinition { app, id, provider, text, summary, is_taken, now } = command;
    let (tx, keyring) = (&batch.tx, &batch.shared.keyring);
    let sql = format!(
        "select {VERSION}, text from definitions where app = $1 and provider = $2 and replaced_at is null"
    );
    let current = tx.find(&sql, params![*app, provider], |row| {
        let version = read_version(row)?;
        let text = keyring.open(Column::DEFINITION_TEXT, version.id, row.text(5)?)?;
        Ok((version, text))
    })?;
    if let Some((version, _)) = current.as_ref().filter(|(_, known)| known == text.reveal()) {
        return Ok(Ok(StoredDefinition { version: version.clone(), is_new: false }));
    }
    if current.is_none() && *is_taken {
        return Ok(Err(DefinitionRefusal::Taken));
    }
    delete_unused(tx, *app)?;
    let (count, old) = tx
        .find(
            "select coalesce(sum(case when replaced_at is null then 1 else 0 end), 0),
               coalesce(sum(case when replaced_at is null then 0 else 1 end), 0)
             from definitions where app = $1",
            params![*app],
            |row| Ok((row.count(0)? as usize, row.count(1)? as usize)),
        )?
        .unwrap_or_default();
    if current.is_none() && count >= DEFINITIONS_MAX {
        return Ok(Err(DefinitionRefusal::TooMany));
    }
    if current.is_some() && old >= OLD_VERSIONS_MAX {
        return Ok(Err(DefinitionRefusal::TooManyVersions));
    }
    tx.run(
        "update definitions set replaced_at = $1 where app = $2 and provider = $3 and replaced_at is null",
        params![*now, *app, provider],
    )?;
    let last = tx.find(
        "select coalesce(max(version), 0) from definitions where app = $1 and provider = $2",
        params![*app, provider],
        |row| row.count(0),
    )?;
    let version = last.unwrap_or_default() + 1;
    // Before the commit: an id too many is harmless.
    batch.shared.definition_ids.add(*app, provider);
    let sealed = keyring.seal(Column::DEFINITION_TEXT, *id, text.reveal())?;
    tx.run(
        "insert into definitions (id, app, provider, version, text, summary, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        params![*id, *app, provider, version, &*sealed, &to_json(summary), *now],
    )?;
    delete_unused(tx, *app)?;
    let is_new = current.is_none();
    let (id, provider, summary, created_at) = (*id, provider.clone(), summary.clone(), *now);
    let version = DefinitionVersion { id, provider, version, summary, created_at };
    Ok(Ok(StoredDefinition { version, is_new }))
}

/// Returns whether there was such a definition.
pub fn delete(batch: &mut Batch<'_>, command: &DeleteDefinition) -> Result<bool> {
    let DeleteDefinition { app, provider, now } = command;
    let deleted = batch.tx.run(
        "update definitions set replaced_at = $1 where app = $2 and provider = $3 and replaced_at is null",
        params![*now, *app, provider],
    )?;
    delete_unused(&batch.tx, *app)?;
    Ok(deleted > 0)
}

/// Deletes the versions of an app that are not current, and that no running watch uses. An index finds the users of each,
/// however many jobs of it have ended.
fn delete_unused(tx: &Tx<'_>, app: AppNo) -> Result<()> {
    tx.run(DELETE_UNUSED, params![app]).map(|_| ())
}

pub(super) const DELETE_UNUSED: &str = "delete from definitions where app = $1 and replaced_at is not null
    and not exists (select 1 from watches w where w.definition = definitions.id and w.status = 'watching')
    and not exists (select 1 from job_cancels c where c.definition = definitions.id and c.status = 'pending')";

/// Returns whether all these versions are current. There is one writer, so they are until the commit.
pub fn are_current(tx: &Tx<'_>, ids: &[Id]) -> Result<bool> {
    if ids.is_empty() {
        return Ok(true);
    }
    let rows = ids.iter().map(|id| params![*id]);
    let sql = "select 1 from definitions where id = $1 and replaced_at is null";
    let found = tx.fetch(sql, rows, |row| row.int(0))?;
    Ok(found.iter().all(|found| !found.is_empty()))
}

/// Deletes the definitions of an app that is erased, of which there are few. Returns how many there were.
pub fn erase(tx: &Tx<'_>, app: AppNo) -> Result<usize> {
    tx.run("delete from definitions where app = $1", params![app])
}

/// Re-seals the definitions after `last`. Returns the number of changed rows, and the last id if more remain.
pub fn reseal(tx: &Tx<'_>, keyring: &Keyring, last: Id) -> Result<(usize, Option<Id>)> {
    const CHUNK: u32 = 100;
    let sql = "select id, text from definitions where id > $1 order by id limit $2";
    let found = tx.list(sql, params![last, CHUNK], |row| {
        let (id, mut text) = (row.id(0)?, row.text(1)?);
        let is_changed = keyring.reseal(id, [(Column::DEFINITION_TEXT, Some(&mut text))])?;
        Ok((id, is_changed, text))
    })?;
    let mut count = 0;
    for (id, _, text) in found.iter().filter(|(_, is_changed, _)| *is_changed) {
        count += tx.run("update definitions set text = $1 where id = $2", params![text, *id])?;
    }
    Ok((count, found.last().map(|(id, ..)| *id)))
}
