//! Filters of deliveries and of watches: the same fields in the query of a list, and in the body of a request that
//! changes everything that a filter selects.

use serde_json::value::RawValue;
use url::Url;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::groups;
use super::http::object_reader::{self, TIME};
use super::http::{Api, FieldErrorCode, Invalid, ObjectReader, Query, not_one_of};
use super::labels::check_reference;
use super::register::find_provider;
use crate::domain::{
    AppNo, ChannelKind, DeliveryStatus, DestinationId, EventType, INLINE, Reason, Timestamp, WatchId,
    WatchStatus, parse_duration,
};
use crate::store::{DeliveryFilter, WatchFilter};

/// Maximum number of statuses of a list in a body, repetitions included.
const STATUSES_MAX: usize = 16;

/// Where the fields of a filter are.
pub(super) enum FilterSource<'s, 'a, 'e> {
    /// Parameters of a query.
    Query(&'s mut Query),
    /// Fields of a body.
    Body(&'s mut ObjectReader<'a, 'e>),
}

impl FilterSource<'_, '_, '_> {
    /// Takes a text.
    fn text(&mut self, name: &'static str) -> Option<String> {
        match self {
            Self::Query(query) => query.text(name),
            Self::Body(fields) => fields.text(name),
        }
    }

    /// Adds the error of a field's result, whose value it returns.
    fn keep<T>(&mut self, name: &'static str, result: Result<T, Invalid>) -> Option<T> {
        match self {
            Self::Query(query) => query.errors.keep(format!("?{name}"), result),
            Self::Body(fields) => fields.keep(name, result),
        }
    }

    /// Takes a text that `parse` reads.
    fn parsed<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, Invalid>) -> Option<T> {
        let text = self.text(name)?;
        self.keep(name, parse(&text))
    }

    /// Takes an id; `wrong` is the detail for any other text.
    fn id<T>(&mut self, name: &'static str, wrong: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        self.parsed(name, |text| parse(text).ok_or_else(|| (FieldErrorCode::InvalidFormat, wrong.to_owned())))
    }

    /// Takes a word of a closed set.
    fn word<T>(
        &mut self,
        name: &'static str,
        allowed: &[&str],
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.parsed(name, |text| parse(text).ok_or_else(|| not_one_of(text, allowed.iter().copied())))
    }

    /// Takes one or several of these statuses: with commas between them, or in a body as a list.
    fn statuses(&mut self, name: &'static str, allowed: &[DeliveryStatus]) -> Vec<DeliveryStatus> {
        let word = |text: &str| {
            let parsed = DeliveryStatus::parse(text).filter(|status| allowed.contains(status));
            parsed.ok_or_else(|| not_one_of(text, allowed.iter().map(|status| status.as_str())))
        };
        let words = match self {
            Self::Query(query) => {
                let text = query.text(name);
                text.and_then(|text| query.errors.keep(format!("?{name}"), words_in(&text, word)))
            }
            Self::Body(fields) => {
                let raw = fields.take(name);
                raw.and_then(|raw| fields.keep(name, words_of(raw, word)))
            }
        };
        words.unwrap_or_default()
    }

    /// Takes an instant, or the time for which it is past.
    fn instant(&mut self, name: &'static str, now: Timestamp) -> Option<Timestamp> {
        self.parsed(name, |text| {
            object_reader::instant(text).or_else(|(code, detail)| match parse_duration(text) {
                Ok(ago) => Ok(now.minus(ago)),
                Err(_) if detail == TIME => Err((code, format!("{TIME}, or how long ago, such as 24h"))),
                Err(_) => Err((code, detail)),
            })
        })
    }
}

/// Reads words that commas separate.
fn words_in<T>(text: &str, word: impl Fn(&str) -> Result<T, Invalid>) -> Result<Vec<T>, Invalid> {
    text.split(',').map(word).collect()
}

