//! Saved destinations of the configuration file: `[[destination]]`.

use serde_json::{Value, json};

use crate::destinations::{patch, shown};
use crate::fakes::Reply;
use crate::harness::{Harness, id, seconds};

const PATH: &str = "/v1/destinations";

async fn all(t: &Harness) -> Vec<Value> {
    t.get(PATH).await.expect(200)["data"].as_array().unwrap().clone()
}

async fn restart_with(t: &mut Harness, text: &str) {
    t.stop().await;
    t.file_text = Some(text.to_owned());
    t.restart().await;
}

#[tokio::test]
async fn the_file_creates_and_changes_a_destination_under_one_id() {
    let mut t = Harness::start().await;
    let (a, b) = (t.receiver.url("/a"), t.receiver.url("/b"));
    restart_with(&mut t, &format!("[[destination]]\nname = 'ops'\nurl = '{a}'\nconcurrency = 4\n")).await;
    let [first] = &all(&t).await[..] else { panic!("one") };
    assert_eq!((&first["managed"], &first["name"], &first["url"]), (&json!(true), &json!("ops"), &json!(a)));
    let destination = id(first);
    t.provider.completed("job_1");
    t.register(&json!({ "jobId": "job_1", "destinationId": destination })).await;
    t.pass(seconds(5)).await;
    // Without a secret in the file, the app's secret signs, which the receiver verifies.
    t.receiver.next_to("/a").await;
    restart_with(&mut t, &format!("[[destination]]\nname = 'ops'\nurl = '{b}'\ndefault = true\n")).await;
    let after = shown(&t, &destination).await;
    assert_eq!(
        (&after["url"], &after["concurrency"], &after["default"]),
        (&json!(b), &Value::Null, &json!(true))
    );
    assert_eq!(all(&t).await.len(), 1);
    t.finish().await;
}

#[tokio::test]
async fn a_managed_destination_is_not_changed_through_the_api() {
    let mut t = Harness::start().await;
    let text = format!("[[destination]]\nname = 'ops'\nurl = '{}'\n", t.receiver.url("/a"));
    restart_with(&mut t, &text).await;
    let destination = id(&all(&t).await[0]);
    let path = format!("{PATH}/{destination}");
    let refusals = [
        patch(&t, &destination, &json!({ "rate": "1/s" })).await,
        t.delete(&path).await,
        t.act(&format!("{path}/rotate-secret")).await,
    ];
    for refusal in refusals {
        assert_eq!(refusal.expect(409)["code"], "destination_managed");
    }
    // Attempts have disabled it: it can be enabled.
    t.receiver.script("/a", [crate::fakes::Reply::status(410)]);
    t.provider.completed("job_1");
    t.register(&json!({ "jobId": "job_1", "destinationId": destination })).await;
    t.pass(seconds(5)).await;
    t.receiver.next_to("/a").await;
    t.stop().await;
    t.restart().await;
    assert_eq!(shown(&t, &destination).await["disabledReason"], "gone", "a start does not enable it");
    assert_eq!(t.act(&format!("{path}/enable")).await.expect(200)["enabled"], true);
    restart_with(&mut t, &format!("{text}enabled = false\n")).await;
    assert_eq!(shown(&t, &destination).await["disabledReason"], "manual");
    assert_eq!(t.act(&format!("{path}/enable")).await.expect(409)["code"], "destination_managed");
    t.finish().await;
}

#[tokio::test]
async fn a_destination_that_leaves_the_file_is_disabled_and_can_return() {
    let mut t = Harness::start().await;
    let text = format!("[[destination]]\nname = 'ops'\nurl = '{}'\n", t.receiver.url("/a"));
    restart_with(&mut t, &text).await;
    let destination = id(&all(&t).await[0]);
    restart_with(&mut t, "log = 'warn'\n").await;
    let left = shown(&t, &destination).await;
    assert_eq!((&left["managed"], &left["disabledReason"]), (&json!(false), &json!("unmanaged")));
    restart_with(&mut t, &text).await;
    let back = shown(&t, &destination).await;
    assert_eq!((&back["managed"], &back["enabled"]), (&json!(true), &json!(true)));
    restart_with(&mut t, "log = 'warn'\n").await;
    assert_eq!(t.delete(&format!("{PATH}/{destination}")).await.status, 204);
    restart_with(&mut t, &text).await;
    assert_ne!(id(&all(&t).await[0]), destination, "another one");
    t.finish().await;
}

#[tokio::test]
async fn a_default_that_is_renamed_and_back_gets_each_event_once() {
    let mut t = Harness::start().await;
    let named = |name: &str, path: &str| {
        format!("[[destination]]\nname = '{name}'\nurl = '{}'\ndefault = true\n", t.receiver.url(path))
    };
    let (a, b) = (named("a", "/a"), named("b", "/b"));
    restart_with(&mut t, &a).await;
    let destination = id(&all(&t).await[0]);
    restart_with(&mut t, &b).await;
    let left = shown(&t, &destination).await;
    assert_eq!((&left["disabledReason"], &left["default"]), (&json!("unmanaged"), &json!(false)));
    t.provider.completed("job_1");
    let watch = t.post("/v1/watches", &json!({ "jobId": "job_1" })).await.expect(201);
    assert!(!watch["destinations"].to_string().contains(&destination), "{watch}");
    t.pass(seconds(5)).await;
    t.receiver.next_to("/b").await;
    restart_with(&mut t, &a).await;
    assert_eq!(shown(&t, &destination).await["default"], true, "the file says so");
    t.rest().await;
    assert_eq!(t.get("/v1/deliveries").await.expect(200)["data"].as_array().unwrap().len(), 1);
    // `finish` finds no request that the test has not read.
    t.finish().await;
}

