//! The values of an event that the templates of mails and chat messages can use.
//!
//! Almost every text of an event comes from the provider or from the client that registered the watch. Here
//! it is cleaned for every format: no control characters, no marks that change the writing direction, no
//! line breaks where a single line is expected, a maximum length, and only http(s) links. The template adds
//! the escapes of its format, HTML or JSON.
//!
//! **Colours.** Many mail readers change colours in dark mode, some of them only the text or only the background. The
//! colour of an event has a contrast of at least 4.5:1 both with white and with black, so a text on it stays readable
//! in either; as a bar, it has at least 3:1 with a light and with a dark page.
//!
//! **Reasons.** A text that explains the event has a label that names its author: the provider, its definition here, or
//! Ringback. The provider is not credited with a sentence that it did not write.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;

use crate::domain::{DisabledReason, EventType, PendingDelivery, Timestamp, WatchStatus, json_fields};

/// Maximum length of an id, a name or a status, in characters.
const WORD_MAX: usize = 200;
/// Maximum length of an error message: in characters, and in lines.
const ERROR_MESSAGE_MAX: usize = 2_000;
const ERROR_LINES_MAX: usize = 30;
/// Maximum length of a URL, in characters. Signed URLs are long; longer ones fail in mail readers.
const URL_MAX: usize = 2_048;
/// Maximum numbers of outputs and of metadata entries; further ones are counted.
const OUTPUTS_MAX: usize = 10;
const METADATA_MAX: usize = 20;
/// Maximum lengths of a metadata entry, in characters.
const METADATA_NAME_MAX: usize = 80;
const METADATA_VALUE_MAX: usize = 500;
/// Maximum length of a shortened URL, in characters. It fits into a line or two of a telephone.
const SHORT_URL_MAX: usize = 80;

/// Labels of reasons, by their author: the provider, the definition of the provider's statuses, and Ringback.
const PROVIDER_SAYS: &str = "What the provider says";
const STATUS_MEANS: &str = "What the status means";
const RINGBACK_ENDED: &str = "Why Ringback ended the watch";
const WHAT_IT_IS: &str = "What this is";
const WHAT_IT_MEANS: &str = "What it means";
const LAST_ERROR: &str = "Last error";

/// What the headline of a test is about.
const TEST_NAME: &str = "a message to this address";

/// The values that a template may use.
#[derive(Clone, Debug, Serialize)]
pub struct TemplateContext {
    /// Type of the event, such as `job.completed`.
    pub event: &'static str,
    /// Id of the event; also the `webhook-id`.
    pub id: String,
    /// Id of the watch.
    pub watch: String,
    /// The event in a word or two, such as `Completed`.
    pub title: &'static str,
    /// The event as a symbol.
    pub symbol: &'static str,
    /// The event as a colour, such as `#188646`.
    pub color: &'static str,
    /// The event as a sentence.
    pub summary: &'static str,
    /// The headline's name of what the event is about: the name of the watch, or the id of the job.
    pub display_name: String,
    /// Id of the job.
    pub job: String,
    /// The client's own id of the watch.
    pub reference: Option<String>,
    /// Name of the provider.
    pub provider: String,
    /// Status of the job, as the provider names it.
    pub status: Option<String>,
    /// Progress in percent, 0 to 100.
    pub progress: Option<u8>,
    /// The first output, as text.
    pub output: Option<String>,
    /// The first output, if it is an http(s) URL.
    pub link: Option<String>,
    /// The https URL of a small picture of it.
    pub thumbnail: Option<String>,
    /// Up to ten outputs.
    pub outputs: Vec<OutputContext>,
    /// Number of further outputs.
    pub more_outputs: usize,
    /// The job's error.
    pub error: Option<ErrorContext>,
    /// Up to two texts that explain the event, each with a label that names its author.
    pub reasons: Vec<NameValue>,
    /// Time of the observation, such as `2026-02-18 15:02:31 UTC`.
    pub at: String,
    /// Time of the observation, in seconds since 1970.
    pub at_seconds: i64,
    /// Time when the job was submitted.
    pub created: Option<String>,
    /// Time when the job ended.
    pub completed: Option<String>,
    /// Duration of the job, such as `2m 30s`.
    pub took: Option<String>,
    /// Up to twenty entries of the watch's metadata, in the client's order.
    pub metadata: Vec<NameValue>,
    /// Number of further entries.
    pub more_metadata: usize,
    /// Facts of an event that is about no job, the most important first; otherwise empty.
    pub facts: Vec<NameValue>,
}

