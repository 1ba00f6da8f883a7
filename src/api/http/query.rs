//! The query of a request, and its trace context.

use std::time::Duration;

use axum::http::request::Parts;
use percent_encoding::percent_decode_str;

use super::cursor::{self, List, Position};
use super::object_reader::{duration, suggestion};
use super::problem::{FieldErrorCode, FieldErrors, Invalid, Problem, not_one_of};

/// Number of rows of a page: the maximum, and the default.
const LIMIT_MAX: u32 = 200;
const LIMIT: u32 = 50;

/// Maximum number of parameters of a query; no operation has as many. The limit bounds the comparison of each name with
/// those before it, and with those that the operation has.
const PARAMETERS_MAX: usize = 64;

/// Returns the trace context that the request belongs to.
pub fn traceparent(parts: &Parts) -> Option<&str> {
    parts.headers.get("traceparent").and_then(|value| value.to_str().ok())
}

/// Decodes a name or a value of a query; `None` if it is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The parameters of a query. Those that are left at the end are unknown.
#[derive(Debug)]
pub struct Query {
    parameters: Vec<(String, String)>,
    /// The names that were asked for.
    known: Vec<&'static str>,
    /// The errors so far.
    pub errors: FieldErrors,
}

impl Query {
    /// Splits and decodes the query of a request.
    pub fn new(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or("");
        let mut errors = FieldErrors::default();
        let mut parameters: Vec<(String, String)> = Vec::new();
        let pairs = || query.split('&').filter(|pair| !pair.is_empty());
        let has_too_many = pairs().nth(PARAMETERS_MAX).is_some();
        if has_too_many {
            let detail = format!("has more than {PARAMETERS_MAX} parameters");
            errors.add("?", FieldErrorCode::TooMany, detail);
        }
        for pair in pairs().filter(|_| !has_too_many) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = decoded(name) else {
                errors.add("?", FieldErrorCode::InvalidFormat, "the name of a parameter is not UTF-8");
                continue;
            };
            match decoded(value) {
                None => errors.add(format!("?{name}"), FieldErrorCode::InvalidFormat, "is not UTF-8"),
                Some(_) if parameters.iter().any(|(known, _)| *known == name) => {
                    errors.add(format!("?{name}"), FieldErrorCode::Duplicate, "is given twice");
                }
                Some(value) => parameters.push((name, value)),
            }
        }
        Self { parameters, known: Vec::new(), errors }
    }

    /// Takes a parameter's text.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.known.push(name);
        let index = self.parameters.iter().position(|(known, _)| known == name)?;
        let (_, text) = self.parameters.swap_remove(index);
        if text.contains('\0') {
            // PostgreSQL refuses NUL in a text, and no stored text has one.
            self.errors.add(format!("?{name}"), FieldErrorCode::InvalidFormat, "must not contain NUL");
            return None;
        }
        Some(text)
    }

    /// Takes a parameter that `parse` reads.
    pub fn parsed<T, E: Into<Invalid>>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        self.errors.keep(format!("?{name}"), parse(&text))
    }

    /// Takes a parameter that `parse` reads; `wrong` is the detail if it cannot.
    pub fn read<T>(
        &mut self,
        name: &'static str,
        wrong: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.parsed(name, |text| parse(text).ok_or_else(|| (FieldErrorCode::InvalidFormat, wrong.to_owned())))
    }

    /// Takes a parameter out of a closed set.
    pub fn word<T>(
        &mut self,
        name: &'static str,
        allowed: &[&str],
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.parsed(name, |text| parse(text).ok_or_else(|| not_one_of(text, allowed.iter().copied())))
    }

    /// Takes the place in a list after which the page begins.
    pub fn cursor<P: Position>(&mut self, list: List) -> Option<P> {
        self.read("cursor", cursor::WRONG, |text| cursor::decode(list, text))
    }

    /// Takes the number of rows of a page.
    pub fn limit(&mut self) -> u32 {
        let limit = self.parsed("limit", |text| {
            let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
            let detail = || format!("must be a whole number from 1 to {LIMIT_MAX}");
            limit.ok_or_else(|| (FieldErrorCode::OutOfRange, detail()))
        });
        limit.unwrap_or(LIMIT)
    }

    /// Takes a duration within bounds.
    pub fn duration(&mut self, name: &'static str, bounds: (&str, &str)) -> Option<Duration> {
        self.parsed(name, |text| duration(text, bounds))
    }

    /// Returns `Ok` if the query has no error and no unknown parameter.
    pub fn done(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.parameters) {
            let detail = format!("there is no such parameter{}", suggestion(&name, &self.known));
            self.errors.add(format!("?{name}"), FieldErrorCode::UnknownField, detail);
        }
        self.errors.check()
    }
}
