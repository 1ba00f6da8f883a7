//! The tokens for which API keys are exchanged: OAuth 2.0, and service accounts of Google.
//!
//! A token is kept in memory ([`TokenSlot`]): it is requested before the first poll that needs it, and renewed before
//! it ends. Polls wait for the request that is in flight, unless they have a valid token.
//!
//! - **A failed request says nothing about a job.** If the token URL rejects the key, the provider is paused, as after
//!   a 401 of the provider itself. Every other failure is a failed poll, whose message names the host of the token URL.
//! - **A 401 of the provider** to a token that is not new: it may have been revoked. The token is forgotten, and the
//!   poll is repeated within the limits, with a new token ([`PollFailure::TokenRefused`]). A 401 to a new token is
//!   about the key.
//! - **A refresh token that comes with a token** replaces the configured one, until the process ends: the configuration
//!   is not written. A start uses the configured one again. This is logged once, because a provider that accepts each
//!   refresh token only once then rejects it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::exchange;
use crate::clock::Clock;
use crate::domain::{Masked, Timestamp, credential_variable};
use crate::egress::{
    Egress, NoToken, NotIssued, Received, SendError, Token, TokenParts, TokenSlot, read_token,
    read_token_with,
};
use crate::providers::{Definition, PollFailure, Request};

/// Maximum time that a poll waits for a token: that of a request for one.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Error codes of a token URL that concern the key.
const KEY_CODES: [&str; 3] = ["invalid_client", "invalid_grant", "unauthorized_client"];

/// The token of a provider.
#[derive(Debug, Default)]
pub struct Tokens {
    slot: Arc<TokenSlot<TokenFailure>>,
    refresh_token: Arc<RefreshToken>,
}

/// The newest refresh token.
#[derive(Default)]
struct RefreshToken(Mutex<Option<String>>);

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken")
    }
}

/// Why a poll cannot be made.
#[derive(Clone, Debug)]
pub struct TokenFailure {
    /// What it means for the poll.
    pub failure: PollFailure,
    /// Sentence for people.
    pub message: String,
    /// HTTP status of the token URL, if it answered.
    pub(super) http_status: Option<u16>,
    pub(super) retry_after: Option<Duration>,
    /// The kind of a failed exchange.
    pub(super) kind: Option<&'static str>,
}

impl TokenFailure {
    /// Returns the failure of a request that cannot be made.
    pub(super) fn error(message: String) -> Self {
        Self { failure: PollFailure::Error, message, http_status: None, retry_after: None, kind: None }
    }

    fn of_exchange(host: &str, error: &SendError) -> Self {
        let (failure, kind) = exchange::failure_of(error);
        // A token URL counts no polls.
        let failure = if failure == PollFailure::Closed { PollFailure::Error } else { failure };
        Self { failure, kind: Some(kind), ..Self::error(format!("token: {host}: {error}")) }
    }

    fn of_answer(host: &str, received: &Received, not_issued: NotIssued, now: Timestamp) -> Self {
        let (status, NotIssued { code, why }) = (received.status, not_issued);
        let concerns_key = status == 401 || code.is_some_and(|code| KEY_CODES.contains(&code));
        let failure = if concerns_key && matches!(status, 400 | 401) {
            PollFailure::Unauthorized { code: code.unwrap_or("unauthorized").to_owned() }
        } else {
            PollFailure::Error
        };
        let (http_status, retry_after) = (Some(status), received.retry_after(now));
        Self { failure, http_status, retry_after, ..Self::error(format!("token: {host}: {why}")) }
    }
}

impl Tokens {
    /// Returns a valid token for a key.
    pub(super) async fn get(
        &self,
        egress: &Arc<Egress>,
        clock: &Clock,
        (definition, key): (&Arc<Definition>, &str),
    ) -> Result<Token, TokenFailure> {
        let request = |left| {
            let (egress, clock, definition) = (Arc::clone(egress), clock.clone(), Arc::clone(definition));
            let (refresh_token, key) = (Arc::clone(&self.refresh_token), Masked::new(key.to_owned()));
            async move { refresh_token.request(&egress, &clock, (&definition, key.reveal()), left).await }
        };
        match self.slot.get((clock, egress.background_work()), WAIT_MAX, None, request).await {
            Ok((token, _)) => Ok(token),
            Err(NoToken::Failed(failure) | NoToken::Held(failure, _)) => Err(failure),
            Err(NoToken::TimedOut) => {
                let error = SendError::timed_out(WAIT_MAX);
                Err(TokenFailure::of_exchange("the token URL", &error))
            }
        }
    }

    /// Forgets a token that the provider has refused, if it is not new. Returns whether it did.
    pub(super) fn discard_old(&self, clock: &Clock, token: &Token) -> bool {
        let is_old = token.is_worth_renewing(clock.moment());
        if is_old {
            self.slot.discard(token);
        }
        is_old
    }
}

impl RefreshToken {
    /// Requests a token.
    async fn request(
        &self,
        egress: &Egress,
        clock: &Clock,
        (definition, key): (&Definition, &str),
        left: Duration,
    ) -> Result<(Token, ()), TokenFailure> {
        let newest = self.newest().clone();
        let request = definition.token_request(key, newest.as_deref(), clock.now());
        let request = request.map_err(TokenFailure::error)?;
        let host = request.url.host_str().unwrap_or_default().to_owned();
        let request = Request { timeout: request.timeout.min(left), ..request };
        let received = egress.fetch(exchange::fetch(request)).await;
        let received = received.map_err(|error| TokenFailure::of_exchange(&host, &error))?;
        let (at, now) = (clock.moment(), clock.now());
        let issued = if definition.has_own_token_answer() {
            read_token_with(&received, at, |received| {
                let (text, refresh, life) = definition.read_token(&received.headers, &received.body, now)?;
                Ok(TokenParts { text, refresh, life })
            })
        } else {
            read_token(&received, at)
        };
        let token = issued
            .map_err(|not_issued| TokenFailure::of_answer(&host, &received, not_issued, clock.now()))?;
        if let Some(rotated) = token.refresh_token() {
            self.keep(rotated, definition, key);
        }
        Ok((token, ()))
    }

    fn newest(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a refresh token until the process ends.
    fn keep(&self, rotated: &str, definition: &Definition, key: &str) {
        // Many servers repeat the token that was sent.
        if key.contains(rotated) {
            return;
        }
        let is_first = self.newest().replace(rotated.to_owned()).is_none();
        if is_first && definition.has_own_credential() {
            let provider = definition.id.as_str();
            tracing::warn!(
                provider,
                "the provider has replaced the refresh token of an app's credential; the new one is kept in memory, and the \
                 next start uses that of the credential: if the provider then rejects it, the app must create the credential \
                 again"
            );
        } else if is_first {
            let (provider, variable) = (definition.id.as_str(), credential_variable(&definition.id));
            tracing::warn!(
                provider,
                variable,
                "the provider has replaced the refresh token; the new one is kept in memory, and the next start uses that of \
                 the variable: if the provider then rejects it, authorize again"
            );
        }
    }
}
