//! TLS to PostgreSQL, with a TLS proxy before the server.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, UnixStream};
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

use crate::harness::guarded;
use crate::postgres::shared;
use crate::server::{Server, programs};

/// Message of a client that requests TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A certificate for `localhost` with its key, and its authority.
struct Identity {
    leaf: rcgen::Certificate,
    key: rcgen::KeyPair,
    authority: String,
}

fn identity() -> Identity {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    Identity { leaf: leaf.signed_by(&key, &issuer).unwrap(), key, authority: root }
}

/// Starts a TLS proxy for `localhost`. Returns its port and the certificate of its authority, as PEM.
async fn door(socket: &Path) -> (u16, String) {
    let Identity { leaf, key, authority: root } = identity();
    let leaf = leaf.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(ringback::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = socket.to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (acceptor, socket) = (acceptor.clone(), socket.clone());
            tokio::spawn(async move {
                let mut request = [0; 8];
                if client.read_exact(&mut request).await.is_err() || request != SSL_REQUEST {
                    return;
                }
                client.write_all(b"S").await.unwrap();
                // A client that does not trust the certificate closes the connection here.
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = UnixStream::connect(socket).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, root)
}

/// Returns the first line on stdout, or all of stderr.
async fn serve(url: &str, authorities: &Path) -> Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringback"))
        .arg("serve")
        .current_dir(folder.path())
        .env_clear()
        .env("SSL_CERT_FILE", authorities)
        .env("RINGBACK_LISTEN", "127.0.0.1:0")
        .env("RINGBACK_DATABASE_URL", url)
        .env("RINGBACK_API_KEY", crate::harness::KEY)
        .env("RINGBACK_SIGNING_SECRET", crate::harness::SECRET)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    if let Some(line) = guarded("a first line", lines.next_line()).await.unwrap() {
        child.kill().await.unwrap();
        return Ok(line);
    }
    let mut said = String::new();
    guarded("the end", child.stderr.take().unwrap().read_to_string(&mut said)).await.unwrap();
    Err(said)
}

#[tokio::test]
async fn a_tls_server_is_verified_by_its_name_and_its_authority() {
    let Some(server) = shared("TLS towards a server") else { return };
    let (port, root) = door(&server.socket()).await;
    let folder = tempfile::tempdir().unwrap();
    let (trusted, stranger) = (folder.path().join("ours.pem"), folder.path().join("other.pem"));
    std::fs::write(&trusted, root).unwrap();
    std::fs::write(&stranger, door(&server.socket()).await.1).unwrap();
    let name = server.database();
    let url =
        |host: &str, mode: &str| format!("postgres://ringback:hush@{host}:{port}/{name}?sslmode={mode}");
    for mode in ["require", "prefer"] {
        let began = serve(&url("localhost", mode), &trusted).await;
        assert!(
            began.as_ref().is_ok_and(|line| line.starts_with("ringback listens on")),
            "{mode}: {began:?}"
        );
        for (host, authorities) in [("localhost", &stranger), ("127.0.0.1", &trusted)] {
            let refused = serve(&url(host, mode), authorities).await.expect_err("refused");
            assert!(refused.contains("invalid peer certificate") && !refused.contains("hush"), "{refused}");
        }
    }
}

/// Starts a server whose certificate has the name `localhost`, with the password `hu@sh`.
async fn server_with_tls(identity: &Identity) -> Server {
    let (certificate, key) = (identity.leaf.pem(), identity.key.serialize_pem());
    let start = move || {
        let server = Server::start_with_tls(&programs().unwrap(), &std::env::temp_dir(), &certificate, &key);
        server.query("postgres", "alter role ringback password 'hu@sh'");
        server
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

// t8y2/dbx#1210, neondatabase/neonctl#366
#[tokio::test]
async fn channel_binding_and_every_mode_of_tls_work_with_a_real_server() {
    if shared("TLS of a server").is_none() {
        return;
    }
    let ours = identity();
    let server = server_with_tls(&ours).await;
    let folder = tempfile::tempdir().unwrap();
    let [system, root, own, other] =
        ["system.pem", "root.pem", "own.pem", "other.pem"].map(|name| folder.path().join(name));
    std::fs::write(&root, &ours.authority).unwrap();
    std::fs::write(&own, ours.leaf.pem()).unwrap();
    std::fs::write(&other, identity().authority).unwrap();
    std::fs::write(&system, identity().authority).unwrap();
    let port = server.port();
    let with = |file: &Path| file.to_str().unwrap().replace('/', "%2F");
    let (root, own, other) = (with(&root), with(&own), with(&other));
    let url = |host: &str, parameters: &str| {
        format!("postgresql://ringback:hu%40sh@{host}:{port}/postgres?{parameters}")
    };
    for (host, parameters) in [
        ("localhost", format!("sslmode=require&channel_binding=require&sslrootcert={root}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={root}&target_session_attrs=primary")),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={root}&connect_timeout=10")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={own}&pgbouncer=false")),
        ("127.0.0.1", "sslmode=no-verify&channel_binding=require".to_owned()),
    ] {
        let began = serve(&url(host, &parameters), &system).await;
        assert!(
            began.as_ref().is_ok_and(|line| line.starts_with("ringback listens on")),
            "{parameters}: {began:?}"
        );
    }
    for (host, parameters, remedy) in [
        ("localhost", "sslmode=require".to_owned(), "sslrootcert=FILE"),
        ("localhost", "channel_binding=prefer".to_owned(), "sslmode=no-verify"),
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other}"), "sslrootcert=FILE"),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={root}"), "or sslmode=verify-ca"),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={own}"), "or sslmode=verify-ca"),
        ("localhost", "sslmode=require&sslrootcert=missing.pem".to_owned(), "the file cannot be read"),
    ] {
        let refused = serve(&url(host, &parameters), &system).await.expect_err("refused");
        assert!(refused.contains(remedy) && !refused.contains("hu@sh"), "{parameters}: {refused}");
    }
}

