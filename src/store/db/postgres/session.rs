//! One connection to a PostgreSQL server, used by one thread at a time.
//!
//! **Pipelining.** Rows that are not sent [as one statement](super::bulk) are sent together: a call sends every
//! statement before it waits for the first answer. So a call costs one round trip, however many rows it
//! has. `begin` and the query for the number of the transaction are sent with the first call and cost no round
//! trip.
//!
//! **A failed statement** leaves a transaction in which every statement fails. The server answers its `commit`
//! with success although it rolls back. So a session remembers the failure, and [`Session::commit`] refuses.
//!
//! **Every wait is bounded.** The server cancels a statement after [`STATEMENT_TIMEOUT`] and a wait for a lock
//! after [`LOCK_TIMEOUT`]. The kernel closes a connection on which nothing is acknowledged. A call without an
//! answer after [`CALL_TIMEOUT`] counts as a lost connection.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::iter;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Error, Statement};

use super::super::error::{Received, Result, StoreError};
use super::super::value::{ManyParams, Params, Read, Row, RowSql, Value};
use super::bulk;
use super::tls::Tls;
use crate::clock::Clock;

/// Timeout of a statement. A list of a large database takes seconds.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout of a wait for a lock, for example one that an operator's shell holds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Timeout of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(45);

/// Capacity of the cache of prepared statements: every statement of the program, and the forms of its lists.
const STATEMENTS: usize = 256;

/// Settings of a session. Every statement has an index. PostgreSQL plans statements while the tables are
/// empty, when reading everything seems cheap, and keeps the plans; so plans without an index are disabled.
const SETTINGS: &str = "set idle_in_transaction_session_timeout = '60s';
    set default_transaction_isolation = 'read committed'; set client_min_messages = 'warning';
    set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off";

/// A runtime for one connection, driven by the thread that waits for an answer.
#[derive(Debug)]
pub struct BlockingRuntime(Option<Runtime>);

impl BlockingRuntime {
    /// Creates a runtime.
    pub fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self(Some(tokio::runtime::Builder::new_current_thread().enable_all().build()?))))
    }

    /// Runs `work` to its end on this thread.
    #[expect(clippy::expect_used, reason = "it is taken in `drop` only")]
    pub fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.0.as_ref().expect("not dropped yet").block_on(work)
    }

    /// Returns a function for `backon` that sleeps between retries, while the connection is driven.
    pub fn sleeper(self: &Arc<Self>) -> impl Fn(Duration) + use<> {
        let runtime = Arc::clone(self);
        move |span| runtime.block_on(Clock::System.sleep(span))
    }
}

impl Drop for BlockingRuntime {
    /// Does not wait: waiting is not allowed on a thread of an asynchronous runtime, and nothing is pending.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    runtime: Arc<BlockingRuntime>,
    client: Client,
    connection: RefCell<JoinHandle<()>>,
    statements: RefCell<HashMap<String, Statement>>,
    /// Statements for many rows; `None` for those that have no such form.
    bulk_statements: RefCell<HashMap<&'static str, Option<Statement>>>,
    /// Query for the number of the transaction.
    number: Statement,
    /// The transaction that begins with the next call: whether it writes.
    begin: Cell<Option<bool>>,
    /// Whether a transaction is open on the server.
    open: Cell<bool>,
    /// Number of the open transaction, if it writes.
    pub xid: RefCell<Option<String>>,
    /// Whether a statement of the transaction failed.
    failed: Cell<bool>,
    /// Whether the connection is lost, or must not be used any more.
    pub broken: Cell<bool>,
}

impl Session {
    /// Opens and prepares a connection. `runtime` drives it.
    pub async fn open(runtime: &Arc<BlockingRuntime>, config: &Config, tls: Tls) -> Result<Self, Error> {
        let (client, connection) = config.connect(tls).await?;
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let (statement, lock) = (STATEMENT_TIMEOUT.as_millis(), LOCK_TIMEOUT.as_millis());
        let timeouts = format!("set statement_timeout = {statement}; set lock_timeout = {lock}");
        client.batch_execute(&format!("{timeouts}; {SETTINGS}")).await?;
        let number = client.prepare("select cast(pg_current_xact_id() as text)").await?;
        Ok(Self {
            runtime: Arc::clone(runtime),
            client,
            connection: RefCell::new(connection),
            statements: RefCell::default(),
            bulk_statements: RefCell::default(),
            number,
            begin: Cell::new(None),
            open: Cell::new(false),
            xid: RefCell::new(None),
            failed: Cell::new(false),
            broken: Cell::new(false),
        })
    }

