//! `ringback verify`: verifies the signature of a webhook, and explains why it is not valid.

mod slips;

use std::io::{IsTerminal as _, Read as _};

use anyhow::Context;

use self::slips::{BODY_MAX, Headers};
use super::arguments::secret_file;
use super::output::{Failure, print_line, print_note};
use crate::channels::webhook::compatible::{verify_github, verify_stripe};
use crate::channels::webhook::ed25519::PublicKey;
use crate::channels::webhook::{self, Secret, SignatureError};
use crate::clock::Clock;
use crate::domain::{Masked, Timestamp};

/// Verify the signature of a webhook, and explain a failure
///
/// The body is read from stdin, byte for byte as it was received. The exit code is 0 if the signature is valid, else
/// 1.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "\
Example:
  ringback verify --secret-file secret.txt --id evt_… \\
    --timestamp 1771426951 --signature 'v1,…' < body.json

The signature covers id.timestamp.body. A message older than five minutes is rejected, as receivers should do; --at 1771426951 verifies it at that time. If the signature is not valid, the usual slips are tried, and the one that explains it is named.

With a public key (whpk_…) as the secret, the signature v1a is verified. A destination with another form of signature sends x-hub-signature-256 or stripe-signature; these need neither --id nor --timestamp:
  ringback verify --secret-file secret.txt --signature 'sha256=…' < body.json
  ringback verify --secret-file secret.txt --signature 't=…,v1=…' < body.json",
    override_usage = "ringback verify [OPTIONS] --secret-file <FILE> --id <ID> \\
         --timestamp <TIMESTAMP> --signature <SIGNATURES> < BODY"
)]
pub struct Verify {
    /// File with the signing secret, or with the public key (whpk_…)
    #[arg(
        long, value_name = "FILE", value_parser = secret_file,
        required_unless_present = "secret", conflicts_with = "secret"
    )]
    secret_file: Option<Masked>,
    /// The secret or key itself; other users can see a secret
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    /// Header webhook-id
    #[arg(long)]
    id: Option<String>,
    /// Header webhook-timestamp
    #[arg(long, allow_hyphen_values = true)]
    timestamp: Option<String>,
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
        let mut body = Vec::new();
        if std::io::stdin().is_terminal() {
            print_note("Reading the body from the terminal: paste it and press Ctrl-D, or use < body.json.");
        }
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
        self.judge(&body, now)?;
        Ok(print_line("The signature is valid.")?)
    }

    /// Returns the secret or the public key, and the flag that has given it.
    fn secret(&self) -> (&'static str, &str) {
        match &self.secret_file {
            Some(secret) => ("--secret-file", secret.reveal().trim()),
            None => ("--secret", self.secret.as_deref().unwrap_or_default().trim()),
        }
    }

    /// Verifies the signature. If it is not valid, the error names the slip that explains it.
    fn judge(&self, body: &[u8], now: Timestamp) -> Result<(), Failure> {
        let (signature, tolerance) = (&self.signature, webhook::TOLERANCE);
        let (flag, secret) = self.secret();
        match (&self.id, &self.timestamp) {
            (None, None) if signature.starts_with("sha256=") => {
                explained(verify_github(secret, signature, body), "")
            }
            (None, None) if signature.starts_with("t=") => {
                let timestamp = signature.split([',', '=']).nth(1).unwrap_or_default();
                explained(verify_stripe(secret, signature, body, now, tolerance), timestamp)
            }
            (Some(id), Some(timestamp)) if PublicKey::is_prefixed(secret) => {
                let key = PublicKey::parse(secret).map_err(|why| Failure::Usage(format!("{flag}: {why}")))?;
                let verified =
                    webhook::verify_asymmetric(&key, id, timestamp, signature, body, now, tolerance);
                explained(verified, timestamp)
            }
            (Some(id), Some(timestamp)) => self.judge_standard((id, timestamp), body, now),
            (None, _) | (_, None) => {
                let message = "--id and --timestamp: both are required for the header webhook-signature; only \
                               x-hub-signature-256 (sha256=…) and stripe-signature (t=…,v1=…) need none";
                Err(Failure::Usage(message.to_owned()))
            }
        }
    }

    fn judge_standard(
        &self,
        (id, timestamp): (&str, &str),
        body: &[u8],
        now: Timestamp,
    ) -> Result<(), Failure> {
        let signature = &self.signature;
        let (flag, secret) = self.secret();
        let verify = |secret: &Secret| {
            webhook::verify(secret, id, timestamp, signature, body, now, webhook::TOLERANCE)
        };
        let why = match Secret::of_libraries(secret) {
            Ok(secret) => match verify(&secret) {
                Ok(()) => return Ok(()),
                Err(why @ (SignatureError::TooOld(_) | SignatureError::InTheFuture(_))) => {
                    return explained(Err(why), timestamp);
                }
                Err(why) => Ok(why),
            },
            Err(why) => Err(why),
        };
        let headers =
            Headers { id: id.to_owned(), timestamp: timestamp.to_owned(), signatures: signature.clone() };
        if let Some(changes) = slips::explain(secret, &headers, body, now) {
            return Err(Failure::Failed(format!(
                "The signature is not valid as given. It is valid {changes}."
            )));
        }
        let why = why.map_err(|why| Failure::Usage(format!("{flag}: {why}")))?;
        // The other errors are the explanation.
        let suspicion = match why {
            SignatureError::Mismatch(_) => suspicion(id, body),
            SignatureError::MalformedTimestamp(_)
            | SignatureError::NoSignature(..)
            | SignatureError::TooOld(_)
            | SignatureError::InTheFuture(_) => "",
        };
        Err(Failure::Failed(format!("The signature is not valid: {why}.{suspicion}")))
    }
}

