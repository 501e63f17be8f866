//! One connection: TLS, then HTTP/1.1 with pveproxy's idea of keep-alive.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::exchange::Exchange;
use crate::audit::ConnectionFacts;
use crate::cluster::Cluster;

/// First byte of a TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

/// Most header lines of a request.
const MAX_HEADERS: usize = 64;

/// Numbers connections for the audit.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An accepted connection.
pub(crate) struct Connection {
    cluster: Arc<Cluster>,
    node: Arc<str>,
    stream: TcpStream,
    id: u64,
    accepted: Timestamp,
}

impl Connection {
    pub(crate) fn accepted(cluster: Arc<Cluster>, node: Arc<str>, stream: TcpStream) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self {
            cluster,
            node,
            stream,
            id,
            accepted: Timestamp::now(),
        }
    }
}

/// The connection ends without an answer, as a fault wants it.
#[derive(Debug, thiserror::Error)]
#[error("dropped by a fault")]
struct Dropped;

/// Serves a connection until either side closes it.
pub(crate) async fn serve(connection: Connection, acceptor: TlsAcceptor) {
    let Connection {
        cluster,
        node,
        stream,
        id,
        accepted,
    } = connection;
    let patience = cluster.config.timing.idle_close;
    // Requests are small and answered at once: waiting to fill packets only adds latency.
    let _ = stream.set_nodelay(true);
    let mut first = [0];
    match tokio::time::timeout(patience, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first == [TLS_HANDSHAKE] => {}
        Ok(Ok(1)) => return redirect(&cluster, stream).await,
        _ => return,
    }
    let stream = match tokio::time::timeout(patience, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%node, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%node, "TLS handshake took too long"),
    };
    let facts = ConnectionFacts {
        id,
        accepted,
        secured: Timestamp::now(),
        request: 0,
    };
    let served = AtomicU32::new(0);
    let (cluster, node, facts, served) = (&cluster, &node, &facts, &served);
    let service = service_fn(async move |request: Request<Incoming>| {
        let number = served.fetch_add(1, Ordering::Relaxed) + 1;
        let keep = number < cluster.config.timing.requests_per_connection && wants_keep_alive(&request);
        let facts = ConnectionFacts {
            request: number,
            ..facts.clone()
        };
        let (parts, body) = request.into_parts();
        let exchange = Exchange::new(Arc::clone(cluster), Arc::clone(node), facts, parts, body);
        // A task of its own: like a forked worker it goes on when the client hangs up.
        let shutdown = cluster.shutdown.clone();
        let run = async move { shutdown.run_until_cancelled(exchange.run()).await.flatten() };
        match cluster.running.spawn(run).await {
            Ok(Some(answer)) => {
                let keep = keep && answer.status() < 400;
                Ok(answer.into_response(keep))
            }
            Ok(None) | Err(_) => Err(Dropped),
        }
    });
    let result = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_headers(MAX_HEADERS)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = result {
        tracing::debug!(%node, %error, "connection ended");
    }
}

fn wants_keep_alive<B>(request: &Request<B>) -> bool {
    let connection = request
        .headers()
        .get(CONNECTION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    request.version() == Version::HTTP_11 && !connection.to_ascii_lowercase().contains("close")
}

/// Plain HTTP on the port gets a redirection to https.
async fn redirect(cluster: &Cluster, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(async |request: Request<Incoming>| {
        let get = request.method() == Method::GET;
        let status = if get {
            StatusCode::MOVED_PERMANENTLY
        } else {
            StatusCode::PERMANENT_REDIRECT
        };
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = status;
        if let Some(target) = https(request.headers(), request.uri().path()) {
            response.headers_mut().insert(LOCATION, target);
        }
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        Ok::<_, Infallible>(response)
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(cluster.config.timing.idle_close)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn https(headers: &HeaderMap, path: &str) -> Option<HeaderValue> {
    let host = headers.get(HOST)?.to_str().ok()?;
    HeaderValue::try_from(format!("https://{host}{path}")).ok()
}
