//! The task records of all nodes.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use super::Upid;
use crate::text_enum::text_enum;

/// Finished tasks kept in memory, all nodes together; Proxmox VE keeps a similar number of index lines.
const KEPT: usize = 10_000;

/// Process ids of workers start here.
const FIRST_PID: u32 = 4_000;

text_enum! {
    /// Which tasks a list shows.
    TaskSource {
        /// Finished ones.
        Archive = "archive",
        /// Running ones, and those finished moments ago.
        Active = "active",
        /// Both.
        All = "all",
    }
}

/// A task at one moment, for tests and `ctl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRecord {
    /// Its UPID.
    pub upid: String,
    /// When the worker started, in seconds since the epoch.
    pub starttime: i64,
    /// When it ended.
    pub endtime: Option<i64>,
    /// How it ended: `OK`, `WARNINGS: n`, `unexpected status` or an error text. Absent while it runs.
    pub exitstatus: Option<String>,
    /// Its log so far.
    pub log: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) upid: Upid,
    pub(crate) record: TaskRecord,
    worker: Option<AbortHandle>,
}

/// All tasks, oldest first.
#[derive(Debug)]
pub(crate) struct TaskStore {
    booted: Instant,
    next_pid: u32,
    tasks: VecDeque<Task>,
}

impl TaskStore {
    pub(crate) fn new() -> Self {
        Self {
            booted: Instant::now(),
            next_pid: FIRST_PID,
            tasks: VecDeque::new(),
        }
    }

    /// Records the start of a worker.
    pub(crate) fn begin(&mut self, node: &str, kind: &str, id: String, user: &str) -> Upid {
        let starttime = Timestamp::now().as_second();
        // Nodes have been up for some days when the simulator starts, in jiffies of 10 ms.
        let pstart = 21_877_100 + u64::try_from(self.booted.elapsed().as_millis() / 10).unwrap_or(0);
        let upid = Upid {
            node: node.to_owned(),
            pid: self.next_pid,
            pstart,
            starttime,
            kind: kind.to_owned(),
            id,
            user: user.to_owned(),
        };
        self.next_pid = self.next_pid.checked_add(1).unwrap_or(FIRST_PID);
        let record = TaskRecord {
            upid: upid.to_string(),
            starttime,
            endtime: None,
            exitstatus: None,
            log: Vec::new(),
        };
        self.tasks.push_back(Task {
            upid: upid.clone(),
            record,
            worker: None,
        });
        while self.tasks.len() > KEPT {
            self.tasks.pop_front();
        }
        upid
    }

    /// Says how to abort the worker.
    pub(crate) fn set_worker(&mut self, upid: &Upid, worker: AbortHandle) {
        if let Some(task) = self.find_mut(upid) {
            task.worker = Some(worker);
        }
    }

    /// Appends a line to the log.
    pub(crate) fn log(&mut self, upid: &Upid, line: impl Into<String>) {
        if let Some(task) = self.find_mut(upid) {
            task.record.log.push(line.into());
        }
    }

    /// Records the end of a worker: `Ok`, or the text it died with.
    pub(crate) fn finish(&mut self, upid: &Upid, outcome: Result<(), String>) {
        let Some(task) = self.find_mut(upid) else { return };
        if task.record.exitstatus.is_some() {
            return;
        }
        let (status, line) = match outcome {
            Ok(()) => ("OK".to_owned(), "TASK OK".to_owned()),
            Err(text) => {
                let line = format!("TASK ERROR: {text}");
                (text.replace('\n', " "), line)
            }
        };
        task.record.log.push(line);
        task.end(status);
    }

    /// Interrupts a running worker (`DELETE .../tasks/{upid}`).
    pub(crate) fn interrupt(&mut self, upid: &Upid) {
        let Some(task) = self.find_mut(upid) else { return };
        if let Some(worker) = task.worker.take() {
            worker.abort();
        }
        self.finish(upid, Err("received interrupt".to_owned()));
    }

