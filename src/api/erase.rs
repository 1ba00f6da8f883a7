//! Erasing: a watch with everything about it, and an app.

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use std::time::Duration;

use super::apps::managed_app;
use super::http::{Answer, Call, Problem, ProblemCode};
use super::operations::{Started, started};
use crate::domain::{AppId, OperationId, WatchId};
use crate::store::{AdvanceOperation, DeleteApp, EraseWatch, WatchErasure};

/// First number of rows that one transaction deletes. Most watches have fewer.
const ROWS: u32 = 500;

/// Smallest number of rows that one transaction deletes.
const ROWS_MIN: u32 = 10;

/// Duration of a transaction beyond which the next one deletes fewer rows.
const STEP: Duration = Duration::from_millis(10);

/// Erase a watch
///
/// Stops the watch, and deletes it with its events, deliveries, addresses and metadata, and the remembered answers about
/// it. Only the ids and positions of its events remain, so that a reader whose last event was erased continues after it.
/// A request to a receiver that is in flight may still arrive; nothing is sent afterwards.
#[utoipa::path(
    delete, path = "/v1/watches/{id}", operation_id = "eraseWatch", tag = "Watches",
    security(("key" = ["write"])), params(("id" = WatchId, Path)),
    responses((status = 204, description = "The watch is erased."))
)]
pub async fn erase(call: Call) -> Answer {
    let watch = call.only_id(WatchId::parse)?;
    let (api, app) = (&call.api, call.app());
    let now = api.clock.now();
    let operation = OperationId(api.store.ids().draw(now));
    let erase = EraseWatch { operation, app, watch, rows: ROWS, now };
    match api.store.erase_watch(erase).await? {
        WatchErasure::NotFound => return Err(Problem::not_found().into()),
        WatchErasure::Done => {}
        WatchErasure::More(no) => {
            let detail = "the watch is erased, and the rest of its events and deliveries will be deleted";
            let late = |error| Problem::after_commit(error, detail);
            let mut rows = ROWS;
            loop {
                let took = api.clock.stopwatch();
                let step = AdvanceOperation { no, page: None, rows, now };
                if !api.store.advance_operation(step).await.map_err(late)? {
                    break;
                }
                rows = if took.elapsed() > STEP { (rows / 2).max(ROWS_MIN) } else { ROWS };
            }
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Delete an app
///
/// Only for admins of the first app. The keys of the app are revoked at once. Then an operation of the caller's app
/// erases everything of it: watches, events, deliveries, saved destinations, secrets and keys.
#[utoipa::path(
    delete, path = "/v1/apps/{id}", operation_id = "deleteApp", tag = "Tenants", security(("key" = ["admin"])),
    params(("id" = AppId, Path)),
    responses(
        (status = 202, description = "The operation, committed, and the number of watches.", body = Started),
        (status = 409, description = "The app is the first one, which cannot be deleted."),
    )
)]
pub async fn delete_app(call: Call) -> Answer {
    let app = call.only_id(|id| managed_app(&call.api, call.caller.managed_app(), id))?.no;
    if call.caller.managed_app().is_some() {
        let detail = "only an admin key of the first app can delete apps";
        return Err(Problem::new(ProblemCode::OperatorOnly, detail).into());
    }
    let (api, owner) = (&call.api, call.app());
    if app == api.operator {
        let detail = "the first app cannot be deleted; delete the database instead";
        return Err(Problem::new(ProblemCode::FirstApp, detail).into());
    }
    let total = api.store.count_watches(app).await?;
    let now = api.clock.now();
    let operation = OperationId(api.store.ids().draw(now));
    let delete = DeleteApp { app, owner, operation, total, now };
    if !api.store.delete_app(delete).await? {
        return Err(Problem::not_found().into());
    }
    Ok(started(operation, total).into_response())
}
