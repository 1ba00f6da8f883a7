//! Tables of addresses, of their masked forms, and of responses.

use super::*;
use crate::clock::ManualClock;
use crate::domain::Timestamp;

#[test]
fn an_address_is_a_hook_a_compatible_hook_or_a_channel() {
    for (address, kind) in [
        ("https://hooks.slack.com/services/T1/B2/x", Some("hook")),
        ("https://HOOKS.slack.com/services/T1/B2/x", Some("hook")),
        ("https://hooks.slack-gov.com/services/T1/B2/x", Some("hook")),
        ("https://chat.example.com/hooks/abc", Some("compatible")),
        ("http://10.0.0.1/hooks/abc", Some("compatible")),
        ("https://hooks.slack.com.evil.example/services/x", Some("compatible")),
        ("#ops", Some("channel")),
        ("#träger-1_a.b", Some("channel")),
        ("C0123ABCD", Some("channel")),
        ("G0123ABCD", Some("channel")),
        ("D0123ABCD", Some("channel")),
        ("", None),
        ("#", None),
        ("# ops", None),
        ("#ops\n", None),
        ("#<!channel>", None),
        ("ops", None),
        ("@me", None),
        ("U0123ABCD", None),
        ("c0123abcd", None),
        ("C0123", None),
        ("slack://a/b/c", None),
        ("https://hooks.slack.com/workflows/T1/A2/3/x", None),
        ("https://hooks.slack.com/triggers/T1/2/x", None),
        ("https://hooks.slack.com./services/T1/B2/x", Some("hook")),
        ("https://hooks.slack.com/foo", None),
        ("https://hooks.slack.com/services/", None),
        ("https://hooks.slack.com", None),
    ] {
        let found = SlackTarget::of(address).ok().map(|target| match target {
            SlackTarget::Hook => "hook",
            SlackTarget::Compatible => "compatible",
            SlackTarget::Channel => "channel",
        });
        assert_eq!(found, kind, "{address:?}");
    }
}

#[test]
fn a_channel_has_one_spelling() {
    for (address, normalised) in
        [("#Ops", "#ops"), ("#TRÄGER", "#träger"), ("#ops", "#ops"), ("C0123ABCD", "C0123ABCD")]
    {
        assert_eq!(channel(address), normalised);
    }
}

#[test]
fn a_hook_is_shown_without_its_secret() {
    for (address, is) in [
        ("https://hooks.slack.com/services/T1/B2/hush", "https://hooks.slack.com/services/T1/B2/***"),
        ("https://hooks.slack.com/services/T1/B2/hush/", "https://hooks.slack.com/services/T1/B2/***"),
        ("https://chat.example.com:8443/hooks/hush?hush=1", "https://chat.example.com:8443/***"),
        ("https://discord.com/api/webhooks/123/hush/slack", "https://discord.com/***"),
        ("https://chat.example.com/hush", "https://chat.example.com/***"),
        ("https://chat.example.com", "https://chat.example.com/***"),
        ("#ops", "#ops"),
    ] {
        assert_eq!(masked(address), is);
    }
    let mut settings = SettingValues::default();
    settings.set("slack.bot_token", &["xoxb-hush".to_owned()]);
    settings.set("slack.api_url", &["https://slack.com/api".to_owned()]);
    let bot = Bot::from_settings(&settings).unwrap();
    assert!(!format!("{bot:?}").contains("hush"));
}

fn classified(target: SlackTarget, status: u16, header: &str, body: &str) -> Outcome {
    let headers = if header.is_empty() { Vec::new() } else { vec![("retry-after".into(), header.into())] };
    let body = Bytes::copy_from_slice(body.as_bytes());
    let received =
        Received { status, headers, body, truncated: false, duration: Duration::ZERO, redirects: 0 };
    let clock = Clock::Manual(ManualClock::at(Timestamp::default()));
    classify(target, &received, &clock).0
}

const RETRY: Outcome = Outcome::Retry { after: None };

fn after(seconds: f64) -> Outcome {
    Outcome::Retry { after: Some(Duration::from_secs_f64(seconds)) }
}

