//! Saved destinations: a channel and an address with their settings, which many watches use.
//!
//! **What a watch stores.** The row of a watch's destination (`watch_destinations`) names the saved one by its row
//! number, and has no address of its own. Address, headers and secret are read from the saved destination when a page
//! of its deliveries is loaded. A change therefore applies to every delivery that has not been attempted:
//! [`DispatcherMessage::DestinationChanged`] makes the dispatcher return what it has loaded to the store. An attempt in
//! flight continues. Inline destinations have no row number, so nothing is read or joined for them.
//!
//! **Its own queue.** The name of the queue is the app and the id of the destination. It does not change with the
//! address, so a change moves no delivery from queue to queue, and no delivery can be loaded twice. `target` is the
//! name that the queue of an inline destination with this address would have: it names the origin against which
//! connection failures count, and the address for which the pace of a chat holds.
//!
//! **A disabled destination.** New deliveries are created as `skipped` with the reason `disabled`. Those that are
//! pending become that, too. There may be a million, so the transaction that disables the destination only notes a
//! *sweep*, and pages of a disabled destination are empty. [`sweep`] then skips the deliveries in chunks. An attempt
//! that was in flight meanwhile, and is to be retried, notes the sweep again ([`results`]). To enable the destination
//! ends the sweep: what was not skipped yet is sent. With `retrySkipped`, another sweep makes the skipped deliveries
//! pending. The sweep is a column: after a crash, the next start continues it.
//!
//! **A deleted destination** is disabled, and its secrets are erased at once. Its row stays until the last watch that
//! names it is pruned, because deliveries show the address. A destination that a running watch or an open group names cannot be deleted.
//! A reader examines all watches that name it, a part at a time. The command examines only the newest ones again: a
//! watch that is registered between the two is among them.
//!
//! **Registration and deletion.** A registration reads the saved destinations that it names before its command is
//! queued. The command checks that they still exist. If one was disabled in between, its deliveries are skipped, as if
//! it was disabled after the registration.
//!
//! **Managed destinations** are those of the configuration file. [`managed`] applies the file at the start.
//!
//! **Health.** [`results`] counts attempts in one row for each hour and class of durations. A day of a destination has
//! at most 25 hours with 30 classes, however many attempts it gets, and the rows are read only when a destination is
//! shown. To compute the same from the attempts would need an index over all attempts.

mod managed;
mod results;
mod sweep;
mod transitions;

use self::transitions::raise_change;
use super::batch::Batch;
use super::db::{Result, Row, StoreError, Tx, Where, params};
use super::idempotency::Outcome;
use super::lists::{Fitting, ListPage, Remaining};
use super::options::{options_text, read_options, read_tls, tls_text};
use super::reads::ReadStore;
use super::rows::{open, read_destination, read_headers, read_saved_queue, read_stored, to_json};
use super::sealing::{Column, Keyring};
use crate::domain::{
    Access, AppNo, Auth, ChannelKind, Destination, DestinationHealth, DestinationId, DisabledReason,
    DispatcherMessage, EventSet, EventType, Id, KeyKind, Masked, NewTls, Rate, SavedAddress,
    SavedDestination, SavedNo, SignatureForm, Signing, Timestamp, TlsPem, WatchId, format_rate,
};

pub use self::managed::{ApplyManaged, ManagedChanges, ManagedDestination};
pub use self::results::LastAttempt;
pub use self::sweep::SweepDestinations;

pub(super) use self::managed::apply_managed;
pub(super) use self::results::{
    GoneResult, QueueState, SavedResult, disable_gone, error_of, prune_hours, queue_states, record_results,
};
pub(super) use self::sweep::sweep_destinations;
pub(super) use self::transitions::note_exhausted;

/// Maximum number of destinations of an app. Each is a queue of its own in the dispatcher.
const DESTINATIONS_MAX: i64 = 1_000;

/// Number of watches that one read examines to find a running one.
const EXAMINED: u32 = 5_000;

/// Creates a saved destination.
#[derive(Clone, Debug)]
pub struct CreateDestination(pub SavedDestination);

