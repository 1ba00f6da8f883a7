//! Authentication of requests to a receiver: HTTP Basic, and tokens for client credentials (RFC 6749, section 4.4).
//!
//! Each set of credentials has a [`TokenSlot`], which keeps and renews its token. A token is also renewed after the
//! receiver has answered 401 to it. The token URL passes the same guard as the URL of a receiver.
//!
//! A request for a token that fails says nothing about the receiver. The attempt has failed, and its error names the
//! host of the token URL; [`TokenUse`] makes the dispatcher count the failure there. An attempt that begins while the
//! failure holds is not made ([`TokenUse::Awaited`]).
//!
//! **A silent token URL takes few places.** An attempt holds a place of its receiver while it waits for a token. With many
//! credentials, requests to one silent token URL would take all places of the receivers' host. So while such a URL has not
//! answered, one request at a time is made to it, whatever the credentials ([`SilentUrls`]); the other attempts are not made.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::body::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};
use url::form_urlencoded::{Serializer, byte_serialize};

use super::super::channel::{AttemptResult, Headers, Reach, Services, TokenUse, webhook_queue};
use crate::clock::Clock;
use crate::domain::{AppNo, BasicAuth, ClientCredentials, Outcome};
use crate::egress::{Egress, NoToken, Post, SendError, TOKEN_ANSWER_MAX, Token, TokenSlot, read_token};

/// Maximum number of credentials whose tokens are kept.
const ENTRIES_MAX: usize = 1_024;

/// Duration of a failed request for a token from which its URL counts as silent, whatever it has answered.
const SLOW: Duration = Duration::from_secs(5);

/// Wait of an attempt whose token URL is silent, until it tries again whether there is a token.
const SILENT_WAIT: Duration = Duration::from_secs(2);

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

    /// Returns whether the token URL gave no complete answer.
    fn is_silence(&self) -> bool {
        let TokenUse::Requested { reach, .. } = &self.used else { return false };
        matches!(reach, Reach::NotConnected | Reach::NoAnswer | Reach::Broken)
    }

    fn is_awaited(&self) -> bool {
        matches!(self.used, TokenUse::Awaited(_))
    }
}

/// What a token is requested for.
#[derive(Clone)]
pub(super) struct TokenRequest {
    egress: Arc<Egress>,
    clock: Clock,
    app: AppNo,
    credentials: ClientCredentials,
}

type Slot = TokenSlot<TokenFailure>;

type Slots = HashMap<[u8; 32], Arc<Slot>>;

/// The tokens of all credentials.
#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<Slots>,
    silent: Arc<SilentUrls>,
}

/// The token URLs of each app whose last request has failed without a quick answer.
#[derive(Default)]
struct SilentUrls(Mutex<HashMap<(AppNo, String), SilentUrl>>);

struct SilentUrl {
    failure: TokenFailure,
    /// Whether a request is in flight that finds out whether it answers now.
    is_probed: bool,
}

impl SilentUrls {
    /// Runs a request for a token, unless the URL is silent and another request is in flight.
    async fn run(
        &self,
        key: (AppNo, String),
        clock: &Clock,
        request: impl Future<Output = Result<(Token, TokenUse), TokenFailure>>,
    ) -> Result<(Token, TokenUse), TokenFailure> {
        if let Some(silent) = self.urls().get_mut(&key)
            && std::mem::replace(&mut silent.is_probed, true)
        {
            return Err(silent.failure.awaited(SILENT_WAIT));
        }
        let stopwatch = clock.stopwatch();
        let result = request.await;
        let is_slow = stopwatch.elapsed() >= SLOW;
        let mut urls = self.urls();
        match &result {
            Err(failure) if is_slow || failure.is_silence() => {
                if urls.len() >= ENTRIES_MAX {
                    urls.retain(|_, silent| silent.is_probed);
                }
                urls.insert(key, SilentUrl { failure: failure.clone(), is_probed: false });
            }
            _ => _ = urls.remove(&key),
        }
        result
    }

