//! The release binary as a separate process, and a client of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const KEY: &str = "benchmark-0123456789";

/// Number of connections of the load.
pub const CONNECTIONS: usize = 64;

/// A binary, the server that it polls and notifies, and the database that it uses.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub binary: &'a str,
    pub local: SocketAddr,
    pub database: &'a str,
}

/// The service in a separate process with a new database.
pub struct Service {
    process: Child,
    /// URL of the API.
    pub url: String,
    folder: tempfile::TempDir,
}

impl Service {
    /// Starts the service, and waits until it is ready. The first poll follows `first` after the registration, the
    /// others in this `interval`.
    pub async fn start(on: &Target<'_>, first: &str, interval: &str) -> Self {
        Self::start_with(on, first, interval, &[]).await
    }

    /// Does the same with further variables.
    pub async fn start_with(on: &Target<'_>, first: &str, interval: &str, more: &[(&str, &str)]) -> Self {
        let Target { binary, local, database } = on;
        let folder = tempfile::tempdir_in(".").unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Command::new(binary)
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .current_dir(folder.path())
            .env_remove("RINGBACK_BENCH_FIGURES")
            .env_remove("RINGBACK_BENCH_ROUNDS")
            .env("RINGBACK_DATABASE_URL", database)
            .env("RINGBACK_API_KEY", KEY)
            .env("MUVI_API_KEY", "bench")
            .env("RINGBACK_PROVIDERS__MUVI__BASE_URL", format!("http://{local}"))
            .env("RINGBACK_PROVIDERS__MUVI__RATE", "off")
            .env("RINGBACK_PROVIDERS__MUVI__CONCURRENCY", CONNECTIONS.to_string())
            .env("RINGBACK_PROVIDERS__MUVI__FIRST", first)
            .env("RINGBACK_PROVIDERS__MUVI__MIN_INTERVAL", interval)
            .env("RINGBACK_PROVIDERS__MUVI__MAX_INTERVAL", interval)
            .env("RINGBACK_DELIVERY__PER_DESTINATION", "256")
            .env("RINGBACK_EGRESS__ALLOW", "127.0.0.1/32")
            .env("RINGBACK_LOG", "warn")
            .env_remove("RINGBACK_BENCH_BASE")
            .env_remove("RINGBACK_BENCH_ROUNDS")
            .envs(more.iter().copied())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let service = Self { process, url: format!("http://127.0.0.1:{port}"), folder };
        let client = client();
        let ready = || async {
            let answer = client.get(format!("{}/readyz", service.url)).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        while !ready().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        service
    }

    /// Returns the folder of the database.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Returns the resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.process.id())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts a server on a free port, with a task for each connection. Returns its address.
pub async fn serve<F>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> SocketAddr
where
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let answer = answer.clone();
            let service = service_fn(move |request| {
                let answered = answer(request);
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    address
}

/// Returns the answer of a receiver.
pub fn no_content() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Returns the answer of a provider.
pub fn json_answer(body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// Returns a client without a proxy.
pub fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .tls_backend_preconfigured(
            rustls::ClientConfig::builder_with_provider(ringback::tls::provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth(),
        )
        .pool_max_idle_per_host(CONNECTIONS)
        .build()
        .unwrap()
}

/// Returns a rate.
#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are small")]
pub fn per_second(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

/// Returns an authorized request with a JSON body.
pub fn post(client: &reqwest::Client, url: &str, body: String) -> reqwest::RequestBuilder {
    client
        .post(url)
        .header("authorization", format!("Bearer {KEY}"))
        .header("content-type", "application/json")
        .body(body)
}

/// Returns the upper median.
pub fn median(of: &mut [f64]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}
