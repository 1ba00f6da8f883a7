//! Pages of lists, bounded in rows, in bytes and in time.
//!
//! - **Rows and bytes.** A page ends when it has the requested number of rows, or when the next row would make it
//!   larger than [`PAGE_BYTES`]; it has at least one row. Rows behind the end are not read into memory.
//! - **Time.** A filter for which no index exists can match few rows or none, and then the whole list would be read
//!   for one page. A read therefore examines no more than [`SCAN_MAX`] rows: an index gives the id at which they end,
//!   and the query has this id as a bound. If the page is not full then, the next rows are examined in another read,
//!   for which the app waits its turn ([`FairSemaphore`](super::db::FairSemaphore)). After [`SCANS_MAX`] reads the
//!   page ends as it is, perhaps without a row, and says where the next one begins.
//!
//! The reads of one page see different snapshots. That is the same as with smaller pages: rows are found in the order
//! of their ids, and none is found twice.

use super::db::{Read, Result, Row, Tx};
use super::reads::ReadStore;
use super::unreadable::UnreadableRows;
use crate::domain::AppNo;

/// Largest size of the rows of a page, in bytes. 200 ordinary rows fit.
const PAGE_BYTES: usize = 1024 * 1024;

/// Largest number of rows that one read examines: some milliseconds.
pub(super) const SCAN_MAX: u32 = 5_000;

/// Largest number of reads for one page.
const SCANS_MAX: usize = 20;

/// A page of a list.
#[derive(Clone, Debug)]
pub struct ListPage<T, C> {
    /// The rows.
    pub rows: Vec<T>,
    /// Position after which the next page begins; `None` at the end of the list.
    pub next: Option<C>,
}

/// The rows and bytes that still fit on a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Remaining {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

/// Where a part of a page ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End<C> {
    /// At the end of the list.
    List,
    /// The page is full, and the next one begins after this position.
    Full(C),
    /// The rows up to this position were examined, and more follow.
    Scanned(C),
}

/// The part of a page that one read finds.
#[derive(Debug)]
pub(super) struct Part<T, C> {
    pub(super) rows: Vec<T>,
    /// Size of the rows.
    pub(super) bytes: usize,
    pub(super) end: End<C>,
}

/// Rows that fit on a page, in order.
#[derive(Debug)]
pub(super) struct Fitting<T, C> {
    pub(super) rows: Vec<T>,
    pub(super) bytes: usize,
    /// Whether a row follows that does not fit.
    pub(super) is_cut: bool,
    /// Position of the last row after [`Self::rows`] that cannot be read.
    pub(super) unreadable: Option<C>,
}

impl Remaining {
    /// All of an empty page.
    pub(super) const fn of_page(limit: u32) -> Self {
        Self { rows: limit as usize, bytes: PAGE_BYTES }
    }

    /// The limit of a query: with one row more it shows whether another page follows.
    pub(super) fn limit(self) -> u32 {
        u32::try_from(self.rows + 1).unwrap_or(u32::MAX)
    }
}

impl<T, C> Fitting<T, C> {
    /// Takes rows as long as they fit. The first one always does.
    pub(super) fn take(
        tx: &Tx<'_>,
        query: &super::db::Where<'_>,
        remaining: Remaining,
        read: impl Read<T>,
        size: impl Fn(&T) -> usize,
    ) -> Result<Self> {
        let mut fitting = Self::empty(remaining);
        tx.list_while(&query.sql, &query.values, read, |row| fitting.push(row, remaining, &size))?;
        Ok(fitting)
    }

    /// Does the same without the rows that cannot be read. `of` is their table and the column of their key, and
    /// `position` reads the position of such a row.
    pub(super) fn take_readable(
        tx: &Tx<'_>,
        query: &super::db::Where<'_>,
        remaining: Remaining,
        (unreadable, of): (&UnreadableRows, (&'static str, usize)),
        (mut read, position): (impl Read<T>, impl Fn(&Row<'_>) -> Result<C>),
        size: impl Fn(&T) -> usize,
    ) -> Result<Self> {
        let (mut fitting, mut count) = (Self::empty(remaining), 0);
        tx.list_while(
            &query.sql,
            &query.values,
            |row| Ok(unreadable.skip(of, row, read(row))?.ok_or(position(row)?)),
            |row| {
                count += 1;
                match row {
                    Ok(row) => fitting.push(row, remaining, &size),
                    Err(position) => {
                        fitting.unreadable = Some(position);
                        true
                    }
                }
            },
        )?;
        // More rows may follow those that the query was limited to.
        fitting.is_cut |= count > remaining.rows;
        Ok(fitting)
    }

    fn empty(remaining: Remaining) -> Self {
        let rows = Vec::with_capacity(remaining.rows.min(256));
        Self { rows, bytes: 0, is_cut: false, unreadable: None }
    }

    /// Adds a row if it fits. Returns whether it does.
    fn push(&mut self, row: T, remaining: Remaining, size: impl Fn(&T) -> usize) -> bool {
        let bytes = self.bytes + size(&row);
        if self.rows.len() == remaining.rows || (bytes > remaining.bytes && !self.rows.is_empty()) {
            self.is_cut = true;
            return false;
        }
        (self.bytes, self.unreadable) = (bytes, None);
        self.rows.push(row);
        true
    }

    /// Makes a page of a list that is read at once.
    pub(super) fn page(self, position: impl Fn(&T) -> C) -> ListPage<T, C> {
        let last = self.unreadable.or_else(|| self.rows.last().map(position));
        let next = last.filter(|_| self.is_cut);
        ListPage { rows: self.rows, next }
    }

    /// Makes the part of a page. `scanned` is where the query ended, if it did not examine all rows.
    pub(super) fn part(self, position: impl Fn(&T) -> C, scanned: Option<C>) -> Part<T, C> {
        let end = match (self.unreadable.or_else(|| self.rows.last().map(position)), scanned) {
            (Some(last), _) if self.is_cut => End::Full(last),
            (_, Some(scanned)) => End::Scanned(scanned),
            (_, None) => End::List,
        };
        Part { rows: self.rows, bytes: self.bytes, end }
    }
}

impl ReadStore {
    /// Reads a page of a list, which begins after `from`. `part` reads the part of it that begins after a position.
    pub(super) async fn list<T: Send + 'static, C: Copy + Send + 'static>(
        &self,
        app: AppNo,
        from: Option<C>,
        limit: u32,
        part: impl Fn(&Tx<'_>, Option<C>, Remaining) -> Result<Part<T, C>> + Clone + Send + 'static,
    ) -> Result<ListPage<T, C>> {
        let mut remaining = Remaining::of_page(limit);
        let mut page = ListPage { rows: Vec::new(), next: from };
        for _ in 0..SCANS_MAX {
            let (part, from) = (part.clone(), page.next);
            let Part { rows, bytes, end } = self.read(app, move |tx| part(tx, from, remaining)).await?;
            remaining =
                Remaining { rows: remaining.rows - rows.len(), bytes: remaining.bytes.saturating_sub(bytes) };
            page.rows.extend(rows);
            match end {
                End::List => return Ok(ListPage { next: None, ..page }),
                End::Full(last) => return Ok(ListPage { next: Some(last), ..page }),
                End::Scanned(last) => page.next = Some(last),
            }
            if remaining.rows == 0 || remaining.bytes == 0 {
                break;
            }
        }
        Ok(page)
    }
}
