//! Jobs without a definition: their registrations say how they are polled.
//!
//! A registration gives a *poll object*: a URL, perhaps headers and a body, and where the answer has the status. The
//! object becomes a [`Definition`] of this one job, so that answers are read by the same interpreter as all others.
//! Without a status, the answer is read in the style of its API, as `operation.toml` describes.
//!
//! The API checks the parts with the functions of this file, and stores [`InlinePoll::source`]. The poller makes the
//! definition again for each poll, which takes microseconds: a million definitions would not fit into memory.
//!
//! **A URL alone** says nothing about the style of the API. An answer with `done` or `status` shows it. A 200 with other
//! JSON, an empty 200 and a 204 have two meanings: the result of an operation in the style of HTTP, which answers 202 while
//! it runs, or a status in words that the registration does not list, such as `{"state": "running"}`. To end the second one
//! as completed would be false, and could not be taken back. So such an answer is the end only with a sign of the first
//! meaning:
//!
//! - It is a 200 with JSON in which nothing resembles a status (`state`, `phase`, `progress` and similar names, also two
//!   levels deeper): operations that end before their first poll need this.
//! - The job was seen as accepted: an earlier poll was answered with 202 and without a status. The row of the job keeps it
//!   as the raw status [`InlinePoll::ACCEPTED`], so that it survives a restart.
//! - The client says so (`accepted`): the API has answered the start of the job with 202. It is needed for an operation
//!   that can end before its first poll with an empty answer or with such a name in its result, and the error of the
//!   failed poll says so.
//!
//! A 303 with a usable `Location` is the end without another sign: it is defined as the address of the result. A
//! `Location` can be relative, so it is resolved against the URL of the poll. Another scheme than http and https, such as
//! `javascript`, is no address.
//!
//! The address is the client's. So the request is guarded like a delivery, follows no redirect, and gets no credential of
//! the operator. A credential of the app goes only to the hosts that the credential lists, by https.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::auth::{Auth, AuthForm, AuthHeader, Credential, Supply};
use super::body::BodyTemplate;
use super::compile::compile;
use super::definition::{BodyKind, Definition, Fold, Meaning, Method, RequestForm, StatusWords, Target};
use super::extract::Extract;
use super::field::{Alternative, Field, Outcome, Place};
use super::host_pattern::HostPattern;
use super::json_text::JsonText;
use super::path::Path;
use super::template::{Param, Template, percent_encode};
use crate::domain::{CredentialKind, CredentialSecret, INLINE, Limits, Masked, PollPolicy, Rate, Timestamp};

/// Timeout of a poll, including the body.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Largest number of texts that are replaced in a whole answer, each of which is searched there.
const HIDDEN_MAX: usize = 32;

/// Words of names whose values are credentials.
const CREDENTIAL_WORDS: &[&str] = &[
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "passwd",
    "sig",
    "signature",
    "apikey",
    "accesskey",
    "credential",
    "auth",
];

/// Shortest text that is replaced in messages. A shorter one would replace words.
const SECRET_MIN: usize = 4;

/// Longest id that is made of a URL, in bytes. It is a part of a database key.
const ID_MAX: usize = 256;

/// Code of the rules of `operation.toml` that refuse an end without a sign that the URL is that of an operation.
const UNPROVEN: &str = "no_status";

/// What an answer means if the registration does not say it.
static OPERATION: LazyLock<Option<Definition>> = LazyLock::new(|| compile(include_str!("operation.toml")).0);

/// A poll object. Its parts are checked by the caller that makes it, and again by [`Self::definition`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InlinePoll {
    /// URL, in normalised form.
    pub url: String,
    /// Method, one of [`InlinePoll::METHODS`].
    pub method: String,
    /// Headers; names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Name of the credential of the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// JSON body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<JsonText>,
    /// Whether the API has answered the start of the job with 202, so that another good answer is its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
    /// Path of the status; `None`: the answer has a known style.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Words of the status, by the outcome that they mean.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub words: BTreeMap<String, Vec<String>>,
    /// Path of the output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Path of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Prints no secret.
