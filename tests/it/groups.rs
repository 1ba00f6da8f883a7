//! Groups of watches: one event when enough of them have ended, or at the expiry.

use serde_json::{Value, json};

use crate::destinations::save;
use crate::fakes::Reply;
use crate::harness::{Harness, id, minutes, seconds};
use crate::operational_events::assert_is;
use crate::tenants::tenant;

/// Registers a watch in a group on a job that runs.
async fn member(t: &Harness, job: &str, group: Value) -> String {
    t.provider.processing(job, 1);
    t.register(&json!({ "jobId": job, "group": group })).await
}

/// Returns a group of this size that notifies the receiver.
fn group(t: &Harness, size: u32, more: &Value) -> Value {
    let mut group = json!({ "id": "batch-7", "size": size, "notify": [t.receiver.url("/group")] });
    group.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    group
}

async fn shown(t: &Harness) -> Value {
    t.get("/v1/groups/batch-7").await.expect(200)
}

/// Returns the events of groups in the feed.
async fn events(t: &Harness) -> Vec<Value> {
    let feed = t.get("/v1/events?limit=200").await.expect(200);
    let is_of_group = |event: &&Value| event["type"].as_str().unwrap().starts_with("group.");
    feed["data"].as_array().unwrap().iter().filter(is_of_group).cloned().collect()
}

/// Returns the pointer and the code of the only error of a 422 answer.
async fn refused(t: &Harness, group: Value) -> (String, String, String) {
    let problem = t.post("/v1/watches", &json!({ "jobId": "job_x", "group": group })).await.expect(422);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let [error] = problem["errors"].as_array().unwrap().as_slice() else { panic!("not one: {problem}") };
    (text(&problem["code"]), text(&error["pointer"]), text(&error["code"]))
}

fn refusal(code: &str, pointer: &str) -> (String, String, String) {
    let error = if code == "group_mismatch" { code } else { "required" };
    (code.to_owned(), pointer.to_owned(), error.to_owned())
}

#[tokio::test]
async fn a_group_is_completed_once_when_all_its_watches_have_ended() {
    let t = Harness::start().await;
    let first = member(&t, "job_1", group(&t, 3, &json!({}))).await;
    let second = member(&t, "job_2", json!({ "id": "batch-7" })).await;
    let third = member(&t, "job_3", group(&t, 3, &json!({ "when": "all" }))).await;
    assert_eq!(t.shown(&first).await["groupId"], "batch-7");
    assert_eq!(t.shown(&first).await["destinations"], json!([]), "none of its own");
    let open = shown(&t).await;
    let destination = &open["destinations"][0];
    assert_eq!(
        (&destination["url"], &destination["status"]),
        (&json!(t.receiver.url("/group")), &Value::Null)
    );
    let none = json!({ "watching": 3, "completed": 0, "failed": 0, "cancelled": 0, "not_found": 0, "expired": 0,
        "stopped": 0 });
    assert_eq!(
        open,
        json!({ "id": "batch-7", "status": "open", "size": 3, "when": "all", "registered": 3, "counts": none,
            "watches": [first, second, third], "destinations": [destination],
            "createdAt": "2026-02-18T15:00:00.000Z", "expiresAt": "2026-02-25T15:00:00.000Z", "endedAt": null })
    );
    t.provider.completed("job_1");
    t.provider.failed("job_2");
    t.pass(minutes(5)).await;
    assert_eq!((events(&t).await.len(), &shown(&t).await["counts"]["watching"]), (0, &json!(1)));
    // A stopped watch has ended.
    t.act(&format!("/v1/watches/{third}/stop")).await.expect(200);
    t.act(&format!("/v1/watches/{third}/stop")).await.expect(200);
    t.rest().await;
    let hit = t.receiver.next_to("/group").await;
    let counts = json!({ "watching": 0, "completed": 1, "failed": 1, "cancelled": 0, "not_found": 0, "expired": 0,
        "stopped": 1 });
    let data = json!({ "groupId": "batch-7", "size": 3, "registered": 3, "counts": counts,
        "watches": [first, second, third] });
    assert_eq!((hit.event(), &hit.json()["data"]), ("group.completed", &data));
    let all = events(&t).await;
    let [event] = all.as_slice() else { panic!("one event") };
    assert_is(&hit, event);
    let after = shown(&t).await;
    assert_eq!((&after["status"], &after["counts"]), (&json!("completed"), &counts));
    assert_eq!(
        (&after["endedAt"], &after["destinations"][0]["status"]),
        (&event["timestamp"], &json!("succeeded"))
    );
    t.pass(minutes(8 * 24 * 60)).await;
    assert_eq!(events(&t).await.len(), 1, "it does not expire");
    t.finish().await;
}

