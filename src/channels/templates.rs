//! What people read: templates, embedded, and the operator's in their place.
//!
//! A template is chosen by its name, and so is how it escapes: `.html` for HTML, `.json` for JSON, `.txt`
//! not at all (what mail needs is done to the whole part, what a subject needs by [`super::email`]).
//! Every template is parsed and rendered with samples when it is loaded: each event, with ordinary, with
//! missing and with hostile values. So one that is broken is found at start, not when a job ends.
//!
//! **A message is never lost to a template.** One of the operator's that fails all the same, on values
//! that no sample had, is replaced by the embedded one for this message, and logged. Nothing that a
//! template does can take long or grow large: it has [`FUEL`], and what it makes has a cap.
//!
//! The folder's `README.md` (`templates/README.md`) says what templates see.

pub(super) mod samples;

use std::fs;
use std::io::Read as _;
use std::path::Path;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, escape_formatter};
use serde::Deserialize;

use super::template_context::{Field, TemplateContext};
use crate::domain::nearest;

/// For one rendering: some hundred thousand steps or some megabytes, far more than any page needs. It
/// bounds time and memory alike.
const FUEL: u64 = 100_000;

/// How deep macros and includes may go.
const DEPTH_MAX: usize = 32;

/// A template is a page or two.
const FILE_MAX: u64 = 256 * 1024;

/// A template, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A mail's subject.
    Subject,
    /// A mail's part for terminals.
    Text,
    /// A mail's part for everybody else.
    Html,
    /// A message in a chat: its pieces.
    Chat,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Subject, Self::Text, Self::Html, Self::Chat];

    /// The file, below the folder of templates.
    const fn name(self) -> &'static str {
        match self {
            Self::Subject => "email/subject.txt",
            Self::Text => "email/message.txt",
            Self::Html => "email/message.html",
            Self::Chat => "chat/message.json",
        }
    }

    const fn embedded(self) -> &'static str {
        match self {
            Self::Subject => include_str!("../../templates/email/subject.txt"),
            Self::Text => include_str!("../../templates/email/message.txt"),
            Self::Html => include_str!("../../templates/email/message.html"),
            Self::Chat => include_str!("../../templates/chat/message.json"),
        }
    }

    /// The most that it may make, in bytes. Mail readers cut HTML beyond some 100 KB.
    const fn most(self) -> usize {
        match self {
            Self::Subject => 4 * 1024,
            Self::Text | Self::Chat => 64 * 1024,
            Self::Html => 100 * 1024,
        }
    }
}

/// What a message in a chat consists of, as the template gives it: plain text throughout. How it is put
/// together, escaped and shortened is the channel's business, so no template can make a message that a
/// chat refuses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pieces {
    /// What a notification shows.
    pub text: String,
    /// The headline.
    pub title: String,
    /// Some lines below it.
    #[serde(default)]
    pub body: Option<String>,
    /// Where to go on.
    #[serde(default)]
    pub link: Option<Link>,
    /// The URL of a small picture.
    #[serde(default)]
    pub image: Option<String>,
    /// Names and values, the most important first.
    #[serde(default)]
    pub fields: Vec<Field>,
    /// A small line at the end; the time is added to it.
    #[serde(default)]
    pub footer: Option<String>,
}

/// A URL with what it is called.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// What it is called.
    pub label: String,
    /// Where it leads.
    pub url: String,
}

/// The templates that are in use.
#[derive(Clone, Debug)]
pub struct Templates {
    embedded: Environment<'static>,
    /// The embedded ones, but for those that the operator replaced.
    used: Environment<'static>,
}

