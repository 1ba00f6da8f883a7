//! Deliveries by mail: content, TLS, refusals, retries, and permitted recipients.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::fakes::Reply;
use crate::harness::{Harness, Neighbours, id, minutes, seconds};
use crate::mail_server::{HOST, LOGIN, Mail, MailServer, OPEN, Quirk, Setup};

pub const STARTTLS: Setup = Setup { starttls: true, login: Some("PLAIN LOGIN"), ..OPEN };

/// Starts the application with a mail server.
pub async fn start(setup: Setup, more: &[(&str, &str)]) -> (Harness, MailServer) {
    let mut neighbours = Neighbours::default();
    let server = MailServer::start(&mut neighbours, setup).await;
    (application(neighbours, &server, more).await, server)
}

pub async fn application(neighbours: Neighbours, server: &MailServer, more: &[(&str, &str)]) -> Harness {
    let url = server.url();
    let mut settings = vec![
        ("RINGBACK_SMTP__URL", url.as_str()),
        ("RINGBACK_SMTP__FROM", "Ringback <robot@mail.test>"),
        ("RINGBACK_SMTP__ALLOW", "*@example.com"),
    ];
    settings.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    settings.extend(more);
    let t = Harness::among(neighbours, &settings).await;
    t.resolve(HOST, &["127.0.0.1"]);
    t
}

/// Registers a watch of a completed job that notifies a mail address, and lets it be delivered.
pub async fn deliver(t: &Harness, job: &str, email: &str) -> String {
    t.provider.completed(job);
    let watch = t.register(&json!({ "jobId": job, "email": email })).await;
    t.pass(seconds(5)).await;
    watch
}

fn attempt(delivery: &Value, n: usize) -> &Value {
    &delivery["attempts"][n]
}

