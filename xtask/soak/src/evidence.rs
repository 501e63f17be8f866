//! What was logged in a run, by those who cannot be wrong: what Proxmox was asked and what happened to guests (pve-sim), what was written to Kubernetes
//! (the API server), which reports were taken (the agents), and what the soak itself did.

use crate::fleet::{Limits, Role};
use crate::sample::Sample;
use jiff::{SignedDuration, Timestamp};
use pve_sim::{GuestEvent, WriteRequest};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Everything that an audit looks at.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What the policies allow, by name.
    pub policies: BTreeMap<String, Limits>,
    /// Resets under way that are allowed in all of Defib.
    pub max_in_flight: u32,
    /// Share of all VMs that may be unhealthy, in percent.
    pub max_unhealthy: u32,
    /// The VMs, by VMID.
    pub vms: BTreeMap<u32, Vm>,
    /// Each reset that Proxmox was asked for, in the order of arrival.
    pub posts: Vec<WriteRequest>,
    /// What happened to guests, in order.
    pub guests: Vec<GuestEvent>,
    /// Reports that were taken, by VMID, in order.
    pub heard: BTreeMap<u32, Vec<Heard>>,
    /// What the controller wrote of resets, in the order in which it was done.
    pub writes: Vec<Write>,
    /// What the soak did, in order.
    pub deeds: Vec<Deed>,
    /// The controller's size, second by second.
    pub samples: Vec<Sample>,
    /// How everything stands at the end.
    pub end: End,
    /// Lines of the controller's log that tell of a panic.
    pub panics: Vec<String>,
}

/// A VM of the run.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Name of its ManagedVM.
    pub name: String,
    /// Its policy.
    pub policy: String,
    /// Why it is there.
    pub role: Role,
}

/// A report that was taken. Defib received it between these two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Before it was sent.
    pub sent: Timestamp,
    /// After the answer.
    pub answered: Timestamp,
}

/// A write of the controller that the API server took.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// When the request came.
    pub received: Timestamp,
    /// When it was answered.
    pub done: Timestamp,
    /// What was written.
    pub what: Written,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// `status.currentReset` of a ManagedVM.
    Journal {
        /// The ManagedVM.
        vm: String,
        /// The reset under way; none when it was cleared.
        current: Option<Journal>,
    },
    /// A VMReset was created (or found to be there).
    Created(String),
    /// A VMReset was deleted.
    Deleted(String),
    /// A VMReset was written to be finished.
    Finished(String),
}

/// What stands in the journal.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journal {
    /// Name of the VMReset.
    pub name: String,
    /// When it was decided.
    pub intent_time: Timestamp,
}

/// Something that the soak did.
#[derive(Clone, Debug, PartialEq)]
pub struct Deed {
    /// When it was done; for what takes time, when it began.
    pub time: Timestamp,
    /// What.
    pub what: Did,
}

/// What the soak did.
#[derive(Clone, Debug, PartialEq)]
pub enum Did {
    /// Started the controller.
    Started,
    /// Killed the controller.
    Killed,
    /// Found that the controller had ended by itself; the end of its log.
    Died(String),
    /// Took the API server away. What it had answered at that moment may be missing in its log.
    ApiDown,
    /// The API server is back.
    ApiUp,
    /// Made Proxmox fail, in these words.
    Proxmox(String),
    /// Set the lock of a VM.
    Locked(u32),
    /// Began to remove the lock of a VM.
    Unlocked(u32),
    /// Deleted the ManagedVM of a VM.
    Deleted(u32),
    /// Stopped breaking things.
    Calm,
}

/// How everything stands at the end.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// The ManagedVMs.
    pub vms: Vec<EndVm>,
    /// The VMResets.
    pub resets: Vec<EndReset>,
    /// VMIDs whose guests run.
    pub running: Vec<u32>,
}

