//! One SMTP exchange: one message, one recipient, one connection.
//!
//! The messages come from lettre; the exchange is our own. What it must do that lettre's transport does
//! not (as of 0.11.23): bound each line and each reply before it is in memory, know at which word of the
//! exchange the server refused (a refused recipient and a refused login are different people's trouble),
//! throw nothing away that the server said, go by the one TLS configuration of this program, and believe
//! nothing that was sent in the clear before STARTTLS as if it had come after it: bytes that wait in the
//! buffer at that moment end the exchange, because whoever sits in the middle could have put the
//! server's next answers there.
//!
//! **A connection of its own for each mail.** A deadline that passes drops the connection, wherever the
//! exchange stands. Nothing of it is left that the next mail could meet, whereas a connection that is
//! kept would go on where the last mail was cut off.
//!
//! **What was taken is taken.** Once the server has answered the message with 2xx, nothing that happens
//! afterwards (QUIT is only a courtesy) turns the success into a failure and the mail into two.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};

use super::{Login, Security, Server};
use crate::domain::MailAddress;
use crate::egress::{Egress, SendError};

/// The standard's lines have 512 bytes; real servers exceed that.
const LINE_MAX: usize = 2 * 1024;
/// A reply of some hundred lines is a list of extensions; a longer one is no reply.
const REPLY_MAX: usize = 16 * 1024;

/// The word of the exchange that was last said.
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
    /// As the server would name it.
    pub(super) fn word(self) -> &'static str {
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

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// Three digits.
    pub(super) code: u16,
    /// All its lines, codes included.
    pub(super) text: String,
}

/// Why a message was not taken.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The server said so.
    Said(Reply),
    /// There is nobody to talk to, or not any more.
    Lost(SendError),
    /// The server offers no STARTTLS, and without it nothing may be said.
    NoTls,
    /// The server offers no way to log in that we know.
    NoLogin,
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::Lost(error)
    }
}

/// What is to be handed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope<'a> {
    pub(super) from: &'a MailAddress,
    pub(super) to: &'a MailAddress,
    pub(super) message: &'a [u8],
}

/// An exchange: how far it came is known also when it is dropped half-way.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    server: &'a Server,
    /// The last word.
    pub(super) stage: Stage,
    /// What the server said when it took the message.
    pub(super) taken: Option<Reply>,
}

/// What a server says it can do.
#[derive(Clone, Copy, Debug, Default)]
struct Offers {
    starttls: bool,
    plain: bool,
    login: bool,
}

impl<'a> Exchange<'a> {
    pub(super) fn with(server: &'a Server) -> Self {
        Self { server, stage: Stage::Connect, taken: None }
    }

    /// Hands the message over.
    pub(super) async fn run(&mut self, egress: &Egress, mail: Envelope<'_>) -> Result<(), Failure> {
        let Server { security, host, port, .. } = self.server;
        let stream = egress.dial(host, *port).await?;
        if *security == Security::Implicit {
            self.stage = Stage::Tls;
            let mut wire = Wire::over(egress.secure(stream, host).await?);
            let offers = self.greet(&mut wire, mail.from).await?;
            return self.hand_over(wire, offers, mail).await;
        }
        let mut wire = Wire::over(stream);
        let offers = self.greet(&mut wire, mail.from).await?;
        match security {
            Security::Required | Security::Opportunistic if offers.starttls => {
                self.stage = Stage::StartTls;
                wire.ask("STARTTLS").await?.in_class(2)?;
                let stream = wire.nothing_waits()?;
                self.stage = Stage::Tls;
                let mut wire = Wire::over(egress.secure(stream, host).await?);
                let offers = self.hello(&mut wire, mail.from).await?;
                self.hand_over(wire, offers, mail).await
            }
            Security::Required => Err(Failure::NoTls),
            // Whoever can strike out the offer of STARTTLS would get the password.
            Security::Opportunistic if self.server.login.is_some() => Err(Failure::NoTls),
            Security::Opportunistic | Security::None | Security::Implicit => {
                self.hand_over(wire, offers, mail).await
            }
        }
    }

