//! A client's connection with a timeout for writes.
//!
//! A client that sends requests and never reads responses would keep its connection for ever: the HTTP
//! library limits the time for the arrival of a request, and not the time for sending a response. Reads have
//! their limits in `serve` and `body`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::clock::Clock;

/// Maximum time for which a write waits because the client does not read.
const STALL_MAX: Duration = Duration::from_secs(30);

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
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;

    #[tokio::test]
    async fn a_write_fails_if_the_client_does_not_read_for_30_s() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let _client =
            TcpStream::connect(listener.local_addr().expect("its address")).await.expect("connected");
        let (tcp, _) = listener.accept().await.expect("accepted");
        let time = ManualClock::at(Timestamp::from_millis(0));
        let mut stream = Stream::new(tcp, Clock::Manual(time.clone()));
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
