//! The decision as a whole.

use crate::common::*;
use crate::generate::scene;
use crate::oracle::forbids;
use defib_api::{GuestAgentState, Mode, Outcome, PowerState, StepAction, Trigger};
use defib_core::conditions::kind;
use defib_core::decide::{Cause, Decision, Next};
use defib_core::fleet::standing;
use defib_core::journal::Step;
use defib_core::time::{Mono, Now};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::time::Duration;

fn automatic(decision: &Decision) -> bool {
    matches!(&decision.next, Next::Begin(intent) if intent.current.trigger == Trigger::Automatic)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    /// Whatever comes in, a decision comes out, and it is the same one each time.
    #[test]
    fn total_and_deterministic(scene in scene(12)) {
        let decision = scene.decide();
        prop_assert!(decision.check_after > Duration::ZERO);
        prop_assert_eq!(&decision, &scene.decide());
        let effective = scene.effective();
        let _ = standing(&scene.vm, &scene.vital(&effective), false, scene.now);
    }

    #[test]
    fn no_automatic_reset_begins_that_a_rule_forbids(scene in scene(4)) {
        if automatic(&scene.decide()) {
            prop_assert_eq!(forbids(&scene), Vec::<&str>::new());
        }
    }

    /// What begins is possible, whoever wants it.
    #[test]
    fn what_begins_is_possible(scene in scene(6)) {
        if let Next::Begin(intent) = scene.decide().next {
            let closer = scene.closer.clone().unwrap();
            let look = closer.look.unwrap();
            match intent.current.action {
                StepAction::Reset => prop_assert!(!look.no_reboot),
                StepAction::GuestReboot => prop_assert_eq!(closer.guest_agent, Some(GuestAgentState::Answers)),
                StepAction::PowerCycle => {}
            }
            prop_assert!(intent.current.action == StepAction::Reset || !look.no_quorum, "it could not be started again");
        }
    }

    /// Only what is declared to run is started, when it is off and nothing holds it.
    #[test]
    fn what_is_started_is_to_run(scene in scene(4)) {
        if scene.decide().next == Next::Start {
            let closer = scene.closer.clone().unwrap();
            let look = closer.look.unwrap();
            prop_assert_eq!(scene.vm.spec.power_state, Some(PowerState::Running));
            prop_assert_eq!(look.qmp_status.as_str(), "stopped");
            prop_assert!(look.lock.is_none() && !look.no_quorum && !look.node_in_maintenance && look.node_status == "online");
            prop_assert!(look.ha_state.is_none_or(|ha| ha == "ignored"));
            let effective = scene.effective();
            prop_assert!(effective.mode == Mode::Enforce && effective.problem.is_none() && !scene.observe_only);
            let status = scene.vm.status.clone().unwrap_or_default();
            prop_assert!(status.current_reset.is_none() && scene.vm.metadata.deletion_timestamp.is_none());
            prop_assert!(scene.now.mono.since(scene.off_since.unwrap()) >= Duration::from_secs(60));
        }
    }

    /// What is recorded of a VM that is only observed is what would have been done.
    #[test]
    fn nothing_would_be_reset_that_a_rule_forbids(scene in scene(4)) {
        if matches!(scene.decide().next, Next::WouldReset(_)) {
            prop_assert_eq!(forbids(&scene), ["mode is Enforce"]);
        }
    }

    /// The other way round: where no rule forbids it, the VM is helped (unless a person's request goes first, or all steps were tried).
    #[test]
    fn what_no_rule_forbids_is_done(scene in scene(3)) {
        let status = scene.vm.status.clone().unwrap_or_default();
        prop_assume!(scene.manual.is_none() && status.episode.is_none());
        prop_assume!(scene.effective().steps.iter().all(|s| s.max_attempts > 0));
        let decision = scene.decide();
        let graceful = matches!(condition(&decision, kind::RESET_ALLOWED).reason, "StartupGrace" | "GuestIO");
        if forbids(&scene).is_empty() && !graceful {
            prop_assert!(automatic(&decision), "{:?}", scene.verdict());
        }
    }

    #[test]
    fn six_conditions_that_the_api_server_takes(scene in scene(12)) {
        let decision = scene.decide();
        let types: Vec<_> = decision.conditions.iter().map(|c| c.type_).collect();
        prop_assert_eq!(types, [
            kind::READY, kind::HEARTBEAT_FRESH, kind::WITHIN_THRESHOLDS, kind::RESET_ALLOWED, kind::RESETTING, kind::ADOPTED,
        ]);
        for c in &decision.conditions {
            let mut letters = c.reason.chars();
            prop_assert!(letters.next().is_some_and(|l| l.is_ascii_alphabetic()) && letters.all(|l| l.is_ascii_alphanumeric()), "{:?}", c);
            prop_assert!(c.message.chars().count() <= 1_024, "{:?}", c);
        }
    }

    /// No ages in messages: each would be a write with every look. What changes within a millisecond changes its reason or its status,
    /// or is a list of which one member came or went.
    #[test]
    fn a_millisecond_changes_no_message(scene in scene(8)) {
        let before = scene.decide().conditions;
        let next = Now {
            mono: scene.now.mono.plus(Duration::from_millis(1)),
            wall: scene.now.wall.checked_add(Duration::from_millis(1)).unwrap_or(scene.now.wall),
        };
        let mut later = scene;
        // At the ends of what a clock can show, times are cut off, and with them their distances.
        prop_assume!(later.now.mono < Mono(u64::MAX) && later.now.wall > Timestamp::UNIX_EPOCH && later.now.wall < next.wall);
        later.now = next;
        for (a, b) in before.iter().zip(later.decide().conditions) {
            let a_list = matches!(a.reason, "ThresholdExceeded" | "Paused" | "ResetsExhausted" | "BootLoop");
            prop_assert!(a.message == b.message || a.reason != b.reason || a.is != b.is || a_list, "{:?} became {:?}", a, b);
        }
    }

    /// Rule 6, for every journal: nothing is called recovered but by a report of another boot, received after the task, that lasted.
    #[test]
    fn recovered_is_proved(scene in scene(10)) {
        if let Next::Continue(Step::Finish(ending)) = scene.decide().next
            && ending.outcome == Outcome::Recovered
        {
            let status = scene.vm.status.clone().unwrap_or_default();
            let journal = status.current_reset.unwrap();
            let (received, report) = scene.heartbeat.report.clone().unwrap();
            let ended = journal.task_end_time.unwrap_or(journal.intent_time);
            prop_assert_ne!(journal.boot_id_before.as_deref(), Some(&*report.boot_id));
            prop_assert_eq!(ending.boot_id_after.as_deref(), Some(&*report.boot_id));
            prop_assert!(received >= scene.now.mono_of(ended));
            prop_assert_eq!(&journal.holder, ME);
            let lasted = scene.now.mono.since(scene.heartbeat.boot_first_received.unwrap_or(received));
            let effective = scene.effective();
            let begun = Duration::from_secs(u64::from(journal.stabilization_seconds));
            // The shorter of that declared then and that declared now.
            let least = if effective.problem.is_none() { begun.min(effective.stabilization) } else { begun };
            prop_assert!(lasted >= least);
        }
    }
}

