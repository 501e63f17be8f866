//! How many reports the receiver takes: of the real controller as a process, with 10,000 VMs, each with its own key, over loopback and plain HTTP. What else the
//! controller does for such a fleet (it publishes, decides, reads Proxmox) goes on meanwhile, and so does the API server behind it; how much it took is told.

use crate::figures::{Figure, Target};
use crate::load::{self, Sent};
use crate::world::{World, say};
use anyhow::{Result, ensure};
use std::thread::sleep;
use std::time::Duration;

/// With a long time-out the publisher needs 20 patches a second, its least, whatever the fleet's size: what the API server has to do for a large fleet takes the
/// cores from the receiver on a machine with two, and is measured by itself (`publisher`).
pub const POLICY: &str = "heartbeat: {reportSeconds: 30, timeoutSeconds: 3600}, resetPolicy: {mode: Enforce}";

/// Each way is measured so often, and the middle one counts: a machine with two cores is never quite at rest.
const TIMES: usize = 3;
/// Reports in a request, where they come in arrays.
const ARRAY: usize = 100;
/// Connections that stay open. Enough to keep both cores busy while answers are on their way.
const CONNECTIONS: usize = 64;
/// Connections for arrays, each of which is work for a while.
const ARRAY_CONNECTIONS: usize = 8;
/// New connections at the same time.
const AT_ONCE: usize = 32;

/// A way to send reports.
#[derive(Clone, Copy)]
enum Way {
    OneByOne,
    Arrays,
    NewConnections,
}

impl Way {
    fn words(self) -> &'static str {
        match self {
            Self::OneByOne => "one by one, kept connections",
            Self::Arrays => "arrays of 100, kept connections",
            Self::NewConnections => "one by one, a new connection each",
        }
    }

    fn target(self) -> Target {
        Target::AtLeast(match self {
            Self::OneByOne => 25_000.0,
            Self::Arrays => 300_000.0,
            Self::NewConnections => 3_000.0,
        })
    }

    /// Reports of each VM in one measurement. A VM may send 20 at once and then one a second.
    fn rounds(self) -> usize {
        match self {
            Self::OneByOne => 8,
            Self::Arrays => 15,
            Self::NewConnections => 3,
        }
    }
}

/// What one measurement found.
#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    micros: f64,
    control_plane: f64,
}

/// Runs it.
///
/// # Errors
/// When a report was not accepted, or the lab failed.
pub fn run(world: &mut World) -> Result<Vec<Figure>> {
    world.settle()?;
    let to = world.address();
    let (mut singles, mut bulks) = (world.singles(), world.bulks(ARRAY));
    let mut figures = Vec::new();
    for way in [Way::OneByOne, Way::Arrays, Way::NewConnections] {
        let mut found = Vec::new();
        for _ in 0..TIMES {
            let send = || match way {
                Way::OneByOne => load::keep_alive(to, &mut singles, CONNECTIONS, way.rounds()),
                Way::Arrays => load::keep_alive(to, &mut bulks, ARRAY_CONNECTIONS, way.rounds()),
                Way::NewConnections => load::new_connections(to, &mut singles, AT_ONCE, way.rounds()),
            };
            let measured = measure(world, send)?;
            say(&format!("{}: {:.0} reports/s", way.words(), measured.rate));
            found.push(measured);
        }
        found.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let Some(middle) = found.get(found.len() / 2) else { continue };
        let name = |what: &str| format!("receiver: {}{what}", way.words());
        figures.extend([
            Figure::new(name(""), middle.rate, "reports/s", way.target()),
            Figure::told(name("; CPU of the controller"), middle.micros, "µs/report"),
            Figure::told(name("; API server and etcd meanwhile"), middle.control_plane, "cores"),
        ]);
    }
    Ok(figures)
}

fn measure(world: &mut World, send: impl FnOnce() -> Result<Sent>) -> Result<Measured> {
    // Whoever sent all that it may has its whole allowance again after this.
    sleep(Duration::from_secs(20));
    let accepted = "defib_reports_total{result=\"accepted\"}";
    let (before, used) = (world.metric(accepted)?, world.used()?);
    let sent = send()?;
    let busy = world.busy_since(used)?;
    let counted = world.metric(accepted)? - before;
    ensure!(
        counted == sent.reports as f64,
        "{} reports were accepted by their answers, and {counted} by the metrics of the controller",
        sent.reports
    );
    Ok(Measured {
        rate: sent.rate(),
        micros: busy.controller * sent.took.as_secs_f64() * 1e6 / sent.reports as f64,
        control_plane: busy.control_plane,
    })
}
