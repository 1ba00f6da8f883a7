//! Client of a running server, and output of lists, page by page. An error is a sentence that says what to do.
//!
//! The client connects to the server that the user names, wherever it is: the address policy is for addresses that
//! others name. For the same reason it uses the proxy of the user's environment (`HTTPS_PROXY`, `NO_PROXY`), which the
//! service does not. The client does not repeat requests; callers decide about retries.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use super::output::{Failure, clean, list, print_line, print_note};
use super::request_fields::{Body, Field, arguments, with_arguments};
use super::terminal::{Column, Terminal, Widths};
use crate::clock::Clock;
use crate::config::{Access, ClientProxy, Environment};
use crate::egress::{self, Proxy};

/// Timeout of a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a request, in addition to the time that the server is asked to wait.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum size of an answer, in bytes: a page of 200 watches with many outputs is smaller.
const ANSWER_MAX: usize = 64 * 1024 * 1024;
/// Maximum number of entries of a page.
pub(super) const PAGE_MAX: u16 = 200;

const AGENT: &str = concat!("Ringback-cli/", env!("CARGO_PKG_VERSION"));

/// Arguments that select the server.
#[derive(Debug, Default, clap::Args)]
pub struct Server {
    /// URL of the server.
    #[arg(
        long,
        value_name = "URL",
        help = "URL of the server [default: RINGBACK_URL, or http://127.0.0.1:8080]"
    )]
    pub url: Option<String>,
}

impl Server {
    /// Returns a client for the server, with the key in `RINGBACK_API_KEY`.
    pub fn client(&self) -> Result<Client, Failure> {
        let access = Access::read(self.url.as_deref(), &Environment::of_process())?;
        Ok(Client::new(access)?)
    }
}

/// Client of one server, with one key.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    access: Access,
    /// Clock of the system.
    pub clock: Clock,
}

/// JSON answer of the server.
#[derive(Debug)]
pub struct Answer {
    /// Text as it was received; empty for an answer without content.
    pub text: String,
}

impl Answer {
    /// Parses the text.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// Prints the JSON as it was received, or else the text that `render` returns.
    pub(super) fn print(
        &self,
        as_json: bool,
        render: impl FnOnce(&Value, Terminal) -> String,
    ) -> Result<(), Failure> {
        let terminal = Terminal::of_stdout();
        if as_json {
            terminal.json(&self.text)?;
        } else {
            print_line(render(&self.value(), terminal))?;
        }
        Ok(())
    }
}

/// A page of a list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// Entries as they were received.
    pub data: Vec<Box<RawValue>>,
    /// Cursor of the next page.
    pub next_cursor: Option<String>,
}

/// Makes the HTTP client of a command that calls the user's own server.
pub(super) fn http_client(
    connect_timeout: Duration,
    proxy: Option<&Proxy>,
) -> anyhow::Result<reqwest::Client> {
    let environment = Environment::of_process();
    let cert_file = environment.raw("SSL_CERT_FILE").map(OsStr::new);
    egress::unguarded(connect_timeout, proxy, cert_file).context("the HTTP client cannot be made")
}

impl Client {
    /// Creates a client for a server.
    pub(super) fn new(access: Access) -> anyhow::Result<Self> {
        let mut access = access;
        let used = |proxy: &ClientProxy| !egress::bypasses_proxy(&proxy.bypass, &access.url);
        access.proxy = access.proxy.take().filter(used);
        let proxy = access.proxy.as_ref().map(|proxy| Proxy::parse(proxy.url.reveal()));
        let proxy = proxy.transpose().map_err(anyhow::Error::msg)?;
        let http = http_client(CONNECT_TIMEOUT, proxy.as_ref())?;
        Ok(Self { http, access, clock: Clock::System })
    }

    /// Returns the URL of the server.
    pub fn url(&self) -> &str {
        &self.access.url
    }

