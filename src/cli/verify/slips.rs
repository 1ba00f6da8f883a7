//! The usual slips of receivers, and the search for those that explain an invalid signature.
//!
//! A slip changes a part of a message: its headers, its body, or the key. [`explain`] undoes every slip, and every pair
//! of slips in different parts, until the signature is valid. The signature proves the explanation: a change that makes
//! it valid by chance does not exist.

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::value::RawValue;

use crate::channels::webhook::{self, Secret};
use crate::domain::{Timestamp, json_fields};

/// Maximum size of a body, in bytes. A webhook has at most 256 KiB of answer and an envelope.
pub const BODY_MAX: u64 = 4 * 1024 * 1024;

/// What a signature covers, and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Header `webhook-id`.
    pub id: String,
    /// Header `webhook-timestamp`.
    pub timestamp: String,
    /// Header `webhook-signature`.
    pub signatures: String,
}

/// A part of a message without a slip, and the words for the change.
type Undone<T> = (&'static str, T);

/// The keys of JSON objects in the order in which Ringback writes them.
const KEYS: &[&str] = &[
    "url",
    "specversion",
    "id",
    "source",
    "type",
    "timestamp",
    "subject",
    "time",
    "datacontenttype",
    "data",
    "watchId",
    "provider",
    "jobId",
    "status",
    "rawStatus",
    "progress",
    "output",
    "outputs",
    "error",
    "createdAt",
    "completedAt",
    "outputExpiresAt",
    "metadata",
    "code",
    "message",
    "thumbnail",
    "posterImage",
];

/// Returns the changes that make the signature valid: a text that continues "The signature is valid"; `None` if no
/// known slip explains it.
pub fn explain(secret: &str, headers: &Headers, body: &[u8], now: Timestamp) -> Option<String> {
    let keys = keys(secret);
    let whole = with_none(Secret::of_libraries(secret).ok(), keys);
    let headers = with_none(Some(headers.clone()), self::headers(headers));
    let bodies = with_none(Some(body.to_vec()), bodies(body));
    // One slip is more likely than two, and three are not searched.
    for count in 1..=2 {
        for (in_headers, headers) in &headers {
            for (in_body, body) in &bodies {
                for (in_key, key) in &whole {
                    let changes: Vec<&str> = [in_headers, in_body, in_key]
                        .into_iter()
                        .filter(|change| !change.is_empty())
                        .copied()
                        .collect();
                    if changes.len() == count && is_valid(key, headers, body, now) {
                        return Some(changes.join(", and "));
                    }
                }
            }
        }
    }
    None
}

/// Puts the part as it was given before its changes.
fn with_none<T: PartialEq>(given: Option<T>, changed: Vec<Undone<T>>) -> Vec<Undone<T>> {
    let changed = changed.into_iter().filter(|(_, part)| given.as_ref() != Some(part)).collect::<Vec<_>>();
    given.into_iter().map(|part| ("", part)).chain(changed).collect()
}

fn is_valid(key: &Secret, headers: &Headers, body: &[u8], now: Timestamp) -> bool {
    let Headers { id, timestamp, signatures } = headers;
    let any_time = std::time::Duration::MAX;
    webhook::verify(key, id, timestamp, signatures, body, now, any_time).is_ok()
}

/// Undoes slips in the headers.
fn headers(given: &Headers) -> Vec<Undone<Headers>> {
    let Headers { id, timestamp, signatures } = given;
    let mut undone = Vec::new();
    let bare = |text: &str| {
        let value = text.rsplit_once(": ").map_or(text, |(_, value)| value);
        value.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';')).to_owned()
    };
    let clean = Headers { id: bare(id), timestamp: bare(timestamp), signatures: bare(signatures) };
    undone.push(("without the names, quotes or spaces around the values of the headers", clean));
    let exchanged = Headers { id: timestamp.clone(), timestamp: id.clone(), ..given.clone() };
    undone.push(("with --id and --timestamp exchanged", exchanged));
    if let Some(seconds) = timestamp.parse::<i64>().ok().filter(|number| *number > 100_000_000_000) {
        let timestamp = (seconds / 1000).to_string();
        undone.push((
            "with the timestamp in seconds; this one is in milliseconds",
            Headers { timestamp, ..given.clone() },
        ));
    }
    if let Some(at) = Timestamp::parse(timestamp) {
        let timestamp = at.seconds().to_string();
        undone.push((
            "with the timestamp as the header has it, in seconds since 1970",
            Headers { timestamp, ..given.clone() },
        ));
    }
    let with = |signatures: String| Headers { signatures, ..given.clone() };
    undone.push((
        "with `v1,` before the signature; pass the whole header webhook-signature",
        with(format!("v1,{signatures}")),
    ));
    let spaced = signatures.replace("v1=", "v1,").replace(",v1,", " v1,").replace(';', " ");
    undone.push(("with the signatures as the header has them: v1,… separated by spaces", with(spaced)));
    let digits = signatures.trim_start_matches("v1,").trim_start_matches("sha256=");
    if let Some(bytes) = from_hex(digits) {
        undone.push((
            "with the signature in base64; this one is in hex",
            with(format!("v1,{}", STANDARD.encode(bytes))),
        ));
    }
    let standard = signatures.split(' ').map(|one| {
        let text = one.trim_start_matches("v1,").trim_end_matches('=');
        let bytes = URL_SAFE_NO_PAD.decode(text).or(STANDARD_NO_PAD.decode(text));
        bytes.map_or_else(|_| one.to_owned(), |bytes| format!("v1,{}", STANDARD.encode(bytes)))
    });
    let standard = standard.collect::<Vec<_>>().join(" ");
    undone.push(("with the signature in standard base64, with its padding", with(standard)));
    undone
}

