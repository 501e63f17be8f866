//! What happens in a world, and when: all of it follows from the seed, before anything runs.

mod event;

pub use event::{Body, CrashPoint, Event, Key, Object, Point, Sender, Speech, Start, WriteTo};

use crate::chance::Dice;
use crate::clock::Time;
use crate::proxmox::Trouble;
use crate::weather::{ApiTrouble, WatchTrouble};
use defib_api::ResetAction;
use serde_json::Value;
use std::time::Duration;

/// Trouble begins no sooner: by then all agents have reported.
const BEGIN: u64 = 40;
/// From here on nothing is disturbed any more.
const CALM: Time = Time(270_000);
/// The first machine hangs.
const PROBE: Time = Time(420_000);
/// The world ends.
const END: Time = Time(600_000);

/// The whole plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What kind of trouble there is.
    pub theme: Theme,
    /// The machines.
    pub vms: Vec<VmPlan>,
    /// Settings of each policy.
    pub policies: Vec<PolicyPlan>,
    /// Most resets under way in all of Defib.
    pub max_in_flight: u32,
    /// From here on nothing is disturbed any more, and all that was declared against resets is taken back.
    pub calm: Time,
    /// The first machine hangs then: a plain case, in which it is reset and comes back.
    pub probe: Time,
    /// The world ends.
    pub end: Time,
    /// What happens, by time.
    pub events: Vec<(Time, Event)>,
    /// What happens at a point of a reset, once, the first time that it is reached from this time on.
    pub reached: Vec<(Time, Point, Event)>,
    /// How the controllers are started.
    pub start: Start,
}

/// What kind of trouble there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    /// Machines hang, and nothing else.
    Plain,
    /// The API server fails.
    Api,
    /// Watches fail.
    Watch,
    /// Proxmox fails.
    Proxmox,
    /// The controller dies, mostly at a write.
    Crash,
    /// Two controllers share a lease; their connection or one of them dies.
    Two,
    /// Two controllers have a lease each.
    Rivals,
    /// Many machines fall silent at once.
    Fleet,
    /// Clocks are wrong, and jump.
    Clock,
    /// People change what is declared.
    People,
    /// Everything at once.
    All,
}

const THEMES: [Theme; 11] = [
    Theme::Plain,
    Theme::Api,
    Theme::Watch,
    Theme::Proxmox,
    Theme::Crash,
    Theme::Two,
    Theme::Rivals,
    Theme::Fleet,
    Theme::Clock,
    Theme::People,
    Theme::All,
];

/// One machine with its ManagedVM.
#[derive(Clone, Debug)]
pub struct VmPlan {
    /// Name of the ManagedVM.
    pub name: String,
    /// Its number in Proxmox.
    pub vmid: u32,
    /// Which policy.
    pub policy: usize,
    /// Whether it has a QEMU guest agent.
    pub guest_agent: bool,
    /// `powerState: Running`.
    pub is_to_run: bool,
    /// How long it boots.
    pub boot_takes: Duration,
    /// When its agent reports first.
    pub first_report: Duration,
    /// What its agent reports.
    pub speech: Speech,
    /// The whole spec of its ManagedVM; null: none but its policy.
    pub spec: Value,
    /// What applies to it where that is not simply what its policy says.
    pub own: Option<PolicyPlan>,
}

/// Settings of a policy.
#[derive(Clone, Debug)]
pub struct PolicyPlan {
    /// Name of the HealthPolicy.
    pub name: String,
    /// Seconds between reports.
    pub report: u32,
    /// Seconds until silence is one.
    pub timeout: u32,
    /// Seconds of start-up grace.
    pub grace: u32,
    /// Attempts of its step GuestReboot; 0: it has none.
    pub guest_reboots: u32,
    /// Attempts of its step Reset.
    pub attempts: u32,
    /// Attempts of its step PowerCycle; 0: it has none.
    pub power_cycles: u32,
    /// Seconds until an attempt has failed.
    pub recovery: u32,
    /// Resets in the window.
    pub max_resets: u32,
    /// The window in seconds.
    pub window: u32,
    /// Seconds until a recovery counts.
    pub stabilization: u32,
    /// Resets under way at once.
    pub max_in_flight: u32,
    /// Machines that may be unhealthy, in percent.
    pub max_unhealthy: u32,
    /// Seconds for which a guest that moves data holds a reset back.
    pub veto: u32,
    /// Machines that may be unhealthy, in number: in place of the percentage.
    pub most_unhealthy: Option<u32>,
    /// The whole spec of the HealthPolicy; null: what is said above.
    pub spec: Value,
}

