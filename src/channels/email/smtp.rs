//! One SMTP exchange: one message, one recipient, one connection.
//!
//! lettre composes the messages; this module sends them. lettre 0.11.23 has a transport, but has four
//! disadvantages:
//!
//! - After STARTTLS it keeps the bytes that it has read before (`AsyncSmtpConnection::starttls` replaces the
//!   stream below its `BufReader`, not the buffer). An attacker on the network can thus send
//!   unencrypted replies that are treated as encrypted. Here, such bytes end the exchange.
//! - Its STARTTLS accepts no TLS configuration from its caller (`TlsParameters` builds its own), so it would not
//!   use the certificate authorities of this program.
//! - It checks the length of a line only after it has read the whole line, so a line without an end fills the
//!   memory.
//! - Its `send` does not report which command the server refused. A refused recipient and a refused sender
//!   have different consequences.
//!
//! **Each mail has its own connection.** The connection can be dropped at any point of the exchange. A connection
//! that is kept would continue where the last mail was interrupted.
//!
//! **Each stage has its own time** (RFC 5321 §4.5.3.2): the connection, TLS, every command with its reply, and every
//! block of the message have `smtp.timeout`. The reply to the final dot has [`FINAL_REPLY_TIMEOUT`], because many
//! servers check or forward a message before they reply. A server that is silent at one stage thus ends the exchange
//! after `smtp.timeout`, and the number of stages is limited.
//!
//! **The exchange has two halves.** [`transmit`] does everything up to the final dot: if it fails or is dropped,
//! the server has not accepted the message. The future that it returns waits for the reply: until it ends, only the
//! server knows whether it has accepted the message. The final dot is written with the last bytes of the message.
//! If `transmit` is dropped while it writes, the kernel has not taken all of these bytes, so the dot is not sent.
//!
//! **An accepted message stays accepted.** Once the server has answered the message with 2xx, no later error
//! changes the result: the message would be sent twice. The result of QUIT is ignored.
//!
//! **Old servers.** A server that refuses EHLO gets HELO, and then offers no extension (RFC 5321 §3.2). A login
//! mechanism that the server offers and does not implement is followed by the other one. `AUTH=PLAIN`, the spelling
//! of a draft of RFC 2554, is an offer of PLAIN. The messages are 7-bit ASCII with short lines, and so are the
//! addresses, so neither 8BITMIME nor SMTPUTF8 is needed.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};

use super::settings::{SmtpSecurity, SmtpServer};
use crate::channels::channel::Services;
use crate::clock::Clock;
use crate::domain::MailAddress;
use crate::egress::SendError;

/// Maximum length of a line, in bytes. The standard permits 512; real servers exceed that.
const LINE_MAX: usize = 2 * 1024;
/// Maximum length of a reply, in bytes. A list of extensions has some hundred lines at most.
const REPLY_MAX: usize = 16 * 1024;
/// Size of the blocks of a message, each of which has the time of a stage: a slow line transmits this in some seconds.
const BLOCK: usize = 16 * 1024;
/// Maximum time for the reply to the final dot (RFC 5321 §4.5.3.2.6).
pub(super) const FINAL_REPLY_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Maximum length of the list of login mechanisms in an error, in characters.
const OFFER_MAX: usize = 100;

/// Last step of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Connect,
    Tls,
    Greeting,
    Hello,
    StartTls,
    Login,
    Sender,
    Recipient,
    Data,
    Content,
}

impl Stage {
    /// Returns the name for errors: the command, where there is one.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "the connection",
            Self::Tls => "TLS",
            Self::Greeting => "the greeting",
            Self::Hello => "EHLO",
            Self::StartTls => "STARTTLS",
            Self::Login => "AUTH",
            Self::Sender => "MAIL FROM",
            Self::Recipient => "RCPT TO",
            Self::Data => "DATA",
            Self::Content => "the message",
        }
    }
}

/// A reply of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// Three digits, 200 to 599.
    pub(super) code: u16,
    /// All lines, including their codes.
    pub(super) text: String,
}

/// Why a message was not accepted.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The server refused a command.
    Refused(Reply),
    /// The connection failed, or the server violated the protocol.
    Connection(SendError),
    /// The server offers no STARTTLS, and the configuration requires it.
    NoTls,
    /// The server offers no known login mechanism.
    NoLogin {
        /// The mechanisms that it offers.
        offered: String,
        /// Whether it offers STARTTLS on this unencrypted connection.
        starttls: bool,
    },
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::Connection(error)
    }
}

/// The mail that an exchange sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mail<'a> {
    pub(super) server: &'a SmtpServer,
    pub(super) from: &'a MailAddress,
    pub(super) to: &'a MailAddress,
    pub(super) message: &'a [u8],
}

