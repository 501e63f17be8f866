//! What goes wrong between the controllers and the API server at present.

use crate::api_server::{Call, EventFault, EventInfo, Fault, Faults, Flow, Loss, Outcome, Verb};
use crate::chance::{draw, percent};
use crate::plan::{Point, WriteTo};
use crate::sabotage::Sabotage;
use crate::world::World;
use std::sync::Weak;
use std::time::Duration;

/// How the API server fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiTrouble {
    /// A third of all writes are carried out, and their answers lost.
    LostReplies,
    /// The same, and the client waits for ever.
    SilentReplies,
    /// Every third write is refused: 409.
    Conflicts,
    /// Half of all requests are refused: 429.
    TooMany,
    /// 500, 503, 504.
    Errors,
    /// Requests wait up to 9 s, and are carried out when nobody waits for them any more.
    Slow,
    /// Nothing gets through.
    Down,
    /// Requests of the decider for statuses are refused, all others work.
    NoStatus,
}

impl ApiTrouble {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::LostReplies,
        Self::SilentReplies,
        Self::Conflicts,
        Self::TooMany,
        Self::Errors,
        Self::Slow,
        Self::Down,
        Self::NoStatus,
    ];
}

/// How watches fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WatchTrouble {
    /// They lag by up to 5 s.
    Lag,
    /// By up to a minute.
    LongLag,
    /// Nothing comes.
    Held,
    /// Nothing comes, not even the end.
    Silent,
    /// They are cut every few seconds.
    Cut,
    /// They expire: 410.
    Expire,
    /// A third of all events is missing.
    Drop,
    /// Only the last state is told.
    Collapse,
}

impl WatchTrouble {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Lag,
        Self::LongLag,
        Self::Held,
        Self::Silent,
        Self::Cut,
        Self::Expire,
        Self::Drop,
        Self::Collapse,
    ];
}

impl crate::proxmox::Trouble {
    /// All.
    pub const ALL: [Self; 10] = [
        Self::Unreachable,
        Self::Slow,
        Self::Broken,
        Self::LostAnswer,
        Self::LostRequest,
        Self::LateDelivery,
        Self::NotDelivered,
        Self::ServerError,
        Self::WorkerDies,
        Self::NoEffect,
    ];
}

/// The weather now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Of the API server.
    pub api: Option<ApiTrouble>,
    /// Of watches.
    pub watch: Option<WatchTrouble>,
    /// No report gets through.
    pub cut: bool,
    /// Reports of a controller to itself fail.
    pub deaf: bool,
    /// All watches are told that the past is forgotten.
    pub flush: bool,
    /// A controller dies at a write: which one, after so many more, and whether before the write is carried out.
    pub crash: Option<(usize, u32, bool)>,
    /// The same of its next POST.
    pub crash_at_post: Option<(usize, bool)>,
}

/// Asks the world's weather about each request.
pub struct Wind(pub Weak<World>);