/// One output of a job.
#[derive(Clone, Debug, Serialize)]
pub struct OutputContext {
    /// Kind of the output, such as `video`.
    pub kind: Option<String>,
    /// Its URL, as text.
    pub text: String,
    /// Its URL, if it is an http(s) URL.
    pub link: Option<String>,
    /// Host and file name of this URL, such as `cdn.example.com/…/video.mp4`.
    pub short: Option<String>,
}

/// The error of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorContext {
    /// Code for programs.
    pub code: Option<String>,
    /// Message for people, in one or more lines.
    pub message: Option<String>,
    /// Whether the provider reports it. Otherwise it is Ringback's own: why the watch ended although the job did not,
    /// or the explanation of a status.
    #[serde(skip_deserializing)]
    pub from_provider: bool,
}

/// A named value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameValue {
    /// Name.
    pub name: String,
    /// Value, as text.
    pub value: String,
}

/// The parts of an event's body that are shown. Bodies are kept for weeks, so a field that another version
/// added or omitted is not an error.
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
    name: Option<String>,
    reference: Option<String>,
    raw_status: Option<String>,
    progress: Option<u8>,
    output: Option<String>,
    outputs: Option<Vec<Output>>,
    error: Option<ErrorContext>,
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

impl TemplateContext {
    /// Returns the context of a delivery's event. The error is a sentence.
    pub(super) fn new(delivery: &PendingDelivery) -> Result<Self, String> {
        let ids = (delivery.event.to_string(), delivery.watch.to_string());
        Self::parse(delivery.event_type, ids, &delivery.body)
    }

    /// Parses an event's body.
    pub(super) fn parse(
        event: EventType,
        (id, watch): (String, String),
        body: &[u8],
    ) -> Result<Self, String> {
        if event == EventType::Test {
            return Self::of_test(id, body);
        }
        if !event.is_of_watch() {
            return Self::of_operational(event, id, body);
        }
        let body: Body<'_> =
            serde_json::from_slice(body).map_err(|error| format!("the event cannot be read: {error}"))?;
        let Body { timestamp, data } = body;
        let (title, symbol, color, summary) = describe(event);
        let outputs = data.outputs.unwrap_or_default();
        let (metadata, more_metadata) = metadata_entries(data.metadata);
        let observed_at = Timestamp::parse(&timestamp).unwrap_or_default();
        // Events of earlier versions can have times that the provider cannot mean.
        let times = [&data.created_at, &data.completed_at]
            .map(|time| time.as_deref().and_then(Timestamp::parse).filter(|at| at.is_plausible(observed_at)));
        let span = times[0].zip(times[1]).filter(|(from, to)| from <= to);
        let job = single_line(&data.job_id, WORD_MAX);
        let status = data.raw_status.map(|status| single_line(&status, WORD_MAX));
        let error = data.error.map(|error| error_context(event, error, status.as_deref()));
        Ok(Self {
            event: event.as_str(),
            id,
            watch,
            title,
            symbol,
            color,
            summary,
            display_name: data
                .name
                .as_deref()
                .and_then(|name| non_empty_line(name, WORD_MAX))
                .unwrap_or_else(|| job.clone()),
            reference: data.reference.as_deref().and_then(|reference| non_empty_line(reference, WORD_MAX)),
            job,
            provider: single_line(&data.provider, WORD_MAX),
            status,
            progress: data.progress,
            link: data.output.as_deref().and_then(link),
            output: data.output.as_deref().and_then(|output| non_empty_line(output, URL_MAX)),
            thumbnail: outputs.iter().find_map(thumbnail),
            more_outputs: outputs.len().saturating_sub(OUTPUTS_MAX),
            outputs: outputs.iter().take(OUTPUTS_MAX).filter_map(output_context).collect(),
            reasons: reasons(event, error.as_ref(), summary),
            error,
            at: format_time(observed_at),
            at_seconds: observed_at.seconds(),
            created: times[0].map(format_time),
            completed: times[1].map(format_time),
            took: span.map(|(from, to)| format_span(to.since(from))),
            metadata,
            more_metadata,
            facts: Vec::new(),
        })
    }
}

