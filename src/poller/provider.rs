//! A configured provider, and one request to it.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::Semaphore;
use url::Url;

use super::app_memory::{AppMemory, AppSpace};
use super::exchange;
use super::tokens::{TokenFailure, Tokens};
use crate::clock::Clock;
use crate::domain::SecretTexts;
use crate::domain::{AppNo, INLINE, JobName, Limits, Masked, PollPolicy, credential_variable, to_utf8};
use crate::egress::{Egress, Fetch, Received, SendError, Token};
use crate::own_work::{NotDone, OwnWork, on_thread};
use crate::providers::{
    Answer, CancelAnswer, Credential, Definition, Interpretation, JobReport, PollFailure, Request,
};

/// Largest response body that is passed on byte for byte.
const RAW_MAX: usize = 256 * 1024;

/// Largest response body that is parsed where it arrives. A larger one takes up to half a second, in which a thread of
/// the runtime could do nothing else.
const INLINE_MAX: usize = 256 * 1024;

/// Longest API key of an app for which what finds it is kept, in bytes.
const KEPT_KEY: usize = 1024;

/// Few answers are as large as they may be, so a part of that size is reserved for an answer of an app: one of this
/// number of parts.
const RESERVED: usize = 4;

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
    /// The texts by which an answer or a message could repeat the API key.
    masks: Arc<Masks>,
    /// The app whose definition it is. `None`: the operator's.
    owner: Option<Owner>,
}

