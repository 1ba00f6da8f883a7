//! Test sends: one event to a destination, through the path of deliveries, and nothing else.

use serde_json::{Value, json};

use crate::chat::{Chat, HOOKS};
use crate::cli::{ask, url};
use crate::destinations::{patch, save, shown};
use crate::fakes::Reply;
use crate::harness::{AUTH, Harness, JSON, Neighbours, guarded, seconds};
use crate::mail_server::{OPEN, Quirk};
use crate::tenants::errors;

async fn test(t: &Harness, destination: impl Into<Value>) -> Value {
    t.post("/v1/test", &json!({ "destination": destination.into() })).await.expect(200)
}

#[tokio::test]
async fn a_test_is_sent_once_and_shows_the_answer() {
    let t = Harness::start().await;
    t.receiver.script("/hook", [Reply::new(202, "thanks")]);
    let destination = json!({ "url": t.receiver.url("/hook"), "headers": { "x-token": "hush" },
        "keys": ["hmac", "ed25519"] });
    let result = test(&t, destination).await;
    let hit = t.receiver.next().await;
    assert_eq!(hit.header("ringback-event"), "test");
    assert!(hit.headers.iter().all(|(name, _)| name != "ringback-watch"), "{hit:?}");
    let body: Value = serde_json::from_slice(&hit.body).unwrap();
    assert_eq!((&body["type"], &body["timestamp"]), (&json!("test"), &json!(hit.at)));
    assert_eq!(body["data"]["destinationId"], Value::Null);
    assert!(body["data"]["message"].as_str().unwrap().contains("test"), "{body}");
    assert_eq!((&result["ok"], &result["statusCode"]), (&json!(true), &json!(202)));
    assert_eq!((&result["error"], &result["hint"]), (&Value::Null, &Value::Null));
    assert_eq!(result["responseBody"], "thanks");
    assert_eq!(result["requestHeaders"]["x-token"], "***");
    assert_eq!(result["requestHeaders"]["webhook-id"], hit.id());
    assert!(!result.to_string().contains("hush"));
    assert!(result["durationMs"].is_u64() && result["responseHeaders"].is_object(), "{result}");
    // A plain URL is a destination, too.
    assert_eq!(test(&t, t.receiver.url("/hook")).await["ok"], true);
    t.pass(seconds(3600)).await;
    assert_eq!(t.receiver.count(), 2, "it is not repeated");
    for path in ["/v1/deliveries", "/v1/events", "/v1/watches"] {
        assert_eq!(t.get(path).await.expect(200)["data"], json!([]), "{path}");
    }
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_failed_test_is_explained_and_holds_nothing_back() {
    let t = Harness::start().await;
    t.receiver.always("/hook", Some(Reply::new(500, "broken")));
    for _ in 0..6 {
        let result = test(&t, t.receiver.url("/hook")).await;
        assert_eq!((&result["ok"], &result["statusCode"]), (&json!(false), &json!(500)));
        assert_eq!(result["responseBody"], "broken");
        assert!(result["hint"].as_str().unwrap().contains("its log"), "{result}");
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let result = test(&t, format!("http://{closed}/")).await;
    assert_eq!((&result["ok"], &result["statusCode"]), (&json!(false), &Value::Null));
    assert!(result["error"].as_str().unwrap().starts_with("connect: "), "{result}");
    assert!(result["hint"].as_str().unwrap().contains("whether the receiver runs"), "{result}");
    // Six failures of deliveries would hold the URL back.
    t.receiver.always("/hook", None);
    t.receiver.read_all();
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "callbackUrl": t.receiver.url("/hook") })).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next().await.watch(), watch);
    t.finish().await;
}

