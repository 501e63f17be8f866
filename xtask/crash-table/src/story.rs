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

/// A write that the story is made of: what the reconcile of the VM that hangs sends to Kubernetes and to Proxmox, in the order in which it must. Not the
/// [others](beside), which come when they come.
pub fn is_write(request: &Request) -> bool {
    request.is_write() && beside(request).is_none() && !request.path.contains(BYSTANDER)
}

/// The writes beside the story, by the clock or by other reconciles.
pub const BESIDE: [&str; 3] = ["lease renewed", "heartbeat published", "HealthPolicy counted"];

/// Which of those it is.
fn beside(request: &Request) -> Option<&'static str> {
    let fields = request.status_fields();
    let is_heartbeat = !fields.is_empty() && fields.iter().all(|field| field == "heartbeat" || field == "usage");
    let [lease, heartbeat, policy] = BESIDE;
    match request.path.as_str() {
        _ if !request.is_write() => None,
        path if path.contains("/leases") => Some(lease),
        path if path.contains("/healthpolicies/") || path.contains("/proxmoxclusters/") => Some(policy),
        _ => is_heartbeat.then_some(heartbeat),
    }
}

/// A write in few words: what it is done to, and what it changes. The same words over and over are numbered by whoever lists them.
pub fn label(request: &Request) -> String {
    if let Some(name) = beside(request) {
        return name.to_owned();
    }
    let path = request.path.trim_end_matches("/status");
    // Of Proxmox's paths, the last word but one is `status`.
    let object: Vec<&str> = path.rsplit('/').take(2).collect();
    let what = match object.as_slice() {
        ["events", ..] => "create Event".to_owned(),
        ["vmresets", ..] => "create VMReset".to_owned(),
        [_, "vmresets"] => format!("{} VMReset", verb(request)),
        [_, "managedvms"] => format!("{} ManagedVM", verb(request)),
        [_, "events"] => "patch Event".to_owned(),
        [action, "status"] => format!("POST {action} to Proxmox"),
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
    } else if of("conditions") {
        ", conditions".to_owned()
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

/// One of the story's writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Its number in the story as it was played first; those beside the story come last.
    pub number: usize,
    /// What it is.
    pub label: String,
    /// Which of those with this label, from 1.
    pub occurrence: u64,
}

impl Write {
    /// Conditions, events and counts may be fewer in one story than in another, by what a reconcile sees at once, and so may be what is written twice. All
    /// else is in each.
    pub fn is_in_each(&self) -> bool {
        self.occurrence == 1 && !["conditions", "Event", "HealthPolicy"].iter().any(|word| self.label.contains(word))
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)?;
        match self.occurrence {
            1 => Ok(()),
            n => write!(f, " ({n})"),
        }
    }
}

/// Names the writes of a story by what they are, so that another story is interfered with at the same place, and not at the same count.
pub fn named(labels: &[String]) -> Vec<Write> {
    let beside = BESIDE.iter().map(|name| (*name).to_owned());
    let all: Vec<String> = labels.iter().cloned().chain(beside).collect();
    let before = |index: usize, label: &String| all.iter().take(index).filter(|other| *other == label).count();
    (0..)
        .zip(&all)
        .map(|(index, label)| Write {
            number: index + 1,
            label: label.clone(),
            occurrence: before(index, label) as u64 + 1,
        })
        .collect()
}

/// Where a row interferes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// What goes wrong.
    pub harm: Harm,
    /// Before the server hears of the write, or after it has answered.
    pub moment: Moment,
    /// Which write.
    pub write: Write,
}

impl Point {
    /// The rule for the proxies.
    pub fn rule(&self) -> Rule {
        let wanted = self.write.label.clone();
        Rule::new(self.moment, self.harm.act())
            .matching(move |request| request.is_write() && !request.path.contains(BYSTANDER) && label(request) == wanted)
            .skip(self.write.occurrence - 1)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment = match self.moment {
            Moment::Before => "before",
            Moment::After => "after",
        };
        let harm = self.harm.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        write!(f, "{harm}, {moment}")
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
    fn the_same_words_again_are_another_write() {
        let writes = named(&["a".to_owned(), "b".to_owned(), "a".to_owned()]);
        let shown: Vec<String> = writes.iter().map(|w| format!("{} {w}", w.number)).collect();
        assert_eq!(shown[..3], ["1 a", "2 b", "3 a (2)"]);
        assert_eq!(shown.len(), 3 + BESIDE.len(), "and those beside the story");
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
