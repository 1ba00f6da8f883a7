//! The fields of a job in a response, and the paths to them: `$.a.b`, `$.a[0]`, `$.a[*].b`.
//!
//! The language of paths is a small part of `JSONPath`, without filters, recursive descent and slices. A lookup
//! therefore visits each node of the response at most once, and cannot fail.

use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use url::Url;

use crate::domain::{Output, Timestamp};

/// Largest number of steps of a path. No known response is deeper.
const MAX_STEPS: usize = 16;

/// A path: its steps, or a sentence that says why the text is none. A definition with such a text is rejected.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "String")]
pub(super) struct Path(pub(super) Result<Vec<Step>, String>);

#[derive(Clone, Debug)]
pub(super) enum Step {
    Key(String),
    Index(usize),
    Each,
}

impl From<String> for Path {
    fn from(text: String) -> Self {
        Self(steps(&text))
    }
}

fn steps(text: &str) -> Result<Vec<Step>, String> {
    let wrong = || format!("`{text}` is not a path; write it as $.a.b, $.a[0] or $.a[*].b");
    let step = |part: &str| match part.strip_prefix('[').map(|index| index.strip_suffix(']')) {
        Some(Some("*")) => Some(Step::Each),
        Some(index) => index?.parse().ok().map(Step::Index),
        None if part.is_empty() || part.contains(|c: char| c.is_whitespace() || "]*$@?'\"".contains(c)) => {
            None
        }
        None => Some(Step::Key(part.to_owned())),
    };
    let text_of_steps = text.strip_prefix('$').ok_or_else(wrong)?.replace('[', ".[");
    let mut parts = text_of_steps.split('.');
    if parts.next() != Some("") {
        return Err(wrong());
    }
    let steps: Vec<Step> = parts.map(step).collect::<Option<_>>().ok_or_else(wrong)?;
    if steps.len() > MAX_STEPS {
        return Err(format!("`{text}` has more than {MAX_STEPS} steps; shorten it"));
    }
    Ok(steps)
}

impl Path {
    /// Returns every node at the path.
    pub(super) fn nodes<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        nodes(self.0.as_deref().unwrap_or_default(), root)
    }

    /// Returns whether the path selects the items of an empty list.
    fn is_empty_list(&self, root: &Value) -> bool {
        let Ok([list @ .., Step::Each]) = self.0.as_deref() else { return false };
        nodes(list, root).into_iter().filter_map(Value::as_array).any(Vec::is_empty)
    }
}

fn nodes<'a>(steps: &[Step], root: &'a Value) -> Vec<&'a Value> {
    let mut nodes = vec![root];
    for step in steps {
        nodes = match step {
            Step::Key(key) => nodes.into_iter().filter_map(|node| node.get(key)).collect(),
            Step::Index(index) => nodes.into_iter().filter_map(|node| node.get(index)).collect(),
            Step::Each => nodes.into_iter().filter_map(Value::as_array).flatten().collect(),
        };
    }
    nodes
}

/// Alternative paths of one value, in the order in which they are tried. A file has one path, or a list.
#[derive(Clone, Debug, Default)]
pub(super) struct Paths(pub(super) Vec<Path>);

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Paths;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path or a list of paths")
            }

            fn visit_str<E>(self, text: &str) -> Result<Paths, E> {
                Ok(Paths(vec![text.to_owned().into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Paths, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Paths)
            }
        }

        deserializer.deserialize_any(OneOrMany)
    }
}

impl Paths {
    /// Returns the first value that `read` accepts. Nulls and values of another type are skipped.
    pub(super) fn find<'a, T>(&self, root: &'a Value, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        self.0.iter().flat_map(|path| path.nodes(root)).find_map(read)
    }
}

/// Largest number of outputs of one job that is kept; the raw response contains all. A body of the largest size
/// could contain a hundred thousand, which would be stored, signed and sent for every watch.
const MAX_OUTPUTS: usize = 1_000;

/// Largest size in bytes of the outputs' texts, and of the error's texts. They are stored with every event of
/// every watch. A client that needs all of a larger response uses the payload `raw`.
pub(super) const MAX_TEXT: usize = 64 * 1024;

/// Paths of the fields of a job.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Extract {
    pub(super) job_id: Paths,
    pub(super) progress: Option<Progress>,
    #[serde(default)]
    pub(super) output: Paths,
    pub(super) outputs: Option<Outputs>,
    #[serde(default)]
    pub(super) error_code: Paths,
    #[serde(default)]
    pub(super) error_message: Paths,
    pub(super) created_at: Option<Time>,
    pub(super) completed_at: Option<Time>,
}

/// Form of the progress: a number in a unit, or the quotient of two numbers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    #[serde(default)]
    pub(super) path: Paths,
    pub(super) unit: Option<Unit>,
    pub(super) ratio: Option<[Path; 2]>,
}

/// Unit of a progress number.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Unit {
    /// 0 to 100.
    Percent,
    /// 0 to 1.
    Fraction,
}

/// Paths of the outputs, and of the fields within each.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Outputs {
    pub(super) each: Paths,
    pub(super) url: Paths,
    #[serde(default)]
    pub(super) r#type: Paths,
    #[serde(default)]
    pub(super) thumbnail: Paths,
    #[serde(default)]
    pub(super) poster: Paths,
    #[serde(default)]
    only_urls: bool,
}

/// Paths of a time, and its format.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Time {
    pub(super) path: Paths,
    format: TimeFormat,
}

/// Format of a time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TimeFormat {
    /// Text in RFC 3339.
    Rfc3339,
    /// Number of seconds since 1970.
    EpochS,
    /// Number of milliseconds since 1970.
    EpochMs,
}

