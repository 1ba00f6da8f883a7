//! Many registrations in one request.
//!
//! Each item is read and judged as if it had come alone; those that are right are registered in one
//! transaction, so that a batch is either on disk or it is not: where the database refuses, the whole
//! request is a 503 and nothing was registered. What is wrong with an item is told in its place, with
//! pointers into the item.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::http::{
    BATCH_MAX, BODY_MAX, Caller, FieldErrorCode, FieldErrors, IdempotencyClaim, ObjectReader, Problem,
    ProblemCode, ProblemView, Query, RequestBody, object_reader::first, too_large, traceparent,
};
use super::registration_span::RegistrationSpan;
use super::{Answer, Api, first_answer, register, replayed, reply, view};
use crate::domain::{AppNo, NewWatch, Timestamp, Watch};
use crate::store::{AnswerToMany, RegisterMany, RegisteredMany, Scope};

/// How many watches a batch may hold: what one transaction takes from its other callers' patience.
const WATCHES_MAX: usize = 1_000;

/// How many items are read at a time: each may look up the names of 20 destinations.
const AT_ONCE: usize = 64;

/// How long names are looked up for a batch in all. A thousand hosts that do not answer would take a
/// quarter of a minute; a name for which there was no time is taken like one that does not resolve yet.
const LOOK_UPS_FOR: Duration = Duration::from_secs(5);

/// What became of an item.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = BatchItem)]
enum ItemView<'a> {
    /// It is registered.
    Made {
        /// 201.
        status: u16,
        /// The watch.
        watch: Box<view::WatchView<'a>>,
    },
    /// It was refused.
    Refused {
        /// As if it had come alone.
        status: u16,
        /// Why.
        problem: ProblemView<'a>,
    },
}

/// What became of each item, in the order of the batch.
#[derive(Serialize, ToSchema)]
#[schema(as = BatchAnswer)]
pub struct BatchView<'a> {
    data: Vec<ItemView<'a>>,
}

/// `POST /v1/watches/batch`
pub async fn create(State(api): State<Arc<Api>>, caller: Caller, body: RequestBody, parts: Parts) -> Answer {
    let app = caller.require(Scope::Write)?;
    let (at, took) = (api.clock.now(), api.clock.stopwatch());
    Query::new(&parts).done()?;
    let Some(_permit) = api.batches.try_acquire(app) else {
        return Err(Problem::busy("too many batches are in progress; send this one again later"));
    };
    let text = body.json(BATCH_MAX).await?;
    let claim = IdempotencyClaim::new(&api, app, &parts, text.as_bytes())?;
    if let Some(replay) = IdempotencyClaim::first_answer(claim.as_ref()).await? {
        return replayed(replay);
    }
    let now = api.clock.now();
    let items = read(&api, app, &text, traceparent(&parts), now).await?;
    drop(text);
    // What was refused, in its place; `None`: the next of the watches that are made.
    let mut watches = Vec::with_capacity(items.len());
    let mut refused = Vec::with_capacity(items.len());
    for item in items {
        refused.push(item.map(|watch| watches.push(watch)).err());
    }
    let refused = Arc::new(refused);
    let traces: Vec<_> = watches.iter().filter_map(|watch| RegistrationSpan::new(&api, watch, at)).collect();
    let remember = claim.as_ref().map(|claim| {
        let refused = Arc::clone(&refused);
        let answer = move |made: &[Watch]| first_answer(StatusCode::OK, None, answer(&refused, made));
        (claim.remember(), Box::new(answer) as AnswerToMany)
    });
    match api.store.register_many(RegisterMany { watches, remember, now }).await? {
        RegisteredMany::New(made) => {
            for trace in traces {
                api.store.tracer().record(|| Some(trace.end("/v1/watches/batch", took.elapsed())));
            }
            Ok(reply(StatusCode::OK, answer(&refused, &made)))
        }
        RegisteredMany::Replayed(replay) => replayed(replay),
    }
}

/// Reads every item; the outer error is the whole request's.
async fn read(
    api: &Arc<Api>,
    app: AppNo,
    text: &str,
    traceparent: Option<&str>,
    now: Timestamp,
) -> Result<Vec<Result<NewWatch, Problem>>, Problem> {
    let mut errors = FieldErrors::default();
    let items = items(text, &mut errors);
    errors.check()?;
    let times = (now, now.plus(LOOK_UPS_FOR));
    let mut read: Vec<Option<Result<NewWatch, Problem>>> = Vec::new();
    read.resize_with(items.len(), || None);
    let mut reading = JoinSet::new();
    let mut waiting = items.into_iter().enumerate();
    loop {
        while reading.len() < AT_ONCE {
            let Some((n, item)) = waiting.next() else { break };
            if item.get().len() > BODY_MAX {
                read[n] = Some(Err(too_large("the item", BODY_MAX)));
                continue;
            }
            let (api, item) = (Arc::clone(api), item.get().to_owned());
            let traceparent = traceparent.map(str::to_owned);
            reading.spawn(async move {
                (n, register::read(&api, app, &item, traceparent.as_deref(), times).await)
            });
        }
        match reading.join_next().await {
            Some(Ok((n, item))) => read[n] = Some(item),
            Some(Err(_)) => {}
            None => break,
        }
    }
    // An item is missing only if its task panicked.
    let broken =
        || Err(Problem::new(ProblemCode::Internal, "internal error; the server's log has the details"));
    Ok(read.into_iter().map(|item| item.unwrap_or_else(broken)).collect())
}

fn items<'a>(text: &'a str, errors: &mut FieldErrors) -> Vec<&'a RawValue> {
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else { return Vec::new() };
    // How deep an item is nested is its own mistake.
    let Some(mut fields) = ObjectReader::read_to(usize::MAX, raw, "", errors) else { return Vec::new() };
    let at = fields.at("watches");
    let items = fields.take("watches").map(|raw| first(raw, WATCHES_MAX));
    match &items {
        None => errors.add(at, FieldErrorCode::Required, "is required"),
        Some(None) => errors.add(at, FieldErrorCode::InvalidType, "must be a list"),
        Some(Some(items)) if (1..=WATCHES_MAX).contains(&items.len()) => {}
        Some(Some(items)) => {
            let code = if items.is_empty() { FieldErrorCode::Empty } else { FieldErrorCode::TooMany };
            errors.add(at, code, format!("must have 1 to {WATCHES_MAX} watches"));
        }
    }
    fields.done(errors);
    items.flatten().unwrap_or_default()
}

fn answer(refused: &[Option<Problem>], made: &[Watch]) -> Vec<u8> {
    let mut made = made.iter();
    let shown = refused.iter().filter_map(|problem| match problem {
        Some(problem) => {
            Some(ItemView::Refused { status: problem.status().as_u16(), problem: problem.view(None) })
        }
        None => made.next().map(|watch| ItemView::Made {
            status: StatusCode::CREATED.as_u16(),
            watch: Box::new(view::watch(watch, None)),
        }),
    });
    serde_json::to_vec(&BatchView { data: shown.collect() }).unwrap_or_default()
}
