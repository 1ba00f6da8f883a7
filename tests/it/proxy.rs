//! `[egress] proxy`: everything goes through it, and through nothing else.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Harness, minutes, seconds};
use crate::wire::{Answer, Request};

/// A forward proxy for plain http: it knows every name as loopback, and keeps what is meant for it.
#[derive(Clone)]
struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Whose method is this is not answered.
    hang_up_on: &'static str,
    asked: Vec<Request>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&proxy.state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(forward(stream, Arc::clone(&state)));
            }
        });
        proxy
    }

    fn hang_up_on(&self, method: &'static str) {
        self.state.lock().unwrap().hang_up_on = method;
    }

    /// What it was asked for since it was last looked at.
    fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

async fn forward(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = Request::read(&mut stream).await {
        let down = {
            let mut state = state.lock().unwrap();
            state.asked.push(request.clone());
            state.hang_up_on == request.method
        };
        let Some(answer) = (if down { None } else { relay(request).await }) else { return };
        let mut bytes = format!("HTTP/1.1 {} Relayed\r\n", answer.status).into_bytes();
        for (name, value) in &answer.headers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        bytes.extend(b"\r\n");
        bytes.extend(&answer.body);
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Asks the server itself, without what was for the proxy.
async fn relay(request: Request) -> Option<Answer> {
    let (authority, path) = request.path.strip_prefix("http://")?.split_once('/')?;
    let port: u16 = authority.rsplit(':').next()?.parse().ok()?;
    let mut bytes = format!("{} /{path} HTTP/1.1\r\n", request.method).into_bytes();
    for (name, value) in request.headers.iter().filter(|(name, _)| !name.starts_with("proxy-")) {
        bytes.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(&request.body);
    crate::wire::exchange(SocketAddr::from(([127, 0, 0, 1], port)), &bytes).await
}

async fn behind(proxy: &Proxy) -> Harness {
    let url = format!("http://me:hush@{}", proxy.address);
    Harness::with(&[
        ("RINGBACK_EGRESS__PROXY", &url),
        ("RINGBACK_EGRESS__ALLOW", "127.0.0.1, hooks.internal"),
    ])
    .await
}

#[tokio::test]
async fn looks_and_webhooks_go_through_the_proxy_which_resolves_and_alone_sees_its_password() {
    let proxy = Proxy::start().await;
    let h = behind(&proxy).await;
    h.provider.completed("job_1");
    // A name that only the proxy knows.
    let url = format!("http://hooks.internal:{}/hook", h.receiver.port());
    h.register(&json!({ "jobId": "job_1", "callbackUrl": url })).await;
    h.pass(minutes(1)).await;
    let hit = h.receiver.next().await;
    assert_eq!(hit.event(), "job.completed");
    assert!(hit.headers.iter().all(|(name, _)| !name.starts_with("proxy-")), "{hit:?}");
    let asked = proxy.asked();
    let paths: Vec<&str> = asked.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, [format!("{}/v1/jobs/job_1", h.provider.url()), url]);
    for request in &asked {
        assert_eq!(request.header("proxy-authorization"), Some("Basic bWU6aHVzaA=="), "me:hush");
    }
    h.finish().await;
}

#[tokio::test]
async fn a_proxy_that_hangs_up_is_an_attempt_with_an_error_and_tried_again() {
    let proxy = Proxy::start().await;
    let h = behind(&proxy).await;
    h.provider.completed("job_1");
    proxy.hang_up_on("POST");
    let watch = h.watch("job_1").await;
    h.pass(seconds(10)).await;
    let delivery = h.delivery(&watch).await;
    assert_eq!(delivery["status"], "pending", "{delivery}");
    let attempt = &delivery["attempts"][0];
    assert!(attempt["statusCode"].is_null() && attempt["error"].is_string(), "{attempt}");
    proxy.hang_up_on("");
    h.pass(minutes(10)).await;
    assert_eq!(h.receiver.next().await.event(), "job.completed");
    assert_eq!(h.delivery(&watch).await["status"], "succeeded");
    h.finish().await;
}
