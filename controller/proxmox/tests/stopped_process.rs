//! A process that is stopped between its last check and its power action must not act on that check
//! when it wakes: the server has closed the connection by then, and no other one is opened.
//!
//! A real process is stopped with a real signal, so this is a program of its own: it starts itself
//! once more as the process to be stopped.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows test functions, not their helpers")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use support::{PATIENCE, Server, client, json};

const ENDPOINT: &str = "DEFIB_TEST_ENDPOINT";
const FINGERPRINT: &str = "DEFIB_TEST_FINGERPRINT";

fn main() -> ExitCode {
    if let Ok(endpoint) = std::env::var(ENDPOINT) {
        return the_process_to_be_stopped(&endpoint);
    }
    // `cargo test` passes a filter on to every test program.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let (outcome, requests) = stop_between_open_and_post(true);
    assert!(matches!(outcome.as_str(), "NotDelivered" | "Ambiguous"), "{outcome}");
    assert_eq!(requests, 0, "the request was carried out after the process woke up");
    println!("stopped between open and POST: {outcome}, no request was read");

    // Without the stop the same program does act: the test could fail.
    let (outcome, requests) = stop_between_open_and_post(false);
    assert_eq!((outcome.as_str(), requests), ("Delivered", 1));
    println!("not stopped: {outcome}");
    ExitCode::SUCCESS
}

fn the_process_to_be_stopped(endpoint: &str) -> ExitCode {
    let fingerprint = std::env::var(FINGERPRINT).unwrap().parse().unwrap();
    let trust = defib_proxmox::Trust::Fingerprints(vec![fingerprint]);
    let client = client(vec![endpoint.parse().unwrap()], trust);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = client.open(None).await.unwrap();
        println!("open");
        std::io::stdout().flush().unwrap();
        std::io::stdin().read_line(&mut String::new()).unwrap();
        match connection.post(defib_proxmox::PowerAction::Reset, "pve1", 100).await {
            Ok(_) => println!("Delivered"),
            Err(error) => println!("{:?}", error.delivery()),
        }
    });
    ExitCode::SUCCESS
}

fn stop_between_open_and_post(stop: bool) -> (String, usize) {
    let idle = if stop { Duration::from_millis(200) } else { PATIENCE };
    let upid = "\"UPID:pve1:00001ED0:0003568B:6633A1E3:qmreset:100:svc@pve!ctl:\"";
    let server = Server::closing_after(idle, json(upid));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(ENDPOINT, server.url())
        .env(FINGERPRINT, server.fingerprint().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "open");
    let mut stdin = child.stdin.take().unwrap();
    if stop {
        signal("STOP", child.id());
        until("the process is stopped", || state(child.id()) == 'T');
        until("the server closes the idle connection", || server.closed() == 1);
    }
    writeln!(stdin, "go").unwrap();
    if stop {
        signal("CONT", child.id());
    }
    let outcome = lines.next().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(server.accepted(), 1, "no other connection was opened");
    (outcome, server.requests().len())
}

fn signal(name: &str, pid: u32) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

/// The state letter of `/proc/{pid}/stat`, which follows the name in parentheses.
fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().chars().next().unwrap()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
