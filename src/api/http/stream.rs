//! A client's connection with a timeout for writes.
//!
//! A client that sends requests and never reads responses would keep its connection for ever: the HTTP
//! library limits the time for the arrival of a request, and not the time for sending a response. Reads have
//! their limits in `serve` and `body`.
//!
//! **Only silence counts.** A client that reads slowly is not closed, however long its response takes. The program
//! learns of the client's progress only when the kernel accepts more bytes, which it does when a third of its send
//! buffer is free. By default this buffer grows to 4 MiB: a client that reads 16 KiB a second would then show no
//! progress for more than a minute, and a client that reads nothing would hold the memory. So the buffer is
//! limited, and progress shows at 2 KiB a second.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::clock::Clock;

/// Maximum time for which a write waits because the client does not read.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Size of the kernel's send buffer, in bytes; Linux doubles it. It permits 128 KiB for each round trip to the
/// client, which is 1 MiB/s at 100 ms.
const SEND_BUFFER: usize = 64 * 1024;

/// A connection whose writes fail when the client stops reading.
pub(super) struct Stream {
    tcp: TcpStream,
    clock: Clock,
    /// The timeout of a write that waits.
    stalled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stream {
    /// Wraps a connection.
    pub(super) fn new(tcp: TcpStream, clock: Clock) -> Self {
        // Without it the timeout is less exact.
        let _ = set_socket_send_buffer_size(&tcp, SEND_BUFFER);
        Self { tcp, clock, stalled: None }
    }

    /// Returns the result of a write, or an error if it has waited for too long.
    fn with_timeout<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let clock = &self.clock;
        let stalled = self.stalled.get_or_insert_with(|| {
            let clock = clock.clone();
            Box::pin(async move {
                clock.timeout(STALL_MAX, std::future::pending::<()>()).await;
            })
        });
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.with_timeout(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.with_timeout(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;

    /// Returns a connection and its client.
    async fn connection(time: &ManualClock) -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client =
            TcpStream::connect(listener.local_addr().expect("its address")).await.expect("connected");
        let (tcp, _) = listener.accept().await.expect("accepted");
        (Stream::new(tcp, Clock::Manual(time.clone())), client)
    }

    #[tokio::test]
    async fn a_client_that_reads_16_kib_a_second_gets_everything() {
        let time = ManualClock::at(Timestamp::from_millis(0));
        let (mut stream, mut client) = connection(&time).await;
        let answer = vec![7; 4 * 1024 * 1024];
        let expected = answer.len();
        let sending = tokio::spawn(async move { stream.write_all(&answer).await });
        let (mut received, mut part) = (0, vec![0; 16 * 1024]);
        while received < expected {
            received += client.read_exact(&mut part).await.expect("more of the answer");
            time.advance(Duration::from_secs(1));
            // The kernel hands on what was read, and the sender notices it.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
        }
        sending.await.expect("no panic").expect("sent");
    }

    #[tokio::test]
    async fn a_write_fails_if_the_client_does_not_read_for_30_s() {
        let time = ManualClock::at(Timestamp::from_millis(0));
        let (mut stream, _client) = connection(&time).await;
        let endless = async {
            loop {
                if let Err(error) = stream.write_all(&[0; 16_384]).await {
                    return error.kind();
                }
            }
        };
        let ticking = async {
            loop {
                tokio::task::yield_now().await;
                time.advance(Duration::from_secs(1));
            }
        };
        let failed: io::ErrorKind = tokio::select! {
            kind = endless => kind,
            () = ticking => unreachable!("the clock advances for ever"),
        };
        assert_eq!(failed, io::ErrorKind::TimedOut);
    }
}