impl PolicyPlan {
    /// Attempts over all steps.
    pub fn all_attempts(&self) -> u32 {
        self.guest_reboots + self.attempts + self.power_cycles
    }
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let theme = THEMES[(seed % THEMES.len() as u64) as usize];
        let policies = vec![policy(&mut dice, "default"), policy(&mut dice, "batch")];
        let count = dice.between(5, 8) as usize;
        let in_step = theme == Theme::Fleet || dice.percent(20);
        let vms = (0..count)
            .map(|n| VmPlan {
                name: format!("vm-{n}"),
                vmid: 101 + n as u32,
                policy: usize::from(dice.percent(30)),
                guest_agent: dice.percent(50),
                is_to_run: dice.percent(30),
                boot_takes: dice.seconds(4, 12),
                first_report: if in_step { Duration::from_secs(4) } else { dice.seconds(2, 7) },
                speech: Speech::default(),
                spec: Value::Null,
                own: None,
            })
            .collect();
        let mut plan = Self {
            seed,
            theme,
            vms,
            policies,
            max_in_flight: dice.between(1, 3) as u32,
            calm: CALM,
            probe: PROBE,
            end: END,
            events: Vec::new(),
            reached: Vec::new(),
            start: Start::default(),
        };
        plan.machines(&mut dice);
        plan.trouble(&mut dice);
        plan.loops(&mut dice);
        plan.at(CALM, Event::Calm);
        // The first machine of the first policy: where all went well, it is well.
        plan.at(PROBE, Event::Hang(0, 0));
        plan.events.sort_by_key(|(at, _)| *at);
        plan
    }

    /// How many controllers there are.
    pub fn controllers(&self) -> usize {
        match self.theme {
            Theme::Two | Theme::Rivals => 2,
            Theme::All => 1 + (self.seed / 11 % 2) as usize,
            _ => 1,
        }
    }

    fn at(&mut self, at: Time, event: Event) {
        self.events.push((at, event));
    }

    fn vm(&self, dice: &mut Dice) -> usize {
        dice.between(0, self.vms.len() as u64 - 1) as usize
    }

    /// What happens to the machines.
    fn machines(&mut self, dice: &mut Dice) {
        let hangs = if self.theme == Theme::Fleet { 0 } else { dice.between(1, 3) };
        for _ in 0..hangs {
            let (vm, at) = (self.vm(dice), moment(dice, 180));
            let stubborn = dice.pick(&[0, 0, 0, 1, 2, 9]);
            self.at(at, Event::Hang(vm, stubborn));
        }
        let odd = if matches!(self.theme, Theme::Plain | Theme::All | Theme::People | Theme::Proxmox) {
            3
        } else {
            1
        };
        for _ in 0..odd {
            let (vm, at) = (self.vm(dice), moment(dice, 180));
            let back = at.plus(dice.seconds(10, 60)).min(CALM.minus(Duration::from_secs(1)));
            let (first, then) = match dice.between(0, 11) {
                0 => (Event::Mute(vm), Event::Unmute(vm)),
                1 => (Event::Thrash(vm), Event::GuestReboot(vm)),
                2 => (Event::Goodbye(vm), Event::Unmute(vm)),
                3 => (Event::GuestReboot(vm), Event::GuestReboot(vm)),
                4 => (Event::PowerOff(vm), Event::PowerOn(vm)),
                5 => (Event::Freeze(vm, true), Event::Freeze(vm, false)),
                6 => (Event::Lock(vm, Some("backup")), Event::Lock(vm, None)),
                7 => (Event::Ha(vm, Some("migrate")), Event::Ha(vm, None)),
                8 => (Event::Monitor(vm, true), Event::Monitor(vm, false)),
                9 => (Event::Reboot(vm, false), Event::Reboot(vm, true)),
                10 => (Event::Move(vm), Event::Move(vm)),
                _ => (Event::Node("pve2", false), Event::Node("pve2", true)),
            };
            self.at(at, first);
            self.at(back, then);
            if dice.percent(50) {
                self.at(at.plus(dice.seconds(1, 5)), Event::Hang(vm, 0));
            }
        }
        if dice.percent(4) {
            let (vm, at) = (self.vm(dice).max(1), moment(dice, 180));
            self.at(at, Event::Reuse(vm));
        }
    }

    /// What else goes wrong.
    fn trouble(&mut self, dice: &mut Dice) {
        let all = self.theme == Theme::All;
        let theme = |one: Theme, plan: &Self| plan.theme == one || all;
        if theme(Theme::Api, self) {
            for _ in 0..3 {
                let trouble = dice.pick(&ApiTrouble::ALL);
                self.window(dice, Event::Api(Some(trouble)), Event::Api(None));
            }
        }
        if theme(Theme::Watch, self) {
            for _ in 0..3 {
                let trouble = dice.pick(&WatchTrouble::ALL);
                self.window(dice, Event::Watch(Some(trouble)), Event::Watch(None));
            }
            let at = moment(dice, 200);
            self.at(at, Event::Compact);
        }
        if theme(Theme::Proxmox, self) {
            for _ in 0..4 {
                let trouble = dice.pick(&Trouble::ALL);
                self.window(dice, Event::Proxmox(Some(trouble)), Event::Proxmox(None));
            }
        }
        if theme(Theme::Crash, self) || (self.controllers() == 2 && dice.percent(60)) {
            for _ in 0..dice.between(1, 4) {
                let (at, controller) = (moment(dice, 220), dice.between(0, 1) as usize % self.controllers());
                let event = match dice.between(0, 5) {
                    0 => Event::Crash(controller),
                    1 => Event::Restart(controller),
                    n => Event::CrashAt(controller, dice.between(0, 12) as u32, n % 2 == 0),
                };
                self.at(at, event);
            }
        }
        if theme(Theme::Fleet, self) {
            match dice.between(0, 2) {
                0 => self.window(dice, Event::Cut(true), Event::Cut(false)),
                1 => {
                    let at = moment(dice, 120);
                    for vm in 0..self.vms.len() {
                        self.at(at.plus(dice.seconds(0, 4)), Event::Hang(vm, 0));
                        let back = CALM.minus(dice.seconds(1, 20));
                        self.at(back, Event::GuestReboot(vm));
                    }
                }
                _ => self.window(dice, Event::Node("pve1", false), Event::Node("pve1", true)),
            }
        }
        if theme(Theme::Clock, self) || (self.controllers() == 2 && dice.percent(40)) {
            for _ in 0..2 {
                let (at, controller) = (moment(dice, 220), dice.between(0, 1) as usize % self.controllers());
                let sign = dice.pick(&[-1, 1]);
                let wrong = sign * dice.pick(&[1_000, 5_000, 60_000, 300_000]);
                self.at(at, Event::Skew(controller, wrong));
            }
        }
        if theme(Theme::People, self) {
            for _ in 0..4 {
                let vm = self.vm(dice);
                let policy = dice.between(0, 1) as usize;
                match dice.between(0, 5) {
                    0 => self.window(dice, Event::PauseVm(vm, true), Event::PauseVm(vm, false)),
                    1 => self.window(dice, Event::PausePolicy(policy, true), Event::PausePolicy(policy, false)),
                    2 => self.window(dice, Event::PauseCluster(true), Event::PauseCluster(false)),
                    3 => self.window(dice, Event::Observe(policy, true), Event::Observe(policy, false)),
                    4 => self.window(dice, Event::Delete(vm, true), Event::Delete(vm, false)),
                    _ => {
                        let at = moment(dice, 200);
                        let actions = [
                            ResetAction::Auto,
                            ResetAction::Reset,
                            ResetAction::PowerCycle,
                            ResetAction::GuestReboot,
                        ];
                        self.at(at, Event::Request(vm, dice.pick(&actions)));
                    }
                }
            }
        }
    }

    /// Now and then a machine boots again and again, and hangs then. It takes no draws from what else happens.
    fn loops(&mut self, dice: &mut Dice) {
        if !dice.percent(8) {
            return;
        }
        let vm = self.vm(dice);
        let mut at = moment(dice, 60);
        for _ in 0..dice.between(3, 6) {
            self.at(at, Event::GuestReboot(vm));
            at = at.plus(dice.seconds(15, 35));
        }
        self.at(at, Event::Hang(vm, 0));
    }

    fn window(&mut self, dice: &mut Dice, begin: Event, end: Event) {
        let at = moment(dice, 180);
        let until = at.plus(dice.seconds(3, 70)).min(CALM.minus(Duration::from_secs(1)));
        self.at(at, begin);
        self.at(until, end);
    }
}

fn moment(dice: &mut Dice, until: u64) -> Time {
    Time::default().plus(dice.seconds(BEGIN, until))
}

fn policy(dice: &mut Dice, name: &str) -> PolicyPlan {
    let report = dice.between(3, 5) as u32;
    PolicyPlan {
        name: name.into(),
        report,
        timeout: report * 4 + dice.between(0, 6) as u32,
        grace: dice.between(10, 20) as u32,
        guest_reboots: u32::from(dice.percent(20)),
        attempts: dice.between(1, 3) as u32,
        power_cycles: dice.pick(&[0, 1, 1, 2]),
        recovery: dice.between(25, 40) as u32,
        max_resets: dice.between(2, 4) as u32,
        window: dice.between(250, 900) as u32,
        stabilization: dice.between(5, 15) as u32,
        max_in_flight: dice.between(1, 2) as u32,
        max_unhealthy: dice.pick(&[20, 34, 50]),
        veto: dice.between(15, 60) as u32,
        most_unhealthy: None,
        spec: Value::Null,
    }
}
