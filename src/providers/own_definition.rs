//! Definitions of apps.
//!
//! An app writes such a definition, so everything about it is treated as given by a client:
//!
//! - Each address is guarded like a callback, and no redirect is followed, whatever the definition says.
//! - An answer has at most [`ANSWER_MAX`], and a request takes at most [`TIMEOUT_MAX`].
//! - The parts that cost time for each answer are limited in number, besides the size of the text ([`TEXT_MAX`]):
//!   patterns, rules and examples. A pattern is small, before and after it is compiled, and is searched in some KiB
//!   of an answer. What all rules and paths visit in an answer is counted ([`work`]). A text, and each answer, is read on
//!   a thread that serves no request and no other poll.
//! - Its patterns together have a size, too ([`COMPILED`]), because definitions are kept in memory.

use std::time::Duration;

use regex::{RegexBuilder, RegexSetBuilder};
use toml::de::{DeTable, DeValue};

use super::compile::Mistake;
use super::definition::{Definition, Meaning};
use super::request::Request;
use super::work;

/// Largest text of a definition of an app, in bytes: several times the longest that is built in.
pub const TEXT_MAX: usize = 64 * 1024;

/// Largest answer that is read, in bytes.
const ANSWER_MAX: usize = 1024 * 1024;

/// Longest time of a request.
const TIMEOUT_MAX: Duration = Duration::from_secs(20);

/// Largest compiled pattern of a parameter, in bytes, which is matched at a registration: `[A-Za-z0-9_-]{1,1024}` fits.
const PATTERN_MAX: usize = 256 * 1024;

/// Largest compiled pattern that is searched in answers, in bytes. The time of a search grows with it.
const SEARCH_MAX: usize = 64 * 1024;

/// Largest text of a pattern, and of all patterns together, in bytes. A class of characters such as `\w` takes some KiB
/// while a pattern is read, also in a part that is repeated zero times.
const PATTERN_TEXT: usize = 500;
const PATTERNS_TOTAL: usize = 4_000;

/// Sizes of all patterns of a definition when they are compiled, in KiB: the smallest one in which they fit counts.
const COMPILED: [u32; 5] = [16, 64, 256, 512, 1_024];

/// Number of copies of compiled patterns that exist, with what a search keeps in memory.
const COPIES: u32 = 4;

/// Memory of a definition without its patterns, values and texts, in KiB.
const BARE_KIB: u32 = 64;

/// Memory of a value of the file, in bytes: a path, or a word of the status, with its name.
const VALUE: usize = 256;

/// Number of copies of the text that exist in parts.
const TEXT_COPIES: usize = 2;

/// Largest number of bytes of an answer in which one condition searches its pattern: some hundred statuses.
const SEARCHED: usize = 4 * 1024;

/// Largest compiled pattern that finds a part of a text, in bytes. To find a group takes a multiple of a plain search.
const PART_MAX: usize = 16 * 1024;

/// Number of bytes of one answer in which all `match` together search.
const PARTS_SEARCHED: usize = 8 * 1024;

/// Largest number of fields with parts of the credential. Each is searched in every answer.
const AUTH_FIELDS: usize = 32;

/// Largest number of patterns, rules, examples, and of what visits a whole answer once more.
const PARTS: [(&[&str], usize, &str); 4] = [
    (&["pattern", "matches", "match"], 40, "patterns"),
    (&["rule"], 40, "rules"),
    (&["example"], 100, "examples"),
    (&["sum", "same_as"], 40, "paths in `sum` and `same_as`"),
];

impl Definition {
    /// Parses a definition of an app, and runs its examples. It can take some milliseconds. The error lists every
    /// mistake.
    pub fn parse_own(text: &str) -> Result<Self, Vec<Mistake>> {
        Self::parse_within_limits(text, Self::parse)
    }

    /// Parses a definition of an app that was stored. Its examples were run before.
    pub fn parse_own_stored(text: &str) -> Result<Self, Vec<Mistake>> {
        Self::parse_within_limits(text, Self::parse_stored)
    }

    fn parse_within_limits(
        text: &str,
        parse: fn(&str) -> Result<Self, Vec<Mistake>>,
    ) -> Result<Self, Vec<Mistake>> {
        let (mut mistakes, kib) = too_many(text);
        if mistakes.is_empty() {
            let parsed = work::limited_examples(|| parse(text));
            match parsed.unwrap_or_else(|| Err(vec![costly_examples()])) {
                Ok(mut definition) => {
                    limit_searches(&mut definition.meaning);
                    if let Some(cancel) = &mut definition.cancel {
                        limit_searches(&mut cancel.meaning);
                        cancel.rules.iter_mut().for_each(|rule| rule.when.limit_searches(SEARCHED));
                    }
                    return Ok(Self { own_kib: Some(kib), ..definition });
                }
                Err(found) => mistakes = found,
            }
        }
        Err(mistakes)
    }

