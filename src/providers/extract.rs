//! The fields of a job in an answer.
//!
//! A field cannot cause an error: a value of another type is null, and so is a value that is too large to be stored with
//! every event.

use std::fmt;
use std::time::Duration;

use url::Url;

use super::field::{Field, Place, Scope};
use super::text_template::TextTemplate;
use super::value::{Json, MAX_TEXT, Scalar, cut, number, text};
use super::work;
use crate::domain::{Output, Timestamp, format_duration};

/// Largest number of outputs of one job that is kept; the raw response contains all. A body of the largest size
/// could contain a hundred thousand, which would be stored, signed and sent for every watch.
const MAX_OUTPUTS: usize = 1_000;

/// Places of the fields of a job.
#[derive(Clone, Debug, Default)]
pub(super) struct Extract {
    /// `None` if the answer has no id.
    pub(super) job_id: Option<Field>,
    pub(super) progress: Option<Progress>,
    pub(super) output: Field,
    pub(super) output_json: Field,
    pub(super) outputs: Option<Outputs>,
    pub(super) error_code: Field,
    pub(super) error_message: Field,
    pub(super) created_at: Option<Time>,
    pub(super) completed_at: Option<Time>,
    pub(super) outputs_expire: Option<ExpiryForm>,
    /// Values that mean null.
    pub(super) nulls: Vec<Scalar>,
}

impl Extract {
    /// Returns the templates of the fields.
    pub(super) fn templates(&self) -> impl Iterator<Item = &TextTemplate> {
        let of_outputs =
            self.outputs.iter().flat_map(|one| [&one.url, &one.kind, &one.thumbnail, &one.poster]);
        let fields = [&self.output, &self.error_code, &self.error_message];
        fields.into_iter().chain(&self.job_id).chain(of_outputs).flat_map(Field::templates)
    }

    /// Returns the output of a job, all of its outputs, and what of them is lost because it is too large.
    pub(super) fn outputs(&self, scope: Scope<'_>) -> (Option<String>, Option<Vec<Output>>, Lost) {
        let mut lost = Lost::default();
        let outputs = self.outputs.as_ref().and_then(|outputs| outputs.read(scope, &mut lost.outputs));
        let first_url = || outputs.iter().flatten().find_map(|output| output.url.clone());
        let mut fit = |text: String, is_prose: fn(&str) -> bool| {
            if text.len() <= MAX_TEXT {
                return Some(text);
            }
            let is_prose = is_prose(&text);
            // Half an address, and half of an object, is of no use.
            lost.output = Some(if is_prose { LostOutput::End } else { LostOutput::All });
            is_prose.then(|| cut(text, MAX_TEXT))
        };
        let mut output = self.output.find(scope, text).and_then(|found| fit(found, |text| !is_url(text)));
        if output.is_none() {
            output = self.output_json.find(scope, json_text).and_then(|found| fit(found, |_| false));
        }
        let output = output.or_else(first_url);
        (output, outputs, lost)
    }
}

/// What of the outputs is not passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// What of the output is.
    pub(super) output: Option<LostOutput>,
    /// Whether some of several outputs are.
    pub(super) outputs: bool,
}

/// The part of a text that is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LostOutput {
    End,
    All,
}

impl Lost {
    /// Returns what is lost after a result was read that has the first, and finds an output and outputs or does not.
    pub(super) fn merged(found: Self, (has_output, has_outputs): (bool, bool), before: Self) -> Self {
        Self {
            output: if has_output || found.output.is_some() { found.output } else { before.output },
            outputs: if has_outputs { found.outputs } else { found.outputs || before.outputs },
        }
    }

    /// Returns a sentence; `None` if nothing is lost.
    pub(super) fn sentence(self) -> Option<String> {
        let limit = MAX_TEXT / 1024;
        let output = self.output.map(|part| match part {
            LostOutput::End => {
                format!("the output is longer than {limit} KiB, and only its beginning is passed on")
            }
            LostOutput::All => format!("an output of more than {limit} KiB is not passed on"),
        });
        let outputs = self.outputs.then(|| {
            format!("the job has more than {MAX_OUTPUTS} outputs, or outputs with more than {limit} KiB of text, and some are not passed on")
        });
        let sentences: Vec<String> = output.into_iter().chain(outputs).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }
}