/// The parts of the body of a test that are shown.
#[derive(Deserialize)]
struct TestBody {
    timestamp: String,
    data: TestData,
}

#[derive(Deserialize)]
struct TestData {
    message: Option<String>,
}

impl TemplateContext {
    /// Parses the body of a test. It is about no job: what a message shows of a job says what the message is.
    fn of_test(id: String, body: &[u8]) -> Result<Self, String> {
        let TestBody { timestamp, data } =
            serde_json::from_slice(body).map_err(|error| format!("the event cannot be read: {error}"))?;
        let (.., summary) = describe(EventType::Test);
        let message = data.message.map(|message| multi_line(&message)).filter(|text| !text.is_empty());
        let reasons = vec![named(WHAT_IT_IS, message.unwrap_or_else(|| summary.to_owned()))];
        Ok(Self { reasons, ..Self::without_job(EventType::Test, id, &timestamp, TEST_NAME.to_owned()) })
    }

    /// Returns the context of an event that is about no job.
    fn without_job(event: EventType, id: String, timestamp: &str, display_name: String) -> Self {
        let (title, symbol, color, summary) = describe(event);
        let at = Timestamp::parse(timestamp).unwrap_or_default();
        Self {
            event: event.as_str(),
            id,
            watch: String::new(),
            title,
            symbol,
            color,
            summary,
            job: display_name.clone(),
            display_name,
            reference: None,
            provider: "Ringback".to_owned(),
            status: None,
            progress: None,
            output: None,
            link: None,
            thumbnail: None,
            outputs: Vec::new(),
            more_outputs: 0,
            error: None,
            reasons: Vec::new(),
            at: format_time(at),
            at_seconds: at.seconds(),
            created: None,
            completed: None,
            took: None,
            metadata: Vec::new(),
            more_metadata: 0,
            facts: Vec::new(),
        }
    }

    /// Parses the body of an event about a destination or a delivery.
    fn of_operational(event: EventType, id: String, body: &[u8]) -> Result<Self, String> {
        let OperationalBody { timestamp, data } =
            serde_json::from_slice(body).map_err(|error| format!("the event cannot be read: {error}"))?;
        let word = |text: &Option<String>| text.as_deref().and_then(|text| non_empty_line(text, WORD_MAX));
        let destination = word(&data.destination_id);
        let name = if event == EventType::DeliveryExhausted {
            &data.job_id
        } else if event.is_of_group() {
            &data.group_id
        } else {
            &data.name
        };
        let display_name = word(name).or_else(|| destination.clone()).unwrap_or_default();
        let since = data.since.as_deref().and_then(Timestamp::parse).map(format_time);
        let facts = [
            ("Destination", destination.filter(|destination| *destination != display_name)),
            ("Reason", word(&data.reason)),
            ("Since", since),
            ("Event", word(&data.event_type)),
            ("Attempts", data.attempt_count.map(|count| count.to_string())),
            ("Delivery", word(&data.delivery_id)),
            ("Watch", word(&data.watch_id)),
            ("Size", data.size.map(|count| count.to_string())),
            ("Registered", data.registered.map(|count| count.to_string())),
        ];
        let context = Self::without_job(event, id, &timestamp, display_name);
        let last_error = data.last_error.map(|error| multi_line(&error)).filter(|error| !error.is_empty());
        let meaning = named(WHAT_IT_MEANS, meaning(event, data.reason.as_deref(), context.summary));
        let facts = facts.into_iter().filter_map(|(name, value)| Some(named(name, value?)));
        let counts = data.counts.into_iter().flatten().filter(|(_, count)| *count > 0);
        // Never more than there are statuses.
        let counts = counts.take(WatchStatus::ALL.len()).map(|(status, count)| {
            let status = single_line(&status.replace('_', " "), METADATA_NAME_MAX);
            let first = status.chars().take(1).flat_map(char::to_uppercase);
            named(&first.chain(status.chars().skip(1)).collect::<String>(), count.to_string())
        });
        Ok(Self {
            reasons: std::iter::once(meaning).chain(last_error.map(|text| named(LAST_ERROR, text))).collect(),
            facts: facts.chain(counts).collect(),
            ..context
        })
    }
}

