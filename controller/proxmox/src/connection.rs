//! The destructive path: a connection that carries exactly one power action.
//!
//! # Why not the pooled client
//!
//! A pooled client may send a request on a connection the server is just closing, and may send it again
//! on a new one. Here the connection is opened *before* the last check of the caller, and the request
//! goes out on that connection or not at all. Proxmox closes a connection that was idle for 5 s. So a
//! process that was stopped (SIGSTOP, a frozen machine, a starved node) between its last check and the
//! request cannot act on that check when it wakes: the server no longer listens to that connection. The
//! server's clock decides, so this also holds where ours stood still.
//!
//! [`MAX_CONNECTION_AGE`] is the same fence on our side, checked at the last instruction before TLS gets
//! the request's first byte.
//!
//! # How "not delivered" is told from "ambiguous"
//!
//! By [`Fence::was_written`], a flag that the stream below HTTP sets *before* it passes the first byte of
//! the request to TLS. Never set: no byte can have left, [`Error::NotDelivered`]. Set: the server may
//! have read the request, whatever happened to the connection since, [`Error::Ambiguous`]. The flag is
//! read only after the task that owns the stream has ended, so that it cannot change any more.
//!
//! hyper's own signs agree, but are weaker, and nothing rests on them:
//!
//! * [`SendRequest::ready`] fails (`hyper::Error::is_closed`) when the connection's task has already seen
//!   the close. The request is then not handed over at all.
//! * [`SendRequest::try_send_request`] gives the request back (`TrySendError::take_message`; the error is
//!   `hyper::Error::is_canceled`) when the connection ended while it still stood in the queue. The task
//!   reads before it writes, so a close the kernel has already told tokio of ends like this.
//! * Without the request the error (`is_incomplete_message`, or an I/O error) covers both a request
//!   that was written and one that was taken from the queue but never written, as after a refusal of the
//!   fence. Only the flag tells these apart.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tower::ServiceExt;

use crate::Vmid;
use crate::answer::{Answer, Asked};
use crate::client::Client;
use crate::config::Endpoint;
use crate::error::{Delivery, Error};
use crate::fence::{Fence, FencedStream};
use crate::limits::Permit;
use crate::task::PowerAction;
use crate::text::clean;
use crate::transport::{BODY_BYTES, CONNECT_TIMEOUT, Failures, USER_AGENT, check_node, root_cause, tls_error};
use crate::upid::Upid;

/// The oldest connection a request is sent on. A second less than the 5 s after which Proxmox closes it,
/// so that we refuse first, for sure, rather than race the close and end up ambiguous.
pub const MAX_CONNECTION_AGE: Duration = Duration::from_secs(4);

/// For the answer to a power action. Between Proxmox's nodes the limit is 30 s: we give up later than
/// the proxy does, so that it tells us 596 rather than we guess.
const POST_TIMEOUT: Duration = Duration::from_secs(40);

/// For opening, over all endpoints. A decision older than 10 s is not acted on, so a connection that
/// took longer would be of no use.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// An open connection for one power action. Dropped without one, it closes.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    endpoint: Endpoint,
    sender: SendRequest<Empty<Bytes>>,
    driver: Driver,
    fence: Arc<Fence>,
    _permit: Option<Permit>,
}

