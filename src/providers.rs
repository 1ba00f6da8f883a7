//! Job APIs, each described by a TOML file.
//!
//! A definition describes how to request a job and what the responses mean. `docs/PROVIDERS.md` documents the
//! language. Definitions are data: no code is about one provider. Only [`Providers::load`] and
//! [`Definition::check`] do I/O, because they read files. The poller sends the requests and schedules them.

mod compile;
mod definition;
mod example;
mod extract;
mod file;
mod interpretation;
mod param;
mod path;
mod reader;
mod request;
mod request_form;
mod template;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

pub use definition::Definition;
pub use interpretation::{Interpretation, JobReport};
pub use request::{ParamError, Request};

/// Every `src/providers/*.toml`: (file name, text). The build script lists the folder.
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/providers.rs"));

/// Largest size of a definition file in bytes. A larger file is a wrong path: it is fifty times the longest
/// embedded definition.
const MAX_FILE: u64 = 512 * 1024;

/// Largest number of files in the operator's folder. A folder with more is a wrong path.
const MAX_FILES: usize = 1_000;

/// All known providers.
#[derive(Clone, Debug)]
pub struct Providers {
    definitions: Arc<BTreeMap<String, Arc<Definition>>>,
}

impl Providers {
    /// Reads the embedded definitions and every `*.toml` of `folder`, and checks their examples. A definition in
    /// the folder replaces the embedded one with the same id. The error lists every error as a sentence that
    /// starts with the file's name.
    pub fn load(folder: Option<&Path>) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let mut definitions = BTreeMap::new();
        for (file, text) in EMBEDDED {
            add(&mut definitions, file, text, &mut errors);
        }
        let mut own = BTreeMap::new();
        for (file, text) in folder.map(|folder| read(folder, &mut errors)).unwrap_or_default() {
            add(&mut own, &file, &text, &mut errors);
        }
        definitions.extend(own);
        if errors.is_empty() { Ok(Self { definitions: Arc::new(definitions) }) } else { Err(errors) }
    }

    /// Returns the definition with this id.
    pub fn get(&self, id: &str) -> Option<&Arc<Definition>> {
        self.definitions.get(id)
    }

    /// Returns all definitions, sorted by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Definition>> {
        self.definitions.values()
    }
}

impl Definition {
    /// Reads the definition in a file, and checks its examples. The error lists every error as a sentence that
    /// starts with the file's name.
    pub fn check(file: &Path) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let found = read_file(file, &mut errors);
        let (name, text) = found.ok_or(errors)?;
        let checked = Self::parse(&text).and_then(|d| d.check_examples().map(|()| d));
        checked.map_err(|found| found.iter().map(|error| format!("{name}: {error}")).collect())
    }
}

/// Adds the definition in `text` to `definitions`.
fn add(
    definitions: &mut BTreeMap<String, Arc<Definition>>,
    file: &str,
    text: &str,
    errors: &mut Vec<String>,
) {
    let checked = Definition::parse(text).and_then(|d| d.check_examples().map(|()| d));
    match checked {
        Ok(definition) if definitions.contains_key(definition.id()) => {
            errors.push(format!("{file}: id: another file defines `{}` already", definition.id()));
        }
        Ok(definition) => {
            definitions.insert(definition.id().to_owned(), Arc::new(definition));
        }
        Err(found) => errors.extend(found.into_iter().map(|error| format!("{file}: {error}"))),
    }
}

/// Reads every `*.toml` of a folder as (path, text), sorted, so that the result does not depend on the order of the
/// file system.
fn read(folder: &Path, errors: &mut Vec<String>) -> Vec<(String, String)> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            errors.push(format!("{}: the folder cannot be read: {error}", folder.display()));
            return Vec::new();
        }
    };
    let mut paths = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => paths.push(entry.path()),
            Err(error) => errors.push(format!("{}: {error}", folder.display())),
        }
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    if paths.len() > MAX_FILES {
        errors.push(format!(
            "{}: the folder contains more than {MAX_FILES} definitions; check the path",
            folder.display()
        ));
        paths.truncate(0);
    }
    paths.iter().filter_map(|path| read_file(path, errors)).collect()
}

/// Reads a file as (path, text).
fn read_file(path: &Path, errors: &mut Vec<String>) -> Option<(String, String)> {
    let name = path.display().to_string();
    if fs::metadata(path).is_ok_and(|about| about.len() > MAX_FILE) {
        errors.push(format!("{name}: the file is larger than {MAX_FILE} bytes; check the path"));
        return None;
    }
    match fs::read_to_string(path) {
        Ok(text) => Some((name, text)),
        Err(error) => {
            errors.push(format!("{name}: the file cannot be read: {error}"));
            None
        }
    }
}

#[cfg(test)]
mod tests;
