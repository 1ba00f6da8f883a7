//! A first definition, made from the URL of a job and from answers of its API.
//!
//! The guesses are about names and words that many job APIs use. A guess cannot be distinguished from a fact, so
//! every part that no answer confirms has a comment that begins with `# ?`, and is listed for the author. The examples
//! have no `expect`: `provider check` then shows what each answer means, for the author to confirm.

mod guess;
mod input;
mod listed;
mod sent;

use std::fmt::Write as _;

use serde_json::Value;
use url::Url;

use guess::{Guess, Meaning, Word, quoted};
use input::is_key_name;
pub use input::{SkeletonAuth, SkeletonInput};
use listed::ListedJob;
use sent::Sent;

/// Name of the sample job if neither the URL nor an answer has an id.
const SAMPLE_ID: &str = "job_1";

/// A first definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skeleton {
    /// Text of the file.
    pub text: String,
    /// What the author must decide, as sentences.
    pub questions: Vec<String>,
}

/// Makes a first definition. The error is a sentence that names the argument.
pub fn skeleton(input: &SkeletonInput<'_>) -> Result<Skeleton, String> {
    let mut answers = Vec::new();
    for (n, text) in (1..).zip(&input.answers) {
        let answer: Value = serde_json::from_str(text).map_err(|error| {
            format!("answer {n} is not JSON ({error}); give the body of an answer as it was received")
        })?;
        answers.push(answer);
    }
    if answers.is_empty() {
        return Err("the standard input has no answer; give the body of at least one".to_owned());
    }
    let target = Target::find(input, &answers)?;
    let listed = ListedJob::find(&answers, &target.job_id);
    let guess = Guess::of(listed.as_ref().map_or(&answers, |listed| &listed.jobs), &target.job_id);
    let mut writer = Writer::default();
    writer.head(input.id);
    writer.job_id(&target);
    writer.auth(&target);
    writer.request(&target);
    if let Some(listed) = &listed {
        writer.line(format!("\n[response]\nunwrap = {}", quoted(&listed.path)));
    }
    writer.status(&guess);
    writer.doubts(&guess);
    writer.extract(&guess);
    writer.errors();
    writer.limits();
    writer.examples(&input.answers, &target.job_id);
    Ok(Skeleton { text: writer.text, questions: writer.questions })
}

/// Where a job is polled.
struct Target {
    /// URL without its query, with `{job_id}`.
    url: String,
    host: String,
    query: Vec<(String, String)>,
    sent: Sent,
    job_id: String,
    /// A part of the URL that could be the id instead.
    doubt: Option<String>,
    auth: SkeletonAuth,
    /// Names of further credentials in the request.
    left_out: Vec<String>,
}

