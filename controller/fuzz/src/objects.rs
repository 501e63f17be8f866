//! Objects as the API server stores them: whatever deserializes must have a decision, and what follows from it must be storable again.

use crate::schema::Schema;
use defib::reconcile::cache::Guarded;
use defib_api::{
    AgentState, CurrentReset, Evidence, GuestAgentState, HealthPolicy, HealthPolicySpec, IntOrPercent, ManagedVM, NameRef, Outcome,
    ProxmoxCluster, VMReset,
};
use defib_core::conditions::merge;
use defib_core::corroboration::{Counters, GuestIo};
use defib_core::decide::{Decision, Inventory, Next, Observed, decide};
use defib_core::fleet::{Count, Fleet, Limits, standing};
use defib_core::gate::{Closer, Look, LookFailed};
use defib_core::heartbeat::{Expectation, Heartbeat, Report};
use defib_core::journal::{Books, Change, Sent, Step, TaskEnd, polled, searched, sent};
use defib_core::life::{Vital, identity};
use defib_core::observer::{ObserverView, Trouble};
use defib_core::policy::{Effective, Found, built_in, effective, policy_problem};
use defib_core::power::started;
use defib_core::time::{Mono, Now};
use defib_core::window::windows;
use jiff::Timestamp;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const ME: &str = "defib-0";
const MACHINE: Uuid = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
/// The corpus is written around this moment: 2027-01-15T08:00:00Z.
const NOW_SECONDS: i64 = 1_800_000_000;
/// Two days: Defib has listened for long.
const UP_MS: u64 = 172_800_000;

/// What one VM's decision takes from the API server. What is left out does not exist.
#[derive(Deserialize)]
struct Stored {
    #[serde(default, rename = "managedVM")]
    vm: Option<Guarded<ManagedVM>>,
    #[serde(default, rename = "healthPolicy")]
    policy: Option<Guarded<HealthPolicy>>,
    #[serde(default, rename = "proxmoxCluster")]
    cluster: Option<Guarded<ProxmoxCluster>>,
    #[serde(default, rename = "vmReset")]
    request: Option<Guarded<VMReset>>,
}

/// Every object that deserializes passes through merging and deciding, to the same end each time; what is written of it is what the API server takes.
pub(crate) fn check(input: &[u8]) {
    let Ok(stored) = serde_json::from_slice::<Stored>(input) else {
        return;
    };
    let vm = opened(stored.vm);
    let policy = opened(stored.policy);
    let cluster = opened(stored.cluster);
    let request = opened(stored.request);
    if let Some(policy) = &policy {
        let problem = policy_problem("shared", &policy.spec);
        assert_eq!(problem, policy_problem("shared", &policy.spec));
        assert!(problem.is_none_or(|p| !p.to_string().is_empty()));
    }
    let Some(vm) = vm else { return };
    let found = match (&policy, &vm.spec.policy_ref) {
        (Some(policy), _) => Found::Policy {
            name: policy.metadata.name.as_deref().unwrap_or("default"),
            spec: &policy.spec,
        },
        (None, Some(NameRef { name })) => Found::Missing(name),
        (None, None) => Found::None,
    };
    let effective = effective(&vm.spec, found);
    merged(&effective, policy.as_ref().map(|p| &p.spec));
    for moment in [now(0), now(-40_000_000), extreme(Timestamp::MIN), extreme(Timestamp::MAX)] {
        let declared = policy.as_ref().map_or(&[][..], |p| p.spec.maintenance_windows.as_slice());
        let windows = windows(declared, moment.wall);
        for scene in scenes(&vm, &effective, moment) {
            let observed = Observed {
                vm: &vm,
                policy: found,
                windows: &windows,
                cluster: cluster.as_ref().map(|c| &c.spec),
                effective: &effective,
                heartbeat: &scene.heartbeat,
                observer: scene.observer.clone(),
                hold_lifted: Mono(0),
                foreign_heartbeat: false,
                inventory: &scene.inventory,
                uuid_in_proxmox: identity(vm.status.as_ref()).or(Some(MACHINE)),
                closer: scene.closer.as_ref(),
                manual: request.as_ref(),
                me: ME,
                journal_unchanged: scene.unchanged,
                own_node: None,
                duplicate_of: None,
                alive_as: None,
                limits: &scene.limits,
                weather: defib_core::storm::Weather::Calm { since: Mono(0) },
                guest_agent_answered: false,
                off_since: Some(Mono(0)),
                observe_only: false,
                would_reset_recorded: false,
            };
            decided(&observed, moment);
        }
    }
}

