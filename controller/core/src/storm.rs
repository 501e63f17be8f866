//! Storms: many VMs of one policy, ProxmoxCluster or Proxmox node that fall silent together have a shared cause, which no reset cures (rule 4).

use crate::time::{Mono, Now, seconds, to_seconds};
use jiff::Timestamp;
use std::time::Duration;

/// Fewer than three at once happen by chance.
const LEAST: usize = 3;
/// In a large fleet, so many of a hundred.
const PERCENT: usize = 10;
/// A burst is young, and everybody around it waits, until its last VM has been silent for this many of its time-outs: one until that VM is due, and one in which
/// others of the same cause would fall due.
const YOUNG: u32 = 2;

/// A VM that is silent or late: when it was heard last, and how long it may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lost {
    /// By the wall clock: on the monotonic one, all that died before the process did so at once.
    pub heard: Timestamp,
    /// Its time-out.
    pub timeout: Duration,
}

/// VMs that fell silent within one time-out of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// When the first of them was heard last.
    pub from: Timestamp,
    /// When the last of them was.
    pub to: Timestamp,
    /// How many they are.
    pub lost: u32,
    /// The longest time-out among them.
    pub timeout: Duration,
}

impl Burst {
    /// Whether more VMs may still fall due by the same cause.
    pub fn is_young(&self, now: Now) -> bool {
        now.age(self.to) < self.timeout.saturating_mul(YOUNG)
    }

    /// The burst in a sentence, of these armed VMs of this width.
    pub fn told(&self, population: u32, width: &str) -> String {
        format!(
            "{} of {population} armed VMs of {width} fell silent within {} s of each other, from {} on",
            self.lost,
            self.timeout.as_secs(),
            to_seconds(self.from)
        )
    }

    /// Whether a VM that was heard last then is one of these. Found at two moments, a time on the wall clock may differ by a little.
    fn has(&self, heard: Timestamp) -> bool {
        let slack = jiff::SignedDuration::from_secs(1);
        heard.duration_since(self.from) >= -slack && self.to.duration_since(heard) >= -slack
    }
}

/// Finds the bursts among the lost VMs of one width, of which `population` are armed. Bursts that overlap are one.
pub fn bursts(mut lost: Vec<Lost>, population: u32) -> Vec<Burst> {
    let tenth = usize::try_from(population)
        .unwrap_or(usize::MAX)
        .saturating_mul(PERCENT)
        .div_ceil(100);
    let least = LEAST.max(tenth);
    if lost.len() < least {
        return Vec::new();
    }
    lost.sort_unstable();
    let mut found: Vec<Burst> = Vec::new();
    // One past the last VM that is in a burst.
    let mut taken = 0;
    for (first, of) in lost.iter().enumerate() {
        let reach = |l: &Lost| l.heard.duration_since(of.heard).unsigned_abs() <= of.timeout;
        let end = first + lost.get(first..).map_or(0, |rest| rest.partition_point(reach));
        if end - first < least {
            continue;
        }
        // Those of an overlapping burst are counted already.
        let overlaps = first < taken;
        for l in lost.get(first.max(taken)..end).unwrap_or_default() {
            match found.last_mut() {
                Some(burst) if overlaps || burst.from == of.heard => {
                    burst.to = l.heard;
                    burst.lost = burst.lost.saturating_add(1);
                    burst.timeout = burst.timeout.max(l.timeout);
                }
                _ => found.push(Burst {
                    from: of.heard,
                    to: l.heard,
                    lost: 1,
                    timeout: l.timeout,
                }),
            }
        }
        taken = taken.max(end);
    }
    found
}

/// How it stands with the bursts of one width.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sky {
    /// Armed VMs.
    pub population: u32,
    /// The bursts that stand, oldest first.
    pub bursts: Vec<Burst>,
    /// When a young burst was last seen.
    pub stormy: Option<Mono>,
}

impl Sky {
    /// Looks anew. `before` is how it stood at the last look.
    pub fn look(lost: Vec<Lost>, population: u32, before: Option<&Self>, now: Now) -> Self {
        let bursts = bursts(lost, population);
        let young = bursts.iter().any(|b| b.is_young(now));
        Self {
            population,
            stormy: if young { Some(now.mono) } else { before.and_then(|b| b.stormy) },
            bursts,
        }
    }
}

/// What a storm means for one VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing. The clocks of silence started anew at this moment, when the last cool-down ended.
    Calm {
        /// Zero where there was none.
        since: Mono,
    },
    /// A burst holds it back.
    Storm {
        /// Whose VMs fell silent: one of the four widths.
        width: &'static str,
        /// The burst.
        burst: Burst,
        /// Armed VMs of that width.
        population: u32,
        /// The VM itself fell silent in it, and not only others around it.
        own: bool,
    },
    /// A storm has passed a moment ago.
    CoolDown {
        /// Whose VMs fell silent.
        width: &'static str,
        /// When it ends.
        until: Mono,
    },
}

