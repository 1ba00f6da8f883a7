//! The parts of a message as the payload that a chat accepts: escaped, within every limit, always valid.
//!
//! Untrusted text becomes `plain_text`, in which only `&`, `<` and `>` have a meaning, or a part of `mrkdwn` that is
//! composed here: the link, the time, and texts below a bold label. Escaping `<` disables `<!channel>` and `<@U…>`, and
//! `verbatim` disables the names that Slack would otherwise recognize in the text (source: Slack's text object).
//! `mrkdwn` has no escape for its own marks, `*`, `_`, `~` and the backtick. So a text in which they could have a
//! meaning becomes `plain_text` with a plain label: the value is right, and only the label is not bold.
//!
//! **Limits.** Slack's blocks limit a header to 150 characters, a section to 3,000, a field to 2,000, and a
//! section to ten fields. [`TOTAL_MAX`] limits all texts together: Slack refuses somewhat more than that with
//! `msg_blocks_too_long`, which it does not document. A message over the limit is shortened in this order:
//! the image, the last metadata, the last fields, the end of the last text, the end of the title.
//!
//! Only attachments have a colour, so fields and metadata are in an attachment. Everything important is in `blocks`.

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use url::Url;

use crate::channels::template_context::{NameValue, TemplateContext, single_line, truncate};
use crate::egress::is_public_https;

/// Maximum length of all texts of a message together, in characters.
const TOTAL_MAX: usize = 10_000;

const TITLE_MAX: usize = 150;
const SECTION_MAX: usize = 3_000;
const FIELD_MAX: usize = 2_000;
/// Fields of a section.
const SECTION_FIELDS_MAX: usize = 10;
/// Maximum numbers of fields and of metadata entries: two sections of each.
const FIELDS_MAX: usize = 20;
/// Maximum number of texts with a label.
const SECTIONS_MAX: usize = 3;
/// Maximum length of a field's name and of its value, in characters. Longer ones fill a page.
const FIELD_SHOWN_MAX: usize = 500;
const FOOTER_MAX: usize = 500;
const LABEL_MAX: usize = 100;
const IMAGE_URL_MAX: usize = 3_000;
/// Maximum length of a notification, in characters.
const TEXT_MAX: usize = 300;
/// Maximum length of an attachment's text, in characters. Mattermost accepts about 16,000, Rocket.Chat 5,000
/// by default.
const ATTACHMENT_TEXT_MAX: usize = 3_000;

/// Parts of a chat message, as the template renders them: plain texts. This module arranges, escapes and
/// shortens them, so no template can produce a message that a chat refuses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MessageParts {
    /// Text of the notification.
    text: String,
    /// Headline.
    title: String,
    /// Some lines below the headline.
    #[serde(default, deserialize_with = "nullable")]
    body: String,
    /// Texts of one or more lines, each below a label.
    #[serde(default)]
    sections: Vec<NameValue>,
    /// Link to the result.
    link: Option<Link>,
    /// URL of a small picture.
    image: Option<String>,
    /// Names and values, the most important first.
    #[serde(default)]
    fields: Vec<NameValue>,
    /// Names and values below a heading of their own.
    #[serde(default)]
    metadata: Vec<NameValue>,
    /// Small line at the end; the time is appended.
    #[serde(default, deserialize_with = "nullable")]
    footer: String,
}

/// A URL with its label.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    label: String,
    url: String,
}

/// Reads a text; null counts as empty.
fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

