//! Refusals as RFC 9457 problem details, and the codes of problems and of field errors.
//!
//! A handler returns a [`Problem`]; `serve` adds the request's id and writes the body, so no handler
//! needs to know the id.
//!
//! A code is stable: clients branch on it, texts can change. `docs/API.md` lists both tables, and a test
//! compares them with these.

use std::time::Duration;

use axum::Extension;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{AddressError, json_string, shown, word_enum};
use crate::store::StoreError;

/// Declares an enum of codes with a description for each.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $code:literal $description:literal)* }) => {
        word_enum! { @base $(#[$doc])* $name { $(#[doc = $description] $variant = $code,)* } }

        impl $name {
            /// What the code means, as a sentence for the documentation.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }
        }

        json_string! { $name {
            enum_values: $name::WORDS.iter().map(|word| (*word).into()).collect(),
            description: $name::ALL
                .iter()
                .map(|code| format!("- `{code}`: {}", code.description()))
                .collect::<Vec<_>>()
                .join("\n")
        } }
    };
}

/// Declares the codes of problems, each with HTTP's status.
macro_rules! problem_codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $status:ident $code:literal $description:literal)* }) => {
        codes! { $(#[$doc])* $name { $($variant $code $description)* } }

        impl $name {
            /// HTTP's status.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }
        }
    };
}

problem_codes! {
    /// What kind of problem a request met. The problem's `type` is `urn:ringback:problem:` and this code.
    ProblemCode {
        MalformedBody BAD_REQUEST "malformed_body" "The body is incomplete, not UTF-8 or not JSON."
        Unauthorized UNAUTHORIZED "unauthorized" "The API key is missing, unknown, revoked or expired."
        InsufficientScope FORBIDDEN "insufficient_scope" "The API key lacks the scope that the operation needs."
        OperatorOnly FORBIDDEN "operator_only" "The operation needs an admin key of the first app."
        NotFound NOT_FOUND "not_found" "The path or the object does not exist, or the object belongs to another app."
        MethodNotAllowed METHOD_NOT_ALLOWED "method_not_allowed" "The path does not support the method; `Allow` lists those that it supports."
        BodyTimeout REQUEST_TIMEOUT "body_timeout" "The body did not arrive in time."
        IdempotencyInProgress CONFLICT "idempotency_in_progress" "A request with this `Idempotency-Key` is still in progress; send it again later."
        IdempotencyOtherKey CONFLICT "idempotency_other_key" "The `Idempotency-Key` was used with another API key, and the response holds a secret."
        IdempotencyAnswerGone CONFLICT "idempotency_answer_gone" "The request with this `Idempotency-Key` had succeeded; its answer is not kept any more, because it was large, or shows a watch that was erased. Read what it made; nothing was done again."
        WatchEnded CONFLICT "watch_ended" "The watch has ended and cannot be changed."
        JobShared CONFLICT "job_shared" "Another app watches the job, so it cannot be cancelled; nothing was stopped."
        WatchStopped CONFLICT "watch_stopped" "The watch of the delivery was stopped, so the delivery cannot be retried."
        DestinationInUse CONFLICT "destination_in_use" "A running watch or an open group names the saved destination, so it cannot be deleted."
        CredentialExists CONFLICT "credential_exists" "The app has a credential with this name."
        CredentialInUse CONFLICT "credential_in_use" "A running watch uses the credential, so it cannot be deleted."
        ProviderTaken CONFLICT "provider_taken" "The server has a provider with the id of the definition."
        DestinationManaged CONFLICT "destination_managed" "The saved destination is in the server's configuration file and cannot be changed through the API."
        DestinationDisabled CONFLICT "destination_disabled" "The destination of the delivery is disabled, so the delivery cannot be retried."
        NameTaken CONFLICT "name_taken" "Another app has this name."
        FirstApp CONFLICT "first_app" "The first app cannot be renamed or deleted."
        LimitReached CONFLICT "limit_reached" "The maximum number of such objects exists."
        SecretConfigured CONFLICT "secret_configured" "The signing secret is set in the server's configuration and cannot be rotated through the API."
        EventGone GONE "event_gone" "The event to continue after does not exist, or was deleted after its retention time."
        TooLarge PAYLOAD_TOO_LARGE "too_large" "The body, or one item of a batch, exceeds its maximum size."
        UnsupportedMediaType UNSUPPORTED_MEDIA_TYPE "unsupported_media_type" "The body has another type than `application/json`, or `application/toml` for a definition; or it is compressed."
        InvalidRequest UNPROCESSABLE_ENTITY "invalid_request" "Fields, parameters or headers are invalid; `errors` lists each."
        GroupMismatch UNPROCESSABLE_ENTITY "group_mismatch" "The registration does not fit the group that it names; `errors` names the field."
        IdempotencyConflict UNPROCESSABLE_ENTITY "idempotency_conflict" "The `Idempotency-Key` was used with another body."
        RateLimited TOO_MANY_REQUESTS "rate_limited" "The rate of this operation is used up, for the app or the delivery; `Retry-After` says when the next request is possible."
        Internal INTERNAL_SERVER_ERROR "internal_error" "An error in the server; its log has the details."
        Unavailable SERVICE_UNAVAILABLE "unavailable" "The database is not available, and nothing was changed; send the request again later."
        OutcomeUnknown SERVICE_UNAVAILABLE "outcome_unknown" "The database was lost during the write, so the change, or a part of it, may have been made; `detail` says what to do."
        NotReady SERVICE_UNAVAILABLE "not_ready" "The server is starting, stopping, or has no working database."
        TooManyRequests SERVICE_UNAVAILABLE "too_many_requests" "Too many requests of this kind are in progress, or the requests and answers of the app hold too much memory; send the request again later."
    }
}

impl ProblemCode {
    /// The URI that identifies the kind of problem.
    pub fn uri(self) -> String {
        format!("urn:ringback:problem:{self}")
    }

    /// The code in words: a title for people.
    pub fn title(self) -> String {
        let words = self.as_str().replace('_', " ");
        words[..1].to_uppercase() + &words[1..]
    }
}

codes! {
    /// What is wrong with one field, parameter or header.
    FieldErrorCode {
        Required "required" "The value is missing."
        UnknownField "unknown_field" "There is no field or parameter of this name."
        Duplicate "duplicate" "The name, or the destination, occurs more than once."
        InvalidType "invalid_type" "The value has the wrong JSON type."
        InvalidValue "invalid_value" "The value is not one of the allowed ones, which the detail lists."
        InvalidFormat "invalid_format" "The text does not have the required form."
        OutOfRange "out_of_range" "The value is outside its bounds, which the detail names."
        Empty "empty" "The value must not be empty."
        TooLong "too_long" "The text is too long."
        TooLarge "too_large" "The value takes too many bytes."
        TooMany "too_many" "There are too many elements."
        TooDeep "too_deep" "The value is nested too deeply."
        Conflict "conflict" "The value contradicts another one, or what is stored."
        UnknownProvider "unknown_provider" "The server knows no provider of this name."
        NoCredential "no_credential" "The server has no API key for this provider, and the registration names no credential."
        NoCancel "no_cancel" "Nothing says how jobs of this provider are cancelled."
        CancelNotAllowed "cancel_not_allowed" "The operator does not allow that jobs of this provider are cancelled with the server's API key."
        UnknownCredential "unknown_credential" "There is no such credential, or it belongs to another app."
        UnknownDestination "unknown_destination" "There is no such saved destination, or it belongs to another app."
        DestinationDisabled "destination_disabled" "The saved destination is disabled, or all default destinations are."
        UnknownApp "unknown_app" "There is no such app, or the API key does not manage it."
        InvalidAddress "invalid_address" "The address is not a URL, mail address or Slack address that can be used."
        ForbiddenAddress "forbidden_address" "Callbacks must not reach this address; the operator can allow it."
        NotAllowedRecipient "not_allowed_recipient" "The operator does not allow mail to this address."
        ChannelNotConfigured "channel_not_configured" "The operator has not configured this channel."
        InvalidHeader "invalid_header" "The header's name or value cannot be sent."
        GroupMismatch "group_mismatch" "The value differs from that of the group, or the group takes no more watches."
        InvalidSecret "invalid_secret" "The signing secret is not `whsec_` and the base64 of 24 to 64 bytes."
    }
}

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
    (
        FieldErrorCode::InvalidValue,
        format!("`{}` is not allowed here; use one of: {}", shown(value), allowed.join(", ")),
    )
}

