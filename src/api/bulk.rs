//! Requests that change everything that a filter selects. The work continues in the background as an operation.

use serde::Serialize;
use utoipa::ToSchema;

use super::filters::{FilterSource, ListedEventType, delivery_filter, watch_filter};
use super::http::{Answer, Call, Content, FieldErrorCode, ObjectReader};
use super::operations::{StartResponses, start};
use crate::domain::{ChannelKind, DeliveryStatus, DestinationId, Reason, WatchId, WatchStatus};
use crate::store::{DeliveryFilter, Subject, WatchFilter};

/// Statuses of deliveries that can be retried together.
const RETRIED: [DeliveryStatus; 3] =
    [DeliveryStatus::Failed, DeliveryStatus::Pending, DeliveryStatus::Skipped];

/// A filter of deliveries to retry. Without a filter, `all` is required.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "`retried` reads it field by field")]
struct RetryRequest {
    /// Status of the deliveries: one, several separated by commas, or a list. Default: `failed`.
    status: Option<RetriedStatuses>,
    /// Only deliveries that ended for this reason.
    reason: Option<Reason>,
    /// Only deliveries of events of this type.
    r#type: Option<ListedEventType>,
    /// Only deliveries by this channel.
    channel: Option<ChannelKind>,
    /// Only webhooks to this scheme, host and port.
    #[schema(example = "https://app.example.com")]
    origin: Option<String>,
    /// Only deliveries to this destination.
    destination_id: Option<DestinationId>,
    /// Only deliveries of this watch.
    watch_id: Option<WatchId>,
    /// Only deliveries of watches on jobs with this id.
    job_id: Option<String>,
    /// Only deliveries of watches with this reference.
    #[schema(min_length = 1, max_length = 255)]
    reference: Option<String>,
    /// Only deliveries of events at or after this time, or since so long ago, such as `24h`.
    since: Option<String>,
    /// Only deliveries of events before this time, or until so long ago.
    until: Option<String>,
    /// Retries every failed delivery of the app. Required if there is no filter.
    all: Option<bool>,
    /// Only counts the deliveries.
    dry_run: Option<bool>,
}

/// A status of deliveries that are retried, or several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "part of `RetryRequest`")]
enum RetriedStatuses {
    /// One status.
    One(RetriedStatus),
    /// Several statuses.
    Many(Vec<RetriedStatus>),
}

/// A status of deliveries that can be retried together.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "part of `RetryRequest`")]
enum RetriedStatus {
    Failed,
    Pending,
    Skipped,
}

/// Retry many deliveries
///
/// Requests an attempt of each at once, with the same `webhook-id`. A pending delivery keeps its schedule. One that has
/// failed or was skipped gets one attempt; if that fails, it stays as it was. The attempts follow new deliveries to
/// the same destination, and wait until a host that is down can be reached. Not included: deliveries of stopped watches,
/// those to disabled destinations, and progress of watches that have ended, unless the reason is `superseded`. An app can
/// start ten such retries a minute.
#[utoipa::path(
    post, path = "/v1/deliveries/retry", operation_id = "retryDeliveries", tag = "Deliveries",
    security(("key" = ["write"])),
    request_body(content = RetryRequest, example = json!({
        "status": ["failed", "pending"], "origin": "https://app.example.com", "since": "2h",
    })),
    responses(
        StartResponses,
        (status = 429, description = "The app has started ten such retries within a minute."),
    )
)]
pub async fn retry(call: Call) -> Answer {
    let write = call.write(Content::OBJECT).await?;
    let (api, app) = (&write.api, write.app());
    let now = api.clock.now();
    let (filter, is_dry_run) = write.object(|fields| {
        let mut filter = delivery_filter(&mut FilterSource::Body(fields), &RETRIED, now);
        let is_filtered = filter != DeliveryFilter::default();
        if filter.statuses.is_empty() {
            filter.statuses.push(DeliveryStatus::Failed);
        }
        Some((filter, options(fields, is_filtered, "retry every failed delivery")))
    })?;
    let _permit = api.batches.acquire(app, &api.clock).await?;
    if !is_dry_run {
        api.send_rates.take_bulk_retry(app, api.clock.moment())?;
    }
    let count = api.store.count_retried(app, &filter).await?;
    start(&write, Subject::RetryDeliveries(filter), count, is_dry_run).await
}

/// A filter of watches to stop. Without a filter, `all` is required.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "`stop` reads it field by field")]
struct StopRequest {
    /// Only watches with this status. Default: `watching`. For another one, pending deliveries are skipped.
    status: Option<WatchStatus>,
    /// Only watches on jobs of this provider.
    provider: Option<String>,
    /// Only watches on jobs with this id.
    job_id: Option<String>,
    /// Only watches with this reference.
    #[schema(min_length = 1, max_length = 255)]
    reference: Option<String>,
    /// Only watches of this group.
    #[schema(max_length = 128, pattern = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
    group_id: Option<String>,
    /// Stops every watch of the app that has not ended. Required if there is no filter.
    all: Option<bool>,
    /// Only counts the watches.
    dry_run: Option<bool>,
}

/// Stop many watches
///
/// Each watch that the filter selects is stopped, as by `POST /v1/watches/{id}/stop`. A watch that ends before its turn
/// is delivered.
#[utoipa::path(
    post, path = "/v1/watches/stop", operation_id = "stopWatches", tag = "Watches",
    security(("key" = ["write"])),
    request_body(content = StopRequest, example = json!({"reference": "order-42"})),
    responses(StartResponses)
)]
pub async fn stop(call: Call) -> Answer {
    let write = call.write(Content::OBJECT).await?;
    let (api, app) = (&write.api, write.app());
    let (filter, is_dry_run) = write.object(|fields| {
        if fields.take_other("cancelJob").is_some() {
            let detail = "is possible for one watch only: POST /v1/watches/{id}/stop";
            fields.error("cancelJob", FieldErrorCode::UnknownField, detail);
        }
        let filter = watch_filter(&mut FilterSource::Body(fields), (api, app));
        let is_filtered = filter != WatchFilter::default();
        let filter = WatchFilter { status: filter.status.or(Some(WatchStatus::Watching)), ..filter };
        Some((filter, options(fields, is_filtered, "stop every watch")))
    })?;
    let _permit = api.batches.acquire(app, &api.clock).await?;
    let count = api.store.count_stopped(app, &filter).await?;
    start(&write, Subject::StopWatches(filter), count, is_dry_run).await
}

/// Takes `all` and `dryRun`, and returns the latter. A request without a filter and without `all` is an error.
fn options(fields: &mut ObjectReader<'_, '_>, is_filtered: bool, everything: &str) -> bool {
    let (all, is_dry_run) = (fields.boolean("all"), fields.boolean("dryRun"));
    // An invalid filter has an error of its own.
    if !is_filtered && all != Some(true) && fields.errors.is_empty() {
        let detail = format!("has no filter; add one, or \"all\": true to {everything} of the app");
        fields.errors.add("", FieldErrorCode::Required, detail);
    }
    is_dry_run == Some(true)
}
