//! Many registrations in one request.
//!
//! - Each item is read and judged as if it came alone. Its errors have pointers into the item.
//! - The valid items are registered in one transaction: either all of them are committed or none. If the
//!   database refuses, the whole request is a 503 and nothing was registered.
//! - The answer is larger than the body, which may not be counted at all (`http/memory_budget`). So the number of listed
//!   errors is limited over all items, and the memory of the answer is reserved before anything is registered.
//! - Without a valid item, nothing is written, and no answer is stored for an `Idempotency-Key`: a repetition gives the
//!   same one.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::groups;
use super::http::{
    Answer, Api, BATCH_MAX, BODY_MAX, Call, Content, FieldErrorCode, FieldErrors, ObjectReader, Problem,
    ProblemCode, ProblemView, first_answer, json, too_large, traceparent,
};
use super::register;
use super::watches::{Registration, WatchView, registered_size};
use crate::domain::{AppNo, NewWatch, Timestamp, Watch};
use crate::store::{GroupRefusal, Idempotent, RegisterMany};

/// Largest number of watches in a batch: one transaction registers all, and other writes wait for it.
const WATCHES_MAX: usize = 1_000;

/// Number of items that are read at a time. Each may resolve the names of 20 destinations.
const AT_ONCE: usize = 64;

/// Time for all name look-ups of a batch. A thousand hosts without an answer would take a quarter of a
/// minute. A name that was not looked up in time is accepted, as a name that does not resolve yet.
const LOOK_UPS_FOR: Duration = Duration::from_secs(5);

/// Largest number of field errors in the answer to a batch. Each refused item lists at least its first, and there are no
/// more items than errors.
const ERRORS_MAX: usize = WATCHES_MAX;

/// A batch of registrations.
#[derive(ToSchema)]
#[expect(dead_code, reason = "`items` reads it, with an error for each item")]
struct Batch {
    /// Each at most 256 KiB, all together at most 8 MiB.
    #[schema(min_items = 1, max_items = 1000)]
    watches: Vec<Registration>,
}

/// The result of one item.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum BatchItem<'a> {
    /// The item is registered.
    #[schema(title = "BatchItemRegistered")]
    Registered {
        /// 201.
        status: u16,
        watch: Box<WatchView<'a>>,
    },
    /// The item is refused.
    #[schema(title = "BatchItemRefused")]
    Refused {
        /// The status that a request with this item alone would have.
        status: u16,
        problem: ProblemView<'a>,
    },
}

/// The result of each item, in the order of the batch.
#[derive(Serialize, ToSchema)]
struct BatchAnswer<'a> {
    data: Vec<BatchItem<'a>>,
}

/// Watch many jobs
///
/// Up to 1,000 registrations in up to 8 MiB. Each item gets its own result, as if it came alone. The valid
/// items are registered together: all of them, or none if the answer is not a 2xx.
#[utoipa::path(
    post, path = "/v1/watches/batch", operation_id = "createWatches", tag = "Watches",
    security(("key" = ["write"])),
    request_body(content = Batch, example = json!({"watches": [{"jobId": "job_abc123def456", "notify": []}]})),
    responses((status = 200, description = "The result of each item.", body = BatchAnswer))
)]
pub async fn create(call: Call) -> Answer {
    call.no_query()?;
    let (at, took) = (call.api.clock.now(), call.api.clock.stopwatch());
    let mut write = call.write(Content::Json(BATCH_MAX)).await?;
    let _permit = write.api.batches.acquire(write.app(), &write.api.clock).await?;
    let text = std::mem::take(&mut write.text);
    let api = &write.api;
    api.store.require_schema()?;
    let now = api.clock.now();
    let items = read(api, write.app(), &text, traceparent(&write.parts), now).await?;
    drop(text);
    // The refused items in their places; `None` stands for the next of the registered watches.
    let mut watches = Vec::with_capacity(items.len());
    let mut refused = Vec::with_capacity(items.len());
    for item in items {
        refused.push(item.map(|watch| watches.push(watch)).err());
    }
    let refusals = first_answer(StatusCode::OK, &view(&refused, &[]));
    write.reserve_answer(refusals.body.len() + answer_size(api, write.app(), &watches).await?)?;
    if watches.is_empty() {
        return Ok(refusals.into_response());
    }
    drop(refusals);
    let refused = Arc::new(refused);
    let contexts: Vec<_> = watches.iter().map(|watch| register::trace_context(api, watch)).collect();
    let kept = Arc::clone(&refused);
    let register = Idempotent::new(
        RegisterMany(watches),
        write.key_at(now),
        move |made: &Vec<Result<Watch, GroupRefusal>>| {
            let is_any = made.iter().any(Result::is_ok);
            is_any.then(|| first_answer(StatusCode::OK, &view(&kept, &judged(made))))
        },
    );
    let made = api.store.register_many(register).await??.map_err(register::refused)?;
    for (context, watch) in contexts.into_iter().zip(&made) {
        let Ok(watch) = watch else { continue };
        register::record_span(api, context, watch, "/v1/watches/batch", (at, took.elapsed()));
    }
    Ok(json(StatusCode::OK, &view(&refused, &judged(&made))))
}

