//! The timeline of a watch: what happened, in order.

use super::http::{Answer, Call, Page, PageParams, Problem, cursor, page};
use crate::domain::{TimelineEntry, WatchId};
use crate::store::TimelinePosition;

/// Show the timeline of a watch
///
/// Everything that happened to the watch, in order: registration, observed changes of the job, events,
/// deliveries and attempts.
#[utoipa::path(
    get, path = "/v1/watches/{id}/timeline", operation_id = "showTimeline", tag = "Watches",
    security(("key" = ["read"])), params(("id" = WatchId, Path), PageParams),
    responses((status = 200, description = "A page of the timeline, oldest first.",
        body = Page<TimelineEntry>))
)]
pub async fn show(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit();
    let after = query.read("cursor", cursor::WRONG, cursor::decode_timeline_position).unwrap_or_default();
    query.done()?;
    let id = call.id(WatchId::parse)?;
    let timeline =
        call.api.store.timeline(call.app(), id, after, limit + 1).await?.ok_or_else(Problem::not_found)?;
    let cursor =
        |(position, _): &(TimelinePosition, TimelineEntry)| cursor::encode_timeline_position(*position);
    Ok(page(&timeline, limit, cursor, |(_, entry)| entry))
}
