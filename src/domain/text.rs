//! Texts that people and other programs hand over: the one place that deals with byte order marks, encodings, ends of
//! lines, and spaces around a value.
//!
//! - **Files** (configuration, definitions, templates) are read with [`file_text`]. Editors of Windows write a byte
//!   order mark and CR LF, and can save as UTF-16. The mark and the CR are meant as encoding and are removed; a
//!   file in another encoding is refused, with the remedy.
//! - **Files with one value** (secrets of Docker and Kubernetes) are read with [`file_value`]: like files, without the
//!   line breaks at the end, which editors and `echo` add, as `$(cat FILE)` of a shell removes them.
//! - **Bodies** (requests to the API) are read with [`decode`]: like files, but the lines stay as they are, because
//!   JSON defines them. Answers of providers, whose encoding the service cannot choose, are also accepted in
//!   UTF-16 ([`to_utf8`]).
//! - **Values** (environment variables, flags, values of the configuration file, ids of jobs, signing secrets) are
//!   single lines that a person has typed or pasted. [`check_value`] refuses what cannot be meant, such as the line
//!   break at the end of a key that was read from a file. The other side would refuse such a key as unauthorized, and
//!   name no cause.
//!
//! A text that a client stores, such as metadata, is not changed. A text that is shown in a single line is cleaned
//! where it is shown (`channels/template_context`).

use std::borrow::Cow;

const BOM: char = '\u{feff}';

/// Returns whether a character is invisible or changes how its neighbours are shown: control characters, marks of
/// writing direction, and characters without width.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}')
        || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | BOM)
}

/// Returns the first character that a name for people must not contain. The joiners are permitted between characters that
/// need them, in Persian words and in emoji; tags, fillers and noncharacters are never meant.
pub fn hidden_in_name(name: &str) -> Option<char> {
    let mut before = None;
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let is_joiner = matches!(c, '\u{200c}' | '\u{200d}');
        let joins = |c: char| !c.is_ascii() && !is_hidden(c);
        let is_needed = is_joiner && before.is_some_and(joins) && chars.peek().copied().is_some_and(joins);
        let is_nothing = matches!(
            c,
            '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
        ) || matches!(c, '\u{fdd0}'..='\u{fdef}' | '\u{e0000}'..='\u{e007f}')
            || u32::from(c) & 0xfffe == 0xfffe;
        if is_nothing || (is_hidden(c) && !is_needed) {
            return Some(c);
        }
        before = Some(c);
    }
    None
}

/// Maximum length of an invalid value that an error repeats, in characters.
const SHOWN_MAX: usize = 64;

/// Returns a value for an error that repeats it: its beginning, if it is long.
pub fn shown(value: &str) -> Cow<'_, str> {
    match value.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &value[..end]).into(),
        None => value.into(),
    }
}

/// Decodes UTF-8, without a byte order mark at its start. The error continues a sentence about the text.
pub fn decode(mut bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    if utf16(&bytes).is_some() {
        return Err("is UTF-16; save or send it as UTF-8".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.split(|byte| *byte == b'\n').count();
        format!("is not UTF-8, in line {line}; save or send it as UTF-8")
    })
}

/// Decodes the content of a file, with LF at the end of each line. The error continues a sentence about the file.
pub fn file_text(bytes: Vec<u8>) -> Result<String, String> {
    let text = decode(bytes)?;
    let text = if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text };
    let strange = text.char_indices().find(|(_, c)| matches!(*c, '\0' | BOM));
    if let Some((at, c)) = strange {
        let line = text[..at].matches('\n').count() + 1;
        return Err(format!("contains {} in line {line}; remove it", name(c)));
    }
    Ok(text)
}

/// Decodes the content of a file that holds one value, without the line breaks at its end. The error continues a
/// sentence about the file.
pub fn file_value(bytes: Vec<u8>) -> Result<String, String> {
    let mut text = file_text(bytes)?;
    text.truncate(text.trim_end_matches('\n').len());
    if text.is_empty() { Err("is empty; write the value into it".to_owned()) } else { Ok(text) }
}

/// Returns a text as UTF-8 bytes without a byte order mark, if it is UTF-16 or has a mark, and else unchanged.
pub fn to_utf8(bytes: &[u8]) -> Cow<'_, [u8]> {
    if let Some(rest) = bytes.strip_prefix(b"\xef\xbb\xbf") {
        return rest.into();
    }
    let Some((is_big, rest)) = utf16(bytes) else { return bytes.into() };
    let units = rest.chunks_exact(2).map(|pair| match pair {
        [high, low] if is_big => u16::from_be_bytes([*high, *low]),
        [low, high] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    });
    let text: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    text.into_bytes().into()
}

