//! How well the publisher uses the API server, and how little of it it needs.

use crate::figures::{Figure, Target};
use crate::load;
use crate::world::{World, say};
use anyhow::{Context, Result, ensure};
use defib::heartbeat::VmKey;
use defib::heartbeat::publisher::{KubeStatusWriter, StatusPatch, StatusWriter};
use defib_api::{AgentState, DiskUsage, HeartbeatStatus, ManagedVM, UsageStatus};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;
use std::thread::sleep;
use std::time::{Duration, Instant};
use xtask::lab::NAMESPACE;

/// Rounds of each, in turn; the middle ratio counts.
const TIMES: usize = 3;
/// Calls at the same time, as many as the publisher has.
const CALLS: usize = 16;
/// Half of the built-in time-out: how old a published heartbeat may be.
const HALF_TIMEOUT: f64 = 150.0;
/// How long is watched: every VM has its turn within half of the time-out, and then some of them a second one.
const WATCHED: Duration = Duration::from_secs(200);
/// Between two looks at what is published.
const LOOK: Duration = Duration::from_secs(20);

/// Runs it.
///
/// # Errors
/// When a patch fails, or the lab does.
pub fn run(world: &mut World) -> Result<Vec<Figure>> {
    world.restart(&["--lift-publisher-budget"])?;
    world.settle()?;
    let mut figures = beside_a_bare_client(world)?;
    world.restart(&[])?;
    figures.extend(economy(world)?);
    Ok(figures)
}

fn beside_a_bare_client(world: &World) -> Result<Vec<Figure>> {
    let mut rounds = Vec::new();
    for _ in 0..TIMES {
        let bare = bare(world)?;
        let published = published(world)?;
        say(&format!("bare client: {bare:.0} patches/s, publisher: {published:.0} patches/s"));
        rounds.push((published / bare, published, bare));
    }
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, published, bare) = rounds.get(TIMES / 2).copied().context("no round")?;
    Ok(vec![
        Figure::new(
            "publisher: patches/s without budget, over a bare client's",
            ratio,
            "",
            Target::AtLeast(0.9),
        ),
        Figure::told("publisher: patches/s without budget", published, "patches/s"),
        Figure::told("publisher: a bare client's patches/s", bare, "patches/s"),
    ])
}

/// The publisher's own call for the same objects, with nothing around it: no ledger, no queue, no pace.
fn bare(world: &World) -> Result<f64> {
    let writer = KubeStatusWriter::new(world.client.clone());
    let began = Instant::now();
    world.runtime.block_on(async {
        stream::iter(&world.machines)
            .map(|machine| {
                let writer = writer.clone();
                let (vm, patch) = (VmKey::new(NAMESPACE, machine.name.as_str()), patch(machine));
                tokio::spawn(async move { writer.write(&vm, &patch).await })
            })
            .buffer_unordered(CALLS)
            .map(|done| anyhow::Ok(done??))
            .try_for_each(|()| async { Ok(()) })
            .await
    })?;
    Ok(world.machines.len() as f64 / began.elapsed().as_secs_f64())
}

/// What the publisher would write of a report of this VM.
fn patch(machine: &load::Machine) -> StatusPatch {
    let now = Timestamp::now();
    let disk = |mount: &str, used_bytes, total_bytes| DiskUsage {
        mount: mount.into(),
        used_bytes,
        total_bytes,
    };
    StatusPatch {
        heartbeat: HeartbeatStatus {
            last_received_time: Some(now),
            boot_id: Some(machine.boot_id.to_string()),
            boot_time: now.checked_sub(jiff::SignedDuration::from_secs(1_000_000)).ok(),
            machine_uuid: Some(machine.uuid.to_string()),
            state: Some(AgentState::Running),
            supervised: Some(true),
            report_seconds: Some(30),
            agent_version: Some("0.1.0".into()),
        },
        usage: UsageStatus {
            cpu_percent: Some(13),
            memory_percent: Some(45),
            memory_total_bytes: Some(2_147_483_648),
            disk_percent: Some(48),
            disks: vec![
                disk("/var/lib/data", 51_456_236_544, 107_374_182_400),
                disk("/", 11_456_236_544, 34_359_738_368),
            ],
        },
    }
}

