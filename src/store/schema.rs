//! Whether the tables of the database can be used.
//!
//! A table can be missing although the database answers and accepts other writes: an operator has dropped or renamed
//! it, restored a part of a backup, or withdrawn a permission. Requests that need it then fail, and a load balancer
//! must not send more of them here. Worse, an attempt whose result cannot be recorded would be repeated. So a check
//! examines every table and column, and the permissions to use a table on a server: at the start, every two seconds, and
//! when readiness is asked for. It examines the unique indexes as well: without one, a statement fails, or a guarantee is
//! void. Any other error of a statement about the schema counts for [`REMEMBERED`] after the last one.
//!
//! While the schema is not complete, no poll and no attempt starts, and registrations are refused.

use std::collections::HashSet;
use std::time::Duration;

use super::db::{Result, Row, Tx};
use crate::clock::Moment;

/// Time after a failed statement for which the service is not ready, if every table can be used. Requests that arrive
/// then show whether the error has gone.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Every table of the database, with its columns in alphabetical order. A test compares the list with the migrations.
pub(super) const TABLES: [(&str, &str); 27] = [
    (
        "apps",
        "created_at deleted_at id name no old_secret_expires_at old_signing_key old_signing_secret \
         position signing_key signing_secret",
    ),
    (
        "attempts",
        "delivery duration_ms error n request_headers response_body response_headers started_at \
         status_code",
    ),
    ("credentials", "app created_at id kind name secret send_to"),
    ("definitions", "app created_at id provider replaced_at summary text version"),
    (
        "deliveries",
        "app attempts created_at destination event id is_manual is_retry n next_attempt_at queue \
         raw_generation reason scheduled_at shard status step type wait_began_at waited_ms watch",
    ),
    ("destination_hours", "bucket destination failed hour succeeded"),
    (
        "destinations",
        "address app channel concurrency created_at deleted_at description disabled_at disabled_reason \
         events failed_attempts failed_error failed_since failing_since headers id is_default is_managed \
         is_ordered last_attempt_at last_error last_error_at name no old_secret old_secret_expires_at options rate \
         secret sweep sweep_after target tls",
    ),
    ("endings", "ended_at error generation job kind raw refreshed seen unfinished"),
    ("erased_apps", "no"),
    ("erased_events", "app erased_at id position"),
    ("events", "app body ending id no observed_at position type watch webhook_body"),
    ("idempotency", "app created_at key location path request_hash response status"),
    ("identity_keys", "id key"),
    ("interruptions", "ended_at is_start started_at"),
    (
        "job_cancels",
        "app attempts credential definition finished_at http_status job message next_attempt_at requested_at status \
         watch",
    ),
    ("job_polls", "credential definition id job shown source"),
    (
        "jobs",
        "account ended generation had_status job_id long_params no orphaned_at params poll_requested_at \
         progress_rounds provider registered_at seen shard",
    ),
    ("keys", "app created_at expires_at hash id last_used_at name scope"),
    ("nodes", "id incarnation lease_until probes running_at started_at"),
    ("observations", "job observed_at progress raw_status status"),
    ("operational_events", "app created_at id watch"),
    ("operations", "app before created_at done finished_at id kind no status subject total"),
    ("seals", "complete id"),
    ("shards", "epoch node shard"),
    ("watch_destinations", "address channel gone_at headers id n options queue saved secret watch"),
    (
        "watch_groups",
        "app cancelled completed created_at ended_at expired expires_at expires_in failed id name needed \
         no not_found pruned registered rule size status stopped",
    ),
    (
        "watches",
        "app created_at credential definition ended_at events expected_at expires_at generation id job metadata name payload \
         poll_interval progress pruned reference status traceparent watch_group",
    ),
];

/// Columns of [`TABLES`] that a server has not.
const SQLITE_ONLY: [(&str, &str); 1] = [("events", "no")];

