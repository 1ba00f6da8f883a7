//! Rows that cannot be read, after a change by hand or damage: they are left out, and everything else goes on.

use rusqlite::Connection;
use serde_json::json;

use crate::fakes::Reply;
use crate::harness::{Harness, minutes, seconds};

/// Changes the database while the program does not run.
async fn change(t: &mut Harness, sql: &str) {
    t.crash().await;
    Connection::open(t.file()).unwrap().execute_batch(sql).unwrap();
    t.restart().await;
}

/// Returns the job of each watch in the list, in the order of the names.
async fn listed(t: &Harness, limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut path = format!("/v1/watches?limit={limit}");
    loop {
        let page = t.get(&path).await.expect(200);
        let jobs = page["data"].as_array().unwrap().iter();
        found.extend(jobs.map(|watch| watch["jobId"].as_str().unwrap().to_owned()));
        match page["nextCursor"].as_str() {
            Some(next) => path = format!("/v1/watches?limit={limit}&cursor={next}"),
            None => break,
        }
    }
    found.sort_unstable();
    found
}

// Once: the test damages the SQLite file.
#[tokio::test]
async fn a_damaged_row_stops_neither_start_nor_list() {
    for (damage, shown) in [
        ("update jobs set seen = '{' where job_id = 'job_b'", 3),
        ("update jobs set provider = x'ff' where job_id = 'job_b'", 2),
        ("update jobs set progress_rounds = '[' where job_id = 'job_b'", 3),
        ("update watches set expires_at = 'x' where job = (select no from jobs where job_id = 'job_b')", 2),
        ("update watches set payload = 'x' where job = (select no from jobs where job_id = 'job_b')", 3),
        (
            "insert into job_cancels (watch, app, job, status) select id, app, job, 'pending' from watches where job = \
          (select no from jobs where job_id = 'job_b')",
            3,
        ),
        (
            "insert into job_cancels (watch, app, job, status) select id, app, job, 'bogus' from watches where job = \
          (select no from jobs where job_id = 'job_b')",
            3,
        ),
        (
            "update watch_destinations set headers = x'00' where watch = \
          (select id from watches where job = (select no from jobs where job_id = 'job_b'))",
            3,
        ),
    ] {
        let mut t = Harness::start().await;
        let mut watches = Vec::new();
        for job in ["job_a", "job_b", "job_c"] {
            t.provider.processing(job, 1);
            watches.push(t.register(&json!({ "jobId": job, "callbackUrl": t.receiver.url("/hook") })).await);
        }
        t.pass(seconds(5)).await;
        change(&mut t, damage).await;
        for limit in [1, 2, 200] {
            assert_eq!(listed(&t, limit).await.len(), shown, "{damage}, {limit}");
        }
        t.get("/v1/deliveries").await.expect(200);
        for job in ["job_a", "job_c"] {
            t.provider.completed(job);
        }
        t.pass(minutes(5)).await;
        let mut ended =
            vec![t.receiver.next().await.watch().to_owned(), t.receiver.next().await.watch().to_owned()];
        ended.sort_unstable();
        watches.remove(1);
        assert_eq!(ended, watches, "{damage}");
        let status = "select status from watches where job = (select no from jobs where job_id = 'job_b')";
        let db = Connection::open(t.file()).unwrap();
        let status = db.query_row(status, [], |row| row.get::<_, String>(0));
        assert_eq!(status.unwrap_or_else(|_| "watching".to_owned()), "watching", "{damage}");
        t.give_up().await;
    }
}

// Once: the test damages the SQLite file.
#[tokio::test]
async fn the_watch_of_an_unreadable_job_says_so() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    change(&mut t, "update jobs set seen = '{'").await;
    let shown = t.get(&format!("/v1/watches/{watch}")).await.expect(200);
    let error = shown["job"]["lastError"].as_str().unwrap_or_default();
    assert!(error.contains("cannot read what it has stored of the job"), "{shown}");
    t.give_up().await;
}