impl Target {
    fn find(input: &SkeletonInput<'_>, answers: &[Value]) -> Result<Self, String> {
        // The braces would be encoded.
        let marker = "ringback-job-id";
        let (mut sent, key_sent) = Sent::read(input)?;
        let has_marker = input.url.contains("{job_id}") || sent.has_marker();
        let url = Url::parse(&input.url.replace("{job_id}", marker))
            .map_err(|error| format!("--url: {error}; write it as https://api.example.com/v1/jobs/job_1"))?;
        let Some(host) = url.host_str().filter(|_| url.scheme() == "https") else {
            return Err(
                "--url: must begin with https://; for a server of your own, providers.NAME.base_url \
                        replaces scheme, host and port later"
                    .to_owned(),
            );
        };
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let segments: Vec<String> = url.path_segments().into_iter().flatten().map(decoded).collect();
        let query: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let of_body = sent.texts();
        let parts = || segments.iter().chain(query.iter().map(|(_, value)| value)).chain(&of_body);
        let mut doubt = None;
        let (in_url, job_id) = if has_marker {
            let job_id = input.job_id.map(str::to_owned).or_else(|| listed::job_id(answers));
            (marker.to_owned(), job_id.unwrap_or_else(|| SAMPLE_ID.to_owned()))
        } else {
            // An answer names the job. A part that only has the form of an id can be that of an account.
            // Of several that do, the last one: those before it are what the job belongs to. An answer has the id of
            // the job at its top.
            let named = || {
                let ids = || parts().filter(|part| listed::is_id(answers, part));
                ids().find(|part| listed::is_top_id(answers, part)).or_else(|| ids().next_back())
            };
            let contained = || parts().rfind(|part| listed::contains(answers, part));
            let like_id =
                |parts: &[String]| parts.iter().rev().find(|part| guess::looks_like_id(part)).cloned();
            let found = match input.job_id {
                Some(job_id) => parts().find(|part| *part == job_id).cloned(),
                None => named().or_else(contained).cloned().or_else(|| {
                    let (of_body, of_url) = (like_id(&of_body), like_id(&segments));
                    if of_body.is_some() && of_url.is_some() {
                        doubt.clone_from(&of_url);
                    }
                    of_body.or(of_url)
                }),
            };
            let found = found.ok_or(
                "--url: no part of the path, the query or the body is the id of the job; write {job_id} in its place, and give the id with --job-id",
            )?;
            (found.clone(), found)
        };
        let path: Vec<String> =
            segments
                .iter()
                .map(|part| {
                    if *part == in_url {
                        "{job_id}".to_owned()
                    } else {
                        super::template::percent_encode(part)
                    }
                })
                .collect();
        let (keys, query): (Vec<_>, Vec<_>) = query.into_iter().partition(|(name, _)| is_key_name(name));
        let key = keys.first().map(|(name, _)| SkeletonAuth::Query(name.clone()));
        let auth = input.auth.clone().or(key).or(key_sent).unwrap_or(SkeletonAuth::Bearer);
        let named = keys.iter().map(|(name, _)| name).chain(&sent.keys);
        let left_out = named.filter(|name| !auth.is(name)).cloned().collect();
        let place = |value: String| if value == in_url { "{job_id}".to_owned() } else { value };
        sent.place(&in_url);
        Ok(Self {
            url: format!("https://{host}/{}", path.join("/")),
            host,
            query: query.into_iter().map(|(name, value)| (name, place(value))).collect(),
            sent,
            doubt,
            job_id,
            auth,
            left_out,
        })
    }
}

