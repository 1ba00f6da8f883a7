//! A fake mail server. It accepts what a test scripts, keeps what it accepted, and records an error for everything
//! that no client may send.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::fakes::{Held, Shared};
use crate::harness::Neighbours;
use crate::tls::authority_and;

/// Host name in its certificate.
pub const HOST: &str = "mail.test";
/// User name and password that it accepts.
pub const LOGIN: (&str, &str) = ("robot@mail.test", "p:w/d#é");

/// Setup of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Whether it uses TLS from the start.
    pub implicit: bool,
    /// Whether it offers STARTTLS.
    pub starttls: bool,
    /// Login mechanisms, if it requires a login.
    pub login: Option<&'static str>,
}

/// Without encryption and without a login.
pub const OPEN: Setup = Setup { implicit: false, starttls: false, login: None };

/// Scripted behaviour of the next connection at a step: `greeting`, `EHLO`, `STARTTLS`,
/// `PLAIN`, `AUTH`, `MAIL`, `RCPT`, `DATA`, `.`, `QUIT`.
#[derive(Clone, Debug)]
pub enum Quirk {
    /// The usual reply.
    None,
    /// This reply.
    Replies(&'static str, &'static str),
    /// The usual reply, after the test has sent `true`.
    Late(&'static str, watch::Receiver<bool>),
    /// No further reply.
    Silent(&'static str),
    /// An incomplete reply, and no further one.
    Half(&'static str),
    /// The connection is closed.
    Hangs(&'static str),
    /// A reply in single bytes.
    Dribbles,
}

impl Quirk {
    fn at(&self, step: &str) -> bool {
        match self {
            Self::Replies(word, _) | Self::Silent(word) | Self::Half(word) | Self::Hangs(word) => {
                *word == step
            }
            Self::Late(word, _) => *word == step,
            Self::None | Self::Dribbles => false,
        }
    }
}

/// An accepted mail.
#[derive(Clone, Debug)]
pub struct Mail {
    pub from: String,
    pub to: String,
    /// User name of the login.
    pub login: Option<String>,
    /// Whether it was encrypted.
    pub secure: bool,
    /// The message, without the added dots.
    pub text: String,
}

impl Mail {
    /// Returns the value of a header, unfolded.
    #[track_caller]
    pub fn header(&self, name: &str) -> String {
        let found: Vec<String> =
            self.headers().into_iter().filter(|(known, _)| known == name).map(|(_, value)| value).collect();
        match found.as_slice() {
            [one] => one.clone(),
            other => panic!("{name} is there {} times in {}", other.len(), self.text),
        }
    }

    /// Returns all headers, unfolded.
    pub fn headers(&self) -> Vec<(String, String)> {
        let head = self.text.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ").replace("\r\n\t", " ");
        let pair =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        head.split("\r\n").map(|line| pair(line).unwrap_or_else(|| panic!("no header: {line}"))).collect()
    }

    /// Returns the decoded parts: text and HTML.
    pub fn parts(&self) -> [String; 2] {
        let kind = self.header("Content-Type");
        let boundary = kind.split("boundary=\"").nth(1).unwrap().trim_end_matches('"').to_owned();
        let separator = format!("--{boundary}");
        let parts: Vec<&str> = self.text.split(&separator).collect();
        assert_eq!(parts.len(), 4, "{}", self.text);
        assert_eq!(parts[3].trim(), "--");
        assert!(parts[1].contains("Content-Type: text/plain; charset=utf-8"), "{}", parts[1]);
        assert!(parts[2].contains("Content-Type: text/html; charset=utf-8"), "{}", parts[2]);
        [parts[1], parts[2]].map(|part| quoted_printable(part.split_once("\r\n\r\n").unwrap().1))
    }
}

fn quoted_printable(text: &str) -> String {
    let joined = text.replace("=\r\n", "");
    let (mut bytes, mut rest) = (Vec::new(), joined.as_bytes());
    while let [first, more @ ..] = rest {
        if *first == b'=' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&more[..2]).unwrap(), 16).unwrap());
            rest = &more[2..];
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

#[derive(Debug, Default)]
struct Office {
    script: VecDeque<Quirk>,
    refused: HashMap<String, &'static str>,
    unread: VecDeque<Mail>,
    connections: usize,
    complaints: Vec<String>,
}

/// The fake mail server.
#[derive(Debug)]
pub struct MailServer {
    address: SocketAddr,
    setup: Setup,
    office: Arc<Shared<Office>>,
    accepting: JoinHandle<()>,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl MailServer {
    /// Starts it with a certificate that the application trusts.
    pub async fn start(neighbours: &mut Neighbours, setup: Setup) -> Self {
        let (root, acceptor) = authority_and(HOST);
        neighbours.roots.push(root);
        Self::open(neighbours.held.clone(), setup, acceptor).await
    }

    /// Starts it with an untrusted certificate.
    pub async fn start_stranger(neighbours: &Neighbours, setup: Setup) -> Self {
        Self::open(neighbours.held.clone(), setup, authority_and(HOST).1).await
    }

    async fn open(held: Held, setup: Setup, acceptor: TlsAcceptor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let office = Shared::new(Office::default());
        let accepting = tokio::spawn({
            let office = Arc::clone(&office);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let quirk = office.change(|office| {
                        office.connections += 1;
                        office.script.pop_front().unwrap_or(Quirk::None)
                    });
                    let writer_loop =
                        WriterLoop { setup, quirk, office: Arc::clone(&office), held: held.clone() };
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        if setup.implicit {
                            // A client that does not trust the certificate closes the connection here.
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            writer_loop.serve(BufReader::new(stream), true, true).await;
                        } else if let Some(stream) =
                            writer_loop.serve(BufReader::new(stream), false, true).await
                            && let Ok(stream) = acceptor.accept(stream).await
                        {
                            writer_loop.serve(BufReader::new(stream), true, false).await;
                        }
                    });
                }
            }
        });
        Self { address, setup, office, accepting }
    }

