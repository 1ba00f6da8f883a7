//! Signatures, compared with the published vectors and the official library; sending to a receiver on loopback.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::channels::channel::{RESPONSE_MAX, Transmission, recorded_text};
use crate::channels::templates::Templates;
use crate::clock::{Clock, ManualClock};
use crate::domain::{
    App, AppId, AppNo, DeliveryId, Destination, DestinationId, EventId, EventType, Id, Masked,
    PendingDelivery, WatchId, draw_private_key,
};
use crate::egress::{Allowed, Egress, Resolver, Settings};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const MESSAGE: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const SECONDS: i64 = 1_614_265_330;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

fn secret(text: &str) -> Secret {
    Secret::parse(text).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

#[test]
fn signatures_agree_with_the_published_vectors() {
    assert_eq!(sign(&secret(SECRET), MESSAGE, SECONDS, BODY), SIGNED);
    let other = secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
    let body = br#"{"email":"test@example.com","username":"test_user"}"#;
    assert_eq!(
        sign(&other, "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body),
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
    );
}

#[test]
fn a_secret_is_base64_of_24_to_64_bytes_and_is_not_printed() {
    let drawn = Secret::generate();
    assert_eq!(Secret::parse(&drawn.expose()), Ok(drawn.clone()));
    assert_ne!(drawn, Secret::generate());
    assert_eq!(format!("{drawn:?}"), "whsec_***");
    let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
    assert!(Secret::parse(&of(24)).is_ok() && Secret::parse(&of(64)).is_ok());
    for text in [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa-_",
        "whsec_ MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        &of(23),
        &of(65),
    ] {
        let refusal = Secret::parse(text).unwrap_err();
        assert!(refusal.starts_with("must"), "{text}: {refusal}");
    }
}

#[test]
fn an_invalid_signature_has_a_reason() {
    let check = |timestamp: &str, signatures: &str, body: &[u8], now: i64| {
        verify(&secret(SECRET), MESSAGE, timestamp, signatures, body, at(now), TOLERANCE)
    };
    let time = SECONDS.to_string();
    let several = format!("v1a,xxxx v1,AAAA garbage {SIGNED}");
    assert_eq!(check(&time, SIGNED, BODY, SECONDS), Ok(()));
    assert_eq!(check(&time, &several, BODY, SECONDS), Ok(()));
    assert_eq!(check(&time, SIGNED, BODY, SECONDS + 300), Ok(()));
    assert_eq!(check(&time, SIGNED, BODY, SECONDS - 300), Ok(()));
    assert_eq!(check(&time, SIGNED, BODY, SECONDS + 301), Err(SignatureError::TooOld(301)));
    assert_eq!(check(&time, SIGNED, BODY, SECONDS - 301), Err(SignatureError::InTheFuture(301)));
    assert_eq!(check(&time, SIGNED, b"{}", SECONDS), Err(SignatureError::Mismatch("v1")));
    assert_eq!(check(&time, "v1,", BODY, SECONDS), Err(SignatureError::Mismatch("v1")));
    assert_eq!(check(&time, "v1,g0hM9SsE", BODY, SECONDS), Err(SignatureError::Mismatch("v1")));
    assert_eq!(check(&(SECONDS + 1).to_string(), SIGNED, BODY, SECONDS), Err(SignatureError::Mismatch("v1")));
    assert_eq!(check(&format!("+{time}"), SIGNED, BODY, SECONDS), Err(SignatureError::Mismatch("v1")));
    for signatures in ["", "v1a,xxxx", "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="] {
        assert_eq!(
            check(&time, signatures, BODY, SECONDS),
            Err(SignatureError::NoSignature("webhook-signature", "v1", "v1,<base64>")),
            "{signatures}"
        );
    }
    for timestamp in ["", "now", "1614265330.5", "99999999999999999999"] {
        assert_eq!(
            check(timestamp, SIGNED, BODY, SECONDS),
            Err(SignatureError::MalformedTimestamp("webhook-timestamp")),
            "{timestamp}"
        );
    }
}

#[test]
fn what_we_say_ourselves_cannot_be_overridden_by_a_users_header() {
    for name in [
        "Host",
        "connection",
        "keep-alive",
        "TE",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "User-Agent",
        "traceparent",
        "proxy-authorization",
        "content-type",
        "Content-Length",
        "webhook-id",
        "Webhook-Anything",
        "ringback-event",
        "",
        "a b",
        "a:b",
        "a\r\nb",
        "é",
    ] {
        assert!(check_header(name, "x").is_err(), "{name}");
    }
    for value in ["a\r\nb: c", "a\nb", "a\0b", "a\tb", "\u{7f}", "\u{85}", "é"] {
        assert!(check_header("x-own", value).is_err(), "{value:?}");
    }
    assert!(check_header("x-own", &"a".repeat(4_097)).is_err());
    assert!(check_header(&"a".repeat(129), "x").is_err());
    for name in ["x-env", "Authorization", "cookie", "hostname", "te-x", "content"] {
        assert!(check_header(name, "Bearer abc").is_ok(), "{name}");
    }
}

#[test]
fn an_answer_is_kept_as_text_that_any_database_takes() {
    assert_eq!(recorded_text(b"a\0b\xffc"), "a\u{fffd}b\u{fffd}c");
    assert_eq!(recorded_text(&[0xff; RESPONSE_MAX]).len(), RESPONSE_MAX / 3 * 3);
}

/// A receiver that answers once, and the request that it got.
async fn receiver(answer: String) -> (u16, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let request = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(BODY) {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        request
    });
    (port, request)
}

/// Returns the delivery that the tests send to `url`, with its custom headers.
fn delivery(url: &str, headers: &[(&str, &str)]) -> PendingDelivery {
    PendingDelivery {
        app: AppNo(1),
        id: DeliveryId(Id::from_bytes([3; 16])),
        event: EventId(Id::from_bytes([1; 16])),
        event_type: EventType::JobCompleted,
        watch: WatchId(Id::from_bytes([2; 16])),
        destination: Destination {
            id: DestinationId(Id::from_bytes([4; 16])),
            channel: ChannelKind::Webhook,
            address: url.to_owned(),
            queue: "1 test".to_owned(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            secret: None,
            signing: None,
            access: None,
            saved: None,
        },
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        body: BODY.into(),
        payload: Payload::Event,
        step: 0,
        waited: Duration::ZERO,
        attempts: 0,
        manual: false,
        finished: None,
    }
}

/// Returns an app with these secrets, the newest first.
fn app(secrets: &[Secret; 2]) -> App {
    let [new, old] = secrets.each_ref().map(|secret| Masked::new(secret.expose()));
    App {
        no: AppNo(1),
        id: AppId(Id::from_bytes([5; 16])),
        name: "test".to_owned(),
        created_at: at(0),
        signing_secret: new,
        old_secret: Some((old, Timestamp::MAX)),
        private_key: draw_private_key(),
        old_private_key: Some((draw_private_key(), Timestamp::MAX)),
    }
}

#[test]
fn the_official_library_verifies_signatures_of_a_rotation() {
    let secrets = [Secret::generate(), secret(SECRET)];
    let (delivery, app) = (delivery("", &[]), app(&secrets));
    // The library reads the machine's clock.
    let message = Message {
        delivery: &delivery,
        app: Some(&app),
        now: Clock::System.now(),
        timeout: TOLERANCE,
        identity: None,
        transmission: &Transmission::default(),
    };
    let headers = headers(&message).unwrap();
    for secret in &secrets {
        let official = standardwebhooks::Webhook::new(&secret.expose()).unwrap();
        official.verify(BODY, &headers).unwrap();
    }
    let stranger = standardwebhooks::Webhook::new(&Secret::generate().expose()).unwrap();
    stranger.verify(BODY, &headers).unwrap_err();
}

/// Time that a lookup takes.
const LOOKUP: Duration = Duration::from_secs(3);

/// Sends the delivery to `url`.
async fn sent(url: &str, allow: &[&str]) -> AttemptResult {
    let manual = ManualClock::at(at(SECONDS));
    let clock = Clock::Manual(manual.clone());
    let allow = allow.iter().map(|text| Allowed::parse(text).unwrap()).collect();
    let resolver = Resolver::fixed(move |_| {
        manual.advance(LOOKUP);
        Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
    });
    let settings = Settings { allow, allow_http: false, ..Settings::default() };
    let egress = Egress::new(settings, resolver, clock.clone(), Vec::new()).unwrap();
    let services = Services { egress, clock: clock.clone(), templates: Templates::load(&[], None).unwrap() };
    let app = app(&[Secret::generate(), secret(SECRET)]);
    let delivery = delivery(url, &[("X-Env", "prod"), ("host", "evil")]);
    let timeout = Duration::from_secs(20);
    let message = Message {
        delivery: &delivery,
        app: Some(&app),
        now: clock.now(),
        timeout,
        identity: None,
        transmission: &Transmission::default(),
    };
    Webhook::default().send(&services, &message).await.unwrap()
}

#[tokio::test]
async fn a_webhook_is_what_the_contract_says() {
    let (port, request) = receiver("HTTP/1.1 204 No Content\r\nx-pot: 1\r\n\r\n".into()).await;
    let url = format!("http://127.0.0.1:{port}/hook?token=x");
    let sent = sent(&url, &["127.0.0.0/8"]).await;
    assert_eq!((sent.outcome, sent.attempt.status_code, sent.attempt.error), (Outcome::Ok, Some(204), None));
    assert_eq!(sent.attempt.response_headers, [("x-pot".to_owned(), "1".to_owned())]);
    let shown = |name| {
        sent.attempt.request_headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    };
    assert_eq!((shown("x-env"), shown("webhook-timestamp")), (Some("***"), Some("1614265330")));

    let request = String::from_utf8(request.await.unwrap()).unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.as_bytes(), BODY);
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some("POST /hook?token=x HTTP/1.1"));
    let mut headers: Vec<_> = lines.map(|line| line.split_once(": ").unwrap()).collect();
    headers.sort_unstable();
    let signature = headers.iter().find(|(name, _)| *name == "webhook-signature").unwrap().1;
    assert_eq!(signature.split(' ').count(), 2);
    let expected = [
        ("accept", "*/*"),
        ("content-length", "20"),
        ("content-type", "application/json"),
        ("host", &format!("127.0.0.1:{port}")),
        ("ringback-event", "job.completed"),
        ("ringback-watch", "watch_02081040g2081040g2081040g2"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("user-agent", concat!("Ringback/", env!("CARGO_PKG_VERSION"))),
        ("webhook-id", "evt_01040g2081040g2081040g2081"),
        ("webhook-signature", signature),
        ("webhook-timestamp", "1614265330"),
        ("x-env", "prod"),
    ];
    assert_eq!(headers, expected);
}

#[tokio::test]
async fn every_answer_has_one_meaning() {
    let minute = Some(Duration::from_secs(60));
    let table = [
        ("200 OK", "", Outcome::Ok),
        ("299 Fine", "retry-after: 60\r\n", Outcome::Ok),
        ("410 Gone", "retry-after: 60\r\n", Outcome::Gone),
        ("302 Found", "location: https://example.com/\r\n", Outcome::Retry { after: None }),
        ("400 Bad", "", Outcome::Retry { after: None }),
        ("429 Slow", "Retry-After: 60\r\n", Outcome::Retry { after: minute }),
        ("429 Slow", "retry-after: 60, 10\r\n", Outcome::Retry { after: minute }),
        ("429 Slow", "retry-after: 10\r\nRetry-After: 60\r\n", Outcome::Retry { after: minute }),
        ("503 Down", "retry-after: Thu, 25 Feb 2021 15:03:10 GMT\r\n", Outcome::Retry { after: minute }),
        ("500 Oops", "retry-after: soon\r\n", Outcome::Retry { after: None }),
    ];
    for (status, header, outcome) in table {
        let (port, _) = receiver(format!("HTTP/1.1 {status}\r\n{header}content-length: 2\r\n\r\nhi")).await;
        let sent = sent(&format!("http://127.0.0.1:{port}/"), &["127.0.0.0/8"]).await;
        assert_eq!(sent.outcome, outcome, "{status}");
        let error = (sent.outcome != Outcome::Ok).then(|| format!("HTTP {}", &status[..3]));
        assert_eq!((sent.attempt.response_body.as_str(), sent.attempt.error), ("hi", error), "{status}");
    }
}

#[tokio::test]
async fn what_the_guard_forbids_is_refused_and_what_fails_is_retried() {
    for url in
        ["https://127.0.0.1/?secret", "http://example.com/?secret", "https://elsewhere.example/?secret"]
    {
        let sent = sent(url, &[]).await;
        assert_eq!((sent.outcome, sent.attempt.status_code), (Outcome::Refused, None), "{url}");
        let error = sent.attempt.error.unwrap();
        assert!(error.starts_with("refused: ") && !error.contains("secret"), "{error}");
    }
    let (port, request) = receiver(String::new()).await;
    let sent = sent(&format!("http://127.0.0.1:{port}/?secret"), &["127.0.0.0/8"]).await;
    request.await.unwrap();
    assert_eq!(sent.outcome, Outcome::Retry { after: None });
    assert_eq!(
        sent.attempt.error.as_deref(),
        Some("protocol: the connection was closed before the answer was complete")
    );
}

#[tokio::test]
async fn the_duration_is_that_of_the_exchange_and_zero_if_nothing_was_sent() {
    let (port, _) = receiver("HTTP/1.1 204 No Content\r\n\r\n".into()).await;
    let url = format!("https://receiver.example:{port}/");
    assert_eq!(sent(&url.replace("https", "http"), &["receiver.example"]).await.duration, LOOKUP);
    let failed = sent(&url, &[]).await;
    assert_eq!((failed.outcome, failed.duration), (Outcome::Refused, LOOKUP));
}
