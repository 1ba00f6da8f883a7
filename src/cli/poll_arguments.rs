//! The arguments of `ringback watch` about a job without a definition.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::arguments::secret_file_or_stdin;
use super::output::{Failure, clean};
use super::request_fields::Body;
use crate::domain::Masked;

/// How to poll a job that no provider's definition describes.
#[derive(Debug, clap::Args)]
pub struct PollArguments {
    /// Poll this URL, without a provider's definition and an id
    #[arg(long, value_name = "URL", conflicts_with_all = ["provider", "param"])]
    pub poll_url: Option<String>,
    /// Header of the poll without a secret, as 'name: value'; can be repeated
    #[arg(long, value_name = "HEADER", requires = "poll_url")]
    poll_header: Vec<String>,
    /// File with headers of the poll, one 'name: value' a line; '-' for stdin. For secrets: others can see the arguments
    /// of a command
    #[arg(long, value_name = "FILE", requires = "poll_url", value_parser = secret_file_or_stdin)]
    poll_headers_file: Option<Masked>,
    /// Credential of the app for the poll
    #[arg(long, value_name = "NAME", requires = "poll_url")]
    poll_credential: Option<String>,
    /// The API has answered the start of the job with 202, so that a good answer without a status is its end
    #[arg(long, requires = "poll_url", conflicts_with = "status")]
    accepted: bool,
    /// Path of the status, such as $.state [default: Azure, Google or HTTP style]
    #[arg(long, value_name = "PATH", requires = "poll_url")]
    status: Option<String>,
    /// Words of the status that mean completed, such as done
    #[arg(long, value_name = "WORDS", value_delimiter = ',', requires = "status")]
    completed: Option<Vec<String>>,
    /// Words that mean failed; '' if there are none
    #[arg(long, value_name = "WORDS", value_delimiter = ',', requires = "status")]
    failed: Option<Vec<String>>,
    /// Words that mean cancelled
    #[arg(long, value_name = "WORDS", value_delimiter = ',', requires = "status")]
    cancelled: Option<Vec<String>>,
    /// Path of the result, such as $.result.url
    #[arg(long, value_name = "PATH", requires = "poll_url")]
    output: Option<String>,
    /// Path of the error, such as $.message
    #[arg(long, value_name = "PATH", requires = "poll_url")]
    error: Option<String>,
}

/// The fields of a poll object, with the arguments that set them.
const FIELDS: [(&str, &str); 10] = [
    ("url", "--poll-url"),
    ("headers", "--poll-header"),
    ("credential", "--poll-credential"),
    ("accepted", "--accepted"),
    ("status", "--status"),
    ("completed", "--completed"),
    ("failed", "--failed"),
    ("cancelled", "--cancelled"),
    ("output", "--output"),
    ("error", "--error"),
];

impl PollArguments {
    /// Returns the field `poll` as JSON.
    pub fn json(&self) -> Result<Option<String>, Failure> {
        let Some(url) = &self.poll_url else { return Ok(None) };
        let headers = self.headers()?;
        let list = |words: &Option<Vec<String>>| {
            let given =
                |words: &Vec<String>| json!(words.iter().filter(|word| !word.is_empty()).collect::<Vec<_>>());
            words.as_ref().map(given)
        };
        let fields = [
            ("url", Some(json!(url))),
            ("headers", (!headers.is_empty()).then(|| json!(headers))),
            ("credential", self.poll_credential.as_ref().map(|name| json!(name))),
            ("accepted", self.accepted.then_some(Value::Bool(true))),
            ("status", self.status.as_ref().map(|path| json!(path))),
            ("completed", list(&self.completed)),
            ("failed", list(&self.failed)),
            ("cancelled", list(&self.cancelled)),
            ("output", self.output.as_ref().map(|path| json!(path))),
            ("error", self.error.as_ref().map(|path| json!(path))),
        ];
        let fields: serde_json::Map<String, Value> =
            fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        Ok(Some(Value::Object(fields).to_string()))
    }

    /// Returns the headers of both arguments.
    fn headers(&self) -> Result<BTreeMap<&str, &str>, Failure> {
        let of_file = self.poll_headers_file.as_ref().map_or("", Masked::reveal).lines();
        let of_file =
            of_file.filter(|line| !line.trim().is_empty()).map(|line| ("--poll-headers-file", line));
        let given = self.poll_header.iter().map(|header| ("--poll-header", header.as_str()));
        let mut headers = BTreeMap::new();
        for (flag, header) in given.chain(of_file) {
            // A line of the file is not repeated: it may be a secret.
            let (name, value) = header.split_once(':').ok_or_else(|| {
                Failure::Usage(format!("{flag}: write each header as 'name: value', such as 'x-region: eu'"))
            })?;
            if headers.insert(name.trim(), value.trim()).is_some() {
                return Err(Failure::Usage(format!(
                    "{flag}: {} is given twice; give it once",
                    clean(name.trim())
                )));
            }
        }
        Ok(headers)
    }

    /// Names the arguments in errors about the field.
    pub fn name_arguments(body: Body) -> Body {
        let name = |body: Body, (field, argument): (&str, &str)| {
            body.with_argument(format!("/poll/{field}"), argument.to_owned())
        };
        FIELDS.into_iter().fold(body, name)
    }
}