/// Maximum length of a pointer or a detail, in characters: both can contain what a client has written.
const TEXT_MAX: usize = 2_000;

/// Maximum number of errors that one problem lists: a body of 256 KiB has room for a hundred thousand, and
/// no valid request has more fields.
const ERRORS_MAX: usize = 256;

/// Shortens a text to [`TEXT_MAX`] characters.
fn bounded(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(TEXT_MAX) {
        text.truncate(end);
        text.push('…');
    }
    text
}

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
            self.listed.push(FieldError {
                pointer: bounded(pointer.into()),
                code,
                detail: bounded(detail.into()),
            });
        }
    }

    /// Adds the error of a result, whose value it returns.
    pub fn keep<T>(
        &mut self,
        pointer: impl Into<String>,
        result: Result<T, impl Into<Invalid>>,
    ) -> Option<T> {
        let add = |(code, detail): Invalid| self.add(pointer, code, detail);
        result.map_err(|invalid| add(invalid.into())).ok()
    }

    /// Whether there is no error.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns `Ok` if there is no error.
    pub fn check(self) -> Result<(), Problem> {
        if self.count == 0 { Ok(()) } else { Err(Problem::invalid(self)) }
    }
}

/// The detail for several invalid fields, of which the first are listed.
fn counted(count: usize, listed: usize) -> String {
    match listed {
        _ if listed == count => format!("{count} fields are invalid"),
        1 => format!("{count} fields are invalid; errors lists the first"),
        _ => format!("{count} fields are invalid; errors lists the first {listed}"),
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
    /// The error of the store that is the cause, for the log.
    pub(super) cause: Option<StoreError>,
    /// Number of invalid fields; `errors` can list fewer.
    error_count: usize,
    /// Whether [`Problem::add_remedy`] completes the detail.
    lacks_remedy: bool,
    /// `Retry-After`, in seconds; `None` for the default of the status.
    retry_after_s: Option<u64>,
}

impl Problem {
    /// A problem of this kind.
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            error_count: 0,
            cause: None,
            lacks_remedy: false,
            retry_after_s: None,
        }
    }

    /// Sets `Retry-After`, rounded up to a second.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { retry_after_s: Some(seconds.max(1)), ..self }
    }

    /// 422 with every invalid field.
    pub fn invalid(errors: FieldErrors) -> Self {
        let detail = match (errors.listed.as_slice(), errors.count) {
            ([only], _) if only.pointer.is_empty() => format!("the body {}", only.detail),
            ([only], _) => format!("{}: {}", only.pointer, only.detail),
            (listed, count) => counted(count, listed.len()),
        };
        let problem = Self::new(ProblemCode::InvalidRequest, detail);
        Self { errors: errors.listed, error_count: errors.count, ..problem }
    }

    /// Removes the errors after the first `most`. The detail still says how many there are.
    pub fn list_at_most(&mut self, most: usize) {
        if self.errors.len() > most {
            self.errors.truncate(most);
            self.errors.shrink_to_fit();
            self.detail = counted(self.error_count, most);
        }
    }

    /// 422 with one invalid field.
    pub fn field(pointer: &str, code: FieldErrorCode, detail: impl Into<String>) -> Self {
        let mut errors = FieldErrors::default();
        errors.add(pointer, code, detail);
        Self::invalid(errors)
    }

    /// 422 about the object that the path names: the detail is a whole sentence.
    pub fn target(code: FieldErrorCode, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { detail: detail.clone(), ..Self::field("", code, detail) }
    }

    /// 404: unknown, malformed, or another app's. The response does not say which.
    pub fn not_found() -> Self {
        Self::new(
            ProblemCode::NotFound,
            "no such object that this key can see; check the id, and the app of the key",
        )
    }

    /// 404: no route has this path.
    pub fn no_such_path() -> Self {
        Self::new(ProblemCode::NotFound, "no such path; /openapi.json lists all paths")
    }

    /// 401.
    pub fn unauthorized() -> Self {
        let detail = "the API key is missing or not valid; send one header `Authorization: Bearer <key>`";
        Self::new(ProblemCode::Unauthorized, detail)
    }

    /// 503: too many requests of one kind are in progress.
    pub fn busy(detail: &str) -> Self {
        Self::new(ProblemCode::TooManyRequests, detail)
    }

    /// 503: the requests and answers of the app hold too much memory.
    pub fn over_budget() -> Self {
        Self::busy(
            "the requests and answers of this app that are in progress take too much memory; read the answers, and \
             send this request again later",
        )
    }

    /// The problem of a write that is committed in parts, if the store fails after the first of them: nothing may claim
    /// that nothing was changed. `detail` says what was changed, and what to do.
    pub fn after_commit(error: StoreError, detail: impl Into<String>) -> Self {
        match error {
            StoreError::Unavailable(_)
            | StoreError::Damaged(_)
            | StoreError::Schema(_)
            | StoreError::Unknown(_) => {
                Self { cause: Some(error), ..Self::new(ProblemCode::OutcomeUnknown, detail) }
            }
            StoreError::AppDeleted | StoreError::Inconsistent(_) => Self::from(error),
        }
    }

    /// Completes the detail of an unknown outcome with what the client of this request can do.
    pub fn add_remedy(&mut self, method: &Method, has_idempotency_key: bool) {
        if std::mem::take(&mut self.lacks_remedy) {
            self.detail += match (method, has_idempotency_key) {
                (&Method::POST, true) => {
                    "; it is safe to send the request again with the same Idempotency-Key"
                }
                (&Method::POST, false) => {
                    "; check whether it was made before you send the request again; a repetition is always safe with \
                     an `Idempotency-Key`, which this one lacks"
                }
                // The other methods are idempotent as the API defines them, and ignore the key.
                _ => "; it is safe to send the request again",
            };
        }
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
            status: self.code.status().as_u16(),
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
        let problem = match &error {
            StoreError::Unavailable(_) | StoreError::Damaged(_) => Self::new(
                ProblemCode::Unavailable,
                "the database is not available and nothing was changed; send the request again later",
            ),
            StoreError::Schema(_) => Self::new(
                ProblemCode::Unavailable,
                "a table of the database is missing or may not be used, and nothing was changed; the server's log says \
                 which; the operator must restore it; send the request again later",
            ),
            StoreError::Unknown(_) => {
                let detail = "the database was lost during the write, so the change may have been made";
                Self { lacks_remedy: true, ..Self::new(ProblemCode::OutcomeUnknown, detail) }
            }
            // As each later request with the key.
            StoreError::AppDeleted => return Self::unauthorized(),
            StoreError::Inconsistent(_) => {
                Self::new(ProblemCode::Internal, "internal error; the server's log has the details")
            }
        };
        Self { cause: Some(error), ..problem }
    }
}