/// The task that moves a connection's bytes. It ends with its handle: a cancelled call must not leave
/// a request behind that is sent later.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Driver {
    /// Ends the task and waits until it is gone.
    async fn stop(&mut self) {
        self.0.abort();
        // The error only says that it was aborted.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// Connects (TCP and TLS) to the first endpoint that takes it, those on the given node first. As
    /// nothing is sent yet, all may be tried.
    ///
    /// The connection counts as a request to that node until it is used or dropped, and must be used
    /// within [`MAX_CONNECTION_AGE`].
    ///
    /// # Errors
    /// [`Error::NotDelivered`] or [`Error::Tls`]; nothing was sent.
    pub async fn open(&self, node: Option<&str>) -> Result<Connection, Error> {
        if let Some(node) = node {
            check_node(node)?;
        }
        let late = || Error::NotDelivered {
            endpoint: node.unwrap_or("any endpoint").to_owned(),
            detail: format!("no connection within {} s", OPEN_TIMEOUT.as_secs()),
        };
        timeout(OPEN_TIMEOUT, self.open_in_turn(node)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn open_in_turn(&self, node: Option<&str>) -> Result<Connection, Error> {
        let endpoints = &self.transport.endpoints;
        let mut failures = Failures::default();
        for index in endpoints.order(node) {
            let Some(endpoint) = endpoints.get(index) else { continue };
            // Before connecting: waiting must not age the connection.
            let permit = self.transport.limits.acquire(node.unwrap_or(endpoint.authority())).await;
            match self.open_to(endpoint, permit).await {
                Ok(connection) => {
                    endpoints.reached(index);
                    return Ok(connection);
                }
                Err(error) => {
                    endpoints.not_reached(index);
                    failures.push(error);
                }
            }
        }
        Err(failures.summary())
    }

    async fn open_to(&self, endpoint: &Endpoint, permit: Option<Permit>) -> Result<Connection, Error> {
        let not_delivered = |detail: &str| Error::NotDelivered {
            endpoint: endpoint.authority().to_owned(),
            detail: clean(detail),
        };
        let (sender, driver, fence) = timeout(CONNECT_TIMEOUT, self.handshake(endpoint))
            .await
            .map_err(|_| not_delivered("connecting took too long"))?
            .map_err(|error| match tls_error(error.as_ref()) {
                Some(detail) => Error::Tls {
                    endpoint: endpoint.authority().to_owned(),
                    detail,
                },
                None => not_delivered(&root_cause(error.as_ref())),
            })?;
        Ok(Connection {
            client: self.clone(),
            endpoint: endpoint.clone(),
            sender,
            driver,
            fence,
            _permit: permit,
        })
    }

    async fn handshake(
        &self,
        endpoint: &Endpoint,
    ) -> Result<(SendRequest<Empty<Bytes>>, Driver, Arc<Fence>), Box<dyn std::error::Error + Send + Sync>> {
        // For its choice between IPv6 and IPv4 addresses, and nothing else.
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let stream = tcp.oneshot(endpoint.to_string().parse::<Uri>()?).await?.into_inner();
        let fence = Fence::new(Instant::now(), MAX_CONNECTION_AGE);
        let tls = TlsConnector::from(self.tls.clone());
        let stream = tls.connect(endpoint.server_name(), stream).await?;
        let stream = TokioIo::new(FencedStream::new(stream, fence.clone()));
        let (sender, connection) = http1::handshake(stream).await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = root_cause(&error), "connection for a power action ended");
            }
        });
        Ok((sender, Driver(driver), fence))
    }
}

impl Connection {
    /// `host:port` of the endpoint it is open to.
    pub fn endpoint(&self) -> &str {
        self.endpoint.authority()
    }

    /// Whether a request would be refused already, for age or because the close was seen. False is no
    /// promise.
    pub fn is_unusable(&self) -> bool {
        self.fence.is_stale() || self.sender.is_closed()
    }

