//! Secrets that an answer repeats.
//!
//! A receiver, a mail server or a proxy can repeat what it was sent: pages that help developers do, and so do gateways that
//! refuse a request. The answer is shown to everyone who may read deliveries, and it is stored and logged. So it never shows
//! the values of the request's sensitive headers, nor the password of the proxy.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;

use crate::domain::SecretTexts;

/// Shortest text that is taken for a secret, in bytes. A header may be sensitive and have a value such as `1` or `true`,
/// which other texts contain.
const SECRET_MIN: usize = 5;

/// Shortest part of a header that is taken for a secret: a shorter one is a name such as `session`.
const PIECE_MIN: usize = 10;

/// Returns the secrets of a request: the values of its sensitive headers, without the names of their schemes, and what the
/// credentials of HTTP Basic consist of.
pub(super) fn of_headers(headers: &HeaderMap) -> SecretTexts {
    if !headers.values().any(HeaderValue::is_sensitive) {
        return SecretTexts::default();
    }
    let values =
        headers.values().filter(|value| value.is_sensitive()).filter_map(|value| value.to_str().ok());
    SecretTexts::new(values.flat_map(parts).filter(|text| text.len() >= SECRET_MIN))
}

fn parts(value: &str) -> Vec<String> {
    let (scheme, token) =
        value.split_once(' ').map_or((None, None), |(scheme, token)| (Some(scheme), Some(token.trim())));
    let basic = token.filter(|_| scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic")));
    let basic = basic.and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
    let basic = basic.and_then(|bytes| String::from_utf8(bytes).ok());
    let password =
        basic.as_deref().and_then(|basic| basic.split_once(':')).map(|(_, password)| password.to_owned());
    // Such as the value of a cookie.
    let pieces =
        value.split([' ', ';', ',', '=']).filter(|piece| piece.len() >= PIECE_MIN).map(str::to_owned);
    let whole = [Some(value.to_owned()), token.map(str::to_owned), password, basic].into_iter().flatten();
    whole.chain(pieces).collect()
}

/// Returns the password of a proxy, and what it is sent as.
pub(super) fn of_proxy(url: &str) -> SecretTexts {
    let url = Url::parse(url).ok();
    let login = url.as_ref().and_then(|url| Some((url.username(), url.password()?)));
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    SecretTexts::new(login.into_iter().flat_map(|(name, password)| {
        let (name, password) = (decoded(name), decoded(password));
        let basic = BASE64_STANDARD.encode(format!("{name}:{password}"));
        [basic, password].into_iter().filter(|text| text.len() >= SECRET_MIN)
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::body::Bytes;

    use super::super::received::Received;
    use super::*;

    fn answer(header: &str, body: &str) -> Received {
        Received {
            status: 400,
            headers: vec![("x-echo".to_owned(), header.to_owned())],
            body: Bytes::from(body.to_owned()),
            truncated: false,
            duration: Duration::ZERO,
            redirects: 0,
        }
    }

    fn sensitive(name: &'static str, value: &str) -> HeaderMap {
        let mut value = HeaderValue::from_str(value).unwrap();
        value.set_sensitive(true);
        HeaderMap::from_iter([(reqwest::header::HeaderName::from_static(name), value)])
    }

    #[test]
    fn an_answer_does_not_repeat_what_its_request_kept_secret() {
        // `me:secret-12345`
        let basic = "Basic bWU6c2VjcmV0LTEyMzQ1";
        for (header, repeated) in [
            (("x-key", "HEADERSECRET1234"), "HEADERSECRET1234"),
            (("authorization", "Bearer token-12345"), "token-12345"),
            (("authorization", basic), "bWU6c2VjcmV0LTEyMzQ1"),
            (("authorization", basic), "secret-12345"),
            (("authorization", "basic bWU6c2VjcmV0LTEyMzQ1"), "secret-12345"),
            (("cookie", "theme=dark; session=SESSIONSECRET99"), "SESSIONSECRET99"),
        ] {
            let secrets = of_headers(&sensitive(header.0, header.1));
            let mut received = answer(repeated, &format!("{{\"sent\": \"{repeated}\"}}"));
            received.hide(&secrets);
            assert_eq!(received.header("x-echo"), Some("***"), "{header:?}");
            assert_eq!(received.body, "{\"sent\": \"***\"}", "{header:?}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_or_encoded_shows_no_part_of_a_secret() {
        let secrets = of_headers(&sensitive("x-key", "HEADERSECRET1234"));
        let mut cut = Received { truncated: true, ..answer("", "you sent HEADERSECRET123") };
        cut.hide(&secrets);
        assert_eq!(cut.body, "you sent ***");
        let utf_16: Vec<u8> = "sent HEADERSECRET1234".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut encoded = Received { body: utf_16.into(), ..answer("", "") };
        encoded.hide(&secrets);
        assert_eq!(encoded.body, "***");
    }

    #[test]
    fn a_short_or_public_header_is_no_secret() {
        let mut headers = sensitive("x-version", "2");
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let mut received = answer("application/json", "2 of 2");
        received.hide(&of_headers(&headers));
        assert_eq!(
            (received.header("x-echo"), &received.body[..]),
            (Some("application/json"), &b"2 of 2"[..])
        );
    }

    #[test]
    fn a_proxy_cannot_repeat_its_password() {
        let secrets = of_proxy("http://ringback:pass%2Dword-1@proxy.example:3128");
        let mut received = answer("cmluZ2JhY2s6cGFzcy13b3JkLTE=", "wrong password pass-word-1");
        received.hide(&secrets);
        assert_eq!(
            (received.header("x-echo"), &received.body[..]),
            (Some("***"), &b"wrong password ***"[..])
        );
        assert!(of_proxy("http://proxy.example:3128").is_empty());
    }
}