/// Reads a string with one or several words, or a list of strings.
fn words_of<T>(raw: &RawValue, word: impl Fn(&str) -> Result<T, Invalid>) -> Result<Vec<T>, Invalid> {
    if let Some(text) = object_reader::text(raw) {
        return words_in(&text, word);
    }
    let wrong = || object_reader::not_text(raw, "must be a string or a list of strings");
    let list = object_reader::first(raw, STATUSES_MAX).ok_or_else(wrong)?;
    if list.is_empty() {
        return Err((FieldErrorCode::Empty, "must not be empty; leave it out for all".to_owned()));
    }
    if list.len() > STATUSES_MAX {
        return Err((FieldErrorCode::TooMany, format!("must not have more than {STATUSES_MAX} entries")));
    }
    list.into_iter().map(|raw| word(&object_reader::text(raw).ok_or_else(wrong)?)).collect()
}

/// Type of an event that a filter can select, for the description of the API: a test is in no list.
pub(super) enum ListedEventType {}

impl PartialSchema for ListedEventType {
    fn schema() -> RefOr<Schema> {
        let words = EventType::listed_words().into_iter().map(Into::into).collect();
        let mut schema = Object::with_type(Type::String);
        schema.enum_values = Some(words);
        schema.into()
    }
}

impl ToSchema for ListedEventType {}

/// Checks the id of a job in a filter. It is compared as it is.
pub(super) fn check_job_id(job_id: &str) -> Result<String, Invalid> {
    if job_id.is_empty() {
        return Err((FieldErrorCode::Empty, "must not be empty; leave it out for all jobs".to_owned()));
    }
    Ok(job_id.to_owned())
}

/// Takes the fields of a filter of deliveries with these statuses; all but the position of the page.
pub(super) fn delivery_filter(
    source: &mut FilterSource<'_, '_, '_>,
    statuses: &[DeliveryStatus],
    now: Timestamp,
) -> DeliveryFilter {
    let (since, until) = (source.instant("since", now), source.instant("until", now));
    if since.zip(until).is_some_and(|(since, until)| since > until) {
        let detail = "must not be earlier than `since`: it would select nothing".to_owned();
        source.keep::<()>("until", Err((FieldErrorCode::Conflict, detail)));
    }
    DeliveryFilter {
        statuses: source.statuses("status", statuses),
        reason: source.word("reason", Reason::WORDS, Reason::parse),
        event_type: source.word("type", &EventType::listed_words(), EventType::parse_listed),
        channel: source.word("channel", ChannelKind::WORDS, ChannelKind::parse),
        origin: source.parsed("origin", origin),
        destination: source.id(
            "destinationId",
            "is not a destination's id, which begins with dst_",
            DestinationId::parse,
        ),
        watch: source.id("watchId", "is not a watch's id, which begins with watch_", WatchId::parse),
        job_id: source.parsed("jobId", check_job_id),
        reference: source.parsed("reference", check_reference),
        since,
        until,
        before: None,
    }
}

/// Takes the fields of a filter of watches; all but the position of the page.
pub(super) fn watch_filter(source: &mut FilterSource<'_, '_, '_>, (api, app): (&Api, AppNo)) -> WatchFilter {
    WatchFilter {
        status: source.word("status", WatchStatus::WORDS, WatchStatus::parse),
        provider: source.parsed("provider", |name| match name {
            INLINE => Ok(name.to_owned()),
            name if api.store.may_define(app, name) => Ok(name.to_owned()),
            _ => find_provider(api, name).map(|_| name.to_owned()),
        }),
        job_id: source.parsed("jobId", check_job_id),
        reference: source.parsed("reference", check_reference),
        group: source.parsed("groupId", groups::check_id),
        before: None,
    }
}