    /// `POST /nodes/{node}/qemu/{vmid}/status/{action}`.
    ///
    /// Success means that a worker was forked, no more: follow the task.
    ///
    /// Dropping the future before it is done closes the connection; whether the request went out is
    /// then as unknown as after a crash.
    ///
    /// # Errors
    /// [`Error::delivery`] says what may be concluded. It is `NotDelivered` only if no byte of the
    /// request left this process, or Proxmox itself said that it did not pass it on (595).
    pub async fn post(mut self, action: PowerAction, node: &str, vmid: Vmid) -> Result<Upid, Error> {
        check_node(node)?;
        let request = self.request(action, node, vmid)?;
        let path = request.uri().path().to_owned();
        let deadline = Instant::now() + POST_TIMEOUT;
        let head = match timeout_at(deadline, self.send(request)).await {
            Ok(Ok(head)) => head,
            Ok(Err(detail)) => return Err(self.failed(&detail).await),
            Err(_) => return Err(self.failed("no answer in time").await),
        };

        let (head, body) = head.into_parts();
        let body = timeout_at(deadline, Limited::new(body, BODY_BYTES).collect()).await;
        let body = match body {
            Ok(Ok(body)) => Some(body.to_bytes()),
            Ok(Err(_)) | Err(_) => None,
        };
        let is_complete = body.is_some();
        let endpoint = self.endpoint.authority();
        let token = &self.client.transport.token;
        let body = body.unwrap_or_default();
        let answer = Answer::new(endpoint, head.status, &head.headers, &head.extensions, body, token);
        let asked = Asked {
            path: &path,
            node: Some(node),
            vmid: Some(vmid),
            upid: None,
        };
        let result = verdict(&answer, is_complete, asked);
        tracing::debug!(endpoint, path, status = %answer.status, reason = answer.reason, "power action answered");
        result
    }

    fn request(&self, action: PowerAction, node: &str, vmid: Vmid) -> Result<Request<Empty<Bytes>>, Error> {
        let unusable = |what| Error::InvalidArgument {
            what,
            value: self.endpoint.authority().to_owned(),
        };
        let url = self
            .endpoint
            .url(["nodes", node, "qemu", &vmid.to_string(), "status", action.as_str()]);
        let uri = url.path().parse::<Uri>().map_err(|_| unusable("path on"))?;
        let host = HeaderValue::from_str(self.endpoint.authority()).map_err(|_| unusable("host"))?;
        let token = self.client.transport.token.authorization();
        let token = token.map_err(|_| unusable("API token for"))?;
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::HOST, host);
        headers.insert(header::AUTHORIZATION, token);
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(request)
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, String> {
        // Waits for the connection's task to have run once: it notices a close that is already known.
        self.sender.ready().await.map_err(|error| root_cause(&error))?;
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|error| root_cause(error.error()))
    }

    /// What a request without an answer means. See the module's own words.
    async fn failed(&mut self, detail: &str) -> Error {
        self.driver.stop().await;
        let endpoint = self.endpoint.authority().to_owned();
        let error = if self.fence.was_written() {
            Error::Ambiguous {
                endpoint,
                detail: clean(detail),
            }
        } else if self.fence.has_refused() {
            self.stale()
        } else {
            Error::NotDelivered {
                endpoint,
                detail: clean(detail),
            }
        };
        tracing::debug!(endpoint = self.endpoint.authority(), %error, "power action failed");
        error
    }

    fn stale(&self) -> Error {
        Error::Stale {
            endpoint: self.endpoint.authority().to_owned(),
            age: self.fence.age(),
        }
    }
}

/// What an answer to a power action means.
pub(crate) fn verdict(answer: &Answer, is_complete: bool, asked: Asked<'_>) -> Result<Upid, Error> {
    #[derive(Deserialize)]
    struct Envelope {
        data: Upid,
    }

    let ambiguous = |detail: String| Error::Ambiguous {
        endpoint: answer.endpoint.clone(),
        detail,
    };
    match answer.status {
        StatusCode::OK => serde_json::from_slice::<Envelope>(&answer.body)
            .map(|envelope| envelope.data)
            // A worker was forked, but we did not learn its name.
            .map_err(|_| {
                let fault = if is_complete { "without a UPID" } else { "cut short or too large" };
                ambiguous(format!("the answer is {fault}"))
            }),
        status => {
            let error = answer.to_error(asked);
            let from_proxmox = matches!(status.as_u16(), 301 | 308 | 400 | 401 | 403 | 500 | 501 | 506 | 595);
            // 596 to 599 come from the proxy between nodes after it connected. All others (a 404, 409 or
            // 429 among them) are not Proxmox's at all: something else stands in between, and may have
            // passed the request on.
            let certain = from_proxmox && error.delivery() != Delivery::Ambiguous;
            Err(if certain {
                error
            } else {
                ambiguous(format!("{} {}", status.as_u16(), answer.reason))
            })
        }
    }
}
