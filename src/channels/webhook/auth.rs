//! Authentication of requests to a receiver: HTTP Basic, and tokens for client credentials (RFC 6749, section 4.4).
//!
//! A token is requested when the first request needs it, and kept in memory. It is renewed before it expires, and after
//! the receiver has answered 401 to it. For each set of credentials, one request for a token is in flight: other
//! attempts wait for its answer, also if that is a failure. The token URL passes the same guard as the URL of a
//! receiver.
//!
//! A request for a token that fails says nothing about the receiver. The attempt has failed, and its error names the
//! host of the token URL; [`TokenUse`] makes the dispatcher count the failure there. The next request follows after
//! [`FAILURE_HOLDS`] at the earliest. An attempt that begins before is not made ([`TokenUse::Awaited`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::form_urlencoded::{Serializer, byte_serialize};

use super::super::channel::{AttemptResult, Headers, Reach, Services, TokenUse, webhook_queue};
use crate::clock::Moment;
use crate::domain::{AppNo, BasicAuth, ClientCredentials, Outcome};
use crate::egress::{Post, Received, SendError};

/// Maximum size of the answer of a token URL, in bytes. A token with many claims has some KiB.
const ANSWER_MAX: usize = 64 * 1024;

/// Maximum length of a token, in bytes: a header of common servers has at most 8 KiB.
const TOKEN_MAX: usize = 8 * 1024;

/// Life of a token whose answer does not say when it expires.
const LIFE_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// Maximum time for which a token is used.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Maximum time before its end at which a token is renewed: a tenth of its life, and at most this.
const RENEW_BEFORE_MAX: Duration = Duration::from_secs(60);

/// Minimum age of a token that is renewed after a 401. If a younger one is refused, a new one would be as well.
const RENEW_AGE_MIN: Duration = Duration::from_secs(10);

/// Time for which a failed request for a token is not repeated: many deliveries, and manual retries, may need one.
const FAILURE_HOLDS: Duration = Duration::from_secs(2);

/// Maximum number of credentials whose tokens are kept.
const ENTRIES_MAX: usize = 1_024;

/// Error codes of a token URL (RFC 6749, section 5.2). Other texts of its answer could repeat a secret.
const ERRORS: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// Returns the value of `authorization` for a name and a password.
pub(super) fn basic(auth: &BasicAuth) -> Option<HeaderValue> {
    credentials(&auth.username, auth.password.reveal())
}

