//! Tokens, privileges, and the order of checks.

use std::time::{Duration, Instant};

use pve_sim::config::{Dialect, UserConfig, VmConfig};
use serde_json::json;

use crate::lab::{ADMIN, Lab, SECRET, config, token};

fn pooled(vmid: u32) -> VmConfig {
    VmConfig {
        pool: Some("managed".to_owned()),
        ..VmConfig::new(vmid, "pve1")
    }
}

#[tokio::test]
async fn without_a_valid_token_the_answer_is_late_and_empty() {
    let mut config = config(vec![]);
    config.timing.unauthorized = Duration::from_millis(400);
    let lab = Lab::start(config).await;
    let cases = [
        ("", "HTTP/1.1 401 No ticket"),
        ("Authorization: Bearer x\r\n", "HTTP/1.1 401 No ticket"),
        (
            "Authorization: PVEAPIToken=admin@pve!test=wrong\r\n",
            "HTTP/1.1 401 Authentication failed!",
        ),
        (
            "Authorization: PVEAPIToken=nobody@pve!x=wrong\r\n",
            "HTTP/1.1 401 Authentication failed!",
        ),
        ("Cookie: PVEAuthCookie=PVE:root@pam:x\r\n", "HTTP/1.1 401 Authentication failed!"),
    ];
    for (header, wanted) in cases {
        let mut client = lab.connect("pve1").await.unwrap();
        let start = Instant::now();
        client
            .send(&format!("GET /api2/json/version HTTP/1.1\r\nHost: pve\r\n{header}\r\n"))
            .await;
        let answer = client.receive().await.unwrap();
        // A lower bound holds on any machine: the delay is a promise, not a measurement.
        assert!(start.elapsed() >= Duration::from_millis(400));
        assert_eq!(answer.status_line, wanted);
        assert_eq!(answer.body, "");
        assert!(!answer.headers.contains_key("Content-Type"));
        assert!(client.is_closed().await);
    }
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn old_servers_say_what_was_wrong_and_have_no_message() {
    let mut config = config(vec![]);
    config.dialect = Dialect::Legacy;
    let lab = Lab::start(config).await;
    let mut client = lab.connect("pve1").await.unwrap();
    client
        .send("GET /api2/json/version HTTP/1.1\r\nHost: pve\r\nAuthorization: PVEAPIToken=a@pve!b=c\r\n\r\n")
        .await;
    let answer = client.receive().await.unwrap();
    assert_eq!(answer.status_line, "HTTP/1.1 401 no such token 'b' for user 'a@pve'");
    let answer = lab.post("pve1", "/nodes/pve1/qemu/100/status/reset").await;
    assert_eq!(
        answer.status_line,
        "HTTP/1.1 500 unable to find configuration file for VM 100 on node 'pve1'"
    );
    assert_eq!(answer.body, "{\"data\":null}");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn a_missing_privilege_comes_before_everything_about_the_vm() {
    let mut config = config(vec![pooled(100), VmConfig::new(101, "pve1")]);
    config.tokens.push(token("svc@pve!ctl", &[("/pool/managed", &["VM.Audit"])]));
    let lab = Lab::start(config).await;
    let call = async |method: &str, path: &str| lab.call_as("svc@pve!ctl", "pve1", method, path).await.status_line;
    assert_eq!(call("GET", "/nodes/pve1/qemu/100/status/current").await, "HTTP/1.1 200 OK");
    for (method, path, wanted) in [
        ("POST", "/nodes/pve1/qemu/100/status/reset", "(/vms/100, VM.PowerMgmt)"),
        (
            "POST",
            "/nodes/pve1/qemu/100/status/reset?skiplock=maybe",
            "(/vms/100, VM.PowerMgmt)",
        ),
        ("GET", "/nodes/pve1/qemu/101/status/current", "(/vms/101, VM.Audit)"),
        ("GET", "/nodes/pve1/qemu/4711/config", "(/vms/4711, VM.Audit)"),
        ("GET", "/nodes/nowhere/qemu/101/config", "(/vms/101, VM.Audit)"),
        (
            "POST",
            "/nodes/pve1/qemu/100/agent/ping",
            "(/vms/100, VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted)",
        ),
        ("GET", "/cluster/status", "(/, Sys.Audit)"),
        ("GET", "/nodes/pve1/status", "(/nodes/pve1, Sys.Audit)"),
    ] {
        assert_eq!(
            call(method, path).await,
            format!("HTTP/1.1 403 Permission check failed {wanted}"),
            "{path}"
        );
    }
    assert_eq!(
        call("POST", "/access/ticket").await,
        "HTTP/1.1 403 Permission check failed (URI '/access/ticket' not available with API token, need proper ticket."
    );
    assert!(lab.simulator.audit().iter().all(|request| !request.executed));
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn what_a_token_may_not_see_is_absent() {
    let mut config = config(vec![pooled(100), VmConfig::new(101, "pve1")]);
    config.tokens.push(token("svc@pve!ctl", &[("/pool/managed", &["VM.Audit"])]));
    let lab = Lab::start(config).await;
    let vmids = |rows: &serde_json::Value| -> Vec<u64> { rows.as_array().unwrap().iter().filter_map(|row| row["vmid"].as_u64()).collect() };
    for path in ["/cluster/resources?type=vm", "/nodes/pve1/qemu"] {
        assert_eq!(vmids(&lab.call_as("svc@pve!ctl", "pve2", "GET", path).await.data()), [100]);
        assert_eq!(vmids(&lab.get("pve2", path).await.data()), [100, 101]);
    }
    let nodes = lab.call_as("svc@pve!ctl", "pve2", "GET", "/nodes").await.data();
    assert_eq!((&nodes[0]["status"], &nodes[0]["maxmem"]), (&json!("online"), &json!(null)));
    assert!(lab.get("pve2", "/nodes").await.data()[0]["maxmem"].is_u64());
    // The pool is named only to those who may see pools.
    let rows = lab.call_as("svc@pve!ctl", "pve2", "GET", "/cluster/resources?type=vm").await.data();
    assert_eq!(rows[0]["pool"], json!(null));
    assert_eq!(lab.get("pve2", "/cluster/resources?type=vm").await.data()[0]["pool"], "managed");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn permissions_are_reported_and_limited_by_the_user() {
    let mut config = config(vec![pooled(100)]);
    config
        .tokens
        .push(token("svc@pve!ctl", &[("/pool/managed", &["VM.Audit", "VM.PowerMgmt"])]));
    config.users.push(UserConfig {
        id: "svc@pve".to_owned(),
        privs: token("x@y!z", &[("/vms", &["VM.Audit"])]).privs,
    });
    let lab = Lab::start(config).await;
    let found = lab.call_as("svc@pve!ctl", "pve1", "GET", "/access/permissions").await.data();
    assert_eq!(found, json!({ "/vms/100": { "VM.Audit": 1 } }));
    let answer = lab
        .call_as("svc@pve!ctl", "pve1", "POST", "/nodes/pve1/qemu/100/status/reset")
        .await;
    assert_eq!(answer.status(), 403);
    let own = lab.get("pve1", "/access/permissions?path=/vms/100").await.data();
    assert_eq!(own["/vms/100"]["VM.PowerMgmt"], 1);
    assert_eq!(lab.vm(100).guest.to_string(), "running");
    lab.simulator.shutdown().await;
}

#[tokio::test]
async fn no_secret_is_recorded() {
    let lab = Lab::with(vec![VmConfig::new(100, "pve1")]).await;
    lab.act("pve1", 100, "reset").await;
    assert_eq!(lab.simulator.audit()[0].token.as_deref(), Some(ADMIN));
    assert!(!lab.read("audit.jsonl").contains(SECRET));
    lab.simulator.shutdown().await;
}
