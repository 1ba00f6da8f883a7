//! What a hostile client can use up: memory, places and time. And what its neighbours still get.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::harness::{AUTH, Harness, JSON, guarded, id};
use crate::tenants::tenant;
use crate::wire::{self, Answer};

/// Sends the head of a request and the first part of its body.
async fn unfinished(t: &Harness, key: &str, path: &str, length: usize, part: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(t.address()).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    );
    // The server may refuse the request before it has read everything.
    let _ = stream.write_all(&[head.as_bytes(), part].concat()).await;
    stream
}

/// Returns the value of a metric.
async fn metric(t: &Harness, name: &str) -> u64 {
    let answer = t.get_without_key("/metrics").await;
    let value =
        answer.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    value.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

#[tokio::test]
async fn slow_uploads_of_two_apps_leave_batches_to_a_third() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    let (one, two) = (tenant(&t, "one").await, tenant(&t, "two").await);
    let mut slow = Vec::new();
    for key in [&one.key, &two.key] {
        for _ in 0..8 {
            slow.push(unfinished(&t, key, "/v1/watches/batch", 100_000, b"{\"watches\": [").await);
        }
    }
    let body = json!({ "watches": [{ "jobId": "job_1", "notify": [] }] });
    for _ in 0..20 {
        t.post("/v1/watches/batch", &body).await.expect(200);
    }
    drop(slow);
    t.finish().await;
}

#[tokio::test]
async fn batches_of_one_app_that_wait_for_names_leave_places_to_others() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    let other = tenant(&t, "other").await;
    let slow = t.resolve_slowly("slow.example.com", &["93.184.216.34"]);
    let body =
        json!({ "watches": [{ "jobId": "job_1", "callbackUrl": "https://slow.example.com/" }] }).to_string();
    let bytes = wire::request("POST", "/v1/watches/batch", &[AUTH, JSON], body.as_bytes());
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let (address, bytes) = (t.address(), bytes.clone());
        waiting.spawn(async move { wire::exchange(address, &bytes).await.unwrap() });
    }
    slow.requested().await;
    let fast = json!({ "watches": [{ "jobId": "job_1", "notify": [] }] }).to_string();
    for _ in 0..10 {
        let answer = t.as_key(&other.key, "POST", "/v1/watches/batch", &fast).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // Those that waited get their turn.
    slow.answer();
    let answers = guarded("the batches", waiting.join_all()).await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    t.give_up().await;
}

/// Registers watches whose list has about a megabyte.
async fn register_large_watches(t: &Harness) {
    let long = "x".repeat(1_900);
    let notify: Vec<String> = (0..20).map(|n| t.receiver.url(&format!("/{n}/{long}"))).collect();
    let watches: Vec<_> = (0..25).map(|_| json!({ "jobId": "job_1", "notify": notify })).collect();
    t.provider.processing("job_1", 0);
    t.post("/v1/watches/batch", &json!({ "watches": watches })).await.expect(200);
}

#[tokio::test]
async fn unread_answers_of_one_app_are_bounded_and_harm_no_other() {
    let t = Harness::start().await;
    let other = tenant(&t, "other").await;
    register_large_watches(&t).await;
    let path = "/v1/watches?limit=200";
    let request = wire::request("GET", path, &[AUTH], b"");
    let mut unread = Vec::new();
    let refused: Answer = loop {
        assert!(unread.len() < 200, "200 MB are held");
        let mut stream = TcpStream::connect(t.address()).await.unwrap();
        stream.write_all(&request).await.unwrap();
        unread.push(stream);
        // Its first byte shows that the server has made the answer.
        let stream = unread.last_mut().unwrap();
        let mut first = [0; 12];
        guarded("an answer", stream.read_exact(&mut first)).await.unwrap();
        if &first[9..] == b"503" {
            break t.get(path).await;
        }
    };
    assert_eq!(refused.expect(503)["code"], "too_many_requests");
    assert!(refused.header("retry-after").is_some());
    let held = metric(&t, "ringback_http_memory_bytes").await;
    // Three quarters of what an app may use.
    assert!((50..=55).contains(&(held >> 20)), "{held}");
    // Small requests of this app work, and every request of another one.
    t.get("/v1/watches?limit=0").await.expect(422);
    t.get("/v1/signing-secret").await.expect(200);
    let body = json!({ "jobId": "job_1", "notify": [], "metadata": { "x": "x".repeat(4_000) } }).to_string();
    let key = other.key.as_str();
    for _ in 0..10 {
        assert_eq!(t.as_key(key, "POST", "/v1/watches", &body).await.status, 201);
    }
    let list = t.as_key(key, "GET", path, "").await;
    assert!(list.status == 200 && list.body.len() > 40_000, "{}", list.status);
    drop(unread);
    guarded("free memory", async { while t.get(path).await.status != 200 {} }).await;
    t.give_up().await;
}

