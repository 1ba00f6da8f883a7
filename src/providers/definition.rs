//! A valid provider definition.
//!
//! `compile` makes it from a file and finds the mistakes. This file has the types and the accessors; `request` makes
//! requests, and `interpretation` reads responses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use regex::Regex;
use url::Url;

use super::auth::{Auth, AuthForm};
use super::body::BodyTemplate;
use super::decode::Decode;
use super::extract::{Extract, OutputsExpire};
use super::field::{Field, Outcome, Paths};
use super::host_pattern::HostPattern;
use super::json::Dialect;
use super::path::Path;
use super::rule::{Rule, When};
use super::template::{Param, Template, UrlTemplate};
use super::text_template::TextTemplate;
use super::value::Scalar;
use crate::domain::SecretTexts;
use crate::domain::{JobStatus, Limits, Output, PollPolicy, Timestamp};

/// Length from which a secret is replaced in a whole answer, in bytes.
const HIDDEN_MIN: usize = 8;

/// How to request a job from one job API, and what the responses mean.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Id, by which clients refer to the provider.
    pub id: String,
    /// Id of the definition that this one is an instance of.
    pub instance_of: Option<String>,
    /// Name for people.
    pub name: String,
    /// URL of the provider's documentation.
    pub docs: String,
    /// The provider's own webhooks, in a sentence.
    pub webhooks: Option<String>,
    /// Limits and peculiarities, for people.
    pub notes: Vec<String>,
    /// When to poll a job, by default.
    pub poll: PollPolicy,
    /// How fast to poll, by default.
    pub limits: Limits,
    pub(super) job_id: Param,
    /// All parameters except the job id.
    pub(super) params: BTreeMap<String, Param>,
    pub(super) request: RequestForm,
    pub(super) meaning: Meaning,
    /// How a job is cancelled, if the provider can.
    pub(super) cancel: Option<CancelForm>,
    pub(super) examples: Vec<Example>,
    /// Texts of the request that no message repeats, besides the credential.
    pub(super) secrets: Vec<String>,
    /// Those of them that are replaced in a whole answer: credentials, by their names, and long texts.
    pub(super) hidden: Vec<String>,
    /// Memory of its compiled patterns in KiB, if it is an app's. Its addresses are then treated as those that clients
    /// give.
    pub(super) own_kib: Option<u32>,
}

/// The parts of a request, before the values of the parameters are known.
#[derive(Clone, Debug)]
pub(super) struct RequestForm {
    pub(super) method: Method,
    pub(super) target: Target,
    pub(super) query: BTreeMap<String, Template>,
    pub(super) headers: Vec<(String, Template)>,
    pub(super) accept: String,
    pub(super) body: Option<BodyTemplate>,
    pub(super) timeout: Duration,
    pub(super) follows_redirects: bool,
    pub(super) auth: Option<Auth>,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// A URL with parameters.
    Url(UrlTemplate),
    /// The id of the job is the URL.
    JobUrl,
    /// The URL is in an answer.
    Answer,
    /// This URL, which a client has given with the job.
    Given(Url),
    /// The id of the job is a URL, and this text is put after its path.
    BelowJob(String),
}

/// Methods of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// The methods of polls and results with their words.
    pub(super) const ALL: [(&str, Self); 3] = [("GET", Self::Get), ("POST", Self::Post), ("PUT", Self::Put)];

    /// The methods that cancel a job, with their words. A `GET` changes nothing.
    pub(super) const OF_CANCEL: [(&str, Self); 4] =
        [("POST", Self::Post), ("PUT", Self::Put), ("PATCH", Self::Patch), ("DELETE", Self::Delete)];

    /// Returns the word of the method.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// Form of an id that is a URL.
#[derive(Clone, Debug)]
pub(super) struct JobUrl {
    pub(super) hosts: Vec<HostPattern>,
    /// Matches the whole path; its groups are parts of the id.
    pub(super) path: Regex,
    /// The pattern as the file has it, for messages.
    pub(super) pattern: String,
    /// Whether the URL may have a query.
    pub(super) keeps_query: bool,
}

/// How to read answers. It does not depend on how they are requested.
#[derive(Clone, Debug)]
pub(super) struct Meaning {
    pub(super) dialect: Dialect,
    pub(super) max_body: usize,
    pub(super) body: BodyKind,
    pub(super) follows_redirects: bool,
    pub(super) job_url: Option<JobUrl>,
    pub(super) unwrap: Paths,
    pub(super) request_id: Field,
    pub(super) decode: Vec<Decode>,
    pub(super) rules: Vec<Rule>,
    pub(super) status: Option<StatusWords>,
    pub(super) extract: Extract,
    pub(super) errors: Errors,
    pub(super) not_found: NotFound,
    /// Meaning of a good answer that no rule decides, if there is no status.
    pub(super) otherwise: Option<Outcome>,
    /// Requests that follow a job that has ended, in their order. Only the meaning of a poll has them.
    pub(super) results: Vec<ResultForm>,
    /// Those of them that begin with a value of this answer, in their order.
    pub(super) followers: Vec<Follower>,
    /// Number of bytes of one answer in which parts of texts are searched.
    pub(super) searched: usize,
}