#[test]
fn each_response_of_a_hook_is_classified() {
    for (status, header, body, outcome) in [
        (200, "", "ok", Outcome::Ok),
        (200, "", "ok\n", Outcome::Ok),
        (200, "", "<html>log in", RETRY),
        (200, "", "", RETRY),
        (302, "", "", RETRY),
        (400, "", "invalid_payload", Outcome::Fatal),
        (400, "", "invalid_blocks", Outcome::Fatal),
        (400, "", "user_not_found", Outcome::Fatal),
        (400, "", "no_service", Outcome::Gone),
        (403, "", "action_prohibited", Outcome::Gone),
        (403, "", "invalid_token", Outcome::Gone),
        (403, "", "<html>Blocked by your administrator</html>", RETRY),
        (404, "", "channel_not_found", Outcome::Gone),
        (404, "", "no_team", Outcome::Gone),
        (410, "", "channel_is_archived", Outcome::Gone),
        (429, "30", "", after(30.0)),
        (429, "", r#"{"retry_after":0.5,"ok":false,"error":"rate_limited"}"#, after(0.5)),
        (429, "", "", RETRY),
        (500, "", "rollup_error", RETRY),
        (503, "7", "", after(7.0)),
    ] {
        let target = SlackTarget::Hook;
        assert_eq!(classified(target, status, header, body), outcome, "{status} {body}");
    }
}

#[test]
fn each_response_of_a_compatible_hook_is_classified() {
    for (status, body, outcome) in [
        (200, "ok", Outcome::Ok),
        (200, r#"{"success":true}"#, Outcome::Ok),
        (204, "", Outcome::Ok),
        (200, r#"{"success":false}"#, RETRY),
        (200, r#"{"ok":false}"#, RETRY),
        (400, "invalid_payload", Outcome::Fatal),
        (400, r#"{"id":"web.incoming_webhook.invalid.app_error"}"#, RETRY),
        (403, "", RETRY),
        (404, "", RETRY),
        (410, "", Outcome::Gone),
        (500, "", RETRY),
    ] {
        let target = SlackTarget::Compatible;
        assert_eq!(classified(target, status, "", body), outcome, "{status} {body}");
    }
}

#[test]
fn each_response_of_the_api_is_classified() {
    let of = |status, body: &str| classified(SlackTarget::Channel, status, "", body);
    assert_eq!(of(200, r#"{"ok":true,"channel":"C1","ts":"1.2"}"#), Outcome::Ok);
    let operator = Outcome::Retry { after: Some(OPERATOR_WAIT) };
    for (words, outcome) in [
        ("channel_not_found not_in_channel is_archived no_permission restricted_action", Outcome::Gone),
        (
            "restricted_action_read_only_channel ekm_access_denied messages_tab_disabled access_denied",
            Outcome::Gone,
        ),
        (
            "invalid_auth not_authed account_inactive token_revoked token_expired missing_scope",
            operator.clone(),
        ),
        ("org_login_required team_not_found not_allowed_token_type app_access_restricted", operator.clone()),
        ("invalid_blocks invalid_blocks_format msg_blocks_too_long msg_too_long no_text", Outcome::Fatal),
        ("too_many_attachments attachment_payload_limit_exceeded metadata_too_large", Outcome::Fatal),
        ("ratelimited rate_limited service_unavailable request_timeout team_added_to_org", RETRY),
        ("internal_error fatal_error something_new", RETRY),
        ("message_limit_exceeded", operator),
    ] {
        for word in words.split(' ') {
            let body = format!("{{\"ok\":false,\"error\":\"{word}\"}}");
            assert_eq!(of(200, &body), outcome, "{word}");
        }
    }
    for (status, body) in [(200, "ok"), (200, "{}"), (200, ""), (302, ""), (404, ""), (500, "{\"ok\":true}")]
    {
        assert_eq!(of(status, body), RETRY, "{status} {body}");
    }
    assert_eq!(
        classified(SlackTarget::Channel, 429, "30", "{\"ok\":false,\"error\":\"ratelimited\"}"),
        after(30.0)
    );
}
