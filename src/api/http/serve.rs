//! The HTTP server: it accepts connections and wraps every request and response.
//!
//! A connection that sends its headers too slowly is closed, and so is one that does not read responses. If all places
//! are taken, it is closed as soon as another client needs its place (`connections`).
//! A body is read when a handler needs it. If a request is refused before, the rest of the body is read and
//! discarded, within limits, so that the client can read the response.
//!
//! A server can begin before the database is open, with a router that needs none ([`Site`]). The limits are the same.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::{BodyExt as _, Collected};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower_service::Service as _;

use super::answer::SharedBody;
use super::body::{Client, RequestContext};
use super::connections::{Activity, Connections, Place, Signal, busy_body};
use super::failures::Failures;
use super::idempotency::{IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED};
use super::memory_budget::{HeldMemory, MemoryBudget};
use super::problem::Problem;
use super::stream::Stream;
use super::wrong_keys::WrongKeysOfClient;
use crate::clock::Clock;
use crate::domain::{Ids, RequestId};
use crate::telemetry::metrics::Metrics;

/// Maximum time for the headers of a request, and for the silence between two requests.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of headers of a request.
const HEADERS_MAX: usize = 100;

/// Maximum size of the head of a request, in bytes, and of one read of a body. Every connection can hold such a
/// head, before its key is known. Cookies of a proxy and a long URL take less than half of it.
const HEAD_MAX: usize = 16 * 1024;

/// Pause after a failed `accept`, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a listener serves: the router of the start, and the whole one after [`Site::open`].
#[derive(Clone, Debug)]
pub struct Site {
    starting: Router,
    opened: Arc<OnceLock<(Router, Arc<Metrics>)>>,
}

impl Site {
    /// Makes a site that serves `starting`.
    pub fn new(starting: Router) -> Self {
        Self { starting, opened: Arc::default() }
    }

    /// Serves `router` from the next request on, and counts its answers. Only the first call has an effect.
    pub fn open(&self, router: Router, metrics: Arc<Metrics>) {
        let _ = self.opened.set((router, metrics));
    }

    fn router(&self) -> Router {
        self.opened.get().map_or(&self.starting, |(router, _)| router).clone()
    }
}

/// What a server uses that does not need the database.
#[derive(Clone, Debug)]
pub struct Front {
    /// The clock.
    pub clock: Clock,
    /// The memory of requests and answers.
    pub memory: Arc<MemoryBudget>,
    /// A permit for each connection.
    pub places: Arc<Semaphore>,
}

