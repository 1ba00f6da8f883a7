//! Fairness of polling between apps, and what one app's jobs say about a provider.

use serde_json::{Value, json};

use crate::fakes::{Reply, error};
use crate::harness::{Harness, minutes, seconds, since_start};
use crate::tenants::{Tenant, tenant};

/// Two polls a second, four at a time.
const SLOW: [(&str, &str); 2] =
    [("RINGBACK_PROVIDERS__MUVI__RATE", "2/s"), ("RINGBACK_PROVIDERS__MUVI__BURST", "1")];

/// Registers a watch of a tenant and returns it.
async fn register(t: &Harness, tenant: &Tenant, body: &Value) -> Value {
    t.as_key(&tenant.key, "POST", "/v1/watches", &body.to_string()).await.expect(201)
}

async fn shown(t: &Harness, tenant: &Tenant, watch: &Value) -> Value {
    let path = format!("/v1/watches/{}", watch["id"].as_str().unwrap());
    t.as_key(&tenant.key, "GET", &path, "").await.expect(200)
}

/// Registers many watches of a tenant in one request.
async fn register_many(t: &Harness, tenant: &Tenant, jobs: &[String]) {
    let watches: Vec<Value> = jobs.iter().map(|job| json!({ "jobId": job, "notify": [] })).collect();
    let body = json!({ "watches": watches }).to_string();
    t.as_key(&tenant.key, "POST", "/v1/watches/batch", &body).await.expect(200);
}

fn jobs(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("job_of_many_{n}")).collect()
}

#[tokio::test]
async fn many_jobs_of_one_app_do_not_delay_another_app() {
    let t = Harness::with(&SLOW).await;
    let (many, few) = (tenant(&t, "many").await, tenant(&t, "few").await);
    let names = jobs(500);
    for job in &names {
        t.provider.processing(job, 0);
    }
    register_many(&t, &many, &names).await;
    t.pass(seconds(10)).await;
    t.provider.completed("job_1");
    let watch = register(&t, &few, &json!({ "jobId": "job_1", "notify": [] })).await;
    t.pass(seconds(7)).await;
    assert_eq!(shown(&t, &few, &watch).await["status"], "completed", "due after 5 s");
    t.give_up().await;
}

// Once: the poller keeps this in memory.
#[tokio::test]
async fn final_polls_of_one_app_do_not_starve_the_others() {
    let t = Harness::with(&SLOW).await;
    let (hasty, calm) = (tenant(&t, "hasty").await, tenant(&t, "calm").await);
    for job in ["job_1", "job_2"] {
        t.provider.processing(job, 0);
        register(&t, &calm, &json!({ "jobId": job, "notify": [], "pollInterval": "2s" })).await;
    }
    for second in 0..60 {
        for n in 0..6 {
            let job = format!("hasty_{second}_{n}");
            t.provider.processing(&job, 0);
            register(&t, &hasty, &json!({ "jobId": job, "notify": [], "expiresIn": "1s" })).await;
        }
        t.pass(seconds(1)).await;
    }
    let of = |job: &str| t.provider.polls(job).len();
    let (calm, all) = (of("job_1") + of("job_2"), t.provider.all_polls().len());
    assert!(calm >= 40 && all >= 110, "{calm} of {all} polls");
    t.give_up().await;
}

// Once: the poller keeps this in memory.
#[tokio::test]
async fn slow_polls_of_one_app_leave_a_place_for_another() {
    let t = Harness::with(&[("RINGBACK_PROVIDERS__MUVI__CONCURRENCY", "4")]).await;
    let (slow, quick) = (tenant(&t, "slow").await, tenant(&t, "quick").await);
    t.provider.processing("job_1", 0);
    let watch = register(&t, &quick, &json!({ "jobId": "job_1", "notify": [] })).await;
    let (names, mut gates) = (jobs(20), Vec::new());
    for job in &names {
        t.provider.processing(job, 0);
        let (reply, gate) = Reply::json(200, &json!({ "jobId": job, "status": "processing" })).held();
        t.provider.script(job, [reply]);
        gates.push(gate);
    }
    register_many(&t, &slow, &names).await;
    t.clock.advance(seconds(5));
    t.provider.polled("job_1", 1).await;
    t.provider.polled_in_all(4).await;
    // The slow polls are still in flight.
    let path = format!("/v1/watches/{}/poll", watch["id"].as_str().unwrap());
    t.as_key(&quick.key, "POST", &path, "").await.expect(202);
    t.clock.advance(seconds(1));
    t.provider.polled("job_1", 2).await;
    assert_eq!(t.provider.all_polls().len(), 5);
    drop(gates);
    t.give_up().await;
}

