//! A line to a PostgreSQL server that can be cut, on purpose and to the byte.
//!
//! It runs on threads of its own: opening a store holds the test's thread.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// `commit` as a simple query.
const COMMIT: &[u8] = b"Q\0\0\0\x0bcommit\0";

/// What becomes of the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It never arrives.
    Before,
    /// It is done, and the answer never arrives.
    After,
}

#[derive(Debug, Default)]
struct PollerMessage {
    cut: Option<Cut>,
    /// Nobody gets through: from now on, or from the cut on.
    closed: bool,
    closed_after_cut: bool,
    lines: Vec<TcpStream>,
    /// The server does not hear of a line that ends: its side is kept here.
    silent: Option<Vec<UnixStream>>,
}

/// The line.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: SocketAddr,
    plan: Arc<Mutex<PollerMessage>>,
}

impl Proxy {
    pub fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), plan: Arc::default() };
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

    /// Cuts the line in the next commit; `closed`: and lets nobody through afterwards.
    pub fn cut(&self, cut: Cut, closed: bool) {
        let mut plan = self.plan.lock().unwrap();
        (plan.cut, plan.closed_after_cut) = (Some(cut), closed);
    }

    /// Cuts every line, and lets nobody through.
    pub fn close(&self) {
        self.plan.lock().unwrap().closed = true;
        self.shake();
    }

    /// Lets the server believe that every line still stands that is cut from now on.
    pub fn say_nothing(&self) {
        self.plan.lock().unwrap().silent = Some(Vec::new());
    }

    /// Cuts every line that there is now.
    pub fn shake(&self) {
        let mut plan = self.plan.lock().unwrap();
        for line in plan.lines.drain(..) {
            let _ = line.shutdown(Shutdown::Both);
        }
    }

    /// Lets everybody through again.
    pub fn open(&self) {
        self.plan.lock().unwrap().closed = false;
    }

    /// Whether the line was cut as planned.
    pub fn was_cut(&self) -> bool {
        self.plan.lock().unwrap().cut.is_none()
    }

    fn join(&self, client: TcpStream, server: UnixStream) {
        let swallow = Arc::new(AtomicBool::new(false));
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let swallows = Arc::clone(&swallow);
        std::thread::spawn(move || {
            let mut bytes = vec![0; 65_536];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
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
                // A commit follows an answer, so it comes by itself.
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
