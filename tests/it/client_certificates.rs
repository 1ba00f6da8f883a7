//! TLS identities of saved destinations, against a server that demands a client certificate.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::destinations::{patch, shown};
use crate::harness::{Harness, id};
use crate::tenants::errors;

const NAME: &str = "receiver.example";

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: rcgen::Certificate,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), root }
    }

    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

/// A request: the number of its connection, and the client's certificate.
type Request = (usize, CertificateDer<'static>);

/// Starts a server with a certificate of `authority`, which demands one of the same authority from its clients.
async fn server(authority: &Authority) -> (u16, mpsc::UnboundedReceiver<Request>) {
    let (certificate, key) = authority.issue(NAME);
    let mut clients = RootCertStore::empty();
    clients.add(authority.root.der().clone()).unwrap();
    let provider = ringback::tls::provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider.clone()).build().unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(serve(stream, acceptor.clone(), number, sender.clone()));
        }
    });
    (port, requests)
}

/// Answers the requests of one connection.
async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    number: usize,
    requests: mpsc::UnboundedSender<Request>,
) {
    let mut stream = match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        // A reset could overtake the alert that says why, so the connection stays open until the client closes it.
        Err((_, mut refused)) => {
            while refused.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
            return;
        }
    };
    let client = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let mut read = Vec::new();
    while stream.read_buf(&mut read).await.is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() < length.parse().unwrap() {
            continue;
        }
        read.clear();
        let _ = requests.send((number, client.clone()));
        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// Saves a destination with this TLS identity. Returns its id.
async fn save(t: &Harness, port: u16, tls: &Value) -> String {
    let url = format!("https://{NAME}:{port}/hook");
    let made = t.post("/v1/destinations", &json!({ "url": url, "tls": tls })).await;
    assert!(!made.text().contains("PRIVATE KEY"));
    id(&made.expect(201))
}

fn identity(authority: &Authority, (certificate, key): &(rcgen::Certificate, KeyPair)) -> Value {
    json!({ "clientCertificate": certificate.pem(), "clientKey": key.serialize_pem(), "ca": authority.root.pem() })
}

async fn test(t: &Harness, saved: &str) -> Value {
    t.act(&format!("/v1/destinations/{saved}/test")).await.expect(200)
}

#[tokio::test]
async fn a_client_certificate_is_presented_and_never_shared() {
    let t = Harness::start().await;
    t.resolve(NAME, &["127.0.0.1"]);
    let authority = Authority::new();
    let (port, mut requests) = server(&authority).await;
    let [one, two] = ["one", "two"].map(|name| authority.issue(name));
    let first = save(&t, port, &identity(&authority, &one)).await;
    let second = save(&t, port, &identity(&authority, &two)).await;
    let bare = save(&t, port, &json!({ "ca": authority.root.pem() })).await;
    let mut connections = std::collections::BTreeMap::new();
    for _ in 0..4 {
        for (saved, client) in [(&first, &one), (&second, &two)] {
            assert_eq!(test(&t, saved).await["statusCode"], 204);
            let (number, certificate) = requests.recv().await.unwrap();
            assert_eq!(&certificate, client.0.der());
            let known = connections.entry(number).or_insert_with(|| certificate.clone());
            assert_eq!(*known, certificate, "a connection has one identity");
        }
    }
    assert!(connections.len() < 8, "connections are used again");
    let refused = test(&t, &bare).await;
    let error = refused["error"].as_str().unwrap();
    assert!(error.starts_with("tls: ") && error.contains("requires a certificate of the client"), "{error}");
    // A delivery uses it as well, and a change applies to the next one.
    patch(&t, &first, &json!({ "tls": identity(&authority, &two) })).await.expect(200);
    t.provider.completed("job_1");
    t.register(&json!({ "jobId": "job_1", "destinationId": first })).await;
    t.pass(crate::harness::seconds(5)).await;
    assert_eq!(&requests.recv().await.unwrap().1, two.0.der());
    let tls = shown(&t, &bare).await["tls"].clone();
    assert_eq!(tls, json!({ "clientCertificateSha256": null, "caCount": 1 }));
    let tls = shown(&t, &second).await["tls"].clone();
    assert_eq!(tls["clientCertificateSha256"].as_str().unwrap().len(), 64);
    t.finish().await;
}