    /// Returns whether it is a definition of an app.
    pub fn is_of_app(&self) -> bool {
        self.own_kib.is_some()
    }

    /// Returns the memory that it takes while an app uses it, in KiB.
    pub fn own_kib(&self) -> u32 {
        BARE_KIB + self.own_kib.unwrap_or_default()
    }

    /// Reads an answer: for a definition of an app, with limited work. `failed` makes a meaning of an error.
    pub(super) fn read_limited<T>(&self, failed: impl FnOnce(String) -> T, read: impl FnOnce() -> T) -> T {
        if !self.is_of_app() {
            return read();
        }
        work::limited(read).unwrap_or_else(|| {
            failed(
                "the answer takes too much work for a definition of an app: use fewer rules, paths and `in` words about \
                 large lists"
                    .to_owned(),
            )
        })
    }

    /// Applies the limits of definitions of apps to a request.
    pub(super) fn limit_own(&self, request: &mut Request) {
        if self.is_of_app() {
            request.is_from_client = true;
            request.max_redirects = 0;
            request.max_body = request.max_body.min(ANSWER_MAX);
            request.timeout = request.timeout.min(TIMEOUT_MAX);
        }
    }
}

/// The mistake of a definition whose examples take too much work.
fn costly_examples() -> Mistake {
    let text = "the examples take too much work for a definition of an app: use fewer rules about large lists, and \
                smaller bodies";
    Mistake { line: 1, column: 1, text: text.to_owned() }
}

/// Limits what the patterns of all rules search.
fn limit_searches(meaning: &mut Meaning) {
    meaning.searched = PARTS_SEARCHED;
    meaning.rules.iter_mut().for_each(|rule| rule.when.limit_searches(SEARCHED));
    meaning.followers.iter_mut().for_each(|follower| follower.conditions.limit_searches(SEARCHED));
    meaning.results.iter_mut().for_each(|result| limit_searches(&mut result.meaning));
}