/// Refusal of a destination: the app has the maximum number of them, which is the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyDestinations(pub i64);

/// A value of a change: the one that is stored, or a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// The value is not changed.
    #[default]
    Kept,
    /// The value is replaced.
    Set(T),
}

impl<T> Change<T> {
    /// Changes a value.
    fn apply(self, value: &mut T) {
        if let Self::Set(new) = self {
            *value = new;
        }
    }
}

/// Values of a saved destination that a client can change.
#[derive(Clone, Debug, Default)]
pub struct DestinationChange {
    /// Name for people.
    pub name: Change<Option<String>>,
    /// Description for people.
    pub description: Change<Option<String>>,
    /// Address, and the name of the queue of an inline destination with this address.
    pub address: Change<(String, String)>,
    /// Additional headers.
    pub headers: Change<Vec<(String, String)>>,
    /// Form of the signatures.
    pub signature: Change<SignatureForm>,
    /// The keys that sign in the standard form.
    pub keys: Change<Vec<KeyKind>>,
    /// How requests authenticate themselves.
    pub auth: Change<Option<Auth>>,
    /// TLS identity.
    pub tls: Change<Option<NewTls>>,
    /// Event types that it receives.
    pub events: Change<EventSet>,
    /// Whether it is enabled.
    pub is_enabled: Change<bool>,
    /// Whether it receives the watches whose registration names no destination.
    pub is_default: Change<bool>,
    /// Maximum rate of attempts.
    pub rate: Change<Rate>,
    /// Maximum number of attempts in progress.
    pub concurrency: Change<Option<u32>>,
    /// Whether an event waits for the retries of earlier events of its watch.
    pub is_ordered: Change<bool>,
}

impl DestinationChange {
    /// Applies the new values, except whether the destination is enabled.
    pub fn apply_to(self, destination: &mut SavedDestination) {
        self.name.apply(&mut destination.name);
        self.description.apply(&mut destination.description);
        if let Change::Set((address, target)) = self.address {
            destination.address.address = address;
            destination.queue.target = target;
        }
        self.headers.apply(&mut destination.address.headers);
        let address = &mut destination.address;
        let mut signing = address.signing.take().map(|signing| *signing).unwrap_or_default();
        self.signature.apply(&mut signing.form);
        self.keys.apply(&mut signing.keys);
        if signing.form != SignatureForm::Standard {
            signing.keys = Signing::default().keys;
        }
        address.signing = Some(signing).filter(|signing| *signing != Signing::default()).map(Box::new);
        let (mut auth, mut tls) = address.access.take().map(|one| (one.auth, one.tls)).unwrap_or_default();
        self.auth.apply(&mut auth);
        if let Change::Set(new) = self.tls {
            let new = new.map(|NewTls { summary, pem }| (summary, Box::new(pem)));
            (tls, address.new_tls) = new.unzip();
        }
        address.access = Access::of(auth, tls);
        self.events.apply(&mut destination.events);
        self.is_default.apply(&mut destination.is_default);
        self.rate.apply(&mut destination.queue.rate);
        self.concurrency.apply(&mut destination.queue.concurrency);
        self.is_ordered.apply(&mut destination.queue.is_ordered);
    }
}

/// Changes a saved destination.
#[derive(Clone, Debug)]
pub struct UpdateDestination {
    /// The app.
    pub app: AppNo,
    /// The destination.
    pub id: DestinationId,
    /// The new values.
    pub change: DestinationChange,
    /// Time of the change.
    pub now: Timestamp,
}

/// Enables a saved destination.
#[derive(Clone, Copy, Debug)]
pub struct EnableDestination {
    /// The app.
    pub app: AppNo,
    /// The destination.
    pub id: DestinationId,
    /// Whether the deliveries are sent that were skipped because it was disabled.
    pub retry_skipped: bool,
    /// Time of the request.
    pub now: Timestamp,
}

/// Replaces the secret of a saved destination. The previous secret also signs until the grace period ends.
#[derive(Clone, Debug)]
pub struct RotateDestinationSecret {
    /// The app.
    pub app: AppNo,
    /// The destination.
    pub id: DestinationId,
    /// The new secret.
    pub secret: Masked,
    /// Time until which the previous secret signs; `None` without a grace period.
    pub old_until: Option<Timestamp>,
    /// Time of the request.
    pub now: Timestamp,
}