/// The app that wrote a definition, or a registration without one, and how its answers are read.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The app.
    pub(super) app: AppNo,
    /// Where answers are read.
    pub(super) work: Arc<OwnWork>,
    /// Memory of the answers that are being received.
    pub(super) answers: Arc<AppMemory>,
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
    pub(super) memory: Option<AppSpace>,
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
        Self {
            definition,
            credential,
            base_url,
            policy,
            limits,
            allow_cancel: false,
            tokens: Tokens::default(),
            masks: Arc::default(),
            owner: None,
        }
    }

    /// Returns the provider of an app that decides about its answers.
    #[must_use]
    pub(super) fn with_owner(self, owner: Option<Owner>) -> Self {
        Self { owner, ..self }
    }

    /// Returns the API key.
    pub fn key(&self) -> Option<&str> {
        self.credential.as_ref().map(Masked::reveal)
    }

    /// Returns the URL of a job for the log: without its query, and without the API key.
    pub(super) async fn shown_url(&self, name: &JobName) -> Option<String> {
        let url = self.definition.shown_url(&name.job_id, &name.params, self.base_url.as_ref());
        Some(self.masked_in_turn(url.ok()?.into()).await)
    }

    /// Returns a text without the API key, in every form in which it is sent, and without what is derived from it.
    pub fn masked(&self, text: String, derived: &[String]) -> String {
        self.mask(derived).masked(text)
    }

    /// Returns a text without the API key. For the definition of an app, this is work of the app.
    async fn masked_in_turn(&self, text: String) -> String {
        let mask = self.mask(&[]);
        self.in_turn(move || mask.masked(text)).await.unwrap_or_else(|why| why.to_string())
    }

    /// Does what the definition of an app can make expensive when it is the app's turn. For a definition of the operator,
    /// it is done at once.
    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        match self.owner.as_ref().filter(|_| self.definition.is_of_app()) {
            Some(owner) => owner.work.run(owner.app, work).await,
            None => Ok(work()),
        }
    }

    /// Returns what replaces the credential, and what was derived from it.
    fn mask(&self, derived: &[String]) -> Mask {
        // What finds a long credential of an app takes memory, and is made for each answer.
        let is_own = self.owner.is_some() || self.definition.has_own_credential();
        let is_kept = !is_own || self.key().is_none_or(|key| key.len() <= KEPT_KEY);
        Mask {
            definition: Arc::clone(&self.definition),
            credential: self.credential.clone(),
            kept: if is_kept { Arc::clone(&self.masks) } else { Arc::default() },
            derived: derived.to_vec(),
        }
    }

    /// Replaces the credential by `***` in a whole answer.
    pub fn hide_credential(&self, received: &mut Received, derived: &[String]) {
        self.mask(derived).apply(received);
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
        let failed = async |message, retry_after| {
            let answer = CancelAnswer::Error(self.masked_in_turn(message).await);
            CancelResponse { answer, http_status: None, retry_after }
        };
        let refused = async |message| {
            let answer = CancelAnswer::Refused(self.masked_in_turn(message).await);
            CancelResponse { answer, http_status: None, retry_after: None }
        };
        let (request, token) = match self.authorized(egress, clock, job, Purpose::Cancel).await {
            Ok(authorized) => authorized,
            Err(TokenFailure { failure: PollFailure::Refused, message, .. }) => {
                return refused(message).await;
            }
            // The status is that of the token URL.
            Err(TokenFailure { message, retry_after, .. }) => return failed(message, retry_after).await,
        };
        let secrets = request.secrets.clone();
        let (mut received, read) = match egress.fetch_partly(Self::fetch(request)).await {
            Ok(received) => received,
            // The same address would be refused again.
            Err(error @ SendError::Refused(_)) => return refused(error.to_string()).await,
            Err(error) => return failed(error.to_string(), None).await,
        };
        let is_good = (200..300).contains(&received.status);
        let needs_body = is_good && self.definition.reads_cancel_body();
        // The status decides. Only a good answer whose body can report an error is not known without it.
        let mut is_too_large = false;
        if let Err(error) = read {
            is_too_large = matches!(error, SendError::TooLarge(_));
            if needs_body && !is_too_large {
                return failed(error.to_string(), None).await;
            }
            received.body = Bytes::new();
        }
        let (definition, job) = (Arc::clone(&self.definition), name.clone());
        let read = self.read(received, &secrets, move |received, mask| {
            let Received { status, headers, body, .. } = received;
            let answer = Answer { status: *status, headers, body };
            // A body that is too large reports no error.
            if needs_body && is_too_large {
                return CancelAnswer::Accepted;
            }
            let mut answer = definition.interpret_cancel((&job.job_id, &job.params), answer);
            if let CancelAnswer::AlreadyEnded(message)
            | CancelAnswer::Refused(message)
            | CancelAnswer::RateLimited(message)
            | CancelAnswer::Unauthorized(message)
            | CancelAnswer::Error(message) = &mut answer
            {
                // The answer may have a short key.
                *message = mask.masked(std::mem::take(message));
            }
            answer
        });
        let (received, answer) = match read.await {
            Ok(read) => read,
            Err(why) => return failed(why.to_string(), None).await,
        };
        let status = received.status;
        // Some APIs answer another status to a token that has expired.
        if (status == 401 || matches!(answer, CancelAnswer::Unauthorized(_)))
            && let Some(token) = &token
        {
            self.tokens.discard_old(clock, token);
        }
        let retry_after = received.retry_after(clock.now());
        CancelResponse { answer, http_status: Some(status), retry_after }
    }

    async fn respond(
        &self,
        egress: &Arc<Egress>,
        clock: &Clock,
        name: &JobName,
        purpose: Purpose<'_>,
    ) -> PollResponse {
        match self.exchange(egress, clock, name, purpose).await {
            Ok(response) => response,
            Err(mut failed) => {
                if let Interpretation::Failed { message, .. } = &mut failed.meaning {
                    *message = self.masked_in_turn(std::mem::take(message)).await;
                }
                failed
            }
        }
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
        let _space = self.space_for(&request)?;
        let secrets = request.secrets.clone();
        let received = egress.fetch(Self::fetch(request)).await.map_err(|error| {
            let (failure, kind) = match (&error, purpose) {
                (SendError::Refused(_), Purpose::Result(_)) => (PollFailure::Refused, "refused"),
                _ => exchange::failure_of(&error),
            };
            PollResponse { no_answer: Some(kind), ..PollResponse::failed(failure, error.to_string()) }
        })?;
        let read = self.read(received, &secrets, interpreter(&self.definition, name, purpose));
        let (received, mut meaning) =
            read.await.map_err(|why| PollResponse::failed(PollFailure::Error, why.to_string()))?;
        let now = clock.now();
        let retry_after = received.retry_after(now);
        if let Interpretation::Ok(report) = &mut meaning {
            report.settle(now);
            // A registration lists the words that end the job. Each other word means that it runs.
            report.unknown_status &= definition.id != INLINE;
        }
        if let Interpretation::Failed { failure, .. } = &mut meaning {
            // Some APIs answer another status to a token that has expired.
            let is_refused = received.status == 401 || matches!(failure, PollFailure::Unauthorized { .. });
            let refused = token.as_ref().filter(|_| is_refused);
            if let Some(token) = refused
                && self.tokens.discard_old(clock, token)
            {
                *failure = PollFailure::TokenRefused;
            }
        }
        // A text is no JSON, as receivers of the payload `raw` expect.
        let is_text = matches!(purpose, Purpose::Poll) && definition.reads_texts();
        let raw = Some(received.body).filter(|body| body.len() <= RAW_MAX && !is_text);
        let (http_status, no_answer, redirects) = (Some(received.status), None, received.redirects);
        Ok(PollResponse { meaning, http_status, retry_after, no_answer, raw, memory: None, redirects })
    }

    /// Takes memory for the answer to a request, if an app decides how large it is.
    fn space_for(&self, request: &Request) -> Result<Option<AppSpace>, PollResponse> {
        let Some(owner) = &self.owner else { return Ok(None) };
        let kib = u32::try_from(request.max_body.div_ceil(1024 * RESERVED)).unwrap_or(u32::MAX);
        let space = owner.answers.take(owner.app, kib);
        let too_many = "too many answers are being received for this app; the next try follows".to_owned();
        space.map(Some).ok_or_else(|| PollResponse::failed(PollFailure::NotMade, too_many))
    }

    /// Reads an answer without the credential: a large one, and one for the definition of an app, on a thread that does
    /// nothing else. Returns it as well.
    async fn read<T: Send + 'static>(
        &self,
        mut received: Received,
        derived: &[String],
        read: impl FnOnce(&Received, &Mask) -> T + Send + 'static,
    ) -> Result<(Received, T), NotDone> {
        let (mask, is_large) = (self.mask(derived), received.body.len() > INLINE_MAX);
        let work = move || {
            mask.apply(&mut received);
            let read = read(&received, &mask);
            (received, read)
        };
        match &self.owner {
            Some(owner) => owner.work.run(owner.app, work).await,
            None if !is_large => Ok(work()),
            None => {
                // The semaphore is never closed.
                let _permit = LARGE_BODIES.acquire().await;
                on_thread(work).await
            }
        }
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
        let is_cancel = matches!(purpose, Purpose::Cancel);
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
        let (job_id, params) = (job.0.to_owned(), job.1.to_owned());
        let (next, base_url) = (next.cloned(), self.base_url.clone());
        let (definition, key, used_token) = (Arc::clone(definition), self.credential.clone(), token.clone());
        let made = self.in_turn(move || {
            let (job, base_url) = ((job_id.as_str(), params.as_str()), base_url.as_ref());
            let token = used_token.as_ref().map(Token::reveal);
            let credential = key.as_ref().map(|key| Credential { key: key.reveal(), token, now });
            match &next {
                None if is_cancel => definition.cancel_request(job, base_url, credential),
                Some(next) => definition.result_request(next, job, base_url, credential),
                None => definition.request(job.0, job.1, base_url, credential),
            }
        });
        let made = made.await.map_err(|why| TokenFailure::error(why.to_string()))?;
        let is_poll = matches!(purpose, Purpose::Poll);
        let request = made.map_err(|why| if is_poll { TokenFailure::error(why) } else { refused(why) });
        Ok((request?, token))
    }
}

