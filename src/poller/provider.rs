//! A configured provider, and one request to it.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::Semaphore;
use url::Url;

use super::exchange;
use super::tokens::{TokenFailure, Tokens};
use crate::clock::Clock;
use crate::domain::{JobName, Limits, Masked, PollPolicy, credential_variable};
use crate::egress::{Egress, Fetch, Received, Token};
use crate::providers::{Answer, Credential, Definition, Interpretation, PollFailure, Request};

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
    /// The token for which the API key is exchanged, if the definition needs one.
    pub tokens: Tokens,
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

impl PollResponse {
    /// Returns the response to a poll that failed without an answer.
    fn failed(failure: PollFailure, message: String) -> Self {
        let meaning = Interpretation::Failed { failure, message };
        Self { meaning, http_status: None, retry_after: None, no_answer: None, raw: None }
    }

    /// Returns the response to a poll for which there is no token.
    fn without_token(failure: TokenFailure) -> Self {
        let TokenFailure { failure, message, http_status, retry_after, kind } = failure;
        Self { http_status, retry_after, no_answer: kind, ..Self::failed(failure, message) }
    }
}

impl Provider {
    /// Returns the API key.
    pub fn key(&self) -> Option<&str> {
        self.credential.as_ref().map(Masked::reveal)
    }

    /// Returns the URL of a job for the log: without its query, and without the API key.
    pub(super) fn shown_url(&self, name: &JobName) -> Option<String> {
        let url = self.definition.shown_url(&name.job_id, &name.params, self.base_url.as_ref());
        Some(self.masked(url.ok()?.into(), &[]))
    }

    /// Returns a text without the API key, in every form in which it is sent, and without what is derived from it.
    pub fn masked(&self, text: String, derived: &[String]) -> String {
        match self.key() {
            Some(key) => self.definition.mask(text, key, derived),
            None => text,
        }
    }

    /// Returns the exchange that makes a request.
    pub fn fetch(request: Request) -> Fetch {
        exchange::fetch(request)
    }

    /// Requests the status of a job, and interprets the response.
    pub(super) async fn poll(&self, egress: &Egress, clock: &Clock, name: &JobName) -> PollResponse {
        self.request(egress, clock, name).await.unwrap_or_else(|failed| failed)
    }

    /// Like [`Self::poll`]; the error is a poll without a response of the provider.
    async fn request(
        &self,
        egress: &Egress,
        clock: &Clock,
        name: &JobName,
    ) -> Result<PollResponse, PollResponse> {
        let definition = &self.definition;
        if definition.needs_credential() && self.credential.is_none() {
            let variable = credential_variable(&definition.id);
            let message = format!("no API key is configured; the operator can set {variable}");
            return Err(PollResponse::failed(PollFailure::NoCredential, message));
        }
        let authorized = self.authorized(egress, clock, (&name.job_id, &name.params)).await;
        let (request, token) = authorized.map_err(PollResponse::without_token)?;
        let secrets = request.secrets.clone();
        let received = egress.fetch(Self::fetch(request)).await.map_err(|error| {
            let (failure, kind) = exchange::failure_of(&error);
            PollResponse { no_answer: Some(kind), ..PollResponse::failed(failure, error.to_string()) }
        })?;
        let now = clock.now();
        let retry_after = received.retry_after(now);
        let mut meaning = interpret(definition, &name.job_id, &received).await;
        if let Interpretation::Ok(report) = &mut meaning {
            report.observation.discard_implausible_times(now);
        }
        if let Interpretation::Failed { failure, message } = &mut meaning {
            let refused = token.as_ref().filter(|_| received.status == 401);
            if let Some(token) = refused
                && self.tokens.discard_old(clock, token).await
            {
                *failure = PollFailure::TokenRefused;
            }
            // A provider's error message is logged and shown to users.
            *message = self.masked(std::mem::take(message), &secrets);
        }
        let raw = Some(received.body).filter(|body| body.len() <= RAW_MAX);
        Ok(PollResponse { meaning, http_status: Some(received.status), retry_after, no_answer: None, raw })
    }

    /// Returns the request for a job, and the token in it, which may have to be requested before.
    pub async fn authorized(
        &self,
        egress: &Egress,
        clock: &Clock,
        (job_id, params): (&str, &str),
    ) -> Result<(Request, Option<Token>), TokenFailure> {
        let (definition, now) = (&self.definition, clock.now());
        let token = match self.key().filter(|key| definition.needs_token(key)) {
            Some(key) => Some(self.tokens.get(egress, clock, (definition, key)).await?),
            None => None,
        };
        let token_text = token.as_ref().map(Token::reveal);
        let credential = self.key().map(|key| Credential { key, token: token_text, now });
        let request = definition.request(job_id, params, self.base_url.as_ref(), credential);
        request.map(|request| (request, token)).map_err(TokenFailure::error)
    }
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
