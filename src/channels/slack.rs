//! Slack, and chats that take Slack's messages: where a message goes, sending it once, and what the
//! answer means.
//!
//! There are three ways in. A **hook** of Slack's own takes blocks and answers `ok`. A **compatible hook**
//! elsewhere (Mattermost, Rocket.Chat) takes the older attachments, and any 2xx is success unless it says
//! otherwise. A **channel** is posted to by the operator's bot, whose API answers 200 also when it
//! refuses.
//!
//! A hook's URL is a secret: whoever has it may post. It is shown masked, and a lane is named by its hash.
//!
//! A refusal that blames the message's form is answered at once, by the same message as plain text: to be
//! told in a plain way is better than not at all.

mod blocks;

use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::Url;

use super::template_context::TemplateContext;
use super::templates::Templates;
use super::{AGENT, ANSWER_MAX, AttemptResult, Message, shown, text, unanswered, unsent};
use crate::clock::Clock;
use crate::domain::{Outcome, parse_retry_after};
use crate::egress::{Call, Egress, Post, Received, SendError};
use blocks::{Dialect, payload, plain};

/// Slack takes a message a second for each channel; short bursts pass, but whoever keeps exceeding it may
/// be shut out for good.
pub const PACE: Duration = Duration::from_secs(1);

/// What only the operator can put right is tried seldom.
const SELDOM: Duration = Duration::from_secs(30 * 60);

/// Names of channels are shorter.
const CHANNEL_MAX: usize = 80;

/// Slack's own hosts for hooks.
const HOOK_HOSTS: [&str; 2] = ["hooks.slack.com", "hooks.slack-gov.com"];

/// The operator's bot.
#[derive(Clone)]
pub struct Bot {
    /// `xoxb-…`
    pub token: String,
    /// Where Slack's API is, without a slash at its end.
    pub api_url: String,
}