/// Range of plausible percentages. A number outside of it is not a progress: providers write -1 for an unknown one, or
/// count frames. Up to 101 it is an inaccurate sum of parts.
const PERCENT: std::ops::Range<f64> = 0.0..101.0;

impl Progress {
    /// Returns the progress in whole percent, rounded down, so that 99.9 is not 100.
    pub(super) fn read(&self, job: &Value) -> Option<u8> {
        let number = match &self.ratio {
            None => self.path.find(job, Value::as_f64)?,
            Some(ratio) => {
                let [part, whole] =
                    ratio.each_ref().map(|path| path.nodes(job).into_iter().find_map(Value::as_f64));
                part? / whole.filter(|whole| *whole > 0.0)?
            }
        };
        let percent = if matches!(self.unit, Some(Unit::Percent)) { number } else { number * 100.0 };
        // 0.29 × 100 is 28.999…
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in the range")]
        PERCENT.contains(&percent).then_some((percent + 1e-9).min(100.0) as u8)
    }
}

impl Outputs {
    /// Returns the outputs at the first path that has any. An unreadable item is left out. If all items are
    /// unreadable, the result is `None`, because an empty list would mean that the job has no outputs.
    pub(super) fn read(&self, job: &Value) -> Option<Vec<Output>> {
        self.each.0.iter().find_map(|path| {
            let (items, mut used) = (path.nodes(job), 0);
            let readable = items.iter().filter_map(|item| self.output(item)).take(MAX_OUTPUTS);
            let outputs: Vec<_> = readable.filter(|output| fits(&mut used, output)).collect();
            let empty_list = || items.is_empty() && path.is_empty_list(job);
            (!outputs.is_empty() || empty_list()).then_some(outputs)
        })
    }

    fn output(&self, item: &Value) -> Option<Output> {
        let output = Output {
            url: self.url.find(item, text).filter(|url| !self.only_urls || is_url(url)),
            kind: self.r#type.find(item, text),
            thumbnail: self.thumbnail.find(item, text),
            poster_image: self.poster.find(item, text),
        };
        let usable = if self.only_urls { output.url.is_some() } else { output != Output::default() };
        usable.then_some(output)
    }
}

fn is_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http" | "data"))
}

/// Returns a text that is not blank. A NUL becomes U+FFFD, because `PostgreSQL` cannot store it.
pub(super) fn text(value: &Value) -> Option<String> {
    let text = value.as_str().filter(|text| !text.trim().is_empty())?;
    Some(if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text.to_owned() })
}

/// Returns whether an output fits into [`MAX_TEXT`] with those before it that fit, of which `used` is the size. A large
/// one, such as a data URL, does not displace the small ones after it.
fn fits(used: &mut usize, output: &Output) -> bool {
    let texts = [&output.url, &output.kind, &output.thumbnail, &output.poster_image];
    let size = *used + texts.into_iter().flatten().map(String::len).sum::<usize>();
    let fits = size <= MAX_TEXT;
    if fits {
        *used = size;
    }
    fits
}

/// Returns the beginning of a text, at most `most` bytes.
pub(super) fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Returns a code or an id. Some providers write them as numbers.
pub(super) fn label(value: &Value) -> Option<String> {
    text(value).or_else(|| value.as_number().map(ToString::to_string))
}

/// Returns the first `most` characters of a text, without control characters, which could break a log line.
pub(super) fn clip(text: &str, most: usize) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut clipped: String = shown.take(most).collect();
    if text.chars().nth(most).is_some() {
        clipped.push('…');
    }
    clipped
}

impl Time {
    /// Returns the first readable time.
    pub(super) fn read(&self, job: &Value) -> Option<Timestamp> {
        let epoch = |value: &Value, millis_per_unit: f64| {
            let millis = value.as_f64()? * millis_per_unit;
            #[expect(clippy::cast_precision_loss, reason = "both ends are exact in 53 bits")]
            let max = Timestamp::MAX.millis() as f64;
            #[expect(clippy::cast_possible_truncation, reason = "in range")]
            (0.0..=max).contains(&millis).then_some(Timestamp::from_millis(millis as i64))
        };
        self.path.find(job, |value| match self.format {
            TimeFormat::Rfc3339 => value.as_str().and_then(Timestamp::parse),
            TimeFormat::EpochS => epoch(value, 1000.0),
            TimeFormat::EpochMs => epoch(value, 1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_path_selects_keys_indexes_and_every_item() {
        let root = json!({"a": {"b": 1}, "list": [{"u": "x"}, {"u": "y"}, 3], "s": "text"});
        let table = [
            ("$", json!([root])),
            ("$.a.b", json!([1])),
            ("$.list[0].u", json!(["x"])),
            ("$.list[*].u", json!(["x", "y"])),
            ("$.list[9]", json!([])),
            ("$.s.b", json!([])),
            ("$.s[*]", json!([])),
            ("$.missing[*].u", json!([])),
        ];
        for (path, nodes) in table {
            assert_eq!(json!(Path::from(path.to_owned()).nodes(&root)), nodes, "{path}");
        }
    }

    #[test]
    fn an_invalid_path_is_rejected() {
        let deep = format!("${}", ".a".repeat(17));
        for text in ["", "a", "a.b", "$a", "$.", "$..a", "$.a[", "$.a[-1]", "$.a[x]", "$.a]", "$.a b", &deep]
        {
            assert!(Path::from(text.to_owned()).0.is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_usable_value_wins() {
        let paths = Paths(["$.a", "$.b", "$.c"].map(|path| Path::from(path.to_owned())).to_vec());
        let root = json!({"a": null, "b": 5, "c": "word"});
        assert_eq!(paths.find(&root, Value::as_str), Some("word"));
        assert_eq!(paths.find(&root, Value::as_i64), Some(5));
        assert_eq!(Paths::default().find(&root, Value::as_str), None);
    }
}
