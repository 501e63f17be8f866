//! Status lines, headers, connections.

use std::time::Duration;

use pve_sim::config::VmConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::lab::{ADMIN, DEADLINE, Lab, SECRET, config};

#[tokio::test]
async fn errors_stand_in_the_status_line_and_close_the_connection() {
    let lab = Lab::with(vec![VmConfig {
        running: false,
        ..VmConfig::new(100, "pve1")
    }])
    .await;
    let mut client = lab.connect("pve1").await.unwrap();
    client
        .send(&(Lab::request("POST", "/nodes/pve1/qemu/100/status/reset", ADMIN) + "\r\n"))
        .await;
    let answer = client.receive().await.unwrap();
    assert_eq!(answer.status_line, "HTTP/1.1 500 VM 100 not running");
    assert_eq!(answer.body, "{\"data\":null,\"message\":\"VM 100 not running\\n\"}");
    assert_eq!(answer.headers["Connection"], "close");
    assert_eq!(answer.headers["Content-Type"], "application/json;charset=UTF-8");
    assert!(client.is_closed().await);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_connection_serves_several_requests_and_is_closed_when_idle() {
    let mut config = config(vec![]);
    config.timing.idle_close = Duration::from_millis(300);
    let lab = Lab::start(config).await;
    let mut client = lab.connect("pve1").await.unwrap();
    for _ in 0..2 {
        client.send(&(Lab::request("GET", "/version", ADMIN) + "\r\n")).await;
        let answer = client.receive().await.unwrap();
        assert_eq!(answer.status_line, "HTTP/1.1 200 OK");
        assert_eq!(answer.headers["Connection"], "Keep-Alive");
        assert_eq!(answer.headers["Server"], "pve-api-daemon/3.0");
        assert_eq!(answer.headers["Date"], answer.headers["Expires"]);
        assert!(answer.headers["Date"].ends_with(" GMT"));
        assert_eq!(answer.json()["data"]["version"], "9.2.11");
    }
    assert!(client.is_closed().await);
    // Also one that never asked anything.
    assert!(lab.connect("pve1").await.unwrap().is_closed().await);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_connection_is_closed_after_its_last_request() {
    let mut config = config(vec![]);
    config.timing.requests_per_connection = 3;
    let lab = Lab::start(config).await;
    let mut client = lab.connect("pve1").await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        client.send(&(Lab::request("GET", "/version", ADMIN) + "\r\n")).await;
        seen.push(client.receive().await.unwrap().headers["Connection"].clone());
    }
    assert_eq!(seen, ["Keep-Alive", "Keep-Alive", "close"]);
    assert!(client.is_closed().await);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn bodies_are_refused_where_proxmox_refuses_them() {
    let lab = Lab::with(vec![VmConfig::new(100, "pve1")]).await;
    let reset = "/nodes/pve1/qemu/100/status/reset";
    let cases = [
        (
            "GET",
            "/version",
            "Content-Length: 3\r\n\r\na=1",
            "501 Unexpected content for method 'GET'",
        ),
        (
            "DELETE",
            "/nodes/pve1/tasks/x",
            "Content-Length: 3\r\n\r\na=1",
            "501 Unexpected content for method 'DELETE'",
        ),
        (
            "POST",
            reset,
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "501 chunked transfer encoding not supported",
        ),
        ("POST", reset, "Content-Length: 600000\r\n\r\n", "501 for data too large"),
        (
            "POST",
            reset,
            "Content-Type: text/plain\r\nContent-Length: 1\r\n\r\nx",
            "506 upload 'Content-Type 'text/plain' not implemented",
        ),
        ("PATCH", "/version", "\r\n", "501 method 'PATCH' not available"),
        ("GET", "/foo", "\r\n", "501 Method 'GET /foo' not implemented"),
        (
            "GET",
            reset,
            "\r\n",
            "501 Method 'GET /nodes/pve1/qemu/100/status/reset' not implemented",
        ),
    ];
    for (method, path, rest, wanted) in cases {
        let mut client = lab.connect("pve1").await.unwrap();
        client.send(&(Lab::request(method, path, ADMIN) + rest)).await;
        let answer = client.receive().await.unwrap();
        assert_eq!(answer.status_line, format!("HTTP/1.1 {wanted}"));
        assert_eq!(answer.headers["Connection"], "close");
    }
    assert_eq!(lab.simulator.tasks(), []);
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn forms_json_and_queries_carry_parameters() {
    let lab = Lab::with(vec![VmConfig::new(100, "pve1")]).await;
    let path = "/nodes/pve1/qemu/100/status/reset";
    let only_root = serde_json::json!({ "skiplock": "Only root may use this option." });
    for (kind, body) in [
        ("application/x-www-form-urlencoded", "skiplock=1"),
        ("application/json", "{\"skiplock\":true}"),
        ("application/json;charset=utf-8", "{\"skiplock\":1}"),
    ] {
        let answer = lab.post_body("pve1", path, kind, body).await;
        assert_eq!(answer.status_line, "HTTP/1.1 400 Parameter verification failed.");
        assert_eq!(answer.json()["errors"], only_root);
    }
    assert_eq!(lab.post("pve1", &format!("{path}?skiplock=1")).await.json()["errors"], only_root);
    let mistyped = lab
        .post_body("pve1", path, "application/x-www-form-urlencoded", "skiplock=true")
        .await;
    assert_eq!(mistyped.json()["errors"]["skiplock"], "type check ('boolean') failed - got 'true'");
    let conflict = lab.post_body("pve1", path, "application/json", "{\"vmid\":101}").await;
    assert_eq!(
        conflict.json()["errors"]["vmid"],
        "duplicate parameter (already defined in URI) with conflicting values!"
    );
    lab.post_body("pve1", path, "application/json", "{\"vmid\":100}").await.upid();
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn node_certificates_are_told_apart() {
    let lab = Lab::with(vec![]).await;
    let rows = lab.get("pve2", "/nodes").await.data();
    let rows = rows.as_array().unwrap();
    let endpoints = lab.simulator.endpoints();
    assert_eq!(rows.len(), 3);
    for (row, endpoint) in rows.iter().zip(&endpoints) {
        assert_eq!(row["node"], endpoint.node.as_str());
        assert_eq!(row["ssl_fingerprint"], endpoint.fingerprint.as_str());
        assert_eq!(endpoint.fingerprint.len(), 95);
    }
    assert_ne!(endpoints[0].fingerprint, endpoints[1].fingerprint);
    let document: serde_json::Value = serde_json::from_str(&lab.read("endpoints.json")).unwrap();
    assert_eq!(document["endpoints"], serde_json::json!(endpoints));
    let ca = std::fs::read_to_string(document["ca"].as_str().unwrap()).unwrap();
    assert_eq!(ca, lab.simulator.ca_pem());
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn plain_http_is_sent_to_https() {
    let lab = Lab::with(vec![]).await;
    let mut stream = TcpStream::connect(lab.address("pve1")).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: pve1:8006\r\nAuthorization: PVEAPIToken={ADMIN}={SECRET}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut text))
        .await
        .unwrap()
        .unwrap();
    assert!(text.starts_with("HTTP/1.1 301 "), "{text}");
    assert!(text.contains("https://pve1:8006/"), "{text}");
    lab.simulator.shutdown().await;
}