/// Deletes a saved destination.
#[derive(Clone, Copy, Debug)]
pub struct DeleteDestination {
    /// The app.
    pub app: AppNo,
    /// The destination.
    pub id: DestinationId,
    /// Time of the deletion.
    pub now: Timestamp,
}

/// Reason why a saved destination is not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationRefusal {
    /// It does not exist.
    NotFound,
    /// It is in the configuration file.
    Managed,
    /// A running watch or an open group names it.
    InUse(DestinationUser),
}

/// What names a saved destination that cannot be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationUser {
    /// A running watch.
    Watch,
    /// An open group.
    Group,
}

impl ReadStore {
    /// Returns a saved destination of the app.
    pub async fn saved_destination(
        &self,
        app: AppNo,
        id: DestinationId,
        now: Timestamp,
    ) -> Result<Option<SavedDestination>> {
        let keyring = self.shared.keyring.clone();
        self.read(app, move |tx| find(tx, &keyring, app, id, now)).await
    }

    /// Returns a page of up to `limit` saved destinations of the app that were created before `before`, newest first.
    pub async fn saved_destinations(
        &self,
        app: AppNo,
        before: Option<DestinationId>,
        limit: u32,
        now: Timestamp,
    ) -> Result<ListPage<SavedDestination, DestinationId>> {
        let (keyring, unreadable) = (self.shared.keyring.clone(), self.shared.unreadable.clone());
        self.list(app, before, limit, move |tx, before, remaining: Remaining| {
            let mut query = Where::new(&format!("{SAVED} where s.deleted_at is null and s.app ="), app);
            query.and("s.id <", before);
            query.push(" order by s.id desc limit", remaining.limit());
            let position = |row: &Row<'_>| row.id(1).map(DestinationId);
            let read = (|row: &Row<'_>| read_saved(row, &keyring), position);
            let of = (&unreadable, ("destinations", 1));
            let mut found = Fitting::take_readable(tx, &query, remaining, of, read, size)?;
            add_health(tx, &mut found.rows, now)?;
            Ok(found.part(|destination| destination.id, None))
        })
        .await
    }

    /// Returns those of these saved destinations of the app that exist, as a watch has them, each with whether it is
    /// enabled.
    pub async fn destinations_to_use(
        &self,
        app: AppNo,
        ids: Vec<DestinationId>,
    ) -> Result<Vec<(Destination, bool)>> {
        let keyring = self.shared.keyring.clone();
        self.read(app, move |tx| {
            let sql = format!("{USED} where s.app = $1 and s.id = $2 and s.deleted_at is null");
            let rows = ids.iter().map(|id| params![app, id]);
            let found = tx.fetch(&sql, rows, |row| read_used(row, &keyring))?;
            Ok(found.into_iter().flatten().map(|used| (used.destination, used.is_enabled)).collect())
        })
        .await
    }

    /// Returns up to `limit` destinations of the app that receive the watches whose registration names none, in the
    /// order of their creation, each with whether it is enabled.
    pub async fn default_destinations(&self, app: AppNo, limit: u32) -> Result<Vec<(Destination, bool)>> {
        let (keyring, unreadable) = (self.shared.keyring.clone(), self.shared.unreadable.clone());
        self.read(app, move |tx| {
            let sql = format!(
                "{USED} where s.is_default = 1 and s.app = $1 and s.deleted_at is null order by s.id limit $2"
            );
            let read = |row: &Row<'_>| unreadable.skip(("destinations", 0), row, read_used(row, &keyring));
            let found = tx.list(&sql, params![app, limit], read)?;
            Ok(found.into_iter().flatten().map(|used| (used.destination, used.is_enabled)).collect())
        })
        .await
    }

    /// Returns the TLS identity of a saved destination of the app, if it has one.
    pub async fn tls_identity(&self, app: AppNo, no: SavedNo) -> Result<Option<TlsPem>> {
        let keyring = self.shared.keyring.clone();
        self.read(app, move |tx| {
            let sql = "select id, tls from destinations where app = $1 and no = $2";
            let read = |row: &Row<'_>| open(row, 1, (Column::SAVED_TLS, row.id(0)?), &keyring);
            tx.find(sql, params![app, no], read)?.flatten().as_deref().map(read_tls).transpose()
        })
        .await
    }

    /// Returns what names the saved destination: a running watch, or an open group. Examines all watches and groups that
    /// name it, a part in each read.
    pub async fn destination_user(&self, app: AppNo, no: SavedNo) -> Result<Option<DestinationUser>> {
        let mut before = Some(WatchId(Id::MAX));
        while let Some(from) = before {
            let user;
            (user, before) = self.read(app, move |tx| find_user(tx, app, no, from)).await?;
            if user.is_some() {
                return Ok(user);
            }
        }
        Ok(None)
    }
}

/// Examines the newest watches and groups before one that name a saved destination. Returns whether one of them is
/// running or open, and the last one if more remain.
fn find_user(
    tx: &Tx<'_>,
    app: AppNo,
    no: SavedNo,
    before: WatchId,
) -> Result<(Option<DestinationUser>, Option<WatchId>)> {
    let found = tx.list(
        "select wd.watch, case when w.status = 'watching' then 1 else 0 end,
           case when g.status = 'open' then 1 else 0 end
         from watch_destinations wd left join watches w on w.app = $1 and w.id = wd.watch
         left join watch_groups g on g.id = wd.watch
         where wd.saved = $2 and wd.watch < $3 order by wd.watch desc limit $4",
        params![app, no, before, EXAMINED],
        |row| {
            let user = match (row.flag(1)?, row.flag(2)?) {
                (true, _) => Some(DestinationUser::Watch),
                (false, true) => Some(DestinationUser::Group),
                (false, false) => None,
            };
            Ok((WatchId(row.id(0)?), user))
        },
    )?;
    let last = found.last().filter(|_| found.len() == EXAMINED as usize).map(|(watch, _)| *watch);
    Ok((found.into_iter().find_map(|(_, user)| user), last))
}

/// Size of a destination on a page, in bytes. The values of headers are read, although they are not shown.
fn size(destination: &SavedDestination) -> usize {
    let len = |text: &Option<String>| text.as_deref().map_or(0, str::len);
    let address = &destination.address;
    let headers = address.headers.iter().map(|(name, value)| name.len() + value.len() + 8);
    // Names, ids, times and numbers.
    768 + len(&destination.name)
        + len(&destination.description)
        + len(&destination.health.last_error)
        + address.address.len()
        + address.access.as_deref().map_or(0, size_of_access)
        + headers.sum::<usize>()
}

/// Size of the texts of an authentication, which is shown without its secret.
fn size_of_access(access: &Access) -> usize {
    let len = |text: &Option<String>| text.as_deref().map_or(0, str::len);
    match &access.auth {
        Some(Auth::Basic(basic)) => basic.username.len(),
        Some(Auth::Oauth2(client)) => {
            let scopes = client.scopes.iter().map(|scope| scope.len() + 3).sum::<usize>();
            client.token_url.len() + client.client_id.len() + len(&client.audience) + scopes
        }
        None => 0,
    }
}

/// Columns of a saved destination, for [`read_saved`].
const SAVED: &str =
    "select s.app, s.id, s.name, s.description, s.channel, s.address, s.headers, s.secret, s.events,
    s.is_default, s.is_managed, s.disabled_reason, s.disabled_at, s.failing_since, s.last_error, s.created_at,
    s.no, s.target, s.rate, s.concurrency, s.is_ordered, s.old_secret, s.old_secret_expires_at, s.options
  from destinations s";

/// Reads the columns of [`SAVED`], without the counts of its attempts.
fn read_saved(row: &Row<'_>, keyring: &Keyring) -> Result<SavedDestination> {
    let id = row.id(1)?;
    let secret = row.opt_text(7)?.map(|text| keyring.open(Column::SAVED_SECRET, id, text)).transpose()?;
    let (signing, access) = read_options(open(row, 23, (Column::SAVED_OPTIONS, id), keyring)?.as_deref())?;
    let disabled = row.opt_text(11)?.map(|word| DisabledReason::parse(&word));
    let disabled = match (disabled, row.opt_time(12)?) {
        (None, _) => None,
        (Some(Some(reason)), Some(at)) => Some((reason, at)),
        (Some(_), _) => {
            return Err(StoreError::Inconsistent("why a destination is disabled cannot be read".to_owned()));
        }
    };
    Ok(SavedDestination {
        app: AppNo(row.int(0)?),
        id: DestinationId(id),
        name: row.opt_text(2)?,
        description: row.opt_text(3)?,
        address: SavedAddress {
            channel: row.word(4, ChannelKind::parse)?,
            address: keyring.open(Column::SAVED_ADDRESS, id, row.text(5)?)?,
            headers: read_headers(row, 6, (Column::SAVED_HEADERS, id), keyring)?,
            secret,
            signing,
            access,
            new_tls: None,
        },
        events: EventSet(row.int(8)?),
        is_default: row.flag(9)?,
        queue: read_saved_queue(row, 16, id, keyring)?,
        is_managed: row.flag(10)?,
        disabled,
        health: DestinationHealth {
            failing_since: row.opt_time(13)?,
            last_error: row.opt_text(14)?,
            ..DestinationHealth::default()
        },
        created_at: row.time(15)?,
    })
}

/// Adds the counts of the attempts of the last day.
fn add_health(tx: &Tx<'_>, destinations: &mut [SavedDestination], now: Timestamp) -> Result<()> {
    let found = results::counts(tx, destinations.iter().map(|destination| destination.queue.no), now)?;
    for (destination, buckets) in destinations.iter_mut().zip(found) {
        let DestinationHealth { last_error, failing_since, .. } = std::mem::take(&mut destination.health);
        destination.health =
            DestinationHealth { last_error, failing_since, ..DestinationHealth::of_buckets(&buckets) };
    }
    Ok(())
}

fn find(
    tx: &Tx<'_>,
    keyring: &Keyring,
    app: AppNo,
    id: DestinationId,
    now: Timestamp,
) -> Result<Option<SavedDestination>> {
    let sql = format!("{SAVED} where s.app = $1 and s.id = $2 and s.deleted_at is null");
    let mut found = tx.list(&sql, params![app, id], |row| read_saved(row, keyring))?;
    add_health(tx, &mut found, now)?;
    Ok(found.pop())
}

/// A saved destination, as the deliveries to it need it.
#[derive(Clone, Debug)]
pub(super) struct UsedDestination {
    pub(super) destination: Destination,
    pub(super) events: EventSet,
    pub(super) is_enabled: bool,
}

/// Columns of a saved destination in the order of those of a watch's destination, and what its deliveries depend on.
const USED: &str =
    "select s.id, s.channel, s.address, '', s.headers, s.secret, s.options, s.no, s.target, s.rate, s.concurrency,
    s.is_ordered, s.old_secret, s.old_secret_expires_at, s.events, s.disabled_reason, s.app
  from destinations s";

fn read_used(row: &Row<'_>, keyring: &Keyring) -> Result<UsedDestination> {
    used_of(row, read_destination(row, 0, keyring)?)
}

fn used_of(row: &Row<'_>, destination: Destination) -> Result<UsedDestination> {
    let queue = destination.id.queue(AppNo(row.int(16)?));
    Ok(UsedDestination {
        destination: Destination { queue, ..destination },
        events: EventSet(row.int(14)?),
        is_enabled: row.opt_text(15)?.is_none(),
    })
}

/// Returns the saved destinations with these row numbers, in this order. The second value is whether the row can be read:
/// otherwise only what a delivery stores of it is known.
pub(super) fn used(
    batch: &Batch<'_>,
    nos: impl ExactSizeIterator<Item = SavedNo>,
) -> Result<Vec<(UsedDestination, bool)>> {
    let (keyring, unreadable) = (&batch.shared.keyring, &batch.shared.unreadable);
    let sql = format!("{USED} where s.no = $1");
    batch.tx.ones(&sql, nos.map(|no| params![no]), |row| {
        match unreadable.skip(("destinations", 0), row, read_used(row, keyring))? {
            Some(used) => Ok((used, true)),
            None => Ok((used_of(row, read_stored(row, 0)?)?, false)),
        }
    })
}

/// Returns whether every saved destination among these exists. Without a saved one, nothing is read.
pub(super) fn all_exist<'d>(
    tx: &Tx<'_>,
    destinations: impl Iterator<Item = &'d Destination>,
) -> Result<bool> {
    let nos: Vec<SavedNo> =
        destinations.filter_map(|destination| destination.saved.as_ref()).map(|saved| saved.no).collect();
    if nos.is_empty() {
        return Ok(true);
    }
    let sql = "select no from destinations where no = $1 and deleted_at is null";
    let found = tx.fetch(sql, nos.iter().map(|no| params![no]), |row| row.int(0))?;
    Ok(found.iter().all(|rows| !rows.is_empty()))
}