/// Sends a request over and over, and reads nothing of the answers, until one is a 503. Returns the connections.
async fn until_refused(t: &Harness, request: &[u8]) -> Vec<TcpStream> {
    let mut unread = Vec::new();
    loop {
        assert!(unread.len() < 100, "100 MB are held");
        let mut stream = TcpStream::connect(t.address()).await.unwrap();
        stream.write_all(request).await.unwrap();
        // Its first bytes show that the server has made the answer.
        let mut first = [0; 12];
        guarded("an answer", stream.read_exact(&mut first)).await.unwrap();
        unread.push(stream);
        if &first[9..] == b"503" {
            return unread;
        }
    }
}

#[tokio::test]
async fn a_write_whose_answer_does_not_fit_is_refused_before_its_commit() {
    let t = Harness::start().await;
    let other = tenant(&t, "other").await;
    register_large_watches(&t).await;
    let large = t.get("/v1/watches?limit=1").await.expect(200)["data"][0].clone();
    let path = format!("/v1/watches/{}", id(&large));
    let batch = |item: &Value, count: usize| json!({ "watches": vec![item; count] }).to_string();
    let (valid, keyed) = (json!({ "jobId": "job_1", "notify": [] }), [AUTH, JSON, ("idempotency-key", "k1")]);
    let valid = batch(&valid, 240);
    assert!(valid.len() < 8 * 1024, "its body is not counted");
    t.send("POST", "/v1/watches/batch", &keyed, valid.as_bytes()).await.expect(200);
    // Refused batches fill the budget of the app. Their answers are too large for the buffers of the kernel.
    let mut refused = json!({ "jobId": "job_1", "notify": [] });
    refused["x".repeat(700)] = json!(1);
    let refused = batch(&refused, 1_000);
    let request = wire::request("POST", "/v1/watches/batch", &[AUTH, JSON], refused.as_bytes());
    let unread = until_refused(&t, &request).await;
    let held = async || metric(&t, "ringback_http_memory_bytes").await;
    let rest = (64 << 20) - held().await;
    assert!(rest < 4 << 20, "{rest}");
    // Half a body takes the rest, up to 5 KB.
    let length = usize::try_from(rest).unwrap() - 5_000;
    let part = vec![b' '; length - 1];
    let upload = unfinished(&t, crate::harness::KEY, "/v1/watches/batch", length, &part).await;
    guarded("the upload", async { while held().await < (64 << 20) - 5_000 {} }).await;

    let invalid = json!({ "jobId": "job_1", "notify": [], "events": vec![1; 256] }).to_string();
    let expiry = json!({ "expiresIn": "1h" }).to_string();
    let (poll, stop) = (format!("{path}/poll"), format!("{path}/stop"));
    for (method, path, headers, body) in [
        ("POST", "/v1/watches/batch", &[AUTH, JSON][..], valid.as_str()),
        ("POST", "/v1/watches/batch", &keyed, valid.as_str()),
        ("POST", "/v1/watches", &[AUTH, JSON], &invalid),
        ("POST", &poll, &[AUTH], ""),
        ("PATCH", &path, &[AUTH, JSON], &expiry),
        ("POST", &stop, &[AUTH], ""),
    ] {
        let answer = t.send(method, path, headers, body.as_bytes()).await;
        assert_eq!(answer.expect(503)["code"], "too_many_requests", "{method} {path}");
        assert!(answer.header("retry-after").is_some());
    }
    // Small writes are served, and every write of another app.
    t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    t.as_key(&other.key, "POST", "/v1/watches/batch", &valid).await.expect(200);
    drop((unread, upload));
    guarded("free memory", async { while t.get(&path).await.status != 200 {} }).await;
    let shown = t.shown(&id(&large)).await;
    assert_eq!((&shown["status"], &shown["expiresAt"]), (&json!("watching"), &large["expiresAt"]));
    assert_eq!(pages(&t, "/v1/watches?limit=200").await.0.len(), 25 + 240 + 1);
    t.give_up().await;
}

