//! The field `poll` of a registration: how to poll a job without a definition.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::credentials::check_name;
use super::destinations::{check_url, headers};
use super::http::object_reader;
use super::http::{Api, FieldErrorCode, FieldErrors, Invalid, ObjectReader, Problem};
use crate::clock::Moment;
use crate::domain::{
    AppNo, CredentialKind, CredentialSecret, INLINE, Id, JobName, Masked, NewPoll, PollSource,
};
use crate::providers::{InlinePoll, JsonText};

/// Maximum number of words in one list.
const WORDS_MAX: usize = 50;

/// Maximum length of a word or a path, in bytes.
const TEXT_MAX: usize = 256;

/// Maximum size of the body of a poll, and of the whole poll object, in bytes. The poller keeps it in memory.
const BODY_MAX: usize = 16 * 1024;

/// How to poll a job without a provider's definition: an object, or the URL alone.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "part of `Registration`")]
pub enum Poll {
    /// The URL of an operation in the style of Azure, Google or plain HTTP.
    Plain(String),
    /// The request, and where the answer has the status.
    Object(Box<PollObject>),
}

/// The request of a poll, and where the answer has the status.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PollObject {
    /// URL: https, at a public address unless the operator permits others.
    #[schema(max_length = 2048, example = "https://api.example.com/jobs/123")]
    url: String,
    /// `GET` (the default), `POST` or `PUT`.
    method: Option<String>,
    /// Headers, such as `authorization`. They are encrypted with the operator's key and never shown.
    headers: Option<BTreeMap<String, String>>,
    /// Name of a credential of the app, which is sent to its hosts only.
    credential: Option<String>,
    /// JSON body of a POST or PUT, up to 16 KiB.
    #[schema(value_type = Option<Object>)]
    body: Option<()>,
    /// Whether the API has answered the start of the job with 202, so that another good answer without a status is its end.
    #[schema(default = false)]
    accepted: Option<bool>,
    /// Path of the status. Without it, the answer is read in the style of Azure, Google or plain HTTP.
    #[schema(max_length = 256, example = "$.state")]
    status: Option<String>,
    /// Words of a job that has completed. Words are texts, numbers or booleans, and case does not matter.
    #[schema(value_type = Option<Vec<String>>, min_items = 1, max_items = 50, example = json!(["done"]))]
    completed: Option<()>,
    /// Words of a job that has failed; `[]` if there are none.
    #[schema(value_type = Option<Vec<String>>, max_items = 50, example = json!(["error"]))]
    failed: Option<()>,
    /// Words of a job that was cancelled.
    #[schema(value_type = Option<Vec<String>>, max_items = 50)]
    cancelled: Option<()>,
    /// Words of a job that runs. Every word that is in no list means the same.
    #[schema(value_type = Option<Vec<String>>, max_items = 50)]
    processing: Option<()>,
    /// Path of the result, read when the job has completed.
    #[schema(max_length = 256, example = "$.result.url")]
    output: Option<String>,
    /// Path of the error, read when the job has failed: a text, or an object with `code` and `message`.
    #[schema(max_length = 256, example = "$.message")]
    error: Option<String>,
}

/// A poll object whose address is not checked yet.
pub(super) struct PollRequest {
    /// Pointer to the URL.
    at: String,
    poll: InlinePoll,
    /// The id that the registration gives.
    job_id: Option<String>,
}

/// Reads the field `poll`, which stands in place of `provider`, `params` and usually `jobId`.
pub(super) fn read(raw: &RawValue, fields: &mut ObjectReader<'_, '_>) -> Option<PollRequest> {
    let provider = fields.text("provider");
    if provider.is_some_and(|provider| provider != INLINE) {
        fields.error("provider", FieldErrorCode::Conflict, "cannot be used with poll; remove one of the two");
    }
    if fields.take("params").is_some() {
        let detail = "cannot be used with poll; write the parameters into the URL";
        fields.error("params", FieldErrorCode::Conflict, detail);
    }
    let has_job_id = fields.has("jobId");
    let job_id = fields.text("jobId");
    let wrong = job_id.as_deref().and_then(|job_id| InlinePoll::check_job_id(job_id).err());
    let is_wrong = wrong.is_some() || (has_job_id && job_id.is_none());
    if let Some(detail) = wrong {
        let code =
            if detail.contains("empty") { FieldErrorCode::Empty } else { FieldErrorCode::InvalidFormat };
        fields.error("jobId", code, format!("{detail}; or leave it out, for the path of the URL"));
    }
    let at = fields.at("poll");
    let found = if let Some(url) = object_reader::text(raw) {
        Some((at, plain(url)))
    } else {
        let object = ObjectReader::read(raw, &at, fields.errors);
        object.and_then(object_fields).map(|poll| (format!("{at}/url"), poll))
    };
    let (at, poll) = found?;
    (!is_wrong).then_some(PollRequest { at, poll, job_id })
}

