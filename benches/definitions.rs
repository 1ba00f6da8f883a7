//! Cost of interpreting answers, as ratios within one run: `cargo bench --bench definitions`. The result is one JSON
//! object on stdout.
//!
//! - `answers_per_second`: answers of 2 KiB that one core interprets with a definition that uses most of the
//!   language. `ratio` is its time divided by that of parsing the same bytes with `serde_json` alone.
//! - `hostile_ms` and `hostile_mib`: time, and growth of the peak memory of the process, for the worst of several hostile
//!   answers of 1 MiB. The limits are 50 ms and 64 MiB. `hostile` has the time of each, with its beginning.
//!
//! The allocator is that of the program.
//!
//! `RINGBACK_BENCH_ROUNDS` sets the number of rounds; the median counts.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the machine's clock")]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at an error")]

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use ringback::providers::{Answer, Definition};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RICH: &str = include_str!("../src/providers/tests/rich.toml");
const ROUNDS: usize = 5;
/// Number of answers of a round.
const ANSWERS: u32 = 20_000;
const MIB: usize = 1024 * 1024;

fn main() {
    let rounds =
        std::env::var("RINGBACK_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS);
    let definition = Definition::parse(RICH).unwrap();
    let body = answer();
    let interpret = |body: &[u8]| {
        black_box(definition.interpret("a1", Answer { status: 200, headers: &[], body: black_box(body) }));
    };
    let own = median(rounds, || time(ANSWERS, || interpret(&body)));
    let plain = median(rounds, || {
        time(ANSWERS, || drop(black_box(serde_json::from_slice::<Value>(black_box(&body)).unwrap())))
    });
    let (mut worst_ms, mut worst_mib, mut each) = (0.0_f64, 0.0_f64, Vec::new());
    for body in hostile() {
        let before = reset_peak();
        let took = median(1, || time(1, || interpret(&body)));
        let mib = u32::try_from(peak_kib().saturating_sub(before) / 1024).unwrap_or(u32::MAX);
        worst_mib = worst_mib.max(f64::from(mib));
        let ms = took.as_secs_f64() * 1e3;
        worst_ms = worst_ms.max(ms);
        each.push(json!([String::from_utf8_lossy(&body[..body.len().min(40)]), ms]));
    }
    let result = json!({
        "answers_per_second": (f64::from(ANSWERS) / own.as_secs_f64()).round(),
        "ratio": own.as_secs_f64() / plain.as_secs_f64(),
        "hostile_ms": worst_ms,
        "hostile_mib": worst_mib,
        "hostile": each,
    });
    println!("{result}");
}

/// An answer of 2 KiB that describes a completed job.
fn answer() -> Vec<u8> {
    let prompt = "a lighthouse in the fog, seen from the sea, \"cinematic\" ".repeat(18);
    let file = |n: usize| json!({"url": format!("https://cdn.rich.example/outputs/a1/{n}.mp4"), "kind": "video", "state": "ok"});
    let files: Vec<Value> = (0..6).map(file).collect();
    let job = json!({
        "id": "a1", "status": "done", "progress": 100, "created": "2026-02-18 15:00:00", "finished": 1_771_426_800_000_u64,
        "input": {"prompt": prompt, "seed": 42, "size": [1280, 720]}, "files": files, "error": null,
        "metrics": {"predict_time": 12.5, "total_time": 20.25},
    });
    json!({"data": job, "code": 200, "message": "ok"}).to_string().into_bytes()
}

/// Hostile answers of about 1 MiB.
fn hostile() -> Vec<Vec<u8>> {
    let filled = |part: &str| [r#"{"data":{"files":["#, &part.repeat(MIB / part.len()), "null]}}"].concat();
    let mut bodies: Vec<String> = [
        "[],",
        "{},",
        r#"{"":0},"#,
        r#"{"url":"x"},"#,
        r#"{"a":{"b":{"c":0}}},"#,
        "0,",
        r#""","#,
        r#""\u0041","#,
        "1e999,",
        "NaN,",
        r#""\ud83d","#,
        "\"\u{1}\",",
        r#"{"state":"failed"},"#,
        r#"{"a":1,"a":2},"#,
    ]
    .map(filled)
    .to_vec();
    bodies.push("[".repeat(MIB));
    bodies.push(r#"{"a":"#.repeat(MIB / 5));
    bodies.push(format!("{}{}", "[".repeat(MIB / 2), "]".repeat(MIB / 2)));
    bodies.push(format!(r#"{{"detail":"{}"}}"#, "still in ".repeat(MIB / 9)));
    let members: Vec<String> = (0..MIB / 12).map(|n| format!(r#""k{n}":{n}"#)).collect();
    bodies.push(format!(r#"{{"data":{{{}}}}}"#, members.join(",")));
    bodies.push(format!(r#"{{"data":{{"id":"a1","status":"done","resultJson":{}}}}}"#, json!(filled("{},"))));
    bodies.into_iter().map(String::into_bytes).collect()
}

fn time(count: u32, mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..count).for_each(|_| run());
    start.elapsed()
}

fn median(rounds: usize, mut run: impl FnMut() -> Duration) -> Duration {
    let mut all: Vec<Duration> = (0..rounds.max(1)).map(|_| run()).collect();
    all.sort();
    all[all.len() / 2]
}

/// Sets the peak memory of the process to the present one, and returns it in KiB.
fn reset_peak() -> usize {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    peak_kib()
}

/// Returns the peak memory of the process in KiB.
fn peak_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
