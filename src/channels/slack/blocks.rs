//! The parts of a message as the payload that a chat accepts: escaped, within every limit, always valid.
//!
//! Untrusted text becomes `plain_text`, in which only `&`, `<` and `>` have a meaning. Only the link and the
//! time are `mrkdwn`, which is composed here. Escaping `<` also disables `<!channel>` and `<@U…>`.
//!
//! **Limits.** Slack's blocks limit a header to 150 characters, a section to 3,000, a field to 2,000, and a
//! section to ten fields. [`TOTAL_MAX`] limits all texts together: Slack refuses somewhat more than that with
//! `msg_blocks_too_long`, which it does not document. A message over the limit is shortened in this order:
//! the image, the last fields, the end of the body, the end of the title.
//!
//! Only attachments have a colour, so the fields are in an attachment. Everything important is in `blocks`.

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
/// Two sections of ten.
const FIELDS_MAX: usize = 20;
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
    /// Link to the result.
    link: Option<Link>,
    /// URL of a small picture.
    image: Option<String>,
    /// Names and values, the most important first.
    #[serde(default)]
    fields: Vec<NameValue>,
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
        let body: Vec<String> = self.body.lines().map(|line| single_line(line, SECTION_MAX)).collect();
        let shown = |text: &str| single_line(text, FIELD_SHOWN_MAX);
        let fields = self.fields.iter();
        let fields = fields.map(|one| NameValue { name: shown(&one.name), value: shown(&one.value) });
        let mut fitted = Self {
            text: or(single_line(&self.text, TEXT_MAX), &title),
            title,
            body: truncate(body.join("\n").trim(), SECTION_MAX),
            link: self.link.and_then(|Link { label, url }| {
                Some(Link { label: or(single_line(&label, LABEL_MAX), "Open"), url: link_url(&url)? })
            }),
            image: self.image.filter(|url| url.len() <= IMAGE_URL_MAX && is_public_https(url)),
            fields: fields
                .filter(|one| !(one.name.is_empty() && one.value.is_empty()))
                .take(FIELDS_MAX)
                .collect(),
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
        let parts = [escape(&self.title), escape(&self.body), link, context.at.clone()];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join("\n")
    }

    /// Returns the total length as Slack counts it, with escapes.
    fn size(&self) -> usize {
        let chars = |text: &str| escaped(text).chars().count();
        let link = self.link.as_ref().map_or(0, |link| chars(&link.label) + chars(&link.url));
        let fields: usize = self.fields.iter().map(|one| chars(&one.name) + chars(&one.value) + 1).sum();
        let image = self.image.as_ref().map_or(0, String::len);
        let texts = chars(&self.text) + chars(&self.title) + chars(&self.body) + chars(&self.footer);
        texts + link + fields + image
    }

    fn fit(&mut self) {
        if self.size() > TOTAL_MAX {
            self.image = None;
        }
        while self.size() > TOTAL_MAX && self.fields.pop().is_some() {}
        while self.size() > TOTAL_MAX && !self.body.is_empty() {
            let half = self.body.chars().count() / 2;
            self.body = truncate(&self.body, half);
        }
        while self.size() > TOTAL_MAX && self.title.chars().count() > 1 {
            let half = self.title.chars().count() / 2;
            self.title = truncate(&self.title, half.max(1));
        }
    }

    /// Returns the message as blocks, for Slack.
    pub(super) fn blocks(&self, context: &TemplateContext) -> Value {
        let mut blocks = vec![json!({ "type": "header", "text": plain_text_object(&self.title, TITLE_MAX) })];
        let body = if self.body.is_empty() { context.summary } else { &self.body };
        let mut section = json!({ "type": "section", "text": plain_text_object(body, SECTION_MAX) });
        if let Some(url) = &self.image {
            section["accessory"] =
                json!({ "type": "image", "image_url": url, "alt_text": "A picture of the output" });
        }
        blocks.push(section);
        if let Some(Link { label, url }) = &self.link {
            // `|` would begin another label, and the marks of `mrkdwn` cannot be escaped.
            let label = label.replace(['|', '*', '_', '~', '`'], " ");
            let text = format!("<{}|{}>", escaped(url), escaped(&label));
            blocks.push(json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } }));
        }
        let date =
            format!("<!date^{}^{{date_short_pretty}} {{time_secs}}|{}>", context.at_seconds, context.at);
        let mut elements = vec![json!({ "type": "mrkdwn", "text": date })];
        if !self.footer.is_empty() {
            elements.insert(0, plain_text_object(&self.footer, FOOTER_MAX * 2));
        }
        blocks.push(json!({ "type": "context", "elements": elements }));
        let field = |NameValue { name, value }: &NameValue| {
            plain_text_object(format!("{name}\n{value}").trim(), FIELD_MAX)
        };
        let fields: Vec<Value> = self.fields.iter().map(field).collect();
        let sections: Vec<Value> =
            fields.chunks(10).map(|fields| json!({ "type": "section", "fields": fields })).collect();
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
        let fields: Vec<Value> = self.fields.iter().map(field).collect();
        let body = if self.body.is_empty() { context.summary } else { &self.body };
        let footer = [self.footer.as_str(), &context.at].join(" ");
        let mut attachment = json!({
            "fallback": without_markup(&self.text), "color": context.color, "text": without_markup(&truncate(body, ATTACHMENT_TEXT_MAX)),
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

/// Returns a `plain_text` object of at most `max` characters, escapes included.
fn plain_text_object(text: &str, max: usize) -> Value {
    let mut text = text.to_owned();
    loop {
        let safe = escaped(&text);
        let over = safe.chars().count().saturating_sub(max);
        if over == 0 {
            return json!({ "type": "plain_text", "text": safe, "emoji": false });
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
        for name in ["job.completed", "job.failed"] {
            let (parts, context) = sample(name);
            let payload = parts.blocks(&context);
            insta::assert_snapshot!(format!("{name} blocks").replace(' ', "-"), format!("{payload:#}"));
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
                        assert_eq!(
                            (text.matches('<').count(), text.matches('>').count()),
                            (1, 1),
                            "{name}: {text}"
                        );
                        assert!(text.starts_with("<!date^") || text.starts_with("<http"), "{name}: {text}");
                        assert_eq!(text.matches('|').count(), 1, "{name}: {text}");
                    }
                    other => panic!("{name}: {other}"),
                }
            }
            assert!(!sent["text"].as_str().unwrap().contains(['<', '>']), "{name}");
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
    fn a_long_message_is_shortened_in_order_of_importance() {
        let (mut parts, context) = sample("job.completed");
        let wide = |n: usize| "&".repeat(n);
        parts.image = Some(format!("https://a.example/{}", "x".repeat(2_000)));
        parts.body = wide(600);
        parts.fields = vec![NameValue { name: "name".into(), value: wide(400) }; 3];
        // Escaped, an ampersand counts five.
        let fitted = parts.clone().fitted(&context);
        assert!(fitted.image.is_none(), "the picture first");
        assert_eq!((fitted.fields.len(), fitted.body.len()), (3, 600));
        parts.body = wide(1_400);
        let fitted = parts.clone().fitted(&context);
        assert!(fitted.fields.len() < 3, "then the last fields");
        assert_eq!(fitted.body.len(), 1_400);
        parts.body = wide(3_000);
        let fitted = parts.clone().fitted(&context);
        assert!(fitted.fields.is_empty() && fitted.body.ends_with('\u{2026}'), "then the end of the body");
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
