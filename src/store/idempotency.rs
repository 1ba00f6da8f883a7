//! First answers to writes that carried an `Idempotency-Key`.
//!
//! The answer is stored in the transaction of what it answers for, so the two cannot come apart:
//! whoever lost the answer and asks again gets that answer, and nothing is made twice. Refusals are
//! not stored. Kept for a day, then pruned.

use std::borrow::Cow;
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

/// An answer that was kept, and since when.
pub(super) struct Kept {
    replay: Replay,
    since: Timestamp,
}

impl Kept {
    /// The answer, unless it was too long ago.
    pub(super) fn at(self, now: Timestamp) -> Option<Replay> {
        (now < self.since.plus(KEPT)).then_some(self.replay)
    }
}

/// What became of an earlier write under this key; `None` if there was none, or if it was too long
/// ago.
pub(super) fn recall(tx: &Tx<'_>, remember: &Remember, now: Timestamp) -> Result<Option<Replay>> {
    let known = look_up(tx, &[remember])?.into_iter().next().flatten();
    Ok(known.and_then(|known| known.at(now)))
}

/// What is kept under each of these keys.
pub(super) fn look_up(tx: &Tx<'_>, remembers: &[&Remember]) -> Result<Vec<Option<Kept>>> {
    if remembers.is_empty() {
        return Ok(Vec::new());
    }
    let found = tx.fetch(
        "select request, status, location, answer, created_at from idempotency
         where app = $1 and path = $2 and key = $3",
        remembers.iter().map(|one| [one.app.0.into(), (&one.path).into(), (&one.key).into()]),
        |row| {
            let status = u16::try_from(row.int(1)?).unwrap_or(200);
            Ok((row.bytes(0)?, status, row.opt_text(2)?, row.bytes(3)?, row.time(4)?))
        },
    )?;
    let kept = found.into_iter().zip(remembers).map(|(rows, remember)| {
        let (request, status, location, body, since) = rows.into_iter().next()?;
        let replay = match &remember.seal {
            _ if request != remember.request => Replay::Different,
            None => Replay::Answer { status, location, body },
            Some(seal) => match seal.open(&body, &remember.associated()) {
                Some(body) => Replay::Answer { status, location, body },
                None => Replay::Anothers,
            },
        };
        Some(Kept { replay, since })
    });
    Ok(kept.collect())
}

/// An answer: status, location, body.
type Answer<'a> = (u16, Option<&'a str>, &'a [u8]);

/// Remembers the answer to a write of this transaction.
pub(super) fn remember(tx: &Tx<'_>, remember: &Remember, answer: Answer<'_>, now: Timestamp) -> Result<()> {
    keep(tx, [(remember, answer, now)])
}

/// Remembers answers to writes of this transaction.
pub(super) fn keep<'a>(
    tx: &Tx<'_>,
    answers: impl IntoIterator<Item = (&'a Remember, Answer<'a>, Timestamp)>,
) -> Result<()> {
    let sealed = |(remember, (status, location, body), now): (&'a Remember, Answer<'a>, Timestamp)| {
        let body = match &remember.seal {
            Some(seal) => Cow::Owned(seal.seal(body, &remember.associated())?),
            None => Cow::Borrowed(body),
        };
        Ok((remember, status, location, body, now))
    };
    let answers = answers.into_iter().map(sealed).collect::<Result<Vec<_>>>()?;
    if answers.is_empty() {
        return Ok(());
    }
    tx.each(
        "insert into idempotency (app, path, key, request, status, location, answer, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (app, path, key) do update set request = excluded.request,
           status = excluded.status, location = excluded.location, answer = excluded.answer,
           created_at = excluded.created_at",
        answers.iter().map(|(Remember { app, path, key, request, .. }, status, location, body, now)| {
            [
                app.0.into(),
                path.into(),
                key.into(),
                request.as_slice().into(),
                i64::from(*status).into(),
                (*location).into(),
                (&**body).into(),
                (*now).into(),
            ]
        }),
    )?;
    Ok(())
}
