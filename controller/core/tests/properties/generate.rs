//! Inputs: what a schema lets through and what it would not, times in the far past and future, odd strings.

use crate::common::*;
use defib_api::*;
use defib_core::corroboration::{Counters, GuestIo};
use defib_core::decide::Inventory;
use defib_core::fleet::Count;
use defib_core::observer::Trouble;
use defib_core::storm::{Burst, Weather};
use defib_core::time::{Mono, Now};
use defib_core::window::Windows;
use jiff::Timestamp;
use proptest::option;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A change of a scene. Scenes are the default one and many changes, so that some come through every gate and all gates are met.
type Change = Box<dyn FnOnce(&mut Scene)>;

fn change<T: std::fmt::Debug + 'static>(
    values: impl Strategy<Value = T> + 'static,
    apply: impl Fn(&mut Scene, T) + Clone + 'static,
) -> BoxedStrategy<Deviation> {
    values
        .prop_map(move |value| {
            let apply = apply.clone();
            let shown = format!("{value:?}");
            Deviation {
                shown,
                apply: Box::new(move |scene| apply(scene, value)),
            }
        })
        .boxed()
}

/// One change, with what it changes to for the report of a failure.
pub struct Deviation {
    shown: String,
    pub apply: Change,
}

impl std::fmt::Debug for Deviation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// A stored time: near now, in any distance, or at an end of what can be written.
pub fn stored_time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        6 => (-90_000i64..1_000).prop_map(|s| wall(NOW as i64 + s)),
        1 => (-100_000_000i64..100_000_000).prop_map(wall),
        1 => Just(Timestamp::MIN),
        1 => Just(Timestamp::MAX),
        1 => Just(Timestamp::UNIX_EPOCH),
    ]
}

pub fn moment() -> impl Strategy<Value = Mono> {
    prop_oneof![
        8 => (NOW * 1_000 - 400_000..NOW * 1_000 + 1_000).prop_map(Mono),
        1 => Just(Mono(0)),
        1 => Just(Mono(u64::MAX)),
    ]
}

pub fn present() -> impl Strategy<Value = Now> {
    prop_oneof![
        8 => (0u64..500_000).prop_map(|ms| Now { mono: Mono(NOW * 1_000 + ms), wall: wall(NOW as i64) + Duration::from_millis(ms) }),
        1 => (any::<u64>(), stored_time()).prop_map(|(ms, wall)| Now { mono: Mono(ms), wall }),
    ]
}

fn seconds() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 1u32..700, 1 => Just(0), 1 => Just(86_400), 1 => Just(u32::MAX)]
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just(MACHINE.to_string()),
        Just(MACHINE_SWAPPED.to_string()),
        Just(OTHER_MACHINE.to_string()),
        "\\PC{0,64}",
    ]
}

fn boot() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("boot-a".to_owned()),
        Just("boot-b".to_owned()),
        Just("boot-c".to_owned()),
        word()
    ]
}

fn machine() -> impl Strategy<Value = Option<Uuid>> {
    prop_oneof![
        4 => Just(Some(MACHINE)),
        1 => Just(Some(MACHINE_SWAPPED)),
        1 => Just(Some(OTHER_MACHINE)),
        1 => Just(None),
    ]
}

fn agent_state() -> impl Strategy<Value = AgentState> {
    prop_oneof![4 => Just(AgentState::Running), 1 => Just(AgentState::Stopping)]
}

fn uptime() -> impl Strategy<Value = f64> {
    prop_oneof![4 => 0.0..100_000.0f64, 1 => Just(f64::MAX), 1 => Just(0.0)]
}

pub fn received_report() -> impl Strategy<Value = (Mono, defib_core::heartbeat::Report)> {
    (moment(), boot(), uptime(), machine(), agent_state(), 0u8..8, 0.0..100.0f64).prop_map(
        |(at, boot, up, machine, state, by_hand, cpu)| {
            let mut r = report(&boot, up);
            r.machine_uuid = machine;
            r.state = state;
            r.supervised = by_hand != 0;
            r.cpu_percent = cpu;
            (at, r)
        },
    )
}

fn pauses() -> impl Strategy<Value = Vec<Pause>> {
    prop::collection::vec(option::of(stored_time()).prop_map(|end| pause("ops", end)), 0..3)
}