impl IntoResponse for Problem {
    /// Puts the problem into the extensions, where `serve` finds it and writes the body. A 503 asks the client
    /// to wait for a second.
    fn into_response(self) -> Response {
        let status = self.code.status();
        let retry_after = |seconds: u64| Some([(header::RETRY_AFTER, HeaderValue::from(seconds))]);
        let header = match (status, self.retry_after_s) {
            (StatusCode::UNAUTHORIZED, _) => {
                Some([(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))])
            }
            (_, Some(seconds)) => retry_after(seconds),
            (StatusCode::SERVICE_UNAVAILABLE, None) => retry_after(1),
            (_, None) => None,
        };
        (status, header, Extension(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes of the table below a heading of docs/API.md, in order, with their descriptions.
    fn documented(heading: &str) -> Vec<(String, String)> {
        let page = include_str!("../../../docs/API.md");
        let section = page.split_once(heading).expect("the heading").1;
        let table = section.lines().skip_while(|line| !line.starts_with("| `"));
        let rows = table.take_while(|line| line.starts_with("| `"));
        rows.map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].trim_matches('`').to_owned(), cells[1..].join(" | "))
        })
        .collect()
    }

    #[test]
    fn the_documentation_lists_every_code() {
        let problems = ProblemCode::ALL.iter().map(|code| {
            (code.as_str().to_owned(), format!("{} | {}", code.status().as_u16(), code.description()))
        });
        assert_eq!(documented("### Codes of problems"), problems.collect::<Vec<_>>());
        let fields =
            FieldErrorCode::ALL.iter().map(|code| (code.as_str().to_owned(), code.description().to_owned()));
        assert_eq!(documented("### Codes of field errors"), fields.collect::<Vec<_>>());
    }

    #[test]
    fn the_remedy_of_an_unknown_outcome_depends_on_the_request() {
        let detail = |method: &Method, has_key| {
            let mut problem = Problem::from(StoreError::Unknown("lost".to_owned()));
            problem.add_remedy(method, has_key);
            problem.detail
        };
        let start = "the database was lost during the write, so the change may have been made; ";
        for (method, has_key, remedy) in [
            (Method::POST, true, "it is safe to send the request again with the same Idempotency-Key"),
            (
                Method::POST,
                false,
                "check whether it was made before you send the request again; a repetition is always safe with an \
                 `Idempotency-Key`, which this one lacks",
            ),
            (Method::PATCH, true, "it is safe to send the request again"),
            (Method::DELETE, false, "it is safe to send the request again"),
        ] {
            assert_eq!(detail(&method, has_key), format!("{start}{remedy}"), "{method}");
        }
        let mut partial = Problem::after_commit(StoreError::Unavailable("full".to_owned()), "a part is done");
        partial.add_remedy(&Method::POST, false);
        assert_eq!((partial.code, partial.detail.as_str()), (ProblemCode::OutcomeUnknown, "a part is done"));
    }

    #[test]
    fn a_title_is_the_code_in_words() {
        assert_eq!(ProblemCode::InvalidRequest.title(), "Invalid request");
        assert_eq!(ProblemCode::InvalidRequest.uri(), "urn:ringback:problem:invalid_request");
    }
}