/// As a version before 0.2 left it.
// Once: the test changes the SQLite file.
#[tokio::test]
async fn a_default_that_left_the_file_long_ago_is_no_default_after_a_start() {
    let mut t = Harness::start().await;
    let text = format!("[[destination]]\nname = 'a'\nurl = '{}'\ndefault = true\n", t.receiver.url("/a"));
    restart_with(&mut t, &text).await;
    let destination = id(&all(&t).await[0]);
    restart_with(&mut t, "log = 'warn'\n").await;
    t.stop().await;
    let sql = "update destinations set is_default = 1";
    rusqlite::Connection::open(t.file()).unwrap().execute_batch(sql).unwrap();
    t.restart().await;
    assert_eq!(shown(&t, &destination).await["default"], false);
    t.finish().await;
}

#[tokio::test]
async fn a_start_without_the_file_loses_no_delivery() {
    let mut t = Harness::start().await;
    let text = format!("[[destination]]\nname = 'ops'\nurl = '{}'\n", t.receiver.url("/a"));
    restart_with(&mut t, &text).await;
    let destination = id(&all(&t).await[0]);
    t.receiver.always("/a", Some(Reply::status(503)));
    t.provider.completed("job_1");
    t.register(&json!({ "jobId": "job_1", "notify": [{ "destinationId": destination }] })).await;
    t.pass(seconds(5)).await;
    t.receiver.next_to("/a").await;
    restart_with(&mut t, "log = 'warn'\n").await;
    t.rest().await;
    let skipped = t.get("/v1/deliveries").await.expect(200)["data"][0].clone();
    assert_eq!((&skipped["status"], &skipped["reason"]), (&json!("skipped"), &json!("disabled")));
    t.receiver.always("/a", None);
    restart_with(&mut t, &text).await;
    t.rest().await;
    t.receiver.next_to("/a").await;
    let sent = t.get("/v1/deliveries").await.expect(200)["data"][0].clone();
    assert_eq!(sent["status"], json!("succeeded"));
    t.finish().await;
}

// Once: nothing is stored.
#[tokio::test]
async fn errors_in_destinations_of_the_file_name_line_and_field() {
    let mut t = Harness::start().await;
    t.stop().await;
    t.file_text = Some(
        "[[destination]]\nname = 'a'\nurl = 'http://169.254.169.254/'\n\
         [[destination]]\nname = 'b'\nurl = 'https://a.example/x'\nrat = '1/s'\n\
         [[destination]]\nname = 'c'\napp = 'nowhere'\nurl = 'https://a.example/x'\n"
            .to_owned(),
    );
    let error = t.start_error().await;
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(lines[0].starts_with("ringback.toml:3: destination[1].url: must not lead to"), "{error}");
    assert_eq!(lines[1], "ringback.toml:7: destination[2].rat: there is no such field; did you mean `rate`?");
    assert!(
        lines[2].starts_with("ringback.toml:10: destination[3].app: there is no app `nowhere`"),
        "{error}"
    );
    t.give_up().await;
}

/// `ringback config` finds what a start finds, except whether the apps exist.
// Once: nothing is stored.
#[tokio::test]
async fn the_configuration_is_checked_as_at_a_start() {
    let mut t = Harness::start().await;
    t.stop().await;
    t.file_text = Some(
        "[[destination]]\nname = 'a'\nurl = 'http://169.254.169.254/'\n\
         [[destination]]\nname = 'b'\nemail = 'ops@example.com'\n\
         [[destination]]\nname = 'c'\nslack = '#ops'\nrate = '5000/s'\n\
         [[destination]]\nname = 'd'\nurl = 'https://a.example/x'\nheaders = { host = 'x' }\n"
            .to_owned(),
    );
    let at_start = t.start_error().await;
    let environment = t.environment();
    let found = ringback::app::destination_errors(&t.config(), environment).await.expect("checked");
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.join("\n"), at_start);
    let fields: Vec<&str> = found.iter().map(|line| line.split(": ").nth(1).expect("a field")).collect();
    let expected = [
        "destination[1].url",
        "destination[2].type",
        "destination[3].rate",
        "destination[3].type",
        "destination[4].headers.host",
    ];
    assert_eq!(fields, expected, "{found:#?}");
    assert!(found[1].ends_with(
        "is required with email, a field of another channel than the default; set it to \"email\""
    ));
    t.give_up().await;
}

crate::postgres::on_postgres_too! {
    the_file_creates_and_changes_a_destination_under_one_id,
    a_managed_destination_is_not_changed_through_the_api,
    a_destination_that_leaves_the_file_is_disabled_and_can_return,
    a_default_that_is_renamed_and_back_gets_each_event_once,
    a_start_without_the_file_loses_no_delivery,
}
