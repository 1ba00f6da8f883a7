//! Loading, rendering and replacing templates.

use super::*;
use crate::channels::{TABLE, email, load_templates, slack};

fn all() -> Vec<&'static TemplateFile> {
    TABLE.iter().flat_map(|channel| channel.templates).copied().collect()
}

fn embedded() -> Templates {
    load_templates(None).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn load(files: &[(&str, &str)]) -> Result<Templates, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let begin = format!("{}/", folder.path().display());
    let loaded = load_templates(Some(folder.path()));
    loaded.map_err(|errors| errors.iter().map(|line| line.replace(&begin, "")).collect())
}

fn sample(name: &str) -> TemplateContext {
    samples::all().into_iter().find(|(known, _)| known == name).unwrap().1
}

#[test]
fn every_embedded_template_renders_every_sample() {
    for file in all() {
        assert_eq!(embedded().render_samples(file), Ok(()), "{file:?}");
    }
}

/// Templates with snapshots. Another channel checks its renderings in its own tests.
const WITH_SNAPSHOTS: [&TemplateFile; 4] = [&email::SUBJECT, &email::TEXT, &email::HTML, &slack::MESSAGE];

/// Compares the renderings of a sample with the snapshots.
fn compare(sample_name: &str, files: &[&'static TemplateFile]) {
    for file in files {
        let rendered = embedded().render(file, &sample(sample_name)).unwrap();
        let name = format!("{sample_name} {}", file.name).replace([' ', '/'], "-").replace(',', "");
        insta::assert_snapshot!(name, rendered);
    }
}

#[test]
fn renderings_of_ordinary_endings() {
    compare("job.completed", &WITH_SNAPSHOTS);
    compare("job.failed", &WITH_SNAPSHOTS);
    compare("watch.expired", &WITH_SNAPSHOTS);
}

// The script .ci/pictures draws the pictures of docs/MESSAGES.md from the snapshots.
#[test]
fn renderings_of_long_values() {
    compare("job.completed, long", &WITH_SNAPSHOTS);
    compare("job.failed, long", &WITH_SNAPSHOTS);
}

#[test]
fn renderings_of_missing_and_hostile_values() {
    compare("watch.expired, empty", &WITH_SNAPSHOTS);
    compare("job.failed, hostile", &[&email::SUBJECT]);
}

#[test]
fn renderings_of_events_about_no_job() {
    let without_html = [&email::SUBJECT, &email::TEXT, &slack::MESSAGE];
    compare("destination.disabled", &WITH_SNAPSHOTS);
    compare("destination.recovered", &without_html);
    compare("delivery.exhausted", &without_html);
    compare("group.completed", &without_html);
}

#[test]
fn no_hostile_value_becomes_markup() {
    let html = embedded().render(&email::HTML, &sample("job.completed, hostile")).unwrap();
    for markup in ["<script", "<img src=x", "href=\"javascript", "\" onload=", "\u{202e}"] {
        assert!(!html.contains(markup), "{markup} in {html}");
    }
}

#[test]
fn a_sentence_of_ringback_is_not_credited_to_the_provider() {
    let (provider, ringback) = ("What the provider says", "Why Ringback ended the watch");
    for (name, labels) in [
        ("job.completed", vec![]),
        ("job.failed", vec![provider]),
        ("watch.expired", vec![ringback]),
        ("watch.expired, empty", vec![ringback]),
        ("job.not_found", vec![ringback, provider]),
    ] {
        for file in WITH_SNAPSHOTS.iter().filter(|file| file.name != "email/subject.txt") {
            let rendered = embedded().render(file, &sample(name)).unwrap();
            let found: Vec<&str> =
                [ringback, provider].into_iter().filter(|label| rendered.contains(label)).collect();
            assert_eq!(found, labels, "{name}: {rendered}");
        }
    }
    let text = embedded().render(&email::TEXT, &sample("watch.expired")).unwrap();
    let reason = "Why Ringback ended the watch:\n\n    No poll succeeded after the watch expired, so it is not known whether the job has ended; last error: HTTP 503.\n";
    assert!(text.contains(reason), "{text}");
}

/// Returns the text that a reader sees in HTML or in a text, as one line and without URLs.
fn visible(rendered: &str) -> String {
    let replace =
        |text: &str, pattern: &str| regex::Regex::new(pattern).unwrap().replace_all(text, " ").into_owned();
    let body =
        rendered.split_once("<body").map_or_else(|| rendered.to_owned(), |(_, body)| format!("<{body}"));
    // The second pattern is the shortened form of a URL.
    let text = ["<[^>]*>", r"https?://\S+", r"\S+/\x{2026}/\S+"]
        .into_iter()
        .fold(body, |text, it| replace(&text, it));
    let entities =
        [("&nbsp;", " "), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    let text = entities.into_iter().fold(text, |text, (entity, is)| text.replace(entity, is));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns how often a text contains a fact as a word of its own.
fn count(text: &str, fact: &str) -> usize {
    let (text, fact) = (text.to_lowercase(), fact.to_lowercase());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let stands_alone = |(at, found): &(usize, &str)| {
        !text[..*at].ends_with(is_word) && !text[at + found.len()..].starts_with(is_word)
    };
    text.match_indices(&fact).filter(stands_alone).count()
}

/// Returns the facts of an event, without those that stand within another.
fn facts(context: &TemplateContext) -> Vec<String> {
    let TemplateContext { job, provider, display_name, watch, id, at, .. } = context;
    let mut facts: Vec<String> = [job, provider, display_name, watch, id, at].map(Clone::clone).into();
    facts.push(context.title.to_owned());
    let TemplateContext { status, created, completed, took, error, .. } = context;
    facts.extend([status, created, completed, took].into_iter().flatten().cloned());
    facts.extend(context.progress.map(|progress| format!("{progress} %")));
    facts.extend(error.iter().filter_map(|error| error.code.clone()));
    facts.extend(context.metadata.iter().map(|field| field.value.clone()));
    facts
}

#[test]
fn no_fact_appears_more_than_twice_in_a_message() {
    for (name, context) in samples::all().into_iter().filter(|(name, _)| !name.contains("hostile")) {
        let named = TemplateContext { display_name: "Nightly render".into(), ..context.clone() };
        for context in [context, named] {
            let render = |file| embedded().render(file, &context).unwrap();
            let with_subject = |file| format!("{} {}", render(&email::SUBJECT), visible(&render(file)));
            let chat: serde_json::Value = serde_json::from_str(&render(&slack::MESSAGE)).unwrap();
            // Slack shows the text in the notification only.
            let chat = serde_json::Value::Object(
                chat.as_object().unwrap().clone().into_iter().filter(|(name, _)| name != "text").collect(),
            );
            let shown = [&email::TEXT, &email::HTML].map(with_subject).into_iter();
            for text in shown.chain([visible(&chat.to_string())]) {
                let mut rest = text.clone();
                for reason in &context.reasons {
                    let reason = visible(&reason.value);
                    assert!(count(&text, &reason) <= 2, "{name}: `{reason}` in {text}");
                    rest = rest.replace(&reason, " ");
                }
                for fact in facts(&context).iter().map(|fact| visible(fact)).filter(|fact| !fact.is_empty()) {
                    assert!(count(&rest, &fact) <= 2, "{name}: `{fact}` in {rest}");
                }
            }
        }
    }
}

#[test]
fn a_display_name_replaces_the_job_id_in_subject_and_headline() {
    let context = TemplateContext { display_name: "Nightly render".into(), ..sample("job.completed") };
    let render = |file| embedded().render(file, &context).unwrap();
    assert_eq!(render(&email::SUBJECT), "Completed: Nightly render (muvi)");
    assert!(
        render(&email::TEXT)
            .starts_with("Completed: Nightly render\n\nJob:        job_abc123def456\nProvider:")
    );
    let html = visible(&render(&email::HTML));
    assert!(html.contains("Completed Nightly render") && html.contains("Job job_abc123def456"), "{html}");
    let chat = render(&slack::MESSAGE);
    assert!(
        chat.contains("Completed: Nightly render\"") && chat.contains("\"value\": \"job_abc123def456\""),
        "{chat}"
    );
}

#[test]
fn metadata_stands_below_a_heading() {
    for (name, has_metadata) in [("job.failed", true), ("job.failed, empty", false)] {
        let text = embedded().render(&email::TEXT, &sample(name)).unwrap();
        assert_eq!(text.contains("\nMetadata:\n  customer: Ada\n"), has_metadata, "{text}");
        assert_eq!(text.contains("Metadata"), has_metadata, "{text}");
        let html = visible(&embedded().render(&email::HTML, &sample(name)).unwrap());
        assert_eq!(html.contains(" Metadata customer Ada "), has_metadata, "{html}");
        assert_eq!(html.contains("Metadata"), has_metadata, "{html}");
    }
}

/// Returns the contrast of two colours, from 1 to 21 (source: WCAG 2.2, contrast ratio).
fn contrast(one: &str, other: &str) -> f64 {
    let luminance = |color: &str| -> f64 {
        let part = |at: usize| {
            let value = f64::from(u8::from_str_radix(&color[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    };
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

const LIGHT_CARD: &str = "#ffffff";
const DARK_CARD: &str = "#22252c";

#[test]
fn every_text_of_a_mail_has_enough_contrast_in_light_and_dark() {
    let (light_page, light_quote) = ("#f3f4f6", "#f3f4f6");
    let (dark_page, dark_quote) = ("#16181d", "#2c303a");
    let pairs = [
        // Text, and text in a quote.
        ("#1d2127", LIGHT_CARD),
        ("#1d2127", light_quote),
        ("#f1f3f5", DARK_CARD),
        ("#f1f3f5", dark_quote),
        // Names of fields, and the foot of the page.
        ("#5b6470", LIGHT_CARD),
        ("#5b6470", light_page),
        ("#a8b0bd", DARK_CARD),
        ("#a8b0bd", dark_page),
        // Links.
        ("#1f5fbf", LIGHT_CARD),
        ("#8ab4f8", DARK_CARD),
        // The button, also if a mail reader makes its text black.
        ("#ffffff", "#1974dd"),
        ("#000000", "#1974dd"),
    ];
    for (text, background) in pairs {
        let ratio = contrast(text, background);
        assert!(ratio >= 4.5, "{text} on {background}: {ratio:.2}");
    }
    let borders = ["#dfe3e8", "#3a3f4a"];
    let known =
        |color: &str| pairs.iter().any(|(a, b)| [*a, *b].contains(&color)) || borders.contains(&color);
    let color = regex::Regex::new("#[0-9a-fA-F]{3,8}").unwrap();
    for found in color.find_iter(email::HTML.source) {
        assert!(known(found.as_str()), "{} is in no pair of this test", found.as_str());
    }
}

#[test]
fn the_colour_of_the_status_survives_dark_mode() {
    for (name, context) in samples::all() {
        let color = context.color;
        // As the background of the status, also if a mail reader makes the text black.
        for text in ["#ffffff", "#000000"] {
            assert!(contrast(text, color) >= 4.5, "{name}: {text} on {color}");
        }
        // As a bar, on a page that is light, dark, or darkened by the mail reader.
        for page in [LIGHT_CARD, DARK_CARD, "#121212"] {
            assert!(contrast(page, color) >= 3.0, "{name}: {page} on {color}");
        }
        let html = embedded().render(&email::HTML, &context).unwrap();
        let (head, body) = html.split_once("<body").unwrap();
        let (_, dark) = head.split_once("prefers-color-scheme: dark").unwrap();
        for class in ["bar", "status"] {
            assert!(!dark.contains(&format!(".{class}")), "a dark style replaces the colour of .{class}");
            let (_, tag) = body.split_once(&format!("class=\"{class}\"")).unwrap();
            let (tag, _) = tag.split_once('>').unwrap();
            let (attribute, style) = (format!("bgcolor=\"{color}\""), format!("background:{color};"));
            assert!(tag.contains(&attribute) && tag.contains(&style), "{name}: {tag}");
        }
        let status = format!("{} {}", context.symbol, context.title);
        assert!(visible(&html).contains(&status), "{name}: the status is a text");
    }
}

#[test]
fn an_operators_template_replaces_the_embedded_one() {
    let templates = load(&[("email/subject.txt", "{{ event }} of {{ job }}"), (".hidden", "x")]).unwrap();
    let context = sample("job.completed");
    assert_eq!(
        templates.render(&email::SUBJECT, &context),
        Ok("job.completed of job_abc123def456".to_owned())
    );
    let html = templates.render(&email::HTML, &context);
    assert_eq!(html, embedded().render(&email::HTML, &context));
}

// Public report: neomutt/neomutt#4464.
#[test]
fn a_byte_order_mark_of_a_template_is_not_in_the_subject() {
    let templates = load(&[("email/subject.txt", "\u{feff}{{ event }} of {{ job }}\r\n")]).unwrap();
    let subject = templates.render(&email::SUBJECT, &sample("job.completed"));
    assert_eq!(subject.unwrap().trim_end(), "job.completed of job_abc123def456");
    let errors = load(&[("email/subject.txt", "{{ event }}\n\u{feff}x"), ("email/message.txt", "aaa\0")]);
    insta::assert_snapshot!(errors.unwrap_err().join("\n"), @r"
    email/message.txt: contains a NUL character in line 1; remove it
    email/subject.txt: contains a byte order mark (U+FEFF) in line 2; remove it
    ");
}

#[test]
fn an_invalid_template_is_reported_with_its_file_and_line() {
    let unending = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    let huge = "{{ 'x' * 70000 }}";
    let errors = load(&[
        ("email/subject.txt", "{{ title }}\n{{ titel }}"),
        ("email/message.txt", "a\n{% if %}"),
        ("email/message.html", unending),
        ("chat/message.json", "{\"text\": {{ title }},\n \"titel\": 1}"),
    ]);
    insta::assert_snapshot!(errors.unwrap_err().join("\n"), @r"
    email/message.txt:2: syntax error: unexpected end of block
    chat/message.json: the result for the sample `job.completed` is invalid: unknown field `titel`, expected one of `text`, `title`, `body`, `sections`, `link`, `image`, `fields`, `metadata`, `footer` at line 2 column 8
    email/message.html:1: engine ran out of fuel, with the sample `job.completed`
    email/subject.txt:2: undefined value: `titel` is undefined; the nearest is `title`, with the sample `job.completed`
    ");
    let errors = load(&[
        ("emial/message.html", "x"),
        ("email/message.htm", "x"),
        ("README.md", "x"),
        ("email/message.txt", huge),
        ("email/message.html", "{{ error.message }}"),
        ("chat/message.json", "{\"text\": {{ title }}}"),
    ]);
    insta::assert_snapshot!(errors.unwrap_err().join("\n"), @r"
    README.md: there is no such template; the names are email/subject.txt, email/message.txt, email/message.html, chat/message.json
    email/message.htm: there is no such template; the nearest is email/message.html
    emial/message.html: there is no such template; the nearest is email/message.html
    chat/message.json: the result for the sample `job.completed` is invalid: missing field `title` at line 1 column 21
    email/message.html:1: undefined value: `error.message` is undefined (`error` may be none: test it first, with {% if error %}), with the sample `job.completed`
    email/message.txt: the result for the sample `job.completed` has 70000 bytes; the maximum is 65536
    ");
    let errors = load_templates(Some(Path::new("/nowhere"))).unwrap_err();
    assert!(errors[0].starts_with("templates.path: the folder /nowhere cannot be read: "), "{errors:?}");
}

#[test]
fn an_unknown_name_is_reported_with_the_nearest_known_one() {
    let errors = load(&[
        ("email/subject.txt", "{{ titel | upper }}"),
        ("email/message.txt", "{% for one in outputs %}{{ one.lnk }}{% endfor %}"),
        ("email/message.html", "{% if error %}{{ error.cod }}{% endif %}"),
        ("chat/message.json", "{\"text\": {{ sumary }}, \"title\": {{ title }}}"),
    ]);
    insta::assert_snapshot!(errors.unwrap_err().join("\n"), @r"
    chat/message.json:1: undefined value: `sumary` is undefined; the nearest is `summary`, with the sample `job.completed`
    email/message.html:1: undefined value: `error.cod` is undefined; the nearest is `error.code`, with the sample `job.completed, hostile`
    email/message.txt:1: undefined value: `one.lnk` is undefined; the nearest is `one.link`, with the sample `job.completed`
    email/subject.txt:1: undefined value: `titel` is undefined; the nearest is `title`, with the sample `job.completed`
    ");
}

#[test]
fn a_template_that_fails_later_is_replaced_for_that_message() {
    let source = "{% if job == 'job_rare' %}{{ nothing }}{% endif %}mine";
    let templates = load(&[("email/message.txt", source)]).unwrap();
    let mut context = sample("job.completed");
    assert_eq!(templates.render(&email::TEXT, &context).as_deref(), Ok("mine"));
    context.job = "job_rare".into();
    assert_eq!(templates.render(&email::TEXT, &context), embedded().render(&email::TEXT, &context));
}