    fn urls(&self) -> MutexGuard<'_, HashMap<(AppNo, String), SilentUrl>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// Returns a valid token within `limit`, and how a request for it ended, if one was made.
    pub(super) async fn get(
        &self,
        request: &TokenRequest,
        limit: Duration,
    ) -> Result<(Token, Option<TokenUse>), TokenFailure> {
        self.get_other(request, limit, None).await
    }

    /// Returns another token than one that the receiver has refused; `None` if that one is too young, or if no token may
    /// be requested now.
    pub(super) async fn renew(
        &self,
        request: &TokenRequest,
        limit: Duration,
        refused: &Token,
    ) -> Option<Result<(Token, Option<TokenUse>), TokenFailure>> {
        if !refused.is_worth_renewing(request.clock.moment()) {
            return None;
        }
        let renewed = self.get_other(request, limit, Some(refused)).await;
        (!matches!(&renewed, Err(failure) if failure.is_awaited())).then_some(renewed)
    }

    async fn get_other(
        &self,
        request: &TokenRequest,
        limit: Duration,
        refused: Option<&Token>,
    ) -> Result<(Token, Option<TokenUse>), TokenFailure> {
        let send = |left| {
            let (request, silent) = (request.clone(), Arc::clone(&self.silent));
            async move {
                let key = (request.app, request.credentials.token_url.clone());
                silent.run(key, &request.clock, request.send(left)).await
            }
        };
        let context = (&request.clock, request.egress.background_work());
        let got = self.slot(request).get(context, limit, refused, send).await;
        got.map_err(|no_token| match no_token {
            NoToken::Failed(failure) => failure,
            NoToken::Held(failure, wait) => failure.awaited(wait),
            NoToken::TimedOut => request.failure(&SendError::timed_out(limit)),
        })
    }

    /// Returns the slot of these credentials.
    fn slot(&self, request: &TokenRequest) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let key = request.key();
        if slots.len() >= ENTRIES_MAX && !slots.contains_key(&key) {
            // A token that is removed is requested again.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

impl TokenRequest {
    pub(super) fn new(services: &Services, app: AppNo, credentials: &ClientCredentials) -> Self {
        let (egress, clock) = (Arc::clone(&services.egress), services.clock.clone());
        Self { egress, clock, app, credentials: credentials.clone() }
    }

    /// Returns what distinguishes the tokens. Apps never share one.
    fn key(&self) -> [u8; 32] {
        let ClientCredentials { token_url, client_id, client_secret, audience, scopes } = &self.credentials;
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
        let target = self.egress.parse(&self.credentials.token_url);
        target.map_or_else(|_| "the token URL".to_owned(), |target| target.origin())
    }

    fn used(&self, reach: Reach, has_failed: bool) -> TokenUse {
        let url = &self.credentials.token_url;
        let target = self.egress.parse(url).ok();
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
        let Self { egress, clock, .. } = self;
        let ClientCredentials { token_url, client_id, client_secret, audience, scopes } = &self.credentials;
        let body = form(scopes, audience.as_deref());
        // Section 2.3.1: both are encoded as in a form before they are joined.
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let authorization = credentials(&encoded(client_id), &encoded(client_secret.reveal()));
        let mut headers = HeaderMap::with_capacity(4);
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let sent = match egress.parse(token_url) {
            Ok(url) => egress.send(Post { url, headers, body, timeout, max_answer: TOKEN_ANSWER_MAX }).await,
            Err(error) => Err(SendError::Refused(error.to_string())),
        };
        let received = sent.map_err(|error| self.failure(&error))?;
        let now = clock.moment();
        let token = read_token(&received, now).map_err(|not_issued| TokenFailure {
            outcome: Outcome::Retry { after: received.retry_after(clock.now()) },
            error: format!("token: {}: {}", self.host(), not_issued.why),
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
