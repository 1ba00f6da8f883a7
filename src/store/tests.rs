//! Tests of the query plans of the lists on SQLite, and of the time that requests wait.

use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::db::{Where, in_memory};
use super::deliveries::filter::{self as delivery_filter, Index as DeliveryIndex};
use super::events::filter::{self as event_filter, Index as EventIndex};
use super::watches::filter::{self as watch_filter, Index};
use super::{
    DatabaseLocation, DeliveryFilter, EventFilter, Keyring, Store, StoreError, StoreOptions, WatchFilter,
    credentials, definitions, deliveries, endings, jobs, observations, operations, prune, watch_events,
    watches,
};
use crate::clock::{Clock, ManualClock};
use crate::domain::{
    AppNo, DeliveryId, DeliveryStatus, DestinationId, EventType, Id, Timestamp, WatchId, WatchStatus,
};

/// Returns the plan of SQLite for a query, a line for each table.
fn plan(db: &Connection, query: &Where<'_>) -> Vec<String> {
    let mut statement = db.prepare(&format!("explain query plan {}", query.sql)).expect("a statement");
    let values = rusqlite::params_from_iter(&query.values);
    let lines = statement.query_map(values, |row| row.get(3)).expect("explained");
    lines.collect::<Result<_, _>>().expect("texts")
}

#[test]
fn every_list_searches_by_an_index_in_the_order_of_its_ids() {
    let db = in_memory();
    let least = Id::from_bytes([0; 16]);
    let at = Some(Timestamp::from_millis(1_771_426_800_000));
    let watching = || WatchFilter { status: Some(WatchStatus::Watching), ..WatchFilter::default() };
    let pending = || DeliveryFilter { statuses: vec![DeliveryStatus::Pending], ..DeliveryFilter::default() };
    let failed = || DeliveryFilter { statuses: vec![DeliveryStatus::Failed], ..DeliveryFilter::default() };
    let skipped = || DeliveryFilter { statuses: vec![DeliveryStatus::Skipped], ..DeliveryFilter::default() };
    let all = DeliveryFilter::default;
    let muvi = || Some("muvi".to_owned());
    let before = Some(WatchId(least));
    let of_watches = [
        (WatchFilter::default(), Index::App, "w USING PRIMARY KEY (app=?)"),
        (watching(), Index::Watching, "w USING INDEX watches_watching (<expr>=?)"),
        (
            WatchFilter { before, ..watching() },
            Index::Watching,
            "w USING INDEX watches_watching (<expr>=? AND id<?)",
        ),
        (
            WatchFilter { provider: muvi(), ..watching() },
            Index::Watching,
            "w USING INDEX watches_watching (<expr>=?)",
        ),
        (
            WatchFilter { job_id: muvi(), ..watching() },
            Index::Watching,
            "w USING INDEX watches_watching (<expr>=?)",
        ),
        (WatchFilter { job_id: muvi(), ..WatchFilter::default() }, Index::App, "w USING PRIMARY KEY (app=?)"),
        (
            WatchFilter { reference: muvi(), ..watching() },
            Index::Reference,
            "w USING INDEX watches_reference (<expr>=? AND reference=?)",
        ),
        (
            WatchFilter { group: muvi(), ..WatchFilter::default() },
            Index::Group,
            "w USING INDEX watches_of_group (watch_group=?)",
        ),
        (
            WatchFilter { group: muvi(), ..watching() },
            Index::Group,
            "w USING INDEX watches_of_group (watch_group=?)",
        ),
        (
            WatchFilter { group: muvi(), reference: muvi(), ..watching() },
            Index::Reference,
            "w USING INDEX watches_reference (<expr>=? AND reference=?)",
        ),
        (
            WatchFilter { job_id: muvi(), ..watching() },
            Index::Job,
            "w USING INDEX watches_of_job (job=? AND status=?)",
        ),
    ];
    let (watch, destination) = (Some(WatchId(least)), Some(DestinationId(least)));
    let before = Some(DeliveryId(least));
    let of_deliveries = [
        (all(), "d USING PRIMARY KEY (app=?)"),
        (DeliveryFilter { since: at, ..all() }, "d USING PRIMARY KEY (app=? AND id>?)"),
        (
            DeliveryFilter { since: at, until: at, before, ..all() },
            "d USING PRIMARY KEY (app=? AND id>? AND id<?)",
        ),
        (pending(), "d USING INDEX deliveries_pending (<expr>=?)"),
        (DeliveryFilter { since: at, ..pending() }, "d USING INDEX deliveries_pending (<expr>=? AND id>?)"),
        (failed(), "d USING INDEX deliveries_failed (<expr>=?)"),
        (skipped(), "d USING INDEX deliveries_skipped (<expr>=?)"),
        (DeliveryFilter { since: at, ..failed() }, "d USING INDEX deliveries_failed (<expr>=? AND id>?)"),
        (DeliveryFilter { watch, ..pending() }, "d USING INDEX deliveries_of_watch (watch=? AND app=?)"),
        (DeliveryFilter { watch, ..failed() }, "d USING INDEX deliveries_of_watch (watch=? AND app=?)"),
        (
            DeliveryFilter { destination, ..pending() },
            "d USING INDEX deliveries_to (destination=? AND app=?)",
        ),
        (DeliveryFilter { destination, ..failed() }, "d USING INDEX deliveries_to (destination=? AND app=?)"),
    ];
    let plans = of_watches
        .iter()
        .map(|(filter, index, expected)| {
            let query = watch_filter::query(&watches::SELECT, (AppNo(1), filter), *index, None, 50);
            (plan(&db, &query), expected, *index == Index::Job)
        })
        .chain(of_deliveries.iter().map(|(filter, expected)| {
            let index = delivery_filter::without_probe(filter);
            let query = delivery_filter::query("d.id", (AppNo(1), filter), index, None, 50);
            (plan(&db, &query), expected, false)
        }));
    for (plan, expected, sorts) in plans {
        assert!(plan.contains(&format!("SEARCH {expected}")), "{expected}: {plan:#?}");
        assert!(!plan.iter().any(|line| line.starts_with("SCAN")), "{expected}: {plan:#?}");
        // A job's id leads to a few that are put in order then.
        assert_eq!(plan.iter().any(|line| line.contains("TEMP B-TREE")), sorts, "{expected}: {plan:#?}");
    }
}

