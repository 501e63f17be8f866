//! Reads reports of agents from the body of a request, and names the exact field of what is wrong.
//!
//! `agents/report.schema.json` describes the same for the writers of agents. Where it says "never a reason to refuse", this takes more than it allows.

mod json;

pub use json::{MAX_DISKS, MAX_ITEMS};

use defib_api::AgentState;
use defib_core::heartbeat::{Disk, Report};
use json::{DiskFields, Json, RawBody, RawDisk, RawDisks, RawItem, RawReport, Slot};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// Largest number of bytes of memory or of a disk: 1 EiB. Beyond 8 EiB the Kubernetes API would not take the number, and one such VM could not be published.
pub const MAX_BYTES: u64 = 1 << 60;
/// Longest uptime: 100 years of 365 days, in seconds. More is a broken clock, and a boot time before the epoch could not be stored.
pub const MAX_UPTIME_SECONDS: f64 = 100.0 * 365.0 * 86_400.0;
/// Longest hostname, in characters; the rest is cut off.
const MAX_HOSTNAME: usize = 253;
/// Longest mount point, in characters.
const MAX_MOUNT: usize = 255;
/// Longest boot id and agent version, in characters.
const MAX_SHORT_TEXT: usize = 64;
/// A float holds every integer up to here exactly.
const MAX_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// The body is no JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not JSON in UTF-8: {0}")]
pub struct NotJson(String);

/// What is wrong with a report, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The field, such as `disks[2].usedBytes`; none when the report as a whole is meant.
    pub field: Option<String>,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{field}: {}", self.problem),
            None => f.write_str(&self.problem),
        }
    }
}

/// The reports of a request.
pub enum Body<'a> {
    /// One report.
    One(Item<'a>),
    /// An array of at most [`MAX_ITEMS`] reports.
    Many(Vec<Item<'a>>),
    /// An array of more.
    TooMany,
}

/// A report that was read but not checked.
pub struct Item<'a>(RawItem<'a>);

/// Reads the body of a request.
///
/// # Errors
/// When it is no JSON in UTF-8, with the line and column.
pub fn read(body: &[u8]) -> Result<Body<'_>, NotJson> {
    // Some editors on Windows write the mark in front; RFC 8259 lets a reader ignore it.
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    match serde_json::from_slice(body).map_err(|e| NotJson(e.to_string()))? {
        RawBody::One(report) => Ok(Body::One(Item(RawItem::Report(report)))),
        RawBody::Many(items) => Ok(Body::Many(items.into_iter().map(Item).collect())),
        RawBody::TooMany => Ok(Body::TooMany),
        RawBody::Other(other) => Ok(Body::One(Item(RawItem::Other(other)))),
    }
}

impl Item<'_> {
    /// The key that stands next to the report's fields.
    ///
    /// # Errors
    /// When there is one and it is no text.
    pub fn key(&self) -> Result<Option<&str>, Problem> {
        match self.report().map(|r| &r.key) {
            Ok(Some(Json::Text(key))) => Ok(Some(key)),
            Ok(Some(Json::Null) | None) | Err(_) => Ok(None),
            Ok(Some(other)) => Err(problem("key", format!("must be a text, not {}", other.shown()))),
        }
    }

    /// The machine that it comes from, as far as that can be read. A report of another machine is no sign of life, even where its other fields are wrong.
    pub fn machine_uuid(&self) -> Option<Uuid> {
        self.report().ok().and_then(|r| machine_uuid(&r.machine_uuid).ok()).flatten()
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<Report, Problem> {
        let raw = self.report()?;
        if let Some(name) = raw.twice {
            return Err(problem(name, "is there twice"));
        }
        let memory_total_bytes = bytes("memoryTotalBytes", &raw.memory_total_bytes)?;
        let memory_used_bytes = bytes("memoryUsedBytes", &raw.memory_used_bytes)?;
        if memory_total_bytes == 0 {
            return Err(problem("memoryTotalBytes", "must be over 0"));
        }
        at_most("memoryUsedBytes", memory_used_bytes, "memoryTotalBytes", memory_total_bytes)?;
        Ok(Report {
            hostname: information(&raw.hostname).map(|name| clean(name, MAX_HOSTNAME)),
            machine_uuid: machine_uuid(&raw.machine_uuid)?,
            cpu_percent: number("cpuPercent", &raw.cpu_percent, 100.0)?,
            memory_used_bytes,
            memory_total_bytes,
            disks: disks(raw.disks.as_ref())?,
            uptime_seconds: number("uptimeSeconds", &raw.uptime_seconds, MAX_UPTIME_SECONDS)?,
            boot_id: boot_id(&raw.boot_id)?,
            state: state(&raw.state)?,
            supervised: supervised(&raw.supervised)?,
            agent_version: agent_version(&raw.agent_version)?,
            sent_at_ms: information(&raw.sent_at)
                .and_then(|text| text.parse::<jiff::Timestamp>().ok())
                .map(|at| at.as_millisecond()),
        })
    }

    fn report(&self) -> Result<&RawReport<'_>, Problem> {
        match &self.0 {
            RawItem::Report(report) => Ok(report),
            RawItem::Other(other) => Err(Problem {
                field: None,
                problem: format!("a report must be a JSON object, not {}", other.shown()),
            }),
        }
    }
}