/// Parses an origin, and returns it in the spelling of the store: with the port.
fn origin(text: &str) -> Result<String, Invalid> {
    let wrong = || {
        let detail = "must be the scheme, host and port of a URL, for example https://app.example.com";
        (FieldErrorCode::InvalidFormat, detail.to_owned())
    };
    let url = Url::parse(text).map_err(|_| wrong())?;
    let is_plain = matches!(url.scheme(), "https" | "http")
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    let host = url.host_str().filter(|_| is_plain).ok_or_else(wrong)?;
    // As in the address of a webhook, a final dot is left out.
    let host = host.strip_suffix('.').unwrap_or(host);
    Ok(format!("{}://{host}:{}", url.scheme(), url.port_or_known_default().ok_or_else(wrong)?))
}

#[cfg(test)]
mod tests {
    use super::super::http::FieldErrors;
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        for (text, is) in [
            ("https://app.example.com", Some("https://app.example.com:443")),
            ("HTTPS://App.Example.com./", Some("https://app.example.com:443")),
            ("http://127.0.0.1:9000", Some("http://127.0.0.1:9000")),
            ("https://[2606:2800::1]", Some("https://[2606:2800::1]:443")),
            ("https://b\u{fc}cher.example", Some("https://xn--bcher-kva.example:443")),
            ("app.example.com", None),
            ("ftp://app.example.com", None),
            ("https://app.example.com/hook", None),
            ("https://app.example.com?x", None),
            ("https://user@app.example.com", None),
            ("", None),
        ] {
            assert_eq!(origin(text).ok().as_deref(), is, "{text}");
        }
    }

    #[test]
    fn a_body_has_the_same_filter_as_a_query() {
        let now = Timestamp::parse("2026-02-18T15:00:00Z").expect("a time");
        let read = |json: &str| {
            let mut errors = FieldErrors::default();
            let raw = RawValue::from_string(json.to_owned()).expect("JSON");
            let mut fields = ObjectReader::read(&raw, "", &mut errors).expect("an object");
            let filter = delivery_filter(&mut FilterSource::Body(&mut fields), DeliveryStatus::ALL, now);
            fields.done();
            errors.check().map(|()| filter)
        };
        let body = r#"{"status": ["failed", "pending"], "reason": "gone", "type": "job.failed", "channel": "webhook",
            "origin": "https://a.example", "jobId": "job_1", "reference": "order-7", "since": "24h",
            "until": "2026-02-18T14:00:00Z"}"#;
        let query = "status=failed,pending&reason=gone&type=job.failed&channel=webhook&origin=https://a.example\
                     &jobId=job_1&reference=order-7&since=24h&until=2026-02-18T14:00:00Z";
        let request = axum::http::Request::get(format!("/?{query}")).body(()).expect("a request");
        let mut query = Query::new(&request.into_parts().0);
        let by_query = delivery_filter(&mut FilterSource::Query(&mut query), DeliveryStatus::ALL, now);
        query.done().expect("valid");
        let by_body = read(body).expect("valid");
        assert_eq!(by_body, by_query);
        assert_eq!(by_body.statuses, [DeliveryStatus::Failed, DeliveryStatus::Pending]);
        assert_eq!(by_body.since, Timestamp::parse("2026-02-17T15:00:00Z"));
        assert_eq!(read(r#"{"status": "failed"}"#).expect("valid").statuses, [DeliveryStatus::Failed]);
        let both = read(r#"{"status": "failed,pending"}"#).expect("valid").statuses;
        assert_eq!(both, [DeliveryStatus::Failed, DeliveryStatus::Pending]);
        for wrong in [
            r#"{"status": []}"#,
            r#"{"status": 7}"#,
            r#"{"status": ["x"]}"#,
            r#"{"status": ["failed,pending"]}"#,
            r#"{"status": "failed,"}"#,
            r#"{"since": "soon"}"#,
            r#"{"since": "1h", "until": "2h"}"#,
            r#"{"jobId": ""}"#,
            r#"{"type": "test"}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read(r#"{"since": "2026-02-18T14:00:00Z", "until": "1h"}"#).is_ok(), "an empty time");
        assert_eq!(read(r#"{"status": null, "watchId": null}"#).expect("valid"), DeliveryFilter::default());
    }
}