/// Returns whether a UTF-16 text is big-endian, and the text without its mark; `None` if the text is not UTF-16.
/// Without a mark, zero bytes beside the first two characters decide: JSON and configuration begin with ASCII. One zero
/// byte alone is a NUL character.
fn utf16(bytes: &[u8]) -> Option<(bool, &[u8])> {
    match bytes {
        [0xff, 0xfe, rest @ ..] => Some((false, rest)),
        [0xfe, 0xff, rest @ ..] => Some((true, rest)),
        [a, 0, b, 0, ..] if *a != 0 && *b != 0 => Some((false, bytes)),
        [0, a, 0, b, ..] if *a != 0 && *b != 0 => Some((true, bytes)),
        [a, 0] if *a != 0 => Some((false, bytes)),
        [0, a] if *a != 0 => Some((true, bytes)),
        _ => None,
    }
}

/// Checks a value that is a single line. The error continues a sentence about the value, and does not repeat it.
pub fn check_value(value: &str) -> Result<(), String> {
    let hidden = |c: char| is_hidden(c) || c == char::REPLACEMENT_CHARACTER;
    let Some((at, c)) = value.char_indices().find(|(_, c)| hidden(*c)) else {
        return if value.trim() == value {
            Ok(())
        } else {
            Err("begins or ends with a space; remove it".to_owned())
        };
    };
    let place = match (at, at + c.len_utf8() == value.len()) {
        (0, _) => "begins with",
        (_, true) => "ends with",
        (_, false) => "contains",
    };
    Err(format!("{place} {}; remove it", name(c)))
}

/// Checks a value of the configuration. `docker --env-file` and others pass quotes on as a part of the value.
pub fn check_setting(value: &str) -> Result<(), String> {
    check_value(value)?;
    let is_quoted = |quote: char| value.len() > 1 && value.starts_with(quote) && value.ends_with(quote);
    if is_quoted('"') || is_quoted('\'') {
        return Err("is in quotes, which would be a part of it; remove them".to_owned());
    }
    Ok(())
}

/// Returns the name of a character that cannot be shown.
fn name(c: char) -> String {
    match c {
        '\r' | '\n' => "a line break".to_owned(),
        '\t' => "a tab".to_owned(),
        '\0' => "a NUL character".to_owned(),
        BOM => "a byte order mark (U+FEFF)".to_owned(),
        char::REPLACEMENT_CHARACTER => "a character that is not UTF-8".to_owned(),
        c => format!("the invisible character U+{:04X}", u32::from(c)),
    }
}

/// Returns why a text is not a URL. The library calls a URL without a scheme relative.
pub fn url_error(text: &str, error: url::ParseError, schemes: &str) -> String {
    if error == url::ParseError::RelativeUrlWithoutBase {
        format!("it must begin with {schemes}")
    } else if has_cut_password(text) {
        CUT_PASSWORD.to_owned()
    } else {
        error.to_string()
    }
}

/// What to write instead of a URL for which [`has_cut_password`] holds.
pub const CUT_PASSWORD: &str = "its password seems to contain a character that ends the host: in a user name or \
                                password, write %23 for #, %2F for /, %3F for ? and %40 for @";

