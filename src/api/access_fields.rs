//! The fields of a webhook destination that say how its requests authenticate themselves: `auth` and `tls`.

use serde::Serialize;
use utoipa::ToSchema;

use super::http::{FieldErrorCode, FieldErrors, Invalid, ObjectReader, object_reader};
use crate::domain::{
    Access, Auth, AuthKind, BasicAuth, ClientCredentials, Masked, NewTls, TlsPem, TlsSummary, check_value,
};
use crate::egress;

/// Maximum lengths, in bytes. A header of common servers has at most 8 KiB.
const NAME_MAX: usize = 256;
const SECRET_MAX: usize = 1_024;
const AUDIENCE_MAX: usize = 1_024;
const SCOPE_MAX: usize = 128;

/// Maximum number of scopes.
const SCOPES_MAX: usize = 20;

/// Maximum sizes of texts in PEM, in bytes: a chain of several certificates, the largest usual key, and several
/// authorities.
const CERTIFICATE_MAX: usize = 16 * 1024;
const KEY_MAX: usize = 8 * 1024;
const AUTHORITIES_MAX: usize = 64 * 1024;

/// Authentication towards a receiver.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthRequest {
    /// The kind.
    r#type: AuthKind,
    /// Name, for `basic`; without a colon.
    #[schema(max_length = 256)]
    username: Option<String>,
    /// Password, for `basic`. No answer shows it.
    #[schema(max_length = 1024)]
    password: Option<String>,
    /// URL that issues tokens for client credentials, for `oauth2`.
    token_url: Option<String>,
    /// Name of the client, for `oauth2`.
    #[schema(max_length = 256)]
    client_id: Option<String>,
    /// Secret of the client, for `oauth2`. No answer shows it.
    #[schema(max_length = 1024)]
    client_secret: Option<String>,
    /// API for which the token is requested, for `oauth2`: the parameter `audience`, which Auth0 requires.
    #[schema(max_length = 1024)]
    audience: Option<String>,
    /// Requested scopes, for `oauth2`.
    #[schema(max_items = 20)]
    scopes: Option<Vec<String>>,
}

/// TLS identity of a saved destination, in PEM. At least one field is required.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "`tls` reads it field by field")]
pub(super) struct TlsRequest {
    /// Certificate that is presented to the receiver, followed by its intermediate certificates.
    client_certificate: Option<String>,
    /// Private key of the certificate, without a passphrase. No answer shows it.
    client_key: Option<String>,
    /// Certificate authorities that are trusted for this destination, in place of the server's.
    ca: Option<String>,
}

/// Takes `auth`.
pub(super) fn auth(fields: &mut ObjectReader<'_, '_>) -> Option<Auth> {
    let at = fields.at("auth");
    let raw = fields.take("auth")?;
    let mut object = ObjectReader::read(raw, &at, fields.errors)?;
    if !object.has("type") {
        object.required_text("type");
        return None;
    }
    let auth = match object.word("type", AuthKind::WORDS, AuthKind::parse)? {
        AuthKind::Basic => basic(&mut object).map(Auth::Basic),
        AuthKind::Oauth2 => client_credentials(&mut object).map(Auth::Oauth2),
    };
    for name in ["username", "password", "tokenUrl", "clientId", "clientSecret", "audience", "scopes"] {
        object.drop_null(name);
    }
    object.done();
    auth
}

fn basic(object: &mut ObjectReader<'_, '_>) -> Option<BasicAuth> {
    let username = required(object, "username", |text| check_name(text, &[':']));
    let password = required(object, "password", check_secret).map(Masked::new);
    Some(BasicAuth { username: username?, password: password? })
}

