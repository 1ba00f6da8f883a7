//! Why a due delivery is not attempted: lists, watches and the command line say it.

use serde_json::{Value, json};

use crate::cli::{ask, url};
use crate::destinations::save;
use crate::fakes::Reply;
use crate::harness::{Harness, guarded, id, minutes, seconds};
use crate::holding_back::{WITHOUT_RETRY, destinations_down, down_url, notify_url, open_breaker, time_out};
use crate::tenants::tenant;

/// Returns why the newest delivery of a watch waits. The list, the delivery and the watch say the same.
async fn waiting(t: &Harness, watch: &str) -> Value {
    let listed = t.get(&format!("/v1/deliveries?watchId={watch}")).await.expect(200)["data"][0].clone();
    let shown = t.get(&format!("/v1/deliveries/{}", id(&listed))).await.expect(200);
    let destinations = t.shown(watch).await["destinations"].clone();
    let of_watch =
        destinations.as_array().unwrap().iter().find(|one| one["deliveryId"] == listed["id"]).unwrap();
    let of_list = t.get("/v1/watches?limit=200").await.expect(200);
    let of_list = of_list["data"].as_array().unwrap().iter().find(|one| one["id"] == watch).unwrap();
    assert_eq!((&shown["waiting"], &of_watch["waiting"]), (&listed["waiting"], &listed["waiting"]));
    assert_eq!(of_list["destinations"], destinations);
    listed["waiting"].clone()
}

/// Registers some watches to a host that is down. Returns one without an attempt: probes are made for the others.
async fn held_back(t: &Harness) -> String {
    open_breaker(t).await;
    let mut watches = Vec::new();
    for n in 0..8 {
        watches.push(notify_url(t, &format!("job_held_{n}"), &down_url(t, "/held")).await);
    }
    t.pass(seconds(6)).await;
    for watch in watches {
        if t.delivery(&watch).await["attemptCount"] == 0 {
            return watch;
        }
    }
    panic!("each was probed");
}

#[tokio::test]
async fn a_host_that_is_down_is_why_its_deliveries_wait() {
    let t = Harness::with(&WITHOUT_RETRY).await;
    let other = tenant(&t, "other").await;
    let held = held_back(&t).await;
    let delivery = t.delivery(&held).await;
    assert_eq!((&delivery["status"], &delivery["lastError"]), (&json!("pending"), &Value::Null));
    let wait = waiting(&t, &held).await;
    assert_eq!(wait["reason"], "destination_down");
    assert_eq!(wait["lastError"], "connect: the host name `down.example` does not resolve");
    // The outage began with the second delivery that failed, and the next probe is near.
    let time = |value: &Value| ringback::domain::Timestamp::parse(value.as_str().unwrap()).unwrap();
    assert!(time(&wait["since"]) < time(&delivery["createdAt"]), "{wait}");
    let until = time(&wait["until"]);
    assert!(t.now() < until && until <= t.now().plus(seconds(10)), "{wait}");
    assert!(
        time(&delivery["nextAttemptAt"]) <= t.now(),
        "it stays the time at which the delivery became due"
    );
    // The deliveries of another app to the same host are attempted, and nothing is known about this outage.
    let body = json!({ "jobId": "job_held_0", "callbackUrl": down_url(&t, "/held") }).to_string();
    let foreign = id(&t.as_key(&other.key, "POST", "/v1/watches", &body).await.expect(201));
    t.pass(seconds(6)).await;
    let foreign = t.as_key(&other.key, "GET", &format!("/v1/watches/{foreign}"), "").await.expect(200);
    let foreign = &foreign["destinations"][0];
    assert_eq!((&foreign["waiting"], &foreign["attemptCount"]), (&Value::Null, &json!(2)));
    t.as_key(&other.key, "GET", &format!("/v1/deliveries/{}", id(&delivery)), "").await.expect(404);
    // What is sent is not held back any more.
    t.resolve("down.example", &["127.0.0.1"]);
    t.pass(seconds(11)).await;
    assert_eq!(t.delivery(&held).await["status"], "succeeded");
    assert_eq!(waiting(&t, &held).await, Value::Null);
    let all = t.get("/v1/deliveries?limit=200").await.expect(200);
    assert!(all["data"].as_array().unwrap().iter().all(|one| one["waiting"].is_null()), "{all}");
    t.receiver.read_all();
    t.give_up().await;
}