fn reset_policy() -> impl Strategy<Value = ResetPolicy> {
    let action = prop_oneof![
        3 => Just(StepAction::Reset),
        1 => Just(StepAction::GuestReboot),
        1 => Just(StepAction::PowerCycle),
    ];
    let steps = prop::collection::vec((action, 0u32..4, seconds()), 0..4).prop_map(|steps| {
        let step = |(action, max_attempts, recovery_deadline_seconds)| Step {
            action,
            max_attempts,
            recovery_deadline_seconds,
        };
        steps.into_iter().map(step).collect()
    });
    let mode = prop_oneof![3 => Just(Some(Mode::Enforce)), 1 => Just(Some(Mode::Observe)), 1 => Just(None)];
    (
        mode,
        option::of(steps),
        option::of(0u32..12),
        option::of(seconds()),
        option::of(seconds()),
        option::of(stored_time()),
        option::of(corroborate()),
    )
        .prop_map(
            |(mode, steps, max_resets, window_seconds, stabilization_seconds, forgive_before, corroborate)| ResetPolicy {
                mode,
                steps,
                max_resets,
                window_seconds,
                stabilization_seconds,
                forgive_before,
                corroborate,
            },
        )
}

fn corroborate() -> impl Strategy<Value = Corroborate> {
    let check = prop_oneof![Just(GuestAgentCheck::Auto), Just(GuestAgentCheck::Ignore)];
    (option::of(seconds()), option::of(check), option::of(seconds())).prop_map(|(io_quiet_seconds, guest_agent, max_veto_seconds)| {
        Corroborate {
            io_quiet_seconds,
            guest_agent,
            max_veto_seconds,
        }
    })
}

fn guest_agent() -> impl Strategy<Value = Option<GuestAgentState>> {
    option::of(prop_oneof![
        Just(GuestAgentState::Answers),
        Just(GuestAgentState::Silent),
        Just(GuestAgentState::NotConfigured),
        Just(GuestAgentState::Unknown),
    ])
}

fn heartbeat_settings() -> impl Strategy<Value = HeartbeatSettings> {
    (option::of(seconds()), option::of(seconds()), option::of(seconds())).prop_map(|(report, timeout, grace)| HeartbeatSettings {
        report_seconds: report,
        timeout_seconds: timeout,
        startup_grace_seconds: grace,
    })
}

fn share() -> impl Strategy<Value = IntOrPercent> {
    prop_oneof![
        (0u32..5).prop_map(IntOrPercent::Count),
        (0u32..120).prop_map(|p| IntOrPercent::Percent(format!("{p}%"))),
        word().prop_map(IntOrPercent::Percent),
    ]
}

fn published() -> impl Strategy<Value = HeartbeatStatus> {
    (
        option::of(stored_time()),
        option::of(boot()),
        option::of(stored_time()),
        option::of(word()),
        option::of(agent_state()),
        option::of(any::<bool>()),
    )
        .prop_map(|(received, boot_id, boot_time, machine_uuid, state, supervised)| HeartbeatStatus {
            last_received_time: received,
            boot_id,
            boot_time,
            machine_uuid,
            state,
            report_seconds: None,
            supervised,
            agent_version: None,
        })
}

pub fn recent() -> impl Strategy<Value = Vec<RecentReset>> {
    prop::collection::vec(stored_time(), 0..=12).prop_map(|times| {
        let named = |(i, time)| RecentReset {
            name: format!("web-1-past-{i}"),
            time,
        };
        times.into_iter().enumerate().map(named).collect()
    })
}

pub fn episode() -> impl Strategy<Value = Episode> {
    (1u32..6, stored_time(), option::of(stored_time())).prop_map(|(attempts, start_time, last_end_time)| Episode {
        id: "e1".into(),
        start_time,
        attempts,
        last_end_time,
    })
}

pub fn journal() -> impl Strategy<Value = CurrentReset> {
    let result = prop_oneof![Just(TaskResult::OK), Just(TaskResult::Failed), Just(TaskResult::Unknown)];
    (
        (0u8..4, seconds(), seconds(), stored_time()),
        (
            option::of(boot()),
            option::of(stored_time()),
            option::of(word()),
            option::of(stored_time()),
        ),
        option::of(result),
        option::of("\\PC{0,512}"),
    )
        .prop_map(|(head, (boot, sent_time, upid, task_end_time), task_result, answer)| {
            let (foreign, deadline, stabilization, intent_time) = head;
            CurrentReset {
                holder: if foreign == 0 { "defib-1".into() } else { ME.into() },
                recovery_deadline_seconds: deadline,
                stabilization_seconds: stabilization,
                intent_time,
                boot_id_before: boot,
                sent_time,
                upid,
                task_end_time,
                task_result,
                answer,
                ..intent()
            }
        })
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        Just(Trouble::LateTick),
        Just(Trouble::ClockJump),
        Just(Trouble::Loopback),
        Just(Trouble::Shed),
        Just(Trouble::LeaseNotHeld),
        Just(Trouble::WritesFailing),
        word().prop_map(|text| Trouble::PublicUrl(text.into())),
    ]
}