/// The texts of a saved destination as they are stored.
struct StoredTexts {
    address: String,
    headers: Option<String>,
    secret: Option<String>,
    options: Option<String>,
    /// `None` if no identity is to be stored.
    tls: Option<String>,
    rate: Option<String>,
}

impl StoredTexts {
    fn of(destination: &SavedDestination, keyring: &Keyring) -> Result<Self> {
        let SavedAddress { channel, address, headers, secret, signing, access, new_tls } =
            &destination.address;
        let id = destination.id.0;
        let seal = |column, text: &str| keyring.seal(column, id, text).map(std::borrow::Cow::into_owned);
        let is_secret = channel.traits().secret_address;
        let address = if is_secret { seal(Column::SAVED_ADDRESS, address)? } else { address.clone() };
        let headers = (!headers.is_empty()).then(|| to_json(headers));
        let headers = headers.map(|headers| seal(Column::SAVED_HEADERS, &headers)).transpose()?;
        let secret = secret.as_deref().map(|secret| seal(Column::SAVED_SECRET, secret)).transpose()?;
        let options = options_text(signing.as_deref(), access.as_deref());
        let options = options.map(|options| seal(Column::SAVED_OPTIONS, &options)).transpose()?;
        let tls = new_tls.as_deref().map(|pem| seal(Column::SAVED_TLS, &tls_text(pem))).transpose()?;
        let rate = destination.queue.rate.spacing.map(format_rate);
        Ok(Self { address, headers, secret, options, tls, rate })
    }
}

