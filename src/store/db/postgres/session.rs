//! One connection to a PostgreSQL server, used from one thread at a time.
//!
//! **Pipelined.** Rows that cannot be sent [as one statement](super::bulk) are sent together: every statement of a call is sent before the first answer is awaited, so a call
//! costs one round trip, however many rows it has. `begin` and the question for the transaction's
//! number go with the first call, and cost none.
//!
//! **A failed statement** leaves a transaction in which everything fails, and whose `commit` is
//! answered with success although it rolls back. So a session remembers that a statement failed, and
//! [`Session::commit`] refuses.
//!
//! **Nothing waits for ever.** The server gives a statement up after [`STATEMENT`], a wait for a lock
//! after [`LOCK`]; the kernel gives a connection up on which nothing is acknowledged; and whatever
//! still brings no answer within [`ANSWER`] counts as lost.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use super::super::error::{Result, StoreError};
use super::super::row::Row;
use super::super::value::Value;
use super::bulk::{self, Form};
use crate::clock::Clock;

/// What the server may take for a statement: a list of a large database takes seconds, never this.
pub const STATEMENT: Duration = Duration::from_secs(30);

/// What the server may wait for a lock that somebody's shell holds.
pub const LOCK: Duration = Duration::from_secs(10);

/// What a call may take in all.
const ANSWER: Duration = Duration::from_secs(45);

/// Room for every statement of the program and the many forms of its lists.
const STATEMENTS: usize = 256;

/// A runtime of our own for a connection, driven by whoever waits for an answer.
pub struct BlockingRuntime(Option<Runtime>);

impl BlockingRuntime {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self(Some(tokio::runtime::Builder::new_current_thread().enable_all().build()?)))
    }

    #[expect(clippy::expect_used, reason = "it is taken in `drop` only")]
    pub fn block_on<F: Future>(&self, work: F) -> F::Output {
        self.0.as_ref().expect("not dropped yet").block_on(work)
    }
}

impl fmt::Debug for BlockingRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingRuntime")
    }
}

impl Drop for BlockingRuntime {
    /// Without waiting, which is not allowed everywhere: there is nothing to wait for.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// How a transaction begins.
#[derive(Clone, Copy, Debug)]
pub enum Begin {
    /// To write; its number is asked for.
    Write,
    /// To read what is committed, statement by statement.
    Look,
}

/// One connection.
pub struct Session {
    runtime: Arc<BlockingRuntime>,
    client: Client,
    connection: RefCell<JoinHandle<()>>,
    statements: RefCell<HashMap<String, Statement>>,
    for_many: RefCell<HashMap<String, Option<(Form, Statement)>>>,
    number: Statement,
    /// A transaction that begins with the next call.
    begin: Cell<Option<Begin>>,
    /// Whether a transaction is open on the server.
    open: Cell<bool>,
    xid: RefCell<Option<String>>,
    /// A statement of the transaction failed.
    failed: Cell<bool>,
    /// There is no use in asking again.
    broken: Cell<bool>,
}

/// What became of a `commit`.
#[derive(Debug)]
pub enum Committed {
    /// It is on disk.
    Yes,
    /// The server was lost; the transaction's number, by which it can be asked later.
    Unknown(Option<String>),
}

impl Session {
    pub fn new(
        runtime: Arc<BlockingRuntime>,
        client: Client,
        connection: JoinHandle<()>,
        number: Statement,
    ) -> Self {
        Self {
            runtime,
            client,
            connection: RefCell::new(connection),
            statements: RefCell::default(),
            for_many: RefCell::default(),
            number,
            begin: Cell::new(None),
            open: Cell::new(false),
            xid: RefCell::new(None),
            failed: Cell::new(false),
            broken: Cell::new(false),
        }
    }

    pub fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// It is of no use any more.
    pub fn give_up(&self) {
        self.broken.set(true);
    }

    /// A transaction begins with the next call.
    pub fn begin(&self, how: Begin) {
        self.failed.set(false);
        self.xid.replace(None);
        self.begin.set(Some(how));
    }

    /// Runs statements without parameters, one after the other.
    pub fn batch(&self, sql: &str) -> Result<()> {
        self.block(async { self.client.batch_execute(sql).await })
    }

    /// The same, for what may take as long as it wants.
    pub fn batch_without_end(&self, sql: &str) -> Result<()> {
        self.runtime.block_on(self.client.batch_execute(sql)).map_err(|error| self.judge(&error))
    }

