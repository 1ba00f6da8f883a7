//! Stored responses of writes that carried an `Idempotency-Key`.
//!
//! A response is stored in the transaction of the write that it answers. A client that lost the response and
//! repeats the request gets the stored response, and nothing is written twice. Only successful writes store
//! a response. It is valid for a day, then pruned.
//!
//! **Large responses are limited.** A response can show a watch with an output of 64 KiB, or a thousand watches. Each app
//! has [`LARGE_MAX`] bytes for responses of more than 16 KiB. Beyond that, the oldest ones lose their bodies. Their keys
//! stay, so that a repeated request is refused and not applied again.
//!
//! Every such write is an [`Idempotent`] command, and [`apply()`] is the only function that finds keys and
//! stores responses.

use std::collections::{BTreeSet, HashSet};
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::db::{Result, StoreError, Tx, Value, params, row_sql};
use super::reads::ReadStore;
use super::sealing::AnswerKey;
use crate::domain::{AppNo, DeliveryId, Timestamp, WatchId};

/// Time for which a stored response is valid.
pub(super) const VALID_FOR: Duration = Duration::from_secs(24 * 3600);

/// Maximum total size of the stored responses of an app that have more than 16 KiB each, in bytes: a thousand watches with
/// the largest outputs.
const LARGE_MAX: i64 = 64 * 1024 * 1024;

/// Size from which a stored response is large, in bytes. The index of large responses has the same number.
const LARGE: usize = 16 * 1024;

/// What is added to the status of a response whose body was deleted.
const WITHOUT_BODY: u16 = 1_000;

/// The idempotency key of a request, and what identifies the request.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// The app. Apps do not share keys.
    pub app: AppNo,
    /// Path of the request.
    pub path: String,
    /// The client's key.
    pub key: String,
    /// Keyed hash of the body ([`ReadStore::hash_request`]). The same key with another body is a conflict.
    pub request_hash: [u8; 32],
    /// Time of the request.
    pub now: Timestamp,
    /// Seals the response, if it holds a secret.
    pub seal: Option<AnswerKey>,
}

impl IdempotencyKey {
    /// Returns the data to which a sealed response is bound.
    fn associated_data(&self) -> Vec<u8> {
        let app = self.app.0.to_be_bytes();
        [&app, self.path.as_bytes(), &[0], self.key.as_bytes(), &[0], &self.request_hash].concat()
    }
}

/// A response that is sent again to a repeated request.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredResponse {
    /// HTTP status.
    pub status: u16,
    /// Path of the created resource, for the header `location`.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// Omits the body, which may hold a secret.
impl fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoredResponse {{ status: {}, location: {:?}, .. }}", self.status, self.location)
    }
}

/// Result of a request whose key was used before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The request is the same. This was the response.
    Response(StoredResponse),
    /// The key was used for another request.
    OtherRequest,
    /// The response holds a secret and belongs to another API key of the app.
    OtherApiKey,
    /// The request is the same, and its response was deleted, because it was large.
    Gone {
        /// Path of the created resource.
        location: Option<String>,
    },
}

/// Makes the response to a command from its result. `None`: no response is stored.
pub type Respond<T> = Arc<dyn Fn(&T) -> Option<StoredResponse> + Send + Sync>;

/// A command of a request that may carry an idempotency key.
#[derive(Clone)]
pub struct Idempotent<C, T> {
    /// The command.
    pub command: C,
    /// The key, and what makes the response to be stored. `None`: the request has no key.
    pub key: Option<(IdempotencyKey, Respond<T>)>,
}

impl<C, T> Idempotent<C, T> {
    /// Adds a key to a command. `respond` makes the response from the result.
    pub fn new(
        command: C,
        key: Option<IdempotencyKey>,
        respond: impl Fn(&T) -> Option<StoredResponse> + Send + Sync + 'static,
    ) -> Self {
        let key = key.map(|key| (key, Arc::new(respond) as Respond<T>));
        Self { command, key }
    }

    /// Adds a key to a command whose response does not depend on its result.
    pub fn with_response(command: C, key: Option<IdempotencyKey>, response: &StoredResponse) -> Self {
        let response = response.clone();
        Self::new(command, key, move |_| Some(response.clone()))
    }
}

impl<C, T> From<C> for Idempotent<C, T> {
    fn from(command: C) -> Self {
        Self { command, key: None }
    }
}

/// Keeps an answer, and changes nothing else.
#[derive(Clone, Copy, Debug)]
pub struct KeepAnswer;

