//! The places from which a value is read: paths, headers, sums and templates, in the order in which they are tried.

use std::cell::Cell;

use serde_json::Number;
use url::Url;

use super::names::Names;
use super::part::Part;
use super::path::Path;
use super::text_template::TextTemplate;
use super::value::{Json, Scalar, number, status_text};
use super::work;
use crate::domain::JobStatus;

/// The part of an answer besides its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    /// HTTP status.
    pub(super) status: u16,
    /// Headers; names in lower case.
    pub(super) headers: &'a [(String, String)],
}

impl<'a> Head<'a> {
    /// Returns the first header with this lower-case name.
    pub(super) fn header(&self, name: &str) -> Option<&'a str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// What is read, and for which job.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scope<'a> {
    /// Root of the paths.
    pub(super) root: &'a Json<'a>,
    pub(super) head: Head<'a>,
    pub(super) names: Names<'a>,
    /// Meaning of the answer, if it is known.
    pub(super) outcome: Option<Outcome>,
    /// Values that mean null.
    pub(super) nulls: &'a [Scalar],
    /// Number of bytes of the answer that may still be searched for parts of texts.
    pub(super) left: &'a Cell<usize>,
}

impl Scope<'_> {
    /// Returns the first value at a path that is a text, a number or a boolean.
    fn value(&self, path: &Path) -> Option<String> {
        let usable = |value: &&Json<'_>| !self.nulls.iter().any(|null| null.is(value));
        path.find(self.root, self.names, |value| Some(value).filter(usable).and_then(status_text))
    }
}

/// What an answer means for the job, in more detail than its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Pending,
    Processing,
    /// Running, but waits for a person.
    Waiting,
    Completed,
    /// Completed, but not as a whole.
    Partial,
    Failed,
    /// Failed, because the provider's time limit has passed.
    Expired,
    Cancelled,
}

impl Outcome {
    /// All outcomes with their words, in the order of `[status.map]`.
    pub(super) const ALL: [(&str, Self); 8] = [
        ("pending", Self::Pending),
        ("processing", Self::Processing),
        ("completed", Self::Completed),
        ("failed", Self::Failed),
        ("cancelled", Self::Cancelled),
        ("expired", Self::Expired),
        ("partial", Self::Partial),
        ("waiting", Self::Waiting),
    ];

    /// Returns the outcome with a word.
    pub(super) fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == word).map(|(_, outcome)| *outcome)
    }

    /// Returns the word of the outcome.
    pub(super) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, outcome)| *outcome == self).map_or("", |(word, _)| word)
    }

    /// Returns the status of the job.
    pub(super) fn status(self) -> JobStatus {
        match self {
            Self::Pending => JobStatus::Pending,
            Self::Processing | Self::Waiting => JobStatus::Processing,
            Self::Completed | Self::Partial => JobStatus::Completed,
            Self::Failed | Self::Expired => JobStatus::Failed,
            Self::Cancelled => JobStatus::Cancelled,
        }
    }

    /// Returns whether this is a case of `other`: a partial completion is a completion.
    pub(super) fn is(self, other: Self) -> bool {
        self == other || (self.status() == other.status() && !other.is_special())
    }

    /// Returns whether the status of the job does not show the outcome.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Waiting | Self::Partial | Self::Expired)
    }

    /// Returns the error code of the outcome, if the answer has none.
    pub(super) fn code(self) -> Option<&'static str> {
        matches!(self, Self::Partial | Self::Expired).then(|| self.word())
    }
}

/// A place of a value.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Path(Path),
    /// Header with this lower-case name.
    Header(String),
    /// The HTTP status.
    Http,
    /// The sum of all numbers at these paths.
    Sum(Vec<Path>),
    /// A text with values.
    Template(TextTemplate),
    /// The header `location`, resolved against this URL. Only http addresses are passed on.
    Location(Url),
}