/// Returns the failure of a signature. `timestamp` is the time at which it was made.
fn explained(verified: Result<(), SignatureError>, timestamp: &str) -> Result<(), Failure> {
    let Err(why) = verified else { return Ok(()) };
    let hint = match why {
        SignatureError::TooOld(_) | SignatureError::InTheFuture(_) => {
            format!(" To verify it at its own time, add --at {timestamp}.")
        }
        SignatureError::MalformedTimestamp(_)
        | SignatureError::NoSignature(..)
        | SignatureError::Mismatch(_) => String::new(),
    };
    Err(Failure::Failed(format!("The signature is not valid: {why}.{hint}")))
}

/// Returns what is probably wrong, although it cannot be proved.
fn suspicion(id: &str, body: &[u8]) -> &'static str {
    if body.is_empty() {
        " The body is empty; pass it on stdin."
    } else if !id.starts_with("evt_") {
        " The header webhook-id of Ringback begins with evt_; is --id the id of another object?"
    } else if body.starts_with(b"{") && body.windows(2).any(|pair| matches!(pair, b"{\n" | b"{\r" | b"{ ")) {
        " The body looks as if it was parsed as JSON and written again: verify the bytes as they were received."
    } else {
        " No usual slip explains it; is it the secret of the server and of the app that sent the webhook?"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"type":"job.completed"}"#;

    const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";

    fn command(secret: &str, timestamp: &str, signature: &str) -> Verify {
        Verify {
            secret_file: None,
            secret: Some(secret.into()),
            id: Some("evt_1".into()),
            timestamp: Some(timestamp.into()),
            signature: signature.into(),
            at: None,
        }
    }

    /// Secret, timestamp, signature and body; the time of the verification; a part of the explanation.
    type Row<'a> = (&'a str, &'a str, &'a str, &'a [u8], Timestamp, &'a str);

    #[test]
    fn an_invalid_signature_is_explained() {
        let secret = Secret::parse(SECRET).expect("a secret");
        let other = Secret::parse("whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4").expect("a secret");
        let at = Timestamp::from_millis(1_771_426_951_000);
        let late = Timestamp::from_millis(1_771_430_000_000);
        let good = webhook::sign(&secret, "evt_1", at.seconds(), BODY);
        let strange = webhook::sign(&other, "evt_1", at.seconds(), BODY);
        let time = "1771426951";
        let with_break = [BODY, b"\n"].concat();
        let bare = SECRET.trim_start_matches("whsec_");
        let table: [Row<'_>; 14] = [
            (SECRET, time, &good, BODY, at, ""),
            (bare, time, &good, BODY, at, ""),
            (SECRET, time, &format!("v1a,xx {strange} {good}"), BODY, at, ""),
            (SECRET, time, &strange, BODY, at, "No usual slip"),
            (SECRET, time, &good, b"{}", at, "No usual slip"),
            (SECRET, time, &good, b"{ }", at, "written again"),
            (SECRET, time, &good, b"", at, "The body is empty"),
            (SECRET, time, &good, &with_break, at, "valid without the line break"),
            (SECRET, time, &good, BODY, late, "3049 s ago"),
            (SECRET, time, &good, BODY, late, "add --at 1771426951."),
            (SECRET, "yesterday", &good, BODY, at, "whole number of seconds since 1970.$"),
            (SECRET, "2026-02-18T15:02:31Z", &strange, BODY, at, "whole number of seconds since 1970.$"),
            (SECRET, time, "", BODY, at, "it should read v1,<base64>.$"),
            ("hush", time, &good, BODY, at, "--secret: must"),
        ];
        let of_file =
            Verify { secret_file: Some(Masked::new(SECRET)), secret: None, ..command("", time, &good) };
        assert!(of_file.judge(BODY, at).is_ok());
        for (secret, timestamp, signature, body, now, why) in table {
            match command(secret, timestamp, signature).judge(body, now) {
                Ok(()) => assert_eq!(why, "", "{timestamp} {signature}"),
                Err(failure) => {
                    // `$` is the end of the explanation.
                    let sentence = format!("{failure}$");
                    assert!(
                        !why.is_empty() && sentence.contains(why) && !sentence.contains("hush"),
                        "{sentence}"
                    );
                }
            }
        }
    }

    #[test]
    fn signatures_of_every_form_are_verified_and_explained() {
        use crate::channels::webhook::compatible::{sign_github, sign_stripe};
        use crate::channels::webhook::ed25519::PrivateKey;
        let key = PrivateKey::parse(crate::domain::draw_private_key().reveal()).expect("a key");
        let public = key.public().expose();
        let seconds = 1_771_426_951;
        let (at, late) = (Timestamp::from_millis(seconds * 1_000), Timestamp::from_millis(seconds * 2_000));
        let asymmetric = format!("v1,xx {}", key.sign("evt_1", seconds, BODY));
        let github = sign_github("a secret", BODY);
        let stripe = sign_stripe(["a secret"].into_iter(), seconds, BODY);
        let standard = |secret: &str, signature: &str| command(secret, "1771426951", signature);
        let other = |secret: &str, signature: &str| Verify {
            id: None,
            timestamp: None,
            ..command(secret, "", signature)
        };
        for (command, body, now, why) in [
            (standard(&public, &asymmetric), BODY, at, ""),
            (
                standard(&public, &asymmetric),
                b"{}",
                at,
                "no v1a signature fits: it was made with another key pair",
            ),
            (standard(&public, &asymmetric), BODY, late, "add --at 1771426951."),
            (standard(&public, "v1,xx"), BODY, at, "holds no v1a signature; it should read v1a,<base64>"),
            (standard("whpk_AA==", &asymmetric), BODY, at, "--secret: must hold 32 bytes"),
            (other("a secret", &github), BODY, late, ""),
            (other("a secret", &github), b"{}", late, "no sha256 signature fits"),
            (other("a secret", &stripe), BODY, at, ""),
            (other("another secret", &stripe), BODY, at, "no v1 signature fits"),
            (other("a secret", &stripe), BODY, late, "add --at 1771426951."),
            (other("a secret", "v1,xx"), BODY, at, "--id and --timestamp: both are required"),
        ] {
            let failure =
                command.judge(body, now).err().map(|failure| failure.to_string()).unwrap_or_default();
            assert_eq!(failure.is_empty(), why.is_empty(), "{failure}");
            assert!(failure.contains(why), "{failure}");
        }
    }
}
