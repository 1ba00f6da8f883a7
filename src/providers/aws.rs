//! Signatures of requests to AWS (Signature Version 4).
//!
//! Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html>. The secret key signs the
//! method, the URL, the body and some headers, and is not sent itself. A signature is valid for five minutes.

use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};
use url::{Position, Url};

use super::jwt::hmac;
use super::template::percent_encode;
use crate::domain::Timestamp;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The keys of an account.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) id: &'a str,
    pub(super) secret: &'a str,
    /// Token of temporary keys.
    pub(super) session: Option<&'a str>,
}

/// A request that is to be signed.
#[derive(Clone, Copy)]
pub(super) struct Unsigned<'a> {
    pub(super) method: &'a str,
    pub(super) url: &'a Url,
    pub(super) headers: &'a [(String, String)],
    pub(super) body: &'a [u8],
}

/// Service and region, for which a signature is valid.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) service: &'a str,
    pub(super) region: &'a str,
}

/// Returns the region in the name of a host of AWS: `us-east-1` of `mediaconvert.us-east-1.amazonaws.com`.
pub(super) fn region_of(url: &Url) -> Option<&str> {
    let host = url.host_str()?;
    let name = host.strip_suffix(".amazonaws.com").or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
    name.rsplit_once('.').map(|(_, region)| region).filter(|region| region.contains('-'))
}

/// Returns the headers that sign a request.
pub(super) fn signed_headers(
    keys: Keys<'_>,
    scope: Scope<'_>,
    request: Unsigned<'_>,
    now: Timestamp,
) -> Vec<(String, String)> {
    let time = basic_time(now);
    let mut own = vec![("x-amz-date".to_owned(), time.clone())];
    own.extend(keys.session.map(|token| ("x-amz-security-token".to_owned(), token.to_owned())));
    let (canonical, names) = canonical_request(request, &own, scope.service);
    let credential_scope = scope_text(scope, &time);
    let text = format!("{ALGORITHM}\n{time}\n{credential_scope}\n{}", hex(&Sha256::digest(&canonical)));
    let signature = hex(&hmac(&signing_key(keys.secret, scope, &time), text.as_bytes()));
    let id = keys.id;
    own.push(authorization(id, &credential_scope, &names, &signature));
    own
}

/// Returns the headers with `mask` for each part that depends on the keys.
pub(super) fn shown_headers(
    scope: Scope<'_>,
    request: Unsigned<'_>,
    now: Timestamp,
    mask: &str,
) -> Vec<(String, String)> {
    let own = [("x-amz-date".to_owned(), basic_time(now))];
    let (_, names) = canonical_request(request, &own, scope.service);
    let [date] = own;
    let scope = scope_text(scope, &date.1);
    vec![date, authorization(mask, &scope, &names, mask)]
}

fn authorization(id: &str, scope: &str, names: &str, signature: &str) -> (String, String) {
    let value = format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
    ("authorization".to_owned(), value)
}