/// Undoes slips in the body.
fn bodies(body: &[u8]) -> Vec<Undone<Vec<u8>>> {
    const BOM: &[u8] = b"\xef\xbb\xbf";
    const REWRITTEN: &str = "with the body as it was sent: this one was parsed as JSON and written again; verify the bytes as they were received";
    let mut undone = Vec::new();
    if let Some(rest) = body.strip_suffix(b"\n") {
        let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
        undone.push((
            "without the line break at the end of the body, which a program such as echo or an editor has added",
            rest.to_vec(),
        ));
    }
    undone.push((
        "with a line break at the end of the body, which a program such as a shell has removed",
        [body, b"\n"].concat(),
    ));
    undone.push(("without the spaces and line breaks around the body", body.trim_ascii().to_vec()));
    if let Some(rest) = body.strip_prefix(BOM) {
        undone.push(("without the byte order mark before the body", rest.to_vec()));
    }
    if let Some(text) = from_utf16(body) {
        undone.push((
            "with the body in UTF-8; this one is in UTF-16, as PowerShell writes files",
            text.into_bytes(),
        ));
    }
    if let Some(bytes) = gunzipped(body) {
        undone.push(("with the body before its compression: this one is gzip", bytes));
    }
    if let Ok(bytes) = STANDARD.decode(body.trim_ascii()) {
        undone.push(("with the body decoded from base64, in which a gateway has passed it on", bytes));
    }
    if let Ok(text) = str::from_utf8(body) {
        undone.push((
            "with the line ends of the body as they were sent (LF)",
            text.replace("\r\n", "\n").into(),
        ));
        let crlf = text.replace("\r\n", "\n").replace('\n', "\r\n");
        undone.push(("with the line ends of the body as they were sent (CRLF)", crlf.into()));
        if let Ok(inner) = serde_json::from_str::<String>(text) {
            undone.push(("with the body itself: this one is a JSON string that contains it", inner.into()));
        }
        if let Some(bytes) =
            text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>()
        {
            undone.push((
                "with the bytes of the body: these were decoded as Latin-1 and written as UTF-8",
                bytes,
            ));
        }
        let form = text.trim().replace('+', " ");
        let form = percent_encoding::percent_decode_str(&form).collect::<Vec<u8>>();
        undone.push(("with the body decoded from the form of a URL", form));
        if serde_json::from_str::<&RawValue>(text).is_ok() {
            let compact = compact(text);
            undone.extend(ordered(&compact).map(|ordered| (REWRITTEN, ordered.into_bytes())));
            undone.push((REWRITTEN, compact.into_bytes()));
        }
    }
    undone
}

/// Undoes slips in the form of the key.
fn keys(secret: &str) -> Vec<Undone<Secret>> {
    let bare = secret.trim().trim_start_matches("whsec_");
    let undecoded =
        "with the text of the secret as the key: the signer has not decoded the base64 after whsec_";
    let prefixed =
        "with the whole text of the secret as the key: the signer has not decoded the base64 after whsec_";
    let mut undone =
        vec![(undecoded, bare.as_bytes().to_vec()), (prefixed, secret.trim().as_bytes().to_vec())];
    undone.extend(from_hex(bare).map(|key| ("with the secret as hex; this program reads it as base64", key)));
    let unpadded = bare.trim_end_matches('=');
    undone.extend(
        URL_SAFE_NO_PAD
            .decode(unpadded)
            .or(STANDARD_NO_PAD.decode(unpadded))
            .ok()
            .map(|key| ("with the secret read as base64url, or as base64 without its padding", key)),
    );
    if let Some(inner) = STANDARD.decode(bare).ok().and_then(|key| String::from_utf8(key).ok()) {
        let inner = STANDARD.decode(inner.trim().trim_start_matches("whsec_"));
        undone.extend(
            inner.ok().map(|key| ("with the secret decoded twice: it was encoded a second time", key)),
        );
    }
    undone.into_iter().map(|(change, key)| (change, Secret::of_bytes(key))).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
    pairs.collect::<Option<Vec<u8>>>().filter(|bytes| !bytes.is_empty() && text.len().is_multiple_of(2))
}