#[tokio::test]
async fn a_held_back_destination_can_be_tested() {
    let t = Harness::start().await;
    t.receiver.always("/hook", Some(Reply::status(500)));
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "callbackUrl": t.receiver.url("/hook") })).await;
    t.pass(seconds(5)).await;
    let before = t.delivery(&watch).await;
    t.receiver.always("/hook", None);
    assert_eq!(test(&t, t.receiver.url("/hook")).await["ok"], true);
    assert_eq!(t.delivery(&watch).await, before, "its delivery waits for its own retry");
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_test_is_refused_where_a_registration_would_be() {
    let t = Harness::start().await;
    for (destination, pointer) in [
        (json!("http://169.254.169.254/"), "/destination"),
        (json!("ops"), "/destination"),
        (json!({ "url": "http://10.0.0.1/" }), "/destination/url"),
        (json!({ "email": "me@example.com", "type": "email" }), "/destination/email"),
        (json!({ "type": "slack", "channel": "#ops" }), "/destination/channel"),
        (json!(["https://app.example.com"]), "/destination"),
    ] {
        let answer = t.post("/v1/test", &json!({ "destination": destination })).await;
        assert_eq!(errors(&answer), [pointer], "{destination}");
    }
    assert_eq!(errors(&t.post("/v1/test", &json!({})).await), ["/destination"]);
    let extra = json!({ "destination": t.receiver.url("/hook"), "watchId": "x" });
    assert_eq!(errors(&t.post("/v1/test", &extra).await), ["/watchId"]);
    assert_eq!(t.receiver.count(), 0);
    t.finish().await;
}

