//! A configured provider, and one request to it.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::Semaphore;
use url::Url;

use crate::clock::Clock;
use crate::domain::{INLINE, JobName, Limits, Masked, PollPolicy, credential_variable};
use crate::egress::{Egress, Fetch, Method, Received, SendError};
use crate::providers::{Answer, Definition, Interpretation, PollFailure, Request};

/// Largest response body that is passed on byte for byte.
const RAW_MAX: usize = 256 * 1024;

/// Largest response body that is parsed where it arrives. A larger one takes up to half a second, in which a thread of
/// the runtime could do nothing else.
const INLINE_MAX: usize = 256 * 1024;

/// Large bodies are parsed one at a time, because each takes several times its size of memory meanwhile.
static LARGE_BODIES: Semaphore = Semaphore::const_new(1);

/// A provider with its settings.
#[derive(Debug)]
pub struct Provider {
    /// How to request a job, and what the responses mean.
    pub definition: Arc<Definition>,
    /// API key.
    pub credential: Option<Masked>,
    /// Address that replaces the definition's.
    pub base_url: Option<Url>,
    /// Poll intervals and deadlines.
    pub policy: PollPolicy,
    /// Limits of rate and concurrency.
    pub limits: Limits,
}

/// The response to a poll.
pub(super) struct PollResponse {
    pub(super) meaning: Interpretation,
    /// HTTP status, if there was a response.
    pub(super) http_status: Option<u16>,
    pub(super) retry_after: Option<Duration>,
    /// Why there was no response: the kind of the failed exchange.
    pub(super) no_answer: Option<&'static str>,
    /// The body, if it is small enough to be passed on.
    pub(super) raw: Option<Bytes>,
}

impl Provider {
    /// Returns the API key.
    pub fn key(&self) -> Option<&str> {
        self.credential.as_ref().map(Masked::reveal)
    }

    /// Returns the URL of a job for the log: without its query, and without the API key.
    pub(super) fn shown_url(&self, name: &JobName) -> Option<String> {
        let base_url = self.base_url.as_ref();
        let request = self.definition.request(&name.job_id, &name.params, base_url, self.key());
        let mut url = request.ok()?.url;
        url.set_query(None);
        url.set_fragment(None);
        Some(self.masked(url.into()))
    }

    /// Returns a text without the API key, in every form in which it is sent.
    fn masked(&self, text: String) -> String {
        self.definition.mask(text, self.key())
    }

    /// Returns the exchange that makes a request.
    pub fn fetch(request: Request) -> Fetch {
        let Request { method, url, headers, body, timeout, max_body, max_redirects, is_from_client } =
            request;
        Fetch {
            method: Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET),
            body: body.into(),
            max_redirects,
            is_guarded: is_from_client,
            ..Fetch::new(url, &headers, timeout, max_body)
        }
    }

    /// Requests the status of a job, and interprets the response.
    pub(super) async fn poll(&self, egress: &Egress, clock: &Clock, name: &JobName) -> PollResponse {
        let response = self.request(egress, clock, name).await;
        response.unwrap_or_else(|(meaning, no_answer)| PollResponse {
            meaning,
            http_status: None,
            retry_after: None,
            no_answer,
            raw: None,
        })
    }

    /// Like [`Self::poll`]; the error is the meaning of a poll without a response, and the kind of the failed exchange.
    async fn request(
        &self,
        egress: &Egress,
        clock: &Clock,
        name: &JobName,
    ) -> Result<PollResponse, (Interpretation, Option<&'static str>)> {
        let definition = &self.definition;
        if definition.needs_credential() && self.credential.is_none() {
            let variable = credential_variable(&definition.id);
            let message = format!("no API key is configured; the operator can set {variable}");
            let failure = PollFailure::NoCredential;
            return Err((Interpretation::Failed { failure, message }, None));
        }
        let base_url = self.base_url.as_ref();
        let request = definition
            .request(&name.job_id, &name.params, base_url, self.key())
            .map_err(|error| (Interpretation::error(error), None))?;
        let received = egress.fetch(Self::fetch(request)).await.map_err(|error| no_response(&error))?;
        let now = clock.now();
        let retry_after = received.retry_after(now);
        let mut meaning = interpret(definition, &name.job_id, &received).await;
        if let Interpretation::Ok(report) = &mut meaning {
            report.observation.discard_implausible_times(now);
            // A registration lists the words that end the job. Each other word means that it runs.
            report.unknown_status &= definition.id != INLINE;
        }
        // A provider's error message is logged and shown to users.
        if let Interpretation::Failed { message, .. } = &mut meaning {
            *message = self.masked(std::mem::take(message));
        }
        let raw = Some(received.body).filter(|body| body.len() <= RAW_MAX);
        Ok(PollResponse { meaning, http_status: Some(received.status), retry_after, no_answer: None, raw })
    }
}

/// Returns the meaning and the kind of a failed exchange.
fn no_response(error: &SendError) -> (Interpretation, Option<&'static str>) {
    let kind = match error {
        SendError::Refused(_) => "refused",
        SendError::Timeout(_) => "timeout",
        SendError::Connect(_) => "connect",
        SendError::Tls(_) => "tls",
        SendError::Protocol(_) => "protocol",
        SendError::Exhausted(_) => "exhausted",
        SendError::Resolver(_) => "resolver",
        SendError::TooLarge(_) => "too_large",
        SendError::Closed => "closed",
    };
    let failure = match error {
        error if error.is_ours() => PollFailure::NotMade,
        error if *error == SendError::Closed => PollFailure::Closed,
        _ => PollFailure::Error,
    };
    (Interpretation::Failed { failure, message: error.to_string() }, Some(kind))
}

/// Interprets a response; a large one on a thread of its own.
async fn interpret(definition: &Arc<Definition>, job_id: &str, received: &Received) -> Interpretation {
    let read = |definition: &Definition, job_id: &str, received: &Received| {
        let Received { status, headers, body, .. } = received;
        definition.interpret(job_id, Answer { status: *status, headers, body })
    };
    if received.body.len() <= INLINE_MAX {
        return read(definition, job_id, received);
    }
    // The semaphore is never closed.
    let _permit = LARGE_BODIES.acquire().await;
    let (definition, job_id, received) = (Arc::clone(definition), job_id.to_owned(), received.clone());
    let parsed = tokio::task::spawn_blocking(move || read(&definition, &job_id, &received)).await;
    parsed.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Interpretation::error("the service stops".to_owned()),
    })
}
