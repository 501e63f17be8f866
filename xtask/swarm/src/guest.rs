//! What the guest of an agent does, as far as the agent is concerned.

use crate::{Shared, Swarm};
use jiff::Timestamp;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// One boot of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Its boot id.
    pub id: Uuid,
    /// When it began: the uptime counts from here.
    pub since: Instant,
}

impl Boot {
    /// A boot that begins now.
    pub fn now() -> Self {
        Self {
            id: Uuid::new_v4(),
            since: Instant::now(),
        }
    }
}

/// Between two looks at the log. A guest's last report may come this much late, which is little beside any period.
const POLL: Duration = Duration::from_millis(50);

/// A line of pve-sim's audit log, as far as it is needed here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    kind: String,
    time: Option<Timestamp>,
    vmid: Option<u32>,
    after: Option<String>,
    boot_id_after: Option<Uuid>,
}

/// Follows the audit log of pve-sim (`audit.jsonl` in its state directory), from its beginning and until the task is aborted: the guests of the swarm are up and
/// down with those of the simulator. It need not be there yet.
pub fn follow(path: PathBuf, swarm: &Swarm) -> JoinHandle<()> {
    let shared = Arc::clone(&swarm.shared);
    tokio::spawn(async move {
        let file = loop {
            match File::open(&path).await {
                Ok(file) => break file,
                Err(_) => sleep(POLL).await,
            }
        };
        let mut lines = BufReader::new(file);
        let mut boots = HashMap::new();
        let mut line = Vec::new();
        loop {
            match lines.read_until(b'\n', &mut line).await {
                // A line that is not complete yet stays for the next round.
                Ok(_) if line.last() == Some(&b'\n') => {
                    apply(&line, &mut boots, &shared);
                    line.clear();
                }
                _ => sleep(POLL).await,
            }
        }
    })
}

fn apply(line: &[u8], boots: &mut HashMap<u32, Boot>, shared: &Shared) {
    let Ok(line) = serde_json::from_slice::<Line>(line) else { return };
    let (Some(vmid), Some(time)) = (line.vmid.filter(|_| line.kind == "guest"), line.time) else {
        return;
    };
    let Some(id) = line.boot_id_after else {
        boots.remove(&vmid);
        shared.set(vmid, None);
        return;
    };
    let boot = boots.entry(vmid).or_insert_with(|| Boot { id, since: instant(time) });
    if boot.id != id {
        *boot = Boot { id, since: instant(time) };
    }
    let up = line.after.as_deref() == Some("running");
    shared.set(vmid, up.then_some(*boot));
}

/// The moment on our monotonic clock.
fn instant(time: Timestamp) -> Instant {
    let now = Instant::now();
    let age = Duration::try_from(Timestamp::now().duration_since(time)).unwrap_or_default();
    now.checked_sub(age).unwrap_or(now)
}
