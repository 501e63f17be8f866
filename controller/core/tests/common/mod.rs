//! A scene to decide on: one VM, silent or not, with everything that a decision sees. Times are seconds since the scene's beginning; what lies before it is negative.
//!
//! The default is a VM in Enforce that was heard of 5 s ago, a Defib that has listened for long, and a Proxmox that has nothing against a reset. Each call
//! changes one thing.

#![allow(dead_code, reason = "each test binary uses its part")]

mod values;

pub use values::*;

use defib_api::*;
use defib_core::conditions::{Draft, kind};
use defib_core::decide::{Decision, Intent, Inventory, Next, Observed, decide};
use defib_core::fleet::{Fleet, Limits};
use defib_core::gate::{Closer, Look, LookFailed};
use defib_core::heartbeat::{Expectation, Heartbeat, Report};
use defib_core::journal::Step as JournalStep;
use defib_core::life::Vital;
use defib_core::observer::{ObserverView, Trouble};
use defib_core::policy::{Effective, Found, effective};
use defib_core::storm::Weather;
use defib_core::time::{Mono, Now};
use defib_core::window::Windows;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

#[derive(Clone, Debug)]
pub struct Scene {
    pub now: Now,
    pub vm: ManagedVM,
    pub policy: HealthPolicySpec,
    pub policy_is_missing: bool,
    pub windows: Windows,
    pub cluster: ProxmoxClusterSpec,
    pub heartbeat: Heartbeat,
    /// When boots were seen to begin, the newest eight, as the heartbeat knows them.
    pub boots: Vec<Mono>,
    pub observer: ObserverView,
    pub hold_lifted: Mono,
    pub foreign_heartbeat: bool,
    pub inventory: Inventory,
    pub uuid_in_proxmox: Option<Uuid>,
    pub closer: Option<Closer>,
    pub manual: Option<VMReset>,
    pub journal_unchanged: Duration,
    pub own_node: Option<Uuid>,
    pub duplicate_of: Option<String>,
    pub alive_as: Option<String>,
    pub limits: Limits,
    pub weather: Weather,
    pub guest_agent_answered: bool,
    pub off_since: Option<Mono>,
    pub observe_only: bool,
    pub would_reset_recorded: bool,
}

pub fn healthy() -> Scene {
    let mut vm = ManagedVM::new("web-1", ManagedVMSpec::new("pve", 101));
    vm.status = Some(ManagedVMStatus {
        identity: Some(MACHINE.to_string()),
        power: Some("running".into()),
        ..ManagedVMStatus::default()
    });
    let mut scene = Scene {
        now: at(NOW),
        vm,
        policy: HealthPolicySpec {
            heartbeat: Some(HeartbeatSettings {
                report_seconds: Some(10),
                timeout_seconds: Some(TIMEOUT as u32),
                startup_grace_seconds: Some(GRACE as u32),
            }),
            reset_policy: Some(ResetPolicy {
                mode: Some(Mode::Enforce),
                steps: Some(vec![reset_step(2)]),
                max_resets: Some(3),
                window_seconds: Some(WINDOW as u32),
                stabilization_seconds: Some(STABILIZATION as u32),
                forgive_before: None,
                corroborate: None,
            }),
            ..HealthPolicySpec::default()
        },
        policy_is_missing: false,
        windows: Windows::Closed { opens: None },
        cluster: ProxmoxClusterSpec {
            endpoints: vec!["https://pve1:8006".into()],
            token_secret_ref: NameRef { name: "pve-token".into() },
            tls: Tls {
                ca_secret_ref: None,
                fingerprints: None,
                verify: Some(Verify::System),
            },
            max_requests_per_node: None,
            pauses: vec![],
        },
        heartbeat: Heartbeat::default(),
        boots: vec![],
        observer: ObserverView {
            since: mono(1_000),
            trouble: None,
            settling: false,
            newest: None,
        },
        hold_lifted: Mono(0),
        foreign_heartbeat: false,
        inventory: Inventory::Row {
            node: "pve1".into(),
            status: "running".into(),
        },
        uuid_in_proxmox: Some(MACHINE),
        closer: None,
        manual: None,
        journal_unchanged: Duration::ZERO,
        own_node: None,
        duplicate_of: None,
        alive_as: None,
        limits: Limits {
            max_in_flight: 3,
            max_unhealthy: IntOrPercent::Percent("20%".into()),
        },
        weather: Weather::Calm { since: Mono(0) },
        guest_agent_answered: false,
        off_since: None,
        observe_only: false,
        would_reset_recorded: false,
    };
    scene.hear(report("boot-a", NOW as f64 - 5_000.0), NOW - 5);
    scene
}

