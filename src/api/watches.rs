//! Watches: create, list, show, change, stop, poll now, and show the timeline.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::access_fields::AuthView;
use super::destinations::{
    DESTINATIONS_MAX, DestinationReader, DestinationRequests, DestinationView, ENTRIES_MAX, OneOrMany,
    Target, destinations,
};
use super::filters::{FilterSource, watch_filter};
use super::groups::GroupOfWatch;
use super::http::{
    Answer, Api, BODY_MAX, Call, Content, FieldErrorCode, FieldErrors, ObjectReader, Page, PageParams,
    Problem, ProblemCode, created, cursor, first_answer, is_set, json, listed, page, traceparent,
};
use super::job_cancel::{self, JobCancelView, StopOptions};
use super::labels::{self, check_name, check_reference};
use super::own_access::ShownPoll;
use super::poll_fields::Poll;
use super::register;
use super::waiting::Waits;
use crate::channels;
use crate::clock::Moment;
use crate::domain::{
    Destination, DestinationId, EventSet, EventType, INLINE, JobError, JobStatus, NewWatch, Output, Payload,
    PollStats, TimelineEntry, Timestamp, Watch, WatchId, WatchStatus,
};
use crate::store::{
    AmendRefusal, AmendWatch, Change, Idempotent, NotFound, PollNow, Register, StopAndCancel, StopWatch,
    StoredResponse, TimelinePosition, WatchFilter,
};

/// The bounds of `wait`, the time to wait for the end of a watch.
const WAIT: (&str, &str) = ("1ms", "60s");

/// A registration. `jobId` or `poll` is required, and so is a destination (or `"notify": []`), unless the app has a
/// default destination.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "`register` reads it field by field; a test compares the two")]
pub struct Registration {
    /// Id of the job at its provider. It must match the provider's pattern. With `poll`, it is only shown; default: the
    /// path of the URL.
    #[schema(min_length = 1, example = "job_abc123def456")]
    job_id: Option<String>,
    /// The job's provider. Default: the only provider with a credential, else `muvi`.
    provider: Option<String>,
    /// Name of a credential of the app, with which the job is polled in place of the operator's key. The job is then
    /// the app's alone.
    credential: Option<String>,
    /// How to poll a job without a definition, in place of `provider`. The provider is then `inline`.
    poll: Option<Poll>,
    /// URL of a webhook: https, at a public address unless the operator permits others.
    #[schema(max_length = 2048)]
    callback_url: Option<String>,
    /// One mail address, or several.
    email: Option<OneOrMany>,
    /// URL of a Slack webhook, or a Slack channel if a bot token is configured.
    #[schema(min_length = 1)]
    slack: Option<String>,
    /// Id of a saved destination.
    destination_id: Option<DestinationId>,
    /// Further destinations. `[]` without any other destination means that nothing is sent.
    #[schema(max_items = 20)]
    notify: Option<Vec<Target>>,
    /// Events to send: types, `job.*` or `watch.*`. Default: every event that ends a watch.
    #[schema(min_items = 1)]
    events: Option<Vec<String>>,
    /// Name of the watch for people: in subjects of mails, messages and lists.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// The client's own id of the watch. It need not be unique.
    #[schema(min_length = 1, max_length = 255, example = "order-42")]
    reference: Option<String>,
    /// An object of the client's, up to 4 KiB. Events return it byte for byte.
    #[schema(value_type = Option<Object>)]
    metadata: Option<()>,
    /// Further parameters that the provider's definition requires.
    #[schema(value_type = Option<Object>)]
    params: Option<()>,
    /// Time until the watch expires, `1s` to `30d`. Default: the deadline of the provider's definition.
    #[schema(example = "24h")]
    expires_in: Option<String>,
    /// Estimated end of the job: a hint for the poll schedule.
    expected_at: Option<Timestamp>,
    /// Longest interval between two polls, `1s` to `24h`.
    #[schema(example = "10s")]
    poll_interval: Option<String>,
    /// Format of webhooks. Default: `event`.
    payload: Option<Payload>,
    /// The group that the watch belongs to. It then needs no destination of its own.
    group: Option<GroupOfWatch>,
    /// Cancels the job at its provider when the watch expires, unless another app watches it then.
    cancel_job_on_expiry: Option<bool>,
}