/// A pooler with one session on the server: each transaction of a client gets it. In statement mode it refuses
/// transactions.
async fn pooler(socket: std::path::PathBuf, database: &str, of_statements: bool) -> u16 {
    let mut session = UnixStream::connect(&socket).await.unwrap();
    let text = format!("user\0ringback\0database\0{database}\0\0");
    session.write_i32(i32::try_from(text.len() + 8).unwrap()).await.unwrap();
    session.write_i32(196_608).await.unwrap();
    session.write_all(text.as_bytes()).await.unwrap();
    let (greeting, _) = answer(&mut session).await;
    let session = Arc::new(tokio::sync::Mutex::new(session));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pool(client, greeting.clone(), Arc::clone(&session), of_statements));
        }
    });
    port
}

/// Reads messages of the server until it is ready. Returns them, and whether a transaction is open.
async fn answer(session: &mut UnixStream) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    loop {
        let (kind, length) = (session.read_u8().await.unwrap(), session.read_i32().await.unwrap());
        let mut content = vec![0; usize::try_from(length).unwrap() - 4];
        session.read_exact(&mut content).await.unwrap();
        all.push(kind);
        all.extend(length.to_be_bytes());
        all.extend(&content);
        if kind == b'Z' {
            return (all, content != b"I");
        }
    }
}

