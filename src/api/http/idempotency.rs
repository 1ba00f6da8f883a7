//! `Idempotency-Key`: one request at a time for each key, and the first response for a repetition.

use std::sync::Arc;

use axum::http::request::Parts;
use sha2::{Digest, Sha256};

use super::caller::bearer;
use super::in_progress_keys::KeyName;
use super::problem::Problem;
use super::problem_code::{FieldErrorCode, ProblemCode};
use super::state::Api;
use crate::domain::AppNo;
use crate::store::{AnswerKey, IdempotencyKey};

/// Maximum length of an `Idempotency-Key`.
const KEY_MAX: usize = 255;

/// The exclusive use of an `Idempotency-Key`, until it is dropped.
#[derive(Debug)]
pub struct IdempotencyClaim {
    api: Arc<Api>,
    name: KeyName,
    /// SHA-256 of the body.
    request: [u8; 32],
    /// The key that seals the stored response.
    seal: Option<AnswerKey>,
}

impl IdempotencyClaim {
    /// Reads the `Idempotency-Key`, if there is one, and claims it. If the response holds a secret, only the
    /// same API key gets it again.
    pub fn new(
        api: &Arc<Api>,
        app: AppNo,
        parts: &Parts,
        body: &str,
        has_secret: bool,
    ) -> Result<Option<Self>, Problem> {
        let mut keys = parts.headers.get_all("idempotency-key").iter();
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
        if !api.in_progress.lock().insert(name.clone()) {
            let detail = "a request with this Idempotency-Key is still in progress; send it again later";
            return Err(Problem::new(ProblemCode::IdempotencyInProgress, detail));
        }
        let seal = if has_secret { bearer(&parts.headers).map(AnswerKey::of_token) } else { None };
        Ok(Some(Self { api: Arc::clone(api), name, request: Sha256::digest(body).into(), seal }))
    }

    /// Returns the key for the store.
    pub fn key(&self) -> IdempotencyKey {
        let (app, path, key) = self.name.clone();
        let (request_hash, now) = (self.request, self.api.clock.now());
        IdempotencyKey { app, path, key, request_hash, now, seal: self.seal.clone() }
    }
}

impl Drop for IdempotencyClaim {
    fn drop(&mut self) {
        self.api.in_progress.lock().remove(&self.name);
    }
}