#[tokio::test]
async fn two_ends_at_once_complete_a_group_once() {
    let t = Harness::start().await;
    let items: Vec<Value> = (0..100)
        .map(|n| {
            t.provider.completed(&format!("job_{}", n % 7));
            json!({ "jobId": format!("job_{}", n % 7), "group": group(&t, 100, &json!({ "when": 10 })) })
        })
        .collect();
    let made = t.post("/v1/watches/batch", &json!({ "watches": items })).await.expect(200);
    assert!(made["data"].as_array().unwrap().iter().all(|item| item["status"] == 201), "{made}");
    t.pass(minutes(1)).await;
    let hit = t.receiver.next_to("/group").await;
    let completed = hit.json()["data"]["counts"]["completed"].as_u64().unwrap();
    assert!((10..=100).contains(&completed), "{completed}");
    assert_eq!(hit.json()["data"]["watches"].as_array().unwrap().len(), 100);
    assert_eq!(events(&t).await.len(), 1);
    assert_eq!(shown(&t).await["counts"]["completed"], 100);
    t.finish().await;
}

#[tokio::test]
async fn registrations_after_the_event_are_counted_without_another() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    t.register(&json!({ "jobId": "job_1", "group": group(&t, 2, &json!({ "when": "first" })) })).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next_to("/group").await.json()["data"]["registered"], 1);
    // The same job again is another watch.
    t.register(&json!({ "jobId": "job_1", "group": { "id": "batch-7" } })).await;
    t.pass(minutes(1)).await;
    let group = shown(&t).await;
    assert_eq!((&group["registered"], &group["counts"]["completed"]), (&json!(2), &json!(2)));
    assert_eq!(events(&t).await.len(), 1);
    assert_eq!(refused(&t, json!({ "id": "batch-7" })).await, refusal("group_mismatch", "/group/id"));
    t.finish().await;
}

#[tokio::test]
async fn a_group_expires_at_its_time_unless_it_is_completed() {
    let mut t = Harness::start().await;
    let terms = group(&t, 2, &json!({ "expiresIn": "90s" }));
    t.provider.completed("job_1");
    t.register(&json!({ "jobId": "job_1", "group": terms })).await;
    let running = member(&t, "job_2", terms.clone()).await;
    t.pass(seconds(60)).await;
    t.crash().await;
    t.restart().await;
    t.pass(minutes(10)).await;
    let hit = t.receiver.next_to("/group").await;
    assert_eq!(
        (hit.event(), &hit.json()["timestamp"]),
        ("group.expired", &json!("2026-02-18T15:01:30.000Z"))
    );
    let counts = &hit.json()["data"]["counts"];
    assert_eq!((&counts["completed"], &counts["watching"]), (&json!(1), &json!(1)));
    assert_eq!(t.shown(&running).await["status"], "watching", "the watch goes on");
    assert_eq!(refused(&t, json!({ "id": "batch-7" })).await, refusal("group_mismatch", "/group/id"));
    t.provider.completed("job_2");
    t.pass(minutes(10)).await;
    assert_eq!(t.shown(&running).await["status"], "completed");
    let all = events(&t).await;
    let [event] = all.as_slice() else { panic!("one event: {all:?}") };
    assert_is(&hit, event);
    assert_eq!(shown(&t).await["status"], "expired");
    t.finish().await;
}

#[tokio::test]
async fn the_event_of_a_group_survives_a_crash() {
    let mut t = Harness::start().await;
    t.receiver.script("/group", [Reply::status(500)]);
    t.provider.completed("job_1");
    t.register(&json!({ "jobId": "job_1", "group": group(&t, 1, &json!({})) })).await;
    t.pass(seconds(5)).await;
    let first = t.receiver.next_to("/group").await;
    t.crash().await;
    t.restart().await;
    t.pass(minutes(1)).await;
    let second = t.receiver.next_to("/group").await;
    assert_eq!((second.id(), &second.body), (first.id(), &first.body));
    assert_eq!(events(&t).await.len(), 1);
    t.finish().await;
}