/// When a follow-up request is made, and what it takes from the answer before: that to the poll, or to another result.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    /// Number of the result in the definition, from 0.
    pub(super) index: usize,
    /// The outcomes that it follows.
    pub(super) when: Vec<Outcome>,
    /// Conditions on the answer, all of which must hold.
    pub(super) conditions: When,
    /// Whether the answer must have the URL.
    pub(super) needs_url: bool,
    /// Place of the URL in the answer.
    pub(super) url: Field,
    /// Values from the answer, by their names in templates.
    pub(super) values: Vec<(String, Field)>,
}

/// A follow-up request.
#[derive(Clone, Debug)]
pub(super) struct ResultForm {
    /// The outcomes of a poll that it follows.
    pub(super) when: Vec<Outcome>,
    /// Its target is [`Target::Answer`] if the answer before has the URL.
    pub(super) request: RequestForm,
    pub(super) uses_credential: bool,
    /// Whether a `base_url` replaces the host: it is that of the polls.
    pub(super) is_rebased: bool,
    /// Hosts that a URL in the answer before can have.
    pub(super) hosts: Vec<HostPattern>,
    /// Names of the values from answers, in templates.
    pub(super) values: Vec<String>,
    /// How to read the answer.
    pub(super) meaning: Meaning,
}

/// The request that cancels a job.
#[derive(Clone, Debug)]
pub(super) struct CancelForm {
    pub(super) request: RequestForm,
    /// Whether a `base_url` replaces the host: it is that of the polls.
    pub(super) is_rebased: bool,
    /// HTTP statuses which mean that the job has ended before.
    pub(super) already_ended: Vec<u16>,
    /// How to read the answer.
    pub(super) meaning: Meaning,
    /// What decides first what an answer means.
    pub(super) rules: Vec<CancelRule>,
    pub(super) examples: Vec<CancelExample>,
}

/// What an answer to the request that cancels a job means if the conditions hold.
#[derive(Clone, Debug)]
pub(super) struct CancelRule {
    pub(super) when: When,
    pub(super) verdict: CancelVerdict,
    /// Message, if the answer has none.
    pub(super) explain: Option<String>,
}

/// The kinds of answers to a request that cancels a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CancelVerdict {
    Accepted,
    AlreadyEnded,
    Refused,
    RateLimited,
    /// The credential is refused, or may not cancel jobs. The request may be accepted later.
    Unauthorized,
    /// The request may be accepted later.
    Error,
}

impl CancelVerdict {
    /// All kinds with their words.
    pub(super) const ALL: [(&str, Self); 6] = [
        ("accepted", Self::Accepted),
        ("already_ended", Self::AlreadyEnded),
        ("refused", Self::Refused),
        ("rate_limited", Self::RateLimited),
        ("unauthorized", Self::Unauthorized),
        ("error", Self::Error),
    ];

    /// Returns the word of the kind.
    pub(super) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, verdict)| *verdict == self).map_or("", |(word, _)| word)
    }
}

/// An answer to the request that cancels a job, and its meaning.
#[derive(Clone, Debug)]
pub(super) struct CancelExample {
    pub(super) job_id: String,
    pub(super) params: serde_json::Map<String, serde_json::Value>,
    pub(super) answer: ExampleAnswer,
    /// The kind, and a part of the message. `None` if the author asks for it.
    pub(super) expect: Option<(CancelVerdict, Option<String>)>,
}

impl Meaning {
    /// Returns the names in templates of fields.
    pub(super) fn template_names(&self) -> BTreeSet<&str> {
        let extracts = std::iter::once(&self.extract).chain(self.rules.iter().filter_map(Rule::extract));
        let own = extracts.flat_map(Extract::templates).flat_map(TextTemplate::names);
        own.chain(self.results.iter().flat_map(|result| result.meaning.template_names())).collect()
    }
}

/// What the body of an answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BodyKind {
    /// JSON.
    #[default]
    Json,
    /// JSON; an empty body is an empty object.
    JsonOrEmpty,
    /// Not read.
    None,
    /// A text, which is read as one JSON text, without white space around it.
    Text,
    /// The same, with white space around it.
    WholeText,
}

impl BodyKind {
    /// The kinds of an answer to a poll, with their words.
    pub(super) const ALL: [(&str, Self); 4] = [
        ("json", Self::Json),
        ("json_or_empty", Self::JsonOrEmpty),
        ("none", Self::None),
        ("text", Self::Text),
    ];