impl Faults for Wind {
    fn request(&self, call: &Call) -> Fault {
        let Some(world) = self.0.upgrade() else { return Fault::default() };
        let Some(process) = process_of(&call.client) else {
            return Fault::default();
        };
        if !world.is_alive(process) {
            return Outcome::LoseRequest(Loss::Silence).into();
        }
        let now = world.clock.now();
        // The client names events by the real time.
        let name = if call.resource == "events" { "" } else { &call.name };
        let drawn = draw(world.seed, (process, call.verb, &call.resource, name, now));
        // Two processes never arrive in the same millisecond: which of them is first would be left to chance.
        let before = 2 + drawn % 4 * 2 + u64::from(now.0 % 2 != process as u64 % 2);
        let mut fault = Fault {
            before: Duration::from_millis(before),
            outcome: Outcome::Proceed,
            after: Duration::from_millis(1 + drawn / 16 % 8),
        };
        if call.verb == Verb::Create && call.resource == "vmresets" {
            world.reach(Point::Intent);
        }
        let write = call.verb.is_write() && call.resource != "leases";
        let at_point = if write { world.crash_point(process, WriteTo::Api) } else { None };
        let planned = (write && world.crashes_now(process)).then(|| world.weather().crash);
        if let Some(before) = at_point.or_else(|| planned.flatten().map(|(_, _, before)| before)) {
            let when = if before { "before" } else { "after" };
            world.die(process, &format!("{when} the write of {} {name}", call.resource));
            fault.outcome = if before {
                Outcome::LoseRequest(Loss::Silence)
            } else {
                Outcome::LoseReply(Loss::Silence)
            };
            return fault;
        }
        let lot = drawn / 256;
        match world.weather().api {
            Some(ApiTrouble::LostReplies) if call.verb.is_write() && percent(lot, 33) => fault.outcome = Outcome::LoseReply(Loss::Reset),
            Some(ApiTrouble::SilentReplies) if call.verb.is_write() && percent(lot, 33) => {
                fault.outcome = Outcome::LoseReply(Loss::Silence);
            }
            Some(ApiTrouble::Conflicts) if write && percent(lot, 33) => fault.outcome = Outcome::Fail(409),
            Some(ApiTrouble::TooMany) if percent(lot, 50) => fault.outcome = Outcome::Fail(429),
            Some(ApiTrouble::Errors) if percent(lot, 40) => fault.outcome = Outcome::Fail([500, 503, 504][(lot / 100 % 3) as usize]),
            Some(ApiTrouble::Slow) if percent(lot, 40) && call.verb != Verb::Watch => {
                fault.before += Duration::from_millis(lot / 100 % 9_000 / 2 * 2);
            }
            Some(ApiTrouble::Down) => fault.outcome = Outcome::LoseRequest(Loss::Reset),
            Some(ApiTrouble::NoStatus) if call.status && percent(lot, 80) => fault.outcome = Outcome::Fail(500),
            _ => {}
        }
        fault
    }

    fn watch(&self, watch: &Call) -> Flow {
        let Some(world) = self.0.upgrade() else { return Flow::Open };
        let Some(process) = process_of(&watch.client) else {
            return Flow::Open;
        };
        if !world.is_alive(process) {
            return Flow::Silent;
        }
        let now = world.clock.now();
        // A lag stays for some seconds: events of one watch come in order.
        let drawn = draw(world.seed, (process, &watch.resource, now.0 / 5_000));
        let weather = world.weather();
        let old = world.sabotage == Some(Sabotage::DecidesOnOldPolicies) && watch.resource == "healthpolicies";
        match weather.watch {
            _ if old => Flow::Silent,
            _ if weather.flush => Flow::Expire,
            Some(WatchTrouble::Lag) => Flow::Lag(Duration::from_millis(drawn % 5_000)),
            Some(WatchTrouble::LongLag) => Flow::Lag(Duration::from_millis(drawn % 60_000)),
            Some(WatchTrouble::Held) => Flow::Hold,
            Some(WatchTrouble::Silent) => Flow::Silent,
            Some(WatchTrouble::Cut) if percent(drawn, 50) => Flow::Cut,
            Some(WatchTrouble::Expire) if percent(drawn, 30) => Flow::Expire,
            _ if weather.api == Some(ApiTrouble::Down) => Flow::Silent,
            _ => Flow::Lag(Duration::from_millis(3 + drawn % 12)),
        }
    }

    fn event(&self, watch: &Call, event: &EventInfo) -> EventFault {
        let Some(world) = self.0.upgrade() else {
            return EventFault::Deliver;
        };
        if process_of(&watch.client).is_none() {
            return EventFault::Deliver;
        }
        match world.weather().watch {
            Some(WatchTrouble::Drop) if percent(draw(world.seed, (&watch.client, &event.name, event.version)), 33) => EventFault::Drop,
            Some(WatchTrouble::Collapse) => EventFault::Collapse,
            _ => EventFault::Deliver,
        }
    }
}

/// Name of a process's client.
pub fn client_name(process: usize) -> String {
    format!("controller-{process}")
}

/// And back.
pub fn process_of(client: &str) -> Option<usize> {
    client.strip_prefix("controller-")?.parse().ok()
}