fn client_credentials(object: &mut ObjectReader<'_, '_>) -> Option<ClientCredentials> {
    // The egress client checks the URL afterwards.
    let token_url = required(object, "tokenUrl", |_| Ok(()));
    let client_id = required(object, "clientId", |text| check_name(text, &[]));
    let client_secret = required(object, "clientSecret", check_secret).map(Masked::new);
    let audience = object.parsed("audience", |text| check_text(text, AUDIENCE_MAX).map(|()| text.to_owned()));
    let at = object.at("scopes");
    let list = object.list("scopes", SCOPES_MAX).unwrap_or_default();
    if list.len() > SCOPES_MAX {
        object.error(
            "scopes",
            FieldErrorCode::TooMany,
            format!("must not have more than {SCOPES_MAX} scopes"),
        );
    }
    let mut scopes = Vec::with_capacity(list.len());
    for (n, raw) in list.into_iter().enumerate() {
        let at = format!("{at}/{n}");
        let Some(scope) = object_reader::string(raw, &at, object.errors) else { continue };
        scopes.extend(object.errors.keep(at, check_scope(&scope).map(|()| scope)));
    }
    Some(ClientCredentials {
        token_url: token_url?,
        client_id: client_id?,
        client_secret: client_secret?,
        audience,
        scopes,
    })
}

/// Takes a string that must be there, and checks it.
fn required(
    object: &mut ObjectReader<'_, '_>,
    name: &'static str,
    check: impl FnOnce(&str) -> Result<(), Invalid>,
) -> Option<String> {
    let text = object.required_text(name)?;
    object.keep(name, check(&text).map(|()| text))
}

fn check_length(text: &str, most: usize) -> Result<(), Invalid> {
    match text.len() {
        0 => Err((FieldErrorCode::Empty, "must not be empty".to_owned())),
        length if length > most => {
            Err((FieldErrorCode::TooLong, format!("must not be longer than {most} bytes")))
        }
        _ => Ok(()),
    }
}

/// Checks a text of one line.
fn check_text(text: &str, most: usize) -> Result<(), Invalid> {
    check_length(text, most)?;
    check_value(text).map_err(|detail| (FieldErrorCode::InvalidFormat, detail))
}

fn check_name(text: &str, refused: &[char]) -> Result<(), Invalid> {
    check_text(text, NAME_MAX)?;
    if let Some(found) = text.chars().find(|c| refused.contains(c)) {
        return Err((FieldErrorCode::InvalidFormat, format!("must not contain `{found}`")));
    }
    Ok(())
}

/// Checks a password or a secret. The error does not repeat it.
fn check_secret(text: &str) -> Result<(), Invalid> {
    check_length(text, SECRET_MAX)?;
    check_value(text).map_err(|detail| (FieldErrorCode::InvalidSecret, detail))
}

/// Checks a scope: printable ASCII without a space, a quotation mark or a backslash (RFC 6749, section 3.3).
fn check_scope(text: &str) -> Result<(), Invalid> {
    check_length(text, SCOPE_MAX)?;
    if text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)) {
        return Ok(());
    }
    let detail =
        "must be printable ASCII without spaces, quotation marks and backslashes; use one entry for each";
    Err((FieldErrorCode::InvalidFormat, detail.to_owned()))
}

/// The header that `auth` sets.
const AUTHORIZATION: &str = "authorization";

/// Reports a header that `auth` sets itself.
pub(super) fn check_headers(
    auth: Option<&Auth>,
    headers: &[(String, String)],
    fields: &mut ObjectReader<'_, '_>,
) {
    if auth.is_some() && headers.iter().any(|(name, _)| name == AUTHORIZATION) {
        let at = object_reader::pointer(&fields.at("headers"), AUTHORIZATION);
        fields.errors.add(at, FieldErrorCode::Conflict, HAS_HEADER);
    }
}

const HAS_HEADER: &str = "is set by `auth`; remove one of the two";

