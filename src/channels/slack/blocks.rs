//! A message's pieces as what a chat takes: escaped, within every limit, always valid.
//!
//! Untrusted text goes into `plain_text`, in which nothing means anything but `&`, `<` and `>`; only the
//! link and the time are `mrkdwn`, and they are put together here. `<` escaped is also the end of
//! `<!channel>` and `<@U…>`.
//!
//! **The limits** are those of Slack's blocks (a header 150 characters, a section 3,000, a field 2,000,
//! ten fields a section), and [`TOTAL_MAX`] for all together: Slack refuses somewhat more than that with
//! `msg_blocks_too_long`, which is nowhere documented. What is over budget goes in this order: the picture,
//! the last fields, the end of the body, the end of the headline.
//!
//! The ending's colour is known to attachments only, so the fields stand in one; all that matters stands in
//! `blocks`.

use serde_json::{Value, json};
use url::Url;

use crate::channels::template_context::{TemplateContext, cut, line};
use crate::channels::templates::Pieces;
use crate::egress::is_public_https;

/// All texts of a message together, in characters.
const TOTAL_MAX: usize = 10_000;

const TITLE_MAX: usize = 150;
const SECTION_MAX: usize = 3_000;
const FIELD_MAX: usize = 2_000;
/// Two sections of ten.
const FIELDS_MAX: usize = 20;
/// More of a field makes the message a page.
const FIELD_SHOWN_MAX: usize = 500;
const FOOTER_MAX: usize = 500;
const LABEL_MAX: usize = 100;
const IMAGE_URL_MAX: usize = 3_000;
/// A notification is a line.
const TEXT_MAX: usize = 300;
/// Mattermost takes some 16,000 characters, Rocket.Chat fewer by default: 5,000.
const ELSEWHERE_MAX: usize = 3_000;

/// What is understood at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Slack's own: blocks.
    Slack,
    /// Chats that take the attachments that Slack had before.
    Attachments,
}

/// The message with all that it can show.
pub(super) fn payload(dialect: Dialect, pieces: &Pieces, news: &TemplateContext) -> Value {
    let fitted = Fitted::of(pieces, news);
    match dialect {
        Dialect::Slack => fitted.blocks(news),
        Dialect::Attachments => fitted.attachments(news),
    }
}

/// The message as text alone.
pub(super) fn plain(dialect: Dialect, pieces: &Pieces, news: &TemplateContext) -> Value {
    let fitted = Fitted::of(pieces, news);
    let safe = match dialect {
        Dialect::Slack => escaped,
        Dialect::Attachments => tamed,
    };
    // In a URL these may be written so, and then mention nobody and mark nothing.
    let quiet = |url: &str| escaped(&url.replace('@', "%40").replace('[', "%5B").replace(']', "%5D"));
    let link = fitted.link.as_ref().map(|(_, url)| quiet(url)).unwrap_or_default();
    let parts = [safe(&fitted.title), safe(&fitted.body), link, news.at.clone()];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let text = parts.join("\n");
    match dialect {
        Dialect::Slack => json!({ "text": text, "mrkdwn": false, "unfurl_links": false }),
        Dialect::Attachments => json!({ "text": text }),
    }
}

/// Pieces within the limits, not escaped yet.
struct Fitted {
    text: String,
    title: String,
    body: String,
    link: Option<(String, String)>,
    image: Option<String>,
    fields: Vec<(String, String)>,
    footer: String,
}

impl Fitted {
    fn of(pieces: &Pieces, news: &TemplateContext) -> Self {
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let title = or(line(&pieces.title, TITLE_MAX), news.title);
        let link = pieces.link.as_ref().and_then(|link| {
            let label = or(line(&link.label, LABEL_MAX), "Open");
            linked(&link.url).map(|url| (label, url))
        });
        let field = |name: &str, value: &str| (line(name, FIELD_SHOWN_MAX), line(value, FIELD_SHOWN_MAX));
        let mut fitted = Self {
            text: or(line(&pieces.text, TEXT_MAX), &title),
            body: cut(clean(pieces.body.as_deref().unwrap_or_default()).trim(), SECTION_MAX),
            image: pieces.image.clone().filter(|url| url.len() <= IMAGE_URL_MAX && is_public_https(url)),
            fields: pieces.fields.iter().map(|one| field(&one.name, &one.value)).collect(),
            footer: line(pieces.footer.as_deref().unwrap_or_default(), FOOTER_MAX),
            title,
            link,
        };
        fitted.fields.retain(|(name, value)| !name.is_empty() || !value.is_empty());
        fitted.fields.truncate(FIELDS_MAX);
        fitted.fit();
        fitted
    }

