//! Replies of mail servers: late or missing ones after the end of a message, and those of old servers.

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{Neighbours, guarded, id, minutes, seconds};
use crate::mail_server::{HOST, MailServer, OPEN, Quirk, Setup};
use crate::mailing::{STARTTLS, application, deliver, errors, start};

// Public reports: swiftmailer/swiftmailer#828, chatmail/core#5115.
#[tokio::test]
async fn a_mail_server_may_need_nine_minutes_for_its_final_reply() {
    for wait in [25, 9 * 60] {
        let (t, server) = start(OPEN, &[]).await;
        let (gate, late) = watch::channel(false);
        server.script([Quirk::Late(".", late)]);
        let watch = deliver(&t, "job_1", "me@example.com").await;
        t.pass(seconds(wait)).await;
        assert_eq!(t.held.count(), 1);
        gate.send_replace(true);
        t.rest().await;
        server.next().await;
        let delivery = t.delivery(&watch).await;
        assert_eq!((&delivery["status"], errors(&delivery)), (&json!("succeeded"), vec![&Value::Null]));
        t.pass(minutes(60 * 24)).await;
        assert_eq!(server.connections(), 1);
        t.finish().await;
        server.finish();
    }
}

#[tokio::test]
async fn a_mail_with_an_unclear_outcome_waits_1_4_and_12_hours() {
    let (t, server) = start(OPEN, &[]).await;
    server.script([
        Quirk::Silent("."),
        Quirk::Hangs("."),
        Quirk::Replies(".", "hello"),
        Quirk::Replies(".", "451 4.3.0 later"),
    ]);
    let watch = deliver(&t, "job_1", "me@example.com").await;
    t.clock.advance(minutes(10));
    t.held.none().await;
    let mut ids = Vec::new();
    for (connections, wait) in [(1, 60), (2, 4 * 60), (3, 12 * 60)] {
        t.pass(seconds(60 * wait - 1)).await;
        assert_eq!(server.connections(), connections, "too soon");
        t.pass(seconds(1)).await;
        ids.push(server.next().await.header("Message-ID"));
    }
    // By the schedule: 14 h, ±20 %.
    t.pass(minutes(17 * 60)).await;
    ids.extend([server.next().await.header("Message-ID"), server.next().await.header("Message-ID")]);
    let delivery = t.delivery(&watch).await;
    assert_eq!(ids, vec![format!("<{}@mail.test>", id(&delivery)); 5]);
    assert_eq!(delivery["status"], "succeeded");
    assert_eq!(
        errors(&delivery),
        [
            &json!("timeout: no answer within 600 s, after the message; it may have accepted the mail"),
            &json!(
                "protocol: the mail server closed the connection, after the message; it may have accepted the mail"
            ),
            &json!(
                "protocol: the mail server's reply is not SMTP, after the message; it may have accepted the mail"
            ),
            &json!("smtp: the mail server asks to retry later (its answer to the message)"),
            &Value::Null
        ]
    );
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_connection_that_is_lost_in_the_message_is_retried_soon() {
    let (t, server) = start(OPEN, &[]).await;
    server.script([Quirk::Hangs("DATA"), Quirk::Hangs("RCPT")]);
    let watch = deliver(&t, "job_1", "me@example.com").await;
    t.pass(minutes(7)).await;
    server.next().await;
    assert_eq!(t.delivery(&watch).await["attempts"].as_array().unwrap().len(), 3);
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn late_replies_hold_no_place_of_other_deliveries() {
    let settings = [("RINGBACK_DELIVERY__CONCURRENCY", "16"), ("RINGBACK_DELIVERY__PER_DESTINATION", "4")];
    let (t, server) = start(OPEN, &settings).await;
    let (gate, late) = watch::channel(false);
    server.script(vec![Quirk::Late(".", late); 62]);
    for n in 0..62 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        t.register(&json!({ "jobId": job, "email": "me@example.com" })).await;
    }
    t.pass(seconds(5)).await;
    // One app may have seven eighths of 64 late replies, and four mails in flight.
    for n in 1..20_usize {
        let expected = (4 * n).min(60);
        guarded("mails", async {
            while t.held.count() < expected {
                t.get_without_key("/healthz").await;
            }
        })
        .await;
        t.clock.advance(seconds(5));
    }
    t.rest().await;
    assert_eq!((t.held.count(), server.connections()), (60, 60));
    t.provider.completed("job_w");
    t.watch("job_w").await;
    t.pass(seconds(5)).await;
    t.receiver.take(1).await;
    gate.send_replace(true);
    t.pass(seconds(30)).await;
    for _ in 0..62 {
        server.next().await;
    }
    assert_eq!(server.connections(), 62);
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_stop_records_a_mail_without_a_reply_as_unclear() {
    let (mut t, server) = start(OPEN, &[]).await;
    server.script([Quirk::Silent(".")]);
    let watch = deliver(&t, "job_1", "me@example.com").await;
    let address = t.address();
    let stopping = t.begin_stop();
    t.closed(address).await;
    t.clock.advance(seconds(20));
    stopping.ended().await;
    t.held.none().await;
    t.restart().await;
    t.rest().await;
    let first = server.next().await;
    let delivery = t.delivery(&watch).await;
    let error = "stopped: Ringback was stopped before the mail server replied; it may have accepted the mail";
    assert_eq!(errors(&delivery), [&json!(error)]);
    assert_eq!(delivery["attempts"][0]["durationMs"], 20_000);
    t.pass(seconds(60 * 60 - 1)).await;
    assert_eq!(server.connections(), 1, "too soon");
    t.pass(seconds(1)).await;
    assert_eq!(server.next().await.header("Message-ID"), first.header("Message-ID"));
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_stop_waits_for_the_reply_to_a_transmitted_mail() {
    let (mut t, server) = start(OPEN, &[]).await;
    let (reply, late) = tokio::sync::watch::channel(false);
    server.script([Quirk::Late(".", late)]);
    let watch = deliver(&t, "job_1", "me@example.com").await;
    let address = t.address();
    let stopping = t.begin_stop();
    t.closed(address).await;
    t.clock.advance(seconds(19));
    reply.send(true).unwrap();
    stopping.ended().await;
    server.next().await;
    t.restart().await;
    t.rest().await;
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_mail_that_is_not_transmitted() {
    let (mut t, server) = start(OPEN, &[("RINGBACK_DELIVERY__TIMEOUT", "4s")]).await;
    server.script([Quirk::Silent("EHLO")]);
    let watch = deliver(&t, "job_1", "me@example.com").await;
    let address = t.address();
    let stopping = t.begin_stop();
    t.closed(address).await;
    t.clock.advance(seconds(4));
    stopping.ended().await;
    t.restart().await;
    t.rest().await;
    server.next().await;
    assert_eq!(errors(&t.delivery(&watch).await), [&Value::Null]);
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_crash_repeats_no_mail_that_waits_for_its_reply() {
    let (mut t, server) = start(OPEN, &[]).await;
    server.script([Quirk::Silent(".")]);
    let watch = deliver(&t, "job_1", "me@example.com").await;
    let before = t.delivery(&watch).await["nextAttemptAt"].clone();
    t.clock.advance(seconds(5));
    guarded("the postponement", async { while t.delivery(&watch).await["nextAttemptAt"] == before {} }).await;
    t.crash().await;
    t.held.none().await;
    t.restart().await;
    t.rest().await;
    let first = server.next().await;
    assert_eq!(server.connections(), 1);
    t.pass(minutes(60)).await;
    assert_eq!(server.next().await.header("Message-ID"), first.header("Message-ID"));
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_crash_repeats_neither_a_manual_retry_nor_a_last_attempt() {
    for is_manual in [false, true] {
        // Without a schedule, the first attempt is the last one.
        let (mut t, server) = start(OPEN, &[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "[]")]).await;
        if is_manual {
            server.script([Quirk::Replies("MAIL", "451 4.3.0 later"), Quirk::Silent(".")]);
        } else {
            server.script([Quirk::Silent(".")]);
        }
        let watch = deliver(&t, "job_1", "me@example.com").await;
        if is_manual {
            let id = t.delivery(&watch).await["id"].as_str().unwrap().to_owned();
            t.act(&format!("/v1/deliveries/{id}/retry")).await.expect(202);
            t.rest().await;
        }
        let before = t.delivery(&watch).await["nextAttemptAt"].clone();
        t.clock.advance(seconds(5));
        guarded("the postponement", async { while t.delivery(&watch).await["nextAttemptAt"] == before {} })
            .await;
        t.crash().await;
        t.held.none().await;
        t.restart().await;
        t.rest().await;
        let connections = server.connections();
        t.pass(minutes(59)).await;
        assert_eq!((connections, server.connections()), if is_manual { (2, 2) } else { (1, 1) });
        t.pass(minutes(1)).await;
        let delivery = t.delivery(&watch).await;
        let expected = if is_manual { ("failed", 2) } else { ("succeeded", 2) };
        assert_eq!((delivery["status"].as_str().unwrap(), server.connections()), expected);
        for _ in 0..if is_manual { 1 } else { 2 } {
            server.next().await;
        }
        t.finish().await;
        server.finish();
    }
}

#[tokio::test]
async fn an_old_mail_server_gets_helo_or_auth_login() {
    let auth = "250-mail.test\r\n250 AUTH=PLAIN";
    for (setup, quirk) in [
        (OPEN, Quirk::Replies("EHLO", "502 5.5.1 not implemented")),
        (OPEN, Quirk::Replies("EHLO", "500 what?")),
        (OPEN, Quirk::Replies("EHLO", "501 no")),
        (OPEN, Quirk::Replies("EHLO", "504 no")),
        (OPEN, Quirk::Replies("EHLO", "550 no")),
        (STARTTLS, Quirk::Replies("PLAIN", "504 5.5.4 mechanism not implemented")),
        (STARTTLS, Quirk::Replies("PLAIN", "501 5.5.4 no initial response")),
        (Setup { login: Some("PLAIN"), ..OPEN }, Quirk::Replies("EHLO", auth)),
    ] {
        let (t, server) = start(setup, &[]).await;
        server.script([quirk.clone()]);
        let watch = deliver(&t, "job_1", "me@example.com").await;
        assert_eq!(errors(&t.delivery(&watch).await), [&Value::Null], "{quirk:?}");
        assert_eq!(server.next().await.login.is_some(), setup.login.is_some());
        t.finish().await;
        server.finish();
    }
}

#[tokio::test]
async fn a_login_that_is_not_offered_is_reported_with_a_remedy() {
    for (setup, says) in [
        (
            Setup { login: Some("CRAM-MD5 XOAUTH2"), ..OPEN },
            "it offers CRAM-MD5, XOAUTH2, and Ringback knows PLAIN and LOGIN",
        ),
        (STARTTLS, "it may offer one after STARTTLS: add ?tls=required to [smtp] url"),
        (OPEN, "remove the user name and the password from [smtp] url"),
    ] {
        let mut neighbours = Neighbours::default();
        let server = MailServer::start(&mut neighbours, setup).await;
        let (_, port) = server
            .url()
            .trim_end_matches("?tls=required")
            .rsplit_once(':')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        let url = format!("smtp://robot:hush@{HOST}:{port}");
        let t = application(neighbours, &server, &[("RINGBACK_SMTP__URL", url.as_str())]).await;
        let watch = deliver(&t, "job_1", "me@example.com").await;
        let error = format!("smtp: the mail server offers no login; {says}");
        assert_eq!(errors(&t.delivery(&watch).await), [&json!(error)]);
        t.finish().await;
        server.finish();
    }
}

crate::postgres::on_postgres_too! {
    a_mail_server_may_need_nine_minutes_for_its_final_reply,
    a_mail_with_an_unclear_outcome_waits_1_4_and_12_hours,
    a_connection_that_is_lost_in_the_message_is_retried_soon,
    late_replies_hold_no_place_of_other_deliveries,
    a_stop_records_a_mail_without_a_reply_as_unclear,
    a_stop_waits_for_the_reply_to_a_transmitted_mail,
    a_stop_does_not_wait_for_a_mail_that_is_not_transmitted,
    a_crash_repeats_no_mail_that_waits_for_its_reply,
    a_crash_repeats_neither_a_manual_retry_nor_a_last_attempt,
    an_old_mail_server_gets_helo_or_auth_login,
    a_login_that_is_not_offered_is_reported_with_a_remedy,
}