/// Returns an object or a list as JSON.
fn json_text(value: &Json<'_>) -> Option<String> {
    match value {
        Json::List(_) | Json::Object(_) => serde_json::to_string(value).ok(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => None,
    }
}

/// Form of the progress.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    pub(super) form: ProgressForm,
    /// Whether a text can be a number.
    pub(super) reads_texts: bool,
}

/// A number in a unit, or the quotient of two numbers.
#[derive(Clone, Debug)]
pub(super) enum ProgressForm {
    /// 0 to 100.
    Percent(Field),
    /// 0 to 1.
    Fraction(Field),
    /// The part that is done, and the whole.
    Ratio(Field, Field),
}

/// Range of plausible percentages. A number outside of it is not a progress: providers write -1 for an unknown one, or
/// count frames. Up to 101 it is an inaccurate sum of parts.
const PERCENT: std::ops::Range<f64> = 0.0..101.0;

impl Progress {
    /// Returns the progress in whole percent, rounded down, so that 99.9 is not 100.
    pub(super) fn read(&self, scope: Scope<'_>) -> Option<u8> {
        let value = |value: &Json<'_>| if self.reads_texts { number(value) } else { value.as_f64() };
        // A text such as `42%` or `2/4` means the same in any unit.
        let percent = |read: &Json<'_>, factor: f64| {
            let shown = read.as_str().filter(|_| self.reads_texts).and_then(shown_percent);
            shown.or_else(|| value(read).map(|number| number * factor))
        };
        let percent = match &self.form {
            ProgressForm::Percent(field) => field.find(scope, |value| percent(value, 1.0))?,
            ProgressForm::Fraction(field) => field.find(scope, |value| percent(value, 100.0))?,
            ProgressForm::Ratio(part, whole) => {
                let (part, whole) = (part.find(scope, value)?, whole.find(scope, value)?);
                100.0 * (part / Some(whole).filter(|whole| *whole > 0.0)?)
            }
        };
        // 0.29 × 100 is 28.999…
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in the range")]
        PERCENT.contains(&percent).then_some((percent + 1e-9).min(100.0) as u8)
    }
}

/// Returns the percentage that a text shows: `42%`, `2/4` or `2 of 4`.
fn shown_percent(text: &str) -> Option<f64> {
    let read = |text: &str| number(&Json::Text(text.into()));
    if let Some(percent) = text.trim().strip_suffix('%') {
        return read(percent);
    }
    let (part, whole) = text.split_once('/').or_else(|| text.split_once(" of "))?;
    let whole = read(whole).filter(|whole| *whole > 0.0)?;
    read(part).map(|part| 100.0 * part / whole)
}

/// Places of the outputs, and of the fields within each.
#[derive(Clone, Debug)]
pub(super) struct Outputs {
    pub(super) each: Field,
    pub(super) url: Field,
    pub(super) kind: Field,
    pub(super) thumbnail: Field,
    pub(super) poster: Field,
    /// Drops outputs that are not a URL.
    pub(super) only_urls: bool,
}

impl Outputs {
    /// Returns the outputs at the first place that has any. An unreadable item is left out. If all items are
    /// unreadable, the result is `None`, because an empty list would mean that the job has no outputs.
    /// Notes in `lost` whether some do not fit.
    fn read(&self, scope: Scope<'_>, lost: &mut bool) -> Option<Vec<Output>> {
        let mut has_empty = false;
        let found = self.each.0.iter().filter(|one| one.applies(scope.outcome)).find_map(|one| {
            let (mut outputs, mut used, mut left_out) = (Vec::new(), 0, false);
            let mut is_empty = true;
            one.find(scope, |item| {
                is_empty = false;
                if !work::spend(1) {
                    return Some(());
                }
                let output = self.output(item, scope)?;
                if outputs.len() < MAX_OUTPUTS && fits(&mut used, &output) {
                    outputs.push(output);
                } else {
                    left_out = true;
                }
                (outputs.len() >= MAX_OUTPUTS && left_out).then_some(())
            });
            has_empty |= is_empty && selects_empty_list(&one.place, scope);
            *lost |= left_out;
            (!outputs.is_empty()).then_some(outputs)
        });
        found.or_else(|| has_empty.then(Vec::new))
    }