/// What the skies of its widths mean for a VM that was heard last at `heard`: its own burst for as long as it stands, those of others while they are young.
pub fn weather(skies: [(&'static str, &Sky); 4], heard: Option<Timestamp>, cooldown: Duration, now: Now) -> Weather {
    let of = |own: bool| {
        skies.iter().find_map(|(width, sky)| {
            let held = |b: &&Burst| if own { heard.is_some_and(|h| b.has(h)) } else { b.is_young(now) };
            let burst = sky.bursts.iter().find(held)?;
            Some(Weather::Storm {
                width,
                burst: *burst,
                population: sky.population,
                own,
            })
        })
    };
    if let Some(storm) = of(true).or_else(|| of(false)) {
        return storm;
    }
    let last = skies
        .iter()
        .filter_map(|(width, sky)| Some((sky.stormy?.plus(cooldown), *width)))
        .max();
    match last {
        Some((until, width)) if now.mono < until => Weather::CoolDown { width, until },
        Some((since, _)) => Weather::Calm { since },
        None => Weather::Calm { since: Mono(0) },
    }
}

/// Longest cool-down that the schema allows. A storm of longer ago means nothing to anybody.
pub fn is_forgotten(stormy: Mono, now: Now) -> bool {
    now.mono.since(stormy) > seconds(86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(s: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + s).unwrap()
    }

    fn at(s: i64) -> Now {
        Now {
            mono: Mono(1_000_000 + s as u64 * 1_000),
            wall: wall(s),
        }
    }

    fn lost(times: &[i64]) -> Vec<Lost> {
        let lost = |s: &i64| Lost {
            heard: wall(*s),
            timeout: Duration::from_secs(60),
        };
        times.iter().map(lost).collect()
    }

    /// From, to and number of each burst.
    fn found(times: &[i64], population: u32) -> Vec<(i64, i64, u32)> {
        let ago = |t: Timestamp| t.as_second() - 1_700_000_000;
        bursts(lost(times), population)
            .iter()
            .map(|b| (ago(b.from), ago(b.to), b.lost))
            .collect()
    }

    #[test]
    fn three_within_a_time_out_are_a_burst_and_in_a_large_fleet_a_tenth() {
        assert_eq!(found(&[0, 60], 10), []);
        assert_eq!(found(&[60, 0, 30], 10), [(0, 60, 3)]);
        assert_eq!(found(&[0, 30, 61], 10), [], "the third is a second too late");
        assert_eq!(found(&[0, 1, 2], 30), [(0, 2, 3)]);
        assert_eq!(found(&[0, 1, 2], 31), [], "a tenth of 31 is four");
        assert_eq!(found(&[0, 1, 2, 3], 31), [(0, 3, 4)]);
        assert_eq!(found(&[], 0), []);
    }

    #[test]
    fn bursts_that_overlap_are_one_and_those_apart_are_several() {
        assert_eq!(found(&[0, 50, 60, 100, 120], 10), [(0, 120, 5)]);
        assert_eq!(found(&[0, 1, 2, 500, 501, 502], 10), [(0, 2, 3), (500, 502, 3)]);
        assert_eq!(found(&[0, 1, 2, 200, 500, 501, 502], 10), [(0, 2, 3), (500, 502, 3)]);
        // Chained: each window of a time-out has three.
        assert_eq!(found(&[0, 20, 40, 60, 80, 100], 10), [(0, 100, 6)]);
        assert_eq!(found(&[7, 7, 7], 10), [(7, 7, 3)], "in one moment");
    }

    #[test]
    fn reach_is_the_time_out_of_the_first() {
        let mut patient = lost(&[0, 100, 200]);
        patient[0].timeout = Duration::from_secs(200);
        assert_eq!(bursts(patient, 3).len(), 1);
    }

    fn sky(times: &[i64], population: u32, before: Option<&Sky>, now: Now) -> Sky {
        Sky::look(lost(times), population, before, now)
    }

    fn weather_at(sky: &Sky, heard: i64, now: Now) -> Weather {
        let calm = Sky::default();
        let skies = [
            ("this policy", &calm),
            ("this ProxmoxCluster", &calm),
            ("this node", sky),
            ("all of Defib", &calm),
        ];
        weather(skies, Some(wall(heard)), Duration::from_secs(180), now)
    }

    #[test]
    fn its_own_burst_holds_a_vm_as_long_as_it_stands_and_others_while_it_is_young() {
        let members = [0, 10, 20];
        let old = at(20 + 120);
        let young = at(20 + 119);
        let storm = |now| sky(&members, 10, None, now);
        assert!(matches!(
            weather_at(&storm(young), 10, young),
            Weather::Storm {
                own: true,
                width: "this node",
                population: 10,
                ..
            }
        ));
        assert!(matches!(weather_at(&storm(old), 10, old), Weather::Storm { own: true, .. }));
        assert!(matches!(weather_at(&storm(young), -500, young), Weather::Storm { own: false, .. }));
        assert_eq!(weather_at(&storm(old), -500, old), Weather::Calm { since: Mono(0) });
    }

    #[test]
    fn after_a_storm_the_cool_down_and_then_the_clocks_start_anew() {
        let seen = sky(&[0, 10, 20], 10, None, at(100));
        let over = sky(&[0, 10], 10, Some(&seen), at(110));
        let until = at(100).mono.plus(Duration::from_secs(180));
        assert_eq!(weather_at(&over, 0, at(110)), Weather::CoolDown { width: "this node", until });
        assert_eq!(weather_at(&over, 0, at(279)), Weather::CoolDown { width: "this node", until });
        assert_eq!(weather_at(&over, 0, at(280)), Weather::Calm { since: until });
        assert!(!is_forgotten(at(100).mono, at(86_500)) && is_forgotten(at(100).mono, at(86_501)));
    }
}
