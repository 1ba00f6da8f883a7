//! The request for a job. It is data; `egress` sends it.
//!
//! The credential, and what is derived from it, is sent only to the hosts that the definition lists in `send_to`, and
//! to the host and port of the configured `base_url`. A request for a token goes to the token URL only.
//!
//! Normally, a definition fixes the host of a request. With a parameter in the host, or with ids that are URLs, the
//! host comes from a client. Then it must be a name that the definition allows, and the addresses of the name must be
//! public ([`Request::is_from_client`]).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};
use url::{Host, Position, Url};

use super::auth::{AuthForm, Credential, Sent, Supply};
use super::aws::Unsigned;
use super::definition::{Definition, JobUrl, RequestForm, Target};
use super::host_pattern::HostPattern;
use super::issued_token::TokenAnswer;
use super::template::{Param, Template, check_base, percent_encode};
use crate::domain::MASK;
use crate::domain::{Timestamp, credential_variable};

/// Longest URL in characters.
pub(super) const MAX_URL: usize = 2048;

/// Number of redirects that are followed, if any are.
const MAX_REDIRECTS: u8 = 3;

/// Longest timeout of a request for a token, which precedes a poll.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(20);

/// Largest answer of a token URL, in bytes. A token with many claims has some KiB.
const TOKEN_ANSWER_MAX: usize = 64 * 1024;

/// A request for one job.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: &'static str,
    /// URL with its query.
    pub url: Url,
    /// Headers, including the credential's; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body; empty if there is none.
    pub body: Vec<u8>,
    /// Timeout of the whole exchange, including the body.
    pub timeout: Duration,
    /// Largest body that is read, in bytes.
    pub max_body: usize,
    /// Number of redirects that may be followed. They must lead to the same scheme, host and port, because they could
    /// send the credential elsewhere.
    pub max_redirects: u8,
    /// Whether a client has chosen the host, so that its addresses must be public.
    pub is_from_client: bool,
    /// Texts that are derived from the credential, such as a token, to be masked in messages.
    pub secrets: Vec<String>,
}

