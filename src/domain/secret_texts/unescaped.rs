//! A text whose escapes are replaced by what they stand for, with the places in the text itself.
//!
//! URLs, JSON, HTML and source code can each write any character in another way, and programs differ in which characters
//! they write so (`\u0026`, `\/`, `%2B`, `%2b`, `&amp;`, `&#43;`, `&#x2b;`, `\x2b`). All of these escapes are read, instead of listing the
//! spellings of a text.

use std::ops::Range;

/// Largest number of digits of a reference of HTML by number.
const DIGITS_MAX: usize = 8;

/// Longest name of a reference of HTML.
const NAME_MAX: usize = 6;

/// Names of HTML for characters of ASCII, with the character.
const NAMES: &[(&[u8], u8)] = &[
    (b"amp", b'&'),
    (b"ast", b'*'),
    (b"apos", b'\''),
    (b"bsol", b'\\'),
    (b"colon", b':'),
    (b"comma", b','),
    (b"commat", b'@'),
    (b"dollar", b'$'),
    (b"equals", b'='),
    (b"excl", b'!'),
    (b"grave", b'`'),
    (b"gt", b'>'),
    (b"Hat", b'^'),
    (b"lbrace", b'{'),
    (b"lbrack", b'['),
    (b"lcub", b'{'),
    (b"lowbar", b'_'),
    (b"lpar", b'('),
    (b"lsqb", b'['),
    (b"lt", b'<'),
    (b"num", b'#'),
    (b"percnt", b'%'),
    (b"period", b'.'),
    (b"plus", b'+'),
    (b"quest", b'?'),
    (b"quot", b'"'),
    (b"rbrace", b'}'),
    (b"rbrack", b']'),
    (b"rcub", b'}'),
    (b"rpar", b')'),
    (b"rsqb", b']'),
    (b"semi", b';'),
    (b"sol", b'/'),
    (b"verbar", b'|'),
    (b"vert", b'|'),
];

/// A text without its escapes.
pub(super) struct Unescaped {
    /// The text. Escaped bytes need not be UTF-8.
    pub(super) text: Vec<u8>,
    /// Places after escapes, in this text and in the one with escapes: between two of them, both texts are equal.
    places: Vec<(u32, u32)>,
}

