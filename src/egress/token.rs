//! Access tokens (RFC 6749) of receivers and of providers: the answer of a token URL, and the token that is kept.
//!
//! A token is requested when the first request needs it, and kept in memory. One request for a token is in flight at a
//! time: others wait for its answer, also if that is a failure. After a failure, the next request follows after
//! [`FAILURE_HOLDS`] at the earliest.
//!
//! **A renewal delays nothing.** It begins before the token expires, with the first use of the token after `renew_at`, and
//! runs beside it: the known token is used until it expires, or until the renewal has brought another one.
//!
//! The module makes no request: the callers know the token URL, and what its failure means.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;
use serde::Deserialize;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;

use super::Received;
use crate::clock::{Clock, Moment};

/// Maximum size of the answer of a token URL, in bytes. A token with many claims has some KiB.
pub const TOKEN_ANSWER_MAX: usize = 64 * 1024;

/// Maximum length of a token, in bytes: a header of common servers has at most 8 KiB.
const TOKEN_MAX: usize = 8 * 1024;

/// Life of a token whose answer does not say when it expires, or says 0.
const LIFE_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// Minimum time for which a token is used, whatever its answer says. With a shorter one, each poll could need a token of
/// its own.
const LIFE_MIN: Duration = Duration::from_secs(10);

/// Maximum time for which a token is used.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Maximum time before its end at which a token is renewed: a tenth of its life, and at most this.
const RENEW_BEFORE_MAX: Duration = Duration::from_secs(60);

/// Minimum age of a token that is renewed after a 401. If a younger one is refused, a new one would be as well.
const RENEW_AGE_MIN: Duration = Duration::from_secs(10);

/// Time for which a failed request for a token is not repeated: many requests may need one.
const FAILURE_HOLDS: Duration = Duration::from_secs(2);

/// Error codes of a token URL (RFC 6749, section 5.2). Other texts of its answer could repeat a secret.
const ERRORS: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// A token.
#[derive(Clone)]
pub struct Token {
    /// The value of `authorization`.
    authorization: HeaderValue,
    text: String,
    /// The refresh token of the answer, which replaces the one that was sent.
    refresh: Option<String>,
    /// From this time on, a 401 can mean that the token was revoked, or that it has ended.
    doubtful_at: Moment,
    renew_at: Moment,
    expires_at: Moment,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Returns the value of `authorization`.
    pub fn authorization(&self) -> HeaderValue {
        self.authorization.clone()
    }

    /// Returns the token itself.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Returns the refresh token that came with it.
    pub fn refresh_token(&self) -> Option<&str> {
        self.refresh.as_deref()
    }

    /// Returns whether a 401 can mean that the token was revoked or has ended: it is not quite new.
    pub fn is_worth_renewing(&self, now: Moment) -> bool {
        now >= self.doubtful_at
    }

    /// Makes a token of its text and its life, if that is known.
    fn new(
        text: String,
        refresh: Option<String>,
        life: Option<Duration>,
        now: Moment,
    ) -> Result<Self, NotIssued> {
        let text = Some(text).filter(|text| (1..=TOKEN_MAX).contains(&text.len()));
        let token = text.and_then(|text| Some((bearer(&text)?, text)));
        let wrong =
            || NotIssued { code: None, why: "the answer has a token that no header can hold".to_owned() };
        let (authorization, text) = token.ok_or_else(wrong)?;
        let stated = life.filter(|life| !life.is_zero()).unwrap_or(LIFE_DEFAULT);
        let life = stated.clamp(LIFE_MIN, LIFE_MAX);
        let renew_before = (life / 10).min(RENEW_BEFORE_MAX);
        let refresh = refresh.filter(|text| (1..=TOKEN_MAX).contains(&text.len()));
        Ok(Self {
            authorization,
            text,
            refresh,
            doubtful_at: now.plus(RENEW_AGE_MIN.min(stated)),
            renew_at: now.plus(life.saturating_sub(renew_before)),
            expires_at: now.plus(life),
        })
    }

    fn is(&self, other: &Self) -> bool {
        self.authorization == other.authorization
    }
}

/// Why there is no token.
#[derive(Clone, Debug)]
pub enum NoToken<F> {
    /// A request for one failed.
    Failed(F),
    /// An earlier request has failed, and the next one may be made after this time.
    Held(F, Duration),
    /// The answer did not come in time.
    TimedOut,
}

/// The token of one set of credentials, and the turn of the request for it. `F` is the failure of such a request.
pub struct TokenSlot<F> {
    known: Mutex<Known<F>>,
    /// Held while a request is in flight.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Known<F> {
    token: Option<Token>,
    failure: Option<(Moment, F)>,
}

