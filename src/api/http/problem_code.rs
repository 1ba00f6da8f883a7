//! The codes of problems and of field errors, each declared once with its meaning.
//!
//! A code is stable: clients branch on it, texts can change. `docs/API.md` lists both tables, and a test
//! compares them with these.

use axum::http::StatusCode;
use serde::{Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// Declares an enum of codes with a description for each.
macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($variant:ident $code:literal $description:literal)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $(#[doc = $description] $variant,)* }

        impl $name {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The spelling in JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// What the code means, as a sentence for the documentation.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let lines = Self::ALL.iter().map(|code| format!("- `{}`: {}", code.as_str(), code.description()));
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .enum_values(Some([$($code,)*]))
                    .description(Some(lines.collect::<Vec<_>>().join("\n")))
                    .into()
            }
        }

        impl ToSchema for $name {}
    };
}

codes! {
    /// What kind of problem a request met. The problem's `type` is `urn:ringback:problem:` and this code.
    ProblemCode {
        MalformedBody "malformed_body" "The body is incomplete, not UTF-8 or not JSON."
        Unauthorized "unauthorized" "The API key is missing, unknown, revoked or expired."
        InsufficientScope "insufficient_scope" "The API key lacks the scope that the operation needs."
        OperatorOnly "operator_only" "The operation needs an admin key of the first app."
        NotFound "not_found" "The path or the object does not exist, or the object belongs to another app."
        MethodNotAllowed "method_not_allowed" "The path does not support the method; `Allow` lists those that it supports."
        BodyTimeout "body_timeout" "The body did not arrive in time."
        IdempotencyInProgress "idempotency_in_progress" "A request with this `Idempotency-Key` is still in progress; send it again later."
        IdempotencyOtherKey "idempotency_other_key" "The `Idempotency-Key` was used with another API key, and the response holds a secret."
        WatchEnded "watch_ended" "The watch has ended and cannot be changed."
        WatchStopped "watch_stopped" "The watch of the delivery was stopped, so the delivery cannot be retried."
        NameTaken "name_taken" "Another app has this name."
        LimitReached "limit_reached" "The maximum number of such objects exists."
        SecretConfigured "secret_configured" "The signing secret is set in the server's configuration and cannot be rotated through the API."
        EventGone "event_gone" "The event to continue after does not exist, or was deleted after its retention time."
        TooLarge "too_large" "The body, or one item of a batch, exceeds its maximum size."
        UnsupportedMediaType "unsupported_media_type" "The body is not `application/json`, or it is compressed."
        InvalidRequest "invalid_request" "Fields, parameters or headers are invalid; `errors` lists each."
        IdempotencyConflict "idempotency_conflict" "The `Idempotency-Key` was used with another body."
        Internal "internal_error" "An error in the server; its log has the details."
        Unavailable "unavailable" "The database is not available, and nothing was changed; send the request again later."
        OutcomeUnknown "outcome_unknown" "The database was lost during the write, so the change may have been made; a repetition with the same `Idempotency-Key` is safe."
        NotReady "not_ready" "The server is starting, stopping, or has no working database."
        TooManyRequests "too_many_requests" "Too many requests of this kind are in progress; send the request again later."
    }
}

impl ProblemCode {
    /// HTTP's status.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::MalformedBody => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::InsufficientScope | Self::OperatorOnly => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::IdempotencyInProgress
            | Self::IdempotencyOtherKey
            | Self::WatchEnded
            | Self::WatchStopped
            | Self::NameTaken
            | Self::LimitReached
            | Self::SecretConfigured => StatusCode::CONFLICT,
            Self::EventGone => StatusCode::GONE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::InvalidRequest | Self::IdempotencyConflict => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable | Self::OutcomeUnknown | Self::NotReady | Self::TooManyRequests => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The URI that identifies the kind of problem.
    pub fn uri(self) -> String {
        format!("urn:ringback:problem:{}", self.as_str())
    }

    /// The code in words: a title for people.
    pub fn title(self) -> String {
        let words = self.as_str().replace('_', " ");
        words[..1].to_uppercase() + &words[1..]
    }
}

codes! {
    /// What is wrong with one field, parameter or header.
    FieldErrorCode {
        Required "required" "The value is missing."
        UnknownField "unknown_field" "There is no field or parameter of this name."
        Duplicate "duplicate" "The name, or the destination, occurs more than once."
        InvalidType "invalid_type" "The value has the wrong JSON type."
        InvalidValue "invalid_value" "The value is not one of the allowed ones, which the detail lists."
        InvalidFormat "invalid_format" "The text does not have the required form."
        OutOfRange "out_of_range" "The value is outside its bounds, which the detail names."
        Empty "empty" "The value must not be empty."
        TooLong "too_long" "The text is too long."
        TooLarge "too_large" "The value takes too many bytes."
        TooMany "too_many" "There are too many elements."
        TooDeep "too_deep" "The value is nested too deeply."
        Conflict "conflict" "The value contradicts another one, or what is stored."
        UnknownProvider "unknown_provider" "The server knows no provider of this name."
        NoCredential "no_credential" "The server has no API key for this provider."
        UnknownApp "unknown_app" "There is no such app, or the API key does not manage it."
        InvalidAddress "invalid_address" "The address is not a URL, mail address or Slack address that can be used."
        ForbiddenAddress "forbidden_address" "Callbacks must not reach this address; the operator can allow it."
        NotAllowedRecipient "not_allowed_recipient" "The operator does not allow mail to this address."
        ChannelNotConfigured "channel_not_configured" "The operator has not configured this channel."
        InvalidHeader "invalid_header" "The header's name or value cannot be sent."
        InvalidSecret "invalid_secret" "The signing secret is not `whsec_` and the base64 of 24 to 64 bytes."
        Unsupported "unsupported" "This version does not support the field."
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The codes of the table below a heading of docs/API.md, in order, with their descriptions.
    fn documented(heading: &str) -> Vec<(String, String)> {
        let page = include_str!("../../../docs/API.md");
        let section = page.split_once(heading).expect("the heading").1;
        let table = section.lines().skip_while(|line| !line.starts_with("| `"));
        let rows = table.take_while(|line| line.starts_with("| `"));
        rows.map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].trim_matches('`').to_owned(), cells[1..].join(" | "))
        })
        .collect()
    }

    #[test]
    fn the_documentation_lists_every_code() {
        let problems = ProblemCode::ALL.iter().map(|code| {
            (code.as_str().to_owned(), format!("{} | {}", code.status().as_u16(), code.description()))
        });
        assert_eq!(documented("### Codes of problems"), problems.collect::<Vec<_>>());
        let fields =
            FieldErrorCode::ALL.iter().map(|code| (code.as_str().to_owned(), code.description().to_owned()));
        assert_eq!(documented("### Codes of field errors"), fields.collect::<Vec<_>>());
    }

    #[test]
    fn a_title_is_the_code_in_words() {
        assert_eq!(ProblemCode::InvalidRequest.title(), "Invalid request");
        assert_eq!(ProblemCode::InvalidRequest.uri(), "urn:ringback:problem:invalid_request");
    }
}
