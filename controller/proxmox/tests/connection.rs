//! The one POST: what is sent, and what is concluded when something goes wrong.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows test functions, not their helpers")]

mod support;

use std::time::Duration;

use defib_proxmox::{Delivery, Error, MAX_CONNECTION_AGE, PowerAction, Upid};
use support::{Authority, Reply, SECRET, Server, client, closed_port, json, response, status, until};

const RESET: &str = "UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:";

async fn reset(server: &Server) -> Result<Upid, Error> {
    server
        .client()
        .open(Some("pve1"))
        .await
        .unwrap()
        .post(PowerAction::Reset, "pve1", 100)
        .await
}

/// What is concluded from an answer; in all cases exactly one request must have been made.
async fn refused(reply: Reply) -> Error {
    let server = Server::always(reply);
    let error = reset(&server).await.unwrap_err();
    assert_eq!(server.requests().len(), 1);
    assert_eq!(server.accepted(), 1);
    error
}

#[tokio::test]
async fn sends_one_plain_post_and_returns_the_task() {
    let server = Server::always(json(&format!("\"{RESET}\"")));
    let client = server.client();
    let connection = client.open(None).await.unwrap();
    assert_eq!(server.requests(), [""; 0], "opening sends nothing");
    assert_eq!(connection.post(PowerAction::Reset, "pve1", 100).await.unwrap().to_string(), RESET);
    client
        .open(None)
        .await
        .unwrap()
        .post(PowerAction::Resume, "pve1", 101)
        .await
        .unwrap();

    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    let head = &requests[0];
    assert!(
        head.starts_with("POST /api2/json/nodes/pve1/qemu/100/status/reset HTTP/1.1\r\n"),
        "{head}"
    );
    let lower = head.to_ascii_lowercase();
    for header in [
        format!("host: 127.0.0.1:{}", server.port()),
        format!("authorization: pveapitoken=svc@pve!ctl={SECRET}"),
        "content-length: 0".into(),
        format!("user-agent: defib/{}", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(lower.matches(&format!("\r\n{header}\r\n")).count(), 1, "{header} in {head}");
    }
    assert!(!lower.contains("transfer-encoding"), "Proxmox refuses chunked bodies: {head}");
    assert!(requests[1].starts_with("POST /api2/json/nodes/pve1/qemu/101/status/resume HTTP/1.1\r\n"));
}

#[tokio::test]
async fn closed_while_idle_is_not_delivered() {
    let server = Server::closing_after(Duration::from_millis(50), json(&format!("\"{RESET}\"")));
    let connection = server.client().open(None).await.unwrap();
    until("the client sees the close", || connection.is_unusable()).await;
    let error = connection.post(PowerAction::Reset, "pve1", 100).await.unwrap_err();
    assert!(matches!(error, Error::NotDelivered { .. }), "{error:?}");
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotDelivered, true));
    assert_eq!(server.requests(), [""; 0]);
    assert_eq!(server.accepted(), 1, "nothing was opened instead");
}

/// The close has reached this machine but not yet the client's own task: whichever of the two is
/// concluded, the request is not carried out, and not sent elsewhere.
#[tokio::test]
async fn a_close_that_was_not_seen_yet_never_ends_in_success() {
    let server = Server::closing_after(Duration::from_millis(50), json(&format!("\"{RESET}\"")));
    let client = server.client();
    for round in 1..=10 {
        let connection = client.open(None).await.unwrap();
        // Blocks the only thread of this runtime.
        while server.closed() < round {
            std::thread::sleep(Duration::from_millis(1));
        }
        let error = connection.post(PowerAction::Reset, "pve1", 100).await.unwrap_err();
        assert_ne!(error.delivery(), Delivery::Answered, "{error:?}");
    }
    assert_eq!(server.requests(), [""; 0]);
    assert_eq!(server.accepted(), 10);
}

#[tokio::test]
async fn read_and_then_closed_is_ambiguous() {
    let error = refused(Reply::Close).await;
    assert!(matches!(error, Error::Ambiguous { .. }), "{error:?}");
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::Ambiguous, false));
}