/// A ManagedVM at the end.
#[derive(Clone, Debug)]
pub struct EndVm {
    /// VMID.
    pub vmid: u32,
    /// Reason of Ready.
    pub state: String,
    /// Reason of ResetAllowed.
    pub held: String,
    /// The reset that is still under way.
    pub current: Option<String>,
}

/// A VMReset at the end.
#[derive(Clone, Debug, Default)]
pub struct EndReset {
    /// Its name.
    pub name: String,
    /// Its ManagedVM.
    pub vm: String,
    /// How it ended.
    pub outcome: Option<String>,
    /// The task of Proxmox.
    pub upid: Option<String>,
    /// When it was decided.
    pub intent_time: Option<Timestamp>,
    /// When it ended.
    pub end_time: Option<Timestamp>,
    /// The boot that proved the recovery.
    pub boot_id_after: Option<String>,
}

/// Seconds from one time to another; negative when they are the other way round.
pub fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// So many seconds before a time.
pub fn before(time: Timestamp, seconds: f64) -> Timestamp {
    let back = SignedDuration::try_from_secs_f64(seconds).unwrap_or_default();
    time.checked_sub(back).unwrap_or(Timestamp::MIN)
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Line {
    Request(Box<WriteRequest>),
    Guest(Box<GuestEvent>),
}

/// Reads pve-sim's `audit.jsonl`: resets asked for, and what happened to guests.
///
/// # Errors
/// When a line is not what pve-sim writes.
pub fn read_simulator(text: &str) -> anyhow::Result<(Vec<WriteRequest>, Vec<GuestEvent>)> {
    let (mut posts, mut guests) = (Vec::new(), Vec::new());
    for line in text.lines() {
        match serde_json::from_str(line)? {
            Line::Request(request) if request.action == "reset" => posts.push(*request),
            Line::Request(_) => {}
            Line::Guest(event) => guests.push(*event),
        }
    }
    // Requests are in the file in the order of their answers.
    posts.sort_by_key(|post| post.sequence);
    Ok((posts, guests))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuditLine {
    verb: String,
    object_ref: ObjectRef,
    response_status: Option<ResponseStatus>,
    #[serde(default)]
    request_object: Value,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
}

#[derive(Deserialize)]
struct ObjectRef {
    resource: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    subresource: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// What [`AUDIT_POLICY`] lets the API server log: the controller's writes of ManagedVMs' status and of VMResets, with their bodies.
pub const AUDIT_POLICY: &str = r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"omitManagedFields":true,"rules":[
{"level":"Request","users":["system:serviceaccount:defib-system:defib"],"verbs":["create","patch","delete"],
 "resources":[{"group":"defib.dev","resources":["managedvms/status","vmresets","vmresets/status"]}]},
{"level":"None"}]}"#;

/// One line of the API server's audit log; none when it tells of no write that was taken and that the audit looks at. Most lines are heartbeats: they are told
/// by their text, which is faster than reading them.
pub fn read_write(line: &str) -> Option<Write> {
    if !line.contains("\"currentReset\"") && !line.contains("\"vmresets\"") {
        return None;
    }
    let line: AuditLine = serde_json::from_str(line).ok()?;
    let code = line.response_status.map_or(0, |status| status.code);
    let taken = (200..300).contains(&code);
    let ObjectRef {
        resource,
        name,
        subresource,
    } = line.object_ref;
    let what = match (resource.as_str(), subresource.as_str(), line.verb.as_str()) {
        ("managedvms", "status", "patch") if taken => {
            let current = line.request_object.get("status")?.get("currentReset")?;
            Written::Journal {
                vm: name,
                current: serde_json::from_value(current.clone()).ok()?,
            }
        }
        // A conflict says that it is there already.
        ("vmresets", "", "create") if taken || code == 409 => {
            let made = line.request_object.get("metadata")?.get("name")?.as_str()?;
            Written::Created(made.to_owned())
        }
        ("vmresets", "", "delete") if taken => Written::Deleted(name),
        ("vmresets", "status", "patch") if taken && line.request_object.get("status")?.get("state")? == "Finished" => {
            Written::Finished(name)
        }
        _ => return None,
    };
    Some(Write {
        received: line.request_received_timestamp,
        done: line.stage_timestamp,
        what,
    })
}

/// The ManagedVMs at the end, from their JSON.
pub fn end_vm(object: &Value) -> EndVm {
    let vmid = object["spec"]["proxmox"]["vmid"].as_u64().and_then(|id| u32::try_from(id).ok());
    EndVm {
        vmid: vmid.unwrap_or_default(),
        state: xtask::lab::condition(object, "Ready").0,
        held: xtask::lab::condition(object, "ResetAllowed").0,
        current: object["status"]["currentReset"]["name"].as_str().map(str::to_owned),
    }
}

/// The VMResets at the end, from their JSON.
pub fn end_reset(object: &Value) -> EndReset {
    let status = &object["status"];
    let text = |field: &Value| field.as_str().map(str::to_owned);
    let time = |field: &Value| field.as_str().and_then(|text| text.parse().ok());
    EndReset {
        name: text(&object["metadata"]["name"]).unwrap_or_default(),
        vm: text(&object["spec"]["vmRef"]["name"]).unwrap_or_default(),
        outcome: text(&status["outcome"]),
        upid: text(&status["upid"]),
        intent_time: time(&status["intentTime"]),
        end_time: time(&status["endTime"]),
        boot_id_after: text(&status["bootIDAfter"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"{"kind":"Event","level":"Request","stage":"ResponseComplete","requestReceivedTimestamp":"2026-01-01T00:00:01.000000Z","stageTimestamp":"2026-01-01T00:00:01.500000Z","#;

    fn write(rest: &str) -> Option<Written> {
        read_write(&format!("{HEAD}{rest}}}")).map(|write| write.what)
    }

    #[test]
    fn the_journal_is_read_from_patches_that_were_taken() {
        let patch = |code: u16, status: &str| {
            format!(
                r#""verb":"patch","objectRef":{{"resource":"managedvms","name":"vm-1","subresource":"status"}},"responseStatus":{{"code":{code}}},"requestObject":{{"status":{status}}}"#
            )
        };
        let set = r#"{"currentReset":{"name":"vm-1-x-1","holder":"defib-0","intentTime":"2026-01-01T00:00:00.900Z","attempt":1}}"#;
        let Some(Written::Journal {
            vm,
            current: Some(current),
        }) = write(&patch(200, set))
        else {
            panic!("no journal");
        };
        assert_eq!((vm.as_str(), current.name.as_str()), ("vm-1", "vm-1-x-1"));
        assert_eq!(write(&patch(409, set)), None);
        let cleared = write(&patch(200, r#"{"currentReset":null,"episode":null}"#));
        assert_eq!(
            cleared,
            Some(Written::Journal {
                vm: "vm-1".into(),
                current: None
            })
        );
        assert_eq!(write(&patch(200, r#"{"heartbeat":{}}"#)), None);
    }

    #[test]
    fn records_are_created_finished_and_deleted() {
        let created = r#""verb":"create","objectRef":{"resource":"vmresets"},"responseStatus":{"code":201},"requestObject":{"metadata":{"name":"a"}}"#;
        assert_eq!(write(created), Some(Written::Created("a".into())));
        let status = r#""verb":"patch","objectRef":{"resource":"vmresets","name":"a","subresource":"status"},"responseStatus":{"code":200},"requestObject":{"status":{"state":"Finished"}}"#;
        assert_eq!(write(status), Some(Written::Finished("a".into())));
        assert_eq!(write(&status.replace("Finished", "Running")), None);
        let deleted = r#""verb":"delete","objectRef":{"resource":"vmresets","name":"a"},"responseStatus":{"code":200}"#;
        assert_eq!(write(deleted), Some(Written::Deleted("a".into())));
    }
}