#[expect(
    clippy::trivially_copy_pass_by_ref,
    clippy::unnecessary_wraps,
    reason = "the shape of every command"
)]
pub(super) fn keep_answer(_: &mut Batch<'_>, _: &KeepAnswer) -> Outcome<()> {
    Ok(Ok(()))
}

/// Result of an idempotent command, or an error of the store.
pub(super) type Outcome<T, R = Infallible> = Result<Result<T, R>>;

/// Results of the idempotent commands of a batch.
pub(super) type Results<T, R = Infallible> = Result<Vec<Result<T, R>>>;

/// Result of an [`Idempotent`] command: its own result, or the replay of a key that was used before. If the
/// command was refused or replayed, nothing was written.
pub type Replayable<T, R = Infallible> = Result<Result<T, R>, Replay>;

impl ReadStore {
    /// Returns the hash by which a repeated request is recognised. It has a key, because a body can hold secrets, which a
    /// reader of the database could otherwise guess.
    pub fn hash_request(&self, body: &str) -> [u8; 32] {
        self.shared.identity_key.hash("ringback: a request", &[body.as_bytes()])
    }

    /// Returns the replay of a key that was used before. Handlers call this before they validate a request:
    /// a request that was valid then may be invalid now.
    pub async fn find_replay(&self, key: IdempotencyKey) -> Result<Option<Replay>> {
        self.read(key.app, move |tx| Ok(find_replays(tx, &[&key])?.pop().flatten())).await
    }
}

/// Applies commands whose keys are new, and stores their responses. The other commands are not applied.
pub(super) fn apply<C, T, R>(
    batch: &mut Batch<'_>,
    requests: &[&Idempotent<C, T>],
    apply: impl FnOnce(&mut Batch<'_>, &[&C]) -> Results<T, R>,
) -> Result<Vec<Replayable<T, R>>> {
    let keys: Vec<&IdempotencyKey> =
        requests.iter().filter_map(|request| request.key.as_ref()).map(|(key, _)| key).collect();
    if keys.is_empty() {
        // The most frequent batch.
        let commands: Vec<&C> = requests.iter().map(|request| &request.command).collect();
        return Ok(apply(batch, &commands)?.into_iter().map(Ok).collect());
    }
    let distinct: HashSet<_> = keys.iter().map(|key| (key.app, &key.path, &key.key)).collect();
    if distinct.len() < keys.len() {
        // The writer splits the batch, so each is applied after the commit of the one before.
        return Err(StoreError::Inconsistent("an idempotency key occurs twice in a batch".to_owned()));
    }
    let mut found = find_replays(&batch.tx, &keys)?.into_iter();
    let replays = requests.iter().map(|request| request.key.as_ref().and_then(|_| found.next().flatten()));
    let replays: Vec<Option<Replay>> = replays.collect();
    let fresh = || requests.iter().zip(&replays).filter(|(_, replay)| replay.is_none());
    let commands: Vec<&C> = fresh().map(|(request, _)| &request.command).collect();
    let results = apply(batch, &commands)?;
    let responses = fresh().zip(&results).filter_map(|((request, _), result)| {
        let ((key, respond), done) = (request.key.as_ref()?, result.as_ref().ok()?);
        Some((key, respond(done)?))
    });
    store_responses(&batch.tx, responses)?;
    let mut results = results.into_iter();
    let outcome = |replay: Option<Replay>| match replay {
        Some(replay) => Some(Err(replay)),
        None => results.next().map(Ok),
    };
    Ok(replays.into_iter().filter_map(outcome).collect())
}

/// Returns the replay of each key that was used less than a day ago.
fn find_replays(tx: &Tx<'_>, keys: &[&IdempotencyKey]) -> Result<Vec<Option<Replay>>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let found = tx.fetch(
        "select request_hash, status, location, response, created_at from idempotency
         where app = $1 and path = $2 and key = $3",
        keys.iter().map(|key| params![key.app, &key.path, &key.key]),
        |row| {
            let status = u16::try_from(row.int(1)?).unwrap_or(200);
            let response = StoredResponse { status, location: row.opt_text(2)?, body: row.bytes(3)? };
            Ok((row.bytes(0)?, response, row.time(4)?))
        },
    )?;
    let replays = found.into_iter().zip(keys).map(|(rows, key)| {
        let (request_hash, response, stored_at) = rows.into_iter().next()?;
        let replay = match &key.seal {
            _ if request_hash != key.request_hash => Replay::OtherRequest,
            _ if response.status >= WITHOUT_BODY => Replay::Gone { location: response.location },
            None => Replay::Response(response),
            Some(seal) => match seal.open(&response.body, &key.associated_data()) {
                Some(body) => Replay::Response(StoredResponse { body, ..response }),
                None => Replay::OtherApiKey,
            },
        };
        (key.now < stored_at.plus(VALID_FOR)).then_some(replay)
    });
    Ok(replays.collect())
}