#[tokio::test]
async fn a_mail_is_sent_with_starttls_and_login_as_documented() {
    let (t, server) = start(STARTTLS, &[]).await;
    t.provider.completed("job_1");
    let body = json!({ "jobId": "job_1", "email": "Me+x@Example.COM", "metadata": { "orderId": 42 } });
    let watch = t.register(&body).await;
    let shown = t.shown(&watch).await;
    let destination = &shown["destinations"][0];
    assert_eq!(
        (&destination["type"], &destination["email"], &destination["url"]),
        (&json!("email"), &json!("Me+x@example.com"), &Value::Null)
    );
    t.pass(seconds(5)).await;
    let mail = server.next().await;
    assert_eq!((mail.from.as_str(), mail.to.as_str()), ("robot@mail.test", "Me+x@example.com"));
    assert_eq!((mail.login.as_deref(), mail.secure), (Some(LOGIN.0), true));

    let delivery = t.delivery(&watch).await;
    assert_eq!(delivery["status"], "succeeded");
    assert_eq!(delivery["destination"], json!({ "type": "email", "email": "Me+x@example.com" }));
    let attempt = attempt(&delivery, 0);
    assert_eq!((&attempt["statusCode"], &attempt["error"]), (&Value::Null, &Value::Null));
    assert_eq!(attempt["responseBody"], "250 2.0.0 queued as 4711");
    let message_id = format!("<{}@mail.test>", id(&delivery));
    assert_eq!(attempt["requestHeaders"]["message-id"], message_id.as_str());

    let thread = format!("<{watch}@mail.test>");
    for (name, value) in [
        ("From", "Ringback <robot@mail.test>"),
        ("To", "Me+x@example.com"),
        ("Subject", "Completed: job_1 (muvi)"),
        ("Message-ID", &message_id),
        ("In-Reply-To", &thread),
        ("References", &thread),
        ("Auto-Submitted", "auto-generated"),
        ("X-Auto-Response-Suppress", "All"),
        ("MIME-Version", "1.0"),
        ("Date", "Wed, 18 Feb 2026 15:00:05 +0000"),
    ] {
        assert_eq!(mail.header(name), value, "{name}");
    }
    assert!(mail.header("Content-Type").starts_with("multipart/alternative; boundary="));
    let [text, html] = mail.parts();
    for said in [
        "job_1",
        "https://cdn.muvi.video/outputs/job_1/output_0.mp4",
        "orderId",
        "42",
        "2026-02-18 15:02:30 UTC",
    ] {
        assert!(text.contains(said) && html.contains(said), "{said} in {text} {html}");
    }
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_mail_is_sent_with_implicit_tls_and_unencrypted() {
    for (setup, secure) in [
        (Setup { implicit: true, login: Some("PLAIN"), ..OPEN }, true),
        (Setup { implicit: true, login: Some("LOGIN"), ..OPEN }, true),
        (Setup { starttls: true, ..OPEN }, true),
        (Setup { login: Some("CRAM-MD5 LOGIN PLAIN"), ..OPEN }, false),
        (OPEN, false),
    ] {
        let (t, server) = start(setup, &[]).await;
        deliver(&t, "job_1", "me@example.com").await;
        let mail = server.next().await;
        assert_eq!((mail.secure, mail.login.is_some()), (secure, setup.login.is_some()), "{setup:?}");
        t.finish().await;
        server.finish();
    }
}

#[tokio::test]
async fn an_untrusted_mail_server_gets_neither_password_nor_mail() {
    for setup in [STARTTLS, Setup { implicit: true, starttls: false, ..STARTTLS }] {
        let neighbours = Neighbours::default();
        let server = MailServer::start_stranger(&neighbours, setup).await;
        let t = application(neighbours, &server, &[]).await;
        let watch = deliver(&t, "job_1", "me@example.com").await;
        let delivery = t.delivery(&watch).await;
        let error = attempt(&delivery, 0)["error"].as_str().unwrap();
        assert!(error.starts_with("tls: invalid peer certificate: UnknownIssuer; "), "{error}");
        assert!(error.ends_with("SSL_CERT_FILE, at TLS"), "{error}");
        assert_eq!(delivery["status"], "pending");
        assert_eq!(
            delivery["nextAttemptAt"], "2026-02-18T15:30:05.000Z",
            "what waits for the operator waits"
        );
        t.finish().await;
        server.finish();
    }
    // A server without TLS where TLS is required, or where the password would be sent unencrypted.
    for parameter in ["required", "opportunistic"] {
        let mut neighbours = Neighbours::default();
        let server = MailServer::start(&mut neighbours, Setup { login: Some("PLAIN"), ..OPEN }).await;
        let url = format!("{}?tls={parameter}", server.url());
        let t = application(neighbours, &server, &[("RINGBACK_SMTP__URL", url.as_str())]).await;
        let watch = deliver(&t, "job_1", "me@example.com").await;
        let delivery = t.delivery(&watch).await;
        assert_eq!(
            attempt(&delivery, 0)["error"],
            "tls: the mail server offers no STARTTLS; if its port expects TLS at once, write [smtp] url with smtps://"
        );
        t.finish().await;
        server.finish();
    }
}

#[tokio::test]
async fn a_mail_server_without_response_delays_one_attempt_only() {
    for (word, quirk) in [
        ("the greeting", Quirk::Silent("greeting")),
        ("EHLO", Quirk::Silent("EHLO")),
        ("EHLO", Quirk::Half("EHLO")),
        ("RCPT TO", Quirk::Silent("RCPT")),
        ("DATA", Quirk::Silent("DATA")),
    ] {
        let (t, server) = start(OPEN, &[("RINGBACK_SMTP__TIMEOUT", "7s")]).await;
        server.script([quirk]);
        t.provider.completed("job_1");
        let watch = t.register(&json!({ "jobId": "job_1", "email": "me@example.com" })).await;
        t.pass(seconds(5)).await;
        assert_eq!(t.held.count(), 1, "{word}");
        // Another mail is not affected.
        let other = deliver(&t, "job_2", "you@example.com").await;
        assert_eq!(server.next().await.to, "you@example.com");
        assert_eq!(t.delivery(&other).await["status"], "succeeded");
        t.clock.advance(seconds(7));
        t.held.none().await;
        t.rest().await;
        let delivery = t.delivery(&watch).await;
        let error = format!("timeout: no answer within 7 s, at {word}");
        assert_eq!(attempt(&delivery, 0)["error"], error.as_str());
        t.pass(seconds(10)).await;
        assert_eq!(server.next().await.to, "me@example.com");
        assert_eq!(t.delivery(&watch).await["status"], "succeeded");
        t.finish().await;
        server.finish();
    }
}

/// Returns the errors of a delivery's attempts.
pub fn errors(delivery: &Value) -> Vec<&Value> {
    delivery["attempts"].as_array().unwrap().iter().map(|attempt| &attempt["error"]).collect()
}

#[tokio::test]
async fn a_mail_that_was_accepted_stays_accepted() {
    for quirk in
        [Quirk::Silent("QUIT"), Quirk::Hangs("QUIT"), Quirk::Replies("QUIT", "500 what?"), Quirk::Dribbles]
    {
        let (t, server) = start(OPEN, &[]).await;
        server.script([quirk.clone()]);
        t.provider.completed("job_1");
        let watch = t.register(&json!({ "jobId": "job_1", "email": "me@example.com" })).await;
        t.pass(seconds(5)).await;
        if matches!(quirk, Quirk::Silent(_)) {
            t.held.none().await;
        }
        t.pass(minutes(60)).await;
        server.next().await;
        let delivery = t.delivery(&watch).await;
        assert_eq!(delivery["status"], "succeeded", "{quirk:?}");
        assert_eq!(delivery["attempts"].as_array().unwrap().len(), 1, "{quirk:?}");
        assert_eq!(server.connections(), 1, "{quirk:?}");
        t.finish().await;
        server.finish();
    }
}

#[tokio::test]
async fn a_refused_recipient_ends_only_its_own_delivery() {
    let (t, server) = start(OPEN, &[]).await;
    server.refuse("gone@example.com", "550 5.1.1 no such user");
    t.provider.processing("job_1", 10);
    let watch = t
        .register(&json!({
            "jobId": "job_1", "email": ["gone@example.com", "me@example.com"],
            "events": ["job.processing", "job.completed"],
        }))
        .await;
    t.pass(seconds(5)).await;
    assert_eq!(server.next().await.to, "me@example.com");
    let found = t.get(&format!("/v1/deliveries?watchId={watch}")).await.expect(200);
    let of = |status: &str| {
        let all = found["data"].as_array().unwrap();
        all.iter()
            .find(|one| one["status"] == status)
            .unwrap_or_else(|| panic!("no {status}: {found}"))
            .clone()
    };
    of("succeeded");
    let failed = of("failed");
    assert_eq!(
        (&failed["reason"], &failed["destination"]["email"]),
        (&json!("gone"), &json!("gone@example.com"))
    );
    let failed = t.get(&format!("/v1/deliveries/{}", id(&failed))).await.expect(200);
    let tried = attempt(&failed, 0);
    assert_eq!(tried["responseBody"], "550 5.1.1 no such user");
    assert_eq!(tried["error"], "smtp: the recipient is refused (the answer to RCPT TO)");
    // The watch's later mails go only to the other address.
    t.provider.completed("job_1");
    t.pass(minutes(2)).await;
    assert_eq!(server.next().await.header("Subject"), "Completed: job_1 (muvi)");
    let found = t.get(&format!("/v1/deliveries?watchId={watch}")).await.expect(200);
    assert_eq!(found["data"].as_array().unwrap().len(), 3);
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn each_refusal_of_the_mail_server_is_classified() {
    for (quirk, status, reason, least, word) in [
        (Quirk::Replies("greeting", "421 busy"), "pending", None, 300, "retry later"),
        (
            Quirk::Replies("greeting", "554 5.7.1 you are on a list"),
            "pending",
            None,
            1800,
            "does not accept mail",
        ),
        (Quirk::Replies("AUTH", "535 5.7.8 no"), "pending", None, 1800, "does not accept mail"),
        (Quirk::Replies("MAIL", "530 5.7.0 log in"), "pending", None, 1800, "does not accept mail"),
        (Quirk::Replies("RCPT", "450 4.2.0 greylisted"), "pending", None, 300, "retry later"),
        (Quirk::Replies("RCPT", "551 moved"), "failed", Some("gone"), 0, "recipient"),
        (
            Quirk::Replies("RCPT", "554 5.7.1 relay access denied"),
            "pending",
            None,
            1800,
            "does not accept mail",
        ),
        (Quirk::Replies("RCPT", "550 relay not permitted"), "pending", None, 1800, "does not accept mail"),
        (Quirk::Replies("RCPT", "550 no such user"), "failed", Some("gone"), 0, "recipient"),
        (Quirk::Replies("RCPT", "552 5.2.2 full"), "failed", Some("exhausted"), 0, "message"),
        (Quirk::Replies(".", "550 5.7.26 not authenticated"), "pending", None, 1800, "does not accept mail"),
        (Quirk::Replies(".", "552 5.3.4 too large"), "failed", Some("exhausted"), 0, "message"),
        (Quirk::Replies(".", "554 5.7.1 spam"), "failed", Some("exhausted"), 0, "message"),
    ] {
        let (t, server) = start(STARTTLS, &[]).await;
        let at_end = matches!(quirk, Quirk::Replies(".", _));
        server.script([quirk.clone()]);
        let watch = deliver(&t, "job_1", "me@example.com").await;
        let delivery = t.delivery(&watch).await;
        assert_eq!((&delivery["status"], &delivery["reason"]), (&json!(status), &json!(reason)), "{quirk:?}");
        let tried = attempt(&delivery, 0);
        assert!(tried["error"].as_str().unwrap().contains(word), "{quirk:?}: {tried}");
        let Quirk::Replies(_, says) = quirk else { panic!() };
        assert_eq!(tried["responseBody"], says);
        if at_end {
            server.next().await;
        }
        if status == "pending" {
            t.pass(seconds(least - 10)).await;
            assert_eq!(server.connections(), 1, "{says}: too soon");
            t.pass(seconds(30)).await;
            assert_eq!(t.delivery(&watch).await["status"], "succeeded", "{says}");
            server.next().await;
        }
        t.finish().await;
        server.finish();
    }
}

#[tokio::test]
async fn a_mail_server_cannot_show_the_password() {
    // The login of the test in Base64, as AUTH PLAIN sends it.
    let said = "535 5.5.1 unknown command: AUTH PLAIN AHJvYm90QG1haWwudGVzdABwOncvZCPDqQ==, password p:w/d#é";
    let (t, server) = start(STARTTLS, &[]).await;
    server.script([Quirk::Replies("AUTH", said)]);
    let watch = deliver(&t, "job_1", "me@example.com").await;
    let delivery = t.delivery(&watch).await;
    assert_eq!(
        attempt(&delivery, 0)["responseBody"],
        "535 5.5.1 unknown command: AUTH PLAIN ***, password ***"
    );
    t.give_up().await;
}

#[tokio::test]
async fn an_unreachable_mail_server_is_retried() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("smtp://127.0.0.1:{}", gone.local_addr().unwrap().port());
    drop(gone);
    for (url, error) in [
        (closed.as_str(), "connect: the mail server cannot be reached: connection refused"),
        (
            "smtp://nowhere.test:25",
            "connect: the mail server cannot be reached: the host name does not resolve",
        ),
    ] {
        let settings =
            [("RINGBACK_SMTP__URL", url), ("RINGBACK_SMTP__FROM", "r@a.test"), ("RINGBACK_SMTP__ALLOW", "*")];
        let t = Harness::with(&settings).await;
        let watch = deliver(&t, "job_1", "me@example.com").await;
        let delivery = t.delivery(&watch).await;
        assert_eq!(
            (&delivery["status"], &attempt(&delivery, 0)["error"]),
            (&json!("pending"), &json!(error))
        );
        t.finish().await;
    }
}

#[tokio::test]
async fn mails_wait_for_a_mail_server_that_is_away_and_cost_no_attempts() {
    // A forwarder accepts the connections, and the server behind it is away.
    let (t, server) = start(OPEN, &[]).await;
    server.script(vec![Quirk::Hangs("greeting"); 20]);
    let mut watches = Vec::new();
    for n in 0..12 {
        watches.push(deliver(&t, "job_1", &format!("to{n}@example.com")).await);
        t.pass(seconds(2)).await;
    }
    let last = t.delivery(&watches[11]).await;
    assert_eq!((&last["status"], &last["attemptCount"]), (&json!("pending"), &json!(0)), "{last}");
    assert_eq!(last["waiting"]["reason"], "destination_down", "{last}");
    t.pass(seconds(400)).await;
    for watch in &watches {
        let delivery = t.delivery(watch).await;
        assert_eq!(delivery["status"], "succeeded", "{delivery}");
        server.next().await;
    }
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn at_most_four_mails_of_an_app_are_in_flight() {
    let (t, server) = start(OPEN, &[]).await;
    server.script(vec![Quirk::Silent("EHLO"); 4]);
    for n in 0..10 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        t.register(&json!({ "jobId": job, "email": "me@example.com" })).await;
    }
    t.pass(seconds(5)).await;
    assert_eq!((t.held.count(), server.connections()), (4, 4));
    t.clock.advance(seconds(30));
    t.held.none().await;
    t.pass(minutes(1)).await;
    let mut jobs = Vec::new();
    for _ in 0..10 {
        jobs.push(server.next().await.header("Subject"));
    }
    jobs.sort();
    jobs.dedup();
    assert_eq!(jobs.len(), 10);
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn only_permitted_recipients_are_accepted() {
    let refused = |allow: &'static [(&'static str, &'static str)], from: &'static str, to: &'static str| async move {
        let mut settings = vec![("RINGBACK_SMTP__URL", "smtp://mail.test"), ("RINGBACK_SMTP__FROM", from)];
        settings.extend(allow);
        let t = Harness::with(&settings).await;
        t.provider.processing("job_1", 0);
        let answer = t.post("/v1/watches", &json!({ "jobId": "job_1", "email": to })).await;
        t.finish().await;
        match answer.status {
            201 => None,
            _ => Some(answer.expect(422)["errors"][0].clone()),
        }
    };
    // Default: the sender's own domain, unless it is a public mail service.
    assert_eq!(refused(&[], "r@corp.example", "me@corp.example").await, None);
    let wrong = json!({ "pointer": "/email", "code": "not_allowed_recipient",
        "detail": "may not be mailed from here: add it, or *@other.example, to [smtp] allow" });
    assert_eq!(refused(&[], "r@corp.example", "me@other.example").await, Some(wrong));
    assert!(refused(&[], "r@gmail.com", "me@gmail.com").await.is_some());
    assert_eq!(
        refused(&[("RINGBACK_SMTP__ALLOW", "*@gmail.com")], "r@gmail.com", "me@gmail.com").await,
        None
    );
    assert!(refused(&[("RINGBACK_SMTP__ALLOW", "[]")], "r@corp.example", "me@corp.example").await.is_some());
    assert_eq!(
        refused(&[("RINGBACK_SMTP__ALLOW", "a@b.example, Me@x.example")], "r@a.test", "ME@x.example").await,
        None
    );
}

#[tokio::test]
async fn an_invalid_mail_address_is_reported_at_its_field() {
    let (t, server) = start(OPEN, &[]).await;
    let body = json!({
        "jobId": "job_1",
        "email": ["me@example.com", "me@example.com\r\nBcc: x@y.example", "\"me\"@example.com", "you@elsewhere.example"],
        "notify": [
            "mailto:me%2Bx@example.com", "mailto:me@example.com?bcc=x@y.example",
            { "type": "email", "email": "ops@example.com" }, { "type": "email" }, { "type": "email", "email": 1 },
            { "type": "email", "to": "a@example.com", "address": "b@example.com" },
            { "type": "email", "address": "nobody", "url": "https://a.example" },
        ],
    });
    let problem = t.post("/v1/watches", &body).await.expect(422);
    let mut found: Vec<(&str, &str)> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| (fault["pointer"].as_str().unwrap(), fault["detail"].as_str().unwrap()))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [
            ("/email/1", "is not a mail address; write it as name@example.com"),
            ("/email/2", "is not a mail address; write it as name@example.com"),
            ("/email/3", "may not be mailed from here: add it, or *@elsewhere.example, to [smtp] allow"),
            ("/notify/1", "is not a mail address; write it as name@example.com"),
            ("/notify/3/email", "is required"),
            ("/notify/4/email", "must be a string"),
            ("/notify/5/to", "cannot be used with address; give one of email, address, to"),
            ("/notify/6/address", "is not a mail address; write it as name@example.com"),
            ("/notify/6/url", "there is no such field"),
        ]
    );
    t.finish().await;
    server.finish();
    let t = Harness::start().await;
    let problem =
        t.post("/v1/watches", &json!({ "jobId": "job_1", "email": "me@example.com" })).await.expect(422);
    let detail = "no mail is sent from here; the operator can set smtp.url (RINGBACK_SMTP__URL)";
    assert_eq!(problem["errors"][0]["detail"], detail);
    t.finish().await;
}