/// Decodes UTF-16 with a byte order mark.
fn from_utf16(body: &[u8]) -> Option<String> {
    let (mark, rest) = body.split_at_checked(2)?;
    let units = rest.chunks_exact(2).map(|pair| match mark {
        b"\xff\xfe" => u16::from_le_bytes([pair[0], pair[1]]),
        _ => u16::from_be_bytes([pair[0], pair[1]]),
    });
    let is_marked = matches!(mark, b"\xff\xfe" | b"\xfe\xff");
    is_marked.then(|| String::from_utf16(&units.collect::<Vec<_>>()).ok())?
}

/// Decompresses gzip, up to the maximum size of a body.
fn gunzipped(body: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = flate2::read::GzDecoder::new(body).take(BODY_MAX).read_to_end(&mut bytes);
    read.is_ok().then_some(bytes)
}

/// Returns JSON as Ringback writes it: without spaces, and with no more escapes than necessary. Numbers and the order
/// of keys are unchanged.
fn compact(json: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(json.len()), json);
    while let Some(c) = rest.chars().next() {
        let length = if c == '"' { string_length(rest) } else { c.len_utf8() };
        let (token, after) = rest.split_at(length);
        rest = after;
        if c == '"' {
            let text = serde_json::from_str::<String>(token).and_then(|text| serde_json::to_string(&text));
            out.push_str(text.as_deref().unwrap_or(token));
        } else if !c.is_ascii_whitespace() {
            out.push(c);
        }
    }
    out
}

/// Returns the length of the JSON string at the beginning of a text.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    });
    end.map_or(text.len(), |end| end + 2)
}