/// A watch.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Watch)]
pub struct WatchView<'a> {
    id: WatchId,
    status: WatchStatus,
    job_id: &'a str,
    /// `inline` for a job that is polled as the registration says.
    provider: &'a str,
    /// How such a job is polled, with `***` for the values of headers, the query and the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    poll: Option<&'a RawValue>,
    /// Name of the credential of the app with which a definition polls the job; absent for the operator's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    /// Version of the app's definition by which the job is polled; absent for a definition of the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    definition_version: Option<u32>,
    /// Name for people.
    #[schema(required)]
    name: Option<&'a str>,
    /// The client's own id of the watch.
    #[schema(required)]
    reference: Option<&'a str>,
    job: Job<'a>,
    destinations: Vec<DestinationView<'a>>,
    /// Types of the events that are sent.
    events: Vec<EventType>,
    /// The client's object, as it was given.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
    /// Id of the group that it belongs to.
    #[schema(required)]
    group_id: Option<&'a str>,
    /// The request to cancel the job; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancel_job: Option<JobCancelView<'a>>,
    created_at: Timestamp,
    /// Null while the watch is active.
    #[schema(required)]
    ended_at: Option<Timestamp>,
    expires_at: Timestamp,
}

/// The job, as the last poll saw it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Job<'a> {
    status: JobStatus,
    /// The provider's own word for the status.
    #[schema(required)]
    raw_status: Option<&'a str>,
    /// 0 to 100.
    #[schema(required)]
    progress: Option<u8>,
    /// First URL of the result.
    #[schema(required)]
    output: Option<&'a str>,
    /// Every part of the result.
    #[schema(required)]
    outputs: Option<&'a [Output]>,
    #[schema(required)]
    error: Option<&'a JobError>,
    #[schema(required)]
    created_at: Option<Timestamp>,
    #[schema(required)]
    completed_at: Option<Timestamp>,
    /// Time from which the outputs cannot be read any more; null if it is not known.
    #[schema(required)]
    output_expires_at: Option<Timestamp>,
    #[schema(required)]
    last_polled_at: Option<Timestamp>,
    /// Time at which the next poll happens, if the provider recovers by then; null while the job is being polled.
    #[schema(required)]
    next_poll_at: Option<Timestamp>,
    /// Number of polls since the server started; null if it is not known any more for a watch that has ended.
    #[schema(required)]
    polls: Option<u32>,
    /// Always null: this version makes no estimates.
    #[schema(required)]
    estimated_completion_at: Option<Timestamp>,
    /// Error of the last poll; null if it succeeded.
    #[schema(required)]
    last_error: Option<String>,
}

impl<'a> WatchView<'a> {
    /// Shows a watch. The poller's statistics are lost when the server restarts.
    pub fn of(watch: &'a Watch, polls: Option<PollStats>, waits: Option<&'a Waits>) -> Self {
        let seen = &watch.seen;
        let has_ended = watch.ended_at.is_some();
        // A poll that was requested after the end reports its error here, too.
        let last_error = polls.as_ref().and_then(|polls| polls.last_error.clone());
        let polls = polls.filter(|polls| belong_to(watch.ended_at, polls));
        let count = polls.as_ref().map_or((!has_ended).then_some(0), |polls| Some(polls.polls));
        let polls = polls.unwrap_or_default();
        let is_inline = watch.job.provider == INLINE;
        let inline = watch.poll.as_deref().filter(|_| is_inline);
        let shown = ShownPoll::read(watch.poll.as_deref().filter(|_| !is_inline));
        let ShownPoll { credential, definition_version } = shown;
        Self {
            id: watch.id,
            status: watch.status,
            job_id: &watch.job.job_id,
            provider: &watch.job.provider,
            poll: inline.and_then(|poll| serde_json::from_str(poll).ok()),
            credential,
            definition_version,
            name: watch.name.as_deref(),
            reference: watch.reference.as_deref(),
            job: Job {
                status: seen.status,
                raw_status: seen.raw_status.as_deref(),
                progress: seen.progress,
                output: seen.output.as_deref(),
                outputs: seen.outputs.as_deref(),
                error: seen.error.as_ref(),
                created_at: seen.created_at,
                completed_at: seen.completed_at,
                output_expires_at: seen.outputs_expire_at,
                last_polled_at: polls.last_polled_at,
                next_poll_at: polls.next_poll_at.filter(|_| watch.status == WatchStatus::Watching),
                polls: count,
                estimated_completion_at: None,
                last_error,
            },
            destinations: watch.destinations.iter().map(|one| DestinationView::of(one, waits)).collect(),
            events: EventSet::iter(watch.events).collect(),
            // Checked when the watch was registered.
            metadata: serde_json::from_str(watch.metadata.as_deref().unwrap_or("{}"))
                .unwrap_or(RawValue::NULL),
            group_id: watch.group.as_deref(),
            cancel_job: watch.cancel.as_ref().map(JobCancelView::of),
            created_at: watch.created_at,
            ended_at: watch.ended_at,
            expires_at: watch.expires_at,
        }
    }