/// Reports what does not fit together in a destination that is changed.
pub(super) fn check_access(
    access: Option<&Access>,
    headers: &[(String, String)],
    address: &str,
    errors: &mut FieldErrors,
) {
    let Some(access) = access else { return };
    if access.auth.is_some() && headers.iter().any(|(name, _)| name == AUTHORIZATION) {
        let detail = format!("cannot be used with the header `{AUTHORIZATION}`; remove one of the two");
        errors.add("/auth", FieldErrorCode::Conflict, detail);
    }
    if access.tls.is_some() && !address.starts_with("https://") {
        errors.add("/tls", FieldErrorCode::Conflict, "needs a URL that begins with https://");
    }
}

/// Takes `tls`, which is not `null`, and checks the whole identity.
pub(super) fn tls(fields: &mut ObjectReader<'_, '_>) -> Option<NewTls> {
    let at = fields.at("tls");
    let raw = fields.take("tls")?;
    let mut object = ObjectReader::read(raw, &at, fields.errors)?;
    let mut is_valid = true;
    let mut text = |name, most| {
        if !object.has(name) {
            return None;
        }
        let text = object.text(name).and_then(|text| {
            // Editors of Windows write a byte order mark, which would hide the first certificate.
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            object.keep(name, check_length(text, most).map(|()| text.to_owned()))
        });
        is_valid &= text.is_some();
        text
    };
    let pem = TlsPem {
        certificate: text("clientCertificate", CERTIFICATE_MAX),
        key: text("clientKey", KEY_MAX).map(Masked::new),
        authorities: text("ca", AUTHORITIES_MAX),
    };
    object.done();
    if !is_valid {
        // The fields have their errors already.
        return None;
    }
    match egress::check_identity(&pem) {
        Ok(summary) => Some(NewTls { summary, pem }),
        Err(invalid) => {
            let at = invalid.field.map_or_else(|| at.clone(), |field| object_reader::pointer(&at, field));
            fields.errors.add(at, FieldErrorCode::InvalidFormat, invalid.detail);
            None
        }
    }
}

/// Authentication towards a receiver, without secrets.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Auth)]
pub(super) struct AuthView<'a> {
    r#type: AuthKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audience: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<&'a [String]>,
}

impl<'a> AuthView<'a> {
    /// Shows the authentication of a destination; `None` if it has none.
    pub(super) fn of(access: Option<&'a Access>) -> Option<Self> {
        let empty = Self {
            r#type: AuthKind::Basic,
            username: None,
            token_url: None,
            client_id: None,
            audience: None,
            scopes: None,
        };
        Some(match access?.auth.as_ref()? {
            Auth::Basic(basic) => Self { username: Some(&basic.username), ..empty },
            Auth::Oauth2(client) => Self {
                r#type: AuthKind::Oauth2,
                token_url: Some(&client.token_url),
                client_id: Some(&client.client_id),
                audience: client.audience.as_deref(),
                scopes: Some(&client.scopes),
                ..empty
            },
        })
    }

    /// Upper estimate of the size of an authentication in an answer, in bytes.
    pub(super) fn size(access: Option<&Access>) -> usize {
        match access.and_then(|access| access.auth.as_ref()) {
            None => 0,
            // Texts can have quotation marks and backslashes.
            Some(Auth::Basic(basic)) => 64 + 2 * basic.username.len(),
            Some(Auth::Oauth2(client)) => {
                let scopes = client.scopes.iter().map(|scope| scope.len() + 3).sum::<usize>();
                let audience = client.audience.as_ref().map_or(0, |audience| audience.len() + 16);
                96 + 2 * (client.token_url.len() + client.client_id.len() + audience) + scopes
            }
        }
    }
}

/// TLS identity of a saved destination.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TlsIdentity)]
pub(super) struct TlsView<'a> {
    /// SHA-256 of the client certificate, in hex; null without one.
    #[schema(required)]
    client_certificate_sha256: Option<&'a str>,
    /// Number of certificate authorities that are trusted in place of the server's.
    ca_count: usize,
}