fn problem(field: impl Into<String>, problem: impl Into<String>) -> Problem {
    Problem {
        field: Some(field.into()),
        problem: problem.into(),
    }
}

/// A field that must be there.
fn required<'s, 'a>(field: &str, slot: &'s Slot<'a>) -> Result<&'s Json<'a>, Problem> {
    match slot {
        None | Some(Json::Null) => Err(problem(field, "is missing")),
        Some(value) => Ok(value),
    }
}

/// A field that may be absent.
fn optional<'s, 'a>(slot: &'s Slot<'a>) -> Option<&'s Json<'a>> {
    slot.as_ref().filter(|value| !matches!(value, Json::Null))
}

/// A text that is only shown: whatever is wrong with it, the report counts.
fn information<'s>(slot: &'s Slot<'_>) -> Option<&'s str> {
    match slot {
        Some(Json::Text(text)) => Some(text),
        _ => None,
    }
}

fn text<'s>(field: &str, value: &'s Json<'_>) -> Result<&'s str, Problem> {
    match value {
        Json::Text(text) => Ok(text),
        other => Err(problem(field, format!("must be a text, not {}", other.shown()))),
    }
}

fn number(field: &str, slot: &Slot<'_>, max: f64) -> Result<f64, Problem> {
    let value = required(field, slot)?;
    let number = match value {
        Json::Unsigned(n) => *n as f64,
        Json::Negative(n) => *n as f64,
        Json::Float(f) => *f,
        _ => f64::NAN,
    };
    if (0.0..=max).contains(&number) {
        // Adding zero makes a negative zero positive.
        Ok(number + 0.0)
    } else {
        Err(problem(field, format!("must be a number from 0 to {max}, not {}", value.shown())))
    }
}

/// A number of bytes. Some languages write whole numbers as 5.0, and to JSON Schema that is an integer.
fn bytes(field: &str, slot: &Slot<'_>) -> Result<u64, Problem> {
    let value = required(field, slot)?;
    let number = match value {
        Json::Unsigned(n) => *n,
        Json::Float(f) if f.fract() == 0.0 && (0.0..=MAX_EXACT_FLOAT).contains(f) => *f as u64,
        other => return Err(problem(field, format!("must be an integer >= 0, not {}", other.shown()))),
    };
    if number <= MAX_BYTES {
        Ok(number)
    } else {
        Err(problem(field, format!("must be at most {MAX_BYTES}, not {number}")))
    }
}

fn at_most(field: &str, used: u64, whole: &str, total: u64) -> Result<(), Problem> {
    if used <= total {
        Ok(())
    } else {
        Err(problem(field, format!("must be at most {whole} ({total}), not {used}")))
    }
}

fn disks(raw: Option<&RawDisks<'_>>) -> Result<Vec<Disk>, Problem> {
    match raw {
        None | Some(RawDisks::Other(Json::Null)) => Err(problem("disks", "is missing")),
        Some(RawDisks::Other(other)) => Err(problem("disks", format!("must be a list, not {}", other.shown()))),
        Some(RawDisks::List(_, count)) if *count > MAX_DISKS => {
            Err(problem("disks", format!("must have at most {MAX_DISKS} items, not {count}")))
        }
        Some(RawDisks::List(disks, _)) => disks.iter().enumerate().map(|(i, raw)| disk(i, raw)).collect(),
    }
}