impl MessageParts {
    /// Parses the result of the template. The error is a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Returns the parts within the limits, not escaped yet.
    pub(super) fn fitted(self, context: &TemplateContext) -> Self {
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        let title = or(single_line(&self.title, TITLE_MAX), context.title);
        let lines = |text: &str| {
            let lines: Vec<String> = text.lines().map(|line| single_line(line, SECTION_MAX)).collect();
            truncate(lines.join("\n").trim(), SECTION_MAX)
        };
        let shown = |text: &str| single_line(text, FIELD_SHOWN_MAX);
        let field = |one: &NameValue| NameValue { name: shown(&one.name), value: shown(&one.value) };
        let section =
            |one: &NameValue| NameValue { name: single_line(&one.name, LABEL_MAX), value: lines(&one.value) };
        let mut fitted = Self {
            text: or(single_line(&self.text, TEXT_MAX), &title),
            title,
            body: lines(&self.body),
            sections: not_empty(self.sections.iter().map(section), SECTIONS_MAX),
            link: self.link.and_then(|Link { label, url }| {
                Some(Link { label: or(single_line(&label, LABEL_MAX), "Open"), url: link_url(&url)? })
            }),
            image: self.image.filter(|url| url.len() <= IMAGE_URL_MAX && is_public_https(url)),
            fields: not_empty(self.fields.iter().map(field), FIELDS_MAX),
            metadata: not_empty(self.metadata.iter().map(field), FIELDS_MAX),
            footer: single_line(&self.footer, FOOTER_MAX),
        };
        fitted.fit();
        fitted
    }

    /// Returns the message as plain text, for Slack.
    pub(super) fn slack_text(&self, context: &TemplateContext) -> Value {
        json!({ "text": self.plain(escaped, context), "mrkdwn": false, "unfurl_links": false })
    }

    /// Returns the message as plain text, for compatible chats.
    pub(super) fn compatible_text(&self, context: &TemplateContext) -> Value {
        json!({ "text": self.plain(without_markup, context) })
    }

    fn plain(&self, escape: fn(&str) -> String, context: &TemplateContext) -> String {
        // In a URL, these characters may be percent-encoded, which disables mentions and markup.
        let encoded = |url: &str| escaped(&url.replace('@', "%40").replace('[', "%5B").replace(']', "%5D"));
        let link = self.link.as_ref().map(|link| encoded(&link.url)).unwrap_or_default();
        let parts = [escape(&self.title), escape(&self.texts(context)), link, context.at.clone()];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("\n")
    }

    /// Returns the body and the texts with a label; the sentence of the ending if there is neither.
    fn texts(&self, context: &TemplateContext) -> String {
        let labelled = |NameValue { name, value }: &NameValue| format!("{name}:\n{value}");
        let sections = self.sections.iter().map(labelled);
        let body = Some(self.body.clone()).filter(|body| !body.is_empty());
        let texts: Vec<String> = body.into_iter().chain(sections).collect();
        if texts.is_empty() { context.summary.to_owned() } else { texts.join("\n") }
    }

    /// Returns the total length as Slack counts it, with escapes.
    fn size(&self) -> usize {
        let chars = |text: &str| escaped(text).chars().count();
        let link = self.link.as_ref().map_or(0, |link| chars(&link.label) + chars(&link.url));
        let named = self.fields.iter().chain(&self.metadata).chain(&self.sections);
        let named: usize = named.map(|one| chars(&one.name) + chars(&one.value) + 3).sum();
        let image = self.image.as_ref().map_or(0, String::len);
        let texts = chars(&self.text) + chars(&self.title) + chars(&self.body) + chars(&self.footer);
        texts + link + named + image
    }

    fn fit(&mut self) {
        if self.size() > TOTAL_MAX {
            self.image = None;
        }
        while self.size() > TOTAL_MAX && self.metadata.pop().or_else(|| self.fields.pop()).is_some() {}
        while self.size() > TOTAL_MAX {
            let text = self.sections.last_mut().map_or(&mut self.body, |section| &mut section.value);
            let half = text.chars().count() / 2;
            *text = truncate(text, half);
            if half == 0 && self.sections.pop().is_none() {
                break;
            }
        }
        while self.size() > TOTAL_MAX && self.title.chars().count() > 1 {
            let half = self.title.chars().count() / 2;
            self.title = truncate(&self.title, half.max(1));
        }
    }