/// Returns a mistake for each limit that the definition exceeds, and the memory of its patterns, values and texts in KiB.
/// Nothing large is compiled before.
fn too_many(text: &str) -> (Vec<Mistake>, u32) {
    let (parsed, _) = DeTable::parse_recoverable(text);
    let mut parts = Parts::default();
    parts.count(parsed.get_ref());
    let mistake = |text: String| Mistake { line: 1, column: 1, text };
    let found = PARTS.iter().zip(parts.counts).filter(|((_, most, _), count)| count > most);
    let mut mistakes: Vec<Mistake> = found
        .map(|((_, most, what), count)| {
            mistake(format!("the definition has {count} {what}; a definition of an app has at most {most}"))
        })
        .collect();
    let auth = parsed.get_ref().get("auth").and_then(|auth| auth.get_ref().as_table());
    for (key, value) in auth.into_iter().flatten() {
        let fields = leaves(value.get_ref());
        if fields > AUTH_FIELDS {
            mistakes.push(mistake(format!(
                "auth.{} has {fields} fields; that of a definition of an app has at most {AUTH_FIELDS}",
                key.get_ref()
            )));
        }
    }
    let total: usize = parts.patterns.iter().map(|(_, pattern, _)| pattern.len()).sum();
    if total > PATTERNS_TOTAL {
        mistakes.push(mistake(format!(
            "the patterns have {total} bytes; those of a definition of an app have at most {PATTERNS_TOTAL}"
        )));
    }
    if !mistakes.is_empty() {
        return (mistakes, 0);
    }
    let at = |at: usize, text: &str, why: &str| {
        let before = &text[..at.min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let (line, column) = (1 + before.matches('\n').count(), 1 + before[line_start..].chars().count());
        Mistake { line, column, text: why.to_owned() }
    };
    let costly = parts
        .patterns
        .iter()
        .filter_map(|(place, pattern, most)| Some((*place, too_costly(pattern, *most)?)));
    let mut mistakes: Vec<Mistake> = costly.map(|(place, why)| at(place, text, why)).collect();
    let compiled = compiled_kib(&parts.patterns);
    if mistakes.is_empty() && compiled.is_none() {
        let most = COMPILED[COMPILED.len() - 1];
        mistakes.push(mistake(format!(
            "the patterns take more than {most} KiB when they are compiled; repeat less in them"
        )));
    }
    let values = (parts.values * VALUE + TEXT_COPIES * text.len()).div_ceil(1024);
    (mistakes, COPIES * compiled.unwrap_or_default() + u32::try_from(values).unwrap_or(u32::MAX / 2))
}

/// Returns the number of values in a table, with those in its tables and lists.
fn leaves(value: &DeValue<'_>) -> usize {
    if let DeValue::Table(table) = value {
        table.iter().map(|(_, value)| leaves(value.get_ref())).sum()
    } else if let DeValue::Array(items) = value {
        items.iter().map(|item| leaves(item.get_ref())).sum()
    } else {
        1
    }
}

/// Returns the size of all patterns in KiB, one of [`COMPILED`]. What else can be wrong with them is found later.
fn compiled_kib(patterns: &[(usize, String, usize)]) -> Option<u32> {
    let fits = |kib: &u32| {
        let all = patterns.iter().map(|(_, pattern, _)| pattern);
        let built = RegexSetBuilder::new(all).size_limit(*kib as usize * 1024).build();
        !matches!(built, Err(regex::Error::CompiledTooBig(_)))
    };
    COMPILED.into_iter().find(fits)
}

/// Returns why a pattern of an app is refused, if it is. It has at most `most` bytes when it is compiled. What else can be wrong with it is found later.
fn too_costly(pattern: &str, most: usize) -> Option<&'static str> {
    if pattern.len() > PATTERN_TEXT {
        return Some("the pattern has more than 500 bytes");
    }
    // To fold the case of a large class of characters takes up to 50 ms.
    let mut escapes =
        pattern.match_indices('\\').filter_map(|(place, _)| pattern[place + 1..].chars().next());
    let is_large = !pattern.is_ascii() || pattern.contains("[^") || escapes.any(|c| "xuUpPwWDS".contains(c));
    if is_large && ignores_case(pattern) {
        return Some(
            "a pattern with (?i) has only small classes in a definition of an app, such as [a-z] and \\d",
        );
    }
    let compiled = RegexBuilder::new(pattern).size_limit(most).build();
    matches!(compiled, Err(regex::Error::CompiledTooBig(_)))
        .then_some("the pattern is too large for a definition of an app; repeat less in it, and write [A-Za-z0-9_] for \\w")
}

/// Returns whether a group of flags makes a part of a pattern ignore the case.
fn ignores_case(pattern: &str) -> bool {
    let groups = pattern.match_indices("(?").map(|(place, start)| &pattern[place + start.len()..]);
    groups.into_iter().any(|flags| {
        flags.chars().take_while(|c| c.is_ascii_alphabetic() || *c == '-').any(|flag| flag == 'i')
    })
}

/// Parts of a text that are limited.
#[derive(Default)]
struct Parts {
    counts: [usize; PARTS.len()],
    /// Number of values.
    values: usize,
    /// The patterns, with their places in the text and their largest sizes.
    patterns: Vec<(usize, String, usize)>,
}

