//! First answers to writes that carried an `Idempotency-Key`.
//!
//! The answer is stored in the transaction of what it answers for, so the two cannot come apart:
//! whoever lost the answer and asks again gets that answer, and nothing is made twice. Refusals are
//! not stored. Kept for a day, then pruned.

use std::time::Duration;

use super::Store;
use super::db::{Result, Tx};
use super::sealing::AnswerKey;
use crate::domain::{AppNo, Timestamp};

/// How long an answer is kept.
pub(super) const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The wish that a write be remembered under its key.
#[derive(Clone, Debug)]
pub struct Remember {
    /// In whose name.
    pub app: AppNo,
    /// The path that was posted to.
    pub path: String,
    /// The client's key.
    pub key: String,
    /// SHA-256 of the body: "the same body" means byte for byte.
    pub request: [u8; 32],
    /// Seals the answer, where it holds a secret.
    pub seal: Option<AnswerKey>,
}

impl Remember {
    /// What a sealed answer belongs to.
    fn associated(&self) -> Vec<u8> {
        let app = self.app.0.to_be_bytes();
        [&app, self.path.as_bytes(), &[0], self.key.as_bytes(), &[0], &self.request].concat()
    }
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The same was asked before; this was the answer.
    Answer {
        /// HTTP's.
        status: u16,
        /// Where what was made is found.
        location: Option<String>,
        /// The body.
        body: Vec<u8>,
    },
    /// The key was used for something else.
    Different,
    /// The answer holds a secret, and was given to somebody else of the same app.
    Anothers,
}

impl Store {
    /// What became of an earlier write under this key: asked before anything else of the request is
    /// judged, since what was right then may be refused by now.
    pub async fn recall(&self, remember: Remember, now: Timestamp) -> Result<Option<Replay>> {
        self.read(move |tx| recall(tx, &remember, now)).await
    }
}

/// What became of an earlier write under this key; `None` if there was none, or if it was too long
/// ago.
pub(super) fn recall(tx: &Tx<'_>, remember: &Remember, now: Timestamp) -> Result<Option<Replay>> {
    let Remember { app, path, key, request, seal } = remember;
    let found = tx.find(
        "select request, status, location, answer, created_at from idempotency
         where app = $1 and path = $2 and key = $3",
        [app.0.into(), path.into(), key.into()],
        |row| {
            let replay = if row.bytes(0)? == request {
                let body = row.bytes(3)?;
                let status = u16::try_from(row.int(1)?).unwrap_or(200);
                let location = row.opt_text(2)?;
                let body = match seal {
                    Some(seal) => seal.open(&body, &remember.associated()),
                    None => Some(body),
                };
                match body {
                    Some(body) => Replay::Answer { status, location, body },
                    None => Replay::Anothers,
                }
            } else {
                Replay::Different
            };
            Ok((replay, row.time(4)?))
        },
    )?;
    Ok(found.filter(|(_, created_at)| now < created_at.plus(KEPT)).map(|(replay, _)| replay))
}

/// Remembers the answer to a write of this transaction.
pub(super) fn remember(
    tx: &Tx<'_>,
    remember: &Remember,
    (status, location, body): (u16, Option<&str>, &[u8]),
    now: Timestamp,
) -> Result<()> {
    let Remember { app, path, key, request, seal } = remember;
    let sealed = seal.as_ref().map(|seal| seal.seal(body, &remember.associated())).transpose()?;
    let body = sealed.as_deref().unwrap_or(body);
    tx.run(
        "insert into idempotency (app, path, key, request, status, location, answer, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (app, path, key) do update set request = excluded.request,
           status = excluded.status, location = excluded.location, answer = excluded.answer,
           created_at = excluded.created_at",
        [
            app.0.into(),
            path.into(),
            key.into(),
            request.as_slice().into(),
            i64::from(status).into(),
            location.into(),
            body.into(),
            now.into(),
        ],
    )?;
    Ok(())
}
