//! The process stands still while time passes (`SIGSTOP`, `docker pause`, a stalled virtual machine): what arrived
//! meanwhile lies in the sockets and is read, although every deadline has passed.

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::fakes::Reply;
use crate::harness::{AUTH, Harness, JSON, guarded, minutes, seconds};
use crate::mail_server::{OPEN, Quirk};
use crate::mailing;
use crate::wire::Answer;

#[tokio::test]
async fn an_answer_that_came_while_the_process_stood_still_counts() {
    let t = Harness::start().await;
    let (reply, gate) = Reply::status(200).held();
    t.receiver.script("/hook", [reply]);
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    // As after SIGSTOP, or in a virtual machine that is moved.
    t.clock.stand_still(seconds(45));
    t.get_without_key("/healthz").await;
    gate.open();
    t.rest().await;
    let delivery = t.delivery(&watch).await;
    assert_eq!(
        (&delivery["status"], delivery["attempts"].as_array().unwrap().len()),
        (&json!("succeeded"), 1)
    );
    t.finish().await;
}

#[tokio::test]
async fn a_mail_survives_that_the_process_stood_still() {
    let (t, server) = mailing::start(OPEN, &[]).await;
    let (gate, late) = watch::channel(false);
    server.script([Quirk::Late("RCPT", late)]);
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "email": "me@example.com" })).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.held.count(), 1);
    // As after SIGSTOP, or in a virtual machine that is moved.
    t.clock.stand_still(minutes(2));
    t.get_without_key("/healthz").await;
    gate.send_replace(true);
    assert_eq!(server.next().await.to, "me@example.com");
    t.rest().await;
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], mailing::errors(&delivery)), (&json!("succeeded"), vec![&Value::Null]));
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_body_is_read_although_the_process_stood_still_meanwhile() {
    let t = Harness::start().await;
    let body = br#"{"jobId":"job_1","notify":[]}"#;
    let mut stream = TcpStream::connect(t.address()).await.unwrap();
    let head = format!(
        "POST /v1/watches HTTP/1.1\r\nhost: x\r\n{}: {}\r\n{}: {}\r\ncontent-length: {}\r\n\r\n",
        AUTH.0,
        AUTH.1,
        JSON.0,
        JSON.1,
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body[..8]].concat()).await.unwrap();
    for _ in 0..10 {
        t.get_without_key("/healthz").await;
    }
    t.clock.stand_still(seconds(45));
    t.get_without_key("/healthz").await;
    stream.write_all(&body[8..]).await.unwrap();
    let answer = guarded("the answer", Answer::read(&mut BufReader::new(stream))).await;
    assert_eq!(answer.map(|answer| answer.status), Some(201));
    t.give_up().await;
}

#[tokio::test]
async fn watches_that_expire_together_end_once_within_the_rate() {
    const WATCHES: usize = 400;
    let t = Harness::with(&[
        ("RINGBACK_PROVIDERS__MUVI__RATE", "20/s"),
        ("RINGBACK_PROVIDERS__MUVI__BURST", "10"),
        ("RINGBACK_PROVIDERS__MUVI__FIRST", "1h"),
        ("RINGBACK_PROVIDERS__MUVI__MAX_INTERVAL", "1h"),
    ])
    .await;
    let watch = |n: usize| {
        let job = format!("job_{n}");
        t.provider.processing(&job, 1);
        json!({ "jobId": job, "expiresIn": "30m", "callbackUrl": t.receiver.url("/hook") })
    };
    let watches: Vec<Value> = (0..WATCHES).map(watch).collect();
    let answer = t.post("/v1/watches/batch", &json!({ "watches": watches })).await;
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    // As in a virtual machine that is resumed, or after a correction of the clock.
    t.clock.stand_still(minutes(120));
    t.pass(seconds(40)).await;
    let mut ended: Vec<String> = t.receiver.read_all().iter().map(|hit| hit.watch().to_owned()).collect();
    assert!(t.receiver.all().iter().all(|hit| hit.event() == "watch.expired"));
    ended.sort_unstable();
    ended.dedup();
    assert_eq!(
        (ended.len(), t.receiver.all().len()),
        (WATCHES, WATCHES),
        "each ends once, within the minute"
    );
    let polls = t.provider.all_polls();
    let is_within = |pair: &[ringback::domain::Timestamp]| pair[30].since(pair[0]) >= seconds(1);
    assert!(polls.len() == WATCHES && polls.windows(31).all(is_within), "{} polls", polls.len());
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    watches_that_expire_together_end_once_within_the_rate,
    an_answer_that_came_while_the_process_stood_still_counts,
    a_mail_survives_that_the_process_stood_still,
    a_body_is_read_although_the_process_stood_still_meanwhile,
}
