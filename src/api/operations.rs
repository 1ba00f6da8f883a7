//! Operations: how far the work on many rows is.

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use super::http::{Answer, Call, Problem, ProblemCode, Write, first_answer, json};
use crate::domain::{OperationId, OperationStatus};
use crate::store::{CreateOperation, Idempotent, KeepAnswer, StoredResponse, Subject, TooManyOperations};

/// Work on many rows, which continues in the background.
#[derive(Serialize, ToSchema)]
#[schema(as = Operation)]
struct OperationView {
    id: OperationId,
    /// `failed`: it has ended early, because of an error that the server's log has.
    status: OperationStatus,
    /// Number of rows that it concerns, counted before it began, and at most a million then. It grows if more are found.
    total: u64,
    /// Number of rows that are done. It can stay below `total`, because rows change meanwhile.
    done: u64,
}

/// An operation that was started, or that would be.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Started {
    /// Shown by `GET /v1/operations/{id}` until a day after its end. Null for a dry run.
    #[schema(required)]
    operation_id: Option<OperationId>,
    /// Number of rows that it concerns. More than a million are not counted.
    count: u64,
}

/// Answers to a request that changes everything that a filter selects.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes the answers, and is never made")]
pub(super) enum StartResponses {
    /// A dry run: the number of rows that the filter selects.
    #[response(status = 200)]
    DryRun(Started),
    /// The operation, committed, and the number of rows that the filter selects.
    #[response(status = 202)]
    Started(Started),
    /// Too many operations of the app are in progress, or a request with this Idempotency-Key is in progress.
    #[response(status = 409)]
    Conflict,
}

/// Makes the answer to a request that has started an operation.
pub(super) fn started(operation: OperationId, count: u64) -> StoredResponse {
    first_answer(StatusCode::ACCEPTED, &Started { operation_id: Some(operation), count })
}

/// Starts an operation. A dry run only says how many rows it would concern.
pub(super) async fn start(write: &Write, subject: Subject, count: u64, is_dry_run: bool) -> Answer {
    let (api, app) = (&write.api, write.app());
    if is_dry_run {
        let answer = first_answer(StatusCode::OK, &Started { operation_id: None, count });
        if let Some(key) = write.key() {
            let keep = Idempotent::with_response(KeepAnswer, Some(key), &answer);
            let Ok(()) = api.store.keep_answer(keep).await??;
        }
        return Ok(answer.into_response());
    }
    let now = api.clock.now();
    let id = OperationId(api.store.ids().draw(now));
    let answer = started(id, count);
    let create = CreateOperation { id, app, subject, total: count, now };
    let create = Idempotent::with_response(create, write.key(), &answer);
    match api.store.create_operation(create).await?? {
        Ok(()) => Ok(answer.into_response()),
        Err(TooManyOperations(most)) => {
            let detail = format!(
                "{most} operations of the app are in progress, which is the maximum; wait until one has ended"
            );
            Err(Problem::new(ProblemCode::LimitReached, detail).into())
        }
    }
}

/// Show an operation
///
/// It is shown until a day after its end.
#[utoipa::path(
    get, path = "/v1/operations/{id}", operation_id = "showOperation", tag = "Operations",
    security(("key" = ["read"])), params(("id" = OperationId, Path)),
    responses((status = 200, description = "The operation.", body = OperationView))
)]
pub async fn show(call: Call) -> Answer {
    let id = call.only_id(OperationId::parse)?;
    let operation = call.api.store.operation(call.app(), id).await?.ok_or_else(Problem::not_found)?;
    let view = OperationView { id, status: operation.status, total: operation.total, done: operation.done };
    Ok(json(StatusCode::OK, &view))
}
