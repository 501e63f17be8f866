//! The stream below the one POST: it knows whether a byte of the request was let through, and lets
//! none through when the connection is too old.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What happened on a [`FencedStream`], for whoever gave the stream away.
#[derive(Debug)]
pub(crate) struct Fence {
    connected: Instant,
    max_age: Duration,
    written: AtomicBool,
    refused: AtomicBool,
}

impl Fence {
    /// `connected` is when the TCP connection stood, before TLS: a process stopped in between then
    /// counts as old.
    pub(crate) fn new(connected: Instant, max_age: Duration) -> Arc<Self> {
        Arc::new(Self {
            connected,
            max_age,
            written: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        })
    }

    pub(crate) fn age(&self) -> Duration {
        self.connected.elapsed()
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.age() >= self.max_age
    }

    /// Whether a write was ever passed on. While this is false, no byte can have left. Final only
    /// once nobody holds the stream any more.
    pub(crate) fn was_written(&self) -> bool {
        self.written.load(Ordering::SeqCst)
    }

    /// Whether the first write was refused for age.
    pub(crate) fn has_refused(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }
}

/// Sits between HTTP and TLS, where the only bytes written are those of the request.
#[derive(Debug)]
pub(crate) struct FencedStream<S> {
    inner: S,
    fence: Arc<Fence>,
}

impl<S> FencedStream<S> {
    pub(crate) fn new(inner: S, fence: Arc<Fence>) -> Self {
        Self { inner, fence }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FencedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

// No vectored writes: their default implementation comes through poll_write.
impl<S: AsyncWrite + Unpin> AsyncWrite for FencedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.fence.was_written() {
            // As late as can be: after this check come only the copy into TLS and the system call.
            if self.fence.is_stale() {
                self.fence.refused.store(true, Ordering::SeqCst);
                return Poll::Ready(Err(io::Error::other("the connection is too old to send on")));
            }
            // Before the write: it may fail and still have put bytes on the wire.
            self.fence.written.store(true, Ordering::SeqCst);
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const MAX_AGE: Duration = Duration::from_secs(4);

    #[tokio::test(start_paused = true)]
    async fn lets_nothing_through_when_old() {
        let (near, mut far) = tokio::io::duplex(64);
        let fence = Fence::new(Instant::now(), MAX_AGE);
        let mut stream = FencedStream::new(near, fence.clone());
        tokio::time::advance(MAX_AGE).await;
        assert!(stream.write_all(b"POST").await.is_err());
        assert!(fence.has_refused() && !fence.was_written());
        drop(stream);
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_began_in_time_is_finished() {
        let (near, mut far) = tokio::io::duplex(64);
        let fence = Fence::new(Instant::now(), MAX_AGE);
        let mut stream = FencedStream::new(near, fence.clone());
        tokio::time::advance(MAX_AGE - Duration::from_millis(1)).await;
        stream.write_all(b"PO").await.unwrap();
        tokio::time::advance(MAX_AGE).await;
        stream.write_all(b"ST").await.unwrap();
        assert!(fence.was_written() && !fence.has_refused());
        drop(stream);
        let mut seen = Vec::new();
        far.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, b"POST");
    }

    #[tokio::test]
    async fn a_write_that_fails_counts_as_written() {
        let (near, far) = tokio::io::duplex(64);
        drop(far);
        let fence = Fence::new(Instant::now(), MAX_AGE);
        let mut stream = FencedStream::new(near, fence.clone());
        assert!(stream.write_all(b"POST").await.is_err());
        assert!(fence.was_written());
    }
}