    /// As Slack counts, escapes included.
    fn size(&self) -> usize {
        let chars = |text: &str| escaped(text).chars().count();
        let link = self.link.as_ref().map_or(0, |(label, url)| chars(label) + chars(url));
        let fields: usize = self.fields.iter().map(|(name, value)| chars(name) + chars(value) + 1).sum();
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
            self.body = cut(&self.body, half);
        }
        while self.size() > TOTAL_MAX && self.title.chars().count() > 1 {
            let half = self.title.chars().count() / 2;
            self.title = cut(&self.title, half.max(1));
        }
    }

    fn blocks(&self, news: &TemplateContext) -> Value {
        let mut blocks = vec![json!({ "type": "header", "text": words(&self.title, TITLE_MAX) })];
        let body = if self.body.is_empty() { news.summary } else { &self.body };
        let mut section = json!({ "type": "section", "text": words(body, SECTION_MAX) });
        if let Some(url) = &self.image {
            section["accessory"] =
                json!({ "type": "image", "image_url": url, "alt_text": "A picture of the output" });
        }
        blocks.push(section);
        if let Some((label, url)) = &self.link {
            let text = format!("<{}|{}>", escaped(url), label_of(label));
            blocks.push(json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } }));
        }
        let date = format!("<!date^{}^{{date_short_pretty}} {{time_secs}}|{}>", news.at_seconds, news.at);
        let mut small = vec![json!({ "type": "mrkdwn", "text": date })];
        if !self.footer.is_empty() {
            small.insert(0, words(&self.footer, FOOTER_MAX * 2));
        }
        blocks.push(json!({ "type": "context", "elements": small }));
        let fields: Vec<Value> = self
            .fields
            .iter()
            .map(|(name, value)| words(format!("{name}\n{value}").trim(), FIELD_MAX))
            .collect();
        let sections: Vec<Value> =
            fields.chunks(10).map(|fields| json!({ "type": "section", "fields": fields })).collect();
        let mut payload = json!({
            "text": escaped(&self.text), "mrkdwn": false, "unfurl_links": false, "unfurl_media": false,
            "blocks": blocks,
        });
        if !sections.is_empty() {
            let fallback = escaped(&self.text);
            payload["attachments"] =
                json!([{ "color": news.color, "fallback": fallback, "blocks": sections }]);
        }
        payload
    }

    fn attachments(&self, news: &TemplateContext) -> Value {
        let fields: Vec<Value> = self
            .fields
            .iter()
            .map(|(name, value)| {
                let short = value.chars().count() <= 40;
                json!({ "short": short, "title": tamed(name), "value": tamed(value) })
            })
            .collect();
        let body = if self.body.is_empty() { news.summary } else { &self.body };
        let footer = [self.footer.as_str(), &news.at].join(" ");
        let mut attachment = json!({
            "fallback": tamed(&self.text), "color": news.color, "text": tamed(&cut(body, ELSEWHERE_MAX)),
            "fields": fields, "footer": tamed(footer.trim()),
        });
        if let Some((label, url)) = &self.link {
            attachment["title"] = tamed(label).into();
            attachment["title_link"] = url.as_str().into();
        }
        if let Some(url) = &self.image {
            attachment["thumb_url"] = url.as_str().into();
        }
        json!({ "text": tamed(&self.text), "attachments": [attachment] })
    }
}

/// A text that means nothing, within `max` characters once it is escaped.
fn words(text: &str, max: usize) -> Value {
    let mut text = text.to_owned();
    loop {
        let safe = escaped(&text);
        let over = safe.chars().count().saturating_sub(max);
        if over == 0 {
            return json!({ "type": "plain_text", "text": safe, "emoji": false });
        }
        let keep = text.chars().count().saturating_sub(over.div_ceil(5).max(1));
        text = cut(&text, keep.max(1));
    }
}

/// Lines stay, other control characters and turns of direction go.
fn clean(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|text| line(text, SECTION_MAX)).collect();
    lines.join("\n")
}

/// These three, and nothing else.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// What stands in a link: besides, `|` would begin a label, and the marks of `mrkdwn` cannot be escaped.
fn label_of(label: &str) -> String {
    let plain: String =
        label.chars().map(|c| if matches!(c, '|' | '*' | '_' | '~' | '`') { ' ' } else { c }).collect();
    escaped(&plain)
}

/// A URL that ends where it should when it stands between `<` and `|`.
fn linked(url: &str) -> Option<String> {
    let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "https" | "http"))?;
    let url = url.as_str().replace('|', "%7C").replace('<', "%3C").replace('>', "%3E").replace(' ', "%20");
    // With its label in one section, both escaped.
    (escaped(&url).len() <= SECTION_MAX - LABEL_MAX * 5 - 3).then_some(url)
}

