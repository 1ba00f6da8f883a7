//! The fields of a webhook destination that say how its requests are signed: `signature`, `keys` and `secret`.

use super::http::{FieldErrorCode, Invalid, ObjectReader, not_one_of, object_reader};
use crate::channels::webhook::Secret;
use crate::domain::{KeyKind, SignatureForm, Signing, check_value};

/// Bounds of the length of a secret that is a text, in bytes. GitHub and Stripe have no lower bound; a shorter one can
/// be guessed.
const TEXT_SECRET: std::ops::RangeInclusive<usize> = 8..=256;

/// How the requests to a webhook are signed, and its own secret.
#[derive(Default, PartialEq)]
pub(super) struct SigningFields {
    /// `None` for the default.
    pub(super) signing: Option<Box<Signing>>,
    /// A secret that signs in place of the app's.
    pub(super) secret: Option<String>,
}

impl SigningFields {
    /// Takes the fields. Each combination that is accepted uses every given field.
    pub(super) fn read(fields: &mut ObjectReader<'_, '_>) -> Self {
        let form = fields.word("signature", SignatureForm::WORDS, SignatureForm::parse);
        let form = form.unwrap_or(SignatureForm::Standard);
        let keys = keys(fields);
        let secret = fields.parsed("secret", |text| check_secret(form, text).map(|()| text.to_owned()));
        if keys.is_some() && form != SignatureForm::Standard {
            let detail =
                format!("cannot be used with the signature `{form}`, which has only one kind of key");
            fields.error("keys", FieldErrorCode::Conflict, detail);
        }
        let signing = Signing { form, keys: keys.unwrap_or_else(|| Signing::default().keys) };
        if secret.is_some() && form == SignatureForm::None {
            let detail = "cannot be used with the signature `none`, because nothing is signed";
            fields.error("secret", FieldErrorCode::Conflict, detail);
        } else if secret.is_some() && !signing.has(KeyKind::Hmac) {
            let detail = "cannot be used without the key `hmac`: the key pair of `ed25519` is the app's";
            fields.error("secret", FieldErrorCode::Conflict, detail);
        }
        Self { signing: Some(signing).filter(|one| *one != Signing::default()).map(Box::new), secret }
    }

    /// Reports each header that the form of the signature sets itself.
    pub(super) fn check_headers(&self, headers: &[(String, String)], fields: &mut ObjectReader<'_, '_>) {
        let form = self.signing.as_ref().map_or(SignatureForm::Standard, |signing| signing.form);
        let at = fields.at("headers");
        for (name, _) in headers.iter().filter(|(name, _)| form.headers().contains(&name.as_str())) {
            let detail = format!("is set by the signature `{form}`; choose another name");
            fields.errors.add(object_reader::pointer(&at, name), FieldErrorCode::InvalidHeader, detail);
        }
    }
}

/// Takes the kinds of keys, each once, in the order of [`KeyKind`].
pub(super) fn keys(fields: &mut ObjectReader<'_, '_>) -> Option<Vec<KeyKind>> {
    let list = fields.list("keys", KeyKind::ALL.len())?;
    if list.is_empty() {
        let detail = "must not be empty; for no signature, use \"signature\": \"none\"";
        fields.error("keys", FieldErrorCode::Empty, detail);
    }
    let mut keys = Vec::with_capacity(list.len());
    for (n, raw) in list.into_iter().enumerate() {
        let at = format!("{}/{n}", fields.at("keys"));
        let Some(word) = object_reader::string(raw, &at, fields.errors) else { continue };
        let parsed = KeyKind::parse(&word).ok_or_else(|| not_one_of(&word, KeyKind::WORDS.iter().copied()));
        match fields.errors.keep(at.clone(), parsed) {
            Some(kind) if keys.contains(&kind) => {
                fields.errors.add(at, FieldErrorCode::Duplicate, "is given twice");
            }
            kind => keys.extend(kind),
        }
    }
    keys.sort_unstable();
    Some(keys)
}

/// Checks a secret. GitHub and Stripe use any text as it is.
fn check_secret(form: SignatureForm, text: &str) -> Result<(), Invalid> {
    let checked = if form.has_text_key() { check_text_secret(text) } else { Secret::parse(text).map(drop) };
    checked.map_err(|detail| (FieldErrorCode::InvalidSecret, detail))
}

