//! Credentials of an app, with which its jobs are polled. No answer shows a secret.

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::http::object_reader;
use super::http::{
    Answer, Call, Content, FieldErrorCode, Invalid, ObjectReader, Page, PageParams, Problem, ProblemCode,
    created, cursor,
};
use crate::channels::webhook::check_header;
use crate::domain::{Credential, CredentialKind, CredentialSecret, Timestamp};
use crate::providers::InlinePoll;
use crate::store::{CreateCredential, CredentialRefusal, DeleteCredential, Idempotent};

/// Maximum number of hosts of a credential.
const HOSTS_MAX: usize = 10;

/// Maximum length of a secret value, in bytes. It is sent as it is.
const VALUE_MAX: usize = 4 * 1024;

/// Maximum length of the value of the kind `key`, in bytes. A service account of Google with an RSA key has 2 KiB.
const KEY_MAX: usize = 16 * 1024;

/// A credential of the app. Its secret is never shown.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Credential)]
pub struct CredentialView<'a> {
    name: &'a str,
    kind: CredentialKind,
    /// The hosts that get it, by https only.
    send_to: &'a [String],
    created_at: Timestamp,
}

impl<'a> CredentialView<'a> {
    fn of(credential: &'a Credential) -> Self {
        let Credential { name, kind, send_to, created_at, .. } = credential;
        Self { name, kind: *kind, send_to, created_at: *created_at }
    }
}

/// A credential to create. Which of the last five fields are required depends on the kind.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "`read` reads it field by field")]
struct NewCredential {
    /// The name by which registrations use it: letters, digits, `.`, `_` and `-`.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        example = "my-key"
    )]
    name: String,
    kind: CredentialKind,
    /// The hosts that get it, such as `api.example.com` or `api.example.com:8443`, by https only.
    #[schema(min_items = 1, max_items = 10)]
    send_to: Vec<String>,
    /// The token of the kind `bearer`.
    #[schema(max_length = 4096)]
    token: Option<String>,
    /// The name of the header of the kind `header`.
    header: Option<String>,
    /// The name of the parameter of the kind `query`.
    parameter: Option<String>,
    /// The value of the kinds `header` and `query`, up to 4 KiB; the key of the kind `key`, as the page of the provider
    /// describes it.
    #[schema(max_length = 16384)]
    value: Option<String>,
    /// The user of the kind `basic`.
    username: Option<String>,
    /// The password of the kind `basic`.
    password: Option<String>,
}

/// List credentials
///
/// All of them, in the order of their names.
#[utoipa::path(
    get, path = "/v1/credentials", operation_id = "listCredentials", tag = "Providers",
    security(("key" = ["read"])), params(PageParams),
    responses((status = 200, description = "A page of credentials.", body = Page<CredentialView>))
)]
pub async fn list(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit() as usize;
    let from: i64 = query.cursor(cursor::List::Credentials).unwrap_or(0);
    query.done()?;
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let found = call.api.store.credentials(call.app()).await?;
    let data: Vec<CredentialView<'_>> = found.iter().skip(from).take(limit).map(CredentialView::of).collect();
    let next = from.saturating_add(data.len());
    let next = i64::try_from(next).ok().filter(|_| !data.is_empty() && next < found.len());
    Ok(Page::reply(data, next.map(|from: i64| cursor::encode(cursor::List::Credentials, &from))))
}

