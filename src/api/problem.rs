//! What goes wrong, as RFC 9457 problem details.
//!
//! A handler returns a [`Problem`]; the front door adds the request's id and writes the body, so no
//! handler needs to know it.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::store::StoreError;

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer into the body, `?name` for a parameter, or a header's name.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

/// How many errors of one request are named: a body of 256 KiB has room for a hundred thousand, and none
/// that is meant has more fields.
const FAULTS_MAX: usize = 256;

/// All that is wrong, in the order in which it was found.
#[derive(Clone, Debug, Default)]
pub struct FieldErrors {
    named: Vec<FieldError>,
    count: usize,
}

impl FieldErrors {
    /// Adds one.
    pub fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.count += 1;
        if self.named.len() < FAULTS_MAX {
            self.named.push(FieldError { pointer: pointer.into(), detail: detail.into() });
        }
    }

    /// `Ok` where nothing is wrong.
    pub fn check(self) -> Result<(), Problem> {
        if self.count == 0 { Ok(()) } else { Err(Problem::invalid(self)) }
    }
}

/// A refusal.
#[derive(Clone, Debug)]
pub struct Problem {
    /// HTTP's.
    pub status: StatusCode,
    /// For people.
    pub detail: String,
    /// Every invalid field.
    pub errors: Vec<FieldError>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A refusal of `status`.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), errors: Vec::new(), header: None }
    }

    /// 422, with every field that is wrong.
    pub fn invalid(errors: FieldErrors) -> Self {
        let detail = match (errors.named.as_slice(), errors.count) {
            ([one], _) if one.pointer.is_empty() => format!("the whole {}", one.detail),
            ([one], _) => format!("{}: {}", one.pointer, one.detail),
            (named, count) if named.len() < count => {
                format!("{count} fields are wrong; these are the first {}", named.len())
            }
            (_, count) => format!("{count} fields are wrong"),
        };
        Self { errors: errors.named, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
    }

    /// 422, with the one field that is wrong.
    pub fn fault(pointer: &str, detail: impl Into<String>) -> Self {
        let mut errors = FieldErrors::default();
        errors.add(pointer, detail);
        Self::invalid(errors)
    }

    /// 404: unknown, malformed, or another app's; which of them is nobody's business.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is nothing here by this name")
    }

    /// 401.
    pub fn unauthorized() -> Self {
        let mut problem =
            Self::new(StatusCode::UNAUTHORIZED, "give a valid key: `Authorization: Bearer <key>`");
        problem.header = Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        problem
    }

    /// 503: later perhaps.
    pub fn unavailable(detail: &str) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        problem.header = Some((header::RETRY_AFTER, HeaderValue::from_static("1")));
        problem
    }

    /// The body, once the request's id is known.
    pub fn render(&self, request_id: &str) -> Vec<u8> {
        serde_json::to_vec(&self.view(Some(request_id))).unwrap_or_default()
    }

    /// What is shown; of one item of several without the request's id, which is the whole's.
    pub fn view<'a>(&'a self, request_id: Option<&'a str>) -> ProblemView<'a> {
        ProblemView {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            request_id,
            errors: &self.errors,
        }
    }
}

/// RFC 9457 problem details.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemView<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason) => {
                tracing::warn!(error = %reason, "a request was refused: the database is not available");
                Self::unavailable("the database is not available; nothing was changed")
            }
            StoreError::Unknown(reason) => {
                tracing::warn!(error = %reason, "a request has no answer: the database was lost while it was asked to write");
                Self::unavailable(
                    "the database was lost while it was asked to write, and it is not known whether it did; with an \
                     Idempotency-Key it is safe to ask again",
                )
            }
            StoreError::Inconsistent(reason) => {
                tracing::error!(error = %reason, "a request failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "this is our fault; the log knows more")
            }
        }
    }
}

impl IntoResponse for Problem {
    /// The body is written at the front door, which finds the problem among the extensions.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if let Some((name, value)) = self.header.clone() {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(self);
        response
    }
}