impl fmt::Debug for InlinePoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl InlinePoll {
    /// Status that is shown for an HTTP operation that runs: its answer was a 202 without a status.
    pub const ACCEPTED: &'static str = "202";

    /// The methods of a poll.
    pub const METHODS: [&'static str; 3] = ["GET", "POST", "PUT"];

    /// The lists of words, each with the outcome that it means.
    pub const LISTS: [&'static str; 4] = ["completed", "failed", "cancelled", "processing"];

    /// Returns the canonical form, which is stored and identifies the job. It can hold credentials.
    pub fn source(&self) -> String {
        // Maps with texts as keys can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a canonical form.
    pub fn parse(source: &str) -> Result<Self, String> {
        serde_json::from_str(source).map_err(|error| format!("the stored poll object: {error}"))
    }

    /// Returns the poll object as a registration has it, with `***` for header values, the query and the body.
    pub fn shown(&self) -> String {
        let mut url = self.url.clone();
        if let Some((start, _)) = self.url.split_once('?') {
            url = format!("{start}?***");
        }
        let masked = || Value::from("***");
        let mut fields = serde_json::Map::new();
        fields.insert("url".to_owned(), url.into());
        fields.insert("method".to_owned(), self.method.clone().into());
        let headers = self.headers.keys().map(|name| (name.clone(), masked()));
        fields.insert("headers".to_owned(), Value::Object(headers.collect()));
        fields.extend(self.body.as_ref().map(|_| ("body".to_owned(), masked())));
        let texts = [
            ("credential", &self.credential),
            ("status", &self.status),
            ("output", &self.output),
            ("error", &self.error),
        ];
        fields.extend(
            texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.clone()?.into()))),
        );
        fields.extend(self.accepted.then(|| ("accepted".to_owned(), true.into())));
        fields.extend(self.words.iter().map(|(name, words)| (name.clone(), words.clone().into())));
        Value::Object(fields).to_string()
    }

    /// Returns scheme, host and port, which share a rate and a breaker; empty for a URL that cannot be read.
    pub fn origin_of(source: &str) -> String {
        let url = Self::parse(source).ok().and_then(|poll| Url::parse(&poll.url).ok());
        url.map(|url| url.origin().ascii_serialization()).unwrap_or_default()
    }

    /// Returns the id of the job if the registration gives none: the path of the URL, or the end of a long one.
    pub fn default_job_id(&self) -> String {
        let path = Url::parse(&self.url).map(|url| url.path().to_owned()).unwrap_or_default();
        // A path is ASCII.
        path.get(path.len().saturating_sub(ID_MAX)..).unwrap_or(&path).to_owned()
    }

    /// Checks an id that the registration gives. The error is a sentence.
    pub fn check_job_id(job_id: &str) -> Result<(), String> {
        Param::check_text(job_id)
    }

    /// Checks a path to a value. The error is a sentence.
    pub fn check_path(path: &str) -> Result<(), String> {
        match Path::parse(path, 2)?.names().find(|name| *name != "job_id") {
            Some(name) => {
                Err(format!("`{{{name}}}` is a parameter, and a job without a definition has none"))
            }
            None => Ok(()),
        }
    }