    /// Returns the value of `[smtp] url`.
    pub fn url(&self) -> String {
        let (scheme, tls) = match self.setup {
            Setup { implicit: true, .. } => ("smtps", ""),
            Setup { starttls: true, .. } => ("smtp", "?tls=required"),
            Setup { .. } => ("smtp", ""),
        };
        let login = if self.setup.login.is_some() { "robot%40mail.test:p%3Aw%2Fd%23%C3%A9@" } else { "" };
        format!("{scheme}://{login}{HOST}:{}{tls}", self.address.port())
    }

    /// Scripts the next connections.
    pub fn script(&self, quirks: impl IntoIterator<Item = Quirk>) {
        self.office.change(|office| office.script.extend(quirks));
    }

    /// Sets the refusal of mails to this address.
    pub fn refuse(&self, address: &str, reply: &'static str) {
        self.office.change(|office| office.refused.insert(address.to_owned(), reply));
    }

    /// Waits for the next unread mail.
    pub async fn next(&self) -> Mail {
        self.office.until("a mail", |office| office.unread.pop_front()).await
    }

    /// Returns the number of connections.
    pub fn connections(&self) -> usize {
        self.office.lock().connections
    }

    /// Ends a test: checks that no mail is unread and that no error was found.
    pub fn finish(self) {
        let office = self.office.lock();
        assert!(office.unread.is_empty(), "unread mails: {:#?}", office.unread);
        assert!(office.complaints.is_empty(), "{:#?}", office.complaints);
    }
}

/// One connection.
struct WriterLoop {
    setup: Setup,
    quirk: Quirk,
    office: Arc<Shared<Office>>,
    held: Held,
}