/// Create a credential
///
/// A registration names it in `credential` beside `provider`, or in `poll.credential`. To replace it, delete it first.
#[utoipa::path(
    post, path = "/v1/credentials", operation_id = "createCredential", tag = "Providers",
    security(("key" = ["write"])),
    request_body(content = NewCredential, example = json!({
        "name": "my-key", "kind": "bearer", "sendTo": ["api.example.com"], "token": "secret-token",
    })),
    responses(
        (status = 201, description = "The credential, committed.", body = CredentialView,
            headers(("Location" = String, description = "Path of the credential."))),
        (status = 409, description = "The app has a credential with this name, or too many; or a request with this \
            Idempotency-Key is in progress."),
    )
)]
pub async fn create(call: Call) -> Answer {
    let write = call.write(Content::OBJECT).await?;
    let (api, now) = (&write.api, write.api.clock.now());
    let (name, secret) = write.object(read)?;
    let CredentialSecret { kind, send_to, .. } = &secret;
    let credential = Credential {
        id: api.store.ids().draw(now),
        name,
        kind: *kind,
        send_to: send_to.clone(),
        created_at: now,
    };
    let answer = created(format!("/v1/credentials/{}", credential.name), &CredentialView::of(&credential));
    write.reserve_answer(answer.body.len())?;
    let create = CreateCredential { app: write.app(), credential, secret: secret.text() };
    let create = Idempotent::with_response(create, write.key(), &answer);
    api.store.create_credential(create).await??.map_err(refused)?;
    Ok(answer.into_response())
}

/// Delete a credential
///
/// Not while a running watch uses it.
#[utoipa::path(
    delete, path = "/v1/credentials/{id}", operation_id = "deleteCredential", tag = "Providers",
    security(("key" = ["write"])), params(("id" = String, Path, description = "Name of the credential.")),
    responses(
        (status = 204, description = "The credential is deleted."),
        (status = 409, description = "A running watch uses the credential."),
    )
)]
pub async fn delete(call: Call) -> Answer {
    let name = call.only_id(|name| check_name(name).ok())?;
    let delete = DeleteCredential { app: call.app(), name };
    call.api.store.delete_credential(delete).await?.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn refused(refusal: CredentialRefusal) -> Problem {
    match refusal {
        CredentialRefusal::NotFound => Problem::not_found(),
        CredentialRefusal::NameTaken => Problem::new(
            ProblemCode::CredentialExists,
            "the app has a credential with this name; delete it first, or choose another name",
        ),
        CredentialRefusal::TooMany(most) => Problem::new(
            ProblemCode::LimitReached,
            format!("the app has {most} credentials, the maximum; delete one first"),
        ),
        CredentialRefusal::InUse => Problem::new(
            ProblemCode::CredentialInUse,
            "a running watch uses the credential; stop its watches first",
        ),
    }
}

/// Checks the name of a credential.
pub(super) fn check_name(name: &str) -> Result<String, Invalid> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if begins && name.len() <= 64 && name.bytes().all(is_allowed) {
        return Ok(name.to_owned());
    }
    let detail = "must have 1 to 64 letters, digits, `.`, `_` and `-`, and begin with a letter or a digit";
    Err((FieldErrorCode::InvalidFormat, detail.to_owned()))
}

/// Fields of some kind.
const SECRET_FIELDS: [&str; 6] = ["token", "header", "parameter", "value", "username", "password"];

/// Fields of each kind.
fn fields_of(kind: CredentialKind) -> &'static [&'static str] {
    match kind {
        CredentialKind::Bearer => &["token"],
        CredentialKind::Header => &["header", "value"],
        CredentialKind::Basic => &["username", "password"],
        CredentialKind::Query => &["parameter", "value"],
        CredentialKind::Key => &["value"],
    }
}