    /// Checks a word of a status, and returns its text. The error is a sentence.
    pub fn word(value: &Value) -> Result<String, String> {
        match value {
            Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
            Value::String(_) => Err("must not be empty".to_owned()),
            Value::Bool(value) => Ok(value.to_string()),
            Value::Number(number) => Ok(super::value::number_text(number)),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                Err("must be a string, a number, true or false".to_owned())
            }
        }
    }

    /// Returns the spelling in which words are compared.
    pub fn folded(word: &str) -> String {
        Fold::Lower.apply(word)
    }

    /// Makes the definition of the job. The error is a sentence.
    pub fn definition(&self) -> Result<Definition, String> {
        let operation =
            OPERATION.as_ref().ok_or("the styles of operations have a mistake, which is a bug")?;
        let url = Url::parse(&self.url).map_err(|error| format!("the stored URL: {error}"))?;
        let method = Method::ALL.iter().find(|(word, _)| *word == self.method);
        let (_, method) = method.ok_or_else(|| format!("the stored method `{}` is unknown", self.method))?;
        let mut headers: Vec<(String, Template)> = Vec::new();
        let mut accept = "application/json".to_owned();
        for (name, value) in &self.headers {
            match name.as_str() {
                "accept" => accept.clone_from(value),
                _ => headers.push((name.clone(), Template::literal(value))),
            }
        }
        let body = self.body.clone().map(|body| BodyTemplate::Given(body.text().to_owned()));
        Ok(Definition {
            id: INLINE.to_owned(),
            instance_of: None,
            name: INLINE.to_owned(),
            docs: String::new(),
            webhooks: None,
            notes: Vec::new(),
            poll: InlinePoll::POLICY,
            limits: InlinePoll::LIMITS,
            job_id: <Param as Default>::default(),
            params: BTreeMap::new(),
            request: RequestForm {
                method: *method,
                target: Target::Given(url),
                query: BTreeMap::new(),
                headers,
                accept,
                body,
                timeout: TIMEOUT,
                follows_redirects: false,
                auth: None,
            },
            meaning: self.meaning(&operation.meaning)?,
            cancel: None,
            examples: Vec::new(),
            secrets: self.secrets(),
            hidden: self.hidden(),
            own_kib: None,
        })
    }

    /// When jobs without a definition are polled, unless the operator sets it.
    pub const POLICY: PollPolicy = PollPolicy {
        first: Duration::from_secs(5),
        min_interval: Duration::from_secs(1),
        max_interval: Duration::from_secs(60),
        deadline: Duration::from_secs(24 * 3600),
        not_found_grace: Duration::from_secs(60),
        price: Duration::from_secs(5),
    };

    /// How fast one app polls one host, unless the operator sets it.
    pub const LIMITS: Limits =
        Limits { rate: Rate { spacing: Some(Duration::from_secs(1)) }, burst: 5, concurrency: 4 };

    fn meaning(&self, operation: &Meaning) -> Result<Meaning, String> {
        let mut meaning = operation.clone();
        if let Some(status) = &self.status {
            let mut words = HashMap::new();
            for (outcome, list) in &self.words {
                let outcome = Outcome::of_word(outcome).ok_or("a stored list of words has no outcome")?;
                words.extend(list.iter().map(|word| (Self::folded(word), outcome)));
            }
            meaning.body = BodyKind::Json;
            meaning.rules = Vec::new();
            meaning.status = Some(StatusWords {
                field: field(std::slice::from_ref(status), &[])?,
                is_text: false,
                fold: Fold::Lower,
                unknown: Outcome::Processing,
                words,
                explain: HashMap::new(),
            });
            meaning.extract = Extract::default();
        }
        if self.accepted {
            meaning.rules.retain(|rule| rule.code.as_deref() != Some(UNPROVEN));
        }
        let url = Url::parse(&self.url).map_err(|error| format!("the stored URL: {error}"))?;
        let replace = |extract: &mut Extract| -> Result<(), String> {
            for one in &mut extract.output.0 {
                if matches!(&one.place, Place::Header(name) if name == "location") {
                    one.place = Place::Location(url.clone());
                }
            }
            if let Some(path) = &self.output {
                let found = field(std::slice::from_ref(path), &[Outcome::Completed])?;
                (extract.output, extract.output_json) = (found.clone(), found);
            }
            if let Some(path) = &self.error {
                // The error of a job that completed is often an empty text or the word `ok`.
                let ended = [Outcome::Failed, Outcome::Cancelled];
                extract.error_message = field(&[path.clone(), format!("{path}.message")], &ended)?;
                extract.error_code = field(&[format!("{path}.code")], &ended)?;
            }
            Ok(())
        };
        replace(&mut meaning.extract)?;
        for rule in &mut meaning.rules {
            if let super::rule::Verdict::Job(_, extract) = &mut rule.verdict {
                replace(extract)?;
            }
        }
        Ok(meaning)
    }

    /// Returns the texts that no message repeats: values of headers and of the query, and texts of the body.
    fn secrets(&self) -> Vec<String> {
        let texts = self.named_texts().into_iter().flat_map(|(_, text)| parts(&text));
        texts.filter(|secret| secret.len() >= SECRET_MIN).collect()
    }

    /// Returns those of them that are replaced in a whole answer, at most [`HIDDEN_MAX`]: values whose names say that they are
    /// credentials. Any other text, such as the id of the job, can be a part of the answer's own words.
    fn hidden(&self) -> Vec<String> {
        let secret = self.named_texts().into_iter().filter(|(name, _)| is_credential_name(name));
        let words = || self.words.values().flatten();
        let is_in_path = |text: &str| self.url.contains(&format!("/{text}"));
        let is_needed = |text: &String| {
            is_in_path(text) || is_in_path(&percent_encode(text)) || words().any(|word| word == text)
        };
        let mut seen = HashSet::new();
        let mut texts: Vec<String> = secret.flat_map(|(_, text)| parts(&text)).collect();
        texts.retain(|text| !text.is_empty() && !is_needed(text) && seen.insert(text.clone()));
        texts.truncate(HIDDEN_MAX);
        texts
    }

    /// Returns the texts that the client has given, with their names. A key in a header, or the plain `key` of a query, as with
    /// Google, is the key of the API.
    fn named_texts(&self) -> Vec<(String, String)> {
        let is_public = |name: &str| matches!(name, "accept" | "accept-language");
        let mut texts = Vec::new();
        for (name, value) in self.headers.iter().filter(|(name, _)| !is_public(name)) {
            let is_key = words_of(name).iter().any(|word| word == "key");
            texts.push((if is_key { "apikey" } else { name }.to_owned(), value.clone()));
        }
        if let Ok(url) = Url::parse(&self.url) {
            // Without a name, it is only replaced in messages.
            texts.extend(url.query().map(|query| (String::new(), query.to_owned())));
            let given = url.query().into_iter().flat_map(|query| query.split('&'));
            let as_given = given.filter_map(|pair| pair.split_once('='));
            let as_given = as_given.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let pairs = as_given.chain(url.query_pairs().into_owned());
            texts.extend(pairs.map(
                |(name, value)| if name == "key" { ("apikey".to_owned(), value) } else { (name, value) },
            ));
        }
        if let Some(body) = &self.body {
            body_texts("body", &body.value(), &mut texts);
        }
        texts
    }
}

