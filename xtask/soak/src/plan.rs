//! What happens when: everything follows from the seed.

use crate::fleet::{FAST, FAST_RECOVERY, Role, SLOW, Vm};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// Something at a time since the beginning.
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    /// When.
    pub at: Duration,
    /// What.
    pub what: T,
}

/// What happens to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// It hangs. With `false` no reset heals it.
    Hang(bool),
    /// Its kernel dies under a live QEMU. With `false` no reset heals it.
    Crash(bool),
    /// It hangs, and goes on after so many milliseconds.
    Stall(u64),
    /// It hangs while a backup holds its lock for so many milliseconds.
    HangLocked(u64),
    /// Its ManagedVM is deleted, then it hangs.
    DeleteAndHang,
    /// It is stopped for so many milliseconds.
    Stop(u64),
}

/// What happens to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiOutage {
    /// By SIGKILL, or in good order.
    pub kill: bool,
    /// How long it is away.
    pub millis: u64,
}

/// What happens to Proxmox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxmox {
    /// Requests fail this way, as `pve-sim ctl fault add` spells it, for so many milliseconds.
    Fault {
        /// What happens to a request.
        kind: &'static str,
        /// Only POSTs of a reset; else everything.
        resets: bool,
        /// For so many requests.
        count: u32,
        /// And no longer than this.
        millis: u64,
    },
    /// A node cannot be reached for so many milliseconds; its guests go on.
    Unreachable(usize, u64),
    /// A node is without power for so many milliseconds.
    PowerLoss(usize, u64),
}

/// All that happens in a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How long things break.
    pub length: Duration,
    /// The controller is killed at these times. In the last third it is left alone: memory and descriptors are compared there.
    pub kills: Vec<Duration>,
    /// Guests, by VMID.
    pub guests: Vec<At<(u32, Guest)>>,
    /// The API server.
    pub api: Vec<At<ApiOutage>>,
    /// Proxmox.
    pub proxmox: Vec<At<Proxmox>>,
}

/// Between two kills of the controller.
const KILL_PERIOD: Duration = Duration::from_secs(20);
/// Most VMs of the slow policy that hang: they stay silent until the part without kills, and a fifth of all VMs silent stops all resets.
const SLOW_VICTIMS: usize = 20;
/// How long before the end a VM of the slow policy may hang: its time-out, and what follows.
const SLOW_RECOVERY: Duration = Duration::from_secs(150);

/// Draws the plan.
pub fn plan(seed: u64, length: Duration, fleet: &[Vm]) -> Plan {
    let mut rng = StdRng::seed_from_u64(seed);
    let calm_from = length.mul_f64(2.0 / 3.0);
    let kills = (1..).map(|n| KILL_PERIOD * n).take_while(|at| *at <= calm_from).collect();
    Plan {
        length,
        kills,
        guests: guests(&mut rng, length, fleet),
        api: api(&mut rng, length),
        proxmox: proxmox(&mut rng, length),
    }
}

