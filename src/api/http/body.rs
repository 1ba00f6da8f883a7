//! The body of a request: read on demand, within limits.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use serde_json::value::RawValue;

use super::connections::Activity;
use super::endpoint::Endpoint;
use super::memory_budget::{HeldMemory, SMALL};
use super::object_reader::ObjectReader;
use super::problem::{FieldErrorCode, FieldErrors, Problem, ProblemCode};
use super::stream::HangUp;
use super::wrong_keys::WrongKeysOfClient;
use crate::clock::Clock;
use crate::domain::{AppNo, decode};

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

/// A request as the server knows it: its body before it is read, the memory that it holds, its client and its path. It
/// is the only extension of the request, because each further one takes allocations. `serve` keeps a clone to discard
/// what no handler read, and to count the answer.
#[derive(Clone, Debug)]
pub(super) struct RequestContext(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: Arc<Client>,
    /// Set by the router; a request to an unknown path has none.
    endpoint: OnceLock<Arc<Endpoint>>,
    inner: Mutex<Inner>,
}

/// The client at the other end of a connection.
#[derive(Debug)]
pub(super) struct Client {
    /// What the connection does.
    pub(super) activity: Arc<Activity>,
    /// Requests with wrong API keys.
    pub(super) wrong_keys: WrongKeysOfClient,
    /// The sign that the client has hung up.
    pub(super) hang_up: HangUp,
}

#[derive(Debug)]
struct Inner {
    body: Option<Incoming>,
    /// `None` after `serve` has taken it.
    memory: Option<HeldMemory>,
}

impl RequestContext {
    pub(super) fn new(body: Incoming, memory: HeldMemory, client: Arc<Client>) -> Self {
        let inner = Mutex::new(Inner { body: Some(body), memory: Some(memory) });
        Self(Arc::new(Shared { client, endpoint: OnceLock::new(), inner }))
    }

    /// The context of this request.
    pub(super) fn of(parts: &Parts) -> Option<&Self> {
        parts.extensions.get()
    }

