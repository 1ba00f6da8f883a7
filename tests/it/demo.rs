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
}