/// Returns whether a URL seems to have a password with a `/`, `?` or `#`. The parser ends the host at this character,
/// takes the user name for the host, and the start of the password for the port. None of these URLs has an @ after the
/// host.
pub fn has_cut_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let Some(end) = rest.find(['/', '?', '#']) else { return false };
    let (host, rest) = rest.split_at(end);
    host.contains(':') && rest.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16_bytes(text: &str, mark: bool, big: bool) -> Vec<u8> {
        let mark = mark.then_some(0xfeff);
        mark.into_iter()
            .chain(text.encode_utf16())
            .flat_map(|unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() })
            .collect()
    }

    #[test]
    fn a_name_may_join_characters_and_hides_nothing() {
        for name in ["می\u{200c}خواهم", "👨\u{200d}👩\u{200d}👧", "Clip 7", "葛\u{e0100}城", "❤\u{fe0f}"]
        {
            assert_eq!(hidden_in_name(name), None, "{name}");
        }
        for c in ['\u{200c}', '\u{e0001}', '\u{fffe}', '\u{202e}', '\u{3164}', '\0', '\u{200b}', '\n'] {
            assert_eq!(hidden_in_name(&format!("pay{c}pal")), Some(c));
        }
        assert_eq!(hidden_in_name("می\u{200c}"), Some('\u{200c}'));
    }

    #[test]
    fn a_long_value_is_repeated_in_part() {
        assert_eq!(shown("5 days"), "5 days");
        assert_eq!(shown(&"é".repeat(70)), format!("{}…", "é".repeat(64)));
    }

    #[test]
    fn a_password_that_ends_the_host_is_found() {
        for (url, is_cut) in [
            ("smtp://me:super#secret@host", true),
            ("http://me:super/secret@host:3128", true),
            ("smtp://me:1?secret@host", true),
            ("http://me:super%2Fsecret@host:3128/", false),
            ("http://host:3128/@me", true),
            ("http://host/@me", false),
            ("http://me:a@b/c@host", true),
            ("http://me:a@host/path", false),
            ("me:super/secret@host", false),
        ] {
            assert_eq!(has_cut_password(url), is_cut, "{url}");
        }
    }

    // Public report: neomutt/neomutt#4464.
    #[test]
    fn a_file_of_a_windows_editor_is_read_as_it_is_meant() {
        for (bytes, text) in [
            (&b"\xef\xbb\xbfa = 1\r\nb = 2\r\n"[..], "a = 1\nb = 2\n"),
            (b"a\rb", "a\nb"),
            (b"a\nb", "a\nb"),
            (b"\xef\xbb\xbf", ""),
            (b"", ""),
        ] {
            assert_eq!(file_text(bytes.to_vec()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_file_that_is_not_utf8_is_refused_with_the_remedy() {
        for (mark, big) in [(true, false), (true, true), (false, false), (false, true)] {
            let refused = file_text(utf16_bytes("log = 'warn'\n", mark, big));
            assert_eq!(refused.unwrap_err(), "is UTF-16; save or send it as UTF-8", "{mark} {big}");
        }
        for (bytes, error) in [
            (&b"a\nb\nc\xff"[..], "is not UTF-8, in line 3; save or send it as UTF-8"),
            (b"aaa\nb\0", "contains a NUL character in line 2; remove it"),
            (b"aaa\xef\xbb\xbf", "contains a byte order mark (U+FEFF) in line 1; remove it"),
            (b"\xef\xbb\xbf\xef\xbb\xbfa", "contains a byte order mark (U+FEFF) in line 1; remove it"),
        ] {
            assert_eq!(file_text(bytes.to_vec()).unwrap_err(), error);
        }
    }

    #[test]
    fn the_value_of_a_file_has_no_line_breaks_at_its_end() {
        for (bytes, value) in [
            (&b"hush"[..], "hush"),
            (b"hush\n", "hush"),
            (b"hush\r\n\r\n", "hush"),
            (b"\xef\xbb\xbfhush\n", "hush"),
            (b"hu\nsh\n", "hu\nsh"),
            (b"hush \n", "hush "),
        ] {
            assert_eq!(file_value(bytes.to_vec()).as_deref(), Ok(value));
        }
        for (bytes, error) in [
            (&b""[..], "is empty; write the value into it"),
            (b"\r\n\n", "is empty; write the value into it"),
            (b"hush\xff\n", "is not UTF-8, in line 1; save or send it as UTF-8"),
        ] {
            assert_eq!(file_value(bytes.to_vec()).unwrap_err(), error);
        }
    }

    #[test]
    fn a_nul_character_is_not_taken_for_utf16() {
        for text in ["a\0b", "a\0\0b", "\0ab"] {
            assert_eq!(
                file_text(text.into()).unwrap_err(),
                "contains a NUL character in line 1; remove it",
                "{text:?}"
            );
        }
    }

    #[test]
    fn an_answer_in_utf16_is_decoded() {
        let text = "{\"id\": \"\u{1f600}é\"}";
        for (mark, big) in [(true, false), (true, true), (false, false), (false, true)] {
            assert_eq!(to_utf8(&utf16_bytes(text, mark, big)), text.as_bytes(), "{mark} {big}");
        }
        assert_eq!(to_utf8(b"\xef\xbb\xbf{}"), &b"{}"[..]);
        for bytes in [&b"{}"[..], b"", b"\0\0", b"\xff", b"{\"a\": \"\0\"}"] {
            assert_eq!(to_utf8(bytes), bytes);
        }
    }

    #[test]
    fn a_value_is_one_visible_line_without_spaces_around_it() {
        for value in ["", "key", "a b", "Käse", "smtp://u:p%20@h", "\u{1f600}"] {
            assert_eq!(check_value(value), Ok(()), "{value}");
        }
        for (value, error) in [
            ("hush\n", "ends with a line break"),
            ("hush\r\n", "contains a line break"),
            ("\u{feff}hush", "begins with a byte order mark (U+FEFF)"),
            ("hu\0sh", "contains a NUL character"),
            ("hu\tsh", "contains a tab"),
            ("hu\u{200b}sh", "contains the invisible character U+200B"),
            ("hush\u{1b}", "ends with the invisible character U+001B"),
            ("hush\u{fffd}", "ends with a character that is not UTF-8"),
            (" hush", "begins or ends with a space"),
            ("hush\u{a0}", "begins or ends with a space"),
            (" ", "begins or ends with a space"),
        ] {
            assert_eq!(check_value(value), Err(format!("{error}; remove it")), "{value:?}");
        }
    }

    #[test]
    fn a_setting_is_not_in_quotes() {
        for value in ["key", "\"", "it's", "\"Ops, Inc\" <ops@example.com>"] {
            assert_eq!(check_setting(value), Ok(()), "{value}");
        }
        for value in ["\"key\"", "'key'", "\"\""] {
            let error = "is in quotes, which would be a part of it; remove them".to_owned();
            assert_eq!(check_setting(value), Err(error), "{value}");
        }
    }
}