    /// Sends a GET request.
    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.get_waiting(path, Duration::ZERO).await
    }

    /// Sends a GET request that the server answers after up to `wait`.
    pub async fn get_waiting(&self, path: &str, wait: Duration) -> Result<Answer, Failure> {
        self.exchange(self.request(Method::GET, path), wait).await
    }

    /// Sends a POST request.
    pub async fn post(&self, path: &str, body: Option<Body>, key: Option<&str>) -> Result<Answer, Failure> {
        self.post_waiting(path, body, key, Duration::ZERO).await
    }

    /// Sends a POST request that the server answers after up to `wait`.
    pub async fn post_waiting(
        &self,
        path: &str,
        body: Option<Body>,
        key: Option<&str>,
        wait: Duration,
    ) -> Result<Answer, Failure> {
        let mut request = self.request(Method::POST, path);
        if let Some(body) = &body {
            request = request.header(CONTENT_TYPE, "application/json").body(body.json.clone());
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = self.exchange(request, wait).await;
        answer.map_err(|failure| body.unwrap_or_default().name_arguments(failure))
    }

    /// Sends a PATCH request.
    pub async fn patch(&self, path: &str, body: Body) -> Result<Answer, Failure> {
        let request = self.request(Method::PATCH, path);
        let request = request.header(CONTENT_TYPE, "application/json").body(body.json.clone());
        let answer = self.exchange(request, Duration::ZERO).await;
        answer.map_err(|failure| body.name_arguments(failure))
    }

    /// Sends a DELETE request.
    pub async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.exchange(self.request(Method::DELETE, path), Duration::ZERO).await
    }

    /// Sends a PUT request with TOML.
    pub async fn put_toml(&self, path: &str, body: Vec<u8>) -> Result<Answer, Failure> {
        let request = self.request(Method::PUT, path).header(CONTENT_TYPE, "application/toml").body(body);
        self.exchange(request, Duration::ZERO).await
    }

    /// Sends a GET request, and returns the text of the answer, which need not be JSON.
    pub async fn get_text(&self, path: &str) -> Result<String, Failure> {
        self.exchange_text(self.request(Method::GET, path), Duration::ZERO).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.access.url));
        let request = request.header(USER_AGENT, AGENT).header(ACCEPT, "application/json");
        match &self.access.key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        }
    }

    async fn exchange(&self, request: RequestBuilder, wait: Duration) -> Result<Answer, Failure> {
        let text = self.exchange_text(request, wait).await?;
        if !text.is_empty() && serde_json::from_str::<IgnoredAny>(&text).is_err() {
            let url = self.url();
            let sentence = format!("the server at {url} is not Ringback: is RINGBACK_URL right?");
            return Err(Failure::Failed(sentence));
        }
        Ok(Answer { text })
    }

    async fn exchange_text(&self, request: RequestBuilder, wait: Duration) -> Result<String, Failure> {
        let work = async {
            let response = request.send().await.map_err(|error| self.unreachable(&error))?;
            let status = response.status();
            let path = response.url().path().to_owned();
            let text = self.read(response).await?;
            if !status.is_success() {
                return Err(self.rejected(status, &path, &text));
            }
            Ok(text)
        };
        self.clock.timeout(wait + TIMEOUT, work).await.unwrap_or_else(|| {
            let seconds = TIMEOUT.as_secs();
            Err(Failure::Unavailable(format!("{} does not answer within {seconds} s", self.url())))
        })
    }

    async fn read(&self, mut response: Response) -> Result<String, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_MAX {
                return Err(Failure::Failed(format!("{} sent an answer of more than 64 MiB", self.url())));
            }
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Returns the error for a request without a complete answer.
    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = egress::SendError::classify(error).to_string();
        let url = self.url();
        Failure::Unavailable(if error.is_builder() {
            format!("no request can be sent to {url}: {error}")
        } else if error.is_connect() {
            let proxy = self.access.proxy.as_ref();
            let proxy = proxy.map(|proxy| {
                format!(" The proxy is that of {}; NO_PROXY names hosts without it.", proxy.variable)
            });
            let proxy = proxy.unwrap_or_default();
            format!(
                "{url} does not answer ({why}): is the server running, and is RINGBACK_URL its address?{proxy}"
            )
        } else {
            format!("{url} sent an incomplete answer ({why})")
        })
    }

    /// Returns the error for an answer with an error status, whose body is a problem (RFC 9457).
    fn rejected(&self, status: StatusCode, path: &str, text: &str) -> Failure {
        let problem: Value = serde_json::from_str(text).unwrap_or_default();
        let text = |value: &Value, field: &str| clean(value[field].as_str().unwrap_or_default());
        let detail = text(&problem, "detail");
        let mut sentence = match status {
            StatusCode::UNAUTHORIZED if self.access.key.is_none() => {
                "the server requires a key: set RINGBACK_API_KEY".to_owned()
            }
            StatusCode::UNAUTHORIZED => {
                "the server does not know this key: set RINGBACK_API_KEY to a key of this server".to_owned()
            }
            _ if detail.is_empty() => format!("{} answered {status}: is RINGBACK_URL right?", self.url()),
            StatusCode::NOT_FOUND if self.url().ends_with("/v1") => {
                format!("{path}: no such path; the URL of the server must end before /v1")
            }
            StatusCode::NOT_FOUND => format!("{path}: {detail}"),
            _ => detail,
        };
        // A single field error is already in the detail.
        if list(&problem, "/errors").nth(1).is_some() {
            for error in list(&problem, "/errors") {
                // Writing to a string cannot fail.
                let _ = write!(sentence, "\n  {}: {}", text(error, "pointer"), text(error, "detail"));
            }
        }
        // Statuses that mean "not now", from the server or from a proxy in front of it.
        match status.as_u16() {
            429 | 502..=504 => Failure::Unavailable(sentence),
            _ => Failure::Failed(sentence),
        }
    }
}