#[tokio::test]
async fn an_app_sends_ten_tests_a_minute() {
    let t = Harness::start().await;
    let other = crate::tenants::tenant(&t, "b").await;
    let hook = t.receiver.url("/hook");
    for _ in 0..10 {
        test(&t, hook.as_str()).await;
    }
    let body = json!({ "destination": hook });
    let answer = t.post("/v1/test", &body).await;
    assert_eq!(answer.header("retry-after"), Some("60"));
    assert_eq!(answer.expect(429)["code"], "rate_limited");
    t.receiver.secret("/hook", &other.secret);
    t.as_key(&other.key, "POST", "/v1/test", &body.to_string()).await.expect(200);
    t.receiver.secret("/hook", crate::harness::SECRET);
    // What is refused counts not.
    t.post("/v1/test", &json!({ "destination": "http://10.0.0.1/" })).await.expect(422);
    t.pass(seconds(60)).await;
    test(&t, hook.as_str()).await;
    assert_eq!(t.receiver.count(), 12);
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_repeated_test_with_an_idempotency_key_is_not_sent_again() {
    let t = Harness::start().await;
    let body = json!({ "destination": t.receiver.url("/hook") }).to_string();
    let send = async || {
        let headers = [AUTH, JSON, ("idempotency-key", "k1")];
        t.send("POST", "/v1/test", &headers, body.as_bytes()).await
    };
    let (first, again) = (send().await, send().await);
    first.expect(200);
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(t.receiver.count(), 1);
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_test_of_a_chat_keeps_its_pace_and_is_readable() {
    let mut neighbours = Neighbours::default();
    let chat = Chat::start(&mut neighbours).await;
    let t = Harness::among(neighbours, &[]).await;
    t.resolve(HOOKS, &["127.0.0.1"]);
    let result = test(&t, json!({ "type": "slack", "url": chat.hook("hush") })).await;
    assert_eq!((&result["ok"], &result["responseBody"]), (&json!(true), &json!("ok")));
    assert!(!result.to_string().contains("hush"), "{result}");
    let posted = chat.next().await;
    assert_eq!(posted.payload["text"], "\u{1f514} Test: a message to this address");
    assert!(posted.payload["blocks"].to_string().contains("This is a test."), "{}", posted.payload);
    // A delivery follows as usual.
    t.provider.completed("job_1");
    t.register(&json!({ "jobId": "job_1", "slack": chat.hook("hush") })).await;
    t.pass(seconds(6)).await;
    chat.next().await;
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn a_test_that_is_rate_limited_holds_its_chat_back() {
    let mut neighbours = Neighbours::default();
    let chat = Chat::start(&mut neighbours).await;
    let t = Harness::among(neighbours, &[]).await;
    t.resolve(HOOKS, &["127.0.0.1"]);
    let headers = vec![("retry-after".to_owned(), "30".to_owned())];
    chat.script("/services/T01/B02/hush", [(429, headers, "slow down".to_owned())]);
    let result = test(&t, chat.hook("hush")).await;
    assert_eq!((&result["ok"], &result["statusCode"]), (&json!(false), &json!(429)));
    chat.next().await;
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "slack": chat.hook("hush") })).await;
    t.pass(seconds(10)).await;
    assert_eq!(t.delivery(&watch).await["attemptCount"], 0);
    // Another test finds the chat closed.
    let body = json!({ "destination": chat.hook("hush") });
    assert_eq!(t.post("/v1/test", &body).await.expect(503)["code"], "too_many_requests");
    t.pass(seconds(30)).await;
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    chat.next().await;
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn a_test_by_mail_says_what_it_is() {
    let (t, server) = crate::mailing::start(OPEN, &[]).await;
    let result = test(&t, "mailto:me@example.com").await;
    assert_eq!((&result["ok"], &result["statusCode"]), (&json!(true), &Value::Null));
    let mail = server.next().await;
    assert_eq!(mail.header("Subject"), "Test: a message to this address (Ringback)");
    for part in mail.parts() {
        assert!(part.contains("This is a test."), "{part}");
        assert!(part.contains("Sent on request, to check this address."), "{part}");
    }
    let answer = t.post("/v1/test", &json!({ "destination": "mailto:me@other.example" })).await;
    assert_eq!(errors(&answer), ["/destination"]);
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_test_by_mail_without_a_final_reply_is_unclear() {
    let (t, server) = crate::mailing::start(OPEN, &[]).await;
    server.script([Quirk::Half(".")]);
    let (result, ()) = tokio::join!(test(&t, "mailto:me@example.com"), async {
        let waits = async {
            while t.held.count() == 0 {
                tokio::task::yield_now().await;
            }
        };
        guarded("a whole message", waits).await;
        t.clock.advance(seconds(60));
    });
    let error = "timeout: no reply to the message within 60 s; it may have accepted the mail";
    assert_eq!((&result["ok"], &result["error"]), (&json!(false), &json!(error)));
    assert_eq!(result["durationMs"], 60_000);
    assert!(result["hint"].as_str().unwrap().contains("whether the mail arrives"), "{result}");
    t.finish().await;
}

#[tokio::test]
async fn the_command_test_sends_and_explains() {
    let t = Harness::start().await;
    let hook = t.receiver.url("/hook");
    let ran = ask(&url(&t), &["test", "--webhook", &hook]).await.expect(0);
    assert!(ran.out.starts_with("The receiver accepted the test: HTTP 200 after "), "{ran:#?}");
    t.receiver.always("/hook", Some(Reply::new(404, "nothing here")));
    let ran = ask(&url(&t), &["test", "--webhook", &hook]).await.expect(1);
    assert!(
        ran.err.contains("The test failed: HTTP 404") && ran.err.contains("hint: check the path"),
        "{ran:#?}"
    );
    let ran = ask(&url(&t), &["test", "--webhook", &hook, "--json"]).await.expect(1);
    assert_eq!(ran.json()["responseBody"], "nothing here");
    let ran = ask(&url(&t), &["test", "--webhook", "http://10.0.0.1/"]).await.expect(1);
    assert!(ran.err.contains("--webhook: "), "{ran:#?}");
    ask(&url(&t), &["test"]).await.expect(2);
    let saved = save(&t, "/saved", json!({ "enabled": false })).await;
    ask(&url(&t), &["test", "--destination", &saved]).await.expect(0);
    let unknown = ["test", "--destination", "dst_00000000000000000000000000"];
    let ran = ask(&url(&t), &unknown).await.expect(1);
    assert!(ran.err.starts_with("--destination: there is no saved destination"), "{ran:#?}");
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_disabled_destination_is_tested_and_nothing_changes() {
    let t = Harness::start().await;
    let saved = save(&t, "/hook", json!({ "events": ["watch.expired"], "enabled": false })).await;
    let path = format!("/v1/destinations/{saved}");
    let before = shown(&t, &saved).await;
    let sent = t.act(&format!("{path}/test")).await.expect(200);
    assert_eq!((&sent["ok"], &sent["statusCode"]), (&json!(true), &json!(200)));
    let hit = t.receiver.next().await;
    let body: Value = serde_json::from_slice(&hit.body).unwrap();
    assert_eq!((&body["type"], &body["data"]["destinationId"]), (&json!("test"), &json!(saved)));
    // An answer that disables a destination after a delivery.
    t.receiver.always("/hook", Some(Reply::new(410, "gone")));
    let gone = test(&t, json!({ "destinationId": saved })).await;
    assert_eq!((&gone["ok"], &gone["statusCode"]), (&json!(false), &json!(410)));
    t.pass(seconds(3600)).await;
    assert_eq!((shown(&t, &saved).await, t.receiver.count()), (before, 2));
    t.act("/v1/destinations/dst_00000000000000000000000000/test").await.expect(404);
    let unknown = json!({ "destination": { "destinationId": "dst_00000000000000000000000000" } });
    assert_eq!(errors(&t.post("/v1/test", &unknown).await), ["/destination/destinationId"]);
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn six_failed_tests_hold_no_delivery_of_a_saved_one_back() {
    let t = Harness::start().await;
    let saved = save(&t, "/hook", json!({})).await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    patch(&t, &saved, &json!({ "url": format!("http://{closed}/") })).await.expect(200);
    for _ in 0..6 {
        let failed = t.act(&format!("/v1/destinations/{saved}/test")).await.expect(200);
        assert!(failed["error"].as_str().unwrap().starts_with("connect: "), "{failed}");
    }
    let health = shown(&t, &saved).await["health"].clone();
    assert_eq!((&health["successRate"], &health["failingSince"]), (&Value::Null, &Value::Null));
    patch(&t, &saved, &json!({ "url": t.receiver.url("/hook") })).await.expect(200);
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "destinationId": saved })).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next().await.watch(), watch);
    t.finish().await;
}

