//! The fields of a job in a response: progress, outputs, times and texts.

use serde_json::Value;
use url::Url;

use super::file::{TimeFormat, Unit};
use super::path::{Path, Paths};
use crate::domain::{Output, Timestamp};

/// Largest number of outputs of one job that is kept; the raw response contains all. A body of the largest size
/// could contain a hundred thousand, which would be stored, signed and sent for every watch.
const MAX_OUTPUTS: usize = 1_000;

/// Largest size in bytes of the outputs' texts, and of the error's texts. They are stored with every event of
/// every watch. A client that needs all of a larger response uses the payload `raw`.
pub(super) const MAX_TEXT: usize = 64 * 1024;

/// Paths of the fields of a job.
#[derive(Clone, Debug)]
pub(super) struct Extract {
    pub(super) job_id: Paths,
    pub(super) progress: Option<Progress>,
    pub(super) output: Paths,
    pub(super) outputs: Option<Outputs>,
    pub(super) error_code: Paths,
    pub(super) error_message: Paths,
    pub(super) created_at: Option<(Paths, TimeFormat)>,
    pub(super) completed_at: Option<(Paths, TimeFormat)>,
}

/// Form of the progress.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// A number in a unit.
    Number(Paths, Unit),
    /// The quotient of two numbers.
    Ratio(Path, Path),
}

/// Paths of the outputs, and of the fields within each.
#[derive(Clone, Debug)]
pub(super) struct Outputs {
    pub(super) each: Paths,
    pub(super) url: Paths,
    pub(super) kind: Paths,
    pub(super) thumbnail: Paths,
    pub(super) poster: Paths,
    pub(super) only_urls: bool,
}

impl Progress {
    /// Returns the progress in whole percent, rounded down, so that 99.9 is not 100.
    pub(super) fn read(&self, job: &Value) -> Option<u8> {
        let one = |path: &Path| path.nodes(job).into_iter().find_map(Value::as_f64);
        let percent = match self {
            Self::Number(paths, unit) => {
                let number = paths.find(job, Value::as_f64)?;
                match unit {
                    Unit::Percent => number,
                    Unit::Fraction => number * 100.0,
                }
            }
            Self::Ratio(part, whole) => {
                let (part, whole) = (one(part)?, one(whole)?);
                if whole <= 0.0 {
                    return None;
                }
                part / whole * 100.0
            }
        };
        // 0.29 × 100 is 28.999…
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
        Some((percent + 1e-9).clamp(0.0, 100.0) as u8)
    }
}

impl Outputs {
    /// Returns the outputs at the first path that has any. An unreadable item is left out. If all items are
    /// unreadable, the result is `None`, because an empty list would mean that the job has no outputs.
    pub(super) fn read(&self, job: &Value) -> Option<Vec<Output>> {
        self.each.0.iter().find_map(|path| {
            let items = path.nodes(job);
            let outputs: Vec<_> =
                items.iter().filter_map(|item| self.output(item)).take(MAX_OUTPUTS).scan(0, fits).collect();
            let empty_list = || items.is_empty() && path.is_empty_list(job);
            (!outputs.is_empty() || empty_list()).then_some(outputs)
        })
    }

    fn output(&self, item: &Value) -> Option<Output> {
        let output = Output {
            url: self.url.find(item, text).filter(|url| !self.only_urls || is_url(url)),
            kind: self.kind.find(item, text),
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

/// Returns an output if it fits into [`MAX_TEXT`] with the outputs before it.
fn fits(used: &mut usize, output: Output) -> Option<Output> {
    let texts = [&output.url, &output.kind, &output.thumbnail, &output.poster_image];
    *used += texts.into_iter().flatten().map(String::len).sum::<usize>();
    (*used <= MAX_TEXT).then_some(output)
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

/// Returns the first readable time.
pub(super) fn time(place: Option<&(Paths, TimeFormat)>, job: &Value) -> Option<Timestamp> {
    let (paths, format) = place?;
    let epoch = |value: &Value, millis_per_unit: f64| {
        let millis = value.as_f64()? * millis_per_unit;
        #[expect(clippy::cast_precision_loss, reason = "both ends are exact in 53 bits")]
        let max = Timestamp::MAX.millis() as f64;
        #[expect(clippy::cast_possible_truncation, reason = "in range")]
        (0.0..=max).contains(&millis).then_some(Timestamp::from_millis(millis as i64))
    };
    paths.find(job, |value| match format {
        TimeFormat::Rfc3339 => value.as_str().and_then(Timestamp::parse),
        TimeFormat::EpochS => epoch(value, 1000.0),
        TimeFormat::EpochMs => epoch(value, 1.0),
    })
}
