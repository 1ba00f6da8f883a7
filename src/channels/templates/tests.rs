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
}

#[test]
fn renderings_of_missing_and_hostile_values() {
    compare("watch.expired, empty", &WITH_SNAPSHOTS);
    compare("job.failed, hostile", &[&email::SUBJECT]);
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
    for (name, by_provider) in [("job.failed", true), ("watch.expired", false), ("job.not_found", false)] {
        for file in WITH_SNAPSHOTS.iter().filter(|file| file.name != "email/subject.txt") {
            let rendered = embedded().render(file, &sample(name)).unwrap();
            let credits = rendered.contains("of the provider");
            assert_eq!(credits, by_provider && file.name == "email/message.txt", "{name}: {rendered}");
        }
    }
    let text = embedded().render(&email::TEXT, &sample("watch.expired")).unwrap();
    assert!(text.contains("\nReason:\n\n    the job did not end in time\n"), "{text}");
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
    chat/message.json: the result for the sample `job.completed` is invalid: unknown field `titel`, expected one of `text`, `title`, `body`, `link`, `image`, `fields`, `footer` at line 2 column 8
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