#[tokio::test]
async fn a_duplicate_address_gets_one_mail() {
    let (t, server) = start(OPEN, &[]).await;
    t.provider.completed("job_1");
    let body = json!({ "jobId": "job_1", "email": ["me@example.com", "me@EXAMPLE.com", "you@example.com"],
                       "notify": ["mailto:me@example.com"] });
    let watch = t.register(&body).await;
    assert_eq!(t.shown(&watch).await["destinations"].as_array().unwrap().len(), 2);
    t.pass(seconds(5)).await;
    let mut to = [server.next().await, server.next().await].map(|mail: Mail| mail.header("To"));
    to.sort();
    assert_eq!(to, ["me@example.com", "you@example.com"]);
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn no_text_of_a_job_becomes_a_header_or_markup_of_a_mail() {
    let (t, server) = start(OPEN, &[]).await;
    let evil =
        "\r\nBcc: x@y.example\r\n\r\n.\r\nMAIL FROM:<a@b.example>\r\n<script>alert(1)</script>\u{202e}\u{0}";
    let huge = format!("{evil}{}", "\u{1f600}x".repeat(20_000));
    t.provider.job(
        "job_1",
        &json!({ "status": "failed", "error": { "code": evil, "message": huge }, "output": format!("javascript:{evil}"),
                 "outputs": [{ "url": evil, "type": evil, "thumbnail": "https://a.example/\"><script>" }] }),
    );
    let metadata = json!({ evil: evil, "b": "v".repeat(3_000) });
    t.register(&json!({ "jobId": "job_1", "email": "me@example.com", "metadata": metadata })).await;
    t.pass(seconds(5)).await;
    let mail = server.next().await;
    let mut names: Vec<String> = mail.headers().into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "Auto-Submitted",
            "Content-Type",
            "Date",
            "From",
            "In-Reply-To",
            "MIME-Version",
            "Message-ID",
            "References",
            "Subject",
            "To",
            "X-Auto-Response-Suppress"
        ]
    );
    let subject = mail.header("Subject");
    assert!(subject.len() <= 150 && subject.starts_with("Failed: job_1"), "{subject}");
    let [text, html] = mail.parts();
    assert!(!html.contains("<script") && !html.contains("href=\"javascript"), "{html}");
    assert!(html.contains("&lt;script&gt;"));
    for part in [&text, &html] {
        assert!(!part.contains(['\u{202e}', '\0', '\r']) && part.len() < 100 * 1024);
    }
    // A text of several lines is indented, to distinguish it from the rest of the mail.
    assert!(text.lines().all(|line| !line.starts_with("Bcc:") && !line.starts_with("MAIL")), "{text}");
    t.finish().await;
    server.finish();
}

