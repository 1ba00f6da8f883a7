//! The front door: accepting connections, and what every request and every answer goes through.
//!
//! A connection that sends its headers too slowly is closed, and so is one that takes no answers. A
//! body stays at the door until somebody wants it; if the request is refused before, it is read and
//! dropped, within limits, so that the client gets to read why.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::MatchedPath;
use axum::http::{HeaderName, HeaderValue, Request, header};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower_service::Service as _;

use super::problem::Problem;
use super::request::Held;
use super::stream::Stream;
use super::{Api, CONNECTIONS_MAX, metrics_router, router};
use crate::clock::Clock;
use crate::domain::{Ids, RequestId};
use crate::telemetry::metrics::Metrics;

/// How many may ask for metrics at once: there are few scrapers, and each answer is made anew.
const SCRAPES_MAX: usize = 16;

/// How long a client may take to send a request's headers, and how long it may keep silent between
/// two requests.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);

/// How many headers a request may have, and how many bytes of them.
const HEADERS_MAX: usize = 100;
const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// After accepting failed (no more file descriptors, most likely), the next try waits.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Accepts and serves until `closing` says so; returns when the last connection has ended.
pub async fn serve(listener: TcpListener, api: Arc<Api>, closing: watch::Receiver<bool>) {
    let places = Arc::clone(&api.places);
    let door = HttpService::new(&api, router(Arc::clone(&api)));
    drop(api);
    accept_all(listener, door, places, CONNECTIONS_MAX, closing).await;
}

/// The same for the metrics alone.
pub async fn serve_metrics(listener: TcpListener, api: Arc<Api>, closing: watch::Receiver<bool>) {
    let door = HttpService::new(&api, metrics_router(Arc::clone(&api)));
    drop(api);
    accept_all(listener, door, Arc::new(Semaphore::new(SCRAPES_MAX)), SCRAPES_MAX, closing).await;
}

async fn accept_all(
    listener: TcpListener,
    door: HttpService,
    places: Arc<Semaphore>,
    all: usize,
    closing: watch::Receiver<bool>,
) {
    let mut closed = closing.clone();
    loop {
        let accepted = tokio::select! {
            () = raised(&mut closed) => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let door = door.clone();
                let closing = closing.clone();
                tokio::spawn(async move {
                    connection(stream, door, closing).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                door.clock.sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(all).unwrap_or(u32::MAX);
    // All places are free again when all connections have ended.
    let _ = places.acquire_many(all).await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, door: HttpService, mut closing: watch::Receiver<bool>) {
    let stream = Stream::new(stream, door.clock.clone());
    let service = hyper::service::service_fn(move |request| {
        let door = door.clone();
        async move { Ok::<_, std::convert::Infallible>(door.handle(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        // A client may close its side once it has asked, and still gets its answer.
        .half_close(true)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADERS_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // What breaks here is the client's connection, and the client knows.
    let _ = tokio::select! {
        ended = connection.as_mut() => ended,
        () = raised(&mut closing) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

/// Returns when the flag is up. The guard of the flag's lock does not outlive the look at it.
pub(super) async fn raised(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|up| *up).await;
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Tells the door which route a request has taken: known within the router only.
pub(super) async fn name_the_route(
    matched: Option<MatchedPath>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if let Some(matched) = matched {
        response.extensions_mut().insert(matched);
    }
    response
}

#[derive(Clone)]
struct HttpService {
    router: Router,
    clock: Clock,
    ids: Arc<Ids>,
    metrics: Arc<Metrics>,
}

impl HttpService {
    fn new(api: &Api, router: Router) -> Self {
        let metrics = Arc::clone(api.store.metrics());
        Self { router, clock: api.clock.clone(), ids: Arc::default(), metrics }
    }

    async fn handle(mut self, request: Request<Incoming>) -> Response {
        let took = self.clock.stopwatch();
        let request_id = RequestId(self.ids.draw(self.clock.now())).to_string();
        let (mut parts, body) = request.into_parts();
        let held = Held::new(body);
        parts.extensions.insert(held.clone());
        let method = parts.method.clone();
        let path = parts.uri.path().to_owned();
        let Ok(mut response) = self.router.call(Request::from_parts(parts, Body::empty())).await;
        held.drop_politely(&self.clock).await;
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            *response.body_mut() = Body::from(problem.render(&request_id));
            let json = HeaderValue::from_static("application/problem+json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        let route = response.extensions_mut().remove::<MatchedPath>();
        let (route, status) = (route.as_ref().map(MatchedPath::as_str), response.status().as_u16());
        self.metrics.answered(route, method.as_str(), status, took.elapsed());
        tracing::debug!(%method, path, status, request_id, duration_ms = millis(took.elapsed()), "answered");
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        response
    }
}