/// Maximum size of the stored responses that are deleted in one transaction, in bytes. The response to a batch
/// can have megabytes, and the database reads all pages of a row that it deletes.
const DELETED_SIZE: u32 = 8 * 1024 * 1024;

/// Deletes the first of the responses that a query finds: at least one, and as many as fit. The columns of the query are
/// the key and the size. Returns their number.
pub(super) fn delete_fitting(tx: &Tx<'_>, sql: &str, values: &[Value<'_>]) -> Result<usize> {
    let mut found =
        tx.list(sql, values, |row| Ok((AppNo(row.int(0)?), row.text(1)?, row.text(2)?, row.count(3)?)))?;
    let mut total = 0;
    let fit = found.iter().take_while(|(.., size)| {
        total = u32::saturating_add(total, *size);
        total <= DELETED_SIZE
    });
    let count = fit.count().max(1);
    found.truncate(count);
    let keys = found.iter().map(|(app, path, key, _)| (*app, path.as_str(), key.as_str()));
    delete(tx, keys)?;
    Ok(found.len())
}

fn delete<'k>(tx: &Tx<'_>, keys: impl Iterator<Item = (AppNo, &'k str, &'k str)>) -> Result<()> {
    let rows = keys.map(|(app, path, key)| params![app, path, key]);
    tx.each("delete from idempotency where app = $1 and path = $2 and key = $3", rows)?;
    Ok(())
}

/// Path of the registration of many watches. The response to it has no `location`.
const BATCH_PATH: &str = "/v1/watches/batch";

/// Deletes the stored responses about watches, each with the time of its registration. The response to a registration
/// has the same time, so it is found by the index of the age. The response to a batch of which other watches remain loses
/// its body only.
pub(super) fn forget_watches(tx: &Tx<'_>, app: AppNo, watches: &[(WatchId, Timestamp)]) -> Result<()> {
    let paths: Vec<String> = watches.iter().map(|(watch, _)| format!("/v1/watches/{watch}")).collect();
    let registrations = watches.iter().zip(&paths).map(|((_, at), path)| params![*at, app, path]);
    tx.each("delete from idempotency where created_at = $1 and app = $2 and location = $3", registrations)?;
    let below = paths.iter().flat_map(|path| ["poll", "stop"].map(|action| format!("{path}/{action}")));
    let below: Vec<String> = below.collect();
    let rows = below.iter().map(|path| params![app, path]);
    tx.each("delete from idempotency where app = $1 and path = $2", rows)?;
    // The watches of a batch have one time of creation.
    let times: BTreeSet<Timestamp> = watches.iter().map(|(_, at)| *at).collect();
    let batches = tx.fetch(
        "select key, response from idempotency where created_at = $1 and app = $2 and path = $3",
        times.iter().map(|at| params![*at, app, BATCH_PATH]),
        |row| Ok((row.text(0)?, row.bytes(1)?)),
    )?;
    let about = |(key, response): &(String, Vec<u8>)| {
        let named = watches_of(response);
        named.iter().any(|id| watches.iter().any(|(erased, _)| erased == id)).then(|| (key.clone(), named))
    };
    let batches: Vec<(String, Vec<WatchId>)> = batches.iter().flatten().filter_map(about).collect();
    let rows = batches.iter().flat_map(|(_, named)| named.iter().map(|id| params![app, id]));
    let mut exists = tx
        .fetch_each("select 1 from watches where app = $1 and id = $2", rows, |row| row.int(0))?
        .into_iter()
        .map(|found| !found.is_empty());
    let is_erased = |id: &WatchId| watches.iter().any(|(erased, _)| erased == id);
    let (mut deleted, mut emptied) = (Vec::new(), Vec::new());
    for (key, named) in &batches {
        // Each is asked for, so that the next batch begins with its own.
        let left = named.iter().zip(exists.by_ref()).filter(|(id, exists)| *exists && !is_erased(id)).count();
        if left == 0 { &mut deleted } else { &mut emptied }.push(key.as_str());
    }
    delete(tx, deleted.into_iter().map(|key| (app, BATCH_PATH, key)))?;
    // A repeated request would register the other watches once more.
    tx.each(WITHOUT_RESPONSE, emptied.iter().map(|key| without_response(app, BATCH_PATH, key)))?;
    Ok(())
}