/// The parts of the body of an operational event that are shown. Each type has some of them.
#[derive(Deserialize)]
struct OperationalBody {
    timestamp: String,
    data: OperationalData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperationalData {
    destination_id: Option<String>,
    name: Option<String>,
    reason: Option<String>,
    since: Option<String>,
    last_error: Option<String>,
    delivery_id: Option<String>,
    watch_id: Option<String>,
    job_id: Option<String>,
    event_type: Option<String>,
    attempt_count: Option<u32>,
    group_id: Option<String>,
    size: Option<u32>,
    registered: Option<u32>,
    counts: Option<BTreeMap<String, u32>>,
}

fn named(name: &str, value: String) -> NameValue {
    NameValue { name: name.to_owned(), value }
}

/// Returns what an operational event means for its reader.
fn meaning(event: EventType, reason: Option<&str>, summary: &str) -> String {
    let cause = match reason.and_then(DisabledReason::parse) {
        Some(_) | None if event != EventType::DestinationDisabled => None,
        Some(DisabledReason::Manual) => {
            Some("A client or the configuration file has disabled the destination.")
        }
        Some(DisabledReason::Gone) => Some("The receiver accepts nothing more at this address."),
        Some(DisabledReason::Failing) => Some("No attempt has succeeded for days."),
        Some(DisabledReason::Unmanaged) => Some("The destination is not in the configuration file any more."),
        None => None,
    };
    cause.into_iter().chain([summary]).collect::<Vec<_>>().join(" ")
}

fn describe(event: EventType) -> (&'static str, &'static str, &'static str, &'static str) {
    match event {
        EventType::JobCompleted => ("Completed", "\u{2705}", "#188646", "The job is done."),
        EventType::JobFailed => ("Failed", "\u{274c}", "#db3442", "The job failed."),
        EventType::JobCancelled => ("Cancelled", "\u{26aa}", "#6d7683", "The job was cancelled."),
        EventType::JobNotFound => {
            ("Not found", "\u{2753}", "#9f6c04", "The provider does not know this job.")
        }
        EventType::WatchExpired => {
            ("Expired", "\u{231b}", "#9f6c04", "The job did not end in the time it was given.")
        }
        EventType::JobProcessing => ("Processing", "\u{25b6}\u{fe0f}", "#1c78c4", "The job is running."),
        EventType::JobProgress => ("In progress", "\u{23f3}", "#1c78c4", "The job made progress."),
        EventType::Test => ("Test", "\u{1f514}", "#1c78c4", "This is a test of the destination."),
        EventType::DestinationDisabled => {
            ("Destination disabled", "\u{26d4}", "#db3442", "Nothing is sent to it until it is enabled.")
        }
        EventType::DestinationRecovered => {
            ("Destination recovered", "\u{2705}", "#188646", "Events are sent to it again.")
        }
        EventType::DeliveryExhausted => (
            "Delivery failed",
            "\u{274c}",
            "#db3442",
            "No further attempt follows by itself. The delivery can be retried manually.",
        ),
        EventType::GroupCompleted => {
            ("Group completed", "\u{2705}", "#188646", "Enough watches of the group have ended.")
        }
        EventType::GroupExpired => (
            "Group expired",
            "\u{231b}",
            "#9f6c04",
            "The group expired before enough of its watches had ended. They continue.",
        ),
    }
}

fn error_context(event: EventType, error: ErrorContext, status: Option<&str>) -> ErrorContext {
    let code = error.code.as_deref().and_then(|code| non_empty_line(code, WORD_MAX));
    let message = error.message.map(|message| multi_line(&message)).filter(|text| !text.is_empty());
    // If the provider reports no error, the code is the status, and the message is the definition's explanation of it.
    let explains_status =
        code.as_deref().zip(status).is_some_and(|(code, status)| code.eq_ignore_ascii_case(status));
    let own = explains_status || matches!(event, EventType::JobNotFound | EventType::WatchExpired);
    ErrorContext { code, message, from_provider: !own }
}

/// Returns the texts that explain an event, with their authors.
fn reasons(event: EventType, error: Option<&ErrorContext>, summary: &str) -> Vec<NameValue> {
    let message = error.and_then(|error| error.message.as_deref());
    let from_provider = error.is_some_and(|error| error.from_provider);
    let (own, other) = match event {
        EventType::WatchExpired => (Some(message.unwrap_or(summary)), None),
        // The message quotes the provider's answer.
        EventType::JobNotFound => (Some(summary), message.map(|message| (PROVIDER_SAYS, message))),
        EventType::JobCompleted
        | EventType::JobFailed
        | EventType::JobCancelled
        | EventType::JobProcessing
        | EventType::JobProgress
        | EventType::Test
        | EventType::DestinationDisabled
        | EventType::DestinationRecovered
        | EventType::DeliveryExhausted
        | EventType::GroupCompleted
        | EventType::GroupExpired => {
            let label = if from_provider { PROVIDER_SAYS } else { STATUS_MEANS };
            (None, message.map(|message| (label, message)))
        }
    };
    let own = own.map(|text| (RINGBACK_ENDED, sentence(text)));
    let other = other.map(|(label, text)| (label, text.to_owned()));
    own.into_iter().chain(other).map(|(name, value)| NameValue { name: name.to_owned(), value }).collect()
}

/// Returns a text with a capital letter at the start and a full stop at the end.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    let mut text: String = first.chain(chars).collect();
    if text.ends_with(char::is_alphanumeric) {
        text.push('.');
    }
    text
}

