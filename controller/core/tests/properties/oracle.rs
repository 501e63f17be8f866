//! What the rules demand of an automatic reset, written down a second time, in another way than core does: from the rules' words, over the raw input.

use crate::common::*;
use defib_api::{AgentState, GuestAgentCheck, GuestAgentState, HeartbeatStatus, IdentityCheck, Metric, Mode, StepAction, ThresholdAction};
use defib_core::fleet::{Count, Limits};
use defib_core::heartbeat::same_machine;
use defib_core::policy::Effective;
use defib_core::storm::Weather;
use defib_core::time::Mono;
use defib_core::window::Windows;
use std::time::Duration;

/// Every rule that forbids an automatic reset in this scene.
pub fn forbids(s: &Scene) -> Vec<&'static str> {
    let e = s.effective();
    let status = s.vm.status.clone().unwrap_or_default();
    let mut no = vec![];
    let mut unless = |holds: bool, rule: &'static str| {
        if !holds {
            no.push(rule);
        }
    };

    unless(e.mode == Mode::Enforce && !s.observe_only, "mode is Enforce");
    unless(e.problem.is_none(), "the policy is valid");
    unless(s.vm.metadata.deletion_timestamp.is_none(), "not being deleted");
    let policy_pauses = if s.policy_is_missing { &[][..] } else { &s.policy.pauses };
    let paused = [&s.vm.spec.pauses, policy_pauses, &s.cluster.pauses]
        .into_iter()
        .flatten()
        .any(|p| p.expires_at.is_none_or(|end| end > s.now.wall));
    unless(!paused, "no pause stands");
    unless(
        matches!(s.windows, Windows::Closed { .. }),
        "no maintenance window is open, and all are understood",
    );

    let published = status.heartbeat.clone().unwrap_or_default();
    let (machine, state, supervised) = match &s.heartbeat.report {
        Some((_, r)) => (r.machine_uuid, Some(r.state), r.supervised),
        None => (
            published.machine_uuid.as_deref().and_then(|t| t.parse().ok()),
            published.state,
            published.supervised == Some(true),
        ),
    };
    let recorded = status.identity.as_deref().and_then(|t| t.parse().ok());
    let trusted = e.identity == IdentityCheck::Trust;
    unless(
        s.heartbeat.report.is_some() || published.boot_id.is_some(),
        "armed: it has reported",
    );
    unless(
        trusted || recorded.zip(machine).is_some_and(|(a, b)| same_machine(a, b)),
        "armed: by this machine",
    );
    unless(supervised, "armed: by a supervised agent");
    unless(state != Some(AgentState::Stopping), "armed: it has not said goodbye");

    let over = over_a_threshold(s, &e, &published);
    let calm = match s.weather {
        Weather::Calm { since } => since,
        _ => Mono(0),
    };
    let watched = s.now.mono.since(s.observer.since.max(s.hold_lifted).max(calm));
    unless(over || watched >= e.timeout, "silence was witnessed for the time-out");
    unless(
        over || s.heartbeat.last_life.is_none_or(|at| s.now.mono.since(at) >= e.timeout),
        "the ledger is older than the time-out",
    );
    unless(
        over || published.last_received_time.is_none_or(|t| older(s, t) >= e.timeout),
        "the published heartbeat is older than the time-out",
    );
    if let Some((received, r)) = &s.heartbeat.report {
        let booted = Duration::try_from_secs_f64(r.uptime_seconds).unwrap_or(Duration::MAX);
        let age = booted.saturating_add(s.now.mono.since(*received));
        unless(age >= e.startup_grace, "the guest's grace is over");
    }
    unless(s.observer.trouble.is_none(), "the observer is serving");
    unless(!s.observer.settling, "the observer is not settling");
    unless(!s.foreign_heartbeat, "nobody else writes the heartbeat");
    let of_the_hour = |at: &&Mono| {
        let forgiven = e.forgive_before.is_some_and(|f| f <= s.now.wall && s.now.wall_of(**at) < f);
        s.now.mono.since(**at) < Duration::from_secs(3_600) && !forgiven
    };
    unless(
        s.boots.iter().filter(of_the_hour).count() <= 3,
        "the guest does not boot again and again",
    );
    let vetoed = s
        .heartbeat
        .wrong_key
        .is_some_and(|(first, newest)| s.now.mono.since(first) < e.max_veto && s.now.mono.since(newest) < e.timeout);
    unless(over || !vetoed, "no other contact");

    let Some(closer) = &s.closer else {
        unless(false, "Proxmox was looked at");
        return no;
    };
    if let Ok(look) = &closer.look {
        unless(
            ["running", "internal-error", "guest-panicked"].contains(&look.qmp_status.as_str()),
            "it runs, or QEMU says that its guest is dead",
        );
        unless(look.lock.is_none(), "it is unlocked");
        let busy = look
            .ha_state
            .as_deref()
            .is_some_and(|s| !matches!(s, "started" | "ignored" | "disabled" | "stopped"));
        unless(!busy, "HA is not at work on it");
        unless(
            match (recorded, look.uuid) {
                (Some(a), Some(b)) => a == b,
                _ => trusted,
            },
            "it is the same machine",
        );
        let used = status.episode.as_ref().map_or(0, |e| e.attempts);
        let ladder: Vec<StepAction> = e
            .steps
            .iter()
            .flat_map(|step| std::iter::repeat_n(step.action, step.max_attempts as usize))
            .collect();
        let left = ladder.get(used as usize..).filter(|left| !left.is_empty()).unwrap_or(&ladder);
        let possible = left.iter().any(|action| match action {
            StepAction::Reset => !look.no_reboot,
            StepAction::GuestReboot => closer.guest_agent == Some(GuestAgentState::Answers),
            StepAction::PowerCycle => true,
        });
        unless(possible, "a step is possible");
        unless(look.node_status == "online", "its node is online");
        unless(!look.node_in_maintenance, "nobody works on its node");
        unless(!look.no_quorum, "the cluster is quorate");
        unless(look.uptime >= e.startup_grace, "Proxmox did not start it just now");
        unless(
            !s.own_node.zip(look.uuid).is_some_and(|(a, b)| same_machine(a, b)),
            "Defib does not run in it",
        );
    } else {
        unless(false, "Proxmox answers");
    }
    let heard = s.heartbeat.last_life.unwrap_or_default();
    let silence = s.now.mono.since(heard.max(s.observer.since).max(s.hold_lifted).max(calm));
    let past_due = silence.saturating_sub(e.timeout);
    let attempted = status.episode.as_ref().and_then(|e| e.last_end_time).map(|t| older(s, t));
    // The grace of a boot, and what another process published, only make the veto last longer.
    let vetoed_long_enough = past_due >= e.max_veto && attempted.is_none_or(|ago| ago >= e.max_veto);
    let quiet = closer.io.map_or(Duration::ZERO, |io| io.quiet(s.now.mono)) >= e.io_quiet;
    unless(over || quiet || vetoed_long_enough, "the guest moves nothing");
    if e.guest_agent == GuestAgentCheck::Auto && !over {
        unless(closer.guest_agent.is_some(), "the guest agent was asked");
        unless(
            closer.guest_agent != Some(GuestAgentState::Answers),
            "the guest agent does not answer",
        );
    }
    unless(!matches!(s.weather, Weather::CoolDown { .. }), "no storm has passed a moment ago");
    if matches!(s.weather, Weather::Storm { .. }) {
        let hangs = quiet && s.guest_agent_answered && closer.guest_agent.is_none_or(|a| a == GuestAgentState::Silent);
        unless(hangs && e.guest_agent == GuestAgentCheck::Auto, "in a storm, it is proved to hang");
        unless(closer.fleet.all.in_flight == 0, "in a storm, one at a time");
    }
    unless(over || s.alive_as.is_none(), "it reports as no other ManagedVM");
    unless(s.duplicate_of.is_none(), "no older ManagedVM decides on it");

    let counted = status
        .recent_resets
        .iter()
        .filter(|r| older(s, r.time) < e.window)
        .filter(|r| !e.forgive_before.is_some_and(|f| f <= s.now.wall && r.time < f))
        .count();
    unless(counted < e.max_resets as usize, "the cap is not reached");
    let own = Limits {
        max_in_flight: e.max_in_flight,
        max_unhealthy: e.max_unhealthy.clone(),
    };
    unless(room(closer.fleet.policy, &own), "the policy's budget has room");
    unless(room(closer.fleet.cluster, &s.limits), "the cluster's budget has room");
    unless(room(closer.fleet.all, &s.limits), "Defib's budget has room");
    unless(status.current_reset.is_none(), "no reset of it is under way");
    no
}