/// The reply to the final dot.
pub(super) type FinalReply = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send>>;

/// Extensions that the server offers.
#[derive(Clone, Debug, Default)]
struct Extensions {
    starttls: bool,
    plain: bool,
    login: bool,
    /// The login mechanisms, as the server lists them.
    mechanisms: String,
}

/// Sends everything up to the final dot, and returns the reply that is still missing. `stage` is the last stage, also
/// if the exchange is dropped.
pub(super) async fn transmit(
    services: &Services,
    mail: Mail<'_>,
    stage: &mut Stage,
) -> Result<FinalReply, Failure> {
    let (egress, clock) = (&services.egress, &services.clock);
    let SmtpServer { security, host, port, login, timeout } = mail.server;
    let limit = (clock, *timeout);
    let mut stream = egress.dial(host, *port, *timeout).await?;
    if *security != SmtpSecurity::Implicit {
        let mut session = Session::new(stream, limit, stage);
        session.greet().await?;
        session.hello(mail.from).await?;
        match security {
            SmtpSecurity::Required | SmtpSecurity::Opportunistic if session.extensions.starttls => {}
            SmtpSecurity::Required => return Err(Failure::NoTls),
            // An attacker that removes the offer of STARTTLS would get the password.
            SmtpSecurity::Opportunistic if login.is_some() => return Err(Failure::NoTls),
            SmtpSecurity::Opportunistic | SmtpSecurity::None | SmtpSecurity::Implicit => {
                return session.transmit(mail).await;
            }
        }
        session.command(Stage::StartTls, "STARTTLS", 2).await?;
        stream = session.wire.into_stream()?;
    }
    *stage = Stage::Tls;
    let stream = within(limit, egress.secure(stream, host)).await?;
    let mut session = Session::new(stream, limit, stage);
    if *security == SmtpSecurity::Implicit {
        session.greet().await?;
    }
    session.hello(mail.from).await?;
    session.transmit(mail).await
}

/// Runs a stage of an exchange.
async fn within<T, E>(
    (clock, limit): (&Clock, Duration),
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure>
where
    Failure: From<E>,
{
    let done = clock.timeout(limit, work).await;
    Ok(done.ok_or_else(|| SendError::timed_out(limit))??)
}

impl Reply {
    /// Returns this reply if it is of the expected class: 2 accepts a command, 3 requires more data.
    fn expect_class(self, class: u16) -> Result<Self, Failure> {
        match self.code / 100 {
            found if found == class => Ok(self),
            4 | 5 => Err(Failure::Refused(self)),
            _ => {
                Err(SendError::Protocol(format!("the mail server answered {} out of turn", self.code)).into())
            }
        }
    }

    /// Returns the enhanced code (RFC 3463), such as `(5, 1, 1)`, if there is one.
    pub(super) fn enhanced_code(&self) -> Option<(u16, u16, u16)> {
        let text = self.text.get(4..)?;
        // qmail writes `(#5.1.1)` behind its sentence.
        let at_end = || parse_enhanced_code(text.rsplit_once("(#")?.1.split_once(')')?.0);
        parse_enhanced_code(text.split_whitespace().next()?).or_else(at_end)
    }

    /// Returns whether the sentence is about relaying. Exim writes `550 relay not permitted`, without an enhanced code.
    /// Words with an `@` are addresses.
    pub(super) fn mentions_relaying(&self) -> bool {
        let words = self.text.split_whitespace().filter(|word| !word.contains('@'));
        words.map(str::to_ascii_lowercase).any(|word| word.starts_with("relay"))
    }
}

fn parse_enhanced_code(word: &str) -> Option<(u16, u16, u16)> {
    let mut numbers = word.split('.').map(|digits| digits.parse().ok());
    let found = (numbers.next()??, numbers.next()??, numbers.next()??);
    (numbers.next().is_none() && matches!(found.0, 2 | 4 | 5)).then_some(found)
}

/// Returns the message as it is transmitted: with CRLF at the end of each line, with a second dot before a
/// leading dot, and with the final dot.
fn dot_stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + message.len() / 64 + 8);
    let mut lines = message.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if lines.peek().is_none() && line.is_empty() {
            break;
        }
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        // Some servers treat a bare CR as the end of a line, others do not.
        wire.extend(line.iter().filter(|byte| **byte != b'\r'));
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// An exchange on a connection, up to the final dot.
struct Session<'s, S> {
    wire: Wire<S>,
    extensions: Extensions,
    /// The clock, and the time that each stage has.
    limit: (&'s Clock, Duration),
    stage: &'s mut Stage,
}