/// Deletes the body of a response, and keeps its key.
const WITHOUT_RESPONSE: &str =
    "update idempotency set response = $1, status = status + $2 where app = $3 and path = $4 and key = $5";

fn without_response<'v>(app: AppNo, path: &'v str, key: &'v str) -> [Value<'v>; 5] {
    params![&[] as &[u8], i64::from(WITHOUT_BODY), app, path, key]
}

/// Returns the watches that the response to a registration of many names.
fn watches_of(response: &[u8]) -> Vec<WatchId> {
    let response: serde_json::Value = serde_json::from_slice(response).unwrap_or_default();
    let items = response["data"].as_array().into_iter().flatten();
    items.filter_map(|item| WatchId::parse(item["watch"]["id"].as_str()?)).collect()
}

/// Deletes the stored responses to retries of deliveries.
pub(super) fn forget_deliveries(tx: &Tx<'_>, app: AppNo, deliveries: &[DeliveryId]) -> Result<()> {
    let paths: Vec<String> = deliveries.iter().map(|id| format!("/v1/deliveries/{id}/retry")).collect();
    let rows = paths.iter().map(|path| params![app, path]);
    tx.each("delete from idempotency where app = $1 and path = $2", rows)?;
    Ok(())
}

/// Deletes stored responses of an app, at most `rows`. Returns their number.
pub(super) fn forget_app(tx: &Tx<'_>, app: AppNo, rows: u32) -> Result<usize> {
    let sql = "select app, path, key, octet_length(response) from idempotency where app = $1 limit $2";
    delete_fitting(tx, sql, &params![app, rows])
}

/// Stores responses. A response that is no longer valid is replaced.
fn store_responses<'k>(
    tx: &Tx<'_>,
    responses: impl Iterator<Item = (&'k IdempotencyKey, StoredResponse)>,
) -> Result<()> {
    let sealed = responses.map(|(key, mut response)| {
        if let Some(seal) = &key.seal {
            response.body = seal.seal(&response.body, &key.associated_data())?;
        }
        Ok((key, response))
    });
    let sealed: Vec<_> = sealed.collect::<Result<_>>()?;
    if sealed.is_empty() {
        return Ok(());
    }
    tx.insert_each(
        row_sql!(
            "insert into idempotency (app, path, key, request_hash, status, location, response, created_at)"
            values ("$1, $2, $3, $4, $5, $6, $7, $8")
            "on conflict (app, path, key) do update set request_hash = excluded.request_hash,
               status = excluded.status, location = excluded.location, response = excluded.response,
               created_at = excluded.created_at"
        ),
        sealed.iter().map(|(key, response)| {
            let IdempotencyKey { app, path, key, request_hash, now, .. } = key;
            let StoredResponse { status, location, body } = response;
            params![app, path, key, request_hash.as_slice(), status, location, body.as_slice(), now]
        }),
    )?;
    let large = sealed.iter().filter(|(_, response)| response.body.len() > LARGE);
    let apps: BTreeSet<AppNo> = large.map(|(key, _)| key.app).collect();
    apps.into_iter().try_for_each(|app| bound_large(tx, app))
}

/// Deletes the bodies of the oldest large responses of an app if all together have more than [`LARGE_MAX`], until they
/// have an eighth less: not every further response searches for older ones.
fn bound_large(tx: &Tx<'_>, app: AppNo) -> Result<()> {
    let total = tx.one(
        "select cast(coalesce(sum(octet_length(response)), 0) as bigint) from idempotency
         where app = $1 and octet_length(response) > 16384",
        params![app],
        |row| row.int(0),
    )?;
    if total <= LARGE_MAX {
        return Ok(());
    }
    let (mut left, most) = (total, LARGE_MAX - LARGE_MAX / 8);
    let mut oldest = Vec::new();
    tx.list_while(
        "select path, key, octet_length(response) from idempotency
         where app = $1 and octet_length(response) > 16384 order by created_at",
        params![app],
        |row| Ok((row.text(0)?, row.text(1)?, row.int(2)?)),
        |(path, key, size)| {
            left -= size;
            oldest.push((path, key));
            left > most
        },
    )?;
    tx.each(WITHOUT_RESPONSE, oldest.iter().map(|(path, key)| without_response(app, path, key)))?;
    Ok(())
}
