//! Destinations that do not respond: their deliveries are held back without loss, and their neighbours are not
//! affected.

use serde_json::json;

use crate::delivering::retry;
use crate::fakes::Reply;
use crate::harness::{Harness, guarded, minutes, seconds};

/// Registers a watch whose destination is `url` for a job that has completed.
pub async fn notify_url(t: &Harness, job: &str, url: &str) -> String {
    t.provider.completed(job);
    t.register(&json!({ "jobId": job, "callbackUrl": url })).await
}

/// Returns the first words of the errors of all attempts of a watch.
async fn errors(t: &Harness, watch: &str) -> Vec<String> {
    let delivery = t.delivery(watch).await;
    let word = |error: &str| error.split(':').next().unwrap_or_default().to_owned();
    let attempts = delivery["attempts"].as_array().unwrap().iter();
    attempts.map(|attempt| word(attempt["error"].as_str().unwrap_or(""))).collect()
}

/// Returns the value of a metric.
async fn metric(t: &Harness, name: &str) -> usize {
    let metrics = t.get_without_key("/metrics").await;
    let value = metrics.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

pub async fn destinations_down(t: &Harness) -> usize {
    metric(t, "ringback_destinations_down").await
}

/// Lets the attempts time out that are in flight, and waits until they are recorded.
pub async fn time_out(t: &Harness) {
    const FAILED: &str = r#"ringback_attempts_total{channel="webhook",outcome="failed"}"#;
    let all = metric(t, FAILED).await + t.held.count();
    t.clock.advance(seconds(20));
    guarded("the timeouts", async { while metric(t, FAILED).await < all {} }).await;
}

/// URL of a host without an address, until the test gives it one.
pub fn down_url(t: &Harness, path: &str) -> String {
    format!("http://down.example:{}{path}", t.receiver.port())
}

/// Opens the breaker of the host of [`down_url`]: five attempts fail one after another. Each is the last one.
pub async fn open_breaker(t: &Harness) {
    for n in 0..5 {
        notify_url(t, &format!("job_open_{n}"), &down_url(t, "/open")).await;
        t.pass(seconds(6)).await;
    }
    assert_eq!(destinations_down(t).await, 1);
}

pub const WITHOUT_RETRY: [(&str, &str); 2] =
    [("RINGBACK_EGRESS__ALLOW_HTTP", "true"), ("RINGBACK_DELIVERY__RETRY_SCHEDULE", "1ms")];

#[tokio::test]
async fn what_is_held_back_loses_no_attempt() {
    let t = Harness::with(&WITHOUT_RETRY).await;
    open_breaker(&t).await;
    let mut watches = Vec::new();
    for n in 0..40 {
        watches.push(notify_url(&t, &format!("job_{n}"), &down_url(&t, &format!("/{}", n % 4))).await);
    }
    t.pass(minutes(2)).await;
    let mut attempts = Vec::new();
    for watch in &watches {
        attempts.extend(errors(&t, watch).await);
    }
    assert!(attempts.iter().all(|error| error == "connect"), "{attempts:?}");
    assert!((8..=16).contains(&attempts.len()), "probes only: {}", attempts.len());
    t.resolve("down.example", &["127.0.0.1"]);
    t.pass(seconds(11)).await;
    // Those that were no probe have lost nothing, though the schedule has only two places.
    let mut delivered = 0;
    for watch in &watches {
        let delivery = t.delivery(watch).await;
        if delivery["status"] == "succeeded" {
            delivered += 1;
        } else {
            assert_eq!(delivery["attempts"].as_array().unwrap().len(), 2, "{delivery}");
        }
    }
    assert_eq!(t.receiver.read_all().len(), delivered);
    assert!(delivered >= 32, "{delivered}");
    assert_eq!(destinations_down(&t).await, 0);
    t.finish().await;
}

#[tokio::test]
async fn a_host_that_is_down_for_a_week_ends_its_deliveries() {
    let t = Harness::with(&[("RINGBACK_EGRESS__ALLOW_HTTP", "true")]).await;
    let first = notify_url(&t, "job_first", &down_url(&t, "/first")).await;
    // The first attempts fail one after another.
    for n in 0..5 {
        notify_url(&t, &format!("job_{n}"), &down_url(&t, "/open")).await;
        t.pass(seconds(2)).await;
    }
    t.pass(minutes(60 * 24 * 7)).await;
    let held = t.delivery(&first).await;
    assert_eq!((&held["status"], &held["reason"]), (&json!("failed"), &json!("exhausted")));
    // The ten of the schedule were made, as probes, and a few at the beginning of the outage.
    let attempts = held["attemptCount"].as_u64().unwrap();
    assert!((11..=25).contains(&attempts), "{attempts}");
    t.finish().await;
}

// The schedule has 5 s and then 5 min.
#[tokio::test]
async fn an_outage_of_half_a_minute_delays_no_delivery_by_minutes() {
    let t = Harness::with(&[("RINGBACK_EGRESS__ALLOW_HTTP", "true")]).await;
    let mut watches = Vec::new();
    for n in 0..6 {
        watches.push(notify_url(&t, &format!("job_{n}"), &down_url(&t, &format!("/{n}"))).await);
        t.pass(seconds(2)).await;
    }
    t.pass(seconds(20)).await;
    let mut probed = 0;
    for watch in &watches {
        probed += usize::from(errors(&t, watch).await.len() > 1);
    }
    assert!(probed >= 3, "{probed}");
    t.resolve("down.example", &["127.0.0.1"]);
    t.pass(seconds(35)).await;
    for watch in &watches {
        assert_eq!(t.delivery(watch).await["status"], "succeeded");
    }
    assert_eq!(t.receiver.read_all().len(), 6);
    t.finish().await;
}

// The schedule has 5 s and then 5 min.
#[tokio::test]
async fn a_deploy_of_20_seconds_delays_no_delivery_by_minutes() {
    let t = Harness::start().await;
    for (case, reply) in [
        ("reset", Reply::reset()),
        ("cut", Reply::cut()),
        ("garbage", Reply::garbage()),
        ("502", Reply::status(502)),
        ("503", Reply::status(503).with("retry-after", "1")),
        ("521", Reply::status(521)),
    ] {
        let path = format!("/{case}");
        t.receiver.always(&path, Some(reply));
        let mut watches = Vec::new();
        for n in 0..8 {
            watches.push(notify_url(&t, &format!("job_{case}_{n}"), &t.receiver.url(&path)).await);
            t.pass(seconds(2)).await;
        }
        t.pass(seconds(6)).await;
        t.receiver.always(&path, None);
        t.pass(seconds(25)).await;
        for watch in &watches {
            assert_eq!(t.delivery(watch).await["status"], "succeeded", "{case}");
        }
        let attempts = t.receiver.read_all().len();
        assert!((16..=40).contains(&attempts), "{case}: {attempts}");
        assert_eq!(destinations_down(&t).await, 0, "{case}");
    }
    t.finish().await;
}

#[tokio::test]
async fn a_url_that_breaks_off_without_end_gets_single_attempts() {
    let t = Harness::with(&WITHOUT_RETRY).await;
    t.receiver.always("/hook", Some(Reply::reset()));
    for n in 0..40 {
        notify_url(&t, &format!("job_{n}"), &t.receiver.url("/hook")).await;
        t.pass(seconds(1)).await;
    }
    assert_eq!(destinations_down(&t).await, 1);
    t.receiver.read_all();
    t.pass(minutes(2)).await;
    let attempts = t.receiver.read_all().len();
    assert!((11..=13).contains(&attempts), "probes only: {attempts}");
    t.receiver.always("/hook", None);
    t.pass(seconds(11)).await;
    assert!(t.receiver.read_all().len() >= 10);
    assert_eq!(destinations_down(&t).await, 0);
    t.finish().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_for_one_delivery_delays_no_other() {
    let schedule = ("RINGBACK_DELIVERY__RETRY_SCHEDULE", "1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s");
    let t = Harness::with(&[schedule]).await;
    // Both are the same URL, because the query does not count.
    t.receiver.always("/hook?poisonous", Some(Reply::reset()));
    let poisonous = notify_url(&t, "job_1", &t.receiver.url("/hook?poisonous")).await;
    t.pass(seconds(20)).await;
    assert_eq!(errors(&t, &poisonous).await.len(), 13, "the schedule, and no more");
    assert_eq!(destinations_down(&t).await, 0);
    let watch = notify_url(&t, "job_2", &t.receiver.url("/hook")).await;
    t.pass(seconds(5)).await;
    assert_eq!(errors(&t, &watch).await, [""]);
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn probes_take_turns_among_the_urls_of_a_host() {
    let t = Harness::with(&[
        ("RINGBACK_EGRESS__ALLOW_HTTP", "true"),
        (
            "RINGBACK_DELIVERY__RETRY_SCHEDULE",
            "1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s, 1s",
        ),
    ])
    .await;
    for n in 0..5 {
        notify_url(&t, &format!("job_open_{n}"), &down_url(&t, "/open")).await;
        t.pass(seconds(1)).await;
    }
    let mut watches = Vec::new();
    for path in ["/a", "/b", "/c"] {
        watches.push(notify_url(&t, &format!("job{path}").replace('/', "_"), &down_url(&t, path)).await);
    }
    t.pass(minutes(4)).await;
    let mut counts = Vec::new();
    for watch in &watches {
        counts.push(errors(&t, watch).await.len());
    }
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least >= 3 && most - least <= 1, "{counts:?}");
    t.resolve("down.example", &["127.0.0.1"]);
    t.pass(minutes(1)).await;
    assert_eq!(t.receiver.read_all().len(), 8);
    t.finish().await;
}

#[tokio::test]
async fn a_manual_retry_is_made_at_once_to_a_host_that_is_down() {
    let t = Harness::with(&WITHOUT_RETRY).await;
    open_breaker(&t).await;
    let watch = notify_url(&t, "job_1", &down_url(&t, "/hook")).await;
    t.pass(seconds(6)).await;
    let before = errors(&t, &watch).await.len();
    for made in 1..=3 {
        retry(&t, &watch).await.expect(202);
        t.rest().await;
        assert_eq!(errors(&t, &watch).await.len(), before + made);
    }
    t.resolve("down.example", &["127.0.0.1"]);
    t.pass(seconds(11)).await;
    t.receiver.read_all();
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.finish().await;
}

// Public reports: nodeshift/opossum#321, NangoHQ/nango#5061.
#[tokio::test]
async fn a_slow_url_delays_no_other_url_of_its_host() {
    let t = Harness::start().await;
    let (reply, gate) = Reply::status(200).held();
    let mut healthy = Vec::new();
    for n in 0..20 {
        t.receiver.always(&format!("/slow?token={n}"), Some(reply.clone()));
        notify_url(&t, &format!("job_slow_{n}"), &t.receiver.url(&format!("/slow?token={n}"))).await;
        healthy.push(notify_url(&t, &format!("job_{n}"), &t.receiver.url("/healthy")).await);
    }
    t.pass(seconds(6)).await;
    let arrived = |t: &Harness| t.receiver.all().iter().filter(|hit| hit.path == "/healthy").count();
    assert_eq!(arrived(&t), 20);
    // The first requests time out, further ones follow, and at last only probes are made.
    for round in 0..15 {
        time_out(&t).await;
        healthy.push(notify_url(&t, &format!("job_later_{round}"), &t.receiver.url("/healthy")).await);
        t.pass(seconds(6)).await;
        assert_eq!(arrived(&t), 21 + round, "round {round}");
    }
    for watch in &healthy {
        let delivery = t.delivery(watch).await;
        assert_eq!((&delivery["status"], errors(&t, watch).await.len()), (&json!("succeeded"), 1));
    }
    assert_eq!(destinations_down(&t).await, 1, "the slow URL");
    gate.open();
    t.give_up().await;
}

#[tokio::test]
async fn an_attempt_without_a_free_descriptor_is_not_counted() {
    let t = Harness::with(&WITHOUT_RETRY).await;
    t.lack_descriptors("busy.example");
    let url = format!("http://busy.example:{}/hook", t.receiver.port());
    let watch = notify_url(&t, "job_1", &url).await;
    t.pass(minutes(2)).await;
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["attempts"]), (&json!("pending"), &json!([])));
    assert_eq!(destinations_down(&t).await, 0);
    t.resolve("busy.example", &["127.0.0.1"]);
    t.pass(seconds(1)).await;
    t.receiver.next().await;
    assert_eq!(errors(&t, &watch).await, [""]);
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    what_is_held_back_loses_no_attempt,
    an_outage_of_half_a_minute_delays_no_delivery_by_minutes,
    a_deploy_of_20_seconds_delays_no_delivery_by_minutes,
    a_url_that_breaks_off_without_end_gets_single_attempts,
    an_answer_that_breaks_off_for_one_delivery_delays_no_other,
    a_host_that_is_down_for_a_week_ends_its_deliveries,
    probes_take_turns_among_the_urls_of_a_host,
    a_manual_retry_is_made_at_once_to_a_host_that_is_down,
    a_slow_url_delays_no_other_url_of_its_host,
    an_attempt_without_a_free_descriptor_is_not_counted,
}