// Once: the poller keeps this in memory.
#[tokio::test]
async fn slow_polls_of_an_app_that_is_alone_leave_a_place_for_the_next() {
    let t = Harness::with(&[("RINGBACK_PROVIDERS__MUVI__CONCURRENCY", "4")]).await;
    let (slow, quick) = (tenant(&t, "slow").await, tenant(&t, "quick").await);
    let (names, mut gates) = (jobs(20), Vec::new());
    for job in &names {
        let (reply, gate) = Reply::json(200, &json!({ "jobId": job, "status": "processing" })).held();
        t.provider.script(job, [reply]);
        gates.push(gate);
    }
    register_many(&t, &slow, &names).await;
    t.clock.advance(seconds(5));
    t.provider.polled_in_all(3).await;
    t.provider.completed("job_1");
    register(&t, &quick, &json!({ "jobId": "job_1", "notify": [] })).await;
    t.clock.advance(seconds(5));
    t.provider.polled("job_1", 1).await;
    assert_eq!(t.provider.all_polls().len(), 4);
    drop(gates);
    t.give_up().await;
}

// Once: the poller keeps this in memory.
#[tokio::test]
async fn a_new_watch_inherits_no_backoff_of_another_app() {
    let t = Harness::start().await;
    let (first, second) = (tenant(&t, "first").await, tenant(&t, "second").await);
    let body = json!({ "jobId": "job_1", "notify": [] });
    t.provider.not_found("job_1");
    register(&t, &first, &body).await;
    t.pass(seconds(40)).await;
    assert_eq!(since_start(&t.provider.polls("job_1")), [5, 6, 8, 12, 20, 36]);
    t.provider.completed("job_1");
    let watch = register(&t, &second, &body).await;
    t.pass(seconds(5)).await;
    assert_eq!(since_start(&t.provider.polls("job_1"))[6..], [45]);
    assert_eq!(shown(&t, &second, &watch).await["status"], "completed");
    t.give_up().await;
}

#[tokio::test]
async fn a_watch_of_an_unknown_job_has_the_whole_grace() {
    let t = Harness::start().await;
    let (first, second) = (tenant(&t, "first").await, tenant(&t, "second").await);
    t.provider.not_found("job_1");
    let body = json!({ "jobId": "job_1", "notify": [] });
    let old = register(&t, &first, &body).await;
    t.pass(seconds(62)).await;
    let new = register(&t, &second, &body).await;
    // The first app registers the job again and again.
    let mut ended = None;
    for second_passed in 1..=140 {
        register(&t, &first, &body).await;
        t.pass(seconds(1)).await;
        let status = shown(&t, &second, &new).await["status"].clone();
        if status != "watching" {
            assert_eq!(status, "not_found");
            ended = Some(second_passed);
            break;
        }
    }
    assert!(ended.is_some_and(|after| (60..=75).contains(&after)), "{ended:?}");
    assert_eq!(shown(&t, &first, &old).await["status"], "not_found");
    t.provider.completed("job_1");
    t.pass(minutes(2)).await;
    let left = t.as_key(&first.key, "GET", "/v1/watches?status=watching", "").await.expect(200);
    assert_eq!(left["data"], json!([]), "the others have gone on and ended with the job");
    t.give_up().await;
}

#[tokio::test]
async fn unknown_ids_of_one_app_do_not_open_the_breaker() {
    let t = Harness::start().await;
    let (wrong, right) = (tenant(&t, "wrong").await, tenant(&t, "right").await);
    let names = jobs(200);
    for job in &names {
        t.provider.not_found(job);
    }
    register_many(&t, &wrong, &names).await;
    t.pass(seconds(10)).await;
    let providers = t.get("/v1/providers").await.expect(200);
    let health = providers["data"].as_array().unwrap().iter().find(|one| one["id"] == "muvi").unwrap();
    assert_eq!(health["health"]["breaker"], "closed");
    t.provider.completed("job_1");
    let watch = register(&t, &right, &json!({ "jobId": "job_1", "notify": [] })).await;
    t.pass(seconds(5)).await;
    assert_eq!(shown(&t, &right, &watch).await["status"], "completed");
    t.pass(minutes(3)).await;
    let left = t.as_key(&wrong.key, "GET", "/v1/watches?status=not_found&limit=200", "").await.expect(200);
    assert_eq!(left["data"].as_array().unwrap().len(), 200);
    t.give_up().await;
}

#[tokio::test]
async fn a_shared_job_is_polled_in_the_turns_of_both_apps() {
    let t = Harness::with(&SLOW).await;
    let (many, few) = (tenant(&t, "many").await, tenant(&t, "few").await);
    let mut names = jobs(300);
    names.push("job_1".to_owned());
    for job in &names {
        t.provider.processing(job, 0);
    }
    register_many(&t, &many, &names).await;
    t.pass(seconds(10)).await;
    t.provider.completed("job_1");
    let watch = register(&t, &few, &json!({ "jobId": "job_1", "notify": [] })).await;
    t.pass(seconds(2)).await;
    assert_eq!(
        shown(&t, &few, &watch).await["status"],
        "completed",
        "due already, for 300 others to be polled"
    );
    t.give_up().await;
}

