//! The record of what was asked of the cluster and what happened to guests: the ground truth tests judge by.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::text_enum::text_enum;
use crate::vm::{GuestState, Vm};

/// Entries of each kind kept in memory. The file keeps all.
const KEPT: usize = 10_000;

/// A write request (anything but GET) that reached a node, whatever came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WriteRequest {
    /// Order of arrival, from 1, without gaps.
    pub sequence: u64,
    /// When the header was complete.
    pub time: Timestamp,
    /// The connection it came on.
    pub connection: ConnectionFacts,
    /// Node that received it.
    pub entry: String,
    /// Method.
    pub method: String,
    /// Path after percent-decoding, without the query.
    pub path: String,
    /// Node named in the path.
    pub node: Option<String>,
    /// VM named in the path.
    pub vmid: Option<u32>,
    /// Last segment of the path, for example `reset`.
    pub action: String,
    /// Id of the token, when the secret was right.
    pub token: Option<String>,
    /// What the guest was doing when the request arrived.
    pub guest: Option<GuestState>,
    /// Whether the guest was up and executing then.
    pub healthy: Option<bool>,
    /// Boot id of the guest then.
    pub boot_id: Option<Uuid>,
    /// The fault that was injected.
    pub fault: Option<String>,
    /// Whether the request passed all checks and was carried out (the answer may still be an error).
    pub executed: bool,
    /// When the answer was ready.
    pub answered: Option<Timestamp>,
    /// Status of the answer; absent while there is none, and when the connection was dropped instead.
    pub status: Option<u16>,
    /// Reason phrase of the answer.
    pub reason: Option<String>,
    /// The task it started, also when the answer did not say so.
    pub upid: Option<String>,
    /// How that task ended, so far. Not in the file: it is written when the request is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exitstatus: Option<String>,
}

/// Where a request came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionFacts {
    /// Number of the connection, from 1.
    pub id: u64,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// When its TLS handshake was complete.
    pub secured: Timestamp,
    /// Which request on this connection it is, from 1.
    pub request: u32,
}

text_enum! {
    /// What happened to a guest.
    GuestEventKind {
        /// QEMU started.
        PowerOn = "power-on",
        /// QEMU ended.
        PowerOff = "power-off",
        /// QEMU reset the machine.
        Reset = "reset",
        /// The guest restarted itself.
        GuestReboot = "guest-reboot",
        /// QEMU stopped executing.
        Pause = "pause",
        /// QEMU executes again.
        Resume = "resume",
        /// The guest froze.
        Hang = "hang",
        /// A frozen guest goes on.
        Thaw = "thaw",
        /// The guest died under a live QEMU.
        Crash = "crash",
        /// The VM moved to another node.
        Migrate = "migrate",
        /// The boot delay is over.
        Booted = "booted",
        /// The command ended by itself.
        AgentExited = "agent-exited",
        /// The VM was replaced by another with the same id.
        Recreate = "recreate",
    }
}

/// Something that happened to a guest, at the moment it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuestEvent {
    /// Order, from 1, without gaps.
    pub sequence: u64,
    /// When.
    pub time: Timestamp,
    /// To which VM.
    pub vmid: u32,
    /// What.
    pub event: GuestEventKind,
    /// UPID of the task that did it; `control` for the test's own doing, `ha`, `node` or `guest`.
    pub cause: String,
    /// What the guest was doing before.
    pub before: GuestState,
    /// Whether it was up and executing before.
    pub healthy_before: bool,
    /// Its boot id before.
    pub boot_id_before: Option<Uuid>,
    /// What it is doing after.
    pub after: GuestState,
    /// Its boot id after.
    pub boot_id_after: Option<Uuid>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Line<'a> {
    Request(&'a WriteRequest),
    Guest(&'a GuestEvent),
}

/// Both records, in memory and appended to a file as JSON lines (`kind` is `request` or `guest`).
#[derive(Debug)]
pub(crate) struct Audit {
    file: File,
    requests: VecDeque<WriteRequest>,
    next_request: u64,
    events: VecDeque<GuestEvent>,
    next_event: u64,
}

impl Audit {
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            file,
            requests: VecDeque::new(),
            next_request: 1,
            events: VecDeque::new(),
            next_event: 1,
        })
    }

    /// Records the arrival of a request, and returns its number.
    pub(crate) fn arrived(&mut self, mut request: WriteRequest) -> u64 {
        request.sequence = self.next_request;
        self.next_request += 1;
        if self.requests.len() == KEPT {
            self.requests.pop_front();
        }
        let sequence = request.sequence;
        self.requests.push_back(request);
        sequence
    }

    /// Changes what is recorded of a request.
    pub(crate) fn note(&mut self, sequence: u64, change: impl FnOnce(&mut WriteRequest)) {
        if let Some(request) = self.requests.iter_mut().rev().find(|request| request.sequence == sequence) {
            change(request);
        }
    }

    /// Records the end of a request: answered, or dropped when there is no answer.
    pub(crate) fn answered(&mut self, sequence: u64, answer: Option<(u16, String)>) {
        self.note(sequence, |request| {
            request.answered = Some(Timestamp::now());
            (request.status, request.reason) = answer.unzip();
        });
        let line = self
            .requests
            .iter()
            .rev()
            .find(|request| request.sequence == sequence)
            .map(Line::Request);
        append(&self.file, line.as_ref());
    }

    /// Records what happened to a guest, from the VM as it is now and as it was before.
    pub(crate) fn guest(&mut self, vm: &Vm, event: GuestEventKind, cause: &str, before: (GuestState, Option<Uuid>)) {
        let event = GuestEvent {
            sequence: self.next_event,
            time: Timestamp::now(),
            vmid: vm.config.vmid,
            event,
            cause: cause.to_owned(),
            before: before.0,
            healthy_before: before.0.healthy(),
            boot_id_before: before.1,
            after: vm.guest_state(),
            boot_id_after: vm.guest.boot_id(),
        };
        self.next_event += 1;
        append(&self.file, Some(&Line::Guest(&event)));
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    pub(crate) fn requests(&self) -> Vec<WriteRequest> {
        self.requests.iter().cloned().collect()
    }

    pub(crate) fn events(&self) -> Vec<GuestEvent> {
        self.events.iter().cloned().collect()
    }
}

fn append(mut file: &File, line: Option<&Line<'_>>) {
    let Some(line) = line else { return };
    let written = serde_json::to_string(line).map_err(std::io::Error::other).and_then(|mut text| {
        text.push('\n');
        // One write a line, so that readers never see a part of one.
        file.write_all(text.as_bytes())
    });
    if let Err(error) = written {
        tracing::error!(%error, "cannot append to the audit file");
    }
}