/// Lets every VM report at once, and takes the time until all of them are published.
fn published(world: &World) -> Result<f64> {
    let done = || world.metric("defib_publisher_patches_total{result=\"ok\"}");
    let before = done()?;
    let count = world.machines.len() as f64;
    let began = Instant::now();
    load::keep_alive(world.address(), &mut world.bulks(100), 4, 1)?;
    let deadline = began + Duration::from_secs(120);
    loop {
        if done()? - before >= count {
            return Ok(count / began.elapsed().as_secs_f64());
        }
        ensure!(Instant::now() < deadline, "the publisher did not come to its end");
        sleep(Duration::from_millis(20));
    }
}

/// Writes for each heartbeat, and how old what is published becomes, with the built-in settings.
fn economy(world: &mut World) -> Result<Vec<Figure>> {
    // New boots are urgent, a hundred a second; then the turns settle.
    let warm = Duration::from_secs(60 + u64::try_from(world.machines.len())? / 100);
    say(&format!(
        "agents report every 30 s: {} s until all are published, and {WATCHED:?}",
        warm.as_secs()
    ));
    let agents = world
        .runtime
        .block_on(swarm::lab::agents(&world.lab, &world.fleet, swarm::Connections::New))?;
    let swarm = world.swarm(agents);
    swarm.boot_all();
    sleep(warm);
    let accepted = "defib_reports_total{result=\"accepted\"}";
    let (writes, heartbeats) = (api_writes(world)?, world.metric(accepted)?);
    let (mut lag, mut oldest): (f64, f64) = (0.0, 0.0);
    let began = Instant::now();
    let mut looked = began;
    while began.elapsed() < WATCHED {
        sleep(Duration::from_secs(1));
        lag = lag.max(world.metric("defib_publisher_lag_seconds")?);
        // The list is a load of its own.
        if looked.elapsed() >= LOOK {
            oldest = oldest.max(oldest_published(world)?);
            looked = Instant::now();
        }
    }
    let writes = api_writes(world)? - writes;
    let heartbeats = world.metric(accepted)? - heartbeats;
    world.runtime.block_on(swarm.stop());
    Ok(vec![
        Figure::new(
            "publisher: writes to the API server for each heartbeat, all of Defib's and others'",
            writes / heartbeats,
            "",
            Target::AtMost(0.22),
        ),
        Figure::new(
            "publisher: longest wait of a heartbeat to be published",
            lag,
            "s",
            Target::Below(HALF_TIMEOUT),
        ),
        Figure::new("publisher: oldest published heartbeat", oldest, "s", Target::Below(HALF_TIMEOUT)),
        Figure::told("publisher: heartbeats meanwhile", heartbeats, ""),
    ])
}

/// Write requests that the API server took, of whatever kind and from whomever.
fn api_writes(world: &World) -> Result<f64> {
    let request = kube::core::Request::new("/metrics");
    let mut request = request.list(&ListParams::default())?;
    *request.uri_mut() = "/metrics".parse()?;
    let text = world.runtime.block_on(world.client.request_text(request))?;
    let writes = ["POST", "PUT", "PATCH", "DELETE"].map(|verb| format!("verb=\"{verb}\""));
    let lines = text.lines().filter(|line| line.starts_with("apiserver_request_total{"));
    let counts = lines.filter(|line| writes.iter().any(|verb| line.contains(verb.as_str())));
    counts
        .map(|line| {
            line.rsplit(' ')
                .next()
                .unwrap_or_default()
                .parse::<f64>()
                .context("a metric that is no number")
        })
        .sum()
}

/// Seconds since the oldest heartbeat that stands in a status.
fn oldest_published(world: &World) -> Result<f64> {
    let api: Api<ManagedVM> = Api::namespaced(world.client.clone(), NAMESPACE);
    // From the API server's cache, in one piece: the cheapest list there is.
    let all = world.runtime.block_on(api.list(&ListParams::default().match_any()))?;
    let now = Timestamp::now();
    let received = |vm: &ManagedVM| vm.status.as_ref()?.heartbeat.as_ref()?.last_received_time;
    let ages = all
        .items
        .iter()
        .map(|vm| received(vm).map_or(f64::INFINITY, |at| now.duration_since(at).as_secs_f64()));
    Ok(ages.fold(0.0, f64::max))
}
