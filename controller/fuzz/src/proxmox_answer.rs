//! Answers of Proxmox: status line, `Date` header and body.

use crate::assert_shown;
use crate::schema::Schema;
use defib_proxmox::fuzz::{Readings, read};
use defib_proxmox::{ApiToken, Delivery, Error, TaskExit, TaskStatus, Upid};
use serde_json::json;
use std::fmt::Debug;
use std::sync::LazyLock;

/// Longest text that the client takes over.
const MAX_TEXT: usize = 512;
const SECRET: &str = "12345678-secret";
static TOKEN: LazyLock<Option<ApiToken>> = LazyLock::new(|| ApiToken::new("svc@pve!ctl", SECRET).ok());

/// Input: a line `500 VM 100 not running`, a line for the `Date` header, then the body.
pub(crate) fn check(input: &[u8]) {
    let mut lines = input.splitn(3, |b| *b == b'\n');
    let (Some(head), Some(date), Some(body), Some(token)) = (lines.next(), lines.next(), lines.next(), TOKEN.as_ref()) else {
        return;
    };
    let (status, reason) = head.split_at(head.len().min(3));
    let status = std::str::from_utf8(status).ok().and_then(|text| text.parse().ok());
    let Some(status) = status else { return };
    let reason = reason.strip_prefix(b" ").unwrap_or(reason);
    let Some(readings) = read(status, reason, date, body, token) else {
        return;
    };
    assert_eq!(
        Some(&readings),
        read(status, reason, date, body, token).as_ref(),
        "read in two ways"
    );
    delivery(status, &readings);
    content(&readings);
}

/// Rule 7: only what Proxmox says it did not pass on may be sent again, and only what it surely refused counts as refused.
fn delivery(status: u16, readings: &Readings) {
    for post in [&readings.post, &readings.post_cut_short] {
        match post {
            Ok(upid) => {
                assert_eq!(status, 200);
                round_trip(upid);
            }
            Err(error) => {
                error_holds(error);
                let expected = match status {
                    595 => &[Delivery::NotDelivered][..],
                    301 | 308 | 400 | 401 | 403 | 501 => &[Delivery::Answered],
                    500 => &[Delivery::Answered, Delivery::Ambiguous],
                    _ => &[Delivery::Ambiguous],
                };
                assert!(
                    expected.contains(&error.delivery()),
                    "{status} means {:?}: {error}",
                    error.delivery()
                );
            }
        }
    }
}

fn content(readings: &Readings) {
    each(status_of(&readings.version), |version| {
        assert_shown("a version", &version.version, MAX_TEXT);
        let written = json!({ "version": version.version });
        assert_eq!(Schema::of("ProxmoxCluster").check("status", &written), Ok(()));
    });
    each(list(&readings.resources), |vm| {
        node_name(&vm.node);
        let written = json!({ "node": vm.node, "power": vm.status.to_string() });
        assert_eq!(Schema::of("ManagedVM").check("status", &written), Ok(()));
        assert!(vm.tags.len() <= 64);
        let texts = [&vm.name, &vm.lock, &vm.pool, &vm.ha_state];
        texts
            .into_iter()
            .flatten()
            .chain(&vm.tags)
            .for_each(|t| assert_shown("a text", t, MAX_TEXT));
    });
    each(list(&readings.nodes), |node| node_name(&node.node));
    each(status_of(&readings.cluster_status), |cluster| {
        cluster.nodes.iter().for_each(|node| node_name(&node.name));
        let ips = cluster.nodes.iter().filter_map(|node| node.ip.as_ref());
        cluster.name.iter().chain(ips).for_each(|t| assert_shown("a text", t, MAX_TEXT));
    });
    each(status_of(&readings.permissions), |permissions| {
        let _ = (
            permissions.has("/vms/100", "VM.PowerMgmt"),
            permissions.has("", ""),
            permissions.iter().count(),
        );
    });
    each(status_of(&readings.vm_status), |vm| {
        assert_shown("a state", vm.qmp_status.as_str(), MAX_TEXT);
        let texts = [&vm.name, &vm.lock, &vm.ha.state];
        texts.into_iter().flatten().for_each(|t| assert_shown("a text", t, MAX_TEXT));
    });
    each(status_of(&readings.vm_config), |config| {
        let texts = [&config.name, &config.lock, &config.digest];
        texts.into_iter().flatten().for_each(|t| assert_shown("a text", t, MAX_TEXT));
    });
    each(status_of(&readings.task_status), |status| status.iter().for_each(task));
    each(list(&readings.tasks), |entry| {
        round_trip(&entry.upid);
        task(&entry.status);
    });
    each(list(&readings.task_log), |line| assert_shown("a line of a log", line, MAX_TEXT));
}

fn list<T>(reading: &Result<Vec<T>, Error>) -> Result<&[T], &Error> {
    reading.as_deref()
}

fn status_of<T>(reading: &Result<T, Error>) -> Result<&[T], &Error> {
    reading.as_ref().map(std::slice::from_ref)
}

fn each<T: Debug>(reading: Result<&[T], &Error>, holds: impl Fn(&T)) {
    match reading {
        Ok(all) => all.iter().for_each(holds),
        Err(error) => error_holds(error),
    }
}

/// An error says something, and never the token's secret.
fn error_holds(error: &Error) {
    let text = error.to_string();
    assert!(!text.is_empty());
    // At most 16 faulty parameters are named, each with a text.
    assert_shown("an error", &text, 20_000);
    assert!(!text.contains(SECRET) && !format!("{error:?}").contains(SECRET), "{text}");
}

fn task(status: &TaskStatus) {
    if let TaskStatus::Finished(exit) = status {
        assert_shown("an exit status", &exit.to_string(), MAX_TEXT);
        assert_eq!(exit.is_success(), matches!(exit, TaskExit::Ok | TaskExit::Warnings(_)));
    }
}

/// A UPID is asked for by its name: it must stay as it came, and fit where it is stored.
pub(crate) fn round_trip(upid: &Upid) {
    let text = upid.to_string();
    assert_eq!(text.parse::<Upid>().as_ref(), Ok(upid));
    node_name(upid.node());
    for field in [upid.kind(), upid.id(), upid.user()] {
        assert!(!field.contains(['/', ':']), "{field:?} would change the path");
        assert_shown("a field", field, MAX_TEXT);
    }
    let _ = upid.started();
    let fits = Schema::of("VMReset").check("status", &json!({ "upid": text }));
    assert_eq!(fits, Ok(()), "the client takes a UPID that the journal cannot hold");
}

/// Node names become part of a URL's path.
fn node_name(name: &str) {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    assert!((1..=63).contains(&name.len()) && plain, "{name:?} is no node");
}
