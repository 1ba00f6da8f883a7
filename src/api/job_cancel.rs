//! Cancelling the job of a watch at its provider.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use super::http::{Answer, Api, Call, FieldErrorCode, Invalid, Problem, ProblemCode, Write};
use super::own_access::ShownPoll;
use crate::domain::{
    CancelStatus, INLINE, JobCancel, OPERATOR_ACCOUNT, Timestamp, WatchId, credential_variable,
};
use crate::providers::Definition;
use crate::store::CancelRefusal;

/// How to stop a watch.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "`stop` reads it field by field")]
pub struct StopOptions {
    /// Whether the job is cancelled at its provider as well.
    cancel_job: Option<bool>,
}

/// The request to cancel a job at its provider.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = JobCancel)]
pub struct JobCancelView<'a> {
    status: CancelStatus,
    /// Null before the watch expires.
    #[schema(required)]
    requested_at: Option<Timestamp>,
    /// Number of requests that were made, or could not be sent.
    attempts: u32,
    /// HTTP status of the provider's last answer.
    #[schema(required)]
    http_status: Option<u16>,
    /// Why the last attempt was not accepted.
    #[schema(required)]
    message: Option<&'a str>,
    /// Null while it is not decided.
    #[schema(required)]
    finished_at: Option<Timestamp>,
}

impl<'a> JobCancelView<'a> {
    pub fn of(cancel: &'a JobCancel) -> Self {
        let JobCancel { status, requested_at, attempts, http_status, message, finished_at } = cancel;
        Self {
            status: *status,
            requested_at: *requested_at,
            attempts: *attempts,
            http_status: *http_status,
            message: message.as_deref(),
            finished_at: *finished_at,
        }
    }
}

/// Reads the options of a stop: whether the job is cancelled as well.
pub fn is_wanted(stop: &Write) -> Result<bool, Problem> {
    stop.object(|fields| Some(fields.boolean("cancelJob") == Some(true)))
}

/// Checks that jobs of a provider can be cancelled. `None`: a job without a definition. `is_own`: the definition or the
/// credential is the app's, which may then cancel.
pub fn check(api: &Api, definition: Option<&Definition>, is_own: bool) -> Result<(), Invalid> {
    let Some(definition) = definition else {
        let detail =
            "is not possible for a job without a definition, because nothing says how it is cancelled";
        return Err((FieldErrorCode::NoCancel, detail.to_owned()));
    };
    let id = &definition.id;
    if !definition.can_cancel() {
        let detail = format!("is not possible: the definition of `{id}` does not say how a job is cancelled");
        return Err((FieldErrorCode::NoCancel, detail));
    }
    let is_shared = api.access.get(id).is_some_and(|access| access.is_shared);
    let may_use_key = is_shared && api.with_cancel.contains(id);
    if !is_own && !may_use_key {
        let detail = format!(
            "is not allowed with the server's API key for `{id}`; name a `credential` of your own, or ask the operator to set \
             providers.{id}.allow_cancel"
        );
        return Err((FieldErrorCode::CancelNotAllowed, detail));
    }
    Ok(())
}

/// Checks that the job of a watch can be cancelled.
pub async fn check_watch(call: &Call, id: WatchId) -> Answer<()> {
    let watch = call.api.store.watch(call.app(), id).await?.ok_or_else(Problem::not_found)?;
    let provider = &watch.job.provider;
    let version = ShownPoll::read(watch.poll.as_deref()).definition_version;
    let definition = match version {
        Some(_) => of_app(call, id).await?,
        None => call.api.providers.get(provider).cloned(),
    };
    if definition.is_none() && provider != INLINE {
        let detail = format!("is not possible: the definition `{provider}` of the watch exists no more");
        return Err(Problem::field("/cancelJob", FieldErrorCode::NoCancel, detail).into());
    }
    let is_own = watch.job.account != OPERATOR_ACCOUNT;
    check(&call.api, definition.as_deref(), is_own)
        .and_then(|()| check_key(&call.api, definition.as_deref(), is_own))
        .map_err(|(code, detail)| Problem::field("/cancelJob", code, detail))?;
    Ok(())
}

/// Checks that the server still has the API key with which a job is cancelled. A registration without it is refused.
fn check_key(api: &Api, definition: Option<&Definition>, is_own: bool) -> Result<(), Invalid> {
    let Some(definition) = definition.filter(|definition| !is_own && definition.needs_credential()) else {
        return Ok(());
    };
    let id = &definition.id;
    if api.access.get(id).is_some_and(|access| access.has_key) {
        return Ok(());
    }
    let variable = credential_variable(id);
    let detail =
        format!("is not possible: the server has no API key for `{id}`; the operator can set {variable}");
    Err((FieldErrorCode::NoCredential, detail))
}

/// Returns the definition of the app with which a watch was registered.
async fn of_app(call: &Call, watch: WatchId) -> Answer<Option<Arc<Definition>>> {
    let store = &call.api.store;
    let Some(found) = store.definition_of_watch(call.app(), watch).await? else { return Ok(None) };
    Ok(call.api.own_definitions.of_app(store, call.app(), &found).await?.and_then(Result::ok))
}

/// The problem of a job that is not cancelled.
pub fn refused(refusal: CancelRefusal) -> Problem {
    match refusal {
        CancelRefusal::NotFound => Problem::not_found(),
        CancelRefusal::JobShared => Problem::new(
            ProblemCode::JobShared,
            "another app watches the job, so it cannot be cancelled; nothing was stopped; stop the watch without `cancelJob`",
        ),
    }
}