#[tokio::test]
async fn a_stalled_answer_is_ambiguous_after_the_deadline() {
    let half_a_head = b"HTTP/1.1 200 OK\r\nContent-".to_vec();
    let half_a_body = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"data\":\"UPID:pve1:0000".to_vec();
    for sent in [Vec::new(), half_a_head, half_a_body] {
        let server = Server::always(Reply::Stall(sent));
        let connection = server.client().open(None).await.unwrap();
        let post = tokio::spawn(connection.post(PowerAction::Reset, "pve1", 100));
        until("the request arrives", || server.requests().len() == 1).await;
        let before = tokio::time::Instant::now();
        // From here tokio's clock jumps to the next deadline whenever nothing else can happen.
        tokio::time::pause();
        let error = post.await.unwrap().unwrap_err();
        assert!(before.elapsed() >= Duration::from_secs(30), "later than the proxy's own limit");
        assert_eq!(error.delivery(), Delivery::Ambiguous, "{error:?}");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn an_old_connection_is_not_used() {
    let server = Server::always(json(&format!("\"{RESET}\"")));
    let connection = server.client().open(None).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(MAX_CONNECTION_AGE).await;
    let error = connection.post(PowerAction::Reset, "pve1", 100).await.unwrap_err();
    assert!(matches!(error, Error::Stale { .. }), "{error:?}");
    assert_eq!((error.reason(), error.delivery()), ("Stale", Delivery::NotDelivered));
    tokio::time::resume();
    until("the connection is closed", || server.closed() == 1).await;
    assert_eq!(server.requests(), [""; 0]);
}

#[tokio::test]
async fn answers_that_are_none_are_ambiguous() {
    for bytes in [
        response("200 OK", "{\"data\":null}"),
        response("200 OK", "{\"data\":\"UPID:nonsense\"}"),
        response("200 OK", ""),
        response("200 OK", &format!("{{\"data\":\"{RESET}\",\"x\":\"{}\"}}", "x".repeat(70_000))),
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"data\":".to_vec(),
        response("202 Accepted", &format!("{{\"data\":\"{RESET}\"}}")),
        b"\x00\x01\x02 garbage \xff\r\n\r\n".to_vec(),
        b"HTTP/1.1 700000 Nonsense\r\n\r\n".to_vec(),
        // Not Proxmox's: a gateway that may have passed the request on.
        response("404 Not Found", ""),
        response("409 Conflict", ""),
        response("429 Too Many Requests", ""),
        response("502 Bad Gateway", ""),
        response("504 Gateway Time-out", ""),
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        let error = refused(Reply::Bytes(bytes)).await;
        assert!(matches!(error, Error::Ambiguous { .. }), "{shown}: {error:?}");
    }
}

#[tokio::test]
async fn the_proxys_own_failures_are_told_apart() {
    let error = refused(status("595 No route to host")).await;
    assert!(
        matches!(&error, Error::NodeUnreachable { node: Some(node), .. } if node == "pve1"),
        "{error:?}"
    );
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotDelivered, true));
    for line in [
        "596 Connection timed out",
        "596 Broken pipe",
        "597 Connection reset by peer",
        "599 Too many redirections",
    ] {
        let error = refused(status(line)).await;
        assert!(matches!(&error, Error::Ambiguous { detail, .. } if detail == line), "{error:?}");
        assert_eq!((error.delivery(), error.is_retryable()), (Delivery::Ambiguous, false));
    }
}

#[tokio::test]
async fn refusals_are_answers() {
    for (line, reason) in [
        ("401 Authentication failed!", "AuthFailed"),
        ("403 Permission check failed (/vms/100, VM.PowerMgmt)", "Forbidden"),
        ("500 VM 100 not running", "NotRunning"),
        ("500 unable to find configuration file for VM 100 on node 'pve1'", "NotOnNode"),
        ("500 cluster not ready - no quorum?", "NoQuorum"),
        ("501 Method 'POST /nodes' not implemented", "Other"),
        ("301 Moved Permanently", "Other"),
    ] {
        let error = refused(status(line)).await;
        assert_eq!((error.reason(), error.delivery()), (reason, Delivery::Answered), "{error:?}");
    }
}

