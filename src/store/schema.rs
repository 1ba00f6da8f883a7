//! Whether the tables of the database can be used.
//!
//! A table can be missing although the database answers and accepts other writes: an operator has dropped or renamed
//! it, restored a part of a backup, or withdrawn a permission. Requests that need it then fail, and a load balancer
//! must not send more of them here. So the check of readiness examines every table, and the permissions to use
//! it on a server. A column or an index that is missing is found only by the statement that needs it. Such an error
//! makes the service unready as well, for [`REMEMBERED`] after the last one.

use std::time::Duration;

use super::db::{Result, Tx};
use crate::clock::Moment;

/// Time after a failed statement for which the service is not ready, if every table can be used. Requests that arrive
/// then show whether the error has gone.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Every table of the database. A test compares the list with the migrations.
pub(super) const TABLES: [&str; 22] = [
    "apps",
    "attempts",
    "deliveries",
    "destination_hours",
    "destinations",
    "endings",
    "erased_apps",
    "erased_events",
    "events",
    "idempotency",
    "interruptions",
    "jobs",
    "keys",
    "nodes",
    "observations",
    "operational_events",
    "operations",
    "seals",
    "shards",
    "watch_destinations",
    "watch_groups",
    "watches",
];

/// Returns the tables that are missing, or that this process may not read and write.
pub(super) fn unusable_tables(tx: &Tx<'_>) -> Result<Vec<String>> {
    let is_usable = match tx {
        Tx::Sqlite(_) => "exists (select 1 from sqlite_master m where m.type = 'table' and m.name = t.name)",
        // Null for a missing table.
        Tx::Postgres(_) => {
            "coalesce(has_table_privilege(cast(to_regclass(t.name) as oid), 'select')
               and has_table_privilege(cast(to_regclass(t.name) as oid), 'insert')
               and has_table_privilege(cast(to_regclass(t.name) as oid), 'update')
               and has_table_privilege(cast(to_regclass(t.name) as oid), 'delete'), false)"
        }
    };
    let names: Vec<String> = TABLES.iter().map(|table| format!("('{table}')")).collect();
    let names = names.join(", ");
    let sql = format!("with t (name) as (values {names}) select t.name from t where not {is_usable}");
    tx.list(&sql, [], |row| row.text(0))
}

/// What is known about the schema.
#[derive(Debug, Default)]
pub(super) struct SchemaState {
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    at: Moment,
    /// Whether the check of the tables has found the cause.
    is_explained: bool,
}

/// Change of the state, which is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SchemaChange {
    None,
    Broken,
    Recovered,
}

impl SchemaState {
    /// Whether a table, a column or a permission is missing.
    pub(super) fn is_broken(&self) -> bool {
        self.failure.is_some()
    }

    /// Notes a statement that failed because of the schema.
    pub(super) fn failed(&mut self, now: Moment) -> SchemaChange {
        let is_first = self.failure.is_none();
        let is_explained = self.failure.is_some_and(|failure| failure.is_explained);
        self.failure = Some(Failure { at: now, is_explained });
        if is_first { SchemaChange::Broken } else { SchemaChange::None }
    }

    /// Notes the result of a check of the tables.
    pub(super) fn checked(&mut self, is_complete: bool, now: Moment) -> SchemaChange {
        match self.failure {
            None if is_complete => SchemaChange::None,
            Some(failure) if is_complete => {
                if !failure.is_explained && now < failure.at.plus(REMEMBERED) {
                    return SchemaChange::None;
                }
                self.failure = None;
                SchemaChange::Recovered
            }
            before => {
                self.failure = Some(Failure { at: now, is_explained: true });
                if before.is_none() { SchemaChange::Broken } else { SchemaChange::None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::db::in_memory;

    fn at(seconds: u64) -> Moment {
        Moment::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn the_list_has_every_table_of_the_migrations() {
        let db = in_memory();
        let sql =
            "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' order by name";
        let mut statement = db.prepare(sql).expect("a statement");
        let names = statement.query_map([], |row| row.get::<_, String>(0)).expect("read");
        assert_eq!(names.collect::<Result<Vec<_>, _>>().expect("names"), TABLES);
        assert_eq!(unusable_tables(&Tx::Sqlite(&db)).expect("checked"), [""; 0]);
        db.execute_batch("alter table watch_groups rename to away").expect("renamed");
        assert_eq!(unusable_tables(&Tx::Sqlite(&db)).expect("checked"), ["watch_groups"]);
    }

    #[test]
    fn a_missing_table_is_over_when_it_is_there_again() {
        let mut state = SchemaState::default();
        assert_eq!(state.checked(true, at(0)), SchemaChange::None);
        assert_eq!(state.checked(false, at(1)), SchemaChange::Broken);
        assert_eq!(state.failed(at(2)), SchemaChange::None);
        assert_eq!(state.checked(false, at(3)), SchemaChange::None);
        assert!(state.is_broken());
        assert_eq!(state.checked(true, at(4)), SchemaChange::Recovered);
        assert!(!state.is_broken());
    }

    #[test]
    fn an_error_that_the_check_does_not_find_is_remembered_for_30_s() {
        let mut state = SchemaState::default();
        assert_eq!(state.failed(at(0)), SchemaChange::Broken);
        assert_eq!(state.failed(at(10)), SchemaChange::None);
        assert_eq!(state.checked(true, at(39)), SchemaChange::None);
        assert!(state.is_broken());
        assert_eq!(state.checked(true, at(40)), SchemaChange::Recovered);
    }
}