/// Returns a JSON object with its keys in the order of Ringback; `None` for any other value.
fn ordered(json: &str) -> Option<String> {
    let mut fields = json_fields(json, usize::MAX)?;
    fields.sort_by_key(|(name, _)| KEYS.iter().position(|known| known == name).unwrap_or(KEYS.len()));
    let field = |(name, raw): (String, &RawValue)| {
        let raw = raw.get();
        let value = match name.as_str() {
            "data" | "error" => ordered(raw),
            "outputs" => serde_json::from_str::<Vec<&RawValue>>(raw).ok().map(|list| {
                let list = list.iter().map(|one| ordered(one.get()).unwrap_or_else(|| one.get().to_owned()));
                format!("[{}]", list.collect::<Vec<_>>().join(","))
            }),
            _ => None,
        };
        format!("\"{name}\":{}", value.unwrap_or_else(|| raw.to_owned()))
    };
    Some(format!("{{{}}}", fields.into_iter().map(field).collect::<Vec<_>>().join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";
    const AT: Timestamp = Timestamp::from_millis(1_771_426_951_000);
    const BODY: &str = r#"{"type":"job.failed","timestamp":"2026-02-18T15:02:31.120Z","data":{"watchId":"watch_1","provider":"muvi","jobId":"job_1","status":"failed","rawStatus":null,"progress":1.0,"output":null,"outputs":[{"url":"https://a/b","type":"é"}],"error":{"code":"x","message":"no\nway €"},"createdAt":null,"completedAt":null,"metadata":{}}}"#;

    fn headers_of(key: &Secret, body: &[u8]) -> Headers {
        let signatures = webhook::sign(key, "evt_1", AT.seconds(), body);
        Headers { id: "evt_1".to_owned(), timestamp: AT.seconds().to_string(), signatures }
    }

    fn good() -> Headers {
        headers_of(&Secret::parse(SECRET).expect("a secret"), BODY.as_bytes())
    }

    fn explained(secret: &str, headers: &Headers, body: &[u8]) -> String {
        explain(secret, headers, body, AT).unwrap_or_else(|| "not explained".to_owned())
    }

    #[test]
    fn a_changed_body_is_recognized_by_its_slip() {
        let value: serde_json::Value = serde_json::from_str(BODY).expect("JSON");
        let (sorted, pretty) = (value.to_string(), serde_json::to_string_pretty(&value).expect("JSON"));
        // As Python's json.dumps and PHP's json_encode write it.
        let python =
            BODY.replace(':', ": ").replace(',', ", ").replace('é', "\\u00e9").replace('€', "\\u20ac");
        let python = python.replace("https: //", "https://").replace("15: 02: 31", "15:02:31");
        let php = BODY.replace('/', "\\/").replace('é', "\\u00e9").replace('€', "\\u20ac");
        let latin: String = BODY.bytes().map(char::from).collect();
        let utf16: Vec<u8> =
            [0xfeff].into_iter().chain(BODY.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        let mut gzip = flate2::read::GzEncoder::new(BODY.as_bytes(), flate2::Compression::fast());
        let mut zipped = Vec::new();
        gzip.read_to_end(&mut zipped).expect("gzip");
        let table: [(&str, Vec<u8>); 12] = [
            ("without the line break at the end", format!("{BODY}\n").into()),
            ("without the line break at the end", format!("{BODY}\r\n").into()),
            ("without the spaces", format!(" {BODY}\t").into()),
            ("byte order mark", format!("\u{feff}{BODY}").into()),
            ("written again", sorted.into()),
            ("written again", pretty.into()),
            ("written again", python.into()),
            ("written again", php.into()),
            ("a JSON string", serde_json::to_string(BODY).expect("JSON").into()),
            ("Latin-1", latin.into()),
            ("base64", STANDARD.encode(BODY).into()),
            ("UTF-16", utf16),
        ];
        for (words, body) in table.into_iter().chain([("gzip", zipped)]) {
            let found = explained(SECRET, &good(), &body);
            assert!(found.contains(words), "{words}: {found}");
        }
        let lines = headers_of(&Secret::parse(SECRET).expect("a secret"), b"a\nb\n");
        assert!(explained(SECRET, &lines, b"a\r\nb\r\n").contains("line ends"));
        assert!(explained(SECRET, &lines, b"a\nb").contains("with a line break at the end"));
        assert_eq!(explained(SECRET, &good(), b"{}"), "not explained");
    }

    #[test]
    fn a_wrong_form_of_the_secret_is_recognized() {
        let bytes = Secret::of_bytes;
        let bare = SECRET.trim_start_matches("whsec_");
        let hex = "00112233445566778899aabbccddeeff0011223344556677";
        let table = [
            ("not decoded the base64", SECRET, bytes(bare.into())),
            ("the whole text", SECRET, bytes(SECRET.into())),
            ("as hex", hex, bytes(from_hex(hex).expect("hex"))),
            ("base64url", "whsec__-__-__-__-__-__-__-__-__-__-_-_", {
                bytes(URL_SAFE_NO_PAD.decode("_-__-__-__-__-__-__-__-__-__-_-_").expect("base64url"))
            }),
            ("decoded twice", &STANDARD.encode(SECRET), Secret::parse(SECRET).expect("a secret")),
        ];
        for (words, secret, key) in table {
            let found = explained(secret, &headers_of(&key, BODY.as_bytes()), BODY.as_bytes());
            assert!(found.contains(words), "{words}: {found}");
        }
    }

    #[test]
    fn wrong_headers_are_recognized() {
        let good = good();
        let bare = good.signatures.trim_start_matches("v1,");
        let bytes = STANDARD.decode(bare).expect("base64");
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let with = |id: &str, timestamp: &str, signatures: &str| Headers {
            id: id.to_owned(),
            timestamp: timestamp.to_owned(),
            signatures: signatures.to_owned(),
        };
        let table = [
            ("exchanged", with(&good.timestamp, &good.id, &good.signatures)),
            ("milliseconds", with(&good.id, "1771426951120", &good.signatures)),
            ("seconds since 1970", with(&good.id, "2026-02-18T15:02:31Z", &good.signatures)),
            ("`v1,` before", with(&good.id, &good.timestamp, bare)),
            ("separated by spaces", with(&good.id, &good.timestamp, &format!("v1=AAAA,v1={bare}"))),
            ("in hex", with(&good.id, &good.timestamp, &format!("sha256={hex}"))),
            ("with its padding", with(&good.id, &good.timestamp, good.signatures.trim_end_matches('='))),
            ("names, quotes", with("webhook-id: evt_1", "\"1771426951\"", &good.signatures)),
        ];
        for (words, headers) in table {
            let found = explained(SECRET, &headers, BODY.as_bytes());
            assert!(found.contains(words), "{words}: {found}");
        }
    }

    #[test]
    fn two_slips_in_different_parts_are_recognized() {
        let good = good();
        let headers = Headers { id: good.timestamp.clone(), timestamp: good.id.clone(), ..good };
        let found = explained(SECRET, &headers, format!("{BODY}\n").as_bytes());
        assert!(found.contains("exchanged, and without the line break"), "{found}");
    }
}