/// The properties above are about something: the generated scenes meet every kind of decision and every gate.
#[test]
fn the_generated_scenes_reach_all_decisions() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<String, u32>::new();
    let (mut still, mut all) = (0, 0);
    for i in 0..12_000 {
        let scene = scene(if i % 2 == 0 { 3 } else { 10 }).new_tree(&mut runner).unwrap().current();
        let decision = scene.decide();
        let label = match &decision.next {
            Next::Continue(Step::Finish(e)) => format!("{:?}", e.outcome),
            Next::Begin(intent) if intent.cause == Some(Cause::Threshold) => "Reset for a threshold".into(),
            Next::Continue(step) => format!("{step:?}").chars().take_while(char::is_ascii_alphabetic).collect(),
            _ => scene.verdict(),
        };
        *seen.entry(label).or_default() += 1;
        all += 1;
        let mut later = scene;
        later.now.mono = later.now.mono.plus(Duration::from_millis(1));
        later.now.wall = later.now.wall.checked_add(Duration::from_millis(1)).unwrap_or(later.now.wall);
        still += u32::from(later.decide().conditions == decision.conditions);
    }
    for kind in [
        "Reset Automatic",
        "Reset Manual",
        "Reset for a threshold",
        "Would",
        "Look",
        "Leave",
        "TakeOver",
        "Search",
        "Poll",
        "Verify",
        "Recovered",
        "NotRecovered",
        "Failed",
        "Unknown",
        "Armed",
        "ObserveOnly",
        "Paused",
        "MaintenanceWindow",
        "Deleting",
        "PolicyNotFound",
        "InvalidPolicy",
        "NeverReported",
        "IdentityUnknown",
        "NoMachineUUID",
        "WrongMachine",
        "Unsupervised",
        "Stopping",
        "StartupGrace",
        "Ask",
        "GuestIO",
        "GuestAgentAnswers",
        "ObserverNotServing",
        "ObserverSettling",
        "ManagedByAnother",
        "WrongKey",
        "ProxmoxUnreachable",
        "NotRunning",
        "Locked",
        "HABusy",
        "IdentityChanged",
        "NoReboot",
        "GuestAgentSilent",
        "Start",
        "NodeNotOnline",
        "DuplicateMachine",
        "OwnHost",
        "ResetsExhausted",
        "StepsExhausted",
        "BootLoop",
        "MaxInFlight",
        "MaxUnhealthy",
    ] {
        assert!(seen.contains_key(kind), "{kind} was never met among {seen:?}");
    }
    assert!(seen["Reset Automatic"] > all / 20, "{seen:?}");
    assert!(still > all * 99 / 100, "conditions stood still in {still} of {all} scenes");
}