/// A well-formed object. It is written and read back as the same; a malformed one says why.
fn opened<K>(guarded: Option<Guarded<K>>) -> Option<K>
where
    K: Resource + Serialize + DeserializeOwned + PartialEq + Debug,
{
    match guarded?.0 {
        Ok(object) => {
            let written = serde_json::to_value(&object).unwrap_or_default();
            let again: Result<K, _> = serde_json::from_value(written.clone());
            let again = again.map(|k| serde_json::to_value(k).unwrap_or_default());
            assert_eq!(again.ok(), Some(written), "what is stored is read back as something else");
            Some(object)
        }
        Err(invalid) => {
            assert!(!invalid.error.is_empty());
            None
        }
    }
}

/// What holds after merging, whatever was declared.
fn merged(effective: &Effective, policy: Option<&HealthPolicySpec>) {
    assert!(!effective.steps.is_empty());
    let ordered = |pair: &[defib_api::Threshold]| match pair {
        [a, b] => (a.metric, a.action) <= (b.metric, b.action),
        _ => true,
    };
    assert!(effective.thresholds.windows(2).all(ordered));
    if effective.problem.is_none() {
        assert!(effective.timeout >= effective.report.saturating_mul(4));
        assert!(effective.max_unhealthy.of(u32::MAX).is_some() && effective.max_unhealthy.of(0).is_some());
    } else if let Some(problem) = &effective.problem {
        assert!(!problem.reason().is_empty() && !problem.to_string().is_empty());
    }
    assert!(policy.is_some() || effective.policy.is_none());
}

fn now(offset: i64) -> Now {
    Now {
        mono: Mono(UP_MS),
        wall: Timestamp::from_second(NOW_SECONDS.saturating_add(offset)).unwrap_or_default(),
    }
}

fn extreme(wall: Timestamp) -> Now {
    Now { mono: Mono(UP_MS), wall }
}

struct Scene {
    heartbeat: Heartbeat,
    observer: ObserverView,
    inventory: Inventory,
    closer: Option<Closer>,
    unchanged: Duration,
    limits: Limits,
}