#[test]
fn the_end_of_a_scan_is_found_by_the_index_of_its_list() {
    let db = in_memory();
    let muvi = || Some("muvi".to_owned());
    let at = Some(Timestamp::from_millis(1_771_426_800_000));
    let status = Some(WatchStatus::Stopped);
    let watches = [
        (WatchFilter { status, ..WatchFilter::default() }, Index::App, "PRIMARY KEY (app=?)"),
        (WatchFilter { provider: muvi(), ..WatchFilter::default() }, Index::App, "PRIMARY KEY (app=?)"),
        (
            WatchFilter { provider: muvi(), status: Some(WatchStatus::Watching), ..WatchFilter::default() },
            Index::Watching,
            "INDEX watches_watching (<expr>=?)",
        ),
        (
            WatchFilter { group: muvi(), status, ..WatchFilter::default() },
            Index::Group,
            "COVERING INDEX watches_of_group (watch_group=?)",
        ),
    ];
    let watch = Some(WatchId(Id::from_bytes([0; 16])));
    let of = |status| DeliveryFilter { statuses: vec![status], ..DeliveryFilter::default() };
    let deliveries = [
        (of(DeliveryStatus::Succeeded), "PRIMARY KEY (app=?)"),
        (DeliveryFilter { until: at, ..DeliveryFilter::default() }, "PRIMARY KEY (app=?)"),
        (DeliveryFilter { until: at, ..of(DeliveryStatus::Failed) }, "INDEX deliveries_failed (<expr>=?)"),
        (
            DeliveryFilter { watch, ..of(DeliveryStatus::Failed) },
            "INDEX deliveries_of_watch (watch=? AND app=?)",
        ),
    ];
    let watches = watches.iter().map(|(filter, index, expected)| {
        (plan(&db, &watch_filter::scanned(AppNo(1), filter, *index).expect("a query")), expected)
    });
    let deliveries = deliveries.iter().map(|(filter, expected)| {
        let index = delivery_filter::without_probe(filter);
        let [query] = &delivery_filter::scanned(AppNo(1), filter, index)[..] else { panic!("{filter:?}") };
        (plan(&db, query), expected)
    });
    for (plan, expected) in watches.chain(deliveries) {
        let [line, of_group @ ..] = plan.as_slice() else { panic!("{expected}: {plan:#?}") };
        assert!(line.starts_with("SEARCH") && line.contains(expected), "{expected}: {line}");
        // The row of a group is found by its name.
        let is_of_group =
            |line: &String| line.starts_with("SCALAR") || line.contains("g USING COVERING INDEX");
        assert!(of_group.iter().all(is_of_group), "{expected}: {plan:#?}");
    }
    for filter in scanless() {
        let index = delivery_filter::without_probe(&filter);
        assert!(
            delivery_filter::scanned(AppNo(1), &filter, index).is_empty(),
            "every row matches: {filter:?}"
        );
    }
    assert!(watch_filter::scanned(AppNo(1), &WatchFilter::default(), Index::App).is_none());
}

