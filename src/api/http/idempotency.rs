//! `Idempotency-Key`: one request at a time for each key, and the first response for a repetition.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::HeaderName;
use axum::http::request::Parts;

use super::problem::{FieldErrorCode, Problem, ProblemCode};
use crate::domain::{AppNo, Timestamp};
use crate::store::{AnswerKey, IdempotencyKey, Store};

/// The header of a request's key.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header of an answer that repeats an earlier one.
pub(super) const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Maximum length of an `Idempotency-Key`.
const KEY_MAX: usize = 255;

/// An app, a path and an `Idempotency-Key`.
type KeyName = (AppNo, String, String);

/// The idempotency keys of requests in progress.
#[derive(Clone, Debug, Default)]
pub struct InProgressKeys(Arc<Mutex<HashSet<KeyName>>>);

impl InProgressKeys {
    fn lock(&self) -> MutexGuard<'_, HashSet<KeyName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The exclusive use of an `Idempotency-Key`, until it is dropped.
#[derive(Debug)]
pub struct IdempotencyClaim {
    in_progress: InProgressKeys,
    name: KeyName,
    /// Keyed hash of the body.
    request: [u8; 32],
    /// The key that seals the stored response.
    seal: Option<AnswerKey>,
}

impl IdempotencyClaim {
    /// Reads the `Idempotency-Key`, if there is one, and claims it. A stored response that holds
    /// a secret is sealed by `seal`, so that only the same API key gets it again.
    pub fn new(
        in_progress: &InProgressKeys,
        store: &Store,
        app: AppNo,
        (parts, body): (&Parts, &str),
        seal: Option<AnswerKey>,
    ) -> Result<Option<Self>, Problem> {
        let mut keys = parts.headers.get_all(&IDEMPOTENCY_KEY).iter();
        let Some(key) = keys.next() else { return Ok(None) };
        let is_valid = |key: &&str| {
            (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|b| (b' '..=b'~').contains(&b))
        };
        let key = key.to_str().ok().filter(is_valid).filter(|_| keys.next().is_none());
        let key = key.ok_or_else(|| {
            let detail = format!("must be one key of 1 to {KEY_MAX} printable characters");
            Problem::field("Idempotency-Key", FieldErrorCode::InvalidFormat, detail)
        })?;
        let name = (app, parts.uri.path().to_owned(), key.to_owned());
        if !in_progress.lock().insert(name.clone()) {
            let detail = "a request with this Idempotency-Key is still in progress; send it again later";
            return Err(Problem::new(ProblemCode::IdempotencyInProgress, detail));
        }
        Ok(Some(Self { in_progress: in_progress.clone(), name, request: store.hash_request(body), seal }))
    }

    /// Returns the key for the store.
    pub fn key(&self, now: Timestamp) -> IdempotencyKey {
        let (app, path, key) = self.name.clone();
        IdempotencyKey { app, path, key, request_hash: self.request, now, seal: self.seal.clone() }
    }
}

impl Drop for IdempotencyClaim {
    fn drop(&mut self) {
        self.in_progress.lock().remove(&self.name);
    }
}