/// Inserts a saved destination.
fn insert(batch: &mut Batch<'_>, new: &SavedDestination) -> Result<()> {
    let texts = StoredTexts::of(new, &batch.shared.keyring)?;
    let (reason, at) = new.disabled.unzip();
    batch.tx.run(
        "insert into destinations (app, id, name, description, channel, address, target, headers, secret, events,
           is_default, is_ordered, rate, concurrency, is_managed, disabled_reason, disabled_at, created_at,
           options, tls)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20)",
        params![
            new.app,
            new.id,
            &new.name,
            &new.description,
            new.address.channel,
            &texts.address,
            &new.queue.target,
            &texts.headers,
            &texts.secret,
            new.events.0,
            new.is_default,
            new.queue.is_ordered,
            &texts.rate,
            new.queue.concurrency,
            new.is_managed,
            reason,
            at,
            new.created_at,
            &texts.options,
            &texts.tls,
        ],
    )?;
    Ok(())
}

/// Writes the values that a change can have.
fn write(batch: &Batch<'_>, changed: &SavedDestination) -> Result<()> {
    let texts = StoredTexts::of(changed, &batch.shared.keyring)?;
    let has_tls = changed.address.access.as_ref().is_some_and(|access| access.tls.is_some());
    // The identity that is stored remains unless it is replaced or removed.
    let is_tls_kept = i64::from(has_tls && texts.tls.is_none());
    batch.tx.run(
        "update destinations set name = $1, description = $2, address = $3, target = $4, headers = $5, secret = $6,
           events = $7, is_default = $8, is_ordered = $9, rate = $10, concurrency = $11, is_managed = $12, options = $13,
           tls = case when $14 = 1 then tls else $15 end where no = $16",
        params![
            &changed.name,
            &changed.description,
            &texts.address,
            &changed.queue.target,
            &texts.headers,
            &texts.secret,
            changed.events.0,
            changed.is_default,
            changed.queue.is_ordered,
            &texts.rate,
            changed.queue.concurrency,
            changed.is_managed,
            &texts.options,
            is_tls_kept,
            &texts.tls,
            changed.queue.no,
        ],
    )?;
    Ok(())
}

