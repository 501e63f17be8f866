//! Who decides: a pure judgement on a `coordination.k8s.io` Lease. Expiry is judged by how long *we* have watched the record unchanged, never by comparing clocks.

use crate::time::Mono;
use std::time::Duration;

/// How long a record must be watched unchanged before it may be taken. A holder stops acting well before that, see [`HELD_FOR`].
pub const DURATION: Duration = Duration::from_secs(15);
/// Period of the renewals.
pub const RENEW_EVERY: Duration = Duration::from_secs(2);
/// A holder considers the lease held for this long after the *start* of its last successful renewal: 5 s less than others wait, for slow answers and slow clocks.
pub const HELD_FOR: Duration = Duration::from_secs(10);

/// A lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Holder; empty when it was given back.
    pub holder: String,
    /// Changes with every write.
    pub version: String,
}

/// What we remember between two looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    seen: Option<(Record, Mono)>,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is none: create it.
    Create,
    /// It is ours: write a new renewal time, on this version only.
    Renew,
    /// It is free, given back or expired: take it, on this version only.
    Take,
    /// Another one holds it.
    Wait,
}

impl Watch {
    /// Judges the record that was just read.
    pub fn evaluate(&mut self, record: Option<Record>, me: &str, now: Mono) -> Verdict {
        let Some(record) = record else {
            self.seen = None;
            return Verdict::Create;
        };
        let since = match &self.seen {
            Some((known, since)) if *known == record => *since,
            _ => now,
        };
        let verdict = if record.holder == me {
            Verdict::Renew
        } else if record.holder.is_empty() || now.since(since) >= DURATION {
            Verdict::Take
        } else {
            Verdict::Wait
        };
        self.seen = Some((record, since));
        verdict
    }
}

/// Whether the lease is held, given when the last successful renewal was started.
pub fn held(renewal_started: Option<Mono>, now: Mono) -> bool {
    renewal_started.is_some_and(|at| now.since(at) < HELD_FOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, version: &str) -> Option<Record> {
        Some(Record {
            holder: holder.into(),
            version: version.into(),
        })
    }

    #[test]
    fn a_living_holder_is_never_robbed() {
        let mut w = Watch::default();
        for i in 0..100u64 {
            assert_eq!(w.evaluate(record("a", &i.to_string()), "b", Mono(i * 14_000)), Verdict::Wait);
        }
    }

    #[test]
    fn a_dead_holder_is_followed_after_the_duration_watched() {
        let mut w = Watch::default();
        assert_eq!(
            w.evaluate(record("a", "1"), "b", Mono(500_000)),
            Verdict::Wait,
            "however old the record is"
        );
        assert_eq!(w.evaluate(record("a", "1"), "b", Mono(514_999)), Verdict::Wait);
        assert_eq!(w.evaluate(record("a", "1"), "b", Mono(515_000)), Verdict::Take);
    }

    #[test]
    fn own_free_and_missing_ones() {
        let mut w = Watch::default();
        assert_eq!(w.evaluate(None, "b", Mono(0)), Verdict::Create);
        assert_eq!(w.evaluate(record("b", "1"), "b", Mono(0)), Verdict::Renew);
        assert_eq!(w.evaluate(record("", "2"), "b", Mono(0)), Verdict::Take);
    }

    #[test]
    fn a_holder_lets_go_before_others_may_take() {
        assert!(HELD_FOR < DURATION);
        assert!(held(Some(Mono(0)), Mono(9_999)) && !held(Some(Mono(0)), Mono(10_000)) && !held(None, Mono(0)));
    }
}
