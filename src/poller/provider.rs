//! A configured provider, and one request to it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::Semaphore;
use url::Url;

use super::exchange;
use super::result_memory::ResultSpace;
use super::tokens::{TokenFailure, Tokens};
use crate::clock::Clock;
use crate::domain::{INLINE, JobName, Limits, Masked, PollPolicy, credential_variable, to_utf8};
use crate::egress::{Egress, Fetch, Received, SendError, Token};
use crate::providers::{
    Answer, CancelAnswer, Credential, Definition, Interpretation, JobReport, PollFailure, Request,
    SecretTexts,
};

/// Largest response body that is passed on byte for byte.
const RAW_MAX: usize = 256 * 1024;

/// Largest response body that is parsed where it arrives. A larger one takes up to half a second, in which a thread of
/// the runtime could do nothing else.
const INLINE_MAX: usize = 256 * 1024;

/// Answers to definitions of apps are parsed one at a time, wherever they arrive: such a definition may be made to take
/// long. They delay no others.
static OWN_BODIES: Semaphore = Semaphore::const_new(1);

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
    /// Whether jobs may be cancelled with the API key.
    pub allow_cancel: bool,
    /// The token for which the API key is exchanged, if the definition needs one.
    tokens: Tokens,
    /// The texts by which an answer could repeat the API key.
    hidden: OnceLock<SecretTexts>,
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
    pub(super) memory: Option<ResultSpace>,
    /// Number of further requests that redirects caused.
    pub(super) redirects: u8,
}

/// What an exchange is for.
#[derive(Clone, Copy, Debug)]
pub enum Purpose<'a> {
    /// To learn the status of a job.
    Poll,
    /// To learn the first result of this job.
    Result(&'a JobReport),
    /// To cancel a job.
    Cancel,
}

/// The response to a request that cancels a job.
pub(super) struct CancelResponse {
    pub(super) answer: CancelAnswer,
    /// HTTP status, if there was a response.
    pub(super) http_status: Option<u16>,
    pub(super) retry_after: Option<Duration>,
}

impl PollResponse {
    /// Returns the response to a poll that failed without an answer.
    fn failed(failure: PollFailure, message: String) -> Self {
        let meaning = Interpretation::Failed { failure, message };
        Self {
            meaning,
            http_status: None,
            retry_after: None,
            no_answer: None,
            raw: None,
            memory: None,
            redirects: 0,
        }
    }

    /// Returns the response to a poll for which there is no token.
    fn without_token(failure: TokenFailure) -> Self {
        let TokenFailure { failure, message, http_status, retry_after, kind } = failure;
        Self { http_status, retry_after, no_answer: kind, ..Self::failed(failure, message) }
    }
}

