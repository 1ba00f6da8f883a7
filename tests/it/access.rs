//! Authentication towards receivers: passwords, tokens for client credentials, and what no answer shows.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::destinations::{patch, save, shown};
use crate::fakes::{Hit, Reply};
use crate::harness::{Harness, minutes, seconds};
use crate::tenants::errors;

/// `aladdin` and `open sesame`, the example of RFC 7617.
const BASIC: &str = "Basic YWxhZGRpbjpvcGVuIHNlc2FtZQ==";

fn token(text: &str, expires_in: u64) -> Reply {
    let issued = json!({ "access_token": text, "token_type": "bearer", "expires_in": expires_in });
    Reply::json(200, &issued)
}

/// Returns client credentials, for which the receiver issues tokens at `/token`.
fn credentials(t: &Harness) -> Value {
    t.receiver.other_signature("/token");
    json!({ "type": "oauth2", "tokenUrl": t.receiver.url("/token"), "clientId": "ring back",
            "clientSecret": "hush+hush", "scopes": ["hooks:write", "all"] })
}

/// Registers watches on jobs that have completed, with one destination.
async fn notify(t: &Harness, jobs: &[&str], saved: &str) {
    for job in jobs {
        t.provider.completed(job);
        t.register(&json!({ "jobId": job, "destinationId": saved })).await;
    }
}

/// Returns the requests to a path so far.
fn to(t: &Harness, path: &str) -> Vec<Hit> {
    t.receiver.all().into_iter().filter(|hit| hit.path == path).collect()
}

/// Returns the tokens of the webhooks to `/hook`.
fn tokens(t: &Harness) -> Vec<String> {
    to(t, "/hook").iter().map(|hit| hit.header("authorization").to_owned()).collect()
}

#[tokio::test]
async fn a_password_reaches_the_receiver_and_no_answer() {
    let t = Harness::start().await;
    let auth = json!({ "type": "basic", "username": "aladdin", "password": "open sesame" });
    let saved = save(&t, "/saved", json!({ "auth": auth })).await;
    t.provider.completed("job_1");
    let notify = json!([{ "destinationId": saved }, { "url": t.receiver.url("/inline"), "auth": auth }]);
    let watch = t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": notify })).await.expect(201);
    t.pass(seconds(5)).await;
    for path in ["/saved", "/inline"] {
        assert_eq!(t.receiver.next_to(path).await.header("authorization"), BASIC, "{path}");
    }
    let public = json!({ "type": "basic", "username": "aladdin" });
    assert_eq!(shown(&t, &saved).await["auth"], public);
    assert_eq!(watch["destinations"][1]["auth"], public);
    let delivery = t.get("/v1/deliveries").await.expect(200)["data"][0]["id"].clone();
    let attempts = format!("/v1/deliveries/{}/attempts", delivery.as_str().unwrap());
    let test = t.act(&format!("/v1/destinations/{saved}/test")).await;
    assert_eq!(test.expect(200)["requestHeaders"]["authorization"], "***");
    t.receiver.next_to("/saved").await;
    for path in ["/v1/destinations", "/v1/watches", "/v1/deliveries", &attempts] {
        let text = t.get(path).await.text().to_owned();
        assert!(!text.contains("sesame") && !text.contains(&BASIC[6..]), "{path}: {text}");
    }
    assert_eq!(patch(&t, &saved, &json!({ "auth": null })).await.expect(200)["auth"], Value::Null);
    t.act(&format!("/v1/destinations/{saved}/test")).await.expect(200);
    let hit = t.receiver.next_to("/saved").await;
    assert!(hit.headers.iter().all(|(name, _)| name != "authorization"), "{hit:?}");
    t.finish().await;
}

