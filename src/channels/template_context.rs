//! An event as people are told of it: what the templates of mail and chat see.
//!
//! Almost every word in an event is somebody else's: the provider's, or whoever registered the watch.
//! Here it is made harmless for any kind of page: no control characters, no marks that turn the direction
//! of writing round, no line where one line is expected, nothing endless, and no link that is not http(s).
//! What a page needs beyond that (HTML's escapes, JSON's quotes) the template's kind adds by itself.

use std::fmt;
use std::fmt::Write as _;
use std::time::Duration;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;

use super::Message;
use crate::domain::{EventType, Timestamp};

/// Longer than a sensible id, name or word.
const WORD_MAX: usize = 200;
/// Of a provider's explanation: people read the beginning.
const EXPLANATION_MAX: usize = 2_000;
const EXPLANATION_LINES_MAX: usize = 30;
/// Signed URLs are long; longer ones do not work in mail readers.
const URL_MAX: usize = 2_048;
/// Outputs and fields that fit on a page; the rest is counted.
const OUTPUTS_MAX: usize = 10;
const FIELDS_MAX: usize = 20;
const FIELD_NAME_MAX: usize = 80;
const FIELD_VALUE_MAX: usize = 500;

/// An event, told to people.
#[derive(Clone, Debug, Serialize)]
pub struct TemplateContext {
    /// `job.completed`, …
    pub event: &'static str,
    /// The event's id: the `webhook-id` of those who get webhooks.
    pub id: String,
    /// The watch's id.
    pub watch: String,
    /// The ending in a word or two: `Completed`.
    pub title: &'static str,
    /// The same as a picture.
    pub symbol: &'static str,
    /// The same as a colour: `#2eb886`.
    pub color: &'static str,
    /// The same as a sentence.
    pub summary: &'static str,
    /// The job's id.
    pub job: String,
    /// The provider's name.
    pub provider: String,
    /// The provider's word for where the job stands.
    pub status: Option<String>,
    /// 0 to 100.
    pub progress: Option<u8>,
    /// What the job made first, as text.
    pub output: Option<String>,
    /// The same, if it is an http(s) URL.
    pub link: Option<String>,
    /// A small picture of it: an https URL.
    pub thumbnail: Option<String>,
    /// All that the job made, as far as it fits.
    pub outputs: Vec<Made>,
    /// How much more there is.
    pub more_outputs: usize,
    /// Why it did not end well.
    pub error: Option<Trouble>,
    /// When this was observed: `2026-02-18 15:02:31 UTC`.
    pub at: String,
    /// The same in seconds since 1970.
    pub at_seconds: i64,
    /// When the job was submitted.
    pub created: Option<String>,
    /// When the job ended.
    pub completed: Option<String>,
    /// How long it took: `2m 30s`.
    pub took: Option<String>,
    /// What whoever registered the watch gave along, in its order.
    pub metadata: Vec<Field>,
    /// How much more there is.
    pub more_metadata: usize,
}

/// One thing that a job made.
#[derive(Clone, Debug, Serialize)]
pub struct Made {
    /// What it is: `video`.
    pub kind: Option<String>,
    /// Where it is, as text.
    pub text: String,
    /// The same, if it is an http(s) URL.
    pub link: Option<String>,
}

/// Why a job did not end well.
#[derive(Clone, Debug, Serialize)]
pub struct Trouble {
    /// For programs.
    pub code: Option<String>,
    /// For people; it may have several lines.
    pub message: Option<String>,
}

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    /// What it is called.
    pub name: String,
    /// What it says.
    pub value: String,
}

/// The event's body, as far as it is told. Bodies are kept for weeks: what another version left out or
/// added is no reason not to tell.
#[derive(Deserialize)]
struct Body<'a> {
    timestamp: String,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    provider: String,
    job_id: String,
    raw_status: Option<String>,
    progress: Option<u8>,
    output: Option<String>,
    outputs: Option<Vec<Output>>,
    error: Option<Error>,
    created_at: Option<String>,
    completed_at: Option<String>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Output {
    url: Option<String>,
    r#type: Option<String>,
    thumbnail: Option<String>,
    poster_image: Option<String>,
}

#[derive(Deserialize)]
struct Error {
    code: Option<String>,
    message: Option<String>,
}

impl TemplateContext {
    /// What a message's event says. The error is a sentence.
    pub(super) fn of(message: &Message<'_>) -> Result<Self, String> {
        let ids = (message.event_id.to_string(), message.watch_id.to_string());
        Self::read(message.event_type, ids, &message.body)
    }

