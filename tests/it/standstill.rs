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

crate::postgres::on_postgres_too! {
    an_answer_that_came_while_the_process_stood_still_counts,
    a_mail_survives_that_the_process_stood_still,
    a_body_is_read_although_the_process_stood_still_meanwhile,
}