#[tokio::test]
async fn a_token_is_requested_once_and_renewed_before_it_expires() {
    let t = Harness::start().await;
    let saved = save(&t, "/hook", json!({ "auth": credentials(&t) })).await;
    t.receiver.script("/token", [token("one", 100), token("two", 100)]);
    notify(&t, &["job_1", "job_2"], &saved).await;
    t.pass(seconds(5)).await;
    let [request] = &to(&t, "/token")[..] else { panic!("{:?}", to(&t, "/token")) };
    // `ring+back:hush%2Bhush`, each part encoded as in a form.
    assert_eq!(request.header("authorization"), "Basic cmluZytiYWNrOmh1c2glMkJodXNo");
    assert_eq!(request.header("content-type"), "application/x-www-form-urlencoded");
    let body = String::from_utf8_lossy(&request.body).into_owned();
    assert_eq!(body, "grant_type=client_credentials&scope=hooks%3Awrite+all");
    assert_eq!(tokens(&t), ["Bearer one"; 2]);
    t.pass(seconds(60)).await;
    notify(&t, &["job_3"], &saved).await;
    t.pass(seconds(5)).await;
    assert_eq!((to(&t, "/token").len(), tokens(&t).len()), (1, 3));
    t.pass(seconds(25)).await;
    notify(&t, &["job_4"], &saved).await;
    t.pass(seconds(5)).await;
    // It is renewed beside the attempt, which uses the first one.
    notify(&t, &["job_5"], &saved).await;
    t.pass(seconds(5)).await;
    assert_eq!(
        (to(&t, "/token").len(), &tokens(&t)[3..]),
        (2, &["Bearer one".to_owned(), "Bearer two".to_owned()][..])
    );
    let shown = shown(&t, &saved).await["auth"].clone();
    let public = json!({ "type": "oauth2", "tokenUrl": t.receiver.url("/token"), "clientId": "ring back",
                         "scopes": ["hooks:write", "all"] });
    assert_eq!(shown, public);
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_refused_token_is_replaced_within_the_attempt() {
    let t = Harness::start().await;
    let saved = save(&t, "/hook", json!({ "auth": credentials(&t) })).await;
    t.receiver.script("/token", [token("one", 3_600), token("two", 3_600)]);
    notify(&t, &["job_1"], &saved).await;
    t.pass(minutes(1)).await;
    t.receiver.script("/hook", [Reply::status(401)]);
    t.provider.completed("job_2");
    let watch = t.register(&json!({ "jobId": "job_2", "destinationId": saved })).await;
    t.pass(seconds(5)).await;
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["attemptCount"]), (&json!("succeeded"), &json!(1)));
    assert_eq!(tokens(&t), ["Bearer one", "Bearer one", "Bearer two"]);
    // A new token that is refused as well is not the cause.
    t.receiver.always("/hook", Some(Reply::status(401)));
    let refused = t.act(&format!("/v1/destinations/{saved}/test")).await.expect(200);
    assert_eq!((&refused["statusCode"], to(&t, "/token").len()), (&json!(401), 2));
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_failed_token_request_names_its_host_and_spares_the_receiver() {
    let t = Harness::start().await;
    let saved = save(&t, "/hook", json!({ "auth": credentials(&t) })).await;
    let refusal = json!({ "error": "invalid_client", "error_description": "not hush+hush" });
    t.receiver.always("/token", Some(Reply::json(401, &refusal)));
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "destinationId": saved })).await;
    t.pass(seconds(5)).await;
    let id = t.delivery(&watch).await["id"].as_str().unwrap().to_owned();
    let attempts = t.get(&format!("/v1/deliveries/{id}/attempts")).await;
    let error = format!(
        "token: {}: answered HTTP 401 (invalid_client) to the request for a token",
        t.receiver.url("").trim_end_matches('/')
    );
    let first = &attempts.expect(200)["data"][0];
    assert_eq!((&first["error"], &first["statusCode"]), (&json!(error), &Value::Null));
    assert!(!attempts.text().contains("hush"), "{}", attempts.text());
    let test = t.act(&format!("/v1/destinations/{saved}/test")).await.expect(200);
    assert!(test["hint"].as_str().unwrap().contains("clientSecret"), "{test}");
    assert_eq!(to(&t, "/hook").len(), 0);
    t.receiver.always("/token", Some(token("one", 3_600)));
    t.pass(minutes(10)).await;
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    assert_eq!(tokens(&t), ["Bearer one"]);
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn each_attempt_without_a_token_has_requested_one() {
    let t = Harness::start().await;
    let saved = save(&t, "/hook", json!({ "auth": credentials(&t) })).await;
    t.receiver.always("/token", Some(Reply::status(503)));
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "destinationId": saved })).await;
    t.pass(seconds(5)).await;
    let first = t.delivery(&watch).await;
    assert_eq!((&first["attemptCount"], to(&t, "/token").len()), (&json!(1), 1));
    let retry = format!("/v1/deliveries/{}/retry", first["id"].as_str().unwrap());
    // A second later, the failure still holds: nothing is sent, and nothing is recorded.
    t.pass(seconds(1)).await;
    t.act(&retry).await.expect(202);
    t.rest().await;
    assert_eq!((&t.delivery(&watch).await["attemptCount"], to(&t, "/token").len()), (&json!(1), 1));
    // The retry was not lost.
    t.pass(seconds(1)).await;
    assert_eq!((&t.delivery(&watch).await["attemptCount"], to(&t, "/token").len()), (&json!(2), 2));
    t.receiver.always("/token", Some(token("one", 3_600)));
    t.pass(minutes(10)).await;
    let delivery = t.delivery(&watch).await;
    assert_eq!(delivery["status"], "succeeded");
    let requests = u64::try_from(to(&t, "/token").len()).unwrap();
    assert_eq!(delivery["attemptCount"].as_u64(), Some(requests));
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_test_requests_a_token_again_after_a_failure() {
    let t = Harness::start().await;
    let saved = save(&t, "/hook", json!({ "auth": credentials(&t) })).await;
    t.receiver.script("/token", [Reply::status(503), token("one", 3_600)]);
    let path = format!("/v1/destinations/{saved}/test");
    let failed = t.act(&path).await.expect(200);
    assert!(failed["error"].as_str().unwrap().starts_with("token: "), "{failed}");
    t.pass(seconds(1)).await;
    let sent = {
        let mut answer = std::pin::pin!(t.act(&path));
        // When the test begins to wait is not visible from outside. Its deadline is much later.
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => break answer.expect(200),
                _ = t.get_without_key("/healthz") => t.clock.advance(seconds(1) / 10),
            }
        }
    };
    assert_eq!((&sent["ok"], to(&t, "/token").len()), (&json!(true), 2), "{sent}");
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn an_audience_is_requested_and_shown() {
    let t = Harness::start().await;
    let mut auth = credentials(&t);
    auth["audience"] = json!("https://api.example/v1");
    let saved = save(&t, "/hook", json!({ "auth": auth })).await;
    t.receiver.script("/token", [token("one", 3_600)]);
    t.act(&format!("/v1/destinations/{saved}/test")).await.expect(200);
    let body = String::from_utf8_lossy(&to(&t, "/token")[0].body).into_owned();
    assert!(body.ends_with("&audience=https%3A%2F%2Fapi.example%2Fv1"), "{body}");
    assert_eq!(shown(&t, &saved).await["auth"]["audience"], auth["audience"]);
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_token_host_that_is_down_does_not_hold_the_receiver_back() {
    let t = Harness::start().await;
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut auth = credentials(&t);
    auth["tokenUrl"] = json!(format!("http://{closed}/token"));
    let saved = save(&t, "/hook", json!({ "auth": auth })).await;
    let jobs = ["job_1", "job_2", "job_3", "job_4", "job_5", "job_6", "job_7", "job_8"];
    notify(&t, &jobs, &saved).await;
    t.pass(minutes(1)).await;
    let failed = t.get("/v1/deliveries").await.expect(200)["data"][0]["id"].as_str().unwrap().to_owned();
    let attempts = t.get(&format!("/v1/deliveries/{failed}/attempts")).await.expect(200);
    let error = attempts["data"][0]["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with(&format!("token: http://{closed}: connect: ")), "{error}");
    // Another destination of the same host is not held back.
    t.provider.completed("job_9");
    let watch = t.register(&json!({ "jobId": "job_9", "callbackUrl": t.receiver.url("/other") })).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    assert_eq!(t.receiver.next().await.watch(), watch);
    t.give_up().await;
}

#[tokio::test]
async fn many_attempts_share_one_request_for_a_token() {
    let t = Harness::start().await;
    let saved = save(&t, "/hook", json!({ "auth": credentials(&t) })).await;
    let (held, gate) = token("one", 3_600).held();
    t.receiver.script("/token", [held]);
    let path = format!("/v1/destinations/{saved}/test");
    let opened = async {
        t.receiver.received(1).await;
        gate.open();
    };
    let (one, two, three, four, ()) =
        tokio::join!(t.act(&path), t.act(&path), t.act(&path), t.act(&path), opened);
    for sent in [one, two, three, four] {
        assert_eq!(sent.expect(200)["ok"], true);
    }
    assert_eq!((to(&t, "/token").len(), tokens(&t)), (1, vec!["Bearer one".to_owned(); 4]));
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_receiver_cannot_show_what_was_sent_in_secret() {
    let t = Harness::start().await;
    let echo = "x-key: HEADERSECRET1234, authorization: Basic YWxhZGRpbjpvcGVuIHNlc2FtZQ==, open sesame";
    t.receiver.always("/hook", Some(Reply::new(400, echo).with("x-echo", echo)));
    let auth = json!({ "type": "basic", "username": "aladdin", "password": "open sesame" });
    let headers = json!({ "x-key": "HEADERSECRET1234" });
    let saved = save(&t, "/hook", json!({ "auth": auth, "headers": headers })).await;
    notify(&t, &["job_1"], &saved).await;
    t.pass(seconds(5)).await;
    let delivery = t.get("/v1/deliveries").await.expect(200)["data"][0]["id"].as_str().unwrap().to_owned();
    let delivery = t.get(&format!("/v1/deliveries/{delivery}")).await.expect(200);
    let tested = t.act(&format!("/v1/destinations/{saved}/test")).await.expect(200);
    let hidden = "x-key: ***, authorization: ***, ***";
    for (shown, headers) in [
        (&delivery["attempts"][0]["responseBody"], &delivery["attempts"][0]["responseHeaders"]),
        (&tested["responseBody"], &tested["responseHeaders"]),
    ] {
        assert_eq!(shown, hidden);
        assert!(!headers.to_string().contains("HEADERSECRET1234") && headers.to_string().contains(hidden));
    }
    t.receiver.read_all();
    t.give_up().await;
}

#[tokio::test]
async fn a_silent_token_url_leaves_places_of_the_host() {
    let mut t = Harness::start().await;
    t.receiver.other_signature("/token");
    t.receiver.always("/token", Some(Reply::stalled(200)));
    for n in 0..60 {
        let mut auth = credentials(&t);
        auth["clientId"] = json!(format!("client {n}"));
        let url = t.receiver.url(&format!("/guarded/{n}"));
        t.provider.completed(&format!("job_{n}"));
        let notify = json!([{ "url": url, "auth": auth }]);
        t.register(&json!({ "jobId": format!("job_{n}"), "notify": notify })).await;
    }
    t.pass(seconds(5)).await;
    t.provider.completed("job_60");
    let watch = t.register(&json!({ "jobId": "job_60", "callbackUrl": t.receiver.url("/hook") })).await;
    // One timeout of the requests that were made before it was known that the URL is silent.
    for _ in 0..30 {
        t.pass(seconds(1)).await;
    }
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    assert!(to(&t, "/token").len() < 20, "{}", to(&t, "/token").len());
    // Requests are held back, and would delay a stop.
    t.crash().await;
    t.give_up().await;
}

#[tokio::test]
async fn fields_of_an_authentication_are_checked() {
    let t = Harness::start().await;
    let url = t.receiver.url("/hook");
    let oauth2 = |token_url: &str| json!({ "type": "oauth2", "tokenUrl": token_url, "clientId": "c", "clientSecret": "hush" });
    let basic = json!({ "type": "basic", "username": "u", "password": "hush" });
    for (fields, pointer) in [
        (json!({ "auth": oauth2("http://169.254.169.254/") }), "auth/tokenUrl"),
        (json!({ "auth": oauth2("ftp://a.example/") }), "auth/tokenUrl"),
        (json!({ "auth": { "type": "digest" } }), "auth/type"),
        (json!({ "auth": basic, "headers": { "Authorization": "x" } }), "headers/authorization"),
    ] {
        let mut body = fields.clone();
        body["url"] = json!(url);
        let answer = t.post("/v1/destinations", &body).await;
        assert_eq!(errors(&answer), [format!("/{pointer}")], "{fields}");
        assert!(!answer.text().contains("hush"), "{}", answer.text());
        let answer = t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": [body] })).await;
        assert_eq!(errors(&answer), [format!("/notify/0/{pointer}")], "{fields}");
    }
    let saved = save(&t, "/hook", json!({ "headers": { "authorization": "x" } })).await;
    assert_eq!(errors(&patch(&t, &saved, &json!({ "auth": basic })).await), ["/auth"]);
    let forbidden = json!({ "auth": oauth2("http://10.0.0.1/"), "headers": null });
    assert_eq!(errors(&patch(&t, &saved, &forbidden).await), ["/auth/tokenUrl"]);
    let mail = json!({ "type": "slack", "url": "https://hooks.slack.com/services/T0/B0/x", "auth": basic });
    assert_eq!(errors(&t.post("/v1/destinations", &mail).await), ["/auth"]);
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_test_requests_a_token_again_after_a_failure,
    a_password_reaches_the_receiver_and_no_answer,
    a_token_is_requested_once_and_renewed_before_it_expires,
    a_refused_token_is_replaced_within_the_attempt,
    a_failed_token_request_names_its_host_and_spares_the_receiver,
    each_attempt_without_a_token_has_requested_one,
    an_audience_is_requested_and_shown,
    a_token_host_that_is_down_does_not_hold_the_receiver_back,
    many_attempts_share_one_request_for_a_token,
    a_receiver_cannot_show_what_was_sent_in_secret,
    a_silent_token_url_leaves_places_of_the_host,
    fields_of_an_authentication_are_checked,
}