    /// See [`super::super::Tx::each`].
    pub fn each<'v, const N: usize>(
        &self,
        sql: &str,
        rows: impl IntoIterator<Item = [Value<'v>; N]>,
    ) -> Result<Vec<usize>> {
        let rows: Vec<[Value<'v>; N]> = rows.into_iter().collect();
        if rows.len() > 1
            && let Some(changed) = self.at_once(sql, &rows)?
        {
            return Ok(changed);
        }
        let changed = self.block(async {
            let statement = &self.statement(sql).await?;
            let run = async |row: [Value<'v>; N]| {
                let row = row.each_ref().map(|value| value as &(dyn ToSql + Sync));
                self.client.execute(statement, &row).await
            };
            self.pipelined(rows.into_iter().map(run)).await
        })?;
        Ok(changed.into_iter().map(|count| usize::try_from(count).unwrap_or(usize::MAX)).collect())
    }

    /// Runs a statement for all rows at once, if its form allows it.
    fn at_once<const N: usize>(&self, sql: &str, rows: &[[Value<'_>; N]]) -> Result<Option<Vec<usize>>> {
        let Some((form, statement)) = self.block(self.statement_for_many(sql))? else { return Ok(None) };
        let arrays: Vec<Vec<Value<'_>>> = (0..N).map(|n| rows.iter().map(|row| row[n]).collect()).collect();
        let run = async |arrays: &[Vec<Value<'_>>]| {
            let arrays: Vec<_> = arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
            self.client.query(&statement, &arrays).await
        };
        let answer = self.block(self.pipelined(std::iter::once(run(&arrays))))?;
        if form == Form::Insert {
            return Ok(Some(vec![1; rows.len()]));
        }
        let mut changed = vec![0; rows.len()];
        for hit in answer.iter().flatten() {
            let row = Row::Postgres(hit).count(0)? as usize;
            if let Some(count) = changed.get_mut(row - 1) {
                *count += 1;
            }
        }
        Ok(Some(changed))
    }

    /// See [`super::super::Tx::fetch`].
    pub fn fetch<'v, T, R: AsRef<[Value<'v>]>>(
        &self,
        sql: &str,
        rows: impl IntoIterator<Item = R>,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<Vec<T>>> {
        let found = self.block(async {
            let statement = &self.statement(sql).await?;
            let run = async |row: R| {
                let row: Vec<_> = row.as_ref().iter().map(|value| value as &(dyn ToSql + Sync)).collect();
                self.client.query(statement, &row).await
            };
            self.pipelined(rows.into_iter().map(run)).await
        })?;
        found.iter().map(|rows| rows.iter().map(|row| read(&Row::Postgres(row))).collect()).collect()
    }

    pub fn commit(&self) -> Result<Committed> {
        if self.begin.take().is_some() {
            // Nothing was asked: there is no transaction.
            return Ok(Committed::Yes);
        }
        if self.failed.get() {
            self.roll_back();
            return Err(StoreError::Inconsistent("a statement of the transaction failed".to_owned()));
        }
        let committed = self.block_in_time(self.client.batch_execute("commit"));
        self.open.set(false);
        match committed {
            Some(Ok(())) => Ok(Committed::Yes),
            // The server lives, and says that it did not.
            Some(Err(error)) if is_refusal(&error) => Err(self.judge(&error)),
            Some(Err(error)) => {
                self.broken.set(true);
                tracing::warn!(%error, "the connection was lost in a commit");
                Ok(Committed::Unknown(self.xid.take()))
            }
            None => {
                self.broken.set(true);
                Ok(Committed::Unknown(self.xid.take()))
            }
        }
    }

    /// Ends the transaction, if there is one. Where that fails the connection is given up, and with it
    /// the transaction.
    pub fn roll_back(&self) {
        self.begin.set(None);
        if self.open.take() && !self.broken.get() && self.batch("rollback").is_err() {
            self.broken.set(true);
        }
    }

    /// Waits for `work`, for the loss of the connection, or for as long as it may take.
    pub fn wait<F: Future>(&self, work: F) -> Waited<F::Output> {
        let mut connection = self.connection.borrow_mut();
        let broken = self.broken.get();
        let waited = self.runtime.block_on(async {
            tokio::select! {
                biased;
                _ = &mut *connection, if !broken => Waited::Lost,
                done = work => Waited::Done(done),
            }
        });
        if matches!(waited, Waited::Lost) {
            self.broken.set(true);
        }
        waited
    }

    /// Says goodbye.
    pub fn close(self) {
        let Self { runtime, client, connection, broken, .. } = self;
        drop(client);
        if broken.get() {
            return;
        }
        let _ = runtime.block_on(Clock::System.timeout(LOCK, connection.into_inner()));
    }

    async fn statement_for_many(&self, sql: &str) -> Result<Option<(Form, Statement)>, Error> {
        if let Some(known) = self.for_many.borrow().get(sql) {
            return Ok(known.clone());
        }
        let for_one = self.statement(sql).await?;
        let made = match bulk::for_many(sql, for_one.params()) {
            Some((form, text)) => Some((form, self.client.prepare(&text).await?)),
            None => None,
        };
        // There are as many as there are statements in the source.
        self.for_many.borrow_mut().insert(sql.to_owned(), made.clone());
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

    /// Sends everything, and awaits the answers in their order.
    async fn pipelined<T, F: Future<Output = Result<T, Error>>>(
        &self,
        asks: impl Iterator<Item = F>,
    ) -> Result<Vec<T>, Error> {
        let mut begin = pin!(self.send_begin());
        let early = sent(begin.as_mut()).await;
        let mut sent_asks = Vec::with_capacity(asks.size_hint().0);
        for ask in asks {
            let mut ask = Box::pin(ask);
            let answer = sent(ask.as_mut()).await;
            sent_asks.push((ask, answer));
        }
        match early {
            Some(done) => done?,
            None => begin.await?,
        }
        let mut answers = Vec::with_capacity(sent_asks.len());
        for (ask, answer) in sent_asks {
            answers.push(match answer {
                Some(answer) => answer?,
                None => ask.await?,
            });
        }
        Ok(answers)
    }

    /// `begin`, and the question for the number, as one flight.
    async fn send_begin(&self) -> Result<(), Error> {
        let Some(how) = self.begin.take() else { return Ok(()) };
        self.open.set(true);
        match how {
            Begin::Look => self.client.batch_execute("begin").await,
            Begin::Write => {
                let mut begin = pin!(self.client.batch_execute("begin"));
                let first = sent(begin.as_mut()).await;
                let number = self.client.query_one(&self.number, &[]);
                let mut number = pin!(number);
                let second = sent(number.as_mut()).await;
                match first {
                    Some(done) => done?,
                    None => begin.await?,
                }
                let row = match second {
                    Some(row) => row?,
                    None => number.await?,
                };
                self.xid.replace(Some(row.try_get(0)?));
                Ok(())
            }
        }
    }

    fn block<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T> {
        if self.broken.get() {
            return Err(StoreError::Unavailable("the connection was lost".to_owned()));
        }
        if let Some(done) = self.block_in_time(work) {
            return done.map_err(|error| self.judge(&error));
        }
        self.failed.set(true);
        self.broken.set(true);
        Err(StoreError::Unavailable(format!("no answer within {} s", ANSWER.as_secs())))
    }

    fn block_in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(Clock::System.timeout(ANSWER, work))
    }

    /// What an error of the server means to us.
    fn judge(&self, error: &Error) -> StoreError {
        self.failed.set(true);
        let fault = fault(error);
        if fault == FieldError::Connection {
            self.broken.set(true);
        }
        match fault {
            FieldError::Item => StoreError::Inconsistent(said(error)),
            FieldError::Connection | FieldError::Server => StoreError::Unavailable(said(error)),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

/// Why a wait was over.
#[derive(Debug)]
pub enum Waited<T> {
    /// What was waited for is there.
    Done(T),
    /// The connection is not.
    Lost,
}

/// Polls `ask` once, which sends it: an answer so early is an error, mostly.
async fn sent<F: Future>(mut ask: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| {
        Poll::Ready(match ask.as_mut().poll(context) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        })
    })
    .await
}

/// Who is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldError {
    /// The statement, or what stands in it.
    Item,
    /// The server, for now.
    Server,
    /// The connection, or what it holds: another may be better.
    Connection,
}

fn fault(error: &Error) -> FieldError {
    let Some(refused) = error.as_db_error() else {
        let ours = std::error::Error::source(error).is_some_and(|source| !source.is::<std::io::Error>());
        return if ours && !error.is_closed() { FieldError::Item } else { FieldError::Connection };
    };
    if !is_refusal(error) {
        return FieldError::Connection;
    }
    let code = refused.code().code();
    match (code.get(..2).unwrap_or_default(), code) {
        // A plan or a statement that the server has forgotten or cannot use any more; a server that
        // takes no writes since it is not the primary any more.
        (_, "0A000" | "26000" | "25006") | ("08" | "28" | "3D", _) => FieldError::Connection,
        // Cancelled, for its length mostly; no right, full, out of memory, in each other's way, an
        // operator, corrupted.
        (_, "57014" | "55P03" | "42501" | "XX001" | "XX002") | ("40" | "53" | "57" | "58", _) => {
            FieldError::Server
        }
        _ => FieldError::Item,
    }
}

/// Whether the server refuses and lives on. After anything worse than an `ERROR` it hangs up, and
/// says nothing of whether it has done what it was asked.
fn is_refusal(error: &Error) -> bool {
    error.as_db_error().is_some_and(|error| match error.parsed_severity() {
        Some(severity) => severity == Severity::Error,
        None => error.severity() == "ERROR",
    })
}

/// The server's own sentence, where it has one.
pub fn said(error: &Error) -> String {
    let source = std::error::Error::source(error);
    match (error.as_db_error(), source) {
        (Some(error), _) => format!("{} (SQLSTATE {})", error.message(), error.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