    fn output(&self, item: &Json<'_>, scope: Scope<'_>) -> Option<Output> {
        let scope = Scope { root: item, ..scope };
        let output = Output {
            url: self.url.find(scope, text).filter(|url| !self.only_urls || is_url(url)),
            kind: self.kind.find(scope, text),
            thumbnail: self.thumbnail.find(scope, text),
            poster_image: self.poster.find(scope, text),
        };
        let usable = if self.only_urls { output.url.is_some() } else { output != Output::default() };
        usable.then_some(output)
    }
}

fn selects_empty_list(place: &Place, scope: Scope<'_>) -> bool {
    matches!(place, Place::Path(path) if path.is_empty_list(scope.root, scope.names))
}

fn is_url(text: &str) -> bool {
    // Without a colon it has no scheme. To parse it would take a hundred times as long.
    work::spend_on(text.len()).is_some()
        && text.contains(':')
        && Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http" | "data"))
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

/// Place of a time, and its format.
#[derive(Clone, Debug)]
pub(super) struct Time {
    pub(super) field: Field,
    pub(super) format: TimeFormat,
    /// Whether a text can be a number.
    pub(super) reads_texts: bool,
}

/// Format of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeFormat {
    /// Text in RFC 3339.
    Rfc3339,
    /// Date and time without a zone, in UTC.
    NaiveUtc,
    /// Number of seconds since 1970.
    EpochS,
    /// Number of milliseconds since 1970.
    EpochMs,
    /// Number of microseconds since 1970.
    EpochUs,
}

impl TimeFormat {
    /// All formats with their words.
    pub(super) const ALL: [(&str, Self); 5] = [
        ("rfc3339", Self::Rfc3339),
        ("epoch_s", Self::EpochS),
        ("epoch_ms", Self::EpochMs),
        ("epoch_us", Self::EpochUs),
        ("naive_utc", Self::NaiveUtc),
    ];
}

impl Time {
    /// Returns the first readable time.
    pub(super) fn read(&self, scope: Scope<'_>) -> Option<Timestamp> {
        let epoch = |value: &Json<'_>, millis_per_unit: f64| {
            let number = if self.reads_texts { number(value) } else { value.as_f64() };
            let millis = number? * millis_per_unit;
            #[expect(clippy::cast_precision_loss, reason = "both ends are exact in 53 bits")]
            let max = Timestamp::MAX.millis() as f64;
            #[expect(clippy::cast_possible_truncation, reason = "in range")]
            (0.0..=max).contains(&millis).then_some(Timestamp::from_millis(millis as i64))
        };
        self.field.find(scope, |value| match self.format {
            TimeFormat::Rfc3339 => value.as_str().and_then(Timestamp::parse),
            TimeFormat::NaiveUtc => value.as_str().and_then(naive_utc),
            TimeFormat::EpochS => epoch(value, 1000.0),
            TimeFormat::EpochMs => epoch(value, 1.0),
            TimeFormat::EpochUs => epoch(value, 0.001),
        })
    }
}

/// How a definition says when the outputs expire.
#[derive(Clone, Debug)]
pub(super) enum ExpiryForm {
    /// At a time in the answer.
    At(Time),
    /// After a span, which begins at the end of the job.
    After(Duration),
}

impl ExpiryForm {
    /// Returns when the outputs expire; `None` if the answer does not say it.
    pub(super) fn read(&self, scope: Scope<'_>) -> Option<OutputsExpire> {
        match self {
            Self::At(time) => time.read(scope).map(OutputsExpire::At),
            Self::After(span) => Some(OutputsExpire::After(*span)),
        }
    }
}

/// When the outputs of a job expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputsExpire {
    /// At a time that the provider reports.
    At(Timestamp),
    /// After a span, which begins at the end of the job.
    After(Duration),
}

