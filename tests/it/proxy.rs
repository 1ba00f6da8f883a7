//! `[egress] proxy`: all HTTP exchanges use the proxy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Harness, minutes, seconds};
use crate::wire::{Answer, Request};

/// A forward proxy for plain http. It resolves every name to loopback and removes the headers for itself.
#[derive(Clone)]
struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Method of the requests that get no response.
    drop_method: &'static str,
    requests: Vec<Request>,
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

    fn drop_method(&self, method: &'static str) {
        self.state.lock().unwrap().drop_method = method;
    }

    /// Returns the requests since the last call.
    fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

async fn forward(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = Request::read(&mut stream).await {
        let down = {
            let mut state = state.lock().unwrap();
            state.requests.push(request.clone());
            state.drop_method == request.method
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

/// Sends the request to its server, without the headers for the proxy.
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
async fn polls_and_webhooks_use_the_proxy_and_hide_its_password() {
    let proxy = Proxy::start().await;
    let h = behind(&proxy).await;
    h.provider.completed("job_1");
    // Only the proxy resolves this name.
    let url = format!("http://hooks.internal:{}/hook", h.receiver.port());
    h.register(&json!({ "jobId": "job_1", "callbackUrl": url })).await;
    h.pass(minutes(1)).await;
    let hit = h.receiver.next().await;
    assert_eq!(hit.event(), "job.completed");
    assert!(hit.headers.iter().all(|(name, _)| !name.starts_with("proxy-")), "{hit:?}");
    let requests = proxy.requests();
    let paths: Vec<&str> = requests.iter().map(|request| request.path.as_str()).collect();
    assert_eq!(paths, [format!("{}/v1/jobs/job_1", h.provider.url()), url]);
    for request in &requests {
        assert_eq!(request.header("proxy-authorization"), Some("Basic bWU6aHVzaA=="), "me:hush");
    }
    h.finish().await;
}

#[tokio::test]
async fn an_attempt_that_the_proxy_drops_is_retried() {
    let proxy = Proxy::start().await;
    let h = behind(&proxy).await;
    h.provider.completed("job_1");
    proxy.drop_method("POST");
    let watch = h.watch("job_1").await;
    h.pass(seconds(10)).await;
    let delivery = h.delivery(&watch).await;
    assert_eq!(delivery["status"], "pending", "{delivery}");
    let attempt = &delivery["attempts"][0];
    assert!(attempt["statusCode"].is_null() && attempt["error"].is_string(), "{attempt}");
    proxy.drop_method("");
    h.pass(minutes(10)).await;
    assert_eq!(h.receiver.next().await.event(), "job.completed");
    assert_eq!(h.delivery(&watch).await["status"], "succeeded");
    h.finish().await;
}