#[tokio::test]
async fn a_registration_that_differs_from_its_group_is_refused() {
    let t = Harness::start().await;
    assert_eq!(refused(&t, json!({ "id": "batch-7" })).await, refusal("invalid_request", "/group/size"));
    let secret = json!([{ "type": "webhook", "url": t.receiver.url("/group"), "headers": { "x-a": "b" } }]);
    member(&t, "job_1", group(&t, 5, &json!({ "when": 2, "expiresIn": "1h", "notify": secret }))).await;
    for (field, value) in [
        ("size", json!(6)),
        ("when", json!("all")),
        ("expiresIn", json!("2h")),
        ("notify", json!([])),
        ("notify", json!([t.receiver.url("/group")])),
        ("notify", json!([t.receiver.url("/other")])),
    ] {
        let mut other = json!({ "id": "batch-7" });
        other[field] = value;
        let pointer = format!("/group/{field}");
        assert_eq!(refused(&t, other).await, refusal("group_mismatch", &pointer), "{field}");
    }
    let same = json!({ "id": "batch-7", "size": 5, "when": 2, "expiresIn": "60m", "notify": secret });
    member(&t, "job_2", same).await;
    assert_eq!(shown(&t).await["registered"], 2);
    // A batch is judged item by item, also within itself.
    let items = json!({ "watches": [
        { "jobId": "job_1", "group": { "id": "new" } },
        { "jobId": "job_1", "group": { "id": "new", "size": 1 } },
        { "jobId": "job_1", "group": { "id": "new", "size": 2 } },
        { "jobId": "job_1", "group": { "id": "new" } },
        { "jobId": "job_1", "notify": [] },
    ] });
    let made = t.post("/v1/watches/batch", &items).await.expect(200);
    let found = made["data"].as_array().unwrap().iter().map(|item| item["status"].as_u64().unwrap());
    assert_eq!(found.collect::<Vec<_>>(), [422, 201, 422, 422, 201], "{made}");
    assert_eq!(made["data"][2]["problem"]["code"], "group_mismatch");
    t.finish().await;
}

// Once: nothing is stored.
#[tokio::test]
async fn invalid_fields_of_a_group_are_named() {
    let t = Harness::start().await;
    for (group, pointer, code) in [
        (json!([]), "/group", "invalid_type"),
        (json!({ "size": 1 }), "/group/id", "required"),
        (json!({ "id": "a/b", "size": 1 }), "/group/id", "invalid_format"),
        (json!({ "id": "..", "size": 1 }), "/group/id", "invalid_format"),
        (json!({ "id": "a", "size": 0 }), "/group/size", "out_of_range"),
        (json!({ "id": "a", "size": 1, "when": "some" }), "/group/when", "invalid_value"),
        (json!({ "id": "a", "size": 1, "when": 0.5 }), "/group/when", "invalid_type"),
        (json!({ "id": "a", "size": 1, "when": 2 }), "/group/when", "out_of_range"),
        (json!({ "id": "a", "size": 1, "expiresIn": "31d" }), "/group/expiresIn", "out_of_range"),
        (json!({ "id": "a", "size": 1, "notify": ["x"] }), "/group/notify/0", "invalid_address"),
        (
            json!({ "id": "a", "size": 1, "notify": vec!["https://a.example"; 21] }),
            "/group/notify",
            "too_many",
        ),
        (json!({ "id": "a", "size": 1, "color": "red" }), "/group/color", "unknown_field"),
    ] {
        let (_, found, error) = refused(&t, group.clone()).await;
        assert_eq!((found.as_str(), error.as_str()), (pointer, code), "{group}");
    }
    t.finish().await;
}

#[tokio::test]
async fn a_saved_destination_gets_the_event_of_a_group_whatever_its_types() {
    let t = Harness::start().await;
    // A default destination gets nothing of a watch in a group.
    let saved = save(&t, "/a", json!({ "events": ["job.failed"], "default": true })).await;
    let terms = json!({ "id": "batch-7", "size": 1, "notify": [{ "destinationId": saved }] });
    let watch = member(&t, "job_1", terms).await;
    assert_eq!(t.shown(&watch).await["destinations"], json!([]));
    let path = format!("/v1/destinations/{saved}");
    let refused = t.delete(&path).await.expect(409);
    assert_eq!(refused["code"], "destination_in_use");
    assert!(
        refused["detail"].as_str().unwrap().starts_with("an open group names the destination"),
        "{refused}"
    );
    t.provider.failed("job_1");
    t.pass(minutes(1)).await;
    assert_eq!(t.receiver.next_to("/a").await.event(), "group.completed");
    assert_eq!(t.delete(&path).await.status, 204);
    t.finish().await;
}