fn output_context(output: &Output) -> Option<OutputContext> {
    let url = output.url.as_deref()?;
    let kind = output.r#type.as_deref().and_then(|kind| non_empty_line(kind, WORD_MAX));
    let link = link(url);
    Some(OutputContext {
        kind,
        text: non_empty_line(url, URL_MAX)?,
        short: link.as_deref().map(short_url),
        link,
    })
}

/// Returns the host and the file name of a URL. A signed URL fills many lines, and only these parts help a reader.
fn short_url(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or(url);
    let plain = plain.split_once("://").map_or(plain, |(_, rest)| rest).trim_end_matches('/');
    let short = match plain.split_once('/').map(|(host, path)| (host, path.rsplit_once('/'))) {
        Some((host, Some((_, file)))) => format!("{host}/\u{2026}/{file}"),
        Some((_, None)) | None => plain.to_owned(),
    };
    truncate(&short, SHORT_URL_MAX)
}

fn thumbnail(output: &Output) -> Option<String> {
    let itself = output.url.as_ref().filter(|_| output.r#type.as_deref() == Some("image"));
    let urls = [output.thumbnail.as_ref(), output.poster_image.as_ref(), itself];
    urls.into_iter().flatten().find_map(|url| link(url).filter(|url| url.starts_with("https://")))
}

/// Returns the URL in its normalised spelling, if it is an http(s) URL.
fn link(text: &str) -> Option<String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "https" | "http"))?;
    // Credentials before the host make a link appear to lead to another host.
    let plain = url.username().is_empty() && url.password().is_none() && url.as_str().len() <= URL_MAX;
    plain.then(|| url.into())
}

fn metadata_entries(metadata: Option<&RawValue>) -> (Vec<NameValue>, usize) {
    let fields = metadata.and_then(|raw| json_fields(raw.get(), usize::MAX)).unwrap_or_default();
    let more = fields.len().saturating_sub(METADATA_MAX);
    let entry = |(name, raw): (String, &RawValue)| {
        let value = serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned());
        NameValue {
            name: single_line(&name, METADATA_NAME_MAX),
            value: single_line(&value, METADATA_VALUE_MAX),
        }
    };
    (fields.into_iter().take(METADATA_MAX).map(entry).collect(), more)
}

