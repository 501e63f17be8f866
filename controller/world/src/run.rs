//! Runs a world from its beginning to its end.

mod describe;
mod happen;

use crate::agents;
use crate::clock::Time;
use crate::declared::People;
use crate::plan::{Event, Plan};
use crate::process::Process;
use crate::sabotage::Sabotage;
use crate::weather::Weather;
use crate::world::World;
use happen::happen;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

/// Moves the paused time on without letting anything run meanwhile: `tokio::time::advance`. It is handed in, as tokio has it only for tests, and the programs of the
/// workspace are not to be built with that.
pub type StandStill = fn(Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Something that is due: planned, or what follows from it.
enum Due {
    Event(Event),
    Start(usize),
    Flushed,
    Count,
}

/// Lives through a plan. It must be called on a runtime of one thread whose time is paused.
pub async fn live(plan: Plan, sabotage: Option<Sabotage>) -> Arc<World> {
    live_with(plan, sabotage, None).await
}

/// The same, where all can stand still.
pub async fn live_with(plan: Plan, sabotage: Option<Sabotage>, stand_still: Option<StandStill>) -> Arc<World> {
    // From here on the present is a tick of tokio's timers, which a runtime that has just been made is a few microseconds past.
    tokio::time::sleep(Duration::from_millis(1)).await;
    defib::jitter::seed(plan.seed);
    // The back-off of watches draws from it.
    fastrand::seed(plan.seed);
    let world = World::new(plan, sabotage);
    People::of(&world).declare().await;
    for controller in 0..world.plan.controllers() {
        Process::start(&world, controller);
    }
    let mut agents = JoinSet::new();
    for vm in 0..world.plan.vms.len() {
        agents.spawn(agents::run(world.clone(), vm));
    }
    let mut due: BTreeMap<Time, Vec<Due>> = BTreeMap::new();
    for (at, event) in &world.plan.events {
        due.entry(*at).or_default().push(Due::Event(event.clone()));
    }
    let end = world.plan.end;
    for minute in 1..=end.0 / 60_000 {
        due.entry(Time(minute * 60_000)).or_default().push(Due::Count);
    }
    due.entry(end).or_default();
    while let Some(at) = due.keys().next().copied().filter(|at| *at <= end) {
        tokio::select! {
            biased;
            () = world.died.notified() => revive(&world, &mut due),
            () = world.reached.notified() => {
                for event in world.reached() {
                    happen(&world, event, &mut due, stand_still).await;
                }
            }
            () = sleep_until(world.clock.instant(at)) => {
                for one in due.remove(&at).unwrap_or_default() {
                    match one {
                        Due::Event(event) => happen(&world, event, &mut due, stand_still).await,
                        Due::Start(controller) => Process::start(&world, controller),
                        Due::Count => {
                            let looks: Vec<_> = world.processes().iter().enumerate().map(|(n, p)| (at, n, p.looks())).collect();
                            world.log().looks.extend(looks);
                        }
                        Due::Flushed => world.change_weather(|w| *w = Weather::default()),
                    }
                }
            }
        }
    }
    drop(agents);
    world
}

/// Ends what still runs, so that nothing of it is left behind.
pub fn end(world: &World) {
    let now = world.clock.now();
    world.api.set_faults(Arc::new(crate::api_server::NoFaults));
    for process in world.processes().iter_mut() {
        process.kill(now);
    }
    world.processes().clear();
}

/// Whoever died is started anew after a while.
fn revive(world: &Arc<World>, due: &mut BTreeMap<Time, Vec<Due>>) {
    for controller in 0..world.plan.controllers() {
        let dead = {
            let processes = world.processes();
            let newest = processes.iter().enumerate().rfind(|(_, p)| p.controller == controller);
            newest
                .filter(|(_, p)| p.ended.is_some())
                .map(|(index, p)| (index, p.ended.unwrap_or_default()))
        };
        let planned = due.values().flatten().any(|d| matches!(d, Due::Start(c) if *c == controller));
        if let Some((index, ended)) = dead
            && !planned
        {
            let at = ended.plus(world.stays_away(index)).max(world.clock.now());
            due.entry(at).or_default().push(Due::Start(controller));
        }
    }
}
