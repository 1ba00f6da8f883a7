//! A PostgreSQL server for the tests, run with the installed programs.
//!
//! The server ends with the test process, however that ends: a shell between the two stops the server when its
//! standard input is closed. The server is durable: `fsync` is on.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use ringback::domain::{Masked, Timestamp};
use ringback::store::{DatabaseLocation, Keyring, Store, StoreOptions};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Returns the folder of the newest `initdb` and `postgres`, at least version 14.
pub fn programs() -> Option<PathBuf> {
    let in_path = path();
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let installed = installed.map(|version| version.path().join("bin"));
    let folders = std::env::split_paths(&in_path).chain(installed);
    let known = folders.filter_map(|folder| Some((version(&folder)?, folder)));
    known.filter(|(version, _)| *version >= 14).max_by_key(|(version, _)| *version).map(|(_, folder)| folder)
}

#[expect(clippy::disallowed_methods, reason = "PATH is read to find the programs")]
fn path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// Returns the major version: 15 for `postgres (PostgreSQL) 15.18 (Debian …)`.
fn version(folder: &Path) -> Option<u32> {
    // Debian has `initdb` outside of PATH, and PATH can have a link to `postgres` without one to `initdb`.
    let folder = folder.join("initdb").canonicalize().ok()?.parent()?.to_owned();
    let printed = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    let printed = String::from_utf8(printed.stdout).ok()?;
    printed.split_whitespace().nth(2)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Returns user and group of the server, which root must not run; `None` if the tests do not run as root.
fn user() -> Option<(u32, u32)> {
    if std::fs::metadata("/proc/self").ok()?.uid() != 0 {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let fields: Vec<&str> = line.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    find("postgres").or_else(|| find("nobody"))
}

/// A server in its own folder, which only its user can access.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    folder: PathBuf,
    port: u16,
    /// Whether it listens on loopback, with TLS.
    tls: bool,
    keeper: Child,
    template: OnceLock<()>,
    made: AtomicU32,
}

/// A script that runs the server until its standard input ends. Then it removes the folder.
const KEEPER: &str = r#"
"$1/postgres" -D "$2/data" -k "$2" -p "$3" -c listen_addresses="$4" -c ssl="$5" \
  -c max_connections=200 -c shared_buffers=32MB \
  -c wal_level=minimal -c max_wal_senders=0 -c full_page_writes=off -c log_min_messages=warning \
  -c max_prepared_transactions=0 </dev/null >>"$2/log" 2>&1 &
server=$!
read -r line
# A starting server ignores SIGQUIT, but not SIGTERM.
kill -TERM $server
kill -QUIT $server
wait $server
if [ "$line" != leave ]; then rm -rf "$2"; fi
"#;

impl Server {
    /// Creates a server in a new folder inside `below` and starts it.
    pub fn start(programs: &Path, below: &Path) -> Self {
        Self::start_with(programs, below, 5432, None)
    }

    /// Creates a server that also listens on loopback, with TLS and passwords.
    pub fn start_with_tls(programs: &Path, below: &Path, certificate: &str, key: &str) -> Self {
        // Below the ports that the kernel gives away.
        let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = (first..32_000).find(free).expect("a free port");
        Self::start_with(programs, below, port, Some((certificate, key)))
    }

    fn start_with(programs: &Path, below: &Path, port: u16, tls: Option<(&str, &str)>) -> Self {
        let programs = programs.join("initdb").canonicalize().unwrap().parent().unwrap().to_owned();
        let folder = tempfile::Builder::new()
            .prefix("ringback-pg-")
            .tempdir_in(below)
            .unwrap()
            .keep()
            .canonicalize()
            .unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut initdb = Command::new(programs.join("initdb"));
        initdb.args(["--no-sync", "-A", "trust", "-U", "ringback", "-E", "UTF8", "--locale=C", "-D"]);
        initdb.arg(folder.join("data")).current_dir(&folder).stdin(Stdio::null());
        if let Some((uid, gid)) = user() {
            chown(&folder, Some(uid), Some(gid)).unwrap();
            initdb.uid(uid).gid(gid);
        }
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        if let Some((certificate, key)) = tls {
            let data = folder.join("data");
            let access = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
            for (name, text) in [("server.crt", certificate), ("server.key", key), ("pg_hba.conf", access)] {
                let path = data.join(name);
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
                if let Some((uid, gid)) = user() {
                    chown(&path, Some(uid), Some(gid)).unwrap();
                }
            }
        }
        let tls = tls.is_some();
        let keeper = Self::keep(&programs, &folder, port, tls);
        let (template, made) = (OnceLock::new(), AtomicU32::new(0));
        let server = Self { programs, folder, port, tls, keeper, template, made };
        server.wait_until_ready();
        server
    }

    fn keep(programs: &Path, folder: &Path, port: u16, tls: bool) -> Child {
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(programs).arg(folder).arg(port.to_string());
        keeper.args(if tls { ["127.0.0.1", "on"] } else { ["", "off"] });
        keeper.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Its own process group: a Ctrl-C must not end it before it has cleaned up.
        keeper.process_group(0);
        if let Some((uid, gid)) = user() {
            keeper.uid(uid).gid(gid);
        }
        keeper.spawn().unwrap()
    }

    /// Waits until the server accepts connections.
    fn wait_until_ready(&self) {
        let url = self.url("postgres");
        let answers = on_new_thread(async move {
            for _ in 0..2_000 {
                if connect(&url).await.is_ok() {
                    return true;
                }
                pause().await;
            }
            false
        });
        let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        assert!(answers, "the server does not start:\n{}", log());
    }

    /// Kills the server: it finishes nothing that is in progress.
    pub fn kill(&mut self) {
        let mut stdin = self.keeper.stdin.take().expect("a running server");
        stdin.write_all(b"leave\n").unwrap();
        drop(stdin);
        self.keeper.wait().unwrap();
    }

    /// Starts the server again on its data.
    pub fn restart(&mut self) {
        self.keeper = Self::keep(&self.programs, &self.folder, self.port, self.tls);
        self.wait_until_ready();
    }

    /// Returns the URL of a database.
    pub fn url(&self, name: &str) -> String {
        let folder = self.folder.to_str().unwrap().replace('/', "%2F");
        format!("postgres://ringback@{folder}:{}/{name}", self.port)
    }

    /// Path of the Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(format!(".s.PGSQL.{}", self.port))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates a database of its own for a test, with the schema and rows of a new store.
    pub fn database(&self) -> String {
        let name = self.name();
        self.template.get_or_init(|| {
            self.query("postgres", "create database template_ringback");
            let location = DatabaseLocation::Server(Masked::new(self.url("template_ringback")));
            let now = Timestamp::from_millis(0);
            let (store, writer) = Store::open(StoreOptions {
                location,
                keyring: Keyring::default(),
                public_url: String::new(),
                now,
            })
            .expect("the store opens");
            drop(store);
            writer.join();
            // A connection of the store's readers can still be open.
            self.query("template_ringback", "delete from shards; delete from nodes");
        });
        self.query("postgres", &format!("create database {name} template template_ringback"));
        name
    }

    /// Creates an empty database.
    pub fn empty(&self) -> String {
        let name = self.name();
        self.query("postgres", &format!("create database {name}"));
        name
    }

    fn name(&self) -> String {
        format!("test_{}", self.made.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs statements in a database. Returns the first column of the first row of the last one.
    pub fn query(&self, database: &str, sql: &str) -> Option<String> {
        let (url, sql) = (self.url(database), sql.to_owned());
        on_new_thread(async move {
            for _ in 0..200 {
                let (client, driven) = connect(&url).await.expect("a connection");
                let answer = client.simple_query(&sql).await;
                drop(client);
                driven.await.unwrap();
                match answer {
                    Ok(rows) => {
                        return rows.into_iter().rev().find_map(|message| {
                            let SimpleQueryMessage::Row(row) = message else { return None };
                            row.get(0).map(str::to_owned)
                        });
                    }
                    // 55006: a connection to the template is still closing.
                    Err(error) if error.code().is_some_and(|code| code.code() == "55006") => pause().await,
                    Err(error) => panic!("{sql}: {error:?}"),
                }
            }
            panic!("{sql}: always in use")
        })
    }
}

/// Runs `work` on a new thread, because the caller's thread can belong to a runtime.
fn on_new_thread<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work)
    });
    thread.join().unwrap()
}

/// Waits between two attempts to connect.
#[expect(clippy::disallowed_methods, reason = "a test cannot move the clock of a server")]
async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
}

/// Connects the test to a database.
pub async fn connect(url: &str) -> Result<(Client, tokio::task::JoinHandle<()>), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let driven = tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok((client, driven))
}