/// Latest plausible time until the outputs expire. A later one is a time in another unit, or means "never".
const MAX_LIFE: Duration = Duration::from_secs(10 * 366 * 86_400);

impl OutputsExpire {
    /// Returns the time at which the outputs of a job that ended at `ended_at` expire; `None` if it is not plausible.
    pub(super) fn at(self, ended_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let at = match self {
            Self::At(at) => at,
            Self::After(span) => ended_at.plus(span),
        };
        (at.is_plausible(now) || (at > now && at.since(now) <= MAX_LIFE)).then_some(at)
    }
}

impl fmt::Display for OutputsExpire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => at.fmt(f),
            Self::After(span) => f.write_str(&format_duration(*span)),
        }
    }
}

/// Parses a date and a time without a zone. One with a zone is read as well.
fn naive_utc(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let text = text.strip_suffix("UTC").unwrap_or(text).trim_end();
    Timestamp::parse(text).or_else(|| {
        let (date, time) = text.split_once(['T', ' '])?;
        Timestamp::parse(&format!("{date}T{}Z", time.trim_start()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    use crate::providers::field::{Alternative, Head};
    use crate::providers::names::Names;
    use crate::providers::path::Path;

    fn field(path: &str) -> Field {
        let place = Place::Path(Path::parse(path, 2).expect("a path"));
        Field(vec![Alternative::of(place)])
    }

    fn scope<'a>(root: &'a Json<'a>, left: &'a Cell<usize>) -> Scope<'a> {
        let head = Head { status: 200, headers: &[] };
        Scope { root, head, names: Names::of_job("1"), outcome: None, nulls: &[], left }
    }

    #[test]
    fn a_time_is_read_in_its_format() {
        let text = |text: &'static str| Json::Text(text.into());
        let of = |number: u64| Json::Number(number.into());
        let expected = Timestamp::parse("2026-02-18T15:00:00Z");
        for (format, value) in [
            (TimeFormat::Rfc3339, text("2026-02-18T16:00:00+01:00")),
            (TimeFormat::NaiveUtc, text("2026-02-18T15:00:00")),
            (TimeFormat::NaiveUtc, text("2026-02-18 15:00:00.000000")),
            (TimeFormat::NaiveUtc, text("2026-02-18 15:00:00 UTC")),
            (TimeFormat::NaiveUtc, text("2026-02-18T15:00:00Z")),
            (TimeFormat::EpochS, of(1_771_426_800)),
            (TimeFormat::EpochS, text("1771426800")),
            (TimeFormat::EpochMs, of(1_771_426_800_000)),
            (TimeFormat::EpochUs, of(1_771_426_800_000_000)),
        ] {
            let time = |reads_texts| Time { field: field("$"), format, reads_texts };
            assert_eq!(time(true).read(scope(&value, &Cell::new(0))), expected, "{format:?} {value:?}");
        }
        let strict = Time { field: field("$"), format: TimeFormat::EpochS, reads_texts: false };
        assert_eq!(strict.read(scope(&text("1771426800"), &Cell::new(0))), None);
        for wrong in ["yesterday", "2026-02-18", "", "15:00"] {
            assert_eq!(naive_utc(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn progress_can_be_a_text() {
        let read = |form: fn(Field) -> ProgressForm, text: &'static str| {
            let value = Json::Text(text.into());
            Progress { form: form(field("$")), reads_texts: true }.read(scope(&value, &Cell::new(0)))
        };
        for (text, percent, fraction) in [
            ("42", Some(42), None),
            ("42%", Some(42), Some(42)),
            (" 42 % ", Some(42), Some(42)),
            ("2/4", Some(50), Some(50)),
            ("1 of 3", Some(33), Some(33)),
            ("3 / 0", None, None),
            ("5/4", None, None),
            ("2026/02/18", None, None),
            ("0.29", Some(0), Some(29)),
            ("much", None, None),
            ("NaN", None, None),
            ("-1", None, None),
        ] {
            assert_eq!(read(ProgressForm::Percent, text), percent, "{text}");
            assert_eq!(read(ProgressForm::Fraction, text), fraction, "{text}");
        }
    }
}