/// The unique indexes of the tables, as `table (columns) condition`. Statements name some of them as the target of `on
/// conflict`, and others are guarantees, such as that of one ending. A test compares the list with the migrations.
pub(super) const UNIQUE: [&str; 40] = [
    "apps (id)",
    "apps (name)",
    "apps (no)",
    "attempts (delivery, n)",
    "credentials (app, name)",
    "credentials (id)",
    "definitions (app, provider) where replaced_at is null",
    "definitions (app, provider, version)",
    "definitions (id)",
    "deliveries (app, id)",
    "destination_hours (destination, hour, bucket)",
    "destinations (id)",
    "destinations (no)",
    "endings (job, generation)",
    "erased_apps (no)",
    "erased_events (id)",
    "events (app, position)",
    "events (id)",
    "events (watch) where ending = 1",
    "idempotency (app, path, key)",
    "identity_keys (id)",
    "interruptions (started_at)",
    "job_cancels (watch)",
    "job_polls (job)",
    "jobs (job_id, provider, account, params)",
    "jobs (no)",
    "keys (hash)",
    "keys (id)",
    "nodes (id)",
    "observations (job, observed_at)",
    "operational_events (id)",
    "operations (id)",
    "operations (no)",
    "seals (id)",
    "shards (shard)",
    "watch_destinations (watch, n)",
    "watch_groups (app, name)",
    "watch_groups (id)",
    "watch_groups (no)",
    "watches (app, id)",
];

/// Returns the unique indexes that are missing, each with the statement that creates it.
fn missing_unique(tx: &Tx<'_>, names: &str) -> Result<Vec<String>> {
    let sql = match tx {
        // The primary key of a table whose rows it numbers has no index.
        Tx::Sqlite(_) => {
            "select t.name, (select group_concat(name, ' ') from (select name from pragma_index_info(l.name) order by name)),
               l.partial
             from t, pragma_index_list(t.name) l where l.\"unique\" = 1
             union all
             select t.name, group_concat(p.name, ' '), 0 from t, pragma_table_info(t.name) p where p.pk > 0 group by t.name"
        }
        Tx::Postgres(_) => {
            "select t.name, (select string_agg(cast(a.attname as text), ' ' order by cast(a.attname as text) collate \"C\")
                from pg_attribute a where a.attrelid = i.indrelid and a.attnum = any(i.indkey)),
               case when i.indpred is null then 0 else 1 end
             from t join pg_index i on i.indrelid = cast(to_regclass(t.name) as oid)
             where i.indisunique and i.indisvalid"
        }
    };
    let read = |row: &Row<'_>| Ok((row.text(0)?, row.text(1)?, row.flag(2)?));
    let found = tx.list(&format!("{names} {sql}"), [], read)?;
    let present: HashSet<(&str, &str, bool)> = found
        .iter()
        .map(|(table, columns, is_partial)| (table.as_str(), columns.as_str(), *is_partial))
        .collect();
    let mut missing = Vec::new();
    for index in UNIQUE {
        let (table, rest) = index.split_once(" (").unwrap_or((index, ""));
        let (columns, condition) = rest.split_once(')').unwrap_or((rest, ""));
        let mut sorted: Vec<&str> = columns.split(", ").collect();
        sorted.sort_unstable();
        if !present.contains(&(table, sorted.join(" ").as_str(), !condition.is_empty())) {
            let name = columns.replace(", ", "_");
            missing.push(format!("create unique index {table}_unique_{name} on {index}"));
        }
    }
    Ok(missing)
}