    fn now(api: &Api, watch: &'a Watch, waits: &'a Waits) -> Self {
        Self::of(watch, (api.poll_stats)(watch.job_no), Some(waits))
    }
}

/// Whether the statistics of a job are those of a watch that ended at this time. After its end, other watches of the
/// job continue them, or begin new ones.
fn belong_to(ended_at: Option<Timestamp>, polls: &PollStats) -> bool {
    ended_at.is_none_or(|ended_at| polls.last_polled_at.is_some_and(|polled_at| polled_at <= ended_at))
}

/// Answers with a watch.
fn shown(api: &Api, watch: &Watch) -> Response {
    json(StatusCode::OK, &WatchView::now(api, watch, &Waits::of_watches(api, [watch])))
}

/// Makes the answer to a request that changes a watch.
fn changed(api: &Api, status: StatusCode, watch: &Watch) -> StoredResponse {
    first_answer(status, &WatchView::now(api, watch, &Waits::of_watches(api, [watch])))
}

/// Makes the answer to a registration.
fn registered(watch: &Watch) -> StoredResponse {
    created(format!("/v1/watches/{}", watch.id), &WatchView::of(watch, None, None))
}

/// Returns an upper estimate of the size of a watch in the answer to its registration, in bytes, without what polls
/// have found out about its job.
pub(super) fn registered_size(watch: &NewWatch) -> usize {
    // A character takes six bytes at most, as `\u001f`. Metadata is copied byte for byte.
    let len = |text: &Option<String>| text.as_deref().map_or(0, str::len);
    let labels = len(&watch.name) + len(&watch.reference);
    let names = 6 * (watch.job.job_id.len() + watch.job.provider.len() + labels);
    FIXED_SIZE
        + names
        + watch.metadata.as_deref().map_or(0, str::len)
        + watch.poll.as_ref().map_or(0, |poll| poll.shown.len() + 8)
        + watch.group.as_ref().map_or(0, |group| group.name.len())
        + destinations_size(&watch.destinations)
}

/// Size of everything in a watch that does not depend on it: names of fields, ids, times, states and events, in bytes.
const FIXED_SIZE: usize = 1_024;

/// Returns an upper estimate of the size of destinations in an answer, in bytes.
fn destinations_size(destinations: &[Destination]) -> usize {
    let of_headers = |(name, _): &(String, String)| name.len() + 8;
    let size = |one: &Destination| {
        // Addresses can have backslashes, and no control characters.
        let signing = if one.signing.is_some() { 64 } else { 0 };
        256 + signing
            + AuthView::size(one.access.as_deref())
            + 2 * one.address.len()
            + one.headers.iter().map(of_headers).sum::<usize>()
    };
    destinations.iter().map(size).sum()
}

/// Reserves memory for an answer that shows a watch after a change that adds at most `added` bytes.
async fn reserve_shown(call: &Call, id: WatchId, added: usize) -> Answer<()> {
    let watch = call.api.store.watch(call.app(), id).await?.ok_or_else(Problem::not_found)?;
    let shown = changed(&call.api, StatusCode::OK, &watch);
    Ok(call.reserve_answer(shown.body.len() + FIXED_SIZE + added)?)
}