// Once: the test damages the SQLite file.
#[tokio::test]
async fn a_damaged_watch_waits_while_others_of_its_job_end() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let first = t.watch("job_1").await;
    let second = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    change(&mut t, "update watches set payload = 'x' where id = (select min(id) from watches)").await;
    t.provider.completed("job_1");
    t.pass(minutes(5)).await;
    assert_eq!(t.shown(&second).await["status"], "completed");
    assert_eq!(t.shown(&first).await["status"], "watching");
    change(&mut t, "update watches set payload = 'event'").await;
    t.pass(minutes(5)).await;
    assert_eq!(t.shown(&first).await["status"], "completed");
    t.give_up().await;
}

// Once: the test damages the SQLite file.
#[tokio::test]
async fn an_ending_waits_until_its_destination_is_repaired() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let watch = t.register(&json!({ "jobId": "job_1", "callbackUrl": t.receiver.url("/hook") })).await;
    t.pass(seconds(5)).await;
    change(&mut t, "update watch_destinations set headers = '{'").await;
    t.provider.completed("job_1");
    t.pass(minutes(5)).await;
    assert!(t.receiver.unread().is_empty());
    change(&mut t, "update watch_destinations set headers = null").await;
    t.pass(minutes(5)).await;
    assert_eq!(t.receiver.next().await.watch(), watch);
    t.finish().await;
}

// Once: the test damages the SQLite file.
#[tokio::test]
async fn a_damaged_watch_does_not_hold_up_expiries() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let body = json!({ "jobId": "job_1", "notify": [], "expiresIn": "60s" });
    let (first, second) = (t.register(&body).await, t.register(&body).await);
    t.pass(seconds(5)).await;
    change(&mut t, "update watches set payload = 'x' where id = (select min(id) from watches)").await;
    t.pass(minutes(30)).await;
    assert_eq!(t.shown(&second).await["status"], "expired");
    assert_eq!(t.shown(&first).await["status"], "watching");
    let polls = t.provider.all_polls().len();
    assert!(polls < 100, "{polls}");
    t.give_up().await;
}

/// Registers watches, of one job each or of one job together.
async fn register(t: &Harness, count: usize, job: impl Fn(usize) -> String) {
    let url = t.receiver.url("/hook");
    let watches: Vec<_> = (0..count).map(|n| json!({ "jobId": job(n), "callbackUrl": url })).collect();
    let answer = t.post("/v1/watches/batch", &json!({ "watches": watches })).await;
    assert!((200..300).contains(&answer.status), "{}", answer.text());
}

// Once: the test damages the SQLite file.
#[tokio::test]
async fn deliveries_behind_many_damaged_ones_are_sent() {
    let mut t = Harness::start().await;
    t.receiver.always("/hook", Some(Reply::status(503)));
    (0..120).for_each(|n| t.provider.completed(&format!("job_{n}")));
    register(&t, 120, |n| format!("job_{n}")).await;
    t.pass(minutes(2)).await;
    t.receiver.read_all();
    t.receiver.always("/hook", None);
    let first = "select watch from deliveries order by next_attempt_at limit 100";
    change(&mut t, &format!("update watch_destinations set headers = x'00' where watch in ({first})")).await;
    t.pass(minutes(60)).await;
    let mut sent: Vec<String> = t.receiver.read_all().iter().map(|hit| hit.watch().to_owned()).collect();
    sent.sort_unstable();
    sent.dedup();
    assert_eq!(sent.len(), 20);
    t.give_up().await;
}

// Once: the test damages the SQLite file.
#[tokio::test]
async fn watches_behind_many_damaged_ones_end() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 1);
    register(&t, 450, |_| "job_1".to_owned()).await;
    t.pass(seconds(5)).await;
    let first = "select id from watches order by expires_at, id limit 420";
    change(&mut t, &format!("update watches set payload = 'x' where id in ({first})")).await;
    t.provider.completed("job_1");
    t.pass(minutes(5)).await;
    assert_eq!(t.receiver.read_all().len(), 30);
    t.give_up().await;
}