    /// The path of the API that the request addresses.
    pub(super) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.0.endpoint.get()
    }

    /// Sets the path.
    pub(super) fn set_endpoint(&self, endpoint: &Arc<Endpoint>) {
        let _ = self.0.endpoint.set(Arc::clone(endpoint));
    }

    /// The client that sent the request.
    pub(super) fn client(&self) -> &Client {
        &self.0.client
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Incoming> {
        self.lock().body.take()
    }

    /// Assigns the memory of the request and its connection to the app of its key.
    pub(super) fn belongs_to(&self, app: AppNo) {
        self.0.client.activity.belongs_to(app);
        if let Some(memory) = &mut self.lock().memory {
            memory.belongs_to(app);
        }
    }

    /// Takes the memory, for the answer.
    pub(super) fn take_memory(&self) -> Option<HeldMemory> {
        self.lock().memory.take()
    }

    /// Reserves memory for an answer of so many bytes. Returns `false` if the app is over its budget.
    pub(super) fn try_reserve_answer(&self, bytes: usize) -> bool {
        self.lock().memory.as_mut().is_none_or(|memory| memory.try_extend(bytes))
    }

    fn release_memory(&self) {
        if let Some(memory) = &mut self.lock().memory {
            memory.resize(0);
        }
    }

    /// Makes room for so many bytes in all. Returns `false` if the app is over its budget.
    fn try_grow(&self, bytes: &mut Vec<u8>, needed: usize, max: usize) -> bool {
        if needed <= bytes.capacity() {
            return true;
        }
        let capacity = (2 * bytes.capacity()).clamp(needed, max.max(needed));
        let is_granted = self.lock().memory.as_mut().is_some_and(|memory| memory.try_resize(capacity));
        if is_granted {
            bytes.reserve_exact(capacity - bytes.len());
        }
        is_granted
    }

    /// Takes and reads a text of at most `max` bytes. Its memory is counted as it arrives: a client may announce a
    /// long body and send nothing.
    async fn read_text(&self, max: usize, clock: &Clock) -> Result<String, Problem> {
        let malformed = |detail| Problem::new(ProblemCode::MalformedBody, detail);
        let Some(mut body) = self.take() else { return Ok(String::new()) };
        let _waiting = self.0.client.activity.wait_for_client();
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(max).min(max);
        let mut bytes = Vec::with_capacity(announced.min(SMALL));
        let end = if announced > 0 { announced } else { max };
        let reading = async {
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| malformed("the body is incomplete; send the request again"))?;
                if let Some(data) = frame.data_ref() {
                    let needed = bytes.len() + data.len();
                    if needed > max {
                        return Ok(Some(too_large("the body", max)));
                    }
                    if !self.try_grow(&mut bytes, needed, end) {
                        return Ok(Some(Problem::over_budget()));
                    }
                    bytes.extend_from_slice(data);
                }
            }
            Ok(None)
        };
        let refused = clock.timeout(BODY_TIMEOUT, reading).await.unwrap_or_else(|| {
            Err(Problem::new(
                ProblemCode::BodyTimeout,
                "the body did not arrive within 30 s; send the request again, over a faster connection",
            ))
        })?;
        if let Some(problem) = refused {
            drop(bytes);
            self.release_memory();
            discard(body, clock).await;
            return Err(problem);
        }
        decode(bytes).map_err(|error| Problem::new(ProblemCode::MalformedBody, format!("the body {error}")))
    }

    /// Reads and discards the body if no handler read it.
    pub(super) async fn discard(&self, clock: &Clock) {
        if let Some(body) = self.take().filter(|body| !body.is_end_stream()) {
            let _waiting = self.0.client.activity.wait_for_client();
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

/// What the body of a request may be.
#[derive(Clone, Copy, Debug)]
pub enum Content {
    /// JSON of at most so many bytes.
    Json(usize),
    /// JSON of usual size, or nothing.
    Optional,
    /// An empty JSON object, or nothing.
    Nothing,
}

impl Content {
    /// JSON of usual size.
    pub const OBJECT: Self = Self::Json(BODY_MAX);

    /// Reads the text of the body; it is empty without a body. Fields of an object are checked by the caller.
    pub(super) async fn read(self, parts: &Parts, clock: &Clock) -> Result<String, Problem> {
        let Some(body) = RequestContext::of(parts) else { return Ok(String::new()) };
        let text = match self {
            Self::Json(max) => {
                check_media_type(&parts.headers)?;
                body.read_text(max, clock).await?
            }
            // The end of chunks without a byte is not known before they are read.
            Self::Optional | Self::Nothing => {
                let text = body.read_text(BODY_MAX, clock).await?;
                if text.is_empty() {
                    return Ok(text);
                }
                check_media_type(&parts.headers)?;
                text
            }
        };
        let raw: &RawValue = serde_json::from_str(&text).map_err(|error| {
            Problem::new(ProblemCode::MalformedBody, format!("the body is not JSON: {error}"))
        })?;
        if let Self::Nothing = self {
            check_no_fields(raw)?;
        }
        Ok(text)
    }
}

/// Reads a TOML body of at most `max` bytes.
pub(super) async fn read_toml(parts: &Parts, max: usize, clock: &Clock) -> Result<String, Problem> {
    check_type(&parts.headers, ("application/toml", "TOML"))?;
    match RequestContext::of(parts) {
        Some(body) => body.read_text(max, clock).await,
        None => Ok(String::new()),
    }
}

fn check_no_fields(raw: &RawValue) -> Result<(), Problem> {
    if !raw.get().starts_with('{') {
        return Err(Problem::field("", FieldErrorCode::InvalidType, "must be an object, or absent"));
    }
    let mut errors = FieldErrors::default();
    if let Some(fields) = ObjectReader::read(raw, "", &mut errors) {
        fields.done();
    }
    errors.check()
}

/// 413.
pub fn too_large(what: &str, max: usize) -> Problem {
    Problem::new(ProblemCode::TooLarge, format!("{what} is larger than {} KiB", max / 1024))
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    check_type(headers, ("application/json", "JSON"))
}

fn check_type(headers: &HeaderMap, (media_type, name): (&str, &str)) -> Result<(), Problem> {
    let unsupported = |detail: String| Err(Problem::new(ProblemCode::UnsupportedMediaType, detail));
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = content_type.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case(media_type) {
        return unsupported(format!("the body must be {name}; send `content-type: {media_type}`"));
    }
    // `gzip, chunked`: the HTTP library removes the chunks alone, and a proxy in between may have read another body.
    let mut transfer = headers.get_all(header::TRANSFER_ENCODING).iter();
    if transfer.any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        let detail = "the body must not be compressed; `chunked` is the only transfer-encoding";
        return unsupported(detail.to_owned());
    }
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        Some(coding) if !coding.eq_ignore_ascii_case(b"identity") => {
            unsupported("the body must not be compressed; send it without content-encoding".to_owned())
        }
        _ => Ok(()),
    }
}