/// Watch a job
///
/// Registers a watch: when the job ends, an event is delivered to each destination. Without an
/// `Idempotency-Key`, a second request for the same job and address makes a second watch.
#[utoipa::path(
    post, path = "/v1/watches", operation_id = "createWatch", tag = "Watches", security(("key" = ["write"])),
    request_body(content = Registration, example = json!({
        "jobId": "job_abc123def456", "callbackUrl": "https://app.example.com/hooks/muvi", "metadata": {"orderId": 42},
    })),
    responses((status = 201, description = "The watch, committed.", body = WatchView,
        headers(("Location" = String, description = "Path of the watch."))))
)]
pub async fn create(call: Call) -> Answer {
    let (at, took) = (call.api.clock.now(), call.api.clock.stopwatch());
    let write = call.write(Content::OBJECT).await?;
    write.api.store.require_schema()?;
    let times = (write.api.clock.now(), Moment::MAX);
    let watch =
        register::read(&write.api, write.app(), &write.text, traceparent(&write.parts), times).await?;
    write.reserve_answer(registered_size(&watch))?;
    let context = register::trace_context(&write.api, &watch);
    let key = write.key_at(watch.created_at);
    let register = Idempotent::new(Register(watch), key, |watch: &Watch| Some(registered(watch)));
    let watch = write.api.store.register(register).await??.map_err(register::refused)?;
    register::record_span(&write.api, context, &watch, "/v1/watches", (at, took.elapsed()));
    Ok(registered(&watch).into_response())
}

/// List watches
///
/// Newest first.
#[utoipa::path(
    get, path = "/v1/watches", operation_id = "listWatches", tag = "Watches", security(("key" = ["read"])),
    params(
        PageParams,
        ("status" = Option<WatchStatus>, Query, description = "Only watches with this status."),
        ("provider" = Option<String>, Query, description = "Only watches on jobs of this provider."),
        ("jobId" = Option<String>, Query, description = "Only watches on jobs with this id."),
        ("reference" = Option<String>, Query, min_length = 1, max_length = 255,
            description = "Only watches with this reference."),
        ("groupId" = Option<String>, Query, max_length = 128, pattern = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$",
            description = "Only watches of this group."),
    ),
    responses((status = 200, description = "A page of watches.", body = Page<WatchView>))
)]
pub async fn list(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit();
    let filter = watch_filter(&mut FilterSource::Query(&mut query), (&call.api, call.app()));
    let before = query.cursor(cursor::List::Watches).map(WatchId);
    let filter = WatchFilter { before, ..filter };
    query.done()?;
    let found = call.api.store.watches(call.app(), filter, limit).await?;
    let waits = Waits::of_watches(&call.api, &found.rows);
    Ok(listed(
        &found,
        |id| cursor::encode(cursor::List::Watches, &id.0),
        |watch| WatchView::now(&call.api, watch, &waits),
    ))
}

/// Show a watch
///
/// With `wait`, answers as soon as the watch has ended; its webhook may still be in flight then.
#[utoipa::path(
    get, path = "/v1/watches/{id}", operation_id = "showWatch", tag = "Watches", security(("key" = ["read"])),
    params(
        ("id" = WatchId, Path),
        ("wait" = Option<String>, Query, pattern = "^([1-9][0-9]{0,3}ms|[1-9]s|[1-5][0-9]s|60s|1m)$",
            description = "Longest time to wait for the end of the watch, 1ms to 60s. The answer comes earlier \
                if the watch ends, the server is about to stop, or the client closes its sending side."),
    ),
    responses((status = 200, description = "The watch.", body = WatchView))
)]
pub async fn show(call: Call) -> Answer {
    let mut query = call.query();
    let wait = query.duration("wait", WAIT);
    query.done()?;
    let id = call.id(WatchId::parse)?;
    let (api, app) = (&call.api, call.app());
    // Subscribed before the watch is read: an end in between completes the wait, too.
    let notifier = wait.map(|wait| (wait, api.store.watch_ends(id)));
    let ended = notifier.as_ref().map(|(wait, notifier)| (*wait, notifier.armed()));
    let mut watch = api.store.watch(app, id).await?.ok_or_else(Problem::not_found)?;
    if let Some((wait, ended)) = ended
        && watch.status == WatchStatus::Watching
    {
        let busy = "too many requests wait for the end of a watch; send it again later, or without `wait`";
        let _permit = api.waits.try_acquire(app).ok_or_else(|| Problem::busy(busy))?;
        let mut draining = api.draining.clone();
        tokio::select! {
            () = ended => {}
            () = api.clock.sleep(wait) => {}
            () = is_set(&mut draining) => {}
            () = call.hung_up() => {}
        }
        watch = api.store.watch(app, id).await?.ok_or_else(Problem::not_found)?;
    }
    Ok(shown(api, &watch))
}

