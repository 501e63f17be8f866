//! From the moment at which a VM's time-out is over to the reset request arriving at Proxmox: the decision, the whole protocol of a reset with its seven calls of
//! the API server and its look at Proxmox, for ten VMs at once, while the rest of the fleet reports.
//!
//! When a VM was heard last, the VMReset says (`evidence.lastReceivedTime`, milliseconds); when the request arrived, the simulator's audit says. Both read the
//! clock of this machine.

use crate::figures::{Figure, Target};
use crate::load::{self, Request};
use crate::world::{World, has_guest_agent, say};
use anyhow::{Context, Result, ensure};
use defib_api::VMReset;
use jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::ListParams;
use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};
use swarm::{AgentSpec, Boot, Connections, Swarm};
use xtask::lab::NAMESPACE;

/// Period and time-out are the built-in ones: how much is published depends on them (rule 9), and with a shorter time-out the publisher of 10,000 VMs alone would
/// take all of the API server on a machine with two cores.
pub const POLICY: &str = "heartbeat: {reportSeconds: 30, timeoutSeconds: 300, startupGraceSeconds: 1}, \
     resetPolicy: {mode: Enforce, stabilizationSeconds: 5}, budget: {maxUnhealthy: 100%, maxInFlight: 100}";
/// Budgets are lifted: they would hold back the third VM.
pub const ARGUMENTS: [&str; 2] = ["--max-in-flight=1000", "--max-unhealthy=100%"];
const TIMEOUT: Duration = Duration::from_secs(300);

/// VMs that fall silent in the same moment.
const AT_ONCE: usize = 10;
/// How often that happens: a hundred VMs, so that the 99th percentile is the second slowest.
const TIMES: u32 = 10;
/// Between two of them.
const APART: Duration = Duration::from_secs(8);
/// A reset that has not come so long after the time-out is not waited for: the run is a failure.
const LATE: Duration = Duration::from_secs(30);

/// Runs it, in a world with [`POLICY`] and [`ARGUMENTS`].
///
/// # Errors
/// When a VM was not reset, or not once.
pub fn run(world: &World) -> Result<Vec<Figure>> {
    let agents = world
        .runtime
        .block_on(swarm::lab::agents(&world.lab, &world.fleet, Connections::New))?;
    let swarm = world.swarm(agents.clone());
    swarm.boot_all();
    say(&format!("{} agents report every 30 s", agents.len()));
    world.all_healthy()?;
    // The new boots of all agents are urgent news, a hundred a second. They are not what is measured.
    sleep(Duration::from_secs(u64::try_from(world.machines.len())? / 100));
    say(&format!("{TIMES} times {AT_ONCE} VMs fall silent at once"));
    let spread = agents.len() / AT_ONCE;
    let batches: Vec<Vec<AgentSpec>> = (0..TIMES as usize)
        .map(|n| (0..AT_ONCE).filter_map(|i| agents.get(i * spread + n).cloned()).collect())
        .collect();
    let began = Instant::now();
    let mut events: Vec<(Duration, usize, bool)> = Vec::new();
    for (n, _) in batches.iter().enumerate() {
        let at = APART * u32::try_from(n)?;
        events.extend([(at, n, true), (at + TIMEOUT + LATE, n, false)]);
    }
    events.sort();
    for (at, n, silence) in events {
        sleep(at.saturating_sub(began.elapsed()));
        let Some(batch) = batches.get(n) else { continue };
        if silence {
            last_report(world, &swarm, batch)?;
        } else {
            batch.iter().for_each(|vm| swarm.set(vm.vmid, Some(Boot::now())));
        }
    }
    let delays = delays(world, &batches)?;
    world.runtime.block_on(swarm.stop());
    let percentile_of = |which: fn(&Delay) -> bool, share: f64, of: fn(&Delay) -> f64| {
        let mut all: Vec<f64> = delays.iter().filter(|delay| which(delay)).map(of).collect();
        all.sort_by(f64::total_cmp);
        let index = (all.len() as f64 * share).ceil() as usize;
        all.get(index.saturating_sub(1)).copied().context("nothing was measured")
    };
    let percentile = |share: f64, of: fn(&Delay) -> f64| percentile_of(|_| true, share, of);
    let at = |share: f64| percentile(share, |delay| delay.whole);
    let name = |what: &str| {
        format!(
            "detection: time-out over to reset request at Proxmox, {} VMs, {AT_ONCE} at once, {what}",
            world.words()
        )
    };
    let slow = at(0.99)?;
    say(&format!(
        "median {:.0} ms ({:.0} until the decision, {:.0} from there), p99 {slow:.0} ms, slowest {:.0} ms",
        at(0.5)?,
        percentile(0.5, |delay| delay.decision)?,
        percentile(0.5, |delay| delay.protocol)?,
        at(1.0)?
    ));
    Ok(vec![
        Figure::told(name("median"), at(0.5)?, "ms"),
        Figure::told(
            name("median of those with a silent QEMU guest agent"),
            percentile_of(|delay| delay.guest_agent, 0.5, |delay| delay.whole)?,
            "ms",
        ),
        Figure::told(
            name("median of those without one"),
            percentile_of(|delay| !delay.guest_agent, 0.5, |delay| delay.whole)?,
            "ms",
        ),
        Figure::told(
            name("median until the decision (live reads, look at Proxmox)"),
            percentile(0.5, |delay| delay.decision)?,
            "ms",
        ),
        Figure::told(
            name("median from there (journal, live list, record, connection)"),
            percentile(0.5, |delay| delay.protocol)?,
            "ms",
        ),
        if world.machines.len() >= 10_000 {
            Figure::new(name("p99"), slow, "ms", Target::Below(250.0))
        } else {
            Figure::told(name("p99"), slow, "ms")
        },
    ])
}

