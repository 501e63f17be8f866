//! The reset story: one VM hangs, is reset, and proves that it is back. Which requests are its writes, and where a row of the table interferes.

use clap::ValueEnum;
use fault_proxy::{Act, Moment, Request, Rule};
use http::StatusCode;
use std::fmt;

/// The VM that hangs.
pub const VICTIM: &str = "victim";
/// Its VMID.
pub const VICTIM_ID: u32 = 101;
/// A VM that is well all the time.
pub const BYSTANDER: &str = "bystander";
/// Its VMID.
pub const BYSTANDER_ID: u32 = 102;

/// A write that the story is made of: of the decider, to Kubernetes or Proxmox. Not the lease's renewals and the heartbeats of the publisher: they come by
/// the clock, with or without a story, and a soak kills in the middle of those.
pub fn is_write(request: &Request) -> bool {
    request.is_write() && !request.path.contains("/leases") && !is_heartbeat(request)
}

fn is_heartbeat(request: &Request) -> bool {
    let fields = request.status_fields();
    !fields.is_empty() && fields.iter().all(|field| field == "heartbeat" || field == "usage")
}

/// A write in few words: what it is done to, and what it changes.
pub fn label(request: &Request) -> String {
    let path = request.path.trim_end_matches("/status");
    let object: Vec<&str> = path.rsplit('/').take(2).collect();
    let what = match object.as_slice() {
        ["events", ..] => "create Event".to_owned(),
        ["vmresets", ..] => "create VMReset".to_owned(),
        [_, "vmresets"] => format!("{} VMReset", verb(request)),
        [_, "managedvms"] => format!("{} ManagedVM", verb(request)),
        [_, "events"] => "patch Event".to_owned(),
        _ if request.path.ends_with("/status/reset") => "POST reset to Proxmox".to_owned(),
        _ => format!("{} {}", request.method, request.path),
    };
    let fields = request.status_fields();
    let of = |name: &str| fields.iter().any(|field| field == name);
    // The state that a record is brought to tells the steps apart.
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let detail = if of("currentReset") {
        let journal = &body["status"]["currentReset"];
        let step = if journal.is_null() {
            "cleared"
        } else if journal["taskResult"].is_string() {
            "task ended"
        } else if journal["upid"].is_string() {
            "task known"
        } else if journal["sentTime"].is_string() {
            "sent, no answer"
        } else {
            "intent"
        };
        format!(", journal: {step}")
    } else if let Some(state) = body["status"]["state"].as_str() {
        format!(", {state}")
    } else if let Some(reason) = body["reason"].as_str() {
        format!(", {reason}")
    } else if fields.is_empty() {
        String::new()
    } else {
        format!(", {}", fields.join(" "))
    };
    format!("{what}{detail}")
}

fn verb(request: &Request) -> &'static str {
    match request.method.as_str() {
        "DELETE" => "delete",
        "POST" => "create",
        "PUT" => "replace",
        _ => "patch",
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Harm {
    /// SIGKILL; the controller is started again.
    Kill,
    /// SIGSTOP for 60 s. The request, or its answer, goes on meanwhile.
    Stop,
    /// SIGSTOP for 60 s, in which the request, or its answer, is on its way.
    StopSlow,
    /// The connection is closed: the request, or its answer, is lost.
    Lose,
    /// It is answered 409.
    Conflict,
    /// It is answered 429.
    TooMany,
    /// It is answered 500.
    Error,
    /// It is answered 503.
    Unavailable,
}

impl Harm {
    /// Whether the controller stands still for a while.
    pub fn stops(self) -> bool {
        matches!(self, Self::Stop | Self::StopSlow)
    }

    fn act(self) -> Act {
        match self {
            Self::Kill => Act::Kill,
            Self::Stop => Act::Stop,
            Self::StopSlow => Act::StopAndHold,
            Self::Lose => Act::Drop,
            Self::Conflict => Act::Answer(StatusCode::CONFLICT),
            Self::TooMany => Act::Answer(StatusCode::TOO_MANY_REQUESTS),
            Self::Error => Act::Answer(StatusCode::INTERNAL_SERVER_ERROR),
            Self::Unavailable => Act::Answer(StatusCode::SERVICE_UNAVAILABLE),
        }
    }
}

/// Where a row interferes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// What goes wrong.
    pub harm: Harm,
    /// Before the server hears of the write, or after it has answered.
    pub moment: Moment,
    /// Which write of the story, from 1.
    pub write: u64,
}

impl Point {
    /// The rule for the proxies.
    pub fn rule(self) -> Rule {
        Rule::new(self.moment, self.harm.act()).matching(is_write).skip(self.write - 1)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = match self.moment {
            Moment::Before => "before",
            Moment::After => "after",
        };
        let harm = self.harm.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        write!(f, "{harm} {moment} {}", self.write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fault_proxy::Service;
    use http::Method;

    fn request(method: Method, path: &str, body: &str) -> Request {
        Request {
            service: Service::Kubernetes,
            method,
            path: path.into(),
            query: String::new(),
            body: body.to_owned().into(),
        }
    }

    #[test]
    fn a_heartbeat_and_the_lease_are_no_writes_of_the_story() {
        let vm = "/apis/defib.dev/v1alpha1/namespaces/vms/managedvms/victim/status";
        let beat = r#"{"status":{"heartbeat":{"bootID":"a"},"usage":{"cpuPercent":1}}}"#;
        assert!(!is_write(&request(Method::PATCH, vm, beat)));
        assert!(!is_write(&request(Method::GET, vm, "")));
        assert!(!is_write(&request(
            Method::PUT,
            "/apis/coordination.k8s.io/v1/namespaces/defib-system/leases/defib",
            "{}"
        )));
        assert!(is_write(&request(Method::PATCH, vm, r#"{"status":{"conditions":[]}}"#)));
        assert!(is_write(&request(
            Method::POST,
            "/apis/events.k8s.io/v1/namespaces/vms/events",
            "{}"
        )));
    }

    #[test]
    fn a_label_tells_the_steps_of_the_journal_apart() {
        let vm = "/apis/defib.dev/v1alpha1/namespaces/vms/managedvms/victim/status";
        let label_of = |body: &str| label(&request(Method::PATCH, vm, body));
        assert_eq!(
            label_of(r#"{"status":{"currentReset":{"name":"a"}}}"#),
            "patch ManagedVM, journal: intent"
        );
        assert_eq!(
            label_of(r#"{"status":{"currentReset":{"name":"a","upid":"UPID"}}}"#),
            "patch ManagedVM, journal: task known"
        );
        assert_eq!(label_of(r#"{"status":{"currentReset":null}}"#), "patch ManagedVM, journal: cleared");
    }
}
