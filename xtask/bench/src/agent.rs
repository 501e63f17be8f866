//! What the Linux agent costs in a VM, beside two agents of Debian that do a like job.
//!
//! Memory is resident memory, added up over all processes of an agent. Pages that two of them share count twice, which is to the disadvantage of the agent that is
//! a shell and its children, and of nobody else.

use crate::figures::Figure;
use crate::procfs;
use crate::world::{World, say};
use anyhow::{Context, Result, ensure};
use control_plane::{Process, leashed};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use xtask::lab::wait::until;
use xtask::paths::root;

/// Reports, scrapes and queries over which a mean is taken: CPU time is counted in hundredths of a second.
const TIMES: u32 = 20;
/// Between two looks at the memory of processes that live for milliseconds.
const LOOK: Duration = Duration::from_millis(1);
/// How long an idle process is watched.
const IDLE: Duration = Duration::from_secs(5);

/// The two others: how Debian calls the package, and where it puts the program.
const NODE_EXPORTER: (&str, &str) = ("prometheus-node-exporter", "/usr/bin/prometheus-node-exporter");
const ZABBIX: (&str, &str) = ("zabbix-agent2", "/usr/sbin/zabbix_agent2");

/// What Zabbix is asked for: what a report of Defib's agent holds.
const ITEMS: [&str; 6] = [
    "system.hostname",
    "system.cpu.util",
    "vm.memory.size[used]",
    "vm.memory.size[total]",
    "vfs.fs.get",
    "system.uptime",
];

/// Runs it.
///
/// # Errors
/// When the agent's report is not accepted, or a program does not do its work.
pub fn run(world: &World) -> Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let mut figures = own(world, folder.path())?;
    let mut missing = Vec::new();
    for ((package, program), bench) in [
        (NODE_EXPORTER, node_exporter as fn(&Path, &Path) -> Result<Vec<Figure>>),
        (ZABBIX, zabbix),
    ] {
        if Path::new(program).is_file() {
            say(&format!("{package}: {TIMES} times"));
            figures.extend(bench(Path::new(program), folder.path())?);
        } else {
            missing.push(package);
        }
    }
    if !missing.is_empty() {
        say(&format!(
            "LEFT OUT: {}, not installed here; on Debian: apt-get install --no-install-recommends {}",
            missing.join(" and "),
            missing.join(" ")
        ));
    }
    Ok(figures)
}

fn own(world: &World, folder: &Path) -> Result<Vec<Figure>> {
    say(&format!("linux-agent.sh: {TIMES} reports"));
    let machine = world.machines.first().context("no VM")?;
    let config = folder.join("agent.conf");
    let text = format!("DEFIB_URL=http://{}\nDEFIB_KEY={}\n", world.address(), machine.key);
    std::fs::write(&config, text)?;
    // Another machine than the one that Proxmox has would be refused; without a UUID it is taken, and not armed.
    let agent = |arguments: &[&str]| {
        let mut command = Command::new("bash");
        command
            .arg(root().join("agents/linux-agent.sh"))
            .arg("--config")
            .arg(&config)
            .args(arguments);
        command.env("DEFIB_SYS_ROOT", folder).stdin(Stdio::null());
        command
    };
    let before = procfs::cpu_of_children()?;
    let mut peak: f64 = 0.0;
    for _ in 0..TIMES {
        let child = agent(&["--once"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let (pid, over) = (child.id(), AtomicBool::new(false));
        let (output, seen) = thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(pid, &over));
            let output = child.wait_with_output();
            over.store(true, Ordering::Relaxed);
            (output, watcher.join().unwrap_or_default())
        });
        let output = output?;
        ensure!(
            output.status.success(),
            "the agent says: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        peak = peak.max(seen);
        // A VM may report once a second.
        sleep(Duration::from_millis(500));
    }
    let cpu = (procfs::cpu_of_children()? - before).as_secs_f64() / f64::from(TIMES);

    let log = folder.join("agent.log");
    let mut command = leashed(Path::new("bash"));
    command.args(agent(&["--supervised"]).get_args()).env("DEFIB_SYS_ROOT", folder);
    let mut looped = Process::start("linux-agent.sh", command, &log)?;
    until(Duration::from_secs(20), "the first report of the loop", || {
        let text = std::fs::read_to_string(&log)?;
        Ok(if text.contains("first report accepted") {
            Ok(())
        } else {
            Err(text)
        })
    })?;
    let idle = idle(looped.pid())?;
    looped.kill()?;
    Ok(vec![
        Figure::told("agent: CPU of one report (linux-agent.sh --once)", cpu * 1e3, "ms"),
        Figure::told("agent: peak memory of one report, all processes", peak, "MiB"),
        Figure::told("agent: idle memory of the installed loop", idle, "MiB"),
    ])
}

/// Most memory that a process and its descendants had together, until it is over.
fn watch(pid: u32, over: &AtomicBool) -> f64 {
    let mut peak: f64 = 0.0;
    while !over.load(Ordering::Relaxed) {
        peak = peak.max(together(pid));
        sleep(LOOK);
    }
    peak
}