// Once: the store is not involved.
#[tokio::test]
async fn an_encoded_word_in_a_name_is_not_decoded() {
    let (t, server) = start(OPEN, &[]).await;
    t.provider.completed("job_1");
    let name = format!("=?utf-8?q?paid=E2=80=AE=0AX?= {} =?x", "\u{e9}".repeat(40));
    t.register(&json!({ "jobId": "job_1", "email": "me@example.com", "name": name })).await;
    t.pass(seconds(5)).await;
    let mail = server.next().await;
    let decoded = mail.header("Subject").split(' ').fold(Vec::new(), |mut bytes, word| {
        assert!(word.len() <= 75, "{word}");
        let text = word.strip_prefix("=?utf-8?b?").and_then(|rest| rest.strip_suffix("?="));
        bytes.extend(BASE64_STANDARD.decode(text.unwrap_or_else(|| panic!("not encoded: {word}"))).unwrap());
        bytes
    });
    assert_eq!(String::from_utf8(decoded).unwrap(), format!("Completed: {name} (muvi)"));
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_mail_is_rendered_even_if_webhooks_get_the_raw_response() {
    let (t, server) = start(OPEN, &[]).await;
    t.provider.completed("job_1");
    let body = json!({ "jobId": "job_1", "email": "me@example.com", "callbackUrl": t.receiver.url("/hook"),
                       "payload": "raw" });
    t.register(&body).await;
    t.receiver.script("/hook", [Reply::status(500)]);
    server.script([Quirk::Replies("RCPT", "450 later")]);
    t.pass(minutes(10)).await;
    let hits = t.receiver.take(2).await;
    assert!(hits.iter().all(|hit| hit.json()["jobId"] == "job_1"), "the raw answer");
    assert!(server.next().await.parts()[0].contains("Completed: "));
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn a_mail_is_sent_after_a_crash_as_the_same_mail() {
    let (mut t, server) = start(OPEN, &[]).await;
    server.script([Quirk::Silent(".")]);
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "email": "me@example.com" })).await;
    t.pass(seconds(5)).await;
    let first = server.next().await;
    t.crash().await;
    t.held.none().await;
    t.restart().await;
    t.rest().await;
    let second = server.next().await;
    assert_eq!(first.text, second.text);
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.finish().await;
    server.finish();
}

