//! Checks and migrations of a PostgreSQL database.

use anyhow::{Context as _, bail};

use super::super::tx::Tx;
use super::session::Session;

/// Minimum version, in the numbering of the server.
const MIN_VERSION: i64 = 140_000;

/// Every `migrations/postgres/*.sql`: (file name, text), in the order of their versions. The build script
/// lists the folder. A released migration never changes.
const MIGRATIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations_postgres.rs"));

/// Refuses servers that would lose commits or do not work.
pub fn check(session: &Session) -> anyhow::Result<()> {
    let tx = Tx::Postgres(session);
    let setting = |name: &str| tx.one("select current_setting($1)", [name.into()], |row| row.text(0));
    let version = setting("server_version_num")?.parse::<i64>().unwrap_or_default();
    if version < MIN_VERSION {
        bail!("PostgreSQL {} is too old: 14 or newer is needed", setting("server_version")?);
    }
    if setting("server_encoding")? != "UTF8" {
        bail!("the database is not in UTF-8: create it with `encoding 'UTF8'`");
    }
    for name in ["synchronous_commit", "fsync"] {
        if setting(name)? == "off" {
            bail!(
                "the server has {name}=off, and would lose what it said was written: set {name} = on, for \
                 this database at least"
            );
        }
    }
    Ok(())
}

/// Brings the schema to the newest version. Each migration is one transaction with its version number.
pub fn migrate(session: &Session) -> anyhow::Result<()> {
    session.batch("create table if not exists schema_version (version bigint not null)")?;
    let done =
        Tx::Postgres(session)
            .one("select coalesce(max(version), 0) from schema_version", [], |row| row.count(0))?;
    let done = usize::try_from(done)?;
    if done > MIGRATIONS.len() {
        bail!("it was written by a newer version of ringback (schema {done}, here {})", MIGRATIONS.len());
    }
    for (version, (name, migration)) in (1..).zip(MIGRATIONS).skip(done) {
        // Creating an index of a large table may take longer than any other statement.
        let step = format!(
            "begin; set local statement_timeout = 0; {migration}; insert into schema_version values ({version}); commit"
        );
        if let Err(error) = session.batch_without_timeout(&step) {
            let _ = session.batch("rollback");
            return Err(error).with_context(|| format!("the migration {name} failed"));
        }
    }
    Ok(())
}
