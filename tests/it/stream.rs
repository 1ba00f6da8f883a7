//! The event feed as server-sent events: `GET /v1/events/stream`.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::{AUTH, Harness, guarded, id, minutes, seconds, start};
use crate::wire::{self, Answer};

/// A client of the stream.
pub struct Follower {
    stream: BufReader<TcpStream>,
    head: String,
    text: String,
}

/// An event of the stream.
#[derive(Debug, PartialEq)]
pub struct StreamEvent {
    pub id: String,
    pub event: String,
    pub data: Value,
}

impl Follower {
    /// Sends the request and reads the head of the response.
    async fn request(t: &Harness, query: &str, headers: &[(&str, &str)]) -> Self {
        let auth = if headers.iter().any(|(name, _)| *name == AUTH.0) { &[][..] } else { &[AUTH][..] };
        let headers = [auth, headers].concat();
        let bytes = wire::request("GET", &format!("/v1/events/stream{query}"), &headers, b"");
        let mut stream = TcpStream::connect(t.address()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut follower = Self { stream: BufReader::new(stream), head: String::new(), text: String::new() };
        guarded("the head", async {
            while !follower.head.ends_with("\r\n\r\n") {
                follower.stream.read_line(&mut follower.head).await.unwrap();
            }
        })
        .await;
        follower
    }

    /// Opens the stream and reads its first block.
    pub async fn start(t: &Harness, query: &str, headers: &[(&str, &str)]) -> Self {
        let mut follower = Self::request(t, query, headers).await;
        assert!(follower.head.starts_with("HTTP/1.1 200"), "{}", follower.head);
        assert!(follower.head.contains("content-type: text/event-stream\r\n"), "{}", follower.head);
        assert_eq!(follower.line().await.as_deref(), Some("retry: 1000"));
        follower
    }

    /// Returns the next line; `None` when the stream ends orderly.
    async fn line(&mut self) -> Option<String> {
        self.until("\n").await
    }

    /// Returns the next block of lines; `None` when the stream ends orderly.
    async fn block(&mut self) -> Option<String> {
        self.until("\n\n").await
    }

    /// Returns the text up to the next `end`; `None` when the stream ends orderly.
    async fn until(&mut self, end: &str) -> Option<String> {
        guarded("the stream", async {
            loop {
                if let Some((block, rest)) = self.text.split_once(end) {
                    let (block, rest) = (block.to_owned(), rest.to_owned());
                    self.text = rest;
                    return Some(block);
                }
                let mut size = String::new();
                self.stream.read_line(&mut size).await.unwrap();
                let size = usize::from_str_radix(size.trim(), 16).expect("a chunk");
                let mut chunk = vec![0; size + 2];
                self.stream.read_exact(&mut chunk).await.unwrap();
                if size == 0 {
                    assert!(self.text.is_empty(), "{}", self.text);
                    return None;
                }
                self.text.push_str(std::str::from_utf8(&chunk[..size]).unwrap());
            }
        })
        .await
    }

    /// Returns the next event. Every blank line ends one: the parsers of `httpx-sse` and of the OpenAI client
    /// (openai/openai-python#2722, #3833) make an empty event of any other block.
    pub async fn next(&mut self) -> StreamEvent {
        let block = self.block().await.expect("an event");
        let field = |name: &str| -> Vec<String> {
            let prefix = format!("{name}: ");
            block.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
        };
        let data = serde_json::from_str(&field("data").join("\n")).unwrap();
        StreamEvent { id: field("id").remove(0), event: field("event").remove(0), data }
    }
}

/// Completes a job with a watch that has no destinations.
async fn end(t: &Harness, job: &str, metadata: &Value) {
    t.provider.completed(job);
    t.register(&json!({ "jobId": job, "notify": [], "metadata": metadata })).await;
    t.pass(seconds(5)).await;
}

async fn feed(t: &Harness, query: &str) -> Vec<Value> {
    t.get(&format!("/v1/events{query}")).await.expect(200)["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_stream_ends_when_its_key_is_revoked() {
    let t = Harness::start().await;
    let key = t.post("/v1/keys", &json!({ "scope": "read" })).await.expect(201);
    let auth = format!("Bearer {}", key["key"].as_str().unwrap());
    let mut follower = Follower::start(&t, "", &[("authorization", &auth)]).await;
    end(&t, "job_1", &json!({})).await;
    assert_eq!(follower.next().await.event, "job.completed");
    assert_eq!(t.delete(&format!("/v1/keys/{}", id(&key))).await.status, 204);
    end(&t, "job_2", &json!({})).await;
    assert_eq!(follower.line().await, None);
    t.finish().await;
}

#[tokio::test]
async fn every_blank_line_of_a_stream_ends_an_event() {
    let t = Harness::start().await;
    let mut follower = Follower::start(&t, "", &[]).await;
    for n in 0..3 {
        // `next` fails for a block without an event.
        t.pass(seconds(45)).await;
        end(&t, &format!("job_{n}"), &json!({})).await;
        assert_eq!(follower.next().await.event, "job.completed");
    }
    drop(follower);
    t.finish().await;
}

#[tokio::test]
async fn a_stream_sends_new_events_as_the_feed_lists_them() {
    let t = Harness::start().await;
    end(&t, "job_0", &json!({})).await;
    let mut follower = Follower::start(&t, "", &[]).await;
    end(&t, "job_1", &json!({ "n": 1 })).await;
    let event = follower.next().await;
    let listed = feed(&t, "").await;
    assert_eq!(
        (&event.data, event.event.as_str(), &event.id),
        (&listed[1], "job.completed", &id(&listed[1]))
    );
    end(&t, "job_2", &json!({})).await;
    assert_eq!(follower.next().await.data["data"]["jobId"], "job_2");
    drop(follower);
    t.finish().await;
}

#[tokio::test]
async fn last_event_id_resumes_a_stream_without_gap_or_duplicate() {
    let mut t = Harness::start().await;
    for n in 0..40 {
        t.provider.completed(&format!("job_{n}"));
        t.register(&json!({ "jobId": format!("job_{n}"), "notify": [] })).await;
    }
    t.pass(seconds(10)).await;
    let listed = feed(&t, "?limit=200").await;
    assert_eq!(listed.len(), 40);
    let (first, tenth) = (id(&listed[0]), id(&listed[9]));
    let mut follower = Follower::start(&t, &format!("?after={first}"), &[]).await;
    for event in &listed[1..] {
        assert_eq!(&follower.next().await.data, event);
    }
    // The header overrides the URL, which a client repeats unchanged; also after a crash.
    t.crash().await;
    t.restart().await;
    let query = format!("?after={first}");
    let mut follower = Follower::start(&t, &query, &[("last-event-id", &tenth)]).await;
    for event in &listed[10..] {
        assert_eq!(&follower.next().await.data, event);
    }
    end(&t, "job_late", &json!({})).await;
    assert_eq!(follower.next().await.data["data"]["jobId"], "job_late");
    t.finish().await;
}

#[tokio::test]
async fn a_stream_can_be_filtered_by_type() {
    let t = Harness::start().await;
    let mut follower = Follower::start(&t, "?type=job.failed", &[]).await;
    end(&t, "job_1", &json!({})).await;
    t.provider.failed("job_2");
    t.register(&json!({ "jobId": "job_2", "notify": [] })).await;
    t.pass(seconds(5)).await;
    assert_eq!(follower.next().await.event, "job.failed");
    drop(follower);
    t.finish().await;
}

#[tokio::test]
async fn resuming_a_stream_after_an_unknown_event_is_410() {
    let t = Harness::start().await;
    let none = format!("evt_{}", "0".repeat(26));
    for (query, header) in
        [(format!("?after={none}"), None), (String::new(), Some(none.as_str())), (String::new(), Some("x"))]
    {
        let headers: Vec<(&str, &str)> = header.map(|id| ("last-event-id", id)).into_iter().collect();
        let follower = Follower::request(&t, &query, &headers).await;
        assert!(follower.head.starts_with("HTTP/1.1 410"), "{}", follower.head);
    }
    for (path, status) in [("?x=1", 422), ("?type=x", 422)] {
        assert_eq!(t.get(&format!("/v1/events/stream{path}")).await.status, status);
    }
    assert_eq!(t.get_without_key("/v1/events/stream").await.status, 401);
    t.finish().await;
}

#[tokio::test]
async fn an_idle_stream_sends_keep_alives_and_ends_after_an_hour() {
    let t = Harness::start().await;
    let mut follower = Follower::start(&t, "", &[]).await;
    for _ in 0..239 {
        t.pass(seconds(15)).await;
        assert_eq!(follower.line().await.as_deref(), Some(": keep-alive"));
    }
    t.pass(seconds(15)).await;
    assert_eq!(follower.line().await, None);
    t.finish().await;
}

#[tokio::test]
async fn keep_alives_do_not_follow_the_wall_clock() {
    let t = Harness::start().await;
    let mut follower = Follower::start(&t, "", &[]).await;
    t.pass(seconds(15)).await;
    assert_eq!(follower.line().await.as_deref(), Some(": keep-alive"));
    for hours in 1..=3 {
        t.rest().await;
        t.clock.set_wall(start().minus(minutes(60 * hours)));
        t.pass(seconds(15)).await;
        assert_eq!(follower.line().await.as_deref(), Some(": keep-alive"));
    }
    t.finish().await;
}

#[tokio::test]
async fn a_stopping_server_ends_streams() {
    let mut t = Harness::start().await;
    let mut follower = Follower::start(&t, "", &[]).await;
    t.stop().await;
    assert_eq!(follower.line().await, None);
    t.restart().await;
    t.finish().await;
}

#[tokio::test]
async fn a_stalled_client_delays_neither_others_nor_the_stop() {
    let mut t = Harness::start().await;
    let _idle = Follower::start(&t, "", &[]).await;
    let mut busy = Follower::start(&t, "", &[]).await;
    // Far more data than the buffers of an unread connection hold.
    let metadata = json!({ "x": "x".repeat(4000) });
    for chunk in 0..8 {
        let watches: Vec<Value> = (0..500)
            .map(|n| {
                let job = format!("job_{chunk}_{n}");
                t.provider.completed(&job);
                json!({ "jobId": job, "notify": [], "metadata": metadata })
            })
            .collect();
        t.post("/v1/watches/batch", &json!({ "watches": watches })).await.expect(200);
        t.pass(seconds(5)).await;
        for _ in 0..500 {
            busy.next().await;
        }
    }
    let stopping = t.begin_stop();
    let ticking = async {
        loop {
            tokio::task::yield_now().await;
            t.clock.advance(seconds(1));
        }
    };
    tokio::select! {
        () = stopping.ended() => {}
        () = ticking => unreachable!("the loop has no end"),
    }
    // The stop ends at the latest with the grace period.
    t.released().await;
    t.restart().await;
    t.give_up().await;
}

#[tokio::test]
async fn the_number_of_streams_is_limited() {
    let t = Harness::start().await;
    let mut followers = Vec::new();
    // Half of 896: the rest is for other apps.
    for _ in 0..448 {
        followers.push(Follower::start(&t, "", &[]).await);
    }
    let refused: Answer = t.get("/v1/events/stream").await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    followers.clear();
    guarded("a free stream", async {
        while !Follower::request(&t, "", &[]).await.head.starts_with("HTTP/1.1 200") {
            t.pass(minutes(1)).await;
        }
    })
    .await;
    t.finish().await;
}

// Once: no database takes part in it.
#[tokio::test]
async fn few_descriptors_lower_the_limits_instead_of_being_used_up() {
    let mut t = Harness::start().await;
    t.stop().await;
    t.descriptors = 256;
    t.restart().await;
    // An eighth of half of the descriptors, and 7/8 of that for one app.
    let mut followers = Vec::new();
    for _ in 0..14 {
        followers.push(Follower::start(&t, "", &[]).await);
    }
    let refused: Answer = t.get("/v1/events/stream").await;
    assert_eq!(refused.status, 503);
    t.watch("job_1").await;
    drop(followers);
    t.give_up().await;
}

crate::postgres::on_postgres_too! {
    a_stream_ends_when_its_key_is_revoked,
    every_blank_line_of_a_stream_ends_an_event,
    a_stream_sends_new_events_as_the_feed_lists_them,
    last_event_id_resumes_a_stream_without_gap_or_duplicate,
    a_stream_can_be_filtered_by_type,
    resuming_a_stream_after_an_unknown_event_is_410,
    an_idle_stream_sends_keep_alives_and_ends_after_an_hour,
    keep_alives_do_not_follow_the_wall_clock,
    a_stopping_server_ends_streams,
    a_stalled_client_delays_neither_others_nor_the_stop,
    the_number_of_streams_is_limited,
}