/// Adds the texts of a body with the names of their members.
fn body_texts(name: &str, value: &Value, texts: &mut Vec<(String, String)>) {
    match value {
        Value::String(text) => texts.push((name.to_owned(), text.clone())),
        Value::Array(items) => items.iter().for_each(|item| body_texts(name, item, texts)),
        Value::Object(members) => members.iter().for_each(|(name, value)| body_texts(name, value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns whether values with this name are credentials: one of its words says so, and it does not name an id, such as
/// `session_id`.
fn is_credential_name(name: &str) -> bool {
    let words = words_of(name);
    let is = |word: &str, list: &[&str]| list.contains(&word);
    let names_secret = words.iter().any(|word| is(word, CREDENTIAL_WORDS));
    let names_key = words.windows(2).any(|pair| is(&pair[0], &["api", "access", "auth"]) && pair[1] == "key");
    (names_secret || names_key) && words.last().is_none_or(|word| word != "id")
}

/// Returns the words of a name in lower case: `apiKey` and `api-key` have two.
fn words_of(name: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![String::new()];
    for c in name.chars() {
        let is_start = !c.is_alphanumeric() || c.is_uppercase();
        if is_start && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words
}

/// Returns a text and the parts of it that a message may repeat alone: the token after the name of a scheme, decoded
/// `user:password`, and the values of cookies.
fn parts(text: &str) -> Vec<String> {
    let mut found = vec![text.to_owned()];
    if let Some((scheme, token)) = text.split_once(' ') {
        let token = token.trim();
        found.push(token.to_owned());
        let pair = STANDARD.decode(token).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"));
        if let Some(pair) = pair.and_then(|pair| String::from_utf8(pair).ok()) {
            found.extend(pair.split_once(':').map(|(_, password)| password.to_owned()));
            found.push(pair);
        }
    }
    let cookies = text.split(';').filter_map(|cookie| cookie.trim().split_once('='));
    found.extend(cookies.map(|(_, value)| value.to_owned()));
    found
}

impl Definition {
    /// Makes the definition of a job from the stored form of its poll object, and the credential that it sends. The error
    /// is a sentence. `is_accepted` says whether the last good answer was [`InlinePoll::ACCEPTED`].
    pub fn inline(
        poll: &Masked,
        credential: Option<&Masked>,
        is_accepted: bool,
    ) -> Result<(Arc<Self>, Option<Masked>), String> {
        let mut poll = InlinePoll::parse(poll.reveal())?;
        poll.accepted |= is_accepted;
        let mut definition = poll.definition()?;
        let secret = credential.map(CredentialSecret::parse).transpose()?;
        let credential = match (&poll.credential, &secret) {
            (None, _) => None,
            (Some(name), None) => return Err(format!("the credential `{name}` was deleted")),
            (Some(_), Some(secret)) => {
                definition.request.auth = Some(InlinePoll::auth(secret)?);
                Some(InlinePoll::key(secret))
            }
        };
        Ok((Arc::new(definition), credential))
    }
}

/// How an app's credential is sent.
impl InlinePoll {
    /// Checks a host that gets a credential, and returns it. Only exact hosts are allowed.
    pub fn check_host(host: &str) -> Result<String, String> {
        if host.contains('*') {
            return Err("must be an exact host, such as api.example.com; list each".to_owned());
        }
        HostPattern::parse(host).map(|_| host.to_ascii_lowercase())
    }

    /// Checks what a credential sends. The error is a sentence that does not repeat it. What a key consists of depends on
    /// the definition that sends it.
    pub fn check_credential(secret: &CredentialSecret) -> Result<(), String> {
        if secret.kind == CredentialKind::Key {
            return Ok(());
        }
        let (auth, key) = (Self::auth(secret)?, Self::key(secret));
        auth.check(key.reveal())?;
        let credential = Credential { key: key.reveal(), token: None, now: Timestamp::from_millis(0) };
        auth.sent(Supply::Real(credential)).map(drop)
    }

    /// Checks that a credential may be sent to the URL of the poll. The error is a sentence.
    pub fn check_sent(&self, secret: &CredentialSecret) -> Result<(), String> {
        let auth = Self::auth(secret)?;
        let is_trusted = Url::parse(&self.url).is_ok_and(|url| auth.trusts_chosen(&url));
        let hosts = secret.send_to.join(" or ");
        let why = || {
            format!(
                "may be sent only by https and to {hosts}; poll that host, or create a credential for this one"
            )
        };
        is_trusted.then_some(()).ok_or_else(why)
    }

    fn auth(secret: &CredentialSecret) -> Result<Auth, String> {
        let form = match secret.kind {
            CredentialKind::Bearer => AuthForm::Header(AuthHeader::bearer()),
            CredentialKind::Header => {
                AuthForm::Header(AuthHeader { name: secret.name.clone(), prefix: String::new() })
            }
            CredentialKind::Basic => AuthForm::Basic,
            CredentialKind::Query => {
                AuthForm::Query(vec![(secret.name.clone(), Template::parse("{value}")?)])
            }
            CredentialKind::Key => {
                let why = "is of the kind key, which only the definition of a provider can send; create one of another kind";
                return Err(why.to_owned());
            }
        };
        let send_to = secret.send_to.iter().map(|host| HostPattern::parse(host)).collect::<Result<_, _>>()?;
        Ok(Auth::new(form, send_to))
    }

    /// Returns the credential in the form that its `Auth` reads.
    fn key(secret: &CredentialSecret) -> Masked {
        match secret.kind {
            // A value that is itself JSON must not be read as fields.
            CredentialKind::Query => Masked::new(serde_json::json!({ "value": secret.value }).to_string()),
            CredentialKind::Bearer | CredentialKind::Header | CredentialKind::Basic | CredentialKind::Key => {
                Masked::new(secret.value.clone())
            }
        }
    }
}

/// Returns a field that is read at the first of these paths that has it, for these outcomes.
fn field(paths: &[String], when: &[Outcome]) -> Result<Field, String> {
    let one = |path: &String| {
        Ok(Alternative { when: when.to_vec(), ..Alternative::of(Place::Path(Path::parse(path, 2)?)) })
    };
    paths.iter().map(one).collect::<Result<_, String>>().map(Field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobError, JobStatus};
    use crate::providers::{Answer, Interpretation};

    fn poll(status: Option<&str>) -> InlinePoll {
        let words = [("completed", "Done"), ("failed", "error"), ("cancelled", "stopped")];
        let words = words.map(|(list, word)| (list.to_owned(), vec![word.to_owned()]));
        InlinePoll {
            url: "https://api.example.com/jobs/123?key=query-secret".to_owned(),
            method: "GET".to_owned(),
            headers: [("authorization".to_owned(), "Bearer header-secret".to_owned())].into(),
            body: None,
            accepted: false,
            credential: None,
            status: status.map(str::to_owned),
            words: if status.is_some() { words.into() } else { BTreeMap::new() },
            output: Some("$.result.url".to_owned()),
            error: Some("$.problem".to_owned()),
        }
    }

    fn read(poll: &InlinePoll, status: u16, body: &str) -> Interpretation {
        let definition = poll.definition().expect("a definition");
        definition.interpret("x", Answer { status, headers: &[], body: body.as_bytes() })
    }

    #[test]
    fn the_examples_of_the_known_styles_hold() {
        let (definition, mistakes) = compile(include_str!("operation.toml"));
        assert!(mistakes.is_empty(), "{mistakes:#?}");
        assert!(definition.is_some_and(|definition| definition.examples() >= 15));
    }

    #[test]
    fn the_words_of_a_registration_decide_without_regard_to_case() {
        let poll = poll(Some("$.state"));
        for (body, expected) in [
            (r#"{"state": "DONE"}"#, JobStatus::Completed),
            (r#"{"state": "Error"}"#, JobStatus::Failed),
            (r#"{"state": "stopped"}"#, JobStatus::Cancelled),
            (r#"{"state": "queued"}"#, JobStatus::Processing),
        ] {
            let Interpretation::Ok(report) = read(&poll, 200, body) else { panic!("{body}") };
            assert_eq!(report.observation.status, expected, "{body}");
        }
        for (status, body) in [(200, "{}"), (500, r#"{"state": "error"}"#), (200, "<html>"), (303, "")] {
            let found = read(&poll, status, body);
            assert!(matches!(found, Interpretation::Failed { .. }), "{status} {body}: {found:?}");
        }
    }

    #[test]
    fn outputs_and_errors_are_read_for_their_outcomes() {
        for (poll, done, failed) in [
            (
                poll(Some("$.state")),
                r#"{"state": "done", "result": {"url": "https://x"}, "problem": "ok"}"#,
                r#"{"state": "error", "problem": {"code": 7, "message": "why"}}"#,
            ),
            (
                poll(None),
                r#"{"status": "Succeeded", "result": {"url": "https://x"}, "problem": "ok"}"#,
                r#"{"status": "Failed", "problem": {"code": 7, "message": "why"}}"#,
            ),
        ] {
            let Interpretation::Ok(report) = read(&poll, 200, done) else { panic!("{poll:?}") };
            let seen = report.observation;
            assert_eq!((seen.output.as_deref(), seen.error), (Some("https://x"), None));
            let Interpretation::Ok(report) = read(&poll, 200, failed) else { panic!("{poll:?}") };
            let error = JobError { code: Some("7".to_owned()), message: Some("why".to_owned()) };
            assert_eq!(report.observation.error, Some(error));
        }
    }

    #[test]
    fn the_stored_form_is_read_back_and_the_shown_one_has_no_secret() {
        let mut poll = poll(Some("$.state"));
        poll.method = "POST".to_owned();
        poll.body =
            JsonText::new(r#"{"token": "body-secret", "id": 12345678901234567890123, "a": [1.0, "\u00e9"]}"#);
        let kept = r#""body":{"a":[1.0,"é"],"id":12345678901234567890123,"token":"body-secret"}"#;
        assert!(poll.source().contains(kept), "{}", poll.source());
        assert_eq!(InlinePoll::parse(&poll.source()).as_ref(), Ok(&poll));
        let shown = format!("{} {poll:?}", poll.shown());
        assert!(!shown.contains("secret"), "{shown}");
        for part in ["jobs/123?***", r#""authorization":"***""#, r#""body":"***""#, r#""completed":["Done"]"#]
        {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[test]
    fn a_message_repeats_no_secret_of_the_request() {
        let definition = poll(None).definition().expect("a definition");
        let text = "no header-secret, no Bearer header-secret, no query-secret and no key=query-secret";
        let masked = definition.mask(text.to_owned(), None, &[]);
        assert!(!masked.contains("secret"), "{masked}");
    }

    #[test]
    fn credentials_of_a_poll_are_hidden_in_whole_answers() {
        let uuid = "6f1c2f5e-0d8e-4c53-9c55-2b6c1e4f7a10";
        let mut poll = poll(Some("$.state"));
        poll.url = format!("https://api.example.com/{uuid}?key=query-secret&video_id={uuid}&token={uuid}");
        poll.headers.insert("cookie".to_owned(), "sid=cookie-value; a=b".to_owned());
        poll.headers.insert("proxy-auth".to_owned(), "Basic bWU6YmFzaWMtdmFsdWU=".to_owned());
        poll.headers.insert("user-agent".to_owned(), "my-integration-bot/1.0.2 production".to_owned());
        poll.headers.insert("x-token".to_owned(), "Done".to_owned());
        poll.headers.insert("x-key".to_owned(), "header-key".to_owned());
        let body = serde_json::json!({
            "id": uuid, "session_id": "session-1234567890", "maxTokens": "12345678",
            "login": { "password": "body-value", "apiKey": "body-key" },
        });
        poll.body = JsonText::new(&body.to_string());
        let hidden = poll.definition().expect("a definition").hidden_texts(None);
        for secret in [
            "header-secret",
            "query-secret",
            "cookie-value",
            "basic-value",
            "body-value",
            "body-key",
            "header-key",
        ] {
            assert!(hidden.iter().any(|text| text == secret), "{secret}: {hidden:?}");
        }
        // They can be words of the answer.
        for word in [uuid, "production", "session-1234567890", "12345678", "Done", "b"] {
            assert!(!hidden.iter().any(|text| word.contains(text)), "{word}: {hidden:?}");
        }
        assert!(hidden.iter().count() <= HIDDEN_MAX);
    }

    #[test]
    fn an_operation_of_one_style_is_not_ended_by_a_form_of_another() {
        let mut poll = poll(None);
        poll.error = None;
        for body in [
            r#"{"name": "operations/1", "done": "false"}"#,
            r#"{"done": "true", "error": {"code": 3}}"#,
            r#"{"error": {"message": "boom"}}"#,
        ] {
            let found = read(&poll, 200, body);
            assert!(matches!(found, Interpretation::Failed { .. }), "{body}: {found:?}");
        }
    }

    #[test]
    fn an_unproven_end_is_a_failed_poll_that_says_what_to_give() {
        let mut poll = poll(None);
        (poll.error, poll.output) = (None, None);
        let location = |value: &str| vec![("location".to_owned(), value.to_owned())];
        let script = location("javascript:alert(1)");
        let relative = location("../results/1?a=b");
        for (status, headers, body, is_proven) in [
            (200, Vec::new(), r#"{"state": "running"}"#, false),
            (200, Vec::new(), r#"{"data": {"job": {"state": "running"}}}"#, false),
            (200, Vec::new(), r#"{"rows": [1, 2], "title": "report"}"#, true),
            (200, Vec::new(), "", false),
            (204, Vec::new(), "", false),
            (303, Vec::new(), "", false),
            (303, script.clone(), "", false),
            (303, relative.clone(), "<html>", true),
        ] {
            let read = |poll: &InlinePoll| {
                let definition = poll.definition().expect("a definition");
                definition.interpret("x", Answer { status, headers: &headers, body: body.as_bytes() })
            };
            let found = read(&poll);
            if let Interpretation::Failed { message, .. } = &found {
                assert!(message.contains("`accepted`"), "{message}");
            }
            assert_eq!(matches!(found, Interpretation::Ok(_)), is_proven, "{status} {body}: {found:?}");
            let accepted = InlinePoll { accepted: true, ..poll.clone() };
            let Interpretation::Ok(report) = read(&accepted) else { panic!("{status} {body}") };
            assert_eq!(report.observation.status, JobStatus::Completed);
            let output = (headers == relative).then_some("https://api.example.com/results/1?a=b");
            assert_eq!(report.observation.output.as_deref(), output);
        }
        let Interpretation::Ok(report) = read(&poll, 202, "") else { panic!("a 202") };
        assert_eq!(report.observation.raw_status.as_deref(), Some(InlinePoll::ACCEPTED));
    }

    #[test]
    fn the_request_has_everything_that_the_client_has_given() {
        let mut poll = poll(None);
        poll.headers.insert("x-braces".to_owned(), "{a} }".to_owned());
        let request =
            poll.definition().expect("a definition").request("any", "{}", None, None).expect("made");
        assert_eq!(request.url.as_str(), poll.url);
        assert!(request.is_from_client && request.max_redirects == 0);
        for header in [("authorization", "Bearer header-secret"), ("x-braces", "{a} }")] {
            assert!(request.headers.iter().any(|(name, value)| (name.as_str(), value.as_str()) == header));
        }
    }

    #[test]
    fn a_credential_goes_only_to_its_hosts_by_https() {
        let hosts = ["api.example.com", "api.example.com:8443", "b.example.com"];
        let others = ["example.com", "x.api.example.com", "api.example.com.evil.com", "evilapi.example.com"];
        let odd = [
            "api.example.com:80",
            "api.example.com.",
            "user@evil.com",
            "api.example.com@evil.com",
            "127.0.0.1",
        ];
        for kind in CredentialKind::ALL.iter().filter(|kind| **kind != CredentialKind::Key) {
            let send_to = hosts[..2].iter().map(|host| (*host).to_owned()).collect();
            let value = if *kind == CredentialKind::Basic { "u:canary" } else { "canary" };
            let secret =
                CredentialSecret { kind: *kind, send_to, name: "x-key".to_owned(), value: value.to_owned() };
            assert_eq!(InlinePoll::check_credential(&secret), Ok(()), "{kind}");
            for host in hosts.iter().chain(&others).chain(&odd) {
                for scheme in ["https", "http"] {
                    let url = format!("{scheme}://{host}/jobs/1");
                    let credential = Some("c".to_owned());
                    let poll =
                        InlinePoll { url: url.clone(), credential, headers: BTreeMap::new(), ..poll(None) };
                    let is_trusted = scheme == "https" && hosts[..2].contains(host);
                    assert_eq!(poll.check_sent(&secret).is_ok(), is_trusted, "{kind} {url}");
                    let (definition, key) =
                        Definition::inline(&Masked::new(poll.source()), Some(&secret.text()), false)
                            .expect("a definition");
                    let request = definition.request(
                        "1",
                        "{}",
                        None,
                        key.as_ref().map(|key| super::super::tests::key(key.reveal())),
                    );
                    assert_eq!(request.is_ok(), is_trusted, "{kind} {url}");
                    if let Ok(request) = request {
                        let sent = format!("{} {:?}", request.url, request.headers);
                        let basic = "dTpjYW5hcnk=";
                        assert!(sent.contains("canary") || sent.contains(basic), "{sent}");
                    }
                }
            }
            let deleted = InlinePoll { credential: Some("c".to_owned()), ..poll(None) };
            let source = Masked::new(deleted.source());
            let error = Definition::inline(&source, None, false).map(|_| ()).expect_err("deleted");
            assert!(error.contains("`c` was deleted"), "{error}");
        }
    }

    #[test]
    fn the_default_id_is_the_path_or_the_end_of_a_long_one() {
        assert_eq!(poll(None).default_job_id(), "/jobs/123");
        let long = InlinePoll { url: format!("https://a.example/{}z", "y".repeat(900)), ..poll(None) };
        let id = long.default_job_id();
        assert!(id.len() == ID_MAX && id.ends_with('z'), "{id}");
    }
}