impl<F> Default for TokenSlot<F> {
    fn default() -> Self {
        Self { known: Mutex::new(Known { token: None, failure: None }), turn: Arc::default() }
    }
}

impl<F> fmt::Debug for TokenSlot<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSlot")
    }
}

impl<F: Clone + Send + 'static> TokenSlot<F> {
    /// Returns a valid token within `limit`, and what a request for it brought, if the caller has waited for one.
    /// `request` makes a request within the time that is left. A `refused` token is not returned.
    ///
    /// Each request is a task of its own, so that its result is kept if the caller is gone. `work` has another owner
    /// while one runs that no caller waits for.
    pub async fn get<R, Q>(
        self: &Arc<Self>,
        (clock, work): (&Clock, &Arc<()>),
        limit: Duration,
        refused: Option<&Token>,
        request: impl FnOnce(Duration) -> Q,
    ) -> Result<(Token, Option<R>), NoToken<F>>
    where
        R: Send + 'static,
        Q: Future<Output = Result<(Token, R), F>> + Send + 'static,
    {
        let began = clock.moment();
        if let Some(token) = self.valid(refused, began) {
            let is_due = began >= token.renew_at && self.failed_since(began).is_none();
            if is_due && let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() {
                let (renewal, work) = (self.start(clock, turn, request(limit)), Arc::clone(work));
                tokio::spawn(async move {
                    let _ = renewal.await;
                    drop(work);
                });
            }
            return Ok((token, None));
        }
        let waiting = async {
            let turn = Arc::clone(&self.turn).lock_owned().await;
            let now = clock.moment();
            if let Some(token) = self.valid(refused, now) {
                return Ok((token, None));
            }
            match self.failed_since(now) {
                // The request that this one waited for was made for it as well.
                Some((at, failure)) if at >= began => return Err(NoToken::Failed(failure)),
                Some((at, failure)) => {
                    return Err(NoToken::Held(failure, FAILURE_HOLDS.saturating_sub(now.since(at))));
                }
                None => {}
            }
            let left = limit.saturating_sub(now.since(began));
            match self.start(clock, turn, request(left)).await {
                Ok(Ok((token, brought))) => Ok((token, Some(brought))),
                Ok(Err(failure)) => Err(NoToken::Failed(failure)),
                // The service stops.
                Err(_) => Err(NoToken::TimedOut),
            }
        };
        clock.timeout(limit, waiting).await.unwrap_or(Err(NoToken::TimedOut))
    }

    /// Starts a request, and keeps its result.
    fn start<R, Q>(
        self: &Arc<Self>,
        clock: &Clock,
        turn: OwnedMutexGuard<()>,
        request: Q,
    ) -> JoinHandle<Result<(Token, R), F>>
    where
        R: Send + 'static,
        Q: Future<Output = Result<(Token, R), F>> + Send + 'static,
    {
        let (slot, clock) = (Arc::clone(self), clock.clone());
        tokio::spawn(async move {
            let result = request.await;
            let mut known = slot.known();
            match &result {
                Ok((token, _)) => *known = Known { token: Some(token.clone()), failure: None },
                Err(failure) => known.failure = Some((clock.moment(), failure.clone())),
            }
            drop((known, turn));
            result
        })
    }

    fn known(&self) -> MutexGuard<'_, Known<F>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the token if it has not expired, and is not the one that was refused.
    fn valid(&self, refused: Option<&Token>, now: Moment) -> Option<Token> {
        let is_refused = |token: &Token| refused.is_some_and(|refused| refused.is(token));
        self.known().token.clone().filter(|token| now < token.expires_at && !is_refused(token))
    }

    /// Returns the failure of the last request, if the next one has to wait for it.
    fn failed_since(&self, now: Moment) -> Option<(Moment, F)> {
        self.known().failure.clone().filter(|(at, _)| now.since(*at) < FAILURE_HOLDS)
    }

    /// Forgets a token that was refused, so that the next request gets another one.
    pub fn discard(&self, refused: &Token) {
        let mut known = self.known();
        known.token = known.token.take().filter(|token| !token.is(refused));
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
    refresh_token: Option<String>,
}

/// The answer to a request that failed.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Why the answer of a token URL has no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotIssued {
    /// The error code of RFC 6749.
    pub code: Option<&'static str>,
    /// The rest of a sentence about the token URL. It repeats nothing of the answer but a known error code.
    pub why: String,
}

