//! Tests of what peers do that is unusual, or against the letter of HTTP and TLS, and that other clients accept.

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;

use super::*;

/// How a server ends a connection with a request in progress.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It reads the request, and closes.
    Orderly,
    /// It closes without reading the request.
    Reset,
    /// It closes after the first byte of an answer.
    AfterOneByte,
}

/// Starts a server that answers one request on each of its first `kept` connections, and ends it in the next one. On
/// later connections, it answers every request. Returns the port and the number of connections.
async fn closing(end: End, kept: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let number = count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut answered = 0;
                while number >= kept || answered == 0 {
                    if read_request(&mut stream).await.is_empty() {
                        return;
                    }
                    stream.write_all(OK.as_bytes()).await.unwrap();
                    answered += 1;
                }
                match end {
                    End::Orderly => _ = read_request(&mut stream).await,
                    End::Reset => stream.readable().await.unwrap(),
                    End::AfterOneByte => {
                        read_request(&mut stream).await;
                        stream.write_all(b"H").await.unwrap();
                    }
                }
            });
        }
    });
    (port, connections)
}

// nodejs/node#20256
#[tokio::test]
async fn a_kept_connection_that_closes_without_a_byte_costs_no_attempt() {
    for end in [End::Orderly, End::Reset] {
        let (port, connections) = closing(end, 1).await;
        let (egress, _) = egress(&["127.0.0.0/8"], here());
        for _ in 0..3 {
            let sent = egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await;
            assert_eq!(sent.unwrap().status, 200, "{end:?}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 2, "{end:?}");
    }
}

#[tokio::test]
async fn only_one_second_attempt_is_made_and_only_before_the_first_byte() {
    // The second one is on a new connection, which counts as any other.
    let (port, connections) = closing(End::AfterOneByte, 1).await;
    let (client, _) = egress(&["127.0.0.0/8"], here());
    let url = format!("http://127.0.0.1:{port}/");
    client.send(post(&client, &url)).await.unwrap();
    let error = client.send(post(&client, &url)).await.unwrap_err();
    assert_eq!(error.to_string(), "protocol: the connection was closed before the answer was complete");
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    // A server that always closes.
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let port = server(move |mut stream| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        async move {
            if number == 0 {
                stream.write_all(OK.as_bytes()).await.unwrap();
                read_request(&mut stream).await;
            }
        }
    })
    .await;
    let url = format!("http://127.0.0.1:{port}/");
    client.send(post(&client, &url)).await.unwrap();
    assert!(matches!(client.send(post(&client, &url)).await, Err(SendError::Protocol(_))));
    assert_eq!(connections.load(Ordering::SeqCst), 2, "once");
    assert!(matches!(client.send(post(&client, &url)).await, Err(SendError::Protocol(_))));
    assert_eq!(connections.load(Ordering::SeqCst), 3, "a new connection gets no second attempt");
}

// envoyproxy/envoy#31009, hyperium/hyper#2083
#[tokio::test]
async fn unusual_headers_do_not_turn_a_success_into_a_failure() {
    let cookies = "set-cookie: a=b; Path=/; HttpOnly\r\n".repeat(150);
    let table = [
        ("HTTP/1.1 200 OK\r\nx-long: a,\r\n b,\r\n\tc\r\ncontent-length: 2\r\n\r\nok".to_owned(), "folded"),
        ("HTTP/1.1 200 OK\r\nx-spaced : 1\r\ncontent-length : 2\r\n\r\nok".to_owned(), "spaced"),
        (format!("HTTP/1.1 200 OK\r\n{cookies}content-length: 2\r\n\r\nok"), "cookies"),
        (
            "HTTP/1.1 200 OK\r\nnot a header\r\nx\u{1}y: 1\r\ncontent-length: 2\r\n\r\nok".to_owned(),
            "invalid",
        ),
        ("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok".to_owned(), "no reason"),
        ("HTTP/1.1 200 OK\ncontent-length: 2\n\nok".to_owned(), "no carriage return"),
        ("HTTP/1.0 200 OK\r\n\r\nok".to_owned(), "HTTP/1.0 without a length"),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok".to_owned(), "HTTP/1.0"),
    ];
    for (answer, what) in table {
        let port = responding(answer).await;
        let (egress, _) = egress(&["127.0.0.0/8"], here());
        let received = egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await;
        let received = received.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(
            (received.status, &received.body[..], received.truncated),
            (200, &b"ok"[..], false),
            "{what}"
        );
        let polled = egress.fetch(fetch(port)).await;
        assert_eq!(polled.unwrap_or_else(|error| panic!("{what}: {error}")).body, "ok", "{what}");
    }
}

/// Starts a server with TLS that sends `answer` and closes the connection without `close_notify`.
async fn abrupt(answer: &'static str) -> (u16, CertificateDer<'static>) {
    let (acceptor, root) = certified();
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = acceptor.accept(stream).await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            stream.get_mut().0.shutdown().await.unwrap();
        }
    });
    (port, root)
}

