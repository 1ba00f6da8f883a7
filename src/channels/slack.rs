//! Slack, and chats that accept Slack's messages: addresses, sending, and what the responses mean.
//!
//! There are three kinds of address:
//!
//! - A **hook** of Slack accepts blocks and answers `ok`.
//! - A **compatible hook** of another chat (Mattermost, Rocket.Chat) accepts the older attachments. Any 2xx
//!   is a success, unless the body contains `ok` or `success` with the value false.
//! - A **channel** of Slack gets its messages from the operator's bot, through Slack's API, which answers 200
//!   even when it refuses.
//!
//! The URL of a hook is a secret, because it alone permits posting. It is shown masked, and its destination
//! queue is named by its hash.
//!
//! If the format of a message is refused, the same message is sent once more at once as plain text: a plain
//! message is better than none.

mod blocks;

use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use serde_json::Value;
use url::Url;

use super::channel::{
    AttemptResult, Channel, ChannelSetting, ChannelSpec, Exchange, Message, OPERATOR_WAIT, Pacing,
    ParsedAddress, QueueScope, RESPONSE_MAX, SendFuture, Services, SettingCheck, SettingValues, Shorthand,
    ShownAddress, USER_AGENT_VALUE, post, recorded_headers,
};
use super::template_context::TemplateContext;
use super::templates::TemplateFile;
use crate::clock::Clock;
use crate::domain::SecretTexts;
use crate::domain::{AddressError, ChannelKind, Outcome};
use crate::egress::{Egress, Post, Received, SendError};
use blocks::MessageParts;

/// Slack accepts a message a second for each channel. Short bursts are accepted, but an app that keeps
/// exceeding the rate may be disabled.
const MESSAGE_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum length of a channel's name, in characters.
const CHANNEL_MAX: usize = 80;

/// Shortest part of a hook's URL that is taken for its secret: a shorter one is a word such as `hook`.
const HOOK_SECRET_MIN: usize = 8;

/// Slack's hosts for hooks.
const HOOK_HOSTS: [&str; 2] = ["hooks.slack.com", "hooks.slack-gov.com"];

/// The parts of a message.
pub(super) const MESSAGE: TemplateFile = TemplateFile {
    name: "chat/message.json",
    source: include_str!("../../templates/chat/message.json"),
    max_bytes: 64 * 1024,
    check: |text| MessageParts::parse(text).map(drop),
};

/// The row of Slack in the channel table.
pub(super) const SPEC: ChannelSpec = ChannelSpec {
    shorthand: Some(Shorthand { field: "slack", is_list: false }),
    address_fields: &["url", "channel", "slack"],
    // Slack's own hooks are recognized by their host, because they never accept a webhook.
    recognize: |text| slack_path(text).map(|_| text.into()),
    show: |address| {
        if address.contains("://") {
            ShownAddress::Url(masked(address).into())
        } else {
            ShownAddress::Channel(address)
        }
    },
    queue: QueueScope::Address,
    pacing: Pacing::PerAddress(MESSAGE_INTERVAL),
    templates: &[&MESSAGE],
    settings: &[
        ChannelSetting::new(
            "slack.bot_token",
            "`xoxb-…` token of a Slack app, to post to channels by name or id",
            SettingCheck::Credential(|token| {
                let hint =
                    "a bot's token begins with xoxb-: it is the `Bot User OAuth Token` of the Slack app";
                if token.starts_with("xox") { Ok(()) } else { Err(hint.to_owned()) }
            }),
        ),
        ChannelSetting {
            default: Some("https://slack.com/api"),
            ..ChannelSetting::new(
                "slack.api_url",
                "base URL of Slack's API; the token is sent to its host",
                SettingCheck::BaseUrl,
            )
        },
    ],
    ..ChannelSpec::new(ChannelKind::Slack, |values| Box::new(Slack { bot: Bot::from_settings(values) }))
};

/// The channel.
#[derive(Debug)]
struct Slack {
    /// `None` if no bot is configured: then only hooks are accepted.
    bot: Option<Bot>,
}

/// The operator's bot.
#[derive(Debug)]
struct Bot {
    /// The token, marked as sensitive.
    authorization: HeaderValue,
    /// URL of the API's method.
    url: Url,
}

impl Bot {
    fn from_settings(values: &SettingValues) -> Option<Self> {
        let (token, api_url) = (values.text("slack.bot_token")?, values.text("slack.api_url")?);
        // Both were checked when the configuration was read.
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        authorization.set_sensitive(true);
        Some(Self { authorization, url: Url::parse(&format!("{api_url}/chat.postMessage")).ok()? })
    }
}