/// One request with the last report of each: they were heard in the same moment, and their time-outs end in the same moment.
fn last_report(world: &World, swarm: &Swarm, batch: &[AgentSpec]) -> Result<()> {
    let mut reports = Vec::new();
    for vm in batch {
        // A boot of its own: what the swarm's agent said last has another uptime.
        let boot = Boot::now();
        swarm.set(vm.vmid, None);
        let report = swarm::report::compact(vm, &boot, "Running");
        reports.push(format!("{{\"key\":\"{}\",{}", vm.key, report.strip_prefix('{').unwrap_or_default()));
    }
    // What was under way when the agents were told to be silent has arrived after this.
    sleep(Duration::from_millis(500));
    let request = Request::new(&world.address().to_string(), None, &format!("[{}]", reports.join(",")), batch.len());
    load::keep_alive(world.address(), &mut [request], 1, 1).map(drop)
}

/// Milliseconds of one reset.
struct Delay {
    /// Proxmox has a QEMU guest agent for the VM, and it does not answer.
    guest_agent: bool,
    /// From the end of the time-out to the request at Proxmox.
    whole: f64,
    /// From the end of the time-out to the decision.
    decision: f64,
    /// From the decision to the request.
    protocol: f64,
}

/// How long each VM's reset took.
fn delays(world: &World, batches: &[Vec<AgentSpec>]) -> Result<Vec<Delay>> {
    let api: Api<VMReset> = Api::namespaced(world.client.clone(), NAMESPACE);
    let resets = world.runtime.block_on(api.list(&ListParams::default()))?;
    let heard: HashMap<&str, (Timestamp, Timestamp)> = resets
        .items
        .iter()
        .filter_map(|reset| {
            let status = reset.status.as_ref()?;
            let times = (status.evidence.as_ref()?.last_received_time?, status.intent_time?);
            Some((reset.spec.vm_ref.name.as_str(), times))
        })
        .collect();
    let requests = world.lab.requests()?;
    let mut delays = Vec::new();
    for vm in batches.iter().flatten() {
        let (last, decided) = *heard.get(&*vm.hostname).with_context(|| format!("no VMReset of {}", vm.hostname))?;
        let of_vm: Vec<_> = requests
            .iter()
            .filter(|row| row["vmid"] == vm.vmid && row["action"] == "reset")
            .collect();
        ensure!(of_vm.len() == 1, "{} was reset {} times", vm.hostname, of_vm.len());
        let arrived: Timestamp = of_vm
            .first()
            .and_then(|row| row["time"].as_str())
            .context("an audit without times")?
            .parse()?;
        let due = last.checked_add(SignedDuration::try_from(TIMEOUT)?)?;
        let ms = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64() * 1e3;
        delays.push(Delay {
            guest_agent: has_guest_agent(vm.vmid),
            whole: ms(due, arrived),
            decision: ms(due, decided),
            protocol: ms(decided, arrived),
        });
    }
    Ok(delays)
}