    async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        from: &MailAddress,
    ) -> Result<Offers, Failure> {
        self.stage = Stage::Greeting;
        wire.reply().await?.in_class(2)?;
        self.hello(wire, from).await
    }

    /// Says who we are: the sender's domain, which is a name that resolves, unlike this machine's.
    async fn hello<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        from: &MailAddress,
    ) -> Result<Offers, Failure> {
        self.stage = Stage::Hello;
        let reply = wire.ask(&format!("EHLO {}", from.domain())).await?.in_class(2)?;
        let mut offers = Offers::default();
        for line in reply.text.lines().skip(1) {
            let words = line.get(4..).unwrap_or_default().to_ascii_uppercase();
            let mut words = words.split([' ', '=']);
            match words.next() {
                Some("STARTTLS") => offers.starttls = true,
                Some("AUTH") => {
                    for mechanism in words {
                        offers.plain |= mechanism == "PLAIN";
                        offers.login |= mechanism == "LOGIN";
                    }
                }
                Some(_) | None => {}
            }
        }
        Ok(offers)
    }

    async fn hand_over<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        mut wire: Wire<S>,
        offers: Offers,
        mail: Envelope<'_>,
    ) -> Result<(), Failure> {
        if let Some(login) = &self.server.login {
            self.stage = Stage::Login;
            log_in(&mut wire, offers, login).await?;
        }
        self.stage = Stage::Sender;
        wire.ask(&format!("MAIL FROM:<{}>", mail.from)).await?.in_class(2)?;
        self.stage = Stage::Recipient;
        wire.ask(&format!("RCPT TO:<{}>", mail.to)).await?.in_class(2)?;
        self.stage = Stage::Data;
        wire.ask("DATA").await?.in_class(3)?;
        self.stage = Stage::Content;
        wire.write(&stuffed(mail.message)).await?;
        self.taken = Some(wire.reply().await?.in_class(2)?);
        // Its answer is not waited for: nobody needs it, and somebody may need the place of this mail.
        let _ = wire.write(b"QUIT\r\n").await;
        Ok(())
    }
}

async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    offers: Offers,
    login: &Login,
) -> Result<(), Failure> {
    let Login { name, password } = login;
    if offers.plain {
        let words = BASE64_STANDARD.encode(format!("\0{name}\0{password}"));
        wire.ask(&format!("AUTH PLAIN {words}")).await?.in_class(2)?;
    } else if offers.login {
        wire.ask("AUTH LOGIN").await?.in_class(3)?;
        wire.ask(&BASE64_STANDARD.encode(name)).await?.in_class(3)?;
        wire.ask(&BASE64_STANDARD.encode(password)).await?.in_class(2)?;
    } else {
        return Err(Failure::NoLogin);
    }
    Ok(())
}

impl Reply {
    /// This reply, if it belongs to the class that is due: 2 is yes, 3 is go on.
    fn in_class(self, class: u16) -> Result<Self, Failure> {
        match self.code / 100 {
            found if found == class => Ok(self),
            4 | 5 => Err(Failure::Said(self)),
            _ => {
                Err(SendError::Protocol(format!("the mail server answered {} out of turn", self.code)).into())
            }
        }
    }

    /// The enhanced code (RFC 3463), if there is one: `(5, 1, 1)`.
    pub(super) fn enhanced(&self) -> Option<(u16, u16, u16)> {
        let word = self.text.get(4..)?.split_whitespace().next()?;
        let mut numbers = word.split('.').map(|digits| digits.parse().ok());
        let found = (numbers.next()??, numbers.next()??, numbers.next()??);
        (numbers.next().is_none() && matches!(found.0, 2 | 4 | 5)).then_some(found)
    }
}