/// A VM that was last heard of 200 s ago, well over its time-out.
pub fn silent() -> Scene {
    healthy().silent_for(200)
}

/// Silent, and Proxmox was looked at: with nothing else said, a reset begins.
pub fn due() -> Scene {
    silent().looked()
}

impl Scene {
    // ---- what is observed ----

    /// The ledger holds this report, received at that time, and nothing of before.
    pub fn hear(&mut self, report: Report, received: u64) {
        let boots = std::mem::take(&mut self.heartbeat.boots);
        self.heartbeat = Heartbeat::default();
        self.heartbeat.boots = boots;
        self.heartbeat.last_life = Some(mono(received));
        self.heartbeat.boot_first_received = Some(mono(received));
        self.heartbeat.report = Some((mono(received), Arc::new(report)));
    }

    pub fn heard(mut self, report: Report, received: u64) -> Self {
        self.hear(report, received);
        self
    }

    /// The last heartbeat was received so long ago, from a guest that was up for an hour then.
    pub fn silent_for(self, s: u64) -> Self {
        let received = self.now.mono.0 / 1_000 - s;
        self.heard(report("boot-a", 3_600.0), received)
    }

    /// The newest report, changed.
    pub fn reporting(mut self, change: impl FnOnce(&mut Report)) -> Self {
        let (at, report) = self.heartbeat.report.take().unwrap();
        let mut report = (*report).clone();
        change(&mut report);
        self.heartbeat.report = Some((at, Arc::new(report)));
        self
    }

    /// Nothing was ever received by this process.
    pub fn empty_ledger(mut self) -> Self {
        self.heartbeat = Heartbeat::default();
        self.boots = vec![];
        self
    }

    /// At each of these times a new boot was heard of first, beside the one that was there before.
    pub fn booted_at(mut self, mut times: Vec<Mono>) -> Self {
        times.sort();
        // What is over an hour old when another one comes is forgotten.
        let newest = times.last().copied().unwrap_or_default();
        times.retain(|at| newest.since(*at) < secs(3_600));
        times.drain(..times.len().saturating_sub(8));
        let mut h = Heartbeat::default();
        for (n, at) in std::iter::once(&Mono(0)).chain(&times).enumerate() {
            h.take(Arc::new(report(&format!("boot-{n}"), 20.0)), &Expectation::default(), *at);
        }
        self.heartbeat.boots = h.boots;
        self.boots = times;
        self
    }

    /// What an earlier process has published, received at that time (seconds, perhaps negative).
    pub fn published(self, received: i64, change: impl FnOnce(&mut HeartbeatStatus)) -> Self {
        let mut heartbeat = HeartbeatStatus {
            report_seconds: None,
            last_received_time: Some(wall(received)),
            boot_id: Some("boot-a".into()),
            boot_time: Some(wall(received - 3_600)),
            machine_uuid: Some(MACHINE.to_string()),
            state: Some(AgentState::Running),
            supervised: Some(true),
            agent_version: None,
        };
        change(&mut heartbeat);
        self.status(|s| s.heartbeat = Some(heartbeat))
    }

    pub fn status(mut self, change: impl FnOnce(&mut ManagedVMStatus)) -> Self {
        change(self.vm.status.as_mut().unwrap());
        self
    }

    pub fn observing_since(mut self, s: u64) -> Self {
        self.observer.since = mono(s);
        self
    }

    pub fn trouble(mut self, trouble: Trouble) -> Self {
        self.observer.trouble = Some(trouble);
        self
    }

    pub fn hold_lifted_at(mut self, s: u64) -> Self {
        self.hold_lifted = mono(s);
        self
    }

    pub fn now(mut self, s: u64) -> Self {
        self.now = at(s);
        self
    }

    /// Any other field.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    // ---- what is declared ----

