//! What clients call things: names for people, and references of their own.

use serde_json::value::RawValue;

use super::http::object_reader;
use super::http::{FieldErrorCode, Invalid, ObjectReader};
use crate::domain::hidden_in_name;
use crate::store::Change;

/// Maximum length of a name, in characters.
pub(super) const NAME_MAX: usize = 200;

/// Maximum length of a reference, in characters.
pub(super) const REFERENCE_MAX: usize = 255;

/// Checks a name for people.
pub(super) fn check_name(name: &str) -> Result<String, Invalid> {
    let length = name.chars().count();
    if name.is_empty() {
        return Err((FieldErrorCode::Empty, "must have at least one character".to_owned()));
    }
    if length > NAME_MAX {
        return Err((FieldErrorCode::TooLong, format!("must not have more than {NAME_MAX} characters")));
    }
    if let Some(c) = hidden_in_name(name) {
        let detail = format!("must not contain the invisible character U+{:04X}; remove it", u32::from(c));
        return Err((FieldErrorCode::InvalidFormat, detail));
    }
    if name.trim() != name {
        return Err((FieldErrorCode::InvalidFormat, "must not begin or end with a space".to_owned()));
    }
    Ok(name.to_owned())
}

/// Checks the client's own id of a watch. It is compared character by character, so every text is allowed.
pub(super) fn check_reference(reference: &str) -> Result<String, Invalid> {
    if reference.is_empty() {
        return Err((FieldErrorCode::Empty, "must not be empty; leave it out for no reference".to_owned()));
    }
    if reference.chars().count() > REFERENCE_MAX {
        return Err((FieldErrorCode::TooLong, format!("must not have more than {REFERENCE_MAX} characters")));
    }
    Ok(reference.to_owned())
}

/// Reads a text that a change replaces, or removes if it is `null`. `raw` is the field `name`, if it is given.
pub(super) fn change(
    fields: &mut ObjectReader<'_, '_>,
    (name, raw): (&str, Option<&RawValue>),
    check: fn(&str) -> Result<String, Invalid>,
) -> Change<Option<String>> {
    let Some(raw) = raw else { return Change::Kept };
    if raw.get() == "null" {
        return Change::Set(None);
    }
    let at = fields.at(name);
    let text = object_reader::string(raw, &at, fields.errors);
    let checked = text.and_then(|text| fields.keep(name, check(&text)));
    checked.map_or(Change::Kept, |text| Change::Set(Some(text)))
}