    /// Returns the message as blocks, for Slack.
    pub(super) fn blocks(&self, context: &TemplateContext) -> Value {
        let mut blocks = vec![json!({ "type": "header", "text": plain_text_object(&self.title, TITLE_MAX) })];
        let mut texts: Vec<Value> =
            self.sections.iter().map(|section| labelled(section, SECTION_MAX)).collect();
        if !self.body.is_empty() {
            texts.insert(0, plain_text_object(&self.body, SECTION_MAX));
        }
        if let Some(Link { label, url }) = &self.link {
            // `|` would begin another label, and the marks of `mrkdwn` cannot be escaped.
            let label = label.replace(['|', '*', '_', '~', '`'], " ");
            texts.push(mrkdwn_object(&format!("<{}|{}>", escaped(url), escaped(&label))));
        }
        if texts.is_empty() {
            texts.push(plain_text_object(context.summary, SECTION_MAX));
        }
        blocks.extend(texts.into_iter().map(|text| json!({ "type": "section", "text": text })));
        if let Some(url) = &self.image {
            blocks[1]["accessory"] =
                json!({ "type": "image", "image_url": url, "alt_text": "A picture of the output" });
        }
        let date =
            format!("<!date^{}^{{date_short_pretty}} {{time_secs}}|{}>", context.at_seconds, context.at);
        let mut elements = vec![mrkdwn_object(&date)];
        if !self.footer.is_empty() {
            elements.insert(0, plain_text_object(&self.footer, FOOTER_MAX * 2));
        }
        blocks.push(json!({ "type": "context", "elements": elements }));
        let mut sections = field_sections(&self.fields);
        let mut metadata = field_sections(&self.metadata);
        if let Some(first) = metadata.first_mut() {
            first["text"] = mrkdwn_object("*Metadata*");
        }
        sections.append(&mut metadata);
        let mut payload = json!({
            "text": escaped(&self.text), "mrkdwn": false, "unfurl_links": false, "unfurl_media": false,
            "blocks": blocks,
        });
        if !sections.is_empty() {
            let fallback = escaped(&self.text);
            payload["attachments"] =
                json!([{ "color": context.color, "fallback": fallback, "blocks": sections }]);
        }
        payload
    }

    /// Returns the message as one of Slack's older attachments, for compatible chats.
    pub(super) fn attachments(&self, context: &TemplateContext) -> Value {
        let field = |NameValue { name, value }: &NameValue| {
            let short = value.chars().count() <= 40;
            json!({ "short": short, "title": without_markup(name), "value": without_markup(value) })
        };
        let fields: Vec<Value> = self.fields.iter().chain(&self.metadata).map(field).collect();
        let body = truncate(&self.texts(context), ATTACHMENT_TEXT_MAX);
        let footer = [self.footer.as_str(), &context.at].join(" ");
        let mut attachment = json!({
            "fallback": without_markup(&self.text), "color": context.color, "text": without_markup(&body),
            "fields": fields, "footer": without_markup(footer.trim()),
        });
        if let Some(Link { label, url }) = &self.link {
            attachment["title"] = without_markup(label).into();
            attachment["title_link"] = url.as_str().into();
        }
        if let Some(url) = &self.image {
            attachment["thumb_url"] = url.as_str().into();
        }
        json!({ "text": without_markup(&self.text), "attachments": [attachment] })
    }
}

/// Returns up to `max` entries that have a name or a value.
fn not_empty(entries: impl Iterator<Item = NameValue>, max: usize) -> Vec<NameValue> {
    entries.filter(|one| !(one.name.is_empty() && one.value.is_empty())).take(max).collect()
}

/// Returns names and values as sections of fields.
fn field_sections(fields: &[NameValue]) -> Vec<Value> {
    let fields: Vec<Value> = fields.iter().map(|field| labelled(field, FIELD_MAX)).collect();
    let sections = fields.chunks(SECTION_FIELDS_MAX);
    sections.map(|fields| json!({ "type": "section", "fields": fields })).collect()
}

/// Returns a text below its label, which is bold if `mrkdwn` shows both as they are.
fn labelled(NameValue { name, value }: &NameValue, max: usize) -> Value {
    let label = format!("*{}*\n", escaped(name));
    let left = max.saturating_sub(label.chars().count());
    let has_both = !name.is_empty() && !value.is_empty();
    if has_both && left > max / 2 && is_literal(name) && is_literal(value) {
        return mrkdwn_object(&format!("{label}{}", fitted_text(value, left)));
    }
    plain_text_object(format!("{name}\n{value}").trim(), max)
}

