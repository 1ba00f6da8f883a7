//! Job APIs, each described by a TOML file.
//!
//! A definition describes how to request a job and what the responses mean. `docs/PROVIDERS.md` documents the
//! language. Definitions are data: no code is about one provider. Only [`load_providers`] and
//! [`Definition::check`] do I/O, because they read files. The poller sends the requests and schedules them.

mod compile;
mod definition;
mod example;
mod extract;
mod file;
mod interpretation;
mod json;
mod request;
mod template;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::file_text;
use crate::named_file;
pub use definition::Definition;
pub use interpretation::{Interpretation, JobReport, PollFailure};
pub use request::{ParamError, Request};

/// Every `src/providers/*.toml`: (file name, text). The build script lists the folder.
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/providers.rs"));

/// Largest size of a definition file in bytes. A larger file is a wrong path: it is fifty times the longest
/// embedded definition.
const MAX_FILE: u64 = 512 * 1024;

/// Largest number of files in the operator's folder. A folder with more is a wrong path.
const MAX_FILES: usize = 1_000;

/// All known providers by their ids.
pub type Providers = BTreeMap<String, Arc<Definition>>;

/// Reads the embedded definitions and every `*.toml` of `folder`, and checks their examples. A definition in the
/// folder replaces the embedded one with the same id. Every error is a sentence that starts with the file's name; the
/// definitions without an error are returned, too.
pub fn load_providers(folder: Option<&Path>) -> (Providers, Vec<String>) {
    let mut errors = Vec::new();
    let (mut definitions, mut own) = (Providers::new(), Providers::new());
    for (file, text) in EMBEDDED {
        add(&mut definitions, file, checked(file, text), &mut errors);
    }
    for file in folder.map(|folder| list(folder, &mut errors)).unwrap_or_default() {
        add(&mut own, &file.display().to_string(), Definition::check(&file), &mut errors);
    }
    definitions.extend(own);
    (definitions, errors)
}

impl Definition {
    /// Reads the definition in a file, and checks its examples. The error lists every error as a sentence that
    /// starts with the file's name.
    pub fn check(file: &Path) -> Result<Self, Vec<String>> {
        let name = file.display().to_string();
        let bytes = named_file::read(file, MAX_FILE)
            .map_err(|error| vec![format!("{name}: the file cannot be read: {error}")])?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(vec![format!("{name}: the file is larger than {MAX_FILE} bytes; check the path")]);
        }
        let text = file_text(bytes).map_err(|error| vec![format!("{name}: the file {error}")])?;
        checked(&name, &text)
    }
}

/// Returns the definition in `text` after a check of its examples. Every error starts with the file's name.
fn checked(file: &str, text: &str) -> Result<Definition, Vec<String>> {
    let checked = Definition::parse(text).and_then(|d| d.check_examples().map(|()| d));
    checked.map_err(|found| found.iter().map(|error| format!("{file}: {error}")).collect())
}

/// Adds the definition of a file to `definitions`, or its errors to `errors`.
fn add(
    definitions: &mut Providers,
    file: &str,
    checked: Result<Definition, Vec<String>>,
    errors: &mut Vec<String>,
) {
    match checked {
        Ok(definition) if definitions.contains_key(&definition.id) => {
            errors.push(format!("{file}: id: another file defines `{}` already", definition.id));
        }
        Ok(definition) => {
            definitions.insert(definition.id.clone(), Arc::new(definition));
        }
        Err(found) => errors.extend(found),
    }
}

/// Lists every `*.toml` of a folder, in capital letters too, sorted, so that the result does not depend on the order of the file system.
fn list(folder: &Path, errors: &mut Vec<String>) -> Vec<PathBuf> {
    let name = folder.display();
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            errors.push(format!("providers.path: the folder {name} cannot be read: {error}"));
            return Vec::new();
        }
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = paths
        .filter_map(|path| path.map_err(|error| errors.push(format!("{name}: {error}"))).ok())
        .filter(|path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml")))
        .collect();
    paths.sort();
    if paths.len() > MAX_FILES {
        errors.push(format!(
            "providers.path: the folder {name} contains more than {MAX_FILES} definitions; check the path"
        ));
        paths.clear();
    }
    paths
}

#[cfg(test)]
mod tests;