impl Parts {
    fn count(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let (name, place) = (key.get_ref().as_ref(), value.span().start);
            let size = value.get_ref().as_array().map_or(1, |items| items.len());
            for (n, (names, ..)) in PARTS.iter().enumerate() {
                if names.contains(&name) {
                    self.counts[n] += size;
                }
            }
            if let DeValue::String(text) = value.get_ref()
                && PARTS[0].0.contains(&name)
                && self.patterns.len() <= PARTS[0].1
            {
                let most = match name {
                    "match" => PART_MAX,
                    "matches" => SEARCH_MAX,
                    _ => PATTERN_MAX,
                };
                self.patterns.push((place, text.to_string(), most));
            }
            self.count_value(value.get_ref());
        }
    }

    fn count_value(&mut self, value: &DeValue<'_>) {
        self.values += 1;
        if let DeValue::Table(table) = value {
            self.count(table);
        } else if let DeValue::Array(items) = value {
            items.iter().for_each(|item| self.count_value(item.get_ref()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::EMBEDDED;
    use super::*;

    /// A definition that uses most of schema 2.
    const RICH: &str = include_str!("tests/rich.toml");

    #[test]
    fn every_built_in_definition_could_be_an_apps() {
        for (file, text) in EMBEDDED {
            assert!(text.len() <= TEXT_MAX, "{file}");
            assert_eq!(Definition::parse_own(text).map(drop), Ok(()), "{file}");
        }
    }

    #[test]
    fn requests_of_an_apps_definition_are_guarded_and_follow_no_redirect() {
        // The host is fixed, so that only the author has chosen it.
        let text = RICH.replace("https://{host}/", "https://api.rich.example/");
        let text = text.replace("*.rich.example", "api.rich.example");
        let text = text.replace("[params.host]\npattern = \"[a-z0-9-]+\\\\.rich\\\\.example\"\n", "");
        let text = text.replace("params = { host = \"eu.rich.example\" }\n", "");
        let definition = Definition::parse_own(&text).expect("a definition");
        let operators = Definition::parse(&text).expect("a definition");
        assert!(definition.is_of_app() && !operators.is_of_app());
        let key = || Some(super::super::tests::key(r#"{"key_id": "id", "secret": "hush-0123"}"#));
        let request = |one: &Definition| one.request("a1", "{}", None, key()).expect("a request");
        let (own, other) = (request(&definition), request(&operators));
        assert_eq!((own.is_from_client, own.max_redirects, own.max_body), (true, 0, ANSWER_MAX));
        assert!(own.timeout <= TIMEOUT_MAX);
        assert_eq!((other.is_from_client, other.max_redirects, other.max_body), (false, 3, 4 * ANSWER_MAX));
    }

    /// A definition of which each rule compares each item of a list with many numbers.
    fn with_costly_rules() -> String {
        let numbers = (1..=100).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let any = vec![format!("{{ path = \"$.list[*]\", in = [{numbers}] }}"); 7].join(",");
        let rule = format!("[[rule]]\nany = [{any}]\nanswer = \"error\"\n");
        let at = RICH.find("[[rule]]").expect("a rule");
        format!("{}{}{}", &RICH[..at], rule.repeat(12), &RICH[at..])
    }

    #[test]
    fn an_answer_that_takes_too_much_work_is_an_error() {
        let text = with_costly_rules();
        let definition = Definition::parse_own(&text).expect("a definition");
        let interpret = |items: usize| {
            let body = format!("{{\"list\": [{}0]}}", "0,".repeat(items));
            let answer = super::super::Answer { status: 200, headers: &[], body: body.as_bytes() };
            definition.interpret("a1", answer)
        };
        let large = interpret(500_000);
        assert!(large.message().is_some_and(|message| message.contains("too much work")), "{large:?}");
        let small = interpret(10);
        assert!(!small.message().is_some_and(|message| message.contains("too much work")), "{small:?}");
    }

    /// A definition with these outputs, this authorization and this example.
    fn small(outputs: &str, auth: &str, body: &str) -> String {
        let example = |word: &str, status: &str, body: &str| {
            format!(
                "[[example]]\njob_id = \"a1\"\nbody = '{{\"s\": \"{word}\"{body}}}'\n\
                 expect = {{ answer = \"seen\", status = \"{status}\", raw_status = \"{word}\" }}\n"
            )
        };
        let examples = [
            example("run", "processing", body),
            example("ok", "completed", ""),
            example("bad", "failed", ""),
        ];
        format!(
            "schema = 2\nid = \"small\"\nname = \"Small\"\ndocs = \"https://small.example\"\n[params.job_id]\n\
             pattern = \"[a-z0-9]+\"\n{auth}\n[request]\nurl = \"https://api.small.example/{{job_id}}\"\n[status]\n\
             path = \"$.s\"\n[status.map]\nprocessing = [\"run\"]\ncompleted = [\"ok\"]\nfailed = [\"bad\"]\n[extract]\n\
             job_id = \"none\"\noutputs = {outputs}\n{}",
            examples.concat()
        )
    }

    #[test]
    fn outputs_and_examples_take_limited_work() {
        let many = vec!["\"$\""; 100].join(", ");
        let outputs =
            format!("{{ each = \"$.list[*]\", url = [{many}], type = [{many}], thumbnail = [{many}] }}");
        let long = format!(
            "{{ each = \"$.list[*]\", url = {{ template = \"https://h.example/{}/{{$}}\" }} }}",
            "a".repeat(9_000)
        );
        let (none, list) =
            ("[auth]\ntype = \"none\"", format!("{{\"s\": \"ok\", \"list\": [{}0]}}", "0,".repeat(200_000)));
        for outputs in [&outputs, &long] {
            let mut definition = Definition::parse(&small(outputs, none, "")).expect("a definition");
            definition.own_kib = Some(16);
            let answer = super::super::Answer { status: 200, headers: &[], body: list.as_bytes() };
            let meaning = definition.interpret("a1", answer);
            assert!(meaning.message().is_some_and(|text| text.contains("too much work")), "{meaning:?}");
        }
        let costly = small(&outputs, none, &format!(", \"list\": [{}0]", "0,".repeat(25_000)));
        let refused = Definition::parse_own(&costly).expect_err("too much");
        assert!(refused[0].to_string().contains("the examples take too much work"), "{refused:?}");
        let fields: String = (0..33).map(|n| format!("f{n} = \"{{f{n}}}\"\n")).collect::<Vec<_>>().concat();
        let auth =
            format!("[auth]\ntype = \"body\"\nsend_to = [\"api.small.example\"]\n[auth.body]\n{fields}");
        let refused = Definition::parse_own(&small(&outputs, &auth, "")).expect_err("too many");
        assert!(refused[0].to_string().contains("auth.body has 33 fields"), "{refused:?}");
    }

    #[test]
    fn examples_are_run_when_a_definition_is_stored_only() {
        let text = RICH.replacen("status = \"processing\", raw_status", "status = \"failed\", raw_status", 1);
        let refused = Definition::parse_own(&text).expect_err("a wrong example");
        assert!(refused[0].to_string().contains("example 1"), "{refused:?}");
        assert!(Definition::parse_own_stored(&text).is_ok());
        assert!(Definition::parse_own_stored(&text.replace("[status.map]", "[status.mop]")).is_err());
    }

    #[test]
    fn the_patterns_of_a_definition_have_a_size() {
        let pattern = (0, "[A-Za-z0-9_-]{1,1000}".to_owned(), PATTERN_MAX);
        let kib = |count| compiled_kib(&vec![pattern.clone(); count]);
        assert_eq!(kib(0), Some(COMPILED[0]));
        assert!(
            kib(1).zip(kib(3)).is_some_and(|(one, three)| COMPILED[0] < one && one <= three),
            "{:?}",
            kib(3)
        );
        assert_eq!(kib(40), None);
        let definition = Definition::parse_own(RICH).expect("a definition");
        assert!(definition.own_kib() >= BARE_KIB + COPIES * COMPILED[0]);
        let words = |count| {
            let words = (0..count).map(|n| format!(", \"w{n}\"")).collect::<Vec<_>>().concat();
            let text = RICH.replace("completed = [\"done\"", &format!("completed = [\"done\"{words}"));
            Definition::parse_own(&text).expect("a definition").own_kib() - definition.own_kib()
        };
        assert!((100..=125).contains(&words(400)) && words(4_000) >= 1_000, "{}", words(400));
        let param = |n| format!("[params.p{n}]\npattern = \"[A-Za-z0-9_-]{{1,1000}}\"\n");
        let params: String = (0..30).map(param).collect();
        let refused = Definition::parse_own(&format!("{params}{RICH}")).expect_err("too large");
        assert!(refused[0].to_string().contains("when they are compiled"), "{refused:?}");
    }

    #[test]
    fn a_hostile_definition_is_refused() {
        let head = &RICH[..RICH.find("[[rule]]").unwrap_or(RICH.len())];
        let rules =
            "[[rule]]\nall = [{ path = \"$.a\", matches = \"(\\\\w{90}){90}\" }]\nanswer = \"error\"\n";
        let param = |n| format!("[params.p{n}]\npattern = \"(\\\\w{{200}}){{200}}\"\n");
        let params: String = (0..39).map(param).collect();
        let texts = [
            format!("{head}{}", rules.repeat(1_000)),
            format!("{head}{}", rules.repeat(39)),
            format!("{params}{head}"),
            format!("[params.a]\npattern = '(?i:{}){{0}}a'\n{head}", "[\\x{0}-\\x{10FFFF}]".repeat(20)),
            format!("[params.a]\npattern = '(?:{}){{0}}a'\n{head}", "\\w".repeat(1_000)),
            format!("{head}{}", rules.replace("(\\\\w{90}){90}", "x[xy]{9000}[ab]")),
            "[[example]]\n".repeat(5_000),
            format!("a = {}{}", "[".repeat(20_000), "]".repeat(20_000)),
            "a.".repeat(30_000) + "a = 1",
        ];
        for text in texts {
            let text = &text[..text.len().min(TEXT_MAX)];
            assert!(Definition::parse_own(text).is_err(), "{}", &text[..80.min(text.len())]);
        }
    }
}
