//! What begins: the journal's entry, its episode and the evidence, from what every gate has let pass.

use super::{Cause, Intent, Next, Observed};
use crate::gate::Closer;
use crate::life::{Life, Vital, life};
use crate::steps::Attempt;
use crate::time::{Now, to_millis};
use defib_api::{CurrentReset, Episode, Evidence, ManagedVMStatus, Metric, Threshold, Trigger, VMReset};

/// The reset that this attempt is.
pub(super) fn begin(
    o: &Observed<'_>,
    vital: &Vital<'_>,
    closer: &Closer,
    attempt: &Attempt,
    request: Option<&VMReset>,
    over: Option<&Threshold>,
    now: Now,
) -> Next {
    let Ok(look) = &closer.look else { return Next::Nothing };
    let name = o.vm.metadata.name.as_deref().unwrap_or_default();
    let intent_time = to_millis(now.wall);
    let running = o.vm.status.as_ref().and_then(|s| s.episode.clone());
    let (vmreset, episode) = if let Some(request) = request {
        (request.metadata.name.clone().unwrap_or_default(), running)
    } else {
        let mut episode = running.filter(|_| !attempt.begins).unwrap_or_else(|| Episode {
            id: episode_id(o.vm.status.as_ref(), name, now),
            start_time: intent_time,
            attempts: 0,
            last_end_time: None,
        });
        episode.attempts = attempt.number;
        (format!("{name}-{}-{}", episode.id, attempt.number), Some(episode))
    };
    let published = o.vm.status.as_ref().and_then(|s| s.heartbeat.as_ref());
    let newest = vital.heartbeat.report.as_ref();
    let boot_id_before = newest
        .map(|(_, r)| r.boot_id.to_string())
        .or_else(|| published.and_then(|h| h.boot_id.clone()));
    let last_received = vital
        .heartbeat
        .last_life
        .map(|at| now.wall_of(at))
        .or_else(|| published.and_then(|h| h.last_received_time));
    let silent = match life(vital, now) {
        Life::Silent { since, .. } => Some(u32::try_from(now.mono.since(since).as_secs()).unwrap_or(u32::MAX)),
        _ => None,
    };
    let percent = |metric| newest.and_then(|(_, r)| r.percent(metric)).map(|p| p.round() as u32);
    let why = match (request, over) {
        (Some(r), _) => format!(
            "requested by {}{}",
            r.spec.requested_by.as_deref().unwrap_or("an unnamed person"),
            r.spec.reason.as_deref().map(|t| format!(": {t}")).unwrap_or_default()
        ),
        (None, Some(t)) => format!("{:?} above {} % for {} s", t.metric, t.percent, t.duration_seconds),
        (None, None) => format!("silent for {} s, as witnessed by Defib", silent.unwrap_or_default()),
    };
    let cause = match over {
        Some(_) => Cause::Threshold,
        None => Cause::Silence,
    };
    Next::Begin(Box::new(Intent {
        cause: request.is_none().then_some(cause),
        current: CurrentReset {
            name: vmreset,
            request_uid: request.and_then(|r| r.metadata.uid.clone()),
            holder: o.me.to_owned(),
            trigger: if request.is_some() { Trigger::Manual } else { Trigger::Automatic },
            action: attempt.action,
            step: attempt.step,
            attempt: attempt.number,
            recovery_deadline_seconds: attempt.recovery_deadline_seconds,
            stabilization_seconds: u32::try_from(o.effective.stabilization.as_secs()).unwrap_or(u32::MAX),
            intent_time,
            node: look.node.clone(),
            boot_id_before,
            sent_time: None,
            upid: None,
            task_end_time: None,
            task_result: None,
            answer: None,
        },
        episode,
        evidence: Evidence {
            silent_seconds: silent,
            last_received_time: last_received,
            qmp_status: Some(look.qmp_status.clone()),
            qemu_uptime_seconds: Some(look.uptime.as_secs()),
            io_quiet_seconds: closer.io.map(|io| u32::try_from(io.quiet(now.mono).as_secs()).unwrap_or(u32::MAX)),
            guest_agent: closer.guest_agent,
            ha_state: look.ha_state.clone(),
            cpu_percent: percent(Metric::CPU),
            memory_percent: percent(Metric::Memory),
            fleet: Some(format!(
                "{} of {} unhealthy",
                closer.fleet.all.unhealthy, closer.fleet.all.population
            )),
        },
        why,
    }))
}

/// What would begin, as a record: it costs no attempt, and has a name of its own.
pub(super) fn observed(next: Next) -> Next {
    let Next::Begin(mut intent) = next else { return next };
    if let Some(episode) = intent.episode.as_mut() {
        episode.attempts = episode.attempts.saturating_sub(1);
        if let Some(vm) = intent
            .current
            .name
            .strip_suffix(&format!("-{}-{}", episode.id, intent.current.attempt))
        {
            intent.current.name = would_reset_name(vm, &episode.id);
        }
    }
    Next::WouldReset(intent)
}

/// Name of the VMReset that says of an observed VM that it would have been reset in this episode.
pub fn would_reset_name(vm: &str, episode: &str) -> String {
    format!("{vm}-{episode}-observed")
}

/// Of the millisecond, and not used twice for one VM: two episodes do not begin in one, unless the clock was set back to that very one.
fn episode_id(status: Option<&ManagedVMStatus>, vm: &str, now: Now) -> String {
    let recent = status.map_or(&[][..], |s| s.recent_resets.as_slice());
    let used = |id: &str| recent.iter().any(|r| r.name.starts_with(&format!("{vm}-{id}-")));
    let first = now.wall.as_millisecond();
    let id = (first..).take(recent.len().saturating_add(1)).map(base36).find(|id| !used(id));
    id.unwrap_or_else(|| base36(first))
}

/// Short, sortable, and legal in a name.
fn base36(n: i64) -> String {
    let mut n = n.unsigned_abs();
    let mut digits = Vec::new();
    while n > 0 {
        let d = u32::try_from(n % 36).unwrap_or(0);
        digits.extend(char::from_digit(d, 36));
        n /= 36;
    }
    digits.iter().rev().collect()
}