/// Serves a client. Between two transactions, others can use the session.
async fn pool(
    mut client: tokio::net::TcpStream,
    greeting: Vec<u8>,
    session: Arc<tokio::sync::Mutex<UnixStream>>,
    of_statements: bool,
) {
    let Ok(length) = client.read_i32().await else { return };
    let mut startup = vec![0; usize::try_from(length).unwrap() - 4];
    client.read_exact(&mut startup).await.unwrap();
    client.write_all(&greeting).await.unwrap();
    let mut held = None;
    while let (Ok(kind), Ok(length)) = (client.read_u8().await, client.read_i32().await) {
        if kind == b'X' {
            return;
        }
        let mut content = vec![0; usize::try_from(length).unwrap() - 4];
        client.read_exact(&mut content).await.unwrap();
        if of_statements && content.starts_with(b"begin") {
            // As PgBouncer does.
            let why = "SERROR\0C08P01\0Mtransaction blocks not allowed in statement pooling mode\0\0";
            client.write_u8(b'E').await.unwrap();
            client.write_i32(i32::try_from(why.len() + 4).unwrap()).await.unwrap();
            client.write_all(&[why.as_bytes(), b"Z\0\0\0\x05I"].concat()).await.unwrap();
            continue;
        }
        let mut server = match held.take() {
            Some(server) => server,
            None => Arc::clone(&session).lock_owned().await,
        };
        server.write_u8(kind).await.unwrap();
        server.write_i32(length).await.unwrap();
        server.write_all(&content).await.unwrap();
        let mut is_open = true;
        // A query and a synchronisation are answered.
        if matches!(kind, b'Q' | b'S') {
            let (answered, open) = answer(&mut server).await;
            is_open = open;
            client.write_all(&answered).await.unwrap();
        }
        if is_open {
            held = Some(server);
        }
    }
}

#[tokio::test]
async fn a_role_that_cannot_write_or_has_no_schema_is_refused_with_the_remedy() {
    let Some(server) = shared("settings of a role") else { return };
    let url = server.url(&server.empty());
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("system.pem");
    std::fs::write(&authorities, identity().authority).unwrap();
    for (setting, remedy) in [
        ("default_transaction_read_only%3Don", "set default_transaction_read_only = off"),
        ("search_path%3Dfoo", "the search_path `foo` names no schema"),
    ] {
        let url = format!("{url}?sslmode=disable&options=-c{setting}");
        let refused = serve(&url, &authorities).await.expect_err("refused");
        assert!(refused.contains(remedy), "{setting}: {refused}");
        assert!(!refused.contains("server runs") && !refused.contains("inconsistent"), "{refused}");
    }
}

#[tokio::test]
async fn a_role_without_rights_on_the_tables_is_refused_with_the_remedy() {
    let Some(server) = shared("rights of a role") else { return };
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("system.pem");
    std::fs::write(&authorities, identity().authority).unwrap();
    // Restored with `pg_restore --no-owner` by another role; and an empty database whose schema belongs to another one.
    for (name, role) in [(server.database(), "of_tables"), (server.empty(), "of_schema")] {
        server.query("postgres", &format!("create role {role} login"));
        let grant = if role == "of_tables" { "grant" } else { "revoke" };
        let to = if grant == "grant" { format!("to {role}") } else { "from public".to_owned() };
        server.query(&name, &format!("{grant} create on schema public {to}"));
        let url = server.url(&name).replacen("ringback@", &format!("{role}@"), 1);
        let refused = serve(&format!("{url}?sslmode=disable"), &authorities).await.expect_err("refused");
        assert!(refused.contains("42501") && refused.contains("must own the tables"), "{refused}");
    }
}

#[tokio::test]
async fn a_pooler_in_transaction_or_statement_mode_is_refused() {
    let Some(server) = shared("a pooler in transaction mode") else { return };
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("system.pem");
    std::fs::write(&authorities, identity().authority).unwrap();
    for of_statements in [false, true] {
        let name = server.empty();
        let port = pooler(server.socket(), &name, of_statements).await;
        let url = format!("postgres://ringback@127.0.0.1:{port}/{name}?sslmode=disable");
        let refused = serve(&url, &authorities).await.expect_err("refused");
        assert!(
            refused.contains("a pooler in transaction mode") && refused.contains("port 5432"),
            "{refused}"
        );
    }
}