impl<'a> TlsView<'a> {
    /// Shows the TLS identity of a destination; `None` if it has none.
    pub(super) fn of(access: Option<&'a Access>) -> Option<Self> {
        let TlsSummary { certificate, authorities, .. } = access?.tls.as_ref()?;
        Some(Self { client_certificate_sha256: certificate.as_deref(), ca_count: *authorities })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    /// Reads `auth` of an object. Returns the errors as lines.
    fn read(json: &str) -> Result<Option<Auth>, String> {
        let raw: &RawValue = serde_json::from_str(json).expect("JSON");
        let mut errors = FieldErrors::default();
        let mut fields = ObjectReader::read(raw, "", &mut errors).expect("an object");
        let auth = auth(&mut fields);
        fields.done();
        errors.check().map(|()| auth).map_err(|problem| {
            let lines = problem.errors.iter().map(|one| format!("{}: {}", one.pointer, one.detail));
            lines.collect::<Vec<_>>().join("\n")
        })
    }

    #[test]
    fn an_authentication_has_the_fields_of_its_type_only() {
        let basic = r#"{"auth": {"type": "basic", "username": "u", "password": "p w", "scopes": null}}"#;
        let Ok(Some(Auth::Basic(basic))) = read(basic) else { panic!("{:?}", read(basic)) };
        assert_eq!((basic.username.as_str(), basic.password.reveal()), ("u", "p w"));
        let oauth2 = r#"{"auth": {"type": "oauth2", "tokenUrl": "https://a.example", "clientId": "c",
                         "clientSecret": "s", "scopes": ["a:b", "c"]}}"#;
        let Ok(Some(Auth::Oauth2(client))) = read(oauth2) else { panic!("{:?}", read(oauth2)) };
        assert_eq!((client.scopes, client.audience), (vec!["a:b".to_owned(), "c".to_owned()], None));
        let auth0 = r#"{"auth": {"type": "oauth2", "tokenUrl": "https://a.example", "clientId": "c",
                        "clientSecret": "s", "audience": "https://api.example/"}}"#;
        let Ok(Some(Auth::Oauth2(client))) = read(auth0) else { panic!("{:?}", read(auth0)) };
        assert_eq!(client.audience.as_deref(), Some("https://api.example/"));
        assert!(matches!(read(r#"{"auth": null}"#), Ok(None)));
        for (json, error) in [
            (r#""hush""#, "/auth: must be an object"),
            ("{}", "/auth/type: is required"),
            (r#"{"type": "digest"}"#, "use one of: basic, oauth2"),
            (r#"{"type": "basic", "username": "u"}"#, "/auth/password: is required"),
            (
                r#"{"type": "basic", "username": "a:b", "password": "hush"}"#,
                "/auth/username: must not contain `:`",
            ),
            (r#"{"type": "basic", "username": "u", "password": ""}"#, "/auth/password: must not be empty"),
            (
                r#"{"type": "basic", "username": "u", "password": "hush\n"}"#,
                "/auth/password: ends with a line break",
            ),
            (
                r#"{"type": "basic", "username": "u", "password": "hush", "clientId": "c"}"#,
                "/auth/clientId: there is no such field",
            ),
            (r#"{"type": "oauth2", "clientId": "c", "clientSecret": "hush"}"#, "/auth/tokenUrl: is required"),
            (
                r#"{"type": "oauth2", "tokenUrl": "https://a", "clientId": "c", "clientSecret": "hush",
                    "audience": ""}"#,
                "/auth/audience: must not be empty",
            ),
            (
                r#"{"type": "basic", "username": "u", "password": "hush", "audience": "api"}"#,
                "/auth/audience: there is no such field",
            ),
            (
                r#"{"type": "oauth2", "tokenUrl": "https://a", "clientId": "c", "clientSecret": "hush",
                    "scopes": ["a b"]}"#,
                "/auth/scopes/0: must be printable ASCII without spaces",
            ),
        ] {
            let found = read(&format!(r#"{{"auth": {json}}}"#)).err().unwrap_or_default();
            assert!(found.contains(error) && !found.contains("hush"), "{json}: {found}");
        }
    }
}