/// Arguments that select the page and the form of a list.
#[derive(Debug, clap::Args)]
pub struct Paging {
    /// Maximum number of entries, 1 to 200 [default: 50]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(PAGE_MAX)))]
    limit: Option<u16>,
    /// Continue after an earlier page, at its nextCursor
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// List all entries, page by page
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    /// Print the server's JSON: a page, or with --all one entry per line
    #[arg(long)]
    json: bool,
}

impl Paging {
    /// Prints the list at `path`. `row` returns the row of an entry.
    pub(super) async fn show(
        self,
        client: &Client,
        path: &str,
        filters: &[Field],
        columns: &[Column],
        mut row: impl FnMut(&Value) -> Vec<String>,
    ) -> Result<(), Failure> {
        let (mut cursor, mut widths) = (self.cursor.clone(), None);
        let limit = self.limit.or(self.all.then_some(PAGE_MAX)).map(|limit| limit.to_string());
        loop {
            let page = [("limit", "--limit", limit.clone()), ("cursor", "--cursor", cursor.take())];
            let fields: Vec<Field> = filters.iter().cloned().chain(page).collect();
            let parameters = fields.iter().map(|(name, _, value)| (*name, value.clone()));
            let answer = client.get(&with_query(path, parameters)).await;
            let answer = answer.map_err(|failure| with_arguments(failure, &arguments("?", &fields)))?;
            cursor = self.page(&answer.text, columns, &mut row, &mut widths)?;
            if !self.all || cursor.is_none() {
                break;
            }
        }
        if cursor.is_some() && !self.json {
            print_note("There are more entries: --all lists them.");
        }
        Ok(())
    }

    /// Prints a list that is completely in memory.
    pub(super) fn show_whole(
        self,
        mut list: Value,
        columns: &[Column],
        mut row: impl FnMut(&Value) -> Vec<String>,
    ) -> Result<(), Failure> {
        if self.cursor.is_some() {
            let sentence = "--cursor works with a server only: a database is read completely";
            return Err(Failure::Usage(sentence.to_owned()));
        }
        if let (Some(limit), Some(data)) = (self.limit, list["data"].as_array_mut()) {
            data.truncate(usize::from(limit));
        }
        self.page(&list.to_string(), columns, &mut row, &mut None).map(drop)
    }

    /// Prints a page and returns the cursor of the next one. The first page sets the widths, and has the header.
    fn page(
        &self,
        text: &str,
        columns: &[Column],
        row: &mut impl FnMut(&Value) -> Vec<String>,
        widths: &mut Widths,
    ) -> Result<Option<String>, Failure> {
        let with_head = widths.is_none();
        let terminal = Terminal::of_stdout();
        let page: Page = serde_json::from_str(text).context("the answer is not a list of Ringback")?;
        if self.json && self.all {
            page.data.iter().try_for_each(|one| terminal.json(one.get()))?;
        } else if self.json {
            terminal.json(text)?;
        } else if page.data.is_empty() && with_head {
            print_note("No entries.");
        } else {
            let rows = page.data.iter().map(|one| row(&serde_json::from_str(one.get()).unwrap_or_default()));
            print_line(terminal.page(columns, rows, with_head, widths))?;
        }
        Ok(page.next_cursor)
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

/// Returns a text of the user as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_text_cannot_leave_its_segment_of_the_path() {
        assert_eq!(segment("watch_1/../../x?y z"), "watch_1%2F..%2F..%2Fx%3Fy%20z");
        let path = with_query("/v1/watches", [("status", None), ("jobId", Some("a&b=c".to_owned()))]);
        assert_eq!(path, "/v1/watches?jobId=a%26b%3Dc");
    }
}
