//! Unique process ids of tasks.

use std::fmt;
use std::str::FromStr;

use crate::config::is_node_name;

/// `UPID:{node}:{pid}:{pstart}:{starttime}:{type}:{id}:{user}:`, numbers in upper-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upid {
    /// Node the worker runs on. Ask that node for the task, not the VM's present one.
    pub node: String,
    /// Process id of the worker.
    pub pid: u32,
    /// Start time of the worker in jiffies since the node booted.
    pub pstart: u64,
    /// Start time in seconds since the epoch.
    pub starttime: i64,
    /// Task type, for example `qmreset`.
    pub kind: String,
    /// What it works on: a vmid, or empty.
    pub id: String,
    /// `user@realm` or `user@realm!token`.
    pub user: String,
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            node,
            pid,
            pstart,
            starttime,
            kind,
            id,
            user,
        } = self;
        write!(f, "UPID:{node}:{pid:08X}:{pstart:08X}:{starttime:08X}:{kind}:{id}:{user}:")
    }
}

/// A text that is not a UPID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse worker upid")]
pub struct ParseUpidError;

impl FromStr for Upid {
    type Err = ParseUpidError;

    fn from_str(text: &str) -> Result<Self, ParseUpidError> {
        let fields: Vec<&str> = text.split(':').collect();
        let ["UPID", node, pid, pstart, starttime, kind, id, user, ""] = fields[..] else {
            return Err(ParseUpidError);
        };
        let plain = |text: &str| !text.contains(['/', ' ', '\t', '\n']);
        if !is_node_name(node) || kind.is_empty() || user.is_empty() || ![kind, id, user].into_iter().all(plain) {
            return Err(ParseUpidError);
        }
        Ok(Self {
            node: node.to_owned(),
            pid: u32::try_from(hex(pid, 8..=8)?).map_err(|_| ParseUpidError)?,
            pstart: hex(pstart, 8..=9)?,
            starttime: i64::try_from(hex(starttime, 8..=8)?).map_err(|_| ParseUpidError)?,
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: user.to_owned(),
        })
    }
}

fn hex(text: &str, digits: std::ops::RangeInclusive<usize>) -> Result<u64, ParseUpidError> {
    if !digits.contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ParseUpidError);
    }
    u64::from_str_radix(text, 16).map_err(|_| ParseUpidError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_upid_survives_a_round_trip() {
        let text = "UPID:pve1:00001ED0:03569B3F:66340E53:qmreset:100:svc@pve!ctl:";
        let upid: Upid = text.parse().unwrap();
        assert_eq!((upid.pid, upid.pstart, upid.starttime), (0x1ED0, 0x0356_9B3F, 0x6634_0E53));
        assert_eq!(upid.user, "svc@pve!ctl");
        assert_eq!(upid.to_string(), text);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "UPID:pve1:1ED0:03569B3F:66340E53:qmreset:100:svc@pve:",
            "UPID:pve1:00001ED0:03569B3F:66340E53:qmreset:100:svc@pve",
            "UPID:pve_1:00001ED0:03569B3F:66340E53:qmreset:100:svc@pve:",
            "UPID:pve1:00001ED0:03569B3F:66340E53::100:svc@pve:",
            "UPID:pve1:0000+ED0:03569B3F:66340E53:qmreset:100:svc@pve:",
        ] {
            assert_eq!(text.parse::<Upid>(), Err(ParseUpidError), "{text}");
        }
    }
}