/// Prints no header values, one of which is the credential, no query and no body.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        url.set_query(None);
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Request")
            .field("method", &self.method)
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
        match &self.meaning.job_url {
            Some(form) => {
                let found = form.parse(job_id)?;
                self.check_chosen_host(&found.url)?;
                self.job_id.check(&found.id)
            }
            None => self.job_id.check(job_id),
        }
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
                None if param.is_optional() => continue,
                None => param.default().cloned().ok_or_else(missing),
                Some(Value::String(value)) => {
                    param.check(value).map(|()| value.clone()).map_err(ParamError::Invalid)
                }
                Some(_) => Err(ParamError::NotAString),
            };
            match value {
                Ok(value) => drop(values.insert(name.as_str(), value)),
                Err(error) => errors.push((name.clone(), error)),
            }
        }
        if errors.is_empty()
            && let Err((name, why)) = self.check_host(&values)
        {
            errors.push((name, ParamError::Invalid(why)));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        serde_json::to_string(&values)
            .map_err(|error| vec![(String::new(), ParamError::Invalid(error.to_string()))])
    }

    /// Checks that parameters in the host make a host to which the credential is sent. The error has the name of the
    /// first of these parameters.
    fn check_host(&self, values: &BTreeMap<&str, String>) -> Result<(), (String, String)> {
        let Target::Url(url) = &self.request.target else { return Ok(()) };
        let Some(name) = url.host().and_then(|host| host.names().next()) else { return Ok(()) };
        let wrong = |why| (name.to_owned(), why);
        let value = |name: &str| values.get(name).cloned().ok_or_else(|| format!("`{name}` is missing"));
        let origin = url.render_origin(value).map_err(wrong)?;
        self.check_chosen_host(&origin).map_err(wrong)
    }

    /// Checks that the credential may be sent to a host that a client has chosen. The error is a sentence.
    fn check_chosen_host(&self, url: &Url) -> Result<(), String> {
        let is_trusted = self.request.auth.as_ref().is_none_or(|auth| auth.trusts_chosen(url));
        let host = url.host_str().unwrap_or_default();
        let is_own = self.request.auth.as_ref().is_some_and(|auth| auth.own_hosts.is_some());
        let why = || {
            let (name, id) = (&self.name, &self.id);
            let remedy = if is_own {
                "name a credential whose `sendTo` has it".to_owned()
            } else {
                format!("the operator can list it in providers.{id}.hosts")
            };
            format!("the key of {name} must not be sent to {host}; {remedy}")
        };
        is_trusted.then_some(()).ok_or_else(why)
    }

    /// Sets the operator's token URL, which replaces that of the definition. The error is a sentence.
    pub fn set_token_url(&mut self, url: &str) -> Result<(), String> {
        let url = check_base(url)?;
        let auth = self.request.auth.as_mut().filter(|auth| matches!(auth.form, AuthForm::Token(..)));
        let auth = auth.ok_or("the provider's credential is not exchanged for a token; remove it")?;
        auth.token_url = Some(url);
        Ok(())
    }

    /// Sets the hosts that the operator lists for the credential, separated by commas, and whether `base_url` replaces
    /// the host. The error is a sentence.
    pub fn set_operator_hosts(&mut self, hosts: &str, is_rebased: bool) -> Result<(), String> {
        let entries = hosts.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let hosts = entries.map(HostPattern::parse).collect::<Result<Vec<_>, _>>()?;
        if let Some(auth) = &mut self.request.auth {
            (auth.operator_hosts, auth.is_rebased) = (hosts, is_rebased);
        }
        Ok(())
    }

    /// Checks that each host of [`Self::set_operator_hosts`] has an effect. The error is a sentence.
    pub fn check_operator_hosts(&self) -> Result<(), String> {
        let Some(auth) = &self.request.auth else { return Ok(()) };
        let is_below =
            |host: &HostPattern| auth.send_to.iter().any(|one| !one.is_exact() && one.covers(host));
        match auth.operator_hosts.iter().find(|host| !is_below(host)) {
            Some(host) => {
                let host = host.example();
                Err(format!("{host} is below no wildcard of the definition and has no effect; remove it"))
            }
            None => Ok(()),
        }
    }

    /// Checks a configured address. It replaces the scheme, host and port of the definition's URL, and its path, if
    /// any, is placed before the URL's path.
    pub fn check_base_url(&self, base: &str) -> Result<Url, String> {
        if base.len() > MAX_URL {
            return Err(format!("must be at most {MAX_URL} characters"));
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
        credential: Option<Credential<'_>>,
    ) -> Result<Request, String> {
        self.supplied_request(job_id, params, base_url, credential.map(Supply::Real))
    }

    fn supplied_request(
        &self,
        job_id: &str,
        params: &str,
        base_url: Option<&Url>,
        supply: Option<Supply<'_>>,
    ) -> Result<Request, String> {
        let sources = Sources {
            job_id,
            params,
            values: &BTreeMap::new(),
            named: None,
            base_url,
            credential: CredentialUse::Sent(supply),
            max_body: self.meaning.max_body,
        };
        self.build(&self.request, &sources)
    }

    /// Returns the request that a form describes. The error is a sentence.
    pub(super) fn build(&self, form: &RequestForm, sources: &Sources<'_>) -> Result<Request, String> {
        let Sources { job_id, base_url, .. } = *sources;
        let params: BTreeMap<String, String> = serde_json::from_str(sources.params)
            .map_err(|error| format!("the stored parameters: {error}"))?;
        let job_url = self.meaning.job_url.as_ref().map(|form| form.parse(job_id)).transpose()?;
        let short_id = job_url.as_ref().map_or(job_id, |found| &found.id);
        let of_answer = <Param as Default>::default();
        // The values were checked at registration, perhaps with an older definition.
        let value = |name: &str| {
            let found = match (name, sources.values.get(name)) {
                (_, Some(value)) => Some((&of_answer, value.as_str())),
                ("job_id", None) => Some((&self.job_id, short_id)),
                (_, None) => self.params.get(name).zip(params.get(name).map(String::as_str)),
            };
            let (param, value) = found.ok_or_else(|| format!("the parameter `{name}` is missing"))?;
            param.check(value).map(|()| (param, value)).map_err(|why| format!("`{name}`: {why}"))
        };
        let plain = |name: &str| {
            let part = job_url.as_ref().and_then(|found| found.params.get(name));
            part.map_or_else(|| value(name).map(|(_, value)| value.to_owned()), |part| Ok(part.clone()))
        };
        let (mut url, chosen_by) = match (&form.target, &job_url, &sources.named) {
            (Target::Url(url), _, _) => {
                let encoded = |name: &str| match job_url.as_ref().and_then(|found| found.params.get(name)) {
                    // It is a part of a path already.
                    Some(part) => Ok(part.clone()),
                    None => value(name).map(|(param, value)| param.encoded(value)),
                };
                let chosen_by = if url.host().is_some() { ChosenBy::Client } else { ChosenBy::Definition };
                (url.render(base_url, encoded, plain)?, chosen_by)
            }
            (Target::JobUrl, Some(found), _) => (found.at(base_url)?, ChosenBy::Client),
            (Target::BelowJob(path), Some(found), _) => (found.below(path, base_url)?, ChosenBy::Client),
            (Target::Given(url), _, _) => (url.clone(), ChosenBy::Client),
            (Target::Answer, _, Some(url)) => (url.clone(), ChosenBy::Provider),
            (Target::JobUrl | Target::BelowJob(_), None, _) => {
                return Err("the definition has no form of job URLs".to_owned());
            }
            (Target::Answer, _, None) => return Err("the answer to the poll has no URL".to_owned()),
        };
        let sent = match sources.credential {
            CredentialUse::Sent(supply) => self.credential((&url, chosen_by), base_url, supply)?,
            CredentialUse::Kept => Sent::default(),
        };
        let is_left_out =
            |name: &str| self.params.get(name).is_some_and(Param::is_optional) && !params.contains_key(name);
        let is_absent = |template: &Template| template.names().any(is_left_out);
        let mut query: Vec<(String, String)> = Vec::new();
        for (name, template) in form.query.iter().filter(|(_, template)| !is_absent(template)) {
            query.push((name.clone(), template.render(plain)?));
        }
        query.extend(sent.query);
        add_query(&mut url, &query);
        let mut headers = headers(form, plain, is_absent)?;
        let mut body = Vec::new();
        if let Some(template) = &form.body {
            let (kind, bytes) = template.render(plain, is_absent, &sent.body)?;
            // A definition can name a kind of JSON that the provider requires.
            if !headers.iter().any(|(name, _)| name == "content-type") {
                headers.push(("content-type".to_owned(), kind.to_owned()));
            }
            body = bytes;
        }
        headers.extend(sent.headers);
        let mut request = Request {
            method: form.method.word(),
            url,
            headers,
            body,
            timeout: form.timeout,
            max_body: sources.max_body,
            max_redirects: if form.follows_redirects { MAX_REDIRECTS } else { 0 },
            is_from_client: chosen_by != ChosenBy::Definition && base_url.is_none(),
            secrets: sent.secrets,
        };
        self.limit_own(&mut request);
        self.sign(&mut request, sources.credential.supply(), plain)?;
        Ok(request)
    }

    /// Signs a request, if the credential is a key for that. Everything else of the request is complete.
    fn sign(
        &self,
        request: &mut Request,
        supply: Option<Supply<'_>>,
        param: impl Fn(&str) -> Result<String, String>,
    ) -> Result<(), String> {
        let Some((auth, supply)) = self.request.auth.as_ref().zip(supply) else { return Ok(()) };
        let Request { method, url, headers, body, .. } = &*request;
        let unsigned = Unsigned { method, url, headers, body };
        let signature = auth.signature(supply, unsigned, param).map_err(|why| self.of_key(&why))?;
        request.headers.extend(signature.headers);
        request.secrets.extend(signature.secrets);
        Ok(())
    }

    /// Returns the request for a token that the key is exchanged for. `refresh_token` is a newer one than that of the
    /// key. The error is a sentence.
    pub fn token_request(
        &self,
        key: &str,
        refresh_token: Option<&str>,
        now: Timestamp,
    ) -> Result<Request, String> {
        let auth = self.request.auth.as_ref().ok_or("the provider needs no token")?;
        let token = auth.token_request(key, refresh_token, now).map_err(|why| self.of_key(&why))?;
        if !auth.is_permitted_by_app(&token.url) {
            return Err(self.of_key("must not be sent to the host of the token URL"));
        }
        let mut headers = vec![("accept".to_owned(), "application/json".to_owned())];
        headers.extend(token.headers);
        let mut request = Request {
            method: token.method,
            url: token.url,
            headers,
            body: token.body.into_bytes(),
            timeout: self.request.timeout.min(TOKEN_TIMEOUT),
            max_body: TOKEN_ANSWER_MAX,
            max_redirects: 0,
            is_from_client: false,
            secrets: token.secrets,
        };
        self.limit_own(&mut request);
        Ok(request)
    }

    fn token_answer(&self) -> Option<&TokenAnswer> {
        let auth = self.request.auth.as_ref()?;
        if let AuthForm::Token(form, _) = &auth.form { form.answer() } else { None }
    }

    /// Returns whether the definition says where the answer of the token URL has the token.
    pub fn has_own_token_answer(&self) -> bool {
        self.token_answer().is_some()
    }

    /// Returns the token in an answer of the token URL, the refresh token that replaces the one that was sent, and the life
    /// of the token. The error is the rest of a sentence about the token URL, and repeats nothing of the answer.
    pub fn read_token(
        &self,
        headers: &[(String, String)],
        body: &[u8],
        now: Timestamp,
    ) -> Result<(String, Option<String>, Option<Duration>), String> {
        let answer =
            self.token_answer().ok_or("the definition does not say where the answer has the token")?;
        answer.read(headers, body, now)
    }

    /// Returns a sentence about the key.
    fn of_key(&self, why: &str) -> String {
        format!("the key for {} {why}", self.name)
    }

    /// Returns what the credential adds to a request to `url`.
    fn credential(
        &self,
        (url, chosen_by): (&Url, ChosenBy),
        base_url: Option<&Url>,
        supply: Option<Supply<'_>>,
    ) -> Result<Sent, String> {
        let Some(auth) = &self.request.auth else { return Ok(Sent::default()) };
        let name = &self.name;
        let variable = credential_variable(&self.id);
        let supply = supply.ok_or_else(|| format!("{name} needs a key; set {variable}"))?;
        let sent = auth.sent(supply).map_err(|why| self.of_key(&why))?;
        let operators_own = base_url.is_some_and(|base| base.origin() == url.origin());
        let is_trusted = match chosen_by {
            ChosenBy::Definition => auth.trusts(url),
            ChosenBy::Client if base_url.is_some() => auth.trusts_chosen(url),
            ChosenBy::Client | ChosenBy::Provider => auth.trusts_named(url),
        };
        if (!operators_own && !is_trusted) || !auth.is_permitted_by_app(url) {
            return Err(self.of_key("must not be sent to this host"));
        }
        Ok(sent)
    }

    /// Returns the URL of the request for a job, without its query and its credential.
    pub fn shown_url(&self, job_id: &str, params: &str, base_url: Option<&Url>) -> Result<Url, String> {
        let supply = Supply::Shown(Timestamp::from_millis(0));
        let mut url = self.supplied_request(job_id, params, base_url, Some(supply))?.url;
        url.set_query(None);
        url.set_fragment(None);
        Ok(url)
    }

    /// Returns the request for a job as text, with the credential and what is derived from it masked.
    pub fn shown_request(
        &self,
        job_id: &str,
        params: &str,
        base_url: Option<&Url>,
        now: Timestamp,
    ) -> Result<String, String> {
        Ok(shown(&self.supplied_request(job_id, params, base_url, Some(Supply::Shown(now)))?))
    }
}

