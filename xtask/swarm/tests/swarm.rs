//! Agents against a receiver that writes down what it is sent, with guests of the simulator.

#![allow(clippy::unwrap_used)]

use pve_sim::config::VmConfig;
use pve_sim::{Config, Control, Simulator};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use swarm::{AgentSpec, Connections, Counts, Options, Swarm, follow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// Anything awaited happens within this, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// A receiver: what it was sent, and what it answers.
#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    reports: Arc<Mutex<Vec<Value>>>,
    answer: Arc<Mutex<&'static str>>,
}

const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 36\r\n\r\n{\"accepted\":1,\"nextReportSeconds\":1}";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            reports: Arc::default(),
            answer: Arc::new(Mutex::new(TAKEN)),
        };
        let for_listener = receiver.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(for_listener.clone().converse(stream));
            }
        });
        receiver
    }

    async fn converse(self, mut stream: TcpStream) {
        let mut bytes = Vec::new();
        while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if body.len() < length.parse().unwrap() {
                continue;
            }
            let key = head.lines().find_map(|line| line.strip_prefix("Authorization: Bearer ")).unwrap();
            let mut report: Value = serde_json::from_str(body).unwrap();
            report["key"] = key.into();
            self.reports.lock().unwrap().push(report);
            let answer = *self.answer.lock().unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            bytes.clear();
        }
    }

    fn of(&self, vmid: u32) -> Vec<Value> {
        let reports = self.reports.lock().unwrap();
        reports.iter().filter(|report| report["key"] == key(vmid)).cloned().collect()
    }
}

fn key(vmid: u32) -> String {
    format!("key-{vmid}")
}

fn agent(vmid: u32, connections: Connections) -> AgentSpec {
    AgentSpec {
        vmid,
        hostname: format!("vm-{vmid}").into(),
        key: key(vmid).into(),
        machine: Some(Uuid::from_u128(u128::from(vmid))),
        supervised: true,
        connections,
    }
}

fn options(receiver: &Receiver) -> Options {
    Options {
        target: receiver.address,
        period: Duration::from_secs(1),
        spread: Duration::from_millis(100),
        on_accepted: None,
    }
}

async fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !look() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_agent_is_as_alive_as_its_guest_and_a_new_boot_reports_as_one() {
    let receiver = Receiver::start().await;
    let state = tempfile::tempdir().unwrap();
    let vms = [101, 102, 103].map(|vmid| VmConfig::new(vmid, "pve1")).to_vec();
    let config = Config { vms, ..Config::default() };
    let simulator = Simulator::start(config, state.path()).await.unwrap();
    let agents = [101, 102, 103].map(|vmid| agent(vmid, Connections::New)).to_vec();
    let swarm = Swarm::start(options(&receiver), agents);
    let following = follow(state.path().join("audit.jsonl"), &swarm);
    eventually("all report", || [101, 102, 103].iter().all(|vmid| receiver.of(*vmid).len() >= 2)).await;
    let boot_id = |vmid| simulator.vm(vmid).unwrap().boot_id.unwrap().to_string();
    assert_eq!(receiver.of(101)[0]["bootID"], boot_id(101));

    simulator.hang(101).await.unwrap();
    simulator.crash(102).await.unwrap();
    // What was under way when it hung may still come.
    let heard = receiver.of(103).len();
    eventually("a period passes", || receiver.of(103).len() > heard + 2).await;
    let silent = [receiver.of(101).len(), receiver.of(102).len()];
    let heard = receiver.of(103).len();
    eventually("three more pass", || receiver.of(103).len() > heard + 3).await;
    assert_eq!([receiver.of(101).len(), receiver.of(102).len()], silent);

    simulator.thaw(101).await.unwrap();
    simulator.control(Control::GuestReboot { vmid: 102 }).await.unwrap();
    eventually("both are back", || {
        receiver.of(101).len() > silent[0] && receiver.of(102).len() > silent[1]
    })
    .await;
    let thawed = receiver.of(101);
    assert_eq!(thawed[0]["bootID"], thawed[thawed.len() - 1]["bootID"], "the same boot goes on");
    let rebooted = receiver.of(102);
    let (before, after) = (&rebooted[0], &rebooted[rebooted.len() - 1]);
    assert_eq!(after["bootID"], boot_id(102));
    assert_ne!(after["bootID"], before["bootID"]);
    // Seven periods and more passed before it was started anew; the other one ran on.
    let other = receiver.of(103);
    assert!(after["uptimeSeconds"].as_f64() < other[other.len() - 1]["uptimeSeconds"].as_f64());
    following.abort();
    simulator.shutdown().await;
}

#[tokio::test]
async fn reports_are_counted_by_what_became_of_them() {
    let receiver = Receiver::start().await;
    let agents = (1..=20).map(|vmid| agent(vmid, Connections::KeepAlive)).collect();
    let told = Arc::new(Mutex::new(0));
    let counting = Arc::clone(&told);
    let options = Options {
        on_accepted: Some(Arc::new(move |_| *counting.lock().unwrap() += 1)),
        ..options(&receiver)
    };
    let swarm = Swarm::start(options, agents);
    swarm.boot_all();
    let all_heard = |n| (1..=20).all(|vmid| receiver.of(vmid).len() >= n);
    eventually("each reports three times", || all_heard(3)).await;
    let counts = swarm.counts();
    assert!(counts.accepted >= 40 && counts.accepted <= counts.sent, "{counts}");
    assert_eq!(
        (counts.stale, counts.connect_errors, counts.broken, counts.connections),
        (0, 0, 0, 20)
    );
    assert!(
        counts.latency.quantile(0.99).is_some() && counts.longest_gap > Duration::ZERO,
        "{counts}"
    );
    assert!(*told.lock().unwrap() >= counts.accepted - 20);

    *receiver.answer.lock().unwrap() = BUSY;
    eventually("they are refused", || swarm.counts().refused.contains_key(&503)).await;
    swarm.reset_counts();
    eventually("only refused", || swarm.counts().refused.get(&503) >= Some(&20)).await;
    assert_eq!(
        Counts {
            accepted: 0,
            ..swarm.counts()
        }
        .accepted,
        0
    );
    swarm.stop().await;
}

#[tokio::test]
async fn ten_thousand_guests_without_a_process_cost_no_files() {
    let state = tempfile::tempdir().unwrap();
    let vms = (1_000..11_000).map(|vmid| VmConfig::new(vmid, "pve1")).collect();
    let config = Config { vms, ..Config::default() };
    let simulator = Simulator::start(config, state.path()).await.unwrap();
    let up = || {
        simulator
            .snapshot()
            .vms
            .iter()
            .filter(|vm| vm.guest == pve_sim::GuestState::Running)
            .count()
    };
    eventually("all have booted", || up() == 10_000).await;
    assert!(!state.path().join("guests").exists());
    simulator.shutdown().await;
}
