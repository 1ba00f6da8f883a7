//! First answers to writes that carried an `Idempotency-Key`.
//!
//! The answer is stored in the transaction of what it answers for, so the two cannot come apart:
//! whoever lost the answer and asks again gets that answer, and nothing is made twice. Refusals are
//! not stored. Kept for a day, then pruned.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use super::db::{Result, Tx};
use super::reads::ReadStore;
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

/// The first answer to a write.
#[derive(Clone, PartialEq, Eq)]
pub struct FirstAnswer {
    /// HTTP's.
    pub status: u16,
    /// Where what was made is found.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// Without the body: it may hold a secret.
impl fmt::Debug for FirstAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, location, body: _ } = self;
        f.debug_struct("FirstAnswer")
            .field("status", status)
            .field("location", location)
            .finish_non_exhaustive()
    }
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The same was asked before; this was the answer.
    Answer(FirstAnswer),
    /// The key was used for something else.
    Different,
    /// The answer holds a secret, and was given to somebody else of the same app.
    Anothers,
}

impl ReadStore {
    /// What became of an earlier write under this key: asked before anything else of the request is
    /// judged, since what was right then may be refused by now.
    pub async fn recall(&self, remember: Remember, now: Timestamp) -> Result<Option<Replay>> {
        self.read(move |tx| recall(tx, &remember, now)).await
    }
}

/// An answer that is known, and since when.
pub(super) struct Known {
    replay: Replay,
    since: Timestamp,
}

impl Known {
    /// The answer, unless it was too long ago.
    pub(super) fn at(self, now: Timestamp) -> Option<Replay> {
        (now < self.since.plus(KEPT)).then_some(self.replay)
    }
}

/// A wish with the answer that is to be kept, where it is known before the write.
pub type Kept = (Remember, FirstAnswer);

/// What became of an earlier write under this key, if there is a key; `None` if there was none, or if it
/// was too long ago.
pub(super) fn replay<A>(tx: &Tx<'_>, kept: Option<&(Remember, A)>, now: Timestamp) -> Result<Option<Replay>> {
    kept.map_or(Ok(None), |(remember, _)| recall(tx, remember, now))
}

fn recall(tx: &Tx<'_>, remember: &Remember, now: Timestamp) -> Result<Option<Replay>> {
    let known = look_up(tx, &[remember])?.into_iter().next().flatten();
    Ok(known.and_then(|known| known.at(now)))
}

/// What is kept under each of these keys.
pub(super) fn look_up(tx: &Tx<'_>, remembers: &[&Remember]) -> Result<Vec<Option<Known>>> {
    if remembers.is_empty() {
        return Ok(Vec::new());
    }
    let found = tx.fetch(
        "select request_hash, status, location, response, created_at from idempotency
         where app = $1 and path = $2 and key = $3",
        remembers.iter().map(|one| [one.app.0.into(), (&one.path).into(), (&one.key).into()]),
        |row| {
            let status = u16::try_from(row.int(1)?).unwrap_or(200);
            let answer = FirstAnswer { status, location: row.opt_text(2)?, body: row.bytes(3)? };
            Ok((row.bytes(0)?, answer, row.time(4)?))
        },
    )?;
    let kept = found.into_iter().zip(remembers).map(|(rows, remember)| {
        let (request, answer, since) = rows.into_iter().next()?;
        let replay = match &remember.seal {
            _ if request != remember.request => Replay::Different,
            None => Replay::Answer(answer),
            Some(seal) => match seal.open(&answer.body, &remember.associated()) {
                Some(body) => Replay::Answer(FirstAnswer { body, ..answer }),
                None => Replay::Anothers,
            },
        };
        Some(Known { replay, since })
    });
    Ok(kept.collect())
}

/// Remembers the answer to a write of this transaction.
pub(super) fn keep(tx: &Tx<'_>, remember: &Remember, answer: &FirstAnswer, now: Timestamp) -> Result<()> {
    keep_all(tx, [(remember, answer, now)])
}

/// Remembers answers to writes of this transaction.
pub(super) fn keep_all<'a>(
    tx: &Tx<'_>,
    answers: impl IntoIterator<Item = (&'a Remember, &'a FirstAnswer, Timestamp)>,
) -> Result<()> {
    let sealed = |(remember, answer, now): (&'a Remember, &'a FirstAnswer, Timestamp)| {
        let body = match &remember.seal {
            Some(seal) => Cow::Owned(seal.seal(&answer.body, &remember.associated())?),
            None => Cow::Borrowed(answer.body.as_slice()),
        };
        Ok((remember, answer, body, now))
    };
    let answers = answers.into_iter().map(sealed).collect::<Result<Vec<_>>>()?;
    if answers.is_empty() {
        return Ok(());
    }
    tx.each(
        "insert into idempotency (app, path, key, request_hash, status, location, response, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (app, path, key) do update set request_hash = excluded.request_hash,
           status = excluded.status, location = excluded.location, response = excluded.response,
           created_at = excluded.created_at",
        answers.iter().map(|(Remember { app, path, key, request, .. }, answer, body, now)| {
            [
                app.0.into(),
                path.into(),
                key.into(),
                request.as_slice().into(),
                i64::from(answer.status).into(),
                answer.location.as_deref().into(),
                (&**body).into(),
                (*now).into(),
            ]
        }),
    )?;
    Ok(())
}