fn trusting(root: CertificateDer<'static>) -> Arc<Egress> {
    let allow = vec![Allowed::parse("127.0.0.0/8").unwrap()];
    let settings = Settings { allow, ..Settings::default() };
    Egress::new(settings, here(), Clock::Manual(ManualClock::at(Timestamp::default())), vec![root]).unwrap()
}

fn fetch_https(port: u16) -> Fetch {
    Fetch { url: format!("https://hooks.example:{port}/").parse().unwrap(), ..fetch(port) }
}

// seanmonstar/reqwest#2802
#[tokio::test]
async fn a_complete_body_needs_no_close_notify() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        // Only the end of the connection ends it.
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
        "HTTP/1.0 200 OK\r\n\r\n{}",
    ] {
        let (port, root) = abrupt(answer).await;
        let egress = trusting(root);
        let received = egress.send(post(&egress, &format!("https://hooks.example:{port}/"))).await.unwrap();
        assert_eq!(
            (received.status, &received.body[..], received.truncated),
            (200, &b"{}"[..], false),
            "{answer}"
        );
        let polled = egress.fetch(fetch_https(port)).await;
        assert_eq!(polled.unwrap_or_else(|error| panic!("{answer}: {error}")).body, "{}");
    }
    // A body with a length is known to be incomplete.
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ] {
        let (port, root) = abrupt(answer).await;
        let error = trusting(root).fetch(fetch_https(port)).await.unwrap_err();
        assert_eq!(error.to_string(), "protocol: the connection was closed before the answer was complete");
    }
}

/// Returns the error of an exchange with a server that treats the connection so.
async fn refused<F, A>(root: CertificateDer<'static>, treat: F) -> String
where
    F: Fn(TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            treat(stream).await;
        }
    });
    let egress = trusting(root);
    let error = egress.send(post(&egress, &format!("https://hooks.example:{port}/"))).await.unwrap_err();
    assert!(error.is_unconnected(), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_refused_handshake_says_why() {
    let (_, root) = certified();
    // An alert of a server with old versions only: level fatal, "protocol version".
    let old = refused(root.clone(), |mut stream| async move {
        stream.readable().await.unwrap();
        stream.write_all(&[21, 3, 1, 0, 2, 2, 70]).await.unwrap();
        let _ = stream.read(&mut [0; 4_096]).await;
    })
    .await;
    assert!(old.starts_with("tls: ") && old.contains("neither TLS 1.2 nor TLS 1.3"), "{old}");
    let silent = refused(root.clone(), |mut stream| async move {
        let _ = stream.read(&mut [0; 4_096]).await;
    })
    .await;
    assert!(silent.starts_with("connect: the server closed the connection in the TLS handshake"), "{silent}");
}

#[tokio::test]
async fn a_server_that_requires_a_client_certificate_is_told_apart() {
    let (_, root) = certified();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), tls::provider()).build().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["hooks.example".to_owned()]).unwrap();
    let own = own.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![own.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            assert!(acceptor.accept(stream).await.is_err());
        }
    });
    let egress = trusting(own);
    let error = egress.send(post(&egress, &format!("https://hooks.example:{port}/"))).await.unwrap_err();
    // TLS 1.3 reports this only after the handshake of the client.
    assert!(error.to_string().contains("requires a certificate of the client"), "{error}");
    assert!(error.is_unconnected(), "{error}");
}
