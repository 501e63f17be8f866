//! The journal's books: what is entered can be taken back, and the count of resets only ever grows by one.

use crate::common::*;
use crate::generate::{episode, recent, stored_time};
use defib_api::{Episode, Outcome, Trigger};
use defib_core::journal::Books;
use defib_core::time::{Mono, Now};
use proptest::option;
use proptest::prelude::*;

/// Books before a reset, and the episode as a decision would enter it.
fn before() -> impl Strategy<Value = (Books, Option<Episode>, Trigger)> {
    (recent(), option::of(episode()), any::<bool>()).prop_map(|(recent, episode, manual)| {
        let entered = if manual {
            episode.clone()
        } else {
            let known = episode.clone().unwrap_or(Episode {
                id: "e2".into(),
                start_time: wall(0),
                attempts: 0,
                last_end_time: None,
            });
            let attempts = known.attempts + 1;
            Some(Episode { attempts, ..known })
        };
        let books = Books {
            current: None,
            recent,
            episode,
        };
        (books, entered, if manual { Trigger::Manual } else { Trigger::Automatic })
    })
}

proptest! {
    #[test]
    fn begin_and_withdraw_cost_nothing((before, episode, trigger) in before()) {
        let begun = before.clone().begin(defib_api::CurrentReset { trigger, ..intent() }, episode);
        let automatic = usize::from(trigger == Trigger::Automatic);
        prop_assert!(begun.recent.len() <= 12, "the schema's bound");
        prop_assert_eq!(begun.recent.iter().filter(|r| r.name == intent().name).count(), automatic);
        let after = begun.withdraw();
        prop_assert_eq!(after.current, None);
        prop_assert_eq!(after.episode, before.episode);
        // A full list has let go of its oldest entry, which no maxResets (10 at most) can need.
        let kept = before.recent.len().min(12 - automatic);
        prop_assert_eq!(&after.recent[..], &before.recent[before.recent.len() - kept..]);
    }

    #[test]
    fn an_end_never_changes_the_count((before, episode, trigger) in before(), end in stored_time()) {
        let begun = before.begin(defib_api::CurrentReset { trigger, ..intent() }, episode);
        for outcome in [Outcome::Recovered, Outcome::NotRecovered, Outcome::Failed, Outcome::Unknown] {
            let done = begun.clone().finish(outcome, &[], Now { mono: Mono(0), wall: end });
            prop_assert_eq!(&done.recent, &begun.recent);
            prop_assert_eq!(&done.current, &None);
            let attempts = done.episode.map(|e| e.attempts);
            let expected = if outcome == Outcome::Recovered { None } else { begun.episode.as_ref().map(|e| e.attempts) };
            prop_assert_eq!(attempts, expected, "no attempt is lost or won");
        }
    }
}
