//! Reads: one GET, on the first endpoint that serves it.

use std::error::Error as StdError;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use reqwest::redirect::Policy;
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::Vmid;
use crate::answer::{Answer, Asked};
use crate::config::{ApiToken, ConfigError};
use crate::endpoints::Endpoints;
use crate::error::Error;
use crate::limits::Limits;
use crate::text::{clean, is_node_name};
use crate::upid::Upid;

/// TCP and TLS to one endpoint. A node that is up answers within milliseconds.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One GET on one endpoint, body included. Slow ones take some seconds (a guest agent's 3, a hung
/// monitor's 5); 30 would be the proxy's own limit, too long to learn nothing.
const GET_TIMEOUT: Duration = Duration::from_secs(15);

/// A read with its waiting for others and its changes of endpoint.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Pooled connections are given up before Proxmox closes them, at 5 s: a request sent just then fails.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Lists grow with the cluster: a row of 10,000 VMs is below 1 KiB.
pub(crate) const LIST_BYTES: usize = 16 * 1024 * 1024;
/// Everything else.
pub(crate) const BODY_BYTES: usize = 64 * 1024;
/// `status/current`: QEMU's statistics are over 1 KiB a disk, and a VM can have 57 disks.
pub(crate) const STATUS_BYTES: usize = 256 * 1024;

/// Sent as `User-Agent`: it shows in Proxmox's access log.
pub(crate) const USER_AGENT: &str = concat!("defib/", env!("CARGO_PKG_VERSION"));

#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) endpoints: Endpoints,
    pub(crate) limits: Limits,
    pub(crate) token: ApiToken,
    http: reqwest::Client,
}

/// What to read.
#[derive(Debug)]
pub(crate) struct Read<'a> {
    segments: Vec<&'a str>,
    query: Vec<(&'static str, String)>,
    max_bytes: usize,
    /// The node that must answer, unless any endpoint can.
    node: Option<&'a str>,
    vmid: Option<Vmid>,
    upid: Option<&'a Upid>,
}

impl<'a> Read<'a> {
    /// Something every endpoint can answer by itself.
    pub(crate) fn any<const N: usize>(segments: [&'a str; N]) -> Self {
        Self {
            segments: segments.into(),
            query: Vec::new(),
            max_bytes: BODY_BYTES,
            node: None,
            vmid: None,
            upid: None,
        }
    }

    /// Something below `/nodes/{node}`, which that node answers.
    pub(crate) fn node<const N: usize>(node: &'a str, segments: [&'a str; N]) -> Result<Self, Error> {
        let all = ["nodes", node].into_iter().chain(segments).collect();
        check_node(node)?;
        Ok(Self {
            segments: all,
            node: Some(node),
            ..Self::any([])
        })
    }

    pub(crate) fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl ToString) -> Self {
        self.query.push((name, value.to_string()));
        self
    }

    pub(crate) fn vmid(mut self, vmid: Vmid) -> Self {
        self.vmid = Some(vmid);
        self
    }

    pub(crate) fn upid(mut self, upid: &'a Upid) -> Self {
        self.upid = Some(upid);
        self
    }

    /// For messages.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.segments.join("/"))
    }
}

pub(crate) fn check_node(node: &str) -> Result<(), Error> {
    if is_node_name(node) {
        return Ok(());
    }
    Err(Error::InvalidArgument {
        what: "node name",
        value: clean(node),
    })
}

/// Why one endpoint did not serve a read.
enum Failure {
    /// It could not be connected to.
    NotReached(Error),
    /// It was connected to, and the connection was lost before an answer began.
    Lost(Error),
    /// It was connected to, and did not answer.
    NoAnswer(Error),
    /// It answered in a way no other endpoint would better.
    Final(Error),
}