/// A threshold with action Reset was exceeded for its duration, all of it witnessed, by a VM that is heard of.
fn over_a_threshold(s: &Scene, e: &Effective, published: &HeartbeatStatus) -> bool {
    // A living agent reports within two periods and a half, of those that it was told.
    let period = e.report.max(Duration::from_secs(u64::from(
        s.heartbeat.promised_seconds.or(published.report_seconds).unwrap_or(0),
    )));
    let quiet = [
        s.heartbeat.last_life.map(|at| s.now.mono.since(at)),
        published.last_received_time.map(|t| older(s, t)),
    ];
    let heard = quiet
        .into_iter()
        .flatten()
        .min()
        .is_some_and(|q| q <= period * 5 / 2 && q < e.timeout);
    let mut since = s.observer.since.max(s.hold_lifted);
    if let Weather::Calm { since: calm } = s.weather {
        since = since.max(calm);
    }
    let exceeded = s.heartbeat.over_since.iter().any(|(t, at)| {
        t.action == ThresholdAction::Reset
            && t.metric != Metric::Disk
            && e.thresholds.contains(t)
            && s.now.mono.since((*at).max(since)) >= Duration::from_secs(u64::from(t.duration_seconds))
    });
    heard && exceeded
}

/// Age by the wall clock; zero for what lies ahead.
fn older(s: &Scene, stored: jiff::Timestamp) -> Duration {
    let nanos = s.now.wall.as_nanosecond() - stored.as_nanosecond();
    Duration::from_nanos_u128(u128::try_from(nanos).unwrap_or(0))
}

fn room(c: Count, limits: &Limits) -> bool {
    let most = limits.max_unhealthy.of(c.population).unwrap_or(1);
    c.in_flight < limits.max_in_flight && c.unhealthy <= most
}