/// Resident memory of a process and its descendants. One that ended meanwhile has none.
fn together(pid: u32) -> f64 {
    procfs::family(pid).into_iter().filter_map(|pid| procfs::resident(pid).ok()).sum()
}

/// Memory at rest: the middle of many looks, so that a report in between does not count.
fn idle(pid: u32) -> Result<f64> {
    let began = Instant::now();
    let mut seen = Vec::new();
    while began.elapsed() < IDLE {
        seen.push(together(pid));
        sleep(Duration::from_millis(50));
    }
    seen.sort_by(f64::total_cmp);
    seen.get(seen.len() / 2).copied().context("nothing was seen")
}

fn node_exporter(program: &Path, folder: &Path) -> Result<Vec<Figure>> {
    let address = free_address()?;
    let mut command = leashed(program);
    command.arg(format!("--web.listen-address={address}")).arg("--log.level=error");
    let process = Process::start("prometheus-node-exporter", command, &folder.join("node-exporter.log"))?;
    let scrape = || {
        let answer = ask(address, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        ensure!(
            answer.starts_with(b"HTTP/1.1 200"),
            "no metrics: {}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    };
    peer(NODE_EXPORTER.0, "scrape", process, scrape)
}

fn zabbix(program: &Path, folder: &Path) -> Result<Vec<Figure>> {
    let address = free_address()?;
    let config = folder.join("zabbix.conf");
    let path = |name: &str| -> PathBuf { folder.join(name) };
    let text = format!(
        "LogType=console\nDebugLevel=2\nHostname=bench\nServer=127.0.0.1\nListenIP=127.0.0.1\nListenPort={}\nPidFile={}\nControlSocket={}\nPluginSocket={}\n",
        address.port(),
        path("zabbix.pid").display(),
        path("zabbix.sock").display(),
        path("zabbix-plugin.sock").display(),
    );
    std::fs::write(&config, text)?;
    let mut command = leashed(program);
    command.arg("-f").arg("-c").arg(&config);
    let process = Process::start("zabbix-agent2", command, &folder.join("zabbix.log"))?;
    let query = || {
        for item in ITEMS {
            let answer = ask(address, &zabbix_request(item)?)?;
            // Header, flags and two lengths, then the value.
            let value = String::from_utf8_lossy(answer.get(13..).unwrap_or_default()).into_owned();
            ensure!(
                answer.starts_with(b"ZBXD") && !value.is_empty() && !value.starts_with("ZBX_"),
                "no value of {item}: {value}"
            );
        }
        Ok(())
    };
    peer(ZABBIX.0, "query of the same values", process, query)
}

/// A request in Zabbix's protocol: mark, flags, length of the data, nothing reserved, data.
fn zabbix_request(item: &str) -> Result<Vec<u8>> {
    let length = u32::try_from(item.len())?;
    let mut request = b"ZBXD\x01".to_vec();
    request.extend_from_slice(&length.to_le_bytes());
    request.extend_from_slice(&0u32.to_le_bytes());
    request.extend_from_slice(item.as_bytes());
    Ok(request)
}

fn peer(name: &str, work: &str, mut process: Process, once: impl Fn() -> Result<()>) -> Result<Vec<Figure>> {
    process.wait_ready(Duration::from_secs(20), || once().map_err(|error| error.to_string()))?;
    // Statistics such as that of the CPU need a second reading.
    sleep(Duration::from_secs(2));
    let pid = process.pid();
    let before = procfs::cpu(pid)?;
    for _ in 0..TIMES {
        once()?;
        sleep(Duration::from_millis(100));
    }
    let cpu = (procfs::cpu(pid)? - before).as_secs_f64() / f64::from(TIMES);
    let idle = idle(pid)?;
    process.kill()?;
    Ok(vec![
        Figure::told(format!("agent: {name}, CPU of one {work}"), cpu * 1e3, "ms"),
        Figure::told(format!("agent: {name}, idle memory"), idle, "MiB"),
    ])
}

/// Sends a request on a new connection; the whole answer.
fn ask(address: SocketAddr, request: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// An address that was free a moment ago. Zabbix takes no port above 32,767.
fn free_address() -> Result<SocketAddr> {
    (20_000..32_767)
        .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
        .find(|address| std::net::TcpListener::bind(address).is_ok())
        .context("no port is free")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_to_zabbix_tells_its_length() {
        let request = zabbix_request("agent.ping").unwrap();
        assert_eq!(request[..5], *b"ZBXD\x01");
        assert_eq!(request[5..13], [10, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(request[13..], *b"agent.ping");
    }

    #[test]
    fn the_memory_of_a_shell_and_its_child_is_that_of_both() {
        let mut shell = Command::new("bash").args(["-c", "sleep 60; true"]).spawn().unwrap();
        let one = until(Duration::from_secs(10), "two processes", || {
            let all = procfs::family(shell.id());
            Ok(if all.len() == 2 {
                procfs::resident(all[1]).map_err(|e| e.to_string())
            } else {
                Err(format!("{all:?}"))
            })
        })
        .unwrap();
        assert!(one > 0.0 && together(shell.id()) > one);
        for pid in procfs::family(shell.id()) {
            Command::new("kill").arg(pid.to_string()).status().unwrap();
        }
        shell.wait().unwrap();
    }
}