    /// Begins a transaction with the next call. If it `writes`, its number is queried. If it only reads, each
    /// statement sees what is committed.
    pub fn begin(&self, writes: bool) {
        self.failed.set(false);
        self.xid.replace(None);
        self.begin.set(Some(writes));
    }

    /// Runs statements without parameters, one after another.
    pub fn batch(&self, sql: &str) -> Result<()> {
        self.block(async { self.client.batch_execute(sql).await })
    }

    /// Runs statements without parameters and without a timeout.
    pub fn batch_without_timeout(&self, sql: &str) -> Result<()> {
        self.runtime.block_on(self.client.batch_execute(sql)).map_err(|error| self.convert(&error))
    }

    /// See [`super::super::Tx::each`].
    pub fn each<'v, R: ManyParams<'v>>(&self, sql: &str, rows: R) -> Result<Vec<usize>> {
        self.block(async {
            let statement = &self.statement(sql).await?;
            let run = async |row: R::Item| {
                let changed = self.client.execute_raw(statement, row.as_ref()).await?;
                Ok(usize::try_from(changed).unwrap_or(usize::MAX))
            };
            self.pipelined(rows.into_iter().map(run)).await
        })
    }

    /// Runs a statement for each row of values: for all rows at once, if the types of its parameters allow it.
    /// The result of an `insert` has no meaning.
    pub fn each_row<'v>(&self, sql: RowSql, rows: impl ManyParams<'v>) -> Result<Vec<usize>> {
        let rows: Vec<_> = rows.into_iter().collect();
        let many = |types: &[Type]| bulk::for_many(sql, types);
        let bulk = if rows.len() > 1 { self.block(self.bulk_statement(sql.one, many))? } else { None };
        let Some(bulk) = bulk else { return self.each(sql.one, rows) };
        let mut changed = vec![0; rows.len()];
        for matched in &self.query_bulk(&bulk, &rows)? {
            let row = Row::Postgres(matched).count(0)? as usize;
            if let Some(count) = changed.get_mut(row - 1) {
                *count += 1;
            }
        }
        Ok(changed)
    }

    /// See [`super::super::Tx::fetch_each`].
    pub fn fetch_each<'v, T>(
        &self,
        sql: &'static str,
        rows: impl ManyParams<'v>,
        mut read: impl Read<T>,
    ) -> Result<Vec<Vec<T>>> {
        let rows: Vec<_> = rows.into_iter().collect();
        let many = |types: &[Type]| bulk::select_for_many(sql, types);
        let bulk = if rows.len() > 1 { self.block(self.bulk_statement(sql, many))? } else { None };
        let Some(bulk) = bulk else { return self.fetch(sql, rows, read) };
        let mut results: Vec<Vec<T>> = iter::repeat_with(Vec::new).take(rows.len()).collect();
        for found in &self.query_bulk(&bulk, &rows)? {
            let row = Row::Postgres(found);
            let number = row.count(found.len() - 1)? as usize;
            if let Some(result) = results.get_mut(number - 1) {
                result.push(read(&row)?);
            }
        }
        Ok(results)
    }

    /// Runs a statement for many rows once.
    fn query_bulk<'v>(&self, bulk: &Statement, rows: &[impl Params<'v>]) -> Result<Vec<tokio_postgres::Row>> {
        let array = |n| rows.iter().map(|row| row.as_ref()[n]).collect();
        let arrays: Vec<Vec<Value<'v>>> = (0..bulk.params().len()).map(array).collect();
        let arrays: Vec<_> = arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
        let found = self.block(self.pipelined(iter::once(self.client.query(bulk, &arrays))))?;
        Ok(found.into_iter().flatten().collect())
    }

    /// See [`super::super::Tx::fetch`].
    pub fn fetch<'v, T, R: ManyParams<'v>>(
        &self,
        sql: &str,
        rows: R,
        mut read: impl Read<T>,
    ) -> Result<Vec<Vec<T>>> {
        let found = self.block(async {
            let statement = &self.statement(sql).await?;
            let run = async |row: R::Item| {
                let row: Vec<_> = row.as_ref().iter().map(|value| value as &(dyn ToSql + Sync)).collect();
                self.client.query(statement, &row).await
            };
            self.pipelined(rows.into_iter().map(run)).await
        })?;
        found.iter().map(|rows| rows.iter().map(|row| read(&Row::Postgres(row))).collect()).collect()
    }

    /// See [`super::super::Tx::list_while`].
    pub fn list_while<'v, T>(
        &self,
        sql: &str,
        row: impl Params<'v>,
        mut read: impl Read<T>,
        mut take: impl FnMut(T) -> bool,
    ) -> Result<()> {
        let mut failed = Ok(());
        self.block(async {
            let statement = &self.statement(sql).await?;
            let call = async {
                let mut rows = pin!(self.client.query_raw(statement, row.as_ref()).await?);
                // The connection hands on one part of the result at a time.
                while let Some(row) = rows.try_next().await? {
                    match read(&Row::Postgres(&row)).map(&mut take) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => {
                            failed = Err(error);
                            break;
                        }
                    }
                }
                Ok(())
            };
            self.pipelined(iter::once(call)).await
        })?;
        failed
    }

    /// Commits the transaction. [`StoreError::Unknown`]: the connection was lost before the server answered.
    pub fn commit(&self) -> Result<()> {
        if self.begin.take().is_some() {
            // No statement was run, so no transaction was begun.
            return Ok(());
        }
        if self.failed.get() {
            self.roll_back();
            return Err(StoreError::Inconsistent("a statement of the transaction failed".to_owned()));
        }
        let committed = self.block_in_time(self.client.batch_execute("commit"));
        self.open.set(false);
        match committed {
            Some(Ok(())) => return Ok(()),
            // The server is alive and did not commit.
            Some(Err(error)) if is_refusal(&error) => return Err(self.convert(&error)),
            Some(Err(error)) => tracing::warn!(%error, "the connection was lost in a commit"),
            None => {}
        }
        self.broken.set(true);
        if self.xid.borrow().is_none() {
            // The transaction only read.
            return Err(lost());
        }
        Err(StoreError::Unknown("the connection was lost in a commit".to_owned()))
    }

    /// Rolls the open transaction back, if there is one. If that fails, the connection is given up, and the
    /// transaction ends with it.
    pub fn roll_back(&self) {
        self.begin.set(None);
        if self.open.take() && !self.broken.get() && self.batch("rollback").is_err() {
            self.broken.set(true);
        }
    }

    /// Waits for the next item of `queue`, for the loss of the connection, or for `timeout`.
    pub fn receive<T>(&self, queue: &mut mpsc::Receiver<T>, timeout: Option<Duration>) -> Received<T> {
        let mut connection = self.connection.borrow_mut();
        let deadline = Clock::System.deadline(timeout.unwrap_or_default());
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = &mut *connection, if !self.broken.get() => {
                    self.broken.set(true);
                    Received::Lost
                }
                item = queue.recv() => item.map_or(Received::Closed, Received::Item),
                () = deadline, if timeout.is_some() => Received::Lost,
            }
        })
    }

    /// Closes the connection.
    pub fn close(self) {
        let Self { runtime, client, connection, broken, .. } = self;
        drop(client);
        if !broken.get() {
            let _ = runtime.block_on(Clock::System.timeout(LOCK_TIMEOUT, connection.into_inner()));
        }
    }

    /// Prepares the statement for many rows. `one` is the statement for one row; `many` returns the text for many rows
    /// with parameters of these types.
    async fn bulk_statement(
        &self,
        one: &'static str,
        many: impl Fn(&[Type]) -> Option<String>,
    ) -> Result<Option<Statement>, Error> {
        if let Some(known) = self.bulk_statements.borrow().get(one) {
            return Ok(known.clone());
        }
        let for_one = self.statement(one).await?;
        let made = match many(for_one.params()) {
            Some(many) => Some(self.client.prepare(&many).await?),
            None => None,
        };
        // As many entries as statements in the source.
        self.bulk_statements.borrow_mut().insert(one, made.clone());
        Ok(made)
    }

    async fn statement(&self, sql: &str) -> Result<Statement, Error> {
        if let Some(known) = self.statements.borrow().get(sql) {
            return Ok(known.clone());
        }
        let made = self.client.prepare(sql).await?;
        let mut known = self.statements.borrow_mut();
        if known.len() >= STATEMENTS {
            known.clear();
        }
        known.insert(sql.to_owned(), made.clone());
        Ok(made)
    }

    /// Sends all calls, then waits for their answers in order.
    async fn pipelined<T, F: Future<Output = Result<T, Error>>>(
        &self,
        calls: impl Iterator<Item = F>,
    ) -> Result<Vec<T>, Error> {
        let begin = pin!(self.send_begin());
        let begin = sent(begin).await;
        let mut sent_calls = Vec::with_capacity(calls.size_hint().0);
        for call in calls {
            sent_calls.push(sent(Box::pin(call)).await);
        }
        begin.await?;
        let mut answers = Vec::with_capacity(sent_calls.len());
        for call in sent_calls {
            answers.push(call.await?);
        }
        Ok(answers)
    }

    /// Sends `begin` and the query for the number of the transaction together.
    async fn send_begin(&self) -> Result<(), Error> {
        let Some(writes) = self.begin.take() else { return Ok(()) };
        self.open.set(true);
        let begin = self.client.batch_execute("begin");
        if !writes {
            return begin.await;
        }
        let ((), row) = tokio::try_join!(biased; begin, self.client.query_one(&self.number, &[]))?;
        self.xid.replace(Some(row.try_get(0)?));
        Ok(())
    }

    fn block<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T> {
        if self.broken.get() {
            return Err(lost());
        }
        if let Some(done) = self.block_in_time(work) {
            return done.map_err(|error| self.convert(&error));
        }
        self.failed.set(true);
        self.broken.set(true);
        Err(StoreError::Unavailable(format!("no answer within {} s", CALL_TIMEOUT.as_secs())))
    }

    fn block_in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(Clock::System.timeout(CALL_TIMEOUT, work))
    }

    /// Converts an error, and marks the transaction as failed and a lost connection as broken.
    fn convert(&self, error: &Error) -> StoreError {
        self.failed.set(true);
        match cause(error) {
            Cause::Item => return StoreError::Inconsistent(message(error)),
            Cause::Schema => return StoreError::Schema(message(error)),
            Cause::Damage => return StoreError::Damaged(message(error)),
            Cause::Connection => self.broken.set(true),
            Cause::Server => {}
        }
        StoreError::Unavailable(message(error))
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable("the connection was lost".to_owned())
}