/// Returns the canonical form of a request, and the names of the headers that are signed.
fn canonical_request(request: Unsigned<'_>, own: &[(String, String)], service: &str) -> (String, String) {
    let Unsigned { method, url, headers, body } = request;
    let is_signed = |name: &str| name == "content-type" || name.starts_with("x-amz-");
    let host = url[Position::BeforeHost..Position::AfterPort].to_owned();
    let mut signed: Vec<(&str, String)> = vec![("host", host)];
    let given = headers.iter().filter(|(name, _)| is_signed(name)).chain(own);
    signed.extend(
        given.map(|(name, value)| {
            (name.as_str(), value.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
        }),
    );
    signed.sort();
    let lines = signed.iter().map(|(name, value)| format!("{name}:{value}"));
    let lines = lines.collect::<Vec<_>>().join("\n");
    let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    // Each segment is encoded once more, except for S3.
    let path = if service == "s3" {
        url.path().to_owned()
    } else {
        url.path().split('/').map(percent_encode).collect::<Vec<_>>().join("/")
    };
    let query = canonical_query(url.query().unwrap_or_default());
    let body = hex(&Sha256::digest(body));
    (format!("{method}\n{path}\n{query}\n{lines}\n\n{names}\n{body}"), names)
}

/// Returns the pairs of a query, encoded and sorted.
fn canonical_query(query: &str) -> String {
    let encoded = |text: &str| percent_encode(&percent_decode_str(text).decode_utf8_lossy());
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn signing_key(secret: &str, scope: Scope<'_>, time: &str) -> [u8; 32] {
    let day = hmac(format!("AWS4{secret}").as_bytes(), date(time).as_bytes());
    let region = hmac(&day, scope.region.as_bytes());
    let service = hmac(&region, scope.service.as_bytes());
    hmac(&service, b"aws4_request")
}

fn scope_text(Scope { service, region }: Scope<'_>, time: &str) -> String {
    format!("{}/{region}/{service}/aws4_request", date(time))
}

fn date(time: &str) -> &str {
    time.get(..8).unwrap_or(time)
}

/// Returns a time as `20150830T123600Z`.
fn basic_time(at: Timestamp) -> String {
    let whole = Timestamp::from_millis(at.seconds() * 1000);
    let text = whole.to_string();
    let (seconds, _) = text.split_once(['.', 'Z']).unwrap_or((&text, ""));
    format!("{}Z", seconds.replace(['-', ':'], ""))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: Keys<'_> =
        Keys { id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", session: None };

    fn time() -> Timestamp {
        Timestamp::parse("2015-08-30T12:36:00Z").unwrap()
    }

    fn headers(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Returns the names of the signed headers and the signature.
    fn signed(
        method: &str,
        url: &str,
        given: &[(&str, &str)],
        body: &str,
        service: &str,
    ) -> (String, String) {
        let (url, given) = (Url::parse(url).unwrap(), headers(given));
        let request = Unsigned { method, url: &url, headers: &given, body: body.as_bytes() };
        let sent = signed_headers(KEYS, Scope { service, region: "us-east-1" }, request, time());
        let (_, value) = sent.iter().find(|(name, _)| name == "authorization").unwrap();
        let value = value.strip_prefix(&format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/{service}/aws4_request, SignedHeaders="
        ));
        let (names, signature) = value.unwrap().split_once(", Signature=").unwrap();
        (names.to_owned(), signature.to_owned())
    }

    /// The example of the AWS General Reference, "Signature Version 4 signing process": `ListUsers` of IAM.
    #[test]
    fn the_documented_example_of_aws_has_the_documented_values() {
        let content = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
        let url = "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08";
        let (parsed, given) = (Url::parse(url).unwrap(), headers(&content));
        let request = Unsigned { method: "GET", url: &parsed, headers: &given, body: b"" };
        let own = headers(&[("x-amz-date", "20150830T123600Z")]);
        let (canonical, _) = canonical_request(request, &own, "iam");
        assert_eq!(
            canonical,
            "GET\n/\nAction=ListUsers&Version=2010-05-08\n\
             content-type:application/x-www-form-urlencoded; charset=utf-8\nhost:iam.amazonaws.com\n\
             x-amz-date:20150830T123600Z\n\ncontent-type;host;x-amz-date\n\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            hex(&Sha256::digest(&canonical)),
            "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
        );
        let key = signing_key(KEYS.secret, Scope { service: "iam", region: "us-east-1" }, "20150830T123600Z");
        assert_eq!(hex(&key), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
        let (names, signature) = signed("GET", url, &content, "", "iam");
        assert_eq!(names, "content-type;host;x-amz-date");
        assert_eq!(signature, "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    }

    /// Requests of the test suite `aws-sig-v4-test-suite` of AWS.
    #[test]
    fn requests_of_the_test_suite_of_aws_have_its_signatures() {
        let suite = |method: &str, rest: &str, given: &[(&str, &str)], body: &str| {
            signed(method, &format!("https://example.amazonaws.com/{rest}"), given, body, "service").1
        };
        for (method, rest, expected) in [
            ("GET", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                "GET",
                "?Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
        ] {
            assert_eq!(suite(method, rest, &[], ""), expected, "{method} /{rest}");
        }
        let content = [("content-type", "application/x-www-form-urlencoded")];
        assert_eq!(
            suite("POST", "", &content, "Param1=value1"),
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
    }

    #[test]
    fn a_session_token_is_sent_and_signed() {
        let url = Url::parse("https://example.amazonaws.com/a%20b/?x=a%2Bb&x=%C3%A9").unwrap();
        let request = Unsigned { method: "GET", url: &url, headers: &[], body: b"" };
        let keys = Keys { session: Some("t0ken"), ..KEYS };
        let scope = Scope { service: "service", region: "us-east-1" };
        let sent = signed_headers(keys, scope, request, time());
        assert_eq!(sent[1], ("x-amz-security-token".to_owned(), "t0ken".to_owned()));
        assert!(sent[2].1.contains("SignedHeaders=host;x-amz-date;x-amz-security-token,"), "{}", sent[2].1);
        let (canonical, _) = canonical_request(request, &sent[..2], "service");
        assert!(canonical.starts_with("GET\n/a%2520b/\nx=%C3%A9&x=a%2Bb\n"), "{canonical}");
        assert!(canonical_request(request, &[], "s3").0.starts_with("GET\n/a%20b/\n"));
    }

    #[test]
    fn the_region_is_read_from_a_host_of_aws() {
        for (url, expected) in [
            ("https://mediaconvert.us-east-1.amazonaws.com/x", Some("us-east-1")),
            ("https://abcd1234.mediaconvert.eu-west-2.amazonaws.com/x", Some("eu-west-2")),
            ("https://batch.cn-north-1.amazonaws.com.cn/x", Some("cn-north-1")),
            ("https://iam.amazonaws.com/x", None),
            ("https://us-east-1.example.com/x", None),
        ] {
            assert_eq!(region_of(&Url::parse(url).unwrap()), expected, "{url}");
        }
    }
}