fn credentials(name: &str, secret: &str) -> Option<HeaderValue> {
    sensitive(&format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{secret}"))))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A token.
#[derive(Clone)]
pub(super) struct Token {
    /// The value of `authorization`.
    pub(super) authorization: HeaderValue,
    issued_at: Moment,
    renew_at: Moment,
    expires_at: Moment,
}

/// Why there is no token.
#[derive(Clone)]
pub(super) struct TokenFailure {
    outcome: Outcome,
    error: String,
    used: TokenUse,
}

impl TokenFailure {
    /// Returns the result of an attempt of this duration that has no token.
    pub(super) fn into_result(self, request_headers: Headers, duration: Duration) -> AttemptResult {
        let result = AttemptResult::without_response(self.outcome, self.error, request_headers);
        AttemptResult { duration, token: Some(Box::new(self.used)), ..result }
    }

    /// Returns this failure for an attempt that begins while it holds, for `wait` longer.
    fn awaited(&self, wait: Duration) -> Self {
        Self { outcome: Outcome::NotMade, error: self.error.clone(), used: TokenUse::Awaited(wait) }
    }

    fn is_awaited(&self) -> bool {
        matches!(self.used, TokenUse::Awaited(_))
    }
}

/// What a token is requested for.
#[derive(Clone, Copy)]
pub(super) struct TokenRequest<'a> {
    pub(super) services: &'a Services,
    pub(super) app: AppNo,
    pub(super) credentials: &'a ClientCredentials,
}

/// What is known about the tokens of one set of credentials.
#[derive(Default)]
struct Slot {
    token: Option<Token>,
    failure: Option<(Moment, TokenFailure)>,
}

type Slots = HashMap<[u8; 32], Arc<tokio::sync::Mutex<Slot>>>;

/// The tokens of all credentials.
#[derive(Default)]
pub(super) struct Tokens(Mutex<Slots>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// Returns a valid token within `limit`, and how a request for it ended, if one was made.
    pub(super) async fn get(
        &self,
        request: TokenRequest<'_>,
        limit: Duration,
    ) -> Result<(Token, Option<TokenUse>), TokenFailure> {
        self.get_other(request, limit, None).await
    }

    /// Returns another token than one that the receiver has refused; `None` if that one is too young, or if no token may
    /// be requested now.
    pub(super) async fn renew(
        &self,
        request: TokenRequest<'_>,
        limit: Duration,
        refused: &Token,
    ) -> Option<Result<(Token, Option<TokenUse>), TokenFailure>> {
        let age = request.services.clock.moment().since(refused.issued_at);
        if age < RENEW_AGE_MIN {
            return None;
        }
        let renewed = self.get_other(request, limit, Some(refused)).await;
        (!matches!(&renewed, Err(failure) if failure.is_awaited())).then_some(renewed)
    }

    async fn get_other(
        &self,
        request: TokenRequest<'_>,
        limit: Duration,
        refused: Option<&Token>,
    ) -> Result<(Token, Option<TokenUse>), TokenFailure> {
        let clock = &request.services.clock;
        let (began, slot) = (clock.moment(), self.slot(request));
        let is_refused =
            |token: &Token| refused.is_some_and(|refused| refused.authorization == token.authorization);
        let waiting = async {
            let mut slot = slot.lock().await;
            let now = clock.moment();
            let known = slot.token.clone().filter(|token| !is_refused(token));
            if let Some(token) = known.clone().filter(|token| now < token.renew_at) {
                return Ok((token, None));
            }
            let failure = match &slot.failure {
                // The request that this attempt waited for was made for it as well.
                Some((at, failure)) if *at >= began => failure.clone(),
                Some((at, failure)) if now.since(*at) < FAILURE_HOLDS => {
                    failure.awaited(FAILURE_HOLDS.saturating_sub(now.since(*at)))
                }
                Some(_) | None => match request.send(limit.saturating_sub(now.since(began))).await {
                    Ok((token, used)) => {
                        *slot = Slot { token: Some(token.clone()), failure: None };
                        return Ok((token, Some(used)));
                    }
                    Err(failure) => {
                        slot.failure = Some((clock.moment(), failure.clone()));
                        failure
                    }
                },
            };
            // A token that was to be renewed is valid until it expires.
            known.filter(|token| now < token.expires_at).map(|token| (token, None)).ok_or(failure)
        };
        let got = clock.timeout(limit, waiting).await;
        got.unwrap_or_else(|| Err(request.failure(&SendError::timed_out(limit))))
    }

    /// Returns the slot of these credentials.
    fn slot(&self, request: TokenRequest<'_>) -> Arc<tokio::sync::Mutex<Slot>> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = request.key();
        if slots.len() >= ENTRIES_MAX && !slots.contains_key(&key) {
            // A token that is removed is requested again.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

/// A successful answer of a token URL (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Issued {
    access_token: String,
    token_type: String,
    /// In seconds. Some servers send a text.
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// The answer to a request that failed.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl TokenRequest<'_> {
    /// Returns what distinguishes the tokens. Apps never share one.
    fn key(&self) -> [u8; 32] {
        let ClientCredentials { token_url, client_id, client_secret, audience, scopes } = self.credentials;
        let mut hash = Sha256::new();
        hash.update(self.app.0.to_be_bytes());
        let audience = audience.as_deref().unwrap_or_default();
        let texts = [token_url, client_id, client_secret.reveal(), audience].into_iter();
        for text in texts.chain(scopes.iter().map(String::as_str)) {
            hash.update(u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(text);
        }
        hash.finalize().into()
    }

    /// Returns the origin of the token URL, which errors may show: path and query can hold a secret.
    fn host(&self) -> String {
        let target = self.services.egress.parse(&self.credentials.token_url);
        target.map_or_else(|_| "the token URL".to_owned(), |target| target.origin())
    }

    fn used(&self, reach: Reach, has_failed: bool) -> TokenUse {
        let url = &self.credentials.token_url;
        let target = self.services.egress.parse(url).ok();
        TokenUse::Requested { queue: webhook_queue(self.app, url, target.as_ref()), reach, has_failed }
    }

    fn failure(&self, error: &SendError) -> TokenFailure {
        let outcome = match () {
            () if matches!(error, SendError::Refused(_)) => Outcome::Refused,
            () if error.is_ours() => Outcome::NotMade,
            () => Outcome::Retry { after: None },
        };
        let error_text = format!("token: {}: {error}", self.host());
        TokenFailure { outcome, error: error_text, used: self.used(Reach::of(error), true) }
    }

    /// Requests a token.
    async fn send(&self, timeout: Duration) -> Result<(Token, TokenUse), TokenFailure> {
        let Services { egress, clock, .. } = self.services;
        let ClientCredentials { token_url, client_id, client_secret, audience, scopes } = self.credentials;
        let body = form(scopes, audience.as_deref());
        // Section 2.3.1: both are encoded as in a form before they are joined.
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let authorization = credentials(&encoded(client_id), &encoded(client_secret.reveal()));
        let mut headers = HeaderMap::with_capacity(4);
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let sent = match egress.parse(token_url) {
            Ok(url) => egress.send(Post { url, headers, body, timeout, max_answer: ANSWER_MAX }).await,
            Err(error) => Err(SendError::Refused(error.to_string())),
        };
        let received = sent.map_err(|error| self.failure(&error))?;
        let now = clock.moment();
        let token = read(&received, now).map_err(|why| TokenFailure {
            outcome: Outcome::Retry { after: received.retry_after(clock.now()) },
            error: format!("token: {}: {why}", self.host()),
            used: self.used(Reach::of_status(received.status), true),
        })?;
        Ok((token, self.used(Reach::Answered, false)))
    }
}

/// Returns the body of a request for a token.
fn form(scopes: &[String], audience: Option<&str>) -> Bytes {
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if !scopes.is_empty() {
        form.append_pair("scope", &scopes.join(" "));
    }
    if let Some(audience) = audience {
        form.append_pair("audience", audience);
    }
    Bytes::from(form.finish())
}

/// Reads the token of an answer. The error repeats nothing of the answer but a known error code.
fn read(received: &Received, now: Moment) -> Result<Token, String> {
    if received.status != 200 {
        let refusal: Option<Refusal> = serde_json::from_slice(&received.body).ok();
        let code = refusal.and_then(|refusal| ERRORS.into_iter().find(|code| *code == refusal.error));
        let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
        return Err(format!("answered HTTP {}{code} to the request for a token", received.status));
    }
    let issued: Issued = serde_json::from_slice(&received.body)
        .map_err(|_| "the answer is not a token in JSON (access_token, token_type)".to_owned())?;
    if !issued.token_type.eq_ignore_ascii_case("bearer") {
        return Err("the answer has a token of another type than Bearer".to_owned());
    }
    let text = Some(issued.access_token).filter(|text| (1..=TOKEN_MAX).contains(&text.len()));
    let authorization = text.and_then(|text| sensitive(&format!("Bearer {text}")));
    let authorization = authorization.ok_or("the answer has a token that no header can hold")?;
    let seconds = issued.expires_in.as_u64().or_else(|| issued.expires_in.as_str()?.parse().ok());
    let life = seconds.map_or(LIFE_DEFAULT, Duration::from_secs).min(LIFE_MAX);
    let renew_before = (life / 10).min(RENEW_BEFORE_MAX);
    let (renew_at, expires_at) = (now.plus(life.saturating_sub(renew_before)), now.plus(life));
    Ok(Token { authorization, issued_at: now, renew_at, expires_at })
}
