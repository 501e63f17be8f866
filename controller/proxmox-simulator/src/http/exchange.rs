//! One request and its answer: faults, checks of the HTTP server, authentication, audit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use jiff::Timestamp;

use super::answer::{Answer, ApiError, Data};
use super::parameters::{self, Parameters, percent_decode};
use crate::access::{self, Identity};
use crate::api::{self, Call, Verb};
use crate::audit::{ConnectionFacts, WriteRequest};
use crate::cluster::Cluster;
use crate::fault::FaultKind;

/// Largest body, in bytes.
const MAX_BODY: usize = 512 * 1024;

/// Where the JSON API lives.
const BASE: &str = "/api2";

/// A request on its way to an answer.
pub(crate) struct Exchange {
    cluster: Arc<Cluster>,
    entry: Arc<str>,
    connection: ConnectionFacts,
    parts: Parts,
    body: Incoming,
    path: String,
    arrived: Instant,
    arrived_at: Timestamp,
}

/// Enters a request that was never answered into the audit's file when it is given up.
struct Unanswered {
    cluster: Arc<Cluster>,
    sequence: Option<u64>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(sequence) = self.sequence.take() {
            self.cluster.audit().answered(sequence, None);
        }
    }
}

impl Exchange {
    pub(crate) fn new(cluster: Arc<Cluster>, entry: Arc<str>, connection: ConnectionFacts, parts: Parts, body: Incoming) -> Self {
        let path = percent_decode(parts.uri.path());
        Self {
            cluster,
            entry,
            connection,
            parts,
            body,
            path,
            arrived: Instant::now(),
            arrived_at: Timestamp::now(),
        }
    }

    /// The answer; `None` when a fault drops the connection instead.
    pub(crate) async fn run(self) -> Option<Answer> {
        let cluster = Arc::clone(&self.cluster);
        let dialect = cluster.config.dialect;
        let method = self.parts.method.as_str();
        let fault = cluster.faults().take(method, &self.path, &self.entry);
        let audited = (method != "GET").then(|| self.audit_arrival(fault.as_ref()));
        // A client that leaves before its answer drops this future: the request arrived all the same.
        let mut unanswered = Unanswered {
            cluster: Arc::clone(&cluster),
            sequence: audited,
        };
        let error = |status, reason: &str| Some(Answer::error(&ApiError::empty(status, reason), dialect));
        let answer = match fault {
            None => Some(self.answer(audited).await),
            Some(FaultKind::DropBefore) => None,
            Some(FaultKind::DropAfter) => {
                self.answer(audited).await;
                None
            }
            Some(FaultKind::Status(status, reason)) => error(status, &reason),
            Some(FaultKind::StatusAfter(status, reason)) => {
                self.answer(audited).await;
                error(status, &reason)
            }
            Some(FaultKind::Delay(time)) => {
                tokio::time::sleep(time).await;
                Some(self.answer(audited).await)
            }
            Some(FaultKind::DelayAfter(time)) => {
                let answer = self.answer(audited).await;
                tokio::time::sleep(time).await;
                Some(answer)
            }
        };
        if let Some(sequence) = unanswered.sequence.take() {
            let facts = answer.as_ref().map(|answer| (answer.status(), answer.reason().to_owned()));
            cluster.audit().answered(sequence, facts);
        }
        answer
    }

    fn audit_arrival(&self, fault: Option<&FaultKind>) -> u64 {
        let segments: Vec<&str> = self.path.split('/').filter(|segment| !segment.is_empty()).collect();
        let after = |name| {
            segments
                .iter()
                .position(|segment| *segment == name)
                .and_then(|at| segments.get(at + 1))
        };
        let vmid: Option<u32> = after("qemu").and_then(|vmid| vmid.parse().ok());
        let state = self.cluster.state();
        let vm = vmid.and_then(|vmid| state.vms.get(&vmid));
        let guest = vm.map(crate::vm::Vm::guest_state);
        self.cluster.audit().arrived(WriteRequest {
            sequence: 0,
            time: self.arrived_at,
            connection: self.connection.clone(),
            entry: self.entry.to_string(),
            method: self.parts.method.to_string(),
            path: self.path.clone(),
            node: after("nodes").map(|node| (*node).to_owned()),
            vmid,
            action: segments.last().map_or(String::new(), |last| (*last).to_owned()),
            token: None,
            guest,
            healthy: guest.map(crate::vm::GuestState::healthy),
            boot_id: vm.and_then(|vm| vm.guest.boot_id()),
            fault: fault.map(ToString::to_string),
            executed: false,
            answered: None,
            status: None,
            reason: None,
            upid: None,
            exitstatus: None,
        })
    }

