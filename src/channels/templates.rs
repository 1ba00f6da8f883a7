//! Templates of mails and chat messages: the embedded ones, and the operator's files that replace them.
//!
//! A template is chosen by its file name, and the extension decides how it escapes: `.html` for HTML, `.json`
//! for JSON, `.txt` not at all. The channel does the rest: it encodes the parts of a mail, and shortens its
//! subject.
//!
//! Every template is parsed and rendered with samples when it is loaded: each event type, with ordinary,
//! missing and hostile values. So an invalid template is reported at start, not when a job ends.
//!
//! **A template never loses a message.** If an operator's template fails with values that no sample had, the
//! embedded template is used for this message, and a warning is logged. A template has [`FUEL`] and a maximum
//! size of its result, so its time and memory are bounded.
//!
//! `templates/README.md` lists the names that a template may use.

pub(super) mod samples;

use std::fs;
use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, escape_formatter};

use super::template_context::TemplateContext;
use crate::domain::{file_text, nearest, similar};
use crate::named_file;

/// Steps that one rendering may take: some hundred thousand steps or some megabytes, far more than a page
/// needs. It bounds time and memory.
const FUEL: u64 = 100_000;

/// Maximum depth of macros and includes.
const DEPTH_MAX: usize = 32;

/// Maximum size of a template file, in bytes. A template is a page or two.
const FILE_MAX: u64 = 256 * 1024;

/// A template that a channel renders.
#[derive(Debug)]
pub struct TemplateFile {
    /// Path below the folder of templates.
    pub name: &'static str,
    /// The embedded template.
    pub source: &'static str,
    /// Maximum size of the result, in bytes.
    pub max_bytes: usize,
    /// Checks a result; the error is a sentence about it.
    pub check: fn(&str) -> Result<(), String>,
}

impl TemplateFile {
    /// Returns a template whose result is a text.
    pub(super) const fn text(name: &'static str, source: &'static str, max_bytes: usize) -> Self {
        Self { name, source, max_bytes, check: |_| Ok(()) }
    }
}

/// The templates that are in use.
#[derive(Clone, Debug)]
pub struct Templates {
    /// The embedded templates.
    embedded: Environment<'static>,
    /// The operator's templates, and the embedded ones that they do not replace.
    active: Environment<'static>,
}

impl Templates {
    /// Loads `files` and the templates in `folder` that replace them. Returns every error in the folder, with
    /// its file and line.
    pub fn load(files: &[&'static TemplateFile], folder: Option<&Path>) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let at = |folder: &Path, file: &TemplateFile, error: &str| {
            format!("{}{error}", folder.join(file.name).display())
        };
        let mut embedded = environment();
        for file in files {
            if let Err(error) = embedded.add_template(file.name, file.source) {
                errors.push(at(Path::new("templates"), file, &located(&error)));
            }
        }
        let mut templates = Self { active: embedded.clone(), embedded };
        let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder {
            let mut replaced = Vec::new();
            for (file, source) in find_files(files, folder, &mut errors) {
                match templates.active.add_template_owned(file.name, source) {
                    Ok(()) => replaced.push(file),
                    Err(error) => errors.push(at(folder, file, &located(&error))),
                }
            }
            for file in replaced {
                if let Err(error) = templates.render_samples(file) {
                    errors.push(at(folder, file, &error));
                }
            }
        }
        if errors.is_empty() { Ok(templates) } else { Err(errors) }
    }

    /// Renders every sample. The error continues the file's name.
    fn render_samples(&self, file: &TemplateFile) -> Result<(), String> {
        for (name, context) in samples::all() {
            let result = format!(": the result for the sample `{name}`");
            render(&self.active, file, &context).map_err(|error| match error {
                RenderError::Template(error) => {
                    let hint = hint(&error).unwrap_or_default();
                    format!("{}{hint}, with the sample `{name}`", located(&error))
                }
                RenderError::TooLarge(size) => {
                    format!("{result} has {size} bytes; the maximum is {}", file.max_bytes)
                }
                RenderError::Invalid(error) => format!("{result} is invalid: {error}"),
            })?;
        }
        Ok(())
    }