/// Serves `site` until `closing` is set or has no sender. Returns after the last connection has ended.
pub async fn serve(listener: TcpListener, site: Site, front: Front, mut closing: watch::Receiver<bool>) {
    let Front { clock, memory, places } = front;
    let places_max = places.available_permits();
    let connections = Connections::new(Arc::clone(&places), clock.clone());
    let server = Arc::new(Server { site, clock, memory, failures: Failures::default(), ids: Ids::default() });
    loop {
        let accepted = tokio::select! {
            () = is_set(&mut closing) => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        match accepted {
            Ok((stream, place, peer)) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    serve_connection(stream, peer, server, &place.activity).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                server.clock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    drop((listener, server));
    // All permits are free when the last connection has ended.
    let _ = places.acquire_many(u32::try_from(places_max).unwrap_or(u32::MAX)).await;
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Connections>,
) -> std::io::Result<(TcpStream, Place, IpAddr)> {
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let place = connections.place().await.ok_or(std::io::ErrorKind::NotConnected)?;
    Ok((stream, place, peer.ip()))
}

async fn serve_connection(stream: TcpStream, peer: IpAddr, server: Arc<Server>, activity: &Arc<Activity>) {
    let stream = Stream::new(stream, server.clock.clone(), Arc::clone(activity));
    let client = Arc::new(Client {
        activity: Arc::clone(activity),
        wrong_keys: WrongKeysOfClient::new(peer),
        hang_up: stream.hang_up(),
    });
    let service = hyper::service::service_fn(move |request| {
        let (server, client) = (Arc::clone(&server), Arc::clone(&client));
        async move { Ok::<_, std::convert::Infallible>(server.answer(client, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        // A client that closes its sending side after the request still gets the response. One that has hung up does
        // the same: see `stream`.
        .half_close(true)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // An error here concerns the client's connection, and the client sees it.
    loop {
        let signal = tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            signal = activity.signal() => signal,
        };
        if signal == Signal::Close {
            break;
        }
        // What has arrived in the meantime is read before.
        let makes_room = tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            makes_room = async { activity.makes_room() } => makes_room,
        };
        if makes_room {
            return;
        }
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _ = connection.as_mut() => {}
        // It waits for the rest of a head.
        () = activity.idle() => {}
    }
}

/// Waits until the flag is set. The lock of the flag is released before this returns.
pub async fn is_set(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}

/// What all connections of a listener share.
struct Server {
    site: Site,
    clock: Clock,
    memory: Arc<MemoryBudget>,
    /// Requests that fail because of the database.
    failures: Failures,
    ids: Ids,
}

impl Server {
    /// Answers a request by the router, with the request's id, problems, metrics and the log around it.
    async fn answer(&self, client: Arc<Client>, request: Request<Incoming>) -> Response {
        let busy = client.activity.begin();
        let clock = &self.clock;
        let stopwatch = clock.stopwatch();
        let request_id = RequestId(self.ids.draw(clock.now())).to_string();
        let (mut parts, body) = request.into_parts();
        let context = RequestContext::new(body, self.memory.hold(None), Arc::clone(&client));
        parts.extensions.insert(context.clone());
        let method = parts.method.clone();
        let has_key = parts.headers.contains_key(&IDEMPOTENCY_KEY);
        let path = parts.uri.path().to_owned();
        let Ok(mut response) = self.site.router().call(Request::from_parts(parts, Body::empty())).await;
        context.discard(clock).await;
        if let Some(problem) = response.extensions_mut().get_mut::<Problem>() {
            problem.add_remedy(&method, has_key);
        }
        self.render_problem(&mut response, &request_id);
        if let Some(memory) = context.take_memory()
            && response.extensions().get::<SharedBody>().is_none()
        {
            response = count_memory(response, &method, memory).await;
            self.render_problem(&mut response, &request_id);
        }
        if client.wrong_keys.is_closing() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // Answers hold secrets and other data of one app. A handler of a public document sets the header itself.
        let no_store = HeaderValue::from_static("no-store");
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert(no_store);
        let (route, status) = (context.endpoint().map(|at| at.path.as_str()), response.status().as_u16());
        if let Some((_, metrics)) = self.site.opened.get() {
            metrics.answered(route, method.as_str(), status, stopwatch.elapsed());
        }
        let duration_ms = u64::try_from(stopwatch.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(%method, path, status, request_id, duration_ms, "answered");
        if let Ok(id) = HeaderValue::from_str(&request_id) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        response.map(|body| busy_body(body, busy))
    }

    /// Writes the body of a problem, and logs its cause.
    fn render_problem(&self, response: &mut Response, request_id: &str) {
        if let Some(problem) = response.extensions_mut().remove::<Problem>() {
            if let Some(error) = &problem.cause {
                self.failures.note(error, self.clock.now());
            }
            *response.body_mut() = Body::from(problem.render(request_id));
            let json = HeaderValue::from_static("application/problem+json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
    }
}

/// Counts the memory of an answer until it is sent. Returns a problem instead of the answer if its app is over its
/// budget, except for the answer to a write that was committed: its memory was reserved before.
async fn count_memory(response: Response, method: &Method, mut memory: HeldMemory) -> Response {
    // A stream counts its memory itself.
    let Some(size) = response.body().size_hint().exact() else { return response };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let is_replayed = response.headers().contains_key(&IDEMPOTENT_REPLAYED);
    if !method.is_safe() && response.status().is_success() && !is_replayed {
        memory.resize(size);
    } else {
        let is_granted =
            if method.is_safe() { memory.try_resize_for_read(size) } else { memory.try_resize(size) };
        if !is_granted {
            return Problem::over_budget().into_response();
        }
    }
    if memory.is_empty() {
        return response;
    }
    let (parts, body) = response.into_parts();
    // The body is complete in memory: collecting it neither waits nor copies.
    let bytes = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    Response::from_parts(parts, Body::from(memory.attach(bytes)))
}