#[tokio::test]
async fn tests_of_all_destinations_share_one_limit() {
    let t = Harness::start().await;
    let saved = save(&t, "/saved", json!({})).await;
    let path = format!("/v1/destinations/{saved}/test");
    for _ in 0..5 {
        t.act(&path).await.expect(200);
        test(&t, t.receiver.url("/hook")).await;
    }
    assert_eq!(t.act(&path).await.expect(429)["code"], "rate_limited");
    t.post("/v1/test", &json!({ "destination": t.receiver.url("/hook") })).await.expect(429);
    assert_eq!(t.receiver.count(), 10);
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_saved_chat_is_tested_at_the_pace_of_its_address() {
    let mut neighbours = Neighbours::default();
    let chat = Chat::start(&mut neighbours).await;
    let t = Harness::among(neighbours, &[]).await;
    t.resolve(HOOKS, &["127.0.0.1"]);
    let hook = json!({ "type": "slack", "url": chat.hook("hush") });
    let saved = crate::harness::id(&t.post("/v1/destinations", &hook).await.expect(201));
    let headers = vec![("retry-after".to_owned(), "30".to_owned())];
    chat.script("/services/T01/B02/hush", [(429, headers, "slow down".to_owned())]);
    let limited = t.act(&format!("/v1/destinations/{saved}/test")).await.expect(200);
    assert_eq!(limited["statusCode"], 429);
    chat.next().await;
    let refused = t.post("/v1/test", &json!({ "destination": hook })).await;
    assert_eq!(refused.expect(503)["code"], "too_many_requests", "the same address, saved or not");
    t.finish().await;
    chat.finish();
}

crate::postgres::on_postgres_too! {
    a_disabled_destination_is_tested_and_nothing_changes,
    six_failed_tests_hold_no_delivery_of_a_saved_one_back,
    tests_of_all_destinations_share_one_limit,
    a_saved_chat_is_tested_at_the_pace_of_its_address,
    a_test_is_sent_once_and_shows_the_answer,
    a_failed_test_is_explained_and_holds_nothing_back,
    a_held_back_destination_can_be_tested,
    a_test_is_refused_where_a_registration_would_be,
    an_app_sends_ten_tests_a_minute,
    a_repeated_test_with_an_idempotency_key_is_not_sent_again,
    a_test_of_a_chat_keeps_its_pace_and_is_readable,
    a_test_that_is_rate_limited_holds_its_chat_back,
    a_test_by_mail_says_what_it_is,
    a_test_by_mail_without_a_final_reply_is_unclear,
    the_command_test_sends_and_explains,
}