#[tokio::test]
async fn an_authority_of_a_destination_is_trusted_for_it_alone() {
    let t = Harness::start().await;
    t.resolve(NAME, &["127.0.0.1"]);
    let (authority, other) = (Authority::new(), Authority::new());
    let (port, mut requests) = server(&authority).await;
    let client = authority.issue("client");
    let mut tls = identity(&authority, &client);
    let trusting = save(&t, port, &tls).await;
    assert_eq!(test(&t, &trusting).await["statusCode"], 204);
    requests.recv().await.unwrap();
    tls["ca"] = json!(other.root.pem());
    let distrusting = save(&t, port, &tls).await;
    let mut public = tls.clone();
    public.as_object_mut().unwrap().remove("ca");
    let public = save(&t, port, &public).await;
    for (saved, remedy) in [
        (distrusting, "no authority in `tls.ca` of the saved destination has issued it"),
        (public, "in `tls.ca` of a saved destination"),
    ] {
        let error = test(&t, &saved).await["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with("tls: invalid peer certificate: ") && error.contains(remedy), "{error}");
    }
    // A byte order mark does not hide the first certificate.
    tls["ca"] = json!(format!("\u{feff}{}{}", authority.root.pem(), other.root.pem()));
    let marked = save(&t, port, &tls).await;
    assert_eq!(shown(&t, &marked).await["tls"]["caCount"], 2);
    assert_eq!(test(&t, &marked).await["statusCode"], 204);
    t.finish().await;
}

#[tokio::test]
async fn a_tls_identity_that_cannot_be_used_is_refused() {
    let t = Harness::start().await;
    let authority = Authority::new();
    let (client, other) = (authority.issue("client"), authority.issue("other"));
    let whole = identity(&authority, &client);
    let with = |field: &str, value: Value| {
        let mut tls = whole.clone();
        tls[field] = value;
        tls
    };
    for (tls, pointer) in [
        (with("clientKey", json!(other.1.serialize_pem())), "/tls/clientKey"),
        (with("clientKey", Value::Null), "/tls/clientKey"),
        (with("clientKey", json!("hush")), "/tls/clientKey"),
        (with("clientCertificate", Value::Null), "/tls/clientCertificate"),
        (with("clientCertificate", json!(client.1.serialize_pem())), "/tls/clientCertificate"),
        (with("ca", json!("hush")), "/tls/ca"),
        (with("ca", json!("x".repeat(70_000))), "/tls/ca"),
        (json!({ "ca": "x".repeat(70_000) }), "/tls/ca"),
        (json!({ "ca": 7 }), "/tls/ca"),
        (with("ca", json!(format!("{}{}", client.1.serialize_pem(), authority.root.pem()))), "/tls/ca"),
        (with("key", json!("hush")), "/tls/key"),
        (json!({}), "/tls"),
    ] {
        let answer = t.post("/v1/destinations", &json!({ "url": "https://a.example/", "tls": tls })).await;
        assert_eq!(errors(&answer), [pointer]);
        assert!(!answer.text().contains("hush") && !answer.text().contains("BEGIN PRIVATE"));
    }
    let plain = t.receiver.url("/hook");
    assert_eq!(errors(&t.post("/v1/destinations", &json!({ "url": plain, "tls": whole })).await), ["/tls"]);
    let inline = json!({ "jobId": "job_1", "notify": [{ "url": "https://a.example/", "tls": whole }] });
    assert_eq!(errors(&t.post("/v1/watches", &inline).await), ["/notify/0/tls"]);
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_client_certificate_is_presented_and_never_shared,
    an_authority_of_a_destination_is_trusted_for_it_alone,
    a_tls_identity_that_cannot_be_used_is_refused,
}