/// The texts that are replaced, which are made when they are first needed.
#[derive(Debug, Default)]
struct Masks {
    in_answers: OnceLock<SecretTexts>,
    in_messages: OnceLock<SecretTexts>,
}

/// Replaces the credential in a whole answer, before anything reads it: what is read goes to receivers and to logs, and a
/// text that is cut could keep most of the key.
struct Mask {
    definition: Arc<Definition>,
    credential: Option<Masked>,
    kept: Arc<Masks>,
    derived: Vec<String>,
}

impl Mask {
    fn key(&self) -> Option<&str> {
        self.credential.as_ref().map(Masked::reveal)
    }

    fn secrets(&self) -> Cow<'_, SecretTexts> {
        self.with_derived(self.kept.in_answers.get_or_init(|| self.definition.hidden_texts(self.key())))
    }

    fn with_derived<'a>(&self, own: &'a SecretTexts) -> Cow<'a, SecretTexts> {
        if self.derived.is_empty() { Cow::Borrowed(own) } else { Cow::Owned(own.with(&self.derived)) }
    }

    /// Returns a message without the credential.
    fn masked(&self, text: String) -> String {
        let own = self.kept.in_messages.get_or_init(|| self.definition.masked_texts(self.key()));
        self.with_derived(own).hide(&text).unwrap_or(text)
    }

    /// Replaces the credential in texts that were decoded.
    fn hide<'t>(&self, texts: impl Iterator<Item = &'t mut String>) {
        let secrets = self.secrets();
        for text in texts {
            if let Some(hidden) = secrets.hide(text) {
                *text = hidden;
            }
        }
    }

    fn apply(&self, received: &mut Received) {
        let secrets = self.secrets();
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
}