    /// The kinds of a result, with their words.
    pub(super) const OF_RESULT: [(&str, Self); 4] = [
        ("json", Self::Json),
        ("json_or_empty", Self::JsonOrEmpty),
        ("none", Self::None),
        ("text", Self::WholeText),
    ];

    /// Returns whether the body is JSON.
    pub(super) fn is_json(self) -> bool {
        matches!(self, Self::Json | Self::JsonOrEmpty)
    }
}

/// Meanings of the status words. The words are stored in folded spelling.
#[derive(Clone, Debug)]
pub(super) struct StatusWords {
    pub(super) field: Field,
    /// Whether the status must be a text.
    pub(super) is_text: bool,
    pub(super) fold: Fold,
    pub(super) unknown: Outcome,
    pub(super) words: HashMap<String, Outcome>,
    pub(super) explain: HashMap<String, String>,
}

/// How status words are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fold {
    /// Exactly.
    #[default]
    None,
    /// Without regard to case.
    Lower,
}

impl Fold {
    /// All foldings with their words.
    pub(super) const ALL: [(&str, Self); 2] = [("none", Self::None), ("lower", Self::Lower)];

    /// Returns the spelling of a word for comparison.
    pub(super) fn apply(self, word: &str) -> String {
        match self {
            Self::None => word.to_owned(),
            Self::Lower => word.to_lowercase(),
        }
    }
}

/// How the provider reports errors.
#[derive(Clone, Debug, Default)]
pub(super) struct Errors {
    pub(super) when: Option<ErrorMark>,
    pub(super) code: Field,
    pub(super) message: Field,
    pub(super) account: Vec<String>,
}

/// A value in a response that makes it an error.
#[derive(Clone, Debug)]
pub(super) struct ErrorMark {
    pub(super) path: Path,
    pub(super) is: Scalar,
}

/// How the provider reports that it does not know a job.
#[derive(Clone, Debug, Default)]
pub(super) struct NotFound {
    pub(super) http: Vec<u16>,
    pub(super) path: Field,
    pub(super) values: Vec<String>,
}

/// A response of the provider, and its meaning.
#[derive(Clone, Debug)]
pub(super) struct Example {
    pub(super) job_id: String,
    pub(super) params: serde_json::Map<String, serde_json::Value>,
    pub(super) http: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    /// Answers to the follow-up requests, in their order.
    pub(super) results: Vec<ExampleAnswer>,
    /// `None` if the author asks for it.
    pub(super) expect: Option<Expect>,
}

/// An answer of an example.
#[derive(Clone, Debug)]
pub(super) struct ExampleAnswer {
    pub(super) http: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

/// Meaning of an example. `says` is a part of the message.
#[derive(Clone, Debug)]
pub(super) enum Expect {
    Seen(Box<Seen>),
    NotFound { says: Option<String> },
    Account { code: Option<String>, says: Option<String> },
    RateLimited { says: Option<String> },
    Trouble { says: Option<String> },
    NotYet,
}

/// A response about the job. Every field is compared: a field that is not listed must be null.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The status of the job, or a word that says more, such as `partial`.
    pub(super) outcome: Outcome,
    pub(super) raw_status: Option<String>,
    pub(super) unknown_status: bool,
    pub(super) progress: Option<u8>,
    pub(super) output: Option<String>,
    pub(super) outputs: Option<Vec<Output>>,
    pub(super) error_code: Option<String>,
    pub(super) error_message: Option<String>,
    pub(super) created_at: Option<Timestamp>,
    pub(super) completed_at: Option<Timestamp>,
    pub(super) request_id: Option<String>,
    pub(super) outputs_expire: Option<OutputsExpire>,
}

/// A parameter of a registration.
#[derive(Clone, Copy, Debug)]
pub struct Parameter<'a> {
    /// Its name.
    pub name: &'a str,
    /// The regular expression that the whole value must match.
    pub pattern: Option<&'a str>,
    /// The permitted values; empty if there is no list.
    pub values: &'a [String],
    /// The value without one in the registration; without it, the parameter is required unless it is optional.
    pub default: Option<&'a str>,
    /// Whether what contains the parameter is not sent if the registration leaves it out.
    pub is_optional: bool,
}

impl Definition {
    /// Returns whether requests require a key.
    pub fn needs_credential(&self) -> bool {
        self.request.auth.is_some()
    }

    /// Returns whether requests need a token, which a token URL issues for the key.
    pub fn needs_token(&self, key: &str) -> bool {
        self.request.auth.as_ref().is_some_and(|auth| auth.needs_token(key))
    }

    /// Returns where the key is exchanged for a token, for people.
    pub fn shown_token_url(&self) -> Option<String> {
        let auth = self.request.auth.as_ref()?;
        let AuthForm::Token(form, _) = &auth.form else { return None };
        Some(auth.token_url.as_ref().map_or_else(|| form.shown_url(), ToString::to_string))
    }

