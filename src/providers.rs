//! Job APIs, each described by a TOML file.
//!
//! A definition describes how to request a job and what the responses mean. `docs/PROVIDERS.md` documents the
//! language. Definitions are data: no code is about one provider. Only [`load_providers`] and
//! [`Definition::check`] do I/O, because they read files. The poller sends the requests and schedules them.

mod auth;
mod aws;
mod body;
mod cancel;
mod compile;
mod condition;
mod decode;
mod definition;
mod example;
mod extract;
mod field;
mod host_pattern;
mod inline;
mod interpretation;
mod issued_token;
mod json;
mod json_text;
mod jwt;
mod jwt_form;
mod names;
mod own_credential;
mod own_definition;
mod part;
mod path;
mod repair;
mod request;
mod result;
mod rule;
mod skeleton;
mod template;
mod text_template;
mod value;
mod work;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use crate::domain::file_text;
use crate::named_file;
pub use auth::Credential;
pub use cancel::CancelAnswer;
pub use compile::{Mistake, is_provider_id};
pub use definition::{Definition, Parameter};
pub use extract::OutputsExpire;
pub use inline::InlinePoll;
pub use interpretation::{Answer, Interpretation, JobReport, NextResult, PollFailure};
pub use json_text::JsonText;
pub use own_credential::OwnDefinition;
pub use own_definition::TEXT_MAX as OWN_DEFINITION_MAX;
pub use request::{ParamError, Request};
pub use skeleton::{Skeleton, SkeletonAuth, SkeletonInput, skeleton};

/// Every `src/providers/definitions/*.toml`: (file name, text). The build script lists the folder.
const EMBEDDED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/providers.rs"));

/// Largest size of a definition file in bytes. A larger file is a wrong path: it is fifty times the longest
/// embedded definition.
const MAX_FILE: u64 = 512 * 1024;

/// Largest number of files in the operator's folder. A folder with more is a wrong path.
const MAX_FILES: usize = 1_000;

/// All known providers by their ids.
pub type Providers = BTreeMap<String, Arc<Definition>>;

/// A file of the operator that defines no provider, because it has mistakes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDefinition {
    /// Id of the provider, or the name of the file if the file does not say it.
    pub id: String,
    /// Every mistake, as a sentence that starts with the file's name.
    pub mistakes: Vec<String>,
}

/// The definitions of this program and of the operator's folder.
#[derive(Clone, Debug, Default)]
pub struct LoadedProviders {
    /// The definitions without a mistake.
    pub valid: Providers,
    /// The files of the folder with mistakes. They disable the embedded definition with the same id, too.
    pub invalid: Vec<InvalidDefinition>,
    /// Errors of the folder and of the embedded definitions.
    pub errors: Vec<String>,
}

/// The embedded definitions, which are compiled once in a process.
static LOADED: LazyLock<LoadedProviders> = LazyLock::new(|| {
    let mut loaded = LoadedProviders::default();
    for (file, text) in EMBEDDED {
        match checked(file, text) {
            Ok(definition) => drop(loaded.valid.insert(definition.id.clone(), Arc::new(definition))),
            Err(mistakes) => loaded.errors.extend(mistakes),
        }
    }
    loaded
});

/// Reads the embedded definitions and every `*.toml` of `folder`, and checks their examples. A definition in the
/// folder replaces the embedded one with the same id.
pub fn load_providers(folder: Option<&Path>) -> LoadedProviders {
    let (mut loaded, mut own) = (LOADED.clone(), Providers::new());
    for file in folder.map(|folder| list(folder, &mut loaded.errors)).unwrap_or_default() {
        let name = file.display().to_string();
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let text = read(&file).map_err(|error| (stem.clone(), vec![error]));
        let definition = text.and_then(|text| {
            checked(&name, &text).map_err(|mistakes| (compile::id_of(&text).unwrap_or(stem), mistakes))
        });
        match definition {
            Ok(definition) if own.contains_key(&definition.id) => {
                let mistakes = vec![format!("{name}: id: another file defines `{}` already", definition.id)];
                // Which of the two the operator means is not known.
                own.remove(&definition.id);
                loaded.invalid.push(InvalidDefinition { id: definition.id, mistakes });
            }
            Ok(definition) => drop(own.insert(definition.id.clone(), Arc::new(definition))),
            Err((id, mistakes)) => loaded.invalid.push(InvalidDefinition { id, mistakes }),
        }
    }
    loaded.valid.extend(own);
    for InvalidDefinition { id, .. } in &loaded.invalid {
        loaded.valid.remove(id);
    }
    loaded
}

impl Definition {
    /// Reads the definition in a file, and checks its examples. The error lists every mistake as a sentence that
    /// starts with the file's name and the place.
    pub fn check(file: &Path) -> Result<Self, Vec<String>> {
        checked(&file.display().to_string(), &read(file).map_err(|error| vec![error])?)
    }

    /// Like [`Self::check`], but returns the definition also if only its examples have mistakes.
    pub fn read(file: &Path) -> (Option<Self>, Vec<String>) {
        match read(file) {
            Ok(text) => {
                let (definition, mistakes) = compile::compile(&text);
                (definition, named(&file.display().to_string(), &mistakes))
            }
            Err(error) => (None, vec![error]),
        }
    }
}

/// Returns the files of the definitions at a path: the file itself, or every `*.toml` of a folder.
pub fn definition_files(path: &Path) -> Result<Vec<PathBuf>, Vec<String>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut errors = Vec::new();
    let files = list(path, &mut errors);
    if files.is_empty() && errors.is_empty() {
        errors.push(format!("{}: the folder contains no *.toml", path.display()));
    }
    if errors.is_empty() { Ok(files) } else { Err(errors) }
}

/// Returns the text of a file. The error starts with the file's name.
fn read(file: &Path) -> Result<String, String> {
    let name = file.display();
    let bytes = named_file::read(file, MAX_FILE)
        .map_err(|error| format!("{name}: the file cannot be read: {error}"))?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("{name}: the file is larger than {MAX_FILE} bytes; check the path"));
    }
    file_text(bytes).map_err(|error| format!("{name}: the file {error}"))
}

/// Returns the definition in `text`. Every error starts with the file's name and the place.
fn checked(file: &str, text: &str) -> Result<Definition, Vec<String>> {
    Definition::parse(text).map_err(|mistakes| named(file, &mistakes))
}

fn named(file: &str, mistakes: &[Mistake]) -> Vec<String> {
    mistakes.iter().map(|mistake| format!("{file}:{mistake}")).collect()
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