pub(super) fn create_destination(
    batch: &mut Batch<'_>,
    CreateDestination(new): &CreateDestination,
) -> Outcome<(), TooManyDestinations> {
    let sql = "select count(*) from destinations where app = $1 and deleted_at is null";
    if batch.tx.one(sql, params![new.app], |row| row.int(0))? >= DESTINATIONS_MAX {
        return Ok(Err(TooManyDestinations(DESTINATIONS_MAX)));
    }
    insert(batch, new).map(Ok)
}

pub(super) fn update_destination(
    batch: &mut Batch<'_>,
    command: &UpdateDestination,
) -> Result<Result<SavedDestination, DestinationRefusal>> {
    let UpdateDestination { app, id, change, now } = command;
    let found = find(&batch.tx, &batch.shared.keyring, *app, *id, *now)?;
    let Some(mut destination) = found else { return Ok(Err(DestinationRefusal::NotFound)) };
    if destination.is_managed {
        return Ok(Err(DestinationRefusal::Managed));
    }
    change.clone().apply_to(&mut destination);
    write(batch, &destination)?;
    match (&change.is_enabled, destination.disabled) {
        (Change::Set(true), Some(_)) => enable(batch, &destination, false, *now)?,
        (Change::Set(false), None) => disable(batch, &destination, DisabledReason::Manual, *now)?,
        (Change::Set(_) | Change::Kept, _) => changed(batch, &destination, None),
    }
    let after = find(&batch.tx, &batch.shared.keyring, *app, *id, *now)?;
    Ok(after.ok_or(DestinationRefusal::NotFound))
}

