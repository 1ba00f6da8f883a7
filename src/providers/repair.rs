//! Repairs of a body that the parser rejects. Each reads the body once.

use std::borrow::Cow;
use std::ops::Range;

/// Nesting that is kept if a body is too deep; a deeper value becomes null. The deepest path to a field has three parts
/// of at most 16 steps. The parser rejects nesting deeper than 128, so that later code cannot exhaust the stack.
pub(super) const DEPTH_KEPT: usize = 64;

/// Largest number that is kept if a body has one that the parser rejects; a larger one becomes null.
const NUMBER_MAX: f64 = 1e308;

/// Words that serializers write for numbers that JSON does not have.
const NO_NUMBERS: &[&[u8]] = &[b"NaN", b"Infinity", b"-Infinity"];

/// Replaces what is no JSON, but has a clear meaning: invalid UTF-8 by U+FFFD, control characters in texts by escapes, and
/// words for numbers that JSON does not have by null.
pub(super) fn escape_foreign(body: &[u8]) -> Cow<'_, [u8]> {
    let text = String::from_utf8_lossy(body);
    let bytes = text.as_bytes();
    let (mut kept, mut at, mut in_text) = (Kept::of(bytes), 0, false);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => in_text = !in_text,
            b'\\' if in_text && bytes.get(at + 1).is_some_and(|next| *next >= 0x20) => at += 1,
            ..0x20 if in_text => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
                kept.replace(at..at + 1, &[b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            b'N' | b'I' | b'-' if !in_text => {
                if let Some(word) = NO_NUMBERS.iter().find(|word| is_word(bytes, at, word)) {
                    kept.replace(at..at + word.len(), b"null");
                    at += word.len() - 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    kept.end().into()
}

/// A copy of a body in which ranges are replaced, from the first one to the last.
struct Kept<'b> {
    body: &'b [u8],
    /// Number of bytes that are copied or replaced.
    done: usize,
    copy: Vec<u8>,
}

impl<'b> Kept<'b> {
    fn of(body: &'b [u8]) -> Self {
        Self { body, done: 0, copy: Vec::with_capacity(body.len()) }
    }

    fn replace(&mut self, range: Range<usize>, replacement: &[u8]) {
        self.copy.extend_from_slice(&self.body[self.done..range.start]);
        self.copy.extend_from_slice(replacement);
        self.done = range.end;
    }

    fn end(mut self) -> Vec<u8> {
        self.copy.extend_from_slice(&self.body[self.done..]);
        self.copy
    }
}

/// Returns whether a word stands at `at`, and not as a part of a longer one.
fn is_word(bytes: &[u8], at: usize, word: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    bytes[at..].starts_with(word)
        && !before.is_some_and(is_part)
        && !bytes.get(at + word.len()).is_some_and(is_part)
}

/// Replaces the values that the parser does not hold by null. Returns as well whether nested values were cut; what is cut
/// is not checked. Everything else that is no JSON is kept.
pub(super) fn replace_unreadable(body: &[u8]) -> (Vec<u8>, bool) {
    let (mut kept, mut depth, mut at) = (Kept::of(body), 0_usize, 0);
    let mut is_cut = false;
    while at < body.len() {
        let start = at;
        at = end_of_token(body, at);
        let token = &body[start..at];
        let opens = matches!(token, b"{" | b"[");
        depth += usize::from(opens);
        let is_deep = depth > DEPTH_KEPT;
        depth = depth.saturating_sub(usize::from(matches!(token, b"}" | b"]")));
        if is_deep {
            is_cut = true;
            let is_first = opens && depth == DEPTH_KEPT + 1;
            kept.replace(start..at, if is_first { b"null" } else { b"" });
        } else if is_too_large(token) {
            kept.replace(start..at, b"null");
        }
    }
    (kept.end(), is_cut)
}

/// Returns the end of a string, of a number, or of any other single byte.
fn end_of_token(body: &[u8], start: usize) -> usize {
    let rest = &body[start..];
    let length = match rest[0] {
        b'"' => {
            let mut end = 1;
            while let Some(byte) = rest.get(end).filter(|byte| **byte != b'"') {
                end += if *byte == b'\\' { 2 } else { 1 };
            }
            end + 1
        }
        b'-' | b'0'..=b'9' => {
            let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
            rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len())
        }
        _ => 1,
    };
    body.len().min(start + length)
}

fn is_too_large(token: &[u8]) -> bool {
    // A shorter one, such as 9e99, is below the limit.
    let is_long = token.len() > 4 && is_number(token);
    let number = || std::str::from_utf8(token).ok()?.parse::<f64>().ok();
    is_long && number().is_none_or(|number| number.abs() > NUMBER_MAX)
}

/// Returns whether a token is a number of JSON.
fn is_number(token: &[u8]) -> bool {
    fn digits(text: &[u8]) -> (&[u8], &[u8]) {
        text.split_at(text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len()))
    }
    let (whole, mut rest) = digits(token.strip_prefix(b"-").unwrap_or(token));
    if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        let (fraction, after) = digits(fraction);
        if fraction.is_empty() {
            return false;
        }
        rest = after;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let (exponent, after) =
            digits(exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent));
        return !exponent.is_empty() && after.is_empty();
    }
    rest.is_empty()
}

/// Replaces unpaired surrogates by U+FFFD. Returns `None` if there are none.
///
/// JavaScript writes a text that was cut within a character as an escaped half of it (`"\ud83d"`). That is valid
/// JSON, but not Unicode. One such text, in a prompt or in an error, must not hide the end of a job.
///
/// A regular expression with captures would take 0.2 s for 1 MiB of escapes, on a thread of the runtime.
pub(super) fn replace_unpaired_surrogates(body: &[u8]) -> Option<Vec<u8>> {
    let unit = |at: usize| {
        let digits = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
        // To read each of a hundred thousand other escapes would take as long as to parse them.
        if !matches!(digits[0], b'd' | b'D') {
            return None;
        }
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let is_high = |unit: Option<u16>| matches!(unit, Some(0xD800..=0xDBFF));
    let is_low = |unit: Option<u16>| matches!(unit, Some(0xDC00..=0xDFFF));
    let (mut kept, mut at) = (None, 0);
    while let Some(found) = body.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        at += found;
        let first = unit(at);
        if is_high(first) && is_low(unit(at + 6)) {
            at += 12;
        } else if is_high(first) || is_low(first) {
            kept.get_or_insert_with(|| Kept::of(body)).replace(at..at + 6, b"\\ufffd");
            at += 6;
        } else {
            // A backslash and the character that it escapes. The second of two backslashes starts no escape.
            at += 2;
        }
    }
    kept.map(Kept::end)
}
