//! `ringback verify`: verifies the signature of a webhook.

use std::io::Read as _;

use anyhow::Context;

use super::output::{Failure, print_line};
use crate::channels::webhook::{self, Secret};
use crate::clock::Clock;
use crate::domain::Timestamp;

/// Maximum size of the body, in bytes. A webhook has at most 256 KiB of answer and an envelope.
const BODY_MAX: u64 = 4 * 1024 * 1024;

/// Verify the signature of a webhook, and explain a failure
///
/// The body is read from stdin, byte for byte as it was received. The exit code is 0 if the signature is valid, else
/// 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback verify --secret whsec_… --id evt_… --timestamp 1771426951 \\
    --signature 'v1,…' < body.json

The signature covers id.timestamp.body. A message older than five minutes is rejected, as
receivers should do; --at 1771426951 verifies it at that time.")]
pub struct Verify {
    /// Signing secret (whsec_…)
    #[arg(long, value_name = "SECRET")]
    secret: String,
    /// Header webhook-id
    #[arg(long)]
    id: String,
    /// Header webhook-timestamp
    #[arg(long, allow_hyphen_values = true)]
    timestamp: String,
    /// Header webhook-signature, complete: it can hold several signatures
    #[arg(long, value_name = "SIGNATURES")]
    signature: String,
    /// Time of the verification in seconds since 1970 [default: now]
    #[arg(long, value_name = "SECONDS")]
    at: Option<u32>,
}

impl Verify {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let secret = Secret::parse(&self.secret).map_err(|why| Failure::Usage(format!("--secret: {why}")))?;
        let mut body = Vec::new();
        std::io::stdin()
            .take(BODY_MAX + 1)
            .read_to_end(&mut body)
            .context("the body cannot be read from stdin")?;
        if body.len() as u64 > BODY_MAX {
            return Err(Failure::Failed(format!(
                "the body is larger than {BODY_MAX} bytes, which no webhook is"
            )));
        }
        let now =
            self.at.map_or_else(|| Clock::System.now(), |at| Timestamp::from_millis(i64::from(at) * 1000));
        self.judge(&secret, &body, now).map_err(Failure::Failed)?;
        Ok(print_line("The signature is valid.")?)
    }

    /// Verifies the signature. If it is not valid, the error names the likely cause.
    fn judge(&self, secret: &Secret, body: &[u8], now: Timestamp) -> Result<(), String> {
        let verify = |body: &[u8]| {
            webhook::verify(secret, &self.id, &self.timestamp, &self.signature, body, now, webhook::TOLERANCE)
        };
        let Err(why) = verify(body) else { return Ok(()) };
        let mut sentence = format!("The signature is not valid: {why}.");
        if body.is_empty() {
            sentence.push_str(" The body is empty; pass it on stdin.");
        }
        let trimmed = body.strip_suffix(b"\n").map(|rest| rest.strip_suffix(b"\r").unwrap_or(rest));
        if trimmed.is_some_and(|trimmed| verify(trimmed).is_ok()) {
            sentence.push_str(
                " The signature is valid without the line break at the end of the body, which a program such as \
                 echo or an editor has added. Pass the exact bytes.",
            );
        }
        Err(sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"type":"job.completed"}"#;

    fn command(timestamp: &str, signature: &str) -> Verify {
        Verify {
            secret: String::new(),
            id: "evt_1".into(),
            timestamp: timestamp.into(),
            signature: signature.into(),
            at: None,
        }
    }

    #[test]
    fn an_invalid_signature_is_explained() {
        let secret = Secret::parse("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz").expect("a secret");
        let other = Secret::parse("whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4").expect("a secret");
        let at = Timestamp::from_millis(1_771_426_951_000);
        let late = Timestamp::from_millis(1_771_430_000_000);
        let good = webhook::sign(&secret, "evt_1", at.seconds(), BODY);
        let strange = webhook::sign(&other, "evt_1", at.seconds(), BODY);
        let time = "1771426951";
        let with_break = [BODY, b"\n"].concat();
        let table: [(&str, &str, &[u8], Timestamp, &str); 8] = [
            (time, &good, BODY, at, ""),
            (time, &format!("v1a,xx {strange} {good}"), BODY, at, ""),
            (time, &strange, BODY, at, "is not valid"),
            (time, &good, b"{}", at, "is not valid"),
            (time, &good, b"", at, "The body is empty"),
            (time, &good, &with_break, at, "without the line break"),
            (time, &good, BODY, late, " s ago"),
            ("yesterday", &good, BODY, at, "timestamp"),
        ];
        for (timestamp, signature, body, now, why) in table {
            let judged = command(timestamp, signature).judge(&secret, body, now);
            match judged {
                Ok(()) => assert_eq!(why, "", "{timestamp} {signature}"),
                Err(sentence) => assert!(!why.is_empty() && sentence.contains(why), "{sentence}"),
            }
        }
    }
}