    /// All workers of a node die with it. Their logs end without a last line, so nobody can say how they ended.
    pub(crate) fn lose_node(&mut self, node: &str) {
        for task in self.tasks.iter_mut().filter(|task| task.upid.node == node && task.is_running()) {
            if let Some(worker) = task.worker.take() {
                worker.abort();
            }
            task.end("unexpected status".to_owned());
        }
    }

    /// Interrupts the running tasks of one type and VM, and says which.
    pub(crate) fn interrupt_all(&mut self, kind: &str, id: &str) -> Vec<Upid> {
        let found: Vec<Upid> = self
            .tasks
            .iter()
            .filter(|task| task.is_running() && task.upid.kind == kind && task.upid.id == id)
            .map(|task| task.upid.clone())
            .collect();
        for upid in &found {
            self.interrupt(upid);
        }
        found
    }

    pub(crate) fn get(&self, upid: &Upid) -> Option<&Task> {
        self.tasks.iter().rev().find(|task| task.upid == *upid)
    }

    /// How tasks ended, by the text of their UPIDs.
    pub(crate) fn exit_statuses(&self) -> HashMap<&str, &str> {
        let ended = self.tasks.iter().map(|task| &task.record);
        ended
            .filter_map(|record| Some((record.upid.as_str(), record.exitstatus.as_deref()?)))
            .collect()
    }

    /// Tasks of a node, newest first; running ones before finished ones.
    pub(crate) fn of_node<'a>(&'a self, node: &'a str, source: TaskSource) -> impl Iterator<Item = &'a Task> {
        let of = move |running: bool| {
            self.tasks
                .iter()
                .rev()
                .filter(move |task| task.upid.node == node && task.is_running() == running)
        };
        let running = (source != TaskSource::Archive).then(|| of(true)).into_iter().flatten();
        let finished = (source != TaskSource::Active).then(|| of(false)).into_iter().flatten();
        running.chain(finished)
    }

    /// All records, oldest first.
    pub(crate) fn records(&self) -> Vec<TaskRecord> {
        self.tasks.iter().map(|task| task.record.clone()).collect()
    }

    fn find_mut(&mut self, upid: &Upid) -> Option<&mut Task> {
        self.tasks.iter_mut().rev().find(|task| task.upid == *upid)
    }
}

impl Task {
    pub(crate) fn is_running(&self) -> bool {
        self.record.exitstatus.is_none()
    }

    fn end(&mut self, status: String) {
        self.record.exitstatus = Some(status);
        self.record.endtime = Some(Timestamp::now().as_second());
        self.worker = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_of_a_lost_node_end_without_an_outcome() {
        let mut store = TaskStore::new();
        let lost = store.begin("pve1", "qmreset", "101".to_owned(), "a@pve!b");
        let other = store.begin("pve2", "qmreset", "102".to_owned(), "a@pve!b");
        store.lose_node("pve1");
        store.finish(&lost, Ok(()));
        let ended = store.exit_statuses();
        assert_eq!(ended.get(lost.to_string().as_str()), Some(&"unexpected status"));
        assert_eq!(ended.get(other.to_string().as_str()), None);
    }

    #[test]
    fn the_archive_shows_finished_tasks_only() {
        let mut store = TaskStore::new();
        let done = store.begin("pve1", "qmreset", "101".to_owned(), "a@pve");
        store.finish(&done, Err("VM is locked (backup)".to_owned()));
        let running = store.begin("pve1", "qmreset", "101".to_owned(), "a@pve");
        let listed = |source| store.of_node("pve1", source).map(|task| task.upid.clone()).collect::<Vec<_>>();
        assert_eq!(listed(TaskSource::Archive), std::slice::from_ref(&done));
        assert_eq!(listed(TaskSource::Active), std::slice::from_ref(&running));
        assert_eq!(listed(TaskSource::All), [running, done]);
    }

    #[test]
    fn records_are_bounded() {
        let mut store = TaskStore::new();
        for _ in 0..KEPT + 5 {
            store.begin("pve1", "qmreset", String::new(), "a@pve");
        }
        assert_eq!(store.records().len(), KEPT);
    }
}