#[tokio::test]
async fn an_invalid_template_is_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("email")).unwrap();
    let file = folder.path().join("email/subject.txt");
    std::fs::write(&file, "{{ job }} of {{ metadata[0].value if metadata else 'nobody' }}").unwrap();
    let path = folder.path().display().to_string();
    let (t, server) = start(OPEN, &[("RINGBACK_TEMPLATES__PATH", &path)]).await;
    t.provider.completed("job_1");
    let body = json!({ "jobId": "job_1", "email": "me@example.com", "metadata": { "customer": "Ada\r\nBcc: x@y.example" } });
    t.register(&body).await;
    t.pass(seconds(5)).await;
    assert_eq!(server.next().await.header("Subject"), "job_1 of Ada Bcc: x@y.example");
    t.finish().await;
    server.finish();

    std::fs::write(&file, "{{ job }}\n{{ nothing }}").unwrap();
    let refused = Harness::refused(&[("RINGBACK_TEMPLATES__PATH", &path)]).await;
    assert_eq!(
        refused,
        format!(
            "{}:2: undefined value: `nothing` is undefined; the nearest is `link`, with the sample `job.completed`",
            file.display()
        )
    );
}

crate::postgres::on_postgres_too! {
    a_mail_is_sent_with_starttls_and_login_as_documented,
    a_mail_is_sent_with_implicit_tls_and_unencrypted,
    an_untrusted_mail_server_gets_neither_password_nor_mail,
    a_mail_server_without_response_delays_one_attempt_only,
    a_mail_that_was_accepted_stays_accepted,
    a_refused_recipient_ends_only_its_own_delivery,
    each_refusal_of_the_mail_server_is_classified,
    a_mail_server_cannot_show_the_password,
    an_unreachable_mail_server_is_retried,
    mails_wait_for_a_mail_server_that_is_away_and_cost_no_attempts,
    at_most_four_mails_of_an_app_are_in_flight,
    only_permitted_recipients_are_accepted,
    an_invalid_mail_address_is_reported_at_its_field,
    a_duplicate_address_gets_one_mail,
    no_text_of_a_job_becomes_a_header_or_markup_of_a_mail,
    a_mail_is_rendered_even_if_webhooks_get_the_raw_response,
    a_mail_is_sent_after_a_crash_as_the_same_mail,
    an_invalid_template_is_refused_at_start,
}
