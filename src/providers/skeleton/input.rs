//! What the author of a definition knows about a job API.

use super::guess::folded;

/// Credential-like names of parameters and members. Their values are never written into a definition.
const KEY_NAMES: &[&str] =
    &["key", "apikey", "accesskey", "token", "accesstoken", "apitoken", "secret", "auth"];

/// How the API expects the credential, as the author names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkeletonAuth {
    /// No credential.
    None,
    /// `Authorization: Bearer <key>`.
    Bearer,
    /// HTTP Basic.
    Basic,
    /// A header with this name.
    Header(String),
    /// A parameter of the query with this name.
    Query(String),
    /// A member of the body with this name.
    Body(String),
    /// A signature of AWS for this service.
    Aws(String),
}

/// What the author knows about a job API.
#[derive(Clone, Debug)]
pub struct SkeletonInput<'a> {
    /// Id of the provider.
    pub id: &'a str,
    /// URL at which one job is polled, with its id or with `{job_id}` in place of it.
    pub url: &'a str,
    /// The id of the job.
    pub job_id: Option<&'a str>,
    /// Method of the poll; `None`: GET, or POST with a body.
    pub method: Option<&'a str>,
    /// Body of the poll: JSON, or a form.
    pub body: Option<&'a str>,
    /// Headers of the poll; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The credential; `None` if it is to be guessed.
    pub auth: Option<SkeletonAuth>,
    /// Answers, as they were received.
    pub answers: Vec<&'a str>,
}

/// Returns whether values with this name are credentials.
pub(super) fn is_key_name(name: &str) -> bool {
    KEY_NAMES.contains(&folded(name).as_str())
}
