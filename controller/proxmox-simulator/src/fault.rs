//! Faults: calls that fail on purpose.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A rule that makes matching requests fail. The first matching rule applies, one to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// What happens: drop-before, drop-after, status:CODE\[:TEXT\], status-after:CODE\[:TEXT\], delay:MS or delay-after:MS.
    #[arg(long)]
    pub kind: FaultKind,
    /// Only this method.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Only paths that contain this text (after percent-decoding, with the /api2/json prefix).
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_contains: Option<String>,
    /// Only requests received by this node.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// For so many requests; unlimited when absent.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

/// What happens to a request. "Before" means that nothing was done, "after" that everything was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The connection ends without an answer; nothing was done.
    DropBefore,
    /// The request is carried out, then the connection ends without an answer.
    DropAfter,
    /// This answer with an empty body; nothing was done.
    Status(u16, String),
    /// The request is carried out, then answered with this instead.
    StatusAfter(u16, String),
    /// The request is carried out and answered, but later.
    Delay(Duration),
    /// The request is carried out at once and answered later.
    DelayAfter(Duration),
}

impl Fault {
    /// A rule for all requests. Narrow it with the methods below.
    pub fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            method: None,
            path_contains: None,
            node: None,
            count: None,
        }
    }

    /// Only this method.
    #[must_use]
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.method = Some(method.into());
        self
    }

    /// Only paths that contain this text.
    #[must_use]
    pub fn path_contains(mut self, text: impl Into<String>) -> Self {
        self.path_contains = Some(text.into());
        self
    }

    /// Only requests received by this node.
    #[must_use]
    pub fn node(mut self, node: impl Into<String>) -> Self {
        self.node = Some(node.into());
        self
    }

    /// Only so many requests.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }

    fn matches(&self, method: &str, path: &str, node: &str) -> bool {
        self.count != Some(0)
            && self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && self.path_contains.as_deref().is_none_or(|wanted| path.contains(wanted))
            && self.node.as_deref().is_none_or(|wanted| wanted == node)
    }
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

/// More rules than any test needs; keeps a script in a loop from filling memory.
const MOST_FAULTS: usize = 1_000;

impl Faults {
    /// Adds a rule; `false` when there are too many.
    pub(crate) fn add(&mut self, fault: Fault) -> bool {
        let room = self.0.len() < MOST_FAULTS;
        if room {
            self.0.push(fault);
        }
        room
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn list(&self) -> Vec<Fault> {
        self.0.clone()
    }

    /// The fault for a request, counting it. Used-up rules are removed.
    pub(crate) fn take(&mut self, method: &str, path: &str, node: &str) -> Option<FaultKind> {
        let index = self.0.iter().position(|fault| fault.matches(method, path, node))?;
        let fault = self.0.get_mut(index)?;
        let kind = fault.kind.clone();
        if let Some(count) = &mut fault.count {
            *count -= 1;
            if *count == 0 {
                self.0.remove(index);
            }
        }
        Some(kind)
    }
}

impl FromStr for FaultKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, rest) = text.split_once(':').map_or((text, None), |(word, rest)| (word, Some(rest)));
        let millis = || {
            let number = rest.and_then(|rest| rest.parse().ok());
            number
                .map(Duration::from_millis)
                .ok_or_else(|| format!("`{text}`: give milliseconds, as in `{word}:3000`"))
        };
        let status = || {
            let (code, reason) = rest.map_or(("", ""), |rest| rest.split_once(':').unwrap_or((rest, "")));
            let code = code.parse().ok().filter(|code| (200..=599).contains(code));
            let code: u16 = code.ok_or_else(|| format!("`{text}`: give a status from 200 to 599, as in `{word}:596`"))?;
            let reason = if reason.is_empty() { default_reason(code) } else { reason };
            Ok::<_, String>((code, reason.to_owned()))
        };
        match word {
            "drop-before" if rest.is_none() => Ok(Self::DropBefore),
            "drop-after" if rest.is_none() => Ok(Self::DropAfter),
            "status" => status().map(|(code, reason)| Self::Status(code, reason)),
            "status-after" => status().map(|(code, reason)| Self::StatusAfter(code, reason)),
            "delay" => millis().map(Self::Delay),
            "delay-after" => millis().map(Self::DelayAfter),
            _ => Err(format!(
                "`{text}` is not one of: drop-before, drop-after, status:CODE, status-after:CODE, delay:MS, delay-after:MS"
            )),
        }
    }
}

/// What the proxy says when a test does not care.
fn default_reason(code: u16) -> &'static str {
    match code {
        595 => "No route to host",
        596 => "Connection timed out",
        597 => "Connection reset by peer",
        599 => "Too many redirections",
        _ => "simulated fault",
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DropBefore => f.write_str("drop-before"),
            Self::DropAfter => f.write_str("drop-after"),
            Self::Status(code, reason) => write!(f, "status:{code}:{reason}"),
            Self::StatusAfter(code, reason) => write!(f, "status-after:{code}:{reason}"),
            Self::Delay(time) => write!(f, "delay:{}", time.as_millis()),
            Self::DelayAfter(time) => write!(f, "delay-after:{}", time.as_millis()),
        }
    }
}

impl Serialize for FaultKind {
    fn serialize<S: Serializer>(&self, target: S) -> Result<S::Ok, S::Error> {
        target.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FaultKind {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        String::deserialize(source)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_applies_as_often_as_it_says() {
        let mut faults = Faults::default();
        faults.add(
            Fault::new(FaultKind::DropAfter)
                .method("POST")
                .path_contains("status/reset")
                .count(1),
        );
        let path = "/api2/json/nodes/pve1/qemu/101/status/reset";
        assert_eq!(faults.take("GET", path, "pve1"), None);
        assert_eq!(faults.take("POST", "/api2/json/nodes", "pve1"), None);
        assert_eq!(faults.take("POST", path, "pve1"), Some(FaultKind::DropAfter));
        assert_eq!(faults.take("POST", path, "pve1"), None);
        assert!(faults.list().is_empty());
    }

    #[test]
    fn kinds_survive_a_round_trip() {
        for text in [
            "drop-before",
            "drop-after",
            "status:596:Broken pipe",
            "status-after:599:x",
            "delay:30",
            "delay-after:5",
        ] {
            assert_eq!(text.parse::<FaultKind>().unwrap().to_string(), text);
        }
        assert_eq!("status:596".parse(), Ok(FaultKind::Status(596, "Connection timed out".to_owned())));
        for wrong in ["", "drop", "status", "status:9", "delay", "delay:soon", "drop-after:1"] {
            assert!(wrong.parse::<FaultKind>().is_err(), "{wrong}");
        }
    }
}