impl Place {
    /// Calls `read` for every value at this place, until it returns a result.
    pub(super) fn find<T>(
        &self,
        scope: Scope<'_>,
        mut read: impl FnMut(&Json<'_>) -> Option<T>,
    ) -> Option<T> {
        match self {
            Self::Path(path) => path.find(scope.root, scope.names, read),
            Self::Header(name) => read(&Json::Text(scope.head.header(name)?.into())),
            Self::Http => read(&Json::Number(scope.head.status.into())),
            Self::Location(base) => {
                let url = base.join(scope.head.header("location")?).ok()?;
                matches!(url.scheme(), "https" | "http").then(|| read(&Json::Text(url.as_str().into())))?
            }
            Self::Sum(paths) => read(&Json::Number(Number::from_f64(sum(paths, scope)?)?)),
            Self::Template(template) => {
                let text = template
                    .render(|path| scope.value(path), |name| scope.names.get(name).map(str::to_owned))?;
                read(&Json::Text(text.into()))
            }
        }
    }
}

/// Returns the sum of the numbers at all of these paths. Absent ones and null count as 0, if there is a number at all;
/// another value is no number, and the sum is none.
fn sum(paths: &[Path], scope: Scope<'_>) -> Option<f64> {
    let mut sum = None;
    let mut add = |value: &Json<'_>| {
        if value.is_null() {
            return None;
        }
        let Some(number) = number(value) else { return Some(()) };
        sum = Some(sum.unwrap_or(0.0) + number);
        None
    };
    let is_none = paths.iter().any(|path| path.find(scope.root, scope.names, &mut add).is_some());
    sum.filter(|_| !is_none)
}

/// A place, and the outcomes for which it is read.
#[derive(Clone, Debug)]
pub(super) struct Alternative {
    pub(super) place: Place,
    /// The part of a text at the place that is the value.
    pub(super) part: Option<Part>,
    /// Empty: every outcome.
    pub(super) when: Vec<Outcome>,
}

impl Alternative {
    /// Returns an alternative that is read as a whole, for every outcome.
    pub(super) fn of(place: Place) -> Self {
        Self { place, part: None, when: Vec::new() }
    }

    /// Calls `read` for every value, until it returns a result.
    pub(super) fn find<T>(
        &self,
        scope: Scope<'_>,
        mut read: impl FnMut(&Json<'_>) -> Option<T>,
    ) -> Option<T> {
        match &self.part {
            None => self.place.find(scope, read),
            Some(part) => {
                self.place.find(scope, |value| read(&Json::Text(part.of(value, scope.left)?.into())))
            }
        }
    }

    /// Returns whether this alternative is read for the outcome.
    pub(super) fn applies(&self, outcome: Option<Outcome>) -> bool {
        self.when.is_empty()
            || outcome.is_some_and(|outcome| self.when.iter().any(|wanted| outcome.is(*wanted)))
    }
}

/// Alternative places of one value, in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub(super) struct Field(pub(super) Vec<Alternative>);

impl Field {
    /// Returns the templates among the places.
    pub(super) fn templates(&self) -> impl Iterator<Item = &TextTemplate> {
        self.0
            .iter()
            .filter_map(|one| if let Place::Template(template) = &one.place { Some(template) } else { None })
    }

    /// Returns whether the field is never read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the first value that `read` accepts. Values that mean null are skipped.
    pub(super) fn find<T>(&self, scope: Scope<'_>, read: impl Fn(&Json<'_>) -> Option<T>) -> Option<T> {
        let usable = |value: &Json<'_>| {
            work::spend(1 + scope.nulls.len() * work::COMPARISON)
                && !scope.nulls.iter().any(|null| null.is(value))
        };
        let read = |value: &Json<'_>| usable(value).then(|| read(value)).flatten();
        self.0.iter().filter(|one| one.applies(scope.outcome)).find_map(|one| one.find(scope, read))
    }
}

/// Alternative paths of one value, in the order in which they are tried.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths(pub(super) Vec<Path>);

impl Paths {
    /// Returns the first value that `read` accepts.
    pub(super) fn find<'a, T>(
        &self,
        root: &'a Json<'a>,
        names: Names<'_>,
        read: impl Fn(&'a Json<'a>) -> Option<T>,
    ) -> Option<T> {
        self.0.iter().find_map(|path| path.find(root, names, &read))
    }
}