/// Returns a request as text. It was made with a credential that is masked.
pub(super) fn shown(request: &Request) -> String {
    let url = request.url.as_str().replace(&percent_encode(MASK), MASK);
    let mut lines = vec![format!("{} {url}", request.method)];
    lines.extend(request.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    if !request.body.is_empty() {
        let body = String::from_utf8_lossy(&request.body).replace(&percent_encode(MASK), MASK);
        lines.extend([String::new(), body]);
    }
    lines.join("\n")
}

/// Returns the headers of a form, which are not those of the credential.
fn headers(
    form: &RequestForm,
    plain: impl Fn(&str) -> Result<String, String>,
    is_absent: impl Fn(&Template) -> bool,
) -> Result<Vec<(String, String)>, String> {
    let RequestForm { accept, headers: templates, .. } = form;
    let mut headers = vec![("accept".to_owned(), accept.clone())];
    for (name, template) in templates.iter().filter(|(_, template)| !is_absent(template)) {
        let text = template.render(&plain)?;
        if !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
            let why = "would contain characters that are not allowed in a header";
            return Err(format!("the header `{name}` {why}"));
        }
        headers.push((name.clone(), text));
    }
    Ok(headers)
}

/// What a request is made from, besides its form.
pub(super) struct Sources<'a> {
    pub(super) job_id: &'a str,
    /// Parameters of the registration, as canonical JSON.
    pub(super) params: &'a str,
    /// Values from an answer, which replace parameters of the same name.
    pub(super) values: &'a BTreeMap<String, String>,
    /// The checked URL that an answer names.
    pub(super) named: Option<Url>,
    /// Address that replaces the one of the form; the one of a URL that an answer names is then the operator's own.
    pub(super) base_url: Option<&'a Url>,
    pub(super) credential: CredentialUse<'a>,
    pub(super) max_body: usize,
}

