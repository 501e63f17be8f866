//! Serves a router on a listener over HTTP/1.1, plain or with TLS, with a limit on everything that a client can take up.
//!
//! A connection is a [`Stranger`]'s until a handler says that it knows who it is. Strangers have places of their own, and the one that has sat there longest makes
//! room for the next: whoever opens connections and says nothing, or nothing of worth, can keep nobody out.

mod idle;
mod tls;

pub use tls::{CertificateFiles, TlsError};

use super::ServingSink;
use super::crowd::{Crowd, Place};
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use idle::IdleLimit;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Reason with which a failure to accept is reported to the [`ServingSink`].
pub const ACCEPT_ERROR: &str = "accept-error";

/// Connections that may wait to be accepted: the kernel's own limit, net.core.somaxconn, on a usual one.
const BACKLOG: u32 = 4096;
/// Pause after a failure to accept. The usual cause is that no file descriptor is free, and only time gives one back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Pause before a stranger is offered a place again, when all are taken and none was held for long enough. Meanwhile nobody else is accepted.
const CROWD_PAUSE: Duration = Duration::from_millis(20);
/// Largest head of a request: a page's cookie with a Kubernetes token in it has some 4 KiB.
const MAX_HEAD: usize = 32 * 1024;
/// Most headers of a request, with what three proxies add.
const MAX_HEADERS: usize = 64;

/// How a listener is served.
#[derive(Clone)]
pub struct ServeOptions {
    /// With TLS, or plain.
    pub tls: Option<TlsAcceptor>,
    /// Learns of failures to accept.
    pub sink: Arc<dyn ServingSink>,
    /// Connections at the same time; when they are all taken, further ones wait in the backlog of the kernel.
    pub max_connections: usize,
    /// Of these, connections of strangers; when they are all taken, the oldest makes room.
    pub max_strangers: usize,
    /// How long a stranger's connection is left alone at least. An honest agent needs two round trips and a moment of our processor.
    pub stranger_time: Duration,
    /// How long a TLS handshake may take, and then the head of the first request.
    pub head_deadline: Duration,
    /// How long a connection may be without any traffic, and how long it may wait for the next head.
    pub idle_deadline: Duration,
    /// How long requests under way may take after the shutdown has begun.
    pub drain_deadline: Duration,
}

/// Among the extensions of each request: the place of its connection among the strangers.
#[derive(Clone)]
pub struct Stranger(Arc<Mutex<Option<Place>>>);

impl Stranger {
    /// A key has shown who it is: the connection is no stranger's any more, and is not closed to make room.
    pub fn is_known(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl ServeOptions {
    /// Plain HTTP; 20,000 connections (two for each VM of a fleet of 10,000), half of them of strangers (so that such a fleet can come back at once), each
    /// of these for 2 s at least, heads within 5 s, idle for 75 s (over twice the built-in report period, and more than the 60 s after which common
    /// proxies drop a connection themselves), 10 s to drain.
    pub fn new(sink: Arc<dyn ServingSink>) -> Self {
        Self {
            tls: None,
            sink,
            max_connections: 20_000,
            max_strangers: 10_000,
            stranger_time: Duration::from_secs(2),
            head_deadline: Duration::from_secs(5),
            idle_deadline: Duration::from_secs(75),
            drain_deadline: Duration::from_secs(10),
        }
    }

    /// With at most so many connections, half of them of strangers.
    #[must_use]
    pub fn at_most(self, connections: usize) -> Self {
        let max_connections = self.max_connections.min(connections);
        Self {
            max_connections,
            max_strangers: self.max_strangers.min(max_connections.div_ceil(2)),
            ..self
        }
    }
}

/// Listens on an address. As many connections may wait in the kernel as it lets wait (4,096 on a usual one): the agents of a large fleet come back at once,
/// and one that finds no place there waits for a second and more before it knocks again.
///
/// # Errors
/// Those of the system.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A restart must not wait for what is left of the connections before it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `token` is cancelled. Then nothing is accepted any more, requests under way are answered, and after the drain deadline what is left is cut off.
pub async fn serve(listener: TcpListener, router: Router, options: ServeOptions, token: CancellationToken) {
    let places = Arc::new(Semaphore::new(options.max_connections));
    let strangers = Crowd::new(options.max_strangers, options.stranger_time);
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some((stream, place)) = accept(&listener, &places, &options, &token).await {
        let Some(stranger) = stranger(&strangers, &token).await else {
            break;
        };
        let connection = Connection {
            router: router.clone(),
            options: options.clone(),
            stop: token.clone(),
            cut: cut.clone(),
        };
        connections.spawn(connection.run(stream, place, stranger));
    }
    drop(listener);
    connections.close();
    if timeout(options.drain_deadline, connections.wait()).await.is_err() {
        tracing::warn!(connections = connections.len(), "cut off what was still open at the shutdown");
        cut.cancel();
        connections.wait().await;
    }
}

/// The next connection and its place; none at the shutdown.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    options: &ServeOptions,
    token: &CancellationToken,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let next = async {
        let place = places.clone().acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, place)),
                // The client went away while it waited: no fault of ours, and nothing to wait for.
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections");
                    options.sink.shed(ACCEPT_ERROR);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = token.cancelled() => None,
        next = next => next,
    }
}

/// A place among the strangers; none at the shutdown.
async fn stranger(strangers: &Arc<Crowd>, token: &CancellationToken) -> Option<Place> {
    loop {
        if let Some(place) = strangers.enter() {
            return Some(place);
        }
        tokio::select! {
            biased;
            () = token.cancelled() => return None,
            () = sleep(CROWD_PAUSE) => {}
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

struct Connection {
    router: Router,
    options: ServeOptions,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, _place: OwnedSemaphorePermit, stranger: Place) {
        // Answers are small: without this the kernel would hold them back for more.
        let _ = stream.set_nodelay(true);
        let result = match &self.options.tls {
            None => self.serve(stream, stranger).await,
            Some(tls) => {
                let handshake = tokio::select! {
                    biased;
                    handshake = timeout(self.options.head_deadline, tls.accept(stream)) => handshake,
                    () = self.stop.cancelled() => return,
                    () = stranger.taken_back() => return,
                };
                match handshake {
                    Ok(Ok(stream)) => self.serve(stream, stranger).await,
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("the TLS handshake took too long".into()),
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(error, "a connection ended early");
        }
    }

    async fn serve<S>(&self, stream: S, stranger: Place) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let begun = AtomicBool::new(false);
        let taken_back = stranger.token();
        let stranger = Stranger(Arc::new(Mutex::new(Some(stranger))));
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            begun.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(stranger.clone());
            self.router.clone().oneshot(request)
        });
        let io = TokioIo::new(IdleLimit::new(stream, self.options.idle_deadline));
        // hyper's deadline counts the time between two requests as well, so it is the idle deadline; the first head has its own below.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.idle_deadline)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        let mut first_head = pin!(sleep(self.options.head_deadline));
        let (mut watching, mut stopping) = (true, false);
        loop {
            // The connection first: what was sent in time is read before a deadline that passed while we were busy counts against the client.
            tokio::select! {
                biased;
                ended = connection.as_mut() => return ended.map_err(|e| e.to_string()),
                () = first_head.as_mut(), if watching => {
                    if !begun.load(Ordering::Relaxed) {
                        return Err("the head of the first request took too long".into());
                    }
                    watching = false;
                }
                () = self.stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = taken_back.cancelled() => return Err("its place was needed".into()),
                () = self.cut.cancelled() => return Err("cut off at the shutdown".into()),
            }
        }
    }
}