/// Returns whether a character changes the writing direction of the text after it, even beyond its own text.
fn changes_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns a cleaned text as a single line of at most `max` characters.
pub(super) fn single_line(text: &str, max: usize) -> String {
    let mut line = String::new();
    let plain = text.chars().filter(|c| !changes_direction(*c)).map(|c| if c.is_control() { ' ' } else { c });
    // Reads at most four times `max` characters, whatever the length of the text.
    for c in plain.take(max.saturating_mul(4)) {
        let space = c.is_whitespace();
        if !(space && (line.is_empty() || line.ends_with(' '))) {
            line.push(if space { ' ' } else { c });
        }
    }
    truncate(line.trim_end(), max)
}

/// Returns a cleaned text as a single line; `None` if nothing is left of it.
fn non_empty_line(text: &str, max: usize) -> Option<String> {
    Some(single_line(text, max)).filter(|line| !line.is_empty())
}

/// Returns a cleaned text, in several lines.
fn multi_line(text: &str) -> String {
    let begin: String = text.chars().take(ERROR_MESSAGE_MAX * 4).collect();
    let lines = begin.split(['\n', '\u{2028}', '\u{2029}']).map(|text| single_line(text, ERROR_MESSAGE_MAX));
    let mut kept: Vec<String> = Vec::new();
    for line in lines {
        // Keeps one of several empty lines.
        if !(line.is_empty() && kept.last().is_none_or(String::is_empty)) {
            kept.push(line);
        }
    }
    if kept.len() > ERROR_LINES_MAX {
        kept.truncate(ERROR_LINES_MAX);
        kept.push("\u{2026}".into());
    }
    truncate(kept.join("\n").trim_end(), ERROR_MESSAGE_MAX)
}

/// Returns at most `max` characters; the last one is an ellipsis if the text was longer.
pub(super) fn truncate(text: &str, max: usize) -> String {
    if text.chars().nth(max).is_none() {
        return text.to_owned();
    }
    let Some(kept) = max.checked_sub(1) else { return String::new() };
    text.chars().take(kept).chain(['\u{2026}']).collect()
}

/// Formats a time as `2026-02-18 15:02:31 UTC`.
fn format_time(time: Timestamp) -> String {
    let text = time.to_string();
    let seconds = text.get(..19).map(|seconds| format!("{} UTC", seconds.replace('T', " ")));
    seconds.unwrap_or(text)
}

