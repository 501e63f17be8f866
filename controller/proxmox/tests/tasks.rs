//! Looking for one's own task after a request that may or may not have arrived.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows test functions, not their helpers")]

mod support;

use defib_proxmox::{Error, PowerAction, TaskEntry, TaskExit, TaskStatus};
use jiff::{SignedDuration, Timestamp, Unit};
use support::{Reply, Server, json, response, status};

/// A UPID of a task that began so many seconds after the epoch.
fn upid(started: i64, kind: &str, id: &str, user: &str) -> String {
    format!("UPID:pve1:00001ED0:0003568B:{started:08X}:{kind}:{id}:{user}:")
}

fn row(upid: &str, rest: &str) -> String {
    format!(r#"{{"upid":"{upid}","node":"pve1"{rest}}}"#)
}

fn list(rows: &[String]) -> Reply {
    json(&format!("[{}]", rows.join(",")))
}

fn query(head: &str, name: &str) -> Option<String> {
    let target = head.split(' ').nth(1)?;
    let (_, query) = target.split_once('?')?;
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    value.map(str::to_owned)
}

/// A node whose clock is off by so much. It tells the time to auditors only; others get a `Date`.
fn node(offset: SignedDuration, is_auditor: bool, tasks: Reply) -> Server {
    Server::start(move |head| {
        if !head.starts_with("GET /api2/json/nodes/pve1/time ") {
            return tasks.clone();
        }
        let now = Timestamp::now() + offset;
        if is_auditor {
            // The Date of an answer that came through another node is not this node's.
            let body = format!("{{\"data\":{{\"time\":{},\"timezone\":\"UTC\"}}}}", now.as_second());
            return Reply::KeepOpen(response("200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT", &body));
        }
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT");
        Reply::Bytes(response(
            &format!("403 Permission check failed (/nodes/pve1, Sys.Audit)\r\nDate: {date}"),
            "",
        ))
    })
}

async fn search(server: &Server, since: Timestamp) -> Result<Vec<TaskEntry>, Error> {
    server.client().search_tasks("pve1", 100, PowerAction::Reset, since).await
}

#[tokio::test]
async fn the_search_begins_by_the_nodes_clock() {
    for offset in [SignedDuration::ZERO, SignedDuration::from_mins(7), SignedDuration::from_mins(-7)] {
        for is_auditor in [true, false] {
            let server = node(offset, is_auditor, list(&[]));
            let since = Timestamp::now();
            assert_eq!(search(&server, since).await.unwrap(), []);
            let head = server.requests().pop().unwrap();
            let asked: i64 = query(&head, "since").unwrap().parse().unwrap();
            let expected = (since + offset).as_second() - 5;
            // Never later; earlier by what whole seconds and the call itself cost.
            assert!((expected - 20..=expected).contains(&asked), "{asked} for {expected}");
            for (name, value) in [("source", "all"), ("vmid", "100"), ("typefilter", "qmreset"), ("limit", "50")] {
                assert_eq!(query(&head, name).as_deref(), Some(value), "{head}");
            }
        }
    }
}

#[tokio::test]
async fn only_our_own_tasks_of_that_time_are_found_newest_last() {
    let now = Timestamp::now().round(Unit::Second).unwrap().as_second();
    let ours = |started| upid(started, "qmreset", "100", "svc@pve!ctl");
    let rows = [
        row(&ours(now + 2), r#","status":"RUNNING","user":"svc@pve","tokenid":"ctl""#),
        row(&ours(now + 1), r#","status":"OK","endtime":1,"user":"svc@pve!ctl""#),
        row(&ours(now), r#","endtime":1"#),
        // The same task twice, while it moves to the archive.
        row(&ours(now + 1), r#","status":"RUNNING""#),
        row(&ours(now - 3600), r#","status":"OK","endtime":1"#),
        row(&upid(now, "qmreset", "100", "svc@pve"), r#","status":"RUNNING""#),
        row(&upid(now, "qmreset", "100", "svc@pve!other"), r#","status":"RUNNING""#),
        row(&upid(now, "qmreset", "100", "root@pam"), r#","status":"RUNNING""#),
        row(&upid(now, "qmreset", "1000", "svc@pve!ctl"), r#","status":"RUNNING""#),
        row(&upid(now, "qmstart", "100", "svc@pve!ctl"), r#","status":"RUNNING""#),
        row("nonsense", ""),
        "{}".to_owned(),
    ];
    let server = node(SignedDuration::ZERO, true, list(&rows));
    let found = search(&server, Timestamp::now()).await.unwrap();
    let seen: Vec<_> = found.iter().map(|task| (task.upid.to_string(), task.status.clone())).collect();
    assert_eq!(
        seen,
        [
            (ours(now), TaskStatus::Finished(TaskExit::Unexpected)),
            (ours(now + 1), TaskStatus::Finished(TaskExit::Ok)),
            (ours(now + 2), TaskStatus::Running),
        ]
    );
}

#[tokio::test]
async fn a_search_that_cannot_be_made_is_not_an_empty_one() {
    let server = node(SignedDuration::ZERO, true, status("595 No route to host"));
    assert_eq!(search(&server, Timestamp::now()).await.unwrap_err().reason(), "NodeUnreachable");
    // No clock, no search: a wrong start would miss the task.
    let server = Server::always(json(r#"{"timezone":"UTC"}"#));
    assert_eq!(search(&server, Timestamp::now()).await.unwrap_err().reason(), "InvalidAnswer");
    let server = Server::always(status("403 Permission check failed (/nodes/pve1, Sys.Audit)"));
    assert_eq!(search(&server, Timestamp::now()).await.unwrap_err().reason(), "Forbidden");
    for since in [Timestamp::MIN, Timestamp::MAX] {
        let server = node(SignedDuration::from_secs(100), true, list(&[]));
        let _ = search(&server, since).await;
    }
}

#[tokio::test]
async fn a_task_is_running_finished_or_unknown() {
    let task = upid(1_714_698_787, "qmreset", "100", "svc@pve!ctl").parse().unwrap();
    for (body, expected) in [
        (r#"{"status":"running"}"#, TaskStatus::Running),
        (r#"{"status":"stopped","exitstatus":"OK"}"#, TaskStatus::Finished(TaskExit::Ok)),
        (
            r#"{"status":"stopped","exitstatus":"WARNINGS: 2"}"#,
            TaskStatus::Finished(TaskExit::Warnings(2)),
        ),
        (r#"{"status":"stopped"}"#, TaskStatus::Finished(TaskExit::Unexpected)),
    ] {
        let server = Server::always(json(body));
        assert_eq!(server.client().task_status(&task).await.unwrap(), expected);
    }
    let server = Server::always(json(r#"{"status":"dancing"}"#));
    assert_eq!(server.client().task_status(&task).await.unwrap_err().reason(), "InvalidAnswer");
    let body = r#"{"data":null,"message":"Parameter verification failed.\n","errors":{"upid":"no such task"}}"#;
    let server = Server::always(Reply::Bytes(response("400 Parameter verification failed.", body)));
    assert_eq!(server.client().task_status(&task).await.unwrap_err().reason(), "TaskUnknown");
    assert_eq!(server.client().task_log(&task, 10).await.unwrap_err().reason(), "TaskUnknown");
    let server = Server::always(json(r#"[{"n":1,"t":"no content"}]"#));
    assert_eq!(server.client().task_log(&task, 10).await.unwrap(), [""; 0]);
}