/// Filters that every row of an index matches.
fn scanless() -> Vec<DeliveryFilter> {
    let watch = Some(WatchId(Id::from_bytes([0; 16])));
    let statuses = vec![DeliveryStatus::Failed, DeliveryStatus::Pending];
    vec![
        DeliveryFilter::default(),
        DeliveryFilter { statuses, ..DeliveryFilter::default() },
        DeliveryFilter { watch, ..DeliveryFilter::default() },
    ]
}

#[test]
fn deliveries_are_found_by_the_watch_or_by_several_statuses() {
    let db = in_memory();
    let text = || Some("order-7".to_owned());
    let of = |statuses: &[DeliveryStatus]| DeliveryFilter {
        statuses: statuses.to_vec(),
        ..DeliveryFilter::default()
    };
    let both = [DeliveryStatus::Pending, DeliveryStatus::Failed];
    let (pending, failed) =
        ("d USING INDEX deliveries_pending (<expr>=?)", "d USING INDEX deliveries_failed (<expr>=?)");
    let (watch, job) = ("w USING PRIMARY KEY (app=? AND id=?)", "j USING INTEGER PRIMARY KEY (rowid=?)");
    let of_watch = "d USING INDEX deliveries_of_watch (watch=?)";
    let table: [(DeliveryFilter, DeliveryIndex, &[&str]); 6] = [
        (of(&both), DeliveryIndex::Status, &[pending, failed]),
        (DeliveryFilter { origin: text(), ..of(&both) }, DeliveryIndex::Status, &[pending, failed]),
        (
            DeliveryFilter { job_id: text(), ..of(&both) },
            DeliveryIndex::Status,
            &[pending, failed, watch, job],
        ),
        (
            DeliveryFilter { reference: text(), ..of(&[]) },
            DeliveryIndex::App,
            &["d USING PRIMARY KEY (app=?)", watch],
        ),
        (
            DeliveryFilter { reference: text(), job_id: text(), ..of(&both) },
            DeliveryIndex::Reference,
            &["w USING INDEX watches_reference (<expr>=? AND reference=?)", of_watch, job],
        ),
        (
            DeliveryFilter { job_id: text(), ..of(&both) },
            DeliveryIndex::Job,
            &["(job_id=?)", "INDEX watches_of_job (job=?)", of_watch],
        ),
    ];
    for (filter, index, expected) in table {
        let query = delivery_filter::query("d.id", (AppNo(1), &filter), index, None, 50);
        let plan = plan(&db, &query);
        assert!(
            expected.iter().all(|part| plan.iter().any(|line| line.contains(part))),
            "{filter:?}: {plan:#?}"
        );
        let is_few = matches!(index, DeliveryIndex::Reference | DeliveryIndex::Job);
        assert_eq!(plan.iter().any(|line| line.contains("TEMP B-TREE")), is_few, "{filter:?}: {plan:#?}");
        assert!(!plan.iter().any(|line| line.starts_with("SCAN")), "{filter:?}: {plan:#?}");
    }
}