/// Stop a watch
///
/// An active watch becomes `stopped`. A watch that has ended keeps its status, and its pending deliveries
/// are skipped. A request to a receiver that is in flight may still arrive. With `cancelJob`, the job is cancelled at its
/// provider as well, soon after the answer; `cancelJob` of the watch shows the result.
#[utoipa::path(
    post, path = "/v1/watches/{id}/stop", operation_id = "stopWatch", tag = "Watches",
    security(("key" = ["write"])), params(("id" = WatchId, Path)),
    request_body(content = Option<StopOptions>, example = json!({"cancelJob": true})),
    responses(
        (status = 200, description = "The watch.", body = WatchView),
        (status = 409, description = "Another app watches the job, so it cannot be cancelled. Nothing was stopped."),
    )
)]
pub async fn stop(call: Call) -> Answer {
    let write = call.write(Content::Optional).await?;
    let (api, app, id) = (Arc::clone(&write.api), write.app(), write.id(WatchId::parse)?);
    let cancels = job_cancel::is_wanted(&write)?;
    if cancels {
        job_cancel::check_watch(&write, id).await?;
    }
    reserve_shown(&write, id, 0).await?;
    let stop = StopWatch { app, watch: id, now: api.clock.now() };
    // The statistics of the polls can change until the answer is made: a repetition gets the first one.
    let first: Arc<OnceLock<StoredResponse>> = Arc::default();
    let (kept, shows) = (Arc::clone(&first), Arc::clone(&api));
    let answer = move |watch: &Watch| changed(&shows, StatusCode::OK, watch);
    let make = answer.clone();
    let keep = move |watch: &Watch| Some(kept.get_or_init(|| make(watch)).clone());
    let watch = if cancels {
        let stop = Idempotent::new(StopAndCancel(stop), write.key(), keep);
        api.store.stop_and_cancel(stop).await??.map_err(job_cancel::refused)?
    } else {
        let stop = Idempotent::new(stop, write.key(), keep);
        api.store.stop_watch(stop).await??.map_err(|NotFound| Problem::not_found())?
    };
    Ok(first.get_or_init(|| answer(&watch)).clone().into_response())
}

/// A change of a watch. At least one field is required.
#[derive(Default, ToSchema)]
#[schema(rename_all = "camelCase", min_properties = 1)]
struct Amendment {
    /// Time from now until the watch expires, `1s` to `30d`.
    #[schema(example = "48h", value_type = Option<String>)]
    expires_in: Option<Duration>,
    /// Further destinations. A watch has at most 20.
    #[schema(min_items = 1, max_items = 20, value_type = Option<Vec<Target>>)]
    notify: DestinationRequests,
    /// Replaces the name. Null removes it.
    #[schema(min_length = 1, max_length = 200, value_type = Option<String>)]
    name: Change<Option<String>>,
    /// Replaces the reference. Null removes it.
    #[schema(min_length = 1, max_length = 255, value_type = Option<String>)]
    reference: Change<Option<String>>,
    /// Replaces the metadata. Null is the empty object.
    #[schema(value_type = Option<Object>)]
    metadata: Option<String>,
}

/// Change an active watch
///
/// Sets another expiry, adds destinations, or replaces the name, the reference or the metadata. Events that exist
/// already stay as they are.
#[utoipa::path(
    patch, path = "/v1/watches/{id}", operation_id = "amendWatch", tag = "Watches",
    security(("key" = ["write"])), params(("id" = WatchId, Path)),
    request_body(content = Amendment, example = json!({
        "expiresIn": "48h", "notify": ["https://app.example.com/hooks/more"],
    })),
    responses(
        (status = 200, description = "The watch after the change.", body = WatchView),
        (status = 409, description = "The watch has ended."),
    )
)]
pub async fn amend(call: Call) -> Answer {
    let id = call.only_id(WatchId::parse)?;
    let (api, app) = (&call.api, call.app());
    let text = call.json(BODY_MAX).await?;
    let now = api.clock.now();
    let mut errors = FieldErrors::default();
    let Amendment { expires_in, notify, name, reference, metadata } =
        read_amendment(api, &text, &mut errors).unwrap_or_default();
    let destinations = destinations(api, app, &notify, (now, Moment::MAX), &mut errors).await?;
    errors.check()?;
    let len = |change: &Change<Option<String>>| match change {
        Change::Set(Some(text)) => 6 * text.len(),
        Change::Set(None) | Change::Kept => 0,
    };
    let labels = len(&name) + len(&reference);
    let added = destinations_size(&destinations) + labels + metadata.as_deref().map_or(0, str::len);
    reserve_shown(&call, id, added).await?;
    let amend = AmendWatch {
        app,
        watch: id,
        expires_at: expires_in.map(|span| now.plus(span)),
        metadata,
        name,
        reference,
        destinations,
        destinations_max: DESTINATIONS_MAX,
    };
    let problem = match api.store.amend_watch(amend).await? {
        Ok(watch) => return Ok(shown(api, &watch)),
        Err(AmendRefusal::NotFound) => Problem::not_found(),
        Err(AmendRefusal::Ended) => Problem::new(
            ProblemCode::WatchEnded,
            "the watch has ended and cannot be changed; register the job again",
        ),
        Err(AmendRefusal::TooManyDestinations) => {
            let detail =
                format!("a watch has at most {DESTINATIONS_MAX} destinations, those that it has included");
            Problem::field("/notify", FieldErrorCode::TooMany, detail)
        }
        Err(AmendRefusal::DestinationDiffers(address)) => {
            let detail = format!("{address} is a destination already, with other headers or another secret");
            Problem::field("/notify", FieldErrorCode::Conflict, detail)
        }
        Err(AmendRefusal::DestinationDeleted) => register::destination_deleted(),
    };
    Err(problem.into())
}