impl Channel for Slack {
    fn parse_address(&self, text: &str) -> Result<ParsedAddress, AddressError> {
        match SlackTarget::of(text).map_err(AddressError::Invalid)? {
            SlackTarget::Channel if self.bot.is_none() => {
                let message = "channels cannot be posted to from here; use a hook, or the operator can set slack.bot_token (RINGBACK_SLACK__BOT_TOKEN)";
                Err(AddressError::NotConfigured(message.to_owned()))
            }
            SlackTarget::Hook | SlackTarget::Compatible => Ok(ParsedAddress::Url(text.to_owned())),
            SlackTarget::Channel => Ok(ParsedAddress::Text(channel(text))),
        }
    }

    fn send<'a>(&'a self, services: &'a Services, message: &'a Message<'a>) -> SendFuture<'a> {
        Box::pin(self.send_once(services, message))
    }
}

/// Kind of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlackTarget {
    /// A hook of Slack.
    Hook,
    /// A compatible hook.
    Compatible,
    /// A channel, by `#name` or id.
    Channel,
}

impl SlackTarget {
    /// Returns the kind of an address. The host of a URL is not checked here. The error is a sentence that does not
    /// repeat the address.
    fn of(address: &str) -> Result<Self, String> {
        if address.is_empty() {
            return Err("must not be empty".into());
        }
        if let Some((scheme, _)) = address.split_once("://") {
            if !matches!(scheme.to_ascii_lowercase().as_str(), "https" | "http") {
                return Err("must begin with https://".into());
            }
            let Some(path) = slack_path(address) else { return Ok(Self::Compatible) };
            if path.starts_with("/workflows/") || path.starts_with("/triggers/") {
                let message = "is the trigger of a workflow, which accepts no messages: give an incoming webhook, \
                               https://hooks.slack.com/services/…";
                return Err(message.into());
            }
            if path.strip_prefix("/services/").is_none_or(str::is_empty) {
                return Err(
                    "is not a hook of Slack: give an incoming webhook, https://hooks.slack.com/services/…"
                        .into(),
                );
            }
            return Ok(Self::Hook);
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
            return Ok(Self::Channel);
        }
        Err("must be a hook (https://hooks.slack.com/services/…), #channel or a channel's id".into())
    }
}

/// Returns a channel in its normalised spelling. Slack's names are in lower case; another spelling would have a pace of
/// its own.
fn channel(address: &str) -> String {
    if address.starts_with('#') { address.to_lowercase() } else { address.to_owned() }
}

/// Returns the path of a URL on Slack's hosts for hooks.
fn slack_path(url: &str) -> Option<String> {
    // The parser changes other characters. Without them, it need not read the many URLs that are not Slack's.
    let is_unchanged = url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%');
    if is_unchanged && !contains_slack(url) {
        return None;
    }
    let url = Url::parse(url).ok()?;
    // A final dot does not change the host.
    let host = url.host_str()?;
    HOOK_HOSTS.contains(&host.strip_suffix('.').unwrap_or(host)).then(|| url.path().to_owned())
}

fn contains_slack(url: &str) -> bool {
    url.as_bytes().windows(5).any(|part| part.eq_ignore_ascii_case(b"slack"))
}

/// Returns an address as it may be shown. Of Slack's hooks, only the last segment is secret; other hooks are
/// reduced to their host, because their secret may be anywhere in the URL.
fn masked(address: &str) -> String {
    let Ok(url) = Url::parse(address) else {
        return if address.contains("://") { "***".into() } else { address.to_owned() };
    };
    let path = url.path().trim_end_matches('/');
    let front = path.rsplit_once('/').map_or("", |(front, _)| front);
    let front = if slack_path(address).is_some() { front } else { "" };
    format!("{}{front}/***", &url[..url::Position::BeforePath])
}

/// Returns the part of a hook's URL that permits posting, for answers that repeat it.
fn secrets_of_hook(address: &str) -> SecretTexts {
    let url = Url::parse(address).ok();
    let path = url.as_ref().map(|url| url[url::Position::BeforePath..].trim_matches('/')).unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    SecretTexts::new([path, last].into_iter().filter(|text| text.len() >= HOOK_SECRET_MIN).map(str::to_owned))
}