#[tokio::test]
async fn unfinished_bodies_of_one_app_are_bounded_and_harm_no_other() {
    let t = Harness::start().await;
    let other = tenant(&t, "other").await;
    t.provider.processing("job_1", 0);
    let part = vec![b' '; 250_000];
    let mut slow = Vec::new();
    for _ in 0..300 {
        slow.push(unfinished(&t, crate::harness::KEY, "/v1/watches", 250_001, &part).await);
    }
    let large = json!({ "jobId": "job_1", "notify": [], "metadata": {} }).to_string();
    let large = format!("{large}{}", " ".repeat(200_000));
    // The refusals show that the bodies have arrived. A request that is answered can have displaced one of them.
    let refused = async {
        loop {
            slow.push(unfinished(&t, crate::harness::KEY, "/v1/watches", 250_001, &part).await);
            let answer = t.send("POST", "/v1/watches", &[AUTH, JSON], large.as_bytes()).await;
            if answer.status == 503 {
                return answer;
            }
        }
    };
    let refused = guarded("a refusal", refused).await;
    assert_eq!(refused.expect(503)["code"], "too_many_requests");
    assert!(metric(&t, "ringback_http_memory_bytes").await <= 64 << 20);
    t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    assert_eq!(t.as_key(&other.key, "POST", "/v1/watches", &large).await.status, 201);
    drop(slow);
    t.finish().await;
}

/// Sends requests on one connection until it is closed. Returns the answers.
async fn on_one_connection(t: &Harness, key: &str, count: usize) -> Vec<Answer> {
    let stream = TcpStream::connect(t.address()).await.unwrap();
    let mut stream = BufReader::new(stream);
    let mut answers = Vec::new();
    for _ in 0..count {
        let request = format!("GET /v1/watches HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\r\n");
        let _ = stream.write_all(request.as_bytes()).await;
        let Some(answer) = guarded("an answer", Answer::read(&mut stream)).await else { break };
        answers.push(answer);
    }
    answers
}

#[tokio::test]
async fn wrong_keys_end_a_connection_and_are_slowed_down() {
    let t = Harness::start().await;
    let answers = on_one_connection(&t, "rb_wrong", 20).await;
    assert_eq!(answers.len(), 10);
    assert!(answers.iter().all(|answer| answer.status == 401));
    assert_eq!(answers[9].header("connection"), Some("close"));
    // A correct key on the same address is not affected, however often it is used.
    assert_eq!(on_one_connection(&t, crate::harness::KEY, 50).await.len(), 50);
    for _ in 0..99 {
        on_one_connection(&t, "rb_wrong", 10).await;
    }
    assert_eq!(metric(&t, "ringback_http_wrong_keys_total").await, 1_000);
    // From now on a refusal comes after a second; a correct key works at once.
    let mut slow = Box::pin(t.as_key("rb_wrong", "GET", "/v1/watches", ""));
    tokio::select! {
        biased;
        answer = &mut slow => panic!("{answer:?}"),
        () = async { t.get("/v1/watches").await.expect(200); t.get("/v1/watches").await.expect(200); } => {}
    }
    let answer = async {
        loop {
            tokio::select! {
                answer = &mut slow => return answer,
                _ = t.get_without_key("/healthz") => t.clock.advance(crate::harness::seconds(1)),
            }
        }
    };
    assert_eq!(guarded("the refusal", answer).await.status, 401);
    drop(slow);
    t.finish().await;
}

