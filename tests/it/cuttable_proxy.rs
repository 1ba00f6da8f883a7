//! A proxy to a PostgreSQL server whose connections can be cut at an exact byte.
//!
//! It runs on threads of its own, because opening a store blocks the thread of the test.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// The message of a simple query `commit`.
const COMMIT: &[u8] = b"Q\0\0\0\x0bcommit\0";

/// Treatment of the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The commit never arrives.
    Before,
    /// The commit happens, and its answer never arrives.
    After,
}

#[derive(Debug, Default)]
struct PollerMessage {
    cut: Option<Cut>,
    /// Whether new connections are refused: at once, or after the cut.
    closed: bool,
    closed_after_cut: bool,
    lines: Vec<TcpStream>,
    /// Connections to the server that stay open after their clients are cut.
    silent: Option<Vec<UnixStream>>,
}

/// Whether nothing is passed on, as if the server were stopped (`SIGSTOP`).
#[derive(Debug, Default)]
struct Held(Mutex<bool>, Condvar);

impl Held {
    /// Waits while nothing is passed on.
    fn wait(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |held| *held).unwrap());
    }
}

/// The proxy.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: SocketAddr,
    plan: Arc<Mutex<PollerMessage>>,
    held: Arc<Held>,
}

impl Proxy {
    pub fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Self { address, plan: Arc::default(), held: Arc::default() };
        let this = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let mut plan = this.plan.lock().unwrap();
                if plan.closed {
                    continue;
                }
                let Ok(server) = UnixStream::connect(&socket) else { continue };
                plan.lines.push(client.try_clone().unwrap());
                drop(plan);
                this.join(client, server);
            }
        });
        proxy
    }

    pub fn url(&self, database: &str) -> String {
        format!("postgres://ringback@{}/{database}?sslmode=disable", self.address)
    }

    /// Cuts the connection in the next commit. `closed`: new connections are then refused.
    pub fn cut(&self, cut: Cut, closed: bool) {
        let mut plan = self.plan.lock().unwrap();
        (plan.cut, plan.closed_after_cut) = (Some(cut), closed);
    }

    /// Cuts every connection, and refuses new ones.
    pub fn close(&self) {
        self.plan.lock().unwrap().closed = true;
        self.shake();
    }

    /// Keeps the server side of connections that are cut from now on open.
    pub fn say_nothing(&self) {
        self.plan.lock().unwrap().silent = Some(Vec::new());
    }

    /// Cuts every current connection.
    pub fn shake(&self) {
        let mut plan = self.plan.lock().unwrap();
        for line in plan.lines.drain(..) {
            let _ = line.shutdown(Shutdown::Both);
        }
    }

    /// Passes nothing on, and keeps every connection open.
    pub fn hold(&self) {
        *self.held.0.lock().unwrap() = true;
    }

    /// Passes everything on again.
    pub fn release(&self) {
        *self.held.0.lock().unwrap() = false;
        self.held.1.notify_all();
    }

    /// Accepts connections again.
    pub fn open(&self) {
        self.plan.lock().unwrap().closed = false;
    }

    /// Whether the connection was cut in the commit.
    pub fn was_cut(&self) -> bool {
        self.plan.lock().unwrap().cut.is_none()
    }

    fn join(&self, client: TcpStream, server: UnixStream) {
        let swallow = Arc::new(AtomicBool::new(false));
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let (swallows, held) = (Arc::clone(&swallow), Arc::clone(&self.held));
        std::thread::spawn(move || {
            let mut bytes = vec![0; 65_536];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                held.wait();
                if swallows.load(Ordering::Acquire) || to.write_all(&bytes[..read]).is_err() {
                    break;
                }
            }
            let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
        });
        let this = self.clone();
        let (mut from, mut to) = (client, server);
        std::thread::spawn(move || {
            let mut bytes = vec![0; 65_536];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                let sent = &bytes[..read];
                this.held.wait();
                // A commit follows an answer, so it is a message of its own.
                if sent == COMMIT
                    && let Some(cut) = this.take_cut()
                {
                    if cut == Cut::Before {
                        break;
                    }
                    swallow.store(true, Ordering::Release);
                }
                if to.write_all(sent).is_err() {
                    break;
                }
            }
            if let Some(silent) = &mut this.plan.lock().unwrap().silent {
                silent.push(to);
                return;
            }
            let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
        });
    }

    fn take_cut(&self) -> Option<Cut> {
        let mut plan = self.plan.lock().unwrap();
        let cut = plan.cut.take()?;
        plan.closed |= plan.closed_after_cut;
        Some(cut)
    }
}
