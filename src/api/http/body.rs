//! The body of a request: read on demand, within limits.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use serde_json::value::RawValue;

use super::object_reader::ObjectReader;
use super::problem::{FieldErrors, Problem};
use super::problem_code::{FieldErrorCode, ProblemCode};
use crate::clock::Clock;

/// Maximum size of a request's body, in bytes.
pub const BODY_MAX: usize = 256 * 1024;

/// Maximum size of a batch's body, in bytes.
pub const BATCH_MAX: usize = 8 * 1024 * 1024;

/// Maximum size of a refused body that is read and discarded, in bytes, and the time for it. A client that is
/// still sending does not read the response before.
const DISCARD_MAX: usize = 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time for the arrival of a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The body of a request before it is read. `serve` keeps a clone to discard what no handler read.
#[derive(Clone, Debug)]
pub(super) struct UnreadBody(Arc<Mutex<Option<Incoming>>>);

impl UnreadBody {
    pub(super) fn new(body: Incoming) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    fn is_empty(&self) -> bool {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn take(&self) -> Option<Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads and discards the body if no handler read it.
    pub(super) async fn discard(&self, clock: &Clock) {
        if let Some(body) = self.take()
            && !body.is_end_stream()
        {
            discard(body, clock).await;
        }
    }
}

async fn discard(mut body: Incoming, clock: &Clock) {
    let reading = async {
        let mut size = 0;
        while let Some(Ok(frame)) = body.frame().await {
            size += frame.data_ref().map_or(0, hyper::body::Bytes::len);
            if size > DISCARD_MAX {
                break;
            }
        }
    };
    clock.timeout(DISCARD_TIMEOUT, reading).await;
}

/// The body of a request, as a handler takes it.
#[derive(Debug)]
pub struct RequestBody {
    unread: UnreadBody,
    clock: Clock,
    /// Whether the headers announce plain JSON; the error is a sentence.
    media_type: Result<(), &'static str>,
}

impl RequestBody {
    /// Takes the body of a request.
    pub(super) fn of(parts: &mut Parts, clock: &Clock) -> Result<Self, Problem> {
        let unread = parts.extensions.remove::<UnreadBody>();
        let unread = unread.ok_or_else(|| Problem::new(ProblemCode::Internal, "the body was read before"))?;
        Ok(Self { unread, clock: clock.clone(), media_type: check_media_type(&parts.headers) })
    }

    /// Reads the text of a JSON body of up to `max` bytes. Its content is checked by the caller.
    pub async fn json(&self, max: usize) -> Result<String, Problem> {
        self.check_media_type()?;
        let text = self.read_text(max).await?;
        serde_json::from_str::<&RawValue>(&text).map_err(|error| not_json(&error))?;
        Ok(text)
    }

    /// Reads the text of a JSON body that can be absent: then the text is empty.
    pub async fn json_or_nothing(&self) -> Result<String, Problem> {
        if self.unread.is_empty() { Ok(String::new()) } else { self.json(BODY_MAX).await }
    }

    /// Reads the body of a POST without fields: nothing, or an empty object.
    pub async fn no_fields(&self) -> Result<String, Problem> {
        let body = self.read_text(BODY_MAX).await?;
        if body.is_empty() {
            return Ok(body);
        }
        self.check_media_type()?;
        let raw: &RawValue = serde_json::from_str(&body).map_err(|error| not_json(&error))?;
        if !raw.get().starts_with('{') {
            return Err(Problem::field("", FieldErrorCode::InvalidType, "must be an object, or absent"));
        }
        let mut errors = FieldErrors::default();
        if let Some(fields) = ObjectReader::read(raw, "", &mut errors) {
            fields.done();
        }
        errors.check().map(|()| body)
    }

    fn check_media_type(&self) -> Result<(), Problem> {
        self.media_type.map_err(|detail| Problem::new(ProblemCode::UnsupportedMediaType, detail))
    }

    async fn read_text(&self, max: usize) -> Result<String, Problem> {
        String::from_utf8(self.read(max).await?)
            .map_err(|_| Problem::new(ProblemCode::MalformedBody, "the body is not UTF-8"))
    }

    async fn read(&self, max: usize) -> Result<Vec<u8>, Problem> {
        let Some(mut body) = self.unread.take() else { return Ok(Vec::new()) };
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(max);
        let mut bytes = Vec::with_capacity(announced.min(max));
        let reading = async {
            while let Some(frame) = body.frame().await {
                let incomplete = |_| Problem::new(ProblemCode::MalformedBody, "the body is incomplete");
                if let Some(data) = frame.map_err(incomplete)?.data_ref() {
                    if bytes.len() + data.len() > max {
                        return Ok(false);
                    }
                    bytes.extend_from_slice(data);
                }
            }
            Ok(true)
        };
        match self.clock.timeout(BODY_TIMEOUT, reading).await {
            Some(Ok(true)) => Ok(bytes),
            Some(Ok(false)) => {
                discard(body, &self.clock).await;
                Err(too_large("the body", max))
            }
            Some(Err(problem)) => Err(problem),
            None => Err(Problem::new(ProblemCode::BodyTimeout, "the body did not arrive within 30 s")),
        }
    }
}

fn not_json(error: &serde_json::Error) -> Problem {
    Problem::new(ProblemCode::MalformedBody, format!("the body is not JSON: {error}"))
}

/// 413.
pub fn too_large(what: &str, max: usize) -> Problem {
    Problem::new(ProblemCode::TooLarge, format!("{what} is larger than {} KiB", max / 1024))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), &'static str> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = content_type.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err("the body must be JSON; send `content-type: application/json`");
    }
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => Err("the body must not be compressed; send it without content-encoding"),
    }
}