    /// Returns the method of a poll.
    pub fn method(&self) -> &'static str {
        self.request.method.word()
    }

    /// Checks a key. The error is a sentence that does not repeat the key.
    pub fn check_credential(&self, key: &str) -> Result<(), String> {
        self.request.auth.as_ref().map_or(Ok(()), |auth| auth.check(key))
    }

    /// Returns the texts that are replaced in a whole answer: the credential in every form in which it is sent or repeated. A
    /// short one is left out, because it could be a part of the answer's own words.
    pub fn hidden_texts(&self, key: Option<&str>) -> SecretTexts {
        let auth = self.request.auth.as_ref().zip(key);
        let secrets = auth.map(|(auth, key)| auth.secrets_in_answers(key)).unwrap_or_default();
        // Digits can be a number, without which the answer is no JSON.
        let is_hidden =
            |text: &String| text.len() >= HIDDEN_MIN && !text.bytes().all(|byte| byte.is_ascii_digit());
        SecretTexts::new(secrets.into_iter().chain(self.hidden.iter().cloned()).filter(is_hidden))
    }

    /// Replaces the credential and other secrets of the request in a text by `***`, in every form in which they are sent,
    /// and what was derived from the credential ([`Request::secrets`]).
    ///
    /// [`Request::secrets`]: super::Request::secrets
    pub fn mask(&self, text: String, key: Option<&str>, derived: &[String]) -> String {
        self.masked_texts(key).with(derived).hide(&text).unwrap_or(text)
    }

    /// Returns whether a part of an answer is encoded, so that a secret can stand in it that the answer does not show.
    pub fn decodes(&self) -> bool {
        fn decodes(meaning: &Meaning) -> bool {
            !meaning.decode.is_empty() || meaning.results.iter().any(|result| decodes(&result.meaning))
        }
        decodes(&self.meaning)
    }

    /// Returns the texts that are replaced in messages: the credential in every form in which it is sent, and other
    /// secrets of the request.
    pub fn masked_texts(&self, key: Option<&str>) -> SecretTexts {
        let auth = self.request.auth.as_ref().zip(key);
        let secrets = auth.map(|(auth, key)| auth.secrets(key)).unwrap_or_default();
        SecretTexts::new(secrets.into_iter().chain(self.secrets.iter().cloned()))
    }

    /// Returns the id of the definition: another one for a named instance.
    pub fn definition_id(&self) -> &str {
        self.instance_of.as_ref().unwrap_or(&self.id)
    }

    /// Returns the definition under another id, for a named instance.
    #[must_use]
    pub fn instance(&self, id: &str) -> Self {
        let name = format!("{} ({id})", self.name);
        Self { id: id.to_owned(), instance_of: Some(self.id.clone()), name, ..self.clone() }
    }

    /// Returns the default address of requests: scheme, host and port.
    pub fn base_url(&self) -> String {
        match &self.request.target {
            Target::Url(url) => url.origin(),
            Target::JobUrl | Target::BelowJob(_) | Target::Answer => "the URL of the job".to_owned(),
            Target::Given(url) => url.origin().ascii_serialization(),
        }
    }

    /// Returns the names of the parameters of a registration.
    pub fn param_names(&self) -> impl Iterator<Item = &str> {
        self.params.keys().map(String::as_str)
    }

    /// Returns what a registration can say in each parameter.
    pub fn parameters(&self) -> impl Iterator<Item = Parameter<'_>> {
        self.params.iter().map(|(name, param)| Parameter {
            name,
            pattern: param.pattern(),
            values: param.values(),
            default: param.default().map(String::as_str),
            is_optional: param.is_optional(),
        })
    }

    /// Returns the provider's status words, as they are matched, and their meanings.
    pub fn status_words(&self) -> impl Iterator<Item = (&str, JobStatus)> {
        let words = self.meaning.status.iter().flat_map(|status| &status.words);
        words.map(|(word, outcome)| (word.as_str(), outcome.status()))
    }

    /// Returns the id of the job in the first example.
    pub fn first_example(&self) -> Option<&str> {
        self.examples.first().map(|example| example.job_id.as_str())
    }

    /// Returns the parameters in the first example.
    pub fn first_params(&self) -> serde_json::Map<String, serde_json::Value> {
        self.examples.first().map(|example| example.params.clone()).unwrap_or_default()
    }

    /// Returns the sentence about a status that names a cause.
    pub fn explanation(&self, word: &str) -> Option<&str> {
        self.meaning.status.as_ref()?.explain.get(word).map(String::as_str)
    }

    /// Returns the number of examples.
    pub fn examples(&self) -> usize {
        self.examples.len()
    }
}
