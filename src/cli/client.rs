//! A client of a running server: one request, one answer, and what went wrong in a sentence that
//! says what to do.
//!
//! It speaks to the server that the user named, wherever that is: the guard against private addresses
//! is for what others name. Nothing is sent twice by itself; whoever may ask again, asks again.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::screen::clean;
use super::{Failure, mistaken};
use crate::clock::Clock;
use crate::config::{Access, Environment};
use crate::egress;

/// To a server that is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one exchange, beyond what the server was asked to wait.
const TIMEOUT: Duration = Duration::from_secs(30);
/// A page of 200 watches with many outputs each; what is larger is no answer of a Ringback.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// As many entries as the server puts on a page.
pub(super) const PAGE_MAX: u16 = 200;

const AGENT: &str = concat!("Ringback-cli/", env!("CARGO_PKG_VERSION"));

/// Which server is asked.
#[derive(Debug, Default, clap::Args)]
pub struct Server {
    /// The server's address.
    #[arg(long, value_name = "URL", help = "The server [default: RINGBACK_URL, or http://127.0.0.1:8080]")]
    pub url: Option<String>,
}

impl Server {
    /// The client for it. The key comes from `RINGBACK_API_KEY`.
    pub fn client(&self) -> Result<Client, Failure> {
        let access = Access::read(self.url.as_deref(), &Environment::of_process());
        let access = access.map_err(|mistakes| mistaken(&mistakes))?;
        let http = egress::unguarded(CONNECT_TIMEOUT).context("the HTTP client cannot be made")?;
        Ok(Client { http, access, clock: Clock::System })
    }
}

/// Speaks to one server, with one key.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    access: Access,
    /// The machine's.
    pub clock: Clock,
}

/// Why there is no answer to work with.
#[derive(Debug)]
pub enum Trouble {
    /// Perhaps there is one later: nobody answered, or somebody who cannot now.
    Passing(String),
    /// Asking again would change nothing.
    Lasting(String),
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Passing(sentence) | Trouble::Lasting(sentence) => Self::Failed(sentence),
        }
    }
}

/// What the server said: JSON, as it came.
#[derive(Debug)]
pub struct Answer {
    /// The text; empty where there is nothing to say.
    pub text: String,
}

impl Answer {
    /// What it says.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// What is on it, as it came.
    pub data: Vec<Box<RawValue>>,
    /// Where the next one begins.
    pub next_cursor: Option<String>,
}

/// RFC 9457, as far as it is told to people.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    detail: String,
    errors: Vec<FieldError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FieldError {
    pointer: String,
    detail: String,
}

impl Client {
    /// Where it asks.
    pub fn url(&self) -> &str {
        &self.access.url
    }

    /// Reads something.
    pub async fn get(&self, path: &str) -> Result<Answer, Trouble> {
        self.exchange(self.request(Method::GET, path), Duration::ZERO).await
    }

    /// Reads something for which the server waits up to `wait`.
    pub async fn get_waiting(&self, path: &str, wait: Duration) -> Result<Answer, Trouble> {
        self.exchange(self.request(Method::GET, path), wait).await
    }

    /// Does something.
    pub async fn post(&self, path: &str, body: Option<String>, key: Option<&str>) -> Result<Answer, Trouble> {
        let mut request = self.request(Method::POST, path);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.exchange(request, Duration::ZERO).await
    }

    /// Ends something.
    pub async fn delete(&self, path: &str) -> Result<Answer, Trouble> {
        self.exchange(self.request(Method::DELETE, path), Duration::ZERO).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.access.url));
        let request = request.header(USER_AGENT, AGENT).header(ACCEPT, "application/json");
        match &self.access.key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        }
    }

    async fn exchange(&self, request: RequestBuilder, wait: Duration) -> Result<Answer, Trouble> {
        let late = || {
            let seconds = TIMEOUT.as_secs();
            Trouble::Passing(format!("{} does not answer within {seconds} s", self.url()))
        };
        let work = async {
            let response = request.send().await.map_err(|error| self.unreachable(&error))?;
            let status = response.status();
            let path = response.url().path().to_owned();
            let text = self.read(response).await?;
            if status.is_success() { self.understood(text) } else { Err(self.refused(status, &path, &text)) }
        };
        self.clock.timeout(wait + TIMEOUT, work).await.unwrap_or_else(|| Err(late()))
    }

    async fn read(&self, mut response: Response) -> Result<String, Trouble> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_MAX {
                return Err(Trouble::Lasting(format!("{} answers more than 64 MiB", self.url())));
            }
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Nobody is there, or nobody any more.
    fn unreachable(&self, error: &reqwest::Error) -> Trouble {
        let why = egress::SendError::classify(error).to_string();
        let url = self.url();
        Trouble::Passing(if error.is_builder() {
            format!("{url} cannot be asked: {error}")
        } else if error.is_connect() {
            format!("{url} does not answer ({why}): is the server running, and is RINGBACK_URL its address?")
        } else {
            format!("{url} gave no whole answer ({why})")
        })
    }

    fn understood(&self, text: String) -> Result<Answer, Trouble> {
        if !text.is_empty() && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
            return Err(Trouble::Lasting(format!(
                "what answers at {} is no Ringback: is RINGBACK_URL right?",
                self.url()
            )));
        }
        Ok(Answer { text })
    }

    fn refused(&self, status: StatusCode, path: &str, text: &str) -> Trouble {
        let problem: Problem = serde_json::from_str(text).unwrap_or_default();
        let mut sentence = match status {
            StatusCode::UNAUTHORIZED if self.access.key.is_none() => {
                "the server asks for a key: set RINGBACK_API_KEY".to_owned()
            }
            StatusCode::UNAUTHORIZED => {
                "the server does not know this key: set RINGBACK_API_KEY to one of its own".to_owned()
            }
            StatusCode::NOT_FOUND if !problem.detail.is_empty() => {
                let detail = clean(&problem.detail);
                format!("{detail} ({path}): is the id whole, and of the app that the key is for?")
            }
            _ if problem.detail.is_empty() => {
                format!("{} answered {status}: is RINGBACK_URL right?", self.url())
            }
            _ => clean(&problem.detail).into_owned(),
        };
        // One alone is the sentence already.
        let several = problem.errors.iter().filter(|_| problem.errors.len() > 1);
        for FieldError { pointer, detail } in several {
            // Writing to a string cannot fail.
            let _ = write!(sentence, "\n  {}: {}", clean(pointer), clean(detail));
        }
        // Those that mean "not now", from the server or from a proxy before it.
        match status.as_u16() {
            429 | 502..=504 => Trouble::Passing(sentence),
            _ => Trouble::Lasting(sentence),
        }
    }
}

/// Appends parameters to a path.
pub(super) fn with_query<'a>(
    path: &str,
    parameters: impl IntoIterator<Item = (&'a str, Option<String>)>,
) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, &value);
        }
    }
    let query = query.finish();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// A word of the user's as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_wrote_stays_in_its_place_of_the_path() {
        assert_eq!(segment("watch_1/../../x?y z"), "watch_1%2F..%2F..%2Fx%3Fy%20z");
        let path = with_query("/v1/watches", [("status", None), ("jobId", Some("a&b=c".to_owned()))]);
        assert_eq!(path, "/v1/watches?jobId=a%26b%3Dc");
    }
}
