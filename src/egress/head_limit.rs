//! A limit on what a peer sends before the head of its response.
//!
//! HTTP permits any number of informational responses (1xx) before the final one. The HTTP library skips them, in one
//! loop that reads the connection again as long as it has data: a peer that sends `103 Early Hints` without end
//! occupies a worker thread, and no deadline is checked meanwhile. The library has no way to stop, so the connection
//! underneath it does: it counts, pauses after each read that followed an informational response, and fails at the
//! limit.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum number of informational responses. Servers send one or two.
const INFORMATIONAL_MAX: usize = 16;

/// Maximum number of bytes until the end of the head. It is more than one head can have, because the first read of a
/// response also brings a part of its body.
const BYTES_MAX: usize = 256 * 1024;

/// A byte stream to a peer.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// What a peer has sent before the head of its response.
#[derive(Debug, Default)]
pub(super) struct HeadLimit {
    is_waiting: AtomicBool,
    informational: AtomicUsize,
    bytes: AtomicUsize,
}

impl HeadLimit {
    /// Begins to count: a request is being sent.
    pub(super) fn begin(&self) {
        self.informational.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.is_waiting.store(true, Ordering::Release);
    }

    /// Ends the count: the head of the response is complete.
    pub(super) fn end(&self) {
        self.is_waiting.store(false, Ordering::Release);
    }

    /// Returns whether the peer has sent nothing since the request.
    pub(super) fn is_silent(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) == 0
    }

    /// Counts an informational response.
    pub(super) fn count_informational(&self) {
        self.informational.fetch_add(1, Ordering::Relaxed);
    }
}

/// The peer sent more than the limit before its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer did not begin within {INFORMATIONAL_MAX} informational ones (1xx) and {} KiB", BYTES_MAX / 1024)]
pub(super) struct NoHead;

/// A connection that applies a [`HeadLimit`].
pub(super) struct LimitedStream {
    stream: Box<dyn Io>,
    limit: Arc<HeadLimit>,
    has_paused: bool,
}

impl LimitedStream {
    pub(super) fn new(stream: Box<dyn Io>, limit: Arc<HeadLimit>) -> Self {
        Self { stream, limit, has_paused: false }
    }
}

impl AsyncRead for LimitedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, limit, has_paused } = &mut *self;
        if !limit.is_waiting.load(Ordering::Acquire) {
            return Pin::new(stream).poll_read(cx, buf);
        }
        let informational = limit.informational.load(Ordering::Relaxed);
        if informational > INFORMATIONAL_MAX || limit.bytes.load(Ordering::Relaxed) > BYTES_MAX {
            return Poll::Ready(Err(io::Error::other(NoHead)));
        }
        if informational > 0 && !std::mem::replace(has_paused, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        *has_paused = false;
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        limit.bytes.fetch_add(buf.filled().len() - before, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LimitedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