pub(super) fn enable_destination(
    batch: &mut Batch<'_>,
    command: &EnableDestination,
) -> Outcome<SavedDestination, DestinationRefusal> {
    let EnableDestination { app, id, retry_skipped, now } = *command;
    let found = find(&batch.tx, &batch.shared.keyring, app, id, now)?;
    let Some(destination) = found else { return Ok(Err(DestinationRefusal::NotFound)) };
    // The file decides whether a managed destination is enabled, and attempts whether it works.
    let is_of_file =
        matches!(destination.disabled, Some((DisabledReason::Manual | DisabledReason::Unmanaged, _)));
    if destination.is_managed && is_of_file {
        return Ok(Err(DestinationRefusal::Managed));
    }
    if destination.disabled.is_some() || retry_skipped {
        enable(batch, &destination, retry_skipped, now)?;
    }
    let after = find(&batch.tx, &batch.shared.keyring, app, id, now)?;
    Ok(after.ok_or(DestinationRefusal::NotFound))
}

pub(super) fn rotate_destination_secret(
    batch: &mut Batch<'_>,
    command: &RotateDestinationSecret,
) -> Outcome<(), DestinationRefusal> {
    let RotateDestinationSecret { app, id, secret, old_until, now } = command;
    let keyring = &batch.shared.keyring;
    let found = find(&batch.tx, keyring, *app, *id, *now)?;
    let Some(destination) = found else { return Ok(Err(DestinationRefusal::NotFound)) };
    if destination.is_managed {
        return Ok(Err(DestinationRefusal::Managed));
    }
    let sealed = keyring.seal(Column::SAVED_SECRET, id.0, secret.reveal())?;
    let old = destination.address.secret.as_deref().filter(|_| old_until.is_some());
    let old = old.map(|old| keyring.seal(Column::SAVED_OLD_SECRET, id.0, old)).transpose()?;
    let until = old_until.filter(|_| old.is_some());
    batch.tx.run(
        "update destinations set secret = $1, old_secret = $2, old_secret_expires_at = $3 where no = $4",
        params![&*sealed, old.as_deref(), until, destination.queue.no],
    )?;
    changed(batch, &destination, None);
    Ok(Ok(()))
}