fn disk(index: usize, raw: &RawDisk<'_>) -> Result<Disk, Problem> {
    let fields = match raw {
        RawDisk::Disk(fields) => fields,
        RawDisk::Other(other) => {
            return Err(problem(
                format!("disks[{index}]"),
                format!("must be an object, not {}", other.shown()),
            ));
        }
    };
    disk_fields(fields).map_err(|p| Problem {
        field: Some(format!("disks[{index}].{}", p.field.unwrap_or_default())),
        ..p
    })
}

fn disk_fields(raw: &DiskFields<'_>) -> Result<Disk, Problem> {
    if let Some(name) = raw.twice {
        return Err(problem(name, "is there twice"));
    }
    let mount = text("mount", required("mount", &raw.mount)?)?;
    let length = mount.chars().count();
    if !(1..=MAX_MOUNT).contains(&length) {
        return Err(problem("mount", format!("must have 1 to {MAX_MOUNT} characters, not {length}")));
    }
    let total_bytes = bytes("totalBytes", &raw.total_bytes)?;
    let used_bytes = bytes("usedBytes", &raw.used_bytes)?;
    at_most("usedBytes", used_bytes, "totalBytes", total_bytes)?;
    Ok(Disk {
        mount: clean(mount, MAX_MOUNT),
        used_bytes,
        total_bytes,
    })
}

/// The SMBIOS UUID. All zeros and all ones mean "not set" there, so they name no machine.
fn machine_uuid(slot: &Slot<'_>) -> Result<Option<Uuid>, Problem> {
    let Some(value) = optional(slot) else {
        return Ok(None);
    };
    let uuid = Uuid::try_parse(text("machineUUID", value)?)
        .map_err(|_| problem("machineUUID", "must be a UUID such as 0d0d0d0d-1111-2222-3333-444455556666"))?;
    Ok(Some(uuid).filter(|uuid| !uuid.is_nil() && !uuid.is_max()))
}

fn boot_id(slot: &Slot<'_>) -> Result<Arc<str>, Problem> {
    let id = text("bootID", required("bootID", slot)?)?;
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if plain && (1..=MAX_SHORT_TEXT).contains(&id.len()) {
        Ok(id.into())
    } else {
        Err(problem(
            "bootID",
            format!("must have 1 to {MAX_SHORT_TEXT} of the characters 0-9, A-Z, a-z and -"),
        ))
    }
}

fn state(slot: &Slot<'_>) -> Result<AgentState, Problem> {
    match required("state", slot)? {
        Json::Text(text) if text == "Running" => Ok(AgentState::Running),
        Json::Text(text) if text == "Stopping" => Ok(AgentState::Stopping),
        Json::Text(_) => Err(problem("state", "must be Running or Stopping")),
        other => Err(problem("state", format!("must be Running or Stopping, not {}", other.shown()))),
    }
}

fn supervised(slot: &Slot<'_>) -> Result<bool, Problem> {
    match optional(slot) {
        None => Ok(false),
        Some(Json::Bool(b)) => Ok(*b),
        Some(other) => Err(problem("supervised", format!("must be true or false, not {}", other.shown()))),
    }
}

fn agent_version(slot: &Slot<'_>) -> Result<Option<Arc<str>>, Problem> {
    let Some(value) = optional(slot) else {
        return Ok(None);
    };
    let version = text("agentVersion", value)?;
    let length = version.chars().count();
    if length <= MAX_SHORT_TEXT {
        Ok(Some(clean(version, MAX_SHORT_TEXT)))
    } else {
        Err(problem(
            "agentVersion",
            format!("must have at most {MAX_SHORT_TEXT} characters, not {length}"),
        ))
    }
}

/// A text from a guest as it may be shown: control characters, which could steer a terminal, are replaced, and what is too long is cut off.
fn clean(text: &str, max: usize) -> Arc<str> {
    if text.len() <= max && !text.chars().any(char::is_control) {
        return text.into();
    }
    text.chars()
        .take(max)
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect::<String>()
        .into()
}

#[cfg(test)]
mod tests;
