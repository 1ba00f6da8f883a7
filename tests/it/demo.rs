//! `ringback demo`.

use std::time::Duration;

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a guard: the demo is a process on the machine's clock")]
async fn demo_receives_every_expected_webhook() {
    let mut demo = tokio::process::Command::new(env!("CARGO_BIN_EXE_ringback"));
    demo.arg("demo").kill_on_drop(true);
    let ran = tokio::time::timeout(Duration::from_secs(40), demo.output()).await;
    let output = ran.expect("it ends by itself").expect("it runs");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    for word in ["job.completed", "job.failed", "job.cancelled", "watch.expired", ": verified → 204"] {
        assert!(printed.contains(word), "{word}: {printed}");
    }
    assert!(!printed.contains("not verified"), "{printed}");
    // The page shows what is printed; the number of polls and the IDs differ from run to run.
    let first_words = |text: &str| {
        let table = text.lines().skip_while(|line| !line.starts_with("JOB ")).take(7);
        let words = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        table.map(words).collect::<Vec<_>>()
    };
    let shown = first_words(include_str!("../../README.md"));
    assert_eq!(shown.len(), 7, "{shown:?}");
    assert_eq!(shown, first_words(&printed));
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a guard: the demo is a process on the machine's clock")]
async fn a_demo_that_cannot_print_ends_without_a_second_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it opens");
    let mut demo = tokio::process::Command::new(env!("CARGO_BIN_EXE_ringback"));
    demo.arg("demo").stdout(full).stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let demo = demo.spawn().expect("it starts");
    let ran = tokio::time::timeout(Duration::from_secs(40), demo.wait_with_output()).await;
    let output = ran.expect("it ends by itself").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("stdout cannot be written"), "{said}");
    assert!(!said.contains("ERROR"), "{said}");
}
