//! Unique process ids: how Proxmox names a task.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::text::is_node_name;

/// Longest UPID taken. A node name has at most 63 characters and the id of a token 256; the rest is short. It is stored whole: the schemas of ManagedVM and
/// VMReset hold as much.
const MAX_LENGTH: usize = 512;

/// The name of a task, `UPID:{node}:{pid}:{pstart}:{starttime}:{type}:{id}:{user}:`.
///
/// It is kept and shown exactly as Proxmox wrote it: the task's file on the node has that name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upid(String);

impl Upid {
    /// The node the task runs on, which is the one to ask about it, wherever the VM is by now.
    pub fn node(&self) -> &str {
        self.field(1)
    }

    /// When the task began, by that node's clock, in whole seconds.
    pub fn started(&self) -> Timestamp {
        // Checked when it was parsed; 32 bits of seconds are always within a Timestamp's range.
        hex(self.field(4), 8..=8)
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The kind of task, such as `qmreset`.
    pub fn kind(&self) -> &str {
        self.field(5)
    }

    /// What it works on: a VM's number for VM tasks, otherwise anything, also nothing.
    pub fn id(&self) -> &str {
        self.field(6)
    }

    /// Who started it: `user@realm`, or `user@realm!name` for an API token.
    pub fn user(&self) -> &str {
        self.field(7)
    }

    fn field(&self, index: usize) -> &str {
        self.0.split(':').nth(index).unwrap_or_default()
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Upid {
    type Err = UpidError;

    fn from_str(text: &str) -> Result<Self, UpidError> {
        if text.len() > MAX_LENGTH {
            return Err(UpidError("too long"));
        }
        let fields: Vec<&str> = text.split(':').collect();
        let [head, node, pid, pstart, starttime, kind, id, user, tail] = fields.as_slice() else {
            return Err(UpidError("not nine fields"));
        };
        if *head != "UPID" || !tail.is_empty() {
            return Err(UpidError("it must begin with UPID: and end with a colon"));
        }
        if !is_node_name(node) {
            return Err(UpidError("bad node name"));
        }
        hex(pid, 8..=8).ok_or(UpidError("bad process id"))?;
        hex(pstart, 8..=9).ok_or(UpidError("bad process start"))?;
        hex(starttime, 8..=8).ok_or(UpidError("bad start time"))?;
        if !is_field(kind) || kind.is_empty() || !is_field(id) || !is_field(user) || user.is_empty() {
            return Err(UpidError("bad type, id or user"));
        }
        Ok(Self(text.to_owned()))
    }
}

fn hex(digits: &str, length: std::ops::RangeInclusive<usize>) -> Option<i64> {
    // from_str_radix would also take a sign.
    let all_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    (length.contains(&digits.len()) && all_hex)
        .then(|| i64::from_str_radix(digits, 16).ok())
        .flatten()
}

fn is_field(field: &str) -> bool {
    !field.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
}

impl TryFrom<String> for Upid {
    type Error = UpidError;

    fn try_from(text: String) -> Result<Self, UpidError> {
        text.parse()
    }
}

impl From<Upid> for String {
    fn from(upid: Upid) -> Self {
        upid.0
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a UPID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UPID: {0}")]
pub struct UpidError(&'static str);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RESET: &str = "UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:";

    #[test]
    fn parses_what_proxmox_writes() {
        let upid: Upid = RESET.parse().unwrap();
        assert_eq!(upid.node(), "pve1");
        assert_eq!(upid.kind(), "qmreset");
        assert_eq!(upid.id(), "100");
        assert_eq!(upid.user(), "svc@pve!ctl");
        assert_eq!(upid.started().as_second(), 0x6633_A1E3);
        assert_eq!(upid.to_string(), RESET);
        // A process start of nine digits (host up for long), an empty id, lower case digits.
        for text in [
            "UPID:pve1:00001ED0:10003568B:6633A1E3:qmreset:100:root@pam:",
            "UPID:pve1:00001ED0:0003568B:6633A1E3:aptupdate::root@pam:",
            "UPID:pve1:00001ed0:0003568b:6633a1e3:qmreset:100:root@pam:",
        ] {
            assert_eq!(text.parse::<Upid>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_a_upid() {
        for text in [
            "",
            "UPID",
            "UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl",
            "UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl::",
            "upid:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:",
            "UPID:../pve:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:",
            "UPID:pve1:+0001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:",
            "UPID:pve1:00001ED0:0003568B:6633A1E33:qmreset:100:svc@pve!ctl:",
            "UPID:pve1:00001ED0:0003568B:6633A1E3::100:svc@pve!ctl:",
            "UPID:pve1:00001ED0:0003568B:6633A1E3:qm/reset:100:svc@pve!ctl:",
            "UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc @pve!ctl:",
            "UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:\n",
        ] {
            assert!(text.parse::<Upid>().is_err(), "{text:?}");
        }
        assert!(
            format!("{}{}:", &RESET[..RESET.len() - 1], "x".repeat(600))
                .parse::<Upid>()
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = text.parse::<Upid>();
        }

        #[test]
        fn near_misses_do_not_panic_and_round_trip(
            text in "UPID:[a-z0-9.-]{0,8}:[0-9A-Fa-f]{7,9}:[0-9A-F]{7,10}:[0-9A-F]{8}:[a-z:/]{0,8}:[0-9]{0,4}:[^\\n]{0,12}:",
        ) {
            if let Ok(upid) = text.parse::<Upid>() {
                prop_assert_eq!(upid.to_string(), text);
                prop_assert!(!upid.user().contains(['/', ':']));
            }
        }
    }
}
