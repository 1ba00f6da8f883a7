//! How the requests to a saved destination are signed and authenticated: the fields of a change, and whether they fit
//! together with what is stored.

use url::Url;

use super::access_fields::{auth, check_access, tls};
use super::http::{FieldErrorCode, FieldErrors, ObjectReader, object_reader};
use super::signing_fields::keys;
use crate::channels::webhook::Secret;
use crate::domain::{KeyKind, SavedAddress, SignatureForm, Signing};
use crate::store::{Change, DestinationChange};

/// Takes a field that can be `null`.
pub(super) fn nullable<'a, 'e, T>(
    fields: &mut ObjectReader<'a, 'e>,
    name: &'static str,
    take: impl FnOnce(&mut ObjectReader<'a, 'e>, &'static str) -> Option<T>,
) -> Change<Option<T>> {
    if fields.is_null(name) {
        fields.take_nullable(name);
        return Change::Set(None);
    }
    take(fields, name).map_or(Change::Kept, |value| Change::Set(Some(value)))
}

/// Takes the fields of a change that say how requests are signed and authenticated. `null` stands for the default.
pub(super) fn read_signing(fields: &mut ObjectReader<'_, '_>, change: &mut DestinationChange) {
    let signature = nullable(fields, "signature", |fields, name| {
        fields.word(name, SignatureForm::WORDS, SignatureForm::parse)
    });
    change.signature = or_default(signature, Signing::default().form);
    change.keys = or_default(nullable(fields, "keys", |fields, _| keys(fields)), Signing::default().keys);
    change.auth = nullable(fields, "auth", |fields, _| auth(fields));
    change.tls = nullable(fields, "tls", |fields, _| tls(fields));
}

fn or_default<T>(change: Change<Option<T>>, default: T) -> Change<T> {
    match change {
        Change::Set(value) => Change::Set(value.unwrap_or(default)),
        Change::Kept => Change::Kept,
    }
}

/// Returns whether a secret signs the requests in this way.
pub(super) fn has_secret(signing: Option<&Signing>) -> bool {
    signing.is_none_or(|signing| signing.form != SignatureForm::None && signing.has(KeyKind::Hmac))
}

/// Reports what does not fit together in a changed destination. `change`: the fields that were given.
pub(super) fn check_together(after: &SavedAddress, change: &DestinationChange, errors: &mut FieldErrors) {
    let signing = after.signing.as_deref().cloned().unwrap_or_default();
    let form = signing.form;
    // `null` is the default, which every form has. An empty list is an error already.
    let has_keys =
        matches!(&change.keys, Change::Set(keys) if !keys.is_empty() && *keys != Signing::default().keys);
    if form != SignatureForm::Standard && has_keys {
        let detail = format!("cannot be used with the signature `{form}`, which has only one kind of key");
        errors.add("/keys", FieldErrorCode::Conflict, detail);
    }
    for (name, _) in after.headers.iter().filter(|(name, _)| form.headers().contains(&name.as_str())) {
        let detail = format!("is set by the signature `{form}`; choose another name");
        errors.add(object_reader::pointer("/headers", name), FieldErrorCode::InvalidHeader, detail);
    }
    let is_text = after.secret.as_deref().is_some_and(|secret| Secret::parse(secret).is_err());
    if form == SignatureForm::Standard && signing.has(KeyKind::Hmac) && is_text {
        let detail = "cannot be `standard` with the key `hmac`, because the secret of the destination is not `whsec_` \
                      and base64; replace it first, with POST /v1/destinations/{id}/rotate-secret";
        errors.add("/signature", FieldErrorCode::Conflict, detail);
    }
    check_access(after.access.as_deref(), &after.headers, &after.address, errors);
}

/// Refuses a new scheme, host or port with the old headers and credentials: no answer shows their values, and a client
/// could read them by a change of the URL.
pub(super) fn check_new_origin(
    (before, after): (&SavedAddress, &SavedAddress),
    change: &DestinationChange,
    errors: &mut FieldErrors,
) {
    let origin = |address: &SavedAddress| Url::parse(&address.address).ok().map(|url| url.origin());
    if before.address == after.address || origin(before) == origin(after) {
        return;
    }
    let detail = "must be given again with a URL of another scheme, host or port; null removes the present value, which is \
                  not sent there";
    if !before.headers.is_empty() && change.headers == Change::Kept {
        errors.add("/headers", FieldErrorCode::Required, detail);
    }
    if before.access.as_deref().is_some_and(|access| access.auth.is_some()) && change.auth == Change::Kept {
        errors.add("/auth", FieldErrorCode::Required, detail);
    }
}
