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

/// Message of a client that requests TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Starts a TLS proxy for `localhost`. Returns its port and the certificate of its authority, as PEM.
async fn door(socket: &Path) -> (u16, String) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
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
