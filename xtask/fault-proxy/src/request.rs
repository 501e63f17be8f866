//! A request as rules see it, and as it is recorded.

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use std::fmt;
use std::time::Duration;

/// Which server a proxy stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// kube-apiserver.
    Kubernetes,
    /// A node of Proxmox VE.
    Proxmox,
}

/// A request that has arrived in full.
#[derive(Clone, Debug)]
pub struct Request {
    /// To which server.
    pub service: Service,
    /// Method.
    pub method: Method,
    /// Path, without the query.
    pub path: String,
    /// Query; empty for none.
    pub query: String,
    /// Body.
    pub body: Bytes,
}

impl Request {
    /// Anything but a reading.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET && self.method != Method::HEAD
    }

    /// A watch of the Kubernetes API: its answer has no end of its own.
    pub fn is_watch(&self) -> bool {
        self.service == Service::Kubernetes && self.query.split('&').any(|part| part == "watch=true" || part == "watch=1")
    }

    /// The fields right below `status` that a patch writes, in alphabetical order.
    pub fn status_fields(&self) -> Vec<String> {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let fields = body["status"].as_object();
        let mut names: Vec<String> = fields.into_iter().flat_map(|f| f.keys().cloned()).collect();
        names.sort();
        names
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        match self.status_fields() {
            fields if fields.is_empty() => Ok(()),
            fields => write!(f, " {{{}}}", fields.join(", ")),
        }
    }
}

/// A request and what became of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Order of arrival over all proxies that share the [`Faults`](crate::Faults), from 1.
    pub number: u64,
    /// When it had arrived in full, since the [`Faults`](crate::Faults) were made.
    pub at: Duration,
    /// The request.
    pub request: Request,
    /// Whether the server was given it.
    pub forwarded: bool,
    /// Status of the answer that the server gave.
    pub status: Option<u16>,
    /// What went wrong on purpose.
    pub fault: Option<&'static str>,
}