    pub fn spec(mut self, change: impl FnOnce(&mut ManagedVMSpec)) -> Self {
        change(&mut self.vm.spec);
        self
    }

    pub fn reset_policy(mut self, change: impl FnOnce(&mut ResetPolicy)) -> Self {
        change(self.policy.reset_policy.as_mut().unwrap());
        self
    }

    pub fn budget(mut self, max_unhealthy: &str, max_in_flight: u32) -> Self {
        self.policy.budget = Some(Budget {
            max_unhealthy: Some(IntOrPercent::Percent(max_unhealthy.into())),
            max_in_flight: Some(max_in_flight),
            storm_cooldown_seconds: None,
        });
        self
    }

    pub fn trusting(self) -> Self {
        self.spec(|s| s.identity = Some(IdentityCheck::Trust))
    }

    pub fn deleting(mut self) -> Self {
        self.vm.metadata.deletion_timestamp = Some(Time(self.now.wall));
        self
    }

    // ---- what Proxmox and the fleet say ----

    pub fn looked(self) -> Self {
        self.look(|_| {})
    }

    pub fn look(mut self, change: impl FnOnce(&mut Look)) -> Self {
        let mut look = running();
        change(&mut look);
        let io = Some(quiet_for(self.now.mono, 200));
        self.closer = Some(Closer {
            look: Ok(look),
            fleet: one_unhealthy_of(10),
            io,
            guest_agent: Some(GuestAgentState::Silent),
        });
        self
    }

    /// What else the closer look has seen.
    pub fn closer(mut self, change: impl FnOnce(&mut Closer)) -> Self {
        change(self.closer.as_mut().unwrap());
        self
    }

    /// The guest has moved nothing for so long, as far as it was watched.
    pub fn quiet_for(self, s: u64) -> Self {
        let io = quiet_for(self.now.mono, s);
        self.closer(|c| c.io = Some(io))
    }

    pub fn corroborate(self, change: impl FnOnce(&mut Corroborate)) -> Self {
        self.reset_policy(|p| change(p.corroborate.get_or_insert_default()))
    }

    pub fn look_failed(mut self, reason: &'static str, message: &str) -> Self {
        self.closer = Some(Closer {
            look: Err(LookFailed {
                reason,
                message: message.into(),
            }),
            fleet: one_unhealthy_of(10),
            io: None,
            guest_agent: None,
        });
        self
    }

    pub fn fleet(mut self, change: impl FnOnce(&mut Fleet)) -> Self {
        change(&mut self.closer.as_mut().unwrap().fleet);
        self
    }

    // ---- what has happened ----

    /// Automatic resets so many seconds ago, oldest first.
    pub fn resets_ago(self, ago: &[u64]) -> Self {
        let now = self.now.wall.as_second();
        let recent = ago.iter().enumerate().map(|(i, ago)| RecentReset {
            name: format!("web-1-past-{i}"),
            time: Timestamp::from_second(now - *ago as i64).unwrap(),
        });
        let recent = recent.collect();
        self.status(|s| s.recent_resets = recent)
    }

    /// An episode with so many attempts, the newest of which ended so long ago.
    pub fn episode(self, attempts: u32, ended_ago: u64) -> Self {
        let now = self.now.wall.as_second();
        let ended = Timestamp::from_second(now - ended_ago as i64).unwrap();
        self.status(|s| {
            s.episode = Some(Episode {
                id: "e1".into(),
                start_time: ended,
                attempts,
                last_end_time: Some(ended),
            });
        })
    }

    pub fn under_way(self, current: CurrentReset) -> Self {
        self.status(|s| s.current_reset = Some(current))
    }

    /// HeartbeatFresh has been published with this status for so long.
    pub fn fresh_condition(self, status: &str, since: u64) -> Self {
        let condition = Condition {
            type_: kind::HEARTBEAT_FRESH.into(),
            status: status.into(),
            reason: "Fresh".into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(wall(since as i64)),
        };
        self.status(|s| s.conditions = vec![condition])
    }

    /// A person asks for a reset.
    pub fn requested(mut self) -> Self {
        let mut request = VMReset::new(
            "please",
            VMResetSpec {
                vm_ref: NameRef { name: "web-1".into() },
                action: ResetAction::Auto,
                reason: Some("it hangs".into()),
                requested_by: Some("alice".into()),
                trigger: Trigger::Manual,
                not_after: self.now.wall + secs(600),
            },
        );
        request.metadata.uid = Some("uid-1".into());
        self.manual = Some(request);
        self
    }