impl std::fmt::Debug for Bot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bot at {}", self.api_url)
    }
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlackTarget<'a> {
    /// Slack's own hook.
    Hook(&'a str),
    /// A hook elsewhere.
    Compatible(&'a str),
    /// A channel, by `#name` or id.
    Channel(&'a str),
}

impl<'a> SlackTarget<'a> {
    /// Tells the ways apart; a URL is not judged here. The error is a sentence that repeats nothing.
    pub fn parse(address: &'a str) -> Result<Self, String> {
        if address.is_empty() {
            return Err("must not be empty".into());
        }
        if let Some((scheme, _)) = address.split_once("://") {
            if !matches!(scheme.to_ascii_lowercase().as_str(), "https" | "http") {
                return Err("must begin with https://".into());
            }
            let Some(path) = own_path(address) else { return Ok(Self::Compatible(address)) };
            if path.starts_with("/workflows/") || path.starts_with("/triggers/") {
                return Err(
                    "is the trigger of a workflow, which takes no messages: give an incoming webhook, \
                     https://hooks.slack.com/services/…"
                        .into(),
                );
            }
            return Ok(Self::Hook(address));
        }
        let is_name = |name: &str| {
            (1..=CHANNEL_MAX).contains(&name.chars().count())
                && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        let is_id = |id: &str| {
            (9..=CHANNEL_MAX).contains(&id.len())
                && id.starts_with(['C', 'G', 'D'])
                && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        };
        if address.strip_prefix('#').is_some_and(is_name) || is_id(address) {
            Ok(Self::Channel(address))
        } else {
            Err("must be a hook (https://hooks.slack.com/services/…), #channel or a channel's id".into())
        }
    }
}

/// The path of a URL of Slack's own.
fn own_path(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    HOOK_HOSTS.contains(&url.host_str()?).then(|| url.path().to_owned())
}

/// Whether this is a hook of Slack's own.
pub fn is_own_hook(url: &str) -> bool {
    own_path(url).is_some()
}

/// An address as it may be shown: of Slack's own hooks all but the last word, which is the secret; of
/// others the host, since theirs may stand anywhere.
pub fn masked(address: &str) -> String {
    let Ok(url) = Url::parse(address) else {
        return if address.contains("://") { "***".into() } else { address.to_owned() };
    };
    let path = url.path().trim_end_matches('/');
    let front = path.rsplit_once('/').map_or("", |(front, _)| front);
    let front = if is_own_hook(address) { front } else { "" };
    format!("{}{front}/***", &url[..url::Position::BeforePath])
}

/// Names an address in a lane: a hook's URL is no name for the log.
pub fn lane(address: &str) -> String {
    let digest: [u8; 32] = Sha256::digest(address.as_bytes()).into();
    let short = digest[..8].iter().fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
    format!("slack {short}")
}

/// What is needed to send.
#[derive(Clone, Copy)]
pub(super) struct SendContext<'a> {
    pub(super) egress: &'a Egress,
    pub(super) clock: &'a Clock,
    pub(super) bot: Option<&'a Bot>,
    pub(super) templates: &'a Templates,
}

/// Sends once; a refusal of the form is followed by the plain text.
pub(super) async fn send(
    line: SendContext<'_>,
    message: &Message<'_>,
    (to, timeout): (&str, Duration),
) -> AttemptResult {
    let watch = line.clock.stopwatch();
    let way = match SlackTarget::parse(to) {
        Ok(way) => way,
        Err(why) => return unsent(Outcome::Fatal, format!("invalid: the address {why}"), Vec::new()),
    };
    let made = TemplateContext::of(message).and_then(|news| Ok((line.templates.pieces(&news)?, news)));
    let (pieces, news) = match made {
        Ok(made) => made,
        Err(why) => return unsent(Outcome::Fatal, format!("invalid: {why}"), Vec::new()),
    };
    let dialect = match way {
        SlackTarget::Hook(_) | SlackTarget::Channel(_) => Dialect::Slack,
        SlackTarget::Compatible(_) => Dialect::Attachments,
    };
    let mut sent = post(line, way, payload(dialect, &pieces, &news), timeout).await;
    if let (Ok(answer), true) = (&sent.1, sent.0.outcome == Outcome::Fatal)
        && blames_the_form(answer)
    {
        let left = timeout.saturating_sub(watch.elapsed());
        let refused = word(answer);
        sent = post(line, way, plain(dialect, &pieces, &news), left).await;
        if sent.0.outcome == Outcome::Ok {
            sent.0.error = Some(format!("degraded: the blocks were refused ({refused}), the text was taken"));
        }
    }
    AttemptResult { duration: watch.elapsed(), ..sent.0 }
}

/// One exchange.
async fn post(
    line: SendContext<'_>,
    way: SlackTarget<'_>,
    mut payload: Value,
    timeout: Duration,
) -> (AttemptResult, Result<Received, SendError>) {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.insert(reqwest::header::USER_AGENT, AGENT);
    let answer = match way {
        SlackTarget::Hook(url) | SlackTarget::Compatible(url) => {
            let recorded = shown(&headers);
            let body = Bytes::from(payload.to_string());
            let answer = match line.egress.parse(url) {
                Ok(target) => {
                    let post = Post { target, headers, body, timeout, max_answer: ANSWER_MAX };
                    line.egress.send(post).await
                }
                // What is allowed has changed since the registration, and may change back.
                Err(error) => Err(SendError::Refused(error.to_string())),
            };
            (answer, recorded)
        }
        SlackTarget::Channel(channel) => {
            payload["channel"] = channel.into();
            call(line, headers, Bytes::from(payload.to_string()), timeout).await
        }
    };
    let (answer, request_headers) = answer;
    let sent = match &answer {
        Ok(received) => {
            let (outcome, error) = judge(way, received, line.clock);
            AttemptResult {
                outcome,
                status_code: Some(received.status),
                error,
                nobody: false,
                request_headers,
                response_headers: received.headers.clone(),
                response_body: text(&received.body),
                duration: received.duration,
            }
        }
        Err(error) => unanswered(error, request_headers),
    };
    (sent, answer)
}

/// One call of the bot's.
async fn call(
    line: SendContext<'_>,
    mut headers: HeaderMap,
    body: Bytes,
    timeout: Duration,
) -> (Result<Received, SendError>, Vec<(String, String)>) {
    let Some(bot) = line.bot else {
        tracing::error!("messages for channels wait: [slack] bot_token is not configured any more");
        let error = SendError::Refused("no bot_token is configured for channels".into());
        return (Err(error), shown(&headers));
    };
    let token = HeaderValue::try_from(format!("Bearer {}", bot.token));
    let url = Url::parse(&format!("{}/chat.postMessage", bot.api_url));
    let (Ok(mut token), Ok(url)) = (token, url) else {
        return (Err(SendError::Refused("[slack] cannot be used as it is".into())), shown(&headers));
    };
    token.set_sensitive(true);
    headers.insert(AUTHORIZATION, token);
    let recorded = shown(&headers);
    (line.egress.call(Call { url, headers, body, timeout, max_answer: ANSWER_MAX }).await, recorded)
}

/// What the answer calls itself: the `error` of a JSON object, or the text.
fn word(received: &Received) -> String {
    let json = serde_json::from_slice::<Value>(&received.body).unwrap_or_default();
    let text = String::from_utf8_lossy(&received.body);
    let word = json["error"].as_str().unwrap_or_else(|| text.trim());
    word.chars().filter(|c| !c.is_control()).take(100).collect()
}

fn judge(way: SlackTarget<'_>, received: &Received, clock: &Clock) -> (Outcome, Option<String>) {
    let after = retry_after(received, clock);
    let retry = |error: Option<String>| (Outcome::Retry { after }, error);
    match (way, received.status) {
        (SlackTarget::Channel(_), 200..=299) => judge_api(&word_of_api(received), after),
        (SlackTarget::Hook(_), 200..=299) if received.body.trim_ascii() == b"ok" => (Outcome::Ok, None),
        (SlackTarget::Hook(_), 200..=299) => retry(Some("protocol: the hook did not answer ok".into())),
        (SlackTarget::Hook(_), 404 | 410) => {
            (Outcome::Gone, Some(format!("slack: {}", hint(&word(received)))))
        }
        (SlackTarget::Hook(_), 400 | 403) if is_gone(&word(received)) => {
            (Outcome::Gone, Some(format!("slack: {}", hint(&word(received)))))
        }
        (SlackTarget::Hook(_), 400) => (Outcome::Fatal, Some(format!("slack: {}", hint(&word(received))))),
        (SlackTarget::Compatible(_), 200..=299) => {
            let json = serde_json::from_slice::<Value>(&received.body).unwrap_or_default();
            if [&json["ok"], &json["success"]].iter().any(|says| **says == Value::Bool(false)) {
                retry(Some("chat: the hook answered that it failed".into()))
            } else {
                (Outcome::Ok, None)
            }
        }
        (SlackTarget::Compatible(_), 410) => (Outcome::Gone, None),
        (SlackTarget::Compatible(_), _) if blames_the_form(received) => (Outcome::Fatal, None),
        // Without Slack's word a 403, and elsewhere a 404, may be a proxy's, and gone tomorrow.
        (SlackTarget::Hook(_) | SlackTarget::Compatible(_) | SlackTarget::Channel(_), _) => retry(None),
    }
}

/// The words of a hook that was removed.
fn is_gone(word: &str) -> bool {
    matches!(word, "no_service" | "no_team" | "invalid_token" | "action_prohibited" | "channel_is_archived")
}

/// In the header, or else in the body.
fn retry_after(received: &Received, clock: &Clock) -> Option<Duration> {
    let header = received.header("retry-after").and_then(|text| parse_retry_after(text, clock.now()));
    header.or_else(|| {
        let json = serde_json::from_slice::<Value>(&received.body).ok()?;
        let seconds = json.get("retry_after")?.as_f64().filter(|seconds| (0.0..1e9).contains(seconds))?;
        Some(Duration::from_secs_f64(seconds))
    })
}

/// The API answers 200 to everything: `ok`, or the error's word; empty for what is no answer of its.
fn word_of_api(received: &Received) -> String {
    match serde_json::from_slice::<Value>(&received.body) {
        Ok(json) if json["ok"] == Value::Bool(true) => "ok".into(),
        Ok(json) if json["ok"] == Value::Bool(false) => word(received),
        Ok(_) | Err(_) => String::new(),
    }
}

fn judge_api(word: &str, after: Option<Duration>) -> (Outcome, Option<String>) {
    let error = Some(format!("slack: {}", hint(word)));
    match word {
        "ok" => (Outcome::Ok, None),
        "" => (Outcome::Retry { after }, Some("protocol: the answer is not Slack's".into())),
        // The channel's trouble: nothing more goes there.
        "channel_not_found"
        | "not_in_channel"
        | "is_archived"
        | "no_permission"
        | "ekm_access_denied"
        | "messages_tab_disabled"
        | "access_denied" => (Outcome::Gone, error),
        word if word.starts_with("restricted_action") => (Outcome::Gone, error),
        // The token's trouble is the operator's: every channel's message would be refused.
        "invalid_auth"
        | "not_authed"
        | "account_inactive"
        | "token_revoked"
        | "token_expired"
        | "missing_scope"
        | "org_login_required"
        | "team_not_found"
        | "enterprise_is_restricted"
        | "not_allowed_token_type"
        | "app_access_restricted"
        | "team_access_not_granted" => {
            tracing::error!(error = word, "Slack refuses the bot: see [slack] bot_token; messages wait");
            (Outcome::Retry { after: Some(SELDOM) }, error)
        }
        // This message will never be taken.
        "msg_blocks_too_long"
        | "msg_too_long"
        | "no_text"
        | "too_many_attachments"
        | "attachment_payload_limit_exceeded"
        | "markdown_text_conflict"
        | "cannot_reply_to_message" => (Outcome::Fatal, error),
        word if word.starts_with("invalid_blocks") || word.starts_with("metadata_") => {
            (Outcome::Fatal, error)
        }
        "message_limit_exceeded" => (Outcome::Retry { after: Some(after.unwrap_or(SELDOM)) }, error),
        _ => (Outcome::Retry { after }, error),
    }
}

/// A refusal that plain text may get past.
fn blames_the_form(received: &Received) -> bool {
    const FORM: [&str; 8] = [
        "invalid_payload",
        "invalid_attachments",
        "msg_blocks_too_long",
        "msg_too_long",
        "too_many_attachments",
        "attachment_payload_limit_exceeded",
        "missing_text_or_fallback_or_attachments",
        "no_text",
    ];
    let word = word(received);
    FORM.contains(&word.as_str()) || word.starts_with("invalid_blocks")
}

/// A word with what to do about it.
fn hint(word: &str) -> String {
    let advice = match word {
        "" => return "the message is refused without a word".into(),
        "not_in_channel" => "invite the app to the channel",
        "channel_not_found" => "there is no such channel, or the app is not in it",
        "is_archived" | "channel_is_archived" => "the channel is archived",
        "no_service" | "no_team" | "invalid_token" | "action_prohibited" => "the hook has been removed",
        "missing_scope" => "the app needs the scope chat:write",
        _ => return word.to_owned(),
    };
    format!("{word} ({advice})")
}

#[cfg(test)]
mod tests;