/// Reads a change. `None`: there are errors.
fn read_amendment(api: &Api, text: &str, errors: &mut FieldErrors) -> Option<Amendment> {
    let raw: &RawValue = serde_json::from_str(text).unwrap_or(RawValue::NULL);
    let mut fields = ObjectReader::read(raw, "", errors)?;
    let metadata = fields.take_nullable("metadata");
    let (name, reference) = (fields.take_nullable("name"), fields.take_nullable("reference"));
    if metadata.is_none() && name.is_none() && reference.is_none() && fields.is_empty() {
        let detail = "must have at least one of: expiresIn, notify, name, reference, metadata";
        fields.errors.add("", FieldErrorCode::Empty, detail);
    }
    let metadata = match metadata {
        None => None,
        Some(raw) if raw.get() == "null" => Some("{}".to_owned()),
        Some(raw) => register::check_metadata(raw, &mut fields),
    };
    let name = labels::change(&mut fields, ("name", name), check_name);
    let reference = labels::change(&mut fields, ("reference", reference), check_reference);
    let mut notify = DestinationReader::new(&api.channels);
    if let Some(list) = fields.list("notify", ENTRIES_MAX) {
        if list.is_empty() {
            fields.error("notify", FieldErrorCode::Empty, "must have at least one destination");
        }
        notify.list(list, &fields.at("notify"), fields.errors);
    }
    let expires_in = fields.duration("expiresIn", register::EXPIRES_IN);
    let destinations = channels::TABLE.iter().filter_map(|spec| Some(spec.shorthand?.field));
    let destinations =
        destinations.map(|field| (field, "cannot be changed; add a destination with `notify`"));
    let others = register::FIXED_FIELDS
        .iter()
        .map(|field| (*field, "cannot be changed; stop this watch and register the job again"));
    for (field, detail) in destinations.chain(others) {
        if fields.take_other(field).is_some() {
            fields.error(field, FieldErrorCode::UnknownField, detail);
        }
    }
    fields.done();
    Some(Amendment { expires_in, notify: notify.requests, name, reference, metadata })
}