pub(super) fn delete_destination(
    batch: &mut Batch<'_>,
    command: &DeleteDestination,
) -> Result<Result<(), DestinationRefusal>> {
    let DeleteDestination { app, id, now } = *command;
    let found = find(&batch.tx, &batch.shared.keyring, app, id, now)?;
    let Some(destination) = found else { return Ok(Err(DestinationRefusal::NotFound)) };
    if destination.is_managed {
        return Ok(Err(DestinationRefusal::Managed));
    }
    let no = destination.queue.no;
    if let (Some(user), _) = find_user(&batch.tx, app, no, WatchId(Id::MAX))? {
        return Ok(Err(DestinationRefusal::InUse(user)));
    }
    set_disabled(batch, &destination, DisabledReason::Manual, now)?;
    batch.tx.run(
        "update destinations set deleted_at = $1, is_default = 0, headers = null, secret = null, old_secret = null,
           old_secret_expires_at = null, options = null, tls = null, name = null, description = null,
           last_error = null where no = $2",
        params![now, no],
    )?;
    batch.tx.run("delete from destination_hours where destination = $1", params![no])?;
    Ok(Ok(()))
}

/// Enables a destination, which has the reason for which it was disabled. What was not skipped yet stays pending.
fn enable(
    batch: &mut Batch<'_>,
    destination: &SavedDestination,
    retry_skipped: bool,
    now: Timestamp,
) -> Result<()> {
    let sweep = retry_skipped.then_some(sweep::RETRY);
    batch.tx.run(
        "update destinations set disabled_reason = null, disabled_at = null, failing_since = null,
           failed_attempts = 0, last_error = null, last_error_at = null, failed_since = null, failed_error = null,
           sweep = $1, sweep_after = null where no = $2",
        params![sweep, destination.queue.no],
    )?;
    changed(batch, destination, None);
    if let Some((reason, since)) = destination.disabled {
        raise_change(batch, destination, (EventType::DestinationRecovered, now), (reason, Some(since)));
    }
    if retry_skipped {
        batch.effects.dispatcher_messages.push(DispatcherMessage::SweepDue);
    }
    Ok(())
}

/// Disables a destination. Its pending deliveries are skipped afterwards.
fn disable(
    batch: &mut Batch<'_>,
    destination: &SavedDestination,
    reason: DisabledReason,
    now: Timestamp,
) -> Result<()> {
    set_disabled(batch, destination, reason, now)?;
    if destination.disabled.is_none() {
        let since = destination.health.failing_since;
        raise_change(batch, destination, (EventType::DestinationDisabled, now), (reason, since));
    }
    Ok(())
}

fn set_disabled(
    batch: &mut Batch<'_>,
    destination: &SavedDestination,
    reason: DisabledReason,
    now: Timestamp,
) -> Result<()> {
    batch.tx.run(
        "update destinations set disabled_reason = $1, disabled_at = $2, sweep = $3, sweep_after = null where no = $4",
        params![reason, now, sweep::SKIP, destination.queue.no],
    )?;
    changed(batch, destination, Some(reason));
    Ok(())
}

/// Notifies the dispatcher that a destination has changed, or that it was disabled.
fn changed(batch: &mut Batch<'_>, destination: &SavedDestination, disabled: Option<DisabledReason>) {
    let queue = destination.id.queue(destination.app);
    batch.effects.dispatcher_messages.push(DispatcherMessage::DestinationChanged { queue, disabled });
}

/// Deletes the rows of deleted destinations that no watch names any more, at most so many. Returns their number.
pub(super) fn prune_deleted(tx: &Tx<'_>, rows: u32) -> Result<usize> {
    tx.run(
        "delete from destinations where no in (
           select s.no from destinations s where s.deleted_at is not null and s.sweep is null
             and not exists (select 1 from watch_destinations wd where wd.saved = s.no) limit $1)",
        params![rows],
    )
}