#[tokio::test]
async fn the_same_id_names_another_group_in_another_app() {
    let t = Harness::start().await;
    member(&t, "job_1", group(&t, 2, &json!({}))).await;
    let other = tenant(&t, "other").await;
    let body = json!({ "jobId": "job_1", "group": { "id": "batch-7", "size": 1 } }).to_string();
    t.as_key(&other.key, "POST", "/v1/watches", &body).await.expect(201);
    let theirs = t.as_key(&other.key, "GET", "/v1/groups/batch-7", "").await.expect(200);
    assert_eq!((&theirs["size"], &shown(&t).await["size"]), (&json!(1), &json!(2)));
    t.provider.completed("job_1");
    t.pass(minutes(1)).await;
    let theirs = t.as_key(&other.key, "GET", "/v1/groups/batch-7", "").await.expect(200);
    assert_eq!((&theirs["status"], &shown(&t).await["status"]), (&json!("completed"), &json!("open")));
    assert_eq!(t.get("/v1/groups/unknown").await.status, 404);
    t.finish().await;
}

#[tokio::test]
async fn groups_are_deleted_with_their_watches_after_the_retention() {
    let t =
        Harness::with(&[("RINGBACK_RETENTION__EVENTS", "2d"), ("RINGBACK_RETENTION__WATCHES", "4d")]).await;
    t.provider.completed("job_1");
    t.register(&json!({ "jobId": "job_1", "group": group(&t, 1, &json!({})) })).await;
    t.pass(minutes(1)).await;
    t.receiver.next_to("/group").await;
    for (days, events_left, status) in [(1, 1, 200), (2, 0, 200), (3, 0, 404)] {
        t.pass(minutes(24 * 60)).await;
        for _ in 0..3 {
            t.pass(minutes(60)).await;
        }
        assert_eq!(events(&t).await.len(), events_left, "{days}");
        if days == 3 {
            t.pass(minutes(24 * 60)).await;
            t.pass(minutes(60)).await;
            t.pass(minutes(60)).await;
        }
        assert_eq!(t.get("/v1/groups/batch-7").await.status, status, "{days}");
    }
    // The id can be used again.
    member(&t, "job_2", group(&t, 7, &json!({}))).await;
    assert_eq!(shown(&t).await["registered"], 1);
    t.finish().await;
}

// Once: the command line does not depend on the database.
#[tokio::test]
async fn watch_registers_in_a_group() {
    let t = Harness::start().await;
    let server = crate::cli::url(&t);
    t.provider.processing("job_1", 1);
    let hook = t.receiver.url("/group");
    let line = [
        "watch",
        "job_1",
        "--group",
        "batch-7",
        "--group-size",
        "2",
        "--group-when",
        "first",
        "--group-expires-in",
        "1h",
        "--group-notify",
        hook.as_str(),
    ];
    let made = crate::cli::ask(&server, &line).await.expect(0);
    assert!(made.out.contains("batch-7") && !made.err.contains("Nothing will be sent"), "{made:#?}");
    let group = shown(&t).await;
    assert_eq!((&group["when"], &group["destinations"][0]["url"]), (&json!("first"), &json!(hook)));
    let wrong = ["watch", "job_1", "--group", "batch-7", "--group-size", "3"];
    let wrong = crate::cli::ask(&server, &wrong).await.expect(1);
    assert!(wrong.err.starts_with("--group-size: differs"), "{wrong:#?}");
    t.act(&format!("/v1/watches/{}/stop", id(&json!({ "id": group["watches"][0] })))).await.expect(200);
    t.rest().await;
    t.receiver.next_to("/group").await;
    t.finish().await;
}