// The decoder of httpx-sse 0.4 and of openai-python makes an event of every blank line that follows a field.
#[tokio::test]
async fn a_stream_has_no_event_without_data() {
    let t = Harness::start().await;
    let mut raw = TcpStream::connect(t.address()).await.unwrap();
    raw.write_all(&wire::request("GET", "/v1/events/stream", &[AUTH], b"")).await.unwrap();
    t.provider.completed("job_1");
    let mut text = String::new();
    let mut buffer = vec![0; 65_536];
    let mut read = async |raw: &mut TcpStream, until: &str| {
        while !text.contains(until) {
            let count = guarded("the stream", raw.read(&mut buffer)).await.unwrap();
            let _ = write!(text, "{}", String::from_utf8_lossy(&buffer[..count]));
        }
        text.clone()
    };
    read(&mut raw, "retry: 1000").await;
    t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    t.pass(crate::harness::seconds(5)).await;
    read(&mut raw, "job.completed").await;
    t.pass(crate::harness::seconds(15)).await;
    let text = read(&mut raw, ": keep-alive").await;
    // Without the framing of the chunks: a line of each chunk is its size.
    let body = text.split_once("\r\n\r\n").unwrap().1.replace("\r\n", "\u{0}");
    let lines: Vec<&str> = body.split('\n').collect();
    let blank = lines.iter().enumerate().filter(|(_, line)| line.is_empty());
    for (n, _) in blank {
        assert!(lines[n - 1].starts_with("data: "), "{lines:?}");
        let _: Value = serde_json::from_str(lines[n - 1].trim_start_matches("data: ")).unwrap();
    }
    drop(raw);
    t.finish().await;
}