impl Transport {
    pub(crate) fn new(endpoints: Endpoints, limits: Limits, token: ApiToken, tls: ClientConfig) -> Result<Self, ConfigError> {
        let headers = [(http::header::AUTHORIZATION, token.authorization()?)].into_iter().collect();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .http1_only()
            // Proxmox redirects only from http to https; a followed one would carry the token away.
            .redirect(Policy::none())
            // An HTTPS_PROXY in the environment is for the Internet, not for the machines below us.
            .no_proxy()
            .referer(false)
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(GET_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .build()
            .map_err(|error| ConfigError::Tls(clean(&error.to_string())))?;
        Ok(Self {
            endpoints,
            limits,
            token,
            http,
        })
    }

    /// Reads on the endpoints in turn until one serves it. The answer may be a refusal.
    pub(crate) async fn read(&self, read: &Read<'_>) -> Result<Answer, Error> {
        timeout(READ_TIMEOUT, self.read_in_turn(read)).await.unwrap_or_else(|_| {
            Err(Error::Timeout {
                path: read.path(),
                after: READ_TIMEOUT,
            })
        })
    }

    async fn read_in_turn(&self, read: &Read<'_>) -> Result<Answer, Error> {
        let mut failures = Failures::default();
        for index in self.endpoints.order(read.node) {
            let mut result = self.read_on(index, read).await;
            if let Err(Failure::Lost(_)) = result {
                // Most likely a pooled connection that the server closed just then. Once, for a read
                // only: a second loss is not chance.
                result = self.read_on(index, read).await;
            }
            match result {
                Ok(answer) if self.is_endpoints_own_595(index, read, &answer) => {
                    failures.push(answer.to_error(read.asked(&read.path())));
                }
                Ok(answer) => {
                    self.endpoints.reached(index);
                    return Ok(answer);
                }
                Err(Failure::NotReached(error)) => {
                    self.endpoints.not_reached(index);
                    failures.push(error);
                }
                Err(Failure::Lost(error) | Failure::NoAnswer(error)) => failures.push(error),
                Err(Failure::Final(error)) => return Err(error),
            }
        }
        Err(failures.summary())
    }

    /// 595 about the endpoint's own API daemon, which another endpoint may serve better. 595 about
    /// another node is the same from everywhere.
    fn is_endpoints_own_595(&self, index: usize, read: &Read<'_>, answer: &Answer) -> bool {
        answer.status.as_u16() == 595 && read.node.is_none_or(|node| self.endpoints.is_on(index, node))
    }

    async fn read_on(&self, index: usize, read: &Read<'_>) -> Result<Answer, Failure> {
        let Some(endpoint) = self.endpoints.get(index) else {
            return Err(Failure::NoAnswer(read.failed("no such endpoint")));
        };
        let _permit = self.limits.acquire(read.node.unwrap_or(endpoint.authority())).await;
        let mut request = self.http.get(endpoint.url(read.segments.iter().copied()));
        if !read.query.is_empty() {
            request = request.query(&read.query);
        }
        let fail = |error: reqwest::Error| self.failure(&error, endpoint.authority(), read);
        let mut response = request.send().await.map_err(fail)?;
        // A list that grows by doubling would for a moment take three times its size.
        let announced = response.content_length().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let mut body = BytesMut::with_capacity(announced.min(read.max_bytes));
        while let Some(chunk) = response.chunk().await.map_err(fail)? {
            if body.len() + chunk.len() > read.max_bytes {
                // Dropping the response closes the connection: nothing more is read.
                return Err(Failure::Final(Error::InvalidAnswer {
                    path: read.path(),
                    detail: format!("it is larger than {} bytes", read.max_bytes),
                }));
            }
            body.extend_from_slice(&chunk);
        }
        let status = response.status();
        let answer = Answer::new(
            endpoint.authority(),
            status,
            response.headers(),
            response.extensions(),
            body.freeze(),
            &self.token,
        );
        tracing::trace!(endpoint = endpoint.authority(), path = read.path(), %status, "read");
        Ok(answer)
    }

    fn failure(&self, error: &reqwest::Error, endpoint: &str, read: &Read<'_>) -> Failure {
        let detail = self.token.redact(root_cause(error));
        tracing::debug!(endpoint, path = read.path(), detail, "read failed");
        if error.is_connect() {
            return Failure::NotReached(match tls_error(error) {
                Some(detail) => Error::Tls {
                    endpoint: endpoint.to_owned(),
                    detail,
                },
                None => Error::NotDelivered {
                    endpoint: endpoint.to_owned(),
                    detail,
                },
            });
        }
        if error.is_timeout() {
            let error = Error::Timeout {
                path: read.path(),
                after: GET_TIMEOUT,
            };
            // The node behind the endpoint is slow, and would be behind the next one too. What every
            // endpoint answers by itself, the next one may answer.
            return if read.node.is_some() {
                Failure::Final(error)
            } else {
                Failure::NoAnswer(error)
            };
        }
        let failed = read.failed(&detail);
        if is_lost(error) {
            Failure::Lost(failed)
        } else {
            Failure::NoAnswer(failed)
        }
    }
}

impl<'a> Read<'a> {
    pub(crate) fn asked<'b>(&'b self, path: &'b str) -> Asked<'b> {
        Asked {
            path,
            node: self.node,
            vmid: self.vmid,
            upid: self.upid,
        }
    }

    fn failed(&self, detail: &str) -> Error {
        Error::ReadFailed {
            path: self.path(),
            detail: clean(detail),
        }
    }
}

/// What went wrong on the endpoints, in turn.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<Error>);

impl Failures {
    pub(crate) fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    /// One error for all: a single one as it is; several of which none was delivered as
    /// [`Error::NotDelivered`] with all causes; otherwise the last that was.
    pub(crate) fn summary(mut self) -> Error {
        let delivered = |error: &Error| error.delivery() != crate::error::Delivery::NotDelivered;
        if let Some(index) = self.0.iter().rposition(delivered) {
            return self.0.swap_remove(index);
        }
        // A wrong certificate is what somebody must mend, whatever else was unreachable.
        let is_tls = |error: &Error| matches!(error, Error::Tls { .. });
        let alike = self.0.len() == 1 || self.0.iter().all(is_tls);
        if alike && let Some(error) = self.0.pop() {
            return error;
        }
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        Error::NotDelivered {
            endpoint: "any endpoint".to_owned(),
            detail: clean(&all.join("; ")),
        }
    }
}

/// The innermost error's text: the outer ones say only "error sending request".
pub(crate) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    clean(&cause.to_string())
}

/// The TLS library's own verdict, when that is why a connection failed.
pub(crate) fn tls_error(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(clean(&tls.to_string()));
        }
        // An io::Error hides what it wraps from source().
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match wrapped {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// Whether the connection ended where an answer should have begun.
fn is_lost(error: &reqwest::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let mut cause: Option<&(dyn StdError + 'static)> = error.is_request().then_some(error);
    while let Some(error) = cause {
        if error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_incomplete_message)
        {
            return true;
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return matches!(io.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof);
        }
        cause = error.source();
    }
    false
}

/// Whether a status says that the request was understood and served.
pub(crate) fn is_ok(answer: &Answer) -> bool {
    answer.status == StatusCode::OK
}