fn decoded(segment: &str) -> String {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// The text of the definition, and what the author must decide.
#[derive(Default)]
struct Writer {
    text: String,
    questions: Vec<String>,
}

impl Writer {
    /// Adds a line.
    fn line(&mut self, line: impl AsRef<str>) {
        self.text.push_str(line.as_ref());
        self.text.push('\n');
    }

    /// Adds a question as a comment and to the list.
    fn ask(&mut self, question: &str) {
        self.line(format!("# ? {question}"));
        self.questions.push(question.to_owned());
    }

    fn head(&mut self, id: &str) {
        self.line("# Sources: the URL of each page from which a fact below comes, and the date on which it was read.");
        self.line("schema = 2");
        self.line(format!("id = {}", quoted(id)));
        self.line(format!("name = {}", quoted(&title(id))));
        self.ask("What is the URL of the page that documents the status of a job?");
        self.line("docs = \"https://example.com/docs\"");
    }

    fn job_id(&mut self, target: &Target) {
        self.line("\n[params.job_id]");
        if let Some(other) = &target.doubt {
            let id = &target.job_id;
            self.ask(&format!(
                "Is {id} in the body the id of the job, or is it {other} in the URL? No answer shows it; --job-id decides."
            ));
        }
        self.ask("Which characters can the id of a job have? The pattern was made from one id.");
        self.line(format!("pattern = {}", quoted(&guess::pattern(&target.job_id))));
    }

    fn auth(&mut self, target: &Target) {
        self.line("\n[auth]");
        let line = match &target.auth {
            SkeletonAuth::None => "type = \"none\"".to_owned(),
            SkeletonAuth::Bearer => "type = \"bearer\"".to_owned(),
            SkeletonAuth::Basic => "type = \"basic\"".to_owned(),
            SkeletonAuth::Header(name, prefix) if prefix.is_empty() => {
                format!("type = \"header\"\nheader = {}", quoted(name))
            }
            SkeletonAuth::Header(name, prefix) => {
                format!("type = \"header\"\nheader = {}\nprefix = {}", quoted(name), quoted(prefix))
            }
            SkeletonAuth::Query(name) => {
                format!("type = \"query\"\nquery = {{ {} = \"{{key}}\" }}", quoted(name))
            }
            SkeletonAuth::Body(name) => {
                format!("type = \"body\"\nbody = {{ {} = \"{{key}}\" }}", quoted(name))
            }
            SkeletonAuth::Aws(service) => format!("type = \"aws\"\nservice = {}", quoted(service)),
        };
        self.line(line);
        for name in &target.left_out {
            self.ask(&format!(
                "`{name}` of the request holds a credential as well, so it was left out. Is it needed? See `headers`, `query` and `body` of [auth]."
            ));
        }
        if target.auth != SkeletonAuth::None {
            self.line(format!("send_to = [{}]", quoted(&target.host)));
        }
    }

    fn request(&mut self, target: &Target) {
        self.line("\n[request]");
        if target.sent.method != "GET" {
            self.line(format!("method = {}", quoted(target.sent.method)));
        }
        self.line(format!("url = {}", quoted(&target.url)));
        if !target.query.is_empty() {
            let pairs: Vec<_> = target
                .query
                .iter()
                .map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)))
                .collect();
            self.line(format!("query = {{ {} }}", pairs.join(", ")));
        }
        self.sent(&target.sent);
    }

    /// Adds the headers and the body of the request.
    fn sent(&mut self, sent: &Sent) {
        if let Some(accept) = &sent.accept {
            self.line(format!("accept = {}", quoted(accept)));
        }
        if !sent.headers.is_empty() {
            let pairs: Vec<_> = sent
                .headers
                .iter()
                .map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)))
                .collect();
            self.line(format!("headers = {{ {} }}", pairs.join(", ")));
        }
        if let Some(body) = &sent.body {
            for question in body.questions() {
                self.ask(&question);
            }
            self.line(body.toml());
        }
    }

    fn status(&mut self, guess: &Guess) {
        self.line("\n[status]");
        if guess.status.is_none() {
            self.ask("Where is the status of the job? No member of the answers looks like one.");
        }
        self.line(format!("path = {}", quoted(guess.status.as_deref().unwrap_or("$.status"))));
        self.line("\n[status.map]");
        self.ask("Which statuses are missing? Only those of the answers are known; the others are guesses.");
        for meaning in Meaning::ALL {
            let words: Vec<&Word> = guess.words.iter().filter(|word| word.meaning == Some(meaning)).collect();
            let list: Vec<_> = words.iter().map(|word| word.toml.clone()).collect();
            let comment = if words.iter().any(|word| word.is_seen) { "" } else { "   # ? in no answer" };
            if !list.is_empty() {
                self.line(format!("{} = [{}]{comment}", meaning.word(), list.join(", ")));
            }
        }
        let is_contradicted =
            |word: &Word| guess.doubts.iter().any(|doubt| doubt.is_contrary && doubt.status == word.toml);
        let unknown = guess.words.iter().filter(|word| word.meaning.is_none() && !is_contradicted(word));
        for word in unknown.map(|word| word.toml.clone()).collect::<Vec<_>>() {
            self.ask(&format!("What does the status {word} mean? It is in an answer, and no list has it."));
        }
    }

    /// Asks about members that say, beside the status, how a job has ended.
    fn doubts(&mut self, guess: &Guess) {
        let path = guess.status.as_deref().unwrap_or("$.status");
        for doubt in guess.doubts.iter().filter(|doubt| doubt.is_contrary) {
            let value =
                doubt.value.as_deref().map_or_else(|| "is present".to_owned(), |value| format!("is {value}"));
            self.line("");
            self.ask(&format!(
                "The status {} says that the job completed, but {} {value}. Which rules decide? Complete these, or remove them.",
                doubt.status, doubt.path
            ));
            let test = doubt
                .value
                .as_deref()
                .map_or_else(|| "exists = true".to_owned(), |value| format!("is = {value}"));
            let status = format!("{{ path = {}, is = {} }}", quoted(path), doubt.status);
            let other = |test: &str| format!("{{ path = {}, {test} }}", quoted(&doubt.path));
            self.line(format!("# [[rule]]\n# all = [{status}, {}]\n# status = \"failed\"", other(&test)));
            self.line(format!("# [[rule]]\n# all = [{status}]\n# status = \"completed\""));
        }
        let mut agreeing = guess.doubts.iter().filter(|doubt| !doubt.is_contrary);
        let known =
            |doubt: &&guess::Doubt| !guess.doubts.iter().any(|one| one.is_contrary && one.path == doubt.path);
        if let Some(doubt) = agreeing.find(known) {
            self.line("");
            self.ask(&format!(
                "Can {} say that a job with the status {} failed? Then add a [[rule]] for that.",
                doubt.path, doubt.status
            ));
        }
    }

    fn extract(&mut self, guess: &Guess) {
        self.line("\n[extract]");
        if let Some(path) = &guess.job_id {
            self.line(format!("job_id = {}", quoted(path)));
        } else {
            self.ask("Do the answers have the id of the job? None was found.");
            self.line("job_id = \"none\"");
        }
        for (key, value) in &guess.fields {
            self.line(format!("{key} = {value}"));
        }
        if !guess.fields.iter().any(|(key, _)| key.starts_with("output")) {
            self.ask("Where is the result of a completed job? Add `output` or `outputs`.");
        }
        if !guess.fields.iter().any(|(key, _)| *key == "error_message") {
            self.ask(
                "Where is the cause of a failure? Add `error_message`, and `error_code` if there is one.",
            );
        }
    }

    fn errors(&mut self) {
        self.line("\n# The answers that are not about a job: without a key, for an unknown id, over the rate limit.");
        self.line("[errors]");
        self.ask("Where is the message of an error answer?");
        self.line("message = \"$.message\"");
    }

    fn limits(&mut self) {
        self.line("\n[limits]");
        self.ask("Which rate of requests does the API permit?");
        self.line("rate = \"1/s\"");
    }

    fn examples(&mut self, answers: &[&str], job_id: &str) {
        for answer in answers {
            self.line(format!(
                "\n[[example]]\njob_id = {}\nbody = {}",
                quoted(job_id),
                literal(answer.trim())
            ));
        }
    }
}

/// Returns a name for people: `acme-video` is `Acme Video`.
fn title(id: &str) -> String {
    let word = |word: &str| {
        let mut chars = word.chars();
        chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
    };
    id.split('-').map(word).collect::<Vec<_>>().join(" ")
}

/// Returns a text as it can be read best: a literal string, of one line or of several, or else one with escapes.
fn literal(text: &str) -> String {
    let is_plain = |c: char| !c.is_control() || c == '\t';
    let mut quotes = String::new();
    if !text.contains('\'') && text.chars().all(is_plain) {
        let _ = write!(quotes, "'{text}'");
    } else if !text.contains("'''") && !text.ends_with('\'') && text.chars().all(|c| is_plain(c) || c == '\n')
    {
        let _ = write!(quotes, "'''\n{text}'''");
    } else {
        quotes = quoted(text);
    }
    quotes
}

#[cfg(test)]
mod tests;
