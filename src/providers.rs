//! The job APIs that can be watched, each described by a TOML file.
//!
//! A definition says how a job is asked for and what the answers mean; `docs/PROVIDERS.md` is its
//! language. Definitions are data: no code of ours is about one provider. Nothing here does I/O but
//! [`Providers::load`], which reads the operator's folder; asking, waiting and counting are the
//! poller's.

mod compile;
mod definition;
mod example;
mod file;
mod interpret;
mod param;
mod path;
mod request;
mod size;
mod template;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

pub use definition::{Definition, Limits, PollPolicy};
pub use interpret::{Interpretation, JobReport};
pub use request::{ParamError, Request};

/// Every `src/providers/*.toml`: (file name, text). The build script lists the folder.
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/providers.rs"));

/// The largest definition file: fifty times the longest of ours is a mistaken path.
const MAX_FILE: u64 = 512 * 1024;

/// The most files in the operator's folder: more are a mistaken path, too.
const MAX_FILES: usize = 1_000;

/// What can be watched.
#[derive(Clone, Debug)]
pub struct Providers {
    definitions: Arc<BTreeMap<String, Arc<Definition>>>,
}

impl Providers {
    /// Reads the embedded definitions and every `*.toml` of `folder`, and runs their examples. One
    /// in the folder replaces the embedded one of the same id. The error is every mistake, each a
    /// sentence for people that begins with the file's name.
    pub fn load(folder: Option<&Path>) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut definitions = BTreeMap::new();
        for (file, text) in EMBEDDED {
            add(&mut definitions, file, text, &mut mistakes);
        }
        let mut own = BTreeMap::new();
        for (file, text) in folder.map(|folder| read(folder, &mut mistakes)).unwrap_or_default() {
            add(&mut own, &file, &text, &mut mistakes);
        }
        definitions.extend(own);
        if mistakes.is_empty() { Ok(Self { definitions: Arc::new(definitions) }) } else { Err(mistakes) }
    }

    /// The definition of that id.
    pub fn get(&self, id: &str) -> Option<&Arc<Definition>> {
        self.definitions.get(id)
    }

    /// All of them, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Definition>> {
        self.definitions.values()
    }
}

impl Definition {
    /// Reads the definition that a file holds, and runs its examples. The error is every mistake, each
    /// a sentence for people that begins with the file's name.
    pub fn check(file: &Path) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let found = read_file(file, &mut mistakes);
        let (name, text) = found.ok_or(mistakes)?;
        let checked = Self::parse(&text).and_then(|d| d.check_examples().map(|()| d));
        checked.map_err(|found| found.iter().map(|mistake| format!("{name}: {mistake}")).collect())
    }
}

/// Reads one definition into `definitions`.
fn add(
    definitions: &mut BTreeMap<String, Arc<Definition>>,
    file: &str,
    text: &str,
    mistakes: &mut Vec<String>,
) {
    let checked = Definition::parse(text).and_then(|d| d.check_examples().map(|()| d));
    match checked {
        Ok(definition) if definitions.contains_key(definition.id()) => {
            mistakes.push(format!("{file}: id: another file defines `{}` already", definition.id()));
        }
        Ok(definition) => {
            definitions.insert(definition.id().to_owned(), Arc::new(definition));
        }
        Err(found) => mistakes.extend(found.into_iter().map(|mistake| format!("{file}: {mistake}"))),
    }
}

/// Every `*.toml` of a folder: (path, text), sorted, so that the same folder gives the same answer.
fn read(folder: &Path, mistakes: &mut Vec<String>) -> Vec<(String, String)> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            mistakes.push(format!("{}: the folder cannot be read: {error}", folder.display()));
            return Vec::new();
        }
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.path()),
            Err(error) => mistakes.push(format!("{}: {error}", folder.display())),
        }
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    if paths.len() > MAX_FILES {
        mistakes.push(format!("{}: it holds more than {MAX_FILES} definitions", folder.display()));
        paths.truncate(0);
    }
    paths.iter().filter_map(|path| read_file(path, mistakes)).collect()
}

/// A file that may be a definition: (path, text).
fn read_file(path: &Path, mistakes: &mut Vec<String>) -> Option<(String, String)> {
    let name = path.display().to_string();
    if fs::metadata(path).is_ok_and(|about| about.len() > MAX_FILE) {
        mistakes.push(format!("{name}: it is larger than {MAX_FILE} bytes"));
        return None;
    }
    match fs::read_to_string(path) {
        Ok(text) => Some((name, text)),
        Err(error) => {
            mistakes.push(format!("{name}: it cannot be read: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests;
