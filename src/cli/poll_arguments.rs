//! The arguments of `ringback watch` about a job without a definition.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::output::Failure;
use super::request_fields::Body;

/// How to poll a job that no provider's definition describes.
#[derive(Debug, clap::Args)]
pub struct PollArguments {
    /// Poll this URL, without a provider's definition and an id
    #[arg(long, value_name = "URL", conflicts_with_all = ["provider", "param"])]
    pub poll_url: Option<String>,
    /// Header of the poll, as 'name: value'; can be repeated
    #[arg(long, value_name = "HEADER", requires = "poll_url")]
    poll_header: Vec<String>,
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
    completed: Vec<String>,
    /// Words that mean failed
    #[arg(long, value_name = "WORDS", value_delimiter = ',', requires = "status")]
    failed: Vec<String>,
    /// Words that mean cancelled
    #[arg(long, value_name = "WORDS", value_delimiter = ',', requires = "status")]
    cancelled: Vec<String>,
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
        let mut headers = BTreeMap::new();
        for header in &self.poll_header {
            let (name, value) = header.split_once(':').ok_or_else(|| {
                let sentence = "--poll-header: write it as 'name: value', such as 'authorization: Bearer …'";
                Failure::Usage(sentence.to_owned())
            })?;
            if headers.insert(name.trim(), value.trim()).is_some() {
                return Err(Failure::Usage(format!("--poll-header: {} is given twice", name.trim())));
            }
        }
        let list = |words: &[String]| (!words.is_empty()).then(|| json!(words));
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

    /// Names the arguments in errors about the field.
    pub fn name_arguments(body: Body) -> Body {
        let name = |body: Body, (field, argument): (&str, &str)| {
            body.with_argument(format!("/poll/{field}"), argument.to_owned())
        };
        FIELDS.into_iter().fold(body, name)
    }
}
