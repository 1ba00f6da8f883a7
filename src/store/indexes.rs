//! Indexes of the database that only make it faster.
//!
//! An operator can drop one. Then nothing fails, but a query can read a whole table, and requests wait for it. Each start
//! therefore compares the indexes with those of the migrations. The unique ones are a matter of
//! [`schema`](super::schema).

use std::collections::BTreeMap;

use super::db::{MIGRATIONS_POSTGRES, MIGRATIONS_SQLITE, Result, Tx};
use super::reads::{INTERNAL, ReadStore};

impl ReadStore {
    /// Logs the statement for each index that is missing.
    pub async fn warn_of_missing_indexes(&self) -> Result<()> {
        for statement in self.read(INTERNAL, missing).await? {
            tracing::warn!(
                statement,
                "an index of the database is missing: queries can be slow; run the statement to create it"
            );
        }
        Ok(())
    }
}

/// Returns the statements that create the missing indexes.
fn missing(tx: &Tx<'_>) -> Result<Vec<String>> {
    let (migrations, sql) = match tx {
        Tx::Sqlite(_) => (MIGRATIONS_SQLITE, "select name from sqlite_master where type = 'index'"),
        Tx::Postgres(_) => (
            MIGRATIONS_POSTGRES,
            "select cast(c.relname as text) from pg_class c
             where c.relkind = 'i' and pg_table_is_visible(c.oid)",
        ),
    };
    let present = tx.list(sql, [], |row| row.text(0))?;
    let mut all = indexes(migrations);
    all.retain(|name, _| !present.contains(name));
    Ok(all.into_values().collect())
}

/// Returns the statements that create the indexes of migrations, by name, with the current names of columns.
fn indexes(migrations: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (_, text) in migrations {
        let code = text.lines().map(|line| line.split_once("--").map_or(line, |(code, _)| code));
        for statement in code.collect::<Vec<_>>().join(" ").split(';') {
            let words: Vec<&str> = statement.split_whitespace().collect();
            match words.as_slice() {
                ["create", "index", name, ..] => {
                    found.insert((*name).to_owned(), words.join(" "));
                }
                ["drop", "index", name, ..] => {
                    found.remove(*name);
                }
                ["alter", "index", old, "rename", "to", new] => {
                    if let Some(statement) = found.remove(*old) {
                        found.insert((*new).to_owned(), statement.replacen(old, new, 1));
                    }
                }
                ["alter", "table", table, "rename", "column", old, "to", new] => {
                    let of_table = format!(" on {table} (");
                    for statement in found.values_mut().filter(|one| one.contains(&of_table)) {
                        *statement = with_column(statement, old, new);
                    }
                }
                _ => {}
            }
        }
    }
    found
}

/// Returns the statement with another name of a column.
fn with_column(statement: &str, old: &str, new: &str) -> String {
    let Some((head, columns)) = statement.split_once('(') else { return statement.to_owned() };
    let mut renamed = String::new();
    for word in columns.split_inclusive(|c: char| !c.is_alphanumeric() && c != '_') {
        match word.strip_prefix(old) {
            Some(rest) if rest.len() <= 1 && !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') => {
                renamed.push_str(new);
                renamed.push_str(rest);
            }
            _ => renamed.push_str(word),
        }
    }
    format!("{head}({renamed}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::in_memory;

    #[test]
    fn the_statements_are_those_of_the_database() {
        let db = in_memory();
        let sql = "select name, sql from sqlite_master where type = 'index' and sql like 'create index %'";
        let mut statement = db.prepare(sql).expect("a statement");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("read");
        let found: BTreeMap<String, String> = rows.collect::<Result<_, _>>().expect("texts");
        let lines = |sql: &String| {
            let code = sql.lines().map(|line| line.split_once("--").map_or(line, |(code, _)| code));
            code.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ").to_lowercase()
        };
        let found: BTreeMap<String, String> =
            found.iter().map(|(name, sql)| (name.clone(), lines(sql))).collect();
        assert_eq!(indexes(MIGRATIONS_SQLITE), found);
    }

    #[test]
    fn a_missing_index_is_found_with_its_statement() {
        let db = in_memory();
        assert_eq!(missing(&Tx::Sqlite(&db)).expect("checked"), [""; 0]);
        db.execute_batch("drop index deliveries_waiting").expect("dropped");
        let expected = "create index deliveries_waiting on deliveries (queue, is_retry, next_attempt_at) \
                        where next_attempt_at is not null";
        assert_eq!(missing(&Tx::Sqlite(&db)).expect("checked"), [expected]);
        db.execute_batch(expected).expect("created");
        assert_eq!(missing(&Tx::Sqlite(&db)).expect("checked"), [""; 0]);
    }

    #[test]
    fn both_databases_have_the_same_indexes() {
        let names = |migrations| indexes(migrations).into_keys().collect::<Vec<_>>();
        let sqlite = names(MIGRATIONS_SQLITE).into_iter().map(|name| match name.as_str() {
            "jobs_look_wanted" => "jobs_poll_requested".to_owned(),
            "endings_open" => "endings_unfinished".to_owned(),
            _ => name,
        });
        let mut sqlite: Vec<String> = sqlite.collect();
        sqlite.sort_unstable();
        assert_eq!(sqlite, names(MIGRATIONS_POSTGRES));
    }
}