#[tokio::test]
async fn the_watches_of_a_group_are_listed_and_stopped_together() {
    let t = Harness::start().await;
    let other = tenant(&t, "other").await;
    let mut members = Vec::new();
    for job in ["job_1", "job_2", "job_3"] {
        members.push(member(&t, job, group(&t, 5, &json!({}))).await);
    }
    let single = t.watch("job_4").await;
    let foreign = json!({ "jobId": "job_1", "group": { "id": "batch-7", "size": 1 } }).to_string();
    let foreign = t.as_key(&other.key, "POST", "/v1/watches", &foreign).await.expect(201);
    let ids = async |query: &str| -> Vec<String> {
        let page = t.get(&format!("/v1/watches?{query}")).await.expect(200);
        page["data"].as_array().unwrap().iter().map(id).collect()
    };
    let newest_first: Vec<String> = members.iter().rev().cloned().collect();
    assert_eq!(ids("groupId=batch-7").await, newest_first);
    assert_eq!(ids("groupId=batch-7&jobId=job_2").await, [members[1].clone()]);
    assert_eq!(ids("groupId=batch-7&status=completed").await, [] as [String; 0]);
    assert_eq!(ids("groupId=batch-8").await, [] as [String; 0]);
    let page = t.get("/v1/watches?groupId=batch-7&limit=2").await.expect(200);
    let next = format!("groupId=batch-7&cursor={}", page["nextCursor"].as_str().unwrap());
    assert_eq!(ids(&next).await, [members[0].clone()]);
    let problem = t.get("/v1/watches?groupId=a%20b").await.expect(422);
    assert_eq!(problem["errors"][0]["pointer"], "?groupId");
    let problem = t.post("/v1/watches/stop", &json!({ "groupId": "" })).await.expect(422);
    assert_eq!(problem["errors"][0]["pointer"], "/groupId");
    // Only those of the group, and of this app.
    let dry = t.post("/v1/watches/stop", &json!({ "groupId": "batch-7", "dryRun": true })).await.expect(200);
    assert_eq!(dry["count"], 3);
    t.post("/v1/watches/stop", &json!({ "groupId": "batch-7" })).await.expect(202);
    t.rest().await;
    assert_eq!(ids("groupId=batch-7&status=stopped").await, newest_first);
    assert_eq!(t.shown(&single).await["status"], "watching");
    let foreign = t.as_key(&other.key, "GET", &format!("/v1/watches/{}", id(&foreign)), "").await.expect(200);
    assert_eq!(foreign["status"], "watching");
    t.finish().await;
}

// Once: it is about the command line.
#[tokio::test]
async fn the_command_line_shows_lists_and_stops_a_group() {
    let t = Harness::start().await;
    for job in ["job_1", "job_2"] {
        member(&t, job, group(&t, 3, &json!({}))).await;
    }
    let single = t.watch("job_4").await;
    let server = crate::cli::url(&t);
    let ask = async |line: &[&str]| crate::cli::ask(&server, line).await;
    let ran = ask(&["group", "batch-7"]).await.expect(0);
    for part in [
        "status      open",
        "missing     3 more watches have to end; 1 is not registered yet",
        "watches     2 watching",
        "expires     2026-02-25 15:00:00 UTC",
        "/group",
    ] {
        assert!(ran.out.contains(part), "{part}: {ran:#?}");
    }
    assert_eq!(ask(&["group", "batch-7", "--json"]).await.expect(0).json()["size"], 3);
    let ran = ask(&["group", "batch-8"]).await.expect(1);
    assert!(ran.err.contains("/v1/groups/batch-8"), "{ran:#?}");
    let ran = ask(&["watches", "--group", "batch-7"]).await.expect(0);
    assert!(ran.out.contains("job_1") && ran.out.contains("job_2") && !ran.out.contains("job_4"), "{ran:#?}");
    let ran = ask(&["stop", "--group", "a b", "--yes"]).await.expect(1);
    assert!(ran.err.starts_with("--group: "), "{ran:#?}");
    let ran = ask(&["stop", "--group", "batch-7", "--yes"]).await.expect(0);
    assert_eq!(ran.out, "2 watches are stopped.\n", "{ran:#?}");
    assert_eq!(t.shown(&single).await["status"], "watching");
    let ran = ask(&["group", "batch-7"]).await.expect(0);
    assert!(ran.out.contains("1 more watch has to end; 1 is not registered yet"), "{ran:#?}");
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    the_watches_of_a_group_are_listed_and_stopped_together,
    a_group_is_completed_once_when_all_its_watches_have_ended,
    two_ends_at_once_complete_a_group_once,
    registrations_after_the_event_are_counted_without_another,
    a_group_expires_at_its_time_unless_it_is_completed,
    the_event_of_a_group_survives_a_crash,
    a_registration_that_differs_from_its_group_is_refused,
    a_saved_destination_gets_the_event_of_a_group_whatever_its_types,
    the_same_id_names_another_group_in_another_app,
    groups_are_deleted_with_their_watches_after_the_retention,
}