/// Whether a request has the credential.
#[derive(Clone, Copy)]
pub(super) enum CredentialUse<'a> {
    /// It is sent, if the provider needs one.
    Sent(Option<Supply<'a>>),
    /// The request is made without it.
    Kept,
}

impl<'a> CredentialUse<'a> {
    /// Returns what authorises the request.
    fn supply(self) -> Option<Supply<'a>> {
        match self {
            Self::Sent(supply) => supply,
            Self::Kept => None,
        }
    }
}

/// Where the host of a request comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ChosenBy {
    /// From the definition, or from the operator's `base_url`.
    Definition,
    /// From a registration.
    Client,
    /// From an answer of the provider.
    Provider,
}

/// Adds pairs to the query of a URL.
fn add_query(url: &mut Url, pairs: &[(String, String)]) {
    let pair =
        |(name, value): &(String, String)| format!("{}={}", percent_encode(name), percent_encode(value));
    let mut query: Vec<String> = url.query().map(str::to_owned).into_iter().collect();
    query.extend(pairs.iter().map(pair));
    if !query.is_empty() {
        url.set_query(Some(&query.join("&")));
    }
}

/// A URL that is the id of a job.
pub(super) struct FoundJobUrl {
    url: Url,
    /// The part of the path that is the id.
    pub(super) id: String,
    /// The other named parts.
    pub(super) params: BTreeMap<String, String>,
}