/// Returns what interprets the answer to a request about a job.
fn interpreter(
    definition: &Arc<Definition>,
    name: &JobName,
    purpose: Purpose<'_>,
) -> impl FnOnce(&Received, &Mask) -> Interpretation + Send + 'static {
    let definition = Arc::clone(definition);
    let (job_id, params) = (name.job_id.clone(), name.params.clone());
    let before = match purpose {
        Purpose::Poll | Purpose::Cancel => None,
        Purpose::Result(report) => Some(report.clone()),
    };
    move |received, mask| {
        let (job, Received { status, headers, body, .. }) = ((job_id.as_str(), params.as_str()), received);
        let answer = Answer { status: *status, headers, body };
        let mut meaning = match &before {
            Some(before) => definition.interpret_result_of(job, before, answer),
            None => definition.interpret_of(job, answer),
        };
        match &mut meaning {
            Interpretation::Ok(report) if definition.decodes() => mask.hide(report.observation.texts_mut()),
            Interpretation::Ok(_) | Interpretation::NotYet => {}
            Interpretation::Failed { failure, message } => {
                // A provider's error is logged and shown to users. The answer may have a short key.
                *message = mask.masked(std::mem::take(message));
                if let PollFailure::Unauthorized { code } = failure {
                    *code = mask.masked(std::mem::take(code));
                }
            }
        }
        meaning
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;
    use crate::providers::InlinePoll;

    #[test]
    fn what_finds_a_long_credential_of_an_app_is_not_kept() {
        let text = include_str!("../providers/tests/rich.toml");
        let operators = Arc::new(Definition::parse(text).expect("a definition"));
        let apps = Arc::new(Definition::parse_own_stored(text).expect("a definition"));
        let (policy, limits) = (InlinePoll::POLICY, operators.limits);
        let owner = || Owner {
            app: AppNo(2),
            work: OwnWork::new(Clock::Manual(crate::clock::ManualClock::at(Timestamp::from_millis(0)))),
            answers: AppMemory::new(),
        };
        for (is_own, length, is_kept) in
            [(false, 4_000, true), (true, 4_000, false), (true, 400, true), (false, 400, true)]
        {
            let secret = "hush".repeat(length / 4);
            let key = Masked::new(format!(r#"{{"key_id": "id", "secret": "{secret}"}}"#));
            let definition = Arc::clone(if is_own { &apps } else { &operators });
            let provider = Provider::new(definition, Some(key), None, policy, limits);
            let provider = provider.with_owner(is_own.then(owner));
            assert_eq!(provider.masked(format!("<{secret}>"), &[]), "<***>");
            assert_eq!(provider.masks.in_messages.get().is_some(), is_kept, "{is_own} {length}");
        }
    }
}