/// Returns the poll of a URL alone.
fn plain(url: String) -> InlinePoll {
    InlinePoll {
        url,
        method: InlinePoll::METHODS[0].to_owned(),
        headers: BTreeMap::new(),
        credential: None,
        body: None,
        accepted: false,
        status: None,
        words: BTreeMap::new(),
        output: None,
        error: None,
    }
}

fn object_fields(mut fields: ObjectReader<'_, '_>) -> Option<InlinePoll> {
    let url = fields.required_text("url");
    let word = |word: &str| InlinePoll::METHODS.iter().find(|known| word == **known).copied();
    let method = fields.word("method", &InlinePoll::METHODS, word).unwrap_or(InlinePoll::METHODS[0]);
    let mut sent = BTreeMap::new();
    for (name, value) in headers(&mut fields) {
        if name == "accept-encoding" {
            let at = object_reader::pointer(&fields.at("headers"), &name);
            let detail = "`accept-encoding` is not yours to set; remove it: compressed answers are decoded";
            fields.errors.add(at, FieldErrorCode::InvalidHeader, detail);
        }
        sent.insert(name, value);
    }
    let credential = fields.parsed("credential", check_name);
    let body = body(&mut fields, method);
    let status = path(&mut fields, "status");
    let has_status = fields.has("status") || status.is_some();
    let accepted = fields.boolean("accepted").unwrap_or(false);
    if accepted && has_status {
        let detail = "has no meaning with `status`, whose words say when the job ends; remove one of the two";
        fields.error("accepted", FieldErrorCode::Conflict, detail);
    }
    let words = words(&mut fields, has_status);
    let (output, error) = (path(&mut fields, "output"), path(&mut fields, "error"));
    fields.done();
    Some(InlinePoll {
        url: url?,
        method: method.to_owned(),
        headers: sent,
        credential,
        body,
        accepted,
        status,
        words,
        output,
        error,
    })
}

/// Takes the JSON body.
fn body(fields: &mut ObjectReader<'_, '_>, method: &str) -> Option<JsonText> {
    let raw = fields.take("body")?;
    if method == "GET" {
        fields.error("body", FieldErrorCode::Conflict, "needs \"method\": \"POST\" or \"PUT\"");
    }
    if raw.get().len() > BODY_MAX {
        fields.error("body", FieldErrorCode::TooLarge, "must not be larger than 16 KiB");
        return None;
    }
    if let Some(at) = object_reader::duplicate(raw, &fields.at("body")) {
        fields.errors.add(at, FieldErrorCode::Duplicate, object_reader::TWICE);
    }
    let wrong = || (FieldErrorCode::InvalidType, "must be an object".to_owned());
    let is_object = raw.get().trim_start().starts_with('{');
    fields.keep("body", JsonText::new(raw.get()).filter(|_| is_object).ok_or_else(wrong))
}

/// Takes a path to a value.
fn path(fields: &mut ObjectReader<'_, '_>, name: &'static str) -> Option<String> {
    let text = fields.text(name)?;
    if text.len() > TEXT_MAX {
        fields.error(name, FieldErrorCode::TooLong, format!("must be at most {TEXT_MAX} bytes"));
        return None;
    }
    if let Err(detail) = InlinePoll::check_path(&text) {
        fields.error(name, FieldErrorCode::InvalidFormat, detail);
        return None;
    }
    Some(text)
}

