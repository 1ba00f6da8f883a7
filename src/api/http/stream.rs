//! A client's connection with a timeout for writes, and with a sign that the client has hung up.
//!
//! A client that sends requests and never reads responses would keep its connection for ever: the HTTP
//! library limits the time for the arrival of a request, and not the time for sending a response. Reads have
//! their limits in `serve` and `body`.
//!
//! **Only silence counts.** A client that reads slowly is not closed, however long its response takes. The kernel
//! reports that it accepts more bytes only when a third of its send buffer is free. By default this buffer grows to
//! 4 MiB: a client that reads 16 KiB a second would then show no progress for more than a minute, and a client that
//! reads nothing would hold the memory. So the buffer is limited. In addition, a write that waits is tried every
//! [`PROBE`]: the kernel accepts bytes long before it reports so, as soon as the client has confirmed some.
//!
//! **A client that hangs up** while its request waits for something sends the same packet as one that closes only its
//! sending side and still reads the answer. The HTTP library does not read meanwhile, so it ends neither of the two. A
//! handler that waits for long awaits [`HangUp`] as well, and then answers early: one client reads the answer, and the
//! connection of the other fails at the write. The sign comes from the kernel's event, not from a read: bytes of a
//! pipelined request stay unread, and are no sign.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::connections::{Activity, Busy};
use crate::clock::Clock;

/// Maximum time for which a write waits because the client does not read, in probes: 30 s.
const PROBES_MAX: u32 = 6;
const PROBE: Duration = Duration::from_secs(5);

/// Size of the kernel's send buffer, in bytes; Linux doubles it. It permits 128 KiB for each round trip to the
/// client, which is 1 MiB/s at 100 ms.
const SEND_BUFFER: usize = 64 * 1024;

/// A connection whose writes fail when the client stops reading.
pub(super) struct Stream {
    reader: OwnedReadHalf,
    /// Shared with the [`HangUp`] of a request that waits.
    writer: Arc<OwnedWriteHalf>,
    clock: Clock,
    activity: Arc<Activity>,
    /// Keeps the connection busy until a read finds nothing: the first request may have arrived with the connection.
    first_request: Option<Busy>,
    /// A write that waits.
    stalled: Option<Stalled>,
}

/// The sign that the client has closed its connection, or only its sending side. It does not keep the connection open.
#[derive(Clone, Debug, Default)]
pub(super) struct HangUp(Weak<OwnedWriteHalf>);

impl HangUp {
    /// Returns when the client has hung up. Only Linux reports it while bytes are unread; elsewhere this never returns.
    pub(super) async fn noticed(&self) {
        #[cfg(target_os = "linux")]
        if let Some(tcp) = self.0.upgrade() {
            // Urgent data is not registered for, so the end of the client's bytes is the only event.
            let _ = tcp.ready(tokio::io::Interest::PRIORITY).await;
        }
        #[cfg(not(target_os = "linux"))]
        std::future::pending::<()>().await;
    }
}

/// The time until the next probe of a write that waits, and the number of probes before.
struct Stalled {
    timer: Pin<Box<dyn Future<Output = ()> + Send>>,
    probes: u32,
}

impl Stalled {
    fn new(clock: &Clock, probes: u32) -> Self {
        let clock = clock.clone();
        let timer = Box::pin(async move {
            clock.timeout(PROBE, std::future::pending::<()>()).await;
        });
        Self { timer, probes }
    }
}

impl Stream {
    /// Wraps a connection.
    pub(super) fn new(tcp: TcpStream, clock: Clock, activity: Arc<Activity>) -> Self {
        // Without it the timeout is less exact.
        let _ = set_socket_send_buffer_size(&tcp, SEND_BUFFER);
        let first_request = Some(activity.begin());
        let (reader, writer) = tcp.into_split();
        Self { reader, writer: Arc::new(writer), clock, activity, first_request, stalled: None }
    }

    /// Returns the sign that the client has hung up.
    pub(super) fn hang_up(&self) -> HangUp {
        HangUp(Arc::downgrade(&self.writer))
    }

    fn tcp(&self) -> &TcpStream {
        self.reader.as_ref()
    }

    /// Writes as soon as the kernel accepts bytes.
    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.tcp().poll_write_ready(cx))?;
            match write(self.tcp()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Returns the result of a write of `bytes`, or an error if it has waited for too long.
    fn with_timeout(
        &mut self,
        written: Poll<io::Result<usize>>,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if self.stalled.take().is_some() {
                self.activity.end_wait();
            }
            return written;
        }
        loop {
            let stalled = self.stalled.get_or_insert_with(|| {
                self.activity.begin_wait();
                Stalled::new(&self.clock, 0)
            });
            ready!(stalled.timer.as_mut().poll(cx));
            let probes = stalled.probes + 1;
            match send(self.tcp(), bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::AGAIN | Errno::INTR) if probes < PROBES_MAX => {
                    self.stalled = Some(Stalled::new(&self.clock, probes));
                }
                Err(Errno::AGAIN | Errno::INTR) => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                sent => {
                    self.stalled = None;
                    self.activity.end_wait();
                    return Poll::Ready(sent.map_err(io::Error::from));
                }
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.reader).poll_read(cx, buf);
        if read.is_pending() {
            self.first_request = None;
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.poll_with(cx, |tcp| tcp.try_write(buf));
        self.with_timeout(written, buf, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.poll_with(cx, |tcp| tcp.try_write_vectored(bufs));
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        self.with_timeout(written, first, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(shutdown(self.tcp(), Shutdown::Write).map_err(io::Error::from))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::Semaphore;

    use super::super::connections::Connections;
    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;

    /// Returns a connection and its client.
    async fn connection(time: &ManualClock) -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client =
            TcpStream::connect(listener.local_addr().expect("its address")).await.expect("connected");
        let (tcp, _) = listener.accept().await.expect("accepted");
        let clock = Clock::Manual(time.clone());
        let activity = Connections::new(Arc::new(Semaphore::new(1)), clock.clone()).activity();
        (Stream::new(tcp, clock, activity), client)
    }

    #[tokio::test]
    async fn a_client_that_reads_slowly_gets_everything() {
        // The loopback device has packets of 64 KiB, and the kernel confirms no part of one. So it is no use to read
        // more slowly here.
        for (rate, size) in [(16 * 1024, 4 * 1024 * 1024), (8 * 1024, 2 * 1024 * 1024)] {
            read_slowly(rate, size).await;
        }
    }

    /// Reads an answer at so many bytes a second.
    async fn read_slowly(rate: usize, size: usize) {
        let time = ManualClock::at(Timestamp::from_millis(0));
        let (mut stream, mut client) = connection(&time).await;
        let answer = vec![7; size];
        let sending = tokio::spawn(async move { stream.write_all(&answer).await });
        let (mut received, mut part) = (0, vec![0; rate]);
        while received < size {
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