fn count() -> impl Strategy<Value = Count> {
    (0u32..40, 0u32..12, 0u32..4).prop_map(|(population, unhealthy, in_flight)| Count {
        population,
        unhealthy,
        in_flight,
    })
}

fn thresholds() -> impl Strategy<Value = Vec<(Threshold, Mono)>> {
    prop::collection::vec(
        (any::<bool>(), any::<bool>(), 1u32..100, seconds(), moment()).prop_map(|(disk, reset, percent, duration_seconds, since)| {
            let t = Threshold {
                metric: if disk { Metric::Disk } else { Metric::CPU },
                action: if reset { ThresholdAction::Reset } else { ThresholdAction::Alert },
                percent,
                duration_seconds,
            };
            (t, since)
        }),
        0..4,
    )
}

fn deviation() -> BoxedStrategy<Deviation> {
    fn status(s: &mut Scene) -> &mut ManagedVMStatus {
        s.vm.status.get_or_insert_default()
    }
    prop_oneof![
        change(present(), |s, v| s.now = v),
        change(received_report(), |s, (at, r)| {
            s.heartbeat.last_life = s.heartbeat.last_life.max(Some(at));
            s.heartbeat.boot_first_received = Some(at);
            s.heartbeat.report = Some((at, Arc::new(r)));
        }),
        change(option::of(moment()), |s, v| s.heartbeat.last_life = v),
        change(Just(()), |s, ()| *s = s.clone().empty_ledger()),
        change(prop::collection::vec(moment(), 0..12), |s, times| *s = s.clone().booted_at(times)),
        change((moment(), moment()), |s, v| s.heartbeat.wrong_key = Some(v)),
        change((moment(), machine()), |s, (at, m)| s.heartbeat.wrong_machine = m.map(|m| (at, m))),
        change((moment(), "\\PC{0,600}"), |s, (at, detail)| {
            let detail = detail.into();
            s.heartbeat.rejected = Some(defib_core::heartbeat::Refusal { at, detail, until: at });
        }),
        change(thresholds(), |s, v| {
            s.vm.spec.thresholds = v.iter().map(|(t, _)| t.clone()).collect();
            s.heartbeat.over_since = v;
        }),
        change(thresholds(), |s, v| {
            s.hear(report("boot-a", 90_000.0), NOW - 5);
            s.vm.spec.thresholds = v.iter().map(|(t, _)| t.clone()).collect();
            s.heartbeat.over_since = v;
        }),
        change(Just(()), |s, ()| s.vm.status = None),
        change(option::of(word()), |s, v| status(s).identity = v),
        change(option::of(word()), |s, v| status(s).power = v),
        change(option::of(published()), |s, v| status(s).heartbeat = v),
        change(recent(), |s, v| status(s).recent_resets = v),
        change(option::of(episode()), |s, v| status(s).episode = v),
        change(option::of(journal()), |s, v| status(s).current_reset = v),
        change((any::<bool>(), stored_time()), |s, (fresh, since)| {
            let fresh = if fresh { "True" } else { "False" };
            let mut c = healthy().fresh_condition(fresh, 0).vm.status.unwrap().conditions;
            c[0].last_transition_time.0 = since;
            status(s).conditions = c;
        }),
        change(option::of(reset_policy()), |s, v| s.vm.spec.reset_policy = v),
        change(option::of(reset_policy()), |s, v| s.policy.reset_policy = v),
        change(option::of(heartbeat_settings()), |s, v| s.vm.spec.heartbeat = v),
        change(option::of(heartbeat_settings()), |s, v| s.policy.heartbeat = v),
        change((option::of(share()), option::of(0u32..4)), |s, (max_unhealthy, max_in_flight)| {
            s.policy.budget = Some(Budget {
                max_unhealthy,
                max_in_flight,
                storm_cooldown_seconds: None,
            });
        }),
        change((share(), 0u32..4), |s, (max_unhealthy, max_in_flight)| {
            s.limits.max_unhealthy = max_unhealthy;
            s.limits.max_in_flight = max_in_flight;
        }),
        change((0u8..3, pauses()), |s, (on, pauses)| match on {
            0 => s.vm.spec.pauses = pauses,
            1 => s.policy.pauses = pauses,
            _ => s.cluster.pauses = pauses,
        }),
        change((0u8..3, stored_time(), word()), |s, (how, at, text)| {
            s.windows = match how {
                0 => Windows::Closed { opens: Some(at) },
                1 => Windows::Open {
                    schedule: text,
                    closes: at,
                },
                _ => Windows::Invalid { message: text },
            };
        }),
        change(
            (0u8..3, moment(), stored_time(), any::<bool>(), 0u32..9),
            |s, (how, at, from, own, lost)| {
                s.weather = match how {
                    0 => Weather::Calm { since: at },
                    1 => Weather::CoolDown {
                        width: "this policy",
                        until: s.now.mono.plus(Duration::from_millis(at.0 % 100_000 + 1)),
                    },
                    _ => Weather::Storm {
                        width: "all of Defib",
                        burst: Burst {
                            from,
                            to: from,
                            lost,
                            timeout: Duration::from_millis(at.0),
                        },
                        population: lost,
                        own,
                    },
                };
            }
        ),
        change(any::<bool>(), |s, v| s.guest_agent_answered = v),
        change(any::<bool>(), |s, v| s.observe_only = v),
        change(any::<bool>(), |s, v| s.would_reset_recorded = v),
        change(Just(()), |s, ()| s.vm.spec.identity = Some(IdentityCheck::Trust)),
        change(Just(()), |s, ()| s.policy_is_missing = true),
        change(Just(()), |s, ()| s.vm.metadata.name = None),
        change(stored_time(), |s, v| {
            s.vm.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(v));
        }),
        change((moment(), option::of(trouble()), any::<bool>()), |s, (since, trouble, settling)| {
            s.observer.since = since;
            s.observer.trouble = trouble;
            s.observer.settling = settling;
        }),
        change(moment(), |s, v| s.hold_lifted = v),
        change(any::<bool>(), |s, v| s.foreign_heartbeat = v),
        change(prop_oneof![Just(0u64), 0u64..200, Just(u64::MAX)], |s, v| s.journal_unchanged =
            Duration::from_secs(v)),
        change(machine(), |s, v| s.own_node = v),
        change(machine(), |s, v| s.uuid_in_proxmox = v),
        change(option::of(word()), |s, v| s.duplicate_of = v),
        change(option::of(word()), |s, v| s.alive_as = v),
        change(any::<bool>(), |s, asked| {
            s.manual = if asked { healthy().requested().manual } else { None };
        }),
        change((0u8..4, "\\PC{0,600}"), |s, (kind, text)| {
            s.inventory = match kind {
                0 => Inventory::NoCluster,
                1 => Inventory::Absent,
                2 => Inventory::Unread { message: text },
                _ => Inventory::Row {
                    node: "pve2".into(),
                    status: "stopped".into(),
                },
            };
        }),
        change("\\PC{0,600}", |s, text| {
            s.closer = healthy().look_failed("ProxmoxUnreachable", &text).closer;
        }),
        change(Just(()), |s, ()| s.closer = None),
        change(
            (0u8..9, word(), machine(), prop_oneof![0u64..200_000, Just(u64::MAX)]),
            |s, (which, text, uuid, uptime)| {
                if let Some(look) = s.closer.as_mut().and_then(|c| c.look.as_mut().ok()) {
                    match which {
                        0 => look.qmp_status = text,
                        1 => look.lock = Some(text),
                        2 => look.ha_state = Some(text),
                        3 => look.uuid = uuid,
                        4 => look.node_status = text,
                        5 => look.no_reboot = true,
                        6 => look.node_in_maintenance = true,
                        7 => look.no_quorum = true,
                        _ => look.uptime = Duration::from_secs(uptime),
                    }
                }
            }
        ),
        change(
            (option::of(any::<bool>()), option::of(moment()), any::<bool>()),
            |s, (declared, off_since, off)| {
                s.vm.spec.power_state = declared.map(|on| if on { PowerState::Running } else { PowerState::Unmanaged });
                s.off_since = off_since;
                if off {
                    s.inventory = Inventory::Row {
                        node: "pve1".into(),
                        status: "stopped".into(),
                    };
                    if let Some(look) = s.closer.as_mut().and_then(|c| c.look.as_mut().ok()) {
                        look.qmp_status = "stopped".into();
                    }
                }
            }
        ),
        change(guest_agent(), |s, v| {
            if let Some(closer) = s.closer.as_mut() {
                closer.guest_agent = v;
            }
        }),
        change(option::of(moment()), |s, moved| {
            if let Some(closer) = s.closer.as_mut() {
                closer.io = moved.map(|at| GuestIo::new(Counters::default(), at));
            }
        }),
        change((count(), count(), count()), |s, (policy, cluster, all)| {
            if let Some(closer) = s.closer.as_mut() {
                closer.fleet = defib_core::fleet::Fleet { policy, cluster, all };
            }
        }),
    ]
    .boxed()
}

/// A scene that is due for a reset, with up to so many changes.
pub fn scene(changes: usize) -> impl Strategy<Value = Scene> {
    prop::collection::vec(deviation(), 0..=changes).prop_map(|deviations| {
        let mut scene = due();
        for d in deviations {
            (d.apply)(&mut scene);
        }
        scene
    })
}