/// Returns whether `mrkdwn` shows a text as it is, after the escape.
fn is_literal(text: &str) -> bool {
    let chars: Vec<char> = text.chars().collect();
    let in_word = |at: usize| {
        let before = at.checked_sub(1).and_then(|at| chars.get(at));
        [before, chars.get(at + 1)].into_iter().all(|c| c.is_some_and(|c| c.is_alphanumeric()))
    };
    // A mark within a word, as in job_1_done, has no meaning.
    let mut marks = chars.iter().enumerate().filter(|(_, c)| matches!(c, '*' | '_' | '~' | '`'));
    let is_mark = marks.any(|(at, c)| *c == '`' || !in_word(at));
    let is_quote = text.lines().any(|line| line.trim_start().starts_with('>'));
    // Between the first and the last colon.
    let mut words = text.split(':');
    let _ = (words.next(), words.next_back());
    let names_emoji = words.any(|word| {
        let has_name = matches!(word, "100" | "1234") || word.bytes().any(|byte| !byte.is_ascii_digit());
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '\'');
        has_name && word.chars().all(is_name)
    });
    // `verbatim` already disables these.
    let mentions = ["@channel", "@here", "@everyone"].iter().any(|mention| text.contains(mention));
    !(is_mark || is_quote || names_emoji || mentions)
}

/// Returns a `mrkdwn` object. The caller has escaped every untrusted text in it.
fn mrkdwn_object(text: &str) -> Value {
    json!({ "type": "mrkdwn", "text": text, "verbatim": true })
}

/// Returns a `plain_text` object of at most `max` characters, escapes included.
fn plain_text_object(text: &str, max: usize) -> Value {
    json!({ "type": "plain_text", "text": fitted_text(text, max), "emoji": false })
}

/// Returns an escaped text of at most `max` characters, escapes included.
fn fitted_text(text: &str, max: usize) -> String {
    let mut text = text.to_owned();
    loop {
        let safe = escaped(&text);
        let over = safe.chars().count().saturating_sub(max);
        if over == 0 {
            return safe;
        }
        let keep = text.chars().count().saturating_sub(over.div_ceil(5).max(1));
        text = truncate(&text, keep.max(1));
    }
}

/// Escapes the three characters that have a meaning in Slack's texts.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Returns an http(s) URL in a form that is valid between `<` and `|`.
fn link_url(url: &str) -> Option<String> {
    let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "https" | "http"))?;
    let url = url.as_str().replace('|', "%7C").replace('<', "%3C").replace('>', "%3E").replace(' ', "%20");
    // The URL and its label share a section, both escaped.
    (escaped(&url).len() <= SECTION_MAX - LABEL_MAX * 5 - 3).then_some(url)
}