/// Takes the lists of words.
fn words(fields: &mut ObjectReader<'_, '_>, has_status: bool) -> BTreeMap<String, Vec<String>> {
    let mut lists: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in InlinePoll::LISTS {
        let is_given = fields.has(name);
        if is_given && !has_status {
            let detail = "needs `status`, the path of the status in the answer, such as \"$.state\"";
            fields.error(name, FieldErrorCode::Conflict, detail);
        }
        let Some(list) = fields.list(name, WORDS_MAX) else {
            match name {
                "completed" if has_status && !is_given => {
                    let detail = "is required with `status`: the words of a job that has completed";
                    fields.error(name, FieldErrorCode::Required, detail);
                }
                "failed" if has_status && !is_given => {
                    let detail = "is required with `status`: the words of a job that has failed. Without them it would \
                                  be polled until the watch expires; give [] if there are none";
                    fields.error(name, FieldErrorCode::Required, detail);
                }
                _ => {}
            }
            continue;
        };
        if list.len() > WORDS_MAX {
            fields.error(name, FieldErrorCode::TooMany, format!("must have at most {WORDS_MAX} words"));
        } else if list.is_empty() && name == "completed" {
            fields.error(name, FieldErrorCode::Empty, "must have at least one word");
        }
        let mut words = Vec::new();
        for (n, raw) in list.into_iter().enumerate() {
            let at = format!("{}/{n}", fields.at(name));
            let value = serde_json::from_str(raw.get()).unwrap_or(Value::Null);
            let word = InlinePoll::word(&value).and_then(|word| {
                let fits = word.len() <= TEXT_MAX;
                fits.then_some(word).ok_or_else(|| format!("must be at most {TEXT_MAX} bytes"))
            });
            let word = word.map_err(|detail| (FieldErrorCode::InvalidValue, detail));
            let Some(word) = fields.errors.keep(at.clone(), word) else { continue };
            let folded = InlinePoll::folded(&word);
            let same = |known: &String| InlinePoll::folded(known) == folded;
            let other = lists.iter().find(|(_, list)| list.iter().any(same)).map(|(name, _)| name.clone());
            if let Some(other) = other {
                let detail = format!("is a word of `{other}` already; case does not matter");
                fields.errors.add(at, FieldErrorCode::Conflict, detail);
            } else if !words.iter().any(same) {
                words.push(word);
            }
        }
        lists.insert(name.to_owned(), words);
    }
    lists
}

/// Checks the address of a poll, and returns the job and what is stored of the poll. Its name is resolved until `until`.
pub(super) async fn resolve(
    api: &Api,
    app: AppNo,
    request: PollRequest,
    until: Moment,
    errors: &mut FieldErrors,
) -> Result<Option<(JobName, NewPoll)>, Problem> {
    let PollRequest { at, mut poll, job_id } = request;
    let target = check_url(&api.egress, app, &poll.url, until).await;
    let Some(target) = errors.keep(at, target) else { return Ok(None) };
    target.as_str().clone_into(&mut poll.url);
    if let Err(detail) = poll.definition() {
        errors.add("/poll", FieldErrorCode::InvalidFormat, detail);
        return Ok(None);
    }
    let source = poll.source();
    if source.len() > BODY_MAX {
        errors.add(
            "/poll",
            FieldErrorCode::TooLarge,
            "must not be larger than 16 KiB; shorten the headers or the body",
        );
        return Ok(None);
    }
    let credential = match &poll.credential {
        Some(name) => api.store.credential(app, name.clone()).await?,
        None => None,
    };
    if let Some(name) = credential
        .as_ref()
        .and_then(|(_, secret)| header_of(secret))
        .filter(|name| poll.headers.contains_key(name))
    {
        let detail = "is the header of the credential, too; remove one of the two";
        errors.add(object_reader::pointer("/poll/headers", &name), FieldErrorCode::Conflict, detail);
        return Ok(None);
    }
    if let Some(Err((code, detail))) = poll.credential.as_ref().map(|_| usable(&poll, credential.as_ref())) {
        errors.add("/poll/credential", code, detail);
        return Ok(None);
    }
    let job_id = job_id.unwrap_or_else(|| poll.default_job_id());
    let (id, secret) = credential.unzip();
    let source = PollSource::Inline { poll: Masked::new(source), credential: secret };
    let new = api.store.new_poll(app, source, poll.shown(), id);
    let account = format!("{:?}", new.id);
    Ok(Some((JobName { provider: INLINE.to_owned(), account, job_id, params: "{}".to_owned() }, new)))
}

/// Returns the name of the header in which a credential is sent.
fn header_of(secret: &Masked) -> Option<String> {
    let secret = CredentialSecret::parse(secret).ok()?;
    match secret.kind {
        CredentialKind::Bearer | CredentialKind::Basic => Some("authorization".to_owned()),
        CredentialKind::Header => Some(secret.name),
        CredentialKind::Query | CredentialKind::Key => None,
    }
}

/// Checks that the credential that a poll names exists, and may be sent to the URL.
fn usable(poll: &InlinePoll, credential: Option<&(Id, Masked)>) -> Result<(), Invalid> {
    let Some((_, secret)) = credential else {
        let detail = "there is no such credential in this app; GET /v1/credentials lists them";
        return Err((FieldErrorCode::UnknownCredential, detail.to_owned()));
    };
    let secret = CredentialSecret::parse(secret);
    let checked = secret.and_then(|secret| poll.check_sent(&secret));
    checked.map_err(|detail| (FieldErrorCode::Conflict, detail))
}
