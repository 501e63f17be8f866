//! What it means when Proxmox says no. The meaning is in the status line: status and reason phrase.

use crate::answer::{Answer, Asked};
use crate::error::Error;

impl Answer {
    /// What a failure means, as far as Proxmox said it. 596 to 599 are told as for a read; for a power
    /// action see [`Connection`](crate::Connection).
    pub(crate) fn to_error(&self, asked: Asked<'_>) -> Error {
        let detail = self.reason.clone();
        let path = asked.path.to_owned();
        match (self.status.as_u16(), asked.node) {
            (400, _) => self.bad_request(asked),
            (401, _) => Error::AuthFailed { detail },
            (403, _) => match privilege(&self.reason) {
                Some((path, privilege)) => Error::Forbidden {
                    path: path.to_owned(),
                    privilege: Some(privilege.to_owned()),
                },
                None => Error::Forbidden { path, privilege: None },
            },
            (500, _) if is_no_quorum(&self.reason) => Error::NoQuorum,
            (500, _) if is_not_running(&self.reason) => Error::NotRunning { vmid: asked.vmid },
            (500, Some(node)) if is_not_on_node(&self.reason) => Error::NotOnNode {
                node: node.to_owned(),
                vmid: asked.vmid,
                detail,
            },
            (595, node) => Error::NodeUnreachable {
                endpoint: self.endpoint.clone(),
                node: node.map(str::to_owned),
                detail,
            },
            (status @ 596..=599, _) => Error::ReadFailed {
                path,
                detail: format!("{status} {detail}"),
            },
            (status, _) => Error::Other { status, reason: detail },
        }
    }

    fn bad_request(&self, asked: Asked<'_>) -> Error {
        match (asked.upid, self.errors.get("upid")) {
            (Some(upid), Some(fault)) => Error::TaskUnknown {
                upid: upid.clone(),
                detail: fault.clone(),
            },
            _ if self.errors.is_empty() => Error::Other {
                status: self.status.as_u16(),
                reason: self.reason.clone(),
            },
            _ => Error::BadParam {
                errors: self.errors.clone(),
            },
        }
    }
}

/// `Permission check failed (/vms/100, VM.PowerMgmt)`.
fn privilege(reason: &str) -> Option<(&str, &str)> {
    let (path, privilege) = reason
        .strip_prefix("Permission check failed (")?
        .strip_suffix(')')?
        .split_once(", ")?;
    (path.starts_with('/') && !privilege.is_empty()).then_some((path, privilege))
}

fn is_no_quorum(reason: &str) -> bool {
    reason == "cluster not ready - no quorum?"
}

/// `VM 100 not running` and, from guest agent calls, `VM 100 is not running`.
fn is_not_running(reason: &str) -> bool {
    let Some(rest) = reason.strip_prefix("VM ") else { return false };
    let vmid = rest.strip_suffix(" is not running").or_else(|| rest.strip_suffix(" not running"));
    vmid.is_some_and(is_digits)
}

