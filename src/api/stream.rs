//! A client's stream, which gives up where the client takes nothing any more.
//!
//! A client that asks and never reads would keep its place, and with it everybody's, for as long as
//! it likes: the HTTP library limits how long a request may take to come, and not how long an answer
//! may take to go. Reading has its own limits elsewhere.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::clock::Clock;

/// How long a client may leave its side of the connection full.
const STALL_MAX: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Stream {
    tcp: TcpStream,
    clock: Clock,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stream {
    /// Wraps a connection.
    pub(super) fn new(tcp: TcpStream, clock: Clock) -> Self {
        Self { tcp, clock, stalled: None }
    }

    /// Passes on what a write came to, unless it has waited for too long.
    fn patient<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
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
        self.patient(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.patient(written, cx)
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
    async fn a_client_that_takes_nothing_is_given_up_after_half_a_minute() {
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
        let given_up: io::ErrorKind = tokio::select! {
            kind = endless => kind,
            () = ticking => unreachable!("it ticks for ever"),
        };
        assert_eq!(given_up, io::ErrorKind::TimedOut);
    }
}