/// The same objects, met by Defib in different states.
fn scenes(vm: &ManagedVM, effective: &Effective, now: Now) -> Vec<Scene> {
    let journal = vm.status.as_ref().and_then(|s| s.current_reset.as_ref());
    let known_boot = journal.and_then(|j| j.boot_id_before.clone()).unwrap_or_else(|| "boot-a".into());
    let ago = |s: u64| Mono(now.mono.0.saturating_sub(s.saturating_mul(1_000)));
    let heard = |boot: &str, uptime: f64, at: Mono| {
        let mut heartbeat = Heartbeat::default();
        let expected = Expectation {
            thresholds: effective.thresholds.clone(),
            ..Expectation::default()
        };
        let _ = heartbeat.take(Arc::new(report(boot, uptime)), &expected, at);
        heartbeat
    };
    let heartbeats = [
        Heartbeat::default(),
        heard(&known_boot, 90_000.0, ago(86_000)),
        heard("a-new-boot", 20.0, ago(5)),
    ];
    let fleet = |unhealthy| {
        let count = Count {
            population: 10,
            unhealthy,
            in_flight: 0,
        };
        Fleet {
            policy: count,
            cluster: count,
            all: count,
        }
    };
    let uuid = identity(vm.status.as_ref()).or(Some(MACHINE));
    let closers = [
        None,
        Some(Closer {
            look: Ok(Look {
                node: "pve1".into(),
                node_status: "online".into(),
                qmp_status: "running".into(),
                lock: None,
                ha_state: None,
                uuid,
                uptime: Duration::from_secs(90_000),
                no_reboot: false,
                node_in_maintenance: false,
                no_quorum: false,
            }),
            fleet: fleet(1),
            io: Some(GuestIo::new(Counters::default(), ago(86_000))),
            guest_agent: Some(GuestAgentState::Silent),
        }),
        Some(Closer {
            look: Err(LookFailed {
                reason: "ProxmoxUnreachable",
                message: "no endpoint answers".into(),
            }),
            fleet: fleet(9),
            io: None,
            guest_agent: None,
        }),
    ];
    let mut scenes = Vec::new();
    for heartbeat in heartbeats {
        for (index, closer) in closers.iter().enumerate() {
            let calm = index < 2;
            scenes.push(Scene {
                heartbeat: heartbeat.clone(),
                observer: ObserverView {
                    since: Mono(1_000),
                    trouble: (!calm).then_some(Trouble::Loopback),
                    settling: false,
                    newest: None,
                },
                inventory: if calm {
                    Inventory::Row {
                        node: "pve1".into(),
                        status: "running".into(),
                    }
                } else {
                    Inventory::NoCluster
                },
                closer: closer.clone(),
                unchanged: Duration::from_secs(if calm { 0 } else { 61 }),
                limits: Limits {
                    max_in_flight: 3,
                    max_unhealthy: IntOrPercent::Percent("20%".into()),
                },
            });
        }
    }
    scenes
}

fn report(boot: &str, uptime_seconds: f64) -> Report {
    Report {
        hostname: None,
        machine_uuid: Some(MACHINE),
        cpu_percent: 99.0,
        memory_used_bytes: 3,
        memory_total_bytes: 4,
        disks: vec![],
        uptime_seconds,
        boot_id: boot.into(),
        state: AgentState::Running,
        supervised: true,
        agent_version: None,
        sent_at_ms: None,
    }
}

fn decided(o: &Observed<'_>, now: Now) {
    let decision = decide(o, now);
    assert_eq!(decision, decide(o, now), "the same was decided in two ways");
    assert!(decision.check_after > Duration::ZERO);
    assert_eq!(decision.conditions.len(), 6);
    let vital = Vital {
        effective: o.effective,
        status: o.vm.status.as_ref(),
        heartbeat: o.heartbeat,
        since: o.observer.since,
        listening: o.observer.since,
    };
    assert_eq!(standing(o.vm, &vital, false, now), standing(o.vm, &vital, false, now));
    let schema = Schema::of("ManagedVM");
    let object = serde_json::to_value(o.vm).unwrap_or_default();
    let named = o.vm.metadata.name.as_deref().is_some_and(|name| (1..=63).contains(&name.len()));
    let before = &object["status"];
    let valid = named && schema.check("spec", &object["spec"]).is_ok() && (before.is_null() || schema.check("status", before).is_ok());
    // What the API server would not have taken owes it nothing.
    if !valid || !request_is_valid(o.manual) {
        let _ = writes(o, &decision, now);
        return;
    }
    for write in writes(o, &decision, now) {
        assert_eq!(
            schema.check("status", &write),
            Ok(()),
            "the API server takes the object and not what Defib writes of it"
        );
    }
    if let Next::Begin(intent) | Next::WouldReset(intent) = &decision.next {
        evidence(&intent.evidence);
    }
}