fn guests(rng: &mut StdRng, length: Duration, fleet: &[Vm]) -> Vec<At<(u32, Guest)>> {
    let of = |policy: &str, role: Role| -> Vec<u32> {
        fleet
            .iter()
            .filter(|vm| vm.policy == policy && vm.role == role)
            .map(|vm| vm.lab.vmid)
            .collect()
    };
    let mut ordinary = of(FAST, Role::Ordinary);
    let mut all = Vec::new();
    let mut add = |at: Duration, vmid: u32, what: Guest| all.push(At { at, what: (vmid, what) });
    // Those that must not be reset, and those that no reset heals, fall once, in the first half.
    for role in [Role::Doomed, Role::Paused, Role::Unsupervised, Role::Agentless, Role::WrongMachine] {
        for vmid in of(FAST, role) {
            let at = rng.random_range(Duration::ZERO..length / 2);
            let heals = role != Role::Doomed;
            let what = if rng.random_bool(0.5) {
                Guest::Hang(heals)
            } else {
                Guest::Crash(heals)
            };
            add(at, vmid, what);
        }
    }
    // A few ManagedVMs are deleted: their VMs are left alone from then on.
    for _ in 0..ordinary.len() / 40 {
        let index = rng.random_range(0..ordinary.len());
        let vmid = ordinary.swap_remove(index);
        add(rng.random_range(Duration::ZERO..length), vmid, Guest::DeleteAndHang);
    }
    // About one a second. The last ones have the time to come back.
    let last = length.saturating_sub(FAST_RECOVERY / 2);
    let mut at = Duration::from_secs(2);
    while at < last {
        if let Some(vmid) = ordinary.choose(rng) {
            let what = match rng.random_range(0..20) {
                0..9 => Guest::Hang(true),
                9..14 => Guest::Crash(true),
                // Shorter and longer than the time-out.
                14..17 => Guest::Stall(rng.random_range(2_000..12_000)),
                17..19 => Guest::HangLocked(rng.random_range(10_000..25_000)),
                _ => Guest::Stop(rng.random_range(5_000..15_000)),
            };
            add(at, *vmid, what);
        }
        at += Duration::from_millis(rng.random_range(300..1_700));
    }
    let slow = of(SLOW, Role::Ordinary);
    if let Some(last) = length.checked_sub(SLOW_RECOVERY) {
        for vmid in slow.choose_multiple(rng, SLOW_VICTIMS) {
            add(rng.random_range(Duration::ZERO..=last), *vmid, Guest::Hang(true));
        }
    }
    all.sort_by_key(|event| event.at);
    all
}

fn api(rng: &mut StdRng, length: Duration) -> Vec<At<ApiOutage>> {
    let mut all = Vec::new();
    let mut at = Duration::from_millis(rng.random_range(8_000..25_000));
    while at + Duration::from_secs(10) < length {
        let what = ApiOutage {
            kill: rng.random_bool(0.7),
            millis: rng.random_range(500..8_000),
        };
        all.push(At { at, what });
        at += Duration::from_millis(rng.random_range(25_000..45_000));
    }
    all
}

fn proxmox(rng: &mut StdRng, length: Duration) -> Vec<At<Proxmox>> {
    let mut all = Vec::new();
    let mut at = Duration::from_millis(rng.random_range(3_000..12_000));
    while at + Duration::from_secs(10) < length {
        let node = rng.random_range(0..3);
        let fault = |kind, resets, count, millis| Proxmox::Fault {
            kind,
            resets,
            count,
            millis,
        };
        let what = match rng.random_range(0..12) {
            0 | 1 => fault("drop-after", true, 3, 10_000),
            2 => fault("drop-before", true, 3, 10_000),
            3 => fault("status:595", true, 3, 10_000),
            4 => fault("status-after:596", true, 3, 10_000),
            5 => fault("status:500", true, 2, 10_000),
            6 => fault("delay-after:2500", true, 3, 10_000),
            7 => fault("delay:1500", false, 50, 6_000),
            8 => fault("drop-before", false, 60, 6_000),
            9 | 10 => Proxmox::Unreachable(node, rng.random_range(3_000..9_000)),
            _ => Proxmox::PowerLoss(node, rng.random_range(3_000..9_000)),
        };
        all.push(At { at, what });
        at += Duration::from_millis(rng.random_range(12_000..25_000));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::fleet;

    #[test]
    fn the_seed_tells_everything() {
        let fleet = fleet(1_000);
        let minute = Duration::from_secs(60);
        assert_eq!(plan(7, minute * 5, &fleet), plan(7, minute * 5, &fleet));
        assert_ne!(plan(7, minute * 5, &fleet).guests, plan(8, minute * 5, &fleet).guests);
    }

    #[test]
    fn ninety_seconds_have_some_of_everything() {
        for seed in 0..50 {
            let plan = plan(seed, Duration::from_secs(90), &fleet(1_000));
            assert_eq!(plan.kills, [20, 40, 60].map(Duration::from_secs), "seed {seed}");
            assert!(
                plan.guests.len() > 80 && !plan.api.is_empty() && plan.proxmox.len() >= 2,
                "seed {seed}"
            );
            assert!(plan.guests.iter().all(|event| event.at <= plan.length));
        }
    }
}
