//! No definition and no answer causes a panic: seeded and bounded mutations. The measurements of time and memory are in
//! `benches/definitions.rs`.

use super::super::compile::compile;
use super::{Answer, Definition, EMBEDDED, Interpretation, embedded};
use crate::domain::Timestamp;

/// A definition that uses most of schema 2.
pub(super) const RICH: &str = include_str!("rich.toml");

/// A small generator of pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap() % limit.max(1)
    }

    /// Replaces, removes, repeats or inserts parts of a text.
    fn mutate(&mut self, bytes: &mut Vec<u8>, parts: &[&[u8]]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(12)).min(bytes.len());
            let part = parts[self.below(parts.len())];
            match self.below(4) {
                0 => drop(bytes.drain(at..end)),
                1 => drop(bytes.splice(at..end, part.iter().copied())),
                2 => drop(bytes.splice(at..at, part.iter().copied())),
                _ => {
                    let copied = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, copied));
                }
            }
        }
    }
}

const JSON_PARTS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\"",
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"true",
    b"\\ud83d",
    b"\\",
    b"\x00",
    b"\xff",
    b"\n",
    b"\"id\":1,",
    b"[[[[",
    b"\"status\":[]",
    b"0.1e-400",
    b"99999999999999999999",
    b"eyJ9",
];

const TOML_PARTS: &[&[u8]] = &[
    b"[",
    b"]",
    b"{",
    b"}",
    b"=",
    b"\"",
    b"'",
    b"\n",
    b"5",
    b"true",
    b"[[rule]]\n",
    b"$.a[*]",
    b"[{job_id}]",
    b"(?<x>",
    b"{x}",
    b"https://",
    b"999999999999999999999",
    b"-1",
    b"1979-05-27",
    b"inf",
    b"nan",
    b"\\u0000",
    b"*",
    b"\"\"\"",
    b"[[example]]\n",
];

#[test]
fn no_mutated_answer_causes_a_panic() {
    let rich = Definition::parse(RICH).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let mut random = Random(7);
    let statuses = [200, 202, 302, 400, 401, 404, 422, 429, 500];
    for definition in embedded().values().map(AsRef::as_ref).chain([&rich]) {
        for example in &definition.examples {
            for _ in 0..60 {
                let mut body = example.body.clone().into_bytes();
                random.mutate(&mut body, JSON_PARTS);
                let status = statuses[random.below(statuses.len())];
                let answer = Answer { status, headers: &example.headers, body: &body };
                let first = definition.interpret(&example.job_id, answer);
                assert_eq!(definition.interpret(&example.job_id, answer), first, "reading is pure");
                let Interpretation::Ok(before) = first else { continue };
                definition.interpret_result(&example.job_id, &before, answer);
                for next in &before.results {
                    let _ = definition.result_request(
                        next,
                        (&example.job_id, "{}"),
                        None,
                        Some(super::key("key")),
                    );
                }
            }
        }
    }
}

#[test]
fn no_mutated_definition_causes_a_panic() {
    let mut random = Random(11);
    let texts: Vec<&str> = EMBEDDED.iter().map(|(_, text)| *text).chain([RICH]).collect();
    for n in 0..400 {
        let mut bytes = texts[n % texts.len()].as_bytes().to_vec();
        random.mutate(&mut bytes, TOML_PARTS);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (definition, mistakes) = compile(&text);
        let lines = text.lines().count() + 1;
        assert!(
            mistakes
                .iter()
                .all(|mistake| (1..=lines).contains(&mistake.line) && !mistake.text.contains('\n'))
        );
        let Some(definition) = definition else { continue };
        let answer = Answer {
            status: 200,
            headers: &[],
            body: br#"{"id": "a1", "status": "done", "files": [1, {}]}"#,
        };
        if let Interpretation::Ok(before) = definition.interpret("a1", answer) {
            definition.interpret_result("a1", &before, answer);
        }
        let _ = definition.shown_results("a1", "{}", None, Timestamp::from_millis(0));
        let _ = definition.request("a1", "{}", None, Some(super::key("key")));
    }
}