fn check_text_secret(text: &str) -> Result<(), String> {
    check_value(text)?;
    if !text.is_ascii() {
        return Err("must be printable ASCII".to_owned());
    }
    if TEXT_SECRET.contains(&text.len()) {
        return Ok(());
    }
    let (least, most) = (TEXT_SECRET.start(), TEXT_SECRET.end());
    Err(format!("must have {least} to {most} characters, not {}", text.len()))
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::super::http::FieldErrors;
    use super::*;

    /// Reads the fields of an object. Returns the errors as lines.
    fn read(json: &str) -> Result<SigningFields, String> {
        let raw: &RawValue = serde_json::from_str(json).expect("JSON");
        let mut errors = FieldErrors::default();
        let mut fields = ObjectReader::read(raw, "", &mut errors).expect("an object");
        let read = SigningFields::read(&mut fields);
        read.check_headers(&[("x-github-event".to_owned(), "push".to_owned())], &mut fields);
        fields.done();
        errors.check().map(|()| read).map_err(|problem| {
            let lines = problem.errors.iter().map(|one| format!("{}: {}", one.pointer, one.detail));
            lines.collect::<Vec<_>>().join("\n")
        })
    }

    #[test]
    fn the_default_form_is_stored_as_nothing() {
        for json in ["{}", r#"{"keys": ["hmac"]}"#, r#"{"signature": "standard", "keys": ["hmac"]}"#] {
            assert!(read(json).is_ok_and(|read| read.signing.is_none()), "{json}");
        }
        let both =
            read(r#"{"keys": ["ed25519", "hmac"], "secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"}"#);
        let both = both.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(both.signing.expect("not the default").keys, [KeyKind::Hmac, KeyKind::Ed25519]);
        assert!(both.secret.is_some());
    }

    #[test]
    fn a_secret_of_github_or_stripe_is_any_text() {
        for form in [SignatureForm::Github, SignatureForm::Stripe] {
            for secret in ["It's a Secret to Everybody", "whsec_test", &"x".repeat(256)] {
                assert_eq!(check_secret(form, secret), Ok(()), "{form} {secret}");
            }
            for (secret, error) in [
                ("hush", "must have 8 to 256 characters, not 4"),
                (&"x".repeat(257), "must have 8 to 256 characters, not 257"),
                ("Schl\u{fc}ssel", "must be printable ASCII"),
                ("a secret\n", "ends with a line break; remove it"),
            ] {
                let expected = (FieldErrorCode::InvalidSecret, error.to_owned());
                assert_eq!(check_secret(form, secret), Err(expected), "{form} {secret}");
            }
        }
        assert!(check_secret(SignatureForm::Standard, "It's a Secret to Everybody").is_err());
    }

    #[test]
    fn a_field_that_would_have_no_effect_is_an_error() {
        let secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";
        for (json, error) in [
            (format!(r#"{{"keys": ["ed25519"], "secret": "{secret}"}}"#), "/secret: cannot be used without"),
            (format!(r#"{{"signature": "none", "secret": "{secret}"}}"#), "/secret: cannot be used with"),
            (r#"{"signature": "stripe", "keys": ["hmac"]}"#.to_owned(), "/keys: cannot be used with"),
            (r#"{"signature": "github"}"#.to_owned(), "/headers/x-github-event: is set by"),
            (r#"{"signature": "svix"}"#.to_owned(), "use one of: standard, github, stripe, none"),
            (r#"{"keys": []}"#.to_owned(), "/keys: must not be empty"),
            (
                r#"{"keys": ["rsa"]}"#.to_owned(),
                "/keys/0: `rsa` is not allowed here; use one of: hmac, ed25519",
            ),
            (r#"{"keys": ["hmac", "hmac"]}"#.to_owned(), "/keys/1: is given twice"),
            (r#"{"keys": "hmac"}"#.to_owned(), "/keys: must be a list"),
        ] {
            let found = read(&json).err().unwrap_or_default();
            assert!(found.contains(error), "{json}: {found}");
        }
    }
}
