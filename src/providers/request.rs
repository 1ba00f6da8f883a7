//! What is sent to ask for a job. Nothing is sent here: the request is data.
//!
//! The one rule that matters: the credential goes to the hosts that the definition names in
//! `send_to`, to the host and port of the operator's own `base_url`, and nowhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;

use super::definition::Definition;
use super::param::Param;
use super::template::{Template, UrlTemplate, check_base, percent_encode};

/// The longest base URL, as for every URL that is given to us.
const MAX_BASE_URL: usize = 2048;

/// A GET that asks for one job. Redirects are not to be followed: they could lead the credential
/// elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Where.
    pub url: Url,
    /// Names in lower case, the credential's among them.
    pub headers: Vec<(String, String)>,
    /// For the whole exchange, body included.
    pub timeout: Duration,
    /// The most bytes of a body that are read.
    pub max_body: usize,
}

/// Without header values, one of which is the credential, and without the query.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        url.set_query(None);
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Request")
            .field("url", &url.as_str())
            .field("headers", &headers)
            .field("timeout", &self.timeout)
            .field("max_body", &self.max_body)
            .finish()
    }
}

/// How a definition asks.
#[derive(Clone, Debug)]
pub(super) struct RequestForm {
    pub(super) url: UrlTemplate,
    pub(super) query: Vec<(String, Template)>,
    pub(super) headers: Vec<(String, Template)>,
    pub(super) timeout: Duration,
    pub(super) max_body: usize,
    pub(super) auth: Option<Auth>,
}

/// How the credential is sent, and where it may go.
#[derive(Clone, Debug, Default)]
pub(super) struct Auth {
    pub(super) header: String,
    pub(super) prefix: String,
    pub(super) send_to: Vec<(String, u16)>,
}

impl Auth {
    /// Whether the definition names this host and port; by name it trusts https alone.
    pub(super) fn trusts(&self, url: &Url) -> bool {
        url.scheme() == "https" && authority(url).is_some_and(|there| self.send_to.contains(&there))
    }
}

/// Host and port.
pub(super) fn authority(url: &Url) -> Option<(String, u16)> {
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

/// Reason why a parameter of a registration is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamError {
    /// The provider has no such parameter.
    #[error("{0}")]
    Unknown(String),
    /// The parameter has no default and is absent.
    #[error("{0}")]
    Missing(String),
    /// The value is not a string.
    #[error("must be a string")]
    NotAString,
    /// The value is not one that the definition allows.
    #[error("{0}")]
    Invalid(String),
}

impl Definition {
    /// Whether `job_id` can be one of this provider's; the error is a sentence for people.
    pub fn check_job_id(&self, job_id: &str) -> Result<(), String> {
        self.job_id.check(job_id)
    }

    /// Returns the parameters of a registration as canonical JSON: defaults filled in, keys sorted. The error
    /// holds every invalid parameter by its name.
    pub fn params(&self, given: &Map<String, Value>) -> Result<String, Vec<(String, ParamError)>> {
        let mut errors = Vec::new();
        let mut values = BTreeMap::new();
        for name in given.keys().filter(|name| !self.params.contains_key(*name)) {
            let known = self.params.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
            let detail = format!("{} has no such parameter; {known}", self.name());
            errors.push((name.clone(), ParamError::Unknown(detail)));
        }
        for (name, param) in &self.params {
            let missing = || ParamError::Missing(format!("is required by {}", self.name()));
            let value = match given.get(name) {
                None => param.default.clone().ok_or_else(missing),
                Some(Value::String(value)) => {
                    param.check(value).map(|()| value.clone()).map_err(ParamError::Invalid)
                }
                Some(_) => Err(ParamError::NotAString),
            };
            match value {
                Ok(value) => drop(values.insert(name, value)),
                Err(error) => errors.push((name.clone(), error)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        serde_json::to_string(&values)
            .map_err(|error| vec![(String::new(), ParamError::Invalid(error.to_string()))])
    }

    /// Checks the operator's own address for this provider. It replaces the scheme, host and port
    /// of the definition's URL; its path, if any, comes before the URL's.
    pub fn check_base_url(&self, base: &str) -> Result<Url, String> {
        if base.len() > MAX_BASE_URL {
            return Err(format!("it is longer than {MAX_BASE_URL} characters"));
        }
        check_base(base)
    }

    /// The request that asks for a job. `params` is what [`Self::params`] made.
    pub fn request(
        &self,
        job_id: &str,
        params: &str,
        base_url: Option<&Url>,
        credential: Option<&str>,
    ) -> Result<Request, String> {
        let form = &self.request;
        let params: BTreeMap<String, String> =
            serde_json::from_str(params).map_err(|error| format!("the stored parameters: {error}"))?;
        // They were checked when they came in, perhaps against an older definition.
        let value = |name: &str| -> Result<(&Param, String), String> {
            let (param, value) = match name {
                "job_id" => (Some(&self.job_id), Some(job_id)),
                _ => (self.params.get(name), params.get(name).map(String::as_str)),
            };
            let (Some(param), Some(value)) = (param, value) else {
                return Err(format!("the parameter `{name}` is missing"));
            };
            param.check(value).map_err(|why| format!("`{name}`: {why}"))?;
            Ok((param, value.to_owned()))
        };
        let mut url = form.url.render(base_url, |name| value(name).map(|(param, v)| param.encoded(&v)))?;
        let mut query = Vec::new();
        for (name, template) in &form.query {
            let text = template.render(|name| value(name).map(|(_, value)| value))?;
            query.push(format!("{}={}", percent_encode(name), percent_encode(&text)));
        }
        if !query.is_empty() {
            url.set_query(Some(&query.join("&")));
        }
        let mut headers = vec![("accept".to_owned(), "application/json".to_owned())];
        for (name, template) in &form.headers {
            let text = template.render(|name| value(name).map(|(_, value)| value))?;
            if !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
                return Err(format!("the header `{name}` would have characters that a header cannot carry"));
            }
            headers.push((name.clone(), text));
        }
        if let Some(auth) = &form.auth {
            headers.push(self.credential_header(auth, &url, base_url, credential)?);
        }
        Ok(Request { url, headers, timeout: form.timeout, max_body: form.max_body })
    }

    /// The header that carries the credential to `url`, if it may go there at all.
    fn credential_header(
        &self,
        auth: &Auth,
        url: &Url,
        base_url: Option<&Url>,
        credential: Option<&str>,
    ) -> Result<(String, String), String> {
        let credential = credential.ok_or_else(|| format!("{} needs a key and none is set", self.name()))?;
        if credential.is_empty() || !credential.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("the key for {} must be printable ASCII without spaces", self.name()));
        }
        let operators_own = base_url.is_some_and(|base| base.origin() == url.origin());
        if !operators_own && !auth.trusts(url) {
            return Err(format!("the key for {} must not be sent to this host", self.name()));
        }
        Ok((auth.header.clone(), format!("{}{credential}", auth.prefix)))
    }
}