impl JobUrl {
    /// Returns the names of the parts of the path besides the id.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.path.capture_names().flatten().filter(|name| *name != "job_id")
    }

    /// Parses an id. The error is a sentence.
    pub(super) fn parse(&self, job_id: &str) -> Result<FoundJobUrl, String> {
        let url = Url::parse(job_id)
            .map_err(|_| "must be the URL of the job, which begins with https://".to_owned())?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if url.scheme() != "https" || !matches!(url.host(), Some(Host::Domain(_))) || !is_plain {
            return Err(
                "must be an https URL with a host name, and without a user name or a fragment".to_owned()
            );
        }
        // An equal job must have an equal id.
        if url.as_str() != job_id {
            return Err(format!("must be written as {url}"));
        }
        if !self.hosts.iter().any(|pattern| pattern.contains(&url)) {
            return Err("is a URL of another host than those that the definition allows".to_owned());
        }
        // `…/a?` and `…/a` would be two jobs.
        if url.query() == Some("") {
            return Err("must not end with `?`".to_owned());
        }
        if url.query().is_some() && !self.keeps_query {
            return Err("must not contain a query".to_owned());
        }
        let groups = self.path.captures(url.path());
        let groups =
            groups.ok_or_else(|| format!("must have a path that matches the pattern {}", self.pattern))?;
        let named = self.path.capture_names().flatten();
        let mut params: BTreeMap<String, String> = named
            .filter_map(|name| Some((name.to_owned(), groups.name(name)?.as_str().to_owned())))
            .collect();
        let id = params.remove("job_id").ok_or("must contain the id of the job")?;
        Ok(FoundJobUrl { url, id, params })
    }
}

impl FoundJobUrl {
    /// Returns the URL without its query, with `path` after its path; `base` replaces its origin.
    fn below(&self, path: &str, base: Option<&Url>) -> Result<Url, String> {
        let mut url = self.at(base)?;
        url.set_query(None);
        let path = format!("{}{path}", url.path());
        url.set_path(&path);
        if url.path() == path { Ok(url) } else { Err(format!("`{path}` is not a normalised path")) }
    }

    /// Returns the URL; `base` replaces its origin.
    fn at(&self, base: Option<&Url>) -> Result<Url, String> {
        let Some(base) = base else { return Ok(self.url.clone()) };
        let rest = &self.url[Position::BeforePath..];
        let text = format!("{}{rest}", base.as_str().trim_end_matches('/'));
        Url::parse(&text).map_err(|error| format!("base_url: {error}"))
    }
}