// Once: the poller keeps this in memory.
#[tokio::test]
async fn a_provider_shows_no_words_about_another_apps_job() {
    let t = Harness::start().await;
    let (victim, other) = (tenant(&t, "victim").await, tenant(&t, "other").await);
    let secret = "no such prompt: a cat for jane@example.com, JOB_SECRET";
    let table = [
        (error(404, "JOB_NOT_FOUND", secret), "HTTP 404 not_found"),
        (Reply::json(500, &json!({ "error": { "code": "JOB_SECRET", "message": secret } })), "HTTP 500"),
        (Reply::new(200, secret), "HTTP 200, but the answer cannot be read"),
        (Reply::reset(), "no answer: protocol"),
        (error(401, "job_secret.gone", secret), "HTTP 401"),
        (error(401, "UNAUTHORIZED", secret), "HTTP 401 UNAUTHORIZED"),
    ];
    t.provider.processing("job_secret", 0);
    register(&t, &victim, &json!({ "jobId": "job_secret", "notify": [], "pollInterval": "1s" })).await;
    t.pass(seconds(10)).await;
    for (reply, expected) in table {
        t.provider.always("job_secret", reply);
        t.pass(minutes(2)).await;
        for key in [&victim.key, &other.key, crate::harness::KEY] {
            let providers = t.as_key(key, "GET", "/v1/providers", "").await;
            assert!(!providers.text().to_lowercase().contains("secret"), "{}", providers.text());
            let providers = providers.expect(200);
            let muvi = providers["data"].as_array().unwrap().iter().find(|one| one["id"] == "muvi").unwrap();
            assert_eq!(muvi["health"]["lastError"], expected);
        }
    }
    t.give_up().await;
}

// Once: the poller keeps this in memory.
#[tokio::test]
async fn the_next_poll_is_the_time_at_which_it_happens() {
    let t = Harness::with(&[("RINGBACK_PROVIDERS__MUVI__RATE", "1/s"), SLOW[1]]).await;
    let mut watches = Vec::new();
    for n in 0..8 {
        let job = format!("job_{n}");
        t.provider.processing(&job, 0);
        watches.push(t.register(&json!({ "jobId": job, "notify": [] })).await);
    }
    let next = async |watch: &String| {
        let at = t.shown(watch).await["job"]["nextPollAt"].as_str().map(str::to_owned);
        since_start(&[ringback::domain::Timestamp::parse(&at.unwrap()).unwrap()])[0]
    };
    t.pass(seconds(6)).await;
    // The rate: one a second.
    assert_eq!([next(&watches[4]).await, next(&watches[7]).await], [9, 12]);
    // A paused bucket.
    t.provider.all(Some(Reply::status(429).with("retry-after", "40")));
    t.pass(seconds(1)).await;
    assert_eq!([next(&watches[3]).await, next(&watches[4]).await], [47, 48]);
    // A rejected credential: the next probe, and the others after it.
    t.provider.all(Some(error(401, "UNAUTHORIZED", "Invalid API key")));
    t.pass(seconds(60)).await;
    let mut times = Vec::new();
    for watch in &watches {
        times.push(next(watch).await);
    }
    times.sort_unstable();
    assert_eq!(times, [107, 108, 109, 110, 111, 112, 113, 114]);
    t.give_up().await;
}

// Once: the poller keeps this in memory.
#[tokio::test]
async fn an_outage_of_two_seconds_does_not_open_the_breaker() {
    let t = Harness::start().await;
    t.provider.all(Some(Reply::reset()));
    for n in 0..40 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        t.register(&json!({ "jobId": job, "notify": [] })).await;
    }
    t.pass(seconds(5)).await;
    assert_eq!(t.provider.all_polls().len(), 40, "they were due together");
    let providers = t.get("/v1/providers").await.expect(200);
    assert!(!providers.to_string().contains(r#""breaker":"open""#), "{providers}");
    t.pass(seconds(1)).await;
    t.provider.all(None);
    t.pass(seconds(2)).await;
    assert_eq!(t.provider.all_polls().len(), 120, "all are repeated at 6 and at 8");
    let watching = t.get("/v1/watches?status=watching").await.expect(200);
    assert_eq!(watching["data"], json!([]));
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    many_jobs_of_one_app_do_not_delay_another_app,
    unknown_ids_of_one_app_do_not_open_the_breaker,
    a_watch_of_an_unknown_job_has_the_whole_grace,
    a_shared_job_is_polled_in_the_turns_of_both_apps,
}