impl Slack {
    /// Sends a message once. If its format is refused, its plain text follows at once.
    async fn send_once(&self, services: &Services, message: &Message<'_>) -> Result<AttemptResult, String> {
        let stopwatch = services.clock.stopwatch();
        let address = message.delivery.destination.address.as_str();
        let target = SlackTarget::of(address).map_err(|error| format!("the address {error}"))?;
        let context = TemplateContext::new(message.delivery)?;
        let parts = MessageParts::parse(&services.templates.render(&MESSAGE, &context)?)?.fitted(&context);
        let is_slack = target != SlackTarget::Compatible;
        let payload = if is_slack { parts.blocks(&context) } else { parts.attachments(&context) };
        let (mut result, refused) = self.post(services, (target, address), payload, message.timeout).await;
        if let (Some(code), Outcome::Fatal) = (refused, &result.outcome) {
            let left = message.timeout.saturating_sub(stopwatch.elapsed());
            let payload = if is_slack { parts.slack_text(&context) } else { parts.compatible_text(&context) };
            (result, _) = self.post(services, (target, address), payload, left).await;
            if result.outcome == Outcome::Ok {
                let error = format!("degraded: the blocks were refused ({code}), the text was accepted");
                result.attempt.error = Some(error);
            }
        }
        Ok(AttemptResult { duration: stopwatch.elapsed(), ..result })
    }

    /// Makes one request. Also returns the error code of a response that refuses the format.
    async fn post(
        &self,
        services: &Services,
        (target, address): (SlackTarget, &str),
        mut payload: Value,
        timeout: Duration,
    ) -> (AttemptResult, Option<String>) {
        let Services { egress, clock, .. } = services;
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.insert(USER_AGENT, USER_AGENT_VALUE);
        let exchange = if target == SlackTarget::Channel {
            payload["channel"] = address.into();
            self.call_api(egress, headers, payload.to_string().into(), timeout).await
        } else {
            let (mut response, recorded) =
                post(egress, address, (headers, payload.to_string().into()), timeout).await;
            if let Ok(received) = &mut response {
                received.hide(&secrets_of_hook(address));
            }
            (response, recorded)
        };
        let mut format_error = None;
        let result = AttemptResult::of_exchange(exchange, |received| {
            format_error = Some(error_code(received)).filter(|code| is_format_error(code));
            classify(target, received, clock)
        });
        (result, format_error)
    }