fn read(fields: &mut ObjectReader<'_, '_>) -> Option<(String, CredentialSecret)> {
    if !fields.has("name") {
        fields.error("name", FieldErrorCode::Required, "is required");
    }
    let name = fields.parsed("name", check_name);
    let send_to = hosts(fields);
    if !fields.has("kind") {
        let detail = format!("is required; use one of: {}", CredentialKind::WORDS.join(", "));
        fields.error("kind", FieldErrorCode::Required, detail);
    }
    let Some(kind) = fields.word("kind", CredentialKind::WORDS, CredentialKind::parse) else {
        // Which of them the kind has is not known.
        for field in SECRET_FIELDS {
            fields.take(field);
        }
        return None;
    };
    let wanted = fields_of(kind);
    let mut texts = Vec::new();
    for field in SECRET_FIELDS {
        if wanted.contains(&field) {
            let text = fields.required_text(field);
            texts.extend(text.and_then(|text| check_text(fields, (field, kind), text)));
        } else if fields.take(field).is_some() {
            let detail = format!("has no meaning for the kind {kind}, which has {}", wanted.join(" and "));
            fields.error(field, FieldErrorCode::Conflict, detail);
        }
    }
    // Each text that is missing has its error.
    let (field, value) = match (kind, texts.as_slice()) {
        (CredentialKind::Bearer, [token]) => (String::new(), token.clone()),
        (CredentialKind::Key, [value]) => (String::new(), value.trim().to_owned()),
        (CredentialKind::Basic, [username, password]) => (String::new(), format!("{username}:{password}")),
        (CredentialKind::Header, [header, value]) => (header.to_ascii_lowercase(), value.clone()),
        (CredentialKind::Query, [parameter, value]) => (parameter.clone(), value.clone()),
        _ => return None,
    };
    let secret = CredentialSecret { kind, send_to, name: field, value };
    if let Err(detail) = InlinePoll::check_credential(&secret) {
        fields.error(wanted[wanted.len() - 1], FieldErrorCode::InvalidFormat, detail);
    }
    Some((name?, secret))
}

/// Checks one text of a credential.
fn check_text(
    fields: &mut ObjectReader<'_, '_>,
    (name, kind): (&'static str, CredentialKind),
    text: String,
) -> Option<String> {
    let is_key = kind == CredentialKind::Key;
    let max = if is_key { KEY_MAX } else { VALUE_MAX };
    // A key can have several lines.
    let is_wrong = |c: char| c.is_control() && !(is_key && "\r\n\t".contains(c));
    let wrong = match name {
        _ if text.trim().is_empty() => Some((FieldErrorCode::Empty, "must not be empty".to_owned())),
        _ if text.len() > max => {
            Some((FieldErrorCode::TooLong, format!("must not be longer than {} KiB", max / 1024)))
        }
        "header" => {
            let checked = check_header(&text, "x").map(drop);
            let checked = checked.and_then(|()| {
                let is_ours = text.eq_ignore_ascii_case("accept-encoding");
                let why = || "`accept-encoding` is not yours to set; choose another name".to_owned();
                if is_ours { Err(why()) } else { Ok(()) }
            });
            checked.err().map(|detail| (FieldErrorCode::InvalidHeader, detail))
        }
        "username" if text.contains(':') => {
            Some((FieldErrorCode::InvalidFormat, "must not contain a colon".to_owned()))
        }
        _ if text.chars().any(is_wrong) => {
            Some((FieldErrorCode::InvalidFormat, "must not contain control characters".to_owned()))
        }
        _ => None,
    };
    match wrong {
        Some((code, detail)) => {
            fields.error(name, code, detail);
            None
        }
        None => Some(text),
    }
}

/// Takes the hosts that get the credential.
fn hosts(fields: &mut ObjectReader<'_, '_>) -> Vec<String> {
    if !fields.has("sendTo") {
        let detail = "is required: the hosts that get the credential, such as [\"api.example.com\"]";
        fields.error("sendTo", FieldErrorCode::Required, detail);
    }
    let list = fields.list("sendTo", HOSTS_MAX);
    if list.as_ref().is_some_and(Vec::is_empty) {
        fields.error("sendTo", FieldErrorCode::Empty, "must have at least one host");
    }
    let list = list.unwrap_or_default();
    if list.len() > HOSTS_MAX {
        fields.error("sendTo", FieldErrorCode::TooMany, format!("must have at most {HOSTS_MAX} hosts"));
    }
    let mut hosts: Vec<String> = Vec::new();
    for (n, raw) in list.into_iter().enumerate() {
        let at = format!("{}/{n}", fields.at("sendTo"));
        let Some(text) = object_reader::string(raw, &at, fields.errors) else { continue };
        let host = InlinePoll::check_host(&text).map_err(|detail| (FieldErrorCode::InvalidFormat, detail));
        hosts.extend(fields.errors.keep(at, host));
    }
    hosts
}
