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
use crate::store::{AnswerKey, Remember, Replay};

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
    /// Reads the `Idempotency-Key`, if there is one, and claims it.
    pub fn new(api: &Arc<Api>, app: AppNo, parts: &Parts, body: &[u8]) -> Result<Option<Self>, Problem> {
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
        Ok(Some(Self { api: Arc::clone(api), name, request: Sha256::digest(body).into(), seal: None }))
    }

    /// Like [`Self::new`], for a response that holds a secret: only the same API key gets it again.
    pub fn sealed(api: &Arc<Api>, app: AppNo, parts: &Parts, body: &[u8]) -> Result<Option<Self>, Problem> {
        let mut claim = Self::new(api, app, parts, body)?;
        if let Some(claim) = &mut claim {
            claim.seal = bearer(&parts.headers).map(AnswerKey::of_token);
        }
        Ok(claim)
    }

    /// Returns the first response, if the request is a repetition.
    pub async fn first_answer(claim: Option<&Self>) -> Result<Option<Replay>, Problem> {
        let Some(claim) = claim else { return Ok(None) };
        Ok(claim.api.store.recall(claim.remember(), claim.api.clock.now()).await?)
    }

    /// Returns what the store keeps with the response.
    pub fn remember(&self) -> Remember {
        let (app, path, key) = self.name.clone();
        Remember { app, path, key, request: self.request, seal: self.seal.clone() }
    }
}

impl Drop for IdempotencyClaim {
    fn drop(&mut self) {
        self.api.in_progress.lock().remove(&self.name);
    }
}