/// Returns the tables that are missing, or that this process may not read and write, and the missing columns of the
/// others, as `table.column`. If there are none: the missing unique indexes, as the statements that create them.
pub(super) fn unusable_tables(tx: &Tx<'_>) -> Result<Vec<String>> {
    let (is_usable, columns) = match tx {
        Tx::Sqlite(_) => (
            "exists (select 1 from sqlite_master m where m.type = 'table' and m.name = t.name)",
            "select t.name, p.name from t, pragma_table_info(t.name) p",
        ),
        // Null for a missing table.
        Tx::Postgres(_) => (
            "coalesce(has_table_privilege(cast(to_regclass(t.name) as oid), 'select')
               and has_table_privilege(cast(to_regclass(t.name) as oid), 'insert')
               and has_table_privilege(cast(to_regclass(t.name) as oid), 'update')
               and has_table_privilege(cast(to_regclass(t.name) as oid), 'delete'), false)",
            "select t.name, cast(a.attname as text) from t
               join pg_attribute a on a.attrelid = cast(to_regclass(t.name) as oid)
             where a.attnum > 0 and not a.attisdropped",
        ),
    };
    let names: Vec<String> = TABLES.iter().map(|(table, _)| format!("('{table}')")).collect();
    let names = format!("with t (name) as (values {})", names.join(", "));
    let sql = format!("{names} select t.name from t where not {is_usable}");
    let mut unusable = tx.list(&sql, [], |row| row.text(0))?;
    let sql = format!("{names} {columns}");
    let found = tx.list(&sql, [], |row| Ok((row.text(0)?, row.text(1)?)))?;
    let mut present: HashSet<(&str, &str)> =
        found.iter().map(|(table, column)| (table.as_str(), column.as_str())).collect();
    if matches!(tx, Tx::Postgres(_)) {
        present.extend(SQLITE_ONLY);
    }
    let mut missing = Vec::new();
    for (table, columns) in TABLES.iter().filter(|(table, _)| !unusable.iter().any(|name| name == table)) {
        let columns = columns.split(' ').filter(|column| !present.contains(&(*table, *column)));
        missing.extend(columns.map(|column| format!("{table}.{column}")));
    }
    // Nothing is known about the indexes of a missing table, or of one whose columns were renamed.
    let is_usable = unusable.is_empty() && missing.is_empty();
    unusable.append(&mut missing);
    if is_usable {
        unusable = missing_unique(tx, &names)?;
    }
    Ok(unusable)
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
        let mut found = Vec::new();
        for name in names {
            let name = name.expect("a name");
            let sql =
                "select group_concat(name, ' ') from (select name from pragma_table_info($1) order by name)";
            let columns = db.query_row(sql, [&name], |row| row.get::<_, String>(0)).expect("columns");
            found.push((name, columns));
        }
        let listed = TABLES.map(|(table, columns)| (table.to_owned(), columns.to_owned()));
        assert_eq!(found, listed);
        assert_eq!(unusable_tables(&Tx::Sqlite(&db)).expect("checked"), [""; 0]);
        db.execute_batch("alter table watch_groups rename to away").expect("renamed");
        db.execute_batch("alter table jobs rename column seen to away").expect("renamed");
        assert_eq!(unusable_tables(&Tx::Sqlite(&db)).expect("checked"), ["watch_groups", "jobs.seen"]);
    }

    #[test]
    fn the_list_has_every_unique_index_of_the_migrations() {
        let db = in_memory();
        let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("a count");
        let tables = "from sqlite_master m join {} p where m.type = 'table' and m.name not like 'sqlite_%'";
        let indexes = tables.replace("{}", "pragma_index_list(m.name)");
        let numbered = tables.replace("{}", "pragma_table_info(m.name)");
        let indexes = count(&format!("select count(*) {indexes} and p.\"unique\" = 1"));
        // The others are primary keys of integers. That of `events` numbers rows in SQLite only.
        let numbered = count(&format!(
            "select count(*) from (select m.name {numbered} group by m.name
               having sum(p.pk > 0) = 1 and max(case when p.pk > 0 then lower(p.type) end) = 'integer')"
        ));
        assert_eq!(usize::try_from(indexes + numbered - 1), Ok(UNIQUE.len()));
        db.execute_batch("drop index events_one_ending").expect("dropped");
        assert_eq!(
            unusable_tables(&Tx::Sqlite(&db)).expect("checked"),
            ["create unique index events_unique_watch on events (watch) where ending = 1"]
        );
        db.execute_batch("create unique index events_unique_watch on events (watch) where ending = 1")
            .expect("created");
        assert_eq!(unusable_tables(&Tx::Sqlite(&db)).expect("checked"), [""; 0]);
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