impl<'s, S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Session<'s, S> {
    fn new(stream: S, limit: (&'s Clock, Duration), stage: &'s mut Stage) -> Self {
        Self { wire: Wire::new(stream), extensions: Extensions::default(), limit, stage }
    }

    async fn greet(&mut self) -> Result<(), Failure> {
        *self.stage = Stage::Greeting;
        within(self.limit, self.wire.reply()).await?.expect_class(2).map(drop)
    }

    /// Sends EHLO with the sender's domain, which resolves, unlike the name of this machine.
    async fn hello(&mut self, from: &MailAddress) -> Result<(), Failure> {
        let reply = match self.command(Stage::Hello, &format!("EHLO {}", from.domain()), 2).await {
            // RFC 5321 §4.1.4: the server does not know EHLO.
            Err(Failure::Refused(Reply { code: 500 | 501 | 502 | 504 | 550, .. })) => {
                let hello = format!("HELO {}", from.domain());
                return self.command(Stage::Hello, &hello, 2).await.map(drop);
            }
            reply => reply?,
        };
        for line in reply.text.lines().skip(1) {
            let words = line.get(4..).unwrap_or_default().to_ascii_uppercase();
            let mut words = words.split([' ', '=']).filter(|word| !word.is_empty());
            match words.next() {
                Some("STARTTLS") => self.extensions.starttls = true,
                Some("AUTH") => {
                    for mechanism in words {
                        self.extensions.plain |= mechanism == "PLAIN";
                        self.extensions.login |= mechanism == "LOGIN";
                        let list = &mut self.extensions.mechanisms;
                        list.push_str(if list.is_empty() { "" } else { ", " });
                        list.push_str(mechanism);
                    }
                }
                Some(_) | None => {}
            }
        }
        Ok(())
    }

    async fn transmit(mut self, mail: Mail<'_>) -> Result<FinalReply, Failure> {
        if let Some((name, password)) = &mail.server.login {
            self.log_in(name, password.reveal()).await?;
        }
        self.command(Stage::Sender, &format!("MAIL FROM:<{}>", mail.from), 2).await?;
        self.command(Stage::Recipient, &format!("RCPT TO:<{}>", mail.to), 2).await?;
        self.command(Stage::Data, "DATA", 3).await?;
        *self.stage = Stage::Content;
        for block in dot_stuffed(mail.message).chunks(BLOCK) {
            within(self.limit, self.wire.write(block)).await?;
        }
        let mut wire = self.wire;
        Ok(Box::pin(async move {
            let reply = wire.reply().await?.expect_class(2)?;
            // The exchange does not wait for the reply, which is not needed.
            let _ = wire.write(b"QUIT\r\n").await;
            Ok(reply)
        }))
    }

    async fn log_in(&mut self, name: &str, password: &str) -> Result<(), Failure> {
        let Extensions { plain, login, starttls, .. } = self.extensions;
        if plain {
            let credentials = BASE64_STANDARD.encode(format!("\0{name}\0{password}"));
            match self.command(Stage::Login, &format!("AUTH PLAIN {credentials}"), 2).await {
                // The server lists PLAIN, but does not implement it, or not in one line.
                Err(Failure::Refused(Reply { code: 500..=502 | 504, .. })) => {}
                result => return result.map(drop),
            }
        } else if !login {
            let offered = self.extensions.mechanisms.chars().take(OFFER_MAX).collect();
            return Err(Failure::NoLogin { offered, starttls });
        }
        self.command(Stage::Login, "AUTH LOGIN", 3).await?;
        self.command(Stage::Login, &BASE64_STANDARD.encode(name), 3).await?;
        self.command(Stage::Login, &BASE64_STANDARD.encode(password), 2).await.map(drop)
    }

    /// Sends a command, and expects a reply of a class.
    async fn command(&mut self, stage: Stage, line: &str, class: u16) -> Result<Reply, Failure> {
        *self.stage = stage;
        let wire = &mut self.wire;
        let exchange = async move {
            wire.write(format!("{line}\r\n").as_bytes()).await?;
            wire.reply().await
        };
        within(self.limit, exchange).await?.expect_class(class)
    }
}

/// A connection that writes lines and reads replies.
struct Wire<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    fn new(stream: S) -> Self {
        Self { stream: BufReader::with_capacity(LINE_MAX, stream) }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).await.map_err(|error| lost(&error))?;
        stream.flush().await.map_err(|error| lost(&error))
    }

    async fn reply(&mut self) -> Result<Reply, Failure> {
        let mut text = String::new();
        loop {
            let line = self.line().await?;
            let wrong = || SendError::Protocol("the mail server's reply is not SMTP".into());
            let code = line.get(..3).and_then(|digits| digits.parse::<u16>().ok()).ok_or_else(wrong)?;
            if !(200..600).contains(&code) {
                return Err(wrong().into());
            }
            if text.len() + line.len() >= REPLY_MAX {
                return Err(SendError::TooLarge(REPLY_MAX).into());
            }
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&line);
            match line.as_bytes().get(3) {
                Some(b'-') => {}
                Some(b' ') | None => return Ok(Reply { code, text }),
                Some(_) => return Err(wrong().into()),
            }
        }
    }

    /// Reads a line and returns it without its end.
    async fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(LINE_MAX as u64 + 1);
        limited.read_until(b'\n', &mut line).await.map_err(|error| lost(&error))?;
        match line.strip_suffix(b"\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()),
            None if line.len() > LINE_MAX => Err(SendError::TooLarge(LINE_MAX).into()),
            None => Err(closed()),
        }
    }

    /// Returns the stream, to encrypt it. Fails if unencrypted bytes are left in the buffer.
    fn into_stream(self) -> Result<S, Failure> {
        if self.stream.buffer().is_empty() {
            Ok(self.stream.into_inner())
        } else {
            Err(SendError::Tls("the server sent unencrypted data after STARTTLS".into()).into())
        }
    }
}