impl WriterLoop {
    /// Serves until the end, or until STARTTLS: then it returns the stream.
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: BufReader<S>,
        secure: bool,
        greet: bool,
    ) -> Option<S> {
        if greet {
            self.answer(&mut stream, "greeting", "220-mail.test\r\n220 ESMTP at your service").await?;
        }
        let (mut login, mut from, mut to) = (None, String::new(), String::new());
        loop {
            let line = self.line(&mut stream).await?;
            let (verb, rest) = line.split_once([' ', ':']).unwrap_or((&line, ""));
            let verb = verb.to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let starttls = if self.setup.starttls && !secure { "250-STARTTLS\r\n" } else { "" };
                    let auth = match self.setup.login {
                        Some(mechanisms) if secure || !self.setup.starttls => {
                            format!("250-AUTH {mechanisms}\r\n")
                        }
                        _ => String::new(),
                    };
                    let hello = format!("250-mail.test\r\n{starttls}{auth}250 SIZE 1000000");
                    self.answer(&mut stream, "EHLO", &hello).await?;
                }
                "HELO" => self.answer(&mut stream, "HELO", "250 mail.test").await?,
                "STARTTLS" => {
                    self.answer(&mut stream, "STARTTLS", "220 go ahead").await?;
                    return Some(stream.into_inner());
                }
                "AUTH" => {
                    let given = self.credentials(&mut stream, rest).await?;
                    if rest.starts_with("PLAIN") && self.quirk.at("PLAIN") {
                        self.answer(&mut stream, "PLAIN", "").await?;
                        continue;
                    }
                    let known = (given.0.as_str(), given.1.as_str()) == LOGIN;
                    login = known.then(|| given.0.clone());
                    let reply = if known { "235 2.7.0 welcome" } else { "535 5.7.8 authentication failed" };
                    self.answer(&mut stream, "AUTH", reply).await?;
                }
                "MAIL" => {
                    rest.strip_prefix("FROM:<").unwrap().strip_suffix('>').unwrap().clone_into(&mut from);
                    let known = self.setup.login.is_none() || login.is_some();
                    let reply = if known { "250 2.1.0 ok" } else { "530 5.7.0 log in first" };
                    self.answer(&mut stream, "MAIL", reply).await?;
                }
                "RCPT" => {
                    rest.strip_prefix("TO:<").unwrap().strip_suffix('>').unwrap().clone_into(&mut to);
                    let refused = self.office.lock().refused.get(&to).copied();
                    self.answer(&mut stream, "RCPT", refused.unwrap_or("250 2.1.5 ok")).await?;
                }
                "DATA" => {
                    self.answer(&mut stream, "DATA", "354 go on").await?;
                    let text = self.content(&mut stream).await?;
                    let (from, to, login) = (from.clone(), to.clone(), login.clone());
                    self.office.change(|office| {
                        office.unread.push_back(Mail { from, to, login, secure, text });
                    });
                    self.answer(&mut stream, ".", "250 2.0.0 queued as 4711").await?;
                }
                "QUIT" => {
                    self.answer(&mut stream, "QUIT", "221 2.0.0 bye").await?;
                    return None;
                }
                other => {
                    self.complain(format!("what is {other}?"));
                    self.answer(&mut stream, other, "500 what?").await?;
                }
            }
        }
    }

    async fn credentials<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut BufReader<S>,
        rest: &str,
    ) -> Option<(String, String)> {
        let decoded = |text: &str| String::from_utf8(BASE64_STANDARD.decode(text).unwrap()).unwrap();
        if let Some(words) = rest.strip_prefix("PLAIN ") {
            let words = decoded(words);
            let mut words = words.split('\0').skip(1).map(str::to_owned);
            return Some((words.next()?, words.next()?));
        }
        assert_eq!(rest, "LOGIN");
        self.answer(stream, "", "334 VXNlcm5hbWU6").await?;
        let name = decoded(&self.line(stream).await?);
        self.answer(stream, "", "334 UGFzc3dvcmQ6").await?;
        Some((name, decoded(&self.line(stream).await?)))
    }

    async fn content<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut BufReader<S>) -> Option<String> {
        let mut text = String::new();
        loop {
            let line = self.line(stream).await?;
            if line == "." {
                return Some(text);
            }
            if line.len() > 998 || !line.is_ascii() || line.contains(['\r', '\0']) {
                self.complain(format!("no line of a mail: {line:?}"));
            }
            text.push_str(line.strip_prefix('.').unwrap_or(&line));
            text.push_str("\r\n");
        }
    }

    async fn line<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut BufReader<S>) -> Option<String> {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if !line.ends_with("\r\n") {
            self.complain(format!("a line that does not end as one: {line:?}"));
        }
        Some(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut BufReader<S>,
        word: &str,
        usual: &str,
    ) -> Option<()> {
        let says = match &self.quirk {
            Quirk::Replies(_, says) if self.quirk.at(word) => says,
            Quirk::Hangs(_) if self.quirk.at(word) => return None,
            Quirk::Late(_, gate) if self.quirk.at(word) => {
                let _holding = self.held.hold(Some(gate.clone()), None);
                gate.clone().wait_for(|open| *open).await.ok()?;
                usual
            }
            Quirk::Silent(_) | Quirk::Half(_) if self.quirk.at(word) => {
                let _holding = self.held.hold(None, None);
                if matches!(self.quirk, Quirk::Half(_)) {
                    stream.get_mut().write_all(b"250-").await.ok()?;
                    stream.get_mut().flush().await.ok()?;
                }
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                return None;
            }
            _ => usual,
        };
        let bytes = format!("{says}\r\n").into_bytes();
        if matches!(self.quirk, Quirk::Dribbles) {
            for byte in &bytes {
                stream.get_mut().write_all(&[*byte]).await.ok()?;
                stream.get_mut().flush().await.ok()?;
            }
            return Some(());
        }
        stream.get_mut().write_all(&bytes).await.ok()?;
        stream.get_mut().flush().await.ok()
    }

    fn complain(&self, what: String) {
        self.office.change(|office| office.complaints.push(what));
    }
}