/// Formats a duration as `2m 30s`.
fn format_span(span: Duration) -> String {
    let mut rest = span.as_secs();
    let mut parts = Vec::new();
    for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
        if rest >= seconds {
            parts.push(format!("{}{unit}", rest / seconds));
            rest %= seconds;
        }
    }
    if parts.is_empty() { "0s".into() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_line_has_no_control_characters_and_a_maximum_length() {
        for (text, is) in [
            ("job_1", "job_1"),
            (" a\r\nBcc: x@y.example\t\0b ", "a Bcc: x@y.example b"),
            ("a\u{202e}gpj.exe\u{2066}b", "agpj.exeb"),
            ("a\u{2028}b\u{85}c", "a b c"),
            ("\u{1b}[31mred", "[31mred"),
            ("\u{5e9}\u{5dc}\u{5d5}\u{5dd}", "\u{5e9}\u{5dc}\u{5d5}\u{5dd}"),
            ("", ""),
        ] {
            assert_eq!(single_line(text, 100), is, "{text:?}");
        }
        assert_eq!(single_line("aaaa", 4), "aaaa");
        assert_eq!(single_line("aaaaa", 4), "aaa\u{2026}");
        assert_eq!(single_line(&"\u{1f600}".repeat(100_000), 150).chars().count(), 150);
    }

    #[test]
    fn an_error_message_keeps_a_limited_number_of_lines() {
        assert_eq!(multi_line("a\r\n\r\n\r\n\tb\u{202e}\n"), "a\n\nb");
        assert_eq!(multi_line(&"x\n".repeat(10_000)).lines().count(), ERROR_LINES_MAX + 1);
        assert!(multi_line(&"y".repeat(100_000)).chars().count() <= ERROR_MESSAGE_MAX);
    }

    #[test]
    fn a_link_is_an_http_url_without_credentials() {
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
    fn a_shortened_url_names_the_host_and_the_file() {
        for (url, is) in [
            ("https://cdn.example.com/a/b/video.mp4?sig=x/y#z", "cdn.example.com/\u{2026}/video.mp4"),
            ("https://cdn.example.com:8443/video.mp4", "cdn.example.com:8443/video.mp4"),
            ("http://cdn.example.com/a/b/", "cdn.example.com/\u{2026}/b"),
            ("https://cdn.example.com/", "cdn.example.com"),
        ] {
            assert_eq!(short_url(url), is);
        }
        assert_eq!(
            short_url(&format!("https://a.example/b/{}", "x".repeat(500))).chars().count(),
            SHORT_URL_MAX
        );
    }

    #[test]
    fn each_explanation_of_an_event_names_its_author() {
        use EventType::{JobFailed, JobNotFound, WatchExpired};
        let job = |event, error: Option<(&str, &str)>| {
            let error = error.map(|(code, message)| {
                let error = ErrorContext {
                    code: Some(code.into()),
                    message: Some(message.into()),
                    from_provider: false,
                };
                error_context(event, error, Some("expired"))
            });
            let reasons = reasons(event, error.as_ref(), "The summary.");
            reasons.into_iter().map(|reason| format!("{}: {}", reason.name, reason.value)).collect::<Vec<_>>()
        };
        let ended = |text: &str| format!("{RINGBACK_ENDED}: {text}");
        for (event, error, is) in [
            (JobFailed, None, vec![]),
            (JobFailed, Some(("oom", "no memory")), vec![format!("{PROVIDER_SAYS}: no memory")]),
            (JobFailed, Some(("Expired", "late")), vec![format!("{STATUS_MEANS}: late")]),
            (WatchExpired, None, vec![ended("The summary.")]),
            (WatchExpired, Some(("deadline", "it had not ended")), vec![ended("It had not ended.")]),
            (JobNotFound, None, vec![ended("The summary.")]),
            (
                JobNotFound,
                Some(("not_found", "HTTP 404: no")),
                vec![ended("The summary."), format!("{PROVIDER_SAYS}: HTTP 404: no")],
            ),
        ] {
            assert_eq!(job(event, error), is, "{event} {error:?}");
        }
    }

    #[test]
    fn metadata_keeps_its_order_and_is_limited() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).expect("JSON");
        let (few, more) = metadata_entries(Some(&raw(r#"{"z":"a\nb","a":{"x":[1,  2]},"n":null}"#)));
        let pairs: Vec<_> = few.iter().map(|field| (field.name.as_str(), field.value.as_str())).collect();
        assert_eq!(
            (pairs.as_slice(), more),
            (&[("z", "a b"), ("a", "{\"x\":[1, 2]}"), ("n", "null")][..], 0)
        );
        let many: Vec<String> = (0..1_000).map(|n| format!("\"{n}\":\"{}\"", "v".repeat(1_000))).collect();
        let (many, more) = metadata_entries(Some(&raw(&format!("{{{}}}", many.join(",")))));
        assert_eq!((many.len(), more), (METADATA_MAX, 1_000 - METADATA_MAX));
        assert!(many.iter().all(|field| field.value.chars().count() <= METADATA_VALUE_MAX));
    }

    #[test]
    fn a_duration_is_formatted_with_its_units() {
        for (seconds, is) in [(0, "0s"), (59, "59s"), (150, "2m 30s"), (3_600, "1h"), (90_061, "1d 1h 1m 1s")]
        {
            assert_eq!(format_span(Duration::from_secs(seconds)), is);
        }
    }
}