    /// For this.
    pub fn asking_for(mut self, action: ResetAction) -> Self {
        self.manual.as_mut().unwrap().spec.action = action;
        self
    }

    /// The policy's steps.
    pub fn steps(self, steps: &[(StepAction, u32)]) -> Self {
        let step = |(action, max_attempts): &(StepAction, u32)| Step {
            action: *action,
            max_attempts: *max_attempts,
            recovery_deadline_seconds: DEADLINE as u32,
        };
        let steps = steps.iter().map(step).collect();
        self.reset_policy(|p| p.steps = Some(steps))
    }

    // ---- what follows ----

    pub fn effective(&self) -> Effective {
        effective(&self.vm.spec, self.found())
    }

    fn found(&self) -> Found<'_> {
        if self.policy_is_missing {
            Found::Missing("default")
        } else {
            Found::Policy {
                name: "default",
                spec: &self.policy,
            }
        }
    }

    pub fn decide(&self) -> Decision {
        let effective = self.effective();
        decide(&self.observed(&effective), self.now)
    }

    pub fn observed<'a>(&'a self, effective: &'a Effective) -> Observed<'a> {
        Observed {
            vm: &self.vm,
            policy: self.found(),
            windows: &self.windows,
            cluster: Some(&self.cluster),
            effective,
            heartbeat: &self.heartbeat,
            observer: self.observer.clone(),
            hold_lifted: self.hold_lifted,
            foreign_heartbeat: self.foreign_heartbeat,
            inventory: &self.inventory,
            uuid_in_proxmox: self.uuid_in_proxmox,
            closer: self.closer.as_ref(),
            manual: self.manual.as_ref(),
            me: ME,
            journal_unchanged: self.journal_unchanged,
            own_node: self.own_node,
            duplicate_of: self.duplicate_of.as_deref(),
            alive_as: self.alive_as.as_deref(),
            limits: &self.limits,
            weather: self.weather,
            guest_agent_answered: self.guest_agent_answered,
            off_since: self.off_since,
            observe_only: self.observe_only,
            would_reset_recorded: self.would_reset_recorded,
        }
    }

    pub fn vital<'a>(&'a self, effective: &'a Effective) -> Vital<'a> {
        Vital {
            effective,
            status: self.vm.status.as_ref(),
            heartbeat: &self.heartbeat,
            since: self.observer.since.max(self.hold_lifted),
            listening: self.observer.since,
        }
    }

    /// What the decision comes to, in a word: `Look`, `Reset Automatic`, `Reset Manual`, `Continue`, or the reason of `ResetAllowed` where nothing is done
    /// (`Armed` while nothing is due).
    pub fn verdict(&self) -> String {
        let decision = self.decide();
        match &decision.next {
            Next::Nothing => condition(&decision, kind::RESET_ALLOWED).reason.to_owned(),
            Next::LookCloser => "Look".into(),
            Next::AskGuestAgent => "Ask".into(),
            Next::Start => "Start".into(),
            Next::Begin(intent) => format!("Reset {:?}", intent.current.trigger),
            Next::WouldReset(_) => "Would".into(),
            Next::Continue(_) => "Continue".into(),
        }
    }

    /// The next step of the reset that is under way.
    pub fn step(&self) -> JournalStep {
        match self.decide().next {
            Next::Continue(step) => step,
            other => panic!("no reset is under way, but {other:?}"),
        }
    }
}

/// The reset that begins.
pub fn begun(scene: &Scene) -> Intent {
    match scene.decide().next {
        Next::Begin(intent) => *intent,
        other => panic!("no reset begins, but {other:?}"),
    }
}

pub fn condition<'a>(decision: &'a Decision, type_: &str) -> &'a Draft {
    decision.conditions.iter().find(|c| c.type_ == type_).unwrap()
}

/// A table of cases: each in plain words, with the scene and the verdict that the rule demands.
pub fn check(cases: Vec<(&str, Scene, &str)>) {
    for (case, scene, expected) in cases {
        assert_eq!(scene.verdict(), expected, "{case}");
    }
}
