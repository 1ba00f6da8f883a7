//! What the database and the index of its log say about the contents of the database.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

/// First bytes of every SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The header of a database (<https://sqlite.org/fileformat.html>). What the file lacks is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header([u8; 100]);

impl Header {
    /// Returns `None` if the file cannot be read.
    pub fn read(database: &File) -> Option<Self> {
        let mut header = [0; 100];
        database.read_at(&mut header, 0).ok()?;
        Some(Self(header))
    }

    /// The number at this position.
    pub const fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    /// The mark: `application_id`. 0 if it is not the header of a database.
    pub fn mark(&self) -> u32 {
        if self.0.starts_with(MAGIC) { self.number(68) } else { 0 }
    }

    /// The size of the database, in bytes.
    fn size(&self) -> u64 {
        let page_size = u64::from(u16::from_be_bytes([self.0[16], self.0[17]]));
        // 65,536 is stored as 1.
        let page_size = if page_size == 1 { 65_536 } else { page_size };
        u64::from(self.number(28)) * page_size
    }
}

/// A difference between a database and what the last checkpoint left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has another header.
    Overwritten,
    /// It is shorter than its header says.
    Truncated,
    /// It was written, perhaps not by a copy of another database.
    Written,
}

/// The database as the last checkpoint left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    pub header: Header,
    size: u64,
    /// Time of the last write, in seconds and nanoseconds.
    written_at: (i64, i64),
    /// What the index of the log says about checkpoints. Each one that writes the database changes it.
    checkpoints: Checkpoints,
    /// Whether the whole log is copied. The next commit then begins it anew, unless a reader prevents it.
    is_complete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Checkpoints {
    salt: [u8; 8],
    copied: u32,
}

impl Contents {
    /// Reads the database between two checkpoints. Returns `None` while a process commits or checkpoints, and after a
    /// checkpoint that was interrupted.
    pub fn read(database: &File, index: &File) -> Option<Self> {
        let before = LogIndex::read(index)?.checkpoints()?;
        let found = database.metadata().ok()?;
        let header = Header::read(database)?;
        let index = LogIndex::read(index)?;
        let checkpoints = index.checkpoints().filter(|after| *after == before)?;
        let written_at = (found.mtime(), found.mtime_nsec());
        let is_complete = index.copied == index.frames;
        Some(Self { header, size: found.len(), written_at, checkpoints, is_complete })
    }

    /// Notes the size of the log after a commit, in pages.
    pub const fn note_commit(&mut self, frames: u32) {
        self.is_complete &= frames <= self.checkpoints.copied;
    }

    /// Whether the log was only begun anew since `known`. Every restart increases the first half of the salt.
    fn only_restarted(&self, known: &Self) -> bool {
        let number = |salt: [u8; 8]| u32::from_be_bytes([salt[0], salt[1], salt[2], salt[3]]);
        let (old, new) = (known.checkpoints, self.checkpoints);
        known.is_complete && new.copied == 0 && number(new.salt) == number(old.salt).wrapping_add(1)
    }

    /// Compares the database with an earlier state of it, if one is known. `None`: it has not changed, or a checkpoint
    /// explains the change.
    pub fn change_since(&self, known: Option<&Self>) -> Option<Change> {
        let is_same = known.is_some_and(|known| self.checkpoints == known.checkpoints);
        let known = known.filter(|known| is_same || self.only_restarted(known));
        if is_same && known.is_some_and(|known| self.header != known.header) {
            return Some(Change::Overwritten);
        }
        if self.size < self.header.size() {
            return Some(Change::Truncated);
        }
        // After a restart of the log, a checkpoint by another process right before it is possible, though unlikely.
        let seen = |contents: &Self| (contents.header, contents.size, contents.written_at);
        known.filter(|known| seen(self) != seen(known)).map(|_| Change::Written)
    }
}

/// The header of `-shm` (<https://sqlite.org/walformat.html>): the state of the log.
#[derive(Debug, PartialEq, Eq)]
pub struct LogIndex {
    page_size: u64,
    /// Number of pages in the log.
    frames: u32,
    /// Random number of the current contents of the log. The log and each of its frames repeat it.
    salt: [u8; 8],
    /// Number of pages of the log that are copied into the database.
    copied: u32,
    /// Number of pages of the log that the last checkpoint began to copy.
    to_copy: u32,
}

impl LogIndex {
    /// Returns `None` for a header that cannot be read or is being written: then its two copies differ.
    pub fn read(index: &File) -> Option<Self> {
        let mut header = [0; 132];
        index.read_exact_at(&mut header, 0).ok()?;
        if header[..48] != header[48..96] || header[12] == 0 {
            return None;
        }
        let number = |at: usize| header[at..at + 4].try_into().ok().map(u32::from_ne_bytes);
        let page_size = u64::from(u16::from_ne_bytes([header[14], header[15]]));
        // 65,536 is stored as 1.
        let page_size = if page_size == 1 { 65_536 } else { page_size };
        Some(Self {
            page_size,
            frames: number(16)?,
            salt: header[32..40].try_into().ok()?,
            copied: number(96)?,
            to_copy: number(128)?,
        })
    }

    /// Number of pages of commits that only the log holds.
    pub const fn uncopied(&self) -> u32 {
        self.frames.saturating_sub(self.copied)
    }

    /// Whether the log has this salt at its start and in samples of its frames: the last, those 1, 2, 4 … before it,
    /// and the first. A hole contains one if fewer frames than it has pages follow it. What cannot be read shows
    /// nothing.
    pub fn describes(&self, log: &File) -> bool {
        if self.frames == 0 {
            return true;
        }
        let has_salt = |at: u64| {
            let mut salt = [0; 8];
            match log.read_exact_at(&mut salt, at) {
                Ok(()) => salt == self.salt,
                Err(error) => error.kind() != io::ErrorKind::UnexpectedEof,
            }
        };
        let samples = (0..32).map_while(|n| self.frames.checked_sub(1 << n)).chain([self.frames]);
        // Each frame has a header of 24 bytes; the log has one of 32.
        let at = |frame: u32| 32 + u64::from(frame.saturating_sub(1)) * (24 + self.page_size) + 8;
        has_salt(16) && samples.filter(|frame| *frame > 0).chain([1]).all(|frame| has_salt(at(frame)))
    }

    /// Returns `None` while a checkpoint writes to the database, and after one that was interrupted.
    fn checkpoints(&self) -> Option<Checkpoints> {
        (self.copied == self.to_copy).then_some(Checkpoints { salt: self.salt, copied: self.copied })
    }
}
