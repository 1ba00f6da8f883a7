//! Watches: register, list, show, stop, look now, tell the story.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::value::to_raw_value;

use super::http::{
    BODY_MAX, Caller, IdempotencyClaim, PathId, Problem, Query, RequestBody, cursor, is_set, traceparent,
};
use super::registration_span::RegistrationSpan;
use super::{Answer, Api, answered, first_answer, page, register, replayed, reply, view};
use crate::domain::{Timestamp, Watch, WatchId, WatchStatus, parse_duration};
use crate::store::{
    FirstAnswer, PollNow, PollNowResult, Register, Registered, Scope, Stop, Stopped, TimelineEntry,
    TimelinePosition, WatchFilter,
};

/// The longest wait for the end of a watch.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn path(id: WatchId) -> String {
    format!("/v1/watches/{id}")
}

/// The first answer to a registration; kept where there is an `Idempotency-Key`.
fn registered(watch: &Watch) -> FirstAnswer {
    let body = serde_json::to_vec(&view::watch(watch, None)).unwrap_or_default();
    first_answer(StatusCode::CREATED, Some(path(watch.id)), body)
}

/// `POST /v1/watches`
pub async fn create(State(api): State<Arc<Api>>, caller: Caller, body: RequestBody, parts: Parts) -> Answer {
    let app = caller.require(Scope::Write)?;
    let (at, took) = (api.clock.now(), api.clock.stopwatch());
    Query::new(&parts).done()?;
    let text = body.json(BODY_MAX).await?;
    let claim = IdempotencyClaim::new(&api, app, &parts, text.as_bytes())?;
    if let Some(replay) = IdempotencyClaim::first_answer(claim.as_ref()).await? {
        return replayed(replay);
    }
    let times = (api.clock.now(), Timestamp::MAX);
    let watch = register::read(&api, app, &text, traceparent(&parts), times).await?;
    let remember = claim.as_ref().map(IdempotencyClaim::remember);
    let trace = RegistrationSpan::new(&api, &watch, at);
    match api.store.register(Register { watch, remember, answer: registered }).await? {
        Registered::New(watch) => {
            api.store.tracer().record(|| Some(trace?.end("/v1/watches", took.elapsed())));
            Ok(answered(registered(&watch)))
        }
        Registered::Replayed(replay) => replayed(replay),
    }
}

/// `GET /v1/watches`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let app = caller.require(Scope::Read)?;
    let mut query = Query::new(&parts);
    let limit = query.limit();
    let filter = WatchFilter {
        status: query.word("status", WatchStatus::WORDS, WatchStatus::parse),
        provider: query.text("provider"),
        job_id: query.text("jobId"),
        before: query.read("cursor", cursor::WRONG, |text| cursor::decode(text).map(WatchId)),
    };
    if let Some(provider) = filter.provider.as_deref().filter(|name| api.providers.get(name).is_none()) {
        let unknown = register::unknown_provider(&api, provider);
        query.errors.keep("?provider", Err::<(), _>(unknown));
    }
    query.done()?;
    let found = api.store.watches(app, filter, limit + 1).await?;
    let shown = |watch: &Watch| to_raw_value(&view::watch(watch, (api.poll_stats)(watch.job_no)));
    Ok(page(found.iter(), limit, |watch| cursor::encode(watch.id.0), |watch| shown(watch).ok()))
}