/// Returns the failure of a connection that was in use.
fn lost(error: &io::Error) -> Failure {
    SendError::of_io(error, closed_connection()).into()
}

fn closed() -> Failure {
    closed_connection().into()
}

fn closed_connection() -> SendError {
    SendError::Protocol("the mail server closed the connection".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_message_ends_the_message() {
        for (message, wire) in [
            ("", ".\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".\r\n..\r\n.a", "..\r\n...\r\n..a\r\n.\r\n"),
            ("a\n.\nb\n", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r.\r\r\nb", "a.\r\nb\r\n.\r\n"),
            ("a\r\n\r\n", "a\r\n\r\n.\r\n"),
        ] {
            assert_eq!(String::from_utf8_lossy(&dot_stuffed(message.as_bytes())), wire, "{message:?}");
        }
    }

    #[test]
    fn an_enhanced_code_is_parsed_if_there_is_one() {
        let of = |text: &str| Reply { code: 550, text: text.to_owned() }.enhanced_code();
        assert_eq!(of("550 5.1.1 <me@a.example>: no such user"), Some((5, 1, 1)));
        assert_eq!(of("550-5.7.26 not authenticated\n550 5.7.26 see"), Some((5, 7, 26)));
        assert_eq!(of("550 sorry, no mailbox here by that name. (#5.1.1)"), Some((5, 1, 1)));
        for text in [
            "550",
            "550 see (#5",
            "550 ticket (#17)",
            "550 no such user",
            "550 5.1",
            "550 10.0.0.1 is listed",
            "550 1.2.3",
            "550 5.1.1.1 x",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_reply_is_bounded_and_must_be_smtp() {
        let endless = [b'2'; LINE_MAX + 2];
        let many = b"250-x\r\n".repeat(REPLY_MAX / 5);
        for (bytes, says) in [
            (&b"250-a\r\n250 b\r\n"[..], Ok("250-a\n250 b")),
            (b"250\r\n", Ok("250")),
            (b"250 \xff\n", Ok("250 \u{fffd}")),
            (b"hello\r\n", Err("protocol: ")),
            (b"099 x\r\n", Err("protocol: ")),
            (b"250_x\r\n", Err("protocol: ")),
            (b"25", Err("protocol: ")),
            (b"250-a\r\n", Err("protocol: ")),
            (&endless, Err("too_large: ")),
            (&many, Err("too_large: ")),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            theirs.write_all(bytes).await.unwrap();
            drop(theirs);
            match (Wire::new(ours).reply().await, says) {
                (Ok(reply), Ok(text)) => assert_eq!(reply.text, text),
                (Err(Failure::Connection(error)), Err(word)) => {
                    assert!(error.to_string().starts_with(word), "{error}");
                }
                (other, _) => panic!("{other:?} for {:?}", String::from_utf8_lossy(bytes)),
            }
        }
    }

    #[tokio::test]
    async fn bytes_before_starttls_do_not_count_as_encrypted() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(b"220 go ahead\r\n250 AUTH PLAIN\r\n").await.unwrap();
        let mut wire = Wire::new(ours);
        assert!(wire.reply().await.is_ok());
        assert!(matches!(wire.into_stream(), Err(Failure::Connection(SendError::Tls(_)))));
    }
}
