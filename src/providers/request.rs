//! The request for a job. It is data; `egress` sends it.
//!
//! The credential is sent only to the hosts that the definition lists in `send_to`, and to the host and port of the
//! configured `base_url`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;

use super::definition::Definition;
use super::template::{check_base, percent_encode};
use crate::domain::credential_variable;

/// Longest base URL in characters, as for every URL.
const MAX_BASE_URL: usize = 2048;

/// A GET request for one job. Redirects must not be followed, because they could send the credential elsewhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// URL with its query.
    pub url: Url,
    /// Headers, including the credential's; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Timeout of the whole exchange, including the body.
    pub timeout: Duration,
    /// Largest body that is read, in bytes.
    pub max_body: usize,
}

/// Prints no header values, one of which is the credential, and no query.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        url.set_query(None);
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Request")
            .field("url", &url.as_str())
            .field("headers", &headers)
            .finish_non_exhaustive()
    }
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
    /// Checks whether `job_id` can be an id of this provider. The error is a sentence.
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
            let detail = format!("{} has no such parameter; {known}", self.name);
            errors.push((name.clone(), ParamError::Unknown(detail)));
        }
        for (name, param) in &self.params {
            let missing = || ParamError::Missing(format!("is required by {}", self.name));
            let value = match given.get(name).filter(|value| !value.is_null()) {
                None => param.default().cloned().ok_or_else(missing),
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

    /// Checks a configured address. It replaces the scheme, host and port of the definition's URL, and its path, if
    /// any, is placed before the URL's path.
    pub fn check_base_url(&self, base: &str) -> Result<Url, String> {
        if base.len() > MAX_BASE_URL {
            return Err(format!("must be at most {MAX_BASE_URL} characters"));
        }
        check_base(base)
    }

    /// Returns the request for a job. `params` is a result of [`Self::params`]. The error is a sentence, also if the
    /// credential must not be sent to the URL.
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
        // The values were checked at registration, perhaps with an older definition.
        let value = |name: &str| {
            let found = match name {
                "job_id" => Some((&self.job_id, job_id)),
                _ => self.params.get(name).zip(params.get(name).map(String::as_str)),
            };
            let (param, value) = found.ok_or_else(|| format!("the parameter `{name}` is missing"))?;
            param.check(value).map(|()| (param, value)).map_err(|why| format!("`{name}`: {why}"))
        };
        let plain = |name: &str| value(name).map(|(_, value)| value.to_owned());
        let mut url = form.url.render(base_url, |name| value(name).map(|(param, v)| param.encoded(v)))?;
        let mut query = Vec::new();
        for (name, template) in &form.query {
            let text = template.render(plain)?;
            query.push(format!("{}={}", percent_encode(name), percent_encode(&text)));
        }
        if !query.is_empty() {
            url.set_query(Some(&query.join("&")));
        }
        let mut headers = vec![("accept".to_owned(), "application/json".to_owned())];
        for (name, template) in &form.headers {
            let text = template.render(plain)?;
            if !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
                let why = "would contain characters that are not allowed in a header";
                return Err(format!("the header `{name}` {why}"));
            }
            headers.push((name.clone(), text));
        }
        if let Some(auth) = &form.auth {
            let name = &self.name;
            let variable = credential_variable(&self.id);
            let credential = credential.ok_or_else(|| format!("{name} needs a key; set {variable}"))?;
            if credential.is_empty() || !credential.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(format!("the key for {name} must be printable ASCII without spaces"));
            }
            let operators_own = base_url.is_some_and(|base| base.origin() == url.origin());
            if !operators_own && !auth.trusts(&url) {
                return Err(format!("the key for {name} must not be sent to this host"));
            }
            headers.push((auth.header.clone(), format!("{}{credential}", auth.prefix)));
        }
        Ok(Request { url, headers, timeout: form.timeout, max_body: form.max_body })
    }
}