/// `GET /v1/watches/{id}`
pub async fn show(State(api): State<Arc<Api>>, caller: Caller, PathId(id): PathId, parts: Parts) -> Answer {
    let app = caller.require(Scope::Read)?;
    let mut query = Query::new(&parts);
    let wait = query.read("wait", "must be a duration of at most 60s", |text| {
        parse_duration(text).ok().filter(|wait| *wait <= WAIT_MAX)
    });
    query.done()?;
    let id = WatchId::parse(&id).ok_or_else(Problem::not_found)?;
    // Armed before the watch is read: an end in between rings all the same.
    let bell = wait.map(|wait| (wait, api.store.watch_ends(id)));
    let rung = bell.as_ref().map(|(wait, bell)| (*wait, bell.armed()));
    let mut watch = api.store.watch(app, id).await?.ok_or_else(Problem::not_found)?;
    if let Some((wait, rung)) = rung
        && watch.status == WatchStatus::Watching
    {
        let Some(_permit) = api.waits.try_acquire(app) else {
            return Err(Problem::busy(
                "too many requests wait for the end of a watch; send it again later, or without `wait`",
            ));
        };
        let mut draining = api.draining.clone();
        tokio::select! {
            () = rung => {}
            () = api.clock.sleep(wait) => {}
            () = is_set(&mut draining) => {}
        }
        watch = api.store.watch(app, id).await?.ok_or_else(Problem::not_found)?;
    }
    Ok(shown(&api, StatusCode::OK, &watch))
}

/// `DELETE /v1/watches/{id}`
pub async fn stop(State(api): State<Arc<Api>>, caller: Caller, PathId(id): PathId, parts: Parts) -> Answer {
    let app = caller.require(Scope::Write)?;
    Query::new(&parts).done()?;
    let id = WatchId::parse(&id).ok_or_else(Problem::not_found)?;
    match api.store.stop(Stop { app, watch: id, now: api.clock.now() }).await? {
        Stopped::Unknown => Err(Problem::not_found()),
        Stopped::Done => {
            let watch = api.store.watch(app, id).await?.ok_or_else(Problem::not_found)?;
            Ok(shown(&api, StatusCode::OK, &watch))
        }
    }
}

/// `POST /v1/watches/{id}/poll`
pub async fn poll(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId,
    body: RequestBody,
    parts: Parts,
) -> Answer {
    let app = caller.require(Scope::Write)?;
    Query::new(&parts).done()?;
    let body = body.no_fields().await?;
    let claim = IdempotencyClaim::new(&api, app, &parts, &body)?;
    if let Some(replay) = IdempotencyClaim::first_answer(claim.as_ref()).await? {
        return replayed(replay);
    }
    let id = WatchId::parse(&id).ok_or_else(Problem::not_found)?;
    let watch = api.store.watch(app, id).await?.ok_or_else(Problem::not_found)?;
    let body = serde_json::to_vec(&view::watch(&watch, (api.poll_stats)(watch.job_no))).unwrap_or_default();
    let answer = first_answer(StatusCode::ACCEPTED, None, body);
    let remember = claim.as_ref().map(|claim| (claim.remember(), answer.clone()));
    match api.store.poll_now(PollNow { app, watch: id, remember, now: api.clock.now() }).await? {
        PollNowResult::Unknown => Err(Problem::not_found()),
        PollNowResult::Wanted => Ok(answered(answer)),
        PollNowResult::Replayed(replay) => replayed(replay),
    }
}

/// `GET /v1/watches/{id}/story`
pub async fn story(State(api): State<Arc<Api>>, caller: Caller, PathId(id): PathId, parts: Parts) -> Answer {
    let app = caller.require(Scope::Read)?;
    let mut query = Query::new(&parts);
    let limit = query.limit();
    let after = query.read("cursor", cursor::WRONG, cursor::decode_timeline_position).unwrap_or_default();
    query.done()?;
    let id = WatchId::parse(&id).ok_or_else(Problem::not_found)?;
    let story = api.store.story(app, id, after, limit + 1).await?.ok_or_else(Problem::not_found)?;
    let shown = |(place, timeline_entry): &(TimelinePosition, TimelineEntry)| {
        to_raw_value(&view::timeline_entry(place.at, timeline_entry.clone())).ok()
    };
    Ok(page(story.iter(), limit, |(place, _)| cursor::encode_timeline_position(*place), shown))
}

/// A watch as an answer.
pub(super) fn shown(api: &Api, status: StatusCode, watch: &Watch) -> Response {
    let looks = (api.poll_stats)(watch.job_no);
    reply(status, serde_json::to_vec(&view::watch(watch, looks)).unwrap_or_default())
}
