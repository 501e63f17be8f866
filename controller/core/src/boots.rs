//! Whether a guest boots again and again by itself (rule 6). A reset does not cure that, and would only be one more boot.

use crate::decide::Observed;
use crate::gate::Blocked;
use crate::journal::forgiven;
use crate::time::{Mono, Now, to_seconds};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The sliding window in which boots are counted: long enough that a guest which takes ten minutes to fail is seen as well.
const HOUR: Duration = Duration::from_secs(3_600);
/// So many boots in it are borne. A power outage is one, or two when the power comes back and goes again; a person who sets a machine up or a guest that updates
/// itself reboots two or three times.
const BORNE: usize = 3;
/// Boots that are remembered. The newest four tell whether it is a loop and how long it counts as one; some of a loop may turn out to be ours afterwards.
const REMEMBERED: usize = 8;

/// The boots of a guest that were seen to begin: of which the first report was received after one of another boot. The boot that was there when this process heard
/// of the VM first is none of them, so after a restart of Defib the hour begins anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boots(VecDeque<Boot>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Boot {
    id: Arc<str>,
    /// When its first report was received.
    first: Mono,
}

impl Boots {
    /// The first report of a boot that was not known before.
    pub(crate) fn began(&mut self, id: Arc<str>, now: Mono) {
        self.0.retain(|boot| now.since(boot.first) < HOUR);
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(Boot { id, first: now });
    }

    /// A reset of ours, or one that a person asked us for, caused this boot: it says nothing of what the guest does by itself.
    pub fn caused(&mut self, id: &str) {
        self.0.retain(|boot| *boot.id != *id);
    }

    /// When each boot of the last hour was first heard of, oldest first; without those that a person has forgiven.
    fn counted(&self, o: &Observed<'_>, now: Now) -> Vec<Mono> {
        self.0
            .iter()
            .map(|boot| boot.first)
            .filter(|first| now.mono.since(*first) < HOUR && !forgiven(now.wall_of(*first), o.effective, now))
            .collect()
    }
}

/// The boot loop that the VM is in: no automatic reset, whatever made it due.
pub fn looping(o: &Observed<'_>, now: Now) -> Option<Blocked> {
    let counted = o.heartbeat.boots.counted(o, now);
    // It is over when the fourth newest is an hour old.
    let last_to_leave = counted.len().checked_sub(BORNE + 1).and_then(|n| counted.get(n))?;
    let more = if counted.len() >= REMEMBERED { " or more" } else { "" };
    let over = last_to_leave.plus(HOUR);
    Some(
        Blocked::new(
            "BootLoop",
            format!(
                "{}{more} boots in the last hour that Defib did not cause, at most {BORNE} are borne: the guest boots again and again, which a reset does not cure; next look at {}, or when resetPolicy.forgiveBefore is set",
                counted.len(),
                to_seconds(now.wall_of(over))
            ),
        )
        .until(over.since(now.mono)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn firsts(boots: &Boots) -> Vec<u64> {
        boots.0.iter().map(|boot| boot.first.0).collect()
    }

    #[test]
    fn the_newest_of_the_last_hour_are_remembered() {
        let mut boots = Boots::default();
        for n in 0..20u64 {
            boots.began(format!("boot-{n}").into(), Mono(n * 1_000));
        }
        assert_eq!(firsts(&boots), (12_000..20_000).step_by(1_000).collect::<Vec<_>>());
        boots.began("boot-20".into(), Mono(15_000 + 3_600_000));
        assert_eq!(firsts(&boots), [16_000, 17_000, 18_000, 19_000, 3_615_000]);
    }

    #[test]
    fn what_we_caused_is_taken_out_once_and_for_all() {
        let mut boots = Boots::default();
        boots.began("a".into(), Mono(1));
        boots.began("b".into(), Mono(2));
        boots.caused("a");
        boots.caused("a");
        boots.caused("never heard of");
        assert_eq!(firsts(&boots), [2]);
    }
}
