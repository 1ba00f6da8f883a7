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
    /// A header with this name, and what stands before the credential.
    Header(String, String),
    /// A parameter of the query with this name.
    Query(String),
    /// A member of the body with this name.
    Body(String),
    /// A signature of AWS for this service.
    Aws(String),
}

impl SkeletonAuth {
    /// Returns whether the credential stands in the header, parameter or member with this name.
    pub(super) fn is(&self, name: &str) -> bool {
        match self {
            Self::Header(known, _) | Self::Query(known) | Self::Body(known) => known == name,
            Self::Bearer | Self::Basic => name == "authorization",
            Self::None | Self::Aws(_) => false,
        }
    }
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

/// Ends of other names of credentials, such as `x-api-key`, `app_key` and `client-secret`.
const KEY_ENDS: &[&str] =
    &["key", "accesstoken", "apitoken", "authtoken", "secret", "password", "session", "signature"];

/// Returns whether values with this name are credentials.
pub(super) fn is_key_name(name: &str) -> bool {
    let folded = folded(name);
    KEY_NAMES.contains(&folded.as_str()) || KEY_ENDS.iter().any(|end| folded.ends_with(end))
}