/// Polls `call` once, which sends it. Returns the future of its answer.
async fn sent<F: Future + Unpin>(mut call: F) -> impl Future<Output = F::Output> {
    // An answer at this point is usually an error.
    let early = poll_fn(|context| Poll::Ready(Pin::new(&mut call).poll(context))).await;
    async move {
        match early {
            Poll::Ready(answer) => answer,
            Poll::Pending => call.await,
        }
    }
}

/// Cause of an error.
enum Cause {
    /// The statement or its values.
    Item,
    /// A table, a column, a function or a schema is missing.
    Schema,
    /// Damaged pages of a table or an index.
    Damage,
    /// The state of the server, which may pass.
    Server,
    /// The connection or its prepared statements. A new connection may help.
    Connection,
}

fn cause(error: &Error) -> Cause {
    let Some(refused) = error.as_db_error() else {
        let ours = std::error::Error::source(error).is_some_and(|source| !source.is::<std::io::Error>());
        return if ours && !error.is_closed() { Cause::Item } else { Cause::Connection };
    };
    if !is_refusal(error) {
        return Cause::Connection;
    }
    let code = refused.code().code();
    match (code.get(..2).unwrap_or_default(), code) {
        // A statement that the server has forgotten or cannot use any more; a server that accepts no writes
        // because it is no longer the primary.
        (_, "0A000" | "26000" | "25006") | ("08" | "28" | "3D", _) => Cause::Connection,
        // Cancelled (mostly by a timeout), no permission, full, out of memory, deadlock, operator
        // intervention.
        (_, "57014" | "55P03" | "42501") | ("40" | "53" | "57" | "58", _) => Cause::Server,
        (_, "XX001" | "XX002") => Cause::Damage,
        (_, "42P01" | "42703" | "42704" | "42883" | "3F000") => Cause::Schema,
        _ => Cause::Item,
    }
}

/// Whether the server refused a statement and keeps the connection. After an error more severe than `ERROR`
/// it closes the connection, and the outcome of the statement is unknown.
fn is_refusal(error: &Error) -> bool {
    error.as_db_error().is_some_and(|error| match error.parsed_severity() {
        Some(severity) => severity == Severity::Error,
        None => error.severity() == "ERROR",
    })
}

/// Remedy for a role without the rights that it needs.
const OWNER: &str = "the role of database_url must own the tables of ringback and may create some in their schema: \
                     restore a dump with `pg_restore --no-owner` as this role, or run `alter table NAME owner to ROLE` \
                     for each table and `grant create on schema NAME to ROLE`";

/// Returns the message of the server, or of the library.
pub fn message(error: &Error) -> String {
    let source = std::error::Error::source(error);
    match (error.as_db_error(), source) {
        // The routine of the server that reports the rights of a role on a table or a schema, in every language.
        (Some(error), _) if error.code().code() == "42501" && error.routine() == Some("aclcheck_error") => {
            format!("{} (SQLSTATE 42501); {OWNER}", error.message())
        }
        (Some(error), _) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
