//! A valid provider definition.
//!
//! `compile` makes it from a file and finds the errors. This file has the types and the accessors; `request` makes
//! requests, and `interpretation` reads responses.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::extract::{Extract, Path, Paths};
use super::template::{Param, Template, UrlTemplate};
use crate::domain::{JobStatus, Limits, Output, PollPolicy, Timestamp};

/// How to request a job from one job API, and what the responses mean.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Id, by which clients refer to the provider.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// URL of the provider's documentation.
    pub docs: String,
    /// When to poll a job, by default.
    pub poll: PollPolicy,
    /// How fast to poll, by default.
    pub limits: Limits,
    pub(super) job_id: Param,
    /// All parameters except the job id.
    pub(super) params: BTreeMap<String, Param>,
    pub(super) request: RequestForm,
    pub(super) response: Response,
    pub(super) status: StatusWords,
    pub(super) extract: Extract,
    pub(super) errors: Errors,
    pub(super) not_found: NotFound,
    pub(super) examples: Vec<Example>,
}

/// The parts of a request, before the values of the parameters are known.
#[derive(Clone, Debug)]
pub(super) struct RequestForm {
    pub(super) url: UrlTemplate,
    pub(super) query: BTreeMap<String, Template>,
    pub(super) headers: Vec<(String, Template)>,
    pub(super) timeout: Duration,
    pub(super) max_body: usize,
    pub(super) auth: Option<Auth>,
}

/// How to send the credential, and to which hosts.
#[derive(Clone, Debug)]
pub(super) struct Auth {
    pub(super) header: String,
    pub(super) prefix: String,
    pub(super) send_to: Vec<(String, u16)>,
}

impl Auth {
    /// Returns whether the credential may be sent to the host and port of `url`. It requires https.
    pub(super) fn trusts(&self, url: &Url) -> bool {
        url.scheme() == "https" && authority(url).is_some_and(|there| self.send_to.contains(&there))
    }
}

/// Returns the host and port of `url`.
pub(super) fn authority(url: &Url) -> Option<(String, u16)> {
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

/// Paths of every response, whatever it means.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Response {
    pub(super) unwrap: Paths,
    pub(super) request_id: Paths,
}

/// Meanings of the status words. The words are stored in folded spelling.
#[derive(Clone, Debug)]
pub(super) struct StatusWords {
    pub(super) path: Paths,
    pub(super) fold: Fold,
    pub(super) unknown: JobStatus,
    pub(super) words: HashMap<String, JobStatus>,
    pub(super) explain: HashMap<String, String>,
}

/// How status words are compared.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fold {
    /// Exactly.
    #[default]
    None,
    /// Without regard to case.
    Lower,
}

impl Fold {
    /// Returns the spelling of a word for comparison.
    pub(super) fn apply(self, word: &str) -> String {
        match self {
            Self::None => word.to_owned(),
            Self::Lower => word.to_lowercase(),
        }
    }
}

/// How the provider reports errors.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Errors {
    pub(super) when: Option<Condition>,
    pub(super) code: Paths,
    pub(super) message: Paths,
    pub(super) account: Vec<String>,
}

/// A value in a response that makes it an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Condition {
    pub(super) path: Path,
    pub(super) is: Value,
}

/// How the provider reports that it does not know a job.
#[derive(Clone, Debug)]
pub(super) struct NotFound {
    pub(super) http: Vec<u16>,
    pub(super) path: Paths,
    pub(super) values: Vec<String>,
}

/// A response of the provider, and its meaning.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Example {
    pub(super) job_id: String,
    /// HTTP status; 200 by default.
    pub(super) http: Option<u16>,
    pub(super) body: String,
    pub(super) expect: Expect,
}

/// Meaning of an example. `says` is a part of the message.
#[derive(Deserialize, Clone, Debug)]
#[serde(tag = "answer", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Expect {
    Seen(Seen),
    NotFound { says: Option<String> },
    Account { code: String, says: Option<String> },
    RateLimited { says: Option<String> },
    Trouble { says: Option<String> },
}

/// A response about the job. Every field is compared: a field that is not listed must be null.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    pub(super) status: JobStatus,
    pub(super) raw_status: String,
    #[serde(default)]
    pub(super) unknown_status: bool,
    pub(super) progress: Option<u8>,
    pub(super) output: Option<String>,
    pub(super) outputs: Option<Vec<Output>>,
    pub(super) error_code: Option<String>,
    pub(super) error_message: Option<String>,
    pub(super) created_at: Option<Timestamp>,
    pub(super) completed_at: Option<Timestamp>,
    pub(super) request_id: Option<String>,
}

impl Definition {
    /// Returns whether requests require a key.
    pub fn needs_credential(&self) -> bool {
        self.request.auth.is_some()
    }

    /// Checks a key. After the name of a scheme, such as `Bearer`, a key is one word. The error is a sentence that does
    /// not repeat the key.
    pub fn check_credential(&self, key: &str) -> Result<(), String> {
        let Some(Auth { prefix, .. }) = self.request.auth.as_ref().filter(|auth| !auth.prefix.is_empty())
        else {
            return Ok(());
        };
        let begin = key.get(..prefix.len());
        if begin.is_some_and(|begin| begin.eq_ignore_ascii_case(prefix)) {
            return Err(format!("the key begins with `{}`, which is added to it; remove it", prefix.trim()));
        }
        if key.contains(' ') {
            return Err("the key contains a space; remove it".to_owned());
        }
        Ok(())
    }

    /// Returns the default address of requests: scheme, host and port.
    pub fn base_url(&self) -> String {
        self.request.url.origin.to_string()
    }

    /// Returns the provider's status words, as they are matched, and their meanings.
    pub fn status_words(&self) -> impl Iterator<Item = (&str, JobStatus)> {
        self.status.words.iter().map(|(word, status)| (word.as_str(), *status))
    }

    /// Returns the number of examples.
    pub fn examples(&self) -> usize {
        self.examples.len()
    }
}
