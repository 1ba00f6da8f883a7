//! Tests of what a peer, or many peers, can make the client read and keep.

use super::*;

#[tokio::test]
async fn early_hints_without_end_end_the_exchange() {
    let (sender, dropped) = oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let port = server(move |mut stream| {
        let sender = sender.lock().unwrap().take();
        async move {
            let hints = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(4_096);
            let mut sent = 0;
            while stream.write_all(&hints).await.is_ok() {
                sent += hints.len();
            }
            sender.unwrap().send(sent).unwrap();
        }
    })
    .await;
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    // On the clock of the test, the deadline never comes.
    let error = egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await.unwrap_err();
    assert!(error.to_string().starts_with("protocol: the answer did not begin within 16"), "{error}");
    // What fits into the buffers of the sockets, and not as much as the server can send.
    let sent = dropped.await.unwrap();
    assert!(sent < 32 << 20, "{sent}");
}

#[tokio::test]
async fn a_few_early_hints_precede_an_answer() {
    let hints = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(8);
    let port = responding(format!("{hints}{OK}")).await;
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    let received = egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await.unwrap();
    assert_eq!((received.status, &received.body[..]), (200, &b"ok"[..]));
}

#[tokio::test]
async fn an_endless_head_ends_the_exchange() {
    let port = server(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
        while stream.write_all(&[b'x'; 4_096]).await.is_ok() {}
    })
    .await;
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    let error = egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await.unwrap_err();
    assert!(error.to_string().starts_with("protocol: "), "{error}");
}

#[tokio::test]
async fn a_connection_that_was_closed_while_unused_costs_no_attempt() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    // Closes each connection after its first answer, without saying so.
    let port = server(move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move { stream.write_all(OK.as_bytes()).await.unwrap() }
    })
    .await;
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    for _ in 0..20 {
        let sent = egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await;
        assert_eq!(sent.unwrap().status, 200);
        // The end of the connection arrives before the next request.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(connections.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn unused_connections_are_bounded_over_all_hosts() {
    const HOSTS: usize = 12;
    let settings = Settings {
        allow: vec![Allowed::parse("127.0.0.0/8").unwrap()],
        limits: SocketLimits { unused: 4, ..SocketLimits::default() },
        ..Settings::default()
    };
    let clock = Clock::Manual(ManualClock::at(Timestamp::default()));
    let egress = Egress::new(settings, here(), clock, Vec::new()).unwrap();
    let (closed, mut closings) = tokio::sync::mpsc::unbounded_channel();
    for host in 0..HOSTS {
        let closed = closed.clone();
        let port = server(move |mut stream| {
            let closed = closed.clone();
            async move {
                stream.write_all(OK.as_bytes()).await.unwrap();
                // Until the client closes the connection.
                assert_eq!(read_request(&mut stream).await, "");
                closed.send(host).unwrap();
            }
        })
        .await;
        egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await.unwrap();
    }
    // The connections that were unused for the longest time are closed, and the others stay open.
    let mut found = std::collections::BTreeSet::new();
    for _ in 0..HOSTS - 4 {
        found.insert(closings.recv().await.unwrap());
    }
    assert_eq!(found, (0..HOSTS - 4).collect());
    assert!(closings.try_recv().is_err());
}

#[tokio::test]
async fn an_endless_body_is_cut_at_its_limit() {
    let (sender, dropped) = oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let port = server(move |mut stream| {
        let sender = sender.lock().unwrap().take();
        async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            sender.unwrap().send(()).unwrap();
        }
    })
    .await;
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    let received = egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await.unwrap();
    assert_eq!((received.status, received.body.len(), received.truncated), (200, 16 * 1024, true));
    dropped.await.unwrap();
}

#[tokio::test]
async fn a_decompression_bomb_is_limited_by_its_decoded_size() {
    let port =
        responding([b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n".as_slice(), &bomb()].concat()).await;
    let (egress, _) = egress(&[], here());
    let error = egress.fetch(fetch(port)).await.unwrap_err();
    assert_eq!(error.to_string(), "too_large: the answer is larger than 1048576 bytes");
}

/// Returns ten MiB of NUL in 64 KiB of gzip: one literal, then repeatedly "258 times the byte before".
fn bomb() -> Vec<u8> {
    // A last block with fixed codes; the literal 0; then 40,000 times length 258, distance 1.
    let (block, literal, run) = ("110", "00110000", "1100010100000");
    let bits: Vec<u8> =
        [block, literal, &run.repeat(40_000)].concat().bytes().map(|bit| bit - b'0').collect();
    let deflated = bits.chunks(8).map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit));
    [31, 139, 8, 0, 0, 0, 0, 0, 0, 255].into_iter().chain(deflated).collect()
}
