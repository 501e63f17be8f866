//! Each oracle fails on a protocol that is broken on purpose, and on the real one none does.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is tests; clippy looks for the attribute on each function"
)]

use defib_world::clock::Time;
use defib_world::plan::{Event, Plan, Theme};
use defib_world::sabotage::Sabotage;
use defib_world::simulate::{Verdict, simulate};
use std::time::Duration;

/// Five machines in step, of one policy, and nothing happens but this; four minutes.
fn plan(events: &[(u64, Event)]) -> Plan {
    let mut plan = Plan::new(0);
    plan.theme = Theme::Plain;
    plan.events = events.iter().map(|(at, event)| (Time::seconds(*at), event.clone())).collect();
    plan.vms.truncate(5);
    for vm in &mut plan.vms {
        vm.policy = 0;
        vm.is_to_run = false;
        vm.first_report = Duration::from_secs(4);
    }
    let policy = &mut plan.policies[0];
    (policy.report, policy.timeout, policy.grace) = (3, 12, 10);
    (policy.guest_reboots, policy.attempts, policy.power_cycles) = (0, 2, 0);
    (policy.recovery, policy.stabilization) = (25, 5);
    (policy.max_resets, policy.window) = (2, 900);
    (policy.max_in_flight, policy.max_unhealthy, policy.veto) = (1, 50, 15);
    plan.max_in_flight = 1;
    // No machine is a probe, but in the test of L3.
    (plan.calm, plan.probe, plan.end) = (Time::seconds(100), Time(u64::MAX / 2), Time::seconds(240));
    plan
}

fn live(plan: Plan, sabotage: Option<Sabotage>) -> Verdict {
    hash_order::apart(plan.seed, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(simulate(plan, sabotage))
    })
}

/// The same world with the real protocol and with the broken one: the first is well, and the second is not, by this oracle.
fn is_seen_by(oracle: &str, sabotage: Sabotage, plan: &Plan) {
    let real = live(plan.clone(), None);
    assert!(real.violations.is_empty(), "{:#?}\n{}", real.violations, real.transcript());
    let broken = live(plan.clone(), Some(sabotage));
    assert!(
        broken.violations.iter().any(|v| v.oracle == oracle),
        "{:#?}\n{}",
        broken.violations,
        broken.transcript()
    );
}

fn hang() -> Plan {
    plan(&[(60, Event::Hang(0, 0))])
}

#[test]
fn s1_sees_a_receiver_that_takes_reports_and_forgets_them() {
    // All reports go the same way: only where few VMs are watched can budgets let one pass.
    let mut plan = hang();
    plan.vms.truncate(1);
    plan.vms[0].guest_agent = false;
    is_seen_by("S1", Sabotage::DeafReceiver, &plan);
}

#[test]
fn s2_sees_a_post_that_is_sent_twice() {
    is_seen_by("S2", Sabotage::PostsTwice, &hang());
}

#[test]
fn s3_sees_attempts_that_are_forgotten() {
    is_seen_by("S3", Sabotage::ForgetsAttempts, &plan(&[(60, Event::Hang(0, 9))]));
}

#[test]
fn s4_sees_intents_that_are_not_counted() {
    is_seen_by(
        "S4",
        Sabotage::CountsNobody,
        &plan(&[(60, Event::Hang(0, 0)), (60, Event::Hang(1, 0))]),
    );
}

#[test]
fn s5_sees_a_decision_on_a_policy_that_is_not_so_any_more() {
    let plan = plan(&[
        (20, Event::PausePolicy(0, true)),
        (60, Event::Hang(0, 0)),
        (190, Event::PausePolicy(0, false)),
    ]);
    is_seen_by("S5", Sabotage::DecidesOnOldPolicies, &plan);
}

#[test]
fn s6_sees_a_post_without_its_intent() {
    is_seen_by("S6", Sabotage::NoJournal, &hang());
}

#[test]
fn s7_sees_a_publisher_that_writes_the_deciders_fields() {
    is_seen_by("S7", Sabotage::PublisherOverreaches, &hang());
}

#[test]
fn s8_sees_a_condition_that_is_missing() {
    is_seen_by("S8", Sabotage::LosesReady, &hang());
}

#[test]
fn s9_sees_a_status_that_is_written_twice() {
    // For its first minute a process may repeat what the one before it wrote.
    is_seen_by("S9", Sabotage::RepeatsItself, &plan(&[(80, Event::Hang(0, 0))]));
}

#[test]
fn s10_sees_a_heartbeat_that_goes_back() {
    is_seen_by("S10", Sabotage::GoesBack, &hang());
}

#[test]
fn s11_sees_a_start_that_is_owed_to_nobody() {
    is_seen_by("S11", Sabotage::StartsAlso, &hang());
}

#[test]
fn s12_sees_a_reset_of_a_vm_that_boots_again_and_again() {
    let mut events: Vec<_> = [30, 50, 70, 90].map(|at| (at, Event::GuestReboot(0))).to_vec();
    events.push((110, Event::Hang(0, 0)));
    is_seen_by("S12", Sabotage::KnowsOneBoot, &plan(&events));
}

#[test]
fn l1_sees_a_status_that_tells_nothing() {
    is_seen_by("L1", Sabotage::NeverTells, &hang());
}

#[test]
fn l2_sees_a_loop_without_a_pause() {
    is_seen_by("L2", Sabotage::NeverSettles, &hang());
}

#[test]
fn l3_sees_a_hang_that_is_left_alone() {
    let mut plan = plan(&[(100, Event::Hang(0, 0))]);
    plan.probe = Time::seconds(100);
    is_seen_by("L3", Sabotage::SeesLocks, &plan);
}

#[test]
fn l4_sees_a_record_that_never_ends() {
    is_seen_by("L4", Sabotage::NeverFinishes, &hang());
}

#[test]
fn l5_sees_a_vm_that_is_not_started_again() {
    let mut plan = plan(&[(60, Event::Hang(0, 1))]);
    (plan.policies[0].attempts, plan.policies[0].power_cycles) = (1, 1);
    is_seen_by("L5", Sabotage::NeverStarts, &plan);
}

#[test]
fn l6_sees_a_vm_that_is_to_run_and_does_not() {
    let mut plan = plan(&[(50, Event::PowerOff(0))]);
    plan.vms[0].is_to_run = true;
    plan.policies[0].max_resets = 9;
    plan.end = Time::seconds(330);
    is_seen_by("L6", Sabotage::NeverStarts, &plan);
}