impl Templates {
    /// The embedded ones, and in their place those in `folder`. The error is every mistake in the
    /// folder, with its file and line.
    pub fn load(folder: Option<&Path>) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut embedded = environment();
        for kind in Kind::ALL {
            if let Err(error) = embedded.add_template(kind.name(), kind.embedded()) {
                mistakes.push(said(kind, Path::new("templates"), &error));
            }
        }
        let mut used = embedded.clone();
        let mut own = Vec::new();
        if let Some(folder) = folder {
            for (kind, source) in files(folder, &mut mistakes) {
                match used.add_template_owned(kind.name(), source) {
                    Ok(()) => own.push(kind),
                    Err(error) => mistakes.push(said(kind, folder, &error)),
                }
            }
        }
        let templates = Self { embedded, used };
        for kind in own {
            let folder = folder.unwrap_or(Path::new(""));
            if let Err(wrong) = templates.try_samples(kind) {
                mistakes.push(format!("{}{wrong}", folder.join(kind.name()).display()));
            }
        }
        if mistakes.is_empty() { Ok(templates) } else { Err(mistakes) }
    }

    /// Renders every sample. The error goes on where the file's name ends.
    fn try_samples(&self, kind: Kind) -> Result<(), String> {
        for (name, news) in samples::all() {
            let made = render(&self.used, kind, &news).map_err(|error| match error {
                Wrong::Template(error) => {
                    let hint = hint(&error).unwrap_or_default();
                    format!("{}{hint}, with the sample `{name}`", placed(&error))
                }
                Wrong::Size(size) => {
                    format!(
                        ": {size} bytes with the sample `{name}` are too many; the most is {}",
                        kind.most()
                    )
                }
            })?;
            if kind == Kind::Chat {
                pieces(&made).map_err(|error| {
                    format!(": with the sample `{name}` it makes no message: {error} of what it makes")
                })?;
            }
        }
        Ok(())
    }

    /// What a mail's template makes of an event.
    pub(super) fn render(&self, kind: Kind, news: &TemplateContext) -> Result<String, String> {
        self.made(kind, news, |text| Ok(text.to_owned()))
    }

    /// What the chat's template makes of an event.
    pub(super) fn pieces(&self, news: &TemplateContext) -> Result<Pieces, String> {
        self.made(Kind::Chat, news, |text| pieces(text).map_err(|error| error.to_string()))
    }

    fn made<T>(
        &self,
        kind: Kind,
        news: &TemplateContext,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, String> {
        let with = |environment| {
            let text = render(environment, kind, news).map_err(|wrong| match wrong {
                Wrong::Template(error) => placed(&error),
                Wrong::Size(size) => format!(": {size} bytes are too many"),
            })?;
            read(&text)
        };
        with(&self.used).or_else(|wrong| {
            let (name, event) = (kind.name(), &news.id);
            tracing::warn!(
                template = name,
                event_id = event,
                error = wrong,
                "a template failed, the embedded one is used"
            );
            with(&self.embedded).map_err(|wrong| format!("{name}{wrong}"))
        })
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Or a release would not say which name it is that is unknown. Nothing of it is paid before a failure.
    environment.set_debug(true);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_formatter(|out, state, value| match value.as_str() {
        // The engine's own escapes slashes too, and not every mail reader finds a URL without them.
        Some(text) if matches!(state.auto_escape(), AutoEscape::Html) && !value.is_safe() => {
            out.write_str(&escaped(text)).map_err(|_| ErrorKind::WriteFailure.into())
        }
        Some(_) | None => escape_formatter(out, state, value),
    });
    environment
}

/// For HTML, in a text and in an attribute alike.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

enum Wrong {
    Template(minijinja::Error),
    Size(usize),
}

fn render(environment: &Environment<'_>, kind: Kind, news: &TemplateContext) -> Result<String, Wrong> {
    let template = environment.get_template(kind.name());
    let rendered = template.and_then(|template| template.render(Serde(news)));
    let text = rendered.map_err(Wrong::Template)?;
    if text.len() > kind.most() { Err(Wrong::Size(text.len())) } else { Ok(text) }
}

fn pieces(text: &str) -> Result<Pieces, serde_json::Error> {
    serde_json::from_str(text)
}

/// The error of a template in `folder`, as `file:line: what is wrong`.
fn said(kind: Kind, folder: &Path, error: &minijinja::Error) -> String {
    format!("{}{}", folder.join(kind.name()).display(), placed(error))
}

/// `:line: what is wrong`
fn placed(error: &minijinja::Error) -> String {
    let line = error.line().map_or(String::new(), |line| format!(":{line}"));
    let detail = error.detail().map_or(String::new(), |detail| format!(": {detail}"));
    format!("{line}: {}{detail}", error.kind())
}

/// What may have been meant by a name that is undefined.
fn hint(error: &minijinja::Error) -> Option<String> {
    let (before, _) = error.detail()?.split_once("` is undefined")?;
    let name = before.rsplit('`').next()?;
    let known = samples::names();
    if known.contains(name) {
        let whole = name.split('.').next().unwrap_or(name);
        return Some(format!(" (`{whole}` may be none: ask for it first, with {{% if {whole} %}})"));
    }
    // What stands in a list is known by the variable of a loop, whose name is the template's own.
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

/// The templates that lie in a folder.
fn files(folder: &Path, mistakes: &mut Vec<String>) -> Vec<(Kind, String)> {
    let mut found = Vec::new();
    for (path, name) in names(folder, mistakes) {
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.name() == name) else {
            let near = nearest(&name, Kind::ALL.into_iter().map(Kind::name)).map_or("", |(_, near)| near);
            mistakes.push(format!("{}: there is no such template; the nearest is {near}", path.display()));
            continue;
        };
        let mut source = String::new();
        let read = fs::File::open(&path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut source));
        match read {
            Ok(_) if source.len() as u64 > FILE_MAX => {
                mistakes.push(format!("{}: is larger than 256 KiB", path.display()));
            }
            Ok(_) => found.push((kind, source)),
            Err(error) => mistakes.push(format!("{}: cannot be read: {error}", path.display())),
        }
    }
    found
}