/// Returns an upper estimate of the part of the answer about these watches, in bytes.
async fn answer_size(api: &Api, app: AppNo, watches: &[NewWatch]) -> Result<usize, Problem> {
    if watches.is_empty() {
        return Ok(0);
    }
    let jobs = watches.iter().map(|watch| watch.job.clone()).collect();
    let seen: usize = api.store.seen_sizes(app, jobs).await?.into_iter().sum();
    Ok(seen + watches.iter().map(registered_size).sum::<usize>())
}

/// Removes field errors beyond [`ERRORS_MAX`], from the end of the batch. Each refused item keeps its first.
///
/// It can be called while items are missing: an item loses no error that it would keep at the end, because further
/// items only leave fewer errors to it.
fn limit_errors(items: &mut [Result<NewWatch, Problem>]) {
    let refused = items.iter().filter(|item| item.as_ref().is_err_and(|problem| !problem.errors.is_empty()));
    let mut left = ERRORS_MAX.saturating_sub(refused.count());
    for problem in items.iter_mut().filter_map(|item| item.as_mut().err()) {
        let more = problem.errors.len().saturating_sub(1).min(left);
        problem.list_at_most(1 + more);
        left -= more;
    }
}

/// Reads every item. The outer error refuses the whole request.
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
    let times = (now, api.clock.moment().plus(LOOK_UPS_FOR));
    // An item keeps this problem only if reading it panicked.
    let broken = || Problem::new(ProblemCode::Internal, "internal error; the server's log has the details");
    let mut read: Vec<_> = items.iter().map(|_| Err(broken())).collect();
    let mut listed = 0;
    let mut keep = |n: usize, item: Result<NewWatch, Problem>| {
        listed += item.as_ref().err().map_or(0, |problem| problem.errors.len());
        read[n] = item;
        // Not only at the end: a batch of 540 KB has 256,000 errors.
        if listed > 2 * ERRORS_MAX {
            limit_errors(&mut read);
            listed = ERRORS_MAX;
        }
    };
    let mut reading = JoinSet::new();
    for (n, item) in items.into_iter().enumerate() {
        if item.get().len() > BODY_MAX {
            keep(n, Err(too_large("the item", BODY_MAX)));
            continue;
        }
        if reading.len() == AT_ONCE
            && let Some(Ok((n, item))) = reading.join_next().await
        {
            keep(n, item);
        }
        let (api, item, traceparent) =
            (Arc::clone(api), item.get().to_owned(), traceparent.map(str::to_owned));
        reading
            .spawn(async move { (n, register::read(&api, app, &item, traceparent.as_deref(), times).await) });
    }
    while let Some(joined) = reading.join_next().await {
        if let Ok((n, item)) = joined {
            keep(n, item);
        }
    }
    limit_errors(&mut read);
    Ok(read)
}

fn items<'a>(text: &'a str, errors: &mut FieldErrors) -> Vec<&'a RawValue> {
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else { return Vec::new() };
    // Nesting is checked for each item: a deep item is an error of its own.
    let Some(mut fields) = ObjectReader::read_to(usize::MAX, raw, "", errors) else { return Vec::new() };
    if !fields.has("watches") {
        fields.error("watches", FieldErrorCode::Required, "is required");
    }
    let items = fields.list("watches", WATCHES_MAX);
    if let Some(items) = &items
        && !(1..=WATCHES_MAX).contains(&items.len())
    {
        let code = if items.is_empty() { FieldErrorCode::Empty } else { FieldErrorCode::TooMany };
        fields.error("watches", code, format!("must have 1 to {WATCHES_MAX} watches"));
    }
    fields.done();
    items.unwrap_or_default()
}

/// Returns the watches that were registered, and the problems of those that do not fit their groups.
fn judged(made: &[Result<Watch, GroupRefusal>]) -> Vec<Result<&Watch, Problem>> {
    made.iter().map(|made| made.as_ref().map_err(groups::refused)).collect()
}

fn view<'a>(refused: &'a [Option<Problem>], made: &'a [Result<&'a Watch, Problem>]) -> BatchAnswer<'a> {
    let refusal = |problem: &'a Problem| BatchItem::Refused {
        status: problem.code.status().as_u16(),
        problem: problem.view(None),
    };
    let mut made = made.iter();
    let items = refused.iter().filter_map(|problem| match problem {
        Some(problem) => Some(refusal(problem)),
        None => made.next().map(|made| match made {
            Ok(watch) => BatchItem::Registered {
                status: StatusCode::CREATED.as_u16(),
                watch: Box::new(WatchView::of(watch, None, None)),
            },
            Err(problem) => refusal(problem),
        }),
    });
    BatchAnswer { data: items.collect() }
}
