//! Refusals as RFC 9457 problem details.
//!
//! A handler returns a [`Problem`]; `serve` adds the request's id and writes the body, so no handler
//! needs to know the id.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::problem_code::{FieldErrorCode, ProblemCode};
use crate::domain::AddressError;
use crate::store::StoreError;

/// An error in one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// A JSON pointer into the body, `?name` for a parameter, or a header's name.
    pub pointer: String,
    /// The kind of error.
    pub code: FieldErrorCode,
    /// What is wrong, and what to do about it.
    pub detail: String,
}

/// The code and the detail of a field error, before its place is known.
pub type Invalid = (FieldErrorCode, String);

impl From<AddressError> for Invalid {
    fn from(error: AddressError) -> Self {
        match error {
            AddressError::Invalid(detail) => (FieldErrorCode::InvalidAddress, detail),
            AddressError::Forbidden(detail) => (FieldErrorCode::ForbiddenAddress, detail),
            AddressError::NotAllowed(detail) => (FieldErrorCode::NotAllowedRecipient, detail),
            AddressError::NotConfigured(detail) => (FieldErrorCode::ChannelNotConfigured, detail),
        }
    }
}

/// The error for a value outside a closed set; the detail lists the set.
pub fn not_one_of<'w>(value: &str, allowed: impl IntoIterator<Item = &'w str>) -> Invalid {
    let allowed: Vec<&str> = allowed.into_iter().collect();
    let value: String = value.chars().take(SHOWN_MAX).collect();
    (
        FieldErrorCode::InvalidValue,
        format!("`{value}` is not allowed here; use one of: {}", allowed.join(", ")),
    )
}

/// Maximum length of an invalid value that a detail repeats, in characters.
const SHOWN_MAX: usize = 64;

/// Maximum number of errors that one problem lists: a body of 256 KiB has room for a hundred thousand, and
/// no valid request has more fields.
const ERRORS_MAX: usize = 256;

/// The field errors of a request, in the order in which they were found.
#[derive(Clone, Debug, Default)]
pub struct FieldErrors {
    listed: Vec<FieldError>,
    count: usize,
}

impl FieldErrors {
    /// Adds an error.
    pub fn add(&mut self, pointer: impl Into<String>, code: FieldErrorCode, detail: impl Into<String>) {
        self.count += 1;
        if self.listed.len() < ERRORS_MAX {
            self.listed.push(FieldError { pointer: pointer.into(), code, detail: detail.into() });
        }
    }

    /// Adds the error of a result, whose value it returns.
    pub fn keep<T>(
        &mut self,
        pointer: impl Into<String>,
        result: Result<T, impl Into<Invalid>>,
    ) -> Option<T> {
        result
            .map_err(|invalid| {
                let (code, detail) = invalid.into();
                self.add(pointer, code, detail);
            })
            .ok()
    }

    /// Returns `Ok` if there is no error.
    pub fn check(self) -> Result<(), Problem> {
        if self.count == 0 { Ok(()) } else { Err(Problem::invalid(self)) }
    }
}

/// A refusal.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The kind of problem.
    pub code: ProblemCode,
    /// What is wrong and what to do, as a sentence.
    pub detail: String,
    /// The invalid fields.
    pub errors: Vec<FieldError>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of this kind. A 503 asks the client to wait for a second.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        let header = (code.status() == StatusCode::SERVICE_UNAVAILABLE)
            .then(|| (header::RETRY_AFTER, HeaderValue::from_static("1")));
        Self { code, detail: detail.into(), errors: Vec::new(), header }
    }

    /// 422 with every invalid field.
    pub fn invalid(errors: FieldErrors) -> Self {
        let detail = match (errors.listed.as_slice(), errors.count) {
            ([only], _) if only.pointer.is_empty() => format!("the body {}", only.detail),
            ([only], _) => format!("{}: {}", only.pointer, only.detail),
            (listed, count) if listed.len() < count => {
                format!("{count} fields are invalid; errors lists the first {}", listed.len())
            }
            (_, count) => format!("{count} fields are invalid"),
        };
        Self { errors: errors.listed, ..Self::new(ProblemCode::InvalidRequest, detail) }
    }

    /// 422 with one invalid field.
    pub fn field(pointer: &str, code: FieldErrorCode, detail: impl Into<String>) -> Self {
        let mut errors = FieldErrors::default();
        errors.add(pointer, code, detail);
        Self::invalid(errors)
    }

    /// 404: unknown, malformed, or another app's. The response does not tell which.
    pub fn not_found() -> Self {
        Self::new(ProblemCode::NotFound, "no such path, or no such object that this key can see")
    }

    /// 401.
    pub fn unauthorized() -> Self {
        let detail = "the API key is missing or not valid; send `Authorization: Bearer <key>`";
        let header = Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        Self { header, ..Self::new(ProblemCode::Unauthorized, detail) }
    }

    /// 503: too many requests of one kind are in progress.
    pub fn busy(detail: &str) -> Self {
        Self::new(ProblemCode::TooManyRequests, detail)
    }

    /// HTTP's status.
    pub const fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// The body, once the request's id is known.
    pub fn render(&self, request_id: &str) -> Vec<u8> {
        serde_json::to_vec(&self.view(Some(request_id))).unwrap_or_default()
    }

    /// The problem as JSON shows it. One item of a batch has no request id of its own.
    pub fn view<'a>(&'a self, request_id: Option<&'a str>) -> ProblemView<'a> {
        ProblemView {
            r#type: self.code.uri(),
            code: self.code,
            title: self.code.title(),
            status: self.status().as_u16(),
            detail: &self.detail,
            request_id,
            errors: &self.errors,
        }
    }
}

/// Problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemView<'a> {
    /// `urn:ringback:problem:` and the code.
    r#type: String,
    /// The kind of problem.
    code: ProblemCode,
    /// The code in words.
    title: String,
    /// HTTP's status.
    status: u16,
    /// What is wrong and what to do, as a sentence.
    detail: &'a str,
    /// The request's id, as in `x-request-id`; absent in an item of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    /// The invalid fields.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(reason) => {
                tracing::warn!(error = %reason, "request refused: the database is not available");
                Self::new(
                    ProblemCode::Unavailable,
                    "the database is not available and nothing was changed; send the request again later",
                )
            }
            StoreError::Unknown(reason) => {
                tracing::warn!(error = %reason, "request outcome unknown: the database was lost during the write");
                Self::new(
                    ProblemCode::OutcomeUnknown,
                    "the database was lost during the write, so the change may have been made; it is safe to \
                     send the request again with the same Idempotency-Key",
                )
            }
            StoreError::Inconsistent(reason) => {
                tracing::error!(error = %reason, "request failed");
                Self::new(ProblemCode::Internal, "internal error; the server's log has the details")
            }
        }
    }
}

impl IntoResponse for Problem {
    /// Puts the problem into the extensions, where `serve` finds it and writes the body.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        if let Some((name, value)) = self.header.clone() {
            response.headers_mut().insert(name, value);
        }
        response.extensions_mut().insert(self);
        response
    }
}