#[test]
fn events_of_a_watch_or_a_job_are_found_in_the_order_of_the_feed() {
    let db = in_memory();
    let watch = Some(WatchId(Id::from_bytes([0; 16])));
    let event_type = Some(EventType::JobCompleted);
    let job_id = || Some("job_1".to_owned());
    let feed = "INDEX sqlite_autoindex_events_2 (app=?)";
    let by_watch = "INDEX events_of_watch (watch=?)";
    for is_newest_first in [false, true] {
        let all = || EventFilter { is_newest_first, ..EventFilter::default() };
        for (filter, index, expected) in [
            (all(), EventIndex::Feed, feed),
            (EventFilter { event_type, ..all() }, EventIndex::Feed, feed),
            (EventFilter { job_id: job_id(), ..all() }, EventIndex::Feed, feed),
            (EventFilter { event_type, watch, ..all() }, EventIndex::Watch, by_watch),
        ] {
            let query = event_filter::query((AppNo(1), &filter), index, (None, None), 50);
            let scanned = event_filter::scanned(AppNo(1), &filter, index, None);
            for query in std::iter::once(query).chain(scanned) {
                let plan = plan(&db, &query);
                assert!(plan.iter().any(|line| line.contains(expected)), "{filter:?}: {plan:#?}");
                assert!(!plan.iter().any(|line| line.contains("TEMP B-TREE")), "{filter:?}: {plan:#?}");
            }
        }
        let filter = EventFilter { job_id: job_id(), ..all() };
        let query = event_filter::query((AppNo(1), &filter), EventIndex::Job, (None, None), 50);
        let plan = plan(&db, &query);
        let expected = "(app=? AND position=?)";
        assert!(plan.iter().any(|line| line.contains(expected)), "{filter:?}: {plan:#?}");
    }
}

#[test]
fn no_command_reads_all_watches_of_a_job() {
    let db = in_memory();
    let chunk = |which: &str| {
        let row = "select app, id, events, payload, metadata, traceparent, progress, created_at, expires_at, name, reference\n     from watches";
        format!("{row} where job = $1 and status = 'watching' and {which} limit 201")
    };
    let table: [(String, &[&str]); 12] = [
        (
            jobs::TERMS.to_owned(),
            &["watches_of_job", "watches_poll_interval", "watches_expected_at", "watches_progress"],
        ),
        (chunk(endings::OF_ENDING_IN_ORDER), &["watches_of_job"]),
        (watch_events::APPS_OF_JOB.to_owned(), &["watches_of_job"]),
        (watch_events::HAS_LATER_APP.to_owned(), &["watches_of_job"]),
        (watch_events::of_app(endings::OF_ENDING), &["watches_of_job"]),
        (watch_events::of_app(endings::OF_EXPIRY), &["watches_of_job"]),
        (watch_events::of_app_after(), &["watches_of_job"]),
        (endings::IS_WATCHED.to_owned(), &["watches_of_job"]),
        (chunk(observations::IN_ORDER), &["watches_progress"]),
        (observations::APPS.to_owned(), &["watches_progress"]),
        (observations::of_app_after(), &["watches_progress"]),
        (endings::WANTS_RAW.to_owned(), &["watches_raw"]),
    ];
    for (sql, indexes) in table {
        let mut statement = db.prepare(&format!("explain query plan {sql}")).expect("a statement");
        let rows = statement
            .query_map(rusqlite::params_from_iter(vec![1; statement.parameter_count()]), |row| row.get(3));
        let plan: Vec<String> = rows.expect("explained").collect::<Result<_, _>>().expect("texts");
        for index in indexes {
            assert!(plan.iter().any(|line| line.contains(&format!("{index} (job=?"))), "{index}: {plan:#?}");
        }
        // A sort would read all watches before it returns the first.
        assert!(
            !plan.iter().any(|line| line.contains("TEMP B-TREE") || line.starts_with("SCAN watches")),
            "{plan:#?}"
        );
    }
}

#[test]
fn a_page_of_old_or_waiting_rows_begins_at_its_position() {
    let table = [
        (prune::OLD, "watches_ended (pruned=? AND (ended_at,app,id)>(?,?,?)"),
        (prune::OLD_GROUPS, "watch_groups_ended (pruned=? AND (ended_at,id)>(?,?)"),
        (prune::EMPTY_GROUPS, "watch_groups_ended (pruned=? AND (ended_at,id)>(?,?)"),
        (prune::OLD_OPERATIONAL, "operational_events_age ((created_at,id)>(?,?)"),
        (deliveries::WAITING, "deliveries_waiting ((queue,is_retry,next_attempt_at,app,id)>(?,?,?,?,?))"),
    ];
    assert_plans(&table);
}

