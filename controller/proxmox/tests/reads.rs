//! Reads: shapes, failures, failing over, and limits.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows test functions, not their helpers")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use defib_proxmox::{Client, Config, Delivery, Error, NodeState, PowerState, RunState, TaskExit, TaskStatus, Upid};
use support::{Authority, Reply, SECRET, Server, client, closed_port, json, response, status, token, until};

const RESET: &str = "UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:";

/// Answers by path; anything else as Proxmox does.
fn proxmox(head: &str) -> Reply {
    let target = head.split(' ').nth(1).unwrap();
    match target.strip_prefix("/api2/json").unwrap() {
        "/version" => json(r#"{"version":"9.2.11","release":"9.2","repoid":"14a22df3"}"#),
        "/cluster/resources?type=vm" => json(
            r#"[{"id":"qemu/100","vmid":100,"type":"qemu","node":"pve1","status":"running","name":"web1","template":0,"uptime":"86400"},
                {"id":"lxc/101","vmid":101,"type":"lxc","node":"pve1","status":"running"},
                {"id":"qemu/102","vmid":102,"type":"qemu","node":"pve2","status":"unknown"},
                {"id":"qemu/9000","vmid":9000,"type":"qemu","node":"pve1","status":"stopped","template":1}]"#,
        ),
        "/nodes" => json(r#"[{"node":"pve1","status":"online"},{"node":"pve2","status":"offline"}]"#),
        "/cluster/status" => {
            json(r#"[{"type":"cluster","name":"c1","quorate":1},{"type":"node","name":"pve1","ip":"127.0.0.1","online":1,"local":1}]"#)
        }
        "/access/permissions" => json(r#"{"/vms":{"VM.Audit":1,"VM.PowerMgmt":1}}"#),
        "/nodes/pve1/qemu/100/status/current" => {
            json(r#"{"status":"running","qmpstatus":"paused","running-qemu":"10.0.2","uptime":7,"pid":1,"ha":{"managed":0},"agent":1}"#)
        }
        "/nodes/pve1/qemu/100/config?current=1" => json(r#"{"smbios1":"uuid=6b4e8d2c-1f3a-4c5d-9e7f-0123456789ab","reboot":0,"cores":4}"#),
        "/nodes/pve1/tasks/UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:/status" => {
            json(r#"{"status":"stopped","exitstatus":"VM is locked (backup)"}"#)
        }
        "/nodes/pve1/tasks/UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:/log?start=0&limit=2" => {
            json(r#"[{"n":1,"t":"one\u001b[31m"},{"n":2,"t":"two"},{"n":3,"t":"three"}]"#)
        }
        _ => status("501 Method 'GET /foo' not implemented"),
    }
}

#[tokio::test]
async fn reads_what_proxmox_serves() {
    let server = Server::start(proxmox);
    let client = server.client();
    assert_eq!(client.version().await.unwrap().release, "9.2");
    let vms = client.resources().await.unwrap();
    let seen: Vec<_> = vms.iter().map(|vm| (vm.vmid, vm.status.clone(), vm.uptime)).collect();
    assert_eq!(seen, [(100, RunState::Running, Some(86_400)), (102, RunState::Unknown, None)]);
    let nodes = client.nodes().await.unwrap();
    assert_eq!((nodes[0].status, nodes[1].status), (NodeState::Online, NodeState::Offline));
    assert!(client.cluster_status().await.unwrap().quorate);
    assert!(client.permissions().await.unwrap().has("/vms/100", "VM.PowerMgmt"));
    let vm = client.vm_status("pve1", 100).await.unwrap();
    assert_eq!((vm.status, vm.qmp_status), (PowerState::Running, RunState::Paused));
    assert!(vm.monitor_answers);
    let config = client.vm_config("pve1", 100).await.unwrap();
    assert_eq!(config.smbios_uuid.unwrap().to_string(), "6b4e8d2c-1f3a-4c5d-9e7f-0123456789ab");
    assert!(!config.reboot);
    let upid: Upid = RESET.parse().unwrap();
    let locked = TaskExit::Locked { kind: "backup".into() };
    assert_eq!(client.task_status(&upid).await.unwrap(), TaskStatus::Finished(locked));
    assert_eq!(client.task_log(&upid, 2).await.unwrap(), ["one [31m", "two"]);
    assert!(matches!(client.vm_status("pve9", 7).await, Err(Error::Other { status: 501, .. })));

    // One connection served it all: Proxmox has three workers, and TLS is their hardest work.
    assert_eq!(server.accepted(), 1);
    for head in server.requests() {
        let lower = head.to_ascii_lowercase();
        let authorization = format!("\r\nauthorization: pveapitoken=svc@pve!ctl={SECRET}\r\n");
        assert_eq!(lower.matches(&authorization).count(), 1, "{head}");
        // Proxmox refuses a GET with a body; a compressed one would escape the limit on its size.
        assert!(!lower.contains("content-length") && !lower.contains("accept-encoding"), "{head}");
        assert!(lower.contains("\r\nuser-agent: defib/"), "{head}");
    }
}

#[tokio::test]
async fn a_failure_is_known_by_its_status_line_alone() {
    for (line, reason, retryable) in [
        ("401 No ticket", "AuthFailed", false),
        ("403 Permission check failed (/vms/100, VM.Audit)", "Forbidden", false),
        (
            "500 Configuration file 'nodes/pve1/qemu-server/100.conf' does not exist",
            "NotOnNode",
            true,
        ),
        ("595 No route to host", "NodeUnreachable", true),
        ("596 Connection timed out", "ReadFailed", true),
        ("500 got timeout", "Other", true),
        ("301 Moved Permanently", "Other", false),
    ] {
        // Neither a body nor a length, as with 401 and 59x.
        let server = Server::always(Reply::Bytes(format!("HTTP/1.1 {line}\r\n\r\n").into_bytes()));
        let error = server.client().vm_status("pve1", 100).await.unwrap_err();
        assert_eq!((error.reason(), error.is_retryable()), (reason, retryable), "{error:?}");
        assert_eq!(server.requests().len(), 1, "{line}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let other = Server::always(json("{}"));
    let moved = format!("HTTP/1.1 301 Moved\r\nLocation: {}/\r\nContent-Length: 0\r\n\r\n", other.url());
    let server = Server::always(Reply::Bytes(moved.into_bytes()));
    let error = server.client().version().await.unwrap_err();
    assert_eq!(
        error,
        Error::Other {
            status: 301,
            reason: "Moved".into()
        }
    );
    assert_eq!(other.accepted(), 0);
}

#[tokio::test]
async fn answers_that_cannot_be_read_are_errors() {
    let cut_json = response("200 OK", r#"{"data":[{"vmid":100,"ty"#);
    let garbage = response("200 OK", "\u{0}\u{1}<html>");
    let nothing = response("200 OK", "");
    let no_data = response("200 OK", r#"{"data":null}"#);
    let other_shape = response("200 OK", r#"{"data":{"vmid":100}}"#);
    let deep = response("200 OK", &format!(r#"{{"data":{}"#, "[".repeat(100_000)));
    for bytes in [cut_json, garbage, nothing, no_data, other_shape, deep] {
        let server = Server::always(Reply::KeepOpen(bytes));
        let error = server.client().resources().await.unwrap_err();
        assert!(matches!(error, Error::InvalidAnswer { .. }), "{error:?}");
    }
    for bytes in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":[".to_vec(),
        b"nonsense\r\n\r\n".to_vec(),
        Vec::new(),
    ] {
        let server = Server::always(Reply::Bytes(bytes));
        let error = server.client().resources().await.unwrap_err();
        assert!(matches!(error, Error::ReadFailed { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_body_is_read_up_to_its_limit_only() {
    let names = |bytes: usize| format!(r#"{{"version":"{}"}}"#, "x".repeat(bytes));
    let fits = Server::always(json(&names(60_000)));
    // What was read is then cut to what can be stored of it.
    assert_eq!(fits.client().version().await.unwrap().version.chars().count(), 64);
    let large = Server::always(json(&names(70_000)));
    let error = large.client().version().await.unwrap_err();
    assert!(
        matches!(&error, Error::InvalidAnswer { detail, .. } if detail.contains("65536")),
        "{error:?}"
    );
    // A list may be longer, but not endless.
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n{\"data\":[".to_vec(), vec![b' '; 17 * 1024 * 1024]].concat();
    let endless = Server::always(Reply::Stall(endless));
    let error = endless.client().resources().await.unwrap_err();
    assert!(
        matches!(&error, Error::InvalidAnswer { detail, .. } if detail.contains("16777216")),
        "{error:?}"
    );
}

#[tokio::test]
async fn text_of_an_answer_is_bounded_and_clean() {
    let body = format!(r#"{{"data":null,"message":"\u001b[2J{}\nsecond line"}}"#, "ä".repeat(2000));
    let server = Server::always(Reply::Bytes(response("500 Internal Server Error", &body)));
    let Error::Other { reason, .. } = server.client().version().await.unwrap_err() else {
        panic!()
    };
    assert_eq!(reason.chars().count(), 512);
    assert!(!reason.contains(char::is_control) && !reason.contains("second"), "{reason}");
}

#[tokio::test]
async fn no_error_shows_the_token() {
    let echo = |head: &str| Reply::Bytes(response("400 Bad", &format!(r#"{{"message":{head:?},"errors":{{"a":{head:?}}}}}"#)));
    let server = Server::start(echo);
    let error = server.client().version().await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    assert!(!format!("{:?}", server.client()).contains(SECRET));
    assert!(!format!("{:?}", Config::new(vec![server.endpoint()], token(), server.ca())).contains(SECRET));
    assert!(!format!("{:?}", server.client().open(None).await.unwrap()).contains(SECRET));
}

#[tokio::test]
async fn fails_over_to_the_next_endpoint() {
    let authority = Authority::new();
    let start = |reply: Reply| Server::with(&authority, &["127.0.0.1"], support::PATIENCE, move |_| reply.clone());
    let good = start(json(r#"{"version":"9.2.11"}"#));
    // A lost connection may be chance, and is tried once more; an answer is not.
    let garbage = Reply::Bytes(b"nonsense\r\n\r\n".to_vec());
    for (broken, tries) in [(Reply::Close, 2), (status("595 Connection refused"), 1), (garbage, 1)] {
        let broken = start(broken);
        let client = client(vec![broken.endpoint(), good.endpoint()], good.ca());
        assert_eq!(client.version().await.unwrap().version, "9.2.11");
        assert_eq!(broken.requests().len(), tries);
    }
    // What is not reached is tried last for a while.
    let before = good.requests().len();
    let client = client(vec![closed_port(), closed_port(), good.endpoint()], good.ca());
    client.version().await.unwrap();
    client.nodes().await.unwrap_err();
    assert_eq!(good.requests().len(), before + 2);
}

/// A server closes pooled connections when it likes: after 100 requests, when a worker retires.
#[tokio::test]
async fn a_read_survives_the_loss_of_its_connection() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        1 => Reply::Close,
        _ => json(r#"{"version":"9.2.11"}"#),
    });
    let client = server.client();
    client.version().await.unwrap();
    client.version().await.unwrap();
    assert_eq!((server.requests().len(), server.accepted()), (3, 2));
}

/// An offline node is offline from everywhere; asking all endpoints would wait 3 to 30 s at each.
#[tokio::test]
async fn a_dead_node_is_not_asked_for_everywhere() {
    let authority = Authority::new();
    let start = || {
        let reply = |_: &str| status("595 No route to host");
        Server::with(&authority, &["127.0.0.1"], support::PATIENCE, reply)
    };
    let (first, second) = (start(), start());
    let client = client(vec![first.endpoint(), second.endpoint()], first.ca());
    let error = client.vm_status("pve7", 100).await.unwrap_err();
    assert!(
        matches!(&error, Error::NodeUnreachable { node: Some(node), .. } if node == "pve7"),
        "{error:?}"
    );
    assert_eq!((first.requests().len(), second.requests().len()), (1, 0));
}

#[tokio::test]
async fn a_refusal_is_not_asked_for_again_elsewhere() {
    let authority = Authority::new();
    let start = || {
        Server::with(&authority, &["127.0.0.1"], support::PATIENCE, |_| {
            status("401 Authentication failed!")
        })
    };
    let (first, second) = (start(), start());
    let client = client(vec![first.endpoint(), second.endpoint()], first.ca());
    assert_eq!(client.version().await.unwrap_err().reason(), "AuthFailed");
    assert_eq!((first.requests().len(), second.requests().len()), (1, 0));
}

#[tokio::test]
async fn all_endpoints_down_names_them_all() {
    let (first, second) = (closed_port(), closed_port());
    let server = Server::always(Reply::Close);
    let error = client(vec![first.clone(), second.clone()], server.ca())
        .version()
        .await
        .unwrap_err();
    assert_eq!((error.reason(), error.delivery()), ("NotDelivered", Delivery::NotDelivered));
    let text = error.to_string();
    assert!(text.contains(first.authority()) && text.contains(second.authority()), "{text}");
}

#[tokio::test]
async fn a_read_that_is_not_answered_times_out() {
    let authority = Authority::new();
    let start = |reply: Reply| Server::with(&authority, &["127.0.0.1"], support::PATIENCE, move |_| reply.clone());
    for sent in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"] {
        let (server, other) = (start(Reply::Stall(sent.to_vec())), start(json("{}")));
        let client = client(vec![server.endpoint(), other.endpoint()], server.ca());
        let read = tokio::spawn(async move { client.vm_status("pve1", 100).await });
        until("the request arrives", || server.requests().len() == 1).await;
        let before = tokio::time::Instant::now();
        tokio::time::pause();
        let error = read.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        assert!(before.elapsed() >= Duration::from_secs(5), "a slow answer is waited for");
        // The same slow node is behind every endpoint.
        assert_eq!(other.accepted(), 0);
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_node_gets_no_more_requests_than_allowed() {
    let server = Server::always(Reply::Held(response("200 OK", r#"{"data":{"status":"running"}}"#)));
    let client = server.client();
    let reads: Vec<_> = (100..110)
        .map(|vmid| {
            let client = client.clone();
            tokio::spawn(async move { client.vm_status("pve1", vmid).await })
        })
        .collect();
    until("two are under way", || server.under_way() == 2).await;
    // An opened connection counts too: none is left for it, and its deadline passes.
    tokio::time::pause();
    let error = client.open(Some("pve1")).await.unwrap_err();
    assert_eq!(error.reason(), "NotDelivered");
    tokio::time::resume();
    server.release();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    assert_eq!(server.most_under_way(), 2);
}

#[tokio::test]
async fn the_cluster_gets_no_more_than_eight() {
    let server = Server::always(Reply::Held(response("200 OK", r#"{"data":{"status":"running"}}"#)));
    let mut config = Config::new(vec![server.endpoint()], token(), server.ca());
    config.max_requests_per_node = 8;
    let client = Client::new(config).unwrap();
    let reads: Vec<_> = (1..=24)
        .map(|number| {
            let (client, node) = (client.clone(), format!("pve{}", number % 4));
            tokio::spawn(async move { client.vm_status(&node, 100).await })
        })
        .collect();
    until("eight are under way", || server.under_way() == 8).await;
    server.release();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    assert_eq!(server.most_under_way(), 8);
}