/// A text that is not known to come before the worker is started says nothing about whether one was.
#[tokio::test]
async fn a_500_of_another_text_is_ambiguous() {
    for line in [
        "500 got no worker upid - start worker failed",
        "500 Can't call method \"x\" on an undefined value",
    ] {
        let error = refused(status(line)).await;
        assert_eq!((error.reason(), error.delivery()), ("Ambiguous", Delivery::Ambiguous), "{error:?}");
    }
}

/// The status line is enough: the rest of a refusal may be lost.
#[tokio::test]
async fn a_refusal_whose_body_is_lost_is_still_a_refusal() {
    let bytes = b"HTTP/1.1 500 VM 100 not running\r\nContent-Length: 500\r\n\r\n{\"da".to_vec();
    let error = refused(Reply::Bytes(bytes)).await;
    assert_eq!(error, Error::NotRunning { vmid: Some(100) });
}

#[tokio::test]
async fn opens_to_the_next_endpoint_when_one_is_down() {
    let server = Server::always(json(&format!("\"{RESET}\"")));
    let client = client(vec![closed_port(), server.endpoint()], server.ca());
    let connection = client.open(None).await.unwrap();
    assert_eq!(connection.endpoint(), format!("127.0.0.1:{}", server.port()));
    connection.post(PowerAction::Reset, "pve1", 100).await.unwrap();
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn no_endpoint_at_all_is_not_delivered() {
    let server = Server::always(Reply::Close);
    let error = client(vec![closed_port(), closed_port()], server.ca())
        .open(None)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotDelivered { .. }), "{error:?}");
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotDelivered, true));

    let stranger = client(vec![server.endpoint()], Server::always(Reply::Close).ca());
    let error = stranger.open(None).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert_eq!((error.delivery(), error.is_retryable()), (Delivery::NotDelivered, false));
    assert_eq!(server.requests(), [""; 0]);
}

/// The POST's endpoint that is named after the VM's node saves a hop.
#[tokio::test]
async fn prefers_the_endpoint_on_the_vms_node() {
    let authority = Authority::new();
    let names = ["127.0.0.1", "localhost"];
    let start = || Server::with(&authority, &names, support::PATIENCE, |_| json(&format!("\"{RESET}\"")));
    let (first, second) = (start(), start());
    let named = format!("https://localhost:{}", second.port()).parse().unwrap();
    let client = client(vec![first.endpoint(), named], first.ca());
    client
        .open(Some("localhost"))
        .await
        .unwrap()
        .post(PowerAction::Reset, "localhost", 100)
        .await
        .unwrap();
    assert_eq!((first.accepted(), second.requests().len()), (0, 1));
}

#[tokio::test]
async fn nothing_but_a_node_name_gets_into_the_path() {
    let server = Server::always(json(&format!("\"{RESET}\"")));
    for node in ["../..", "pve1/qemu/7", "pve1?x", "", "pve1%2f"] {
        let connection = server.client().open(None).await.unwrap();
        let error = connection.post(PowerAction::Reset, node, 100).await.unwrap_err();
        assert!(matches!(error, Error::InvalidArgument { .. }), "{error:?}");
        assert!(matches!(server.client().open(Some(node)).await, Err(Error::InvalidArgument { .. })));
    }
    assert_eq!(server.requests(), [""; 0]);
}

/// A cancelled call (shutdown) must not leave a request behind that is sent later.
#[tokio::test]
async fn dropping_the_call_closes_the_connection() {
    let server = Server::always(Reply::Close);
    drop(server.client().open(None).await.unwrap());
    until("the connection is closed", || server.closed() == 1).await;
    assert_eq!(server.requests(), [""; 0]);
}