impl Provider {
    /// Creates a provider without a token.
    pub fn new(
        definition: Arc<Definition>,
        credential: Option<Masked>,
        base_url: Option<Url>,
        policy: PollPolicy,
        limits: Limits,
    ) -> Self {
        let (tokens, hidden) = (Tokens::default(), OnceLock::new());
        Self { definition, credential, base_url, policy, limits, allow_cancel: false, tokens, hidden }
    }

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
        self.definition.mask(text, self.key(), derived)
    }

    /// Replaces the credential by `***` in a whole answer, before anything reads it: what is read goes to receivers and to
    /// logs, and a text that is cut could keep most of the key.
    pub fn hide_credential(&self, received: &mut Received, derived: &[String]) {
        let own = self.hidden.get_or_init(|| self.definition.hidden_texts(self.key()));
        let secrets = if derived.is_empty() { Cow::Borrowed(own) } else { Cow::Owned(own.with(derived)) };
        if secrets.is_empty() {
            return;
        }
        for (_, value) in &mut received.headers {
            if let Some(hidden) = secrets.hide(value) {
                *value = hidden;
            }
        }
        // UTF-16 is read as well.
        if let Some(hidden) = secrets.hide(&String::from_utf8_lossy(&to_utf8(&received.body))) {
            received.body = Bytes::from(hidden);
        }
    }

    /// Returns the exchange that makes a request.
    pub fn fetch(request: Request) -> Fetch {
        exchange::fetch(request)
    }

    /// Requests the status of a job, and interprets the response.
    pub(super) async fn poll(&self, egress: &Arc<Egress>, clock: &Clock, name: &JobName) -> PollResponse {
        self.respond(egress, clock, name, Purpose::Poll).await
    }

    /// Requests the first result of a job, and interprets the response.
    pub(super) async fn result(
        &self,
        egress: &Arc<Egress>,
        clock: &Clock,
        name: &JobName,
        report: &JobReport,
    ) -> PollResponse {
        self.respond(egress, clock, name, Purpose::Result(report)).await
    }

    /// Requests to cancel a job, and interprets the response.
    pub(super) async fn cancel(&self, egress: &Arc<Egress>, clock: &Clock, name: &JobName) -> CancelResponse {
        let job = (name.job_id.as_str(), name.params.as_str());
        let failed = |message, retry_after| {
            let answer = CancelAnswer::Error(self.masked(message, &[]));
            CancelResponse { answer, http_status: None, retry_after }
        };
        let (request, token) = match self.authorized(egress, clock, job, Purpose::Cancel).await {
            Ok(authorized) => authorized,
            Err(TokenFailure { failure: PollFailure::Refused, message, .. }) => {
                let answer = CancelAnswer::Refused(self.masked(message, &[]));
                return CancelResponse { answer, http_status: None, retry_after: None };
            }
            // The status is that of the token URL.
            Err(TokenFailure { message, retry_after, .. }) => return failed(message, retry_after),
        };
        let secrets = request.secrets.clone();
        let (mut received, read) = match egress.fetch_partly(Self::fetch(request)).await {
            Ok(received) => received,
            Err(error) => return failed(error.to_string(), None),
        };
        let is_good = (200..300).contains(&received.status);
        let needs_body = is_good && self.definition.reads_cancel_body();
        // The status decides. Only a good answer whose body can report an error is not known without it.
        let mut is_too_large = false;
        if let Err(error) = read {
            is_too_large = matches!(error, SendError::TooLarge(_));
            if needs_body && !is_too_large {
                return failed(error.to_string(), None);
            }
            received.body = Bytes::new();
        }
        self.hide_credential(&mut received, &secrets);
        let Received { status, headers, body, .. } = &received;
        let answer = Answer { status: *status, headers, body };
        // A body that is too large reports no error.
        let mut answer = if needs_body && is_too_large {
            CancelAnswer::Accepted
        } else {
            self.definition.interpret_cancel((&name.job_id, &name.params), answer)
        };
        if *status == 401
            && let Some(token) = &token
        {
            self.tokens.discard_old(clock, token);
        }
        if let CancelAnswer::AlreadyEnded(message)
        | CancelAnswer::Refused(message)
        | CancelAnswer::RateLimited(message)
        | CancelAnswer::Error(message) = &mut answer
        {
            // The answer may have a short key.
            *message = self.masked(std::mem::take(message), &secrets);
        }
        let retry_after = received.retry_after(clock.now());
        CancelResponse { answer, http_status: Some(*status), retry_after }
    }

    async fn respond(
        &self,
        egress: &Arc<Egress>,
        clock: &Clock,
        name: &JobName,
        purpose: Purpose<'_>,
    ) -> PollResponse {
        self.exchange(egress, clock, name, purpose).await.unwrap_or_else(|mut failed| {
            if let Interpretation::Failed { message, .. } = &mut failed.meaning {
                *message = self.masked(std::mem::take(message), &[]);
            }
            failed
        })
    }

    /// Returns the response; the error is that of a request without a response of the provider.
    async fn exchange(
        &self,
        egress: &Arc<Egress>,
        clock: &Clock,
        name: &JobName,
        purpose: Purpose<'_>,
    ) -> Result<PollResponse, PollResponse> {
        let definition = &self.definition;
        if definition.needs_credential() && self.credential.is_none() {
            let variable = credential_variable(&definition.id);
            let message = format!("no API key is configured; the operator can set {variable}");
            return Err(PollResponse::failed(PollFailure::NoCredential, message));
        }
        let authorized = self.authorized(egress, clock, (&name.job_id, &name.params), purpose).await;
        let (request, token) = authorized.map_err(|failure| {
            let failed = PollResponse::without_token(failure);
            // The status of a token URL says nothing lasting about a result.
            let http_status = failed.http_status.filter(|_| matches!(purpose, Purpose::Poll));
            PollResponse { http_status, ..failed }
        })?;
        let secrets = request.secrets.clone();
        let mut received = egress.fetch(Self::fetch(request)).await.map_err(|error| {
            let (failure, kind) = match (&error, purpose) {
                (SendError::Refused(_), Purpose::Result(_)) => (PollFailure::Refused, "refused"),
                _ => exchange::failure_of(&error),
            };
            PollResponse { no_answer: Some(kind), ..PollResponse::failed(failure, error.to_string()) }
        })?;
        self.hide_credential(&mut received, &secrets);
        let now = clock.now();
        let retry_after = received.retry_after(now);
        let mut meaning = interpret(definition, (&name.job_id, &name.params), &received, purpose).await;
        if let Interpretation::Ok(report) = &mut meaning {
            report.settle(now);
            // A registration lists the words that end the job. Each other word means that it runs.
            report.unknown_status &= definition.id != INLINE;
        }
        if let Interpretation::Failed { failure, message } = &mut meaning {
            let refused = token.as_ref().filter(|_| received.status == 401);
            if let Some(token) = refused
                && self.tokens.discard_old(clock, token)
            {
                *failure = PollFailure::TokenRefused;
            }
            // A provider's error is logged and shown to users. The answer may have a short key.
            *message = self.masked(std::mem::take(message), &secrets);
            if let PollFailure::Unauthorized { code } = failure {
                *code = self.masked(std::mem::take(code), &secrets);
            }
        }
        let raw = Some(received.body).filter(|body| body.len() <= RAW_MAX);
        let (http_status, no_answer, redirects) = (Some(received.status), None, received.redirects);
        Ok(PollResponse { meaning, http_status, retry_after, no_answer, raw, memory: None, redirects })
    }

    /// Returns the request for a job, and the token in it, which may have to be requested before.
    pub async fn authorized(
        &self,
        egress: &Arc<Egress>,
        clock: &Clock,
        job: (&str, &str),
        purpose: Purpose<'_>,
    ) -> Result<(Request, Option<Token>), TokenFailure> {
        let (definition, now) = (&self.definition, clock.now());
        let refused = |why| TokenFailure { failure: PollFailure::Refused, ..TokenFailure::error(why) };
        let next = match purpose {
            Purpose::Poll | Purpose::Cancel => None,
            Purpose::Result(report) => {
                Some(report.results.first().ok_or_else(|| refused("there is no result".to_owned()))?)
            }
        };
        let is_sent = next.is_none_or(|next| definition.sends_credential(next));
        let token = match self.key().filter(|key| is_sent && definition.needs_token(key)) {
            Some(key) => Some(self.tokens.get(egress, clock, (definition, key)).await?),
            None => None,
        };
        let token_text = token.as_ref().map(Token::reveal);
        let credential = self.key().map(|key| Credential { key, token: token_text, now });
        let base_url = self.base_url.as_ref();
        let request = match next {
            None if matches!(purpose, Purpose::Cancel) => {
                definition.cancel_request(job, base_url, credential).map_err(refused)
            }
            Some(next) => definition.result_request(next, job, base_url, credential).map_err(refused),
            None => definition.request(job.0, job.1, base_url, credential).map_err(TokenFailure::error),
        };
        Ok((request?, token))
    }
}