/// Returns the ids and the number of pages of a list.
async fn pages(t: &Harness, path: &str) -> (Vec<String>, usize) {
    let (mut ids, mut count, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = t.get(&format!("{path}{cursor}")).await.expect(200);
        ids.extend(page["data"].as_array().unwrap().iter().map(id));
        count += 1;
        let Some(next) = page["nextCursor"].as_str() else { return (ids, count) };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes() {
    let t = Harness::start().await;
    let long = "x".repeat(1_900);
    let made: HashSet<String> = {
        let notify: Vec<String> = (0..20).map(|n| t.receiver.url(&format!("/{n}/{long}"))).collect();
        let watches: Vec<_> = (0..60)
            .map(|n| {
                t.provider.processing(&format!("job_{n}"), 0);
                json!({ "jobId": format!("job_{n}"), "notify": notify })
            })
            .collect();
        let answer = t.post("/v1/watches/batch", &json!({ "watches": watches })).await.expect(200);
        answer["data"].as_array().unwrap().iter().map(|item| id(&item["watch"])).collect()
    };
    let first = t.get("/v1/watches?limit=200").await;
    assert!((900_000..1_200_000).contains(&first.body.len()), "{}", first.body.len());
    let (ids, count) = pages(&t, "/v1/watches?limit=200").await;
    assert_eq!((ids.len(), count), (60, 3));
    assert_eq!(ids.into_iter().collect::<HashSet<_>>(), made);
    t.give_up().await;
}

/// Adds watches that were stopped long ago. SQLite only: it writes into the file.
async fn add_stopped_watches(t: &mut Harness, count: u32) {
    t.stop().await;
    let db = rusqlite::Connection::open(t.file()).unwrap();
    db.execute(
        "insert into jobs (shard, job_id, provider, account, params, seen, registered_at)
         values (0, 'job_old', 'muvi', 'default', '{}', '{\"status\":\"unknown\"}', 0)",
        [],
    )
    .unwrap();
    db.execute(
        "with recursive n (i) as (select 1 union all select i + 1 from n where i < ?1)
         insert into watches (app, id, job, generation, status, events, payload, created_at, expires_at, ended_at)
         select 1, unhex(printf('%032x', i)), (select max(no) from jobs), 0, 'stopped', 31, 'event', 1, 2, 3 from n",
        [count],
    )
    .unwrap();
    drop(db);
    t.restart().await;
}

#[tokio::test]
async fn a_list_that_matches_nothing_ends_early_with_a_cursor() {
    let mut t = Harness::start().await;
    add_stopped_watches(&mut t, 150_000).await;
    let path = "/v1/watches?status=failed&limit=200";
    let first = t.get(path).await.expect(200);
    assert_eq!(first["data"], json!([]));
    assert!(first["nextCursor"].is_string(), "more rows follow");
    assert_eq!(pages(&t, path).await, (vec![], 2));
    // The same job has too many watches for its index.
    let (found, _) = pages(&t, "/v1/watches?jobId=job_old&status=failed&limit=200").await;
    assert_eq!(found.len(), 0);
    assert_eq!(t.get("/v1/watches?limit=200").await.expect(200)["data"].as_array().unwrap().len(), 200);
    t.finish().await;
}

#[tokio::test]
async fn the_head_of_a_request_is_limited() {
    let t = Harness::start().await;
    for (size, status) in [(12 * 1024, 200), (17 * 1024, 431), (60 * 1024, 431)] {
        let long = "x".repeat(size);
        let bytes = crate::wire::request("GET", "/healthz", &[("x-long", &long)], b"");
        let answer = crate::wire::exchange(t.address(), &bytes).await.expect("an answer");
        assert_eq!(answer.status, status, "{size}");
        // The HTTP library answers before the service sees the request, as docs/API.md says.
        let is_ours = status == 200;
        assert_eq!(answer.header("x-request-id").is_some(), is_ours, "{size}");
        assert!(is_ours || answer.body.is_empty(), "{size}");
    }
    let answer = crate::wire::exchange(t.address(), b"no HTTP\r\n\r\n").await.expect("an answer");
    assert_eq!((answer.status, answer.header("x-request-id"), answer.body.len()), (400, None, 0));
    t.finish().await;
}

#[tokio::test]
async fn no_answer_with_data_is_kept_by_a_cache() {
    let t = Harness::start().await;
    let key = json!({ "scope": "read" }).to_string();
    for (method, path, body) in [
        ("GET", "/v1/signing-secret", ""),
        ("GET", "/v1/watches", ""),
        ("POST", "/v1/keys", &key),
        ("GET", "/v1/nowhere", ""),
        ("GET", "/v1/watches?x=1", ""),
        ("GET", "/readyz", ""),
    ] {
        let headers = if body.is_empty() { &[AUTH][..] } else { &[AUTH, JSON][..] };
        let answer = t.send(method, path, headers, body.as_bytes()).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
    assert_eq!(t.get_without_key("/v1/keys").await.header("cache-control"), Some("no-store"));
    for (path, expected) in [("/openapi.json", "public, max-age=300"), ("/docs", "no-cache")] {
        assert_eq!(t.get_without_key(path).await.header("cache-control"), Some(expected), "{path}");
    }
    t.finish().await;
}

/// Opens a connection, sends bytes, and reads one answer if `answered`.
async fn connection(t: &Harness, bytes: &str, answered: bool) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(TcpStream::connect(t.address()).await.unwrap());
    stream.write_all(bytes.as_bytes()).await.unwrap();
    if answered {
        let answer = guarded("an answer", Answer::read(&mut stream)).await;
        assert_eq!(answer.unwrap().status, 200);
    }
    stream
}

// Once: no database takes part in it.
#[tokio::test]
async fn idle_connections_make_room_for_new_ones() {
    let mut t = Harness::start().await;
    t.stop().await;
    // Half of them are for clients.
    t.descriptors = 256;
    t.restart().await;
    let mut open = Vec::new();
    for n in 0..300 {
        // Every third one waits for the rest of a head.
        let (bytes, answered) = match n % 3 {
            0 => ("GET /hea", false),
            _ => ("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", true),
        };
        open.push(connection(&t, bytes, answered).await);
        if n % 100 == 99 {
            t.get("/v1/watches").await.expect(200);
        }
    }
    // A connection with a request in progress is not closed for others.
    t.provider.processing("job_1", 0);
    let watch = t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    let (name, value) = AUTH;
    let wait = format!("GET /v1/watches/{watch}?wait=30s HTTP/1.1\r\nhost: x\r\n{name}: {value}\r\n\r\n");
    let mut waiting = connection(&t, &wait, false).await;
    for _ in 0..200 {
        open.push(connection(&t, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", true).await);
    }
    t.provider.completed("job_1");
    t.pass(std::time::Duration::from_secs(20)).await;
    let answer = guarded("the end of the watch", Answer::read(&mut waiting)).await.unwrap();
    assert_eq!(answer.json()["status"], "completed");
    drop(open);
    t.finish().await;
}

/// Returns when so many requests wait for the end of a watch.
async fn waiting(t: &Harness, count: u64) {
    guarded("the waits", async { while metric(t, "ringback_http_waiting").await != count {} }).await;
}

/// The bytes of a request that waits for the end of a watch.
async fn long_poll(t: &Harness, job: &str) -> String {
    t.provider.processing(job, 0);
    let watch = t.register(&json!({ "jobId": job, "notify": [] })).await;
    let (name, value) = AUTH;
    format!("GET /v1/watches/{watch}?wait=60s HTTP/1.1\r\nhost: x\r\n{name}: {value}\r\n\r\n")
}

#[tokio::test]
async fn waits_of_clients_that_hung_up_leave_their_places() {
    let t = Harness::start().await;
    let wait = long_poll(&t, "job_1").await;
    // Half of the clients have sent the next request as well, whose bytes nothing reads during the wait.
    let next = format!("{wait}GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut open = Vec::new();
    for n in 0..20 {
        open.push(connection(&t, if n % 2 == 0 { &wait } else { &next }, false).await);
    }
    waiting(&t, 20).await;
    // The clock stands still: no wait is over.
    drop(open);
    waiting(&t, 0).await;
    t.finish().await;
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_gets_its_answer_at_once() {
    let t = Harness::start().await;
    let wait = long_poll(&t, "job_1").await;
    let mut stream = connection(&t, &wait, false).await;
    waiting(&t, 1).await;
    stream.shutdown().await.unwrap();
    let answer = guarded("the answer", Answer::read(&mut stream)).await.unwrap();
    assert_eq!(answer.expect(200)["status"], "watching");
    t.finish().await;
}

#[tokio::test]
async fn a_second_request_on_the_connection_does_not_end_a_wait() {
    let t = Harness::start().await;
    let wait = long_poll(&t, "job_1").await;
    let mut stream = connection(&t, &wait, false).await;
    waiting(&t, 1).await;
    stream.write_all(wait.as_bytes()).await.unwrap();
    t.provider.completed("job_1");
    t.pass(std::time::Duration::from_secs(20)).await;
    for _ in 0..2 {
        let answer = guarded("the end of the watch", Answer::read(&mut stream)).await.unwrap();
        assert_eq!(answer.expect(200)["status"], "completed");
    }
    t.finish().await;
}

/// Sends a request without the end of its body, and returns when the server awaits it.
async fn awaited(t: &Harness, key: &str, length: usize, part: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(t.address()).await.unwrap();
    let head = format!(
        "POST /v1/watches HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nexpect: 100-continue\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), part].concat()).await.unwrap();
    let mut answer = [0; 25];
    guarded("the interim answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

// Once: no database takes part in it.
#[tokio::test]
async fn half_bodies_of_one_app_leave_places_to_others() {
    let mut t = Harness::start().await;
    let other = tenant(&t, "other").await;
    t.provider.processing("job_1", 0);
    t.stop().await;
    // Half of them are for clients.
    t.descriptors = 256;
    t.restart().await;
    let mut floods = Vec::new();
    for key in [crate::harness::KEY, "rb_wrong"] {
        // The slow upload of a neighbour waits for longer than every connection of the flood.
        let body = json!({ "jobId": "job_1", "notify": [] }).to_string();
        let (first, rest) = body.as_bytes().split_at(3);
        let mut upload = awaited(&t, &other.key, body.len(), first).await;
        t.pass(std::time::Duration::from_secs(1)).await;
        for _ in 0..100 {
            floods.push(awaited(&t, key, 5_000, b"{\"a").await);
        }
        t.pass(std::time::Duration::from_secs(1)).await;
        for _ in 0..70 {
            floods.push(unfinished(&t, key, "/v1/watches", 5_000, b"{\"a").await);
        }
        t.get_without_key("/healthz").await.expect(200);
        assert_eq!(t.as_key(&other.key, "GET", "/v1/watches", "").await.status, 200);
        upload.write_all(rest).await.unwrap();
        let answer = guarded("the upload", Answer::read(&mut BufReader::new(upload))).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
        floods.clear();
        t.pass(std::time::Duration::from_secs(1)).await;
    }
    t.finish().await;
}

// Once: no database takes part in it.
#[tokio::test]
async fn half_a_head_does_not_delay_a_stop() {
    let mut t = Harness::start().await;
    let half = connection(&t, "GET /hea", false).await;
    let idle = connection(&t, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", true).await;
    t.get_without_key("/healthz").await.expect(200);
    t.stop().await;
    drop((half, idle));
    t.restart().await;
    t.finish().await;
}
