//! The feed as server-sent events: `GET /v1/events/stream`.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::{AUTH, Harness, guarded, id, minutes, seconds};
use crate::wire::{self, Answer};

/// Somebody who follows.
pub struct Follower {
    stream: BufReader<TcpStream>,
    head: String,
    text: String,
}

/// One event of the stream.
#[derive(Debug, PartialEq)]
pub struct NotifyProgress {
    pub id: String,
    pub event: String,
    pub data: Value,
}

impl Follower {
    /// Asks, and reads the head of the answer.
    async fn ask(t: &Harness, query: &str, headers: &[(&str, &str)]) -> Self {
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

    /// Follows, and reads the first line.
    pub async fn start(t: &Harness, query: &str, headers: &[(&str, &str)]) -> Self {
        let mut follower = Self::ask(t, query, headers).await;
        assert!(follower.head.starts_with("HTTP/1.1 200"), "{}", follower.head);
        assert!(follower.head.contains("content-type: text/event-stream\r\n"), "{}", follower.head);
        assert_eq!(follower.block().await.as_deref(), Some("retry: 1000"));
        follower
    }

    /// The next block of lines; `None` where the stream ends in order.
    async fn block(&mut self) -> Option<String> {
        guarded("the stream", async {
            loop {
                if let Some((block, rest)) = self.text.split_once("\n\n") {
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

    /// The next event, past signs of life.
    pub async fn next(&mut self) -> NotifyProgress {
        loop {
            let block = self.block().await.expect("an event");
            if block.starts_with(':') {
                continue;
            }
            let field = |name: &str| -> Vec<String> {
                let prefix = format!("{name}: ");
                block.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
            };
            let data = serde_json::from_str(&field("data").join("\n")).unwrap();
            return NotifyProgress { id: field("id").remove(0), event: field("event").remove(0), data };
        }
    }
}

/// Ends a job that somebody watches and who asks for nothing to be sent.
async fn end(t: &Harness, job: &str, metadata: &Value) {
    t.provider.completed(job);
    t.register(&json!({ "jobId": job, "notify": [], "metadata": metadata })).await;
    t.pass(seconds(5)).await;
}

async fn feed(t: &Harness, query: &str) -> Vec<Value> {
    t.get(&format!("/v1/events{query}")).await.expect(200)["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn who_follows_is_told_nothing_more_once_the_key_is_revoked() {
    let t = Harness::start().await;
    let key = t.post("/v1/keys", &json!({ "scope": "read" })).await.expect(201);
    let auth = format!("Bearer {}", key["key"].as_str().unwrap());
    let mut follower = Follower::start(&t, "", &[("authorization", &auth)]).await;
    end(&t, "job_1", &json!({})).await;
    assert_eq!(follower.next().await.event, "job.completed");
    assert_eq!(t.delete(&format!("/v1/keys/{}", id(&key))).await.status, 204);
    end(&t, "job_2", &json!({})).await;
    assert_eq!(follower.block().await, None);
    t.finish().await;
}

#[tokio::test]
async fn who_follows_is_told_what_happens_from_now_on_as_the_feed_lists_it() {
    let t = Harness::start().await;
    end(&t, "job_0", &json!({})).await;
    let mut follower = Follower::start(&t, "", &[]).await;
    end(&t, "job_1", &json!({ "n": 1 })).await;
    let told = follower.next().await;
    let listed = feed(&t, "").await;
    assert_eq!((&told.data, told.event.as_str(), &told.id), (&listed[1], "job.completed", &id(&listed[1])));
    end(&t, "job_2", &json!({})).await;
    assert_eq!(follower.next().await.data["data"]["jobId"], "job_2");
    drop(follower);
    t.finish().await;
}

#[tokio::test]
async fn last_event_id_resumes_where_it_broke_off_and_nothing_is_skipped_or_told_twice() {
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
    // The header goes before the URL, which a client repeats as it was; also after a crash.
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
async fn a_type_is_followed_alone() {
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
async fn who_wants_to_go_on_after_an_event_that_is_not_there_is_told_so() {
    let t = Harness::start().await;
    let none = format!("evt_{}", "0".repeat(26));
    for (query, header) in
        [(format!("?after={none}"), None), (String::new(), Some(none.as_str())), (String::new(), Some("x"))]
    {
        let headers: Vec<(&str, &str)> = header.map(|id| ("last-event-id", id)).into_iter().collect();
        let follower = Follower::ask(&t, &query, &headers).await;
        assert!(follower.head.starts_with("HTTP/1.1 410"), "{}", follower.head);
    }
    for (path, status) in [("?x=1", 422), ("?type=x", 422)] {
        assert_eq!(t.get(&format!("/v1/events/stream{path}")).await.status, status);
    }
    assert_eq!(t.get_without_key("/v1/events/stream").await.status, 401);
    t.finish().await;
}

#[tokio::test]
async fn a_quiet_stream_shows_that_it_lives_each_quarter_of_a_minute_and_ends_after_an_hour() {
    let t = Harness::start().await;
    let mut follower = Follower::start(&t, "", &[]).await;
    for _ in 0..239 {
        t.pass(seconds(15)).await;
        assert_eq!(follower.block().await.as_deref(), Some(": keep-alive"));
    }
    t.pass(seconds(15)).await;
    assert_eq!(follower.block().await.as_deref(), Some("retry: 1000"));
    assert_eq!(follower.block().await, None);
    t.finish().await;
}

#[tokio::test]
async fn a_stream_ends_when_the_server_does_and_says_when_to_come_back() {
    let mut t = Harness::start().await;
    let mut follower = Follower::start(&t, "", &[]).await;
    t.stop().await;
    assert_eq!(follower.block().await.as_deref(), Some("retry: 1000"));
    assert_eq!(follower.block().await, None);
    t.restart().await;
    t.finish().await;
}

#[tokio::test]
async fn who_takes_nothing_neither_holds_the_others_up_nor_the_stop() {
    let mut t = Harness::start().await;
    let _idle = Follower::start(&t, "", &[]).await;
    let mut busy = Follower::start(&t, "", &[]).await;
    // Far more than a connection holds that nobody reads from.
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
        () = ticking => unreachable!("it ticks for ever"),
    }
    // At the latest when the grace is over.
    t.released().await;
    t.restart().await;
    t.give_up().await;
}

#[tokio::test]
async fn there_are_places_for_so_many_and_one_that_was_left_is_free_again() {
    let t = Harness::start().await;
    let mut followers = Vec::new();
    // Seven eighths of 512: the rest is for other apps.
    for _ in 0..448 {
        followers.push(Follower::start(&t, "", &[]).await);
    }
    let refused: Answer = t.get("/v1/events/stream").await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    followers.clear();
    guarded("a place", async {
        while !Follower::ask(&t, "", &[]).await.head.starts_with("HTTP/1.1 200") {
            t.pass(minutes(1)).await;
        }
    })
    .await;
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    who_follows_is_told_nothing_more_once_the_key_is_revoked,
    who_follows_is_told_what_happens_from_now_on_as_the_feed_lists_it,
    last_event_id_resumes_where_it_broke_off_and_nothing_is_skipped_or_told_twice,
    a_type_is_followed_alone,
    who_wants_to_go_on_after_an_event_that_is_not_there_is_told_so,
    a_quiet_stream_shows_that_it_lives_each_quarter_of_a_minute_and_ends_after_an_hour,
    a_stream_ends_when_the_server_does_and_says_when_to_come_back,
    who_takes_nothing_neither_holds_the_others_up_nor_the_stop,
    there_are_places_for_so_many_and_one_that_was_left_is_free_again,
}