impl Unescaped {
    /// Returns a text without its escapes; `None` if it has none. Escapes that result from this are kept.
    pub(super) fn of(escaped: &[u8]) -> Option<Self> {
        // Larger texts do not occur: an answer has at most 16 MiB.
        u32::try_from(escaped.len()).ok()?;
        let (mut text, mut places) = (Vec::new(), Vec::new());
        let (mut copied, mut at) = (0, 0);
        while let Some(found) = escaped[at..].iter().position(|byte| matches!(byte, b'\\' | b'%' | b'&')) {
            let start = at + found;
            let Some((decoded, length)) = read_escape(&escaped[start..]) else {
                at = start + 1;
                continue;
            };
            if places.is_empty() {
                text.reserve_exact(escaped.len());
            }
            text.extend_from_slice(&escaped[copied..start]);
            match decoded {
                Decoded::Byte(byte) => text.push(byte),
                Decoded::Character(c) => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
            (copied, at) = (start + length, start + length);
            places.push((place(text.len()), place(at)));
        }
        if places.is_empty() {
            return None;
        }
        text.extend_from_slice(&escaped[copied..]);
        Some(Self { text, places })
    }

    /// Returns a range of this text in the one with escapes.
    pub(super) fn original(&self, range: Range<usize>) -> Range<usize> {
        let original = |at: usize| {
            let after = self.places.partition_point(|(here, _)| *here as usize <= at);
            let (here, there) = after.checked_sub(1).map_or((0, 0), |before| self.places[before]);
            there as usize + (at - here as usize)
        };
        original(range.start)..original(range.end)
    }
}

/// Returns a place, which fits: an escape is longer than what it stands for.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// What an escape stands for.
enum Decoded {
    Byte(u8),
    Character(char),
}

/// Reads the escape with which a text begins. Returns what it stands for, and its length.
fn read_escape(text: &[u8]) -> Option<(Decoded, usize)> {
    match text[0] {
        b'%' => Some((Decoded::Byte(u8::try_from(hex(text.get(1..3)?)?).ok()?), 3)),
        b'&' => read_reference(text),
        _ => read_backslash(text),
    }
}

/// Reads an escape of JSON, or of the string of a programming language.
fn read_backslash(text: &[u8]) -> Option<(Decoded, usize)> {
    let unit = |at: usize| u16::try_from(hex(text.get(at..at + 4)?)?).ok();
    let byte = match text.get(1)? {
        b'u' => {
            let first = unit(2)?;
            let second = text.get(6..8).filter(|next| *next == b"\\u").and_then(|_| unit(8));
            let units = [Some(first), second.filter(|_| (0xd800..0xdc00).contains(&first))];
            let read = char::decode_utf16(units.into_iter().flatten()).next()?;
            let (character, units) = match read {
                Ok(character) => (character, character.len_utf16()),
                Err(_) => (char::REPLACEMENT_CHARACTER, 1),
            };
            return Some((Decoded::Character(character), 6 * units));
        }
        b'x' => {
            // Above, languages differ in whether it is a byte or a character.
            let byte = u8::try_from(hex(text.get(2..4)?)?).ok().filter(u8::is_ascii)?;
            return Some((Decoded::Byte(byte), 4));
        }
        byte @ (b'"' | b'\'' | b'\\' | b'/') => *byte,
        b'b' => 0x8,
        b'f' => 0xc,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    };
    Some((Decoded::Byte(byte), 2))
}

/// Reads a reference of HTML to a character, by its name or its number.
fn read_reference(text: &[u8]) -> Option<(Decoded, usize)> {
    let most = text.len().min(1 + "#x".len() + DIGITS_MAX + 1);
    let end = text[..most].iter().position(|byte| *byte == b';')?;
    let name = &text[1..end];
    let Some(number) = name.strip_prefix(b"#") else {
        let named = NAMES.iter().filter(|_| name.len() <= NAME_MAX).find(|(known, _)| *known == name);
        return named.map(|(_, byte)| (Decoded::Byte(*byte), end + 1));
    };
    let code = match number.strip_prefix(b"x").or_else(|| number.strip_prefix(b"X")) {
        Some(digits) => hex(digits)?,
        None if number.iter().all(u8::is_ascii_digit) => std::str::from_utf8(number).ok()?.parse().ok()?,
        None => return None,
    };
    Some((Decoded::Character(char::from_u32(code)?), end + 1))
}

/// Reads a number of hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u32> {
    let are_digits = digits.iter().all(u8::is_ascii_hexdigit);
    u32::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| are_digits)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_escape_is_read_once() {
        for (escaped, expected) in [
            (r#"\u0041\/\"\\\n\'"#, "A/\"\\\n'"),
            (r"\ud83d\ude00 \ud83d", "😀 \u{fffd}"),
            (r"\x41\x2b", "A+"),
            ("%41%2b%C3%9c%2525", "A+Ü%25"),
            ("&amp;&#43;&#x2b;&#X2B;&#x0000002b;&sol;&quot;&apos;", "&++++/\"'"),
            (r"a%5c/b&amp;amp;", r"a\/b&amp;"),
        ] {
            let read = Unescaped::of(escaped.as_bytes()).expect("escapes");
            assert_eq!(String::from_utf8_lossy(&read.text), expected, "{escaped}");
        }
        let none = [
            "", "%", "%4", "%zz", "%+1", "&", "&;", "&#;", "&#x;", "&#xd800;", "&none;", "& amp", r"\", r"\q",
        ];
        for text in none.into_iter().chain([r"\u00", r"\u+041", r"\xff", r"\x4", "100 % & more;", "&#+43;x"])
        {
            assert!(Unescaped::of(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn a_range_is_found_in_the_text_with_escapes() {
        let escaped = r"-%41\u00dc&lt;B-";
        let read = Unescaped::of(escaped.as_bytes()).expect("escapes");
        let text = String::from_utf8(read.text.clone()).expect("UTF-8");
        for (part, expected) in [
            ("A", "%41"),
            ("Ü", r"\u00dc"),
            ("AÜ<B", r"%41\u00dc&lt;B"),
            ("<", "&lt;"),
            ("-", "-"),
            ("B-", "B-"),
        ] {
            let start = text.find(part).expect("there");
            assert_eq!(&escaped[read.original(start..start + part.len())], expected, "{part}");
        }
    }
}