    /// Calls Slack's API as the bot.
    async fn call_api(
        &self,
        egress: &Egress,
        mut headers: HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Exchange {
        let Some(Bot { authorization, url }) = &self.bot else {
            tracing::error!("messages for channels wait: [slack] bot_token is not configured any more");
            let error = SendError::Refused("no bot_token is configured for channels".into());
            return (Err(error), recorded_headers(&headers));
        };
        headers.insert(AUTHORIZATION, authorization.clone());
        let recorded = recorded_headers(&headers);
        let call = Post { url: url.clone(), headers, body, timeout, max_answer: RESPONSE_MAX };
        (egress.call(call).await, recorded)
    }
}

/// Returns the JSON of a response; null if it has none.
fn json(received: &Received) -> Value {
    serde_json::from_slice(&received.body).unwrap_or_default()
}

/// Returns the error code of a response: the `error` of a JSON object, or the text.
fn error_code(received: &Received) -> String {
    let (json, text) = (json(received), String::from_utf8_lossy(&received.body));
    let code = json["error"].as_str().unwrap_or_else(|| text.trim());
    code.chars().filter(|c| !c.is_control()).take(100).collect()
}

fn classify(target: SlackTarget, received: &Received, clock: &Clock) -> (Outcome, Option<String>) {
    let after = retry_after(received, clock);
    let retry = |error: Option<&str>| (Outcome::Retry { after }, error.map(str::to_owned));
    let code = error_code(received);
    let error = || Some(format!("slack: {}", explained(&code)));
    match (target, received.status) {
        (SlackTarget::Channel, 200..=299) => classify_api(&api_code(received), after),
        (SlackTarget::Hook, 200..=299) if received.body.trim_ascii() == b"ok" => (Outcome::Ok, None),
        (SlackTarget::Hook, 200..=299) => {
            retry(Some("protocol: Slack did not answer ok; the message is sent again"))
        }
        (SlackTarget::Hook, 404 | 410) => (Outcome::Gone, error()),
        (SlackTarget::Hook, 400 | 403) if is_gone(&code) => (Outcome::Gone, error()),
        (SlackTarget::Hook, 400) => (Outcome::Fatal, error()),
        (SlackTarget::Compatible, 200..=299) => {
            let json = json(received);
            if json["ok"] == false || json["success"] == false {
                retry(Some("chat: the hook answered that it failed"))
            } else {
                (Outcome::Ok, None)
            }
        }
        (SlackTarget::Compatible, 410) => (Outcome::Gone, None),
        (SlackTarget::Compatible, _) if is_format_error(&code) => (Outcome::Fatal, None),
        // A 403 without a code of Slack, and a 404 of another chat, may come from a proxy and pass.
        (SlackTarget::Hook | SlackTarget::Compatible | SlackTarget::Channel, _) => retry(None),
    }
}

/// Returns whether a code of a hook means that the hook was removed.
fn is_gone(code: &str) -> bool {
    matches!(code, "no_service" | "no_team" | "invalid_token" | "action_prohibited" | "channel_is_archived")
}

/// Returns the wait that a response requests, in its header or else in its body.
fn retry_after(received: &Received, clock: &Clock) -> Option<Duration> {
    received.retry_after(clock.now()).or_else(|| {
        let seconds =
            json(received)["retry_after"].as_f64().filter(|seconds| (0.0..1e9).contains(seconds))?;
        Some(Duration::from_secs_f64(seconds))
    })
}

/// Returns the code in a response of the API, which answers 200 to everything: `ok`, or the error's code;
/// empty if the response is not one of the API.
fn api_code(received: &Received) -> String {
    match json(received)["ok"].as_bool() {
        Some(true) => "ok".into(),
        Some(false) => error_code(received),
        None => String::new(),
    }
}

fn classify_api(code: &str, after: Option<Duration>) -> (Outcome, Option<String>) {
    let error = Some(format!("slack: {}", explained(code)));
    match code {
        "ok" => (Outcome::Ok, None),
        "" => (
            Outcome::Retry { after },
            Some("protocol: the answer is not JSON of the Slack API; a proxy may have sent it".into()),
        ),
        // Errors of the channel: later messages to it are skipped.
        "channel_not_found"
        | "not_in_channel"
        | "is_archived"
        | "no_permission"
        | "ekm_access_denied"
        | "messages_tab_disabled"
        | "access_denied" => (Outcome::Gone, error),
        code if code.starts_with("restricted_action") => (Outcome::Gone, error),
        // Errors of the token: only the operator can correct it, and all channels are affected.
        code if concerns_the_bot(code) => {
            tracing::error!(error = code, "Slack refuses the bot: see [slack] bot_token; messages wait");
            (Outcome::Retry { after: Some(OPERATOR_WAIT) }, error)
        }
        // Errors of the message: no retry would succeed.
        "markdown_text_conflict" | "cannot_reply_to_message" => (Outcome::Fatal, error),
        code if is_unsuitable(code) || code.starts_with("metadata_") => (Outcome::Fatal, error),
        "message_limit_exceeded" => (Outcome::Retry { after: Some(after.unwrap_or(OPERATOR_WAIT)) }, error),
        _ => (Outcome::Retry { after }, error),
    }
}

/// Returns whether a code of the API is about the bot token or the app, and not about the channel or the message.
pub(super) fn concerns_the_bot(code: &str) -> bool {
    matches!(
        code,
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
            | "team_access_not_granted"
    )
}

/// Returns whether the blocks or the length of a message are refused.
fn is_unsuitable(code: &str) -> bool {
    matches!(code, "no_text" | "msg_too_long" | "msg_blocks_too_long" | "too_many_attachments")
        || code == "attachment_payload_limit_exceeded"
        || code.starts_with("invalid_blocks")
}

/// Returns whether a refusal is about the format, so that plain text may be accepted.
fn is_format_error(code: &str) -> bool {
    matches!(code, "invalid_payload" | "invalid_attachments" | "missing_text_or_fallback_or_attachments")
        || is_unsuitable(code)
}

/// Returns a code with what to do about it.
fn explained(code: &str) -> String {
    let advice = match code {
        "" => return "refused, and the answer names no cause; its body is shown with the attempt".into(),
        "not_in_channel" => "invite the app to the channel",
        "channel_not_found" => "there is no such channel, or the app is not in it",
        "is_archived" | "channel_is_archived" => "the channel is archived",
        "no_service" | "no_team" | "invalid_token" | "action_prohibited" => "the hook has been removed",
        "missing_scope" => "the app needs the scope chat:write",
        _ => return code.to_owned(),
    };
    format!("{code} ({advice})")
}

#[cfg(test)]
mod tests;