/// Reads say `Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist`, power actions
/// `unable to find configuration file for VM 100 on node 'pve1'`, and for a node that left the cluster
/// the look-up of its name fails: in each case the VM's node must be resolved again.
fn is_not_on_node(reason: &str) -> bool {
    let in_read = reason
        .strip_prefix("Configuration file 'nodes/")
        .is_some_and(|rest| rest.ends_with(".conf' does not exist"));
    let in_action = reason
        .strip_prefix("unable to find configuration file for VM ")
        .and_then(|rest| rest.split_once(" on node '"))
        .is_some_and(|(vmid, rest)| is_digits(vmid) && rest.ends_with('\''));
    let no_such_node = reason.starts_with("hostname lookup '") && reason.contains("' failed - ");
    in_read || in_action || no_such_node
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::answer::tests::{ASKED, answer};

    #[test]
    fn failures_are_told_apart_by_status_line() {
        let text = |text: &str| text.to_owned();
        let table: [(u16, &'static str, Error); 15] = [
            (401, "No ticket", Error::AuthFailed { detail: text("No ticket") }),
            (
                403,
                "Permission check failed (/vms/100, VM.PowerMgmt)",
                Error::Forbidden {
                    path: text("/vms/100"),
                    privilege: Some(text("VM.PowerMgmt")),
                },
            ),
            (
                403,
                "Permission check failed (/vms/100, VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted)",
                Error::Forbidden {
                    path: text("/vms/100"),
                    privilege: Some(text("VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted")),
                },
            ),
            (
                403,
                "Permission check failed (URI '/access/ticket' not available with API token, need proper ticket.",
                Error::Forbidden {
                    path: text(ASKED.path),
                    privilege: None,
                },
            ),
            (500, "VM 100 not running", Error::NotRunning { vmid: Some(100) }),
            (500, "VM 100 is not running", Error::NotRunning { vmid: Some(100) }),
            (500, "cluster not ready - no quorum?", Error::NoQuorum),
            (
                500,
                "Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist",
                Error::NotOnNode {
                    node: text("pve1"),
                    vmid: Some(100),
                    detail: text("Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist"),
                },
            ),
            (
                500,
                "unable to find configuration file for VM 100 on node 'pve1'",
                Error::NotOnNode {
                    node: text("pve1"),
                    vmid: Some(100),
                    detail: text("unable to find configuration file for VM 100 on node 'pve1'"),
                },
            ),
            (
                500,
                "hostname lookup 'pve1' failed - failed to get address info for: pve1: Name or service not known",
                Error::NotOnNode {
                    node: text("pve1"),
                    vmid: Some(100),
                    detail: text("hostname lookup 'pve1' failed - failed to get address info for: pve1: Name or service not known"),
                },
            ),
            (
                595,
                "No route to host",
                Error::NodeUnreachable {
                    endpoint: text("pve1:8006"),
                    node: Some(text("pve1")),
                    detail: text("No route to host"),
                },
            ),
            (
                596,
                "Broken pipe",
                Error::ReadFailed {
                    path: text(ASKED.path),
                    detail: text("596 Broken pipe"),
                },
            ),
            (
                500,
                "hook failed: VM 100 not running",
                Error::Other {
                    status: 500,
                    reason: text("hook failed: VM 100 not running"),
                },
            ),
            (
                400,
                "invalid url",
                Error::Other {
                    status: 400,
                    reason: text("invalid url"),
                },
            ),
            (
                501,
                "Method 'GET /foo' not implemented",
                Error::Other {
                    status: 501,
                    reason: text("Method 'GET /foo' not implemented"),
                },
            ),
        ];
        for (status, phrase, error) in table {
            assert_eq!(answer(status, Some(phrase), b"").to_error(ASKED), error, "{phrase}");
        }
    }

    #[test]
    fn faulty_parameters_are_named() {
        let body = br#"{"data":null,"errors":{"vmid":"type check ('integer') failed - got 'abc'"}}"#;
        let error = answer(400, Some("Parameter verification failed."), body).to_error(ASKED);
        let Error::BadParam { errors } = error else { panic!("{error:?}") };
        assert_eq!(errors["vmid"], "type check ('integer') failed - got 'abc'");

        let upid = "UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:".parse().unwrap();
        let asked = Asked {
            upid: Some(&upid),
            ..ASKED
        };
        let body = br#"{"data":null,"errors":{"upid":"no such task"}}"#;
        let error = answer(400, Some("Parameter verification failed."), body).to_error(asked);
        assert!(matches!(error, Error::TaskUnknown { .. }), "{error:?}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_patterns_panic(
            text in any::<String>(),
            near in "(VM |Permission check failed \\(|Configuration file 'nodes/)[0-9a-z/, ]{0,8}( not running|\\)|.conf' does not exist)",
        ) {
            for text in [text, near] {
                let _ = (privilege(&text), is_not_running(&text), is_not_on_node(&text));
            }
        }
    }
}