/// Reads the token of an answer.
pub fn read_token(received: &Received, now: Moment) -> Result<Token, NotIssued> {
    let wrong = |why: &str| NotIssued { code: None, why: why.to_owned() };
    if received.status != 200 {
        return Err(refusal(received));
    }
    let issued: Issued = serde_json::from_slice(&received.body)
        .map_err(|_| wrong("the answer is not a token in JSON (access_token, token_type)"))?;
    if !issued.token_type.eq_ignore_ascii_case("bearer") {
        return Err(wrong("the answer has a token of another type than Bearer"));
    }
    let seconds = issued.expires_in.as_u64().or_else(|| issued.expires_in.as_str()?.parse().ok());
    Token::new(issued.access_token, issued.refresh_token, seconds.map(Duration::from_secs), now)
}

/// What is read in an answer that is not as in RFC 6749.
pub struct TokenParts {
    /// The token.
    pub text: String,
    /// The refresh token that replaces the one that was sent.
    pub refresh: Option<String>,
    /// The life of the token.
    pub life: Option<Duration>,
}

/// Makes a token of an answer that is not as in RFC 6749. The error of `read` is the rest of a sentence about the token
/// URL.
pub fn read_token_with(
    received: &Received,
    now: Moment,
    read: impl FnOnce(&Received) -> Result<TokenParts, String>,
) -> Result<Token, NotIssued> {
    if !matches!(received.status, 200 | 201) {
        return Err(refusal(received));
    }
    let TokenParts { text, refresh, life } = read(received).map_err(|why| NotIssued { code: None, why })?;
    Token::new(text, refresh, life, now)
}

/// Returns why an answer is a refusal.
fn refusal(received: &Received) -> NotIssued {
    let refusal: Option<Refusal> = serde_json::from_slice(&received.body).ok();
    let code = refusal.and_then(|refusal| ERRORS.into_iter().find(|code| *code == refusal.error));
    let shown = code.map(|code| format!(" ({code})")).unwrap_or_default();
    let why = format!("answered HTTP {}{shown} to the request for a token", received.status);
    NotIssued { code, why }
}

fn bearer(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;

    const LIMIT: Duration = Duration::from_secs(20);

    type Answer = Result<(Token, ()), &'static str>;

    fn token(text: &str, now: Moment) -> Token {
        Token::new(text.to_owned(), None, Some(Duration::from_secs(100)), now).expect("a token")
    }

    #[tokio::test]
    async fn a_failure_is_kept_after_its_caller_is_gone() {
        let (slot, work) = (Arc::new(TokenSlot::default()), Arc::default());
        let clock = Clock::Manual(ManualClock::at(Timestamp::from_millis(1_000)));
        let (fail, failing) = oneshot::channel::<()>();
        let request = |_| async move {
            let _ = failing.await;
            Answer::Err("why")
        };
        tokio::select! {
            biased;
            _ = slot.get((&clock, &work), LIMIT, None, request) => panic!("it waits"),
            () = tokio::task::yield_now() => {}
        }
        fail.send(()).expect("the request goes on");
        let again = slot.get((&clock, &work), LIMIT, None, |_| async { Answer::Err("another") }).await;
        assert!(matches!(again, Err(NoToken::Failed("why"))));
    }

    #[tokio::test]
    async fn a_valid_token_is_used_during_its_renewal() {
        let (slot, work) = (Arc::new(TokenSlot::default()), Arc::default());
        let manual = ManualClock::at(Timestamp::from_millis(1_000));
        let clock = Clock::Manual(manual.clone());
        let first = token("first", clock.moment());
        let issued = |_| async move { Answer::Ok((first, ())) };
        slot.get((&clock, &work), LIMIT, None, issued).await.expect("a token");
        manual.advance(Duration::from_secs(95));
        let (renew, renewing) = oneshot::channel();
        let request = |_| async move { Answer::Ok((renewing.await.expect("a token"), ())) };
        let (used, brought) = slot.get((&clock, &work), LIMIT, None, request).await.expect("a token");
        assert!(used.reveal() == "first" && brought.is_none());
        let second = |_| async { Answer::Err("a second renewal") };
        assert_eq!(
            slot.get((&clock, &work), LIMIT, None, second).await.expect("a token").0.reveal(),
            "first"
        );
        renew.send(token("renewed", clock.moment())).expect("the renewal goes on");
        while Arc::strong_count(&work) > 1 {
            tokio::task::yield_now().await;
        }
        let none = |_| async { Answer::Err("no request is needed") };
        assert_eq!(
            slot.get((&clock, &work), LIMIT, None, none).await.expect("a token").0.reveal(),
            "renewed"
        );
    }
}