/// The message as it goes over the wire: its lines end as they should, none of them ends it, and then it
/// ends.
fn stuffed(message: &[u8]) -> Vec<u8> {
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
        // A bare CR is a line's end to some servers and not to others.
        wire.extend(line.iter().filter(|byte| **byte != b'\r'));
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// Lines out, replies in.
struct Wire<S> {
    stream: BufReader<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    fn over(stream: S) -> Self {
        Self { stream: BufReader::with_capacity(LINE_MAX, stream) }
    }

    async fn ask(&mut self, line: &str) -> Result<Reply, Failure> {
        self.write(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let stream = self.stream.get_mut();
        stream.write_all(bytes).await.map_err(|_| closed())?;
        stream.flush().await.map_err(|_| closed())
    }

    async fn reply(&mut self) -> Result<Reply, Failure> {
        let mut text = String::new();
        loop {
            let line = self.line().await?;
            let wrong = || SendError::Protocol("what the mail server answered is not SMTP".into());
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

    /// A line without its end.
    async fn line(&mut self) -> Result<String, Failure> {
        let mut line = Vec::new();
        loop {
            let waiting = self.stream.fill_buf().await.map_err(|_| closed())?;
            if waiting.is_empty() {
                return Err(closed());
            }
            let end = waiting.iter().position(|byte| *byte == b'\n');
            line.extend_from_slice(&waiting[..end.unwrap_or(waiting.len())]);
            let used = end.map_or(waiting.len(), |end| end + 1);
            self.stream.consume(used);
            if line.len() > LINE_MAX {
                return Err(SendError::TooLarge(LINE_MAX).into());
            }
            if end.is_some() {
                return Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned());
            }
        }
    }

    /// The stream itself, for TLS, if nothing is left that came without.
    fn nothing_waits(self) -> Result<S, Failure> {
        if self.stream.buffer().is_empty() {
            Ok(self.stream.into_inner())
        } else {
            Err(SendError::Tls("the server went on in the clear after STARTTLS".into()).into())
        }
    }
}

fn closed() -> Failure {
    SendError::Protocol("the mail server closed the connection".into()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_message_ends_it() {
        for (message, wire) in [
            ("", ".\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".\r\n..\r\n.a", "..\r\n...\r\n..a\r\n.\r\n"),
            ("a\n.\nb\n", "a\r\n..\r\nb\r\n.\r\n"),
            ("a\r.\r\r\nb", "a.\r\nb\r\n.\r\n"),
            ("a\r\n\r\n", "a\r\n\r\n.\r\n"),
        ] {
            assert_eq!(String::from_utf8_lossy(&stuffed(message.as_bytes())), wire, "{message:?}");
        }
    }

    #[test]
    fn an_enhanced_code_is_read_where_there_is_one() {
        let of = |text: &str| Reply { code: 550, text: text.to_owned() }.enhanced();
        assert_eq!(of("550 5.1.1 <me@a.example>: no such user"), Some((5, 1, 1)));
        assert_eq!(of("550-5.7.26 not authenticated\n550 5.7.26 see"), Some((5, 7, 26)));
        for text in
            ["550", "550 no such user", "550 5.1", "550 10.0.0.1 is listed", "550 1.2.3", "550 5.1.1.1 x"]
        {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn what_a_server_says_is_bounded_and_must_be_smtp() {
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
            match (Wire::over(ours).reply().await, says) {
                (Ok(reply), Ok(text)) => assert_eq!(reply.text, text),
                (Err(Failure::Lost(error)), Err(word)) => {
                    assert!(error.to_string().starts_with(word), "{error}");
                }
                (other, _) => panic!("{other:?} for {:?}", String::from_utf8_lossy(bytes)),
            }
        }
    }

    #[tokio::test]
    async fn what_was_said_in_the_clear_is_not_taken_for_secret() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(b"220 go ahead\r\n250 AUTH PLAIN\r\n").await.unwrap();
        let mut wire = Wire::over(ours);
        assert!(wire.reply().await.is_ok());
        assert!(matches!(wire.nothing_waits(), Err(Failure::Lost(SendError::Tls(_)))));
    }
}