#[tokio::test]
async fn a_url_that_is_slow_or_silent_is_why_its_deliveries_wait() {
    let t = Harness::start().await;
    let (reply, gate) = Reply::status(200).held();
    t.receiver.always("/slow", Some(reply));
    let slow = t.receiver.url("/slow");
    let mut watches = Vec::new();
    for n in 0..8 {
        watches.push(notify_url(&t, &format!("job_{n}"), &slow).await);
        t.pass(seconds(1)).await;
    }
    t.pass(seconds(5)).await;
    // An untried URL gets four places of its host. Those that hold one do not wait.
    let mut reasons = Vec::new();
    for watch in &watches {
        reasons.push(waiting(&t, watch).await);
    }
    let busy: Vec<&Value> = reasons.iter().filter(|wait| !wait.is_null()).collect();
    assert_eq!(busy.len(), 4, "{reasons:?}");
    assert!(busy.iter().all(|wait| wait["reason"] == "busy" && wait["until"].is_null()), "{busy:?}");
    let mut rounds = 0;
    while destinations_down(&t).await == 0 {
        time_out(&t).await;
        t.pass(seconds(6)).await;
        rounds += 1;
        assert!(rounds < 20, "the breaker stays closed");
    }
    let healthy = notify_url(&t, "job_healthy", &t.receiver.url("/healthy")).await;
    let mut held = Vec::new();
    for n in 0..3 {
        held.push(notify_url(&t, &format!("job_held_{n}"), &slow).await);
    }
    t.pass(seconds(6)).await;
    let mut down = 0;
    for watch in &held {
        let wait = waiting(&t, watch).await;
        // One of them may be the probe.
        if !wait.is_null() {
            down += 1;
            assert_eq!(
                (&wait["reason"], &wait["lastError"]),
                (&json!("destination_down"), &json!("timeout: no answer within 20 s"))
            );
        }
    }
    assert!(down >= 2, "{down}");
    assert_eq!(waiting(&t, &healthy).await, Value::Null, "another URL of the host");
    gate.open();
    t.give_up().await;
}

#[tokio::test]
async fn a_rate_is_why_deliveries_wait() {
    let t = Harness::start().await;
    let limited = save(&t, "/limited", json!({ "rate": "1/m" })).await;
    let mut watches = Vec::new();
    for job in ["job_1", "job_2"] {
        t.provider.completed(job);
        watches.push(t.register(&json!({ "jobId": job, "notify": [{ "destinationId": limited }] })).await);
        t.pass(seconds(5)).await;
    }
    assert_eq!(t.receiver.take(1).await.len(), 1);
    assert_eq!(waiting(&t, &watches[0]).await, Value::Null);
    let (wait, delivery) = (waiting(&t, &watches[1]).await, t.delivery(&watches[1]).await);
    assert_eq!((&wait["reason"], &wait["lastError"]), (&json!("rate_limited"), &Value::Null));
    assert_eq!(wait["since"], delivery["nextAttemptAt"]);
    assert_eq!(wait["until"].as_str().unwrap()[..16], *"2026-02-18T15:01", "{wait}");
    t.pass(minutes(1)).await;
    t.receiver.take(1).await;
    assert_eq!(waiting(&t, &watches[1]).await, Value::Null);
    t.finish().await;
}

#[tokio::test]
async fn an_earlier_event_is_why_a_delivery_in_order_waits() {
    let t = Harness::start().await;
    let ordered = save(&t, "/ordered", json!({ "ordered": true, "events": ["job.*"] })).await;
    t.receiver.script("/ordered", [Reply::status(500), Reply::status(500)]);
    t.provider.processing("job_1", 1);
    let body =
        json!({ "jobId": "job_1", "notify": [{ "destinationId": ordered }], "events": ["job.progress"] });
    let watch = t.register(&body).await;
    t.pass(seconds(8)).await;
    t.provider.processing("job_1", 50);
    t.pass(seconds(15)).await;
    t.receiver.take(2).await;
    let found = t.get(&format!("/v1/deliveries?watchId={watch}&status=pending")).await.expect(200);
    let found = found["data"].as_array().unwrap().clone();
    let [second, first] = &found[..] else { panic!("{found:?}") };
    assert_eq!(
        (&first["waiting"], &first["attemptCount"]),
        (&Value::Null, &json!(2)),
        "it waits for its time"
    );
    assert_eq!(
        second["waiting"],
        json!({ "reason": "order", "since": second["nextAttemptAt"], "until": null,
        "lastError": null, "ownRate": false })
    );
    assert_eq!(waiting(&t, &watch).await["reason"], "order");
    t.pass(minutes(7)).await;
    assert_eq!(t.receiver.read_all().len(), 2);
    assert_eq!(waiting(&t, &watch).await, Value::Null);
    t.finish().await;
}

