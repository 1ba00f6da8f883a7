//! Answers of handlers.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Bytes;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::idempotency::IDEMPOTENT_REPLAYED;
use super::problem::{FieldErrorCode, Problem, ProblemCode};
use crate::store::{ListPage, Replay, StoreError, StoredResponse};
use crate::tenants::CreateError;

/// What a handler returns. The error is the answer to a request that is refused, or that is a repetition of an
/// earlier one with the same `Idempotency-Key`.
pub type Answer<T = Response> = axum::response::Result<T>;

impl IntoResponse for StoreError {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

impl IntoResponse for CreateError {
    fn into_response(self) -> Response {
        let code = match self {
            Self::Store(error) => return error.into_response(),
            Self::Replayed(replay) => return replay.into_response(),
            Self::NameTaken => ProblemCode::NameTaken,
            Self::TooMany { .. } => ProblemCode::LimitReached,
        };
        Problem::new(code, self.to_string()).into_response()
    }
}

impl IntoResponse for Replay {
    fn into_response(self) -> Response {
        match self {
            Self::OtherRequest => {
                let detail = "was used with another body; use a new key for another request";
                let mut problem = Problem::field("Idempotency-Key", FieldErrorCode::Conflict, detail);
                problem.code = ProblemCode::IdempotencyConflict;
                problem.into_response()
            }
            Self::OtherApiKey => {
                let detail = "this Idempotency-Key was used with another API key, and the response holds a secret: \
                              send the request with that API key";
                Problem::new(ProblemCode::IdempotencyOtherKey, detail).into_response()
            }
            Self::Gone { location } => {
                let place = location.map_or(String::new(), |path| format!(": {path}"));
                let detail = format!(
                    "the request with this Idempotency-Key had succeeded, and its answer is not kept any more; nothing \
                     was done again; read what it made{place}"
                );
                Problem::new(ProblemCode::IdempotencyAnswerGone, detail).into_response()
            }
            Self::Response(first) => ([(IDEMPOTENT_REPLAYED, "true")], first).into_response(),
        }
    }
}

impl IntoResponse for StoredResponse {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or_default();
        let location = self.location.map(|location| [(header::LOCATION, location)]);
        (location, json_text(status, self.body)).into_response()
    }
}

/// Joins repeated headers of an attempt, as HTTP joins them.
pub fn joined(headers: &[(String, String)]) -> BTreeMap<&str, String> {
    let mut joined = BTreeMap::<&str, String>::new();
    for (name, value) in headers {
        let all = joined.entry(name).or_default();
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(value);
    }
    joined
}

/// Marks an answer whose body is a static text, which all answers share.
#[derive(Clone, Copy, Debug)]
pub struct SharedBody;

/// Makes an answer of JSON text.
pub fn json_text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, content_type)], Body::from(text.into())).into_response()
}

/// Serialises a view. Views hold strings, numbers and checked JSON, so serialising cannot fail.
fn json_bytes(view: &impl Serialize) -> Vec<u8> {
    // Most answers fit, so the buffer does not grow step by step.
    let mut body = Vec::with_capacity(1024);
    if serde_json::to_writer(&mut body, view).is_err() {
        body.clear();
    }
    body
}

/// Makes an answer of a view.
pub fn json(status: StatusCode, view: &impl Serialize) -> Response {
    json_text(status, json_bytes(view))
}

/// Makes the answer to a write. The store keeps it where the request has an `Idempotency-Key`.
pub fn first_answer(status: StatusCode, view: &impl Serialize) -> StoredResponse {
    StoredResponse { status: status.as_u16(), location: None, body: json_bytes(view) }
}

/// Makes a 201 with the path of the new resource.
pub fn created(location: String, view: &impl Serialize) -> StoredResponse {
    StoredResponse { location: Some(location), ..first_answer(StatusCode::CREATED, view) }
}

/// A page of a list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// The entries.
    data: Vec<T>,
    /// `cursor` of the next page; null at the end of the list, and only there. A page can be short, or empty,
    /// although another one follows.
    #[schema(required)]
    next_cursor: Option<String>,
}

impl<T: Serialize> Page<T> {
    /// Makes the answer of a page.
    pub fn reply(data: Vec<T>, next_cursor: Option<String>) -> Response {
        json(StatusCode::OK, &Self { data, next_cursor })
    }
}

/// Makes the answer of a page of the store.
pub fn listed<'a, T, C: Copy, V: Serialize>(
    page: &'a ListPage<T, C>,
    cursor: impl Fn(C) -> String,
    view: impl Fn(&'a T) -> V,
) -> Response {
    Page::reply(page.rows.iter().map(view).collect(), page.next.map(cursor))
}

/// Makes a page of at most `limit` rows. `rows` holds one more if there is a next page.
pub fn page<'a, T, V: Serialize>(
    rows: &'a [T],
    limit: u32,
    cursor: impl Fn(&'a T) -> String,
    view: impl Fn(&'a T) -> V,
) -> Response {
    let shown = &rows[..rows.len().min(limit as usize)];
    let next_cursor = shown.last().filter(|_| shown.len() < rows.len()).map(cursor);
    Page::reply(shown.iter().map(view).collect(), next_cursor)
}

/// Parameters of every list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "`Query` reads them; a test compares the two")]
pub struct PageParams {
    /// Largest number of entries.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<u32>,
    /// `nextCursor` of the previous page.
    cursor: Option<String>,
}