#[test]
fn users_of_what_is_an_apps_own_are_found_without_ended_jobs() {
    assert_plans(&[
        (definitions::DELETE_UNUSED, "watches_definition (definition=?)"),
        (definitions::DELETE_UNUSED, "job_cancels_definition (definition=?)"),
        (credentials::USERS, "watches_credential (credential=?)"),
        (credentials::USERS, "job_cancels_credential (credential=?)"),
    ]);
}

#[test]
fn deliveries_of_a_watch_are_found_without_the_others_of_its_app() {
    let pending = "deliveries_pending_of_watch (watch=? AND n=? AND id<?)";
    assert_plans(&[
        (deliveries::EARLIER, pending),
        (deliveries::DUE_IN_ORDER, pending),
        (deliveries::EXAMINE, "deliveries_of_watch (watch=? AND app=? AND id<?)"),
        (deliveries::OLDER, "deliveries_of_watch (watch=? AND app=? AND id<?)"),
    ]);
}

#[test]
fn requested_operations_are_found_without_those_that_skip() {
    assert_plans(&[
        (&operations::NEXT_REQUESTED, "operations_requested (<expr>>?)"),
        (&operations::RUNNING_OF_APP, "operations_requested (<expr>>?)"),
        (&operations::NEXT_SKIP, "operations USING INTEGER PRIMARY KEY (rowid>?)"),
    ]);
}

/// Checks that the plan of each query contains a search, and sorts nothing.
#[track_caller]
fn assert_plans(table: &[(&str, &str)]) {
    let db = in_memory();
    for (sql, expected) in table {
        let mut statement = db.prepare(&format!("explain query plan {sql}")).expect("a statement");
        let values = rusqlite::params_from_iter(vec![1; statement.parameter_count()]);
        let rows = statement.query_map(values, |row| row.get(3)).expect("explained");
        let plan: Vec<String> = rows.collect::<Result<_, _>>().expect("texts");
        assert!(plan.iter().any(|line| line.contains(expected)), "{plan:#?}");
        assert!(!plan.iter().any(|line| line.contains("TEMP B-TREE")), "{plan:#?}");
    }
}

/// Returns the result of work that waits for the clock, and the seconds that passed.
async fn outlasted<T>(time: &ManualClock, work: impl Future<Output = T>) -> (T, u32) {
    let mut work = std::pin::pin!(work);
    for seconds in 0..60 {
        tokio::select! {
            biased;
            done = &mut work => return (done, seconds),
            () = tokio::task::yield_now() => time.advance(Duration::from_secs(1)),
        }
    }
    panic!("no answer within a minute")
}

#[tokio::test]
async fn a_request_waits_20_s_for_a_database_that_does_not_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = Timestamp::from_millis(1_771_426_800_000);
    let options = StoreOptions {
        location: DatabaseLocation::File(folder.path().join("x.db")),
        keyring: Keyring::default(),
        public_url: String::new(),
        now,
    };
    let (store, writer) = Store::open(options).expect("a store");
    let time = ManualClock::at(now);
    let requests = store.for_requests(Clock::Manual(time.clone()));
    // A writer that takes no command.
    let (queue, commands) = mpsc::channel(1);
    let silent = Store { queue, ..requests.clone() };
    let (written, seconds) = outlasted(&time, silent.check_writes()).await;
    assert!(matches!(written, Err(StoreError::Unknown(_))), "it may have happened: {written:?}");
    assert!((19..=21).contains(&seconds), "{seconds} s");
    let (release, held) = std::sync::mpsc::channel::<()>();
    let read = requests.read(AppNo(1), move |_| {
        let _ = held.recv();
        Ok(())
    });
    let (read, seconds) = outlasted(&time, read).await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!((19..=21).contains(&seconds), "{seconds} s");
    drop((release, silent, commands, requests));
    // The service's own work waits.
    store.check_writes().await.expect("written");
    drop(store);
    tokio::task::spawn_blocking(|| writer.join()).await.expect("closed");
}