    async fn answer(self, audited: Option<u64>) -> Answer {
        let dialect = self.cluster.config.dialect;
        let (arrived, delay) = (self.arrived, self.cluster.config.timing.unauthorized);
        let answer = Answer::of(self.handle(audited).await, dialect);
        if answer.status() == 401 {
            sleep_until(arrived, delay).await;
        }
        answer
    }

    /// The checks in pveproxy's order, then the call.
    async fn handle(self, audited: Option<u64>) -> Result<Data, ApiError> {
        let method = self.parts.method.as_str();
        let Ok(verb) = method.parse::<Verb>() else {
            return Err(ApiError::empty(501, format!("method '{method}' not available")));
        };
        match self.header(&TRANSFER_ENCODING) {
            "" => {}
            encoding if encoding.eq_ignore_ascii_case("chunked") => {
                return Err(ApiError::server(501, "chunked transfer encoding not supported"));
            }
            encoding => return Err(ApiError::server(501, format!("Unknown transfer encoding '{encoding}'"))),
        }
        let Some(rest) = self.path.strip_prefix(BASE) else {
            return Err(ApiError::server(500, format!("no such file '{}'", self.path)));
        };
        let rest = rest.trim_start_matches('/');
        let (format, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if format.is_empty() {
            return Err(ApiError::server(501, "no such uri"));
        }
        let identity = self.authenticate(audited)?;
        let length: usize = self.header(&CONTENT_LENGTH).parse().unwrap_or(0);
        if length > 0 && !matches!(verb, Verb::Post | Verb::Put) {
            return Err(ApiError::server(501, format!("Unexpected content for method '{method}'")));
        }
        if length > MAX_BODY {
            return Err(ApiError::server(501, "for data too large"));
        }
        let content_type = self.header(&CONTENT_TYPE);
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        let json = kind == "application/json";
        if length > 0 && !json && !matches!(kind, "" | "application/x-www-form-urlencoded") {
            return Err(ApiError::server(
                506,
                format!("upload 'Content-Type '{content_type}' not implemented"),
            ));
        }
        if format != "json" {
            return Err(ApiError::server(501, format!("no formatter for uri {path}, {format}")));
        }
        let path = if path.is_empty() { "/" } else { path }.to_owned();
        let query = self.parts.uri.query().unwrap_or_default().to_owned();
        let (cluster, entry) = (self.cluster, self.entry.to_string());
        let mut found = Parameters::new();
        if length > 0 {
            let body = read(self.body, cluster.config.timing.idle_close).await?;
            if json {
                parameters::decode_json(&body, &mut found).map_err(|text| ApiError::server(500, text))?;
            } else {
                parameters::decode_form(&String::from_utf8_lossy(&body), &mut found);
            }
        }
        parameters::decode_form(&query, &mut found);
        // The web interface adds it to defeat caches.
        found.remove("_dc");
        api::dispatch(Call {
            cluster,
            entry: entry.clone(),
            node: entry,
            verb,
            path,
            identity,
            params: found,
            audited,
        })
        .await
    }

    fn header(&self, name: &http::HeaderName) -> &str {
        self.parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    fn authenticate(&self, audited: Option<u64>) -> Result<Identity, ApiError> {
        let identity = access::authenticate(&self.cluster.config, &self.parts.headers)
            .map_err(|access::AuthError(reason)| ApiError::empty(401, reason))?;
        if let Some(sequence) = audited {
            self.cluster
                .audit()
                .note(sequence, |request| request.token = Some(identity.id().to_owned()));
        }
        Ok(identity)
    }
}

async fn read(body: Incoming, patience: Duration) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(patience, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(ApiError::server(400, format!("cannot read the body: {error}"))),
        Err(_) => Err(ApiError::server(400, "the body took too long")),
    }
}

async fn sleep_until(arrived: Instant, delay: Duration) {
    tokio::time::sleep(delay.saturating_sub(arrived.elapsed())).await;
}
