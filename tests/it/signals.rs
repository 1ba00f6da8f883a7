//! Signals to the real program.
//!
//! Once: the database is not involved.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

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

/// Starts a process with this stdout, waits until it is ready, and stops it.
async fn starts_and_stops(stdout: Stdio) {
    let ground = Ground::new().await;
    let mut child = ground.start_into(stdout);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("ready") {
                return;
            }
        }
        panic!("the start was refused");
    };
    guarded("the start", ready).await;
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let status = guarded("the stop", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_pipe_that_is_not_read_neither_stops_nor_holds_serve() {
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // The capacity of a pipe.
    writer.write_all(&b"x".repeat(65_536)).unwrap();
    starts_and_stops(writer.into()).await;
}

#[tokio::test]
async fn a_full_disk_below_stdout_does_not_stop_serve() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    starts_and_stops(full.into()).await;
}

/// Starts a command with nothing but its arguments, and returns the address in its first line. `stdout` keeps the pipe
/// open, which is not read further.
async fn announced(line: &[&str]) -> (tokio::process::Child, SocketAddr, impl Sized) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ringback"));
    command.args(line).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut stdout = BufReader::with_capacity(64, child.stdout.take().unwrap()).lines();
    let first = guarded("the first line", stdout.next_line()).await.unwrap().expect("a line");
    let address = first.split_once("http://").expect("a URL").1.split(['/', '.', ' ']).collect::<Vec<_>>();
    let port = address.iter().find_map(|part| part.split_once(':')).expect("a port").1;
    (child, SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap())), stdout)
}

#[tokio::test]
async fn listen_answers_and_ends_while_its_stdout_is_not_read() {
    let (mut child, address, _stdout) = announced(&["listen", "--port", "0"]).await;
    // More than a pipe and the queue of the printer hold.
    let bytes = wire::request("POST", "/hook", &[], &[b'x'; 4096]);
    for n in 0..400 {
        let answer = guarded("an answer", wire::exchange(address, &bytes)).await.expect("an answer");
        assert_eq!(answer.status, 204, "{n}");
    }
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(guarded("the end", child.wait()).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_full_pipe_below_sim_neither_stops_nor_holds_it() {
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // The capacity of a pipe.
    writer.write_all(&b"x".repeat(65_536)).unwrap();
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ringback"));
    command.args(["sim", "--port", &free.port().to_string()]).env_clear().stdin(Stdio::null());
    let mut child = command.stdout(writer).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let answered =
        async { while wire::exchange(free, &wire::request("GET", "/", &[], b"")).await.is_none() {} };
    guarded("an answer", answered).await;
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert_eq!(guarded("the end", child.wait()).await.unwrap().code(), Some(0));
}

/// A service whose database does not answer, with its address.
async fn starting() -> (Ground, tokio::net::TcpListener, Process, SocketAddr) {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let database = format!("postgres://me@127.0.0.1:{port}/x?connect_timeout=30&sslmode=disable");
    let ground = Ground::on(database).await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let process = ground.start_at(free);
    // The process has bound its own port before.
    let connection = guarded("a connection to the database", silent.accept()).await.unwrap();
    std::mem::forget(connection);
    (ground, silent, process, free)
}

#[tokio::test]
async fn a_service_that_still_starts_answers_and_can_be_stopped() {
    let (_ground, _silent, process, address) = starting().await;
    let send = async |method, path| {
        let bytes = wire::request(method, path, &[AUTH], b"");
        guarded(path, wire::exchange(address, &bytes)).await.expect("an answer")
    };
    assert_eq!(send("GET", "/healthz").await.expect(200), json!({ "status": "ok" }));
    for (method, path) in
        [("GET", "/readyz"), ("GET", "/v1/watches"), ("GET", "/metrics"), ("POST", "/healthz")]
    {
        let answer = send(method, path).await;
        assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
        assert!(answer.header("x-request-id").is_some(), "{path}");
        assert_eq!(answer.expect(503)["code"], "not_ready", "{path}");
    }
    process.terminate();
    let (status, said) = process.ended().await;
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_first_start_that_cannot_show_its_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let start = |key: Option<&str>| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ringback"));
        command.arg("serve").current_dir(folder.path()).env_clear().env("RINGBACK_LISTEN", "127.0.0.1:0");
        command.envs(key.map(|key| ("RINGBACK_API_KEY", key)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().unwrap()
    };
    for _ in 0..2 {
        // The refused start has stored no key, so the second one is refused as well.
        let refused = guarded("the end", start(None).wait_with_output()).await.unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("set RINGBACK_API_KEY"), "{said}");
    }
    let mut child = start(Some(crate::harness::KEY));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = async { while !lines.next_line().await.unwrap().expect("a line").contains("ready") {} };
    guarded("the start", ready).await;
    child.kill().await.unwrap();
}

#[tokio::test]
async fn a_first_start_into_a_full_pipe_says_so_and_heeds_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let (_reader, mut writer) = std::io::pipe().unwrap();
    // The capacity of a pipe.
    writer.write_all(&b"x".repeat(65_536)).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_ringback"));
    command.arg("serve").current_dir(folder.path()).env_clear().env("RINGBACK_LISTEN", "127.0.0.1:0");
    command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = async { while !lines.next_line().await.unwrap().expect("a line").contains("read stdout") {} };
    guarded("the line", said).await;
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let last = async {
        let mut last = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            last = line;
        }
        last
    };
    let last = guarded("the end", last).await;
    assert!(last.contains("will not be shown again") && last.contains("RINGBACK_API_KEY"), "{last}");
    assert_eq!(guarded("the end", child.wait()).await.unwrap().code(), Some(1));
}

#[tokio::test]
async fn a_connection_with_half_a_head_does_not_hold_a_stop() {
    let ground = Ground::new().await;
    let process = ground.start();
    let mut stream = TcpStream::connect(process.address().await).await.unwrap();
    stream.write_all(b"GET /hea").await.unwrap();
    // The server has accepted it before it answers a later one.
    crate::crash::get(process.address().await, "/v1/watches").await;
    process.terminate();
    let (status, _) = process.ended().await;
    assert_eq!(status.code(), Some(0));
    // It is not closed if the shutdown grace has passed.
    assert!(!ground.folder.path().join("ringback.db-wal").exists(), "the database was closed");
}