    pub(super) fn read(event: EventType, (id, watch): (String, String), body: &[u8]) -> Result<Self, String> {
        let body: Body<'_> =
            serde_json::from_slice(body).map_err(|error| format!("the event cannot be read: {error}"))?;
        let Body { timestamp, data } = body;
        let (title, symbol, color, summary) = words(event);
        let outputs = data.outputs.unwrap_or_default();
        let (metadata, more_metadata) = fields(data.metadata);
        let told = Timestamp::parse(&timestamp).unwrap_or_default();
        let times =
            [&data.created_at, &data.completed_at].map(|time| time.as_deref().and_then(Timestamp::parse));
        let took =
            times[0].zip(times[1]).filter(|(from, to)| from <= to).map(|(from, to)| span(to.since(from)));
        Ok(Self {
            event: event.as_str(),
            id,
            watch,
            title,
            symbol,
            color,
            summary,
            job: line(&data.job_id, WORD_MAX),
            provider: line(&data.provider, WORD_MAX),
            status: data.raw_status.map(|status| line(&status, WORD_MAX)),
            progress: data.progress,
            link: data.output.as_deref().and_then(link),
            output: data.output.map(|output| line(&output, URL_MAX)).filter(|output| !output.is_empty()),
            thumbnail: outputs.iter().find_map(picture),
            more_outputs: outputs.len().saturating_sub(OUTPUTS_MAX),
            outputs: outputs.into_iter().take(OUTPUTS_MAX).filter_map(made).collect(),
            error: data.error.map(|error| Trouble {
                code: error.code.map(|code| line(&code, WORD_MAX)).filter(|code| !code.is_empty()),
                message: error.message.map(|message| paragraph(&message)).filter(|text| !text.is_empty()),
            }),
            at: shown(told),
            at_seconds: told.seconds(),
            created: times[0].map(shown),
            completed: times[1].map(shown),
            took,
            metadata,
            more_metadata,
        })
    }
}

fn words(event: EventType) -> (&'static str, &'static str, &'static str, &'static str) {
    match event {
        EventType::JobCompleted => ("Completed", "\u{2705}", "#2eb886", "The job is done."),
        EventType::JobFailed => ("Failed", "\u{274c}", "#e01e5a", "The job failed."),
        EventType::JobCancelled => ("Cancelled", "\u{26aa}", "#95a5a6", "The job was cancelled."),
        EventType::JobNotFound => {
            ("Not found", "\u{2753}", "#cacf29", "The provider does not know this job.")
        }
        EventType::WatchExpired => {
            ("Expired", "\u{231b}", "#cacf29", "The job did not end in the time it was given.")
        }
        EventType::JobProcessing => ("Processing", "\u{25b6}\u{fe0f}", "#3aa3e3", "The job is running."),
        EventType::JobProgress => ("In progress", "\u{23f3}", "#3aa3e3", "The job gets on."),
    }
}

fn made(output: Output) -> Option<Made> {
    let text = line(output.url.as_deref()?, URL_MAX);
    let kind = output.r#type.map(|kind| line(&kind, WORD_MAX)).filter(|kind| !kind.is_empty());
    let link = output.url.as_deref().and_then(link);
    (!text.is_empty()).then_some(Made { kind, text, link })
}

fn picture(output: &Output) -> Option<String> {
    let itself = output.url.as_ref().filter(|_| output.r#type.as_deref() == Some("image"));
    let pictures = [output.thumbnail.as_ref(), output.poster_image.as_ref(), itself];
    pictures.into_iter().flatten().find_map(|url| link(url).filter(|url| url.starts_with("https://")))
}

/// The URL, in the one spelling that needs no care, if it leads anywhere by http(s).
fn link(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "https" | "http"))?;
    // Credentials before the host are how a link pretends to lead elsewhere.
    let plain = url.username().is_empty() && url.password().is_none() && url.as_str().len() <= URL_MAX;
    plain.then(|| url.into())
}

/// The pairs of an object, in the order in which they were written.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

fn fields(metadata: Option<&RawValue>) -> (Vec<Field>, usize) {
    let pairs = metadata.and_then(|raw| serde_json::from_str::<Pairs<'_>>(raw.get()).ok());
    let pairs = pairs.map(|pairs| pairs.0).unwrap_or_default();
    let more = pairs.len().saturating_sub(FIELDS_MAX);
    let field = |(name, raw): (String, &RawValue)| {
        let value = serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned());
        Field { name: line(&name, FIELD_NAME_MAX), value: line(&value, FIELD_VALUE_MAX) }
    };
    (pairs.into_iter().take(FIELDS_MAX).map(field).collect(), more)
}