/// Interprets a response; a large one on a thread of its own.
async fn interpret(
    definition: &Arc<Definition>,
    job: (&str, &str),
    received: &Received,
    purpose: Purpose<'_>,
) -> Interpretation {
    let read =
        |definition: &Definition, job: (&str, &str), received: &Received, before: Option<&JobReport>| {
            let Received { status, headers, body, .. } = received;
            let answer = Answer { status: *status, headers, body };
            match before {
                Some(before) => definition.interpret_result_of(job, before, answer),
                None => definition.interpret_of(job, answer),
            }
        };
    let before = match purpose {
        Purpose::Poll | Purpose::Cancel => None,
        Purpose::Result(report) => Some(report),
    };
    if received.body.len() <= INLINE_MAX && !definition.is_of_app() {
        return read(definition, job, received, before);
    }
    // The semaphore is never closed.
    let bodies = if definition.is_of_app() { &OWN_BODIES } else { &LARGE_BODIES };
    let _permit = bodies.acquire().await;
    let (definition, received, before) = (Arc::clone(definition), received.clone(), before.cloned());
    let (job_id, params) = (job.0.to_owned(), job.1.to_owned());
    let parsed = tokio::task::spawn_blocking(move || {
        read(&definition, (&job_id, &params), &received, before.as_ref())
    })
    .await;
    parsed.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Interpretation::error("the service stops".to_owned()),
    })
}