/// Poll now
///
/// The job is polled as soon as the provider's rate and the shortest interval permit. For a watch that has
/// ended: one poll, which can refresh the outputs and changes nothing else.
#[utoipa::path(
    post, path = "/v1/watches/{id}/poll", operation_id = "pollWatch", tag = "Watches",
    security(("key" = ["write"])), params(("id" = WatchId, Path)),
    responses((status = 202, description = "The watch. The request to poll is committed.", body = WatchView))
)]
pub async fn poll(call: Call) -> Answer {
    let write = call.write(Content::Nothing).await?;
    let (api, app, id) = (&write.api, write.app(), write.id(WatchId::parse)?);
    let watch = api.store.watch(app, id).await?.ok_or_else(Problem::not_found)?;
    let answer = changed(api, StatusCode::ACCEPTED, &watch);
    write.reserve_answer(answer.body.len())?;
    let poll = PollNow { app, watch: id, now: api.clock.now() };
    let poll = Idempotent::with_response(poll, write.key(), &answer);
    api.store.poll_now(poll).await??.map_err(|NotFound| Problem::not_found())?;
    Ok(answer.into_response())
}

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
pub async fn timeline(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit();
    let after = query.cursor(cursor::List::Timeline).unwrap_or_default();
    query.done()?;
    let id = call.id(WatchId::parse)?;
    let entries =
        call.api.store.timeline(call.app(), id, after, limit + 1).await?.ok_or_else(Problem::not_found)?;
    let cursor =
        |(position, _): &(TimelinePosition, TimelineEntry)| cursor::encode(cursor::List::Timeline, position);
    Ok(page(&entries, limit, cursor, |(_, entry)| entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Access, AppNo, Auth, ChannelKind, ClientCredentials, DestinationId, GroupRequest, Ids, JobCancel,
        JobName, JobNo, KeyKind, Masked, NewPoll, Observation, PollSource, SignatureForm, Signing, Terms,
    };

    #[test]
    fn the_estimate_of_an_answer_is_not_below_its_size() {
        let (at, ids) = (Timestamp::from_millis(1_771_426_800_000), Ids::default());
        let job_id = "\u{1}".repeat(128);
        let job = JobName { provider: "p".repeat(64), account: String::new(), job_id, params: String::new() };
        let one = |channel, address: &str| Destination {
            id: DestinationId(ids.draw(at)),
            channel,
            address: address.to_owned(),
            queue: String::new(),
            headers: (0..32).map(|n| (format!("x-{n}"), "secret".to_owned())).collect(),
            secret: None,
            signing: Some(Box::new(Signing { form: SignatureForm::Standard, keys: KeyKind::ALL.to_vec() })),
            access: Access::of(
                Some(Auth::Oauth2(ClientCredentials {
                    token_url: format!("https://auth.example.com/?{}", "\\".repeat(2_000)),
                    client_id: "\"".repeat(256),
                    client_secret: Masked::new("secret"),
                    audience: Some("\\".repeat(1_024)),
                    scopes: vec!["s".repeat(128); 20],
                })),
                None,
            ),
            saved: None,
        };
        let url = format!("https://app.example.com/?{}", "\\".repeat(2_000));
        let mut destinations = vec![one(ChannelKind::Webhook, &url); 20];
        destinations[0] = one(ChannelKind::Email, "a\"b@c.example");
        destinations[1] = one(ChannelKind::Slack, "#ops");
        for destinations in [destinations, Vec::new()] {
            let terms =
                Terms { expires_at: at, poll_interval: None, expected_at: None, wants_progress: true };
            let new = NewWatch {
                app: AppNo(1),
                id: WatchId(ids.draw(at)),
                job: job.clone(),
                poll: Some(Box::new(NewPoll {
                    id: ids.draw(at),
                    source: PollSource::Inline { poll: Masked::new("s".repeat(9_000)), credential: None },
                    credential: None,
                    shown: format!("{{\"url\":\"{}\"}}", "u".repeat(2_000)),
                })),
                events: EventType::of_watches().collect(),
                payload: Payload::Event,
                name: Some("n".repeat(200)),
                reference: Some("\u{1}".repeat(255)),
                metadata: Some("{\"a\":1}".to_owned()),
                terms,
                traceparent: None,
                destinations,
                group: Some(GroupRequest {
                    name: "g".repeat(128),
                    size: None,
                    rule: None,
                    expires_in: None,
                    notify: None,
                }),
                cancels_on_expiry: true,
                created_at: at,
            };
            let shown = |one: &Destination| (one.clone(), None);
            let watch = Watch {
                id: new.id,
                status: WatchStatus::Watching,
                job: new.job.clone(),
                poll: new.poll.as_ref().map(|poll| poll.shown.clone()),
                job_no: JobNo(1),
                seen: Observation::default(),
                destinations: new.destinations.iter().map(shown).collect(),
                events: new.events,
                name: new.name.clone(),
                reference: new.reference.clone(),
                metadata: new.metadata.clone(),
                group: new.group.as_ref().map(|group| group.name.clone()),
                cancel: Some(JobCancel::on_expiry()),
                created_at: at,
                ended_at: Some(at),
                expires_at: at,
            };
            let (size, estimate) = (registered(&watch).body.len(), registered_size(&new));
            assert!((size..3 * size).contains(&estimate), "{size} {estimate}");
        }
    }
}