/// Marks that turn the direction of writing round for what follows, also beyond their own text.
fn turns(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Harmless text on one line of at most `max` characters.
pub(super) fn line(text: &str, max: usize) -> String {
    let mut line = String::new();
    let plain = text.chars().filter(|c| !turns(*c)).map(|c| if c.is_control() { ' ' } else { c });
    // Far more than `max` are never looked at.
    for c in plain.take(max.saturating_mul(4)) {
        let space = c.is_whitespace();
        if !(space && (line.is_empty() || line.ends_with(' '))) {
            line.push(if space { ' ' } else { c });
        }
    }
    cut(line.trim_end(), max)
}

/// Harmless text on several lines.
fn paragraph(text: &str) -> String {
    let begin: String = text.chars().take(EXPLANATION_MAX * 4).collect();
    let lines = begin.split(['\n', '\u{2028}', '\u{2029}']).map(|text| line(text, EXPLANATION_MAX));
    let mut kept: Vec<String> = Vec::new();
    for line in lines {
        // Empty lines do not pile up.
        if !(line.is_empty() && kept.last().is_none_or(String::is_empty)) {
            kept.push(line);
        }
    }
    if kept.len() > EXPLANATION_LINES_MAX {
        kept.truncate(EXPLANATION_LINES_MAX);
        kept.push("\u{2026}".into());
    }
    cut(kept.join("\n").trim_end(), EXPLANATION_MAX)
}

/// At most `max` characters, the last of them an ellipsis where there were more.
pub(super) fn cut(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some(_) if max == 0 => String::new(),
        Some(_) => {
            let end = text.char_indices().nth(max - 1).map_or(0, |(at, _)| at);
            format!("{}\u{2026}", &text[..end])
        }
    }
}

/// `2026-02-18 15:02:31 UTC`
fn shown(time: Timestamp) -> String {
    let text = time.to_string();
    match (text.get(..10), text.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time} UTC"),
        _ => text,
    }
}

/// `2m 30s`
fn span(span: Duration) -> String {
    let mut rest = span.as_secs();
    let mut text = String::new();
    for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        let count = rest / seconds;
        rest %= seconds;
        if count > 0 {
            let _ = write!(text, "{}{count}{unit}", if text.is_empty() { "" } else { " " });
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_without_control_characters_and_not_endless() {
        for (text, is) in [
            ("job_1", "job_1"),
            (" a\r\nBcc: x@y.example\t\0b ", "a Bcc: x@y.example b"),
            ("a\u{202e}gpj.exe\u{2066}b", "agpj.exeb"),
            ("a\u{2028}b\u{85}c", "a b c"),
            ("\u{1b}[31mred", "[31mred"),
            ("\u{5e9}\u{5dc}\u{5d5}\u{5dd}", "\u{5e9}\u{5dc}\u{5d5}\u{5dd}"),
            ("", ""),
        ] {
            assert_eq!(line(text, 100), is, "{text:?}");
        }
        assert_eq!(line("aaaa", 4), "aaaa");
        assert_eq!(line("aaaaa", 4), "aaa\u{2026}");
        assert_eq!(line(&"\u{1f600}".repeat(100_000), 150).chars().count(), 150);
    }

    #[test]
    fn an_explanation_keeps_its_lines_within_reason() {
        assert_eq!(paragraph("a\r\n\r\n\r\n\tb\u{202e}\n"), "a\n\nb");
        assert_eq!(paragraph(&"x\n".repeat(10_000)).lines().count(), EXPLANATION_LINES_MAX + 1);
        assert!(paragraph(&"y".repeat(100_000)).chars().count() <= EXPLANATION_MAX);
    }

    #[test]
    fn a_link_leads_to_the_web_and_to_where_it_says() {
        for (text, is) in [
            ("https://a.example/x y?q=\"<>", Some("https://a.example/x%20y?q=%22%3C%3E")),
            ("http://a.example/", Some("http://a.example/")),
            ("javascript:alert(1)", None),
            ("data:text/html,x", None),
            ("https://bank.example@evil.example/", None),
            ("s3://bucket/key", None),
            ("a text", None),
        ] {
            assert_eq!(link(text).as_deref(), is, "{text}");
        }
        assert_eq!(link(&format!("https://a.example/{}", "x".repeat(URL_MAX))), None);
    }

    #[test]
    fn metadata_keeps_its_order_and_its_number_within_reason() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let (few, more) = fields(Some(&raw(r#"{"z":"a\nb","a":{"x":[1,  2]},"n":null}"#)));
        let pairs: Vec<_> = few.iter().map(|field| (field.name.as_str(), field.value.as_str())).collect();
        assert_eq!(
            (pairs.as_slice(), more),
            (&[("z", "a b"), ("a", "{\"x\":[1, 2]}"), ("n", "null")][..], 0)
        );
        let many: Vec<String> = (0..1_000).map(|n| format!("\"{n}\":\"{}\"", "v".repeat(1_000))).collect();
        let (many, more) = fields(Some(&raw(&format!("{{{}}}", many.join(",")))));
        assert_eq!((many.len(), more), (FIELDS_MAX, 1_000 - FIELDS_MAX));
        assert!(many.iter().all(|field| field.value.chars().count() <= FIELD_VALUE_MAX));
    }

    #[test]
    fn a_span_is_told_as_people_do() {
        for (seconds, is) in [(0, "0s"), (59, "59s"), (150, "2m 30s"), (3_600, "1h"), (90_061, "1d 1h 1m 1s")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), is);
        }
    }
}
