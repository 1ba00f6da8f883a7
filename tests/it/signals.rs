//! Signals to the real program.
//!
//! Once: the database is not involved.

use rustix::process::Signal;
use serde_json::json;

use crate::crash::{Ground, Process};
use crate::fakes::Reply;
use crate::harness::{AUTH, JSON, guarded};
use crate::wire;

/// Starts a process with an attempt in flight that the receiver does not answer.
async fn busy() -> (Ground, Process) {
    let ground = Ground::new().await;
    ground.provider.completed("job_1");
    ground.receiver.script("/hook", [Reply::stalled(200)]);
    let process = ground.start_with_sighup();
    let address = process.address().await;
    let body = json!({ "jobId": "job_1", "callbackUrl": ground.receiver.url("/hook") }).to_string();
    let bytes = wire::request("POST", "/v1/watches", &[AUTH, JSON], body.as_bytes());
    guarded("a registration", wire::exchange(address, &bytes)).await.expect("an answer").expect(201);
    ground.receiver.received(1).await;
    (ground, process)
}

// elastic/beats#10704
#[tokio::test]
async fn sighup_and_sigquit_stop_serve_as_sigterm_does() {
    for signal in [Signal::HUP, Signal::QUIT, Signal::INT] {
        let ground = Ground::new().await;
        let process = ground.start_with_sighup();
        let address = process.address().await;
        crate::crash::get(address, "/v1/watches").await;
        process.signal(signal);
        let (status, said) = process.ended().await;
        assert_eq!((status.code(), said.as_str()), (Some(0), ""), "{signal:?}");
        assert!(!ground.folder.path().join("ringback.db-wal").exists(), "the database was closed");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_wait_for_work_in_progress() {
    let (_ground, process) = busy().await;
    let address = process.address().await;
    process.signal(Signal::HUP);
    guarded("the stop", async { while tokio::net::TcpStream::connect(address).await.is_ok() {} }).await;
    // The kernel and the shell both send it when a terminal is closed.
    process.signal(Signal::HUP);
    process.signal(Signal::TERM);
    let (status, _) = process.ended().await;
    assert_eq!(status.code(), Some(0));
}