/// Every file in the folder and in its folders, with its name from there. Hidden ones are none of ours:
/// Kubernetes puts some beside what it mounts.
fn names(folder: &Path, mistakes: &mut Vec<String>) -> Vec<(std::path::PathBuf, String)> {
    let mut found = Vec::new();
    let mut waiting = vec![(folder.to_owned(), String::new())];
    while let Some((path, prefix)) = waiting.pop() {
        let entries = fs::read_dir(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let entries = entries.unwrap_or_else(|error| {
            mistakes.push(format!("{}: cannot be read: {error}", path.display()));
            Vec::new()
        });
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let (path, own) = (entry.path(), format!("{prefix}{name}"));
            if name.starts_with('.') {
            } else if path.is_dir() && prefix.is_empty() {
                waiting.push((path, format!("{own}/")));
            } else {
                found.push((path, own));
            }
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded() -> Templates {
        Templates::load(None).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
    }

    fn load(files: &[(&str, &str)]) -> Result<Templates, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let begin = format!("{}/", folder.path().display());
        let loaded = Templates::load(Some(folder.path()));
        loaded.map_err(|mistakes| mistakes.iter().map(|line| line.replace(&begin, "")).collect())
    }

    fn sample(name: &str) -> TemplateContext {
        samples::all().into_iter().find(|(known, _)| known == name).unwrap().1
    }

    #[test]
    fn every_embedded_template_renders_every_sample() {
        for kind in Kind::ALL {
            assert_eq!(embedded().try_samples(kind), Ok(()), "{kind:?}");
        }
    }

    /// Compares what a template makes of a sample with what it made when somebody last looked.
    fn compare(sample_name: &str, kinds: &[Kind]) {
        for kind in kinds {
            let made = embedded().render(*kind, &sample(sample_name)).unwrap();
            let name = format!("{sample_name} {}", kind.name()).replace([' ', '/'], "-").replace(',', "");
            insta::assert_snapshot!(name, made);
        }
    }

    #[test]
    fn what_the_templates_make_of_an_ordinary_ending() {
        compare("job.completed", &Kind::ALL);
        compare("job.failed", &Kind::ALL);
    }

    #[test]
    fn what_the_templates_make_of_missing_and_of_hostile_values() {
        compare("watch.expired, empty", &Kind::ALL);
        compare("job.failed, hostile", &[Kind::Subject]);
    }

    #[test]
    fn no_hostile_value_becomes_markup() {
        let html = embedded().render(Kind::Html, &sample("job.completed, hostile")).unwrap();
        for markup in ["<script", "<img src=x", "href=\"javascript", "\" onload=", "\u{202e}"] {
            assert!(!html.contains(markup), "{markup} in {html}");
        }
    }

    #[test]
    fn a_template_of_the_operators_replaces_the_one_of_its_name() {
        let templates = load(&[("email/subject.txt", "{{ event }} of {{ job }}"), (".hidden", "x")]).unwrap();
        let news = sample("job.completed");
        assert_eq!(
            templates.render(Kind::Subject, &news),
            Ok("job.completed of job_abc123def456".to_owned())
        );
        let html = templates.render(Kind::Html, &news);
        assert_eq!(html, embedded().render(Kind::Html, &news));
    }

    #[test]
    fn a_broken_template_is_refused_at_start_with_its_file_and_line() {
        let unending = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        let huge = "{{ 'x' * 70000 }}";
        let mistakes = load(&[
            ("email/subject.txt", "{{ title }}\n{{ titel }}"),
            ("email/message.txt", "a\n{% if %}"),
            ("email/message.html", unending),
            ("chat/message.json", "{\"text\": {{ title }},\n \"titel\": 1}"),
        ]);
        insta::assert_snapshot!(mistakes.unwrap_err().join("\n"), @r"
        email/message.txt:2: syntax error: unexpected end of block
        chat/message.json: with the sample `job.completed` it makes no message: unknown field `titel`, expected one of `text`, `title`, `body`, `link`, `image`, `fields`, `footer` at line 2 column 8 of what it makes
        email/message.html:1: engine ran out of fuel, with the sample `job.completed`
        email/subject.txt:2: undefined value: `titel` is undefined; the nearest is `title`, with the sample `job.completed`
        ");
        let mistakes = load(&[
            ("emial/message.html", "x"),
            ("email/message.htm", "x"),
            ("README.md", "x"),
            ("email/message.txt", huge),
            ("email/message.html", "{{ error.message }}"),
            ("chat/message.json", "{\"text\": {{ title }}}"),
        ]);
        insta::assert_snapshot!(mistakes.unwrap_err().join("\n"), @r"
        README.md: there is no such template; the nearest is email/subject.txt
        email/message.htm: there is no such template; the nearest is email/message.html
        emial/message.html: there is no such template; the nearest is email/message.html
        chat/message.json: with the sample `job.completed` it makes no message: missing field `title` at line 1 column 21 of what it makes
        email/message.html:1: undefined value: `error.message` is undefined (`error` may be none: ask for it first, with {% if error %}), with the sample `job.completed`
        email/message.txt: 70000 bytes with the sample `job.completed` are too many; the most is 65536
        ");
        assert!(Templates::load(Some(Path::new("/nowhere"))).is_err());
    }

    #[test]
    fn an_unknown_name_is_named_with_the_nearest_known_one() {
        let mistakes = load(&[
            ("email/subject.txt", "{{ titel | upper }}"),
            ("email/message.txt", "{% for one in outputs %}{{ one.lnk }}{% endfor %}"),
            ("email/message.html", "{% if error %}{{ error.cod }}{% endif %}"),
            ("chat/message.json", "{\"text\": {{ sumary }}, \"title\": {{ title }}}"),
        ]);
        insta::assert_snapshot!(mistakes.unwrap_err().join("\n"), @r"
        chat/message.json:1: undefined value: `sumary` is undefined; the nearest is `summary`, with the sample `job.completed`
        email/message.html:1: undefined value: `error.cod` is undefined; the nearest is `error.code`, with the sample `job.completed, hostile`
        email/message.txt:1: undefined value: `one.lnk` is undefined; the nearest is `one.link`, with the sample `job.completed`
        email/subject.txt:1: undefined value: `titel` is undefined; the nearest is `title`, with the sample `job.completed`
        ");
    }

    #[test]
    fn a_template_that_fails_when_it_counts_is_replaced_by_the_embedded_one() {
        let source = "{% if job == 'job_rare' %}{{ nothing }}{% endif %}mine";
        let templates = load(&[("email/message.txt", source)]).unwrap();
        let mut news = sample("job.completed");
        assert_eq!(templates.render(Kind::Text, &news).as_deref(), Ok("mine"));
        news.job = "job_rare".into();
        assert_eq!(templates.render(Kind::Text, &news), embedded().render(Kind::Text, &news));
    }
}
