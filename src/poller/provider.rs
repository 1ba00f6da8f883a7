//! A configured provider, and one request to it.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use crate::clock::Clock;
use crate::domain::{JobName, Limits, Masked, PollPolicy, credential_variable};
use crate::egress::{Egress, Fetch, Method, Received, SendError};
use crate::providers::{Answer, Definition, Interpretation, JobReport, PollFailure, Request};

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
    /// Memory for the pending results of the job, if there are any and it was free.
    pub(super) memory: Option<OwnedSemaphorePermit>,
}

/// What an exchange is for.
#[derive(Clone, Copy)]
enum Purpose<'a> {
    /// To learn the status of a job.
    Poll,
    /// To learn the first result of this job.
    Result(&'a JobReport),
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
        match self.key() {
            Some(key) => self.definition.mask(text, key),
            None => text,
        }
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
        self.respond(egress, clock, name, Purpose::Poll).await
    }

    /// Requests the first result of a job, and interprets the response.
    pub(super) async fn result(
        &self,
        egress: &Egress,
        clock: &Clock,
        name: &JobName,
        report: &JobReport,
    ) -> PollResponse {
        self.respond(egress, clock, name, Purpose::Result(report)).await
    }

    async fn respond(
        &self,
        egress: &Egress,
        clock: &Clock,
        name: &JobName,
        purpose: Purpose<'_>,
    ) -> PollResponse {
        let response = self.exchange(egress, clock, name, purpose).await;
        response.unwrap_or_else(|(mut meaning, no_answer)| {
            if let Interpretation::Failed { message, .. } = &mut meaning {
                *message = self.masked(std::mem::take(message));
            }
            PollResponse { meaning, http_status: None, retry_after: None, no_answer, raw: None, memory: None }
        })
    }

    /// Returns the response; the error is the meaning of a request without a response, and the kind of the failed
    /// exchange.
    async fn exchange(
        &self,
        egress: &Egress,
        clock: &Clock,
        name: &JobName,
        purpose: Purpose<'_>,
    ) -> Result<PollResponse, (Interpretation, Option<&'static str>)> {
        let definition = &self.definition;
        if definition.needs_credential() && self.credential.is_none() {
            let variable = credential_variable(&definition.id);
            let message = format!("no API key is configured; the operator can set {variable}");
            let failure = PollFailure::NoCredential;
            return Err((Interpretation::Failed { failure, message }, None));
        }
        let (base_url, key) = (self.base_url.as_ref(), self.key());
        let request = match purpose {
            Purpose::Poll => definition
                .request(&name.job_id, &name.params, base_url, key)
                .map_err(|error| (Interpretation::error(error), None))?,
            Purpose::Result(report) => {
                let refused =
                    |message| (Interpretation::Failed { failure: PollFailure::Refused, message }, None);
                let next = report.results.first().ok_or_else(|| refused("there is no result".to_owned()))?;
                let job = (name.job_id.as_str(), name.params.as_str());
                definition.result_request(next, job, base_url, key).map_err(refused)?
            }
        };
        let received =
            egress.fetch(Self::fetch(request)).await.map_err(|error| no_response(&error, purpose))?;
        let now = clock.now();
        let retry_after = received.retry_after(now);
        let mut meaning = interpret(definition, &name.job_id, &received, purpose).await;
        if let Interpretation::Ok(report) = &mut meaning {
            report.settle(now);
        }
        // A provider's error message is logged and shown to users.
        if let Interpretation::Failed { message, .. } = &mut meaning {
            *message = self.masked(std::mem::take(message));
        }
        let raw = Some(received.body).filter(|body| body.len() <= RAW_MAX);
        let http_status = Some(received.status);
        Ok(PollResponse { meaning, http_status, retry_after, no_answer: None, raw, memory: None })
    }
}

/// Returns whether the guard refuses the address of a result. It would refuse it again.
fn is_refused_result(error: &SendError, purpose: Purpose<'_>) -> bool {
    matches!(error, SendError::Refused(_)) && matches!(purpose, Purpose::Result(_))
}

/// Returns the meaning and the kind of a failed exchange.
fn no_response(error: &SendError, purpose: Purpose<'_>) -> (Interpretation, Option<&'static str>) {
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
        error if is_refused_result(error, purpose) => PollFailure::Refused,
        _ => PollFailure::Error,
    };
    (Interpretation::Failed { failure, message: error.to_string() }, Some(kind))
}

/// Interprets a response; a large one on a thread of its own.
async fn interpret(
    definition: &Arc<Definition>,
    job_id: &str,
    received: &Received,
    purpose: Purpose<'_>,
) -> Interpretation {
    let read = |definition: &Definition, job_id: &str, received: &Received, before: Option<&JobReport>| {
        let Received { status, headers, body, .. } = received;
        let answer = Answer { status: *status, headers, body };
        match before {
            Some(before) => definition.interpret_result(job_id, before, answer),
            None => definition.interpret(job_id, answer),
        }
    };
    let before = match purpose {
        Purpose::Poll => None,
        Purpose::Result(report) => Some(report),
    };
    if received.body.len() <= INLINE_MAX {
        return read(definition, job_id, received, before);
    }
    // The semaphore is never closed.
    let _permit = LARGE_BODIES.acquire().await;
    let (definition, job_id, received) = (Arc::clone(definition), job_id.to_owned(), received.clone());
    let before = before.cloned();
    let parsed =
        tokio::task::spawn_blocking(move || read(&definition, &job_id, &received, before.as_ref())).await;
    parsed.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Interpretation::error("the service stops".to_owned()),
    })
}
