//! Test of the query plans of the lists on SQLite.

use rusqlite::Connection;

use super::db::{Where, in_memory};
use super::{DeliveryFilter, WatchFilter, deliveries, watches};
use crate::domain::{AppNo, DeliveryId, DeliveryStatus, DestinationId, Id, Timestamp, WatchId, WatchStatus};

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
    let pending = || DeliveryFilter { status: Some(DeliveryStatus::Pending), ..DeliveryFilter::default() };
    let failed = || DeliveryFilter { status: Some(DeliveryStatus::Failed), ..DeliveryFilter::default() };
    let skipped = || DeliveryFilter { status: Some(DeliveryStatus::Skipped), ..DeliveryFilter::default() };
    let all = DeliveryFilter::default;
    let muvi = || Some("muvi".to_owned());
    let before = Some(WatchId(least));
    let of_watches = [
        (WatchFilter::default(), "w USING PRIMARY KEY (app=?)"),
        (watching(), "w USING INDEX watches_watching (<expr>=?)"),
        (WatchFilter { before, ..watching() }, "w USING INDEX watches_watching (<expr>=? AND id<?)"),
        (WatchFilter { provider: muvi(), ..watching() }, "w USING INDEX watches_watching (<expr>=?)"),
        (WatchFilter { job_id: muvi(), ..watching() }, "w USING INDEX watches_of_job (job=? AND status=?)"),
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
        .map(|(filter, expected)| {
            (plan(&db, &watches::listed(AppNo(1), filter, 50)), expected, filter.job_id.is_some())
        })
        .chain(of_deliveries.iter().map(|(filter, expected)| {
            (plan(&db, &deliveries::listed(AppNo(1), filter, 50)), expected, false)
        }));
    for (plan, expected, sorts) in plans {
        assert!(plan.contains(&format!("SEARCH {expected}")), "{expected}: {plan:#?}");
        assert!(!plan.iter().any(|line| line.starts_with("SCAN")), "{expected}: {plan:#?}");
        // A job's id leads to a few that are put in order then.
        assert_eq!(plan.iter().any(|line| line.contains("TEMP B-TREE")), sorts, "{expected}: {plan:#?}");
    }
}