#[tokio::test]
async fn a_lack_of_descriptors_is_why_deliveries_wait() {
    let t = Harness::with(&WITHOUT_RETRY).await;
    t.lack_descriptors("busy.example");
    let watch = notify_url(&t, "job_1", &format!("http://busy.example:{}/hook", t.receiver.port())).await;
    t.pass(seconds(6)).await;
    let wait = waiting(&t, &watch).await;
    assert_eq!((&wait["reason"], &wait["lastError"]), (&json!("no_resources"), &Value::Null));
    t.resolve("busy.example", &["127.0.0.1"]);
    t.pass(seconds(2)).await;
    t.receiver.next().await;
    assert_eq!(waiting(&t, &watch).await, Value::Null);
    t.finish().await;
}

// Once: the test writes into the SQLite file.
#[tokio::test]
async fn a_database_that_refuses_writes_is_why_deliveries_wait() {
    let t = Harness::start().await;
    let one_at_a_time = save(&t, "/one", json!({ "concurrency": 1 })).await;
    t.provider.processing("job_1", 1);
    // One is in flight, and one more may wait for its record.
    for _ in 0..4 {
        t.register(&json!({ "jobId": "job_1", "notify": [{ "destinationId": one_at_a_time }] })).await;
    }
    t.pass(seconds(5)).await;
    let other = rusqlite::Connection::open(t.file()).unwrap();
    // No attempt can be recorded: there is no next number, which is the error of a full disk.
    let full = "create table full_disk (no integer primary key autoincrement);
        insert into full_disk values (9223372036854775807);
        create trigger full_disk before insert on attempts begin insert into full_disk values (null); end";
    other.execute_batch(full).unwrap();
    t.provider.completed("job_1");
    t.clock.advance(minutes(1));
    let reasons = async || -> Vec<Value> {
        let page = t.get("/v1/deliveries").await.expect(200);
        page["data"].as_array().unwrap().iter().map(|one| one["waiting"]["reason"].clone()).collect()
    };
    // The store tries again each second.
    let refused = async {
        while !reasons().await.contains(&json!("no_writes")) {
            t.clock.advance(seconds(1));
        }
    };
    guarded("the reason", refused).await;
    other.execute_batch("drop trigger full_disk; drop table full_disk").unwrap();
    t.work_off().await;
    t.receiver.take(4).await;
    assert_eq!(reasons().await, [Value::Null, Value::Null, Value::Null, Value::Null]);
    t.finish().await;
}

// Once: it is about the output of the command line.
#[tokio::test]
async fn the_command_line_says_why_deliveries_wait_and_what_helps() {
    let t = Harness::with(&WITHOUT_RETRY).await;
    let watch = held_back(&t).await;
    let (server, delivery) = (url(&t), id(&t.delivery(&watch).await));
    let sentence =
        "down.example does not answer (the host name `down.example` does not resolve); next attempt at ";
    let origin =
        format!("ringback retry --status pending --origin http://down.example:{}", t.receiver.port());
    for line in [&["deliveries", "--status", "pending"][..], &["watches"]] {
        let ran = ask(&server, line).await.expect(0);
        assert_eq!(ran.err.matches(sentence).count(), 1, "{ran:#?}");
        assert!(ran.err.contains(&origin) && ran.err.contains("Since: 2026-02-18 15:00"), "{ran:#?}");
        assert!(ran.out.contains(sentence) || line[0] == "watches", "{ran:#?}");
    }
    let ran = ask(&server, &["show", &delivery]).await.expect(0);
    assert!(
        ran.out.contains(sentence) && ran.out.contains(&format!("ringback retry {delivery}")),
        "{ran:#?}"
    );
    let ran = ask(&server, &["show", &watch]).await.expect(0);
    assert!(ran.out.contains(sentence) && ran.out.contains(&origin), "{ran:#?}");
    let ran = ask(&server, &["show", &watch, "--follow", "--delivery-wait", "0s"]).await.expect(7);
    assert!(
        ran.err.contains(sentence) && ran.err.contains(&format!("ringback retry {delivery}")),
        "{ran:#?}"
    );
    assert!(!ran.err.contains(", next "), "the time in the past is not that of the next attempt: {ran:#?}");
    let ran = ask(&server, &["deliveries", "--json"]).await.expect(0);
    assert_eq!(ran.err, "", "programs read the field");
    t.resolve("down.example", &["127.0.0.1"]);
    t.pass(seconds(11)).await;
    let ran = ask(&server, &["deliveries"]).await.expect(0);
    assert_eq!(ran.err, "", "{ran:#?}");
    t.receiver.read_all();
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_host_that_is_down_is_why_its_deliveries_wait,
    a_url_that_is_slow_or_silent_is_why_its_deliveries_wait,
    a_rate_is_why_deliveries_wait,
    an_earlier_event_is_why_a_delivery_in_order_waits,
    a_lack_of_descriptors_is_why_deliveries_wait,
}
