//! What the controller needs: memory and CPU at rest and with fleets that report, and the time from its start until it serves.

use crate::figures::{Figure, Target};
use crate::procfs;
use crate::world::{BUILT_IN, World, say};
use anyhow::Result;
use std::thread::sleep;
use std::time::{Duration, Instant};
use swarm::Connections;

/// How long is watched: two periods of the reports.
const WATCHED: Duration = Duration::from_secs(60);

/// Runs it, for no VMs, a tenth, and all of the fleet.
///
/// # Errors
/// When a lab fails.
pub fn run(vms: u32) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut empty = World::start(0, BUILT_IN, &[])?;
    sleep(Duration::from_secs(20));
    let resident = procfs::resident(empty.lab.controller()?.pid())?;
    figures.push(Figure::new("memory: resident, 0 VMs", resident, "MiB", Target::Below(30.0)));
    empty.stop()?;
    for fleet in [vms / 10, vms] {
        figures.extend(with_fleet(fleet, fleet == vms)?);
    }
    Ok(figures)
}

fn with_fleet(vms: u32, whole: bool) -> Result<Vec<Figure>> {
    let mut world = World::start(vms, BUILT_IN, &[])?;
    let agents = world
        .runtime
        .block_on(swarm::lab::agents(&world.lab, &world.fleet, Connections::New))?;
    let swarm = world.swarm(agents);
    swarm.boot_all();
    say(&format!("{vms} agents report every 30 s; watched for {WATCHED:?}"));
    world.all_healthy()?;
    // The new boots of all agents are urgent news, a hundred a second.
    sleep(Duration::from_secs(30 + u64::from(vms) / 100));
    let used = world.used()?;
    let began = Instant::now();
    let mut most: f64 = 0.0;
    while began.elapsed() < WATCHED {
        most = most.max(procfs::resident(world.lab.controller()?.pid())?);
        sleep(Duration::from_millis(500));
    }
    let busy = world.busy_since(used)?;
    let words = world.words();
    let resident = format!("memory: resident, {words} VMs that report every 30 s");
    let cpu = format!("memory: CPU of the controller, {words} VMs that report every 30 s");
    let mut figures = Vec::new();
    if whole {
        let serving = world.restart(&[])?;
        figures.extend([
            Figure::new(resident, most, "MiB", Target::Below(100.0)),
            Figure::new(cpu, busy.controller * 100.0, "% of a core", Target::AtMost(10.0)),
            Figure::new(
                format!("memory: start to serving, {words} VMs"),
                serving.as_secs_f64(),
                "s",
                Target::AtMost(5.0),
            ),
        ]);
    } else {
        figures.extend([
            Figure::told(resident, most, "MiB"),
            Figure::told(cpu, busy.controller * 100.0, "% of a core"),
        ]);
    }
    world.runtime.block_on(swarm.stop());
    world.stop()?;
    Ok(figures)
}