/// Disables Markdown, mentions and Slack's marks with zero-width spaces, for chats that have no other way to
/// do it.
fn without_markup(text: &str) -> String {
    let text = text.replace('@', "@\u{200b}").replace('<', "<\u{200b}");
    text.replace(']', "]\u{200b}").replace('!', "!\u{200b}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::slack::MESSAGE;
    use crate::channels::templates::{Templates, samples};

    fn templates() -> Templates {
        Templates::load(&[&MESSAGE], None).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    fn render(context: &TemplateContext) -> MessageParts {
        MessageParts::parse(&templates().render(&MESSAGE, context).unwrap()).unwrap().fitted(context)
    }

    fn messages() -> Vec<(String, MessageParts, TemplateContext)> {
        let message = |(name, context): (String, TemplateContext)| (name, render(&context), context);
        samples::all().into_iter().map(message).collect()
    }

    fn sample(name: &str) -> (MessageParts, TemplateContext) {
        let context = samples::all().into_iter().find(|(known, _)| known == name).unwrap().1;
        (render(&context), context)
    }

    /// Every text object of a message with its type, and every URL.
    fn texts(value: &Value, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => {
                if let (Some(Value::String(kind)), Some(Value::String(text))) =
                    (fields.get("type"), fields.get("text"))
                {
                    found.push((kind.clone(), text.clone()));
                }
                fields.values().for_each(|value| texts(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn payloads_for_slack() {
        for name in ["job.completed", "job.failed", "job.failed, long", "watch.expired"] {
            let (parts, context) = sample(name);
            let payload = parts.blocks(&context);
            insta::assert_snapshot!(
                format!("{name} blocks").replace(',', "").replace(' ', "-"),
                format!("{payload:#}")
            );
        }
    }

    #[test]
    fn payload_for_a_compatible_chat() {
        let (parts, context) = sample("job.completed");
        let payload = parts.attachments(&context);
        insta::assert_snapshot!("job.completed-attachments", format!("{payload:#}"));
    }

    #[test]
    fn a_message_is_within_every_limit_for_any_event() {
        for (name, parts, context) in messages() {
            let payload = parts.blocks(&context);
            let (mut all, blocks) = (Vec::new(), payload["blocks"].as_array().unwrap());
            texts(&payload, &mut all);
            let total: usize = all.iter().map(|(_, text)| text.chars().count()).sum();
            assert!(total <= TOTAL_MAX + 500, "{name}: {total}");
            assert!(blocks[0]["text"]["text"].as_str().unwrap().chars().count() <= TITLE_MAX, "{name}");
            for (kind, text) in &all {
                assert!((1..=SECTION_MAX).contains(&text.chars().count()), "{name}: {kind} {text}");
            }
            for section in payload["attachments"][0]["blocks"].as_array().into_iter().flatten() {
                assert!((1..=10).contains(&section["fields"].as_array().unwrap().len()), "{name}");
            }
        }
    }

    #[test]
    fn no_text_mentions_a_user_or_contains_a_link() {
        for (name, parts, context) in messages() {
            let (mut all, sent) = (Vec::new(), parts.blocks(&context));
            texts(&sent, &mut all);
            for (kind, text) in all {
                match kind.as_str() {
                    "plain_text" => assert!(!text.contains(['<', '>']), "{name}: {text}"),
                    "mrkdwn" => {
                        let is_label = text.starts_with('*');
                        let marks = if is_label { (0, 0) } else { (1, 1) };
                        assert_eq!(
                            (text.matches('<').count(), text.matches('>').count()),
                            marks,
                            "{name}: {text}"
                        );
                        let is_ours = text.starts_with("<!date^") || text.starts_with("<http");
                        assert!(is_label || is_ours, "{name}: {text}");
                        assert!(is_label || text.matches('|').count() == 1, "{name}: {text}");
                    }
                    other => panic!("{name}: {other}"),
                }
            }
            assert!(!sent["text"].as_str().unwrap().contains(['<', '>']), "{name}");
            let sent = sent.to_string();
            let counts = ["\"mrkdwn\",", "\"verbatim\":true"].map(|part| sent.matches(part).count());
            assert_eq!(counts[0], counts[1], "{name}: every mrkdwn object is verbatim");
            let mut with_link = parts.attachments(&context);
            // The target of a link does not count as text.
            for field in ["title_link", "thumb_url"] {
                with_link["attachments"][0][field] = Value::Null;
            }
            for elsewhere in [with_link.to_string(), parts.compatible_text(&context).to_string()] {
                for mark in ["<!", "<@", "@channel", "@U123", "](", "\u{202e}"] {
                    assert!(!elsewhere.contains(mark), "{name}: {mark}");
                }
            }
            let alone = parts.slack_text(&context);
            assert!(!alone["text"].as_str().unwrap().contains(['<', '>']), "{name}");
        }
    }

    #[test]
    fn a_message_for_slack_says_what_happened_to_what_with_bold_labels() {
        let (parts, context) = sample("job.not_found");
        let payload = parts.blocks(&context);
        let mut all = Vec::new();
        texts(&payload, &mut all);
        let (header, rest): (Vec<_>, Vec<_>) = all.iter().partition(|(_, text)| text.contains("Not found:"));
        assert_eq!(header, [&("plain_text".to_owned(), "\u{2753} Not found: job_abc123def456".to_owned())]);
        let labelled: Vec<&str> =
            rest.iter().map(|(_, text)| text.as_str()).filter(|text| text.starts_with('*')).collect();
        assert_eq!(
            labelled,
            [
                "*Provider*\nmuvi",
                "*Status*\nprocessing",
                "*Progress*\n10 %",
                "*customer*\nAda",
                "*orderId*\n42",
                "*Metadata*",
                "*Why Ringback ended the watch*\nThe provider does not know this job.",
                "*What the provider says*\nHTTP 404 JOB_NOT_FOUND: Job not found (request req_2)",
            ]
        );
    }

    #[test]
    fn a_text_that_slack_would_format_has_a_plain_label() {
        let object =
            |value: &str| labelled(&NameValue { name: "Code <a>".into(), value: value.into() }, FIELD_MAX);
        for literal in
            ["job_5s_completed", "a & b <@U1>", "12:30:45", "{\"a\":1,\"b\":[2]}", "a:\nb", "me@mail.example"]
        {
            let text = format!("*Code &lt;a&gt;*\n{}", escaped(literal));
            assert_eq!(
                object(literal),
                json!({ "type": "mrkdwn", "text": text, "verbatim": true }),
                "{literal}"
            );
        }
        for formatted in [
            "*b*", "a _b_", "~/a ~/b", "`c`", "x`y`z", "> quote", "a\n> b", ":+1:", "a:100:b", "@here",
            "2 * 3",
        ] {
            let text = format!("Code &lt;a&gt;\n{}", escaped(formatted));
            assert_eq!(object(formatted), json!({ "type": "plain_text", "text": text, "emoji": false }));
        }
        let long = object(&"&".repeat(3_000));
        assert!(long["text"].as_str().is_some_and(|text| text.chars().count() <= FIELD_MAX), "{long}");
    }

    #[test]
    fn a_long_message_is_shortened_in_order_of_importance() {
        let (mut parts, context) = sample("job.completed");
        let wide = |n: usize| "&".repeat(n);
        parts.image = Some(format!("https://a.example/{}", "x".repeat(2_000)));
        parts.body = wide(600);
        parts.metadata = vec![NameValue { name: "name".into(), value: wide(400) }];
        parts.fields = vec![NameValue { name: "name".into(), value: wide(400) }; 2];
        // Escaped, an ampersand counts five.
        let fitted = parts.clone().fitted(&context);
        assert!(fitted.image.is_none(), "the picture first");
        assert_eq!((fitted.metadata.len(), fitted.fields.len(), fitted.body.len()), (1, 2, 600));
        parts.body = wide(900);
        let fitted = parts.clone().fitted(&context);
        assert_eq!((fitted.metadata.len(), fitted.fields.len()), (0, 2), "then the metadata");
        parts.body = wide(1_400);
        let fitted = parts.clone().fitted(&context);
        assert!(fitted.metadata.is_empty() && fitted.fields.len() < 2, "then the last fields");
        assert_eq!(fitted.body.len(), 1_400);
        parts.sections = vec![NameValue { name: "label".into(), value: wide(1_000) }];
        let fitted = parts.clone().fitted(&context);
        assert!(fitted.fields.is_empty(), "all fields before a text");
        assert!(fitted.sections[0].value.ends_with('\u{2026}'), "then the end of the last text");
        assert_eq!(fitted.body.len(), 1_400);
        parts.body = wide(3_000);
        let fitted = parts.clone().fitted(&context);
        assert!(fitted.sections.is_empty() && fitted.body.ends_with('\u{2026}'), "then the end of the body");
        assert_eq!(fitted.title, parts.title);
        assert!(fitted.size() <= TOTAL_MAX);
    }

    #[test]
    fn an_image_is_shown_only_if_its_url_is_public() {
        for (url, shown) in [
            ("https://cdn.example.com/a.jpg", true),
            ("http://cdn.example.com/a.jpg", false),
            ("https://127.0.0.1/a.jpg", false),
            ("https://cdn.internal/a.jpg", false),
            ("https://cdn/a.jpg", false),
            ("data:image/png;base64,x", false),
        ] {
            let (mut parts, context) = sample("job.completed");
            parts.image = Some(url.into());
            assert_eq!(parts.clone().fitted(&context).image.is_some(), shown, "{url}");
        }
    }
}