/// For chats that read Markdown, mentions and Slack's own marks in any text, and know no way to say that
/// a text has none: a space without width takes the meaning, and nobody sees it.
fn tamed(text: &str) -> String {
    let mut tame = String::with_capacity(text.len());
    for c in text.chars() {
        tame.push(c);
        if matches!(c, '@' | '<' | ']' | '!') {
            tame.push('\u{200b}');
        }
    }
    tame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::template_context::Field;
    use crate::channels::templates::{Templates, samples};

    fn templates() -> Templates {
        Templates::load(None).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
    }

    fn messages() -> Vec<(String, Pieces, TemplateContext)> {
        let templates = templates();
        let message =
            |(name, news): (String, TemplateContext)| (name, templates.pieces(&news).unwrap(), news);
        samples::all().into_iter().map(message).collect()
    }

    fn sample(name: &str) -> (Pieces, TemplateContext) {
        let news = samples::all().into_iter().find(|(known, _)| known == name).unwrap().1;
        (templates().pieces(&news).unwrap(), news)
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
    fn what_slack_is_sent_of_a_job_that_completed_and_of_one_that_failed() {
        for name in ["job.completed", "job.failed"] {
            let (pieces, news) = sample(name);
            let payload = payload(Dialect::Slack, &pieces, &news);
            insta::assert_snapshot!(format!("{name} blocks").replace(' ', "-"), format!("{payload:#}"));
        }
    }

    #[test]
    fn what_a_chat_elsewhere_is_sent_of_a_job_that_completed() {
        let (pieces, news) = sample("job.completed");
        let payload = payload(Dialect::Attachments, &pieces, &news);
        insta::assert_snapshot!("job.completed-attachments", format!("{payload:#}"));
    }

    #[test]
    fn whatever_an_event_says_a_message_is_within_every_limit() {
        for (name, pieces, news) in messages() {
            let payload = payload(Dialect::Slack, &pieces, &news);
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
    fn no_text_mentions_anybody_or_pretends_to_be_a_link() {
        for (name, pieces, news) in messages() {
            let (mut all, sent) = (Vec::new(), payload(Dialect::Slack, &pieces, &news));
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
            let mut with_link = payload(Dialect::Attachments, &pieces, &news);
            // Where a link leads is no text.
            for field in ["title_link", "thumb_url"] {
                with_link["attachments"][0][field] = Value::Null;
            }
            for elsewhere in [with_link.to_string(), plain(Dialect::Attachments, &pieces, &news).to_string()]
            {
                for mark in ["<!", "<@", "@channel", "@U123", "](", "\u{202e}"] {
                    assert!(!elsewhere.contains(mark), "{name}: {mark}");
                }
            }
            let alone = plain(Dialect::Slack, &pieces, &news);
            assert!(!alone["text"].as_str().unwrap().contains(['<', '>']), "{name}");
        }
    }

    #[test]
    fn what_is_over_budget_goes_in_order_of_its_worth() {
        let (mut pieces, news) = sample("job.completed");
        let wide = |n: usize| "&".repeat(n);
        pieces.image = Some(format!("https://a.example/{}", "x".repeat(2_000)));
        pieces.body = Some(wide(600));
        pieces.fields = vec![Field { name: "name".into(), value: wide(400) }; 3];
        // Escaped, an ampersand counts five.
        let fitted = Fitted::of(&pieces, &news);
        assert!(fitted.image.is_none(), "the picture first");
        assert_eq!((fitted.fields.len(), fitted.body.len()), (3, 600));
        pieces.body = Some(wide(1_400));
        let fitted = Fitted::of(&pieces, &news);
        assert!(fitted.fields.len() < 3, "then the last fields");
        assert_eq!(fitted.body.len(), 1_400);
        pieces.body = Some(wide(3_000));
        let fitted = Fitted::of(&pieces, &news);
        assert!(fitted.fields.is_empty() && fitted.body.ends_with('\u{2026}'), "then the end of the body");
        assert_eq!(fitted.title, pieces.title);
        assert!(fitted.size() <= TOTAL_MAX);
    }

    #[test]
    fn a_picture_is_shown_if_everybody_can_fetch_it() {
        for (url, shown) in [
            ("https://cdn.example.com/a.jpg", true),
            ("http://cdn.example.com/a.jpg", false),
            ("https://127.0.0.1/a.jpg", false),
            ("https://cdn.internal/a.jpg", false),
            ("https://cdn/a.jpg", false),
            ("data:image/png;base64,x", false),
        ] {
            let (mut pieces, news) = sample("job.completed");
            pieces.image = Some(url.into());
            assert_eq!(Fitted::of(&pieces, &news).image.is_some(), shown, "{url}");
        }
    }
}