    /// Renders a template for an event.
    pub(super) fn render(&self, file: &TemplateFile, context: &TemplateContext) -> Result<String, String> {
        let with = |environment| {
            render(environment, file, context).map_err(|error| match error {
                RenderError::Template(error) => located(&error),
                RenderError::TooLarge(size) => format!(": the result has {size} bytes, which is too large"),
                RenderError::Invalid(error) => format!(": {error}"),
            })
        };
        with(&self.active).or_else(|error| {
            let (template, event_id) = (file.name, &context.id);
            tracing::warn!(template, event_id, error, "a template failed; the embedded one is used");
            with(&self.embedded).map_err(|error| format!("{template}{error}"))
        })
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Without debug information, a release build does not name the unknown name. It costs nothing unless an
    // error occurs.
    environment.set_debug(true);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_formatter(|out, state, value| match value.as_str() {
        // The engine's own formatter also escapes slashes, and then some mail readers do not find a URL.
        Some(text) if matches!(state.auto_escape(), AutoEscape::Html) && !value.is_safe() => {
            out.write_str(&escape_html(text)).map_err(|_| ErrorKind::WriteFailure.into())
        }
        Some(_) | None => escape_formatter(out, state, value),
    });
    environment
}

/// Escapes a text for HTML, in elements and in attributes.
fn escape_html(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}

enum RenderError {
    Template(minijinja::Error),
    /// Size of the result, in bytes.
    TooLarge(usize),
    /// What the check of the result found.
    Invalid(String),
}

fn render(
    environment: &Environment<'_>,
    file: &TemplateFile,
    context: &TemplateContext,
) -> Result<String, RenderError> {
    let template = environment.get_template(file.name);
    let rendered = template.and_then(|template| template.render(Serde(context)));
    let text = rendered.map_err(RenderError::Template)?;
    if text.len() > file.max_bytes {
        return Err(RenderError::TooLarge(text.len()));
    }
    (file.check)(&text).map(|()| text).map_err(RenderError::Invalid)
}

/// Returns an error as `:line: message`.
fn located(error: &minijinja::Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!(":{line}"));
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    format!("{line}: {}{detail}", error.kind())
}

/// Returns a suggestion for a name that is undefined.
fn hint(error: &minijinja::Error) -> Option<String> {
    let (before, _) = error.detail()?.split_once("` is undefined")?;
    let name = before.rsplit('`').next()?;
    let known = samples::names();
    if known.contains(name) {
        let whole = name.split('.').next().unwrap_or(name);
        return Some(format!(" (`{whole}` may be none: test it first, with {{% if {whole} %}})"));
    }
    // The entries of a list are named by a loop variable, whose name the template chooses.
    let (of, field) = name.rsplit_once('.').map_or(("", name), |(of, field)| (of, field));
    let in_list = !of.is_empty() && !known.contains(of);
    let near = if in_list {
        let fields = known.iter().filter_map(|name| name.split_once("[].")).map(|(_, field)| field);
        nearest(field, fields).map(|(_, near)| format!("{of}.{near}"))
    } else {
        nearest(name, known.iter().map(String::as_str).filter(|name| !name.contains("[]")))
            .map(|(_, near)| near.to_owned())
    };
    near.map(|near| format!("; the nearest is `{near}`"))
}

/// Returns the operator's templates in `folder`.
fn find_files(
    files: &[&'static TemplateFile],
    folder: &Path,
    errors: &mut Vec<String>,
) -> Vec<(&'static TemplateFile, String)> {
    let mut found = Vec::new();
    for path in file_paths(folder, errors) {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy();
        let Some(file) = files.iter().find(|file| file.name == name) else {
            let near = similar(&name, files.iter().map(|file| file.name));
            let near = near.map_or_else(
                || {
                    let names: Vec<&str> = files.iter().map(|file| file.name).collect();
                    format!("the names are {}", names.join(", "))
                },
                |near| format!("the nearest is {near}"),
            );
            errors.push(format!("{}: there is no such template; {near}", path.display()));
            continue;
        };
        match named_file::read(&path, FILE_MAX) {
            Ok(bytes) if bytes.len() as u64 > FILE_MAX => {
                errors.push(format!("{}: is larger than 256 KiB", path.display()));
            }
            Ok(bytes) => match file_text(bytes) {
                Ok(source) => found.push((*file, source)),
                Err(error) => errors.push(format!("{}: {error}", path.display())),
            },
            Err(error) => errors.push(format!("{}: cannot be read: {error}", path.display())),
        }
    }
    found
}

/// Returns the path of every file in the folder and its subfolders. Hidden files are left out: Kubernetes adds
/// some to a mounted folder.
fn file_paths(folder: &Path, errors: &mut Vec<String>) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(parent) = folders.pop() {
        let entries = fs::read_dir(&parent).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.map_err(|error| {
            errors.push(format!("templates.path: the folder {} cannot be read: {error}", parent.display()));
        });
        for entry in entries.into_iter().flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with('.') {
            } else if path.is_dir() && parent == folder {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests;
