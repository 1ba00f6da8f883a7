//! `ringback provider new`: makes a first definition from answers of an API.

use serde_json::Deserializer;
use serde_json::value::RawValue;

use super::stdin::read_stdin;
use crate::cli::arguments;
use crate::cli::output::{Failure, print_line, print_note};
use crate::providers::{SkeletonAuth, SkeletonInput, is_provider_id, skeleton};

/// Make a first definition from answers of an API
///
/// Reads the bodies of one or more answers about one job from the standard input, and prints a definition. Guesses that
/// no answer confirms have a comment that begins with #, a space and a question mark. The answers become examples: remove
/// what is private.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  cat running.json done.json failed.json | ringback provider new acme \\
    --url https://api.acme.example/v1/jobs/j_1 > acme.toml
  ringback provider new acme --url https://api.acme.example/status \\
    --header 'x-version: 2' --body '{\"id\": \"j_1\"}' < answer.json > acme.toml
  ringback provider check acme.toml")]
pub struct New {
    /// Id of the provider: a-z, 0-9 and -
    name: String,
    /// URL at which the job is polled.
    #[arg(long, value_name = "URL", help = "URL at which the job is polled, with its id or with {job_id}")]
    url: String,
    /// Id of the job, if the URL does not show which part it is
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// Method of the poll: GET, POST or PUT [default: GET, or POST with a body]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Body of the poll.
    #[arg(
        long,
        value_name = "BODY",
        help = "Body of the poll: a JSON object, also of GraphQL, or a form such as id=j_1"
    )]
    body: Option<String>,
    /// Header of the poll; can be repeated. The values of credentials are left out
    #[arg(long, value_name = "NAME:VALUE", value_parser = arguments::header)]
    header: Vec<(String, String)>,
    /// How the key is sent: bearer, basic, none, header:NAME, query:NAME, body:NAME or aws:SERVICE
    #[arg(long, value_name = "KIND", value_parser = auth)]
    auth: Option<SkeletonAuth>,
}

impl New {
    pub(super) fn run(self) -> Result<(), Failure> {
        let text = String::from_utf8(read_stdin()?)
            .map_err(|_| Failure::Failed("the standard input is not UTF-8".to_owned()))?;
        let text = text.trim_start_matches('\u{feff}');
        let answers: Result<Vec<&RawValue>, _> = Deserializer::from_str(text).into_iter().collect();
        let answers = answers.map_err(|error| {
            Failure::Failed(format!("the standard input is not JSON ({error}); give the body of an answer; an API whose answers are no JSON is \
                 described by hand, with `body = \"text\"` in [response]"
            ))
        })?;
        let answers = answers.into_iter().map(RawValue::get).collect();
        let Self { name, url, job_id, method, body, header, auth } = &self;
        if !is_provider_id(name) {
            let wrong = "NAME: must be 1 to 40 characters of a-z, 0-9 and -, and begin with a letter";
            return Err(Failure::Usage(wrong.to_owned()));
        }
        let input = SkeletonInput {
            id: name,
            url,
            job_id: job_id.as_deref(),
            method: method.as_deref(),
            body: body.as_deref(),
            headers: header.clone(),
            auth: auth.clone(),
            answers,
        };
        let made = skeleton(&input).map_err(Failure::Usage)?;
        print_line(made.text.trim_end())?;
        let questions = made.questions.iter().map(|question| format!("- {question}\n"));
        print_note(format_args!("To decide:\n{}", questions.collect::<String>()));
        Ok(())
    }
}

/// Parses the kind of a credential.
fn auth(text: &str) -> Result<SkeletonAuth, String> {
    let named = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    let parsed = match text.split_once(':') {
        None if text == "none" => Some(SkeletonAuth::None),
        None if text == "bearer" => Some(SkeletonAuth::Bearer),
        None if text == "basic" => Some(SkeletonAuth::Basic),
        Some(("header", name)) => named(name).map(|name| SkeletonAuth::Header(name, String::new())),
        Some(("query", name)) => named(name).map(SkeletonAuth::Query),
        Some(("body", name)) => named(name).map(SkeletonAuth::Body),
        Some(("aws", service)) => named(service).map(SkeletonAuth::Aws),
        None | Some(_) => None,
    };
    parsed.ok_or_else(|| {
        "write bearer, basic, none, header:NAME, query:NAME, body:NAME or aws:SERVICE".to_owned()
    })
}