fn request_is_valid(request: Option<&VMReset>) -> bool {
    let value = serde_json::to_value(request).unwrap_or_default();
    let uid = request.and_then(|r| r.metadata.uid.as_ref()).map_or(0, String::len);
    let name = request.and_then(|r| r.metadata.name.as_ref()).map_or(0, String::len);
    request.is_none() || (uid <= 36 && name <= 253 && Schema::of("VMReset").check("spec", &value["spec"]).is_ok())
}

fn evidence(evidence: &Evidence) {
    let value = serde_json::to_value(evidence).unwrap_or_default();
    assert_eq!(Schema::of("VMReset").check("status.evidence", &value), Ok(()));
}

/// What is written of a ManagedVM for a decision, and for whatever Proxmox answers to what follows from it.
fn writes(o: &Observed<'_>, decision: &Decision, now: Now) -> Vec<Value> {
    let status = o.vm.status.as_ref();
    let old = status.map_or(&[][..], |s| s.conditions.as_slice());
    let conditions = merge(old, &decision.conditions, o.vm.metadata.generation, now.wall);
    let mut all = vec![json!({
        "conditions": conditions,
        "identity": decision.identity.map(|u| u.to_string()),
        "resetsInWindow": decision.resets_in_window,
    })];
    let books = Books::of(status);
    let mut keep = |books: Books| {
        all.push(json!({ "currentReset": books.current, "recentResets": books.recent, "episode": books.episode }));
    };
    match &decision.next {
        Next::Nothing | Next::LookCloser | Next::AskGuestAgent => {}
        Next::Start => all.push(json!({ "recentStarts": started(status.map_or(&[], |s| &s.recent_starts), now) })),
        Next::WouldReset(intent) => keep(Books {
            episode: intent.episode.clone(),
            ..books
        }),
        Next::Begin(intent) => {
            let begun = books.begin(intent.current.clone(), intent.episode.clone());
            keep(begun.clone());
            keep(begun.clone().withdraw());
            for answer in [
                Sent::Task { upid: upid() },
                Sent::NotDelivered { text: long() },
                Sent::Refused { text: long() },
                Sent::Ambiguous { text: long() },
            ] {
                changed(&begun, sent(&intent.current, answer, now)).map(&mut keep);
            }
        }
        Next::Continue(step) => {
            let Some(current) = books.current.clone() else { return all };
            for change in steps(&current, step, now) {
                changed(&books, change).map(&mut keep);
            }
            if let Step::Finish(ending) = step {
                let steps = built_in::steps();
                keep(books.clone().finish(ending.outcome, &steps, now));
                keep(books.finish(Outcome::Unknown, &steps, now));
            }
        }
    }
    all
}

fn steps(current: &CurrentReset, step: &Step, now: Now) -> Vec<Change> {
    match step {
        Step::Search { .. } => vec![searched(current, None, now), searched(current, Some(upid()), now)],
        Step::Poll { .. } => [
            None,
            Some(TaskEnd::Ok),
            Some(TaskEnd::Refused { text: long() }),
            Some(TaskEnd::Unclear { text: long() }),
            Some(TaskEnd::Failed { text: long() }),
        ]
        .into_iter()
        .map(|end| polled(current, end, now))
        .collect(),
        Step::Leave { .. } | Step::TakeOver | Step::Verify { .. } | Step::Finish(_) => vec![],
    }
}

fn changed(books: &Books, change: Change) -> Option<Books> {
    match change {
        Change::Write(current) => Some(Books {
            current: Some(*current),
            ..books.clone()
        }),
        Change::Withdraw { .. } | Change::Wait(_) => None,
    }
}

/// As long as the client's texts get, and not of one byte a character.
fn long() -> String {
    "ä".repeat(600)
}

/// As long as a UPID that the client takes.
fn upid() -> String {
    let text = format!("UPID:{}:00001ED0:0003568B:6633A1E3:qmreset:100:", "n".repeat(63));
    let user = "u".repeat(512usize.saturating_sub(text.len() + 1));
    format!("{text}{user}:")
}
