//! Deliveries to Slack and compatible chats: messages, pace, and the meaning of responses.

use serde_json::{Value, json};

use crate::chat::{Chat, HOOKS, Posted, Response, TOKEN, refusal};
use crate::harness::{Harness, Neighbours, id, minutes, seconds, since_start};

/// Starts the application with a chat and a bot.
async fn start() -> (Harness, Chat) {
    let mut neighbours = Neighbours::default();
    let chat = Chat::start(&mut neighbours).await;
    let api = chat.api();
    let settings = [("RINGBACK_SLACK__BOT_TOKEN", TOKEN), ("RINGBACK_SLACK__API_URL", api.as_str())];
    let t = Harness::among(neighbours, &settings).await;
    t.resolve(HOOKS, &["127.0.0.1"]);
    (t, chat)
}

/// Registers a watch of a completed job that notifies a Slack address, and lets it be delivered.
async fn deliver(t: &Harness, job: &str, slack: &str) -> String {
    t.provider.completed(job);
    let watch = t.register(&json!({ "jobId": job, "slack": slack })).await;
    t.pass(seconds(5)).await;
    watch
}

fn response(status: u16, body: &str) -> Response {
    (status, Vec::new(), body.to_owned())
}

#[tokio::test]
async fn a_slack_hook_gets_blocks_and_is_shown_masked() {
    let (t, chat) = start().await;
    let watch = deliver(&t, "job_1", &chat.hook("hush")).await;
    let Posted { path, payload, .. } = chat.next().await;
    assert_eq!(path, "/services/T01/B02/hush");
    assert_eq!(payload["text"], "\u{2705} Completed: job_1");
    let kinds: Vec<&str> =
        payload["blocks"].as_array().unwrap().iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["header", "section", "context"]);
    let blocks = payload["blocks"].to_string();
    for what in [
        "job_1",
        "output_0.mp4|Open the output>",
        "thumb_0.jpg",
        "<!date^1771426805^",
        "2026-02-18 15:00:05 UTC",
    ] {
        assert!(blocks.contains(what), "{what} in {blocks}");
    }
    assert_eq!(payload["attachments"][0]["color"], "#188646");

    let masked = chat.hook("***");
    let shown = t.shown(&watch).await;
    assert_eq!(
        (&shown["destinations"][0]["type"], &shown["destinations"][0]["url"]),
        (&json!("slack"), &json!(masked))
    );
    let delivery = t.delivery(&watch).await;
    assert_eq!(delivery["destination"], json!({ "type": "slack", "url": masked }));
    assert_eq!(delivery["status"], "succeeded");
    assert_eq!(
        (&delivery["attempts"][0]["statusCode"], &delivery["attempts"][0]["responseBody"]),
        (&json!(200), &json!("ok"))
    );
    let timeline = t.get(&format!("/v1/watches/{watch}/timeline")).await;
    let list = t.get("/v1/watches").await;
    let made = t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": [chat.hook("hush")] })).await;
    for answer in [timeline.text(), list.text(), made.text(), &delivery.to_string()] {
        assert!(!answer.contains("hush"), "{answer}");
    }
    t.pass(minutes(1)).await;
    chat.next().await;
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn a_compatible_hook_gets_attachments() {
    let (t, chat) = start().await;
    let watch = deliver(&t, "job_1", &chat.elsewhere("hush")).await;
    let payload = chat.next().await.payload;
    assert!(payload["blocks"].is_null());
    assert_eq!(payload["text"], "\u{2705} Completed: job_1");
    let attachment = &payload["attachments"][0];
    assert_eq!((&attachment["color"], &attachment["title"]), (&json!("#188646"), &json!("Open the output")));
    assert_eq!(attachment["title_link"], "https://cdn.muvi.video/outputs/job_1/output_0.mp4");
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn a_channel_gets_its_message_from_the_bot() {
    let (t, chat) = start().await;
    t.provider.failed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "slack": "#ops" })).await;
    t.pass(seconds(5)).await;
    let Posted { path, payload, .. } = chat.next().await;
    assert_eq!((path.as_str(), &payload["channel"]), ("/api/chat.postMessage", &json!("#ops")));
    assert!(payload["blocks"].to_string().contains("The model failed."));
    let delivery = t.delivery(&watch).await;
    assert_eq!(delivery["destination"], json!({ "type": "slack", "channel": "#ops" }));
    assert_eq!(delivery["status"], "succeeded");
    assert_eq!(delivery["attempts"][0]["requestHeaders"]["authorization"], "***");
    assert!(!delivery.to_string().contains("hush"));
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn a_chat_gets_a_message_a_second_and_delays_no_other_chat() {
    let (t, chat) = start().await;
    for n in 0..4 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        t.register(&json!({ "jobId": job, "slack": chat.hook("a"), "callbackUrl": t.receiver.url("/hook") }))
            .await;
    }
    t.provider.completed("job_b");
    t.register(&json!({ "jobId": "job_b", "slack": chat.hook("b") })).await;
    t.pass(seconds(60)).await;
    let posted = chat.read_all();
    let at = |end: &str| {
        let times: Vec<_> = posted.iter().filter(|one| one.path.ends_with(end)).map(|one| one.at).collect();
        since_start(&times)
    };
    assert_eq!((at("/a"), at("/b")), (vec![5, 6, 7, 8], vec![5]));
    assert!(
        t.receiver.read_all().iter().all(|hit| since_start(&[hit.at]) == [5]),
        "webhooks wait for no chat"
    );
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn retry_after_delays_all_messages_of_a_chat() {
    let (t, chat) = start().await;
    chat.script("/a", [(429, vec![("retry-after".to_owned(), "30".to_owned())], String::new())]);
    for n in 0..3 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        t.register(&json!({ "jobId": job, "slack": chat.hook("a") })).await;
    }
    t.pass(minutes(5)).await;
    let times: Vec<_> = chat.read_all().iter().map(|posted| posted.at).collect();
    let times = since_start(&times);
    let (first, rest) = times.split_first().unwrap();
    assert_eq!((*first, rest.len()), (5, 3));
    assert!(rest.iter().all(|at| (35..=40).contains(at)), "{rest:?}");
    assert!(rest.windows(2).all(|pair| pair[1] > pair[0]), "{rest:?}");
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn after_a_refusal_of_the_blocks_the_plain_text_is_sent() {
    let (t, chat) = start().await;
    for (job, slack, refused) in [
        ("job_1", chat.hook("a"), response(400, "invalid_blocks")),
        ("job_2", "#ops".to_owned(), refusal("msg_blocks_too_long")),
    ] {
        let end = if slack.starts_with('#') { "postMessage" } else { "/a" };
        chat.script(end, [refused]);
        let watch = deliver(&t, job, &slack).await;
        assert!(chat.next().await.payload["blocks"].is_array());
        let plain = chat.next().await.payload;
        assert!(plain["blocks"].is_null() && plain["attachments"].is_null());
        assert!(
            plain["text"]
                .as_str()
                .unwrap()
                .contains(&format!("Completed: {job}\nThe job is done.\nhttps://"))
        );
        let delivery = t.delivery(&watch).await;
        assert_eq!(delivery["status"], "succeeded");
        let error = delivery["attempts"][0]["error"].as_str().unwrap();
        assert!(error.starts_with("degraded: the blocks were refused ("), "{error}");
    }
    // If the text is refused too, no retry follows.
    chat.script("/b", [response(400, "invalid_blocks"), response(400, "invalid_payload")]);
    let watch = deliver(&t, "job_3", &chat.hook("b")).await;
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["reason"]), (&json!("failed"), &json!("exhausted")));
    assert_eq!(delivery["attempts"][0]["error"], "slack: invalid_payload");
    assert_eq!(chat.read_all().len(), 2);
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn a_removed_hook_or_channel_gets_no_more_messages_of_the_watch() {
    let (t, chat) = start().await;
    for (job, slack, gone, hint) in [
        ("job_1", chat.hook("a"), response(404, "no_service"), "the hook has been removed"),
        ("job_2", "C0123ABCD".to_owned(), refusal("not_in_channel"), "invite the app to the channel"),
    ] {
        let end = if slack.starts_with('C') { "postMessage" } else { "/a" };
        chat.script(end, [gone]);
        t.provider.processing(job, 10);
        let body = json!({ "jobId": job, "slack": slack, "events": ["job.processing", "job.completed"] });
        let watch = t.register(&body).await;
        t.pass(seconds(5)).await;
        let delivery = t.delivery(&watch).await;
        assert_eq!((&delivery["status"], &delivery["reason"]), (&json!("failed"), &json!("gone")));
        assert!(delivery["attempts"][0]["error"].as_str().unwrap().contains(hint), "{delivery}");
        t.provider.completed(job);
        t.pass(minutes(2)).await;
        t.delivery(&watch).await;
        assert_eq!(chat.read_all().len(), 1);
    }
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn a_refused_token_ends_no_delivery() {
    let (t, chat) = start().await;
    chat.script("postMessage", [refusal("token_revoked")]);
    let watch = deliver(&t, "job_1", "#ops").await;
    let delivery = t.delivery(&watch).await;
    assert_eq!(
        (&delivery["status"], &delivery["attempts"][0]["error"]),
        (&json!("pending"), &json!("slack: token_revoked"))
    );
    t.pass(minutes(25)).await;
    assert_eq!(chat.read_all().len(), 1);
    t.pass(minutes(10)).await;
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    assert_eq!(chat.read_all().len(), 1);
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn an_invalid_slack_address_is_reported_at_its_field() {
    let (t, chat) = start().await;
    let body = json!({
        "jobId": "job_1", "slack": "ops",
        "notify": [
            { "type": "slack", "slack": "http://169.254.169.254/hooks/x" }, { "type": "slack" },
            { "type": "slack", "url": "https://hooks.slack.com/triggers/T/1/x" },
            { "type": "slack", "channel": "#ops", "url": "https://chat.example.com/hooks/x" },
            { "type": "slack", "channel": 1 }, "https://hooks.slack.com/workflows/T/1/x",
            { "type": "slack", "channel": "#ops", "headers": {} },
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
    let trigger = "is the trigger of a workflow, which accepts no messages: give an incoming webhook, \
                   https://hooks.slack.com/services/…";
    assert_eq!(
        found,
        [
            (
                "/notify/0/slack",
                "must not lead to 169.254.169.254 (an address that is link-local); the operator can permit it: \
                 add 169.254.169.254 to egress.allow (RINGBACK_EGRESS__ALLOW)"
            ),
            ("/notify/1/url", "is required"),
            ("/notify/2/url", trigger),
            ("/notify/3/channel", "cannot be used with url; give one of url, channel, slack"),
            ("/notify/4/channel", "must be a string"),
            ("/notify/5", trigger),
            ("/notify/6/headers", "there is no such field"),
            ("/slack", "must be a hook (https://hooks.slack.com/services/…), #channel or a channel's id"),
        ]
    );
    t.finish().await;
    chat.finish();
    let t = Harness::start().await;
    let problem = t.post("/v1/watches", &json!({ "jobId": "job_1", "slack": "#ops" })).await.expect(422);
    assert_eq!(
        problem["errors"][0],
        json!({ "pointer": "/slack", "code": "channel_not_configured",
                "detail": "channels cannot be posted to from here; use a hook, or the operator can set slack.bot_token \
                           (RINGBACK_SLACK__BOT_TOKEN)" })
    );
    t.finish().await;
}

#[tokio::test]
async fn a_chat_gets_its_message_after_a_crash() {
    let (mut t, chat) = start().await;
    chat.script("/a", [response(500, "rollup_error")]);
    let watch = deliver(&t, "job_1", &chat.hook("a")).await;
    assert_eq!(t.delivery(&watch).await["status"], "pending");
    t.crash().await;
    t.restart().await;
    t.pass(seconds(10)).await;
    let delivery = t.delivery(&watch).await;
    assert_eq!(delivery["status"], "succeeded");
    assert!(id(&delivery).starts_with("dlv_"));
    let posted = chat.read_all();
    assert_eq!(posted.len(), 2);
    assert_eq!(posted[0].payload, posted[1].payload);
    t.finish().await;
    chat.finish();
}

#[tokio::test]
async fn no_text_of_a_job_mentions_a_user_in_a_chat() {
    let (t, chat) = start().await;
    let evil = "<!channel> @channel <https://evil.example|ok> \r\n\u{202e}*b*";
    let error = json!({ "code": evil, "message": format!("{evil}{}", "&<>".repeat(30_000)) });
    t.provider.job("job_1", &json!({ "status": "failed", "error": error }));
    let metadata: serde_json::Map<String, Value> =
        (0..20).map(|n| (format!("{n}{evil}"), json!(evil))).collect();
    let body = json!({ "jobId": "job_1", "slack": chat.hook("a"), "metadata": metadata,
                       "notify": [{ "type": "slack", "url": chat.elsewhere("a") }, { "type": "slack", "channel": "#ops" }] });
    t.register(&body).await;
    t.pass(seconds(5)).await;
    for posted in chat.read_all() {
        let text = posted.payload.to_string();
        for mark in ["<!channel", "<https://evil", "\u{202e}"] {
            assert!(!text.contains(mark), "{mark} in {text}");
        }
        if posted.path.starts_with("/hooks/") {
            assert!(!text.contains("@channel"), "{text}");
        }
        assert!(text.len() < 40_000, "{}", text.len());
    }
    t.finish().await;
    chat.finish();
}

crate::postgres::on_postgres_too! {
    a_slack_hook_gets_blocks_and_is_shown_masked,
    a_compatible_hook_gets_attachments,
    a_channel_gets_its_message_from_the_bot,
    a_chat_gets_a_message_a_second_and_delays_no_other_chat,
    retry_after_delays_all_messages_of_a_chat,
    after_a_refusal_of_the_blocks_the_plain_text_is_sent,
    a_removed_hook_or_channel_gets_no_more_messages_of_the_watch,
    a_refused_token_ends_no_delivery,
    an_invalid_slack_address_is_reported_at_its_field,
    a_chat_gets_its_message_after_a_crash,
    no_text_of_a_job_mentions_a_user_in_a_chat,
}
