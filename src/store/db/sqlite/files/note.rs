//! The text of `.lock`: that there is a database, which one its log belongs to, and its damage.
//!
//! ```text
//! a ringback database: start 12, schema 41
//! contents: yes
//! damage: database disk image is malformed
//! ```
//!
//! `contents` says that an app was committed. The start and the schema are the mark (`application_id`) and the
//! `schema_version` in the header of the database. Version 0.1.0 wrote the reason of a damage alone, and takes every
//! text for one: it then checks all pages and empties the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::contents::Header;

/// Beginning of a note of this version.
const DATABASE: &str = "a ringback database";

/// Line that says that the database has contents.
const CONTENTS: &str = "contents: yes\n";

/// Beginning of the line about damage.
const DAMAGE: &str = "damage: ";

/// Maximum length of a note, in bytes.
const LENGTH_MAX: usize = 1024;

/// What distinguishes a state of a database from its backups. No commit of this program changes it between two starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub mark: u32,
    pub schema: u32,
}

impl Origin {
    /// Returns the origin of a database with this header.
    pub const fn of(header: &Header) -> Self {
        Self { mark: header.number(68), schema: header.number(40) }
    }
}

/// The contents of `.lock`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// Whether there has been a database.
    pub existed: bool,
    /// Whether an app was committed to it.
    pub has_contents: bool,
    /// The origin of the database that the log belongs to, if it is known.
    pub origin: Option<Origin>,
    /// Damage that a process has found.
    pub damage: Option<String>,
}

impl Note {
    /// Reads the note. A file that cannot be read has none.
    pub fn read(lock: &File) -> Self {
        let mut text = [0; LENGTH_MAX];
        let length = lock.read_at(&mut text, 0).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text[..length]))
    }

    fn parse(text: &str) -> Self {
        if text.is_empty() {
            return Self::default();
        }
        let Some(rest) = text.strip_prefix(DATABASE) else {
            return Self { existed: true, damage: Some(text.to_owned()), ..Self::default() };
        };
        let (first, rest) = rest.split_once('\n').unwrap_or((rest, ""));
        let origin = first.strip_prefix(": start ").and_then(|first| {
            let (mark, schema) = first.split_once(", schema ")?;
            Some(Origin { mark: mark.parse().ok()?, schema: schema.parse().ok()? })
        });
        let (has_contents, rest) = rest.strip_prefix(CONTENTS).map_or((false, rest), |rest| (true, rest));
        let damage = (!rest.is_empty()).then(|| rest.strip_prefix(DAMAGE).unwrap_or(rest).trim().to_owned());
        Self { existed: true, has_contents, origin, damage }
    }

    /// Replaces the note, and syncs it.
    pub fn write(&self, lock: &File) -> io::Result<()> {
        let mut text = self.to_string().into_bytes();
        text.truncate(LENGTH_MAX);
        lock.set_len(text.len() as u64)?;
        lock.write_all_at(&text, 0)?;
        lock.sync_all()
    }
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.existed {
            return Ok(());
        }
        f.write_str(DATABASE)?;
        if let Some(Origin { mark, schema }) = self.origin {
            write!(f, ": start {mark}, schema {schema}")?;
        }
        writeln!(f)?;
        if self.has_contents {
            f.write_str(CONTENTS)?;
        }
        match &self.damage {
            Some(damage) => writeln!(f, "{DAMAGE}{}", damage.replace('\n', " ")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let origin = Some(Origin { mark: 12, schema: 41 });
        for origin in [None, origin] {
            for damage in [None, Some("page 7".to_owned())] {
                for has_contents in [false, true] {
                    let note = Note { existed: true, has_contents, origin, damage: damage.clone() };
                    assert_eq!(Note::parse(&note.to_string()), note);
                }
            }
        }
        assert_eq!(Note::parse(""), Note::default());
        // Of version 0.1.0.
        let old = Note { existed: true, damage: Some("malformed".to_owned()), ..Note::default() };
        assert_eq!(Note::parse("malformed"), old);
    }
}
